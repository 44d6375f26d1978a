//! The channels of one worker: slab, generations, and the index from an account to its sessions.
//!
//! A channel is a session: one account logged in on one connection. Its handle names slot and generation, so
//! that a push to a session that is gone never reaches whoever took its place. The index is chained through
//! the entries themselves: four bytes per channel and two of its buckets.

use moor_wire::identity::account_hash;
use moor_wire::session::{GENERATION_MASK, SessionHandle};

use super::apps::{AppIndex, Apps};
use super::buckets::Buckets;
use super::chunked::{Chunked, Entry};
use super::names::{Name, Names};
use super::wheel::NIL;

/// Index of a channel in its worker's slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelIndex(pub u32);

/// One open channel.
#[derive(Debug)]
pub struct Channel {
    generation: u32,
    /// Slot of the connection it belongs to; [`NIL`] when the entry is free.
    pub connection: u32,
    /// Next channel of the same connection.
    pub next_in_connection: u32,
    /// Next entry in the account's chain.
    next_in_chain: u32,
    account: Name,
    /// Highest sync id the device has without a gap, in two halves for the sake of the alignment; all ones: it did
    /// not say.
    acked: [u32; 2],
    app: AppIndex,
    /// Part of the account's hash: most of a chain is passed over without a look at the names.
    tag: u16,
    /// The channel's number on its connection.
    pub number: u16,
    /// Generation of the link it was registered on; 0: none.
    pub registered_on: u16,
}

const _: () = assert!(size_of::<Channel>() <= 36);

impl Entry for Channel {
    // Generation 0 is never handed out, so that no handle is all zeros.
    const FIRST_GENERATION: u32 = 1;
    const GENERATION_MASK: u32 = GENERATION_MASK;

    fn vacant(generation: u32) -> Self {
        Self {
            generation,
            connection: NIL,
            next_in_connection: NIL,
            next_in_chain: NIL,
            account: Name::EMPTY,
            acked: [u32::MAX; 2],
            app: AppIndex::default(),
            tag: 0,
            number: 0,
            registered_on: 0,
        }
    }

    fn is_vacant(&self) -> bool {
        self.connection == NIL
    }

    fn generation(&self) -> u32 {
        self.generation
    }
}

impl Channel {
    /// Highest sync id the device has without a gap; `None`: it did not say.
    #[must_use]
    pub const fn acked(&self) -> Option<u64> {
        match self.acked {
            [u32::MAX, u32::MAX] => None,
            [high, low] => Some((high as u64) << 32 | low as u64),
        }
    }

    /// Sets it.
    #[allow(clippy::cast_possible_truncation, reason = "taken apart")]
    pub fn set_acked(&mut self, acked: Option<u64>) {
        let all = acked.unwrap_or(u64::MAX);
        self.acked = [(all >> 32) as u32, all as u32];
    }
}

/// All channels of a worker.
#[derive(Debug)]
pub struct Channels {
    worker: u32,
    entries: Chunked<Channel>,
    open: u32,
    apps: Apps,
    accounts: Names,
    index: Buckets,
}

impl Channels {
    /// An empty slab of worker number `worker`.
    #[must_use]
    pub fn new(worker: u32) -> Self {
        Self {
            worker,
            entries: Chunked::new(),
            open: 0,
            apps: Apps::default(),
            accounts: Names::new(),
            index: Buckets::new(),
        }
    }

    /// Channels open.
    #[must_use]
    pub const fn open_count(&self) -> u32 {
        self.open
    }

    /// Bytes of the accounts' names.
    #[must_use]
    pub const fn name_bytes(&self) -> usize {
        self.accounts.bytes()
    }

    /// One past the highest index that may be open.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.entries.end()
    }

    /// Opens a channel for an account on a connection, before the `siblings` it has (the first of them, or
    /// [`NIL`]); `None` when there is no room for another app or name.
    pub fn insert(
        &mut self,
        (connection, siblings): (u32, u32),
        number: u16,
        app: &str,
        account: &str,
        acked: Option<u64>,
    ) -> Option<ChannelIndex> {
        let app_index = self.apps.join(app)?;
        // One person in several apps: the name is kept once.
        let known = self.siblings(siblings).map(|entry| entry.account);
        let known = known.into_iter().find(|name| self.accounts.get(*name) == account);
        let Some(name) = known.or_else(|| self.accounts.insert(account)) else {
            self.apps.leave(app_index);
            return None;
        };
        self.open += 1;
        if let Some(split) = self.index.grow(self.open as usize) {
            let chain = self.index.first(split);
            self.index.set(split, NIL);
            self.place_chain(chain);
        }
        let hash = account_hash(app, account);
        let index = self.entries.vacancy();
        let entry = self.entries.occupy(index);
        *entry = Channel {
            connection,
            next_in_connection: siblings,
            account: name,
            app: app_index,
            tag: tag(hash),
            number,
            ..Channel::vacant(entry.generation)
        };
        entry.set_acked(acked);
        self.place(index, hash);
        Some(ChannelIndex(index))
    }

    /// Closes a channel and tells which handle it had. `siblings` is the first of those that stay, or [`NIL`].
    pub fn remove(&mut self, index: ChannelIndex, siblings: u32) -> SessionHandle {
        let handle = self.handle(index);
        let (app, account) = self.identity(index);
        let bucket = self.index.of(account_hash(app, account));
        let ChannelIndex(index) = index;
        debug_assert_ne!(self.entries[index].connection, NIL, "a channel is removed once");
        let next = self.entries[index].next_in_chain;
        let mut at = self.index.first(bucket);
        if at == index {
            self.index.set(bucket, next);
        } else {
            while self.entries[at].next_in_chain != index {
                at = self.entries[at].next_in_chain;
            }
            self.entries[at].next_in_chain = next;
        }
        self.open -= 1;
        let account = self.entries[index].account;
        if self.siblings(siblings).all(|sibling| sibling.account != account) {
            self.accounts.remove(account);
        }
        let entry = &self.entries[index];
        self.apps.leave(entry.app);
        let generation = ((entry.generation + 1) & GENERATION_MASK).max(Channel::FIRST_GENERATION);
        self.entries.vacate(index, generation);
        if let Some(chain) = self.index.shrink(self.open as usize) {
            self.place_chain(chain);
        }
        handle
    }

    /// A connection's channels, from the first.
    pub fn siblings(&self, first: u32) -> impl Iterator<Item = &Channel> {
        let mut at = first;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at)?;
            at = entry.next_in_connection;
            Some(entry)
        })
    }

    /// The channel at an index, if it is open.
    #[must_use]
    pub fn get(&self, index: ChannelIndex) -> Option<&Channel> {
        self.entries.get(index.0).filter(|entry| !entry.is_vacant())
    }

    /// The channel at an index, if it is open.
    #[must_use]
    pub fn get_mut(&mut self, index: ChannelIndex) -> Option<&mut Channel> {
        self.entries.get_mut(index.0).filter(|entry| !entry.is_vacant())
    }

    /// The channel a handle names, if it is still that one.
    #[must_use]
    pub fn resolve(&self, handle: SessionHandle) -> Option<(ChannelIndex, &Channel)> {
        if handle.worker() != self.worker {
            return None;
        }
        let index = ChannelIndex(handle.index());
        self.get(index).filter(|entry| entry.generation == handle.generation()).map(|entry| (index, entry))
    }

    /// The handle of an open channel.
    #[must_use]
    pub fn handle(&self, index: ChannelIndex) -> SessionHandle {
        SessionHandle::new(self.worker, index.0, self.entries[index.0].generation)
    }

    /// App and account of an open channel.
    #[must_use]
    pub fn identity(&self, index: ChannelIndex) -> (&str, &str) {
        let entry = &self.entries[index.0];
        (self.apps.name(entry.app), self.accounts.get(entry.account))
    }

    /// Sessions of an account on this worker.
    pub fn of_account<'a>(
        &'a self,
        app: &'a str,
        account: &'a str,
    ) -> impl Iterator<Item = ChannelIndex> + 'a {
        let hash = account_hash(app, account);
        let mut at = self.index.first(self.index.of(hash));
        std::iter::from_fn(move || {
            while at != NIL {
                let (index, entry) = (ChannelIndex(at), &self.entries[at]);
                at = entry.next_in_chain;
                if entry.tag == tag(hash) && self.identity(index) == (app, account) {
                    return Some(index);
                }
            }
            None
        })
    }

    /// An app with an open channel.
    #[must_use]
    pub fn app(&self, name: &str) -> Option<AppIndex> {
        self.apps.find(name)
    }

    /// How many channels of an app are open.
    #[must_use]
    pub fn count_of_app(&self, name: &str) -> u32 {
        self.app(name).map_or(0, |app| self.apps.channels(app))
    }

    /// The first open channel of an app at or after an index.
    #[must_use]
    pub fn next_of_app(&self, app: AppIndex, from: u32, until: u32) -> Option<(ChannelIndex, &Channel)> {
        let mut from = from;
        while let Some((index, entry)) = self.entries.next_taken(from).filter(|(index, _)| *index < until) {
            if entry.app == app {
                return Some((ChannelIndex(index), entry));
            }
            from = index + 1;
        }
        None
    }

    /// Puts an entry at the front of its chain.
    fn place(&mut self, index: u32, hash: u64) {
        let bucket = self.index.of(hash);
        self.entries[index].next_in_chain = self.index.first(bucket);
        self.index.set(bucket, index);
    }

    /// Puts the entries of a chain where they belong now.
    fn place_chain(&mut self, mut at: u32) {
        while at != NIL {
            let next = self.entries[at].next_in_chain;
            let (app, account) = self.identity(ChannelIndex(at));
            let hash = account_hash(app, account);
            self.place(at, hash);
            at = next;
        }
    }
}

/// Bits of a hash that its bucket does not depend on.
#[allow(clippy::cast_possible_truncation, reason = "bits of a hash")]
const fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_list_of_sessions(steps in prop::collection::vec((any::<bool>(), 0usize..40, 0u8..6), 1..400)) {
            let mut channels = Channels::new(3);
            let mut model: Vec<(SessionHandle, String)> = Vec::new();
            let mut dead = Vec::new();
            for (open, which, account) in steps {
                if open || model.is_empty() {
                    let account = format!("account-{account}");
                    let index = channels.insert((9, NIL), 1, "shop", &account, None).unwrap();
                    model.push((channels.handle(index), account));
                } else {
                    let (handle, _) = model.swap_remove(which % model.len());
                    let (index, _) = channels.resolve(handle).unwrap();
                    channels.remove(index, NIL);
                    dead.push(handle);
                }
                prop_assert_eq!(channels.open_count() as usize, model.len());
                prop_assert!(dead.iter().all(|handle| channels.resolve(*handle).is_none()));
                for account in 0..6 {
                    let name = format!("account-{account}");
                    let mut found: Vec<_> = channels.of_account("shop", &name).map(|i| channels.handle(i)).collect();
                    let mut wanted: Vec<_> = model.iter().filter(|(_, a)| *a == name).map(|(h, _)| *h).collect();
                    found.sort_unstable();
                    wanted.sort_unstable();
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }

    #[test]
    fn a_handle_of_another_worker_is_not_here() {
        let mut channels = Channels::new(1);
        let index = channels.insert((0, NIL), 1, "shop", "alice", None).unwrap();
        let handle = channels.handle(index);
        assert!(channels.resolve(handle).is_some());
        assert!(channels.resolve(SessionHandle::new(2, handle.index(), handle.generation())).is_none());
    }

    #[test]
    fn the_index_grows_and_shrinks_and_finds_everybody() {
        let mut channels = Channels::new(0);
        let account = |number: u32| format!("account-{number}");
        let apps = ["shop", "bank", "chat"];
        let app = |number: u32| apps[number as usize % 3];
        for number in 0..5000 {
            channels
                .insert((number, NIL), 1, app(number), &account(number), Some(u64::from(number)))
                .unwrap();
        }
        for number in (0..5000).filter(|number| number % 50 != 0) {
            let name = account(number);
            let found: Vec<_> = channels.of_account(app(number), &name).collect();
            assert_eq!(found.len(), 1, "{number}");
            assert_eq!(channels.get(found[0]).unwrap().acked(), Some(u64::from(number)));
            channels.remove(found[0], NIL);
        }
        for number in 0..5000 {
            let found = channels.of_account(app(number), &account(number)).count();
            assert_eq!(found, usize::from(number % 50 == 0), "{number}");
        }
        assert_eq!(channels.count_of_app("shop"), 34);
        let shop = channels.app("shop").unwrap();
        let seen = |until| {
            let next = |from| channels.next_of_app(shop, from, until).map(|(index, _)| index.0);
            std::iter::successors(next(0), |index| next(index + 1)).count()
        };
        assert_eq!((seen(channels.end()), seen(0)), (34, 0));
        let second = channels.next_of_app(shop, 1, u32::MAX).unwrap().0.0;
        assert_eq!((seen(second), seen(second + 1)), (1, 2));
    }

    #[test]
    fn one_person_in_several_apps_is_named_once() {
        let mut channels = Channels::new(0);
        let shop = channels.insert((4, NIL), 1, "shop", "alice", None).unwrap();
        let page = channels.name_bytes();
        let bank = channels.insert((4, shop.0), 2, "bank", "alice", None).unwrap();
        let names: Vec<_> = [shop, bank].iter().map(|index| channels.get(*index).unwrap().account).collect();
        assert_eq!((names[0], channels.name_bytes()), (names[1], page));
        // Somebody else's connection has its own.
        let other = channels.insert((5, NIL), 1, "shop", "alice", None).unwrap();
        assert_ne!(channels.get(other).unwrap().account, names[0]);
        channels.remove(shop, bank.0);
        assert_eq!(channels.identity(bank), ("bank", "alice"));
        channels.remove(bank, NIL);
        channels.remove(other, NIL);
        assert_eq!(channels.name_bytes(), 0);
    }

    #[test]
    fn a_device_that_has_nothing_is_not_one_that_did_not_say() {
        let mut channel = Channel::vacant(1);
        assert_eq!(channel.acked(), None);
        for id in [0, 1, u64::from(u32::MAX), u64::MAX - 1] {
            channel.set_acked(Some(id));
            assert_eq!(channel.acked(), Some(id));
        }
    }
}
