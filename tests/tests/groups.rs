//! A group talks while its gateways and its router are killed: every member gets everything that was accepted, once
//! and in order, whichever way it was spread.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use moor_tests::member::Member;
use moor_tests::process::{Process, gateway, run, wait_for};
use moor_wire::Code;
use moor_wire::client::{Act, GroupCreate};

const ACCOUNTS: [&str; 6] = ["ann", "bob", "carol", "dave", "eve", "frank"];
const PATIENCE: Duration = Duration::from_secs(60);

fn start_router(data: &str, listen: &str, threshold: &str) -> Result<Process> {
    let own = ["--listen", listen, "--admin", "127.0.0.1:0", "--data", data, "--shards", "2"];
    Process::start("moor-router", &[&own[..], &["--group-read-threshold", threshold]].concat())
}

fn say(members: &[Member], round: &str, count: usize) {
    for number in 0..count {
        let speaker = number % members.len();
        members[speaker].send("friends", &format!("{round}-{number}"));
    }
}

/// Waits until what was said so far is accepted: place by payload.
fn accepted(members: &[Member], count: usize) -> Result<BTreeMap<String, u64>> {
    wait_for(PATIENCE, "everything to be accepted", || {
        let all: BTreeMap<String, u64> = members.iter().flat_map(|member| member.seen().accepted).collect();
        Ok((all.len() >= count).then_some(all))
    })
}

#[test]
fn a_group_that_is_killed_while_it_talks_loses_nothing_and_repeats_nothing() -> Result<()> {
    let data = tempfile::tempdir()?;
    let path = data.path().to_string_lossy().into_owned();
    let mut router = start_router(&path, "127.0.0.1:0", "100")?;
    let address = router.address("router").to_string();
    let mut gateways = [
        gateway("gateway-a", router.address("router"), &[])?,
        gateway("gateway-b", router.address("router"), &[])?,
    ];
    let clients: Vec<_> = gateways.iter().map(|gateway| gateway.address("clients")).collect();
    let members: Vec<Member> =
        ACCOUNTS.iter().enumerate().map(|(n, account)| Member::start(account, clients.clone(), n)).collect();
    let create = GroupCreate {
        members: ACCOUNTS[1..].iter().map(|name| (*name).to_owned()).collect(),
        ..GroupCreate::default()
    };
    members[0].ask(1, "friends", Act::Create(create));
    wait_for(PATIENCE, "the group", || Ok(members[0].seen().answers.get(&1).copied()))
        .map(|code| assert_eq!(code, Code::Ok))?;

    let mut said = 0;
    // Copied, then shared, then copied again: every restart of the router changes how messages are spread.
    for (round, threshold) in ["0", "100", "3"].into_iter().enumerate() {
        say(&members, &format!("{round}-gateway"), 60);
        gateways[round % 2].kill()?;
        let revived = gateways[round % 2].restart()?;
        gateways[round % 2] = revived;
        say(&members, &format!("{round}-router"), 60);
        router.kill()?;
        router = start_router(&path, &address, threshold)?;
        say(&members, &format!("{round}-after"), 60);
        said += 180;
        accepted(&members, said)?;
    }
    let places = accepted(&members, said)?;
    let last = places.values().copied().max().unwrap_or(0);
    for (member, account) in members.iter().zip(ACCOUNTS) {
        let seen = wait_for(PATIENCE, "the last entry", || {
            let seen = member.seen();
            Ok(seen.entries.last().is_some_and(|(place, _)| *place >= last).then_some(seen))
        })?;
        let ids: Vec<u64> = seen.entries.iter().map(|(place, _)| *place).collect();
        assert_eq!(ids, (1..=last).collect::<Vec<_>>(), "{account}: once each and in order");
        for (payload, place) in &places {
            let at = usize::try_from(*place - 1)?;
            assert_eq!(seen.entries[at].1.as_ref(), Some(payload), "{account} at {place}");
        }
    }
    Ok(())
}

#[test]
fn the_command_line_makes_groups_and_shows_what_was_said() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = start_router(&data.path().to_string_lossy(), "127.0.0.1:0", "100")?;
    let address = router.address("router").to_string();
    let moor = |arguments: &[&str]| run("moor", &[&["--router", &address], arguments].concat());
    let (code, _, error) = moor(&["group", "create", "friends", "--owner", "ann", "bob", "carol"])?;
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(moor(&["group", "add", "friends", "dave", "--as", "bob"])?.0, Some(1), "bob is no admin");
    assert_eq!(moor(&["group", "role", "friends", "bob", "admin", "--as", "ann"])?.0, Some(0));
    assert_eq!(moor(&["group", "add", "friends", "dave", "--as", "bob"])?.0, Some(0));
    assert_eq!(moor(&["group", "remove", "friends", "carol"])?.0, Some(0), "an operator may");
    let (_, members, _) = moor(&["group", "members", "friends"])?;
    assert_eq!(members, "ann owner\nbob admin\ndave member\n");
    assert_eq!(moor(&["group", "send", "friends", "hello"])?.0, Some(0));
    let (_, history, _) = moor(&["history", "--group", "friends"])?;
    let last = history.lines().last().unwrap_or_default().to_owned();
    assert!(history.lines().count() == 5 && last.ends_with("#5 moor: hello"), "{history}");
    // Below the threshold a copy lies in each member's own timeline.
    let copied = wait_for(PATIENCE, "the copies", || {
        let (_, own, _) = moor(&["history", "dave"])?;
        Ok(own.contains("in friends moor: hello").then_some(own))
    })?;
    assert!(copied.lines().count() >= 2, "{copied}");
    let listed = wait_for(PATIENCE, "the list", || {
        let (_, groups, _) = moor(&["group", "list", "dave"])?;
        Ok((!groups.is_empty()).then_some(groups))
    })?;
    assert_eq!(listed, "friends member\n");
    assert_eq!(moor(&["group", "dissolve", "friends"])?.0, Some(0));
    assert_eq!(moor(&["group", "members", "friends"])?.0, Some(1));
    Ok(())
}
