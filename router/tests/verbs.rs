//! What each verb of the internal protocol does, over real sockets against a router in this process.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use common::{Peer, Who};
use moor_router::{Driver, Fsync, RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::client::{Class, Delivery, Kind};
use moor_wire::identity::account_hash;
use moor_wire::internal::{
    Kick, NotHere, Push, PushAccount, Receipt, Stats, StatsResult, Subscribe, Verb, put_control,
};
use moor_wire::session::SessionHandle;
use prost::Message;

/// Every test runs with one shard on io_uring, with three, and on epoll.
fn each_way(test: impl Fn(RouterHandle)) {
    for (shards, driver) in [(1, Driver::Auto), (3, Driver::Auto), (2, Driver::Epoll)] {
        let directory = tempfile::tempdir().unwrap();
        let config = RouterConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data: directory.path().to_owned(),
            shards: Some(shards),
            fsync: Fsync::Full,
            driver,
            ..RouterConfig::default()
        };
        test(moor_router::start(config).unwrap());
    }
}

const ALICE: Who<'static> = Who::new(11, "alice", "phone");
const ALICE_PAD: Who<'static> = Who::new(12, "alice", "pad");
const BOB: Who<'static> = Who::new(21, "bob", "phone");

#[test]
fn a_message_reaches_every_device_and_its_sender_learns_its_place() {
    each_way(|router| {
        let mut east = Peer::gateway(router.listen_addr(), "east", 1, 0);
        let mut west = Peer::gateway(router.listen_addr(), "west", 1, 0);
        east.register(1, vec![ALICE.registration(None), BOB.registration(None)]);
        west.register(1, vec![ALICE_PAD.registration(None)]);
        east.put_submit(&BOB, "alice", b"id-1", b"hello");
        east.flush();
        let result = east.expect_result();
        assert_eq!((result.code(), result.sync_id, result.duplicate), (Code::Ok, 1, false));
        for (gateway, session) in [(&mut east, 11), (&mut west, 12)] {
            let (to, delivery) = gateway.expect_delivery();
            assert_eq!((to, delivery.sync_id, delivery.floor), (session, 1, 1));
            assert_eq!(
                (&*delivery.from, &*delivery.client_id, &*delivery.payload),
                ("bob", &b"id-1"[..], &b"hello"[..])
            );
        }
        // The same id again: the same place, and nobody hears of it.
        east.put_submit(&BOB, "alice", b"id-1", b"hello");
        east.flush();
        let result = east.expect_result();
        assert_eq!((result.code(), result.sync_id, result.duplicate), (Code::Ok, 1, true));
        assert!(west.is_quiet());
        // The same id from somebody else is another message.
        let mut service = Peer::service(router.listen_addr(), "svc");
        let result = service.send("shop", "carol", "alice", b"id-1", b"other");
        assert_eq!((result.code(), result.sync_id, result.duplicate), (Code::Ok, 2, false));
        assert_eq!(east.expect_delivery().1.sync_id, 2);
    });
}

#[test]
fn a_device_that_comes_later_gets_what_it_lacks() {
    each_way(|router| {
        let mut service = Peer::service(router.listen_addr(), "svc");
        for id in 1..=200u64 {
            let result = service.send("shop", "bob", "alice", &id.to_be_bytes(), b"m");
            assert_eq!((result.code(), result.sync_id), (Code::Ok, id));
        }
        let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
        gateway.register(1, vec![ALICE.registration(Some(50))]);
        // A window of 64, then silence until it is acknowledged.
        for id in 51..=114 {
            assert_eq!(gateway.expect_delivery().1.sync_id, id);
        }
        assert!(gateway.is_quiet());
        gateway.ack(&ALICE, 114);
        for id in 115..=178 {
            assert_eq!(gateway.expect_delivery().1.sync_id, id);
        }
        // It lost some: SYNC goes back.
        gateway.sync(&ALICE, 150);
        for id in 151..=200 {
            assert_eq!(gateway.expect_delivery().1.sync_id, id);
        }
        gateway.ack(&ALICE, 200);
        assert!(gateway.is_quiet());
        let result = service.lookup("shop", "alice");
        assert_eq!((result.head, result.floor), (200, 1));
        assert_eq!((result.sessions.len(), result.sessions[0].acked), (1, 200));
        assert_eq!((&*result.sessions[0].gateway, &*result.sessions[0].device), ("east", "phone"));
        // It goes and comes back without saying what it has: the stored position counts.
        gateway.unregister(11, "shop", "alice");
        service.lookup_until("alice", |result| result.sessions.is_empty() && result.head == 200);
        service.send("shop", "bob", "alice", b"last", b"m");
        gateway.register(2, vec![Who::new(13, "alice", "phone").registration(None)]);
        assert_eq!(gateway.expect_delivery().1.sync_id, 201);
    });
}

#[test]
fn a_wrong_entry_is_corrected_at_once() {
    each_way(|router| {
        let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
        gateway.register(1, vec![ALICE.registration(None)]);
        let mut service = Peer::service(router.listen_addr(), "svc");
        assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
        service.send("shop", "bob", "alice", b"1", b"m");
        let body = gateway.expect(Verb::Push);
        let push = Push::parse(&body).unwrap();
        assert_eq!(push.cookie, account_hash("shop", "alice"));
        // Somebody else's word does not count.
        let mut stranger = Peer::gateway(router.listen_addr(), "west", 1, 0);
        NotHere { cookie: push.cookie, session: push.session }.put(&mut stranger.out);
        stranger.ping();
        stranger.expect(Verb::Pong);
        assert_eq!(service.lookup("shop", "alice").sessions.len(), 1);
        NotHere { cookie: push.cookie, session: push.session }.put(&mut gateway.out);
        gateway.flush();
        service.lookup_until("alice", |result| result.sessions.is_empty());
    });
}

#[test]
fn services_push_kick_and_subscribe() {
    each_way(|router| {
        let mut east = Peer::gateway(router.listen_addr(), "east", 1, 0);
        let mut west = Peer::gateway(router.listen_addr(), "west", 1, 3);
        east.register(1, vec![ALICE.registration(None)]);
        west.register(1, vec![ALICE_PAD.registration(None)]);
        let mut service = Peer::service(router.listen_addr(), "svc");

        let body = Delivery { payload: b"now"[..].into(), ..Delivery::default() }.encode_to_vec();
        let all = PushAccount {
            cookie: 5,
            kind: Kind::Data.byte(),
            flags: Class::Transient.flags(),
            app: "shop",
            account: "alice",
            body: &body,
        };
        all.put(&mut service.out);
        service.flush();
        let outcome = service.expect_outcome();
        assert_eq!((outcome.cookie, outcome.code, outcome.reached), (5, Code::Ok, 2));
        for gateway in [&mut east, &mut west] {
            let (_, delivery) = gateway.expect_delivery();
            assert_eq!((delivery.sync_id, &*delivery.payload), (0, &b"now"[..]));
        }
        PushAccount { cookie: 6, account: "nobody", ..all }.put(&mut service.out);
        service.flush();
        let outcome = service.expect_outcome();
        assert_eq!((outcome.cookie, outcome.code, outcome.reached), (6, Code::NotFound, 0));

        let kick = Kick {
            cookie: 8,
            app: "shop".into(),
            account: "alice".into(),
            device: "pad".into(),
            reason: "enough".into(),
            ..Kick::default()
        };
        put_control(&mut service.out, Verb::Kick, &kick);
        service.flush();
        assert_eq!(service.expect_outcome().reached, 1);
        let seen: Kick = west.expect_control(Verb::Kick);
        assert_eq!((seen.session, seen.code(), &*seen.reason), (12, Code::Kicked, "enough"));

        let subscribe = Subscribe { cookie: 9, app: "shop".into(), marks: None };
        put_control(&mut service.out, Verb::Subscribe, &subscribe);
        service.flush();
        assert_eq!(service.expect_outcome().cookie, 9);
        service.send("shop", "bob", "alice", b"1", b"m");
        assert_eq!(east.expect_delivery().1.sync_id, 1);
        east.ack(&ALICE, 1);
        let receipt: Receipt = service.expect_control(Verb::Receipt);
        assert_eq!((&*receipt.account, &*receipt.device, receipt.sync_id), ("alice", "phone", 1));
        assert!(receipt.at_ms > 1_600_000_000_000);

        put_control(&mut service.out, Verb::Stats, &Stats { cookie: 10 });
        service.flush();
        let stats: StatsResult = service.expect_control(Verb::StatsResult);
        let value = |name: &str| stats.stats.iter().find(|stat| stat.name == name).unwrap().value;
        assert_eq!((value("router_submits_accepted_total"), value("router_links_open")), (1, 3));
    });
}

#[test]
fn bad_names_ids_and_sizes_are_typed_and_harm_nobody() {
    each_way(|router| {
        let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
        gateway.register(1, vec![BOB.registration(None), Who::new(9, "", "x").registration(None)]);
        let kick: Kick = gateway.expect_control(Verb::Kick);
        assert_eq!((kick.session, kick.code()), (9, Code::Invalid));
        for (to, client_id, code) in [
            ("", &b"1"[..], Code::Invalid),
            ("a\nb", b"1", Code::Invalid),
            ("alice", b"", Code::Invalid),
            ("alice", &[7; 33], Code::Invalid),
        ] {
            gateway.put_submit(&BOB, to, client_id, b"m");
            gateway.flush();
            assert_eq!(gateway.expect_result().code(), code, "{to:?} {client_id:?}");
        }
        gateway.put_submit(&BOB, "alice", b"1", &vec![0; 64 * 1024 + 1]);
        gateway.flush();
        assert_eq!(gateway.expect_result().code(), Code::TooLarge);
        gateway.put_up(&BOB, Kind::Data, b"\xff\xff\xff");
        gateway.flush();
        assert_eq!(gateway.expect_result().code(), Code::Invalid);
        gateway.put_submit(&BOB, "alice", b"1", b"m");
        gateway.flush();
        let result = gateway.expect_result();
        assert_eq!((result.code(), result.sync_id), (Code::Ok, 1));
        assert_eq!(SessionHandle(21).0, 21);
    });
}

#[test]
fn an_empty_batch_is_answered_and_a_device_has_few_sessions() {
    each_way(|router| {
        let mut gateway = Peer::gateway(router.listen_addr(), "east", 1, 0);
        gateway.register(1, Vec::new());
        gateway.register(
            2,
            (1..=6).map(|session| Who::new(session, "alice", "phone").registration(None)).collect(),
        );
        for oldest in [1, 2] {
            let kick: Kick = gateway.expect_control(Verb::Kick);
            assert_eq!((kick.session, kick.code()), (oldest, Code::Limit));
        }
        let mut service = Peer::service(router.listen_addr(), "svc");
        assert_eq!(service.lookup("shop", "alice").sessions.len(), 4);
    });
}
