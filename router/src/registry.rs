//! The location registry: (app, account) → sessions, in memory, rebuilt from the gateways after a restart.
//!
//! An account is here only while it has a session. Bytes per session with a 24-byte account and a 16-byte
//! device, one session per account: account slot 56 + name 24 (mimalloc's class 32), session slot 72 + device 16, index 5 bytes
//! per bucket at a load of 0.44 to 0.875: 6 to 11. `tests/registry_memory.rs` measures the sum.

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashTable;
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
pub struct AppIndex(pub u32);

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
    /// Its app.
    pub app: AppIndex,
    first_session: u32,
    /// Grows when the slot changes hands.
    pub generation: u32,
    /// How many sessions it has.
    pub sessions: u16,
    /// True exactly when head and floor have been read from the store.
    pub is_loaded: bool,
    /// True exactly when a range of its messages has been asked for, or waits to be.
    pub is_reading: bool,
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
    /// Highest sync id handed to the gateway.
    pub sent: u64,
    /// What is between the two; `None` while the session is idle.
    pub flight: Option<Box<Flight>>,
    /// The link it was announced on.
    pub link: LinkId,
    /// Its account.
    pub account: AccountIndex,
    next: u32,
    /// Grows when the slot changes hands.
    pub generation: u32,
    /// True exactly when the cursor is known: given by the client or read from the store.
    pub is_placed: bool,
    /// True after the last retry, until the session speaks again.
    pub is_resting: bool,
    /// True exactly when `acked` is newer than what the store has.
    pub is_dirty: bool,
}

const _: () = assert!(size_of::<Option<Account>>() <= 56);
const _: () = assert!(size_of::<Option<Session>>() <= 72);

/// Slots in chunks: growing never moves and never holds two copies.
#[derive(Debug)]
struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    length: u32,
}

const CHUNK_SLOTS: usize = 1024;

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), length: 0 }
    }

    const fn place(index: u32) -> (usize, usize) {
        (index as usize / CHUNK_SLOTS, index as usize % CHUNK_SLOTS)
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
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
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

/// Accounts and sessions of one shard.
#[derive(Debug)]
pub struct Registry {
    /// 256 small tables by the hash's top byte, so that growing one moves 1/256 of the accounts.
    tables: Vec<HashTable<u32>>,
    accounts: Slab<Account>,
    sessions: Slab<Session>,
    apps: HashMap<Arc<str>, AppIndex>,
    app_names: Vec<Arc<str>>,
    generation: u32,
    account_count: usize,
    session_count: usize,
}

const TABLES: usize = 256;

fn table_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The tables and the shards use the hash's outer bits, so buckets use a remix of it.
fn bucket_hash(hash: u64) -> u64 {
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            tables: std::iter::repeat_with(HashTable::new).take(TABLES).collect(),
            accounts: Slab::new(),
            sessions: Slab::new(),
            apps: HashMap::new(),
            app_names: Vec::new(),
            generation: 0,
            account_count: 0,
            session_count: 0,
        }
    }
}

impl Registry {
    /// Accounts here.
    pub fn account_count(&self) -> usize {
        self.account_count
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
        let index = AppIndex(u32::try_from(self.app_names.len()).ok()?);
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
        let accounts = &self.accounts;
        self.tables[table_of(hash)]
            .find(bucket_hash(hash), |index| {
                accounts
                    .get(*index)
                    .is_some_and(|known| known.hash == hash && known.app == app && &*known.name == account)
            })
            .map(|index| AccountIndex(*index))
    }

    /// Accounts with a hash: one, or by a rare chance several.
    pub fn find_hash(&self, hash: u64) -> impl Iterator<Item = AccountIndex> + '_ {
        self.tables[table_of(hash)]
            .iter_hash(bucket_hash(hash))
            .copied()
            .filter(move |index| self.accounts.get(*index).is_some_and(|known| known.hash == hash))
            .map(AccountIndex)
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
            app,
            first_session: NONE,
            generation: self.generation,
            sessions: 0,
            is_loaded: false,
            is_reading: false,
        });
        let accounts = &self.accounts;
        self.tables[table_of(hash)].insert_unique(bucket_hash(hash), index, |other| {
            bucket_hash(accounts.get(*other).map_or(0, |account| account.hash))
        });
        self.account_count += 1;
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
            sent: 0,
            flight: None,
            link: new.link,
            account,
            next: owner.first_session,
            generation: self.generation,
            is_placed: false,
            is_resting: false,
            is_dirty: false,
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
        self.account_count -= 1;
        let table = &mut self.tables[table_of(account.hash)];
        if let Ok(entry) = table.find_entry(bucket_hash(account.hash), |other| *other == index.0) {
            entry.remove();
        }
        if table.len() * 8 < table.capacity() && table.capacity() > 64 {
            let accounts = &self.accounts;
            table.shrink_to(table.len() * 2, |other| {
                bucket_hash(accounts.get(*other).map_or(0, |account| account.hash))
            });
        }
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
        fn agrees_with_a_plain_map(operations in prop::collection::vec((any::<bool>(), 0u8..12, 0u8..4), 0..200)) {
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
            for account in 0..12u8 {
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
