//! Counting by address and by app in memory that does not grow.
//!
//! A table of every address would be as large as its attackers like, and would cost each ordinary session, which has an
//! address of its own, as much as the session itself. So the counts are kept in two rows of cells, and who is counted
//! has one cell in each, by a keyed hash that nobody outside can aim. Others may share a cell: the smaller of the two is
//! the count, never too small, and too large only by what others share *both* cells with. With a million addresses in a
//! row of 65,536 a cell holds 15 of them: too few to matter beside a limit of thousands.
//!
//! All workers share it without locks. Between looking and counting another worker may count too: a limit may be
//! exceeded by as many as there are workers.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::meter::{US_PER_S, is_due};

/// Cells that get their memory together, when the first of them is counted in: a page.
const PAGE_CELLS: usize = 512;

/// Pages of a row: a row has as many cells as half a key tells apart.
const PAGES: usize = (1 << 16) / PAGE_CELLS;

#[derive(Debug, Default)]
struct Cell {
    count: AtomicU32,
    /// When the next may come, microseconds; see [`is_due`].
    free_us: AtomicU32,
}

const _: () = assert!(size_of::<[Cell; PAGE_CELLS]>() == 4096);

/// A row of cells.
#[derive(Debug)]
struct Row(Box<[OnceLock<Box<[Cell]>>]>);

impl Default for Row {
    fn default() -> Self {
        Self((0..PAGES).map(|_| OnceLock::new()).collect())
    }
}

impl Row {
    fn cell(&self, number: u32) -> &Cell {
        let number = number as usize;
        let page =
            self.0[number / PAGE_CELLS].get_or_init(|| (0..PAGE_CELLS).map(|_| Cell::default()).collect());
        &page[number % PAGE_CELLS]
    }
}

/// Who is counted: the two halves are its cells. As large where it may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(NonZeroU32);

/// Counts and rates by key.
#[derive(Debug, Default)]
pub struct Census {
    hasher: RandomState,
    rows: [Row; 2],
}

impl Census {
    #[allow(clippy::cast_possible_truncation, reason = "any half of a hash is a hash")]
    fn key(&self, of: impl Hash) -> Key {
        Key(NonZeroU32::new(self.hasher.hash_one(of) as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// Who comes from an address. Of IPv6 it is the network of 64 bits, all of which one host may use.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Key {
        match address.to_canonical() {
            IpAddr::V4(address) => self.key(address.octets()),
            IpAddr::V6(address) => self.key(&address.octets()[..8]),
        }
    }

    /// An app.
    #[must_use]
    pub fn app(&self, name: &str) -> Key {
        self.key(name)
    }

    fn cells(&self, key: Key) -> [&Cell; 2] {
        let number = key.0.get();
        [self.rows[0].cell(number >> 16), self.rows[1].cell(number & 0xffff)]
    }

    /// How many there are, or a few more.
    #[must_use]
    pub fn count(&self, key: Key) -> u32 {
        let [first, second] = self.cells(key);
        first.count.load(Relaxed).min(second.count.load(Relaxed))
    }

    /// Counts one more unless there are as many already.
    #[must_use]
    pub fn enter(&self, key: Key, max: u32) -> bool {
        let is_room = self.count(key) < max;
        if is_room {
            for cell in self.cells(key) {
                cell.count.fetch_add(1, Relaxed);
            }
        }
        is_room
    }

    /// Counts one less.
    pub fn leave(&self, key: Key) {
        for cell in self.cells(key) {
            cell.count.fetch_sub(1, Relaxed);
        }
    }

    /// Whether nobody is counted. For tests.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let pages = self.rows.iter().flat_map(|row| row.0.iter().filter_map(OnceLock::get));
        pages.flatten().all(|cell| cell.count.load(Relaxed) == 0)
    }

    /// Whether one more may come at this time, so many a second; then it has. Up to a second's worth may come at once.
    #[must_use]
    pub fn take(&self, key: Key, per_s: u32, now_ms: u64) -> bool {
        let cells = self.cells(key);
        let cost_us = (US_PER_S / per_s.max(1)).max(1);
        let free = cells.each_ref().map(|cell| is_due(cell.free_us.load(Relaxed), now_ms, cost_us));
        let is_due = free.iter().any(Option::is_some);
        if is_due {
            for (cell, free_us) in cells.iter().zip(free) {
                if let Some(free_us) = free_us {
                    cell.free_us.store(free_us, Relaxed);
                }
            }
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_for_one_and_not_for_the_others() {
        let census = Census::default();
        let [bad, good] = ["192.0.2.1", "192.0.2.2"].map(|text| census.address(text.parse().unwrap()));
        let entered = (0..100).filter(|_| census.enter(bad, 10)).count();
        assert_eq!((entered, census.count(bad)), (10, 10));
        assert!(census.enter(good, 10));
        census.leave(bad);
        assert!(census.enter(bad, 10) && !census.enter(bad, 10));
    }

    #[test]
    fn a_rate_holds_for_one_and_not_for_the_others() {
        let census = Census::default();
        let [bad, good] = ["bad", "good"].map(|name| census.app(name));
        let took = |key, from: u64| {
            (from..from + 1000).flat_map(|now| [now; 10]).filter(|now| census.take(key, 50, *now)).count()
        };
        assert_eq!(took(bad, 5000), 50 + 49, "a second's worth at once, then the rate");
        assert_eq!(took(bad, 6000), 50);
        assert_eq!(took(good, 6000), 99);
        assert_eq!(took(bad, 4_000_000_000), 99, "a clock's wrap later");
    }

    #[test]
    fn others_in_the_same_cells_do_not_matter_until_they_are_very_many() {
        let census = Census::default();
        for number in 0..200_000u32 {
            assert!(census.enter(census.address(IpAddr::from(number.to_be_bytes())), u32::MAX));
        }
        let mut counts: Vec<u32> = (0..1000u32)
            .map(|number| census.count(census.address(IpAddr::from((number << 12).to_be_bytes()))))
            .collect();
        counts.sort_unstable();
        assert!(counts[500] <= 6 && counts[999] <= 20, "{:?}", &counts[990..]);
    }

    #[test]
    fn one_network_of_ipv6_is_one() {
        let census = Census::default();
        let key = |text: &str| census.address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
