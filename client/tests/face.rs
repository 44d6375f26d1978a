//! The tokio face against a gateway made of a socket and the wire crate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use moor_client::core::{Disconnect, SubmitError};
use moor_client::{Client, ClientError, Conversation, Event, Options};
use moor_wire::Code;
use moor_wire::client::{
    Act, Close, GoAway, GroupAck, GroupDelivery, GroupHead, GroupHeads, GroupNothing, GroupPosition, Kind,
    Opened, RoomEnter, Submit, sync_id,
};
use prost::Message;
use support::{Gateway, message, soon, start};

/// A group of which this device has everything up to `acked`.
fn heads(group: &str, acked: u64) -> GroupHeads {
    let head = GroupHead { group: group.into(), head: acked, acked: Some(acked), ..GroupHead::default() };
    GroupHeads { heads: vec![head] }
}

#[tokio::test]
async fn messages_and_answers_survive_a_lost_connection_and_go_on_at_the_next_address() {
    let (one, two) = (Gateway::new().await, Gateway::new().await);
    let (client, mut events) = start(&[&one, &two], Options::new("phone")).await;
    let (mut peer, open) = one.accept().await;
    assert_eq!(open.last_sync_id, Some(0));
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1));
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(1));

    let sending = tokio::spawn(async move {
        let sent = client.send(1, "bob", Bytes::from("hi")).await;
        (client, sent)
    });
    let first = peer.take_submit().await;
    drop(peer);
    let (mut peer, open) = two.accept().await;
    assert_eq!(open.last_sync_id, Some(1));
    let again = peer.take_submit().await;
    assert_eq!(first, again, "the same message under the same id");
    peer.accepted(&again).await;
    let (_client, sent) = soon("the answer", sending).await.unwrap();
    assert_eq!(sent.unwrap().sync_id, 9);
    peer.deliver(1).await;
    peer.deliver(2).await;
    assert_eq!(message(&mut events).await, Some(2), "the duplicate is dropped");
}

#[tokio::test]
async fn an_app_that_sends_before_it_reads_its_events_gets_its_answer() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    // More than any queue of events holds: an app that answers each message in turn would wait for ever.
    for _ in 0..10_000 {
        peer.deliver(0).await;
    }
    for id in 1..=64 {
        peer.deliver(id).await;
    }
    let sending = client.send(1, "bob", Bytes::from("hi"));
    let answering = async {
        let submit = peer.take_submit().await;
        peer.accepted(&submit).await;
    };
    let (sent, ()) = soon("the answer", async { tokio::join!(sending, answering) }).await;
    assert_eq!(sent.unwrap().sync_id, 9);
    // Transient messages may be dropped; the others may not.
    let mut reliable = Vec::new();
    while reliable.len() < 64 {
        reliable.extend(message(&mut events).await);
    }
    assert_eq!(reliable, (1..=64).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_app_that_reads_no_events_is_not_said_to_have_them() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    for _ in 0..2000 {
        peer.deliver(0).await;
    }
    for id in 1..=3 {
        peer.deliver(id).await;
    }
    let sending = client.send(1, "bob", Bytes::from("hi"));
    let (answered, ()) = tokio::join!(sending, async {
        // The client has read everything before it, or it would not answer; nothing of it was acknowledged.
        loop {
            let frame = peer.next().await.unwrap();
            assert_ne!(frame.header.kind, Kind::Ack.byte(), "acknowledged before the app could have it");
            if frame.header.kind == Kind::Data.byte() {
                peer.accepted(&Submit::decode(frame.body).unwrap()).await;
                break;
            }
        }
    });
    answered.unwrap();
    while message(&mut events).await != Some(3) {}
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(3));
}

#[tokio::test]
async fn a_server_that_does_not_read_is_still_read() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    let client = std::sync::Arc::new(client);
    // More than the buffers of two sockets hold.
    for _ in 0..200 {
        let client = client.clone();
        tokio::spawn(async move { drop(client.send(1, "bob", vec![0; 60_000].into()).await) });
    }
    peer.stay_silent_until_full().await;
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1));
}

#[tokio::test]
async fn whoever_waits_for_an_answer_that_cannot_come_is_told() {
    let gateway = Gateway::new().await;
    let (client, _events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    let client = std::sync::Arc::new(client);
    let other = client.clone();
    let send = move || {
        let client = other.clone();
        tokio::spawn(async move { client.send(1, "bob", Bytes::from("hi")).await })
    };
    let other = client.clone();
    let ask = move || {
        let client = other.clone();
        tokio::spawn(async move { client.group(1, "team", Act::Leave(GroupNothing {})).await })
    };
    let (waiting, asking) = (send(), ask());
    peer.take_submit_and_request().await;
    peer.say(Kind::Close, 1, &Close { code: Code::Kicked as i32, reason: "bye".into(), ..Close::default() })
        .await;
    let error = soon("an error", waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Abandoned { code: Code::Kicked }), "{error}");
    let error = soon("an error", asking).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Abandoned { code: Code::Kicked }), "{error}");
    let error = soon("an error", ask()).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Submit(SubmitError::NoChannel(1))), "{error}");
    let error = client.mark_read(1, Conversation::Peer("bob".into()), 3).await.unwrap_err();
    assert!(matches!(error, ClientError::Submit(SubmitError::NoChannel(1))), "{error}");

    client.open(1, "shop", "alice", Bytes::new(), Some(0)).await.unwrap();
    peer.take(Kind::Open).await;
    peer.say(Kind::Opened, 1, &Opened { session: 8 }).await;
    let (waiting, asking) = (send(), ask());
    peer.take_submit_and_request().await;
    client.close(1).await.unwrap();
    let error = soon("an error", waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");
    let error = soon("an error", asking).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");

    let long = client.send(1, "bob", vec![0; 70_000].into()).await.unwrap_err();
    assert!(matches!(long, ClientError::Submit(_)), "{long}");
    let nameless = client.mark_read(1, Conversation::Group(String::new()), 3).await.unwrap_err();
    assert!(matches!(nameless, ClientError::Submit(_)), "{nameless}");
}

#[tokio::test]
async fn who_sends_twice_under_an_id_is_answered_twice() {
    let gateway = Gateway::new().await;
    let (client, _events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    let send = || client.send_as(1, Bytes::from("order 7"), "bob", Bytes::from("hi"));
    let answering = async {
        for _ in 0..2 {
            let submit = peer.take_submit().await;
            peer.accepted(&submit).await;
        }
    };
    let (one, two, ()) = soon("both answers", async { tokio::join!(send(), send(), answering) }).await;
    assert_eq!((one.unwrap().sync_id, two.unwrap().sync_id), (9, 9));
}

#[tokio::test]
async fn shutting_down_says_what_is_left_to_say() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1));
    soon("the end", client.shutdown()).await;
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(1));
    peer.take(Kind::Close).await;
    assert_eq!(peer.next().await, None);
}

#[tokio::test]
async fn only_what_the_app_has_taken_is_acknowledged() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    for id in 1..=500 {
        peer.deliver(id).await;
    }
    let sending = client.send(1, "bob", Bytes::from("hi"));
    let answering = async {
        let submit = peer.take_submit().await;
        peer.accepted(&submit).await;
    };
    // The client has read all of them, or it would not have the answer.
    let (sent, ()) = tokio::join!(sending, answering);
    sent.unwrap();
    while message(&mut events).await != Some(10) {}
    soon("the end", client.shutdown()).await;
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(10));
    peer.take(Kind::Close).await;
    assert_eq!(peer.next().await, None);
    assert_eq!(events.recv().await, None, "it comes again at the next login");
}

#[tokio::test]
async fn what_is_taken_is_acknowledged_while_the_app_goes_on() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    let entry = |sync_id| GroupDelivery { group: "team".into(), sync_id, ..GroupDelivery::default() };
    peer.deliver(1).await;
    peer.say(Kind::GroupHeads, 1, &heads("team", 1)).await;
    peer.say(Kind::GroupDelivery, 1, &entry(2)).await;
    assert_eq!(message(&mut events).await, Some(1));
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(1));
    while !matches!(soon("an entry", events.recv()).await.unwrap(), Event::GroupMessage { sync_id: 2, .. }) {}
    let acked = GroupAck::decode(peer.take(Kind::GroupAck).await.body).unwrap();
    assert_eq!(acked.positions, [GroupPosition { group: "team".into(), sync_id: 2 }]);
    drop(client);
}

#[tokio::test]
async fn what_the_app_has_not_taken_of_a_login_ends_with_it() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    for id in 1..=20 {
        peer.deliver(id).await;
    }
    while message(&mut events).await != Some(3) {}
    // Answered behind what came before: all twenty wait for the app.
    let (sent, ()) = tokio::join!(client.send(1, "bob", Bytes::from("hi")), async {
        let submit = peer.take_submit().await;
        peer.accepted(&submit).await;
    });
    sent.unwrap();
    client.open(1, "shop", "carol", Bytes::new(), Some(0)).await.unwrap();
    loop {
        let frame = peer.next().await.unwrap();
        match Kind::from_byte(frame.header.kind).unwrap() {
            Kind::Ack => assert_eq!(sync_id(&frame.body), Some(3)),
            Kind::Open => break,
            _ => {}
        }
    }
    peer.say(Kind::Opened, 1, &Opened { session: 8 }).await;
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1), "carol's, and none of alice's before it");
    client.shutdown().await;
    assert_eq!(sync_id(&peer.take(Kind::Ack).await.body), Some(1));
}

#[tokio::test]
async fn a_change_of_the_network_is_asked_about_at_once() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    while !matches!(soon("the login", events.recv()).await.unwrap(), Event::Opened { .. }) {}
    client.network_changed().await.unwrap();
    peer.take(Kind::Ping).await;
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_app_was() {
    let gateway = Gateway::new().await;
    let (client, mut events) = start(&[&gateway], Options::new("phone")).await;
    let (mut peer, _) = gateway.accept().await;
    let groups = vec![("team".to_owned(), 5)];
    client.open_with_groups(2, "shop", "bob", Bytes::new(), None, groups.clone()).await.unwrap();
    client.enter_behind(2, "live", 3).await.unwrap();
    peer.take(Kind::Open).await;
    peer.say(Kind::Opened, 2, &Opened { session: 8 }).await;
    let entered = RoomEnter::decode(peer.take(Kind::Enter).await.body).unwrap();
    assert_eq!(entered.last_id, Some(3));
    assert_eq!(client.group_positions(2).await.unwrap(), groups);
    assert_eq!(client.room_last_id(2, "live").await.unwrap(), Some(3));
    let entry = GroupDelivery { group: "team".into(), sync_id: 6, ..GroupDelivery::default() };
    peer.say(Kind::GroupDelivery, 2, &entry).await;
    while !matches!(soon("an entry", events.recv()).await.unwrap(), Event::GroupMessage { sync_id: 6, .. }) {}
    assert_eq!(client.group_positions(2).await.unwrap(), [("team".to_owned(), 6)]);
}

#[tokio::test]
async fn goaway_leads_to_the_alternate() {
    let (one, two) = (Gateway::new().await, Gateway::new().await);
    let (_client, mut events) = start(&[&one], Options::new("phone")).await;
    let (mut peer, _) = one.accept().await;
    let away = GoAway { retry_max_ms: 10, alternate: two.address.clone(), ..GoAway::default() };
    peer.say(Kind::GoAway, 0, &away).await;
    two.accept().await;
    loop {
        if let Event::Disconnected(why) = soon("an event", events.recv()).await.unwrap() {
            assert!(matches!(why, Disconnect::SentAway { alternate, .. } if alternate == two.address));
            break;
        }
    }
}

#[tokio::test]
async fn a_client_no_gateway_takes_is_told_before_it_dials() {
    let agent = "x".repeat(65);
    for options in [Options::new(""), Options::new("d".repeat(129)), Options { agent, ..Options::new("d") }] {
        let gateway = Gateway::new().await;
        let error = Client::connect(&[gateway.address], options).await.err().unwrap();
        assert!(matches!(error, ClientError::Options(_)), "{error}");
    }
}

#[tokio::test]
async fn an_alternate_where_nobody_listens_is_tried_once() {
    let one = Gateway::new().await;
    let (_client, mut events) = start(&[&one], Options::new("phone")).await;
    let (mut peer, _) = one.accept().await;
    let alternate = Gateway::new().await.address;
    let away = GoAway { retry_max_ms: 10, alternate: alternate.clone(), ..GoAway::default() };
    peer.say(Kind::GoAway, 0, &away).await;
    let (mut peer, _) = one.accept().await;
    peer.deliver(1).await;
    let mut tried = Vec::new();
    loop {
        match soon("an event", events.recv()).await.unwrap() {
            Event::NotConnected { address, .. } => tried.push(address),
            Event::Message { .. } => break,
            _ => {}
        }
    }
    assert_eq!(tried, [alternate]);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let address = Gateway::new().await.address;
    let error = Client::connect(&[address], Options::new("phone")).await.err().unwrap();
    assert!(error.to_string().contains("cargo run --release"), "{error}");
}
