//! What waits to be sent on one connection: frames, back to back, in one buffer.
//!
//! At most one send is in flight per connection (a second could overtake it when the socket blocks); whatever
//! is queued meanwhile goes out together in the next one. A connection has an outbox only while it has
//! something to send.

use moor_websocket::Kind;
use moor_websocket::encode::Head;
use moor_wire::client::Class;
use moor_wire::frame::{HEADER_BYTES, Header, Split, split};

use crate::limits::{POOLED_BUFFER_BYTES_MAX, POOLED_BUFFERS_MAX};

/// Send state of a connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Records of TLS as they go out, before everything else.
    pub records: Vec<u8>,
    /// Bytes as they go out, before what is queued: of a WebSocket, where frames lie in messages.
    pub sealed: Vec<u8>,
    /// Whole frames not yet handed to the kernel; without memory while there are none.
    pub queued: Vec<u8>,
    /// Bytes of the buffer in flight that the kernel has taken so far.
    pub offset: u32,
    /// True exactly when a send request is armed.
    pub in_flight: bool,
    /// Bytes of the buffer in flight; 0 when none is.
    pub in_flight_bytes: u32,
    /// When the send in flight last made progress, milliseconds.
    pub progress_ms: u64,
}

impl Outbox {
    /// Bytes held, in flight included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len() + self.sealed.len() + self.queued.len() + self.in_flight_bytes as usize
    }

    /// Whether nothing waits for a send.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.records.is_empty() && self.sealed.is_empty() && self.queued.is_empty()
    }

    /// Makes what is queued one message of a WebSocket. Returns the bytes of its head.
    pub fn seal(&mut self) -> usize {
        if self.queued.is_empty() {
            return 0;
        }
        let head = Head::message(Kind::Binary, self.queued.len());
        let head = head.as_bytes();
        if self.sealed.is_empty() {
            self.queued.splice(..0, head.iter().copied());
            std::mem::swap(&mut self.queued, &mut self.sealed);
        } else {
            self.sealed.extend_from_slice(head);
            self.sealed.append(&mut self.queued);
        }
        head.len()
    }

    /// What the next send takes.
    pub fn take_next(&mut self) -> Vec<u8> {
        let first = if self.sealed.is_empty() { &mut self.queued } else { &mut self.sealed };
        std::mem::take(first)
    }

    /// A send of so many bytes is being armed.
    ///
    /// # Panics
    /// When the buffer has 4 GiB; queues are bounded far below.
    pub fn begin(&mut self, bytes: usize, now_ms: u64) {
        self.in_flight = true;
        self.in_flight_bytes = u32::try_from(bytes).expect("queues are bounded far below 4 GiB");
        self.offset = 0;
        self.progress_ms = now_ms;
    }

    /// Drops queued frames of a cheaper class than `class`, cheapest first, until `needed` more bytes fit
    /// below `bytes_max`. Returns how many frames were dropped.
    pub fn evict(&mut self, class: Class, needed: usize, bytes_max: usize) -> u32 {
        let mut dropped = 0;
        for victim in [Class::Transient, Class::Normal] {
            if victim <= class || self.bytes() + needed <= bytes_max {
                break;
            }
            dropped += self.drop_class(victim, self.bytes() + needed - bytes_max);
        }
        dropped
    }

    /// Drops frames of one class, oldest first, until `excess` bytes are gone.
    fn drop_class(&mut self, victim: Class, mut excess: usize) -> u32 {
        let (mut read, mut write, mut dropped) = (0, 0, 0);
        while excess > 0
            && let Some(Ok(header)) = self.queued.get(read..read + HEADER_BYTES).map(TryInto::try_into)
        {
            let header = Header::parse(header);
            let size = header.frame_bytes();
            if Class::from_flags(header.flags) == victim {
                excess = excess.saturating_sub(size);
                dropped += 1;
            } else {
                self.queued.copy_within(read..read + size, write);
                write += size;
            }
            read += size;
        }
        // What is newer stays, and moves up as it is: who does not read has this done for every frame that comes.
        self.queued.drain(write..read);
        debug_assert!(self.is_whole(), "the queue holds whole frames");
        dropped
    }

    /// Whether what is queued is whole frames. For tests and debug builds.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut rest = self.queued.as_slice();
        while let Ok(Split::Frame { rest: tail, .. }) = split(rest, |_| u32::MAX) {
            rest = tail;
        }
        rest.is_empty()
    }
}

/// Send buffers and outboxes between two uses.
#[derive(Debug, Default)]
pub struct Pool {
    buffers: Shelf<Vec<u8>>,
    outboxes: Shelf<Box<Outbox>>,
}

impl Pool {
    /// An empty buffer.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.buffers.take().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        if (1..=POOLED_BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.give(buffer);
        }
    }

    /// An empty outbox.
    pub fn outbox(&mut self) -> Box<Outbox> {
        self.outboxes.take().unwrap_or_default()
    }

    /// Takes an outbox back.
    pub fn give_outbox(&mut self, mut outbox: Box<Outbox>) {
        for waiting in [&mut outbox.queued, &mut outbox.sealed, &mut outbox.records] {
            self.give_buffer(std::mem::take(waiting));
        }
        // A send sets the rest when it begins.
        (outbox.in_flight, outbox.in_flight_bytes) = (false, 0);
        self.outboxes.give(outbox);
    }

    /// Frees what nobody has asked for since the last time: a burst's buffers do not stay for ever.
    pub fn trim(&mut self) {
        self.buffers.trim();
        self.outboxes.trim();
    }
}

/// Things of one kind that wait for their next use, at most [`POOLED_BUFFERS_MAX`].
#[derive(Debug)]
struct Shelf<T> {
    items: Vec<T>,
    /// The fewest that lay here since the last trim: so many were not needed.
    idle: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { items: Vec::new(), idle: 0 }
    }
}

impl<T> Shelf<T> {
    fn take(&mut self) -> Option<T> {
        let item = self.items.pop();
        self.idle = self.idle.min(self.items.len());
        item
    }

    fn give(&mut self, item: T) {
        if self.items.len() < POOLED_BUFFERS_MAX {
            self.items.push(item);
        }
    }

    fn trim(&mut self) {
        // The last given is the first taken: who lies lowest has waited longest.
        self.items.drain(..self.idle);
        self.idle = self.items.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_wire::client::{self, put};

    fn classes(outbox: &Outbox) -> Vec<(Class, u16)> {
        let (mut rest, mut seen) = (outbox.queued.as_slice(), Vec::new());
        while let Ok(Split::Frame { header, rest: tail, .. }) = split(rest, |_| u32::MAX) {
            seen.push((Class::from_flags(header.flags), header.channel));
            rest = tail;
        }
        seen
    }

    #[test]
    fn the_cheapest_and_oldest_go_first_and_reliable_stay() {
        let mut outbox = Outbox::default();
        for (number, class) in
            [Class::Reliable, Class::Transient, Class::Normal, Class::Transient, Class::Command]
                .into_iter()
                .enumerate()
        {
            put(&mut outbox.queued, client::Kind::Data, class, u16::try_from(number).unwrap(), &[0; 92]);
        }
        assert_eq!(outbox.evict(Class::Reliable, 100, 550), 1);
        assert_eq!(
            classes(&outbox),
            [(Class::Reliable, 0), (Class::Normal, 2), (Class::Transient, 3), (Class::Command, 4)]
        );
        assert_eq!(
            outbox.evict(Class::Command, 400, 500),
            2,
            "what is cheaper goes, the rest stays over the limit"
        );
        assert_eq!(classes(&outbox), [(Class::Reliable, 0), (Class::Command, 4)]);
        assert!(outbox.is_whole());
    }

    #[test]
    fn a_transient_frame_evicts_nothing() {
        let mut outbox = Outbox::default();
        put(&mut outbox.queued, client::Kind::Data, Class::Transient, 1, &[0; 92]);
        assert_eq!(outbox.evict(Class::Transient, 100, 150), 0);
        assert_eq!(outbox.queued.len(), 100);
    }

    #[test]
    fn what_is_sealed_goes_out_before_what_is_queued_and_each_message_has_its_head() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.seal(), 0, "nothing is no message");
        outbox.queued.extend_from_slice(b"one");
        assert_eq!(outbox.seal(), 2);
        outbox.queued.extend_from_slice(&[7; 200]);
        assert_eq!(outbox.bytes(), 5 + 200);
        assert_eq!(outbox.seal(), 4);
        outbox.queued.extend_from_slice(b"later");
        let sent = outbox.take_next();
        assert_eq!(sent[..9], *b"\x82\x03one\x82\x7e\x00\xc8");
        assert_eq!((sent.len(), outbox.is_drained()), (5 + 204, false));
        assert_eq!((outbox.take_next().as_slice(), outbox.is_drained()), (&b"later"[..], true));
    }

    #[test]
    fn large_buffers_are_not_hoarded() {
        let mut pool = Pool::default();
        pool.give_buffer(Vec::with_capacity(POOLED_BUFFER_BYTES_MAX + 1));
        assert_eq!(pool.buffer().capacity(), 0);
        pool.give_buffer(Vec::with_capacity(100));
        assert!(pool.buffer().capacity() >= 100);
    }

    #[test]
    fn what_a_burst_left_goes_and_what_is_used_stays() {
        let mut pool = Pool::default();
        let burst: Vec<_> = (0..10).map(|_| (pool.outbox(), Vec::with_capacity(64))).collect();
        for (outbox, buffer) in burst {
            pool.give_outbox(outbox);
            pool.give_buffer(buffer);
        }
        // Of the interval that the burst fell into nothing is known.
        pool.trim();
        assert_eq!((pool.outboxes.items.len(), pool.buffers.items.len()), (10, 10));
        for _ in 0..5 {
            let two = [pool.buffer(), pool.buffer()];
            two.into_iter().for_each(|buffer| pool.give_buffer(buffer));
        }
        pool.trim();
        assert_eq!((pool.outboxes.items.len(), pool.buffers.items.len()), (0, 2));
    }
}
