//! Apps beside each other in one shard.

use super::*;
use crate::apps::Apps;
use crate::limits::{STORE_AHEAD_MESSAGES, WRITES_OUTSTANDING_MAX};

impl Rig {
    fn offer_in(&mut self, wire: &Wire, app: &str, client_id: u64, payload_bytes: usize) {
        let origin = Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 };
        let submit = Submit {
            to: AccountKey { hash: account_hash(app, "alice"), app: app.into(), account: "alice".into() },
            from: "bob".into(),
            client_id: Bytes::copy_from_slice(&client_id.to_be_bytes()),
            payload: vec![7; payload_bytes].into(),
            sent_at_ms: 1,
            origin,
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        self.shard.apply(Work::Submit(Box::new(submit)), self.now_ms);
    }

    fn rule(&mut self, tables: &str) {
        let apps = Apps::new(&toml::from_str(tables).unwrap()).unwrap();
        self.shard.set_apps(Arc::new(apps));
    }

    /// Apps of the submits on their way to the store since the last look, in their order.
    fn handed(&mut self) -> Vec<(String, u64)> {
        let writes = self.shard.take_writes();
        let submits = writes.iter().filter_map(|write| match write {
            Write::Submit(submit) => Some(submit),
            _ => None,
        });
        let named = submits.map(|submit| {
            let id = u64::from_be_bytes(submit.client_id[..].try_into().unwrap());
            (submit.to.app.to_string(), id)
        });
        let named = named.collect();
        self.store.try_write(writes).unwrap();
        named
    }
}

fn refusals(wire: &mut Wire) -> Vec<String> {
    let refused = wire.results().into_iter().filter(|result| result.code() != Code::Ok);
    refused
        .inspect(|result| assert_eq!(result.code(), Code::Overloaded))
        .map(|result| result.detail)
        .collect()
}

#[test]
fn a_quota_refuses_by_its_name_and_only_its_app() {
    let mut rig = Rig::new(1000);
    rig.rule("noisy = { messages_per_s = 10, bytes_per_s = 1000 }\nquiet = { messages_per_s = 1 }");
    let mut wire = rig.link("east", 1);
    for id in 0..15 {
        rig.offer_in(&wire, "noisy", id, 10);
    }
    rig.offer_in(&wire, "quiet", 0, 10);
    rig.offer_in(&wire, "other", 0, 10);
    rig.settle();
    let told = refusals(&mut wire);
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|detail| detail.contains("messages_per_s")), "{told:?}");
    rig.later(1_000);
    rig.offer_in(&wire, "noisy", 100, 900);
    rig.offer_in(&wire, "noisy", 101, 900);
    rig.settle();
    assert!(refusals(&mut wire)[0].contains("bytes_per_s"));
    // What nobody keeps counts as well.
    rig.later(100);
    let submit = |rig: &mut Rig, wire: &Wire| {
        rig.offer_in(wire, "noisy", 102, 10);
        let Some(Write::Submit(submit)) = rig.shard.take_writes().pop() else { panic!("it was taken") };
        submit
    };
    let submit = submit(&mut rig, &wire);
    for _ in 0..10 {
        let again = Submit {
            to: submit.to.clone(),
            from: submit.from.clone(),
            client_id: submit.client_id.clone(),
            payload: submit.payload.clone(),
            sent_at_ms: 1,
            origin: Origin::Session { link: wire.link.clone(), session: SessionHandle(99), hash: 1 },
            entry: crate::store::Entry::Personal,
            marks: None,
            copies_bytes: 0,
        };
        let work = Work::Relay { submit: Box::new(again), class: moor_wire::client::Class::Normal };
        rig.shard.apply(work, rig.now_ms);
    }
    assert_eq!(wire.results().iter().filter(|result| result.code() == Code::Overloaded).count(), 1);
    assert_eq!(rig.metrics.quota_refused.get(), 7);
}

#[test]
fn an_app_s_backlog_is_its_own_and_order_within_it_is_kept() {
    let mut rig = Rig::new(100_000);
    rig.rule("heavy = { weight = 3 }");
    let wire = rig.link("east", 1);
    let many = STORE_AHEAD_MESSAGES as u64 * 3;
    for id in 0..many {
        rig.offer_in(&wire, "noisy", id, 100);
    }
    assert_eq!(rig.handed().len(), STORE_AHEAD_MESSAGES, "the rest waits here");
    for id in 0..1_000 {
        rig.offer_in(&wire, "quiet", id, 100);
        rig.offer_in(&wire, "heavy", id, 100);
    }
    // One commit's worth makes room, and all of it is shared.
    let event = rig.store.events().recv().unwrap();
    let StoreEvent::Written(written) = &event else { panic!("a commit") };
    let room = written.len();
    rig.shard.handle_store(event, rig.now_ms);
    let handed = rig.handed();
    assert_eq!(handed.len(), room);
    let of = |app: &str| handed.iter().filter(|(of, _)| of == app).map(|(_, id)| *id).collect::<Vec<_>>();
    let (noisy, quiet, heavy) = (of("noisy"), of("quiet"), of("heavy"));
    assert_eq!(quiet, (0..quiet.len() as u64).collect::<Vec<_>>());
    assert_eq!(heavy, (0..heavy.len() as u64).collect::<Vec<_>>());
    assert!(noisy.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    // Five parts, one of them unfinished at most.
    let part = room / 5;
    for (name, got, parts) in
        [("noisy", noisy.len(), 1), ("quiet", quiet.len(), 1), ("heavy", heavy.len(), 3)]
    {
        assert!(
            got + 100 * parts >= part * parts && got <= part * parts + 100 * parts,
            "{name}: {got} of {room}"
        );
    }
}

#[test]
fn a_full_shard_takes_from_the_longest_backlog_for_an_app_with_less() {
    let mut rig = Rig::new(100_000);
    let (wire, mut other) = (rig.link("east", 1), rig.link("west", 1));
    let mut wire = wire;
    for id in 0..WRITES_OUTSTANDING_MAX as u64 {
        rig.offer_in(&wire, "noisy", id, 0);
    }
    assert_eq!(refusals(&mut wire), Vec::<String>::new());
    rig.offer_in(&wire, "noisy", 1 << 40, 0);
    assert_eq!(refusals(&mut wire).len(), 1, "its own like");
    for id in 0..5 {
        rig.offer_in(&other, "quiet", id, 0);
    }
    assert_eq!((refusals(&mut other).len(), refusals(&mut wire).len()), (0, 5));
    assert_eq!(rig.shard.writes_outstanding, WRITES_OUTSTANDING_MAX);
    // All the others are stored and answered, none twice and none lost.
    let events = rig.store.events();
    while rig.shard.writes_outstanding > 0 {
        rig.handed();
        let event = events.recv().unwrap();
        rig.shard.handle_store(event, rig.now_ms);
    }
    assert_eq!(rig.metrics.accepted.get(), WRITES_OUTSTANDING_MAX as u64);
    assert_eq!(other.results().iter().filter(|result| result.code() == Code::Ok).count(), 5);
    assert_eq!(rig.shard.tenants.waiting(), 0);
}
