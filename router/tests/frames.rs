//! What is not the protocol: a typed FAILURE, a close, and nobody else notices.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::io::Write;
use std::time::Duration;

use common::{Peer, Who, gateway_hello};
use moor_router::{RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::frame::Header;
use moor_wire::internal::{Hello, Register, Role, Verb, put_control, put_empty};
use moor_wire::limits::{INTERNAL_BODY_BYTES_MAX, REGISTER_BATCH_MAX};

fn router(token: Option<&str>) -> (tempfile::TempDir, RouterHandle) {
    let directory = tempfile::tempdir().unwrap();
    let config = RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        token: token.map(str::to_owned),
        ..RouterConfig::default()
    };
    let router = moor_router::start(config).unwrap();
    (directory, router)
}

fn raw(peer: &mut Peer, kind: u8, length: u32, body: &[u8]) {
    peer.out.extend_from_slice(&Header { kind, flags: 0, channel: 0, length }.to_bytes());
    peer.out.extend_from_slice(body);
    peer.try_flush();
}

#[test]
fn every_violation_has_its_code_and_ends_only_its_own_link() {
    let (_directory, router) = router(None);
    let address = router.listen_addr();
    let mut bystander = Peer::gateway(address, "bystander", 1, 0);
    bystander.register(1, vec![Who::new(1, "alice", "phone").registration(None)]);

    let before_hello: [(&str, u8, u32, &[u8], Code); 4] = [
        ("an HTTP request", b'G', 0x5454_5020, b"/ HTTP/1.1", Code::TooLarge),
        ("an oversized frame", Verb::Hello.byte(), INTERNAL_BODY_BYTES_MAX + 1, b"", Code::TooLarge),
        ("another verb first", Verb::Ping.byte(), 0, b"", Code::ProtocolError),
        ("a broken body", Verb::Hello.byte(), 3, b"\xff\xff\xff", Code::ProtocolError),
    ];
    for (what, kind, length, body, code) in before_hello {
        let mut peer = Peer::connect(address);
        raw(&mut peer, kind, length, body);
        assert_eq!(peer.expect_failure(), code, "{what}");
    }
    let hellos = [
        (Hello { version: 99, ..gateway_hello("g", 1, 0) }, Code::Version),
        (Hello { node: String::new(), ..gateway_hello("g", 1, 0) }, Code::Invalid),
        (Hello { role: Role::Unspecified.into(), ..gateway_hello("g", 1, 0) }, Code::ProtocolError),
        (Hello { internal_address: "a".repeat(261), ..gateway_hello("g", 1, 0) }, Code::Invalid),
    ];
    for (hello, code) in hellos {
        let mut peer = Peer::connect(address);
        put_control(&mut peer.out, Verb::Hello, &hello);
        peer.flush();
        assert_eq!(peer.expect_failure(), code, "{hello:?}");
    }
    let after_hello: [(&str, u8, u32, &[u8], Code); 6] = [
        ("an unknown verb", 0xee, 0, b"", Code::ProtocolError),
        ("a service's verb", Verb::Lookup.byte(), 0, b"", Code::ProtocolError),
        ("a short UP", Verb::Up.byte(), 4, b"abcd", Code::ProtocolError),
        ("a broken REGISTER", Verb::Register.byte(), 3, b"\xff\xff\xff", Code::ProtocolError),
        ("a crooked NOT_HERE", Verb::NotHere.byte(), 15, &[0; 15], Code::ProtocolError),
        ("an oversized frame", Verb::Up.byte(), u32::MAX, b"", Code::TooLarge),
    ];
    for (number, (what, kind, length, body, code)) in after_hello.into_iter().enumerate() {
        let mut peer = Peer::gateway(address, &format!("g{number}"), 1, 0);
        raw(&mut peer, kind, length, body);
        // Bytes nobody will read must not destroy the answer.
        peer.stream.write_all(&[0; 100_000]).ok();
        assert_eq!(peer.expect_failure(), code, "{what}");
    }
    let mut peer = Peer::gateway(address, "many", 1, 0);
    let sessions = vec![Who::new(1, "a", "b").registration(None); REGISTER_BATCH_MAX + 1];
    put_control(&mut peer.out, Verb::Register, &Register { batch: 1, sessions });
    peer.flush();
    assert_eq!(peer.expect_failure(), Code::TooLarge);

    bystander.ping();
    bystander.expect(Verb::Pong);
}

#[test]
fn frames_may_come_byte_by_byte() {
    let (_directory, router) = router(None);
    let mut peer = Peer::connect(router.listen_addr());
    let mut bytes = Vec::new();
    put_control(&mut bytes, Verb::Hello, &gateway_hello("slow", 1, 0));
    put_empty(&mut bytes, Verb::Ping);
    for byte in bytes {
        peer.stream.write_all(&[byte]).unwrap();
    }
    peer.expect(Verb::Welcome);
    peer.expect(Verb::Pong);
}

#[test]
fn random_bytes_never_stop_the_router() {
    let (_directory, router) = router(None);
    let seed = std::env::var("MOOR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand_seed);
    println!("MOOR_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..200 {
        let mut peer = if round % 2 == 0 {
            Peer::connect(router.listen_addr())
        } else {
            Peer::gateway(router.listen_addr(), &format!("r{round}"), 1, 0)
        };
        for _ in 0..random.usize(1..8) {
            let length = random.usize(0..300);
            let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            let kind = if random.bool() { random.u8(..) } else { random.u8(0x20..0x39) };
            raw(&mut peer, kind, body.len() as u32, &body);
        }
    }
    let mut service = Peer::service(router.listen_addr(), "svc");
    assert_eq!(service.lookup("shop", "alice").code(), Code::Ok);
    assert!(router.is_healthy());
}

fn rand_seed() -> u64 {
    fastrand::u64(..)
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let (_directory, router) = router(Some("a-secret-of-the-test"));
    let mut peer = Peer::connect(router.listen_addr());
    put_control(&mut peer.out, Verb::Hello, &gateway_hello("g", 1, 0));
    peer.flush();
    assert_eq!(peer.expect_failure(), Code::Unauthorized);
    let mut peer = Peer::connect(router.listen_addr());
    let hello = Hello { token: b"a-secret-of-the-test"[..].into(), ..gateway_hello("g", 1, 0) };
    put_control(&mut peer.out, Verb::Hello, &hello);
    peer.flush();
    peer.expect(Verb::Welcome);
}

#[test]
fn a_link_that_does_not_read_is_shed_and_others_go_on() {
    let (_directory, router) = router(None);
    let mut deaf = Peer::gateway(router.listen_addr(), "deaf", 1, 0);
    deaf.register(1, vec![Who::new(1, "alice", "phone").registration(None)]);
    let mut other = Peer::gateway(router.listen_addr(), "other", 1, 0);
    other.register(1, vec![Who::new(2, "alice", "pad").registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    let body = vec![1; 60_000];
    let dropped = |router: &RouterHandle| {
        router.stats().into_iter().find(|(name, _)| *name == "router_pushes_dropped_total").unwrap().1
    };
    let mut rounds = 0u64;
    while dropped(&router) == 0 {
        let all = moor_wire::internal::PushAccount {
            cookie: rounds,
            kind: moor_wire::client::Kind::Data.byte(),
            flags: 3,
            app: "shop",
            account: "alice",
            body: &body,
        };
        all.put(&mut service.out);
        service.flush();
        service.expect_outcome();
        other.expect(Verb::Push);
        put_empty(&mut deaf.out, Verb::Ping);
        deaf.flush();
        rounds += 1;
        assert!(rounds < 5_000, "the queue of a deaf link has no end");
    }
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 2);
    assert!(other.next(Duration::from_millis(1)).is_none());
}
