//! Retention by age, as a device sees it.

use super::*;
use crate::store::retention::Retention;

const DAY_MS: u64 = 24 * 3600 * 1000;

#[test]
fn messages_past_their_age_go_when_one_more_comes_and_the_floor_says_so() {
    let mut rig = Rig::new(1000);
    let path = rig.directory.path().join("aged.sqlite");
    let aged = SqliteStore::open(&path, "aged", Fsync::Off, Retention::new(1000, 1), &rig.metrics).unwrap();
    std::mem::replace(&mut rig.store, Box::new(aged)).close();
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    // Not before, or the walk, which goes by the wall clock, would come first.
    let now_ms = crate::clock::wall_ms();
    let offer = |rig: &mut Rig, id: u64, sent_at_ms: u64| {
        let origin = Origin::Session { link: sender.link.clone(), session: SessionHandle(99), hash: 1 };
        let client_id = Bytes::copy_from_slice(&id.to_be_bytes());
        let (from, payload) = ("bob".into(), Bytes::from_static(b"hi"));
        let submit = Submit {
            to: alice(),
            from,
            client_id,
            payload,
            sent_at_ms,
            origin,
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        rig.shard.apply(Work::Submit(Box::new(submit)), rig.now_ms);
        rig.settle();
    };
    for id in 0..600 {
        offer(&mut rig, id, now_ms);
    }
    offer(&mut rig, 600, now_ms + DAY_MS);
    assert_eq!(rig.metrics.trimmed_age.get(), 0, "a day old is not older than a day");
    offer(&mut rig, 601, now_ms + DAY_MS + 1);
    assert_eq!(rig.metrics.trimmed_age.get(), 256, "a slice at a time");
    offer(&mut rig, 602, now_ms + DAY_MS + 2);
    offer(&mut rig, 603, now_ms + DAY_MS + 3);
    assert_eq!(rig.metrics.trimmed_age.get(), 600);
    rig.register(&wire, 1, "phone", Some(3));
    let deliveries = wire.deliveries(1);
    assert_eq!(
        deliveries.iter().map(|d| (d.sync_id, d.floor)).collect::<Vec<_>>(),
        [(601, 601), (602, 601), (603, 601), (604, 601)]
    );
    // Its client id went with it.
    offer(&mut rig, 0, now_ms + DAY_MS + 4);
    assert_eq!(wire.delivered(1), [605]);
}

#[test]
fn what_the_walk_writes_to_the_log_is_copied_also_where_nobody_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("messages.sqlite");
    let metrics = Arc::<Metrics>::default();
    let messages = crate::limits::CHECKPOINT_FRAMES / 2 + 2_000;
    {
        let file = crate::store::schema::open_writer(&path, Fsync::Off).unwrap();
        file.execute(
            "INSERT INTO accounts VALUES (1, 'shop', 'alice', ?1, 1)",
            [crate::store::schema::signed(messages)],
        )
        .unwrap();
        file.execute_batch("BEGIN").unwrap();
        for id in 1..=messages {
            let row = rusqlite::params![crate::store::schema::rowid(1, id), id.to_be_bytes()];
            file.execute("INSERT INTO messages VALUES (?1, 1, 'bob', ?2, 5, x'00', 0, NULL)", row).unwrap();
        }
        file.execute_batch("COMMIT").unwrap();
    }
    let store = SqliteStore::open(&path, "test", Fsync::Off, Retention::new(1_000, 1), &metrics).unwrap();
    let events = store.events();
    while metrics.checkpoints.get() == 0 && metrics.retention_rounds.get() < 3 {
        // A step of the walk, or a second one that found nothing.
        events.recv_timeout(std::time::Duration::from_secs(5)).ok();
    }
    assert!(metrics.checkpoints.get() > 0, "{} removed", metrics.trimmed.get());
    Box::new(store).close();
}

#[test]
fn what_groups_and_rooms_kept_does_not_count_as_messages_that_expired() {
    let mut rig = Rig::new(10);
    let sender = rig.link("east", 1);
    let offer = |rig: &mut Rig, to: &str, id: u64| {
        let submit = Submit {
            to: AccountKey::new("shop", to),
            from: "bob".into(),
            client_id: Bytes::copy_from_slice(&id.to_be_bytes()),
            payload: Bytes::from_static(b"hi"),
            sent_at_ms: 1,
            origin: Origin::Service { link: sender.link.clone(), cookie: id },
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        rig.store.try_write(vec![Write::Submit(Box::new(submit))]).unwrap();
        rig.store.events().recv().unwrap();
    };
    for to in ["\u{1}friends", "\u{2}live"] {
        for id in 0..30 {
            offer(&mut rig, to, id);
        }
    }
    let removed = rig.metrics.trimmed.get();
    assert!(removed >= 2 * 19, "{removed}");
    assert_eq!(rig.arrivals().0[4], 0);
    for id in 0..30 {
        offer(&mut rig, "alice", id);
    }
    assert_eq!(rig.arrivals().0[4], rig.metrics.trimmed.get() - removed);
}
