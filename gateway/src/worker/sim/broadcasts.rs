//! One frame for every session of an app.

use moor_wire::Code;
use moor_wire::client::{Class, Kind};
use moor_wire::frame::Frame;
use moor_wire::internal::{Broadcast, Outcome};

use super::bed::{Bed, Peer, put_open, settings};
use super::peers::outcomes;
use crate::limits::{BROADCAST_SESSIONS_PER_TURN_MAX, BROADCAST_WALK_PER_TURN_MAX};
use crate::worker::channels::Channels;
use crate::worker::counters::Counter;
use crate::worker::settings::Settings;
use crate::worker::wheel::NIL;

fn put(out: &mut Vec<u8>, app: &str, class: Class, body: &[u8]) {
    Broadcast { cookie: 5, kind: Kind::Data.byte(), flags: class.flags(), app, body }.put(out, true);
}

fn read(bed: &mut Bed, peer: Peer) -> Vec<(u16, Vec<u8>)> {
    let data = |frame: &Frame| frame.header.kind == Kind::Data.byte();
    bed.read(peer).into_iter().filter(data).map(|f| (f.header.channel, f.body.to_vec())).collect()
}

#[test]
fn everybody_of_the_app_gets_it_on_every_worker_and_nobody_else() {
    let mut bed = Bed::with(3, settings());
    let phones: Vec<Peer> = (0..6).map(|number| bed.client(number % 3, "phone")).collect();
    for (number, phone) in phones.iter().enumerate() {
        bed.open(*phone, 1 + u16::try_from(number).unwrap() / 3, &format!("account-{number}"));
    }
    // Two sessions of the app and one of another on a single connection.
    bed.open(phones[0], 9, "second");
    let mut out = Vec::new();
    let bank = moor_wire::client::Open { app: "bank".into(), account: "a".into(), ..Default::default() };
    moor_wire::client::put_control(&mut out, Kind::Open, 20, &bank);
    bed.write(phones[1], &out);
    bed.read(phones[1]);
    let service = bed.service(0, None);
    bed.read(service);
    let mut out = Vec::new();
    put(&mut out, "shop", Class::Transient, b"sale");
    put(&mut out, "nobody", Class::Transient, b"?");
    bed.write(service, &out);
    let mut answers = outcomes(&bed.read(service));
    answers.sort_unstable_by_key(|outcome| outcome.reached);
    assert_eq!(
        answers,
        [
            Outcome { cookie: 5, code: Code::NotHere, reached: 0 },
            Outcome { cookie: 5, code: Code::Ok, reached: 7 }
        ]
    );
    for (number, phone) in phones.iter().enumerate() {
        let mut got = read(&mut bed, *phone);
        got.sort();
        let own = (1 + u16::try_from(number).unwrap() / 3, b"sale".to_vec());
        let expected = if number == 0 { vec![own, (9, b"sale".to_vec())] } else { vec![own] };
        assert_eq!(got, expected, "client {number}");
    }
    assert_eq!(bed.counter(Counter::Deliveries), 7);
    for phone in phones {
        bed.hang_up(phone);
    }
    bed.hang_up(service);
    bed.assert_clean();
}

#[test]
fn what_arrives_together_leaves_together_and_in_order() {
    let mut bed = Bed::new();
    let phone = bed.client(0, "phone");
    bed.open(phone, 7, "alice");
    let service = bed.service(0, None);
    bed.read(service);
    bed.seats[0].kernel.borrow_mut().recv_bytes_max = 64 * 1024;
    let before = bed.with_socket(phone, |socket| socket.sends);
    let mut out = Vec::new();
    for number in 0..20_u8 {
        put(&mut out, "shop", Class::Transient, &[number; 100]);
    }
    bed.write(service, &out);
    let bodies: Vec<_> = read(&mut bed, phone).into_iter().map(|(_, body)| body[0]).collect();
    assert_eq!(bodies, (0..20).collect::<Vec<u8>>());
    assert_eq!(bed.with_socket(phone, |socket| socket.sends) - before, 1, "one write");
}

#[test]
fn whoever_does_not_read_loses_what_may_be_lost_and_nobody_else_does() {
    let mut bed = Bed::new();
    let (slow, quick) = (bed.client(0, "slow"), bed.client(0, "quick"));
    bed.open(slow, 1, "alice");
    bed.open(quick, 1, "bob");
    bed.with_socket(slow, |socket| socket.window = 10);
    let service = bed.service(0, None);
    bed.read(service);
    let mut received = 0;
    for _ in 0..20 {
        let mut out = Vec::new();
        put(&mut out, "shop", Class::Transient, &[1; 1000]);
        bed.write(service, &out);
        received += read(&mut bed, quick).len();
    }
    assert_eq!(received, 20);
    assert!(bed.is_open(slow), "transient frames close nobody");
    assert!(bed.counter(Counter::FramesEvicted) > 0);
    let queued = bed.counter(Counter::SendQueuedBytes);
    assert!(queued <= 8192, "{queued} bytes queued");
    // What must not be dropped closes a peer that takes nothing.
    for _ in 0..20 {
        let mut out = Vec::new();
        put(&mut out, "shop", Class::Reliable, &[1; 1000]);
        bed.write(service, &out);
    }
    assert_eq!(bed.counter(Counter::SlowReadersClosed), 1);
    assert_eq!(read(&mut bed, quick).len(), 20);
}

#[test]
fn a_run_longer_than_the_limit_goes_out_in_parts_and_in_order() {
    let mut bed = Bed::with(1, Settings { send_queue_bytes_max: 1 << 20, ..settings() });
    let phone = bed.client(0, "phone");
    let mut out = Vec::new();
    put_open(&mut out, 2, "alice", None);
    bed.write(phone, &out);
    let service = bed.service(0, None);
    bed.read(service);
    let mut out = Vec::new();
    for number in 0..200_u8 {
        put(&mut out, "shop", Class::Transient, &[number; 1000]);
    }
    bed.write(service, &out);
    let bodies: Vec<_> = read(&mut bed, phone).into_iter().map(|(_, body)| body[0]).collect();
    assert_eq!(bodies, (0..200).collect::<Vec<u8>>());
}

fn bank(bed: &mut Bed) -> Peer {
    let teller = bed.client(0, "teller");
    let mut out = Vec::new();
    let open = moor_wire::client::Open { app: "bank".into(), account: "a".into(), ..Default::default() };
    moor_wire::client::put_control(&mut out, Kind::Open, 1, &open);
    bed.write(teller, &out);
    bed.read(teller);
    teller
}

/// The service says something, and the worker has a turn.
fn say(bed: &mut Bed, service: Peer, app: &str, body: &[u8]) {
    let mut out = Vec::new();
    put(&mut out, app, Class::Transient, body);
    bed.with_socket(service, |socket| socket.inbound.extend(out));
}

#[test]
fn a_large_app_is_served_a_slice_a_turn_and_others_meanwhile() {
    let mut bed = Bed::with(1, Settings { channels_per_connection_max: 50, ..settings() });
    let teller = bank(&mut bed);
    let phones = bed.crowd(20, 50);
    let last = bed.client(0, "last");
    bed.open(last, 1, "bob");
    let service = bed.service(0, None);
    bed.read(service);
    let sends = |bed: &Bed, peer| bed.with_socket(peer, |socket| socket.sends);
    let before = sends(&bed, last);
    let (mut slices, mut said) = (Vec::new(), 0);
    for turn in 0..40 {
        let delivered = bed.counter(Counter::Deliveries);
        bed.turn();
        let slice = bed.counter(Counter::Deliveries) - delivered;
        slices.extend((slice > 0).then_some(slice));
        // While the first is on its way two more come, and another app's.
        match (turn, slices.len()) {
            (0, _) => say(&mut bed, service, "shop", b"one"),
            (_, 1) if said == 0 => {
                said = turn;
                say(&mut bed, service, "shop", b"two");
                say(&mut bed, service, "bank", b"rates");
            }
            _ if said > 0 && said == turn - 1 => say(&mut bed, service, "shop", b"three"),
            _ => {}
        }
        if !slices.is_empty() && slices.len() < 4 {
            assert!(slice > 0 || said == turn, "it goes on without a word of the kernel's: {slices:?}");
        }
    }
    assert_eq!(slices.iter().sum::<u64>(), 3 * 1001 + 1);
    // Two of a run count as two.
    assert!(slices.iter().all(|slice| *slice <= 2 * BROADCAST_SESSIONS_PER_TURN_MAX as u64), "{slices:?}");
    assert_eq!(slices[..2], [BROADCAST_SESSIONS_PER_TURN_MAX as u64; 2]);
    assert_eq!(read(&mut bed, teller), [(1, b"rates".to_vec())]);
    let three: Vec<_> = ["one", "two", "three"].map(|body| (1, body.as_bytes().to_vec())).into();
    assert_eq!((read(&mut bed, last), sends(&bed, last) - before), (three, 2));
    for phone in phones {
        assert_eq!(read(&mut bed, phone).len(), 150);
    }
    assert!(bed.seats[0].worker.broadcasts.is_empty());
}

#[test]
fn what_is_left_for_an_app_that_has_gone_reaches_nobody_else() {
    let mut bed = Bed::new();
    let teller = bank(&mut bed);
    let (worker, now) = (&mut bed.seats[0].worker, crate::worker::Now(bed.now));
    let open = |channels: &mut Channels, app| -> Vec<_> {
        let name = |number: u32| number.to_string();
        let each = (0..1000).map(|number| channels.insert((teller.slot.0, NIL), 2, app, &name(number), None));
        each.map(|index| index.expect("there is room")).collect()
    };
    let shop = open(&mut worker.channels, "shop");
    let number = worker.channels.app("shop");
    assert_eq!(worker.collect_broadcast("shop", Kind::Data.byte(), 0, b"sale"), Ok(1000));
    worker.broadcast_step(now);
    for index in shop {
        worker.channels.remove(index, NIL);
    }
    // Another app gets the number that has become free, and the places.
    open(&mut worker.channels, "page");
    assert_eq!(worker.channels.app("page"), number);
    worker.broadcast_step(now);
    assert!(worker.broadcasts.is_empty());
    assert_eq!(worker.counters[Counter::Deliveries], BROADCAST_SESSIONS_PER_TURN_MAX as u64);
}

#[test]
fn a_small_app_among_many_sessions_is_looked_for_in_several_turns() {
    let mut bed = Bed::new();
    let teller = bank(&mut bed);
    let worker = &mut bed.seats[0].worker;
    for number in 0..3 * BROADCAST_WALK_PER_TURN_MAX {
        worker.channels.insert((teller.slot.0, 0), 2, "shop", &number.to_string(), None).unwrap();
    }
    worker.channels.insert((teller.slot.0, 0), 3, "bank", "last", None).unwrap();
    let now = crate::worker::Now(bed.now);
    assert_eq!(worker.collect_broadcast("bank", Kind::Data.byte(), 0, b"rates"), Ok(2));
    let mut delivered = Vec::new();
    while !worker.broadcasts.is_empty() {
        assert_eq!(worker.sleep_ms(now), 0);
        worker.broadcast_step(now);
        delivered.push(worker.counters[Counter::Deliveries]);
    }
    assert_eq!(delivered, [1, 1, 1, 2]);
}

#[test]
fn small_apps_together_look_at_no_more_entries_in_a_turn_than_one() {
    let mut bed = Bed::new();
    let teller = bank(&mut bed);
    let (worker, now) = (&mut bed.seats[0].worker, crate::worker::Now(bed.now));
    worker.channels.insert((teller.slot.0, NIL), 2, "page", "a", None).unwrap();
    for number in 0..BROADCAST_WALK_PER_TURN_MAX - 1_000 {
        worker.channels.insert((teller.slot.0, NIL), 3, "shop", &number.to_string(), None).unwrap();
    }
    assert!(worker.channels.end() < BROADCAST_WALK_PER_TURN_MAX);
    for app in ["bank", "page"] {
        assert_eq!(worker.collect_broadcast(app, Kind::Data.byte(), 0, b"rates"), Ok(1));
    }
    let turns = (1..).take_while(|_| {
        let is_left = !worker.broadcasts.is_empty();
        worker.broadcast_step(now);
        is_left
    });
    assert_eq!(turns.count(), 2);
    assert_eq!(worker.counters[Counter::Deliveries], 2);
}

#[test]
fn beyond_what_may_wait_the_service_is_told_to_come_again_and_other_apps_are_not() {
    let mut bed = Bed::new();
    let (phone, _) = (bed.client(0, "phone"), bank(&mut bed));
    bed.open(phone, 1, "alice");
    let flags = Class::Transient.flags();
    let worker = &mut bed.seats[0].worker;
    let mut say =
        |app: &str, bytes: usize| worker.collect_broadcast(app, Kind::Data.byte(), flags, &vec![0; bytes]);
    let taken = (0..).map_while(|_| say("shop", 60_000).ok()).count();
    assert_eq!(taken, 1024 * 1024 / 60_008);
    assert_eq!((say("shop", 60_000), say("nobody", 1)), (Err(Code::Overloaded), Err(Code::NotHere)));
    assert_eq!((say("shop", 10), say("bank", 60_000)), (Ok(1), Ok(1)));
    assert_eq!(bed.counter(Counter::BroadcastsRefused), 2);
    bed.settle();
    assert!(bed.seats[0].worker.broadcasts.is_empty());
    let worker = &mut bed.seats[0].worker;
    assert_eq!(worker.collect_broadcast("shop", Kind::Data.byte(), flags, &[0; 60_000]), Ok(1));
}
