//! What waits for one link, by weight: written heaviest first, dropped lightest first.
//!
//! Four buffers of whole frames. Within a weight frames leave in the order they came; a heavier frame may
//! overtake a lighter one. It wakes nobody and counts nothing: that is the owner's.

use bytes::{Buf, BytesMut};
use moor_wire::client::Class;
use moor_wire::frame::{HEADER_BYTES, Header};

use crate::limits::LINK_WRITE_BYTES_MAX;

/// How much a frame matters on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// An answer somebody waits for, or a command to a gateway: never dropped while the link lives.
    Answer,
    /// A push of class command or reliable: dropped when the queue is full of its like; who sent it tries again.
    Reliable,
    /// A push of class normal, and a receipt: makes room for those above.
    Normal,
    /// A push of class transient: makes room for all others.
    Transient,
}

impl Weight {
    const ALL: [Self; 4] = [Self::Answer, Self::Reliable, Self::Normal, Self::Transient];

    /// What a push of a class weighs. Commands too may be dropped here: a service that floods a link with them
    /// must not end the link, and is told that nobody was reached.
    pub const fn of(class: Class) -> Self {
        match class {
            Class::Command | Class::Reliable => Self::Reliable,
            Class::Normal => Self::Normal,
            Class::Transient => Self::Transient,
        }
    }

    /// The part of a bound that frames of this weight may use where one counter stands for all: the rest is
    /// for those that matter more.
    pub const fn share(self, max: usize) -> usize {
        match self {
            Self::Answer => usize::MAX,
            Self::Reliable => max,
            Self::Normal => max / 4 * 3,
            Self::Transient => max / 2,
        }
    }
}

/// Frames that were dropped, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped([u64; Weight::ALL.len()]);

impl Dropped {
    /// None.
    pub const NONE: Self = Self([0; Weight::ALL.len()]);

    /// So many of one weight.
    pub const fn some(weight: Weight, frames: u64) -> Self {
        let mut dropped = Self::NONE;
        dropped.add(weight, frames);
        dropped
    }

    /// So many more.
    pub const fn add(&mut self, weight: Weight, frames: u64) {
        self.0[weight as usize] += frames;
    }

    /// How many of a weight.
    pub const fn of(&self, weight: Weight) -> u64 {
        self.0[weight as usize]
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// How long the frame at the front is; all of what is left where that is no whole frame.
fn first_frame(bytes: &[u8]) -> usize {
    let header = bytes.first_chunk::<HEADER_BYTES>().map(|header| Header::parse(*header));
    header.map_or(bytes.len(), |header| header.frame_bytes().min(bytes.len()))
}

/// How many whole frames there are.
pub fn count_frames(mut bytes: &[u8]) -> u64 {
    let mut frames = 0;
    while !bytes.is_empty() {
        bytes = &bytes[first_frame(bytes)..];
        frames += 1;
    }
    frames
}

/// Frames by weight.
#[derive(Debug, Default)]
pub struct Queues {
    buffers: [BytesMut; Weight::ALL.len()],
}

impl Queues {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(BytesMut::len).sum()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.buffers.iter().all(BytesMut::is_empty)
    }

    /// Where frames of a weight are appended.
    pub const fn buffer_mut(&mut self, weight: Weight) -> &mut BytesMut {
        &mut self.buffers[weight as usize]
    }

    /// Drops what is lighter than `weight`, lightest and oldest first, until `excess` bytes are gone.
    pub fn evict(&mut self, weight: Weight, mut excess: usize) -> Dropped {
        let mut dropped = Dropped::NONE;
        for victim in Weight::ALL.into_iter().rev().take_while(|victim| *victim > weight) {
            let buffer = &mut self.buffers[victim as usize];
            while excess > 0 && !buffer.is_empty() {
                let frame = first_frame(buffer);
                buffer.advance(frame);
                excess = excess.saturating_sub(frame);
                dropped.add(victim, 1);
            }
        }
        dropped
    }

    /// Takes what is written next: of the heaviest weight that waits, and lighter ones behind it as far as they
    /// fit whole.
    pub fn take(&mut self) -> Option<BytesMut> {
        let heaviest = self.buffers.iter().position(|buffer| !buffer.is_empty())?;
        let (first, lighter) = self.buffers[heaviest..].split_first_mut()?;
        if first.len() > LINK_WRITE_BYTES_MAX {
            let mut end = first_frame(first);
            while let next = end + first_frame(&first[end..])
                && next <= LINK_WRITE_BYTES_MAX
            {
                end = next;
            }
            return Some(first.split_to(end));
        }
        let mut taken = std::mem::take(first);
        for buffer in lighter.iter_mut().filter(|buffer| !buffer.is_empty()) {
            if taken.len() + buffer.len() > LINK_WRITE_BYTES_MAX {
                break;
            }
            taken.extend_from_slice(buffer);
            buffer.clear();
        }
        Some(taken)
    }

    /// Takes the memory of a written buffer back.
    pub fn give_back(&mut self, mut buffer: BytesMut) {
        let own = self.buffer_mut(Weight::Reliable);
        if own.is_empty() && buffer.capacity() <= LINK_WRITE_BYTES_MAX {
            buffer.clear();
            *own = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_wire::frame::put_frame;

    /// A frame of 100 bytes with a number in it.
    fn put(queues: &mut Queues, weight: Weight, number: u8) {
        put_frame(queues.buffer_mut(weight), number, 0, 0, &[0; 92]);
    }

    fn numbers(mut bytes: &[u8]) -> Vec<u8> {
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            numbers.push(bytes[0]);
            bytes = &bytes[first_frame(bytes)..];
        }
        numbers
    }

    #[test]
    fn heavier_frames_overtake_and_order_within_a_weight_is_kept() {
        let mut queues = Queues::default();
        for (number, weight) in [
            (1, Weight::Transient),
            (2, Weight::Reliable),
            (3, Weight::Normal),
            (4, Weight::Reliable),
            (5, Weight::Answer),
            (6, Weight::Transient),
        ] {
            put(&mut queues, weight, number);
        }
        assert_eq!((queues.bytes(), count_frames(&[0; 24])), (600, 3));
        assert_eq!(numbers(&queues.take().unwrap()), [5, 2, 4, 3, 1, 6]);
        assert!(queues.is_empty() && queues.take().is_none());
    }

    #[test]
    fn the_lightest_and_oldest_make_room_and_nothing_for_its_own_like() {
        let mut queues = Queues::default();
        for number in 0..6 {
            let weight = if number % 2 == 0 { Weight::Transient } else { Weight::Normal };
            put(&mut queues, weight, number);
        }
        assert_eq!(queues.evict(Weight::Transient, 100), Dropped::NONE);
        assert_eq!(queues.evict(Weight::Normal, 101), Dropped::some(Weight::Transient, 2));
        let mut both = Dropped::some(Weight::Transient, 1);
        both.add(Weight::Normal, 1);
        assert_eq!(queues.evict(Weight::Answer, 150), both);
        assert_eq!(numbers(&queues.take().unwrap()), [3, 5]);
    }

    #[test]
    fn a_long_queue_leaves_in_pieces_so_that_what_comes_meanwhile_is_not_behind_all_of_it() {
        let mut queues = Queues::default();
        let many = LINK_WRITE_BYTES_MAX / 100 + 1;
        for _ in 0..many {
            put(&mut queues, Weight::Reliable, 7);
        }
        put(&mut queues, Weight::Transient, 8);
        let first = queues.take().unwrap();
        assert!(first.len() <= LINK_WRITE_BYTES_MAX && numbers(&first).len() == many - 1);
        put(&mut queues, Weight::Answer, 9);
        assert_eq!(numbers(&queues.take().unwrap()), [9, 7, 8]);
        // A frame longer than a piece leaves all the same.
        put_frame(queues.buffer_mut(Weight::Normal), 1, 0, 0, &vec![0; LINK_WRITE_BYTES_MAX * 2]);
        assert_eq!(queues.take().unwrap().len(), LINK_WRITE_BYTES_MAX * 2 + HEADER_BYTES);
    }
}
