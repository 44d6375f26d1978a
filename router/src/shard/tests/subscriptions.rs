//! Services that wish for receipts of marked messages alone.

use moor_wire::internal::Receipt;

use super::*;
use crate::limits::WISHES_PER_APP_MAX;

fn release(release: &str) -> Option<TrafficMarks> {
    Some(TrafficMarks { release: release.into(), ..TrafficMarks::default() })
}

/// The positions of the receipts that a service was sent.
fn receipts(wire: &mut Wire) -> Vec<u64> {
    let bodies = wire.bodies(Verb::Receipt).into_iter();
    bodies.map(|body| Receipt::decode(body).unwrap().sync_id).collect()
}

#[test]
fn a_receipt_comes_where_a_message_with_the_marks_is_among_what_is_acknowledged() {
    let mut rig = Rig::new(1000);
    let (mut all, mut gray, mut both) = (rig.link("all", 1), rig.link("gray", 1), rig.link("both", 1));
    let shared = TrafficMarks { source: "share".into(), release: "gray".into(), ..TrafficMarks::default() };
    rig.subscribe(&all, "shop");
    rig.subscribe_marked(&gray, "shop", release("gray"));
    rig.subscribe_marked(&both, "shop", Some(shared.clone()));
    let gateway = rig.link("east", 1);
    rig.register(&gateway, 1, "phone", None);
    let messages = [None, release("gray"), Some(shared), release("blue"), release("gray"), None];
    let offer = |rig: &mut Rig| {
        for (marks, id) in messages.iter().zip(rig.next_id + 1..) {
            rig.offer_marked(&gateway, id, 10, marks.clone());
        }
        rig.next_id += 6;
        rig.settle();
    };
    offer(&mut rig);
    for position in [1, 2, 3, 4, 6] {
        rig.ack(&gateway, 1, position);
    }
    let told = |rig: &mut [&mut Wire; 3]| rig.each_mut().map(|wire| receipts(wire));
    let mut services = [&mut all, &mut gray, &mut both];
    assert_eq!(told(&mut services), [vec![1, 2, 3, 4, 6], vec![2, 3, 6], vec![3]]);
    // Also where they come from the store, to a device that was away; and again, where it was silent.
    offer(&mut rig);
    rig.register(&gateway, 2, "pad", Some(6));
    rig.later(6_000);
    rig.ack(&gateway, 2, 7);
    rig.ack(&gateway, 2, 9);
    rig.ack(&gateway, 1, 12);
    assert_eq!(told(&mut services), [vec![7, 9, 12], vec![9, 12], vec![9, 12]]);
}

#[test]
fn wishes_that_differ_are_bounded_and_their_places_are_used_again() {
    let mut rig = Rig::new(1000);
    let mut links: Vec<_> =
        (0..WISHES_PER_APP_MAX).map(|number| rig.link(&format!("svc-{number}"), 1)).collect();
    for (number, wire) in links.iter_mut().enumerate() {
        rig.subscribe_marked(wire, "shop", release(&number.to_string()));
        assert_eq!(wire.outcomes(), [Code::Ok]);
    }
    let mut late = rig.link("late", 1);
    let mut code = |rig: &mut Rig, marks| {
        rig.subscribe_marked(&late, "shop", marks);
        late.outcomes()[0]
    };
    assert_eq!(code(&mut rig, release("late")), Code::Overloaded);
    assert_eq!(code(&mut rig, release("7")), Code::Ok, "which another wishes for as well");
    // Of a link the last subscription holds: its wish is nobody's any more.
    rig.subscribe(&links[3], "shop");
    assert_eq!(code(&mut rig, release("late")), Code::Ok);
    rig.link("svc-5", 2);
    let mut last = rig.link("last", 1);
    rig.subscribe_marked(&last, "shop", release("last"));
    assert_eq!(last.outcomes(), [Code::Ok]);
    // And each is told of its own.
    let gateway = rig.link("east", 1);
    rig.register(&gateway, 1, "phone", None);
    for (id, name) in [(1, "last"), (2, "late"), (3, "3"), (4, "7")] {
        rig.offer_marked(&gateway, id, 10, release(name));
        rig.settle();
        rig.ack(&gateway, 1, id);
    }
    assert_eq!((receipts(&mut last), receipts(&mut late)), (vec![1], vec![2]));
    assert_eq!((receipts(&mut links[3]), receipts(&mut links[7])), (vec![1, 2, 3, 4], vec![4]));
}
