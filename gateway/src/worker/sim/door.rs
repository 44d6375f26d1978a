//! The front door: each limit holds for whom it is meant, and the others notice nothing.

use std::net::IpAddr;

use moor_wire::Code;
use moor_wire::client::{Class, Close, Error, GoAway, Kind, Submit, SubmitResult};
use moor_wire::frame::{FrameReader, put_message};
use moor_wire::internal::Push;
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, decode, kinds, ping, put_connect, put_open, settings};
use super::kernel::Socket;
use crate::worker::counters::Counter;
use crate::worker::door::pressure::Level;
use crate::worker::door::{Limits, Networks};
use crate::worker::drain::DrainPlan;
use crate::worker::io::Listener;
use crate::worker::mailbox::Mail;
use crate::worker::settings::Settings;

const BAD: &str = "198.51.100.1";
const GOOD: &str = "192.0.2.1";
const BALANCER: &str = "10.1.2.3";

fn bed(limits: Limits) -> Bed {
    Bed::with(1, Settings { limits, ..settings() })
}

fn behind_balancers(limits: Limits) -> Bed {
    Bed::with(1, Settings { limits, proxies: networks(&["10.0.0.0/8"]), ..settings() })
}

fn from(bed: &mut Bed, address: &str) -> Peer {
    let address: IpAddr = address.parse().unwrap();
    let peer = bed.arrive_from(0, Listener::Clients, Some(address)).expect("there is a slot");
    bed.settle();
    peer
}

fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What a peer that still talks is answered to CONNECT; empty: it is out.
fn connect(bed: &mut Bed, peer: Peer) -> Vec<Kind> {
    if !bed.is_open(peer) {
        return Vec::new();
    }
    let mut out = Vec::new();
    put_connect(&mut out, "phone");
    bed.write(peer, &out);
    if bed.is_open(peer) { kinds(&bed.read(peer)) } else { Vec::new() }
}

fn assert_well(bed: &mut Bed, peer: Peer) {
    bed.write(peer, &ping());
    assert_eq!(kinds(&bed.read(peer)), [Kind::Pong], "the others notice nothing");
}

fn submits(channel: u16, count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..count {
        let submit = Submit {
            client_id: vec![u8::try_from(number).unwrap()].into(),
            to: "bob".into(),
            ..Submit::default()
        };
        put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), channel, &submit);
    }
    out
}

#[test]
fn connections_that_come_too_fast_wait_in_the_kernels_queue() {
    let mut bed = bed(Limits { accepts_per_s: 10, ..Limits::default() });
    let come = |bed: &Bed, count| {
        let mut kernel = bed.seats[0].kernel.borrow_mut();
        kernel.backlog[0].extend((0..count).map(|_| Socket { window: usize::MAX, ..Socket::default() }));
    };
    let waiting = |bed: &Bed| bed.seats[0].kernel.borrow().backlog[0].len();
    let good = bed.client(0, "good");
    come(&bed, 20);
    bed.settle();
    assert_eq!((waiting(&bed), bed.counter(Counter::AcceptPaused)), (20, 1));
    assert_well(&mut bed, good);
    // This kernel hands all of them over before it hears that it should stop: a debt, worked off before the next.
    bed.advance(200);
    assert_eq!((waiting(&bed), bed.counter(Counter::AcceptPaused)), (0, 2));
    come(&bed, 1);
    bed.advance(1700);
    assert_eq!(waiting(&bed), 1);
    bed.advance(500);
    assert_eq!((waiting(&bed), bed.counter(Counter::Accepted)), (0, 22));
    assert_eq!(bed.counter(Counter::AcceptErrors), 0, "a pause is no error");
    assert_well(&mut bed, good);
}

#[test]
fn an_address_has_so_many_connections_and_another_its_own() {
    let limits =
        Limits { connections_per_address: 3, exempt: networks(&["127.0.0.0/8"]), ..Limits::default() };
    let mut bed = bed(limits);
    let good = from(&mut bed, GOOD);
    assert_eq!(connect(&mut bed, good), [Kind::Connected]);
    let bad: Vec<Peer> = (0..5).map(|_| from(&mut bed, BAD)).collect();
    let answers: Vec<usize> = bad.iter().map(|peer| connect(&mut bed, *peer).len()).collect();
    assert_eq!((answers, bed.counter(Counter::AddressRefused)), (vec![1, 1, 1, 0, 0], 2));
    assert_well(&mut bed, good);
    for _ in 0..5 {
        let exempt = from(&mut bed, "::ffff:127.0.0.1");
        assert_eq!(connect(&mut bed, exempt), [Kind::Connected]);
    }
    // Who leaves makes room.
    bed.hang_up(bad[0]);
    let next = from(&mut bed, BAD);
    assert_eq!(connect(&mut bed, next), [Kind::Connected]);
    let next = from(&mut bed, BAD);
    assert!(connect(&mut bed, next).is_empty());
}

#[test]
fn an_address_comes_so_fast_and_another_as_fast_as_it_may() {
    let mut bed = bed(Limits { accepts_per_address_per_s: 2, ..Limits::default() });
    let count = |bed: &mut Bed, address| {
        let peers: Vec<Peer> = (0..6).map(|_| from(bed, address)).collect();
        peers.into_iter().filter(|peer| !connect(bed, *peer).is_empty()).count()
    };
    assert_eq!((count(&mut bed, BAD), count(&mut bed, GOOD)), (2, 2));
    bed.advance(1000);
    assert_eq!(count(&mut bed, BAD), 2);
    assert_eq!(bed.counter(Counter::AddressRefused), 12);
}

#[test]
fn who_has_gone_before_the_kernel_could_say_from_where_is_not_counted() {
    let mut bed = bed(Limits { connections_per_address: 1, ..Limits::default() });
    for _ in 0..3 {
        let peer = bed.arrive_from(0, Listener::Clients, None).unwrap();
        bed.settle();
        bed.hang_up(peer);
        assert!(!bed.is_open(peer));
    }
    assert_eq!(bed.counter(Counter::AddressesUnknown), 3);
    bed.assert_clean();
}

/// Headers of both versions, of the same client.
fn headers(client: &str) -> [Vec<u8>; 2] {
    let client: std::net::Ipv4Addr = client.parse().unwrap();
    let first = format!("PROXY TCP4 {client} 203.0.113.7 40000 443\r\n").into_bytes();
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    second.extend(client.octets());
    second.extend([203, 0, 113, 7, 0x9c, 0x40, 1, 187]);
    // Something else that the balancer has to say.
    second.extend([4, 0, 1, 0]);
    [first, second]
}

#[test]
fn behind_a_balancer_a_client_is_known_by_what_the_balancer_says() {
    let mut bed = behind_balancers(Limits { connections_per_address: 1, ..Limits::default() });
    for (version, header) in headers(GOOD).into_iter().enumerate() {
        for cut in [1, 5, 1000] {
            let peer = from(&mut bed, BALANCER);
            let mut out = header.clone();
            put_connect(&mut out, "phone");
            for piece in out.chunks(cut) {
                bed.write(peer, piece);
            }
            assert_eq!(kinds(&bed.read(peer)), [Kind::Connected], "version {}", version + 1);
            // The address is counted, and it is the client's.
            let second = from(&mut bed, BALANCER);
            bed.write(second, &header);
            assert!(!bed.is_open(second));
            let direct = from(&mut bed, GOOD);
            assert!(!bed.is_open(direct), "the same client without the balancer");
            bed.hang_up(peer);
        }
    }
    // A health check is nobody, and a path that is no TCP as well.
    for header in [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b"PROXY UNKNOWN\r\n"] {
        let check = from(&mut bed, BALANCER);
        let mut out = header.to_vec();
        put_connect(&mut out, "check");
        bed.write(check, &out);
        assert_eq!(kinds(&bed.read(check)), [Kind::Connected]);
        bed.hang_up(check);
    }
    bed.assert_clean();
}

#[test]
fn a_balancer_must_say_it_and_nobody_else_may() {
    let mut bed = behind_balancers(Limits::default());
    let mut plain = Vec::new();
    put_connect(&mut plain, "phone");
    let long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), vec![0; 5000]].concat();
    let endless = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
    let udp = b"\r\n\r\n\0\r\nQUIT\n\x29\x11\0\x0c".to_vec();
    for wrong in [plain.clone(), endless, long, udp] {
        let peer = from(&mut bed, BALANCER);
        bed.write(peer, &wrong);
        assert!(!bed.is_open(peer), "{:?}", String::from_utf8_lossy(&wrong[..wrong.len().min(30)]));
    }
    assert_eq!(bed.counter(Counter::ProxyRefused), 4);
    // Who says nothing at all has as long as any client, and is told nothing that it would not understand.
    let silent = from(&mut bed, BALANCER);
    bed.write(silent, b"PROXY TCP4 ");
    bed.advance(12_000);
    assert!(!bed.is_open(silent));
    assert_eq!(bed.counter(Counter::LoginTimeout), 1);
    let stranger = from(&mut bed, GOOD);
    bed.write(stranger, &headers(BAD)[0]);
    let frames = bed.read(stranger);
    assert_eq!(kinds(&frames), [Kind::Error]);
    bed.hang_up(stranger);
    bed.assert_clean();
}

#[test]
fn logins_that_come_too_fast_are_told_to_come_back() {
    let mut bed = bed(Limits { logins_per_s: 1, ..Limits::default() });
    let peers: Vec<Peer> = (0..3).map(|_| bed.client(0, "phone")).collect();
    let open = |bed: &mut Bed, peer, channel| {
        let mut out = Vec::new();
        put_open(&mut out, channel, "alice", None);
        bed.write(peer, &out);
        bed.read(peer).remove(0)
    };
    assert_eq!(kinds(&[open(&mut bed, peers[0], 1)]), [Kind::Opened]);
    let refused = open(&mut bed, peers[1], 1);
    assert_eq!(kinds(std::slice::from_ref(&refused)), [Kind::Close]);
    assert_eq!(decode::<Close>(&refused).code, Code::Overloaded as i32);
    assert_well(&mut bed, peers[1]);
    bed.advance(1000);
    assert_eq!(kinds(&[open(&mut bed, peers[1], 1)]), [Kind::Opened]);
    assert_eq!((bed.counter(Counter::OpensPaced), bed.counter(Counter::OpensRefused)), (1, 1));
}

#[test]
fn an_app_has_so_many_sessions_over_all_workers_and_another_its_own() {
    let limits = Limits { sessions_per_app: 2, ..Limits::default() };
    let mut bed = Bed::with(2, Settings { limits, ..settings() });
    let peers = [bed.client(0, "a"), bed.client(1, "b")];
    bed.open(peers[0], 1, "alice");
    bed.open(peers[1], 1, "bob");
    let mut third = Vec::new();
    put_open(&mut third, 2, "carol", None);
    bed.write(peers[1], &third);
    let refused = bed.read(peers[1]).remove(0);
    assert_eq!(decode::<Close>(&refused).code, Code::Limit as i32);
    let bank = moor_wire::client::Open { app: "bank".into(), account: "carol".into(), ..Default::default() };
    let mut out = Vec::new();
    moor_wire::client::put_control(&mut out, Kind::Open, 3, &bank);
    bed.write(peers[1], &out);
    assert_eq!(kinds(&bed.read(peers[1])), [Kind::Opened]);
    // Who leaves, however, makes room.
    bed.hang_up(peers[0]);
    bed.write(peers[1], &third);
    assert_eq!(kinds(&bed.read(peers[1])), [Kind::Opened]);
    bed.hang_up(peers[1]);
    assert_eq!(bed.counter(Counter::OpensLimited), 1);
    bed.assert_clean();
}

#[test]
fn a_connection_that_says_too_much_is_closed_and_the_others_are_not() {
    let mut bed = bed(Limits { frames_per_connection_per_s: 100, ..Limits::default() });
    let (bad, good) = (bed.client(0, "bad"), bed.client(0, "good"));
    // One beat every 20 milliseconds is half of what it may.
    for _ in 0..100 {
        bed.now += 20;
        assert_well(&mut bed, good);
    }
    let flood = ping().repeat(50);
    for _ in 0..12 {
        if bed.is_open(bad) {
            bed.write(bad, &flood);
        }
    }
    let last = bed.read(bad).pop().unwrap();
    assert_eq!((last.header.kind, decode::<Error>(&last).code), (Kind::Error.byte(), Code::Limit as i32));
    bed.hang_up(bad);
    assert!(!bed.is_open(bad));
    assert_eq!(bed.counter(Counter::FramesLimited), 1);
    assert_well(&mut bed, good);
    bed.hang_up(good);
    bed.assert_clean();
}

#[test]
fn who_says_much_at_once_and_seldom_is_limited_as_well() {
    let limits =
        Limits { messages_per_channel_per_s: 20, frames_per_connection_per_s: 200, ..Limits::default() };
    let mut bed = bed(limits);
    let peer = bed.client(0, "phone");
    bed.open(peer, 1, "alice");
    bed.router(0);
    // Never often enough to be a hot connection.
    for _ in 0..10 {
        bed.write(peer, &submits(1, 60));
        bed.advance(1000);
    }
    assert_eq!(bed.counter(Counter::RecvPromoted), 0);
    let passed = bed.counter(Counter::Upstream);
    // The first four of what comes at once are what anybody may say.
    assert!((200..=240).contains(&passed), "{passed} of 600 in ten seconds");
    bed.write(peer, &ping().repeat(200));
    bed.write(peer, &ping().repeat(200));
    assert_eq!(bed.counter(Counter::FramesLimited), 1);
    bed.hang_up(peer);
    bed.assert_clean();
}

#[test]
fn a_channel_that_says_too_much_is_refused_and_its_neighbour_is_not() {
    let mut bed = bed(Limits { messages_per_channel_per_s: 20, ..Limits::default() });
    let peer = bed.client(0, "phone");
    bed.open(peer, 1, "alice");
    bed.open(peer, 2, "bob");
    bed.router(0);
    for _ in 0..5 {
        bed.write(peer, &submits(1, 20));
    }
    let frames = bed.read(peer);
    let refused =
        frames.iter().filter(|frame| decode::<SubmitResult>(frame).code == Code::Overloaded as i32).count();
    assert_eq!((refused, frames.len()), (refused, refused), "what is refused is said, and nothing else");
    let passed = bed.counter(Counter::Upstream);
    // Cold connections are not metered: the first receives made it hot.
    assert_eq!(usize::try_from(passed).unwrap() + refused, 100);
    assert!((20..=80).contains(&passed), "{passed}");
    assert_eq!(bed.counter(Counter::MessagesLimited), refused as u64);
    bed.write(peer, &submits(2, 20));
    assert_eq!(bed.counter(Counter::Upstream), passed + 20, "another channel has its own");
    bed.advance(1000);
    bed.write(peer, &submits(1, 20));
    assert_eq!(bed.counter(Counter::Upstream), passed + 40);
}

#[test]
fn while_memory_is_short_nobody_new_comes_in() {
    let limits = Limits { accepts_per_s: 1000, ..Limits::default() };
    let mut bed = Bed::with(1, Settings { limits, retry_max_ms: None, ..settings() });
    let pressure = bed.seats[0].worker.settings.shared.pressure.clone();
    let good = bed.client(0, "good");
    pressure.set(Level::Refuse);
    bed.arrive(0, Listener::Clients);
    bed.settle();
    let mut told = FrameReader::new(u32::MAX);
    told.push(bed.seats[0].kernel.borrow().farewells.last().unwrap());
    let away: GoAway = decode(&told.try_next().unwrap().unwrap());
    // Two clients are soon accepted: twice the pause that all are told.
    assert_eq!((away.code, away.retry_min_ms, away.retry_max_ms), (Code::Overloaded as i32, 500, 1000));
    assert_well(&mut bed, good);
    pressure.set(Level::Calm);
    bed.advance(1000);
    bed.client(0, "later");
    assert_eq!(bed.counter(Counter::AcceptShed), 1);
}

#[test]
fn while_memory_is_very_short_what_is_cheapest_goes_and_what_is_reliable_stays() {
    let mut bed = Bed::with(1, Settings { send_queue_bytes_max: 1 << 20, ..settings() });
    let pressure = bed.seats[0].worker.settings.shared.pressure.clone();
    let (slow, good) = (bed.client(0, "slow"), bed.client(0, "good"));
    let session = SessionHandle(bed.open(slow, 1, "alice"));
    let link = bed.router(0);
    bed.with_socket(slow, |socket| socket.window = 0);
    let push = |bed: &mut Bed, class| {
        let mut out = Vec::new();
        Push::data(1, session, class, &[7; 1000]).put(&mut out, false);
        bed.write(link, &out);
    };
    // The first is with the kernel.
    for class in [Class::Transient, Class::Transient, Class::Normal, Class::Reliable, Class::Transient] {
        push(&mut bed, class);
    }
    let before = bed.counter(Counter::SendQueuedBytes);
    pressure.set(Level::Shed);
    bed.advance(2000);
    assert_eq!(bed.counter(Counter::FramesEvicted), 2);
    assert!(bed.counter(Counter::SendQueuedBytes) < before - 2000);
    assert_well(&mut bed, good);
    bed.with_socket(slow, |socket| socket.window = usize::MAX);
    bed.settle();
    let classes: Vec<Class> =
        bed.read(slow).iter().map(|frame| Class::from_flags(frame.header.flags)).collect();
    assert_eq!(classes, [Class::Transient, Class::Normal, Class::Reliable]);
    // A slow reader has a quarter of the room; afterwards all of it again.
    assert_eq!(bed.seats[0].worker.send_queue_bytes_max, (1 << 20) / 4);
    pressure.set(Level::Calm);
    bed.advance(2000);
    assert_eq!(bed.seats[0].worker.send_queue_bytes_max, 1 << 20);
}

#[test]
fn a_drain_tells_clients_to_come_back_as_fast_as_they_can_be_accepted() {
    for (accepts_per_s, expected_ms) in [(1, 4500), (1000, 1000)] {
        let limits = Limits { accepts_per_s, connections_per_address: 100, ..Limits::default() };
        let mut bed = Bed::with(1, Settings { limits, retry_max_ms: None, ..settings() });
        let mut peers = Vec::new();
        for _ in 0..4 {
            peers.push(bed.client(0, "phone"));
            bed.advance(2000);
        }
        assert!(
            bed.mailboxes
                .of(crate::worker::io::WorkerId(0))
                .unwrap()
                .try_put(Mail::Drain(DrainPlan { deadline_ms: 2000 }))
                .is_ok()
        );
        bed.advance(1500);
        for peer in &peers {
            let away: GoAway = decode(&bed.read(*peer)[0]);
            assert_eq!((away.retry_min_ms, away.retry_max_ms), (500, expected_ms));
        }
        bed.advance(3000);
        assert!(bed.seats[0].ended);
    }
}

#[test]
fn who_comes_while_a_drain_begins_is_sent_away_at_once() {
    let mut bed = bed(Limits { connections_per_address: 100, ..Limits::default() });
    let mail = Mail::Drain(DrainPlan { deadline_ms: 60_000 });
    assert!(bed.mailboxes.of(crate::worker::io::WorkerId(0)).unwrap().try_put(mail).is_ok());
    // Accepted, and asked where it comes from, before the worker looks into its mail.
    let peer = bed.arrive(0, Listener::Clients).unwrap();
    assert!(bed.is_open(peer));
    bed.settle();
    assert!(!bed.is_open(peer));
    assert_eq!(bed.counter(Counter::AcceptRefused), 1);
}
