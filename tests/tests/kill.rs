//! kill -9 of a gateway, kill -9 of the router: nothing accepted is lost, nobody is asked to do anything.

use std::time::{Duration, Instant};

use anyhow::Result;
use moor_tests::process::{gateway, router, wait_for};
use moor_tests::raw::RawClient;
use moor_tests::service::RawService;
use moor_wire::Code;
use moor_wire::client::{Kind, SubmitResult};

#[test]
fn a_killed_gateways_sessions_are_gone_in_two_seconds_and_the_other_gateway_takes_over() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = router(data.path())?;
    let mut first = gateway("gateway-a", router.address("router"), &[])?;
    let second = gateway("gateway-b", router.address("router"), &[])?;
    let mut alice = RawClient::connect(first.address("clients"), "phone")?;
    alice.open(1, "alice", None)?;
    let mut bob = RawClient::connect(second.address("clients"), "laptop")?;
    bob.open(1, "bob", None)?;
    let mut service = RawService::connect(router.address("router"), None)?;
    wait_for(Duration::from_secs(5), "both to be registered", || {
        Ok((service.lookup("alice")?.len() == 1 && service.lookup("bob")?.len() == 1).then_some(()))
    })?;
    assert_eq!(service.lookup("alice")?[0].gateway, "gateway-a");
    bob.submit_until_accepted(1, "before", "alice", b"before")?;
    let before = alice.delivery()?;
    alice.ack(1, before.sync_id)?;
    alice.ping()?;

    first.kill()?;
    let killed = Instant::now();
    // Sent to a session that only looks alive: stored, and delivered after the reconnect.
    bob.submit_until_accepted(1, "during", "alice", b"during")?;
    wait_for(Duration::from_secs(2), "the registry to forget the killed gateway's session", || {
        Ok(service.lookup("alice")?.is_empty().then_some(()))
    })?;
    assert!(killed.elapsed() <= Duration::from_secs(2), "took {:?}", killed.elapsed());
    assert_eq!(service.lookup("bob")?.len(), 1, "the other gateway's sessions stay");

    let mut alice = RawClient::connect(second.address("clients"), "phone")?;
    alice.open(1, "alice", Some(before.sync_id))?;
    let during = alice.delivery()?;
    assert_eq!((&during.payload[..], during.sync_id), (&b"during"[..], before.sync_id + 1));
    Ok(())
}

#[test]
fn a_killed_router_loses_nothing_it_accepted_and_clients_stay() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut router = router(data.path())?;
    let gateways = [
        gateway("gateway-a", router.address("router"), &[])?,
        gateway("gateway-b", router.address("router"), &[])?,
    ];
    let mut alice = RawClient::connect(gateways[0].address("clients"), "phone")?;
    alice.open(1, "alice", Some(0))?;
    let mut bob = RawClient::connect(gateways[1].address("clients"), "laptop")?;
    bob.open(1, "bob", None)?;
    // A gateway lets clients in before its links to the router stand.
    let mut service = RawService::connect(router.address("router"), None)?;
    wait_for(Duration::from_secs(5), "both to be registered", || {
        Ok((service.lookup("alice")?.len() == 1 && service.lookup("bob")?.len() == 1).then_some(()))
    })?;
    drop(service);
    let mut accepted = 0;
    for round in 0..3 {
        // Answers are still on their way when the router dies: some of these are stored, some are not.
        for number in 0..200 {
            bob.submit(1, &format!("{round}-{number}"), "alice", format!("{round}-{number}").as_bytes())?;
        }
        for _ in 0..50 {
            let result: SubmitResult = bob.expect(Kind::Ack)?;
            assert_eq!(result.code, Code::Ok as i32, "{}", result.detail);
        }
        router.kill()?;
        // Whoever speaks now is told so at once.
        wait_for(Duration::from_secs(5), "UNAVAILABLE", || {
            bob.submit(1, "away", "alice", b"away")?;
            // The first may still have gone to the router that is no more.
            let result = bob.answer_to("away", Duration::from_millis(500))?;
            Ok(result.filter(|result| result.code == Code::Unavailable as i32))
        })?;
        router = router.restart()?;
        // A client keeps what was not answered OK and sends it again under the same id.
        for number in 0..200 {
            bob.submit_until_accepted(
                1,
                &format!("{round}-{number}"),
                "alice",
                format!("{round}-{number}").as_bytes(),
            )?;
        }
        accepted += 200;
        alice.ping()?;
        bob.ping()?;
    }
    // "away" was never answered OK; it may be there if an answer was lost, once.
    let mut seen = std::collections::BTreeSet::new();
    let mut last = 0;
    while seen.len() < accepted {
        let delivery = alice.delivery()?;
        if delivery.sync_id <= last {
            continue;
        }
        assert_eq!(delivery.sync_id, last + 1, "sync ids have no hole");
        last = delivery.sync_id;
        alice.ack(1, last)?;
        let id = String::from_utf8(delivery.client_id.to_vec())?;
        assert!(id == "away" || seen.insert(id), "no message is stored twice");
    }
    assert!(
        gateways.iter().all(|g| g.stat("gateway.closed_total").is_ok_and(|closed| closed == 0)),
        "clients stayed"
    );
    Ok(())
}
