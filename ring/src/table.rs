//! A slab with generations for what the ring holds while a request is in flight.
//!
//! Its keys are [`Token`]s, so that a key is what travels in `user_data`; a completion whose key
//! is stale finds nothing.

use crate::token::Token;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by token. Insert and remove are O(1); the memory never shrinks.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Table<T> {
        Table { entries: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Token {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return Token::new(index, entry.generation);
        }
        let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 requests are in flight");
        self.entries.push(Entry { generation: 0, value: Some(value) });
        Token::new(index, 0)
    }

    pub(crate) fn get_mut(&mut self, key: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index() as usize)?;
        if entry.generation == key.generation() { entry.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Token) -> Option<T> {
        let entry = self.entries.get_mut(key.index() as usize)?;
        if entry.generation != key.generation() {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & Token::GENERATION_MASK;
        self.free.push(key.index());
        Some(value)
    }

    /// Takes every value out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.free.clear();
        self.entries.drain(..).filter_map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.remove(second), Some("second"));
        assert_eq!(table.remove(second), None);
        assert_eq!(table.len(), 0);
    }
}
