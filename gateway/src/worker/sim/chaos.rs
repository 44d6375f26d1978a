//! A seeded storm: random clients, random bytes, random faults. Afterwards everything must be as new.

use moor_wire::client::{Class, Kind, put};
use moor_wire::internal::{Push, Verb};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, ping, put_connect, put_open, settings};
use crate::worker::counters::Counter;
use crate::worker::door::Limits;
use crate::worker::door::pressure::Level::{Calm, Refuse, Shed};
use crate::worker::io::Listener;
use crate::worker::settings::Settings;

/// Every limit, each low enough to be met.
fn limits() -> Limits {
    Limits {
        accepts_per_s: 20,
        logins_per_s: 20,
        connections_per_address: 8,
        accepts_per_address_per_s: 10,
        sessions_per_app: 10,
        logins_per_app_per_s: 10,
        frames_per_connection_per_s: 20,
        messages_per_channel_per_s: 5,
        ..Limits::default()
    }
}

fn storm(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bed = Bed::with(
        2,
        Settings {
            connections_max: 12,
            send_queue_bytes_max: 2048,
            limits: limits(),
            proxies: ["10.0.0.0/8".parse().unwrap()].into_iter().collect(),
            ..settings()
        },
    );
    for seat in 0..2 {
        bed.router(seat);
    }
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..400 {
        let seat = rng.usize(0..2);
        {
            let mut kernel = bed.seats[seat].kernel.borrow_mut();
            kernel.recv_bytes_max = rng.usize(1..200);
            kernel.send_bytes_max = rng.usize(1..200);
            kernel.slots_max = rng.u32(8..40);
        }
        peers.retain(|peer| bed.is_open(*peer));
        match rng.u8(0..12) {
            0..=2 => {
                let address = [Some("192.0.2.1"), Some("192.0.2.2"), Some("10.0.0.1"), None][rng.usize(0..4)];
                let address = address.map(|text| text.parse().unwrap());
                peers.extend(bed.arrive_from(seat, Listener::Clients, address));
            }
            3 if rng.u8(0..8) == 0 => {
                bed.seats[seat].worker.settings.shared.pressure.set([Calm, Refuse, Shed][rng.usize(0..3)]);
            }
            3 if !peers.is_empty() => {
                let peer = peers.swap_remove(rng.usize(0..peers.len()));
                bed.with_socket(
                    peer,
                    |socket| if rng.bool() { socket.eof = true } else { socket.reset = true },
                );
            }
            4 => bed.advance(rng.u64(0..40_000)),
            5 => {
                let link = bed.seats[seat].worker.link.up_slot();
                if let Some(slot) = link {
                    let mut out = Vec::new();
                    let session = SessionHandle::new(rng.u32(0..2), rng.u32(0..20), rng.u32(0..6));
                    Push::data(1, session, [Class::Reliable, Class::Transient][rng.usize(0..2)], &[1; 300])
                        .put(&mut out, rng.bool());
                    bed.with_socket(Peer { seat, slot }, |socket| socket.inbound.extend(&out));
                } else if bed.dialled(seat).is_some_and(|link| bed.is_open(link)) {
                    let link = bed.dialled(seat).unwrap();
                    let mut out = Vec::new();
                    moor_wire::internal::put_control(
                        &mut out,
                        Verb::Welcome,
                        &moor_wire::internal::Welcome { lease_ms: 1500, ..Default::default() },
                    );
                    bed.with_socket(link, |socket| socket.inbound.extend(&out));
                }
            }
            6 if !peers.is_empty() => {
                let peer = peers[rng.usize(0..peers.len())];
                let window = [0, 50, usize::MAX][rng.usize(0..3)];
                bed.with_socket(peer, |socket| socket.window = window);
            }
            _ if !peers.is_empty() => {
                let peer = peers[rng.usize(0..peers.len())];
                let mut out = Vec::new();
                match rng.u8(0..8) {
                    0 | 1 => put_connect(&mut out, "device"),
                    2 | 3 => put_open(&mut out, rng.u16(0..6), &format!("account-{}", rng.u8(0..4)), None),
                    4 => put(&mut out, Kind::Data, Class::Reliable, rng.u16(1..6), &[7; 40]),
                    5 => put(&mut out, Kind::Close, Class::Command, rng.u16(0..6), &[]),
                    6 => out.extend((0..rng.usize(1..40)).map(|_| rng.u8(..))),
                    _ => out.extend(ping()),
                }
                let whole = if rng.u8(0..6) == 0 { rng.usize(0..=out.len()) } else { out.len() };
                bed.with_socket(peer, |socket| socket.inbound.extend(&out[..whole]));
            }
            _ => {}
        }
        for _ in 0..rng.u8(1..4) {
            bed.turn();
        }
    }
    // Everybody leaves, however badly they stood.
    for seat in 0..2 {
        let mut kernel = bed.seats[seat].kernel.borrow_mut();
        kernel.backlog[0].clear();
        for socket in kernel.sockets.values_mut() {
            socket.eof = true;
        }
    }
    bed.settle();
    bed.advance(1000);
    bed.assert_clean();
    assert_eq!(bed.counter(Counter::RecvNoBuffer), 0);
    for seat in 0..2 {
        let worker = &bed.seats[seat].worker;
        let queued: usize = worker.link.up_slot().map_or(0, |slot| worker.queued_bytes(slot));
        assert_eq!(worker.counters[Counter::SendQueuedBytes], queued as u64);
    }
}

#[test]
fn after_any_storm_everything_is_as_new() {
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| storm(seed));
        assert!(outcome.is_ok(), "the storm with seed {seed} left damage");
    }
}
