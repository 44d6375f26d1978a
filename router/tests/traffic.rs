//! Traffic marks: carried to whoever gets the message, now or after a restart, counted, and never longer than they may be.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::path::Path;

use common::{Peer, Who};
use moor_router::{Fsync, RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::client::{Class, Delivery, Kind, Submit, TrafficMarks};
use moor_wire::internal::{Push, Send, SendResult, Verb};
use prost::Message;

const ALICE: Who<'static> = Who::new(11, "alice", "phone");
const BOB: Who<'static> = Who::new(21, "bob", "phone");

fn start(data: &Path) -> RouterHandle {
    let config = RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: data.to_owned(),
        shards: Some(2),
        fsync: Fsync::Off,
        ..RouterConfig::default()
    };
    moor_router::start(config).unwrap()
}

fn marks(source: &str, release: &str) -> Option<TrafficMarks> {
    Some(TrafficMarks { source: source.into(), release: release.into(), ..TrafficMarks::default() })
}

fn submit(gateway: &mut Peer, client_id: &[u8], marks: Option<TrafficMarks>) -> Code {
    let client_id = client_id.to_vec().into();
    let submit = Submit { client_id, to: "alice".into(), marks, ..Submit::default() };
    gateway.put_up(&BOB, Kind::Data, &submit.encode_to_vec());
    gateway.flush();
    gateway.expect_result().code()
}

fn counted(router: &RouterHandle, mark: &str, value: &str) -> u64 {
    let name = format!("router_traffic_messages_total{{app=\"shop\",mark=\"{mark}\",value=\"{value}\"}}");
    router.stats().into_iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| count)
}

#[test]
fn marks_arrive_now_and_after_a_restart_and_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let router = start(directory.path());
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
    assert_eq!(submit(&mut gateway, b"id-1", marks("qr", "canary")), Code::Ok);
    assert_eq!(gateway.expect_delivery().1.marks, marks("qr", "canary"));
    assert_eq!(submit(&mut gateway, b"id-2", Some(TrafficMarks::default())), Code::Ok);
    assert_eq!(gateway.expect_delivery().1.marks, None, "marks that say nothing are none");
    // The same message again is the same message.
    assert_eq!(submit(&mut gateway, b"id-1", marks("qr", "canary")), Code::Ok);
    let mut service = Peer::service(router.listen_addr(), "svc");
    for (class, id) in [(Class::Reliable, b"id-3"), (Class::Transient, b"id-4")] {
        let class = u32::from(class.flags());
        let (app, from, to) = ("shop".into(), "news".into(), "alice".into());
        let send = Send {
            app,
            from,
            to,
            client_id: id.to_vec().into(),
            class,
            marks: marks("", "stable"),
            ..Send::default()
        };
        service.put(Verb::Send, &send);
        service.flush();
        assert_eq!(service.expect_control::<SendResult>(Verb::SendResult).code(), Code::Ok);
        assert_eq!(gateway.expect_delivery().1.marks, marks("", "stable"));
    }
    let counts = [("source", "qr"), ("release", "canary"), ("release", "stable"), ("campaign", "")];
    assert_eq!(counts.map(|(mark, value)| counted(&router, mark, value)), [1, 1, 2, 0]);

    drop((gateway, service, router));
    let router = start(directory.path());
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 2, 0);
    gateway.register(1, vec![ALICE.registration(Some(0))]);
    let found = [(); 3].map(|()| gateway.expect_delivery().1.marks);
    assert_eq!(found, [marks("qr", "canary"), None, marks("", "stable")]);
}

#[test]
fn a_mark_that_is_too_long_is_refused_with_its_message() {
    let directory = tempfile::tempdir().unwrap();
    let router = start(directory.path());
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
    let (long, longer) = ("x".repeat(32), "x".repeat(33));
    assert_eq!(submit(&mut gateway, b"id-1", marks(&long, &long)), Code::Ok);
    let (_, Delivery { marks: found, .. }) = gateway.expect_delivery();
    assert_eq!(found, marks(&long, &long));
    assert_eq!(submit(&mut gateway, b"id-2", marks("", &longer)), Code::Invalid);
    assert!(gateway.is_quiet());
    assert_eq!(counted(&router, "source", &long), 1);
}

/// The client's fault, not the gateway's: its link goes on.
#[test]
fn marks_that_do_not_decode_are_a_message_that_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let router = start(directory.path());
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    gateway.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
    let mut body =
        Submit { client_id: b"id".to_vec().into(), to: "alice".into(), ..Submit::default() }.encode_to_vec();
    // Field 9 with a length beyond the end.
    body.extend_from_slice(&[0x4a, 0x7f, 1]);
    gateway.put_up(&BOB, Kind::Data, &body);
    gateway.flush();
    assert_eq!(gateway.expect_result().code(), Code::Invalid);
    assert_eq!(submit(&mut gateway, b"id-2", marks("qr", "")), Code::Ok);
    let body = gateway.expect(Verb::Push);
    assert_eq!(Push::parse(&body).unwrap().kind, Kind::Data.byte());
}
