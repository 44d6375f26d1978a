//! Clients in fair weather: login, channels, heartbeats, tiers.

use moor_wire::Code;
use moor_wire::client::{Class, Close, Connected, Kind, Opened, SubmitResult, put, put_control, put_sync_id};
use moor_wire::internal::{self, Kick, Verb};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, HEARTBEAT_MS, Peer, decode, kinds, ping, put_connect, put_open, settings};
use super::kernel::Socket;
use crate::worker::counters::Counter;
use crate::worker::drain;
use crate::worker::io::Listener;
use crate::worker::settings::{HotTier, Settings};
use crate::worker::timers::death_ms;

fn login_script() -> Vec<u8> {
    let mut script = Vec::new();
    put_connect(&mut script, "phone");
    put_open(&mut script, 1, "alice", None);
    put_open(&mut script, 2, "bob", Some(7));
    script.extend(ping());
    script
}

const LOGIN_ANSWERS: [Kind; 4] = [Kind::Connected, Kind::Opened, Kind::Opened, Kind::Pong];

#[test]
fn a_login_is_answered_with_the_servers_terms() {
    let mut bed = Bed::new();
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(peer, &login_script());
    let frames = bed.read(peer);
    assert_eq!(kinds(&frames), LOGIN_ANSWERS);
    let connected: Connected = decode(&frames[0]);
    assert_eq!((connected.heartbeat_ms, connected.channels_max), (HEARTBEAT_MS, 4));
    let session = SessionHandle(decode::<Opened>(&frames[1]).session);
    assert_eq!(session.worker(), 0);
    assert_eq!(&frames[3].body[..], b"beat");
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn any_cut_of_the_stream_means_the_same() {
    let script = login_script();
    for piece in [1, 2, 3, 7, 8, 9, 50] {
        let mut bed = Bed::new();
        let peer = bed.arrive(0, Listener::Clients).unwrap();
        for bytes in script.chunks(piece) {
            bed.write(peer, bytes);
        }
        assert_eq!(kinds(&bed.read(peer)), LOGIN_ANSWERS, "pieces of {piece}");
        bed.hang_up(peer);
        bed.assert_clean();
    }
    // And cut by the kernel on its way in and out.
    let mut bed = Bed::new();
    {
        let mut kernel = bed.seats[0].kernel.borrow_mut();
        kernel.recv_bytes_max = 5;
        kernel.send_bytes_max = 3;
    }
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(peer, &script);
    assert_eq!(kinds(&bed.read(peer)), LOGIN_ANSWERS);
}

#[test]
fn trouble_on_one_channel_touches_no_other() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    let alice = bed.open(peer, 1, "alice");
    for (channel, account, code) in [(2, "", Code::Invalid), (3, "a\u{7}b", Code::Invalid)] {
        let mut out = Vec::new();
        put_open(&mut out, channel, account, None);
        bed.write(peer, &out);
        let frames = bed.read(peer);
        assert_eq!((kinds(&frames), frames[0].header.channel), (vec![Kind::Close], channel));
        assert_eq!(decode::<Close>(&frames[0]).code, code as i32);
    }
    let mut out = Vec::new();
    put(&mut out, Kind::Data, Class::Reliable, 9, b"to nobody");
    put(&mut out, Kind::Open, Class::Command, 5, b"\xff\xff not protobuf");
    bed.write(peer, &out);
    assert_eq!(kinds(&bed.read(peer)), [Kind::Close, Kind::Close]);
    assert!(bed.seats[0].worker.channels.resolve(SessionHandle(alice)).is_some());
    for channel in 2..=4 {
        bed.open(peer, channel, &format!("account-{channel}"));
    }
    let mut out = Vec::new();
    put_open(&mut out, 5, "one too many", None);
    bed.write(peer, &out);
    assert_eq!(decode::<Close>(&bed.read(peer)[0]).code, Code::Limit as i32);
    assert!(bed.is_open(peer));
}

#[test]
fn a_closed_channel_is_gone_and_its_number_can_be_used_again() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    let first = bed.open(peer, 1, "alice");
    let other = bed.open(peer, 2, "bob");
    let mut out = Vec::new();
    put_control(&mut out, Kind::Close, 1, &Close::default());
    bed.write(peer, &out);
    let second = bed.open(peer, 1, "carol");
    let channels = &bed.seats[0].worker.channels;
    assert!(channels.resolve(SessionHandle(first)).is_none());
    assert!(channels.resolve(SessionHandle(other)).is_some());
    assert_eq!(channels.identity(channels.resolve(SessionHandle(second)).unwrap().0).1, "carol");
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn a_close_names_the_session_it_ends_and_is_then_no_answer_to_an_open() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peer = bed.client(0, "phone");
    let alice = bed.open(peer, 1, "alice");
    let mut out = Vec::new();
    internal::put_control(&mut out, Verb::Kick, &Kick { session: alice, ..Kick::default() });
    bed.write(router, &out);
    // Said before the client has read that alice is gone: a late frame of hers, then two logins more.
    let mut out = Vec::new();
    put_sync_id(&mut out, Kind::Ack, 1, 5);
    for account in ["carol", "dave", ""] {
        put_control(&mut out, Kind::Close, 1, &Close::default());
        put_open(&mut out, 1, account, None);
    }
    bed.write(peer, &out);
    let frames = bed.read(peer);
    assert_eq!(kinds(&frames), [Kind::Close, Kind::Close, Kind::Opened, Kind::Opened, Kind::Close]);
    let closes = [0, 1, 4].map(|at| decode::<Close>(&frames[at]));
    assert_eq!(closes.clone().map(|close| close.session), [alice, 0, 0]);
    assert_eq!((closes[1].code(), closes[2].code()), (Code::NotFound, Code::Invalid));
    let opened = [2, 3].map(|at| decode::<Opened>(&frames[at]).session);
    assert!(opened[0] != alice && opened[1] != opened[0]);
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn data_that_does_not_decode_ends_its_channel_where_it_is_looked_at() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    let alice = bed.open(peer, 1, "alice");
    let mut out = Vec::new();
    put(&mut out, Kind::Data, Class::Reliable, 1, b"\xff\xff not protobuf");
    bed.write(peer, &out);
    let close: Close = decode(&bed.read(peer)[0]);
    assert_eq!((close.code(), close.session), (Code::ProtocolError, alice));
    assert_eq!(bed.seats[0].worker.channels.open_count(), 0, "the client was told that it is closed");
    bed.open(peer, 1, "alice");
}

#[test]
fn opening_an_open_channel_ends_that_channel_only() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    bed.open(peer, 1, "alice");
    let bob = bed.open(peer, 2, "bob");
    let mut out = Vec::new();
    put_open(&mut out, 1, "alice", None);
    bed.write(peer, &out);
    assert_eq!(decode::<Close>(&bed.read(peer)[0]).code, Code::ProtocolError as i32);
    assert_eq!(bed.seats[0].worker.channels.open_count(), 1);
    assert!(bed.seats[0].worker.channels.resolve(SessionHandle(bob)).is_some());
}

#[test]
fn any_frame_is_a_heartbeat_and_silence_for_one_and_a_half_intervals_is_death() {
    let mut bed = Bed::new();
    bed.router(0);
    let talker = bed.client(0, "talker");
    bed.open(talker, 1, "alice");
    let silent = bed.client(0, "silent");
    for _ in 0..3 {
        bed.advance(u64::from(HEARTBEAT_MS) * 29 / 60);
        let mut out = Vec::new();
        put_sync_id(&mut out, Kind::Ack, 1, 5);
        bed.write(talker, &out);
    }
    assert!(bed.is_open(silent), "87 of 90 seconds have passed");
    bed.advance(3100);
    assert!(!bed.is_open(silent));
    assert!(bed.is_open(talker));
    assert_eq!(bed.counter(Counter::HeartbeatLost), 1);
    assert_eq!(
        bed.seats[0].kernel.borrow().resets,
        1,
        "a half-open peer gets an RST: its memory is free at once"
    );
    bed.hang_up(talker);
    bed.assert_clean();
}

#[test]
fn half_a_frame_is_no_heartbeat() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "drip");
    for byte in &ping()[..7] {
        bed.advance(15_000);
        if !bed.is_open(peer) {
            return;
        }
        bed.write(peer, &[*byte]);
    }
    panic!("a peer that sends a byte now and then was kept alive");
}

#[test]
fn without_connect_a_connection_does_not_stay() {
    let mut bed = Bed::new();
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.advance(9900);
    assert!(bed.is_open(peer));
    bed.advance(200);
    assert_eq!(kinds(&bed.read(peer)), [Kind::Error]);
    bed.advance(1200);
    assert!(!bed.is_open(peer), "it had its moment to hang up");
    assert_eq!(bed.counter(Counter::LoginTimeout), 1);
    bed.assert_clean();
}

#[test]
fn a_submit_without_a_router_is_refused_and_never_pretended() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    bed.open(peer, 1, "alice");
    let submit = moor_wire::client::Submit {
        client_id: b"id-1".to_vec().into(),
        to: "bob".into(),
        payload: b"hi".to_vec().into(),
        ..Default::default()
    };
    let mut out = Vec::new();
    moor_wire::frame::put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), 1, &submit);
    bed.write(peer, &out);
    let frames = bed.read(peer);
    assert_eq!(kinds(&frames), [Kind::Ack]);
    let result: SubmitResult = decode(&frames[0]);
    assert_eq!((result.code, &result.client_id[..]), (Code::Unavailable as i32, &b"id-1"[..]));
}

fn burst(bed: &mut Bed, peer: Peer, pings: usize) {
    for _ in 0..pings {
        bed.write(peer, &ping());
    }
}

#[test]
fn a_busy_connection_becomes_hot_and_cools_again() {
    let mut bed = Bed::new();
    bed.router(0);
    let peer = bed.client(0, "phone");
    assert_eq!(bed.counter(Counter::ConnectionsHot), 1, "the router link is hot from the start");
    burst(&mut bed, peer, 5);
    assert_eq!((bed.counter(Counter::ConnectionsHot), bed.counter(Counter::RecvPromoted)), (2, 1));
    let armed = bed.seats[0].kernel.borrow().multishots;
    burst(&mut bed, peer, 20);
    assert_eq!(bed.seats[0].kernel.borrow().multishots, armed, "one multishot receive serves them all");
    bed.advance(20_000);
    assert_eq!((bed.counter(Counter::ConnectionsHot), bed.counter(Counter::RecvDemoted)), (1, 1));
    assert_eq!(bed.seats[0].kernel.borrow().cancels, 1);
    bed.read(peer);
    bed.write(peer, &ping());
    assert_eq!(kinds(&bed.read(peer)), [Kind::Pong], "and it still talks");
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn a_busy_connection_that_dies_is_noticed_as_soon_as_an_idle_one() {
    let mut bed =
        Bed::with(1, Settings { hot: HotTier { idle_ms: 600_000, ..settings().hot }, ..settings() });
    bed.router(0);
    let peer = bed.client(0, "phone");
    burst(&mut bed, peer, 5);
    assert_eq!(bed.counter(Counter::RecvPromoted), 1);
    bed.advance(death_ms(HEARTBEAT_MS) + 200);
    assert_eq!(bed.counter(Counter::HeartbeatLost), 1);
}

#[test]
fn a_slot_that_is_given_out_before_it_is_said_to_be_free_holds_the_new_connection() {
    let mut bed = Bed::new();
    let former = bed.client(0, "phone");
    bed.seats[0].kernel.borrow_mut().closes_overtaken = true;
    bed.with_socket(former, |socket| socket.eof = true);
    while bed.seats[0].kernel.borrow().sockets.contains_key(&former.slot.0) {
        bed.turn();
    }
    let peer = bed.client(0, "pad");
    assert_eq!(peer.slot, former.slot);
    assert_eq!((bed.counter(Counter::LateCompletions), bed.seats[0].worker.clients), (1, 1));
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn on_a_big_ring_nothing_is_cancelled() {
    let mut bed = Bed::new();
    bed.router(0);
    let peer = bed.client(0, "phone");
    burst(&mut bed, peer, 5);
    bed.seats[0].worker.clients += crate::limits::CANCEL_CONNECTIONS_MAX;
    bed.advance(20_000);
    assert_eq!(bed.seats[0].kernel.borrow().cancels, 0);
    bed.seats[0].worker.clients -= crate::limits::CANCEL_CONNECTIONS_MAX;
}

#[test]
fn more_clients_than_allowed_are_refused_with_a_word_and_the_others_do_not_notice() {
    let mut bed = Bed::with(1, Settings { connections_max: 3, ..settings() });
    let peers: Vec<_> = (0..3).map(|i| bed.client(0, &format!("device-{i}"))).collect();
    let before = bed.seats[0].kernel.borrow().sockets.len();
    for _ in 0..100 {
        // A refused connection is told and closed within the turn; nothing of it stays.
        bed.arrive(0, Listener::Clients);
        bed.settle();
        assert_eq!(bed.seats[0].kernel.borrow().sockets.len(), before);
    }
    // So many at once that they take the reserve of slots as well: each is told, as if it had come alone.
    bed.seats[0].kernel.borrow_mut().farewells.clear();
    for _ in 0..50 {
        let socket = Socket { window: usize::MAX, ..Socket::default() };
        bed.seats[0].kernel.borrow_mut().backlog[Listener::Clients as usize].push_back(socket);
    }
    bed.settle();
    assert_eq!(bed.seats[0].kernel.borrow().farewells, vec![drain::refusal(500, 5000); 50]);
    assert_eq!(bed.counter(Counter::AcceptRefused), 150);
    for peer in peers {
        bed.write(peer, &ping());
        assert_eq!(kinds(&bed.read(peer)), [Kind::Pong]);
    }
}
