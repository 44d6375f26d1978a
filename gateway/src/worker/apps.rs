//! The apps of a worker's channels: a number each while any channel is open.

use std::collections::HashMap;
use std::sync::Arc;

/// An app's number; it may stand for another app once the last channel has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AppIndex(u16);

#[derive(Debug)]
struct App {
    name: Arc<str>,
    channels: u32,
}

/// Apps with an open channel.
#[derive(Debug, Default)]
pub struct Apps {
    entries: Vec<App>,
    free: Vec<AppIndex>,
    numbers: HashMap<Arc<str>, AppIndex>,
}

impl Apps {
    /// Counts one more channel of an app; `None` when there are 65,536 apps.
    pub fn join(&mut self, name: &str) -> Option<AppIndex> {
        let index = match self.find(name) {
            Some(index) => index,
            None => self.insert(name.into())?,
        };
        self.entries[usize::from(index.0)].channels += 1;
        Some(index)
    }

    fn insert(&mut self, name: Arc<str>) -> Option<AppIndex> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => AppIndex(u16::try_from(self.entries.len()).ok()?),
        };
        let app = App { name: name.clone(), channels: 0 };
        match self.entries.get_mut(usize::from(index.0)) {
            Some(entry) => *entry = app,
            None => self.entries.push(app),
        }
        self.numbers.insert(name, index);
        Some(index)
    }

    /// Counts one channel less.
    pub fn leave(&mut self, index: AppIndex) {
        let app = &mut self.entries[usize::from(index.0)];
        app.channels -= 1;
        if app.channels == 0 {
            self.numbers.remove(&app.name);
            self.free.push(index);
        }
    }

    /// The number of an app with an open channel.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<AppIndex> {
        self.numbers.get(name).copied()
    }

    /// An app's name.
    #[must_use]
    pub fn name(&self, index: AppIndex) -> &str {
        &self.entries[usize::from(index.0)].name
    }

    /// Open channels of an app.
    #[must_use]
    pub fn channels(&self, index: AppIndex) -> u32 {
        self.entries[usize::from(index.0)].channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lives_as_long_as_its_channels() {
        let mut apps = Apps::default();
        let shop = apps.join("shop").unwrap();
        assert_eq!(apps.join("shop"), Some(shop));
        let bank = apps.join("bank").unwrap();
        assert_ne!(shop, bank);
        assert_eq!((apps.name(bank), apps.channels(shop)), ("bank", 2));
        apps.leave(shop);
        assert_eq!(apps.find("shop"), Some(shop));
        apps.leave(shop);
        assert_eq!(apps.find("shop"), None);
        assert_eq!(apps.join("chat"), Some(shop), "numbers are used again");
        assert_eq!((apps.name(shop), apps.name(bank)), ("chat", "bank"));
    }
}
