//! Rooms: counts, small and large ones, what types are worth, what is stored and pulled.

use moor_wire::client::{Class, RoomMessage, RoomPulled};
use moor_wire::identity::room_account;
use moor_wire::internal::{RoomStatsResult, SendResult};
use moor_wire::rooms::{RoomPush, RoomState};

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{
    CROSSING_BYTES_MAX, ROOM_DROPPABLE_PER_S, ROOM_HELD_MS, ROOM_RECENT_MAX, ROOM_STATE_MS, ROOMS_MAX,
};
use crate::rooms::RoomSettings;
use crate::shard::rooms::{Pull, RoomWork};

fn room(name: &str) -> AccountKey {
    let account = room_account(name);
    AccountKey { hash: account_hash("shop", &account), app: "shop".into(), account: account.into() }
}

fn submit(to: &AccountKey, wire: &Wire, id: u64, payload: Bytes) -> Box<Submit> {
    Box::new(Submit {
        to: to.clone(),
        from: "bob".into(),
        client_id: Bytes::copy_from_slice(&id.to_be_bytes()),
        payload,
        sent_at_ms: 5,
        origin: Origin::Service { link: wire.link.clone(), cookie: id },
        entry: crate::store::Entry::Personal,
        marks: None,
        copies_bytes: 0,
    })
}

/// What a worker was sent: state, dropped, and class, id and payload of each message.
type Pushed = (RoomState, u64, Vec<(Class, u64, Vec<u8>)>);

impl Wire {
    fn pushed(&mut self) -> Vec<Pushed> {
        let read = |body: Bytes| {
            let push = RoomPush::parse(&body).unwrap();
            assert_eq!((push.app, push.room), ("shop", "live"));
            let message = |record: moor_wire::rooms::Record<'_>| {
                let message = RoomMessage::decode(record.message).unwrap();
                assert_eq!((message.id, message.from.as_str()), (record.id, "bob"));
                (record.class, record.id, message.payload.to_vec())
            };
            (push.state, push.dropped, push.records().map(message).collect())
        };
        self.bodies(Verb::RoomPush).into_iter().map(read).collect()
    }

    fn payloads(&mut self) -> Vec<Vec<u8>> {
        self.pushed().into_iter().flat_map(|(_, _, said)| said).map(|(_, _, payload)| payload).collect()
    }

    fn sent(&mut self) -> Vec<(Code, u64)> {
        let sent = |body: Bytes| SendResult::decode(body).unwrap();
        self.bodies(Verb::SendResult).into_iter().map(sent).map(|sent| (sent.code(), sent.sync_id)).collect()
    }

    fn pulled(&mut self) -> Vec<RoomPulled> {
        let pulls = self.pushes().into_iter().filter(|(_, kind, _)| *kind == Kind::RoomPulled.byte());
        pulls.map(|(_, _, body)| RoomPulled::decode(&body[..]).unwrap()).collect()
    }
}

impl Rig {
    fn rooms(settings: RoomSettings) -> Self {
        let mut rig = Self::new(1000);
        rig.shard.set_rooms(settings, Arc::default());
        rig
    }

    fn count(&mut self, wire: &Wire, members: u32, likes: u64) {
        let work = RoomWork::Count { link: wire.link.clone(), key: room("live"), members, likes };
        self.shard.apply(Work::Room(work), self.now_ms);
        self.settle();
    }

    fn publish(&mut self, wire: &Wire, number: u32, payload: &[u8]) {
        self.offer_to_room(wire, number, payload);
        self.settle();
    }

    /// The same, and the store has not been asked yet.
    fn offer_to_room(&mut self, wire: &Wire, number: u32, payload: &[u8]) {
        self.next_id += 1;
        let submit = submit(&room("live"), wire, self.next_id, payload.to_vec().into());
        self.shard.apply(Work::Room(RoomWork::Publish { submit, number }), self.now_ms);
    }

    fn pull(&mut self, wire: &Wire, after_id: u64) {
        let (key, link) = (room("live"), wire.link.clone());
        let pull = Box::new(Pull { key, link, session: SessionHandle(9), hash: 1, after_id });
        self.shard.apply(Work::Room(RoomWork::Pull(pull)), self.now_ms);
        self.settle();
    }

    fn online(&mut self, service: &mut Wire) -> (u32, u32) {
        let work = RoomWork::Stats { link: service.link.clone(), cookie: 3, key: room("live") };
        self.shard.apply(Work::Room(work), self.now_ms);
        let stats = RoomStatsResult::decode(service.bodies(Verb::RoomStatsResult).remove(0)).unwrap();
        (stats.online, stats.workers)
    }
}

#[test]
fn a_small_room_hears_at_once_once_for_each_worker_with_members() {
    let mut rig = Rig::new(1000);
    let (mut east, mut west, mut empty) = (rig.link("east", 1), rig.link("west", 1), rig.link("empty", 1));
    rig.count(&east, 3, 0);
    rig.count(&west, 1, 2);
    rig.count(&empty, 0, 0);
    let mut service = rig.link("service", 1);
    rig.publish(&service, 0, b"hi");
    let state = RoomState { newest_id: 0, likes: 2, online: 4 };
    let hi = (state, 0, vec![(Class::Normal, 0, b"hi".to_vec())]);
    assert_eq!((east.pushed(), west.pushed(), empty.pushed()), (vec![hi.clone()], vec![hi], vec![]));
    assert_eq!(service.sent(), [(Code::Ok, 0)]);
    rig.count(&west, 0, 0);
    rig.publish(&east, 0, b"ho");
    assert_eq!((east.payloads(), west.payloads().len()), (vec![b"ho".to_vec()], 0));
    // Said to nobody: answered, and gone.
    rig.count(&east, 0, 0);
    rig.publish(&service, 0, b"nobody");
    assert_eq!((service.sent(), east.pushed()), (vec![(Code::Ok, 0)], vec![]));
    rig.later(50);
    assert_eq!(rig.metrics.rooms.get(), 0, "and so is the room");
}

#[test]
fn members_behind_a_void_link_and_of_a_former_one_do_not_count() {
    let mut rig = Rig::new(1000);
    let mut service = rig.link("service", 1);
    let east = rig.link("east", 1);
    let west = rig.link("west", 1);
    rig.count(&east, 5, 0);
    rig.count(&west, 7, 0);
    assert_eq!(rig.online(&mut service), (12, 2));
    // The worker comes back on another link and says it again; then the whole gateway is a newer one.
    rig.leases.close(&east.link);
    let east = rig.link("east", 1);
    rig.count(&east, 6, 0);
    assert_eq!(rig.online(&mut service), (13, 2));
    rig.link("west", 2);
    assert_eq!(rig.online(&mut service), (6, 1));
    // What was on its way from the former one changes nothing.
    rig.count(&west, 7, 0);
    assert_eq!(rig.online(&mut service), (6, 1));
}

#[test]
fn a_large_room_is_collected_until_its_time_or_its_number_and_small_again_at_once() {
    let settings =
        RoomSettings { buffer_members: 10, buffer_ms: 200, buffer_messages: 4, ..RoomSettings::default() };
    let mut rig = Rig::rooms(settings);
    let mut east = rig.link("east", 1);
    rig.count(&east, 10, 0);
    for text in [b"1", b"2"] {
        rig.publish(&east, 0, text);
    }
    rig.later(150);
    assert_eq!(east.pushed(), []);
    rig.later(50);
    let batch = east.pushed();
    assert_eq!((batch.len(), batch[0].2.len()), (1, 2));
    for text in [b"1", b"2", b"3", b"4", b"5"] {
        rig.publish(&east, 0, text);
    }
    let batch = east.pushed();
    assert_eq!((batch.len(), batch[0].2.len()), (1, 4), "as soon as there are so many");
    rig.later(200);
    assert_eq!(east.payloads(), [b"5"]);
    rig.publish(&east, 0, b"6");
    rig.count(&east, 9, 0);
    rig.publish(&east, 0, b"7");
    assert_eq!(east.payloads(), [b"6", b"7"], "in order, and nothing waits any more");
    rig.later(1000);
    assert_eq!(east.pushed(), []);
    // However often it fills between two ticks, it stands in the list once.
    rig.count(&east, 10, 0);
    for _ in 0..5 * 4 + 1 {
        rig.publish(&east, 0, b"x");
    }
    assert_eq!(rig.shard.rooms.collecting(), 1);
    rig.later(200);
    assert_eq!((east.payloads().len(), rig.shard.rooms.collecting()), (21, 0));
}

#[test]
fn each_type_has_its_rate_and_only_the_droppable_is_dropped() {
    let types = "0=normal/2,1=reliable/1,5=droppable/3".parse().unwrap();
    let mut rig = Rig::rooms(RoomSettings { types, ..RoomSettings::default() });
    let mut east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    let mut service = rig.link("service", 1);
    for number in [0, 0, 0, 1, 1, 5, 5, 5, 5, 5] {
        rig.publish(&service, number, b"x");
    }
    let (ok, no) = ((Code::Ok, 0), (Code::Overloaded, 0));
    assert_eq!(service.sent(), [ok, ok, no, (Code::Ok, 1), no, ok, ok, ok, ok, ok]);
    let classes: Vec<_> =
        east.pushed().into_iter().flat_map(|(_, _, said)| said).map(|said| said.0).collect();
    let (normal, droppable) = (Class::Normal, Class::Transient);
    assert_eq!(classes, [normal, normal, Class::Reliable, droppable, droppable, droppable]);
    rig.later(1000);
    rig.publish(&east, 0, b"later");
    let pushed = east.pushed();
    assert_eq!((pushed[0].1, pushed[0].2.len()), (2, 1), "it is told how many are missing");
    assert_eq!(rig.metrics.room_limited.get(), 4);
}

#[test]
fn reliable_messages_have_ids_survive_a_restart_and_are_pulled() {
    let mut rig =
        Rig::rooms(RoomSettings { types: "1=reliable/1000".parse().unwrap(), ..RoomSettings::default() });
    let mut east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    let count = ROOM_RECENT_MAX as u64 + 10;
    for id in 1..=count {
        rig.publish(&east, 1, id.to_string().as_bytes());
    }
    let ids: Vec<_> = east.pushed().iter().map(|(state, _, said)| (state.newest_id, said[0].1)).collect();
    assert_eq!(ids, (1..=count).map(|id| (id, id)).collect::<Vec<_>>());
    // From memory, and from the store.
    for after_id in [count - 3, 4] {
        rig.pull(&east, after_id);
        let pulled = east.pulled().remove(0);
        let ids: Vec<_> = pulled.messages.iter().map(|message| message.id).collect();
        assert_eq!(ids, (after_id + 1..=count).collect::<Vec<_>>());
        assert_eq!((pulled.room.as_str(), pulled.through_id, pulled.newest_id), ("live", count, count));
        let first = &pulled.messages[0];
        assert_eq!((first.from.as_str(), first.r#type, first.sent_at_ms), ("bob", 1, 5));
        assert_eq!(first.payload, (after_id + 1).to_string());
    }
    let mut rig = rig.restart(1000);
    rig.next_id = 1000;
    let mut east = rig.link("east", 2);
    rig.count(&east, 1, 0);
    assert_eq!(east.pushed().iter().map(|(state, ..)| state.newest_id).collect::<Vec<_>>(), [count]);
    // A worker that comes later is told at once.
    let mut west = rig.link("west", 1);
    rig.count(&west, 1, 0);
    assert_eq!(west.pushed().iter().map(|(state, ..)| state.newest_id).collect::<Vec<_>>(), [count]);
    rig.publish(&east, 1, b"next");
    assert_eq!(west.pushed()[0].2[0].1, count + 1);
}

#[test]
fn a_pull_takes_what_fits_a_frame_and_says_how_far_it_went() {
    let mut rig =
        Rig::rooms(RoomSettings { types: "1=reliable/1000".parse().unwrap(), ..RoomSettings::default() });
    let mut east = rig.link("east", 1);
    for _ in 0..5 {
        rig.publish(&east, 1, &[7; 30_000]);
    }
    let mut after_id = 0;
    let mut pulls = 0;
    while after_id < 5 {
        rig.pull(&east, after_id);
        let pulled = east.pulled().remove(0);
        assert_eq!(pulled.messages.last().unwrap().id, pulled.through_id);
        after_id = pulled.through_id;
        pulls += 1;
    }
    assert_eq!(pulls, 3);
    rig.pull(&east, 5);
    let pulled = east.pulled().remove(0);
    assert_eq!((pulled.messages.len(), pulled.through_id, pulled.code()), (0, 5, Code::Ok));
}

#[test]
fn numbers_are_told_now_and_then_where_nothing_is_said() {
    let mut rig = Rig::new(1000);
    let mut east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    rig.later(ROOM_STATE_MS - 50);
    assert_eq!(east.pushed(), []);
    rig.later(50);
    assert_eq!(east.pushed().iter().map(|(state, ..)| state.online).collect::<Vec<_>>(), [1]);
    rig.count(&east, 1, 7);
    rig.count(&east, 2, 0);
    rig.later(ROOM_STATE_MS);
    assert_eq!(east.pushed(), [(RoomState { newest_id: 0, likes: 7, online: 2 }, 0, vec![])]);
    rig.later(ROOM_STATE_MS);
    assert_eq!(east.pushed(), [], "nothing new");
}

#[test]
fn where_the_router_has_its_rooms_no_other_is_taken_and_who_speaks_in_it_is_told() {
    let mut rig = Rig::new(1000);
    let open = Arc::new(AtomicUsize::new(ROOMS_MAX - 1));
    rig.shard.set_rooms(RoomSettings::default(), open.clone());
    let mut east = rig.link("east", 1);
    let mut service = rig.link("service", 1);
    let other = |name: &str, members| {
        let (link, key) = (east.link.clone(), room(name));
        Work::Room(RoomWork::Count { link, key, members, likes: 0 })
    };
    rig.shard.apply(other("other", 1), rig.now_ms);
    rig.settle();
    rig.shard.apply(other("other", 2), rig.now_ms);
    rig.count(&east, 1, 0);
    assert_eq!((rig.metrics.rooms_refused.get(), open.load(Ordering::Relaxed)), (1, ROOMS_MAX));
    for number in [0, 1, 2] {
        rig.publish(&service, number, b"hi");
    }
    let refused = service.bodies(Verb::SendResult).into_iter().map(|body| SendResult::decode(body).unwrap());
    let refused: Vec<_> = refused.map(|sent| (sent.code(), sent.detail.contains("rooms"))).collect();
    assert_eq!(refused, [(Code::Overloaded, true); 3]);
    let work = RoomWork::Stats { link: service.link.clone(), cookie: 3, key: room("live") };
    rig.shard.apply(Work::Room(work), rig.now_ms);
    let stats = RoomStatsResult::decode(service.bodies(Verb::RoomStatsResult).remove(0)).unwrap();
    assert_eq!(stats.code(), Code::Overloaded);
    // One room less, and the next count is taken.
    rig.shard.apply(other("other", 0), rig.now_ms);
    rig.later(50);
    assert_eq!(open.load(Ordering::Relaxed), ROOMS_MAX - 1);
    rig.count(&east, 2, 0);
    rig.publish(&service, 0, b"hi");
    assert_eq!((service.sent(), east.payloads()), (vec![(Code::Ok, 0)], vec![b"hi".to_vec()]));
}

#[test]
fn numbers_that_senders_make_up_share_one_rate() {
    let mut rig = Rig::new(1000);
    let mut east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    for number in 0..ROOM_DROPPABLE_PER_S + 10 {
        rig.publish(&east, 1_000 + number, b"x");
    }
    assert_eq!(rig.metrics.room_limited.get(), 10);
    assert_eq!(east.payloads().len(), ROOM_DROPPABLE_PER_S as usize);
}

#[test]
fn a_count_of_a_former_link_that_comes_late_is_none() {
    let mut rig = Rig::new(1000);
    let former = rig.link("east", 1);
    rig.count(&former, 5, 0);
    rig.leases.close(&former.link);
    let mut wire = rig.link("east", 1);
    rig.count(&wire, 6, 0);
    rig.count(&former, 5, 0);
    rig.publish(&wire, 0, b"hi");
    let pushed = wire.pushed();
    assert_eq!(pushed.iter().map(|(state, ..)| state.online).collect::<Vec<_>>(), [6]);
}

#[test]
fn what_a_room_remembers_holds_nothing_else_of_what_it_was_read_with() {
    let mut rig = Rig::new(1000);
    let mut east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    // A read's worth of frames, of which this message is a part.
    let read = Bytes::from(vec![7; 65_536]);
    let mut submit = submit(&room("live"), &east, 1, read.slice(8..18));
    submit.client_id = read.slice(..8);
    rig.shard.apply(Work::Room(RoomWork::Publish { submit, number: 1 }), rig.now_ms);
    rig.settle();
    rig.pull(&east, 0);
    assert_eq!(east.pulled()[0].messages[0].client_id, read[..8], "it is remembered");
    assert!(read.is_unique(), "and the read's memory is free");
}

/// A room of which the store has three messages, entered anew: what is said meets a read that is not answered yet.
fn said_before_the_store_has_spoken(settings: RoomSettings) -> (Rig, Wire) {
    let mut rig = Rig::rooms(settings.clone());
    let east = rig.link("east", 1);
    rig.count(&east, 1, 0);
    for _ in 0..3 {
        rig.publish(&east, 1, b"old");
    }
    let mut rig = rig.restart(1000);
    rig.shard.set_rooms(settings, Arc::default());
    rig.next_id = 1000;
    let east = rig.link("east", 2);
    let count = RoomWork::Count { link: east.link.clone(), key: room("live"), members: 1, likes: 0 };
    rig.shard.apply(Work::Room(count), rig.now_ms);
    let reads = rig.shard.take_reads();
    assert_eq!(reads.len(), 1);
    rig.offer_to_room(&east, 0, b"hi");
    rig.shard.handle_reads_refused(reads);
    (rig, east)
}

#[test]
fn the_first_batch_of_a_room_waits_for_what_there_was_before() {
    let small = RoomSettings::default();
    let large = RoomSettings { buffer_members: 1, buffer_messages: 1, ..RoomSettings::default() };
    for settings in [small, large] {
        let (mut rig, mut east) = said_before_the_store_has_spoken(settings.clone());
        assert_eq!(east.pushed(), [], "a newcomer would take it that there was nothing");
        // The read is handed over again with the next flush, and what waited goes out with its answer.
        rig.later(CURSOR_FLUSH_MS);
        let pushed = east.pushed();
        let told: Vec<_> = pushed.iter().map(|(state, _, said)| (state.newest_id, said.len())).collect();
        assert_eq!(told, [(3, 1)]);
        rig.publish(&east, 0, b"ho");
        assert_eq!(east.payloads(), [b"ho"], "from then on at once");

        // A message that is stored meanwhile says it as well.
        let (mut rig, mut east) = said_before_the_store_has_spoken(settings);
        rig.publish(&east, 1, b"new");
        let pushed = east.pushed();
        let ids = pushed[0].2.iter().map(|(_, id, _)| *id);
        assert_eq!((pushed[0].0.newest_id, ids.collect::<Vec<_>>()), (4, vec![0, 4]));
    }
}

#[test]
fn a_disk_that_does_not_answer_keeps_a_room_waiting_once_and_not_for_long() {
    let (mut rig, mut east) = said_before_the_store_has_spoken(RoomSettings::default());
    let pass = |rig: &mut Rig, ms: u64| {
        rig.now_ms += ms;
        rig.shard.handle_tick(rig.now_ms);
        // Read, and refused.
        let reads = rig.shard.take_reads();
        rig.shard.handle_reads_refused(reads);
    };
    pass(&mut rig, ROOM_HELD_MS - 1);
    assert_eq!(east.pushed(), []);
    pass(&mut rig, 1);
    assert_eq!(east.payloads(), [b"hi"]);
    rig.offer_to_room(&east, 0, b"ho");
    assert_eq!(east.payloads(), [b"ho"], "at once");
    // The disk is back: everybody is told what there is.
    rig.later(CURSOR_FLUSH_MS);
    assert_eq!(east.pushed().iter().map(|(state, ..)| state.newest_id).collect::<Vec<_>>(), [3]);
}

#[test]
fn runs_for_a_room_of_another_shard_are_bounded_by_their_bytes() {
    let mut rig = Rig::new(1000);
    let wire = rig.link("east", 1);
    let metrics = Arc::<Metrics>::default();
    let mut shard = Shard::new(HERE, Outbox::new(HERE, 2, metrics.clone()), metrics.clone());
    let there = (0..).map(|number: u32| room(&number.to_string())).find(|key| key.hash % 2 == 1).unwrap();
    let said = Bytes::from(vec![7; 60_000]);
    let turns = 2 * CROSSING_BYTES_MAX / (2 * said.len());
    for turn in 0..turns as u64 {
        for id in [2 * turn, 2 * turn + 1] {
            shard.take_for_another(*submit(&there, &wire, id, said.clone()), 5, rig.now_ms);
        }
        shard.hand_runs();
    }
    let mut runs = Vec::new();
    shard.outbox.dispatch(|_, parcel| {
        runs.extend(parcel.work);
        Ok(())
    });
    let bytes: usize = runs.iter().map(Work::bytes).sum();
    let refused = (turns - runs.len()) as u64;
    assert!(refused > 0 && bytes >= runs.len() * 2 * said.len(), "{bytes}");
    assert_eq!((metrics.crossing_refused.get(), metrics.crossing_full.get()), (refused, 0));
    assert_eq!(metrics.room_limited.get(), 2 * refused);
}
