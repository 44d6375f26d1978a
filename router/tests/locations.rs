//! Two routers with one location store: what an engine apart is told and asked, and what it must promise.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Peer, Who};
use moor_router::store::Full;
use moor_router::store::location::{Find, Here, LocationChange, LocationEvent, LocationStore};
use moor_router::{RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::internal::Location;

/// One router's shard.
type Teller = (u8, u16);

/// What a cluster would hold.
#[derive(Debug, Default)]
struct Cluster {
    /// By teller, link and session.
    entries: BTreeMap<(Teller, u32, u64), (String, Location)>,
    batches: Vec<usize>,
    is_refusing: bool,
    tellers: Vec<flume::Sender<LocationEvent>>,
}

impl Cluster {
    fn apply(&mut self, teller: Teller, change: LocationChange) {
        match change {
            LocationChange::Cleared => self.entries.retain(|(by, ..), _| *by != teller),
            LocationChange::Arrived { key, link, location } => {
                let place = (teller, link.0, location.session);
                self.entries.insert(place, (format!("{}/{}", key.app, key.account), location));
            }
            LocationChange::Left { link, session, .. } => {
                self.entries.remove(&(teller, link.0, session.0));
            }
            LocationChange::Voided { link } => {
                self.entries.retain(|(by, under, _), _| (*by, *under) != (teller, link.0));
            }
        }
    }
}

/// A shard's connection to it.
#[derive(Debug)]
struct Client {
    cluster: Arc<Mutex<Cluster>>,
    teller: Teller,
    sender: flume::Sender<LocationEvent>,
    events: flume::Receiver<LocationEvent>,
}

impl Client {
    fn new(cluster: &Arc<Mutex<Cluster>>, teller: Teller) -> Self {
        let (sender, events) = flume::unbounded();
        cluster.lock().unwrap().tellers.push(sender.clone());
        Self { cluster: cluster.clone(), teller, sender, events }
    }
}

impl LocationStore for Client {
    fn wants_changes(&self) -> bool {
        true
    }

    fn try_apply(&mut self, batch: Vec<LocationChange>) -> Result<(), Full<LocationChange>> {
        let mut cluster = self.cluster.lock().unwrap();
        if cluster.is_refusing {
            return Err(Full(batch));
        }
        cluster.batches.push(batch.len());
        for change in batch {
            cluster.apply(self.teller, change);
        }
        Ok(())
    }

    fn try_find(&mut self, batch: Vec<Find>, _: Here<'_>) -> Result<(), Full<Find>> {
        let cluster = self.cluster.lock().unwrap();
        if cluster.is_refusing {
            return Err(Full(batch));
        }
        for Find { ticket, key } in batch {
            let name = format!("{}/{}", key.app, key.account);
            let found = cluster.entries.values().filter(|(account, _)| *account == name);
            let sessions = found.map(|(_, location)| location.clone()).collect();
            self.sender.send(LocationEvent::Found { ticket, outcome: Ok(sessions) }).unwrap();
        }
        Ok(())
    }

    fn events(&self) -> flume::Receiver<LocationEvent> {
        self.events.clone()
    }
}

struct Routers {
    cluster: Arc<Mutex<Cluster>>,
    /// Of one shard and of three.
    here: RouterHandle,
    there: RouterHandle,
    _data: tempfile::TempDir,
}

fn routers() -> Routers {
    let (cluster, data) = (Arc::<Mutex<Cluster>>::default(), tempfile::tempdir().unwrap());
    let start = |number: u8, shards| {
        let config = RouterConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data: data.path().join(number.to_string()),
            shards: Some(shards),
            ..RouterConfig::default()
        };
        moor_router::start_with(config, |shard| Box::new(Client::new(&cluster, (number, shard)))).unwrap()
    };
    let (here, there) = (start(1, 1), start(2, 3));
    Routers { cluster, here, there, _data: data }
}

const ALICE: Who<'static> = Who::new(11, "alice", "phone");
const BOB: Who<'static> = Who::new(12, "bob", "phone");

#[test]
fn what_is_announced_at_one_router_is_found_at_the_other() {
    let routers = routers();
    for (told, asked) in [(&routers.here, &routers.there), (&routers.there, &routers.here)] {
        let mut gateway = Peer::gateway(told.listen_addr(), "east", 7, 3);
        gateway.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
        let mut service = Peer::service(asked.listen_addr(), "svc");
        let sessions = service.lookup("shop", "alice").sessions;
        let expected = Location {
            device: "phone".into(),
            gateway: "east".into(),
            epoch: 7,
            worker: 3,
            session: 11,
            internal_address: "127.0.0.1:7200".into(),
            acked: 0,
        };
        assert_eq!(sessions, [expected]);
        gateway.unregister(11, "shop", "alice");
        service.lookup_until("alice", |result| result.sessions.is_empty());
        assert_eq!(service.lookup("shop", "bob").sessions.len(), 1);
        // What kill -9 looks like from here.
        drop(gateway);
        let took = service.lookup_until("bob", |result| result.sessions.is_empty());
        assert!(took <= Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn a_worker_that_connects_again_leaves_one_entry_and_only_of_what_it_announced() {
    let routers = routers();
    let old = {
        let mut old = Peer::gateway(routers.here.listen_addr(), "east", 1, 0);
        old.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
        old
    };
    let mut service = Peer::service(routers.there.listen_addr(), "svc");
    drop(old);
    let mut new = Peer::gateway(routers.here.listen_addr(), "east", 1, 0);
    new.register(1, vec![ALICE.registration(None)]);
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
    new.synced();
    service.lookup_until("bob", |result| result.sessions.is_empty());
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
}

#[test]
fn a_batch_goes_over_as_one_and_a_store_that_lost_all_is_told_again() {
    let routers = routers();
    let names: Vec<String> = (0..500).map(|number| format!("account-{number}")).collect();
    let mut gateway = Peer::gateway(routers.here.listen_addr(), "east", 1, 0);
    let sessions = (1..).zip(&names).map(|(session, name)| Who::new(session, name, "d").registration(None));
    gateway.register(1, sessions.collect());
    let mut service = Peer::service(routers.there.listen_addr(), "svc");
    assert_eq!(service.lookup("shop", "account-499").sessions.len(), 1);
    let before = {
        let mut cluster = routers.cluster.lock().unwrap();
        assert!(cluster.batches.iter().any(|changes| *changes >= 500), "{:?}", cluster.batches);
        for teller in &cluster.tellers {
            teller.send(LocationEvent::Lost).unwrap();
        }
        std::mem::take(&mut cluster.entries)
    };
    for name in &names {
        service.lookup_until(name, |result| result.sessions.len() == 1);
        gateway.ping();
    }
    assert_eq!(routers.cluster.lock().unwrap().entries, before);
}

#[test]
fn a_store_that_refuses_makes_lookups_fail_and_nothing_else() {
    let routers = routers();
    let mut gateway = Peer::gateway(routers.here.listen_addr(), "east", 1, 0);
    let mut service = Peer::service(routers.here.listen_addr(), "svc");
    routers.cluster.lock().unwrap().is_refusing = true;
    gateway.register(1, vec![ALICE.registration(None)]);
    gateway.register(2, vec![BOB.registration(None)]);
    gateway.unregister(12, "shop", "bob");
    assert_eq!(service.lookup("shop", "alice").code(), Code::Overloaded);
    service.send("shop", "bob", "alice", b"1", b"m");
    assert_eq!(gateway.expect_delivery().1.sync_id, 1);
    routers.cluster.lock().unwrap().is_refusing = false;
    // What was refused goes over in its order: first there, then gone.
    service.lookup_until("alice", |result| result.sessions.len() == 1 && result.head == 1);
    service.lookup_until("bob", |result| result.code() == Code::Ok && result.sessions.is_empty());
}
