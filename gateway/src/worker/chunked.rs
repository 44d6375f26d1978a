//! A table that grows without moving what it holds: a million connections must not wait for a copy.

use std::ops::{Index, IndexMut};

/// Bytes of a chunk at most: a size class of the allocator, filled to the last entry.
const CHUNK_BYTES: usize = 16 * 1024;

/// Array in chunks; entries come into being as `T::default()`.
#[derive(Debug)]
pub struct Chunked<T> {
    chunks: Vec<Option<Box<[T]>>>,
}

impl<T: Default> Chunked<T> {
    const CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes `index` exist.
    pub fn ensure(&mut self, index: u32) {
        let chunk = index as usize / Self::CHUNK;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        self.chunks[chunk].get_or_insert_with(|| (0..Self::CHUNK).map(|_| T::default()).collect());
    }

    /// The entry, if its chunk exists.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / Self::CHUNK)?.as_ref()?.get(index as usize % Self::CHUNK)
    }

    /// The entry, if its chunk exists.
    #[must_use]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / Self::CHUNK)?.as_mut()?.get_mut(index as usize % Self::CHUNK)
    }

    /// One past the highest index that may exist.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "indexes are u32, so the end is at most 2^32")]
    pub fn end(&self) -> u32 {
        (self.chunks.len() * Self::CHUNK) as u32
    }
}

impl<T: Default> Default for Chunked<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default> Index<u32> for Chunked<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("an index that was handed out exists")
    }
}

impl<T: Default> IndexMut<u32> for Chunked<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("an index that was handed out exists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_it_grows() {
        let mut table = Chunked::<u64>::new();
        assert!(table.get(0).is_none());
        table.ensure(3);
        table[3] = 7;
        let before = std::ptr::from_ref(&table[3]);
        table.ensure(100_000);
        assert_eq!(before, std::ptr::from_ref(&table[3]));
        assert_eq!((table[3], table[100_000]), (7, 0));
        assert!(table.get(50_000).is_none(), "chunks between stay unborn");
        assert_eq!(table.end() % 2048, 0);
        assert!(table.end() > 100_000);
    }
}
