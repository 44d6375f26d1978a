//! `moor-bench compare` with the real servers that this machine has; which were missing is printed.

#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

fn compare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moor-bench"));
    command.arg("compare").args(arguments);
    command
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("moor-compare-test-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn every_installed_server_delivers_everything_and_is_measured() {
    let directory = scratch("all");
    let file = directory.join("list.json");
    let load = ["--connections", "300", "--idle", "300", "--rate", "3000", "--seconds", "1", "--repeat", "1"];
    let output = compare(&[&load[..], &["--json", &file.display().to_string()]].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    // On a busy machine the harness may have been late; figures are not what is tested here.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list[0]["system"], "floor");
    for entry in list {
        let name = entry["system"].as_str().unwrap();
        assert_eq!(entry["shortcomings"], Value::Array(Vec::new()), "{name}");
        assert_eq!(entry["connections"], 300, "{name}");
        for key in ["deliveries_per_cpu_s", "fanout_per_cpu_s", "fanout_merged_per_cpu_s", "p99_us"] {
            assert!(entry[key].as_f64().unwrap() > 0.0, "{name} {key}: {}", entry[key]);
        }
        assert!(entry["version"].as_str().unwrap().starts_with(|c: char| c.is_alphanumeric()), "{name}");
        assert_ne!(entry["version"], "unknown", "{name}");
    }
    for (name, why) in list[0]["run"]["unavailable"].as_object().unwrap() {
        let why = why.as_str().unwrap();
        assert!(why.starts_with("not "), "{name} is there and could not be measured: {why}");
        assert!(said.contains(why), "the table does not say why {name} is missing");
        println!("skipped: {name}: {why}");
    }
}

#[test]
fn a_server_that_cannot_run_is_said_and_the_others_are_measured() {
    let directory = scratch("broken");
    let file = directory.join("list.json");
    let load = ["--connections", "50", "--idle", "50", "--rate", "1000", "--seconds", "1", "--repeat", "1"];
    let broken = ["--peers", "redis", "--program", "redis=/bin/false"];
    let output =
        compare(&[&load[..], &broken, &["--json", &file.display().to_string()]].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let list: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(said.contains("it ended at once"), "{said}");
    assert_eq!(list[0]["system"], "floor");
    assert!(list.as_array().unwrap().iter().all(|entry| entry["system"] != "redis"));
    assert!(list[0]["run"]["unavailable"]["redis"].as_str().unwrap().contains("it ended at once"));
}

#[test]
fn nothing_is_left_running_when_it_is_told_to_end() {
    let directory = scratch("signal");
    let load =
        ["--connections", "50", "--idle", "50", "--rate", "1000", "--seconds", "60", "--peers", "redis"];
    let mut bench =
        compare(&load).env("TMPDIR", &directory).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The floor is always there and always first.
    let server = within(Duration::from_secs(20), || {
        fs::read_dir(&directory).unwrap().next()?.unwrap();
        children(&bench).first().copied()
    });
    kill_process(pid(bench.id()), Signal::TERM).unwrap();
    within(Duration::from_secs(10), || bench.try_wait().unwrap());
    within(Duration::from_secs(10), || test_kill_process(pid(server)).is_err().then_some(()));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "its directory is left");
    fs::remove_dir_all(&directory).unwrap();
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// The children that the threads of a process have made and that are still there.
fn children(of: &Child) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", of.id())).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// Asks again and again until there is an answer.
fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < limit, "nothing within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
