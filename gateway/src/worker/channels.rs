//! The channels of one worker: slab, generations, and the index from an account to its sessions.
//!
//! A channel is a session: one account logged in on one connection. Its handle names slot and generation, so
//! that a push to a session that is gone never reaches whoever took its place. The index is chained through
//! the entries themselves: four bytes per channel plus a table of heads.

use moor_wire::identity::account_hash;
use moor_wire::session::{GENERATION_MASK, SessionHandle};

use super::chunked::Chunked;
use super::wheel::NIL;

/// Index of a channel in its worker's slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelIndex(pub u32);

/// App and account in one allocation.
#[derive(Debug, Default)]
pub struct Identity {
    /// App length, app, account.
    bytes: Box<[u8]>,
}

impl Identity {
    /// Packs checked names.
    #[must_use]
    pub fn new(app: &str, account: &str) -> Self {
        let length = u8::try_from(app.len()).expect("app names are checked against a limit below 256");
        let mut bytes = Vec::with_capacity(1 + app.len() + account.len());
        bytes.push(length);
        bytes.extend_from_slice(app.as_bytes());
        bytes.extend_from_slice(account.as_bytes());
        Self { bytes: bytes.into() }
    }

    fn parts(&self) -> (&str, &str) {
        let Some((&length, names)) = self.bytes.split_first() else { return ("", "") };
        let (app, account) = names.split_at(usize::from(length).min(names.len()));
        // Both came out of `&str`s at this very boundary.
        (std::str::from_utf8(app).unwrap_or_default(), std::str::from_utf8(account).unwrap_or_default())
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> &str {
        self.parts().0
    }

    /// The account.
    #[must_use]
    pub fn account(&self) -> &str {
        self.parts().1
    }
}

/// One open channel.
#[derive(Debug)]
pub struct Channel {
    generation: u32,
    /// Slot of the connection it belongs to; [`NIL`] when the entry is free.
    pub connection: u32,
    /// Next channel of the same connection.
    pub next_in_connection: u32,
    /// Next entry in the account's chain; next free entry when this one is free.
    next_in_chain: u32,
    /// Full hash of the account, so that growing the index reads no names.
    hash: u64,
    /// Highest sync id the device has without a gap; `u64::MAX`: it did not say.
    pub acked: u64,
    /// The channel's number on its connection.
    pub number: u16,
    /// Generation of the link it was registered on; 0: none.
    pub registered_on: u16,
    /// Who is logged in.
    pub identity: Identity,
}

/// `acked` of a device that did not say what it has.
pub const ACKED_UNKNOWN: u64 = u64::MAX;

impl Default for Channel {
    fn default() -> Self {
        Self {
            generation: 1,
            connection: NIL,
            next_in_connection: NIL,
            next_in_chain: NIL,
            hash: 0,
            acked: ACKED_UNKNOWN,
            number: 0,
            registered_on: 0,
            identity: Identity::default(),
        }
    }
}

/// All channels of a worker.
#[derive(Debug)]
pub struct Channels {
    worker: u32,
    entries: Chunked<Channel>,
    /// Entries ever used: where the next new one goes.
    used: u32,
    free: u32,
    open: u32,
    /// Heads of the account chains; a power of two of them.
    heads: Vec<u32>,
}

impl Channels {
    /// An empty slab of worker number `worker`.
    #[must_use]
    pub fn new(worker: u32) -> Self {
        Self { worker, entries: Chunked::new(), used: 0, free: NIL, open: 0, heads: vec![NIL; 64] }
    }

    /// Channels open.
    #[must_use]
    pub const fn open_count(&self) -> u32 {
        self.open
    }

    /// One past the highest index in use.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.used
    }

    /// Opens a channel for an account on a connection.
    pub fn insert(
        &mut self,
        connection: u32,
        number: u16,
        app: &str,
        account: &str,
        acked: u64,
    ) -> ChannelIndex {
        let index = if self.free == NIL {
            let index = self.used;
            self.entries.ensure(index);
            self.used += 1;
            index
        } else {
            let index = self.free;
            self.free = self.entries[index].next_in_chain;
            index
        };
        self.open += 1;
        if self.open as usize > self.heads.len() {
            self.grow_index();
        }
        let hash = account_hash(app, account);
        let bucket = self.bucket(hash);
        let next_in_chain = std::mem::replace(&mut self.heads[bucket], index);
        let entry = &mut self.entries[index];
        *entry = Channel {
            generation: entry.generation,
            connection,
            next_in_connection: NIL,
            next_in_chain,
            hash,
            acked,
            number,
            registered_on: 0,
            identity: Identity::new(app, account),
        };
        ChannelIndex(index)
    }

    /// Closes a channel and hands its last state out.
    pub fn remove(&mut self, index: ChannelIndex) -> Channel {
        let ChannelIndex(index) = index;
        let entry = &self.entries[index];
        debug_assert_ne!(entry.connection, NIL, "a channel is removed once");
        let (hash, next) = (entry.hash, entry.next_in_chain);
        let bucket = self.bucket(hash);
        if self.heads[bucket] == index {
            self.heads[bucket] = next;
        } else {
            let mut at = self.heads[bucket];
            while self.entries[at].next_in_chain != index {
                at = self.entries[at].next_in_chain;
            }
            self.entries[at].next_in_chain = next;
        }
        self.open -= 1;
        let entry = &mut self.entries[index];
        // Generation 0 is never handed out, so that no handle is all zeros.
        let generation = ((entry.generation + 1) & GENERATION_MASK).max(1);
        let vacant = Channel { generation, next_in_chain: self.free, ..Channel::default() };
        self.free = index;
        std::mem::replace(entry, vacant)
    }

    /// The channel at an index, if it is open.
    #[must_use]
    pub fn get(&self, index: ChannelIndex) -> Option<&Channel> {
        self.entries.get(index.0).filter(|entry| entry.connection != NIL)
    }

    /// The channel at an index, if it is open.
    #[must_use]
    pub fn get_mut(&mut self, index: ChannelIndex) -> Option<&mut Channel> {
        self.entries.get_mut(index.0).filter(|entry| entry.connection != NIL)
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

    /// The handle a removed channel had.
    #[must_use]
    pub const fn handle_of(&self, index: ChannelIndex, removed: &Channel) -> SessionHandle {
        SessionHandle::new(self.worker, index.0, removed.generation)
    }

    /// Sessions of an account on this worker.
    pub fn of_account<'a>(
        &'a self,
        app: &'a str,
        account: &'a str,
    ) -> impl Iterator<Item = ChannelIndex> + 'a {
        let hash = account_hash(app, account);
        let mut at = self.heads[self.bucket(hash)];
        std::iter::from_fn(move || {
            while at != NIL {
                let (index, entry) = (at, &self.entries[at]);
                at = entry.next_in_chain;
                if entry.hash == hash && entry.identity.parts() == (app, account) {
                    return Some(ChannelIndex(index));
                }
            }
            None
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "masked to the number of heads")]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn grow_index(&mut self) {
        self.heads = vec![NIL; self.heads.len() * 2];
        for index in 0..self.used {
            let entry = &self.entries[index];
            if entry.connection != NIL {
                let bucket = self.bucket(entry.hash);
                self.entries[index].next_in_chain = std::mem::replace(&mut self.heads[bucket], index);
            }
        }
    }
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
                    let index = channels.insert(9, 1, "shop", &account, 0);
                    model.push((channels.handle(index), account));
                } else {
                    let (handle, _) = model.swap_remove(which % model.len());
                    let (index, _) = channels.resolve(handle).unwrap();
                    channels.remove(index);
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
        let index = channels.insert(0, 1, "shop", "alice", 0);
        let handle = channels.handle(index);
        assert!(channels.resolve(handle).is_some());
        assert!(channels.resolve(SessionHandle::new(2, handle.index(), handle.generation())).is_none());
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Channel>() <= 56, "{}", size_of::<Channel>());
    }
}
