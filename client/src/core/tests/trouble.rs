//! What a hostile server, a dead network and an app's mistakes must not do.

use moor_wire::client::{Act, GroupCreate};
use moor_wire::limits::{CLIENT_BODY_BYTES_MAX, CREDENTIAL_BYTES_MAX};
use proptest::prelude::*;

use super::*;

fn opens(frames: &[Frame]) -> Vec<Option<u64>> {
    let opens = frames.iter().filter(|f| f.header.kind == Kind::Open.byte());
    opens.map(|f| Open::decode(f.body.clone()).unwrap().last_sync_id).collect()
}

fn reconnect(server: &mut Server, data_bytes_max: u32) -> Vec<Frame> {
    server.session.handle_disconnected(server.now);
    server.advance(30_000);
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    let frames = server.sent();
    let connected =
        Connected { heartbeat_ms: 60_000, frame_bytes_max: data_bytes_max, ..Connected::default() };
    server.say(Kind::Connected, 0, &connected);
    server.say(Kind::Opened, 1, &Opened { session: 5 });
    frames
}

#[test]
fn a_message_no_gateway_takes_is_refused_here_and_breaks_nothing() {
    let mut server = Server::live();
    let long = Bytes::from(vec![b'x'; CLIENT_BODY_BYTES_MAX as usize]);
    let (id, now) = (Bytes::from("id"), server.now);
    assert!(server.session.submit(1, id.clone(), "carol", long, now).is_err());
    assert!(server.session.submit(1, Bytes::new(), "carol", Bytes::new(), now).is_err());
    assert!(server.session.submit(1, vec![0; 33].into(), "carol", Bytes::new(), now).is_err());
    assert!(server.session.submit(1, id.clone(), "", Bytes::new(), now).is_err());
    assert!(server.session.submit(9, id, "carol", Bytes::new(), now).is_err());
    assert_eq!(server.session.unanswered(), 0);
    assert!(server.sent().is_empty());
}

#[test]
fn a_smaller_gateway_refuses_what_the_last_one_would_have_taken() {
    let mut server = Server::live();
    let (one, two) = (Bytes::from("one"), Bytes::from("two"));
    server.session.submit(1, one.clone(), "carol", vec![0; 5000].into(), server.now).unwrap();
    server.session.submit(1, two.clone(), "carol", vec![0; 100].into(), server.now).unwrap();
    server.sent();
    reconnect(&mut server, 4096);
    let events = server.events();
    let refused = |id: &Bytes| {
        events
            .iter()
            .any(|e| matches!(e, Event::Refused { client_id, code: Code::TooLarge, .. } if client_id == id))
    };
    assert!(refused(&one) && !refused(&two));
    assert_eq!(server.submits_sent(), ["two"]);
    assert!(server.session.submit(1, one, "carol", vec![0; 5000].into(), server.now).is_err());
}

#[test]
fn a_login_no_gateway_takes_is_closed_here_and_breaks_nothing() {
    let mut server = Server::live();
    server.session.open(3, "", "alice", Bytes::new(), None);
    server.session.open(4, "shop", "alice", vec![0; CREDENTIAL_BYTES_MAX + 1].into(), None);
    server.session.open(0, "shop", "alice", Bytes::new(), None);
    assert!(server.sent().is_empty());
    let closed: Vec<_> = server
        .events()
        .into_iter()
        .map(|e| if let Event::Closed { channel, reopens: false, .. } = e { channel } else { 99 })
        .collect();
    assert_eq!(closed, [3, 4, 0]);
    assert_eq!(server.session.channels_open(), 2);
}

#[test]
fn what_was_not_processed_is_asked_for_again_after_a_reconnect() {
    let mut server = Server::live();
    server.session.options.auto_acknowledge = false;
    for id in 1..=4 {
        server.deliver(1, id, 1);
    }
    assert_eq!(server.messages().len(), 4);
    server.session.acknowledge(1, 2, server.now);
    // Were 4 said here, the router would take 3 and 4 for safe, and the app may die before they are.
    assert_eq!(opens(&reconnect(&mut server, 65_536)), [Some(2), Some(0)]);
    for id in 3..=5 {
        server.deliver(1, id, 1);
    }
    assert_eq!(server.messages(), [(1, 5)], "to this app they still come once");
}

#[test]
fn retention_does_not_acknowledge_what_the_app_has_not_processed() {
    let mut server = Server::live();
    server.session.options.auto_acknowledge = false;
    server.deliver(1, 1, 1);
    server.deliver(1, 10, 10);
    server.events();
    assert_eq!(server.session.last_sync_id(1), Some(0));
    server.session.acknowledge(1, 10, server.now);
    assert_eq!(server.session.last_sync_id(1), Some(10));
}

#[test]
fn a_floor_above_its_message_and_the_last_sync_id_there_is_do_no_harm() {
    let mut server = Server::live();
    server.deliver(1, 5, 100);
    assert_eq!(server.messages(), [(1, 5)]);
    assert_eq!(server.session.last_sync_id(1), Some(5));
    server.deliver(1, u64::MAX, u64::MAX);
    server.deliver(1, u64::MAX, u64::MAX);
    assert_eq!(server.messages(), [(1, u64::MAX)]);
}

#[test]
fn a_channel_closed_for_good_lets_go_of_its_submits() {
    let mut server = Server::live();
    server.submit("one");
    server.say(
        Kind::Close,
        1,
        &Close { code: Code::Kicked as i32, reason: "bye".into(), ..Close::default() },
    );
    let events = server.events();
    assert!(events.iter().any(|e| matches!(e, Event::Abandoned { channel: 1, code: Code::Kicked, .. })));
    assert_eq!(server.session.unanswered(), 0);
}

#[test]
fn messages_of_a_login_that_is_over_acknowledge_nothing_of_the_next() {
    let mut server = Server::live();
    server.deliver(1, 1, 1);
    server.deliver(2, 1, 1);
    server.session.open(1, "shop", "dave", Bytes::new(), Some(0));
    server.say(Kind::Opened, 1, &Opened { session: 9 });
    server.deliver(1, 1, 1);
    server.deliver(1, 2, 1);
    assert_eq!(server.messages(), [(2, 1), (1, 1), (1, 2)], "alice's untaken message comes again to alice");
}

#[test]
fn the_last_acknowledgement_goes_out_before_the_channel() {
    let mut server = Server::live();
    server.deliver(1, 1, 1);
    server.messages();
    server.session.close(1);
    assert_eq!(kinds(&server.sent()), [Kind::Ack, Kind::Close]);
}

#[test]
fn a_dead_network_is_noticed_while_the_app_keeps_sending() {
    let mut server = Server::live();
    let end = server.now + 120_000;
    while server.now < end && !server.session.wants_hang_up() {
        // What is written into a half-open connection goes nowhere and is never answered.
        server.session.submit(1, server.now.to_string().into(), "carol", Bytes::new(), server.now).unwrap();
        server.sent();
        server.advance(1000);
    }
    assert!(server.session.wants_hang_up(), "a minute of silence, two heartbeats, is death");
    // A submit that has no answer after five seconds is reason enough to ask.
    assert!(server.now < 1000 + 5000 + 30_000 + 2000, "noticed only at {}", server.now);
}

/// Bytes of an uplink in a millisecond: 80 kbit/s.
const SLOW: usize = 10;

/// Writes what the session has to say over a slow uplink, for so long, to a server that answers nothing but PING. What was
/// on the wire, in order.
fn write_slowly(server: &mut Server, ms: u64) -> Vec<Frame> {
    let mut reader = FrameReader::new(u32::MAX);
    let mut frames = Vec::new();
    let (end, mut piece) = (server.now + ms, Vec::new());
    while server.now < end && !server.session.wants_hang_up() {
        if piece.is_empty() {
            piece = server.session.poll_transmit(server.now).unwrap_or_default();
        }
        server.advance(500);
        let written = piece.len().min(500 * SLOW);
        reader.push(&piece[..written]);
        piece.drain(..written);
        if written > 0 {
            server.session.handle_written(server.now);
        }
        while let Some(frame) = reader.try_next().unwrap() {
            if frame.header.kind == Kind::Ping.byte() {
                server.say(Kind::Pong, 0, &Close::default());
            }
            frames.push(frame);
        }
    }
    frames
}

fn submit_much(server: &mut Server, channel: u16) {
    for id in 0..250 {
        let id = Bytes::from(format!("{channel}:{id}"));
        server.session.submit(channel, id, "carol", vec![0; 60_000].into(), server.now).unwrap();
    }
}

#[test]
fn a_connection_that_is_slow_is_not_taken_for_dead() {
    let mut server = Server::live();
    server.session.heartbeat_ms = 10_000;
    submit_much(&mut server, 1);
    let frames = write_slowly(&mut server, 300_000);
    assert!(!server.session.wants_hang_up());
    assert!(kinds(&frames).iter().filter(|kind| **kind == Kind::Ping).count() > 10);
}

#[test]
fn one_that_takes_nothing_any_more_is() {
    let mut server = Server::live();
    server.session.heartbeat_ms = 10_000;
    submit_much(&mut server, 1);
    // A piece that is never written.
    server.session.poll_transmit(server.now).unwrap();
    server.advance(9000 + PONG_MS_MIN + 1000);
    assert!(server.session.wants_hang_up());
}

#[test]
fn what_steers_waits_for_no_more_than_one_piece() {
    let mut server = Server::live();
    submit_much(&mut server, 1);
    let piece = server.session.poll_transmit(server.now).unwrap();
    assert!(piece.len() < UNSENT_BYTES_MAX + CLIENT_BODY_BYTES_MAX as usize + 100, "{}", piece.len());
    server.deliver(2, 1, 1);
    server.messages();
    let before = server.now;
    server.advance(100);
    let piece = server.session.poll_transmit(server.now).unwrap();
    assert!(piece.len() < UNSENT_BYTES_MAX + CLIENT_BODY_BYTES_MAX as usize + 100, "{}", piece.len());
    let mut reader = FrameReader::new(u32::MAX);
    reader.push(&piece);
    let frames: Vec<_> = std::iter::from_fn(|| reader.try_next().unwrap()).collect();
    assert_eq!(acks(&frames), [(2, 1)]);
    // All of it goes, without anything else to wake the session than that there is room.
    let mut sent = 0;
    while server.session.poll_timeout().is_some_and(|due| due <= server.now) {
        server.session.handle_timeout(server.now);
        sent += server.sent().len();
    }
    assert_eq!((sent, server.now), (250 - 4, before + 100));
}

#[test]
fn no_channel_takes_the_room_of_another() {
    let mut server = Server::live();
    for channel in [1, 2] {
        submit_much(&mut server, channel);
    }
    let mut said = [0; 3];
    for frame in write_slowly(&mut server, 100_000) {
        said[usize::from(frame.header.channel)] += 1;
    }
    assert!(said[1] >= 5 && said[2] >= 5, "{said:?}");
}

#[test]
fn requests_wait_for_room_as_messages_do() {
    let mut server = Server::live();
    let names: Vec<_> = (0..200).map(|number| format!("{number:0>120}")).collect();
    for id in 0..20 {
        let create = GroupCreate { members: names.clone(), ..GroupCreate::default() };
        let request = GroupRequest { id, group: "team".into(), act: Some(Act::Create(create)) };
        server.session.ask_group(1, request, server.now).unwrap();
    }
    let piece = server.session.poll_transmit(server.now).unwrap();
    assert!(piece.len() < UNSENT_BYTES_MAX + CLIENT_BODY_BYTES_MAX as usize, "{}", piece.len());
    let mut said = 0;
    while server.session.poll_timeout().is_some_and(|due| due <= server.now) {
        server.session.handle_timeout(server.now);
        said += server.sent().len();
    }
    assert_eq!(said, 20 - 3, "each once");
}

#[test]
fn what_is_sent_once_waits_behind_nothing_that_cannot_be_written() {
    let mut server = Server::live();
    submit_much(&mut server, 1);
    let once = |server: &mut Server| {
        let (id, payload) = (Bytes::from_static(b"typing"), Bytes::new());
        server.session.submit_as(Class::Transient, 1, id, "carol", payload, server.now)
    };
    assert_eq!(once(&mut server), Err(SubmitError::QueueFull));
    server.sent();
    // Nor behind what waits for its own turn.
    once(&mut server).unwrap();
    assert_eq!(server.submits_sent(), ["typing"]);
}

#[test]
fn what_cannot_be_written_does_not_pile_up() {
    let mut server = Server::live();
    for id in 0..200 {
        server.session.submit(1, id.to_string().into(), "carol", vec![0; 60_000].into(), server.now).unwrap();
    }
    let once = server.session.out.len();
    for _ in 0..20 {
        server.advance(5000);
        server.say(Kind::Pong, 0, &Close::default());
    }
    assert!(!server.session.wants_hang_up());
    assert!(server.session.out.len() < once + 1000, "{} bytes, then {}", once, server.session.out.len());
}

#[test]
fn what_cannot_be_written_does_not_pile_up_either_where_it_is_asked_for() {
    let mut server = Server::live();
    let names: Vec<_> = (0..200).map(|number| format!("{number:0>120}")).collect();
    for id in 0..60 {
        let create = GroupCreate { members: names.clone(), ..GroupCreate::default() };
        let request = GroupRequest { id, group: "team".into(), act: Some(Act::Create(create)) };
        server.session.ask_group(1, request, server.now).unwrap();
    }
    let once = server.session.out.len();
    let mut ping = Vec::new();
    put(&mut ping, Kind::Ping, Class::Command, 0, &[7; 16]);
    for _ in 0..20 {
        server.advance(5000);
        server.session.handle_bytes(&ping.repeat(100), server.now);
    }
    assert!(!server.session.wants_hang_up());
    assert!(server.session.out.len() < once + 1000, "{} bytes, then {}", once, server.session.out.len());
    server.sent();
    server.session.handle_bytes(&ping, server.now);
    assert_eq!(kinds(&server.sent()), [Kind::Pong], "whoever reads again is answered again");
}

#[test]
fn a_gateway_that_hangs_up_after_every_login_is_not_stormed() {
    let error = Error { code: Code::Internal as i32, detail: String::new() };
    let mut server = not_stormed(|server| server.say(Kind::Error, 0, &error));
    not_stormed(|server| server.say(Kind::GoAway, 0, &GoAway::default()));
    // One that lasts is trusted again.
    server.advance(20_000);
    server.session.handle_disconnected(server.now);
    assert!(server.session.poll_timeout().unwrap() <= server.now + 100);
}

/// Comes back for a minute to a gateway that says this at every login.
fn not_stormed(say: impl Fn(&mut Server)) -> Server {
    let mut server = Server::live();
    let mut tries = 0;
    let end = server.now + 60_000;
    while server.now < end {
        say(&mut server);
        server.session.handle_disconnected(server.now);
        let Some(due) = server.session.poll_timeout() else { panic!("it comes back") };
        server.now = due;
        server.connect();
        tries += 1;
        assert!(tries < 40, "{tries} logins in less than a minute");
    }
    server
}

#[test]
fn nobody_is_sent_away_for_weeks() {
    let mut server = Server::live();
    let away = GoAway { retry_min_ms: u32::MAX, retry_max_ms: 0, ..GoAway::default() };
    server.say(Kind::GoAway, 0, &away);
    server.session.handle_disconnected(server.now);
    assert!(server.session.poll_timeout().unwrap() - server.now <= 3_600_000);
}

/// A frame a server might send, sensible or not.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![0..20u64, Just(u64::MAX), Just(u64::MAX - 1)];
    let delivery = (1..3u16, id.clone(), id).prop_map(|(channel, sync_id, floor)| {
        let mut out = Vec::new();
        put_control(&mut out, Kind::Data, channel, &Delivery { sync_id, floor, ..Delivery::default() });
        out
    });
    let noise =
        (0..14u8, 0..4u16, prop::collection::vec(any::<u8>(), 0..24)).prop_map(|(kind, channel, body)| {
            let mut out = Vec::new();
            moor_wire::frame::put_frame(&mut out, kind, 0, channel, &body);
            out
        });
    prop_oneof![8 => delivery, 1 => noise, 1 => prop::collection::vec(any::<u8>(), 1..24)]
}

proptest! {
    #[test]
    fn whatever_the_server_says_messages_rise_and_nothing_panics(
        frames in prop::collection::vec(frame(), 0..80),
        cut in 1usize..40,
    ) {
        let mut server = Server::live();
        let mut last = [0; 3];
        for piece in frames.concat().chunks(cut) {
            server.session.handle_bytes(piece, server.now);
            for event in server.events() {
                let (channel, first, through) = match event {
                    Event::Message { channel, sync_id: Some(id), .. } => (channel, id, id),
                    Event::Expired { channel, from, to } => (channel, from, to),
                    _ => continue,
                };
                prop_assert!(first > last[usize::from(channel)], "never twice, never backwards");
                last[usize::from(channel)] = through;
            }
            server.advance(7);
            for frame in server.sent() {
                if frame.header.kind == Kind::Ack.byte() {
                    let at = usize::from(frame.header.channel);
                    prop_assert!(sync_id(&frame.body).unwrap() <= last[at], "never more than was received");
                }
            }
        }
    }

    /// A router with a timeline, a link that loses its connection, an app that processes what it likes.
    #[test]
    fn over_any_reconnects_everything_comes_once_and_in_order(
        steps in prop::collection::vec((0..4u8, 1..6u64), 1..60),
    ) {
        let mut server = Server::live();
        server.session.options.auto_acknowledge = false;
        let (mut head, mut sent_through, mut seen) = (0, 0, Vec::new());
        for (step, amount) in steps {
            match step {
                0 => head += amount,
                1 => {
                    let from = sent_through + 1;
                    for id in from..=head.min(sent_through + amount) {
                        server.deliver(1, id, 1);
                        sent_through = id;
                    }
                }
                2 => server.session.acknowledge(1, seen.len() as u64, server.now),
                _ => {
                    let opened = opens(&reconnect(&mut server, 65_536))[0].unwrap_or(0);
                    prop_assert_eq!(Some(opened), server.session.last_sync_id(1));
                    sent_through = opened;
                }
            }
            seen.extend(server.messages().into_iter().map(|(_, id)| id));
        }
        prop_assert_eq!(&seen, &(1..=seen.len() as u64).collect::<Vec<_>>());
        reconnect(&mut server, 65_536);
        for id in server.session.last_sync_id(1).unwrap_or(0) + 1..=head {
            server.deliver(1, id, 1);
        }
        seen.extend(server.messages().into_iter().map(|(_, id)| id));
        prop_assert_eq!(seen.len() as u64, head, "nothing is lost");
    }
}

#[test]
fn what_ends_the_connection_is_not_heard_on_a_channel() {
    let away = GoAway { retry_min_ms: 60_000, retry_max_ms: 60_000, ..GoAway::default() };
    let error = Error { code: Code::ProtocolError as i32, ..Error::default() };
    let by = |say: &dyn Fn(&mut Server)| {
        let mut server = Server::live();
        say(&mut server);
        server.events()
    };
    let garbled = [Event::Disconnected(Disconnect::Garbled)];
    assert_eq!(by(&|server| server.say(Kind::GoAway, 1, &away)), garbled);
    assert_eq!(by(&|server| server.say(Kind::Error, 1, &error)), garbled);
}
