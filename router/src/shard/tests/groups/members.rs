//! Who is in a group, and what an account wants of it.

use super::*;

fn is_membership(write: &Write) -> bool {
    matches!(write, Write::Group(group) if matches!(**group, GroupWrite::Membership { .. }))
}

#[test]
fn who_comes_while_its_membership_is_being_written_is_told_of_the_group() {
    let mut world = World::new(7, &ACCOUNTS[..1]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.calm();
    let bobs = world.shard_of(AccountKey::new("shop", "bob").hash);
    world.ask(0, Act::Create(GroupCreate { members: vec!["bob".into()], ..GroupCreate::default() }));
    let is_waiting = |world: &World| world.nodes[bobs].shard.writes.iter().any(is_membership);
    let turn = |world: &mut World, writes: &dyn Fn(&World, usize) -> bool| {
        for at in 0..world.nodes.len() {
            if writes(world, at) {
                world.hand_writes(at);
            }
            world.hand_reads(at);
            while world.take_event(at) || world.take_mail(at) {}
            world.dispatch(at);
        }
        world.deliver();
        for number in 0..world.devices.len() {
            world.speak(number);
        }
    };
    let mut turns = 0;
    while !is_waiting(&world) {
        turn(&mut world, &|world, _| !is_waiting(world));
        turns += 1;
        assert!(turns < 100, "bob's membership is to be written");
    }
    // Nobody of bob's was there when the entry was pushed; and where bob is a member is read before it is written.
    world.device("bob", "late");
    for _ in 0..50 {
        turn(&mut world, &|_, at| at != bobs);
    }
    assert!(is_waiting(&world) && world.devices[1].handle.is_some());
    assert_eq!(world.devices[1].got.len(), 1, "the creation");
    world.calm();
    assert_eq!(world.devices[1].got.len(), 1, "which comes once");
    assert!(world.nodes[bobs].shard.conversations.joining.is_empty(), "nothing of it is kept");
}

#[test]
fn who_is_removed_is_told_and_gets_nothing_more() {
    let mut world = World::new(4, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    let id = world.ask(0, Act::Remove(GroupNames { accounts: vec!["eve".into()] }));
    world.calm();
    assert_eq!(world.devices[0].answers.get(&id), Some(&Code::Ok));
    let before = world.devices[4].got.len();
    world.send(1);
    world.calm();
    assert_eq!(world.devices[4].got.len(), before);
    assert_eq!(world.devices[3].got.len(), 3);
    // A stranger's message is refused, and it may not look either.
    world.send(4);
    let looked = world.ask(4, Act::Members(moor_wire::client::GroupPage::default()));
    world.calm();
    assert_eq!(world.accepted.len(), 1);
    assert_eq!(world.devices[4].answers.get(&looked), Some(&Code::NotFound));
    // Back in: from that entry on.
    world.ask(0, Act::Add(GroupNames { accounts: vec!["eve".into()] }));
    world.send(1);
    world.calm();
    let got: Vec<u64> = world.devices[4].got.iter().skip(before).map(|(place, _)| *place).collect();
    assert_eq!(got, [4, 5]);
}

#[test]
fn a_dissolved_group_is_forgotten_and_its_name_may_be_used_again() {
    let mut world = World::new(5, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    world.ask(0, Act::Dissolve(moor_wire::client::GroupNothing {}));
    world.calm();
    let listed = |world: &mut World| {
        let id = world.ask(1, Act::Members(moor_wire::client::GroupPage::default()));
        world.calm();
        world.devices[1].answers[&id]
    };
    assert_eq!(listed(&mut world), Code::NotFound);
    world.create(&["bob"]);
    assert_eq!(listed(&mut world), Code::Ok);
}

#[test]
fn an_account_in_as_many_groups_as_allowed_is_not_added_to_another() {
    let mut world = World::new(6, &ACCOUNTS);
    world.create(&["bob"]);
    let carol = AccountKey::new("shop", "carol");
    let shard = world.shard_of(carol.hash);
    let path = world.directory.path().join(format!("messages-{shard}.sqlite"));
    let file = rusqlite::Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    file.execute("INSERT INTO accounts (app, account, head, floor) VALUES ('shop', 'carol', 0, 1) ON CONFLICT DO NOTHING", [])
        .unwrap();
    for number in 1..crate::limits::GROUPS_PER_ACCOUNT_MAX {
        file.execute(
            "INSERT INTO memberships SELECT id, ?1, 1, 0, 0 FROM accounts WHERE account = 'carol'",
            [format!("group-{number}")],
        )
        .unwrap();
    }
    let add = |world: &mut World, account: &str| {
        let id = world.ask(0, Act::Add(GroupNames { accounts: vec![account.to_owned()] }));
        world.calm();
        world.devices[0].answers[&id]
    };
    assert_eq!(add(&mut world, "carol"), Code::Ok, "the last one there is room for");
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["carol".into()] }));
    world.calm();
    file.execute(
        "INSERT INTO memberships SELECT id, 'one-more', 1, 0, 0 FROM accounts WHERE account = 'carol'",
        [],
    )
    .unwrap();
    assert_eq!(add(&mut world, "carol"), Code::Limit);
    assert_eq!(add(&mut world, "dave"), Code::Ok, "the group goes on");
}

#[test]
fn however_many_changes_wait_for_one_that_is_refused_the_stack_holds() {
    let mut world = World::new(17, &ACCOUNTS);
    world.create(&ACCOUNTS[1..4]);
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    let names = |name: &str| GroupNames { accounts: vec![name.to_owned()] };
    let waiting = crate::limits::GROUP_WAITING_MAX - 1;
    let acts = std::iter::once(Act::Add(names("eve"))).chain((0..waiting).map(|_| Act::Remove(names("bob"))));
    let origin = Origin::Service { link: world.link.clone(), cookie: 1 };
    for act in acts {
        let request = GroupRequest { id: 1, group: GROUP.into(), act: Some(act) };
        let ask = GroupAsk { origin: origin.clone(), actor: None, request, at_ms: world.now_ms };
        world.mail(group.hash, Work::Group { key: group.clone(), ask: Box::new(ask) });
    }
    // Whether there is room for eve is asked; meanwhile the router is about to stop.
    while world.take_mail(at) {}
    world.hand_reads(at);
    while world.take_event(at) {}
    world.nodes[at].shard.stop();
    let refused = world.metrics.group_refused.get();
    world.settle();
    assert_eq!(world.metrics.group_refused.get() - refused, waiting as u64 + 1);
}

#[test]
fn a_group_made_anew_in_the_commit_that_forgets_the_former_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("messages.sqlite");
    let mut store = SqliteStore::open(&path, "test", Fsync::Off, 10_000, &Arc::default()).unwrap();
    let key = AccountKey::of_group("shop", GROUP);
    let create = |number: u8| {
        let set = vec![GroupMember { account: "ann".into(), role: GroupRole::Owner.into() }];
        let event = GroupEvent { created: true, set, ..GroupEvent::default() };
        Write::Submit(Box::new(Submit {
            to: key.clone(),
            from: "\u{1}".into(),
            client_id: vec![number].into(),
            payload: event.encode_to_vec().into(),
            sent_at_ms: 1,
            origin: Origin::Change { grows: true },
            entry: Entry::CopiedEvent,
            marks: None,
            copies_bytes: 0,
        }))
    };
    let forget = Write::Group(Box::new(GroupWrite::Forget { key: key.clone() }));
    for batch in [vec![create(1)], vec![forget, create(2)]] {
        store.try_write(batch).unwrap();
        let StoreEvent::Written(written) = store.events().recv().unwrap() else { panic!("a commit") };
        assert!(written[0].outcome.is_ok());
    }
    Box::new(store).close();
    let file = schema::open_reader(&path).unwrap();
    let count = |table: &str| {
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("groups"), count("members")), (1, 1));
}

#[test]
fn a_preference_is_answered_when_it_is_written_and_only_of_a_group_of_one_s_own() {
    let mut world = World::new(18, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let wish = || Act::Prefer(GroupPreference { priority: 1, is_muted: true });
    let bob = AccountKey::new("shop", "bob");
    let at = world.shard_of(bob.hash);
    let id = world.ask(1, wish());
    world.speak(1);
    while world.take_mail(at) {}
    world.deliver();
    world.take_app_events(1);
    assert_eq!(world.devices[1].answers.get(&id), None, "nothing is written");
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Ok));
    // The store's queue is full.
    let id = world.ask(1, wish());
    world.speak(1);
    while world.take_mail(at) {}
    let writes = world.nodes[at].shard.take_writes();
    assert_eq!(writes.len(), 1);
    world.nodes[at].shard.handle_writes_refused(writes);
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Overloaded));
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["bob".into()] }));
    world.calm();
    let id = world.ask(1, wish());
    world.calm();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::NotFound));
    assert!(world.nodes.iter().all(|node| node.shard.is_settled()));
}

#[test]
fn a_group_is_muted_also_where_no_more_groups_fit_into_memory() {
    let mut world = World::new(21, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    // Nobody has asked for it for a while, and others are in use.
    assert_eq!(world.nodes[at].shard.groups.loaded(), 0);
    for number in 0..crate::limits::GROUPS_LOADED_MAX {
        let key = AccountKey::of_group("shop", &format!("group-{number}"));
        world.nodes[at].shard.groups.open_empty(key, world.now_ms);
    }
    let id = world.ask(1, Act::Prefer(GroupPreference { priority: 1, is_muted: true }));
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Ok));
    world.crash();
    let file = schema::open_reader(&world.directory.path().join(format!("messages-{at}.sqlite"))).unwrap();
    let muted = file.query_row("SELECT is_muted FROM members WHERE member = 'bob'", [], |row| row.get(0));
    assert_eq!(muted, Ok(1));
}

#[test]
fn what_was_stored_is_answered_so_also_when_its_sender_is_a_member_no_more() {
    let eve = GroupNames { accounts: vec!["eve".into()] };
    for act in [Act::Remove(eve), Act::Dissolve(moor_wire::client::GroupNothing {})] {
        let mut world = World::new(22, &ACCOUNTS);
        world.create(&ACCOUNTS[1..]);
        world.send(4);
        for _ in 0..50 {
            world.turn_without_frames(4);
        }
        assert_eq!((world.metrics.group_messages.get(), world.accepted.len()), (1, 0), "the answer is lost");
        world.ask(0, act);
        for _ in 0..50 {
            world.turn_without_frames(0);
        }
        // Eve's client has heard nothing, and sends it again.
        world.calm();
        assert_eq!(world.accepted.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(world.metrics.group_messages.get(), 1, "and it is stored once");
        // What comes for the first time is a stranger's.
        let refused = world.metrics.group_refused.get();
        world.send(4);
        world.calm();
        assert_eq!((world.metrics.group_refused.get() - refused, world.accepted.len()), (1, 1));
    }
}

#[test]
fn strangers_messages_that_are_looked_for_are_bounded() {
    use crate::limits::QUESTIONS_OUTSTANDING_MAX;
    let mut world = World::new(23, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let to = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(to.hash);
    let strangers = |world: &mut World, count: usize| {
        for _ in 0..count {
            let origin = Origin::Session { link: world.link.clone(), session: SessionHandle(99), hash: 1 };
            let submit = Box::new(Submit {
                to: to.clone(),
                from: "stranger".into(),
                client_id: Bytes::from_static(b"1"),
                payload: Bytes::new(),
                sent_at_ms: 1,
                origin,
                entry: Entry::Personal,
                marks: None,
                copies_bytes: 0,
            });
            world.nodes[at].shard.apply(Work::Submit(submit), world.now_ms);
        }
    };
    // So that the group is in memory.
    strangers(&mut world, 1);
    world.settle();
    let refused = world.metrics.group_refused.get();
    strangers(&mut world, QUESTIONS_OUTSTANDING_MAX + 10);
    assert_eq!(world.metrics.group_refused.get() - refused, 10);
    world.settle();
    assert_eq!(world.metrics.group_refused.get() - refused, QUESTIONS_OUTSTANDING_MAX as u64 + 10);
}
