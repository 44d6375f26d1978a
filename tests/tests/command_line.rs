//! `moor` against real processes: what a person types, and what comes back.

use std::time::Duration;

use anyhow::{Context, Result};
use moor_tests::listener::Listener;
use moor_tests::process::{Process, all_in_one, gateway, router, run, wait_for};
use serde_json::Value;

fn moor(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    run("moor", arguments)
}

fn flags(gateway: &Process, router: &Process) -> Vec<String> {
    vec![
        format!("--target={}", gateway.address("clients")),
        format!("--internal={}", gateway.address("internal")),
        format!("--admin={}", gateway.address("admin")),
        format!("--router={}", router.address("router")),
    ]
}

#[test]
fn a_message_a_push_and_a_look_go_where_they_should() -> Result<()> {
    let data = tempfile::tempdir()?;
    let moor_gateway = all_in_one(data.path(), &["--workers", "2"])?;
    let at = flags(&moor_gateway, &moor_gateway);
    let at: Vec<&str> = at.iter().map(String::as_str).collect();

    // Stored while nobody listens, delivered when somebody does, once.
    let (code, out, err) =
        moor(&[&at[..], &["send", "--from", "bob", "--to", "alice", "--id", "id-1", "hi"]].concat())?;
    assert_eq!((code, out.trim()), (Some(0), "accepted as #1 of alice"), "{err}");
    let (_, out, _) =
        moor(&[&at[..], &["send", "--from", "bob", "--to", "alice", "--id", "id-1", "hi"]].concat())?;
    assert_eq!(out.trim(), "accepted as #1 of alice, as before");

    let mut alice = Listener::start(&[&at[..], &["--account", "alice"]].concat())?;
    let session = alice.next("opened")?["session"].as_str().context("a session")?.to_owned();
    assert_eq!(alice.next("message")?["text"], "hi");
    wait_for(Duration::from_secs(5), "the acknowledgement to arrive", || {
        let (_, out, _) = moor(&[&at[..], &["who", "alice", "--json"]].concat())?;
        let who: Value = serde_json::from_str(&out).unwrap_or_default();
        Ok((who["sessions"][0]["acked"] == 1 && who["sessions"][0]["session"] == session).then_some(()))
    })?;

    let (code, out, err) = moor(&[&at[..], &["push", "--to", "alice", "look up"]].concat())?;
    assert_eq!((code, out.trim()), (Some(0), "reached 1 session(s)"), "{err}");
    let pushed = alice.next("message")?;
    assert_eq!((&pushed["text"], &pushed["sync_id"]), (&Value::from("look up"), &Value::Null));
    let (code, _, err) = moor(&[&at[..], &["push", "--session", &session, "just you"]].concat())?;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(alice.next("message")?["text"], "just you");
    let (code, out, err) = moor(&[&at[..], &["push", "--all", "everybody"]].concat())?;
    assert_eq!((code, out.trim()), (Some(0), "reached 1 session(s)"), "{err}");
    assert_eq!(alice.next("message")?["text"], "everybody");
    let (code, _, _) = moor(&[&at[..], &["--app", "bank", "push", "--all", "nobody"]].concat())?;
    assert_eq!(code, Some(1), "nobody of that app is there");

    // Workers publish what they count a moment later.
    wait_for(Duration::from_secs(5), "the open channel to be counted", || {
        let (_, out, _) = moor(&[&at[..], &["stats", "--json"]].concat())?;
        let stats: Value = serde_json::from_str(&out)?;
        Ok((stats["gateway"]["gateway"]["channels_open"] == 1).then_some(()))
    })?;
    let (code, _, err) = moor(&[&at[..], &["kick", "alice"]].concat())?;
    assert_eq!(code, Some(0), "{err}");
    wait_for(Duration::from_secs(5), "the kicked listener to end", || alice.ended())?;

    // Nobody is there any more: said in words, in JSON and by the exit code.
    wait_for(Duration::from_secs(5), "alice to be gone", || {
        let (_, out, _) = moor(&[&at[..], &["who", "alice", "--json"]].concat())?;
        let who: Value = serde_json::from_str(&out)?;
        Ok((who["sessions"] == Value::Array(Vec::new()) && who["head"] == 1).then_some(()))
    })?;
    let (code, out, err) = moor(&[&at[..], &["push", "--to", "alice", "--json", "look up"]].concat())?;
    assert_eq!((code, out.trim()), (Some(1), r#"{"reached":0}"#));
    let err: Value = serde_json::from_str(&err)?;
    assert!(err["error"].as_str().is_some_and(|why| why.contains("nobody is logged in")), "{err}");
    let (code, _, err) = moor(&[&at[..], &["kick", "alice"]].concat())?;
    assert!(code == Some(1) && err.contains("alice is not logged in"), "{err}");
    Ok(())
}

#[test]
fn a_listener_stays_through_the_death_of_its_gateway() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = router(data.path())?;
    let mut first = gateway("gateway-a", router.address("router"), &[])?;
    let second = gateway("gateway-b", router.address("router"), &[])?;
    let both = format!("--target={},{}", first.address("clients"), second.address("clients"));
    let mut alice = Listener::start(&[&both, "--account", "alice"])?;
    alice.next("opened")?;
    first.kill()?;
    alice.next("disconnected")?;
    alice.next("opened")?;
    let at = flags(&second, &router);
    let at: Vec<&str> = at.iter().map(String::as_str).collect();
    let (code, _, err) =
        moor(&[&at[..], &["send", "--from", "bob", "--to", "alice", "still there?"]].concat())?;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(alice.next("message")?["text"], "still there?");
    Ok(())
}

#[test]
fn a_change_of_a_group_says_once_who_made_it() -> Result<()> {
    let data = tempfile::tempdir()?;
    let moor_gateway = all_in_one(data.path(), &[])?;
    let at = flags(&moor_gateway, &moor_gateway);
    let at: Vec<&str> = at.iter().map(String::as_str).collect();
    let (code, _, err) = moor(&[&at[..], &["group", "create", "team", "--owner", "alice"]].concat())?;
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = moor(&[&at[..], &["group", "send", "team", "--from", "alice", "hi"]].concat())?;
    assert_eq!(code, Some(0), "{err}");
    let (_, out, _) = moor(&[&at[..], &["history", "--group", "team"]].concat())?;
    let lines: Vec<_> = out.lines().filter_map(|line| line.split_once("Z ")).map(|(_, said)| said).collect();
    assert_eq!(lines, ["#1 an operator: made the group, alice is owner", "#2 alice: hi"], "{out}");
    Ok(())
}

#[test]
fn where_nothing_listens_it_says_what_to_start() -> Result<()> {
    let (code, _, err) = moor(&["--target", "127.0.0.1:1", "send", "--from", "a", "--to", "b", "x"])?;
    assert!(code == Some(1) && err.contains("cargo run --release"), "{err}");
    let (code, _, err) = moor(&["--router", "127.0.0.1:1", "who", "alice"])?;
    assert!(code == Some(1) && err.contains("moor-router"), "{err}");
    let (code, _, err) = moor(&["--internal", "127.0.0.1:1", "push", "--all", "x"])?;
    assert!(code == Some(1) && err.contains("moor-gateway") && err.contains("--internal"), "{err}");
    Ok(())
}

#[test]
fn wrong_usage_is_said_to_people_and_to_programs() -> Result<()> {
    let (code, _, err) = moor(&["send", "--from", "a"])?;
    assert!(code == Some(2) && err.starts_with("error: "), "{err}");
    let (code, out, err) = moor(&["--json", "send", "--from", "a"])?;
    assert_eq!((code, &out[..]), (Some(2), ""));
    let err: Value = serde_json::from_str(&err)?;
    assert!(err["error"].as_str().is_some_and(|why| why.contains("<TEXT>")), "{err}");
    let (code, out, _) = moor(&["--json", "send", "--help"])?;
    assert!(code == Some(0) && out.contains("Usage: moor send"), "{out}");
    Ok(())
}
