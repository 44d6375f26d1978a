//! Buffers of sends in flight.
//!
//! The kernel reads a send's memory until the completion is there, however long the peer takes.
//! So the buffer moves into this table and comes back with the completion. The table promises
//! that the bytes stay where they are: both kinds of buffer keep them on the heap.

use std::ops::Deref;
use std::rc::Rc;

use crate::table::Table;
use crate::token::{Slot, Token};

/// Bytes to send. The memory is on the heap and does not move when the value moves.
#[derive(Debug)]
pub enum SendBuffer {
    /// A buffer of one connection, given back for reuse with the completion.
    Owned(Vec<u8>),
    /// One payload for many connections of a thread: counted without atomics.
    Shared(Rc<[u8]>),
}

impl Deref for SendBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            SendBuffer::Owned(bytes) => bytes,
            SendBuffer::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for SendBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for SendBuffer {
    fn from(bytes: Vec<u8>) -> SendBuffer {
        SendBuffer::Owned(bytes)
    }
}

impl From<Rc<[u8]>> for SendBuffer {
    fn from(bytes: Rc<[u8]>) -> SendBuffer {
        SendBuffer::Shared(bytes)
    }
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    slot: Slot,
    buffer: SendBuffer,
}

/// The table. `busy` exists to catch a caller that starts a second send on a slot.
#[derive(Debug)]
pub(crate) struct Sends {
    in_flight: Table<InFlight>,
    #[cfg(debug_assertions)]
    busy: std::collections::HashSet<Slot>,
}

/// Where the kernel finds what to send.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SendRange {
    pub start: *const u8,
    pub len: u32,
}

impl Sends {
    pub(crate) fn new() -> Sends {
        Sends {
            in_flight: Table::new(),
            #[cfg(debug_assertions)]
            busy: std::collections::HashSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes the buffer; returns its key and the range `buffer[offset..]`, which stays valid
    /// until [`Sends::finish`] or for ever after [`Sends::leak`].
    pub(crate) fn begin(
        &mut self,
        slot: Slot,
        token: Token,
        buffer: SendBuffer,
        offset: u32,
    ) -> (Token, SendRange) {
        debug_assert!((offset as usize) < buffer.len(), "nothing to send");
        #[cfg(debug_assertions)]
        assert!(self.busy.insert(slot), "two sends in flight on {slot:?}");
        let rest = buffer.get(offset as usize..).unwrap_or_default();
        // A send takes 32 bits and reports how much it took in 31; what is above is the rest of
        // a short send, which the caller has to expect anyway.
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs());
        let range = SendRange { start: rest.as_ptr(), len };
        (self.in_flight.insert(InFlight { token, slot, buffer }), range)
    }

    /// The completion is there: the buffer is ours again.
    pub(crate) fn finish(&mut self, key: Token) -> Option<(Token, SendBuffer)> {
        let InFlight { token, slot, buffer } = self.in_flight.remove(key)?;
        #[cfg(debug_assertions)]
        self.busy.remove(&slot);
        #[cfg(not(debug_assertions))]
        let _ = slot;
        Some((token, buffer))
    }

    /// The kernel may go on reading after the ring is closed: never free what is in flight.
    pub(crate) fn leak(&mut self) {
        self.in_flight.drain().for_each(std::mem::forget);
    }
}

#[cfg(test)]
mod tests {
    use super::{SendBuffer, Sends};
    use crate::token::{Slot, Token};

    #[test]
    fn the_range_is_the_rest_and_does_not_move() {
        let mut sends = Sends::new();
        let buffer = SendBuffer::Owned(b"abcdef".to_vec());
        let start = buffer.as_ptr();
        let (key, range) = sends.begin(Slot(1), Token::new(9, 1), buffer, 2);
        assert_eq!((range.start, range.len), (start.wrapping_add(2), 4));
        for other in 2..100 {
            sends.begin(Slot(other), Token::new(other, 0), SendBuffer::Shared(b"x"[..].into()), 0);
        }
        let (token, buffer) = sends.finish(key).unwrap();
        assert_eq!((token, buffer.as_ptr()), (Token::new(9, 1), start));
        assert!(sends.finish(key).is_none());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "two sends in flight")]
    fn a_second_send_on_a_slot_is_a_bug() {
        let mut sends = Sends::new();
        for _ in 0..2 {
            sends.begin(Slot(1), Token::new(0, 0), SendBuffer::Shared(b"x"[..].into()), 0);
        }
    }
}
