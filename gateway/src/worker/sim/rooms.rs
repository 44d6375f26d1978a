//! Rooms: who is told what, how batches are merged, what is carried again.

use std::collections::BTreeMap;

use moor_wire::Code;
use moor_wire::client::{
    Class, Kind, Open, RoomAck, RoomBatch, RoomEnter, RoomLeave, RoomLike, RoomMessage, RoomPull, RoomPulled,
    RoomRefused, put_control,
};
use moor_wire::frame::Frame;
use moor_wire::internal::{Push, RoomCount, RoomCounts, Up, Verb};
use moor_wire::rooms::{RoomPush, RoomState, ack_spread_ms, put_record};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, decode, settings};
use crate::limits::{
    ROOM_AT_ONCE_MEMBERS, ROOM_BATCHES_PER_TURN_MAX, ROOM_BYTES_PER_TURN_MAX, ROOM_LANE_MEMBERS,
    ROOM_MEMBERS_PER_TURN_MAX, ROOM_REPEAT_MS, ROOM_TRIES,
};
use crate::worker::counters::Counter;
use crate::worker::settings::{RoomSettings, Settings};

fn enter(bed: &mut Bed, peer: Peer, channel: u16, room: &str, last_id: Option<u64>) {
    let mut out = Vec::new();
    put_control(&mut out, Kind::Enter, channel, &RoomEnter { room: room.into(), last_id });
    bed.write(peer, &out);
}

/// Clients with so many sessions each, all of them in one room.
fn audience(bed: &mut Bed, clients: usize, channels: u16) -> Vec<Peer> {
    let phones = bed.crowd(clients, channels);
    for (phone, channel) in phones.iter().flat_map(|phone| (1..=channels).map(|n| (*phone, n))) {
        enter(bed, phone, channel, "live", None);
    }
    phones
}

fn leave(bed: &mut Bed, peer: Peer, channel: u16, room: &str) {
    let mut out = Vec::new();
    put_control(&mut out, Kind::Leave, channel, &RoomLeave { room: room.into() });
    bed.write(peer, &out);
}

fn ack(bed: &mut Bed, peer: Peer, room: &str, id: u64) {
    let mut out = Vec::new();
    put_control(&mut out, Kind::RoomAck, 1, &RoomAck { room: room.into(), id });
    bed.write(peer, &out);
}

/// The router says something in a room: class, reliable id, bytes of the payload.
fn push(bed: &mut Bed, router: Peer, room: &str, newest_id: u64, said: &[(Class, u64, usize)]) {
    push_to(bed, router, room, RoomState { newest_id, likes: 3, online: 9 }, said);
}

fn push_to(bed: &mut Bed, router: Peer, room: &str, state: RoomState, said: &[(Class, u64, usize)]) {
    bed.write(router, &room_push(room, state, said));
}

fn room_push(room: &str, state: RoomState, said: &[(Class, u64, usize)]) -> Vec<u8> {
    let mut records = Vec::new();
    for (class, id, bytes) in said {
        let payload = vec![7; *bytes].into();
        put_record(&mut records, *class, &RoomMessage { id: *id, payload, ..RoomMessage::default() });
    }
    let mut out = Vec::new();
    RoomPush { app: "shop", room, state, dropped: 0, records: &records }.put(&mut out);
    out
}

fn batches(bed: &mut Bed, peer: Peer) -> Vec<(u16, RoomBatch)> {
    let room = |frame: &Frame| frame.header.kind == Kind::Room.byte();
    bed.read(peer).iter().filter(|frame| room(frame)).map(|f| (f.header.channel, decode(f))).collect()
}

/// Ids of the messages of each batch.
fn ids(bed: &mut Bed, peer: Peer) -> Vec<Vec<u64>> {
    let ids = |batch: RoomBatch| batch.messages.iter().map(|message| message.id).collect();
    batches(bed, peer).into_iter().map(|(_, batch)| ids(batch)).collect()
}

fn counts(bed: &mut Bed, router: Peer) -> Vec<(String, u32, u64)> {
    bed.read(router)
        .iter()
        .filter(|frame| frame.header.kind == Verb::RoomCount.byte())
        .flat_map(|frame| decode::<RoomCounts>(frame).rooms)
        .map(|RoomCount { room, members, likes, .. }| (room, members, likes))
        .collect()
}

const NONE: [Vec<u64>; 0] = [];

#[test]
fn members_get_what_is_said_each_on_its_channel_and_nobody_else_does() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (phone, pad, other) = (bed.client(0, "phone"), bed.client(0, "pad"), bed.client(0, "other"));
    bed.open(phone, 1, "alice");
    bed.open(phone, 2, "second");
    bed.open(pad, 7, "alice");
    bed.open(other, 1, "bob");
    enter(&mut bed, phone, 1, "live", None);
    enter(&mut bed, phone, 2, "live", None);
    enter(&mut bed, pad, 7, "live", None);
    enter(&mut bed, other, 1, "quiet", None);
    bed.advance(600);
    let mut told = counts(&mut bed, router);
    told.dedup_by(|later, before| later.0 == before.0 && later.0 != "live");
    assert!(told.contains(&("live".into(), 1, 0)) && told.contains(&("live".into(), 3, 0)), "{told:?}");
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    push(&mut bed, router, "nobody", 0, &[(Class::Normal, 0, 10)]);
    bed.advance(100);
    let mut got = batches(&mut bed, phone);
    got.sort_by_key(|(channel, _)| *channel);
    assert_eq!(got.iter().map(|(channel, _)| *channel).collect::<Vec<_>>(), [1, 2]);
    let batch = &got[0].1;
    assert_eq!((batch.room.as_str(), batch.messages.len(), batch.online, batch.likes), ("live", 1, 9, 3));
    assert_eq!(batches(&mut bed, pad).iter().map(|(channel, _)| *channel).collect::<Vec<_>>(), [7]);
    assert_eq!(batches(&mut bed, other), []);
    // Who leaves, or goes, hears nothing more, and the last one's leaving is told at once.
    leave(&mut bed, phone, 1, "live");
    bed.hang_up(pad);
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    bed.advance(300);
    assert_eq!(batches(&mut bed, phone).iter().map(|(channel, _)| *channel).collect::<Vec<_>>(), [2]);
    counts(&mut bed, router);
    bed.hang_up(phone);
    bed.hang_up(other);
    let mut told = counts(&mut bed, router);
    told.sort();
    assert_eq!(told, [("live".to_owned(), 0, 0), ("quiet".to_owned(), 0, 0)]);
    assert_eq!(bed.counter(Counter::RoomFrames), 4);
    bed.assert_clean();
}

#[test]
fn a_new_router_is_told_everything_and_likes_are_counted() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    enter(&mut bed, phone, 1, "live", None);
    enter(&mut bed, phone, 1, "quiet", None);
    bed.hang_up(router);
    bed.advance(300);
    let router = bed.router(0);
    let mut told = counts(&mut bed, router);
    told.sort();
    assert_eq!(told, [("live".to_owned(), 1, 0), ("quiet".to_owned(), 1, 0)]);
    let mut out = Vec::new();
    for room in ["live", "live", "strange"] {
        put_control(&mut out, Kind::RoomLike, 1, &RoomLike { room: room.into(), count: 600 });
    }
    bed.write(phone, &out);
    bed.advance(600);
    assert_eq!(counts(&mut bed, router), [("live".to_owned(), 1, 1200)]);
}

#[test]
fn what_comes_between_two_batches_is_merged_and_beyond_the_limit_the_droppable_is_left_out() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    enter(&mut bed, phone, 1, "live", None);
    let before = bed.with_socket(phone, |socket| socket.sends);
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    assert_eq!(batches(&mut bed, phone).len(), 1, "the first one at once");
    for _ in 0..5 {
        push(&mut bed, router, "live", 0, &[(Class::Transient, 0, 900), (Class::Normal, 0, 900)]);
    }
    assert_eq!(batches(&mut bed, phone), []);
    bed.advance(200);
    let got = batches(&mut bed, phone);
    assert_eq!(got.len(), 1);
    // 2,000 bytes: one of the droppable ones; normal ones always.
    assert_eq!((got[0].1.messages.len(), got[0].1.dropped), (6, 4));
    assert_eq!(bed.counter(Counter::RoomThinned), 4);
    assert_eq!(bed.with_socket(phone, |socket| socket.sends) - before, 2, "one write each");
    bed.advance(1000);
    assert_eq!(batches(&mut bed, phone), []);
}

#[test]
fn of_chatter_the_newest_stays() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    enter(&mut bed, phone, 1, "live", None);
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    batches(&mut bed, phone);
    for bytes in [801, 802, 803, 804] {
        push(&mut bed, router, "live", 0, &[(Class::Transient, 0, bytes)]);
    }
    // Larger than all that fits: itself is left out, and nothing for it.
    push(&mut bed, router, "live", 0, &[(Class::Transient, 0, 2000)]);
    bed.advance(200);
    let got = batches(&mut bed, phone).remove(0).1;
    let lengths: Vec<_> = got.messages.iter().map(|message| message.payload.len()).collect();
    assert_eq!((lengths, got.dropped), (vec![803, 804], 3));
}

#[test]
fn a_large_room_is_served_over_three_quarters_of_the_time_to_the_next_batch() {
    let rooms = RoomSettings { down_ms: 1000, ..settings().rooms };
    let mut bed = Bed::with(1, Settings { rooms, channels_per_connection_max: 50, ..settings() });
    let router = bed.router(0);
    let phones = audience(&mut bed, 10, 50);
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    let mut served = Vec::new();
    for _ in 0..8 {
        served.push(bed.counter(Counter::RoomFrames));
        bed.advance(100);
    }
    let wanted = |tenths: u64| 500.min(ROOM_AT_ONCE_MEMBERS as u64 + 500 * tenths * 100 / 750);
    assert_eq!(served, (0..8).map(wanted).collect::<Vec<_>>());
    for phone in phones {
        assert_eq!(batches(&mut bed, phone).len(), 50);
    }
}

#[test]
fn members_of_another_lane_hear_what_was_said_until_their_turn_and_everybody_hears_it_once() {
    let rooms = RoomSettings { down_ms: 1000, ..settings().rooms };
    let mut bed = Bed::with(
        1,
        Settings { rooms, channels_per_connection_max: 150, send_queue_bytes_max: 1 << 20, ..settings() },
    );
    let router = bed.router(0);
    // Two lanes and a few.
    let phones = audience(&mut bed, 14, 150);
    // Messages are told from each other by their length.
    let heard = |bed: &mut Bed| {
        let mut heard = BTreeMap::<Vec<usize>, usize>::new();
        for (_, batch) in phones.iter().flat_map(|phone| batches(bed, *phone)) {
            let lengths = batch.messages.iter().map(|message| message.payload.len()).collect();
            *heard.entry(lengths).or_default() += 1;
        }
        heard
    };
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 11)]);
    bed.advance(100);
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 12), (Class::Transient, 0, 13)]);
    bed.advance(890);
    let others = 14 * 150 - ROOM_LANE_MEMBERS;
    assert_eq!(heard(&mut bed), [(vec![11], ROOM_LANE_MEMBERS), (vec![11, 12, 13], others)].into());
    assert_eq!(bed.counter(Counter::RoomBatches), 3);
    // The first lane's next batch. The others have heard everything.
    bed.advance(900);
    assert_eq!(heard(&mut bed), [(vec![12, 13], ROOM_LANE_MEMBERS)].into());
    bed.advance(2000);
    assert_eq!((heard(&mut bed).len(), bed.counter(Counter::RoomBatches)), (0, 4));
}

#[test]
fn a_push_to_one_session_goes_before_a_batch_of_the_same_turn() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (member, other) = (bed.client(0, "member"), bed.client(0, "other"));
    bed.open(member, 1, "alice");
    enter(&mut bed, member, 1, "live", None);
    let session = SessionHandle(bed.open(other, 1, "bob"));
    let mut out = room_push("live", RoomState::default(), &[(Class::Normal, 0, 10)]);
    Push::data(1, session, Class::Normal, b"hello").put(&mut out, false);
    bed.seats[0].kernel.borrow_mut().sends_asked.clear();
    bed.write(router, &out);
    assert_eq!(bed.seats[0].kernel.borrow().sends_asked[..2], [other.slot, member.slot]);
}

/// By how much a counter grows in each turn in which it does, of the next hundred, once the router has said something.
fn steps(bed: &mut Bed, router: Peer, said: &[u8], counter: Counter) -> Vec<u64> {
    bed.seats[0].kernel.borrow_mut().recv_bytes_max = said.len();
    bed.with_socket(router, |socket| socket.inbound.extend(said));
    let mut steps = Vec::new();
    for _ in 0..100 {
        let before = bed.counter(counter);
        bed.turn();
        steps.push(bed.counter(counter) - before);
    }
    steps.retain(|step| *step > 0);
    steps
}

#[test]
fn a_turn_has_so_many_members_and_bytes_however_large_the_room() {
    let rooms = RoomSettings { down_ms: 0, ..settings().rooms };
    let mut bed = Bed::with(
        1,
        Settings { rooms, channels_per_connection_max: 10, send_queue_bytes_max: 1 << 20, ..settings() },
    );
    let router = bed.router(0);
    audience(&mut bed, 30, 10);
    for bytes in [10, 20_000] {
        let said = room_push("live", RoomState::default(), &[(Class::Normal, 0, bytes)]);
        let steps = steps(&mut bed, router, &said, Counter::RoomFrames);
        assert_eq!(steps.iter().sum::<u64>(), 300);
        // The last one may be longer than what was left.
        let max = ROOM_MEMBERS_PER_TURN_MAX.min(ROOM_BYTES_PER_TURN_MAX / bytes + 1) as u64;
        assert!(steps.iter().all(|step| *step <= max), "{bytes}: {steps:?}");
    }
}

#[test]
fn a_worker_is_behind_until_all_have_a_batch_that_may_have_it_by_now() {
    let rooms = RoomSettings { down_ms: 1000, ..settings().rooms };
    let mut bed = Bed::with(1, Settings { rooms, channels_per_connection_max: 10, ..settings() });
    let router = bed.router(0);
    audience(&mut bed, 30, 10);
    let said = room_push("live", RoomState::default(), &[(Class::Normal, 0, 10)]);
    bed.with_socket(router, |socket| socket.inbound.extend(said));
    let mut seen = Vec::new();
    for _ in 0..100 {
        bed.turn();
        seen.push((bed.counter(Counter::RoomFrames), bed.seats[0].worker.rooms.is_behind(bed.now)));
    }
    let at_once = ROOM_AT_ONCE_MEMBERS as u64;
    assert_eq!(seen.last(), Some(&(at_once, false)), "the others follow at their time");
    let behind = seen.iter().filter(|(_, behind)| *behind).count();
    assert_eq!(behind, ROOM_AT_ONCE_MEMBERS / ROOM_MEMBERS_PER_TURN_MAX, "each turn that did all it may");
}

#[test]
fn rooms_that_are_due_together_begin_in_several_turns() {
    let rooms = RoomSettings { per_channel_max: 200, per_worker_max: 200, ..settings().rooms };
    let mut bed = Bed::with(1, Settings { rooms, send_queue_bytes_max: 1 << 20, ..settings() });
    let router = bed.router(0);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    let mut said = Vec::new();
    for number in 0..200 {
        let room = format!("room-{number}");
        enter(&mut bed, phone, 1, &room, None);
        said.extend(room_push(&room, RoomState::default(), &[(Class::Normal, 0, 10)]));
    }
    let steps = steps(&mut bed, router, &said, Counter::RoomBatches);
    assert_eq!(steps.iter().sum::<u64>(), 200);
    assert!(steps.iter().all(|step| *step <= ROOM_BATCHES_PER_TURN_MAX as u64), "{steps:?}");
    bed.advance(100);
    assert_eq!(batches(&mut bed, phone).len(), 200);
}

#[test]
fn reliable_messages_come_again_to_who_does_not_acknowledge_them_three_times_in_all() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (good, deaf) = (bed.client(0, "good"), bed.client(0, "deaf"));
    for peer in [good, deaf] {
        bed.open(peer, 1, "alice");
        enter(&mut bed, peer, 1, "live", None);
    }
    push(&mut bed, router, "live", 1, &[(Class::Reliable, 1, 10)]);
    assert_eq!((ids(&mut bed, good), ids(&mut bed, deaf)), (vec![vec![1]], vec![vec![1]]));
    ack(&mut bed, good, "live", 1);
    // Few are there: who acknowledges does so in the shortest time.
    let repeat_ms = ack_spread_ms(2) + u64::from(settings().rooms.down_ms) * 3 / 4 + ROOM_REPEAT_MS;
    for _ in 1..ROOM_TRIES {
        bed.advance(repeat_ms - 200);
        assert_eq!(ids(&mut bed, deaf), NONE);
        bed.advance(200);
        assert_eq!((ids(&mut bed, good), ids(&mut bed, deaf)), (NONE.to_vec(), vec![vec![1]]));
    }
    // Given up: it is told that there is one, and may pull it.
    bed.advance(repeat_ms);
    let told = batches(&mut bed, deaf);
    assert_eq!((told.len(), told[0].1.messages.len(), told[0].1.newest_id), (1, 0, 1));
    bed.advance(10_000);
    assert_eq!((ids(&mut bed, good), ids(&mut bed, deaf)), (NONE.to_vec(), NONE.to_vec()));
    assert_eq!(bed.counter(Counter::RoomRepeats), u64::from(ROOM_TRIES));
    // With the next batch it comes along for one and not for the other.
    push(&mut bed, router, "live", 2, &[(Class::Reliable, 2, 10)]);
    bed.advance(repeat_ms - 100);
    ack(&mut bed, good, "live", 2);
    ids(&mut bed, good);
    ids(&mut bed, deaf);
    bed.advance(100);
    push(&mut bed, router, "live", 2, &[(Class::Normal, 0, 10)]);
    bed.advance(200);
    let (good, deaf) = (ids(&mut bed, good).concat(), ids(&mut bed, deaf).concat());
    assert_eq!((good, deaf.contains(&2), deaf.contains(&0)), (vec![0], true, true));
}

#[test]
fn in_a_large_room_acknowledgements_are_waited_for_longer() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let deaf = bed.client(0, "deaf");
    bed.open(deaf, 1, "alice");
    enter(&mut bed, deaf, 1, "live", None);
    let state = RoomState { newest_id: 1, online: 100_000, ..RoomState::default() };
    push_to(&mut bed, router, "live", state, &[(Class::Reliable, 1, 10)]);
    assert_eq!(ids(&mut bed, deaf), [[1]]);
    bed.advance(ack_spread_ms(100_000) + ROOM_REPEAT_MS);
    assert_eq!(ids(&mut bed, deaf), NONE);
    bed.advance(u64::from(settings().rooms.down_ms));
    assert_eq!(ids(&mut bed, deaf), [[1]]);
}

#[test]
fn who_comes_back_behind_is_told_at_once_and_pulls_from_the_router() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (phone, pad) = (bed.client(0, "phone"), bed.client(0, "pad"));
    bed.open(phone, 1, "alice");
    let session = bed.open(pad, 1, "bob");
    enter(&mut bed, phone, 1, "live", None);
    push(&mut bed, router, "live", 5, &[(Class::Reliable, 5, 10)]);
    ack(&mut bed, phone, "live", 5);
    enter(&mut bed, pad, 1, "live", Some(3));
    let told = batches(&mut bed, pad);
    assert_eq!((told.len(), told[0].1.newest_id), (1, 5));
    bed.read(router);
    let mut out = Vec::new();
    put_control(&mut out, Kind::RoomPull, 1, &RoomPull { room: "live".into(), after_id: 3 });
    bed.write(pad, &out);
    let frames = bed.read(router);
    let up = frames.iter().find(|frame| frame.header.kind == Verb::Up.byte()).unwrap();
    let up = Up::parse(&up.body).unwrap();
    assert_eq!((up.session.0, up.kind, up.account), (session, Kind::RoomPull.byte(), "bob"));
    bed.hang_up(router);
    bed.write(pad, &out);
    let frames = bed.read(pad);
    let pulled: RoomPulled =
        decode(frames.iter().find(|f| f.header.kind == Kind::RoomPulled.byte()).expect("an answer"));
    assert_eq!(pulled.code(), Code::Unavailable, "never pretended");
}

#[test]
fn limits_are_refused_with_words_and_harm_nothing_else() {
    let mut bed = Bed::new();
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    for room in ["a", "b", "c"] {
        enter(&mut bed, phone, 1, room, None);
    }
    assert_eq!(bed.read(phone), []);
    enter(&mut bed, phone, 1, "d", None);
    enter(&mut bed, phone, 1, "", None);
    let refused: Vec<RoomRefused> = bed.read(phone).iter().map(decode).collect();
    let codes: Vec<_> = refused.iter().map(|refused| (refused.room.as_str(), refused.code())).collect();
    assert_eq!(codes, [("d", Code::Limit), ("", Code::Invalid)]);
    assert_eq!((bed.counter(Counter::RoomsRefused), bed.counter(Counter::RoomMembers)), (2, 0));
    enter(&mut bed, phone, 9, "a", None);
    assert_eq!(bed.read(phone)[0].header.kind, Kind::Close.byte(), "no such channel");
    assert!(bed.is_open(phone));
    bed.hang_up(phone);
    bed.assert_clean();
}

#[test]
fn an_app_with_as_many_rooms_as_it_may_have_is_refused_and_no_other() {
    let settings = Settings { rooms: RoomSettings { per_app_max: 1, ..settings().rooms }, ..settings() };
    let mut bed = Bed::with(1, settings);
    bed.router(0);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    let mut out = Vec::new();
    let open = Open { app: "bank".into(), account: "alice".into(), ..Open::default() };
    put_control(&mut out, Kind::Open, 2, &open);
    bed.write(phone, &out);
    bed.read(phone);
    enter(&mut bed, phone, 1, "a", None);
    enter(&mut bed, phone, 1, "b", None);
    enter(&mut bed, phone, 2, "b", None);
    let refused: Vec<RoomRefused> = bed.read(phone).iter().map(decode).collect();
    let codes: Vec<_> = refused.iter().map(|refused| (refused.room.as_str(), refused.code())).collect();
    assert_eq!(codes, [("b", Code::Limit)]);
    leave(&mut bed, phone, 1, "a");
    bed.advance(600);
    enter(&mut bed, phone, 1, "b", None);
    assert_eq!(bed.read(phone), [], "there is room again");
    bed.hang_up(phone);
    bed.assert_clean();
}

#[test]
fn who_does_not_read_loses_batches_and_is_not_closed_for_it() {
    let settings = Settings { rooms: RoomSettings { down_ms: 0, ..settings().rooms }, ..settings() };
    let mut bed = Bed::with(1, settings);
    let router = bed.router(0);
    let (slow, quick) = (bed.client(0, "slow"), bed.client(0, "quick"));
    for peer in [slow, quick] {
        bed.open(peer, 1, "alice");
        enter(&mut bed, peer, 1, "live", None);
    }
    bed.with_socket(slow, |socket| socket.window = 10);
    for id in 1..=20 {
        push(&mut bed, router, "live", id, &[(Class::Reliable, id, 1000), (Class::Normal, 0, 1000)]);
        ack(&mut bed, quick, "live", id);
    }
    assert_eq!(ids(&mut bed, quick).len(), 20);
    assert!(bed.is_open(slow));
    assert!(bed.counter(Counter::SendQueuedBytes) <= 8192 && bed.counter(Counter::FramesEvicted) > 0);
}

#[test]
fn a_room_left_and_entered_again_is_listed_once() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (peer, other) = (bed.client(0, "phone"), bed.client(0, "other"));
    bed.open(peer, 1, "alice");
    bed.open(other, 1, "bob");
    enter(&mut bed, peer, 1, "live", None);
    let mut flap = Vec::new();
    put_control(&mut flap, Kind::Leave, 1, &RoomLeave { room: "live".into() });
    put_control(&mut flap, Kind::Enter, 1, &RoomEnter { room: "live".into(), last_id: None });
    for _ in 0..10 {
        push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
        bed.advance(100);
        push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
        bed.write(peer, &flap);
        bed.seats[0].worker.rooms.validate();
    }
    // The place of a room that is gone is another's.
    push(&mut bed, router, "live", 0, &[(Class::Normal, 0, 10)]);
    leave(&mut bed, peer, 1, "live");
    enter(&mut bed, other, 1, "next", None);
    push(&mut bed, router, "next", 0, &[(Class::Normal, 0, 10)]);
    bed.seats[0].worker.rooms.validate();
    bed.hang_up(peer);
    bed.hang_up(other);
    bed.assert_clean();
}

#[test]
fn rooms_that_nobody_is_in_make_way_while_the_router_is_away() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (peer, other) = (bed.client(0, "phone"), bed.client(0, "other"));
    bed.open(peer, 1, "alice");
    bed.open(other, 1, "bob");
    enter(&mut bed, other, 1, "stays", None);
    bed.seats[0].kernel.borrow_mut().router_listens = false;
    bed.hang_up(router);
    // More than the worker may have at a time.
    for number in 0..20 {
        let room = format!("room-{number}");
        enter(&mut bed, peer, 1, &room, None);
        leave(&mut bed, peer, 1, &room);
    }
    assert_eq!((bed.counter(Counter::RoomsRefused), bed.seats[0].worker.rooms.rooms_open()), (0, 1));
    enter(&mut bed, peer, 1, "new", None);
    bed.seats[0].kernel.borrow_mut().router_listens = true;
    bed.advance(2500);
    let router = bed.router(0);
    bed.settle();
    let mut told = counts(&mut bed, router);
    told.sort();
    assert_eq!(told, [("new".to_owned(), 1, 0), ("stays".to_owned(), 1, 0)]);
}
