//! What an account's devices are to each other.

use moor_wire::client::{ConversationKind, DeviceAck, ReadMark, ReadMarks};
use moor_wire::internal::Kick;

use super::*;
use crate::apps::Apps;
use crate::limits::{READ_MARKS_PAGE, READ_MARKS_PER_ACCOUNT_MAX};

fn apps(table: &str) -> Arc<Apps> {
    let tables = toml::from_str(&format!("shop = {{ {table} }}")).unwrap();
    Arc::new(Apps::new(&tables).unwrap())
}

impl Rig {
    fn log_in(&mut self, wire: &Wire, session: u64, device: &str) {
        let registration = Registration {
            session,
            app: "shop".into(),
            account: "alice".into(),
            device: device.into(),
            last_sync_id: None,
            is_new: true,
        };
        let credit = Credit::new(wire.link.clone(), Answer::Registered { batch: 1 }, 1);
        let sessions = vec![(alice().hash, registration)];
        self.shard.apply(Work::Register { link: wire.link.clone(), sessions, credit }, self.now_ms);
        self.settle();
    }

    fn say(&mut self, wire: &Wire, session: u64, kind: Kind, body: &[u8]) {
        let mut frame = Vec::new();
        let (app, account, device) = ("shop", "alice", "phone");
        Up { session: SessionHandle(session), kind: kind.byte(), flags: 0, app, account, device, body }
            .put(&mut frame);
        let up = Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..]);
        self.shard.apply(Work::Marks { link: wire.link.clone(), hash: alice().hash, up }, self.now_ms);
        self.settle();
    }

    fn read(&mut self, wire: &Wire, session: u64, peer: &str, sync_id: u64) {
        let mark = ReadMark { conversation: peer.into(), sync_id, ..ReadMark::default() };
        self.say(wire, session, Kind::Read, &mark.encode_to_vec());
    }
}

/// Sessions that are told to go.
fn kicked(wire: &mut Wire) -> Vec<u64> {
    let kicks = wire.bodies(Verb::Kick).into_iter().map(|body| Kick::decode(body).unwrap());
    kicks.inspect(|kick| assert!(kick.reason.contains("logged in"))).map(|kick| kick.session).collect()
}

/// Marks pushed: to which session, about whom, up to where, which version.
fn marks(wire: &mut Wire) -> Vec<(u64, String, u64, u64)> {
    let reads = wire.pushes().into_iter().filter(|(_, kind, _)| *kind == Kind::Read.byte());
    let decoded = reads.map(|(session, _, body)| (session, ReadMark::decode(&body[..]).unwrap()));
    decoded.map(|(session, mark)| (session, mark.conversation, mark.sync_id, mark.version)).collect()
}

fn mark(session: u64, peer: &str, sync_id: u64, version: u64) -> (u64, String, u64, u64) {
    (session, peer.to_owned(), sync_id, version)
}

#[test]
fn only_the_device_that_logged_in_last_stays() {
    let mut rig = Rig::new(1000);
    rig.shard.set_apps(apps("devices = \"latest\""));
    let (mut wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    rig.log_in(&wire, 1, "phone:a");
    rig.log_in(&other, 2, "pad:b");
    assert_eq!((kicked(&mut wire), kicked(&mut other)), (vec![1], vec![]));
    assert_eq!(rig.shard.registry.session_count(), 1, "it is delivered to no more");
    // The device itself, coming back beside its half-open former session.
    rig.log_in(&wire, 3, "pad:b");
    assert_eq!((kicked(&mut wire), kicked(&mut other)), (vec![], vec![]));
    // Announced again, as after a restart of the router: nobody knows who was first.
    rig.register(&wire, 4, "phone:a", None);
    assert_eq!((kicked(&mut wire), kicked(&mut other)), (vec![], vec![]));
    rig.log_in(&wire, 5, "laptop");
    assert_eq!((kicked(&mut wire), kicked(&mut other)), (vec![4, 3], vec![2]));
    assert_eq!(rig.metrics.devices_kicked.get(), 4);
}

#[test]
fn one_device_of_each_kind_stays() {
    let mut rig = Rig::new(1000);
    rig.shard.set_apps(apps("devices = \"one-per-kind\""));
    let mut wire = rig.link("east", 1);
    for (session, device) in [(1, "phone:a"), (2, "pad:b"), (3, "laptop"), (4, "phone:c"), (5, "desktop")] {
        rig.log_in(&wire, session, device);
    }
    assert_eq!(kicked(&mut wire), [1, 3], "a name without a colon is of no kind, which is a kind as well");
    let sender = rig.link("west", 1);
    rig.submit(&sender, 1);
    let mut reached: Vec<u64> = wire
        .pushes()
        .into_iter()
        .filter(|(_, kind, _)| *kind == Kind::Data.byte())
        .map(|(to, ..)| to)
        .collect();
    reached.sort_unstable();
    assert_eq!(reached, [2, 4, 5]);
}

#[test]
fn acknowledgements_are_told_to_the_other_devices_where_the_app_wants_that() {
    let mut rig = Rig::new(1000);
    let mut wire = rig.link("east", 1);
    rig.log_in(&wire, 1, "phone");
    rig.log_in(&wire, 2, "pad");
    rig.submit(&wire, 3);
    let told = |rig: &mut Rig, wire: &mut Wire, position| {
        wire.pushes();
        rig.ack(wire, 1, position);
        let acks = wire.pushes().into_iter().filter(|(_, kind, _)| *kind == Kind::DeviceAck.byte());
        acks.map(|(to, _, body)| (to, DeviceAck::decode(&body[..]).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut rig, &mut wire, 1), []);
    rig.shard.set_apps(apps("device_acks = true"));
    assert_eq!(told(&mut rig, &mut wire, 3), [(2, DeviceAck { device: "phone".into(), sync_id: 3 })]);
    assert_eq!(told(&mut rig, &mut wire, 3), [], "that is no news");
}

#[test]
fn the_highest_mark_wins_reaches_every_device_and_survives_a_restart() {
    let mut rig = Rig::new(1000);
    let (mut wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    rig.log_in(&wire, 1, "phone");
    rig.log_in(&other, 2, "pad");
    rig.read(&wire, 1, "bob", 5);
    assert_eq!(marks(&mut wire), [mark(1, "bob", 5, 1)], "the sender's answer");
    assert_eq!(marks(&mut other), [mark(2, "bob", 5, 1)]);
    // A lower one changes nothing; whoever said it learns what holds, and nobody else hears of it.
    rig.read(&other, 2, "bob", 4);
    assert_eq!((marks(&mut wire), marks(&mut other)), (vec![], vec![mark(2, "bob", 5, 1)]));
    let group = ReadMark {
        kind: ConversationKind::Group.into(),
        conversation: "bob".into(),
        sync_id: 1,
        ..ReadMark::default()
    };
    rig.say(&wire, 1, Kind::Read, &group.encode_to_vec());
    rig.read(&wire, 1, "bob", 9);
    let mut rig = rig.restart(1000);
    let mut wire = rig.link("east", 2);
    rig.say(&wire, 7, Kind::ReadMarks, &1u64.to_be_bytes());
    let pages = wire.pushes();
    let page = ReadMarks::decode(&pages[0].2[..]).unwrap();
    let seen: Vec<_> = page.marks.iter().map(|m| (m.kind, &*m.conversation, m.sync_id, m.version)).collect();
    assert_eq!(seen, [(1, "bob", 1, 2), (0, "bob", 9, 3)], "what changed behind version 1");
    assert_eq!((page.version, page.more, pages.len(), pages[0].0), (3, false, 1, 7));
}

#[test]
fn many_marks_come_in_pages_and_the_one_unmoved_longest_is_forgotten() {
    let mut rig = Rig::new(1000);
    let mut wire = rig.link("east", 1);
    let many = u64::from(READ_MARKS_PER_ACCOUNT_MAX) + 1;
    rig.read(&wire, 1, "peer-1", 1);
    rig.read(&wire, 1, "peer-0", 1);
    // It moves, so it is not the oldest any more.
    rig.read(&wire, 1, "peer-1", 2);
    for peer in 2..many {
        rig.read(&wire, 1, &format!("peer-{peer}"), 1);
    }
    wire.pushes();
    rig.say(&wire, 1, Kind::ReadMarks, &0u64.to_be_bytes());
    let pages: Vec<_> =
        wire.pushes().into_iter().map(|(_, _, body)| ReadMarks::decode(&body[..]).unwrap()).collect();
    let all: Vec<_> = pages.iter().flat_map(|page| &page.marks).collect();
    assert_eq!(all.len(), READ_MARKS_PER_ACCOUNT_MAX as usize);
    assert_eq!((&*all[0].conversation, all[0].sync_id), ("peer-1", 2));
    assert!(all.iter().all(|mark| mark.conversation != "peer-0"));
    assert!(all.windows(2).all(|pair| pair[0].version < pair[1].version));
    assert_eq!(pages.len(), READ_MARKS_PER_ACCOUNT_MAX as usize / READ_MARKS_PAGE + 1);
    assert!(pages.iter().rev().skip(1).all(|page| page.more));
    let last = pages.last().unwrap();
    assert_eq!((last.more, last.version), (false, many + 1));
}

#[test]
fn a_file_of_the_first_version_is_brought_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("messages.sqlite");
    let mut rig = Rig::open(directory, 1000);
    let wire = rig.link("east", 1);
    rig.submit(&wire, 2);
    // Back to what the first version would have written.
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch(
        "DROP TABLE read_marks; DROP TABLE groups; DROP TABLE members; DROP TABLE positions;
         DROP TABLE memberships; DROP TABLE usage; ALTER TABLE messages DROP COLUMN entry;
         ALTER TABLE messages DROP COLUMN marks; PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(file);
    let mut rig = rig.restart(1000);
    let mut wire = rig.link("east", 2);
    rig.read(&wire, 1, "bob", 5);
    rig.register(&wire, 1, "phone", None);
    let pushes = wire.pushes();
    assert_eq!(
        pushes.iter().map(|(_, kind, _)| *kind).collect::<Vec<_>>(),
        [Kind::Data.byte(), Kind::Data.byte(), Kind::Read.byte()]
    );
}
