//! A full disk: STORAGE answers, nothing acknowledged that is not kept, and recovery when space returns.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::BTreeMap;

use common::{Peer, RouterProcess, SmallDisk, Who};
use moor_wire::Code;

#[test]
fn a_full_disk_is_answered_and_left_behind() {
    let Some(disk) = SmallDisk::mount("12m") else {
        println!("SKIPPED: mounting a tmpfs needs root; run this test as root to see a full disk");
        return;
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 6 << 20]).unwrap();
    let data = disk.path().join("data");
    let router = RouterProcess::start(&data, "127.0.0.1:0", &[]);
    let mut gateway = Peer::gateway(router.address, "east", 1, 0);
    let bob = Who::new(1, "bob", "phone");
    gateway.register(1, vec![bob.registration(None)]);
    let mut accepted = BTreeMap::new();
    let (mut id, mut refused) = (0u32, 0);
    while refused < 20 {
        gateway.put_submit(&bob, "alice", &id.to_be_bytes(), &[id.to_be_bytes(); 8_000].concat());
        gateway.flush();
        let result = gateway.expect_result();
        match result.code() {
            Code::Ok => {
                accepted.insert(result.sync_id, id);
            }
            Code::Storage => refused += 1,
            code => panic!("{code}"),
        }
        id += 1;
        assert!(id < 5_000, "the disk never fills");
    }
    println!("{} accepted before the disk was full", accepted.len());
    // It still serves what needs no space.
    let mut service = Peer::service(router.address, "svc");
    assert_eq!(service.lookup("shop", "alice").head, *accepted.last_key_value().unwrap().0);

    std::fs::remove_file(&ballast).unwrap();
    gateway.put_submit(&bob, "alice", b"after", b"after");
    gateway.flush();
    let result = gateway.expect_result();
    assert_eq!(result.code(), Code::Ok, "{result:?}");
    assert_eq!(result.sync_id, accepted.last_key_value().unwrap().0 + 1, "refused ones left no trace");
    accepted.insert(result.sync_id, u32::MAX);

    router.kill_9();
    let router = RouterProcess::start(&data, "127.0.0.1:0", &[]);
    let mut gateway = Peer::gateway(router.address, "east", 2, 0);
    let alice = Who::new(2, "alice", "phone");
    gateway.register(1, vec![alice.registration(Some(0))]);
    for (place, id) in accepted {
        let (_, delivery) = gateway.expect_delivery();
        assert_eq!(delivery.sync_id, place);
        let expected = if id == u32::MAX { b"after".to_vec() } else { id.to_be_bytes().to_vec() };
        assert_eq!(&*delivery.client_id, expected);
        gateway.ack(&alice, place);
    }
}
