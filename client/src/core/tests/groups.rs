//! Groups: entries by every way once and in order, ranges pulled no more often than they are missing.

use moor_wire::client::{Act, GroupAck, GroupCreate, GroupEvent, GroupHead, GroupPage, GroupPosition, Pull};

use super::*;
use crate::limits::{CONVERSATIONS_MAX, PULL_RETRY_MS, RETRY_MS, UNSENT_BYTES_MAX};

impl Server {
    /// Alice holds a group up to an entry.
    fn in_group(sync_id: u64) -> Self {
        let mut server = Self::live();
        server.session.resume_group(1, "team", sync_id);
        server
    }

    fn push(&mut self, sync_id: u64) {
        let entry = GroupDelivery { group: "team".into(), sync_id, ..GroupDelivery::default() };
        self.say(Kind::GroupDelivery, 1, &entry);
    }

    fn heads(&mut self, head: u64, acked: Option<u64>) {
        let head = GroupHead { group: "team".into(), head, acked, ..GroupHead::default() };
        self.say(Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    }

    /// Answers a PULL with entries behind what it names.
    fn answer(&mut self, pull: &Pull, ids: impl IntoIterator<Item = u64>, through: u64, head: u64) {
        let messages = ids.into_iter().map(|sync_id| Delivery { sync_id, ..Delivery::default() }).collect();
        let after = pull.after.unwrap_or(0);
        let (id, group) = (pull.id, pull.group.clone());
        let pulled = Pulled { id, group, after, messages, through, head, ..Pulled::default() };
        self.say(Kind::Pulled, 1, &pulled);
    }

    fn refuse(&mut self, pull: &Pull, code: Code) {
        let (id, group) = (pull.id, pull.group.clone());
        self.say(Kind::Pulled, 1, &Pulled { id, group, code: code as i32, ..Pulled::default() });
    }

    fn pulls(&mut self) -> Vec<Pull> {
        let frames = self.sent();
        let pulls = frames.into_iter().filter(|frame| frame.header.kind == Kind::Pull.byte());
        pulls.map(|frame| Pull::decode(frame.body).unwrap()).collect()
    }

    fn pull(&mut self) -> Pull {
        let mut pulls = self.pulls();
        assert_eq!(pulls.len(), 1, "{pulls:?}");
        pulls.remove(0)
    }

    fn entries(&mut self) -> Vec<u64> {
        let entry = |event| match event {
            Event::GroupMessage { channel: 1, sync_id, .. } => Some(sync_id),
            _ => None,
        };
        self.events().into_iter().filter_map(entry).collect()
    }
}

#[test]
fn what_comes_while_a_range_is_under_way_asks_for_no_further_one() {
    let mut server = Server::in_group(4);
    server.push(7);
    let pull = server.pull();
    assert_eq!(pull.after, Some(4));
    server.push(8);
    server.push(9);
    server.heads(9, Some(4));
    assert_eq!(server.pulls(), [], "one at a time");
    assert!(
        server.session.poll_timeout().is_some_and(|at| at > server.now),
        "nothing to do before the answer"
    );
    server.answer(&pull, 5..=9, 9, 9);
    assert_eq!(server.entries(), [5, 6, 7, 8, 9]);
    server.advance(ANSWER_MS);
    assert_eq!(server.pulls(), [], "nothing is missing any more");
}

#[test]
fn what_the_range_did_not_reach_is_asked_for_at_once() {
    let mut server = Server::in_group(4);
    server.push(7);
    let pull = server.pull();
    server.push(9);
    server.answer(&pull, 5..=7, 7, 7);
    assert_eq!(server.entries(), [5, 6, 7]);
    let pull = server.pull();
    assert_eq!(pull.after, Some(7));
    server.answer(&pull, 8..=9, 9, 9);
    assert_eq!(server.entries(), [8, 9]);
    assert_eq!(server.pulls(), []);
}

#[test]
fn a_gap_that_closes_by_itself_is_not_pulled() {
    let mut server = Server::in_group(4);
    server.heads(6, Some(4));
    let pull = server.pull();
    server.refuse(&pull, Code::Overloaded);
    server.push(5);
    server.push(6);
    assert_eq!(server.entries(), [5, 6]);
    server.advance(PULL_RETRY_MS * 2);
    assert_eq!(server.pulls(), []);
}

#[test]
fn a_router_that_announces_what_it_does_not_hand_out_is_not_stormed() {
    let mut server = Server::in_group(4);
    server.heads(u64::MAX, Some(4));
    let mut asked = 0;
    for _ in 0..100 {
        for pull in server.pulls() {
            asked += 1;
            server.answer(&pull, [], 4, 4);
        }
        server.advance(PULL_RETRY_MS / 10);
    }
    assert!((2..=11).contains(&asked), "{asked} in ten seconds");
}

fn ask(server: &mut Server, id: u64, members: &[&str]) -> Result<(), SubmitError> {
    let members = members.iter().map(|name| (*name).to_owned()).collect();
    let create = GroupCreate { members, ..GroupCreate::default() };
    let request = GroupRequest { id, group: "team".into(), act: Some(Act::Create(create)) };
    server.session.ask_group(1, request, server.now)
}

fn asked(server: &mut Server) -> Vec<u64> {
    let frames = server.sent();
    let asks = frames.into_iter().filter(|frame| frame.header.kind == Kind::Group.byte());
    asks.map(|frame| GroupRequest::decode(frame.body).unwrap().id).collect()
}

fn answers(server: &mut Server) -> Vec<(u64, Code, bool)> {
    let answer = |event| match event {
        Event::GroupAnswer { channel: 1, answer, is_abandoned } => {
            Some((answer.id, answer.code(), is_abandoned))
        }
        _ => None,
    };
    server.events().into_iter().filter_map(answer).collect()
}

#[test]
fn a_request_is_asked_again_until_it_is_answered_over_a_reconnect() {
    let mut server = Server::live();
    ask(&mut server, 7, &[]).unwrap();
    assert_eq!(asked(&mut server), [7]);
    server.advance(ANSWER_MS);
    assert_eq!(asked(&mut server), [7]);
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.connect();
    assert_eq!(asked(&mut server), [7]);
    // A code of a later router: not OK, whatever it means.
    server.say(Kind::Group, 1, &GroupAnswer { id: 7, code: 999, ..GroupAnswer::default() });
    server.say(Kind::Group, 1, &GroupAnswer { id: 7, ..GroupAnswer::default() });
    assert_eq!(answers(&mut server), [(7, Code::Internal, false)], "answered once");
    server.advance(ANSWER_MS * 2);
    assert_eq!(asked(&mut server), NO_IDS);
}

#[test]
fn a_look_that_is_refused_for_now_is_asked_again_and_a_change_is_not() {
    let refuse = |server: &mut Server, id, code: Code| {
        server.say(Kind::Group, 1, &GroupAnswer { id, code: code as i32, ..GroupAnswer::default() });
    };
    let mut server = Server::live();
    let look = |id, act| GroupRequest { id, group: "team".into(), act: Some(act) };
    let page = GroupPage::default;
    for request in [look(7, Act::Members(page())), look(8, Act::List(page()))] {
        server.session.ask_group(1, request, server.now).unwrap();
    }
    assert_eq!(asked(&mut server), [7, 8]);
    refuse(&mut server, 7, Code::Overloaded);
    refuse(&mut server, 8, Code::Unavailable);
    assert_eq!((answers(&mut server), asked(&mut server)), (vec![], vec![]));
    server.advance(2 * RETRY_MS.0 + 1);
    let mut again = asked(&mut server);
    again.sort_unstable();
    assert_eq!(again, [7, 8], "long before an answer is missed");
    refuse(&mut server, 7, Code::Ok);
    refuse(&mut server, 8, Code::NotFound);
    assert_eq!(answers(&mut server), [(7, Code::Ok, false), (8, Code::NotFound, false)]);
    ask(&mut server, 9, &[]).unwrap();
    refuse(&mut server, 9, Code::Storage);
    assert_eq!(answers(&mut server), [(9, Code::Storage, false)]);
}

#[test]
fn what_was_asked_on_a_channel_that_is_closed_for_good_is_answered_with_why() {
    let mut server = Server::live();
    ask(&mut server, 7, &[]).unwrap();
    // One that comes back goes on asking.
    server.say(Kind::Close, 1, &Close { code: Code::Unavailable as i32, ..Close::default() });
    assert_eq!(answers(&mut server), []);
    ask(&mut server, 8, &[]).unwrap();
    server.sent();
    server.advance(5100);
    server.say(Kind::Opened, 1, &Opened { session: 3 });
    assert_eq!(asked(&mut server), [7, 8]);
    server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, ..Close::default() });
    assert_eq!(answers(&mut server), [(7, Code::Kicked, true), (8, Code::Kicked, true)]);
    server.say(Kind::Group, 1, &GroupAnswer { id: 7, ..GroupAnswer::default() });
    assert_eq!(answers(&mut server), []);
}

#[test]
fn nothing_is_taken_on_a_channel_that_was_closed_for_good() {
    let mut server = Server::live();
    server.session.mark_read(1, Conversation::Peer("bob".into()), 5, server.now).unwrap();
    server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, ..Close::default() });
    assert_eq!(ask(&mut server, 7, &[]), Err(SubmitError::NoChannel(1)));
    let marked = server.session.mark_read(1, Conversation::Peer("bob".into()), 6, server.now);
    assert_eq!(marked, Err(SubmitError::NoChannel(1)));
    assert_eq!(server.session.enter(1, "live"), Err(RoomError::NoChannel(1)));
}

#[test]
fn a_request_no_gateway_takes_is_refused_here_and_breaks_nothing() {
    let mut server = Server::live();
    let names: Vec<_> = (0..600).map(|number| format!("{number:0>120}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert!(matches!(ask(&mut server, 7, &names), Err(SubmitError::TooLarge { .. })));
    assert!(server.sent().is_empty());
    ask(&mut server, 8, &names[..200]).unwrap();
    ask(&mut server, 9, &names[..2]).unwrap();
    assert_eq!(asked(&mut server), [8, 9]);
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    let smaller = Connected { heartbeat_ms: 60_000, frame_bytes_max: 4096, ..Connected::default() };
    server.say(Kind::Connected, 0, &smaller);
    assert_eq!(answers(&mut server), [(8, Code::TooLarge, false)]);
    server.say(Kind::Opened, 1, &Opened { session: 1 });
    assert_eq!(asked(&mut server), [9], "the gateway would end the connection over the other");
}

fn acked(server: &mut Server) -> Vec<(String, u64)> {
    let frames = server.sent();
    let acks = frames.into_iter().filter(|frame| frame.header.kind == Kind::GroupAck.byte());
    let positions = acks.flat_map(|frame| GroupAck::decode(frame.body).unwrap().positions);
    positions.map(|position| (position.group, position.sync_id)).collect()
}

#[test]
fn a_group_that_is_left_is_told_once_and_not_told_of_again() {
    let mut server = Server::in_group(4);
    let out = GroupEvent { removed: vec!["alice".into()], ..GroupEvent::default() };
    let entry = GroupDelivery {
        group: "team".into(),
        sync_id: 5,
        is_event: true,
        payload: out.encode_to_vec().into(),
        ..GroupDelivery::default()
    };
    server.say(Kind::GroupDelivery, 1, &entry);
    let events = server.events();
    assert!(matches!(&events[..], [Event::GroupMessage { .. }, Event::GroupLeft { .. }]), "{events:?}");
    server.advance(100);
    // The router tells the heads of what was pushed and is not acknowledged, three times.
    assert_eq!(acked(&mut server), [("team".to_owned(), 5)]);
    assert_eq!(server.session.group_positions(1), []);
}

#[test]
fn of_a_group_that_is_found_to_be_left_nothing_is_told_of_again_that_was_heard_before_the_question() {
    let mut server = Server::in_group(4);
    server.push(8);
    let pull = server.pull();
    // By which the account joins again: it crosses the answer, and is asked for when the router tells of it.
    server.push(9);
    server.refuse(&pull, Code::NotFound);
    let events = server.events();
    assert!(matches!(&events[..], [Event::GroupLeft { .. }]), "{events:?}");
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 8)]);
    server.advance(20_000);
    assert_eq!(acked(&mut server), [], "told once");
}

#[test]
fn a_group_that_is_left_is_nothing_to_the_next_connection() {
    let mut server = Server::in_group(4);
    server.push(8);
    let pull = server.pull();
    server.refuse(&pull, Code::NotFound);
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.connect();
    server.advance(1000);
    assert_eq!(acked(&mut server), [], "nothing was pushed there that waits for it");
}

#[test]
fn what_is_held_from_an_earlier_run_is_gone_on_from_and_told() {
    // The next entry needs nothing, whichever is the first to speak of the group.
    let mut server = Server::in_group(4);
    server.push(5);
    assert_eq!((server.entries(), server.pulls()), (vec![5], vec![]));
    // A router that knows less than is held here is told, one that knows more does not make entries disappear.
    let mut server = Server::in_group(4);
    server.heads(6, Some(2));
    assert_eq!(server.pull().after, Some(4));
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 4)]);
    let mut server = Server::in_group(4);
    server.heads(6, Some(5));
    let pull = server.pull();
    assert_eq!(pull.after, Some(4));
    server.answer(&pull, 5..=6, 6, 6);
    assert_eq!(server.entries(), [5, 6]);
    // Nothing is held: the router says where to begin.
    let mut server = Server::live();
    server.push(9);
    let pull = server.pull();
    assert_eq!(pull.after, None);
    let asked = Pull { after: Some(7), ..pull };
    server.answer(&asked, 8..=9, 9, 9);
    assert_eq!(server.entries(), [8, 9]);
}

/// Somebody who holds as many groups as find a place, each up to its fifth entry, and has since heard of all but "g0".
fn in_many_groups() -> Server {
    let mut server = Server::live();
    for number in 0..CONVERSATIONS_MAX {
        server.session.resume_group(1, &format!("g{number}"), 5);
    }
    for number in 1..CONVERSATIONS_MAX {
        let head = GroupHead { group: format!("g{number}"), head: 5, acked: Some(5), ..GroupHead::default() };
        server.say(Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    }
    assert_eq!(server.pulls(), []);
    server
}

fn entry(group: &str, sync_id: u64) -> GroupDelivery {
    GroupDelivery { group: group.into(), sync_id, ..GroupDelivery::default() }
}

#[test]
fn groups_that_were_left_while_the_device_was_away_take_no_place_from_new_ones() {
    let mut server = in_many_groups();
    server.say(Kind::GroupDelivery, 1, &entry("team", 9));
    let frames = server.sent();
    let mut told = frames.iter().filter(|frame| frame.header.kind == Kind::GroupAck.byte());
    let told = told.any(|frame| {
        let ack = GroupAck::decode(frame.body.clone()).unwrap();
        ack.positions.iter().any(|position| (&*position.group, position.sync_id) == ("g0", 5))
    });
    assert!(told, "what is forgotten is told before");
    let pulls: Vec<_> = frames.iter().filter(|frame| frame.header.kind == Kind::Pull.byte()).collect();
    let [pull] = &pulls[..] else { panic!("{pulls:?}") };
    let pull = Pull::decode(pull.body.clone()).unwrap();
    assert_eq!((&*pull.group, pull.after), ("team", None));
    server.answer(&Pull { after: Some(8), ..pull }, [9], 9, 9);
    assert_eq!(server.entries(), [9]);
    let held = server.session.group_positions(1);
    assert_eq!(held.len(), CONVERSATIONS_MAX);
    assert!(held.contains(&("team".to_owned(), 9)) && !held.iter().any(|(group, _)| group == "g0"));
    // Told of by a head likewise; and one that is back goes on where the router knows it to be.
    let head = GroupHead { group: "g0".into(), head: 6, acked: Some(5), ..GroupHead::default() };
    server.say(Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    let pull = server.pull();
    assert_eq!((&*pull.group, pull.after), ("g0", Some(5)));
}

#[test]
fn a_group_of_which_the_app_or_the_router_owes_something_keeps_its_place() {
    let mut server = in_many_groups();
    server.session.options.auto_acknowledge = false;
    // The app works on an entry of the one, a range of the other is under way.
    server.say(Kind::GroupDelivery, 1, &entry("g0", 6));
    server.say(Kind::GroupDelivery, 1, &entry("g1", 7));
    let pull = server.pull();
    for number in 2..CONVERSATIONS_MAX {
        let head = GroupHead { group: format!("g{number}"), head: 5, acked: Some(5), ..GroupHead::default() };
        server.say(Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    }
    server.say(Kind::GroupDelivery, 1, &entry("team", 9));
    server.session.acknowledge_group(1, "g0", 6, server.now);
    server.answer(&pull, 6..=7, 7, 7);
    assert_eq!(server.entries(), [6, 6, 7]);
    let held = server.session.group_positions(1);
    assert!(held.contains(&("g0".to_owned(), 6)) && held.contains(&("g1".to_owned(), 5)));
    assert!(!held.iter().any(|(group, _)| group == "g2"), "the first that is settled");
}

#[test]
fn a_group_for_which_there_is_no_place_waits_for_one_and_not_for_the_next_login() {
    let mut server = in_many_groups();
    server.session.options.auto_acknowledge = false;
    // The app works on an entry of every group there is a place for.
    for number in 0..CONVERSATIONS_MAX {
        server.say(Kind::GroupDelivery, 1, &entry(&format!("g{number}"), 6));
    }
    assert_eq!(server.entries().len(), CONVERSATIONS_MAX);
    for group in ["team", "work", "team"] {
        server.say(Kind::GroupDelivery, 1, &entry(group, 9));
    }
    let head = GroupHead { group: "work".into(), head: 9, acked: Some(3), ..GroupHead::default() };
    server.say(Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    assert_eq!(server.pulls(), []);
    for (settled, next) in [("g7", "team"), ("g8", "work")] {
        server.session.acknowledge_group(1, settled, 6, server.now);
        server.advance(100);
        let frames = server.sent();
        // The place is left with what the app has of it, the next one goes on where the router knows it to be.
        assert_eq!(kinds(&frames), [Kind::GroupAck, Kind::Pull]);
        let ack = GroupAck::decode(frames[0].body.clone()).unwrap();
        assert_eq!(ack.positions, [GroupPosition { group: settled.into(), sync_id: 6 }]);
        let pull = Pull::decode(frames[1].body.clone()).unwrap();
        assert_eq!((&*pull.group, pull.after), (next, None));
        server.answer(&Pull { after: Some(8), ..pull }, [9], 9, 9);
        assert_eq!(server.entries(), [9]);
    }
    server.session.acknowledge_group(1, "g9", 6, server.now);
    server.advance(100);
    assert_eq!((server.pulls(), server.session.group_positions(1).len()), (vec![], CONVERSATIONS_MAX));
    // Where there is room after the next login, nobody waits for it.
    for (group, sync_id) in [("g9", 7), ("late", 9)] {
        server.say(Kind::GroupDelivery, 1, &entry(group, sync_id));
    }
    server.entries();
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.connect();
    for number in 0..CONVERSATIONS_MAX {
        server.session.acknowledge_group(1, &format!("g{number}"), 6, server.now);
    }
    server.advance(1000);
    assert_eq!(server.pulls(), [], "the router tells anew who is behind");
}

#[test]
fn after_a_reconnect_only_what_changed_is_acknowledged() {
    let mut server = Server::in_group(4);
    server.session.resume_group(1, "work", 7);
    server.push(5);
    server.entries();
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 5)], "the router knows the other");
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.connect();
    server.say(Kind::GroupDelivery, 1, &entry("work", 8));
    server.entries();
    server.advance(100);
    assert_eq!(acked(&mut server), [("work".to_owned(), 8)]);
    // An acknowledgement that was lost with the connection: the router tells that it knows less.
    server.heads(5, Some(4));
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 5)]);
    // One that could not be said any more is said with the next.
    server.push(6);
    server.entries();
    server.session.handle_disconnected(server.now);
    server.now += 60_000;
    server.connect();
    server.say(Kind::GroupDelivery, 1, &entry("work", 9));
    server.entries();
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 6), ("work".to_owned(), 9)]);
    // And a place that the router itself has told is no news to it.
    server.say(Kind::GroupDelivery, 1, &entry("new", 3));
    let pull = server.pull();
    server.answer(&Pull { after: Some(3), ..pull }, [], 3, 3);
    server.push(7);
    server.entries();
    server.advance(100);
    assert_eq!(acked(&mut server), [("team".to_owned(), 7)]);
}

#[test]
fn a_server_that_speaks_of_ever_new_groups_and_does_not_read_fills_nothing() {
    let mut server = in_many_groups();
    let mut out = Vec::new();
    for number in 0..10_000 {
        let head =
            GroupHead { group: format!("{number:0>120}"), head: 5, acked: Some(5), ..GroupHead::default() };
        put_control(&mut out, Kind::GroupHeads, 1, &GroupHeads { heads: vec![head] });
    }
    server.session.handle_bytes(&out, server.now);
    let waiting = server.session.poll_transmit(server.now).unwrap().len();
    assert!(waiting < UNSENT_BYTES_MAX + 4096, "{waiting}");
    assert_eq!(server.session.group_positions(1).len(), CONVERSATIONS_MAX);
}

const NO_IDS: [u64; 0] = [];
