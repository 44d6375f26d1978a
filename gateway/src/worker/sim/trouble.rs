//! Bad weather: garbage, full tables, empty pools, readers that do not read, completions that come late.

use moor_ring::{Completion, Recv, SendBuffer, Slot, Token};
use moor_wire::Code;
use moor_wire::client::{Class, Error, Kind, put};
use moor_wire::internal::{Push, Verb};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, decode, kinds, ping, put_connect, settings, verbs};
use crate::worker::Now;
use crate::worker::counters::Counter;
use crate::worker::io::Listener;
use crate::worker::settings::Settings;

#[test]
fn garbage_is_answered_with_a_typed_error_and_ends_that_connection_only() {
    let mut bed = Bed::new();
    let good = bed.client(0, "good");
    let mut oversized = Vec::new();
    put_connect(&mut oversized, "phone");
    oversized.extend([Kind::Data.byte(), 1, 0, 1, 0x7f, 0xff, 0xff, 0xff]);
    let mut early = Vec::new();
    put(&mut early, Kind::Data, Class::Reliable, 1, b"before CONNECT");
    let mut twice = Vec::new();
    put_connect(&mut twice, "phone");
    put_connect(&mut twice, "phone");
    let mut large_ping = Vec::new();
    put_connect(&mut large_ping, "phone");
    put(&mut large_ping, Kind::Ping, Class::Command, 0, &[0; 17]);
    for (bytes, code) in [
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Code::TooLarge),
        (vec![0xee, 0, 0, 0, 0, 0, 0, 0], Code::ProtocolError),
        (oversized, Code::TooLarge),
        (early, Code::ProtocolError),
        (twice, Code::ProtocolError),
        (large_ping, Code::TooLarge),
    ] {
        let peer = bed.arrive(0, Listener::Clients).unwrap();
        bed.write(peer, &bytes);
        let frames = bed.read(peer);
        let error = frames.last().expect("an answer");
        assert_eq!((error.header.kind, decode::<Error>(error).code), (Kind::Error.byte(), code as i32));
        // What it still sends is dropped; when it hangs up it is gone.
        bed.write(peer, &bytes);
        assert!(bed.read(peer).is_empty());
        bed.hang_up(peer);
        assert!(!bed.is_open(peer));
    }
    assert_eq!(bed.counter(Counter::ProtocolErrors), 6);
    bed.write(good, &ping());
    assert_eq!(kinds(&bed.read(good)), [Kind::Pong]);
    bed.hang_up(good);
    bed.assert_clean();
}

#[test]
fn a_wrongdoer_that_stays_is_reset_after_a_moment() {
    let mut bed = Bed::new();
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(peer, &[0xee, 0, 0, 0, 0, 0, 0, 0]);
    bed.advance(1200);
    assert!(!bed.is_open(peer));
    bed.assert_clean();
}

#[test]
fn a_truncated_frame_holds_little_and_goes_with_its_connection() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    // Announces the longest DATA there is and sends a third of it.
    bed.write(peer, &[Kind::Data.byte(), 1, 0, 1, 0, 0, 0xff, 0]);
    bed.write(peer, &[0; 20_000]);
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn without_buffers_receives_wait_and_nothing_is_lost() {
    let mut bed = Bed::new();
    let peers: Vec<_> = (0..5).map(|i| bed.client(0, &format!("device-{i}"))).collect();
    bed.seats[0].kernel.borrow_mut().buffers_free = 0;
    for peer in &peers {
        bed.with_socket(*peer, |socket| socket.inbound.extend(ping()));
    }
    for _ in 0..20 {
        bed.turn();
    }
    assert!(bed.counter(Counter::RecvNoBuffer) >= 5);
    bed.seats[0].kernel.borrow_mut().buffers_free = 16;
    bed.settle();
    for peer in peers {
        assert_eq!(kinds(&bed.read(peer)), [Kind::Pong]);
        bed.hang_up(peer);
    }
    bed.assert_clean();
}

#[test]
fn a_full_table_pauses_accepting_without_spinning_and_hurts_nobody() {
    let mut bed = Bed::new();
    bed.seats[0].kernel.borrow_mut().slots_max = 3;
    let first = bed.client(0, "first");
    let second = bed.client(0, "second");
    assert!(bed.arrive(0, Listener::Clients).is_none(), "the table is full (the router link has a slot too)");
    let accepts = bed.seats[0].kernel.borrow().accepts;
    for _ in 0..50 {
        bed.turn();
    }
    assert_eq!(bed.seats[0].kernel.borrow().accepts, accepts, "no spinning on a full table");
    assert_eq!(bed.counter(Counter::AcceptTableFull), 1);
    bed.write(first, &ping());
    assert_eq!(kinds(&bed.read(first)), [Kind::Pong]);
    bed.hang_up(second);
    bed.advance(200);
    assert!(bed.arrive(0, Listener::Clients).is_some(), "and it goes on by itself");
}

#[test]
fn a_reader_that_does_not_read_costs_only_itself() {
    let mut bed = Bed::with(1, Settings { send_queue_bytes_max: 4096, ..settings() });
    let router = bed.router(0);
    let lazy = bed.client(0, "lazy");
    let session = bed.open(lazy, 1, "lazy");
    let busy = bed.client(0, "busy");
    let busy_session = bed.open(busy, 1, "busy");
    bed.with_socket(lazy, |socket| socket.window = 0);
    let push = |bed: &mut Bed, session, class| {
        let mut out = Vec::new();
        Push::data(1, SessionHandle(session), class, &[0; 500]).put(&mut out, false);
        bed.write(router, &out);
    };
    // Transient frames are dropped for want of room and the connection stays …
    for _ in 0..50 {
        push(&mut bed, session, Class::Transient);
    }
    assert!(bed.is_open(lazy));
    assert!(bed.counter(Counter::FramesEvicted) > 0);
    assert!(bed.counter(Counter::SendQueuedBytes) <= 4096 + 508);
    // … reliable ones take their places, and when only those are left it is closed.
    for _ in 0..8 {
        push(&mut bed, session, Class::Reliable);
    }
    assert!(!bed.is_open(lazy));
    assert_eq!((bed.counter(Counter::SlowReadersClosed), bed.counter(Counter::SendQueuedBytes)), (1, 0));
    push(&mut bed, busy_session, Class::Reliable);
    assert_eq!(kinds(&bed.read(busy)), [Kind::Data]);
    // The router hears that the session is gone.
    bed.read(router);
    push(&mut bed, session, Class::Reliable);
    assert_eq!(verbs(&bed.read(router)), [Verb::NotHere]);
    bed.hang_up(busy);
    bed.assert_clean();
}

#[test]
fn frames_leave_in_order_through_a_narrow_pipe() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peer = bed.client(0, "phone");
    let session = bed.open(peer, 1, "alice");
    bed.seats[0].kernel.borrow_mut().send_bytes_max = 7;
    for number in 0..100u8 {
        let mut out = Vec::new();
        Push::data(1, SessionHandle(session), Class::Reliable, &[number; 30]).put(&mut out, false);
        // Bytes arrive between the pieces of a send, never a whole turn of rest.
        bed.with_socket(router, |socket| socket.inbound.extend(&out));
        bed.turn();
    }
    bed.settle();
    let numbers: Vec<u8> = bed.read(peer).iter().map(|frame| frame.body[0]).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_late_completion_is_noticed_and_harms_nobody() {
    let mut bed = Bed::new();
    let first = bed.client(0, "first");
    let stale = bed.seats[0].worker.connections[first.slot.0].token(first.slot);
    bed.hang_up(first);
    let second = bed.client(0, "second");
    assert_eq!(first.slot, second.slot, "the slot has a new tenant");
    let now = Now(bed.now);
    let buffers = bed.seats[0].kernel.borrow().buffers_free;
    let worker = &mut bed.seats[0].worker;
    let before = worker.counters[Counter::LateCompletions];
    worker.apply(
        Completion::Received { token: stale, result: Ok(Recv::Data(vec![0xee; 100])), more: false },
        now,
    );
    worker.apply(Completion::Ready { token: stale, result: Ok(()) }, now);
    worker
        .apply(Completion::Sent { token: stale, result: Ok(5), buffer: SendBuffer::Owned(vec![0; 5]) }, now);
    worker.apply(Completion::Closed { token: stale, result: Ok(()) }, now);
    worker.apply(Completion::Reset { token: Token::new(Slot(50).0, 3), result: Ok(()) }, now);
    assert_eq!(worker.counters[Counter::LateCompletions], before + 5);
    assert_eq!(bed.seats[0].kernel.borrow().buffers_free, buffers + 1, "its buffer went back");
    bed.seats[0].kernel.borrow_mut().buffers_free -= 1;
    bed.write(second, &ping());
    assert_eq!(kinds(&bed.read(second)), [Kind::Pong]);
    bed.hang_up(second);
    bed.assert_clean();
}

#[test]
fn a_peer_that_hangs_up_with_a_send_stuck_is_freed() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    bed.with_socket(peer, |socket| socket.window = 0);
    bed.write(peer, &ping());
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn a_send_that_stalls_ends_the_connection_although_it_still_talks() {
    let mut bed = Bed::new();
    let (lazy, slow) = (bed.client(0, "lazy"), bed.client(0, "slow"));
    for peer in [lazy, slow] {
        bed.with_socket(peer, |socket| socket.window = 0);
    }
    // One takes nothing at all, the other a little now and then.
    for _ in 0..3 {
        assert!(bed.is_open(lazy));
        for peer in [lazy, slow] {
            bed.write(peer, &ping());
        }
        bed.advance(10_000);
        bed.with_socket(slow, |socket| socket.window = 4);
        bed.settle();
    }
    bed.advance(1000);
    assert!(!bed.is_open(lazy), "long before the silence of a heartbeat and a half would be noticed");
    assert!(bed.is_open(slow));
    assert_eq!(bed.counter(Counter::SlowReadersClosed), 1);
    bed.hang_up(slow);
    bed.assert_clean();
}
