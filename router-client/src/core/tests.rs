//! The core against a router that is a byte vector and a clock that jumps.

use moor_wire::Code;
use moor_wire::client::{Act, Pulled, TrafficMarks};
use moor_wire::frame::Frame;
use moor_wire::internal::{
    Failure, HistoryResult, LookupResult, Outcome, Push, Receipt, RoomPublish, RoomStatsResult, Send,
    SendResult, Stat, StatsResult, Subscribe, Verb, Welcome, frame_reader, put_control, put_empty,
};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn connection() -> Connection {
    Connection::new(Config { in_flight_max: 4, ..Config::default() }, 7, 0)
}

fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

/// What has been written since the last look.
fn written(connection: &mut Connection) -> Vec<Frame> {
    let mut reader = frame_reader();
    while let Some(bytes) = connection.poll_transmit() {
        reader.push(&bytes);
    }
    std::iter::from_fn(|| reader.try_next().unwrap()).collect()
}

fn verbs(frames: &[Frame]) -> Vec<Verb> {
    frames.iter().map(|frame| Verb::from_byte(frame.header.kind).unwrap()).collect()
}

fn control<M: Message>(verb: Verb, body: &M) -> Vec<u8> {
    let mut out = Vec::new();
    put_control(&mut out, verb, body);
    out
}

fn outcome(cookie: u64, code: Code, reached: u32) -> Vec<u8> {
    let mut out = Vec::new();
    Outcome { cookie, code, reached }.put(&mut out);
    out
}

fn greet(connection: &mut Connection, now: u64, epoch: u64) {
    connection.handle_connected(now);
    assert_eq!(verbs(&written(connection)), [Verb::Hello]);
    connection
        .handle_bytes(now, &control(Verb::Welcome, &Welcome { version: 1, epoch, ..Welcome::default() }));
    assert!(events(connection).iter().any(|event| matches!(event, Event::Ready(_))));
}

fn ready() -> Connection {
    let mut connection = connection();
    assert_eq!(events(&mut connection), [Event::Connect]);
    greet(&mut connection, 0, 1);
    connection
}

fn lost() -> Error {
    Error::Connection { address: "a:1".into(), reason: "reset".into() }
}

/// Breaks the connection and lets the pause before the next attempt pass; the time by then.
fn reconnect(connection: &mut Connection, now: u64) -> u64 {
    connection.handle_disconnected(now, lost());
    let at = connection.poll_timeout().unwrap();
    assert!(at <= now + 5_000);
    connection.handle_timeout(at);
    assert!(events(connection).contains(&Event::Connect));
    greet(connection, at, 1);
    at
}

fn send() -> Request {
    Request::send("shop", "orders", "alice", Some(b"id-1"), b"hello").unwrap()
}

#[test]
fn a_send_is_resent_with_its_client_id_until_its_answer() {
    let mut connection = ready();
    let ticket = connection.request(5, send()).unwrap();
    let mut now = 5;
    for _ in 0..5 {
        let frames = written(&mut connection);
        assert_eq!(verbs(&frames), [Verb::Send]);
        let send = Send::decode(&frames[0].body[..]).unwrap();
        assert_eq!((&send.client_id[..], &send.payload[..]), (&b"id-1"[..], &b"hello"[..]));
        connection.handle_disconnected(now, lost());
        now = connection.poll_timeout().unwrap();
        connection.handle_timeout(now);
        assert!(events(&mut connection).contains(&Event::Connect));
        connection.handle_connected(now);
        assert_eq!(verbs(&written(&mut connection)), [Verb::Hello]);
        connection.handle_bytes(now, &control(Verb::Welcome, &Welcome::default()));
        events(&mut connection);
    }
    let result = SendResult { cookie: ticket.0, sync_id: 9, duplicate: true, ..SendResult::default() };
    connection.handle_bytes(now, &control(Verb::SendResult, &result));
    let sent = Sent { client_id: b"id-1".to_vec(), sync_id: 9, duplicate: true };
    assert_eq!(events(&mut connection), [Event::Answered(ticket, Ok(Answer::Sent(sent)))]);
    assert_eq!(connection.in_flight(), 0);
}

fn send_result(ticket: Ticket, code: Code) -> Vec<u8> {
    let (cookie, code, detail) = (ticket.0, code as i32, "because".into());
    control(Verb::SendResult, &SendResult { cookie, code, detail, ..SendResult::default() })
}

#[test]
fn a_send_that_was_not_stored_is_asked_again_with_its_client_id() {
    for code in [Code::Unavailable, Code::Overloaded, Code::Storage, Code::Internal, Code::Draining] {
        let mut connection = ready();
        let ticket = connection.request(0, send()).unwrap();
        written(&mut connection);
        connection.handle_bytes(0, &send_result(ticket, code));
        assert_eq!((events(&mut connection), written(&mut connection)), (vec![], vec![]), "{code}");
        let again = connection.poll_timeout().unwrap();
        assert!(again < 1_000);
        connection.handle_timeout(again);
        let frames = written(&mut connection);
        assert_eq!(verbs(&frames), [Verb::Send], "{code}");
        assert_eq!(&Send::decode(&frames[0].body[..]).unwrap().client_id[..], b"id-1");
        // The same answer until the deadline, which then says what that answer was.
        connection.handle_bytes(again, &send_result(ticket, code));
        connection.handle_timeout(10_000);
        let last = Error::Refused { what: "SEND", code, detail: "because".into() };
        let late = Error::Deadline { what: "SEND", within_ms: 10_000, last: Some(Box::new(last)) };
        assert!(events(&mut connection).contains(&Event::Answered(ticket, Err(late))), "{code}");
    }
}

#[test]
fn more_sessions_than_a_lookup_can_name_are_no_refusal() {
    let mut connection = ready();
    let ticket = connection.request(0, Request::lookup("shop", "alice").unwrap()).unwrap();
    let code = Code::Limit as i32;
    let found = LookupResult { cookie: ticket.0, code, head: 7, ..LookupResult::default() };
    connection.handle_bytes(0, &control(Verb::LookupResult, &found));
    assert_eq!(events(&mut connection), [Event::Answered(ticket, Ok(Answer::Lookup(found)))]);
}

#[test]
fn a_look_that_is_refused_for_now_is_asked_again() {
    type Refuse = fn(u64, i32) -> Vec<u8>;
    let code = Code::Overloaded as i32;
    let looks: [(Request, Refuse); 4] = [
        (Request::lookup("shop", "alice").unwrap(), |cookie, code| {
            control(Verb::LookupResult, &LookupResult { cookie, code, ..LookupResult::default() })
        }),
        (Request::history("shop", "alice", 0, 0).unwrap(), |cookie, code| {
            let pulled = Some(Pulled { code, ..Pulled::default() });
            control(Verb::HistoryResult, &HistoryResult { cookie, pulled })
        }),
        (Request::group_history("shop", "team", 0, 0).unwrap(), |cookie, code| {
            let pulled = Some(Pulled { code, ..Pulled::default() });
            control(Verb::HistoryResult, &HistoryResult { cookie, pulled })
        }),
        (Request::room_stats("shop", "live").unwrap(), |cookie, code| {
            control(Verb::RoomStatsResult, &RoomStatsResult { cookie, code, ..RoomStatsResult::default() })
        }),
    ];
    for (look, refuse) in looks {
        let (what, mut connection) = (look.name(), ready());
        let ticket = connection.request(0, look).unwrap();
        let asked = verbs(&written(&mut connection));
        connection.handle_bytes(0, &refuse(ticket.0, code));
        assert_eq!(events(&mut connection), [], "{what}");
        let again = connection.poll_timeout().unwrap();
        assert!(again < 1_000, "{what}");
        connection.handle_timeout(again);
        assert_eq!(verbs(&written(&mut connection)), asked);
        connection.handle_bytes(again, &refuse(ticket.0, Code::Ok as i32));
        assert!(matches!(events(&mut connection)[..], [Event::Answered(_, Ok(_))]), "{what}");
    }
}

#[test]
fn what_a_refusal_says_of_a_subscription_or_a_switch_is_told_at_once() {
    for request in [Request::subscribe("shop").unwrap(), Request::degrade(Some(2))] {
        let mut connection = ready();
        let what = request.name();
        let ticket = connection.request(0, request).unwrap();
        connection.handle_bytes(0, &outcome(ticket.0, Code::Storage, 0));
        let refused = Error::Refused { what, code: Code::Storage, detail: String::new() };
        assert_eq!(events(&mut connection), [Event::Answered(ticket, Err(refused))]);
    }
}

#[test]
fn a_refusal_is_final() {
    for code in [Code::Invalid, Code::TooLarge, Code::Unauthorized, Code::NotFound] {
        let mut connection = ready();
        let ticket = connection.request(0, send()).unwrap();
        connection.handle_bytes(0, &send_result(ticket, code));
        let refused = Error::Refused { what: "SEND", code, detail: "because".into() };
        assert_eq!(events(&mut connection), [Event::Answered(ticket, Err(refused))]);
    }
}

#[test]
fn nobody_there_is_a_count_and_no_failure() {
    let mut connection = ready();
    // The router says NOT_FOUND, a gateway NOT_HERE.
    for (request, code) in [
        (Request::push_account("shop", "alice", "bob", b"hi"), Code::NotFound),
        (Request::push_account("shop", "alice", "bob", b"hi"), Code::NotHere),
        (Request::kick("shop", "alice", None, "out"), Code::NotFound),
        (Request::broadcast("shop", "bob", b"hi"), Code::NotHere),
    ] {
        let ticket = connection.request(0, request.unwrap()).unwrap();
        connection.handle_bytes(0, &outcome(ticket.0, code, 0));
        assert_eq!(events(&mut connection), [Event::Answered(ticket, Ok(Answer::Reached(0)))]);
    }
}

#[test]
fn a_subscription_the_router_has_no_room_for_after_a_reconnect_is_asked_again() {
    let mut connection = ready();
    let ticket = connection.request(0, Request::subscribe("shop").unwrap()).unwrap();
    connection.handle_bytes(0, &outcome(ticket.0, Code::Ok, 0));
    written(&mut connection);
    let now = reconnect(&mut connection, 10);
    let cookie = Subscribe::decode(&written(&mut connection)[0].body[..]).unwrap().cookie;
    connection.handle_bytes(now, &outcome(cookie, Code::Overloaded, 0));
    assert_eq!(written(&mut connection), []);
    let again = connection.poll_timeout().unwrap();
    assert!(again < now + 1_000);
    connection.handle_timeout(again);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Subscribe]);
}

/// Subscribed, then connected anew at this time; the cookie it asks under by itself.
fn resubscribing(apps: &[&str]) -> (Connection, u64, Vec<u64>) {
    let mut connection = ready();
    for app in apps {
        let ticket = connection.request(0, Request::subscribe(app).unwrap()).unwrap();
        connection.handle_bytes(0, &outcome(ticket.0, Code::Ok, 0));
    }
    written(&mut connection);
    let now = reconnect(&mut connection, 10);
    let asked = written(&mut connection);
    let cookies = asked.iter().map(|frame| Subscribe::decode(&frame.body[..]).unwrap().cookie).collect();
    (connection, now, cookies)
}

#[test]
fn a_subscription_after_a_reconnect_is_asked_for_as_long_as_it_takes() {
    let (mut connection, mut now, cookies) = resubscribing(&["shop"]);
    let end = now + 60_000;
    while now < end {
        connection.handle_bytes(now, &outcome(cookies[0], Code::Overloaded, 0));
        assert_eq!(events(&mut connection), []);
        while written(&mut connection).is_empty() {
            now = connection.poll_timeout().unwrap();
            connection.handle_timeout(now);
        }
    }
    connection.handle_bytes(now, &outcome(cookies[0], Code::Ok, 0));
    reconnect(&mut connection, now);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Subscribe], "granted, it is asked for again");
}

#[test]
fn a_subscription_that_is_refused_after_a_reconnect_is_told() {
    let (mut connection, now, cookies) = resubscribing(&["shop"]);
    connection.handle_bytes(now, &outcome(cookies[0], Code::Limit, 0));
    let why = Error::Refused { what: "SUBSCRIBE", code: Code::Limit, detail: String::new() };
    assert_eq!(events(&mut connection), [Event::Unsubscribed { app: "shop".into(), why }]);
    reconnect(&mut connection, now);
    assert_eq!(written(&mut connection), [], "and not asked for again");
}

#[test]
fn what_is_asked_by_itself_takes_nobodys_place() {
    let (mut connection, now, cookies) = resubscribing(&["a", "b", "c", "d"]);
    assert_eq!((cookies.len(), connection.in_flight()), (4, 0));
    for _ in 0..4 {
        connection.request(now, Request::Stats).unwrap();
    }
    assert_eq!(connection.request(now, Request::Stats), Err(Error::TooManyInFlight { max: 4 }));
    connection.handle_disconnected(now, lost());
    assert_eq!(connection.in_flight(), 4);
}

#[test]
fn whoever_welcomes_and_hangs_up_is_tried_less_and_less_often() {
    let (mut connection, mut now, mut tries) = (ready(), 0, 0);
    while now < 60_000 {
        now = reconnect(&mut connection, now);
        tries += 1;
    }
    assert!((10..60).contains(&tries), "{tries} connections in a minute");
    // One that lasted is trusted again.
    now += 5_000;
    connection.handle_disconnected(now, lost());
    assert!(connection.poll_timeout().unwrap() <= now + 50);
}

#[test]
fn a_refusal_of_a_later_version_is_not_taken_for_ok() {
    let mut connection = ready();
    let failure = Failure { code: 999, detail: "of a later version".into() };
    connection.handle_bytes(1, &control(Verb::Failure, &failure));
    let why =
        Error::Refused { what: "the connection", code: Code::Internal, detail: "of a later version".into() };
    assert_eq!(events(&mut connection), [Event::Close, Event::Lost(why)]);
}

#[test]
fn a_request_that_would_end_the_connection_is_not_made() {
    let names = |count| moor_wire::client::GroupNames { accounts: vec!["a".repeat(128); count] };
    let add = |count| Request::group("shop", None, "team", Act::Add(names(count)));
    assert!(add(256).is_ok());
    assert!(matches!(add(10_000), Err(Error::Length { what: "the request", .. })));
}

#[test]
fn settings_do_not_show_their_token() {
    let config = Config::new(Some(b"hunter2"));
    let shown = format!("{config:?} {:?}", Connection::new(config.clone(), 1, 0));
    assert!(!shown.contains("104, 117") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("7 bytes"), "{shown}");
}

#[test]
fn a_deadline_ends_a_request_and_names_what_kept_it() {
    let mut connection = ready();
    let ticket = connection.request(100, send()).unwrap();
    connection.handle_disconnected(200, lost());
    events(&mut connection);
    connection.handle_timeout(10_099);
    assert!(!events(&mut connection).iter().any(|event| matches!(event, Event::Answered(..))));
    connection.handle_timeout(10_100);
    let late = Error::Deadline { what: "SEND", within_ms: 10_000, last: Some(Box::new(lost())) };
    assert!(events(&mut connection).contains(&Event::Answered(ticket, Err(late))));
    assert_eq!(connection.in_flight(), 0);
}

#[test]
fn a_push_under_way_is_not_repeated_but_one_that_was_not_written_is_kept() {
    let mut connection = ready();
    let first = connection.request(0, Request::push(5, None, "orders", b"x").unwrap()).unwrap();
    assert_eq!(verbs(&written(&mut connection)), [Verb::Push]);
    connection.handle_disconnected(1, lost());
    assert!(
        events(&mut connection).contains(&Event::Answered(first, Err(Error::Uncertain { what: "PUSH" })))
    );
    let second = connection.request(2, Request::push(5, None, "orders", b"y").unwrap()).unwrap();
    let at = connection.poll_timeout().unwrap();
    connection.handle_timeout(at);
    greet(&mut connection, at, 1);
    let frames = written(&mut connection);
    assert_eq!(verbs(&frames), [Verb::Push]);
    assert_eq!(Push::parse(&frames[0].body).unwrap().session.0, 5);
    connection.handle_bytes(at, &outcome(second.0, Code::Ok, 1));
    assert_eq!(events(&mut connection), [Event::Answered(second, Ok(Answer::Reached(1)))]);
}

#[test]
fn a_push_for_another_epoch_is_never_written() {
    let mut connection = ready();
    let request = Request::push(5, Some(2), "orders", b"x").unwrap();
    let ticket = connection.request(0, request).unwrap();
    assert_eq!(written(&mut connection), []);
    assert_eq!(events(&mut connection), [Event::Answered(ticket, Err(Error::NotHere))]);
}

#[test]
fn a_request_withdrawn_is_not_made_unless_it_is_on_its_way() {
    let mut connection = ready();
    let (on_its_way, waits) =
        (connection.request(0, send()).unwrap(), connection.request(0, send()).unwrap());
    written(&mut connection);
    connection.handle_bytes(0, &send_result(waits, Code::Overloaded));
    assert_eq!((connection.withdraw(on_its_way), connection.withdraw(waits)), (false, true));
    assert_eq!(connection.in_flight(), 1);
    connection.handle_timeout(6_000);
    assert_eq!(written(&mut connection), []);
    connection.handle_disconnected(6_000, lost());
    assert!(connection.withdraw(on_its_way), "there is no way any more");
    assert_eq!((connection.in_flight(), connection.withdraw(on_its_way)), (0, true));
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut connection = ready();
    let tickets: Vec<_> = (0..4).map(|_| connection.request(0, Request::Stats).unwrap()).collect();
    assert_eq!(connection.request(0, Request::Stats), Err(Error::TooManyInFlight { max: 4 }));
    let stats = vec![Stat { name: "sessions".into(), value: 3 }];
    let result = StatsResult { cookie: tickets[2].0, stats };
    connection.handle_bytes(1, &control(Verb::StatsResult, &result));
    let stats = Answer::Stats(vec![("sessions".into(), 3)]);
    assert_eq!(events(&mut connection), [Event::Answered(tickets[2], Ok(stats))]);
    assert!(connection.request(1, Request::Stats).is_ok());
}

#[test]
fn silence_is_answered_with_ping_and_then_taken_for_death() {
    let mut connection = ready();
    assert_eq!(connection.poll_timeout(), Some(20_000));
    connection.handle_timeout(20_000);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Ping]);
    let mut pong = Vec::new();
    put_empty(&mut pong, Verb::Pong);
    connection.handle_bytes(20_010, &pong);
    assert_eq!(connection.poll_timeout(), Some(40_000));
    connection.handle_timeout(40_000);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Ping]);
    connection.handle_timeout(49_999);
    assert_eq!(events(&mut connection), []);
    connection.handle_timeout(50_000);
    let silent = Error::Silent { silent_ms: 29_990 };
    assert_eq!(events(&mut connection), [Event::Close, Event::Lost(silent)]);
}

#[test]
fn a_clock_that_jumps_a_day_asks_before_it_buries() {
    let mut connection = ready();
    connection.handle_timeout(86_400_000);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Ping]);
    assert_eq!(events(&mut connection), []);
}

#[test]
fn a_ping_is_answered() {
    let mut connection = ready();
    let mut ping = Vec::new();
    put_empty(&mut ping, Verb::Ping);
    connection.handle_bytes(1, &ping);
    assert_eq!(verbs(&written(&mut connection)), [Verb::Pong]);
}

#[test]
fn a_subscription_survives_a_reconnect() {
    let mut connection = ready();
    let ticket = connection.request(0, Request::subscribe("shop").unwrap()).unwrap();
    assert_eq!(verbs(&written(&mut connection)), [Verb::Subscribe]);
    connection.handle_bytes(0, &outcome(ticket.0, Code::Ok, 0));
    assert_eq!(events(&mut connection), [Event::Answered(ticket, Ok(Answer::Reached(0)))]);
    let now = reconnect(&mut connection, 10);
    let frames = written(&mut connection);
    assert_eq!(verbs(&frames), [Verb::Subscribe]);
    let subscribe = Subscribe::decode(&frames[0].body[..]).unwrap();
    assert_eq!(subscribe.app, "shop");
    connection.handle_bytes(now, &outcome(subscribe.cookie, Code::Ok, 0));
    let receipt = Receipt { sync_id: 4, ..Receipt::default() };
    connection.handle_bytes(now, &control(Verb::Receipt, &receipt));
    assert_eq!(events(&mut connection), [Event::Receipt(receipt)]);
    assert_eq!(connection.in_flight(), 0);
}

#[test]
fn of_an_app_the_last_subscription_holds_over_reconnects_with_its_marks() {
    let gray = TrafficMarks { release: "gray".into(), ..TrafficMarks::default() };
    let (mut connection, now, cookies) = resubscribing(&["shop"]);
    let request = Request::subscribe("shop").unwrap().marked(gray.clone()).unwrap();
    // What it asks by itself is put off, and must not come behind what is asked for meanwhile.
    connection.handle_bytes(now, &outcome(cookies[0], Code::Overloaded, 0));
    let ticket = connection.request(now, request).unwrap();
    connection.handle_bytes(now, &outcome(ticket.0, Code::Ok, 0));
    written(&mut connection);
    connection.handle_timeout(now + 1_000);
    assert_eq!(written(&mut connection), []);
    reconnect(&mut connection, now + 1_000);
    let asked = written(&mut connection);
    assert_eq!(verbs(&asked), [Verb::Subscribe]);
    assert_eq!(Subscribe::decode(&asked[0].body[..]).unwrap().marks, Some(gray));
    let long = TrafficMarks { source: "s".repeat(33), ..TrafficMarks::default() };
    assert!(Request::subscribe("shop").unwrap().marked(long).is_err());
}

#[test]
fn a_refused_token_ends_it_for_good() {
    let mut connection = connection();
    let ticket = connection.request(0, send()).unwrap();
    connection.handle_connected(0);
    let failure = Failure { code: Code::Unauthorized as i32, detail: "wrong token".into() };
    connection.handle_bytes(1, &control(Verb::Failure, &failure));
    let refused =
        Error::Refused { what: "the connection", code: Code::Unauthorized, detail: "wrong token".into() };
    assert_eq!(
        events(&mut connection),
        [
            Event::Connect,
            Event::Close,
            Event::Answered(ticket, Err(refused.clone())),
            Event::Stopped(refused.clone())
        ]
    );
    assert_eq!((connection.poll_timeout(), connection.poll_transmit()), (None, None));
    assert_eq!(connection.request(2, send()), Err(refused));
}

#[test]
fn whoever_does_not_welcome_is_given_up() {
    let mut connection = connection();
    connection.handle_connected(0);
    events(&mut connection);
    assert_eq!(connection.poll_timeout(), Some(CONNECT_MS));
    connection.handle_timeout(CONNECT_MS);
    assert!(matches!(events(&mut connection)[..], [Event::Close, Event::Lost(Error::Deadline { .. })]));
}

#[test]
fn pauses_grow_and_are_spread() {
    let pauses = |seed| {
        let mut connection = Connection::new(Config::default(), seed, 0);
        (0..12)
            .map(|_| {
                connection.handle_disconnected(0, lost());
                let at = connection.poll_timeout().unwrap();
                connection.handle_timeout(at);
                at
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(pauses(1), pauses(1));
    assert_ne!(pauses(1), pauses(2));
    for (attempt, pause) in pauses(3).into_iter().enumerate() {
        assert!(pause <= (50 << attempt).min(5_000));
    }
}

#[test]
fn byte_by_byte_is_the_same_as_at_once() {
    let mut connection = connection();
    let ticket = connection.request(0, Request::Stats).unwrap();
    connection.handle_connected(0);
    let mut stream = control(Verb::Welcome, &Welcome { epoch: 3, ..Welcome::default() });
    stream.extend(control(Verb::StatsResult, &StatsResult { cookie: ticket.0, stats: vec![] }));
    stream.extend(control(Verb::Receipt, &Receipt::default()));
    for byte in stream {
        connection.handle_bytes(1, &[byte]);
    }
    assert_eq!(
        events(&mut connection),
        [
            Event::Connect,
            Event::Ready(Welcome { epoch: 3, ..Welcome::default() }),
            Event::Answered(ticket, Ok(Answer::Stats(vec![]))),
            Event::Receipt(Receipt::default())
        ]
    );
}

#[test]
fn messages_have_a_business_level() {
    let publish = || Request::room_publish("shop", "orders", ("live", 1), None, b"hello").unwrap();
    let team = || Request::send_group("shop", "orders", "team", None, b"hello").unwrap();
    for level in 0..=2 {
        for message in [send(), team(), publish()] {
            let mut connection = ready();
            connection.request(0, message.at_level(level).unwrap()).unwrap();
            let frame = &written(&mut connection)[0];
            let said = match Verb::from_byte(frame.header.kind) {
                Some(Verb::Send) => Send::decode(&frame.body[..]).unwrap().level,
                _ => RoomPublish::decode(&frame.body[..]).unwrap().level,
            };
            assert_eq!(said, Some(level));
        }
    }
    assert_eq!(publish().at_level(3), Err(Error::Level { level: 3 }));
    assert_eq!(Request::Stats.at_level(2), Ok(Request::Stats), "others have none");
}

#[test]
fn names_no_router_accepts_are_refused_here() {
    assert!(matches!(Request::lookup("", "alice"), Err(Error::Name(_))));
    assert!(matches!(Request::push_account("shop", &"a".repeat(300), "x", b""), Err(Error::Name(_))));
    let long = vec![0; 70_000];
    assert!(matches!(Request::send("shop", "x", "y", None, &long), Err(Error::Length { .. })));
    assert!(matches!(Request::send("shop", "x", "y", Some(b""), b""), Err(Error::Length { .. })));
}

proptest! {
    #[test]
    fn garbage_never_panics_and_every_request_is_answered(
        greeted: bool,
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12),
        kind in 0u8..0x40,
    ) {
        let mut connection = if greeted { ready() } else { connection() };
        let ticket = connection.request(0, send()).unwrap();
        if !greeted {
            connection.handle_connected(0);
        }
        for piece in &pieces {
            let mut frame = Vec::new();
            moor_wire::frame::put_frame(&mut frame, kind, 0, 0, piece);
            connection.handle_bytes(1, &frame);
            connection.handle_bytes(1, piece);
        }
        connection.handle_timeout(1_000_000);
        let answered = events(&mut connection)
            .into_iter()
            .filter(|event| matches!(event, Event::Answered(of, _) if *of == ticket))
            .count();
        prop_assert_eq!(answered, 1);
        prop_assert_eq!(connection.in_flight(), 0);
    }
}
