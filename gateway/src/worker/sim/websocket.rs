//! Clients over WebSocket.

use std::sync::Arc;

use moor_websocket::mask::apply_mask;
use moor_websocket::upgrade::{Origins, Policy};
use moor_wire::Code;
use moor_wire::client::{Class, Error, Kind};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{Broadcast, Push};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, decode, kinds, ping, put_connect, put_open, settings};
use crate::limits::WEBSOCKET_PONGS_BYTES_MAX;
use crate::worker::counters::Counter;
use crate::worker::door::Limits;
use crate::worker::drain::DrainPlan;
use crate::worker::io::{Listener, WorkerId};
use crate::worker::mailbox::Mail;
use crate::worker::settings::Settings;

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

pub fn request(path: &str, origin: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: edge.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{origin}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: moor.v1\r\n\r\n"
    )
    .into_bytes()
}

/// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend(key);
    let at = out.len();
    out.extend(payload);
    assert_eq!(apply_mask(&mut out[at..], key).len(), 4);
    out
}

pub fn message(payload: &[u8]) -> Vec<u8> {
    masked(BINARY, payload)
}

/// Everything sent since the last look.
pub fn raw(bed: &Bed, peer: Peer) -> Vec<u8> {
    bed.with_socket(peer, |socket| std::mem::take(&mut socket.outbound))
}

/// A server's frames: the first byte and the payload of each.
pub fn split(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut seen = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => panic!("nothing here is that long"),
            length => (usize::from(*length), rest),
        };
        seen.push((*first, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    seen
}

/// Frames of the protocol in a server's messages.
pub fn frames(messages: &[(u8, Vec<u8>)]) -> Vec<Frame> {
    let mut reader = FrameReader::new(u32::MAX);
    for (first, payload) in messages {
        if *first == BINARY {
            reader.push(payload);
        }
    }
    std::iter::from_fn(|| reader.try_next().unwrap()).collect()
}

fn read(bed: &Bed, peer: Peer) -> Vec<Frame> {
    frames(&split(&raw(bed, peer)))
}

fn upgraded(bed: &mut Bed, seat: usize) -> Peer {
    let peer = bed.arrive(seat, Listener::Clients).expect("accepted");
    bed.write(peer, &request("/", ""));
    let answer = String::from_utf8(raw(bed, peer)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the key of RFC 6455 and its answer: {answer}");
    peer
}

/// Logged in on channel 1; the session.
fn client(bed: &mut Bed, seat: usize, account: &str) -> (Peer, SessionHandle) {
    let peer = upgraded(bed, seat);
    let mut out = Vec::new();
    put_connect(&mut out, "browser");
    put_open(&mut out, 1, account, Some(0));
    bed.write(peer, &message(&out));
    let frames = read(bed, peer);
    assert_eq!(kinds(&frames), [Kind::Connected, Kind::Opened]);
    (peer, SessionHandle(decode::<moor_wire::client::Opened>(&frames[1]).session))
}

#[test]
fn a_client_is_served_however_its_bytes_and_messages_are_cut() {
    let mut stream = Vec::new();
    put_connect(&mut stream, "browser");
    put_open(&mut stream, 1, "alice", Some(0));
    stream.extend(ping());
    for messages_of in [1, 3, 7, stream.len()] {
        let mut wire = request("/", "");
        for payload in stream.chunks(messages_of) {
            wire.extend(message(payload));
        }
        for pieces_of in [1, 2, 5, 64, wire.len()] {
            let mut bed = Bed::new();
            let peer = bed.arrive(0, Listener::Clients).unwrap();
            for piece in wire.chunks(pieces_of) {
                bed.write(peer, piece);
            }
            let answer = raw(&bed, peer);
            let head = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap() + 4;
            let seen = kinds(&frames(&split(&answer[head..])));
            assert_eq!(seen, [Kind::Connected, Kind::Opened, Kind::Pong], "{messages_of} {pieces_of}");
            assert!(bed.seats[0].worker.websockets.is_idle() && bed.seats[0].worker.begun.is_empty());
            assert_eq!(bed.counter(Counter::ConnectionsWebsocket), 1);
            bed.hang_up(peer);
            assert_eq!(bed.counter(Counter::ConnectionsWebsocket), 0);
            bed.assert_clean();
        }
    }
}

#[test]
fn pushes_and_broadcasts_come_as_messages_and_plain_clients_get_theirs_as_before() {
    let mut bed = Bed::new();
    let (browser, session) = client(&mut bed, 0, "alice");
    let (second, _) = client(&mut bed, 0, "carol");
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "bob");
    let service = bed.service(0, None);
    bed.read(service);
    let mut out = Vec::new();
    Push::data(1, session, Class::Reliable, &[5; 300]).put(&mut out, false);
    bed.write(service, &out);
    let messages = split(&raw(&bed, browser));
    assert_eq!(messages.len(), 1);
    assert_eq!(frames(&messages)[0].body[..], [5; 300]);
    let mut out = Vec::new();
    for body in [b"one", b"two"] {
        let (kind, flags) = (Kind::Data.byte(), Class::Transient.flags());
        Broadcast { cookie: 5, kind, flags, app: "shop", body }.put(&mut out, false);
    }
    bed.write(service, &out);
    for peer in [browser, second] {
        let messages = split(&raw(&bed, peer));
        assert_eq!(messages.len(), 1, "they leave together");
        let bodies: Vec<_> = frames(&messages).iter().map(|frame| frame.body.to_vec()).collect();
        assert_eq!(bodies, [b"one", b"two"]);
    }
    assert_eq!(bed.read(phone).len(), 2);
}

#[test]
fn what_is_queued_behind_a_slow_reader_stays_whole_messages() {
    let mut bed = Bed::new();
    let (peer, session) = client(&mut bed, 0, "alice");
    let service = bed.service(0, None);
    bed.read(service);
    bed.with_socket(peer, |socket| socket.window = 3);
    for number in 0..5_u8 {
        let mut out = Vec::new();
        Push::data(1, session, Class::Reliable, &[number; 50]).put(&mut out, false);
        bed.write(service, &out);
    }
    bed.write(peer, &masked(PING, b"there?"));
    bed.with_socket(peer, |socket| socket.window = usize::MAX);
    bed.advance(100);
    let messages = split(&raw(&bed, peer));
    let bodies: Vec<u8> = frames(&messages).iter().map(|frame| frame.body[0]).collect();
    assert_eq!(bodies, [0, 1, 2, 3, 4]);
    assert!(messages.contains(&(PONG, b"there?".to_vec())));
}

#[test]
fn a_ping_is_answered_and_counts_as_a_heartbeat() {
    let mut bed = Bed::new();
    let (peer, _) = client(&mut bed, 0, "alice");
    let interval = u64::from(settings().heartbeat.interval_ms);
    for _ in 0..4 {
        bed.advance(interval);
        bed.write(peer, &masked(PING, b"beat"));
        assert_eq!(split(&raw(&bed, peer)), [(PONG, b"beat".to_vec())]);
    }
    bed.advance(interval);
    bed.write(peer, &masked(PONG, b""));
    bed.advance(interval);
    assert!(bed.is_open(peer), "an unasked pong as well");
    bed.advance(interval);
    assert_eq!(bed.counter(Counter::HeartbeatLost), 1);
}

#[test]
fn pings_do_not_stand_for_connect() {
    let mut bed = Bed::new();
    let peer = upgraded(&mut bed, 0);
    for _ in 0..4 {
        bed.advance(3000);
        if !bed.is_open(peer) || bed.counter(Counter::LoginTimeout) == 1 {
            return;
        }
        bed.write(peer, &masked(PING, b"here"));
    }
    panic!("whoever pings need not say who it is");
}

#[test]
fn pings_count_as_frames_where_those_are_limited() {
    let limits = Limits { frames_per_connection_per_s: 100, ..Limits::default() };
    let mut bed = Bed::with(1, Settings { limits, ..settings() });
    let (peer, _) = client(&mut bed, 0, "alice");
    for _ in 0..12 {
        if bed.counter(Counter::FramesLimited) == 0 {
            bed.write(peer, &masked(PING, b"x").repeat(50));
        }
    }
    assert_eq!(bed.counter(Counter::FramesLimited), 1);
}

#[test]
fn a_drain_says_nothing_to_who_would_not_understand_it_and_goaway_once_it_does() {
    let mut bed = Bed::new();
    bed.router(0);
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    let request = request("/", "");
    bed.write(peer, &request[..40]);
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::Drain(DrainPlan { deadline_ms: 8000 })).unwrap();
    bed.advance(5000);
    assert_eq!(raw(&bed, peer), b"", "it waits for an answer over HTTP");
    bed.write(peer, &request[40..]);
    assert!(raw(&bed, peer).starts_with(b"HTTP/1.1 101 "));
    let mut out = Vec::new();
    put_connect(&mut out, "browser");
    bed.write(peer, &message(&out));
    assert_eq!(kinds(&read(&bed, peer)), [Kind::Connected, Kind::GoAway]);
}

#[test]
fn a_close_is_answered_with_its_code_and_the_session_ends() {
    let mut bed = Bed::new();
    let (peer, _) = client(&mut bed, 0, "alice");
    bed.write(peer, &masked(CLOSE, &1001_u16.to_be_bytes()));
    assert_eq!(split(&raw(&bed, peer)), [(CLOSE, 1001_u16.to_be_bytes().to_vec())]);
    assert_eq!(bed.counter(Counter::ChannelsOpen), 0);
    bed.hang_up(peer);
    assert_eq!(bed.counter(Counter::ClosedByPeer), 1);
    bed.assert_clean();
}

#[test]
fn who_breaks_websocket_s_rules_is_told_by_its_code() {
    let unmasked = [BINARY, 0].to_vec();
    for (bytes, code) in [(unmasked, 1002_u16), (masked(TEXT, b"hello"), 1003), (masked(0x83, b""), 1002)] {
        let mut bed = Bed::new();
        let (peer, _) = client(&mut bed, 0, "alice");
        let (other, _) = client(&mut bed, 0, "bob");
        bed.write(peer, &bytes);
        assert_eq!(split(&raw(&bed, peer)), [(CLOSE, code.to_be_bytes().to_vec())]);
        assert_eq!(bed.counter(Counter::ProtocolErrors), 1);
        bed.write(other, &message(&ping()));
        assert_eq!(kinds(&read(&bed, other)), [Kind::Pong]);
        bed.hang_up(peer);
        assert_eq!(bed.counter(Counter::ClosedByPeer), 0, "it was shown out");
        bed.hang_up(other);
        bed.assert_clean();
    }
}

#[test]
fn who_breaks_our_rules_gets_the_error_first_and_then_the_close() {
    let mut bed = Bed::new();
    let peer = upgraded(&mut bed, 0);
    bed.write(peer, &message(&ping()));
    let messages = split(&raw(&bed, peer));
    let told = frames(&messages);
    assert_eq!(kinds(&told), [Kind::Error]);
    assert_eq!(decode::<Error>(&told[0]).code(), Code::ProtocolError);
    assert_eq!(messages.last().unwrap(), &(CLOSE, 1002_u16.to_be_bytes().to_vec()));
}

#[test]
fn an_upgrade_that_is_not_wanted_is_answered_over_http_and_touches_nobody() {
    let policy =
        Policy { path: "/moor".into(), origins: Origins::Listed(vec!["https://shop.example".into()]) };
    let mut bed = Bed::with(1, Settings { websocket: Some(Arc::new(policy)), ..settings() });
    let phone = bed.client(0, "phone");
    let cases = [
        (request("/", ""), "404"),
        (request("/moor", "Origin: https://evil.example\r\n"), "403"),
        (request("/moor", "Origin: https://shop.example\r\n"), "101"),
        (request("/moor", ""), "101"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "404"),
        (b"GET /moor HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "426"),
        (b"G\x00\x01\x02 nonsense\r\n\r\n".to_vec(), "400"),
        ([b"GET /moor HTTP/1.1\r\nCookie: ".as_slice(), &[b'x'; 9000]].concat(), "431"),
    ];
    for (bytes, status) in cases {
        let peer = bed.arrive(0, Listener::Clients).unwrap();
        for piece in bytes.chunks(1000) {
            bed.write(peer, piece);
        }
        let answer = String::from_utf8(raw(&bed, peer)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        bed.hang_up(peer);
        assert!(!bed.is_open(peer), "{status}");
    }
    assert_eq!(bed.counter(Counter::UpgradesRefused), 6);
    bed.write(phone, &ping());
    assert_eq!(kinds(&bed.read(phone)), [Kind::Pong]);
    bed.hang_up(phone);
    bed.assert_clean();
}

#[test]
fn half_a_request_is_waited_for_no_longer_than_a_first_frame_and_gets_no_frame() {
    let mut bed = Bed::new();
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(peer, b"GET / HTTP/1.1\r\nHost:");
    bed.advance(u64::from(settings().first_byte_timeout_ms) + 200);
    assert_eq!(bed.counter(Counter::LoginTimeout), 1);
    assert_eq!(raw(&bed, peer), b"");
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn who_pings_and_does_not_read_is_closed_and_the_answers_are_bounded() {
    let mut bed = Bed::new();
    let (peer, _) = client(&mut bed, 0, "alice");
    let (other, _) = client(&mut bed, 0, "bob");
    bed.with_socket(peer, |socket| socket.window = 0);
    for _ in 0..WEBSOCKET_PONGS_BYTES_MAX {
        if !bed.is_open(peer) {
            break;
        }
        bed.write(peer, &masked(PING, &[b'x'; 125]));
        assert!(bed.counter(Counter::SendQueuedBytes) < 3 * WEBSOCKET_PONGS_BYTES_MAX as u64);
    }
    assert!(!bed.is_open(peer));
    assert_eq!(bed.counter(Counter::SlowReadersClosed), 1);
    bed.hang_up(other);
    bed.settle();
    assert_eq!(bed.counter(Counter::SendQueuedBytes), 0);
    bed.assert_clean();
}

#[test]
fn each_way_can_be_turned_off() {
    let mut bed = Bed::with(1, Settings { websocket: None, ..settings() });
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(peer, &request("/", ""));
    assert_eq!(kinds(&bed.read(peer)), [Kind::Error], "G is no frame");
    let mut bed = Bed::with(1, Settings { plain: false, ..settings() });
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    let mut out = Vec::new();
    put_connect(&mut out, "phone");
    bed.write(peer, &out);
    assert_eq!(kinds(&bed.read(peer)), [Kind::Error]);
    client(&mut bed, 0, "alice");
}
