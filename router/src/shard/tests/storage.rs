//! What apps' messages take, and who is refused for it.

use moor_wire::client::TrafficMarks;
use proptest::prelude::*;

use super::*;
use crate::apps::Apps;
use crate::shard::work::PullAsk;
use crate::store::retention::Retention;
use crate::store::{Entry, schema, usage};

const APPS: [&str; 3] = ["shop", "bank", "größer"];

impl Rig {
    fn limit(&mut self, tables: &str) {
        let apps = Apps::new(&toml::from_str(tables).unwrap()).unwrap();
        self.shard.set_apps(Arc::new(apps));
    }

    /// Other rules of retention, and what happens on the same file under them.
    fn retain(&mut self, retention: Retention) {
        let path = self.directory.path().join("messages.sqlite");
        let other = self.directory.path().join("other.sqlite");
        let open =
            |path| Box::new(SqliteStore::open(path, "test", Fsync::Off, retention, &self.metrics).unwrap());
        std::mem::replace(&mut self.store, open(&other)).close();
        let other = open(&path);
        std::mem::replace(&mut self.store, other).close();
    }

    /// The shard's numbers are the file's, and those are what a count of all messages finds.
    fn check_usage(&mut self) {
        let file = schema::open_reader(&self.directory.path().join("messages.sqlite")).unwrap();
        let (mut kept, mut counted) = (usage::read(&file).unwrap(), usage::recount(&file));
        kept.sort();
        counted.sort();
        assert_eq!(kept, counted);
        for app in APPS {
            let stored = kept.iter().find(|(known, _)| **known == *app).map_or(0, |(_, bytes)| *bytes);
            assert_eq!(self.shard.taken(app), (stored, 0), "{app}");
        }
    }
}

fn message(wire: &Wire, app: &str, to: &str, id: u64, bytes: usize) -> Box<Submit> {
    Box::new(Submit {
        to: AccountKey::new(app, to),
        from: "bob".into(),
        client_id: Bytes::copy_from_slice(&id.to_be_bytes()),
        payload: vec![7; bytes].into(),
        sent_at_ms: 1,
        origin: Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 },
        entry: Entry::Personal,
        marks: None,
        copies_bytes: 0,
    })
}

/// What one of [`message`]'s takes.
fn taken_by(bytes: u64) -> u64 {
    usage::message_bytes("bob", &[0; 8], &[]) + bytes
}

#[derive(Clone, Debug)]
enum Step {
    Offer { app: usize, to: u8, id: u64, bytes: usize },
    Settle,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0..APPS.len(), 0..3u8, 0..60u64, 0..300usize)
            .prop_map(|(app, to, id, bytes)| Step::Offer { app, to, id, bytes }),
        3 => Just(Step::Settle),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_counted_is_what_is_there(steps in proptest::collection::vec(step(), 1..250)) {
        let mut rig = Rig::new(5);
        rig.limit("bank = { storage_bytes = 2000 }");
        let mut wire = rig.link("east", 1);
        for step in steps {
            match step {
                Step::Offer { app, to, id, bytes } => {
                    let mut submit = message(&wire, APPS[app], &format!("a{to}"), id, bytes);
                    if id % 4 == 0 {
                        let marks = TrafficMarks { source: "größe".into(), ..TrafficMarks::default() };
                        submit.marks = Some(Box::new(marks));
                    }
                    rig.shard.apply(Work::Submit(submit), rig.now_ms);
                    let (stored, pending) = rig.shard.taken("bank");
                    prop_assert!(stored + pending <= 2000);
                }
                Step::Settle => {
                    rig.settle();
                    rig.check_usage();
                }
                Step::Restart => {
                    rig = rig.restart(5);
                    rig.limit("bank = { storage_bytes = 2000 }");
                    wire = rig.link("east", 1);
                    rig.check_usage();
                }
            }
        }
        rig.settle();
        rig.check_usage();
    }
}

#[test]
fn an_app_whose_storage_is_full_is_refused_at_once_and_nobody_else() {
    let mut rig = Rig::new(1000);
    let limit = 3 * taken_by(100);
    rig.limit(&format!("shop = {{ storage_bytes = {limit} }}"));
    let mut wire = rig.link("east", 1);
    // What is on its way counts: the fourth is refused though nothing is stored yet.
    for id in 0..4 {
        rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", id, 100)), rig.now_ms);
    }
    let refused = wire.results();
    assert_eq!(refused.iter().map(SubmitResult::code).collect::<Vec<_>>(), [Code::Storage]);
    assert!(refused[0].detail.contains("storage_bytes"), "{}", refused[0].detail);
    assert_eq!(refused[0].client_id, 3u64.to_be_bytes()[..]);
    rig.settle();
    assert_eq!(rig.shard.taken("shop"), (limit, 0));
    let accepted = |wire: &mut Wire| wire.results().iter().filter(|result| result.code() == Code::Ok).count();
    assert_eq!(accepted(&mut wire), 3);
    // Another app, and what nobody keeps, go on.
    rig.shard.apply(Work::Submit(message(&wire, "bank", "alice", 0, 100)), rig.now_ms);
    rig.settle();
    assert_eq!(accepted(&mut wire), 1);
    let submit = message(&wire, "shop", "alice", 9, 100);
    rig.shard.apply(Work::Relay { submit, class: Class::Transient }, rig.now_ms);
    assert_eq!(wire.results()[0].code(), Code::NotFound);
    // What makes a group smaller is counted and never refused.
    let mut change = message(&wire, "shop", "alice", 10, 100);
    change.origin = Origin::Change { grows: false };
    rig.shard.apply(Work::Submit(change), rig.now_ms);
    rig.settle();
    assert_eq!(rig.shard.taken("shop"), (limit + taken_by(100), 0));
    assert_eq!((rig.metrics.quota_refused.get(), rig.metrics.refused_storage.get()), (1, 0));
    rig.check_usage();
    // A restart changes nothing of it.
    let mut rig = rig.restart(1000);
    rig.limit(&format!("shop = {{ storage_bytes = {limit} }}"));
    let mut wire = rig.link("east", 2);
    rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", 11, 0)), rig.now_ms);
    assert_eq!(wire.results()[0].code(), Code::Storage);
}

#[test]
fn what_is_refused_later_or_known_already_leaves_its_room() {
    let mut rig = Rig::new(1000);
    rig.limit(&format!("shop = {{ storage_bytes = {} }}", 2 * taken_by(100)));
    let mut wire = rig.link("east", 1);
    rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", 1, 100)), rig.now_ms);
    let writes = rig.shard.take_writes();
    rig.shard.handle_writes_refused(writes);
    assert_eq!((wire.results()[0].code(), rig.shard.taken("shop")), (Code::Overloaded, (0, 0)));
    for _ in 0..3 {
        rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", 1, 100)), rig.now_ms);
        rig.settle();
    }
    assert!(wire.results().iter().all(|result| result.code() == Code::Ok));
    assert_eq!((rig.metrics.duplicates.get(), rig.shard.taken("shop")), (2, (taken_by(100), 0)));
}

#[test]
fn a_commit_that_is_rolled_back_is_not_counted_with_the_next() {
    let mut rig = Rig::new(1000);
    let mut wire = rig.link("east", 1);
    let file = rusqlite::Connection::open(rig.directory.path().join("messages.sqlite")).unwrap();
    file.execute_batch(
        "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN length(new.payload) = 13
         BEGIN SELECT raise(ABORT, 'unlucky'); END",
    )
    .unwrap();
    for (id, bytes) in [(1, 100), (2, 13)] {
        rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", id, bytes)), rig.now_ms);
    }
    rig.settle();
    assert!(wire.results().iter().all(|result| result.code() == Code::Storage));
    rig.shard.apply(Work::Submit(message(&wire, "bank", "alice", 3, 100)), rig.now_ms);
    rig.settle();
    assert_eq!(wire.results()[0].code(), Code::Ok);
    rig.check_usage();
}

#[test]
fn retention_makes_room_again() {
    // By number: an account that has as many as it may have makes room for its next one itself.
    let mut rig = Rig::new(10);
    let limit = 12 * taken_by(100);
    rig.limit(&format!("shop = {{ storage_bytes = {limit} }}"));
    let mut wire = rig.link("east", 1);
    for id in 0..30 {
        rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", id, 100)), rig.now_ms);
        rig.settle();
    }
    assert!(wire.results().iter().all(|result| result.code() == Code::Ok));
    rig.check_usage();

    // By number and by age, where nobody may write: the walk does it.
    let day_ms = 24 * 3600 * 1000;
    let mut rig = Rig::new(1000);
    for (kept, left) in
        [(Retention { walks_for_room: true, ..Retention::new(4, 0) }, 4), (Retention::new(1000, 1), 0)]
    {
        rig.limit(&format!("shop = {{ storage_bytes = {limit} }}"));
        let mut wire = rig.link("east", 1);
        for id in 0..20 {
            let mut submit = message(&wire, "shop", "alice", id, 100);
            submit.sent_at_ms = crate::clock::wall_ms() - 2 * day_ms;
            rig.shard.apply(Work::Submit(submit), rig.now_ms);
        }
        rig.settle();
        assert!(wire.results().iter().any(|result| result.code() == Code::Storage));
        assert_eq!(rig.shard.taken("shop").0, limit);
        rig.retain(kept);
        let event = rig.store.events().recv().unwrap();
        assert!(matches!(&event, StoreEvent::Freed(freed) if freed.len() == 1), "{event:?}");
        rig.shard.handle_store(event, rig.now_ms);
        assert_eq!(rig.shard.taken("shop"), (left * taken_by(100), 0));
        rig.check_usage();
        rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", 100, 100)), rig.now_ms);
        rig.settle();
        assert_eq!(wire.results()[0].code(), Code::Ok);
        rig = rig.restart(1000);
    }
}

#[test]
fn whoever_asks_about_groups_of_apps_that_it_makes_up_leaves_nothing_behind() {
    let mut rig = Rig::new(1000);
    let totals = Arc::<Totals>::default();
    rig.shard.set_usage(Vec::new(), totals.clone());
    let wire = rig.link("east", 1);
    for number in 0..100 {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        let pull = moor_wire::client::Pull { group: "friends".into(), ..Default::default() };
        let ask = Box::new(PullAsk { origin, actor: Some("bob".into()), device: "phone".into(), pull });
        let key = AccountKey::of_group(&format!("app-{number}"), "friends");
        rig.shard.apply(Work::Pull { key, ask }, rig.now_ms);
        rig.settle();
    }
    assert_eq!((rig.metrics.pulls_refused.get(), totals.apps()), (100, 0));
}

#[test]
fn what_a_commit_removes_is_counted_when_it_is_done_and_once() {
    let mut rig = Rig::new(10);
    let wire = rig.link("east", 1);
    let file = rusqlite::Connection::open(rig.directory.path().join("messages.sqlite")).unwrap();
    file.execute_batch(
        "CREATE TRIGGER refuse BEFORE INSERT ON messages WHEN length(new.payload) = 13
         BEGIN SELECT raise(ABORT, 'unlucky'); END",
    )
    .unwrap();
    let mut id = 0;
    let mut offer = |rig: &mut Rig, count: usize, last_bytes: usize| {
        for bytes in std::iter::repeat_n(100, count).chain([last_bytes]) {
            id += 1;
            rig.shard.apply(Work::Submit(message(&wire, "shop", "alice", id, bytes)), rig.now_ms);
        }
        let save = |device: u32| {
            let device = device.to_string().into();
            Write::Cursor(Box::new(CursorSave { key: AccountKey::new("shop", "carol"), device, acked: 1 }))
        };
        let mut writes = rig.shard.take_writes();
        writes.splice(..0, (0..=DEVICES_PER_ACCOUNT_MAX).map(save));
        rig.store.try_write(writes).unwrap();
        rig.settle_writes(count + 1);
    };
    rig.shard.apply(Work::Submit(message(&wire, "shop", "carol", 0, 1)), rig.now_ms);
    rig.settle();
    for _ in 0..3 {
        // In one commit, of which nothing is kept.
        offer(&mut rig, 20, 13);
    }
    let counted = |rig: &mut Rig| {
        let metrics = &rig.metrics;
        let (removed, forgotten) = (metrics.trimmed.get(), metrics.devices_forgotten.get());
        (removed, forgotten, rig.arrivals().0[4])
    };
    assert_eq!(counted(&mut rig), (0, 0, 0));
    offer(&mut rig, 20, 14);
    let (removed, forgotten, expired) = counted(&mut rig);
    assert!((1..=11).contains(&removed), "{removed}");
    assert_eq!((forgotten, expired), (1, removed));
}
