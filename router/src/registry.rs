//! The location registry: (app, account) → sessions, in memory, rebuilt from the gateways after a restart.
//!
//! An account is here only while it has a session. Bytes per session with a 24-byte account and a 16-byte
//! device, one session per account: account slot 56 + name 24 (mimalloc's class 32), session slot 56 + device
//! 16, index 4. `tests/registry_memory.rs` measures the sum.

use std::collections::HashMap;
use std::sync::Arc;

use moor_wire::session::SessionHandle;

use crate::delivery::Flight;
use crate::lease::LinkId;
use crate::limits::APPS_MAX;

/// Index of an account's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountIndex(pub u32);

/// Index of a session's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionIndex(pub u32);

/// An app's number in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppIndex(pub u16);

const NONE: u32 = u32::MAX;

/// An account with at least one session.
#[derive(Debug)]
pub struct Account {
    /// `moor_wire::identity::account_hash` of it.
    pub hash: u64,
    /// Its name.
    pub name: Box<str>,
    /// Newest stored sync id known here; 0: none.
    pub head: u64,
    /// Oldest stored sync id known here; 1 when nothing is stored.
    pub floor: u64,
    first_session: u32,
    /// The next account in the same bucket of the index.
    next_account: u32,
    /// Grows when the slot changes hands.
    pub generation: u32,
    /// Its app.
    pub app: AppIndex,
    /// How many sessions it has.
    pub sessions: u8,
    /// What is known about its messages.
    pub reading: Reading,
}

/// How an account stands with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Head and floor have not been read yet.
    Unloaded,
    /// Head and floor are known, nothing is asked for.
    Idle,
    /// A range of its messages has been asked for, or waits to be.
    Asked,
}

/// One session of an account.
#[derive(Debug)]
pub struct Session {
    /// Its handle at the gateway.
    pub handle: SessionHandle,
    /// The device's name.
    pub device: Box<str>,
    /// Highest sync id the device has acknowledged.
    pub acked: u64,
    /// What it was sent beyond that; `None` while the session is idle.
    pub flight: Option<Box<Flight>>,
    /// The link it was announced on.
    pub link: LinkId,
    /// Its account.
    pub account: AccountIndex,
    next: u32,
    marks: Marks,
}

/// A generation and three flags in four bytes: as fields they would cost eight more in every slot.
#[derive(Clone, Copy, Debug)]
struct Marks(u32);

impl Marks {
    const PLACED: u32 = 1;
    const RESTING: u32 = 1 << 1;
    const DIRTY: u32 = 1 << 2;
    const FLAG_BITS: u32 = 3;

    const fn new(generation: u32) -> Self {
        Self(generation << Self::FLAG_BITS)
    }

    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    const fn set(&mut self, flag: u32, value: bool) {
        self.0 = if value { self.0 | flag } else { self.0 & !flag };
    }
}

impl Session {
    /// Changes when the slot changes hands (29 bits of a counter of all insertions).
    pub fn generation(&self) -> u32 {
        self.marks.0 >> Marks::FLAG_BITS
    }

    /// True exactly when the cursor is known: given by the client or read from the store.
    pub fn is_placed(&self) -> bool {
        self.marks.has(Marks::PLACED)
    }

    /// True after the last retry, until the session speaks again.
    pub fn is_resting(&self) -> bool {
        self.marks.has(Marks::RESTING)
    }

    /// True exactly when `acked` is newer than what the store has.
    pub fn is_dirty(&self) -> bool {
        self.marks.has(Marks::DIRTY)
    }

    /// See [`Self::is_placed`].
    pub fn set_placed(&mut self, value: bool) {
        self.marks.set(Marks::PLACED, value);
    }

    /// See [`Self::is_resting`].
    pub fn set_resting(&mut self, value: bool) {
        self.marks.set(Marks::RESTING, value);
    }

    /// See [`Self::is_dirty`].
    pub fn set_dirty(&mut self, value: bool) {
        self.marks.set(Marks::DIRTY, value);
    }
}

const _: () = assert!(size_of::<Option<Account>>() <= 56);
const _: () = assert!(size_of::<Option<Session>>() <= 56);

/// Slots in chunks: growing never moves and never holds two copies.
#[derive(Debug)]
struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    length: u32,
}

/// The allocator's size class that is filled to the last slot.
const CHUNK_BYTES: usize = 64 * 1024;

impl<T> Slab<T> {
    const CHUNK_SLOTS: usize = CHUNK_BYTES / size_of::<Option<T>>();

    const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), length: 0 }
    }

    const fn place(index: u32) -> (usize, usize) {
        (index as usize / Self::CHUNK_SLOTS, index as usize % Self::CHUNK_SLOTS)
    }

    fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            let (chunk, slot) = Self::place(index);
            self.chunks[chunk][slot] = Some(value);
            return index;
        }
        let index = self.length;
        self.length = index.checked_add(1).filter(|next| *next < NONE).expect("four billion slots");
        let (chunk, _) = Self::place(index);
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(Self::CHUNK_SLOTS));
        }
        self.chunks[chunk].push(Some(value));
        index
    }

    fn get(&self, index: u32) -> Option<&T> {
        let (chunk, slot) = Self::place(index);
        self.chunks.get(chunk)?.get(slot)?.as_ref()
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, slot) = Self::place(index);
        self.chunks.get_mut(chunk)?.get_mut(slot)?.as_mut()
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let (chunk, slot) = Self::place(index);
        let value = self.chunks.get_mut(chunk)?.get_mut(slot)?.take()?;
        self.free.push(index);
        Some(value)
    }
}

/// A new session, as a gateway announces it.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// Its handle at the gateway.
    pub handle: SessionHandle,
    /// The link it was announced on.
    pub link: LinkId,
    /// The device's name.
    pub device: &'a str,
}

/// Accounts by hash: linear hashing, so that it grows and shrinks by one bucket at a time and never stops to
/// move everything. A bucket holds the first account of a chain that runs through the accounts' slots; there
/// are as many buckets as accounts, so chains hold one on average.
#[derive(Debug, Default)]
struct Index {
    buckets: Vec<Vec<u32>>,
    length: usize,
}

const BUCKET_CHUNK: usize = 16 * 1024;

impl Index {
    /// The bucket of a hash while there are `length` of them.
    fn bucket(&self, hash: u64) -> usize {
        // Shards use the remainder of the hash; a remix leaves nothing of that in the low bits.
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let mixed = usize::try_from(mixed).unwrap_or(usize::MAX);
        let wide = self.length.next_power_of_two();
        let place = mixed & (wide - 1);
        if place < self.length { place } else { place - wide / 2 }
    }

    fn first(&self, bucket: usize) -> u32 {
        self.buckets.get(bucket / BUCKET_CHUNK).map_or(NONE, |chunk| chunk[bucket % BUCKET_CHUNK])
    }

    fn set(&mut self, bucket: usize, account: u32) {
        self.buckets[bucket / BUCKET_CHUNK][bucket % BUCKET_CHUNK] = account;
    }

    /// Takes the whole chain of a bucket out.
    fn take_chain(&mut self, bucket: usize, accounts: &Slab<Account>) -> Vec<u32> {
        let mut chain = Vec::new();
        let mut at = self.first(bucket);
        while let Some(account) = accounts.get(at) {
            chain.push(at);
            at = account.next_account;
        }
        self.set(bucket, NONE);
        chain
    }

    fn put_chain(&mut self, chain: Vec<u32>, accounts: &mut Slab<Account>) {
        for index in chain {
            self.push(index, accounts);
        }
    }

    /// Puts an account at the front of its bucket.
    fn push(&mut self, index: u32, accounts: &mut Slab<Account>) {
        let Some(account) = accounts.get_mut(index) else { return };
        let bucket = self.bucket(account.hash);
        account.next_account = self.first(bucket);
        self.set(bucket, index);
    }

    /// Adds an account and a bucket; the new bucket takes its part of the one it splits from.
    fn insert(&mut self, index: u32, accounts: &mut Slab<Account>) {
        if self.length.is_multiple_of(BUCKET_CHUNK) {
            self.buckets.push(Vec::with_capacity(BUCKET_CHUNK));
        }
        if let Some(chunk) = self.buckets.last_mut() {
            chunk.push(NONE);
        }
        let split = self.length.checked_ilog2().map(|power| self.length - (1 << power));
        self.length += 1;
        if let Some(split) = split {
            let chain = self.take_chain(split, accounts);
            self.put_chain(chain, accounts);
        }
        self.push(index, accounts);
    }

    /// Removes an account and the last bucket, whose chain goes back to the one it was split from.
    fn remove(&mut self, index: u32, hash: u64, next: u32, accounts: &mut Slab<Account>) {
        let bucket = self.bucket(hash);
        let mut at = self.first(bucket);
        if at == index {
            self.set(bucket, next);
        } else {
            while let Some(before) = accounts.get_mut(at) {
                if before.next_account == index {
                    before.next_account = next;
                    break;
                }
                at = before.next_account;
            }
        }
        let chain = self.take_chain(self.length - 1, accounts);
        self.length -= 1;
        if let Some(chunk) = self.buckets.last_mut() {
            chunk.pop();
            if chunk.is_empty() {
                self.buckets.pop();
            }
        }
        self.put_chain(chain, accounts);
    }
}

/// Accounts and sessions of one shard.
#[derive(Debug)]
pub struct Registry {
    index: Index,
    accounts: Slab<Account>,
    sessions: Slab<Session>,
    apps: HashMap<Arc<str>, AppIndex>,
    app_names: Vec<Arc<str>>,
    generation: u32,
    session_count: usize,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            index: Index::default(),
            accounts: Slab::new(),
            sessions: Slab::new(),
            apps: HashMap::new(),
            app_names: Vec::new(),
            generation: 0,
            session_count: 0,
        }
    }
}

impl Registry {
    /// Accounts here.
    pub fn account_count(&self) -> usize {
        self.index.length
    }

    /// Sessions here.
    pub fn session_count(&self) -> usize {
        self.session_count
    }

    /// The number of an app seen before.
    pub fn app(&self, name: &str) -> Option<AppIndex> {
        self.apps.get(name).copied()
    }

    /// The number of an app; `None` when there are too many.
    pub fn intern_app(&mut self, name: &str) -> Option<AppIndex> {
        if let Some(index) = self.app(name) {
            return Some(index);
        }
        if self.app_names.len() >= APPS_MAX {
            return None;
        }
        let index = AppIndex(u16::try_from(self.app_names.len()).ok()?);
        let name: Arc<str> = name.into();
        self.app_names.push(name.clone());
        self.apps.insert(name, index);
        Some(index)
    }

    /// An app's name.
    pub fn app_name(&self, app: AppIndex) -> Arc<str> {
        self.app_names[app.0 as usize].clone()
    }

    /// Finds an account.
    pub fn find(&self, app: &str, account: &str, hash: u64) -> Option<AccountIndex> {
        let app = self.app(app)?;
        self.find_in(app, account, hash)
    }

    fn find_in(&self, app: AppIndex, account: &str, hash: u64) -> Option<AccountIndex> {
        self.find_hash(hash).find(|index| {
            self.account(*index).is_some_and(|known| known.app == app && &*known.name == account)
        })
    }

    /// Accounts with a hash: one, or by a rare chance several.
    pub fn find_hash(&self, hash: u64) -> impl Iterator<Item = AccountIndex> + '_ {
        let mut next = if self.index.length == 0 { NONE } else { self.index.first(self.index.bucket(hash)) };
        std::iter::from_fn(move || {
            loop {
                let index = next;
                let account = self.accounts.get(index)?;
                next = account.next_account;
                if account.hash == hash {
                    return Some(AccountIndex(index));
                }
            }
        })
    }

    /// Finds or makes an account. The caller adds a session at once: an account without one must not stay.
    pub fn find_or_insert(&mut self, app: AppIndex, account: &str, hash: u64) -> AccountIndex {
        if let Some(index) = self.find_in(app, account, hash) {
            return index;
        }
        self.generation = self.generation.wrapping_add(1);
        let index = self.accounts.insert(Account {
            hash,
            name: account.into(),
            head: 0,
            floor: 1,
            first_session: NONE,
            next_account: NONE,
            generation: self.generation,
            app,
            sessions: 0,
            reading: Reading::Unloaded,
        });
        self.index.insert(index, &mut self.accounts);
        AccountIndex(index)
    }

    /// An account by its slot.
    pub fn account(&self, index: AccountIndex) -> Option<&Account> {
        self.accounts.get(index.0)
    }

    /// An account by its slot.
    pub fn account_mut(&mut self, index: AccountIndex) -> Option<&mut Account> {
        self.accounts.get_mut(index.0)
    }

    /// A session by its slot.
    pub fn session(&self, index: SessionIndex) -> Option<&Session> {
        self.sessions.get(index.0)
    }

    /// A session by its slot.
    pub fn session_mut(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.sessions.get_mut(index.0)
    }

    /// A session and its account, both to be changed.
    pub fn pair_mut(&mut self, index: SessionIndex) -> Option<(&mut Session, &mut Account)> {
        let session = self.sessions.get_mut(index.0)?;
        let account = self.accounts.get_mut(session.account.0)?;
        Some((session, account))
    }

    /// Sessions of an account, newest first.
    pub fn sessions_of(&self, account: AccountIndex) -> impl Iterator<Item = SessionIndex> + '_ {
        let mut next = self.accounts.get(account.0).map_or(NONE, |account| account.first_session);
        std::iter::from_fn(move || {
            let index = next;
            next = self.sessions.get(index)?.next;
            Some(SessionIndex(index))
        })
    }

    /// Adds a session to an account.
    pub fn add_session(&mut self, account: AccountIndex, new: &NewSession<'_>) -> SessionIndex {
        self.generation = self.generation.wrapping_add(1);
        let owner = self.accounts.get_mut(account.0).expect("the caller has just found the account");
        let index = self.sessions.insert(Session {
            handle: new.handle,
            device: new.device.into(),
            acked: 0,
            flight: None,
            link: new.link,
            account,
            next: owner.first_session,
            marks: Marks::new(self.generation),
        });
        owner.first_session = index;
        owner.sessions += 1;
        self.session_count += 1;
        SessionIndex(index)
    }

    /// Takes a session out, and its account with the last one.
    pub fn remove_session(&mut self, index: SessionIndex) -> Option<Session> {
        let session = self.sessions.remove(index.0)?;
        self.session_count -= 1;
        let owner = self.accounts.get_mut(session.account.0)?;
        owner.sessions -= 1;
        if owner.first_session == index.0 {
            owner.first_session = session.next;
        } else {
            let mut at = owner.first_session;
            while let Some(before) = self.sessions.get_mut(at) {
                if before.next == index.0 {
                    before.next = session.next;
                    break;
                }
                at = before.next;
            }
        }
        if owner.sessions == 0 {
            self.remove_account(session.account);
        }
        Some(session)
    }

    fn remove_account(&mut self, index: AccountIndex) {
        let Some(account) = self.accounts.remove(index.0) else { return };
        self.index.remove(index.0, account.hash, account.next_account, &mut self.accounts);
    }

    /// Slots of sessions ever used: the range a sweep walks.
    pub fn session_slots(&self) -> u32 {
        self.sessions.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_wire::identity::account_hash;
    use proptest::prelude::*;

    fn add(registry: &mut Registry, account: &str, device: &str, handle: u64) -> SessionIndex {
        let app = registry.intern_app("shop").unwrap();
        let hash = account_hash("shop", account);
        let index = registry.find_or_insert(app, account, hash);
        registry.add_session(index, &NewSession { handle: SessionHandle(handle), link: LinkId(1), device })
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(operations in prop::collection::vec((prop::bool::weighted(0.6), 0u8..60, 0u8..4), 0..400)) {
            let mut registry = Registry::default();
            let mut model: HashMap<(u8, u8), SessionIndex> = HashMap::new();
            for (insert, account, device) in operations {
                if insert {
                    model.entry((account, device)).or_insert_with(|| {
                        add(&mut registry, &format!("a{account}"), &format!("d{device}"), u64::from(account) << 8 | u64::from(device))
                    });
                } else if let Some(index) = model.remove(&(account, device)) {
                    let gone = registry.remove_session(index).unwrap();
                    prop_assert_eq!(&*gone.device, &format!("d{device}"));
                }
                prop_assert_eq!(registry.session_count(), model.len());
            }
            for account in 0..60u8 {
                let name = format!("a{account}");
                let mut expected: Vec<u64> = model.keys().filter(|key| key.0 == account).map(|key| u64::from(key.0) << 8 | u64::from(key.1)).collect();
                expected.sort_unstable();
                let found = registry.find("shop", &name, account_hash("shop", &name));
                let mut handles: Vec<u64> = found.into_iter().flat_map(|index| registry.sessions_of(index).collect::<Vec<_>>()).map(|index| registry.session(index).unwrap().handle.0).collect();
                handles.sort_unstable();
                prop_assert_eq!(found.is_some(), !expected.is_empty());
                prop_assert_eq!(handles, expected);
            }
        }
    }

    #[test]
    fn one_name_in_two_apps_is_two_accounts() {
        let mut registry = Registry::default();
        add(&mut registry, "alice", "phone", 1);
        assert!(registry.find("bank", "alice", account_hash("bank", "alice")).is_none());
        assert_eq!(registry.find_hash(account_hash("shop", "alice")).count(), 1);
    }
}
