//! kill -9 of the real binary under load: what was answered OK is delivered, what is sent again is known.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use common::{Peer, RouterProcess, Who};
use moor_wire::Code;
use moor_wire::client::{Delivery, Kind, SubmitResult};
use moor_wire::internal::{Push, Verb};
use prost::Message;

const RECEIVERS: u64 = 20;
const ROUNDS: u64 = 4;

fn receiver(id: u64) -> String {
    format!("account-{}", id % RECEIVERS)
}

/// Offers messages until the link breaks; notes what was answered OK.
fn load(gateway: &mut Peer, next: &mut u64, accepted: &mut BTreeMap<u64, u64>, until: Instant) {
    let bob = Who::new(1, "bob", "phone");
    gateway.register(1, vec![bob.registration(None)]);
    let mut in_flight = 0;
    while Instant::now() < until {
        while in_flight < 500 {
            gateway.put_submit(&bob, &receiver(*next), &next.to_be_bytes(), &next.to_be_bytes());
            *next += 1;
            in_flight += 1;
        }
        if !gateway.try_flush() {
            return;
        }
        while in_flight > 250 {
            let Some((verb, body)) = gateway.next(Duration::from_millis(200)) else { return };
            in_flight -= note(verb, &body, accepted);
        }
    }
}

fn note(verb: Verb, body: &[u8], accepted: &mut BTreeMap<u64, u64>) -> u64 {
    if verb != Verb::Push {
        return 0;
    }
    let push = Push::parse(body).unwrap();
    let result = SubmitResult::decode(push.body).unwrap();
    assert_eq!(result.code(), Code::Ok, "{result:?}");
    let id = u64::from_be_bytes((&result.client_id[..]).try_into().unwrap());
    if let Some(place) = accepted.insert(id, result.sync_id) {
        assert_eq!(place, result.sync_id, "a message has one place");
    }
    1
}

/// Everything every receiver has, by sync id.
fn collect(gateway: &mut Peer) -> HashMap<String, BTreeMap<u64, u64>> {
    let names: Vec<String> = (0..RECEIVERS).map(receiver).collect();
    let who: Vec<Who<'_>> =
        names.iter().enumerate().map(|(number, name)| Who::new(100 + number as u64, name, "phone")).collect();
    gateway.register(2, who.iter().map(|who| who.registration(Some(0))).collect());
    let mut got: HashMap<String, BTreeMap<u64, u64>> = HashMap::new();
    while let Some((verb, body)) = gateway.next(Duration::from_millis(700)) {
        if verb != Verb::Push {
            continue;
        }
        let push = Push::parse(&body).unwrap();
        if push.kind != Kind::Data.byte() {
            continue;
        }
        let delivery = Delivery::decode(push.body).unwrap();
        let id = u64::from_be_bytes((&delivery.payload[..]).try_into().unwrap());
        let index = (push.session.0 - 100) as usize;
        let timeline = got.entry(names[index].clone()).or_default();
        assert_eq!(delivery.sync_id, timeline.last_key_value().map_or(0, |(last, _)| *last) + 1, "a gap");
        timeline.insert(delivery.sync_id, id);
        if delivery.sync_id % 32 == 0 {
            gateway.ack(&who[index], delivery.sync_id);
        }
        if delivery.sync_id % 256 == 0 {
            gateway.ping();
        }
    }
    got
}

#[test]
fn every_accepted_message_outlives_kill_9_and_is_known_when_sent_again() {
    for shards in ["1", "2"] {
        let directory = tempfile::tempdir().unwrap();
        let (mut next, mut accepted) = (0, BTreeMap::new());
        for round in 0..ROUNDS {
            let mut arguments = vec!["--retention", "1000000"];
            if round == 0 {
                arguments.extend(["--shards", shards]);
            }
            let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &arguments);
            let mut gateway = Peer::gateway(router.address, "east", round + 1, 0);
            let until = Instant::now() + Duration::from_millis(700);
            std::thread::scope(|scope| {
                let loading = scope
                    .spawn(|| load(&mut gateway, &mut next, &mut accepted, until + Duration::from_secs(5)));
                // The kill falls into the middle of commits.
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(700));
                    router.kill_9();
                });
                loading.join().unwrap();
            });
            // Answers that were in the socket count as well.
            while let Some((verb, body)) = gateway.next(Duration::from_millis(50)) {
                note(verb, &body, &mut accepted);
            }
        }
        println!("{shards} shard(s): offered {next}, accepted {}", accepted.len());
        assert!(accepted.len() > 1_000);

        let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &["--retention", "1000000"]);
        let mut gateway = Peer::gateway(router.address, "east", 100, 0);
        let got = collect(&mut gateway);
        for (id, place) in &accepted {
            assert_eq!(got[&receiver(*id)].get(place), Some(id), "message {id} at {place}");
        }
        for timeline in got.values() {
            let distinct: std::collections::HashSet<_> = timeline.values().collect();
            assert_eq!(distinct.len(), timeline.len(), "stored twice");
        }
        // Sent again, all of them, answered or not: each known one keeps its place.
        let bob = Who::new(1, "bob", "phone");
        gateway.register(3, vec![bob.registration(None)]);
        for id in accepted.keys().rev().take(2_000) {
            gateway.put_submit(&bob, &receiver(*id), &id.to_be_bytes(), b"again");
            gateway.flush();
            let result = gateway.expect_result();
            assert!(result.duplicate && result.sync_id == accepted[id], "{id}: {result:?}");
        }
    }
}

#[test]
fn what_an_app_s_messages_take_is_right_after_kill_9_and_limits_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let (mut next, mut accepted) = (0, BTreeMap::new());
    let mut took = 0;
    for round in 0..3 {
        // So few are kept that most commits remove some as well.
        let arguments = ["--retention", "20", "--shards", "2"];
        let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &arguments);
        let mut gateway = Peer::gateway(router.address, "east", round + 1, 0);
        let until = Instant::now() + Duration::from_millis(400);
        std::thread::scope(|scope| {
            scope.spawn(|| load(&mut gateway, &mut next, &mut accepted, until + Duration::from_secs(5)));
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(400));
                router.kill_9();
            });
        });
        took = common::check_usage(directory.path());
    }
    // Names and payloads are shorter than that.
    assert!(accepted.len() > 1_000 && took < RECEIVERS * 25 * 128, "{took} bytes");
    let config = directory.path().join("router.toml");
    std::fs::write(&config, format!("[apps.shop]\nstorage_bytes = {}\n", took / 2)).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let router = RouterProcess::start(directory.path(), "127.0.0.1:0", &arguments);
    let mut gateway = Peer::gateway(router.address, "east", 100, 0);
    let bob = Who::new(1, "bob", "phone");
    gateway.register(1, vec![bob.registration(None)]);
    for id in 0..RECEIVERS {
        gateway.put_submit(&bob, &receiver(id), &[b'n', id as u8], b"new");
        gateway.flush();
        let result = gateway.expect_result();
        assert_eq!(result.code(), Code::Storage, "{result:?}");
        assert!(result.detail.contains("storage_bytes"), "{result:?}");
    }
}
