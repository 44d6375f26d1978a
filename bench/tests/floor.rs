//! `moor-bench floor` as a process: it ends in order, so that the kernel has nothing of it to clear away.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn told_to_end_it_waits_for_its_clients_to_go() {
    let mut floor = Command::new(env!("CARGO_BIN_EXE_moor-bench"))
        .args(["floor", "--connections", "10", "--seconds", "60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(floor.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let mut client = TcpStream::connect(listening["listening"]["clients"].as_str().unwrap()).unwrap();
    let mut greeting = [0; 1];
    client.read_exact(&mut greeting).unwrap();

    kill_process(Pid::from_child(&floor), Signal::TERM).unwrap();
    // It serves on: what is echoed now comes after the signal.
    let mut echo = vec![0; 64 * 1024];
    client.write_all(b"still there?").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"still there?") {
        let length = client.read(&mut echo).unwrap();
        assert_ne!(length, 0, "it hung up");
        seen.extend_from_slice(&echo[..length]);
    }
    assert_eq!(floor.try_wait().unwrap(), None);

    drop(client);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = floor.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::park_timeout(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}
