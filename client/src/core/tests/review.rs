//! Frames that arrive where they do not belong.

use super::*;

fn sync_asked(frames: &[Frame]) -> Vec<u64> {
    let syncs = frames.iter().filter(|f| f.header.kind == Kind::Sync.byte());
    syncs.map(|f| sync_id(&f.body).unwrap()).collect()
}

#[test]
fn the_last_accounts_opened_does_not_open_the_next_accounts_channel() {
    let mut server = Server::live();
    // Alice is opened and replaced by bob before her OPENED is here: the gateway answers both, in order.
    server.session.open(3, "shop", "alice", Bytes::new(), Some(0));
    server.session.open(3, "shop", "bob", Bytes::new(), Some(0));
    server.sent();
    server.say(Kind::Opened, 3, &Opened { session: 31 });
    server.deliver(3, 1, 1);
    assert!(server.events().is_empty(), "alice's messages are not bob's");
    server.say(Kind::Opened, 3, &Opened { session: 32 });
    server.deliver(3, 1, 1);
    let events = server.events();
    assert_eq!(events[0], Event::Opened { channel: 3, session: 32 });
    assert!(matches!(events[1], Event::Message { channel: 3, sync_id: Some(1), .. }));
}

#[test]
fn an_answer_to_the_last_account_is_none_to_the_next() {
    let mut server = Server::live();
    server.submit("1");
    server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
    server.submit("1");
    server.sent();
    server.result("1", Code::Ok);
    assert!(
        !server.events().iter().any(|e| matches!(e, Event::Accepted { .. })),
        "carol's was not even sent"
    );
}

#[test]
fn what_the_app_has_not_taken_of_the_last_account_acknowledges_nothing_of_the_next() {
    let mut server = Server::live();
    server.deliver(1, 1, 1);
    server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
    server.say(Kind::Opened, 1, &Opened { session: 9 });
    server.deliver(1, 1, 1);
    let first = server.session.poll_event(server.now);
    assert!(matches!(first, Some(Event::Opened { channel: 1, session: 9 })), "{first:?}");
    assert_eq!(server.session.last_sync_id(1), Some(0), "nothing of carol's is processed yet");
}

#[test]
fn closed_for_good_stays_closed() {
    let mut server = Server::live();
    server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, ..Close::default() });
    server.events();
    server.say(Kind::Opened, 1, &Opened { session: 4 });
    server.say(Kind::Close, 1, &Close { code: Code::Draining as i32, ..Close::default() });
    server.deliver(1, 1, 1);
    assert!(server.events().is_empty());
    server.advance(30_000);
    assert!(!kinds(&server.sent()).contains(&Kind::Open), "a kicked device does not come back by itself");
}

#[test]
fn a_sync_names_what_is_processed_not_what_is_received() {
    let mut server = Server::live();
    server.session.options.auto_acknowledge = false;
    for id in 1..=4 {
        server.deliver(1, id, 1);
    }
    server.messages();
    server.session.acknowledge(1, 2, server.now);
    server.sent();
    server.deliver(1, 7, 1);
    assert_eq!(sync_asked(&server.sent()), [2], "the router takes the named id for acknowledged");
    for id in 3..=7 {
        server.deliver(1, id, 1);
    }
    assert_eq!(server.messages(), [(1, 5), (1, 6), (1, 7)]);
}

#[test]
fn a_proposal_above_what_this_client_can_keep_is_not_kept() {
    let mut options = Options::new("phone");
    options.heartbeat_max_ms = 10_000;
    let mut session = Session::new(options, 1);
    session.handle_dialling();
    session.handle_connected(0);
    let mut server = Server { session, now: 0 };
    server.sent();
    server.say(Kind::Connected, 0, &Connected { heartbeat_ms: u32::MAX, ..Connected::default() });
    server.advance(10_000);
    assert_eq!(kinds(&server.sent()), [Kind::Ping]);
}

#[test]
fn opened_before_connected_is_what_no_server_sends() {
    let mut server = Server::new();
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    server.submit("one");
    server.sent();
    server.say(Kind::Opened, 1, &Opened { session: 1 });
    assert!(server.submits_sent().is_empty(), "nothing is said to a server that has not answered CONNECT");
}

#[test]
fn a_late_frames_not_found_does_not_end_a_channel_that_comes_back() {
    let mut server = Server::live();
    // The gateway closes the channel while an ACK is on its way, and answers that ACK with NOT_FOUND.
    server.say(Kind::Close, 1, &Close { code: Code::Unavailable as i32, ..Close::default() });
    server.say(Kind::Close, 1, &Close { code: Code::NotFound as i32, ..Close::default() });
    let closes: Vec<_> = server.events().into_iter().filter(|e| matches!(e, Event::Closed { .. })).collect();
    assert_eq!(closes.len(), 1, "one end, one event");
    server.advance(5100);
    assert!(kinds(&server.sent()).contains(&Kind::Open));
}

#[test]
fn marks_of_the_last_account_are_none_of_the_next() {
    let mut server = Server::live();
    server.session.options.read_marks = true;
    server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
    server.sent();
    let mark = |version| ReadMark { conversation: "bob".into(), sync_id: 5, version, ..ReadMark::default() };
    server.say(Kind::Read, 1, &mark(1));
    server.say(Kind::ReadMarks, 1, &ReadMarks { marks: vec![mark(500)], version: 500, more: false });
    server.say(Kind::DeviceAck, 1, &DeviceAck { device: "pad".into(), sync_id: 4 });
    assert_eq!(server.events(), [], "alice's");
    assert!(server.sent().is_empty(), "nothing is asked before OPENED");
    server.say(Kind::Opened, 1, &Opened { session: 9 });
    let frames = server.sent();
    assert_eq!(kinds(&frames), [Kind::ReadMarks]);
    assert_eq!(sync_id(&frames[0].body), Some(0), "carol's begin with her first");
}

#[test]
fn what_nobody_has_taken_of_the_last_login_is_not_taken_for_the_next() {
    let mut server = Server::live();
    let mark = ReadMark { conversation: "bob".into(), sync_id: 5, version: 1, ..ReadMark::default() };
    server.say(Kind::Read, 1, &mark);
    server.deliver(1, 5, 5);
    server.submit("one");
    server.result("one", Code::Ok);
    server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, ..Close::default() });
    server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
    // What became of a message is news even now.
    let events = server.events();
    assert!(matches!(&events[..], [Event::Accepted { channel: 1, .. }]), "{events:?}");
}

#[test]
fn a_late_frames_not_found_is_no_answer_to_a_login() {
    let mut server = Server::live();
    server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, ..Close::default() });
    server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
    server.session.open(1, "shop", "dave", Bytes::new(), Some(0));
    server.events();
    // Of an ACK that was on its way when alice was kicked.
    server.say(Kind::Close, 1, &Close { code: Code::NotFound as i32, ..Close::default() });
    server.say(Kind::Opened, 1, &Opened { session: 31 });
    server.deliver(1, 1, 1);
    assert_eq!(server.events(), [], "carol's");
    server.say(Kind::Opened, 1, &Opened { session: 32 });
    assert_eq!(server.events(), [Event::Opened { channel: 1, session: 32 }]);
}

#[test]
fn a_login_that_is_open_against_expectation_is_closed() {
    for code in [Code::Kicked, Code::Unavailable] {
        let mut server = Server::live();
        server.session.open(1, "shop", "carol", Bytes::new(), Some(0));
        server.sent();
        // The gateway ends alice's login before it sees that it is left, and opens carol's.
        server.say(Kind::Close, 1, &Close { code: code as i32, ..Close::default() });
        server.say(Kind::Opened, 1, &Opened { session: 31 });
        let closes: Vec<_> = server.sent().iter().map(|f| (f.header.kind, f.header.channel)).collect();
        assert_eq!(closes, [(Kind::Close.byte(), 1)], "or the next OPEN would find the channel taken");
        // The same where the app has given it up meanwhile.
        server.say(Kind::Close, 2, &Close { code: code as i32, ..Close::default() });
        server.session.close(2);
        server.say(Kind::Opened, 2, &Opened { session: 31 });
        let closes: Vec<_> = server.sent().iter().map(|f| (f.header.kind, f.header.channel)).collect();
        assert_eq!(closes, [(Kind::Close.byte(), 2)]);
    }
}

#[test]
fn a_close_that_crosses_an_open_is_no_answer_to_it() {
    for code in [Code::Kicked, Code::Unavailable, Code::NotFound] {
        let mut server = Server::live();
        let login = |server: &mut Server, account| {
            server.session.open(1, "shop", account, Bytes::new(), Some(0));
        };
        // The gateway ends alice's session 1 before it sees that she is left, for carol and then for dave.
        login(&mut server, "carol");
        let ended = Close { code: code as i32, session: 1, ..Close::default() };
        server.say(Kind::Close, 1, &ended);
        assert_eq!(server.events(), [], "alice is gone already");
        login(&mut server, "dave");
        // Once more, while carol's answer is owed.
        server.say(Kind::Close, 1, &ended);
        server.sent();
        server.say(Kind::Opened, 1, &Opened { session: 31 });
        server.deliver(1, 1, 1);
        assert_eq!(server.events(), [], "carol's");
        server.say(Kind::Opened, 1, &Opened { session: 32 });
        assert_eq!(server.events(), [Event::Opened { channel: 1, session: 32 }]);
        assert!(server.sent().is_empty(), "nothing is closed that should be open");
        server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, session: 31, ..Close::default() });
        assert_eq!(server.events(), [], "carol's end");
        server.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, session: 32, ..Close::default() });
        assert!(matches!(&server.events()[..], [Event::Closed { code: Code::Kicked, .. }]), "dave's");
    }
}

#[test]
fn a_full_house_is_tried_again_less_and_less_often() {
    let mut server = Server::live();
    let full = Close { code: Code::Limit as i32, reason: "full".into(), session: 0 };
    server.session.open(3, "shop", "carol", Bytes::new(), Some(0));
    server.sent();
    let mut tries = 0;
    let mut longest = 0;
    let end = server.now + 600_000;
    while server.now < end {
        let said = server.now;
        server.say(Kind::Close, 3, &full);
        let events = server.events();
        assert!(
            matches!(&events[..], [Event::Closed { code: Code::Limit, reopens: true, .. }]),
            "{events:?}"
        );
        while !server.sent().iter().any(|frame| frame.header.kind == Kind::Open.byte()) {
            server.advance(100);
            server.say(Kind::Pong, 0, &Close::default());
        }
        longest = longest.max(server.now - said);
        tries += 1;
    }
    assert!((20..100).contains(&tries), "{tries} in ten minutes");
    assert!((10_000..=30_100).contains(&longest), "{longest}");
    server.say(Kind::Opened, 3, &Opened { session: 9 });
    assert_eq!(server.events(), [Event::Opened { channel: 3, session: 9 }]);
    // One too many of its own device: coming back would only end another.
    server.say(Kind::Close, 3, &Close { session: 9, ..full });
    assert!(matches!(&server.events()[..], [Event::Closed { code: Code::Limit, reopens: false, .. }]));
    server.advance(50_000);
    assert!(!kinds(&server.sent()).contains(&Kind::Open));
}

#[test]
fn a_refusal_is_the_answer_of_its_own_open() {
    let mut server = Server::live();
    for account in ["carol", "dave"] {
        server.session.open(1, "shop", account, Bytes::new(), Some(0));
    }
    let refused = Close { code: Code::Unauthorized as i32, ..Close::default() };
    server.say(Kind::Close, 1, &refused);
    assert_eq!(server.events(), [], "carol's");
    server.say(Kind::Close, 1, &refused);
    assert!(matches!(&server.events()[..], [Event::Closed { code: Code::Unauthorized, .. }]), "dave's");
}

#[test]
fn numbers_at_their_end_do_no_harm() {
    let mut server = Server::live();
    server.session.options.auto_acknowledge = false;
    server.say(Kind::ReadMarks, 1, &ReadMarks { version: u64::MAX, ..ReadMarks::default() });
    server.say(Kind::Read, 1, &ReadMark { conversation: "bob".into(), ..ReadMark::default() });
    server.session.enter(1, "live").unwrap();
    let message = RoomMessage { id: 7, ..RoomMessage::default() };
    for messages in [vec![], vec![message]] {
        let batch = RoomBatch { room: "live".into(), newest_id: u64::MAX, messages, ..RoomBatch::default() };
        server.say(Kind::Room, 1, &batch);
    }
    server.deliver(1, 1, 1);
    let copy = Delivery { sync_id: 2, group: "team".into(), group_sync_id: 1, ..Delivery::default() };
    server.say(Kind::Data, 1, &copy);
    server.deliver(1, u64::MAX, u64::MAX);
    server.session.acknowledge(1, u64::MAX, server.now);
    assert!(server.session.is_live());
    assert_eq!(server.session.last_sync_id(1), Some(u64::MAX));
}
