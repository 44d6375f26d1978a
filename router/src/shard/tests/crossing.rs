//! Another shard has no room: nothing is lost in silence.

use moor_wire::identity::room_account;
use moor_wire::internal::{Kick, PushAccount};

use super::*;
use crate::limits::{CROSSING_BYTES_MAX, CROSSING_ONCE_MAX, CROSSING_WORK_MAX};
use crate::shard::rooms::RoomWork;

const THERE: ShardIndex = ShardIndex(1);

fn count(wire: &Wire) -> Work {
    let account = room_account("live");
    let key =
        AccountKey { hash: account_hash("shop", &account), app: "shop".into(), account: account.into() };
    Work::Room(RoomWork::Count { link: wire.link.clone(), key, members: 1, likes: 0 })
}

#[test]
fn what_is_said_once_has_more_room_than_what_can_be_refused() {
    let mut outbox = Outbox::new(HERE, 2, Arc::default());
    let mut rig = Rig::new(1000);
    let wire = rig.link("east", 1);
    for _ in 0..CROSSING_WORK_MAX {
        outbox.cross(THERE, Work::Positions(Vec::new())).unwrap();
    }
    assert!(outbox.cross(THERE, Work::Positions(Vec::new())).is_err());
    for _ in CROSSING_WORK_MAX..CROSSING_ONCE_MAX {
        outbox.cross(THERE, count(&wire)).unwrap();
    }
    assert!(outbox.cross(THERE, count(&wire)).is_err());
}

#[test]
fn whoever_waits_for_an_answer_is_refused() {
    let mut rig = Rig::new(1000);
    let mut service = rig.link("service", 1);
    let link = service.link.clone();
    rig.shard.refuse_crossing(Work::Lookup { link: link.clone(), cookie: 7, key: alice() });
    let kick = Box::new(Kick { cookie: 8, ..Kick::default() });
    rig.shard.refuse_crossing(Work::Kick { link: link.clone(), hash: 1, kick });
    let mut frame = Vec::new();
    PushAccount { cookie: 9, kind: 1, flags: 0, app: "shop", account: "alice", body: b"" }.put(&mut frame);
    let body = Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..]);
    rig.shard.refuse_crossing(Work::PushAccount { link, hash: 1, body });
    let frames = service.frames();
    let verbs: Vec<_> = frames.iter().map(|frame| Verb::from_byte(frame.header.kind).unwrap()).collect();
    assert_eq!(verbs, [Verb::LookupResult, Verb::Outcome, Verb::Outcome]);
    let found = LookupResult::decode(frames[0].body.clone()).unwrap();
    assert_eq!((found.cookie, found.code()), (7, Code::Overloaded));
    for (frame, cookie) in frames[1..].iter().zip([8, 9]) {
        let outcome = Outcome::parse(&frame.body).unwrap();
        assert_eq!((outcome.cookie, outcome.code), (cookie, Code::Overloaded));
    }
}

#[test]
fn a_link_ends_on_which_something_would_be_lost() {
    let says: [fn(&Wire) -> Work; 4] = [
        count,
        |wire| Work::Unregister { link: wire.link.clone(), sessions: Vec::new() },
        |wire| {
            let credit = Credit::new(wire.link.clone(), Answer::Registered { batch: 1 }, 1);
            Work::Register { link: wire.link.clone(), sessions: Vec::new(), credit }
        },
        |wire| Work::Synced(Synced::new(Arc::new(LeaseTable::new(1500)), wire.link.clone(), 2)),
    ];
    for work in says {
        let mut rig = Rig::new(1000);
        let (wire, other) = (rig.link("east", 1), rig.link("west", 1));
        let work = work(&wire);
        rig.shard.refuse_crossing(work);
        let context = Context::from_waker(Waker::noop());
        assert!(matches!(wire.out.poll_take(&context), Poll::Ready(None)), "it has come to its end");
        assert!(other.out.poll_take(&context).is_pending(), "the other goes on");
        assert_eq!(rig.metrics.links_overrun.get(), 1);
    }
}

#[test]
fn messages_that_wait_to_cross_are_bounded_by_their_bytes() {
    let mut outbox = Outbox::new(HERE, 2, Arc::default());
    let mut rig = Rig::new(1000);
    let wire = rig.link("east", 1);
    let message = |id: u64| {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        Work::Submit(Box::new(Submit {
            to: alice(),
            from: "bob".into(),
            client_id: Bytes::copy_from_slice(&id.to_be_bytes()),
            payload: Bytes::from_static(&[7; 65_536]),
            sent_at_ms: 1,
            origin,
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        }))
    };
    // What clients say beside messages, as long as a frame.
    let up = || (wire.link.clone(), 1, Bytes::from_static(&[7; 65_536]));
    let marks = |_| {
        let (link, hash, up) = up();
        Work::Marks { link, hash, up }
    };
    let group_ack = |_| {
        let (link, hash, up) = up();
        Work::GroupAck { link, hash, up }
    };
    let fit = CROSSING_BYTES_MAX as u64 / 65_536;
    for says in [&message as &dyn Fn(u64) -> Work, &marks, &group_ack] {
        for id in 0..fit {
            outbox.cross(THERE, says(id)).unwrap();
        }
        assert!(outbox.cross(THERE, says(fit)).is_err());
        // What has no payload still crosses, and messages again once the parcel is gone.
        outbox.cross(THERE, Work::Positions(Vec::new())).unwrap();
        outbox.dispatch(|_, _| Ok(()));
        outbox.cross(THERE, says(fit)).unwrap();
        outbox.dispatch(|_, _| Ok(()));
    }
}

#[test]
fn synced_takes_effect_behind_what_was_announced_before_it_in_every_shard() {
    let mut rig = Rig::new(1000);
    let (former, sender) = (rig.link("east", 1), rig.link("west", 1));
    rig.register(&former, 1, "phone", None);
    rig.leases.close(&former.link);
    let mut wire = rig.link("east", 1);
    // It has come to another shard; what was announced before it is still on its way to this one.
    let synced = Synced::new(rig.leases.clone(), wire.link.clone(), 2);
    synced.pass();
    rig.later(50);
    rig.later(50);
    assert_eq!(rig.metrics.swept.get(), 0, "the session is there");
    rig.register(&wire, 1, "phone", None);
    rig.shard.apply(Work::Synced(synced), rig.now_ms);
    assert!(former.link.is_void());
    rig.later(50);
    rig.later(50);
    rig.submit(&sender, 1);
    assert_eq!((wire.delivered(1), rig.metrics.swept.get()), (vec![1], 0));
}
