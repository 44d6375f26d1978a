//! A shard with a real store and a clock that jumps.

mod rooms;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Class, Delivery, Kind, SubmitResult, TrafficMarks};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::identity::account_hash;
use moor_wire::internal::{
    Departure, Location, LookupResult, NotHere, Outcome, Push, Registration, Role, Up, Verb, frame_reader,
};
use moor_wire::session::SessionHandle;
use prost::Message as _;

use super::Shard;
use super::credit::{Answer, Credit};
use super::storage::Totals;
use super::work::Work;
use crate::config::{Fsync, OfflineSettings, Telling};
use crate::hook::{Cause, HookSettings, Notice};
use crate::lease::{LeaseTable, Link, Peer, ShardIndex, Synced};
use crate::limits::{
    APPS_MAX, CURSOR_FLUSH_MS, DEVICES_PER_ACCOUNT_MAX, LOCATION_CHANGES_WAITING_MAX,
    SUBSCRIBERS_PER_APP_MAX, WINDOW_BYTES, WINDOW_MESSAGES,
};
use crate::metrics::Metrics;
use crate::offline::Interest;
use crate::outbox::{LinkOut, Outbox};
use crate::store::location::{LocationChange, LocationEvent};
use crate::store::sqlite::SqliteStore;
use crate::store::{AccountKey, CursorSave, MessageStore, Origin, StoreEvent, Submit, Write};

mod classes;
mod crossing;
mod devices;
mod groups;
mod retention;
mod storage;
mod subscriptions;
mod tenants;

const HERE: ShardIndex = ShardIndex(0);

struct Wire {
    link: Arc<Link>,
    out: Rc<LinkOut>,
    reader: FrameReader,
}

struct Rig {
    shard: Shard,
    store: Box<SqliteStore>,
    leases: Arc<LeaseTable>,
    now_ms: u64,
    next_id: u64,
    metrics: Arc<Metrics>,
    directory: tempfile::TempDir,
}

impl Rig {
    fn new(retention: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::open(directory, retention)
    }

    fn open(directory: tempfile::TempDir, retention: u64) -> Self {
        let metrics = Arc::<Metrics>::default();
        let path = directory.path().join("messages.sqlite");
        let mut store = SqliteStore::open(&path, "test", Fsync::Off, retention, &metrics).unwrap();
        let mut shard = Shard::new(HERE, Outbox::new(HERE, 1, metrics.clone()), metrics.clone());
        let (usage, totals) = (store.take_usage(), Arc::<Totals>::default());
        totals.add(&usage);
        shard.set_usage(usage, totals);
        Self {
            shard,
            store: Box::new(store),
            leases: Arc::new(LeaseTable::new(1500)),
            now_ms: 1_000_000,
            next_id: 0,
            metrics,
            directory,
        }
    }

    /// Everything in memory is gone; the file stays.
    fn restart(mut self, retention: u64) -> Self {
        self.shard.stop();
        self.settle();
        self.store.close();
        Self::open(self.directory, retention)
    }

    fn link(&mut self, node: &str, epoch: u64) -> Wire {
        let peer = Peer {
            role: Role::Gateway,
            node: node.to_owned(),
            epoch,
            worker: 0,
            internal_address: String::new(),
            takes_push_many: true,
        };
        let (link, _) = self.leases.admit(peer, HERE, self.now_ms).unwrap();
        let out = Rc::new(LinkOut::default());
        self.shard.outbox.add(link.id, out.clone());
        Wire { link, out, reader: frame_reader() }
    }

    /// Lets the store do all it was asked for, and what that leads to.
    fn settle(&mut self) {
        let events = self.store.events();
        let (mut writes, mut reads) = (0, 0);
        loop {
            let batch = self.shard.take_writes();
            if !batch.is_empty() {
                writes += batch.iter().filter(|write| !matches!(write, Write::Cursor(_))).count();
                self.store.try_write(batch).unwrap();
            }
            let batch = self.shard.take_reads();
            if !batch.is_empty() {
                reads += batch.len();
                self.store.try_read(batch).unwrap();
            }
            if writes + reads == 0 {
                return;
            }
            let event = events.recv().unwrap();
            match &event {
                StoreEvent::Written(written) => writes -= written.len(),
                StoreEvent::Marked(marked) => writes -= marked.len(),
                StoreEvent::Read(done) => reads -= done.len(),
                StoreEvent::Rows(rows) => writes -= rows.len(),
                StoreEvent::Freed(_) => {}
            }
            self.shard.handle_store(event, self.now_ms);
        }
    }

    /// Lets the store do the submits it was handed.
    fn settle_writes(&mut self, mut submits: usize) {
        let events = self.store.events();
        while submits > 0 {
            let event = events.recv().unwrap();
            if let StoreEvent::Written(written) = &event {
                submits -= written.len();
            }
            self.shard.handle_store(event, self.now_ms);
        }
    }

    fn later(&mut self, ms: u64) {
        self.now_ms += ms;
        self.shard.handle_tick(self.now_ms);
        self.settle();
    }

    fn register(&mut self, wire: &Wire, session: u64, device: &str, last_sync_id: Option<u64>) {
        let registration = Registration {
            session,
            app: "shop".into(),
            account: "alice".into(),
            device: device.into(),
            last_sync_id,
            is_new: false,
        };
        let credit = Credit::new(wire.link.clone(), Answer::Registered { batch: 1 }, 1);
        let sessions = vec![(alice().hash, registration)];
        self.shard.apply(Work::Register { link: wire.link.clone(), sessions, credit }, self.now_ms);
        self.settle();
    }

    /// A worker has announced everything.
    fn synced(&mut self, wire: &Wire) {
        let synced = Synced::new(self.leases.clone(), wire.link.clone(), 1);
        self.shard.apply(Work::Synced(synced), self.now_ms);
    }

    fn offer(&mut self, wire: &Wire, client_id: u64, payload_bytes: usize) {
        self.offer_marked(wire, client_id, payload_bytes, None);
    }

    fn offer_marked(
        &mut self,
        wire: &Wire,
        client_id: u64,
        payload_bytes: usize,
        marks: Option<TrafficMarks>,
    ) {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        let submit = Submit {
            to: alice(),
            from: "bob".into(),
            client_id: Bytes::copy_from_slice(&client_id.to_be_bytes()),
            payload: vec![7; payload_bytes].into(),
            sent_at_ms: 1,
            origin,
            entry: crate::store::Entry::Personal,
            marks: marks.map(Box::new),
            copies_bytes: 0,
        };
        self.shard.apply(Work::Submit(Box::new(submit)), self.now_ms);
    }

    /// Submits `count` new messages and lets them be stored.
    fn submit(&mut self, wire: &Wire, count: usize) {
        for _ in 0..count {
            self.next_id += 1;
            self.offer(wire, self.next_id, 10);
        }
        self.settle();
    }

    fn cursor(&mut self, wire: &Wire, session: u64, kind: Kind, position: u64) {
        let mut frame = Vec::new();
        let up = Up {
            session: SessionHandle(session),
            kind: kind.byte(),
            flags: 0,
            app: "shop",
            account: "alice",
            device: "phone",
            body: &position.to_be_bytes(),
        };
        up.put(&mut frame);
        let up = Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..]);
        self.shard.apply(Work::Cursor { link: wire.link.clone(), hash: alice().hash, up }, self.now_ms);
        self.settle();
    }

    fn subscribe(&mut self, wire: &Wire, app: &str) {
        self.subscribe_marked(wire, app, None);
    }

    fn subscribe_marked(&mut self, wire: &Wire, app: &str, marks: Option<TrafficMarks>) {
        let credit = Credit::new(wire.link.clone(), Answer::Outcome { cookie: 5 }, 1);
        let marks = marks.map(Box::new);
        let work = Work::Subscribe { link: wire.link.clone(), app: app.into(), marks, credit };
        self.shard.apply(work, self.now_ms);
    }

    /// Tells of every app's absences, payloads of up to 10 bytes included.
    fn tell_offline(&mut self) {
        let hook = HookSettings { payload_bytes_max: 10, ..HookSettings::default() };
        let telling = Telling { hook: vec![hook], ..Telling::default() };
        let settings = OfflineSettings { interval_ms: 60_000, departure_ms: 10_000, settle_ms: 0 };
        self.shard.tell_offline(settings, Interest::new(&telling), self.now_ms);
    }

    /// Device, first and last sync id, count and cause of absences since the last look.
    fn absences(&mut self) -> Vec<(Option<String>, u64, u64, u64, Cause)> {
        let notices = self.shard.take_notices().into_iter();
        notices
            .map(|notice| match notice {
                Notice::Offline(news) => {
                    let device = news.device.as_deref().map(str::to_owned);
                    (device, news.first_sync_id, news.last_sync_id, news.count, news.cause)
                }
                Notice::Alarm(alarm) => panic!("{alarm:?}"),
            })
            .collect()
    }

    /// Messages accepted, delivered, acknowledged, offline, expired; and how many latencies were taken.
    fn arrivals(&mut self) -> ([u64; 5], u64) {
        let slot = self.shard.arrival_apps.slot("shop");
        let (mut sums, mut buckets) = (Default::default(), [0; 15]);
        self.metrics.arrival.add_totals(slot, &mut sums);
        self.metrics.arrival.add_latency(slot, &mut buckets);
        (sums[Class::Reliable as usize], buckets.iter().sum())
    }

    fn unregister(&mut self, wire: &Wire, session: u64) {
        let departure = Departure { session, app: "shop".into(), account: "alice".into() };
        let sessions = vec![(alice().hash, departure)];
        self.shard.apply(Work::Unregister { link: wire.link.clone(), sessions }, self.now_ms);
        self.settle();
    }

    fn ack(&mut self, wire: &Wire, session: u64, position: u64) {
        self.cursor(wire, session, Kind::Ack, position);
    }
}

impl Wire {
    /// Frames since the last look.
    fn frames(&mut self) -> Vec<Frame> {
        let context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(bytes)) = self.out.poll_take(&context) {
            self.reader.push(&bytes);
        }
        std::iter::from_fn(|| self.reader.try_next().unwrap()).collect()
    }

    /// Bodies of the frames of a verb since the last look; the others are passed over.
    fn bodies(&mut self, verb: Verb) -> Vec<Bytes> {
        let frames = self.frames().into_iter();
        frames.filter(|frame| frame.header.kind == verb.byte()).map(|frame| frame.body).collect()
    }

    fn pushes(&mut self) -> Vec<(u64, u8, Vec<u8>)> {
        let bodies = self.bodies(Verb::Push);
        let pushes = bodies.iter().map(|body| Push::parse(body).unwrap());
        pushes.map(|push| (push.session.0, push.kind, push.body.to_vec())).collect()
    }

    fn outcomes(&mut self) -> Vec<Code> {
        self.bodies(Verb::Outcome).iter().map(|body| Outcome::parse(body).unwrap().code).collect()
    }

    /// Sync ids delivered to a session since the last look.
    fn delivered(&mut self, session: u64) -> Vec<u64> {
        self.deliveries(session).into_iter().map(|delivery| delivery.sync_id).collect()
    }

    fn deliveries(&mut self, session: u64) -> Vec<Delivery> {
        self.pushes()
            .into_iter()
            .filter(|(to, kind, _)| *to == session && *kind == Kind::Data.byte())
            .map(|(_, _, body)| Delivery::decode(&body[..]).unwrap())
            .collect()
    }

    fn results(&mut self) -> Vec<SubmitResult> {
        self.pushes()
            .into_iter()
            .filter(|(_, kind, _)| *kind == Kind::Ack.byte())
            .map(|(_, _, body)| SubmitResult::decode(&body[..]).unwrap())
            .collect()
    }
}

fn alice() -> AccountKey {
    AccountKey { hash: account_hash("shop", "alice"), app: "shop".into(), account: "alice".into() }
}

const NOTHING: [u64; 0] = [];

fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn unacknowledged_messages_come_again_three_times_and_then_rest() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 3);
    assert_eq!(wire.delivered(1), ids(1..=3));
    for wait_ms in [5_000, 10_000, 20_000] {
        rig.later(wait_ms - 1);
        assert_eq!(wire.delivered(1), NOTHING, "before {wait_ms} ms");
        rig.later(1);
        assert_eq!(wire.delivered(1), ids(1..=3), "after {wait_ms} ms");
    }
    rig.later(20_000);
    rig.later(3_600_000);
    rig.submit(&sender, 1);
    assert_eq!(wire.delivered(1), NOTHING, "it rests");
    // Any word from it wakes it, even one that is no news.
    rig.ack(&wire, 1, 0);
    assert_eq!(wire.delivered(1), ids(1..=4));
    rig.ack(&wire, 1, 4);
    rig.later(3_600_000);
    assert_eq!(wire.delivered(1), NOTHING);
    assert_eq!((rig.metrics.retries.get(), rig.metrics.rests.get()), (3, 1));
}

#[test]
fn progress_starts_the_retries_anew() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 4);
    assert_eq!(wire.delivered(1), ids(1..=4));
    rig.later(4_000);
    rig.ack(&wire, 1, 2);
    rig.later(4_999);
    assert_eq!(wire.delivered(1), NOTHING);
    rig.later(1);
    assert_eq!(wire.delivered(1), ids(3..=4));
}

#[test]
fn a_window_of_messages_and_of_bytes() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 200);
    let window = WINDOW_MESSAGES as u64;
    assert_eq!(wire.delivered(1), ids(1..=window));
    // Not for every acknowledged message: when half of the window is free.
    rig.ack(&wire, 1, 10);
    assert_eq!(wire.delivered(1), NOTHING);
    rig.ack(&wire, 1, 40);
    assert_eq!(wire.delivered(1), ids(window + 1..=window + 40));
    rig.ack(&wire, 1, window + 40);
    assert_eq!(wire.delivered(1), ids(window + 41..=window * 2 + 40));
    rig.ack(&wire, 1, 200);
    assert_eq!(wire.delivered(1), NOTHING);
    // An ACK ahead of what was sent is believed up to the head; nothing is left to send.
    rig.later(60_000);
    assert_eq!(wire.delivered(1), NOTHING);
    // 60 KiB each: four fit, the fifth does not.
    for id in 1000..1008 {
        rig.offer(&sender, id, 60 * 1024);
    }
    rig.settle();
    assert_eq!(wire.delivered(1).len(), WINDOW_BYTES as usize / (60 * 1024));
}

#[test]
fn sync_goes_back_and_two_devices_go_their_own_ways() {
    let mut rig = Rig::new(1000);
    let (mut wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&other, 10);
    rig.register(&other, 2, "pad", Some(4));
    assert_eq!(wire.delivered(1), ids(1..=10));
    assert_eq!(other.delivered(2), ids(5..=10));
    rig.ack(&wire, 1, 10);
    rig.cursor(&wire, 1, Kind::Sync, 7);
    assert_eq!(wire.delivered(1), ids(8..=10));
    assert_eq!(other.delivered(2), NOTHING);
    // A position beyond the end is cut to it.
    rig.cursor(&wire, 1, Kind::Sync, 1_000_000);
    rig.submit(&other, 1);
    assert_eq!(wire.delivered(1), ids(11..=11));
}

#[test]
fn what_is_past_retention_is_told_by_the_floor() {
    let mut rig = Rig::new(20);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.submit(&sender, 100);
    rig.register(&wire, 1, "phone", Some(3));
    let deliveries = wire.deliveries(1);
    let first = deliveries.first().unwrap();
    assert_eq!(first.sync_id, first.floor);
    assert!((79..=81).contains(&first.sync_id), "{}", first.sync_id);
    assert_eq!(deliveries.last().unwrap().sync_id, 100);
    assert_eq!(deliveries.len() as u64, 101 - first.sync_id);
    // Trimmed under a device in flight: it goes on at the floor.
    rig.submit(&sender, 200);
    wire.delivered(1);
    rig.later(5_000);
    let again = wire.deliveries(1);
    assert_eq!(again.first().unwrap().sync_id, again.first().unwrap().floor);
    assert_eq!(again.last().unwrap().sync_id, 300);
}

#[test]
fn a_known_client_id_is_answered_with_its_place_also_after_a_restart() {
    let mut rig = Rig::new(1000);
    let (mut wire, mut sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    // Twice in one commit, once later, once after a restart.
    rig.offer(&sender, 5, 1);
    rig.offer(&sender, 5, 1);
    rig.settle();
    rig.offer(&sender, 5, 1);
    rig.settle();
    let seen: Vec<_> = sender.results().iter().map(|r| (r.code(), r.sync_id, r.duplicate)).collect();
    assert_eq!(seen, [(Code::Ok, 1, false), (Code::Ok, 1, true), (Code::Ok, 1, true)]);
    assert_eq!(wire.delivered(1), ids(1..=1));
    let mut rig = rig.restart(1000);
    let mut sender = rig.link("west", 1);
    rig.offer(&sender, 5, 1);
    rig.offer(&sender, 6, 1);
    rig.settle();
    let seen: Vec<_> = sender.results().iter().map(|r| (r.code(), r.sync_id, r.duplicate)).collect();
    assert_eq!(seen, [(Code::Ok, 1, true), (Code::Ok, 2, false)]);
}

#[test]
fn a_device_s_position_survives_a_restart() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 5);
    wire.delivered(1);
    rig.ack(&wire, 1, 3);
    rig.later(CURSOR_FLUSH_MS);
    let mut rig = rig.restart(1000);
    let mut wire = rig.link("east", 2);
    rig.register(&wire, 9, "phone", None);
    assert_eq!(wire.delivered(9), ids(4..=5));
    // A device never seen gets all that is kept.
    rig.register(&wire, 10, "pad", None);
    assert_eq!(wire.delivered(10), ids(1..=5));
}

#[test]
fn a_lingering_link_gets_nothing_and_its_successor_everything() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.leases.close(&wire.link);
    rig.submit(&sender, 2);
    assert_eq!(wire.delivered(1), NOTHING);
    let mut successor = rig.link("east", 1);
    // The gateway names no position: the entry's own holds.
    rig.register(&successor, 1, "phone", None);
    assert_eq!(successor.delivered(1), ids(1..=2));
    rig.synced(&successor);
    rig.later(50);
    assert_eq!(rig.shard.registry.session_count(), 1);
}

#[test]
fn entries_of_void_links_are_swept_and_not_here_removes_at_once() {
    let mut rig = Rig::new(1000);
    let (wire, other) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.register(&other, 2, "pad", None);
    let entries = vec![NotHere { cookie: alice().hash, session: SessionHandle(2) }];
    rig.shard.apply(Work::NotHere { link: other.link.clone(), entries }, rig.now_ms);
    assert_eq!(rig.shard.registry.session_count(), 1);
    rig.link("east", 2);
    rig.later(50);
    assert_eq!((rig.shard.registry.session_count(), rig.shard.registry.account_count()), (0, 0));
    // A registration that was on its way when its link was voided must not come to life.
    rig.register(&wire, 3, "phone", None);
    assert_eq!(rig.shard.registry.session_count(), 0);
}

#[test]
fn a_location_store_that_refuses_too_much_is_told_everything_anew() {
    let mut rig = Rig::new(1000);
    let wire = rig.link("east", 1);
    rig.register(&wire, 1, "phone", None);
    assert_eq!(rig.shard.take_changes(), [], "nobody wants to know");
    rig.shard.tell_locations();
    let told = |rig: &mut Rig| -> Vec<(&'static str, u64)> {
        let name = |change| match change {
            LocationChange::Cleared => ("cleared", 0),
            LocationChange::Arrived { location, .. } => ("arrived", location.session),
            LocationChange::Left { session, .. } => ("left", session.0),
            LocationChange::Voided { link } => ("voided", u64::from(link.0)),
        };
        rig.shard.take_changes().into_iter().map(name).collect()
    };
    assert_eq!(told(&mut rig), [("cleared", 0)]);
    rig.later(50);
    rig.register(&wire, 2, "pad", None);
    let first = rig.shard.take_changes();
    rig.register(&wire, 3, "pad", None);
    rig.shard.handle_changes_refused(first);
    assert_eq!(told(&mut rig), [("arrived", 1), ("arrived", 2), ("arrived", 3)], "in order");
    rig.later(50);
    assert_eq!(told(&mut rig), [], "once");
    let flood = vec![LocationChange::Cleared; LOCATION_CHANGES_WAITING_MAX + 1];
    rig.shard.handle_changes_refused(flood);
    // The walk waits until the store takes something again.
    rig.later(50);
    assert_eq!(told(&mut rig), [("cleared", 0)]);
    rig.later(50);
    assert_eq!(told(&mut rig), [("arrived", 1), ("arrived", 2), ("arrived", 3)]);
    rig.link("east", 2);
    rig.later(50);
    assert_eq!(told(&mut rig), [("voided", u64::from(wire.link.id.0))], "and with it all that was under it");
}

#[test]
fn idle_accounts_hold_no_memory() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.submit(&sender, 10);
    assert_eq!(rig.shard.registry.account_count(), 0);
    rig.register(&wire, 1, "phone", None);
    assert_eq!(wire.delivered(1).len(), 10);
    rig.ack(&wire, 1, 10);
    rig.later(5_000);
    rig.later(5_000);
    assert!(rig.shard.retries.is_empty() && rig.shard.dirty.is_empty() && rig.shard.backlog.is_empty());
    let index = rig.shard.registry.find("shop", "alice", alice().hash).unwrap();
    let session = rig.shard.registry.sessions_of(index).next().unwrap();
    assert!(rig.shard.registry.session(session).unwrap().flight.is_none());
}

#[test]
fn a_device_that_comes_back_often_never_loses_its_live_session_to_dead_ones() {
    let mut rig = Rig::new(1000);
    let mut alive = rig.link("east", 1);
    rig.register(&alive, 1, "phone", None);
    for epoch in 1..=20 {
        // Each time through a gateway that is dead a moment later; nothing is swept meanwhile.
        let wire = rig.link("west", epoch);
        rig.register(&wire, 100 + epoch, "phone", None);
    }
    let sender = rig.link("north", 1);
    rig.submit(&sender, 1);
    assert_eq!(alive.delivered(1), ids(1..=1));
}

#[test]
fn of_too_many_devices_the_one_furthest_behind_is_forgotten_and_served_from_the_start() {
    let mut rig = Rig::new(1000);
    let wire = rig.link("gateway", 1);
    rig.submit(&wire, 3);
    let save = |rig: &mut Rig, device: u32, acked: u64| {
        let device = format!("device-{device:04}").into();
        let save = Write::Cursor(Box::new(CursorSave { key: alice(), device, acked }));
        rig.store.try_write(vec![save]).unwrap();
    };
    save(&mut rig, 0, 1);
    for device in 1..DEVICES_PER_ACCOUNT_MAX {
        save(&mut rig, device, 2);
    }
    save(&mut rig, 1, 3);
    rig.submit(&wire, 1);
    assert_eq!(rig.metrics.devices_forgotten.get(), 0);
    save(&mut rig, DEVICES_PER_ACCOUNT_MAX, 3);
    rig.submit(&wire, 1);
    assert_eq!(rig.metrics.devices_forgotten.get(), 1);
    let mut wire = wire;
    for (session, device, first) in [(1, 0, 1), (2, 1, 4), (3, 2, 3), (4, DEVICES_PER_ACCOUNT_MAX, 4)] {
        rig.register(&wire, session, &format!("device-{device:04}"), None);
        assert_eq!(wire.delivered(session).first(), Some(&first), "device {device}");
    }
}

#[test]
fn a_subscription_without_room_is_refused_and_fits_when_another_goes() {
    let mut rig = Rig::new(1000);
    let mut links: Vec<_> =
        (0..SUBSCRIBERS_PER_APP_MAX).map(|number| rig.link(&format!("svc-{number}"), 1)).collect();
    for wire in &mut links {
        rig.subscribe(wire, "shop");
        assert_eq!(wire.outcomes(), [Code::Ok]);
    }
    let mut late = rig.link("late", 1);
    rig.subscribe(&late, "shop");
    assert_eq!(late.outcomes(), [Code::Overloaded], "asked again, later");
    // Who is in stays in, and another app is another list.
    rig.subscribe(&links[3], "shop");
    assert_eq!(links[3].outcomes(), [Code::Ok]);
    rig.subscribe(&late, "bank");
    assert_eq!(late.outcomes(), [Code::Ok]);
    // The newer incarnation voids the old link at once; no tick is needed for its place.
    rig.link("svc-0", 2);
    rig.subscribe(&late, "shop");
    assert_eq!(late.outcomes(), [Code::Ok]);
    assert_eq!(rig.metrics.subscriptions_refused.get(), 1);
    // And it is a subscription, not only an answer.
    let gateway = rig.link("east", 1);
    rig.register(&gateway, 1, "phone", None);
    rig.submit(&gateway, 1);
    rig.ack(&gateway, 1, 1);
    assert_eq!(late.bodies(Verb::Receipt).len(), 1);
}

#[test]
fn a_subscription_to_one_app_too_many_is_refused_for_good() {
    let mut rig = Rig::new(1000);
    for number in 0..APPS_MAX {
        rig.shard.registry.intern_app(&format!("app-{number}")).unwrap();
    }
    let mut wire = rig.link("svc", 1);
    rig.subscribe(&wire, "shop");
    assert_eq!(wire.outcomes(), [Code::Limit]);
    rig.subscribe(&wire, "app-7");
    assert_eq!(wire.outcomes(), [Code::Ok]);
}

#[test]
fn one_shard_s_refusal_is_the_answer_of_all() {
    let mut rig = Rig::new(1000);
    let mut wire = rig.link("svc", 1);
    let credit = Credit::new(wire.link.clone(), Answer::Outcome { cookie: 5 }, 3);
    let (link, app) = (&wire.link, "shop");
    let work =
        || Work::Subscribe { link: link.clone(), app: app.into(), marks: None, credit: credit.clone() };
    // The second part met a full queue on its way to its shard.
    rig.shard.apply(work(), rig.now_ms);
    rig.shard.refuse_crossing(work());
    rig.shard.apply(work(), rig.now_ms);
    assert_eq!(wire.outcomes(), [Code::Overloaded]);
}

#[test]
fn messages_to_nobody_are_told_at_once_and_then_once_per_interval() {
    let mut rig = Rig::new(1000);
    let sender = rig.link("west", 1);
    rig.submit(&sender, 1);
    assert_eq!(rig.absences(), [], "nobody wants to know");
    rig.tell_offline();
    rig.submit(&sender, 1);
    let told = rig.shard.take_notices();
    let [Notice::Offline(news)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&*news.app, &*news.account, news.first_sync_id, news.sent_at_ms),
        ("shop", "alice", 2, Some(1))
    );
    assert_eq!(news.payload.as_deref(), Some(&[7; 10][..]));
    rig.submit(&sender, 500);
    rig.offer(&sender, 9_999, 11);
    rig.settle();
    assert_eq!(rig.absences(), []);
    rig.later(60_000);
    let told = rig.shard.take_notices();
    let [Notice::Offline(news)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((news.first_sync_id, news.last_sync_id, news.count), (3, 503, 501));
    assert_eq!(news.payload, None, "the newest is too long");
    assert_eq!(rig.metrics.offline_messages.get(), 503);
    // Somebody there: nothing to tell, also not what waited.
    rig.submit(&sender, 1);
    let wire = rig.link("east", 1);
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 1);
    rig.later(60_000);
    assert_eq!(rig.absences(), []);
}

#[test]
fn a_device_that_never_acknowledges_is_told_of_after_the_last_retry() {
    let mut rig = Rig::new(1000);
    rig.tell_offline();
    let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 5);
    rig.ack(&wire, 1, 2);
    for wait_ms in [5_000, 10_000, 20_000, 19_999] {
        rig.later(wait_ms);
        assert_eq!(rig.absences(), []);
    }
    rig.later(1);
    assert_eq!(rig.absences(), [(Some("phone".to_owned()), 3, 5, 3, Cause::Unacknowledged)]);
    // It rests: what comes now is told like a message to nobody, in its time; its going is no news.
    rig.submit(&sender, 2);
    rig.unregister(&wire, 1);
    rig.later(60_000);
    assert_eq!(rig.absences(), [(None, 6, 7, 2, Cause::Absent)]);
}

#[test]
fn who_goes_with_messages_unacknowledged_is_told_of_unless_it_comes_back() {
    let mut rig = Rig::new(1000);
    rig.tell_offline();
    let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.register(&wire, 2, "pad", None);
    rig.submit(&sender, 3);
    rig.ack(&wire, 1, 3);
    rig.unregister(&wire, 1);
    rig.later(10_000);
    assert_eq!(rig.absences(), [], "the other one is still there");
    rig.unregister(&wire, 2);
    rig.later(9_950);
    rig.register(&wire, 3, "pad", None);
    rig.later(60_000);
    rig.ack(&wire, 3, 1);
    rig.unregister(&wire, 3);
    assert_eq!(rig.absences(), []);
    rig.later(10_000);
    assert_eq!(rig.absences(), [(Some("pad".to_owned()), 2, 3, 2, Cause::Departed)]);
    // All acknowledged: it may go.
    rig.later(60_000);
    rig.register(&wire, 4, "phone", Some(3));
    rig.unregister(&wire, 4);
    rig.later(60_000);
    assert_eq!(rig.absences(), []);
}

#[test]
fn what_a_device_leaves_behind_is_told_with_its_marks() {
    let marked = |release: &str| TrafficMarks { release: release.to_owned(), ..TrafficMarks::default() };
    for cause in [Cause::Unacknowledged, Cause::Departed] {
        let mut rig = Rig::new(1000);
        let telling: Telling =
            toml::from_str("[[hook]]\n[[hook]]\nmarks = { release = [\"canary\"] }").unwrap();
        let settings = OfflineSettings { interval_ms: 60_000, departure_ms: 10_000, settle_ms: 0 };
        rig.shard.tell_offline(settings, Interest::new(&telling), rig.now_ms);
        let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
        rig.register(&wire, 1, "phone", None);
        for (id, release) in [(1, "canary"), (2, ""), (3, "canary"), (4, "stable")] {
            let marks = Some(marked(release)).filter(|_| !release.is_empty());
            rig.offer_marked(&sender, id, 10, marks);
        }
        rig.settle();
        if cause == Cause::Departed {
            rig.unregister(&wire, 1);
        }
        for wait_ms in [5_000, 10_000, 20_000, 20_000] {
            rig.later(wait_ms);
        }
        let told = rig.shard.take_notices().into_iter().map(|notice| match notice {
            Notice::Offline(news) => {
                let release = news.marks.map_or(String::new(), |marks| marks.release);
                (news.cause, news.first_sync_id, news.last_sync_id, news.count, release)
            }
            Notice::Alarm(alarm) => panic!("{alarm:?}"),
        });
        let canaries = (cause, 1, 3, 2, "canary".to_owned());
        assert_eq!(told.collect::<Vec<_>>(), [canaries, (cause, 2, 4, 2, "stable".to_owned())]);
    }
}

#[test]
fn a_dead_gateway_s_accounts_are_absent_and_a_lingering_one_s_are_not_yet() {
    let mut rig = Rig::new(1000);
    rig.tell_offline();
    let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.leases.close(&wire.link);
    rig.submit(&sender, 1);
    assert_eq!(rig.absences(), [], "it may come back within its lease");
    // A newer incarnation voids it.
    rig.link("east", 2);
    rig.submit(&sender, 1);
    assert_eq!(rig.absences(), [(None, 2, 2, 1, Cause::Absent)]);
    rig.later(50);
    rig.later(60_000);
    assert_eq!(rig.absences(), [(Some("phone".to_owned()), 1, 2, 2, Cause::Departed)]);
}

#[test]
fn what_becomes_of_a_message_is_counted_once_however_many_devices_and_retries_there_are() {
    let mut rig = Rig::new(1000);
    let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.submit(&sender, 2);
    assert_eq!(rig.arrivals(), ([2, 0, 0, 2, 0], 0));
    rig.register(&wire, 1, "phone", None);
    rig.register(&wire, 2, "pad", None);
    rig.submit(&sender, 1);
    assert_eq!(rig.arrivals(), ([3, 3, 0, 2, 0], 0));
    rig.later(5_000);
    assert_eq!(rig.arrivals(), ([3, 3, 0, 2, 0], 0), "a retry is no delivery");
    rig.ack(&wire, 1, 2);
    assert_eq!(rig.arrivals(), ([3, 3, 2, 2, 0], 2));
    rig.ack(&wire, 2, 3);
    rig.ack(&wire, 1, 3);
    rig.ack(&wire, 1, 1_000);
    assert_eq!(rig.arrivals(), ([3, 3, 3, 2, 0], 3));
    // A device that comes after the others have gone, to a router that knows only what it stored.
    rig.later(CURSOR_FLUSH_MS);
    let mut rig = rig.restart(1000);
    let wire = rig.link("east", 2);
    rig.register(&wire, 3, "watch", None);
    rig.ack(&wire, 3, 3);
    assert_eq!(rig.arrivals(), ([0; 5], 0));
}

#[test]
fn what_retention_removes_before_anybody_acknowledged_it_is_counted() {
    let mut rig = Rig::new(20);
    let (wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    rig.submit(&sender, 10);
    rig.ack(&wire, 1, 10);
    rig.later(CURSOR_FLUSH_MS);
    rig.unregister(&wire, 1);
    // Its answer comes behind the commit that has the position.
    rig.submit(&sender, 1);
    rig.submit(&sender, 89);
    let removed = rig.metrics.trimmed.get();
    assert!(removed > 50);
    assert_eq!(rig.arrivals().0, [100, 10, 10, 90, removed - 10]);
}

#[test]
fn of_questions_to_the_store_so_many_wait_and_the_others_are_told() {
    use crate::limits::QUESTIONS_OUTSTANDING_MAX;
    let mut rig = Rig::new(1000);
    let mut service = rig.link("service", 1);
    let ask = |rig: &mut Rig, service: &Wire| {
        let (link, key) = (service.link.clone(), AccountKey::new("shop", "nobody"));
        rig.shard.apply(Work::Lookup { link, cookie: 1, key }, rig.now_ms);
    };
    for _ in 0..QUESTIONS_OUTSTANDING_MAX + 10 {
        ask(&mut rig, &service);
    }
    let refused = |service: &mut Wire| {
        let bodies = service.bodies(Verb::LookupResult).into_iter();
        let codes = bodies.map(|body| LookupResult::decode(body).unwrap().code());
        codes.filter(|code| *code == Code::Overloaded).count()
    };
    assert_eq!(refused(&mut service), 10);
    rig.settle();
    assert_eq!(rig.shard.take_finds().len(), QUESTIONS_OUTSTANDING_MAX);
    // Those of clients share the room.
    let mut frame = Vec::new();
    let (app, account, device) = ("shop", "alice", "phone");
    let body = &0u64.to_be_bytes();
    Up { session: SessionHandle(1), kind: Kind::ReadMarks.byte(), flags: 0, app, account, device, body }
        .put(&mut frame);
    let up = Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..]);
    for _ in 0..QUESTIONS_OUTSTANDING_MAX + 5 {
        let work = Work::Marks { link: service.link.clone(), hash: alice().hash, up: up.clone() };
        rig.shard.apply(work, rig.now_ms);
    }
    assert_eq!(rig.metrics.marks_refused.get(), 5);
    ask(&mut rig, &service);
    assert_eq!(refused(&mut service), 1);
}

#[test]
fn a_look_up_names_as_many_sessions_as_its_answer_can_carry() {
    use moor_wire::limits::{
        DEVICE_BYTES_MAX, INTERNAL_ADDRESS_BYTES_MAX, LOOKUP_SESSIONS_MAX, NODE_BYTES_MAX,
    };
    let mut rig = Rig::new(1000);
    let mut service = rig.link("service", 1);
    // A store apart may know of sessions at any number of routers.
    let location = Location {
        device: "d".repeat(DEVICE_BYTES_MAX),
        gateway: "g".repeat(NODE_BYTES_MAX),
        epoch: u64::MAX,
        worker: u32::MAX,
        session: u64::MAX,
        internal_address: "a".repeat(INTERNAL_ADDRESS_BYTES_MAX),
        acked: u64::MAX,
    };
    for (count, code) in [(LOOKUP_SESSIONS_MAX, Code::Ok), (4 * LOOKUP_SESSIONS_MAX, Code::Limit)] {
        let link = service.link.clone();
        rig.shard.apply(Work::Lookup { link, cookie: 1, key: alice() }, rig.now_ms);
        rig.settle();
        let ticket = rig.shard.take_finds()[0].ticket;
        let outcome = Ok(vec![location.clone(); count]);
        rig.shard.handle_location(LocationEvent::Found { ticket, outcome });
        let found = LookupResult::decode(service.bodies(Verb::LookupResult).remove(0)).unwrap();
        assert_eq!((found.code(), found.sessions.len()), (code, LOOKUP_SESSIONS_MAX));
    }
}

#[test]
fn what_a_former_link_announced_and_comes_late_moves_nobody_back() {
    let mut rig = Rig::new(1000);
    let (former, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&former, 1, "phone", None);
    // The worker has connected again and announced everything; a frame of its former link was still on its way.
    rig.leases.close(&former.link);
    let mut wire = rig.link("east", 1);
    rig.register(&wire, 1, "phone", None);
    rig.register(&former, 1, "phone", None);
    rig.submit(&sender, 1);
    assert_eq!(wire.delivered(1), [1]);
    rig.synced(&wire);
    rig.later(50);
    rig.later(50);
    rig.submit(&sender, 1);
    assert_eq!(wire.delivered(1), [2], "it is still there");
}

#[test]
fn a_batch_of_sessions_announced_again_is_answered_when_the_store_has_told_of_all_of_them() {
    let mut rig = Rig::new(1000);
    let former = rig.link("east", 1);
    for session in 1..=3 {
        rig.register(&former, session, "phone", None);
    }
    rig.leases.close(&former.link);
    let mut wire = rig.link("east", 1);
    let registration = |session: u64| Registration {
        session,
        app: "shop".into(),
        account: "alice".into(),
        device: "phone".into(),
        last_sync_id: None,
        is_new: false,
    };
    let sessions: Vec<_> = (1..=3).map(|session| (alice().hash, registration(session))).collect();
    let credit = Credit::new(wire.link.clone(), Answer::Registered { batch: 2 }, sessions.len());
    rig.shard.apply(Work::Register { link: wire.link.clone(), sessions, credit }, rig.now_ms);
    // A gateway that comes again announces all it has: its batches wait for each other, not in the store's queue.
    assert_eq!(wire.bodies(Verb::Registered).len(), 0);
    let reads = rig.shard.take_reads();
    assert_eq!(reads.len(), 3);
    rig.store.try_read(reads).unwrap();
    let events = rig.store.events();
    while wire.bodies(Verb::Registered).is_empty() {
        let event = events.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
        rig.shard.handle_store(event, rig.now_ms);
    }
    rig.submit(&former, 1);
    assert_eq!(wire.delivered(1), [1], "on the new link");
}
