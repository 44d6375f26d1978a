//! Leases and incarnations over real sockets: how long a wrong location lives.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::time::Duration;

use common::{Peer, Who, gateway_hello};
use moor_router::{RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::internal::{Verb, put_control};

fn router() -> (tempfile::TempDir, RouterHandle) {
    let directory = tempfile::tempdir().unwrap();
    let config = RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        ..RouterConfig::default()
    };
    let router = moor_router::start(config).unwrap();
    (directory, router)
}

const ALICE: Who<'static> = Who::new(11, "alice", "phone");
const BOB: Who<'static> = Who::new(12, "bob", "phone");

#[test]
fn a_dead_gateway_s_sessions_are_gone_within_two_seconds() {
    let (_directory, router) = router();
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
    // What kill -9 looks like from here: the kernel closes the socket.
    gateway.ping();
    drop(gateway);
    let took = service.lookup_until("alice", |result| result.sessions.is_empty());
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert!(took >= Duration::from_millis(1000), "a closed link lingers for its lease: {took:?}");
}

#[test]
fn a_silent_gateway_is_void_after_its_lease_and_told_so() {
    let (_directory, router) = router();
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    let took = service.lookup_until("alice", |result| result.sessions.is_empty());
    assert!(took <= Duration::from_secs(2), "{took:?}");
    gateway.expect_end();
}

#[test]
fn frames_keep_the_lease() {
    let (_directory, router) = router();
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    for _ in 0..5 {
        gateway.ping();
        gateway.expect(Verb::Pong);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
}

#[test]
fn a_new_incarnation_ends_the_old_one_at_once() {
    let (_directory, router) = router();
    let mut old = Peer::gateway(router.listen_addr(), "east", 1, 0);
    let mut old_neighbour = Peer::gateway(router.listen_addr(), "east", 1, 1);
    old.register(1, vec![ALICE.registration(None)]);
    old_neighbour.register(1, vec![BOB.registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    let _new = Peer::gateway(router.listen_addr(), "east", 2, 0);
    assert!(service.lookup("shop", "alice").sessions.is_empty());
    assert!(service.lookup("shop", "bob").sessions.is_empty());
    old.expect_end();
    old_neighbour.expect_end();
    let mut late = Peer::connect(router.listen_addr());
    put_control(&mut late.out, Verb::Hello, &gateway_hello("east", 1, 0));
    late.flush();
    assert_eq!(late.expect_failure(), Code::Invalid);
}

#[test]
fn a_reconnecting_worker_keeps_what_it_announces_again_and_nothing_else() {
    let (_directory, router) = router();
    let mut old = Peer::gateway(router.listen_addr(), "east", 1, 0);
    old.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
    let mut service = Peer::service(router.listen_addr(), "svc");
    service.send("shop", "x", "alice", b"1", b"m");
    assert_eq!(old.expect_delivery().1.sync_id, 1);
    drop(old);
    // Away for a moment: entries linger, deliveries wait.
    service.send("shop", "x", "alice", b"2", b"m");
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
    let mut new = Peer::gateway(router.listen_addr(), "east", 1, 0);
    new.register(1, vec![ALICE.registration(Some(1))]);
    assert_eq!(new.expect_delivery().1.sync_id, 2);
    assert_eq!(service.lookup("shop", "bob").sessions.len(), 1);
    new.synced();
    new.ping();
    new.expect(Verb::Pong);
    assert!(service.lookup("shop", "bob").sessions.is_empty());
    assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
}
