//! Bytes out: frames are appended to the connection's outbox, and once a turn each outbox with something new
//! becomes one send. One send is in flight per connection; a slow reader costs only itself.

use moor_ring::{Errno, SendBuffer, Slot, Token};
use moor_wire::client::{Class, Kind, put_control};
use moor_wire::frame::{HEADER_BYTES, put_frame};
use moor_wire::internal::{self, Verb};
use moor_wire::{Code, limits};
use prost::Message;

use super::connection::{Connection, Phase, Role};
use super::counters::Counter;
use super::door::Notice;
use super::io::Io;
use super::{Now, Worker};
use crate::limits::{LINK_QUEUE_BYTES_MAX, SERVICE_QUEUE_BYTES_MAX};

/// Whether a frame found its place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Queued {
    /// It will be sent.
    Yes,
    /// It was dropped for want of room; the connection lives.
    Dropped,
    /// The connection is closing or was closed for it.
    Gone,
}

impl<I: Io> Worker<I> {
    /// Appends what `write` writes, `bytes` long and whole frames, to a connection's queue. Over the limit
    /// cheaper frames go first, then this one if it is cheap itself; a queue full of what must not be dropped
    /// means the peer does not read, and it is closed.
    pub(super) fn queue_with(
        &mut self,
        slot: Slot,
        class: Class,
        bytes: usize,
        now: Now,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Queued {
        let connection = &mut self.connections[slot.0];
        if !matches!(connection.phase, Phase::Greeting | Phase::Live) {
            return Queued::Gone;
        }
        let bytes_max = match connection.role {
            Role::Client(_) => self.send_queue_bytes_max,
            Role::Service => SERVICE_QUEUE_BYTES_MAX,
            Role::Link => LINK_QUEUE_BYTES_MAX,
        };
        let outbox = connection.outbox.get_or_insert_with(|| self.pool.outbox());
        if outbox.bytes() + bytes > bytes_max {
            let before = outbox.bytes();
            let evicted = outbox.evict(class, bytes, bytes_max);
            let freed = before - outbox.bytes();
            self.counters[Counter::FramesEvicted] += u64::from(evicted);
            self.counters[Counter::SendQueuedBytes] -= freed as u64;
            if outbox.bytes() + bytes > bytes_max {
                if class >= Class::Normal {
                    self.counters.add(Counter::FramesEvicted);
                    return Queued::Dropped;
                }
                self.counters.add(Counter::SlowReadersClosed);
                if let Some(more) = self.door.notices.due(Notice::SlowReaders, now) {
                    tracing::info!(
                        worker = self.id.0,
                        ?slot,
                        more_since = more,
                        "closing a peer that does not read"
                    );
                }
                self.abort(slot, now);
                return Queued::Gone;
            }
        }
        if outbox.queued.capacity() == 0 {
            outbox.queued = self.pool.buffer();
        }
        let before = outbox.queued.len();
        outbox.queued.reserve(bytes);
        write(&mut outbox.queued);
        debug_assert_eq!(outbox.queued.len(), before + bytes, "the announced length is the written one");
        self.counters[Counter::SendQueuedBytes] += bytes as u64;
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(slot);
        }
        Queued::Yes
    }

    /// Queues a client frame whose body is bytes.
    pub(super) fn queue_frame(
        &mut self,
        slot: Slot,
        kind: u8,
        flags: u8,
        channel: u16,
        body: &[u8],
        now: Now,
    ) -> Queued {
        let bytes = HEADER_BYTES + body.len();
        self.queue_with(slot, Class::from_flags(flags), bytes, now, |out| {
            put_frame(out, kind, flags, channel, body);
        })
    }

    /// Queues frames of class command. Those that find no place end the connection, so there is nothing to tell
    /// the caller.
    pub(super) fn queue_command(
        &mut self,
        slot: Slot,
        bytes: usize,
        now: Now,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let (Queued::Yes | Queued::Dropped | Queued::Gone) =
            self.queue_with(slot, Class::Command, bytes, now, write);
    }

    /// Queues a control frame for a client.
    pub(super) fn queue_control<M: Message>(
        &mut self,
        slot: Slot,
        kind: Kind,
        channel: u16,
        body: &M,
        now: Now,
    ) {
        let bytes = HEADER_BYTES + body.encoded_len();
        self.queue_command(slot, bytes, now, |out| put_control(out, kind, channel, body));
    }

    /// Queues an internal frame for a service or the router.
    pub(super) fn queue_internal<M: Message>(&mut self, slot: Slot, verb: Verb, body: &M, now: Now) {
        let bytes = HEADER_BYTES + body.encoded_len();
        self.queue_command(slot, bytes, now, |out| internal::put_control(out, verb, body));
    }

    /// Queues an internal frame without a body.
    pub(super) fn queue_empty(&mut self, slot: Slot, verb: Verb, now: Now) {
        self.queue_command(slot, HEADER_BYTES, now, |out| internal::put_empty(out, verb));
    }

    /// Tells an internal peer why it is being closed.
    pub(super) fn queue_failure(&mut self, slot: Slot, code: Code, detail: &str, now: Now) {
        let mut detail = detail.to_owned();
        super::lifecycle::truncate(&mut detail, limits::REASON_BYTES_MAX);
        self.queue_internal(slot, Verb::Failure, &internal::Failure { code: code as i32, detail }, now);
    }

    /// Queues whole frames of class command that are bytes already.
    pub(super) fn queue_bytes(&mut self, slot: Slot, frames: &[u8], now: Now) {
        self.queue_command(slot, frames.len(), now, |out| out.extend_from_slice(frames));
    }

    /// Queues bytes that are no frames, before the frames that are queued later. Few and short: their callers bound
    /// them.
    pub(super) fn queue_raw(&mut self, slot: Slot, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let connection = &mut self.connections[slot.0];
        let outbox = connection.outbox.get_or_insert_with(|| self.pool.outbox());
        if outbox.sealed.capacity() == 0 {
            outbox.sealed = self.pool.buffer();
        }
        let before = outbox.sealed.len();
        write(&mut outbox.sealed);
        debug_assert_eq!(outbox.sealed.len(), before + bytes, "the announced length is the written one");
        self.counters[Counter::SendQueuedBytes] += bytes as u64;
        self.mark_dirty(slot);
    }

    /// There is something new to send.
    pub(super) fn mark_dirty(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Bytes queued on a connection, in flight included.
    pub(super) fn queued_bytes(&self, slot: Slot) -> usize {
        self.connections.get(slot.0).and_then(|c| c.outbox.as_ref()).map_or(0, |outbox| outbox.bytes())
    }

    /// Starts a send on every connection that has something new and none in flight.
    pub(super) fn flush(&mut self, now: Now) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            // Whoever it was may be gone, and the memory with them.
            let Some(connection) = self.connections.get_mut(slot.0) else { continue };
            connection.dirty = false;
            if matches!(connection.phase, Phase::Greeting | Phase::Live | Phase::Finishing) {
                self.send_next(slot, now);
            }
        }
        // Nothing above marks a connection dirty; keep the allocation.
        debug_assert!(self.dirty.is_empty());
        self.dirty = dirty;
    }

    /// Sends what is queued, unless a send is in flight.
    fn send_next(&mut self, slot: Slot, now: Now) {
        let connection: &mut Connection = &mut self.connections[slot.0];
        let token = connection.token(slot);
        let Some(outbox) = connection.outbox.as_mut() else { return };
        if outbox.in_flight {
            return self.watch_send(slot, now);
        }
        if connection.tls {
            return self.send_records(slot, now);
        }
        if outbox.is_drained() {
            return;
        }
        if connection.role.is_websocket() {
            self.counters[Counter::SendQueuedBytes] += outbox.seal() as u64;
        }
        let buffer = outbox.take_next();
        outbox.begin(buffer.len(), now.0);
        self.io.send(slot, token, SendBuffer::Owned(buffer), 0);
    }

    /// Sends a buffer on a connection that has nothing queued.
    pub(super) fn send_now(&mut self, slot: Slot, buffer: SendBuffer, now: Now) {
        let connection = &mut self.connections[slot.0];
        debug_assert!(connection.outbox.is_none(), "what is queued goes first");
        let outbox = connection.outbox.insert(self.pool.outbox());
        outbox.begin(buffer.len(), now.0);
        self.counters[Counter::SendQueuedBytes] += buffer.len() as u64;
        let token = connection.token(slot);
        self.io.send(slot, token, buffer, 0);
    }

    pub(super) fn handle_sent(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        buffer: SendBuffer,
        now: Now,
    ) {
        let Some(slot) = self.current(token) else { return };
        let connection = &mut self.connections[slot.0];
        let Some(outbox) = connection.outbox.as_mut().filter(|outbox| outbox.in_flight) else {
            debug_assert!(false, "a send completes once");
            return;
        };
        let sent = result.unwrap_or(0);
        outbox.offset += sent;
        outbox.progress_ms = now.0;
        if connection.role.is_client() {
            self.counters[Counter::BytesSent] += u64::from(sent);
        }
        let alive = matches!(connection.phase, Phase::Greeting | Phase::Live | Phase::Finishing);
        if sent > 0 && outbox.offset < outbox.in_flight_bytes && alive {
            self.io.send(slot, token, buffer, outbox.offset);
            return;
        }
        self.counters[Counter::SendQueuedBytes] -= u64::from(outbox.in_flight_bytes);
        outbox.in_flight = false;
        outbox.in_flight_bytes = 0;
        if let SendBuffer::Owned(buffer) = buffer {
            self.pool.give_buffer(buffer);
        }
        if sent == 0 {
            self.peer_gone(slot, now);
        } else if !alive {
            self.close_join(slot);
        } else if outbox.is_drained() && !connection.tls {
            self.sent_all(slot);
        } else {
            self.send_next(slot, now);
        }
    }

    /// An outbox is empty: it goes back to the pool, and a connection that only waited for this is closed.
    pub(super) fn sent_all(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        if let Some(outbox) = connection.outbox.take() {
            self.pool.give_outbox(outbox);
        }
        // A connection refused at the door never had a receive: there is no hanging up to wait for.
        if connection.phase == Phase::Finishing && !connection.is_busy() {
            self.close_join(slot);
        }
    }
}
