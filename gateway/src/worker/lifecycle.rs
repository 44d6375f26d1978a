//! How a connection goes. (How it comes: `door`.)
//!
//! Closing takes three steps. Begin: `finish` (last frames go out, then the peer hangs up or a deadline comes)
//! or `abort` (RST). Join: every request in flight completes. Finish: the descriptor is closed and only its
//! completion frees the slot. Nothing is ever cancelled to close: closing a descriptor with a request armed
//! would send no FIN, and cancelling walks the ring's table.

use moor_ring::{Errno, Slot, Token};
use moor_wire::Code;
use moor_wire::client::{Close, Error, Kind};
use moor_wire::internal::Kick;

use super::channels::ChannelIndex;
use super::connection::{Connection, Phase, Receive, Role, Transport};
use super::counters::Counter;
use super::io::Io;
use super::wheel::{NIL, tick_at};
use super::{Now, Worker};
use crate::limits::FINISH_LINGER_MS;

impl<I: Io> Worker<I> {
    /// Ends a connection because of what its peer did, telling it why.
    pub(super) fn finish_with(&mut self, slot: Slot, code: Code, detail: &str, now: Now) {
        match self.connections[slot.0].role {
            // It would not understand a frame.
            Role::Client(Transport::Proxied | Transport::Upgrading) => {}
            _ if self.is_greeting_tls(slot) => {}
            Role::Client(_) => {
                let error = Error { code: code as i32, detail: detail.to_owned() };
                self.queue_control(slot, Kind::Error, 0, &error, now);
                self.queue_close(slot, super::websocket::close_code(code));
            }
            Role::Service | Role::Link => self.queue_failure(slot, code, detail, now),
        }
        self.finish(slot, now);
    }

    /// Begins a graceful close: what is queued goes out, what comes in is dropped, and the peer has a moment
    /// to hang up first.
    pub(super) fn finish(&mut self, slot: Slot, now: Now) {
        if !matches!(self.connections[slot.0].phase, Phase::Greeting | Phase::Live) {
            return;
        }
        self.release(slot, now);
        self.connections[slot.0].phase = Phase::Finishing;
        if self.connections[slot.0].tls {
            self.queue_tls_end(slot);
        }
        self.wheel.file(&mut self.connections, slot.0, tick_at(now.0 + FINISH_LINGER_MS));
    }

    /// Aborts a connection: RST to the peer, its kernel memory free at once.
    pub(super) fn abort(&mut self, slot: Slot, now: Now) {
        match self.connections[slot.0].phase {
            Phase::Greeting | Phase::Live => self.release(slot, now),
            Phase::Finishing => {}
            // Whose address is being asked for goes when that is known.
            Phase::Free | Phase::Asking | Phase::Resetting | Phase::Passing | Phase::Closing => return,
        }
        self.reset(slot);
    }

    fn reset(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        connection.phase = Phase::Resetting;
        if !connection.resetting {
            connection.resetting = true;
            let token = connection.token(slot);
            self.io.reset(slot, token);
        }
    }

    /// The peer says that it leaves, as WebSocket and TLS have it: what is queued goes out, and then it hangs up.
    pub(super) fn peer_leaves(&mut self, slot: Slot, now: Now) {
        if self.in_service(slot) && self.connections[slot.0].role.is_client() {
            self.counters.add(Counter::ClosedByPeer);
        }
        self.finish(slot, now);
    }

    /// The peer hung up or the connection broke: nothing more can be said to it.
    pub(super) fn peer_gone(&mut self, slot: Slot, now: Now) {
        let connection = &self.connections[slot.0];
        match connection.phase {
            Phase::Greeting | Phase::Live => {
                if connection.role.is_client() {
                    self.counters.add(Counter::ClosedByPeer);
                }
                self.release(slot, now);
            }
            Phase::Finishing | Phase::Resetting => {}
            Phase::Free | Phase::Asking | Phase::Passing | Phase::Closing => return,
        }
        // A send may be stuck behind a full window; a reset completes it.
        if self.connections[slot.0].is_busy() { self.reset(slot) } else { self.close_join(slot) }
    }

    /// Last step but one: closes the descriptor if nothing is in flight on it any more.
    pub(super) fn close_join(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        if connection.is_busy() || connection.phase == Phase::Closing {
            return;
        }
        connection.phase = Phase::Closing;
        let token = connection.token(slot);
        self.io.close(slot, token);
    }

    pub(super) fn handle_reset(&mut self, token: Token) {
        let Some(slot) = self.current(token) else { return };
        self.connections[slot.0].resetting = false;
        self.close_join(slot);
    }

    /// The descriptor is closed: the slot is free for whoever the kernel puts there next.
    pub(super) fn handle_closed(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(slot) = self.current(token) else { return };
        if let Err(error) = result {
            tracing::error!(worker = self.id.0, %error, ?slot, "a descriptor did not close");
        }
        self.vacate(slot);
    }

    /// Frees the entry of a slot whose descriptor is no longer ours.
    pub(super) fn vacate(&mut self, slot: Slot) {
        self.wheel.remove(&mut self.connections, slot.0);
        let connection: &mut Connection = &mut self.connections[slot.0];
        if connection.hot {
            self.counters[Counter::ConnectionsHot] -= 1;
        }
        self.door.meters.forget(slot);
        let address = connection.address.take();
        if connection.role.is_client() {
            self.clients -= 1;
            self.counters.add(Counter::Closed);
        }
        if connection.role.is_websocket() {
            self.counters[Counter::ConnectionsWebsocket] -= 1;
        }
        let outbox = connection.outbox.take();
        if std::mem::take(&mut connection.tls) {
            self.tls_forget(slot);
        }
        self.leave_address(address);
        let connection = &self.connections[slot.0];
        self.devices.remove(connection.device);
        debug_assert_eq!(connection.first_channel, NIL, "channels are released before the slot");
        let generation = connection.next_generation();
        self.connections.vacate(slot.0, generation);
        if let Some(outbox) = outbox {
            self.counters[Counter::SendQueuedBytes] -= outbox.bytes() as u64;
            self.pool.give_outbox(outbox);
        }
    }

    /// Takes everything away that hangs on a connection's being in service.
    fn release(&mut self, slot: Slot, now: Now) {
        match self.connections[slot.0].role {
            Role::Client(_) => {
                while self.connections[slot.0].first_channel != NIL {
                    self.release_channel(slot, ChannelIndex(self.connections[slot.0].first_channel));
                }
            }
            Role::Service => {
                self.services.remove(&slot);
            }
            Role::Link => self.link_lost(now),
        }
        self.take_begun(slot);
        self.websockets.forget(slot);
    }

    /// Closes one channel of a connection and tells the router.
    pub(super) fn release_channel(&mut self, slot: Slot, channel: ChannelIndex) {
        let next = self.channels.get(channel).map_or(NIL, |entry| entry.next_in_connection);
        let connection = &mut self.connections[slot.0];
        if connection.first_channel == channel.0 {
            connection.first_channel = next;
        } else {
            let mut at = ChannelIndex(connection.first_channel);
            while let Some(entry) = self.channels.get_mut(at) {
                if entry.next_in_connection == channel.0 {
                    entry.next_in_connection = next;
                    break;
                }
                at = ChannelIndex(entry.next_in_connection);
            }
        }
        self.rooms.leave_all(channel);
        self.link.depart(channel, &self.channels);
        self.leave_app(self.channels.identity(channel).0);
        self.channels.remove(channel, self.connections[slot.0].first_channel);
    }

    /// Closes one channel because somebody asked for it.
    pub(super) fn kick(&mut self, channel: ChannelIndex, kick: &Kick, now: Now) {
        let code = match Code::try_from(kick.code) {
            Ok(Code::Ok) | Err(_) => Code::Kicked,
            Ok(code) => code,
        };
        let mut reason = kick.reason.clone();
        truncate(&mut reason, moor_wire::limits::REASON_BYTES_MAX);
        if self.close_channel(channel, code, &reason, now) {
            self.counters.add(Counter::Kicks);
        }
    }

    /// Ends one channel, telling the client why, and which session: it may have opened the channel anew meanwhile. False:
    /// it has gone already.
    pub(super) fn close_channel(
        &mut self,
        channel: ChannelIndex,
        code: Code,
        reason: &str,
        now: Now,
    ) -> bool {
        let Some(entry) = self.channels.get(channel) else { return false };
        let (slot, number) = (Slot(entry.connection), entry.number);
        let session = self.channels.handle(channel).0;
        let close = Close { code: code as i32, reason: reason.to_owned(), session };
        self.queue_control(slot, Kind::Close, number, &close, now);
        // The queue may have been full: then the whole connection is on its way out already.
        if self.channels.get(channel).is_some_and(|entry| entry.connection == slot.0) {
            self.release_channel(slot, channel);
        }
        true
    }

    /// Arms the receive that fits the connection's tier, if none is armed.
    pub(super) fn arm(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        if connection.receive != Receive::Idle {
            return;
        }
        let token = connection.token(slot);
        match connection.phase {
            Phase::Greeting | Phase::Live | Phase::Finishing if !connection.hot => {
                connection.receive = Receive::Poll;
                self.io.poll_readable(slot, token);
            }
            Phase::Greeting | Phase::Live | Phase::Finishing => {
                connection.receive = Receive::Multi;
                self.io.recv_multishot(slot, token);
            }
            Phase::Resetting => self.close_join(slot),
            Phase::Free | Phase::Asking | Phase::Passing | Phase::Closing => {}
        }
    }
}

/// Cuts a text at a character boundary.
pub(super) fn truncate(text: &mut String, bytes_max: usize) {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
