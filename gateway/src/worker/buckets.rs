//! Buckets of a hash index that grows and shrinks by one at a time (linear hashing): a million sessions never
//! wait for all of them to be moved.

use super::wheel::NIL;

/// Buckets of a chunk.
const CHUNK: usize = 1024;
/// Entries per bucket above which a bucket is added.
const FULL: usize = 2;
/// Fewest buckets.
const LEAST: usize = 64;

/// First entries of the chains.
#[derive(Debug)]
pub struct Buckets {
    chunks: Vec<Box<[u32]>>,
    length: usize,
}

impl Buckets {
    /// The fewest buckets, all empty.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: vec![vec![NIL; CHUNK].into()], length: LEAST }
    }

    /// The bucket of a hash.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "bits of a hash")]
    pub fn of(&self, hash: u64) -> usize {
        let wide = self.length.next_power_of_two();
        let place = hash as usize & (wide - 1);
        if place < self.length { place } else { place - wide / 2 }
    }

    /// First entry of a bucket's chain.
    #[must_use]
    pub fn first(&self, bucket: usize) -> u32 {
        self.chunks[bucket / CHUNK][bucket % CHUNK]
    }

    /// Sets it.
    pub fn set(&mut self, bucket: usize, entry: u32) {
        self.chunks[bucket / CHUNK][bucket % CHUNK] = entry;
    }

    /// Adds a bucket if there are too few for so many entries. The entries of the returned bucket are to be
    /// placed again: each stays or moves to the new one.
    pub fn grow(&mut self, entries: usize) -> Option<usize> {
        if entries <= self.length * FULL {
            return None;
        }
        if self.length.is_multiple_of(CHUNK) {
            self.chunks.push(vec![NIL; CHUNK].into());
        }
        self.length += 1;
        let added = self.length - 1;
        Some(added - (1 << added.ilog2()))
    }

    /// Takes the last bucket away if there are too many for so few entries. The entries of the returned chain
    /// are to be placed again.
    pub fn shrink(&mut self, entries: usize) -> Option<u32> {
        // Half as full as where it grows: one entry that comes and goes does not move others.
        if self.length == LEAST || entries * 2 >= self.length * FULL {
            return None;
        }
        let chain = self.first(self.length - 1);
        self.set(self.length - 1, NIL);
        self.length -= 1;
        if self.length.is_multiple_of(CHUNK) {
            self.chunks.pop();
        }
        Some(chain)
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self::new()
    }
}
