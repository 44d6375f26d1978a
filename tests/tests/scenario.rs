//! `moor-bench run`: scenarios with real servers, a fault, promises kept and broken.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use moor_tests::process::{program, run_within};
use serde_json::Value;

/// Runs a committed scenario, small, with other texts for some of its own.
fn run(
    name: &str,
    changes: &[(&str, &str)],
    settings: &[&str],
    json: &Path,
) -> Result<(Option<i32>, String)> {
    run_by(Command::new(program("moor-bench")?), name, changes, settings, json)
}

/// The same, with the harness started by a command to which its arguments are added.
fn run_by(
    mut command: Command,
    name: &str,
    changes: &[(&str, &str)],
    settings: &[&str],
    json: &Path,
) -> Result<(Option<i32>, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/scenarios").join(name);
    let mut text = std::fs::read_to_string(file)?;
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is in the scenario");
        text = text.replace(old, new);
    }
    let changed = json.with_extension("toml");
    std::fs::write(&changed, text)?;
    command.arg("run").arg(&changed).arg("--json").arg(json);
    command.args(settings.iter().flat_map(|setting| ["--set", *setting]));
    let (code, out, err) = run_within(Duration::from_secs(90), &mut command)?;
    Ok((code, out + &err))
}

fn figures(json: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(json)?)?)
}

#[test]
fn promises_are_kept_over_a_killed_router_and_a_broken_one_is_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("kept.json");
    let run = |promise, json: &Path| {
        let changes = [("at_most = 25000", promise), ("after_ms = 4000", "after_ms = 1500")];
        run("router-killed.toml", &changes, &["sessions=200", "rate=200", "seconds=1"], json)
    };
    let (code, said) = run("at_most = 1000000", &json)?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Kill router") && said.contains("router is started again"), "{said}");
    let result = figures(&json)?;
    assert_eq!(result["promises"].as_array().map(Vec::len), Some(3));
    assert_eq!(result["loads"]["bereft"]["lost"], 0);

    let (code, said) = run("at_most = 0", &directory.path().join("broken.json"))?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("BROKEN a push arrives within 25 ms in the calm"), "{said}");
    Ok(())
}

/// Runs a committed scenario of two apps, small, and says what the loads measured. What is promised of times is what a test
/// can hold on a busy host; the figures that count are measured on a calm one.
fn tenants(name: &str, settings: &[&str]) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("tenants.json");
    let mut changes = vec![("at_most = 1.5", "at_most = 1000")];
    if name == "tenants.toml" {
        changes.extend([("at_least = 0.9", "at_least = 0.5"), ("at_most = 1.1", "at_most = 2")]);
    }
    let (code, said) = run(name, &changes, settings, &json)?;
    // A harness that was late, which ends with 4, has counted all the same.
    assert!(matches!(code, Some(0 | 4)), "{said}");
    let mut result = figures(&json)?;
    let promises = result["promises"].as_array().into_iter().flatten();
    assert!(promises.clone().count() > 5 && promises.clone().all(|p| p["kept"] == true), "{said}");
    Ok(result["loads"].take())
}

#[test]
fn an_app_beyond_its_messages_is_refused_and_the_one_beside_it_loses_nothing() -> Result<()> {
    let small =
        ["quota=100", "noise=1000", "noise_seconds=3", "rate=100", "seconds=1", "rounds=1", "sessions=50"];
    let loads = tenants("tenants.toml", &small)?;
    let count = |load: &str, key: &str| loads[load][key].as_u64();
    for load in ["calm", "quiet", "noisy"] {
        assert_eq!((count(load, "messages_lost"), count(load, "unanswered")), (Some(0), Some(0)), "{load}");
        let told = count(load, "accepted").zip(count(load, "refused")).map(|(taken, not)| taken + not);
        assert_eq!(told, count(load, "sent"), "{load}");
    }
    assert_eq!(loads["noisy"]["refused_by_code"]["OVERLOADED"].as_u64(), count("noisy", "refused"));
    Ok(())
}

#[test]
fn an_app_beyond_its_storage_is_refused_and_the_one_beside_it_loses_nothing() -> Result<()> {
    let small = ["quota=115200", "noise_seconds=3", "rate=100", "seconds=1", "rounds=1", "sessions=50"];
    let loads = tenants("tenants-storage.toml", &small)?;
    assert_eq!(loads["noisy"]["refused_by_code"]["STORAGE"], loads["noisy"]["refused"]);
    Ok(())
}

#[test]
fn an_app_beyond_its_sessions_is_refused_and_the_one_beside_it_loses_nothing() -> Result<()> {
    let small =
        ["quota=20", "noise=200", "insist_ms=200", "noise_seconds=5", "rate=50", "seconds=1", "rounds=1"];
    tenants("tenants-sessions.toml", &small).map(drop)
}

#[test]
fn an_app_beyond_its_rooms_is_refused_and_the_one_beside_it_loses_nothing() -> Result<()> {
    let small = ["quota=5", "noise=50", "insist_ms=200", "noise_seconds=4", "seconds=2", "sessions=50"];
    tenants("tenants-rooms.toml", &small).map(drop)
}

#[test]
fn clients_behind_a_device_of_the_harness_are_in_a_room_like_all_others() -> Result<()> {
    let allowed = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) || !Path::new("/dev/net/tun").exists() {
        eprintln!(
            "SKIPPED: no network namespace with a tun device can be made here (needs root, unshare and ip)"
        );
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("room.json");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program("moor-bench")?);
    // Two frames a second: what is reliable waits for the next one, and is promised within a second.
    let small = [
        "sessions=400",
        "workers=1",
        "rate=200",
        "seconds=2",
        "movers=100",
        "down_ms=500",
        "stack=tun",
        "host=0.0.0.0",
    ];
    let changes = [
        ("at_most = 2.0", "at_most = 1000"),
        ("\"--movers\"", "\"--one-reliable-of\", \"100\", \"--movers\""),
    ];
    let (code, said) = run_by(command, "room.toml", &changes, &small, &json)?;
    // A harness that was late, which ends with 4, has counted all the same.
    assert!(matches!(code, Some(0 | 4)), "{said}");
    let room = &figures(&json)?["loads"]["room"];
    let count = |key: &str| room[key].as_u64();
    assert_eq!((room["stack"].as_str(), count("sessions_at_end")), (Some("tun"), Some(400)), "{said}");
    assert_eq!(
        (count("segments_missed"), count("reliable_missing"), count("lost")),
        (Some(0), Some(0), Some(0))
    );
    assert!(count("reliable_wanted") >= Some(400), "{said}");
    Ok(())
}
