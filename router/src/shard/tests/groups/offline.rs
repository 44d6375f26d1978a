//! Groups whose members are away: what vendors are told.

use super::*;

impl World {
    /// The router has a hook, and the groups' threshold is that of this world.
    fn tell_vendors(&mut self) {
        for node in &mut self.nodes {
            node.shard.set_group_read_threshold(self.threshold);
            let hook = HookSettings { payload_bytes_max: 64, ..HookSettings::default() };
            let telling = Telling { hook: vec![hook], ..Telling::default() };
            let settings = OfflineSettings { interval_ms: 1000, departure_ms: 10, settle_ms: 0 };
            node.shard.tell_offline(settings, Interest::new(&telling), self.now_ms);
        }
    }

    /// What vendors were told since the last call, by account.
    fn told(&mut self) -> Vec<Offline> {
        let notices = self.nodes.iter_mut().flat_map(|node| node.shard.take_notices());
        let offline = |notice| match notice {
            Notice::Offline(offline) => offline,
            Notice::Alarm(alarm) => panic!("{alarm:?}"),
        };
        let mut told: Vec<Offline> = notices.map(offline).collect();
        told.sort_by(|a, b| a.account.cmp(&b.account));
        told
    }
}

#[test]
fn vendors_are_told_of_what_is_said_in_groups_while_a_member_is_away() {
    for threshold in [0, 100] {
        // Eve and dave are never there.
        let mut world = World::new(8, &ACCOUNTS[..3]);
        world.threshold = threshold;
        world.tell_vendors();
        world.create(&ACCOUNTS[1..]);
        assert_eq!(world.told(), [], "that a group was made is no message");
        world.send(1);
        world.settle();
        let told = world.told();
        assert_eq!(told.iter().map(|offline| &*offline.account).collect::<Vec<_>>(), ["dave", "eve"]);
        for offline in &told {
            assert_eq!(
                (offline.group.as_deref(), offline.count, offline.cause),
                (Some(GROUP), 1, Cause::Absent)
            );
            assert_eq!(
                offline.payload.as_deref(),
                Some(&world.accepted[&2][..]),
                "what was said, not its wrapping"
            );
        }
        // Dave does not want to be woken for it, over a crash as well.
        world.device("dave", "tablet");
        world.calm();
        let wish = GroupPreference { priority: 3, is_muted: true };
        let id = world.ask(3, Act::Prefer(wish));
        world.calm();
        assert_eq!(world.devices[3].answers.get(&id), Some(&Code::Ok));
        world.crash();
        world.tell_vendors();
        world.devices.pop();
        // That its session is gone is found out by the first message for it.
        world.send(1);
        world.calm();
        world.told();
        for _ in 0..3 {
            world.send(1);
        }
        world.calm();
        let told = world.told();
        let told: Vec<_> = told.iter().map(|offline| (&*offline.account, offline.count)).collect();
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 3, "{told:?}");
        assert!(told.iter().all(|(account, _)| *account == "eve"), "{told:?}");
    }
}

#[test]
fn vendors_are_told_of_what_a_device_leaves_unacknowledged_or_behind() {
    let mut world = World::new(9, &ACCOUNTS[..3]);
    world.threshold = 0;
    world.tell_vendors();
    world.create(&ACCOUNTS[1..3]);
    let told = |world: &mut World| -> Vec<(String, Cause, u64)> {
        let told = world.told().into_iter();
        told.map(|offline| (offline.account.into(), offline.cause, offline.last_sync_id)).collect()
    };
    // Nothing that the router says arrives: three retries later it gives up on ann and carol; bob has said it.
    world.send(1);
    for _ in 0..100 {
        world.turn_without_frames(1);
        world.pass(1_000);
    }
    let given_up = |account: &str| (account.to_owned(), Cause::Unacknowledged, 2);
    assert_eq!(told(&mut world), [given_up("ann"), given_up("carol")]);
    // Carol's link is gone with what was under way.
    world.send(1);
    for _ in 0..10 {
        world.turn_without_frames(1);
    }
    let carol = world.devices[2].handle.unwrap();
    let key = AccountKey::new("shop", "carol");
    let departure = Departure { session: carol, app: "shop".into(), account: "carol".into() };
    let sessions = vec![(key.hash, departure)];
    world.mail(key.hash, Work::Unregister { link: world.link.clone(), sessions });
    world.devices.pop();
    world.settle();
    world.pass(1_000);
    world.pass(1_000);
    assert_eq!(told(&mut world), [("carol".to_owned(), Cause::Departed, 3)]);
}

#[test]
fn of_copies_that_a_device_leaves_behind_only_those_are_told_that_its_account_wants_to_be() {
    for is_departure in [false, true] {
        let mut world = World::new(15, &ACCOUNTS[..3]);
        world.threshold = 100;
        world.tell_vendors();
        world.create(&ACCOUNTS[1..3]);
        world.ask(1, Act::Prefer(GroupPreference { priority: 0, is_muted: true }));
        world.calm();
        world.told();
        // Ann says it, bob has muted the group: only carol is told of.
        world.send(0);
        for _ in 0..50 {
            world.turn_without_frames(0);
        }
        let cause = if is_departure {
            for number in 0..3 {
                let key = AccountKey::new("shop", world.devices[number].account);
                let session = world.devices[number].handle.unwrap();
                let departure = Departure { session, app: "shop".into(), account: (*key.account).into() };
                let sessions = vec![(key.hash, departure)];
                world.mail(key.hash, Work::Unregister { link: world.link.clone(), sessions });
            }
            Cause::Departed
        } else {
            Cause::Unacknowledged
        };
        for _ in 0..100 {
            world.turn_without_frames(0);
            world.pass(1_000);
        }
        let told = world.told().into_iter().map(|news| {
            (news.account.to_string(), news.cause, news.first_sync_id, news.last_sync_id, news.count)
        });
        assert_eq!(told.collect::<Vec<_>>(), [("carol".to_owned(), cause, 2, 2, 1)]);
    }
}

#[test]
fn a_copy_that_is_left_behind_is_told_with_the_marks_of_what_was_said() {
    let mut world = World::new(16, &ACCOUNTS[..2]);
    world.threshold = 100;
    world.tell_vendors();
    world.create(&ACCOUNTS[1..2]);
    world.told();
    let marks = TrafficMarks { release: "canary".into(), ..TrafficMarks::default() };
    world.serve_marked(AccountKey::of_group("shop", GROUP), 10, Some(Box::new(marks.clone())));
    for _ in 0..100 {
        world.turn_without_frames(0);
        world.pass(1_000);
    }
    let told = world.told();
    let told = told.iter().map(|news| (&*news.account, news.cause, news.marks.as_deref()));
    let left = |account| (account, Cause::Unacknowledged, Some(&marks));
    assert_eq!(told.collect::<Vec<_>>(), [left("ann"), left("bob")]);
}
