//! Names of millions of sessions, four bytes each where they are held.
//!
//! Names are stored by length in pages of equal slots, without a header and without a pointer; a page whose last
//! name goes gives its memory back. A name's handle tells where it is and how long it is.

use moor_wire::limits::{ACCOUNT_BYTES_MAX, DEVICE_BYTES_MAX};

/// Slots grow in these steps, bytes.
const STEP: usize = 8;
/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 128;
const CLASSES: usize = NAME_BYTES_MAX / STEP;
/// Slots of a page.
const SLOTS: usize = 256;
/// Pages of a class: what the handle has bits for, less the one that would look like [`Name::EMPTY`].
const PAGES_MAX: usize = (1 << PAGE_BITS) - 1;

const SLOT_BITS: u32 = 8;
const PAGE_BITS: u32 = 17;
const SPARE_BITS: u32 = 3;
const SPARE_SHIFT: u32 = SLOT_BITS + PAGE_BITS;
const CLASS_SHIFT: u32 = SPARE_SHIFT + SPARE_BITS;

const _: () = assert!(ACCOUNT_BYTES_MAX <= NAME_BYTES_MAX && DEVICE_BYTES_MAX <= NAME_BYTES_MAX);
const _: () = assert!(SLOTS == 1 << SLOT_BITS && STEP == 1 << SPARE_BITS);
const _: () = assert!(CLASSES << CLASS_SHIFT == 1 << u32::BITS);

/// A name kept in a [`Names`]: class, spare bytes of the slot, page and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(u32);

impl Name {
    /// The empty name, which takes no slot.
    pub const EMPTY: Self = Self(u32::MAX);

    const fn class(self) -> usize {
        (self.0 >> CLASS_SHIFT) as usize
    }

    const fn page(self) -> usize {
        (self.0 >> SLOT_BITS) as usize & ((1 << PAGE_BITS) - 1)
    }

    const fn slot(self) -> usize {
        self.0 as usize & (SLOTS - 1)
    }

    const fn len(self) -> usize {
        (self.class() + 1) * STEP - (self.0 >> SPARE_SHIFT) as usize % STEP
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Equal slots. A free one begins with the number of the next free one.
#[derive(Debug, Default)]
struct Page {
    /// Empty until the first name, and again after the last.
    bytes: Box<[u8]>,
    used: u16,
    /// First free slot; [`SLOTS`]: none.
    free: u16,
    /// True exactly when the page stands in its class's list of pages with room.
    listed: bool,
}

#[derive(Debug, Default)]
struct Class {
    pages: Vec<Page>,
    with_room: Vec<u32>,
}

/// Names of one worker.
#[derive(Debug)]
pub struct Names {
    classes: [Class; CLASSES],
    /// Of all pages.
    bytes: usize,
}

impl Names {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { classes: std::array::from_fn(|_| Class::default()), bytes: 0 }
    }

    /// Keeps a name of up to 128 bytes; `None` when it is longer or its class is full (33 million names).
    #[allow(clippy::cast_possible_truncation, reason = "every part is smaller than its bits")]
    pub fn insert(&mut self, text: &str) -> Option<Name> {
        if text.is_empty() {
            return Some(Name::EMPTY);
        }
        let class = (text.len() - 1) / STEP;
        let size = (class + 1) * STEP;
        let (page, slot) = self.classes.get_mut(class)?.take_slot(size, &mut self.bytes)?;
        let start = slot * size;
        self.classes[class].pages[page].bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
        let spare = size - text.len();
        Some(Name(
            (class as u32) << CLASS_SHIFT
                | (spare as u32) << SPARE_SHIFT
                | (page as u32) << SLOT_BITS
                | slot as u32,
        ))
    }

    /// The text of a name.
    #[must_use]
    pub fn get(&self, name: Name) -> &str {
        if name == Name::EMPTY {
            return "";
        }
        let start = name.slot() * (name.class() + 1) * STEP;
        let bytes = &self.classes[name.class()].pages[name.page()].bytes[start..start + name.len()];
        // They came out of a `&str`.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Forgets a name. Its handle must not be used again.
    pub fn remove(&mut self, name: Name) {
        if name != Name::EMPTY {
            let size = (name.class() + 1) * STEP;
            self.classes[name.class()].give_slot(name.page(), name.slot(), size, &mut self.bytes);
        }
    }

    /// Bytes of the pages held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "slots and pages are counted in fewer bits than u16 and u32"
)]
impl Class {
    fn take_slot(&mut self, size: usize, held: &mut usize) -> Option<(usize, usize)> {
        let at = match self.with_room.last() {
            Some(at) => *at as usize,
            None if self.pages.len() >= PAGES_MAX => return None,
            None => {
                self.with_room.push(self.pages.len() as u32);
                self.pages.push(Page { listed: true, ..Page::default() });
                self.pages.len() - 1
            }
        };
        let page = &mut self.pages[at];
        if page.bytes.is_empty() {
            page.bear(size);
            *held += page.bytes.len();
        }
        let slot = usize::from(page.free);
        page.free = u16::from_le_bytes([page.bytes[slot * size], page.bytes[slot * size + 1]]);
        page.used += 1;
        if usize::from(page.free) == SLOTS {
            page.listed = false;
            self.with_room.pop();
        }
        Some((at, slot))
    }

    fn give_slot(&mut self, at: usize, slot: usize, size: usize, held: &mut usize) {
        let page = &mut self.pages[at];
        page.bytes[slot * size..][..2].copy_from_slice(&page.free.to_le_bytes());
        page.free = slot as u16;
        page.used -= 1;
        if page.used == 0 {
            *held -= page.bytes.len();
            page.bytes = Box::default();
        }
        if !page.listed {
            page.listed = true;
            self.with_room.push(at as u32);
        }
    }
}

impl Page {
    #[allow(clippy::cast_possible_truncation, reason = "slots are counted in nine bits")]
    fn bear(&mut self, size: usize) {
        self.bytes = vec![0; SLOTS * size].into();
        for (slot, bytes) in self.bytes.chunks_exact_mut(size).enumerate() {
            bytes[..2].copy_from_slice(&(slot as u16 + 1).to_le_bytes());
        }
        self.free = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_what_a_list_of_strings_keeps(steps in prop::collection::vec((any::<bool>(), ".{0,32}", 0usize..4000), 1..1200)) {
            let mut names = Names::new();
            let mut kept: Vec<(Name, String)> = Vec::new();
            for (insert, text, which) in steps {
                if insert || kept.is_empty() {
                    if text.len() <= NAME_BYTES_MAX {
                        kept.push((names.insert(&text).unwrap(), text));
                    }
                } else {
                    let (name, _) = kept.swap_remove(which % kept.len());
                    names.remove(name);
                }
            }
            for (name, text) in &kept {
                prop_assert_eq!(names.get(*name), text);
            }
            for (name, _) in kept {
                names.remove(name);
            }
            prop_assert_eq!(names.bytes(), 0, "memory is given back");
        }
    }

    #[test]
    fn takes_little_more_than_the_bytes() {
        let mut names = Names::new();
        for index in 0..10_240 {
            names.insert(&format!("account-{index:016}")).unwrap();
        }
        assert_eq!(names.bytes(), 10_240 * 24);
        assert_eq!(names.insert(&"x".repeat(NAME_BYTES_MAX + 1)), None);
        let longest = "y".repeat(NAME_BYTES_MAX);
        let name = names.insert(&longest).unwrap();
        assert_eq!(names.get(name), longest);
    }
}
