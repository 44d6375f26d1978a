//! Business levels: what is switched off is refused at once, and level 0 never is.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::BTreeMap;

use moor_router::{Apps, Fsync, RouterConfig};
use moor_wire::Code;
use moor_wire::client::{Kind, Submit};
use moor_wire::internal::{Degrade, RoomPublish, SendResult, Verb};
use prost::Message;

use common::{Peer, RouterProcess, Who};

const BOB: Who<'static> = Who::new(21, "bob", "phone");

/// Which of a level each were taken: none named, 0, 1, 2.
fn taken(gateway: &mut Peer, round: u8) -> Vec<bool> {
    let levels = [None, Some(0), Some(1), Some(2)];
    levels
        .into_iter()
        .enumerate()
        .map(|(number, level)| {
            let client_id = vec![round, u8::try_from(number).unwrap()].into();
            let submit = Submit { client_id, to: "alice".into(), level, ..Submit::default() };
            gateway.put_up(&BOB, Kind::Data, &submit.encode_to_vec());
            gateway.flush();
            let result = gateway.expect_result();
            let is_taken = result.code() == Code::Ok;
            assert!(is_taken || (result.code() == Code::Unavailable && result.detail.contains("level")));
            is_taken
        })
        .collect()
}

/// Which of a level each a service may say in a room: none named, 0, 1, 2.
fn taken_in_room(service: &mut Peer) -> Vec<bool> {
    let levels = [None, Some(0), Some(1), Some(2)];
    let say = |level| {
        let (app, room, from) = ("shop".into(), "live".into(), "bob".into());
        let client_id = b"id".to_vec().into();
        let said = RoomPublish { cookie: 7, app, room, from, client_id, level, ..RoomPublish::default() };
        service.put(Verb::RoomPublish, &said);
        service.flush();
        let result: SendResult = service.expect_control(Verb::SendResult);
        let is_taken = result.code() == Code::Ok;
        assert!(is_taken || (result.code() == Code::Unavailable && result.detail.contains("level")));
        is_taken
    };
    levels.into_iter().map(say).collect()
}

fn degrade(service: &mut Peer, from_level: u32) -> Code {
    service.put(Verb::Degrade, &Degrade { cookie: 5, from_level });
    service.flush();
    service.expect_outcome().code
}

#[test]
fn levels_go_off_from_the_top_and_the_core_stays() {
    let directory = tempfile::tempdir().unwrap();
    let tables = BTreeMap::from([("shop".to_owned(), toml::from_str("level = 2").unwrap())]);
    let config = RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        shards: Some(2),
        fsync: Fsync::Off,
        apps: Apps::new(&tables).unwrap(),
        ..RouterConfig::default()
    };
    let router = moor_router::start(config).unwrap();
    let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
    let mut service = Peer::service(router.listen_addr(), "svc");
    assert_eq!(taken(&mut gateway, 0), [true; 4]);
    assert_eq!(degrade(&mut service, 2), Code::Ok);
    assert_eq!(taken(&mut gateway, 1), [false, true, true, false], "the app's own level is 2");
    // A service's message names none: it is the app's as well.
    let result = service.send("shop", "bob", "alice", b"id", b"hi");
    assert_eq!(result.code(), Code::Unavailable);
    assert_eq!(taken_in_room(&mut service), [false, true, true, false]);
    assert_eq!(degrade(&mut service, 1), Code::Ok);
    assert_eq!(taken_in_room(&mut service), [false, true, false, false]);
    assert_eq!(taken(&mut gateway, 2), [false, true, false, false]);
    assert_eq!((degrade(&mut service, 0), degrade(&mut service, 4)), (Code::Invalid, Code::Invalid));
    assert_eq!(taken(&mut gateway, 3), [false, true, false, false], "nothing changed");
    assert_eq!(degrade(&mut service, 3), Code::Ok);
    assert_eq!(taken(&mut gateway, 4), [true; 4]);
    let refused = router.stats().into_iter().find(|(name, _)| *name == "router_submits_degraded_total");
    assert_eq!(refused.unwrap().1, 14);
    // Gateways do not switch: that ends the link.
    gateway.put(Verb::Degrade, &Degrade { cookie: 5, from_level: 1 });
    gateway.flush();
    assert_eq!(gateway.expect_failure(), Code::ProtocolError);
}

#[test]
fn what_is_off_stays_off_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let start = || RouterProcess::start(directory.path(), "127.0.0.1:0", &[]);
    let all = |router: &RouterProcess| taken(&mut Peer::gateway(router.address, "east", 1, 0), 1);
    let router = start();
    assert_eq!(degrade(&mut Peer::service(router.address, "svc"), 2), Code::Ok);
    router.kill_9();
    let router = start();
    assert_eq!(all(&router), [true, true, true, false]);
    assert_eq!(degrade(&mut Peer::service(router.address, "svc"), 3), Code::Ok);
    router.kill_9();
    assert_eq!(all(&start()), [true; 4]);
}
