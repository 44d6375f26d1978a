//! The core against a server made of bytes and a clock that jumps.

use moor_wire::client::{Open, Submit, sync_id};

use super::*;

mod groups;
mod marks;
mod network;
mod once;
mod review;
mod rooms;
mod trouble;

/// The server's end: what the session has sent, cut into frames.
struct Server {
    session: Session,
    now: u64,
}

impl Server {
    fn new() -> Self {
        let mut session = Session::new(Options::new("phone"), 7);
        session.open(1, "shop", "alice", Bytes::new(), Some(0));
        session.open(2, "shop", "bob", Bytes::new(), Some(0));
        Self { session, now: 1000 }
    }

    fn live() -> Self {
        let mut server = Self::new();
        server.connect();
        server
    }

    fn connect(&mut self) {
        assert!(self.session.wants_connection(self.now));
        self.session.handle_dialling();
        self.session.handle_connected(self.now);
        let frames = self.sent();
        assert_eq!(kinds(&frames), [Kind::Connect, Kind::Open, Kind::Open]);
        let connected = Connected { version: 1, heartbeat_ms: 60_000, ..Connected::default() };
        self.say(Kind::Connected, 0, &connected);
        for channel in [1, 2] {
            self.say(Kind::Opened, channel, &Opened { session: u64::from(channel) });
        }
        self.events();
    }

    fn say<M: Message>(&mut self, kind: Kind, channel: u16, body: &M) {
        let mut out = Vec::new();
        put_control(&mut out, kind, channel, body);
        self.session.handle_bytes(&out, self.now);
    }

    fn deliver(&mut self, channel: u16, sync_id: u64, floor: u64) {
        let delivery =
            Delivery { sync_id, floor, payload: sync_id.to_string().into(), ..Delivery::default() };
        self.say(Kind::Data, channel, &delivery);
    }

    fn sent(&mut self) -> Vec<Frame> {
        let mut reader = FrameReader::new(u32::MAX);
        while let Some(bytes) = self.session.poll_transmit(self.now) {
            reader.push(&bytes);
        }
        std::iter::from_fn(|| reader.try_next().unwrap()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event(self.now)).collect()
    }

    /// Lets time pass from one due moment to the next, as a driver would.
    fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(due) = self.session.poll_timeout().filter(|due| *due <= end) {
            let before = self.now;
            self.now = self.now.max(due);
            self.session.handle_timeout(self.now);
            if self.now == before && self.session.poll_timeout().is_some_and(|next| next <= before) {
                break;
            }
        }
        self.now = end;
        self.session.handle_timeout(end);
    }

    fn messages(&mut self) -> Vec<(u16, u64)> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Message { channel, sync_id, .. } => Some((channel, sync_id.unwrap_or(0))),
                _ => None,
            })
            .collect()
    }

    fn submit(&mut self, id: &'static str) {
        self.session.submit(1, Bytes::from(id), "carol", Bytes::from("hi"), self.now).unwrap();
    }

    fn submits_sent(&mut self) -> Vec<String> {
        let frames = self.sent();
        let data = frames.into_iter().filter(|f| f.header.kind == Kind::Data.byte());
        data.map(|f| String::from_utf8(Submit::decode(f.body).unwrap().client_id.to_vec()).unwrap()).collect()
    }

    fn result(&mut self, id: &'static str, code: Code) {
        let result =
            SubmitResult { client_id: id.into(), code: code as i32, sync_id: 9, ..SubmitResult::default() };
        self.say(Kind::Ack, 1, &result);
    }
}

fn kinds(frames: &[Frame]) -> Vec<Kind> {
    frames.iter().map(|f| Kind::from_byte(f.header.kind).unwrap()).collect()
}

fn acks(frames: &[Frame]) -> Vec<(u16, u64)> {
    let acks = frames.iter().filter(|f| f.header.kind == Kind::Ack.byte());
    acks.map(|f| (f.header.channel, sync_id(&f.body).unwrap())).collect()
}

#[test]
fn messages_come_once_and_in_order_and_one_ack_covers_many() {
    let mut server = Server::live();
    for id in [1, 2, 2, 1, 3] {
        server.deliver(1, id, 1);
    }
    server.deliver(2, 1, 1);
    assert_eq!(server.messages(), [(1, 1), (1, 2), (1, 3), (2, 1)]);
    server.advance(100);
    assert_eq!(acks(&server.sent()), [(1, 3), (2, 1)]);
    // The ACK was lost: the router sends it again and is told again, the app is not.
    server.deliver(1, 3, 1);
    assert!(server.messages().is_empty());
    server.advance(100);
    assert_eq!(acks(&server.sent()), [(1, 3)]);
}

#[test]
fn a_gap_is_asked_for_once_and_filled() {
    let mut server = Server::live();
    for id in [1, 4, 5, 6] {
        server.deliver(1, id, 1);
    }
    assert_eq!(server.messages(), [(1, 1)]);
    let frames = server.sent();
    let syncs: Vec<_> = frames.iter().filter(|f| f.header.kind == Kind::Sync.byte()).collect();
    // The app had not taken 1 yet: were it named here, the router would take it for safe.
    assert_eq!((syncs.len(), sync_id(&syncs[0].body)), (1, Some(0)));
    for id in 2..=6 {
        server.deliver(1, id, 1);
    }
    assert_eq!(server.messages(), [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
}

#[test]
fn what_is_past_retention_is_said_and_not_waited_for() {
    let mut server = Server::live();
    server.deliver(1, 1, 1);
    server.deliver(1, 10, 10);
    let events = server.events();
    assert!(events.contains(&Event::Expired { channel: 1, from: 2, to: 9 }));
    assert!(matches!(events.last(), Some(Event::Message { sync_id: Some(10), .. })));
}

#[test]
fn transient_messages_are_handed_over_and_not_acknowledged() {
    let mut server = Server::live();
    server.deliver(1, 0, 0);
    assert_eq!(server.messages(), [(1, 0)]);
    server.advance(100);
    assert!(acks(&server.sent()).is_empty());
}

#[test]
fn after_a_reconnect_it_resumes_and_sends_again_what_was_not_answered() {
    let mut server = Server::live();
    server.deliver(1, 1, 1);
    server.messages();
    server.submit("one");
    server.submit("two");
    assert_eq!(server.submits_sent(), ["one", "two"]);
    server.result("one", Code::Ok);
    server.session.handle_disconnected(server.now);
    server.submit("three");
    assert!(server.submits_sent().is_empty());
    server.advance(30_000);
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    let opens: Vec<Open> = server
        .sent()
        .into_iter()
        .filter(|f| f.header.kind == Kind::Open.byte())
        .map(|f| Open::decode(f.body).unwrap())
        .collect();
    assert_eq!(opens.iter().map(|o| o.last_sync_id).collect::<Vec<_>>(), [Some(1), Some(0)]);
    server.say(Kind::Connected, 0, &Connected { heartbeat_ms: 60_000, ..Connected::default() });
    server.say(Kind::Opened, 1, &Opened { session: 5 });
    assert_eq!(server.submits_sent(), ["two", "three"], "never the answered one");
}

#[test]
fn a_submit_is_repeated_until_there_is_a_final_answer() {
    let mut server = Server::live();
    server.submit("one");
    assert_eq!(server.submits_sent(), ["one"]);
    server.advance(6000);
    assert_eq!(server.submits_sent(), ["one"], "no answer in five seconds");
    for code in [Code::Unavailable, Code::Overloaded, Code::Storage] {
        server.result("one", code);
        assert!(!server.events().iter().any(|e| matches!(e, Event::Refused { .. })));
        server.advance(4900);
        assert_eq!(server.submits_sent(), ["one"], "{code} is no final answer");
    }
    server.result("one", Code::Ok);
    assert!(server.events().iter().any(|e| matches!(e, Event::Accepted { sync_id: 9, .. })));
    server.submit("bad");
    server.result("bad", Code::Invalid);
    assert!(server.events().iter().any(|e| matches!(e, Event::Refused { code: Code::Invalid, .. })));
    assert_eq!(server.session.unanswered(), 0);
}

#[test]
fn why_a_submit_is_not_accepted_yet_is_told_once_for_each_reason() {
    let mut server = Server::live();
    server.submit("one");
    let mut told = |code: Code, detail: &str| -> Vec<Event> {
        let (client_id, detail) = (Bytes::from("one"), detail.to_owned());
        let result = SubmitResult { client_id, code: code as i32, detail, ..SubmitResult::default() };
        server.say(Kind::Ack, 1, &result);
        server.events()
    };
    let delayed = |code: Code, detail: &str| {
        let (client_id, detail) = (Bytes::from("one"), detail.to_owned());
        vec![Event::Delayed { channel: 1, client_id, code, detail }]
    };
    assert_eq!(told(Code::Unavailable, "level 2 is off"), delayed(Code::Unavailable, "level 2 is off"));
    assert_eq!(told(Code::Unavailable, "level 2 is off"), []);
    assert_eq!(told(Code::Unavailable, "level 1 is off"), delayed(Code::Unavailable, "level 1 is off"));
    assert_eq!(told(Code::Storage, ""), delayed(Code::Storage, ""));
    assert!(matches!(told(Code::Ok, "")[..], [Event::Accepted { .. }]));
    server.submit("two");
    server.result("two", Code::Overloaded);
    server.session.close(1);
    assert_eq!(server.events(), [], "it is forgotten with its channel");
}

#[test]
fn one_channels_end_leaves_the_other_alone() {
    let mut server = Server::live();
    server.say(
        Kind::Close,
        1,
        &Close { code: Code::Kicked as i32, reason: "bye".into(), ..Close::default() },
    );
    server.deliver(2, 1, 1);
    let events = server.events();
    assert!(matches!(&events[0], Event::Closed { channel: 1, code: Code::Kicked, reopens: false, .. }));
    assert!(matches!(&events[1], Event::Message { channel: 2, .. }));
    assert!(server.session.submit(1, Bytes::new(), "x", Bytes::new(), server.now).is_err());
    // A passing trouble is tried again by itself.
    server.say(Kind::Close, 2, &Close { code: Code::Unavailable as i32, ..Close::default() });
    server.advance(5100);
    assert!(kinds(&server.sent()).contains(&Kind::Open));
}

#[test]
fn silence_is_answered_with_a_ping_and_then_with_hanging_up() {
    let mut server = Server::live();
    server.advance(53_000);
    assert!(server.sent().is_empty());
    server.advance(2000);
    assert_eq!(kinds(&server.sent()), [Kind::Ping]);
    server.say(Kind::Pong, 0, &Close::default());
    server.advance(55_000);
    assert_eq!(kinds(&server.sent()), [Kind::Ping]);
    server.advance(31_000);
    assert!(server.session.wants_hang_up());
    assert!(server.events().contains(&Event::Disconnected(Disconnect::Silent)));
}

#[test]
fn a_channel_opened_during_the_login_is_opened() {
    let mut session = Session::new(Options::new("phone"), 1);
    session.handle_dialling();
    session.handle_connected(0);
    session.open(1, "shop", "alice", Bytes::new(), None);
    let mut server = Server { session, now: 0 };
    assert_eq!(kinds(&server.sent()), [Kind::Connect, Kind::Open]);
}

#[test]
fn goaway_is_obeyed_within_its_window() {
    let mut server = Server::live();
    let away =
        GoAway { code: Code::Draining as i32, retry_min_ms: 2000, retry_max_ms: 3000, ..GoAway::default() };
    server.say(Kind::GoAway, 0, &away);
    assert!(server.session.wants_hang_up());
    server.session.handle_disconnected(server.now);
    let due = server.session.poll_timeout().unwrap() - server.now;
    assert!((2000..=3000).contains(&due));
}

#[test]
fn failures_are_followed_by_growing_random_pauses() {
    let mut rng = fastrand::Rng::with_seed(1);
    for attempt in 0..40 {
        let bound = (100u64 << attempt.min(20)).min(30_000);
        assert!((0..50).all(|_| full_jitter(100, 30_000, attempt, &mut rng) <= bound));
    }
}

#[test]
fn garbage_from_the_server_ends_the_connection_and_nothing_else() {
    for bytes in [
        &[0xee, 0, 0, 0, 0, 0, 0, 0][..],
        &[6, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        &[6, 0, 0, 1, 0, 0, 0, 1, 0xff],
    ] {
        let mut server = Server::live();
        server.session.handle_bytes(bytes, server.now);
        assert!(server.session.wants_hang_up());
        server.session.handle_disconnected(server.now);
        server.advance(30_000);
        assert!(server.session.wants_connection(server.now));
    }
}

#[test]
fn a_server_that_opens_what_nobody_asked_for_is_left() {
    let mut server = Server::live();
    server.say(Kind::Opened, 0, &Opened { session: 7 });
    assert!(server.session.wants_hang_up(), "number 0 is the connection's");
    assert_eq!(kinds(&server.sent()), []);

    let mut server = Server::live();
    server.say(Kind::Opened, 9, &Opened { session: 7 });
    assert_eq!(kinds(&server.sent()), [Kind::Close]);
    for _ in 0..UNSENT_BYTES_MAX {
        server.say(Kind::Opened, 9, &Opened { session: 7 });
    }
    assert!(server.session.wants_hang_up(), "what is not written does not pile up");
}

#[test]
fn byte_by_byte_is_the_same() {
    let mut server = Server::live();
    let mut out = Vec::new();
    for id in 1..=3u64 {
        put_control(&mut out, Kind::Data, 1, &Delivery { sync_id: id, ..Delivery::default() });
    }
    for byte in out {
        server.session.handle_bytes(&[byte], server.now);
    }
    assert_eq!(server.messages(), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn the_app_may_acknowledge_by_itself() {
    let mut server = Server::live();
    server.session.options.auto_acknowledge = false;
    server.deliver(1, 1, 1);
    server.deliver(1, 2, 1);
    assert_eq!(server.messages().len(), 2);
    server.advance(1000);
    assert!(acks(&server.sent()).is_empty());
    assert_eq!(server.session.last_sync_id(1), Some(0), "not processed yet");
    server.session.acknowledge(1, 1, server.now);
    server.advance(100);
    assert_eq!(acks(&server.sent()), [(1, 1)]);
    assert_eq!(server.session.last_sync_id(1), Some(1));
}

#[test]
fn a_ping_longer_than_any_server_sends_ends_the_connection_unanswered() {
    for (bytes, is_answered) in [(16, true), (17, false)] {
        let mut server = Server::live();
        let mut ping = Vec::new();
        put(&mut ping, Kind::Ping, Class::Command, 0, &vec![7; bytes]);
        server.session.handle_bytes(&ping, server.now);
        assert_eq!(kinds(&server.sent()), if is_answered { vec![Kind::Pong] } else { vec![] });
        assert_eq!(server.session.wants_hang_up(), !is_answered);
    }
}
