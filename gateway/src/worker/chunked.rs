//! A table that grows without moving what it holds, and gives back what nobody is in: a million connections must
//! not wait for a copy, and a quiet night must not cost the memory of the day.
//!
//! A chunk comes with its first entry and goes when its last one has been vacated. (Keeping one for the next who comes
//! costs more than it saves: it holds 512 KiB of the allocator, which is quick at giving out again what it just got.) A
//! chunk that goes leaves its latest generation behind: the entries of the one that takes its place begin there, so
//! what is remembered of the old ones stays recognisable. Generations wrap: the latest is the one that is furthest ahead of
//! where the chunk began.

use std::ops::{Index, IndexMut};

/// Bytes of a chunk at most: a size class of the allocator, filled to the last entry.
const CHUNK_BYTES: usize = 16 * 1024;

/// What stands in a [`Chunked`].
pub trait Entry {
    /// Generation of the first who takes an entry.
    const FIRST_GENERATION: u32;

    /// Bits of a generation.
    const GENERATION_MASK: u32;

    /// An entry that nobody is in; who takes it is of `generation`.
    fn vacant(generation: u32) -> Self;

    /// Whether nobody is in it.
    fn is_vacant(&self) -> bool;

    /// Of who is in it, or else of who takes it next.
    fn generation(&self) -> u32;
}

#[derive(Debug)]
struct Chunk<T> {
    entries: Option<Box<[T]>>,
    /// Entries taken and not vacated.
    occupied: u32,
    /// No entry below this one is vacant.
    vacant_from: u32,
    /// Every entry from this one on is vacant.
    vacant_to_end_from: u32,
    /// The entries' first generation when the chunk comes.
    generation: u32,
}

/// Array in chunks.
#[derive(Debug)]
pub struct Chunked<T> {
    chunks: Vec<Chunk<T>>,
    /// Every chunk below this one is full.
    room_from: usize,
}

impl<T: Entry> Chunked<T> {
    const CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), room_from: 0 }
    }

    /// Takes a vacant entry, which comes into being if need be.
    pub fn occupy(&mut self, index: u32) -> &mut T {
        let (number, place) = Self::place(index);
        if number >= self.chunks.len() {
            self.chunks.resize_with(number + 1, || Chunk {
                entries: None,
                occupied: 0,
                vacant_from: 0,
                vacant_to_end_from: 0,
                generation: T::FIRST_GENERATION,
            });
        }
        let chunk = &mut self.chunks[number];
        let generation = chunk.generation;
        let entries =
            chunk.entries.get_or_insert_with(|| (0..Self::CHUNK).map(|_| T::vacant(generation)).collect());
        let entry = &mut entries[place as usize];
        assert!(entry.is_vacant(), "entry {index} was given out twice");
        chunk.occupied += 1;
        chunk.vacant_to_end_from = chunk.vacant_to_end_from.max(place + 1);
        entry
    }

    /// Puts a vacant entry of the next generation in the place of a taken one.
    pub fn vacate(&mut self, index: u32, next_generation: u32) {
        let (number, place) = Self::place(index);
        self[index] = T::vacant(next_generation);
        let chunk = &mut self.chunks[number];
        chunk.occupied -= 1;
        chunk.vacant_from = chunk.vacant_from.min(place);
        self.room_from = self.room_from.min(number);
        if chunk.occupied == 0 {
            let entries = chunk.entries.take().unwrap_or_default();
            // Those that nobody took stand where the chunk began.
            let taken = entries.get(..chunk.vacant_to_end_from as usize).unwrap_or_default();
            let ahead = |entry: &T| entry.generation().wrapping_sub(chunk.generation) & T::GENERATION_MASK;
            let furthest = taken.iter().max_by_key(|entry| ahead(entry));
            chunk.generation = furthest.map_or(chunk.generation, T::generation);
            (chunk.vacant_from, chunk.vacant_to_end_from) = (0, 0);
        }
    }

    /// A vacant entry in the lowest chunk that has one: those above empty by and by, and go.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "indexes are u32")]
    pub fn vacancy(&mut self) -> u32 {
        let full = |chunk: &&Chunk<T>| chunk.occupied as usize == Self::CHUNK;
        self.room_from += self.chunks[self.room_from..].iter().take_while(full).count();
        let start = self.room_from * Self::CHUNK;
        let place = self.chunks.get_mut(self.room_from).map_or(0, |chunk| {
            let from = chunk.vacant_from as usize;
            let entries = chunk.entries.as_deref().unwrap_or_default();
            chunk.vacant_from += entries[from..].iter().take_while(|entry| !entry.is_vacant()).count() as u32;
            chunk.vacant_from as usize
        });
        (start + place) as u32
    }

    /// The entry, if its chunk exists.
    #[must_use]
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (number, place) = Self::place(index);
        self.chunks.get(number)?.entries.as_ref()?.get(place as usize)
    }

    /// The entry, if its chunk exists.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (number, place) = Self::place(index);
        self.chunks.get_mut(number)?.entries.as_mut()?.get_mut(place as usize)
    }

    /// The first taken entry at or after `from`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "indexes are u32")]
    pub fn next_taken(&self, from: u32) -> Option<(u32, &T)> {
        let (mut number, place) = Self::place(from);
        let mut place = place as usize;
        while let Some(chunk) = self.chunks.get(number) {
            let entries = chunk.entries.as_deref().unwrap_or_default();
            let rest = entries.get(place..chunk.vacant_to_end_from as usize).unwrap_or_default();
            if let Some((ahead, entry)) = rest.iter().enumerate().find(|(_, entry)| !entry.is_vacant()) {
                return Some(((number * Self::CHUNK + place + ahead) as u32, entry));
            }
            (number, place) = (number + 1, 0);
        }
        None
    }

    /// Number of the chunk, and place in it.
    #[allow(clippy::cast_possible_truncation, reason = "a chunk has at most 16 Ki entries")]
    const fn place(index: u32) -> (usize, u32) {
        (index as usize / Self::CHUNK, (index as usize % Self::CHUNK) as u32)
    }

    /// One past the highest index that was ever taken, up to the end of its chunk.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "indexes are u32, so the end is at most 2^32")]
    pub fn end(&self) -> u32 {
        (self.chunks.len() * Self::CHUNK) as u32
    }

    /// Bytes of the chunks that exist.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.entries.is_some()).count() * Self::CHUNK * size_of::<T>()
    }
}

impl<T: Entry> Default for Chunked<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Entry> Index<u32> for Chunked<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("an index that was handed out exists")
    }
}

impl<T: Entry> IndexMut<u32> for Chunked<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("an index that was handed out exists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// 1 KiB, so that few entries make a chunk.
    #[derive(Debug)]
    struct Seat {
        generation: u32,
        taken: bool,
        _wide: [u64; 127],
    }

    impl Entry for Seat {
        const FIRST_GENERATION: u32 = 1;
        const GENERATION_MASK: u32 = 0xff;
        fn vacant(generation: u32) -> Self {
            Self { generation, taken: false, _wide: [0; 127] }
        }
        fn is_vacant(&self) -> bool {
            !self.taken
        }
        fn generation(&self) -> u32 {
            self.generation
        }
    }

    const SEATS: u32 = 16;

    fn take(table: &mut Chunked<Seat>, index: u32) -> u32 {
        let seat = table.occupy(index);
        seat.taken = true;
        seat.generation
    }

    #[test]
    fn entries_stay_where_they_are_while_it_grows() {
        let mut table = Chunked::<Seat>::new();
        assert!(table.get(0).is_none());
        take(&mut table, 3);
        let before = std::ptr::from_ref(&table[3]);
        take(&mut table, 100_000);
        assert_eq!(before, std::ptr::from_ref(&table[3]));
        assert!(table.get(50_000).is_none(), "chunks between stay unborn");
        assert_eq!(table.end(), 100_000 + SEATS);
        assert_eq!(table.bytes(), 2 * CHUNK_BYTES);
    }

    #[test]
    fn empty_chunks_go_and_generations_never_repeat() {
        let mut table = Chunked::<Seat>::new();
        let all = 10 * SEATS;
        for round in 1..4 {
            for index in 0..all {
                assert_eq!(take(&mut table, index), round, "entry {index}");
            }
            assert_eq!(table.bytes(), 10 * CHUNK_BYTES);
            for index in 0..all {
                table.vacate(index, round + 1);
            }
            assert_eq!(table.bytes(), 0);
            assert!(table.next_taken(0).is_none());
        }
        // One entry of a chunk was used more often than its neighbours: all go on from there.
        for generation in 4..50 {
            take(&mut table, 1);
            table.vacate(1, generation + 1);
        }
        assert!(table.get(0).is_none());
        assert_eq!(take(&mut table, 0), 50);
    }

    #[test]
    fn generations_go_on_when_they_have_wrapped() {
        let mut table = Chunked::<Seat>::new();
        let mut seen = std::collections::VecDeque::new();
        for _ in 0..2000 {
            let generation = take(&mut table, 3);
            assert!(!seen.contains(&generation), "generation {generation} came twice within 200");
            seen.push_back(generation);
            if seen.len() > 200 {
                seen.pop_front();
            }
            // As channels do, which leave 0 out.
            table.vacate(3, ((generation + 1) & Seat::GENERATION_MASK).max(1));
        }
    }

    proptest! {
        #[test]
        fn the_lowest_vacancy_is_found_and_what_is_taken_is_walked(steps in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400)) {
            let mut table = Chunked::<Seat>::new();
            let mut model = BTreeMap::new();
            let mut used = BTreeMap::<u32, u32>::new();
            for (leave, which) in steps {
                if leave && !model.is_empty() {
                    let index = *model.keys().nth(usize::from(which) % model.len()).unwrap();
                    let generation = model.remove(&index).unwrap();
                    table.vacate(index, generation + 1);
                } else {
                    let index = table.vacancy();
                    let lowest = (0..).find(|index| !model.contains_key(index)).unwrap();
                    prop_assert_eq!(index, lowest);
                    let generation = take(&mut table, index);
                    prop_assert!(used.insert(index, generation) < Some(generation));
                    model.insert(index, generation);
                }
                let mut walked = Vec::new();
                let mut from = 0;
                while let Some((index, _)) = table.next_taken(from) {
                    walked.push(index);
                    from = index + 1;
                }
                prop_assert_eq!(walked, model.keys().copied().collect::<Vec<_>>());
                let chunks: std::collections::BTreeSet<_> = model.keys().map(|index| index / SEATS).collect();
                prop_assert_eq!(table.bytes(), chunks.len() * CHUNK_BYTES);
            }
        }
    }
}
