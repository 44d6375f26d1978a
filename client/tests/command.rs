//! `moor` as a process, against a gateway made of a socket and the wire crate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Delivery, Kind, RoomBatch, RoomMessage, SubmitResult, TrafficMarks, sync_id};
use moor_wire::limits::CREDENTIAL_BYTES_MAX;
use serde_json::{Value, json};
use support::{Gateway, Peer, soon};

fn moor(gateway: &Gateway, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moor"));
    command.args(["--target", &gateway.address]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says until it ends, while the gateway goes on.
async fn ended(moor: Child) -> Output {
    let waiting = tokio::task::spawn_blocking(move || moor.wait_with_output().unwrap());
    soon("the end of moor", waiting).await.unwrap()
}

/// The next lines, while the gateway goes on.
async fn lines(mut out: BufReader<ChildStdout>, count: usize) -> (Vec<String>, BufReader<ChildStdout>) {
    let reading = tokio::task::spawn_blocking(move || {
        let lines = (0..count).map(|_| {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        });
        (lines.collect(), out)
    });
    soon("a line", reading).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn values(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn say(peer: &mut Peer, sync_id: u64, client_id: &'static [u8], payload: &'static [u8]) {
    let (client_id, payload) = (Bytes::from_static(client_id), Bytes::from_static(payload));
    let marks = Some(TrafficMarks { source: "\x1b[2J".into(), ..TrafficMarks::default() });
    let from = "bob".to_owned();
    let delivery = Delivery { sync_id, from, client_id, payload, marks, ..Delivery::default() };
    peer.say(Kind::Data, 1, &delivery).await;
}

#[tokio::test]
async fn nothing_of_a_message_is_lost_to_machines() {
    let gateway = Gateway::new().await;
    let listener =
        moor(&gateway, &["listen", "--account", "alice", "--from", "all", "--count", "3", "--json"]);
    let (mut peer, _) = gateway.accept().await;
    say(&mut peer, 1, b"id-1", b"\x1b[2J").await;
    say(&mut peer, 2, &[0xff], &[0x80, 0]).await;
    say(&mut peer, 3, b"", b"").await;
    let output = ended(listener).await;
    let said = values(&output);
    assert_eq!(said[0], json!({ "event": "opened", "session": "7" }));
    let message = |sync_id: u64, rest: Value| {
        let mut message = json!({
            "event": "message", "sync_id": sync_id, "from": "bob", "sent_at_ms": 0,
            "marks": { "source": "\x1b[2J" },
        });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        message
    };
    assert_eq!(said[1], message(1, json!({ "client_id": "id-1", "text": "\x1b[2J" })));
    assert_eq!(said[2], message(2, json!({ "client_id_base64": "/w==", "payload_base64": "gAA=" })));
    assert_eq!(said[3], message(3, json!({ "text": "" })));
}

#[tokio::test]
async fn a_terminal_is_told_nothing_it_would_obey() {
    let gateway = Gateway::new().await;
    let listener = moor(&gateway, &["listen", "--account", "alice", "--from", "all", "--count", "2"]);
    let (mut peer, _) = gateway.accept().await;
    say(&mut peer, 1, b"", b"a\r\nb\x1b[2J").await;
    say(&mut peer, 2, b"", &[0xff, 0, 1, 2]).await;
    let output = ended(listener).await;
    let said: Vec<_> = text(&output.stdout).lines().skip(1).map(str::to_owned).collect();
    let marks = r"[source=\u{1b}[2J]";
    assert_eq!(
        said,
        [
            format!(r"1970-01-01 00:00:00Z #1 bob: a\r\nb\u{{1b}}[2J {marks}"),
            format!("1970-01-01 00:00:00Z #2 bob: (4 bytes, not text) {marks}"),
        ]
    );
}

#[tokio::test]
async fn in_a_room_nothing_is_acknowledged_that_is_not_shown() {
    let gateway = Gateway::new().await;
    let room = ["room", "enter", "live", "--account", "alice", "--count", "1", "--json"];
    let room = moor(&gateway, &room);
    let (mut peer, _) = gateway.accept().await;
    peer.take(Kind::Enter).await;
    peer.deliver(1).await;
    let message = RoomMessage { from: "bob".into(), payload: "hi".into(), ..RoomMessage::default() };
    let batch = RoomBatch { room: "live".into(), messages: vec![message], ..RoomBatch::default() };
    peer.say(Kind::Room, 1, &batch).await;
    while let Some(frame) = peer.next().await {
        assert_ne!(frame.header.kind, Kind::Ack.byte(), "alice's message was not shown");
    }
    let output = ended(room).await;
    let said = values(&output);
    assert_eq!(said[0], json!({ "event": "opened", "session": "7" }));
    let message = json!({
        "event": "message", "sync_id": null, "type": 0, "from": "bob", "sent_at_ms": 0, "text": "hi", "marks": {},
    });
    assert_eq!(said[1..], [message]);
}

#[tokio::test]
async fn a_room_says_why_its_login_is_refused() {
    let gateway = Gateway::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "x".repeat(CREDENTIAL_BYTES_MAX + 1)).unwrap();
    let file = file.path().to_str().unwrap();
    let room = ["room", "enter", "live", "--account", "alice", "--credential-file", file];
    let output = ended(moor(&gateway, &room)).await;
    let err = text(&output.stderr);
    assert!(!output.status.success() && err.contains("the credential has 2049 bytes"), "{err}");
    for wrong in [
        ["room", "enter", "live", "--account", ""],
        ["room", "enter", "", "--account", "alice"],
        ["room", "enter", "live\n", "--account", "alice"],
    ] {
        let nowhere = ["--target", "127.79.0.1:1"];
        let output = ended(moor(&gateway, &[&nowhere[..], &wrong].concat())).await;
        let err = text(&output.stderr);
        assert!(!output.status.success() && !err.contains("nothing listens"), "{wrong:?}: {err}");
    }
}

#[tokio::test]
async fn a_message_that_is_not_taken_in_time_says_what_kept_it() {
    let gateway = Gateway::new().await;
    let send = ["send", "--from", "bob", "--to", "alice", "--id", "id-1", "--timeout", "3", "hi"];
    let send = moor(&gateway, &send);
    let (mut peer, _) = gateway.accept().await;
    let submit = peer.take_submit().await;
    let detail = "messages of level 2 are switched off for now".to_owned();
    let (client_id, code) = (submit.client_id, Code::Unavailable as i32);
    peer.say(Kind::Ack, 1, &SubmitResult { client_id, code, detail, ..SubmitResult::default() }).await;
    let output = ended(send).await;
    assert_eq!(
        text(&output.stderr).trim_end(),
        "moor: the router did not take the message within 3 s: messages of level 2 are switched off for now; it may \
         still have it: send it again with --id id-1, which stores it once"
    );
}

#[tokio::test]
async fn an_answer_names_its_ids() {
    let gateway = Gateway::new().await;
    let send = moor(&gateway, &["send", "--from", "bob", "--to", "alice", "--id", "id-1", "--json", "hi"]);
    let (mut peer, _) = gateway.accept().await;
    let submit = peer.take_submit().await;
    peer.accepted(&submit).await;
    let output = ended(send).await;
    let accepted = json!({
        "event": "accepted", "to": "alice", "client_id": "id-1", "sync_id": 9, "duplicate": false,
    });
    assert_eq!(values(&output), [accepted]);
}

#[tokio::test]
async fn lines_that_were_not_sent_are_a_failure_whoever_reads_the_answers() {
    for (input, words) in [("one\ntwo\nthree\n", Some("what follows line 1 was not sent")), ("one\n", None)] {
        let gateway = Gateway::new().await;
        let mut send = moor(&gateway, &["send", "--from", "bob", "--to", "alice", "-"]);
        drop(send.stdout.take());
        send.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let (mut peer, _) = gateway.accept().await;
        let submit = peer.take_submit().await;
        peer.accepted(&submit).await;
        // Not just gone.
        peer.take(Kind::Close).await;
        let output = ended(send).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.success(), words.is_none(), "{err}");
        assert!(err.contains(words.unwrap_or_default()), "{err}");
    }
}

#[tokio::test]
async fn what_a_listener_has_printed_is_acknowledged_however_it_ends() {
    let gateway = Gateway::new().await;
    let mut listener = moor(&gateway, &["listen", "--account", "alice", "--from", "all"]);
    let (mut peer, _) = gateway.accept().await;
    peer.deliver(1).await;
    let out = BufReader::new(listener.stdout.take().unwrap());
    let (said, out) = lines(out, 2).await;
    assert!(said[1].contains("#1"), "{said:?}");
    drop(out);
    // Nobody is there to read it.
    peer.deliver(2).await;
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(1));
    peer.take(Kind::Close).await;
    assert_eq!(peer.next().await, None);
    assert!(ended(listener).await.status.success());
}
