//! Links, their leases and the incarnations of gateways.
//!
//! Owns the truth about which link may be believed: live, lingering (its connection is gone, its lease is
//! not) or void. Entries of the registry name their link by id and ask here, through the link's own atomic
//! state, each time they are touched; so a dead gateway's sessions are void at once, however many they are.
//! The lock is taken when links come and go, never on the path of a message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moor_wire::internal::Role;

use crate::limits::SYNC_MS_MAX;

/// Name of a link within this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// Index of a shard, and of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardIndex(pub u16);

const LIVE: u8 = 0;
const LINGERING: u8 = 1;
const VOID: u8 = 2;

/// One link: who is at its other end, and whether it may be believed.
#[derive(Debug)]
pub struct Link {
    /// Its name here.
    pub id: LinkId,
    /// The thread that owns its socket.
    pub owner: ShardIndex,
    /// Gateway or service.
    pub role: Role,
    /// The peer's name.
    pub node: Arc<str>,
    /// The peer's incarnation.
    pub epoch: u64,
    /// The gateway's worker.
    pub worker: u32,
    /// Where services reach the gateway.
    pub internal_address: Box<str>,
    /// The gateway takes one push for many sessions.
    pub takes_push_many: bool,
    state: AtomicU8,
    seen_ms: AtomicU64,
    /// Set by whoever voids the link; its owner closes the socket on its next turn.
    close_wanted: AtomicBool,
}

impl Link {
    /// True exactly when pushes may go out on it.
    pub fn is_live(&self) -> bool {
        self.state.load(Ordering::Acquire) == LIVE
    }

    /// True exactly when nothing registered under it holds any more.
    pub fn is_void(&self) -> bool {
        self.state.load(Ordering::Acquire) == VOID
    }

    /// True when the owner shall close the socket.
    pub fn is_close_wanted(&self) -> bool {
        self.close_wanted.load(Ordering::Acquire)
    }

    /// True when both speak for the same incarnation of the same gateway.
    pub fn is_same_incarnation(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.node == other.node
    }

    /// Something was heard: the lease starts anew.
    pub fn touch(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    fn void(&self) {
        self.state.store(VOID, Ordering::Release);
        self.close_wanted.store(true, Ordering::Release);
    }
}

/// Who asks for a link.
#[derive(Debug)]
pub struct Peer {
    /// Gateway or service.
    pub role: Role,
    /// Its name.
    pub node: String,
    /// Its incarnation.
    pub epoch: u64,
    /// Gateways: the worker.
    pub worker: u32,
    /// Gateways: where services reach it.
    pub internal_address: String,
    /// Gateways: PUSH_MANY is understood.
    pub takes_push_many: bool,
}

/// A newer incarnation of the same gateway holds links.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a newer incarnation of this gateway (epoch {newest}) is connected")]
pub struct StaleEpoch {
    /// Its epoch.
    pub newest: u64,
}

#[derive(Debug, Default)]
struct Inner {
    links: HashMap<LinkId, Arc<Link>>,
    /// Newest epoch of each gateway that has links.
    epochs: HashMap<Arc<str>, u64>,
    next: u32,
}

impl Inner {
    /// Whether the worker of a link that is not live is back on another.
    fn has_successor(&self, link: &Link) -> bool {
        let is_one = |other: &Arc<Link>| {
            other.is_live() && other.worker == link.worker && other.is_same_incarnation(link)
        };
        !link.is_live() && self.links.values().any(is_one)
    }
}

/// All links of the process.
#[derive(Debug)]
pub struct LeaseTable {
    inner: Mutex<Inner>,
    lease_ms: u64,
}

impl LeaseTable {
    /// A table that gives leases of `lease_ms`.
    pub fn new(lease_ms: u32) -> Self {
        Self { inner: Mutex::default(), lease_ms: u64::from(lease_ms) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a link. A gateway with a newer epoch voids every link of its older ones at once; one with the
    /// same epoch and worker takes its predecessor's place, whose entries live on until SYNCED or the lease
    /// ends. Returns the link and how many were superseded.
    pub fn admit(&self, peer: Peer, owner: ShardIndex, now_ms: u64) -> Result<(Arc<Link>, u64), StaleEpoch> {
        let mut inner = self.inner();
        let node: Arc<str> = peer.node.into();
        let mut superseded = 0;
        if peer.role == Role::Gateway {
            let newest = *inner.epochs.get(&node).unwrap_or(&0);
            if peer.epoch < newest {
                return Err(StaleEpoch { newest });
            }
            for link in inner.links.values().filter(|link| link.role == Role::Gateway && link.node == node) {
                if link.epoch < peer.epoch {
                    link.void();
                    superseded += 1;
                } else if link.worker == peer.worker {
                    link.state.compare_exchange(LIVE, LINGERING, Ordering::AcqRel, Ordering::Acquire).ok();
                    link.close_wanted.store(true, Ordering::Release);
                    superseded += 1;
                }
            }
            inner.links.retain(|_, link| !link.is_void());
            inner.epochs.insert(node.clone(), peer.epoch);
        }
        inner.next = inner.next.checked_add(1).expect("four billion links in one process");
        let link = Arc::new(Link {
            id: LinkId(inner.next),
            owner,
            role: peer.role,
            node,
            epoch: peer.epoch,
            worker: peer.worker,
            internal_address: peer.internal_address.into(),
            takes_push_many: peer.takes_push_many,
            state: AtomicU8::new(LIVE),
            seen_ms: AtomicU64::new(now_ms),
            close_wanted: AtomicBool::new(false),
        });
        inner.links.insert(link.id, link.clone());
        Ok((link, superseded))
    }

    /// The link's connection is gone. A gateway's entries linger; a service has none.
    pub fn close(&self, link: &Link) {
        if link.role == Role::Gateway {
            link.state.compare_exchange(LIVE, LINGERING, Ordering::AcqRel, Ordering::Acquire).ok();
        } else {
            link.void();
            self.inner().links.remove(&link.id);
        }
    }

    /// The link's gateway worker has announced everything: what its predecessors still hold is void. Not so of a link that
    /// is not live: of what was announced on it some came too late, and its successor says all of it anew.
    fn synced(&self, link: &Link) {
        let mut inner = self.inner();
        if !link.is_live() {
            return;
        }
        for other in inner.links.values() {
            if other.id < link.id && other.worker == link.worker && other.is_same_incarnation(link) {
                other.void();
            }
        }
        inner.links.retain(|_, link| !link.is_void());
    }

    /// Voids the gateways' links whose lease has ended; services hold nothing and need none. One whose worker is back,
    /// and has not said yet that it has announced everything, holds longer: the sessions are there. Looks only at the
    /// links of one owner. Returns how many.
    pub fn expire(&self, owner: ShardIndex, now_ms: u64) -> u64 {
        let mut inner = self.inner();
        let mut expired = 0;
        for link in inner.links.values().filter(|link| link.owner == owner && link.role == Role::Gateway) {
            let silent_ms = now_ms.saturating_sub(link.seen_ms.load(Ordering::Relaxed));
            if silent_ms > self.lease_ms && (silent_ms > SYNC_MS_MAX || !inner.has_successor(link)) {
                link.void();
                expired += 1;
            }
        }
        if expired > 0 {
            inner.links.retain(|_, link| !link.is_void());
            let Inner { links, epochs, .. } = &mut *inner;
            epochs.retain(|node, _| links.values().any(|link| link.node == *node));
        }
        expired
    }

    /// Starts every live lease of an owner anew: after a stall of ours.
    pub fn forgive(&self, owner: ShardIndex, now_ms: u64) {
        for link in self.inner().links.values().filter(|link| link.owner == owner && link.is_live()) {
            link.touch(now_ms);
        }
    }
}

/// A worker's SYNCED on its way through the shards, in each of them behind what the worker had announced before.
#[derive(Debug)]
pub struct Synced {
    table: Arc<LeaseTable>,
    /// Who says so.
    pub link: Arc<Link>,
    /// Shards that it has not come to.
    remaining: AtomicU32,
}

impl Synced {
    /// One that is to pass so many shards.
    pub fn new(table: Arc<LeaseTable>, link: Arc<Link>, shards: u32) -> Arc<Self> {
        Arc::new(Self { table, link, remaining: AtomicU32::new(shards) })
    }

    /// A shard has done what came before it. With the last one it takes effect.
    pub fn pass(&self) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.table.synced(&self.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ShardIndex = ShardIndex(0);

    fn gateway(node: &str, epoch: u64, worker: u32) -> Peer {
        Peer {
            role: Role::Gateway,
            node: node.into(),
            epoch,
            worker,
            internal_address: String::new(),
            takes_push_many: true,
        }
    }

    #[test]
    fn a_newer_epoch_voids_all_older_links_at_once_and_an_older_one_is_refused() {
        let table = LeaseTable::new(1500);
        let (a, _) = table.admit(gateway("g", 5, 0), HERE, 0).unwrap();
        let (b, _) = table.admit(gateway("g", 5, 1), HERE, 0).unwrap();
        let (other, _) = table.admit(gateway("h", 1, 0), HERE, 0).unwrap();
        let (c, superseded) = table.admit(gateway("g", 6, 0), HERE, 0).unwrap();
        assert_eq!(superseded, 2);
        assert!(a.is_void() && b.is_void() && a.is_close_wanted());
        assert!(c.is_live() && other.is_live());
        assert_eq!(table.admit(gateway("g", 5, 1), HERE, 0).unwrap_err(), StaleEpoch { newest: 6 });
    }

    #[test]
    fn a_closed_link_lingers_until_its_lease_ends() {
        let table = LeaseTable::new(1500);
        let (link, _) = table.admit(gateway("g", 1, 0), HERE, 1000).unwrap();
        link.touch(2000);
        table.close(&link);
        assert!(!link.is_live() && !link.is_void());
        assert_eq!(table.expire(HERE, 3500), 0);
        assert_eq!(table.expire(HERE, 3501), 1);
        assert!(link.is_void());
        // Nothing of the gateway is left, so that any epoch may come now.
        table.admit(gateway("g", 0, 0), HERE, 4000).unwrap();
    }

    #[test]
    fn what_a_worker_announced_holds_while_it_announces_everything_again() {
        let table = LeaseTable::new(1500);
        let admit = |now_ms| table.admit(gateway("g", 1, 0), HERE, now_ms).unwrap().0;
        let (old, new) = (admit(0), admit(1000));
        for now_ms in [2000, 3000, 4000] {
            new.touch(now_ms);
            assert_eq!(table.expire(HERE, now_ms), 0);
        }
        assert!(!old.is_void() && new.is_live());
        // It goes with its successor, or when it takes too long.
        table.close(&new);
        assert_eq!(table.expire(HERE, 4000), 1);
        assert!(old.is_void() && !new.is_void());
        let newest = admit(4500);
        newest.touch(4000 + SYNC_MS_MAX);
        assert_eq!(table.expire(HERE, 4000 + SYNC_MS_MAX), 0);
        newest.touch(4001 + SYNC_MS_MAX);
        assert_eq!(table.expire(HERE, 4001 + SYNC_MS_MAX), 1);
        assert!(new.is_void() && newest.is_live());
    }

    #[test]
    fn synced_ends_the_predecessor_and_only_it() {
        let table = LeaseTable::new(1500);
        let (old, _) = table.admit(gateway("g", 1, 0), HERE, 0).unwrap();
        let (neighbour, _) = table.admit(gateway("g", 1, 1), HERE, 0).unwrap();
        let (new, superseded) = table.admit(gateway("g", 1, 0), HERE, 10).unwrap();
        assert_eq!(superseded, 1);
        assert!(!old.is_live() && !old.is_void() && old.is_close_wanted());
        table.synced(&new);
        assert!(old.is_void() && new.is_live() && neighbour.is_live());
    }

    #[test]
    fn synced_that_comes_late_ends_neither_a_successor_nor_what_it_has_not_announced() {
        let table = LeaseTable::new(1500);
        let admit = || table.admit(gateway("g", 1, 0), HERE, 0).unwrap().0;
        let (first, second) = (admit(), admit());
        let third = admit();
        table.synced(&second);
        assert!(!first.is_void() && !second.is_void() && third.is_live());
        table.synced(&third);
        assert!(first.is_void() && second.is_void() && third.is_live());
    }

    #[test]
    fn a_stall_of_ours_costs_no_lease() {
        let table = LeaseTable::new(1500);
        let (link, _) = table.admit(gateway("g", 1, 0), HERE, 0).unwrap();
        table.forgive(HERE, 5000);
        assert_eq!(table.expire(HERE, 5000), 0);
        assert!(link.is_live());
    }
}
