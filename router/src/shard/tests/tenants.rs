//! Apps beside each other in one shard.

use moor_wire::client::{Act, GroupAnswer, GroupCreate, GroupPreference, GroupRequest, ReadMark};

use super::*;
use crate::apps::Apps;
use crate::limits::{STORE_AHEAD_WRITES, WRITES_OUTSTANDING_MAX};
use crate::outbox::Weight;
use crate::shard::work::GroupAsk;
use crate::store::groups::{GroupWrite, PositionSave};

impl Rig {
    fn offer_in(&mut self, wire: &Wire, app: &str, client_id: u64, payload_bytes: usize) {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        let submit = Submit {
            to: AccountKey { hash: account_hash(app, "alice"), app: app.into(), account: "alice".into() },
            from: "bob".into(),
            client_id: Bytes::copy_from_slice(&client_id.to_be_bytes()),
            payload: vec![7; payload_bytes].into(),
            sent_at_ms: 1,
            origin,
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        self.shard.apply(Work::Submit(Box::new(submit)), self.now_ms);
    }

    fn rule(&mut self, tables: &str) {
        let apps = Apps::new(&toml::from_str(tables).unwrap()).unwrap();
        self.shard.set_apps(Arc::new(apps));
    }

    fn read_in(&mut self, wire: &Wire, app: &str, sync_id: u64) {
        let mark = ReadMark { conversation: "bob".into(), sync_id, ..ReadMark::default() };
        let (mut frame, body) = (Vec::new(), mark.encode_to_vec());
        let (session, kind) = (SessionHandle(99), Kind::Read.byte());
        Up { session, kind, flags: 0, app, account: "alice", device: "phone", body: &body }.put(&mut frame);
        let up = Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..]);
        let (link, hash) = (wire.link.clone(), account_hash(app, "alice"));
        self.shard.apply(Work::Marks { link, hash, up }, self.now_ms);
    }

    fn ask_in(&mut self, wire: &Wire, key: AccountKey, id: u64, act: Act) {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        let request = GroupRequest { id, group: format!("group-{id}"), act: Some(act) };
        let ask = GroupAsk { origin, actor: Some("alice".into()), request, at_ms: 1 };
        self.shard.apply(Work::Group { key, ask: Box::new(ask) }, self.now_ms);
    }

    fn acknowledge_in(&mut self, app: &str, acked: u64) {
        let key = AccountKey::of_group(app, "group");
        let save = PositionSave { key, member: "alice".into(), device: "phone".into(), acked };
        self.shard.apply(Work::Positions(vec![save]), self.now_ms);
    }

    /// Writes on their way to the store since the last look, in their order: their app, and which message, mark or position
    /// of it.
    fn handed(&mut self) -> Vec<(String, u64)> {
        let writes = self.shard.take_writes();
        let named = writes.iter().map(|write| match write {
            Write::Submit(submit) => {
                (submit.to.app.to_string(), u64::from_be_bytes(submit.client_id[..].try_into().unwrap()))
            }
            Write::Mark(save) => (save.key.app.to_string(), save.mark.sync_id),
            Write::Group(group) => match &**group {
                GroupWrite::Position(save) => (save.key.app.to_string(), save.acked),
                other => panic!("{other:?}"),
            },
            Write::Cursor(_) => panic!("nobody has acknowledged anything"),
        });
        let named = named.collect();
        self.store.try_write(writes).unwrap();
        named
    }

    /// All that is to be written, in its order.
    fn drain(&mut self) -> Vec<(String, u64)> {
        let (events, mut all) = (self.store.events(), self.handed());
        while self.shard.writes_outstanding > 0 {
            let event = events.recv().unwrap();
            self.shard.handle_store(event, self.now_ms);
            all.extend(self.handed());
        }
        all
    }
}

fn answers(wire: &mut Wire) -> Vec<Code> {
    let answers = wire.pushes().into_iter().filter(|(_, kind, _)| *kind == Kind::Group.byte());
    answers.map(|(_, _, body)| GroupAnswer::decode(&body[..]).unwrap().code()).collect()
}

fn refusals(wire: &mut Wire) -> Vec<String> {
    let refused = wire.results().into_iter().filter(|result| result.code() != Code::Ok);
    refused
        .inspect(|result| assert_eq!(result.code(), Code::Overloaded))
        .map(|result| result.detail)
        .collect()
}

#[test]
fn a_quota_refuses_by_its_name_and_only_its_app() {
    let mut rig = Rig::new(1000);
    rig.rule("noisy = { messages_per_s = 10, bytes_per_s = 1000 }\nquiet = { messages_per_s = 1 }");
    let mut wire = rig.link("east", 1);
    for id in 0..15 {
        rig.offer_in(&wire, "noisy", id, 10);
    }
    rig.offer_in(&wire, "quiet", 0, 10);
    rig.offer_in(&wire, "other", 0, 10);
    rig.settle();
    let told = refusals(&mut wire);
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|detail| detail.contains("messages_per_s")), "{told:?}");
    rig.later(1_000);
    rig.offer_in(&wire, "noisy", 100, 900);
    rig.offer_in(&wire, "noisy", 101, 900);
    rig.settle();
    assert!(refusals(&mut wire)[0].contains("bytes_per_s"));
    // What nobody keeps counts as well.
    rig.later(100);
    let submit = |rig: &mut Rig, wire: &Wire| {
        rig.offer_in(wire, "noisy", 102, 10);
        let Some(Write::Submit(submit)) = rig.shard.take_writes().pop() else { panic!("it was taken") };
        submit
    };
    let submit = submit(&mut rig, &wire);
    for _ in 0..10 {
        let again = Submit {
            to: submit.to.clone(),
            from: submit.from.clone(),
            client_id: submit.client_id.clone(),
            payload: submit.payload.clone(),
            sent_at_ms: 1,
            origin: Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 },
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        let work = Work::Relay { submit: Box::new(again), class: moor_wire::client::Class::Normal };
        rig.shard.apply(work, rig.now_ms);
    }
    assert_eq!(wire.results().iter().filter(|result| result.code() == Code::Overloaded).count(), 1);
    assert_eq!(rig.metrics.quota_refused.get(), 7);
}

#[test]
fn an_app_s_backlog_is_its_own_and_order_within_it_is_kept() {
    let mut rig = Rig::new(100_000);
    rig.rule("heavy = { weight = 3 }");
    let wire = rig.link("east", 1);
    let many = STORE_AHEAD_WRITES as u64 * 3;
    for id in 0..many {
        rig.offer_in(&wire, "noisy", id, 100);
    }
    assert_eq!(rig.handed().len(), STORE_AHEAD_WRITES, "the rest waits here");
    for id in 0..1_000 {
        rig.offer_in(&wire, "quiet", id, 100);
        rig.offer_in(&wire, "heavy", id, 100);
    }
    // One commit's worth makes room, and all of it is shared.
    let event = rig.store.events().recv().unwrap();
    let StoreEvent::Written(written) = &event else { panic!("a commit") };
    let room = written.len();
    rig.shard.handle_store(event, rig.now_ms);
    let handed = rig.handed();
    assert_eq!(handed.len(), room);
    let of = |app: &str| handed.iter().filter(|(of, _)| of == app).map(|(_, id)| *id).collect::<Vec<_>>();
    let (noisy, quiet, heavy) = (of("noisy"), of("quiet"), of("heavy"));
    assert_eq!(quiet, (0..quiet.len() as u64).collect::<Vec<_>>());
    assert_eq!(heavy, (0..heavy.len() as u64).collect::<Vec<_>>());
    assert!(noisy.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    // Five parts, one of them unfinished at most.
    let part = room / 5;
    for (name, got, parts) in
        [("noisy", noisy.len(), 1), ("quiet", quiet.len(), 1), ("heavy", heavy.len(), 3)]
    {
        assert!(
            got + 100 * parts >= part * parts && got <= part * parts + 100 * parts,
            "{name}: {got} of {room}"
        );
    }
}

#[test]
fn a_full_shard_takes_from_the_longest_backlog_for_an_app_with_less() {
    let mut rig = Rig::new(100_000);
    let (wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    let mut wire = wire;
    for id in 0..WRITES_OUTSTANDING_MAX as u64 {
        rig.offer_in(&wire, "noisy", id, 0);
    }
    assert_eq!(refusals(&mut wire), Vec::<String>::new());
    rig.offer_in(&wire, "noisy", 1 << 40, 0);
    assert_eq!(refusals(&mut wire).len(), 1, "its own like");
    for id in 0..5 {
        rig.offer_in(&other, "quiet", id, 0);
    }
    assert_eq!((refusals(&mut other).len(), refusals(&mut wire).len()), (0, 5));
    assert_eq!(rig.shard.writes_outstanding, WRITES_OUTSTANDING_MAX);
    // All the others are stored and answered, none twice and none lost.
    let events = rig.store.events();
    while rig.shard.writes_outstanding > 0 {
        rig.handed();
        let event = events.recv().unwrap();
        rig.shard.handle_store(event, rig.now_ms);
    }
    assert_eq!(rig.metrics.accepted.get(), WRITES_OUTSTANDING_MAX as u64);
    assert_eq!(other.results().iter().filter(|result| result.code() == Code::Ok).count(), 5);
    assert_eq!(rig.shard.tenants.waiting(), 0);
}

#[test]
fn read_marks_preferences_and_changes_of_groups_come_out_of_the_quota() {
    let mut rig = Rig::new(1000);
    rig.rule("noisy = { messages_per_s = 10 }");
    let mut wire = rig.link("east", 1);
    for sync_id in 1..=15 {
        rig.read_in(&wire, "noisy", sync_id);
    }
    rig.read_in(&wire, "quiet", 1);
    rig.settle();
    let told = wire.pushes().into_iter().filter(|(_, kind, _)| *kind == Kind::Read.byte()).count();
    assert_eq!(told, 11, "what is not taken is not answered, and said again");
    assert_eq!((rig.metrics.marks_refused.get(), rig.metrics.quota_refused.get()), (5, 5));
    rig.later(1_000);
    let refused = |answers: &[Code]| answers.iter().filter(|code| **code == Code::Overloaded).count();
    for id in 0..12 {
        let preference = GroupPreference { priority: 1, is_muted: false };
        rig.ask_in(&wire, AccountKey::new("noisy", "alice"), id, Act::Prefer(preference));
    }
    rig.settle();
    let told = answers(&mut wire);
    assert_eq!((told.len(), refused(&told)), (12, 2), "the others are in no such group");
    rig.later(1_000);
    for id in 0..13 {
        let key = AccountKey::of_group("noisy", &format!("group-{id}"));
        rig.ask_in(&wire, key, id, Act::Create(GroupCreate::default()));
    }
    rig.settle();
    assert_eq!(refused(&answers(&mut wire)), 3);
    assert_eq!(rig.metrics.quota_refused.get(), 10);
}

#[test]
fn an_app_s_read_marks_and_positions_wait_in_its_backlog() {
    let mut rig = Rig::new(100_000);
    let wire = rig.link("east", 1);
    let many = STORE_AHEAD_WRITES as u64 * 3;
    for sync_id in 1..=many {
        rig.read_in(&wire, "noisy", sync_id);
    }
    rig.acknowledge_in("noisy", many + 1);
    assert_eq!(rig.handed().len(), STORE_AHEAD_WRITES, "the rest waits here");
    for id in 0..1_000 {
        rig.offer_in(&wire, "quiet", id, 0);
    }
    let all = rig.drain();
    let last = all.iter().rposition(|(app, _)| app == "quiet").unwrap();
    assert!(last < 2_200, "they have every second place, and the last of them is at {last}");
    let noisy: Vec<_> = all.iter().filter(|(app, _)| app == "noisy").map(|(_, id)| *id).collect();
    assert_eq!(noisy, (STORE_AHEAD_WRITES as u64 + 1..=many + 1).collect::<Vec<_>>());
    assert_eq!(rig.metrics.marks_refused.get(), 0);
}

#[test]
fn of_positions_that_wait_the_newest_is_written() {
    let mut rig = Rig::new(100_000);
    let wire = rig.link("east", 1);
    for id in 0..STORE_AHEAD_WRITES as u64 {
        rig.offer_in(&wire, "shop", id, 0);
    }
    for acked in [5, 9, 7] {
        rig.acknowledge_in("shop", acked);
    }
    rig.acknowledge_in("other", 3);
    let all = rig.drain();
    let positions = &all[STORE_AHEAD_WRITES..];
    assert_eq!(positions, [("shop".to_owned(), 9), ("other".to_owned(), 3)]);
    // What comes when it is written is another one.
    rig.acknowledge_in("shop", 10);
    assert_eq!(rig.drain(), [("shop".to_owned(), 10)]);
}

#[test]
fn a_full_shard_takes_an_app_s_marks_and_positions_at_the_cost_of_one_with_more() {
    let mut rig = Rig::new(100_000);
    let (mut wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    for id in 0..WRITES_OUTSTANDING_MAX as u64 {
        rig.offer_in(&wire, "noisy", id, 0);
    }
    // Its own find no place where its messages have taken it.
    rig.read_in(&wire, "noisy", 1);
    rig.acknowledge_in("noisy", 1);
    let lost = |rig: &Rig| (rig.metrics.marks_refused.get(), rig.metrics.positions_dropped.get());
    assert_eq!((lost(&rig), refusals(&mut wire).len()), ((1, 1), 0));
    rig.read_in(&other, "quiet", 1);
    rig.acknowledge_in("quiet", 2);
    assert_eq!((lost(&rig), refusals(&mut wire).len()), ((1, 1), 2));
    let all = rig.drain();
    let quiet: Vec<_> = all.iter().filter(|(app, _)| app == "quiet").map(|(_, id)| *id).collect();
    assert_eq!(quiet, [1, 2]);
    // And what is no message makes way like messages.
    let part = Weight::Normal.share(WRITES_OUTSTANDING_MAX) as u64;
    for sync_id in 1..=part + 10 {
        rig.read_in(&wire, "noisy", sync_id);
    }
    assert_eq!(lost(&rig), (1 + 10, 1));
    rig.acknowledge_in("noisy", 1);
    assert_eq!(lost(&rig), (1 + 10, 2));
    for id in part..WRITES_OUTSTANDING_MAX as u64 + 5 {
        rig.offer_in(&other, "quiet", id, 0);
    }
    assert_eq!((lost(&rig), refusals(&mut other).len()), ((1 + 10 + 5, 2), 0));
    rig.drain();
    assert_eq!(rig.shard.tenants.waiting(), 0);
}

#[test]
fn a_position_that_made_way_is_taken_again() {
    let mut rig = Rig::new(100_000);
    let (mut wire, other) = (rig.link("east", 1), rig.link("west", 1));
    let half = WRITES_OUTSTANDING_MAX as u64 / 2;
    for id in 1..half {
        rig.offer_in(&wire, "noisy", id, 0);
    }
    rig.acknowledge_in("noisy", half);
    for id in 0..half / 2 {
        rig.offer_in(&other, "quiet", id, 0);
        rig.offer_in(&other, "calm", id, 0);
    }
    assert_eq!(rig.metrics.made_way.get(), 0);
    rig.offer_in(&other, "quiet", half, 0);
    assert_eq!((rig.metrics.made_way.get(), rig.metrics.positions_dropped.get()), (1, 1));
    assert_eq!(refusals(&mut wire).len(), 0);
    rig.drain();
    rig.acknowledge_in("noisy", half);
    assert_eq!(rig.drain(), [("noisy".to_owned(), half)]);
}
