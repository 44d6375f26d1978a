//! What `moor` says and how it ends where a server is not there.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

/// Nobody listens there: no other test binds this address.
const NOWHERE: &str = "127.79.0.1:1";

/// Exit code, standard output, standard error.
fn moor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moor"));
    let nowhere = ["--target", NOWHERE, "--router", NOWHERE, "--internal", NOWHERE];
    let output = command.args(nowhere).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A gateway's admin port that answers one request.
fn admin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // All of the request: what is unread when the stream is dropped resets the connection.
        let (mut request, mut piece) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"\r\n\r\n") {
            let length = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..length]);
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"gateway\":{\"channels_open\":7}}").unwrap();
    });
    address
}

#[test]
fn every_command_says_who_is_away_and_fails() {
    let commands: &[&[&str]] = &[
        &["listen", "--account", "alice"],
        &["send", "--from", "bob", "--to", "alice", "hi"],
        &["read", "--account", "alice", "--peer", "bob", "3"],
        &["push", "--to", "alice", "hi"],
        &["push", "--all", "hi"],
        &["who", "alice"],
        &["kick", "alice"],
        &["group", "members", "team"],
        &["history", "alice"],
        &["degrade", "2"],
        &["room", "enter", "live", "--account", "alice"],
        &["room", "publish", "live", "hi"],
        &["room", "stats", "live"],
        &["stats", "--admin", NOWHERE],
    ];
    for command in commands {
        let (code, _, err) = moor(command);
        assert_eq!(code, Some(1), "{command:?}: {err}");
        assert!(err.starts_with("moor: n") && err.contains(NOWHERE), "{command:?}: {err}");
        let (code, out, err) = moor(&[*command, &["--json"]].concat());
        assert_eq!(code, Some(1), "{command:?}: {err}");
        let err: Value = serde_json::from_str(&err).unwrap();
        assert!(err["error"].as_str().unwrap().contains(NOWHERE), "{command:?}: {err}");
        assert!(out.is_empty() || serde_json::from_str::<Value>(&out).is_ok(), "{command:?}: {out}");
    }
}

#[test]
fn the_gateways_counters_are_shown_where_the_router_is_away() {
    let (code, out, err) = moor(&["stats", "--admin", &admin()]);
    assert_eq!(code, Some(1));
    assert!(out.contains("channels_open") && err.contains(NOWHERE), "{out}{err}");
    let (code, out, _) = moor(&["stats", "--json", "--admin", &admin()]);
    let stats: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &stats["gateway"]["gateway"]["channels_open"]), (Some(1), &Value::from(7)));
    assert!(stats["router"]["error"].as_str().unwrap().contains(NOWHERE));
}

#[test]
fn what_cannot_go_together_is_wrong_before_anybody_is_dialled() {
    let (code, _, err) = moor(&["send", "--from", "bob", "--to", "alice", "--credential-file", "-", "-"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("standard input has either the credential or the messages"), "{err}");
    let (code, _, err) = moor(&["send", "--from", "bob", "--to", "alice", "--id", "id-1", "-"]);
    assert!(code == Some(1) && err.starts_with("moor: --id is of one message"), "{err}");
    let (code, _, err) = moor(&["token", "--account", "", "--key", "nowhere.pem"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("account") && !err.contains("nowhere.pem"), "{err}");
    let (code, ..) = moor(&["send", "hi"]);
    assert_eq!(code, Some(2));
}
