//! The binary: how it starts, refuses to start, stops, and what it shows.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::io::{BufRead as _, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use common::{Peer, RouterProcess, Who};
use moor_wire::Code;

fn run(data: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = RouterProcess::command(data, arguments).output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

#[test]
fn whoever_cannot_start_says_in_one_sentence_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &["--shards", "2"]);
    let elsewhere = tempfile::tempdir().unwrap();

    let (code, text) = run(elsewhere.path(), &["--listen", &router.address.to_string()]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains(&format!("port {}", router.address.port())) && text.contains("already in use"),
        "{text}"
    );
    assert_eq!(text.trim().lines().count(), 1, "{text}");

    let (code, text) = run(directory.path(), &["--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("another process holds the data directory"), "{text}");

    let (code, text) = run(std::path::Path::new("/proc/moor"), &["--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("cannot write to the data directory /proc/moor"), "{text}");

    assert_eq!(router.terminate(), Some(0));
    let (code, text) = run(directory.path(), &["--listen", "127.0.0.1:0", "--shards", "3"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("made with 2 shard(s), not 3"), "{text}");
}

#[test]
fn the_log_is_for_collectors_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    // Loudly said at start: other users of this host could read it.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut router = RouterProcess::command(
        directory.path(),
        &["--listen", "127.0.0.1:0", "--log-level", "warn", "--log-format", "json"],
    )
    .stderr(std::process::Stdio::piped())
    .stdout(std::process::Stdio::null())
    .spawn()
    .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(router.stderr.take().unwrap()).read_line(&mut line).unwrap();
    router.kill().unwrap();
    router.wait().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).expect(&line);
    assert_eq!(line["level"], "WARN");
    assert!(line["fields"]["message"].as_str().unwrap().contains("chmod 700"), "{line}");

    let (code, text) = run(directory.path(), &["--log-level", "moor=loud"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("log_level") && text.contains("debug or trace"), "{text}");
}

/// strace shows what is flushed; that the admin port is in use ends the router behind it.
#[test]
fn a_new_data_directory_is_made_to_outlast_a_power_cut() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: what is flushed is seen with strace; install it");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (above, trace) = (directory.path().join("above"), directory.path().join("trace"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let router = RouterProcess::command(&above.join("data"), &[]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-e", "trace=fsync", "-o"]).arg(&trace);
    strace.arg(router.get_program()).args(router.get_args());
    let admin = taken.local_addr().unwrap().to_string();
    strace.args(["--listen", "127.0.0.1:0", "--admin", &admin]);
    assert_eq!(strace.output().unwrap().status.code(), Some(2));
    let text = std::fs::read_to_string(trace).unwrap();
    let flushed = |path: &std::path::Path| text.contains(&format!("<{}>)", path.display()));
    assert!(flushed(&above.join("data")), "what is in it: {text}");
    assert!(flushed(&above) && flushed(directory.path()), "and that it is there: {text}");
}

#[test]
fn settings_are_checked_and_a_slip_is_answered_with_the_nearest_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("router.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:7999\"\nretention = 5\n").unwrap();
    let file_argument = file.to_str().unwrap();
    let (code, text) = run(directory.path(), &["--config", file_argument, "--check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("127.0.0.1:7999"), "{text}");
    std::fs::write(&file, "fsink = \"full\"\n").unwrap();
    let (code, text) = run(directory.path(), &["--config", file_argument, "--check"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("did you mean \"fsync\""), "{text}");
    let help = Command::new(env!("CARGO_BIN_EXE_moor-router")).arg("--help").output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("Examples:"));
}

#[test]
fn a_stop_answers_everything_and_a_start_has_it_all() {
    let directory = tempfile::tempdir().unwrap();
    let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &["--admin", "127.0.0.1:0"]);
    let mut gateway = Peer::gateway(router.address, "east", 1, 0);
    let bob = Who::new(1, "bob", "phone");
    gateway.register(1, vec![bob.registration(None)]);
    for id in 0..8_000u32 {
        gateway.put_submit(&bob, "alice", &id.to_be_bytes(), &[7; 200]);
    }
    gateway.flush();
    // One answer: the rest is on its way.
    assert_eq!(gateway.expect_result().code(), Code::Ok);

    let mut admin = TcpStream::connect(router.admin.unwrap()).unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("router_registers_total 1"), "{text}");

    // It reads while the router stops, as a gateway does.
    let stopping = std::thread::spawn(move || router.terminate());
    let mut accepted = 1;
    while let Some((verb, body)) = gateway.next(common::PATIENCE) {
        if verb == moor_wire::internal::Verb::Push {
            let push = moor_wire::internal::Push::parse(&body).unwrap();
            let result: moor_wire::client::SubmitResult = prost::Message::decode(push.body).unwrap();
            accepted += u64::from(result.code() == Code::Ok);
        }
    }
    assert_eq!(stopping.join().unwrap(), Some(0));
    let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &[]);
    let mut service = Peer::service(router.address, "svc");
    assert_eq!(service.lookup("shop", "alice").head, accepted);
}
