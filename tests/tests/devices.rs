//! Several devices of one account, on real processes.

use std::time::Duration;

use anyhow::{Context, Result};
use moor_tests::process::{Process, gateway, router_with, run, wait_for};
use moor_tests::raw::RawClient;
use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Delivery, DeviceAck, Kind, ReadMark, ReadMarks, Submit, SubmitResult, put_sync_id,
};
use moor_wire::frame::put_message;
use prost::Message;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

fn registered(router: &Process, sessions: u64) -> Result<()> {
    router.wait_stat("stats.router_sessions", LIMIT, |value| value == sessions).map(drop)
}

/// Sends one message of a class and waits for its answer.
fn send(client: &mut RawClient, class: Class, id: &str, to: &str) -> Result<SubmitResult> {
    let submit = Submit {
        client_id: id.as_bytes().to_vec().into(),
        to: to.into(),
        payload: b"hi"[..].into(),
        ..Submit::default()
    };
    let mut out = Vec::new();
    put_message(&mut out, Kind::Data.byte(), class.flags(), 1, &submit);
    client.write(&out)?;
    client.answer_to(id, LIMIT)?.context("an answer")
}

#[test]
fn what_an_apps_policy_excludes_is_kicked_over_gateways_and_stays_after_a_restart() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut router = router_with(data.path(), "[apps.shop]\ndevices = \"one-per-kind\"\n")?;
    let (east, west) =
        (gateway("east", router.address("router"), &[])?, gateway("west", router.address("router"), &[])?);
    let mut phone = RawClient::connect(east.address("clients"), "phone:a")?;
    phone.open(1, "alice", None)?;
    registered(&router, 1)?;
    let mut pad = RawClient::connect(east.address("clients"), "pad:b")?;
    pad.open(1, "alice", None)?;
    registered(&router, 2)?;
    let mut newer = RawClient::connect(west.address("clients"), "phone:c")?;
    newer.open(1, "alice", None)?;
    let close: Close = phone.expect(Kind::Close)?;
    assert_eq!((close.code(), &*close.reason), (Code::Kicked, "another device of this kind logged in"));
    // The other two stay, also when a new router hears of both at once.
    router.kill()?;
    let router = router.restart()?;
    registered(&router, 2)?;
    for client in [&mut pad, &mut newer] {
        client.ping()?;
    }
    let result = send(&mut pad, Class::Transient, "t-1", "alice")?;
    assert_eq!((result.code(), result.sync_id), (Code::Ok, 0));
    for client in [&mut pad, &mut newer] {
        let delivery = client.delivery()?;
        assert_eq!((delivery.sync_id, &delivery.payload[..]), (0, &b"hi"[..]));
    }
    assert_eq!(router.stat("stats.router_devices_kicked_total")?, 0);
    assert_eq!(send(&mut pad, Class::Normal, "t-2", "nobody")?.code(), Code::NotFound);
    Ok(())
}

#[test]
fn what_one_device_reads_and_acknowledges_the_others_learn() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut router = router_with(data.path(), "[apps.\"*\"]\ndevice_acks = true\n")?;
    let gateway = gateway("east", router.address("router"), &[])?;
    let mut phone = RawClient::connect(gateway.address("clients"), "phone")?;
    phone.open(1, "alice", None)?;
    let mut pad = RawClient::connect(gateway.address("clients"), "pad")?;
    pad.open(1, "alice", None)?;
    registered(&router, 2)?;
    send(&mut pad, Class::Reliable, "m-1", "alice")?;
    let delivery: Delivery = phone.delivery()?;
    phone.ack(1, delivery.sync_id)?;
    let told: DeviceAck = pad.expect(Kind::DeviceAck)?;
    assert_eq!((&*told.device, told.sync_id), ("phone", 1));

    let mark = ReadMark { conversation: "bob".into(), sync_id: 7, ..ReadMark::default() };
    phone.send(Kind::Read, 1, &mark.encode_to_vec())?;
    for client in [&mut phone, &mut pad] {
        let read: ReadMark = client.expect(Kind::Read)?;
        assert_eq!((&*read.conversation, read.sync_id, read.version), ("bob", 7, 1));
    }
    // Stored: a router that was killed still knows, and tells a device that logs in later.
    router.kill()?;
    let router = router.restart()?;
    registered(&router, 2)?;
    let mut late = RawClient::connect(gateway.address("clients"), "desktop")?;
    late.open(1, "alice", None)?;
    // Its worker's link may be the last that finds the new router; what is asked before is passed over.
    registered(&router, 3)?;
    let mut out = Vec::new();
    put_sync_id(&mut out, Kind::ReadMarks, 1, 0);
    late.write(&out)?;
    let page: ReadMarks = late.expect(Kind::ReadMarks)?;
    assert_eq!((page.marks.len(), page.marks[0].sync_id, page.version, page.more), (1, 7, 1, false));
    // A mark that says nothing ends the connection, as all that breaks the protocol.
    late.send(Kind::Read, 1, &ReadMark::default().encode_to_vec())?;
    late.next_of(Kind::Error)?;
    Ok(())
}

#[test]
fn moor_reads_and_sends_without_keeping() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = router_with(data.path(), "")?;
    let gateway = gateway("east", router.address("router"), &[])?;
    let target = format!("--target={}", gateway.address("clients"));
    let moor = |arguments: &[&str]| run("moor", &[&[&*target, "--json"], arguments].concat());
    let (code, out, err) = moor(&["read", "--account", "alice", "--peer", "bob", "7"])?;
    assert_eq!((code, &serde_json::from_str::<Value>(&out)?["sync_id"]), (Some(0), &Value::from(7)), "{err}");
    // A lower one is answered with what holds.
    let (_, out, err) = moor(&["read", "--account", "alice", "--peer", "bob", "6"])?;
    assert_eq!(serde_json::from_str::<Value>(&out)?["sync_id"], 7, "{err}");

    let (code, _, err) = moor(&["send", "--class", "transient", "--from", "bob", "--to", "alice", "hi"])?;
    assert_eq!(code, Some(1));
    assert!(err.contains("nobody is logged in"), "{err}");
    let mut alice = RawClient::connect(gateway.address("clients"), "phone")?;
    alice.open(1, "alice", None)?;
    wait_for(LIMIT, "the session to be known", || {
        let (code, ..) = moor(&["send", "--class", "normal", "--from", "bob", "--to", "alice", "hi"])?;
        Ok((code == Some(0)).then_some(()))
    })?;
    assert_eq!(alice.delivery()?.sync_id, 0);
    Ok(())
}
