//! What each class is promised while everything is full.

use moor_wire::client::Class;

use super::*;
use crate::limits::{LINK_QUEUE_BYTES_MAX, WRITES_OUTSTANDING_MAX};
use crate::outbox::Weight;

const LONG: usize = 60 * 1024;

fn message(wire: &Wire, client_id: u64, payload_bytes: usize) -> Box<Submit> {
    let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
    Box::new(Submit {
        to: alice(),
        from: "bob".into(),
        client_id: Bytes::copy_from_slice(&client_id.to_be_bytes()),
        payload: vec![7; payload_bytes].into(),
        sent_at_ms: 1,
        origin,
        entry: crate::store::Entry::Personal,
        marks: None,
        copies_bytes: 0,
    })
}

impl Rig {
    fn relay(&mut self, wire: &Wire, class: Class, client_id: u64, payload_bytes: usize) {
        let submit = message(wire, client_id, payload_bytes);
        self.shard.apply(Work::Relay { submit, class }, self.now_ms);
    }
}

fn codes(wire: &mut Wire) -> Vec<(Code, u64)> {
    wire.results().into_iter().map(|result| (result.code(), result.sync_id)).collect()
}

fn client_ids(deliveries: &[Delivery], class: std::ops::Range<u64>) -> Vec<u64> {
    let ids =
        deliveries.iter().map(|delivery| u64::from_be_bytes(delivery.client_id[..].try_into().unwrap()));
    ids.filter(|id| class.contains(id)).collect()
}

#[test]
fn a_message_nobody_keeps_reaches_who_is_there_once_and_says_so() {
    let mut rig = Rig::new(1000);
    let (mut wire, mut sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.relay(&sender, Class::Normal, 1, 10);
    assert_eq!(codes(&mut sender), [(Code::NotFound, 0)]);
    rig.register(&wire, 1, "phone", None);
    rig.register(&sender, 2, "pad", None);
    rig.relay(&sender, Class::Transient, 2, 10);
    let mut frames = wire.bodies(Verb::Push);
    let push = frames.pop().unwrap();
    let push = Push::parse(&push).unwrap();
    assert_eq!((Class::from_flags(push.flags), push.session.0), (Class::Transient, 1));
    let delivery = Delivery::decode(push.body).unwrap();
    assert_eq!((delivery.sync_id, &*delivery.from, frames.len()), (0, "bob", 0));
    let pushes = sender.pushes();
    assert_eq!(pushes.iter().map(|(to, ..)| *to).collect::<Vec<_>>(), [99, 2], "the answer weighs more");
    assert_eq!(SubmitResult::decode(&pushes[0].2[..]).unwrap().code(), Code::Ok);
    // Nothing of it is left: no timeline, no retry, no memory of its id.
    rig.later(60_000);
    rig.relay(&sender, Class::Transient, 2, 10);
    assert_eq!(wire.delivered(1), [0]);
    rig.leases.close(&wire.link);
    rig.shard.handle_tick(rig.now_ms);
    rig.relay(&sender, Class::Normal, 3, 10);
    assert_eq!(sender.pushes().len(), 4, "whose gateway is away is not there");
    rig.shard.stop();
    rig.relay(&sender, Class::Normal, 4, 10);
    assert_eq!(codes(&mut sender), [(Code::Unavailable, 0)]);
    assert_eq!((rig.metrics.relays_nobody.get(), rig.metrics.relays_reached.get()), (1, 5));
}

#[test]
fn a_slow_link_loses_the_transient_first_keeps_order_and_loses_nothing_reliable() {
    let mut rig = Rig::new(1000);
    let (mut wire, mut sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    // Nobody reads. Transient messages fill the queue, and then only more of their like find no place.
    let (mut transient, mut refused) = (100_000, 0);
    while refused < 3 {
        rig.relay(&sender, Class::Transient, transient, LONG);
        transient += 1;
        refused += codes(&mut sender).iter().filter(|(code, _)| *code == Code::Overloaded).count();
    }
    let filled = transient - 100_000 - 3;
    assert!(filled >= (LINK_QUEUE_BYTES_MAX / (LONG + 200)) as u64, "{filled}");
    for normal in 0..4 {
        rig.relay(&sender, Class::Normal, 50_000 + normal, LONG);
    }
    assert_eq!(codes(&mut sender), [(Code::Ok, 0); 4]);
    for reliable in 1..=4 {
        rig.offer(&sender, reliable, LONG);
    }
    rig.settle();
    assert_eq!(codes(&mut sender), [(Code::Ok, 1), (Code::Ok, 2), (Code::Ok, 3), (Code::Ok, 4)]);
    let dropped = rig.metrics.pushes_dropped_transient.get();
    assert!((8..=12).contains(&dropped), "eight made room, three were refused: {dropped}");
    assert_eq!(rig.metrics.pushes_dropped.get(), dropped, "and nothing else");
    let deliveries = wire.deliveries(1);
    assert_eq!(client_ids(&deliveries, 0..10), [1, 2, 3, 4]);
    assert_eq!(client_ids(&deliveries, 50_000..60_000), [50_000, 50_001, 50_002, 50_003]);
    // The oldest went, the others are in order, and every one is accounted for.
    let seen = client_ids(&deliveries, 100_000..u64::MAX);
    assert_eq!(seen, (100_000 + dropped - 3..100_000 + filled).collect::<Vec<_>>());
    let first = deliveries.iter().position(|delivery| delivery.sync_id == 0).unwrap();
    assert_eq!(first, 4, "reliable ones came first");
}

#[test]
fn a_reliable_copy_that_found_no_place_comes_again() {
    let mut rig = Rig::new(1000);
    let (mut wire, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    // Full of what must not be dropped: PONGs, each a header.
    let link = wire.link.clone();
    rig.shard.outbox.put(&link, Weight::Answer, |out| {
        for _ in 0..LINK_QUEUE_BYTES_MAX / moor_wire::frame::HEADER_BYTES {
            moor_wire::internal::put_empty(out, Verb::Pong);
        }
    });
    rig.submit(&sender, 3);
    assert_eq!(rig.metrics.pushes_dropped.get(), 3);
    assert_eq!(wire.delivered(1), NOTHING);
    rig.later(5_000);
    assert_eq!(wire.delivered(1), ids(1..=3));
}

#[test]
fn a_shard_behind_with_its_disk_refuses_the_cheapest_first() {
    let mut rig = Rig::new(1000);
    let (wire, mut sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&wire, 1, "phone", None);
    let mut fill = |rig: &mut Rig, part: usize| {
        while rig.shard.writes_outstanding < part {
            let id = rig.shard.writes_outstanding as u64;
            rig.offer(&wire, id, 0);
        }
        for class in [Class::Transient, Class::Normal] {
            rig.relay(&sender, class, 1, 1);
        }
        rig.shard.apply(Work::Submit(message(&sender, u64::MAX, 0)), rig.now_ms);
        codes(&mut sender).into_iter().map(|(code, _)| code).collect::<Vec<_>>()
    };
    assert_eq!(fill(&mut rig, WRITES_OUTSTANDING_MAX / 2 - 1), [Code::Ok, Code::Ok]);
    assert_eq!(fill(&mut rig, WRITES_OUTSTANDING_MAX / 2), [Code::Overloaded, Code::Ok]);
    assert_eq!(fill(&mut rig, WRITES_OUTSTANDING_MAX / 4 * 3), [Code::Overloaded, Code::Overloaded]);
    let all = [Code::Overloaded, Code::Overloaded, Code::Overloaded];
    assert_eq!(fill(&mut rig, WRITES_OUTSTANDING_MAX), all, "and now the reliable as well");
    assert_eq!(rig.metrics.relays_refused.get(), 5);
}
