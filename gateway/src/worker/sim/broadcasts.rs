//! One frame for every session of an app.

use moor_wire::Code;
use moor_wire::client::{Class, Kind};
use moor_wire::frame::Frame;
use moor_wire::internal::{Broadcast, Outcome};

use super::bed::{Bed, Peer, put_open, settings};
use super::peers::outcomes;
use crate::worker::counters::Counter;

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
    let mut bed =
        Bed::with(1, crate::worker::settings::Settings { send_queue_bytes_max: 1 << 20, ..settings() });
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
