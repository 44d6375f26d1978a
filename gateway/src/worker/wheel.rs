//! The timer wheel: one coarse, lazy wheel per worker, its links inside the connection table.
//!
//! Traffic never touches the wheel: it stores `last_seen` in the connection. When a slot fires, the worker
//! computes the true deadline of each entry and files it again if that lies ahead. A connection is therefore
//! touched about once per timeout period however much it says. (Hashed wheel of Varghese and Lauck, scheme 6.)

use crate::limits::{TICK_MS, WHEEL_SLOTS};

/// Index that means "none".
pub const NIL: u32 = u32::MAX;

/// Position in a wheel's lists; part of the entry it files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    next: u32,
    prev: u32,
    /// Slot + 1 of the list it is in; 0 when it is in none.
    slot: u16,
}

impl Default for Link {
    fn default() -> Self {
        Self { next: NIL, prev: NIL, slot: 0 }
    }
}

/// Where the links of the entries are.
pub trait Links {
    /// The link of entry `index`.
    fn link(&mut self, index: u32) -> &mut Link;
}

/// A tick count since the worker's start.
pub type Tick = u64;

/// The tick a time in milliseconds falls into, rounded up: a deadline never fires early.
#[must_use]
pub const fn tick_at(ms: u64) -> Tick {
    ms.div_ceil(TICK_MS)
}

/// Lists of entries by the tick at which they are to be looked at.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    /// A bit per slot that has entries: the next one is found without walking empty slots.
    occupied: [u64; WHEEL_SLOTS / 64],
    /// Every tick up to this one has fired.
    current: Tick,
    len: usize,
}

const MASK: u64 = WHEEL_SLOTS as u64 - 1;

#[allow(clippy::cast_possible_truncation, reason = "masked to the number of slots")]
const fn slot_of(tick: Tick) -> usize {
    (tick & MASK) as usize
}

impl Wheel {
    /// An empty wheel at tick zero.
    #[must_use]
    pub fn new() -> Self {
        Self { heads: vec![NIL; WHEEL_SLOTS].into(), occupied: [0; WHEEL_SLOTS / 64], current: 0, len: 0 }
    }

    /// Entries filed.
    #[must_use]
    pub const fn filed(&self) -> usize {
        self.len
    }

    /// Files an entry under `tick`; a past one fires with the next tick, one beyond the horizon at the
    /// horizon, where it is filed again. An entry already filed is moved.
    #[inline]
    pub fn file(&mut self, links: &mut impl Links, index: u32, tick: Tick) {
        self.remove(links, index);
        let slot = slot_of(tick.clamp(self.current + 1, self.current + MASK));
        let next = self.heads[slot];
        #[allow(clippy::cast_possible_truncation, reason = "4096 slots")]
        let mark = slot as u16 + 1;
        *links.link(index) = Link { next, prev: NIL, slot: mark };
        if next != NIL {
            links.link(next).prev = index;
        }
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Takes an entry out; nothing happens when it is not filed.
    #[inline]
    pub fn remove(&mut self, links: &mut impl Links, index: u32) {
        let Link { next, prev, slot } = std::mem::take(links.link(index));
        let Some(slot) = usize::from(slot).checked_sub(1) else { return };
        if next != NIL {
            links.link(next).prev = prev;
        }
        if prev == NIL {
            self.heads[slot] = next;
            if next == NIL {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        } else {
            links.link(prev).next = next;
        }
        self.len -= 1;
    }

    /// The next entry whose tick is at or before `now`, taken out of the wheel.
    #[inline]
    pub fn pop_expired(&mut self, links: &mut impl Links, now: Tick) -> Option<u32> {
        while self.current < now {
            let slot = slot_of(self.current + 1);
            let head = self.heads[slot];
            if head != NIL {
                self.remove(links, head);
                return Some(head);
            }
            // Jump over empty slots, not past `now`.
            self.current = self.next_occupied().map_or(now, |tick| (tick - 1).clamp(self.current + 1, now));
        }
        None
    }

    /// The tick of the next slot that has entries.
    #[must_use]
    pub fn next_occupied(&self) -> Option<Tick> {
        if self.len == 0 {
            return None;
        }
        let start = slot_of(self.current + 1);
        let words = self.occupied.len();
        // One word more than there are: the first is looked at from its middle, and again at the end.
        (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            let slot = (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)?;
            Some(self.current + 1 + (slot.wrapping_sub(start) as u64 & MASK))
        })
    }

    /// Recounts everything and panics on the first disagreement. For tests and debug builds.
    pub fn validate(&self, links: &mut impl Links) {
        let mut count = 0;
        for (slot, &head) in self.heads.iter().enumerate() {
            assert_eq!(self.occupied[slot / 64] >> (slot % 64) & 1 == 1, head != NIL, "slot {slot}");
            let (mut prev, mut index) = (NIL, head);
            while index != NIL {
                let link = *links.link(index);
                assert_eq!((link.prev, usize::from(link.slot)), (prev, slot + 1), "entry {index}");
                (prev, index) = (index, link.next);
                count += 1;
                assert!(count <= self.len, "a list runs in a circle");
            }
        }
        assert_eq!(count, self.len);
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Links for Vec<Link> {
        fn link(&mut self, index: u32) -> &mut Link {
            &mut self[index as usize]
        }
    }

    proptest! {
        /// Against the obvious model: a map from entry to tick.
        #[test]
        fn fires_everything_in_time_and_nothing_early(
            steps in prop::collection::vec((0u32..32, 0u64..9000, 0u8..4), 1..200),
        ) {
            let mut links = vec![Link::default(); 32];
            let mut wheel = Wheel::new();
            let mut model = std::collections::BTreeMap::<u32, Tick>::new();
            let mut now = 0;
            for (entry, ticks, what) in steps {
                match what {
                    0 => { wheel.remove(&mut links, entry); model.remove(&entry); }
                    1 => {
                        now += ticks;
                        while let Some(fired) = wheel.pop_expired(&mut links, now) {
                            let deadline = model[&fired];
                            if deadline <= now { model.remove(&fired); } else { wheel.file(&mut links, fired, deadline); }
                        }
                        prop_assert!(model.values().all(|deadline| *deadline > now));
                    }
                    _ => { wheel.file(&mut links, entry, now + ticks); model.insert(entry, (now + ticks).max(now + 1)); }
                }
                wheel.validate(&mut links);
                prop_assert_eq!(wheel.filed(), model.len());
                if let Some(next) = wheel.next_occupied() {
                    prop_assert!(next > now);
                    prop_assert!(model.values().all(|deadline| *deadline >= next));
                }
            }
        }
    }

    #[test]
    fn deadlines_round_up() {
        assert_eq!((tick_at(0), tick_at(1), tick_at(TICK_MS), tick_at(TICK_MS + 1)), (0, 1, 1, 2));
    }
}
