//! Rooms: entered again after a reconnect, reliable messages once and in order, gaps pulled.

use moor_wire::client::{RoomAck, RoomEnter, RoomLeave, RoomLike, RoomPull, TrafficMarks};
use moor_wire::rooms::ack_spread_ms;

use super::*;
use crate::limits::{ROOM_LIKES_MS, ROOM_PULL_REPEAT_MS, ROOM_SPREAD_MS};

fn message(id: u64) -> RoomMessage {
    RoomMessage { id, payload: id.to_string().into(), ..RoomMessage::default() }
}

impl Server {
    fn in_room() -> Self {
        let mut server = Self::live();
        server.session.enter(1, "live").unwrap();
        let sent = server.sent();
        assert_eq!(kinds(&sent), [Kind::Enter]);
        assert_eq!(
            RoomEnter::decode(sent[0].body.clone()).unwrap(),
            RoomEnter { room: "live".into(), last_id: None }
        );
        server
    }

    fn batch(&mut self, newest_id: u64, ids: &[u64]) {
        let messages = ids.iter().map(|id| message(*id)).collect();
        let batch = RoomBatch { room: "live".into(), messages, newest_id, ..RoomBatch::default() };
        self.say(Kind::Room, 1, &batch);
    }

    fn heard(&mut self) -> Vec<u64> {
        let ids = |event| match event {
            Event::Room { messages, .. } => messages.iter().map(|message| message.id).collect(),
            _ => Vec::new(),
        };
        self.events().into_iter().flat_map(ids).collect()
    }

    fn pass(&mut self, ms: u64) -> Vec<Frame> {
        self.now += ms;
        self.session.handle_timeout(self.now);
        self.sent()
    }
}

#[test]
fn reliable_messages_come_once_and_in_order_and_are_acknowledged_together() {
    let mut server = Server::in_room();
    server.batch(3, &[0, 3, 0]);
    server.batch(4, &[3, 4]);
    assert_eq!(server.heard(), [0, 3, 0, 4], "what was said before is none of its business");
    let sent = server.pass(ROOM_SPREAD_MS);
    assert_eq!(kinds(&sent), [Kind::RoomAck]);
    assert_eq!(RoomAck::decode(sent[0].body.clone()).unwrap().id, 4);
    assert_eq!(server.pass(10_000), []);
    // One that comes again had not been acknowledged in time: it is again.
    server.batch(4, &[4]);
    assert_eq!(server.heard(), [0; 0]);
    assert_eq!(kinds(&server.pass(ROOM_SPREAD_MS)), [Kind::RoomAck]);
}

#[test]
fn in_a_large_room_one_acknowledgement_is_for_all_that_came_in_a_longer_time() {
    let mut server = Server::in_room();
    let mut moments = Vec::new();
    for id in 1..=20 {
        let said = |id| RoomBatch {
            room: "live".into(),
            messages: vec![message(id)],
            online: 40_000,
            ..RoomBatch::default()
        };
        server.say(Kind::Room, 1, &said(id * 2 - 1));
        server.say(Kind::Room, 1, &said(id * 2));
        let acked = (1..=ack_spread_ms(40_000)).filter(|_| !server.pass(1).is_empty());
        moments.push(acked.collect::<Vec<_>>());
    }
    assert!(moments.iter().all(|moments| moments.len() == 1), "{moments:?}");
    assert!(moments.iter().any(|moments| moments[0] > ack_spread_ms(1)), "{moments:?}");
}

#[test]
fn a_gap_is_pulled_until_it_is_closed() {
    let mut server = Server::in_room();
    server.batch(1, &[1]);
    server.batch(4, &[4]);
    assert_eq!(server.heard(), [1]);
    let pulls = |sent: &[Frame]| -> Vec<u64> {
        let pulls = sent.iter().filter(|frame| frame.header.kind == Kind::RoomPull.byte());
        pulls.map(|frame| RoomPull::decode(frame.body.clone()).unwrap().after_id).collect()
    };
    assert_eq!(pulls(&server.pass(ROOM_SPREAD_MS)), [1]);
    assert_eq!(pulls(&server.pass(ROOM_PULL_REPEAT_MS - 1)), [0; 0]);
    assert_eq!(pulls(&server.pass(1)), [1], "an answer that did not come is asked for again");
    let refused = RoomPulled { room: "live".into(), code: Code::Overloaded as i32, ..RoomPulled::default() };
    server.say(Kind::RoomPulled, 1, &refused);
    assert_eq!(pulls(&server.pass(ROOM_PULL_REPEAT_MS + ROOM_SPREAD_MS)), [1]);
    // One that brings nothing is no reason to ask at once, over and over.
    let nothing = RoomPulled { through_id: 1, floor_id: 1, newest_id: 4, code: 0, ..refused.clone() };
    server.say(Kind::RoomPulled, 1, &nothing);
    assert_eq!(pulls(&server.pass(ROOM_PULL_REPEAT_MS - 1)), [0; 0]);
    assert_eq!(pulls(&server.pass(1)), [1]);
    // A part of it, whose beginning is past retention.
    let messages = vec![message(3)];
    let part = RoomPulled { messages, through_id: 3, floor_id: 3, newest_id: 4, code: 0, ..refused.clone() };
    server.say(Kind::RoomPulled, 1, &part);
    assert_eq!(server.heard(), [3]);
    assert_eq!(pulls(&server.pass(0)), [3]);
    let rest = RoomPulled { messages: vec![message(4)], through_id: 4, ..part };
    server.say(Kind::RoomPulled, 1, &rest);
    assert_eq!(server.heard(), [4]);
    assert_eq!(pulls(&server.pass(60_000)), [0; 0]);
}

#[test]
fn an_answer_to_who_was_here_before_is_not_taken_by_who_enters_again() {
    let mut server = Server::in_room();
    server.batch(1, &[1]);
    server.batch(9, &[9]);
    server.pass(ROOM_SPREAD_MS);
    server.session.leave(1, "live");
    server.session.enter(1, "live").unwrap();
    server.batch(2, &[2]);
    server.heard();
    let late =
        RoomPulled { room: "live".into(), through_id: 9, floor_id: 1, newest_id: 9, ..RoomPulled::default() };
    server.say(Kind::RoomPulled, 1, &late);
    server.batch(3, &[3]);
    assert_eq!(server.heard(), [3]);
}

#[test]
fn a_new_login_enters_again_and_says_what_it_has() {
    let mut server = Server::in_room();
    server.batch(2, &[2]);
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    server.sent();
    server.say(Kind::Connected, 0, &Connected { version: 1, heartbeat_ms: 60_000, ..Connected::default() });
    server.batch(9, &[9]);
    server.say(Kind::Opened, 1, &Opened { session: 1 });
    let sent = server.sent();
    let enter = sent.iter().find(|frame| frame.header.kind == Kind::Enter.byte()).unwrap();
    assert_eq!(RoomEnter::decode(enter.body.clone()).unwrap().last_id, Some(2));
    assert_eq!(server.heard(), [2], "what came before OPENED is another login's");
    // Nothing was said meanwhile that is not in the state that greets it.
    server.batch(3, &[]);
    let sent = server.pass(ROOM_SPREAD_MS);
    assert!(kinds(&sent).contains(&Kind::RoomPull), "{:?}", kinds(&sent));
}

#[test]
fn who_comes_back_in_a_later_run_hears_what_is_missing() {
    let mut server = Server::live();
    server.session.enter_behind(1, "live", 3).unwrap();
    let entered = |frames: &[Frame]| {
        let enter = frames.iter().find(|frame| frame.header.kind == Kind::Enter.byte()).unwrap();
        RoomEnter::decode(enter.body.clone()).unwrap().last_id
    };
    assert_eq!(entered(&server.sent()), Some(3));
    server.batch(5, &[]);
    let frames = server.pass(ROOM_SPREAD_MS);
    let pull = frames.iter().find(|frame| frame.header.kind == Kind::RoomPull.byte()).unwrap();
    assert_eq!(RoomPull::decode(pull.body.clone()).unwrap().after_id, 3);
    let messages = vec![message(4), message(5)];
    let pulled =
        RoomPulled { room: "live".into(), messages, through_id: 5, newest_id: 5, ..RoomPulled::default() };
    server.say(Kind::RoomPulled, 1, &pulled);
    assert_eq!(server.heard(), [4, 5]);
    assert_eq!(server.session.room_last_id(1, "live"), Some(5));
    assert_eq!(server.session.room_last_id(1, "elsewhere"), None);
    // One that it is in already is not entered again.
    server.session.enter_behind(1, "live", 1).unwrap();
    assert_eq!(server.session.room_last_id(1, "live"), Some(5));
}

#[test]
fn likes_are_collected_rooms_are_left_and_what_is_wrong_is_told() {
    let mut server = Server::in_room();
    for _ in 0..3 {
        server.session.like(1, "live", 2, server.now);
        server.session.like(1, "elsewhere", 2, server.now);
    }
    let sent = server.pass(ROOM_LIKES_MS);
    assert_eq!(kinds(&sent), [Kind::RoomLike]);
    assert_eq!(RoomLike::decode(sent[0].body.clone()).unwrap().count, 6);
    server.session.leave(1, "live");
    let sent = server.sent();
    assert_eq!(RoomLeave::decode(sent[0].body.clone()).unwrap().room, "live");
    server.batch(1, &[1]);
    assert_eq!(server.heard(), [0; 0]);
    assert!(matches!(server.session.enter(1, "a\n"), Err(RoomError::Name(_))));
    assert_eq!(server.session.enter(7, "live"), Err(RoomError::NoChannel(7)));
    server.session.enter(1, "full").unwrap();
    let refused = moor_wire::client::RoomRefused {
        room: "full".into(),
        code: Code::Limit as i32,
        reason: "too many".into(),
    };
    server.say(Kind::RoomRefused, 1, &refused);
    assert!(matches!(&server.events()[..], [Event::RoomRefused { code: Code::Limit, .. }]));
}

#[test]
fn what_is_said_in_a_room_is_kept_until_it_is_answered() {
    let mut server = Server::live();
    let id = Bytes::from_static(b"id");
    server.session.publish(1, id.clone(), ("live", 5), Bytes::from_static(b"hi"), server.now).unwrap();
    let submit = Submit::decode(server.sent()[0].body.clone()).unwrap();
    assert_eq!((submit.room.as_str(), submit.room_type, submit.to.as_str()), ("live", 5, ""));
    let result = SubmitResult { client_id: id.clone(), ..SubmitResult::default() };
    server.say(Kind::Ack, 1, &result);
    let accepted = Event::Accepted { channel: 1, client_id: id.clone(), sync_id: 0, duplicate: false };
    assert_eq!(server.events(), [accepted]);
    let refused = server.session.publish(1, id, ("", 5), Bytes::new(), server.now);
    assert!(matches!(refused, Err(SubmitError::Name(_))));
}

#[test]
fn what_is_said_in_a_room_carries_its_level_and_its_marks_whenever_it_is_sent() {
    let mut server = Server::live();
    let marks = TrafficMarks { release: "canary".into(), ..TrafficMarks::default() };
    let sending = Sending { class: Class::Transient, level: Some(2), marks: Some(marks.clone()) };
    let id = Bytes::from_static(b"id");
    server.session.publish_as(sending, 1, id, ("live", 5), Bytes::new(), server.now).unwrap();
    for _ in 0..2 {
        let mut sent = server.sent();
        sent.retain(|frame| frame.header.kind == Kind::Data.byte());
        assert_eq!(
            Class::from_flags(sent[0].header.flags),
            Class::Reliable,
            "its type says what it is worth"
        );
        let submit = Submit::decode(sent[0].body.clone()).unwrap();
        assert_eq!((submit.level, submit.marks.as_ref()), (Some(2), Some(&marks)));
        server.advance(ANSWER_MS);
    }
}
