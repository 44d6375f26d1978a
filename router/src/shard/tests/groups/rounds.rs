//! Entries on their way to the members, a round at a time.

use super::*;

#[test]
fn below_the_threshold_members_have_copies_and_from_it_on_one_body_serves_all() {
    for (threshold, copies, pushes) in [(100, true, false), (0, false, true)] {
        let mut world = World::new(1, &ACCOUNTS);
        world.threshold = threshold;
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(threshold);
        }
        world.create(&ACCOUNTS[1..]);
        // What the creation itself gives the members is not counted.
        world.calm();
        let before = (world.metrics.group_copies.get(), world.metrics.group_pushes.get());
        for _ in 0..10 {
            world.send(1);
        }
        world.calm();
        world.check();
        assert_eq!(world.accepted.len(), 10);
        let copied = world.metrics.group_copies.get() - before.0;
        let pushed = world.metrics.group_pushes.get() - before.1;
        assert_eq!((copied == 50, pushed == 50), (copies, pushes), "{copied} copies, {pushed} pushes");
        let messages = world.devices[2].got.len();
        assert_eq!(messages, 11, "ten messages behind the creation");
    }
}

#[test]
fn a_tick_looks_at_so_many_groups_and_no_more() {
    use crate::limits::{GROUP_IDLE_MS, GROUPS_PER_TICK_MAX};
    let mut world = World::new(12, &ACCOUNTS[..1]);
    let now_ms = world.now_ms;
    let shard = &mut world.nodes[0].shard;
    let count = GROUPS_PER_TICK_MAX + 10;
    for number in 0..count {
        let key = AccountKey::of_group("shop", &format!("group-{number}"));
        shard.groups.open_empty(key, now_ms);
    }
    // Nothing is to be done about them until nobody has asked for them for a while; then a few at a time.
    let loaded = |shard: &Shard| shard.groups.loaded();
    shard.handle_tick(now_ms + GROUP_IDLE_MS - 1);
    assert_eq!(loaded(shard), count);
    shard.handle_tick(now_ms + GROUP_IDLE_MS);
    assert_eq!(loaded(shard), 10);
    shard.handle_tick(now_ms + GROUP_IDLE_MS);
    assert_eq!(shard.groups.loaded(), 0);
    assert_eq!(shard.groups.filed(), 0);
}

#[test]
fn what_other_shards_do_not_answer_is_given_up_on_in_its_time() {
    let mut world = World::new(13, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    let turn = |world: &mut World, is_lost: bool| {
        for at in 0..world.nodes.len() {
            world.hand_writes(at);
            world.hand_reads(at);
            while world.take_event(at) {}
            world.dispatch(at);
            if is_lost {
                world.nodes[at]
                    .mailbox
                    .retain(|work| !matches!(work, Work::SpreadDone { .. } | Work::VacancyFound { .. }));
            }
            while world.take_mail(at) {}
        }
        world.deliver();
        for number in 0..world.devices.len() {
            world.speak(number);
        }
    };
    // A round whose confirmations are lost: by its time it is seen that everything is done.
    let failures = world.metrics.group_round_failures.get();
    world.send(1);
    for _ in 0..50 {
        turn(&mut world, true);
    }
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    assert!(world.nodes[at].shard.groups.is_spreading(&group));
    world.pass(9_999);
    assert!(world.nodes[at].shard.groups.is_spreading(&group));
    world.pass(1);
    assert!(!world.nodes[at].shard.groups.is_spreading(&group));
    assert_eq!(world.metrics.group_round_failures.get(), failures);
    world.calm();
    world.check();
    // A change that waits for the answer whether there is room for who is added: it is refused.
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["eve".into()] }));
    world.calm();
    let id = world.ask(0, Act::Add(GroupNames { accounts: vec!["eve".into()] }));
    for _ in 0..50 {
        turn(&mut world, true);
    }
    assert_eq!(world.devices[0].answers.get(&id), None);
    world.pass(10_000);
    for _ in 0..10 {
        turn(&mut world, true);
    }
    assert_eq!(world.devices[0].answers.get(&id), Some(&Code::Overloaded));
}

#[test]
fn a_round_that_a_disk_takes_long_for_is_waited_for_and_offered_once() {
    let mut world = World::new(27, &ACCOUNTS);
    world.threshold = 100;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(100);
    }
    world.create(&ACCOUNTS[1..]);
    world.calm();
    let before = (world.metrics.group_round_failures.get(), world.metrics.group_copies.get());
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    world.serve(group.clone(), 10);
    let turn = |world: &mut World, is_answered: bool| {
        for at in 0..world.nodes.len() {
            while is_answered && world.take_event(at) {}
            while world.take_mail(at) {}
            world.hand_reads(at);
            world.hand_writes(at);
            world.dispatch(at);
        }
    };
    // The message is stored; of its last copies the disk says nothing.
    while world.metrics.group_copies.get() < before.1 + 5 {
        turn(&mut world, true);
    }
    for _ in 0..6 {
        world.pass(10_000);
        turn(&mut world, false);
        turn(&mut world, false);
    }
    let now = (world.metrics.group_round_failures.get(), world.metrics.group_copies.get());
    assert_eq!(now, (before.0, before.1 + 5), "one for each member");
    assert!(world.nodes[at].shard.groups.is_spreading(&group));
    for _ in 0..3 {
        turn(&mut world, true);
    }
    assert!(!world.nodes[at].shard.groups.is_spreading(&group), "at its first word");
    assert!(world.metrics.group_rounds_late.get() > 0);
    world.calm();
    world.check();
}

#[test]
fn a_round_that_was_lost_on_its_way_comes_again() {
    let mut world = World::new(28, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    let failures = world.metrics.group_round_failures.get();
    world.send(1);
    let mut lost = 0;
    for _ in 0..20 {
        for at in 0..world.nodes.len() {
            world.hand_writes(at);
            world.hand_reads(at);
            while world.take_event(at) {}
            world.dispatch(at);
        }
        for at in 0..world.nodes.len() {
            let mailbox = &mut world.nodes[at].mailbox;
            let before = mailbox.len();
            mailbox.retain(|work| !matches!(work, Work::Spread(_)));
            lost += before - mailbox.len();
            while world.take_mail(at) {}
        }
        world.deliver();
        for number in 0..world.devices.len() {
            world.speak(number);
        }
    }
    assert!(lost > 0);
    world.pass(10_000);
    assert_eq!(world.metrics.group_round_failures.get(), failures + 1);
    world.calm();
    world.check();
    assert_eq!(world.accepted.len(), 1);
}

#[test]
fn requests_that_wait_for_their_groups_are_bounded_by_their_bytes() {
    use crate::limits::{GROUP_WAITING_MAX, GROUPS_WAITING_BYTES_MAX};
    let mut world = World::new(20, &ACCOUNTS[..1]);
    let origin = Origin::Service { link: world.link.clone(), cookie: 1 };
    let accounts: Vec<String> = (0..256).map(|number| format!("{number:0128}")).collect();
    let act = || Some(Act::Add(GroupNames { accounts: accounts.clone() }));
    let request = GroupRequest { id: 1, group: "group-0".into(), act: act() };
    let fit = GROUPS_WAITING_BYTES_MAX / request.encoded_len();
    assert!(fit > GROUP_WAITING_MAX, "more than one group's");
    // Nothing is read of them meanwhile.
    for number in 0..fit + 10 {
        let group = format!("group-{}", number / GROUP_WAITING_MAX);
        let key = AccountKey::of_group("shop", &group);
        let request = GroupRequest { id: 1, group, act: act() };
        let ask = GroupAsk { origin: origin.clone(), actor: None, request, at_ms: world.now_ms };
        world.nodes[0].shard.apply(Work::Group { key, ask: Box::new(ask) }, world.now_ms);
    }
    assert_eq!(world.metrics.group_refused.get(), 10);
}

#[test]
fn what_a_former_process_left_unspread_reaches_the_members_however_many_groups_are_in_use() {
    let mut world = World::new(24, &ACCOUNTS[..1]);
    world.create(&["bob"]);
    // Nobody is there from now on who could ask for the group.
    world.devices.clear();
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    world.serve(group, 10);
    while world.take_mail(at) {}
    world.hand_reads(at);
    while world.take_event(at) {}
    assert!(world.hand_writes(at), "stored, and no more than that");
    world.crash();
    for number in 0..crate::limits::GROUPS_LOADED_MAX {
        let key = AccountKey::of_group("shop", &format!("group-{number}"));
        world.nodes[at].shard.groups.open_empty(key, world.now_ms);
    }
    for _ in 0..20 {
        world.settle();
        world.pass(50);
    }
    let bob = world.shard_of(AccountKey::new("shop", "bob").hash);
    let file = schema::open_reader(&world.directory.path().join(format!("messages-{bob}.sqlite"))).unwrap();
    let head = file.query_row("SELECT head FROM accounts WHERE account = 'bob'", [], |row| row.get(0));
    assert_eq!(head, Ok(2), "that the group was made, and the message");
}

#[test]
fn groups_left_unspread_are_finished_a_few_at_a_time_and_leave_memory_at_once() {
    use crate::limits::{GROUPS_RESUMED_MAX as MAX, UNSPREAD_PAGE as PAGE};
    let mut world = World::new(25, &[]);
    let count = 2 * MAX + 10;
    let path = world.directory.path().join("messages-0.sqlite");
    let file = rusqlite::Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    for table in [
        "accounts (id, app, account, head, floor) SELECT value, 'shop', char(1) || value, 1, 1",
        "groups (account, app, title, is_open, is_dissolved, spread) SELECT value, 'shop', '', 0, 0, 0",
    ] {
        let series =
            "WITH RECURSIVE series (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM series LIMIT ?1)";
        let insert = format!("{series} INSERT INTO {table} FROM series");
        file.execute(&insert, [i64::try_from(count).unwrap()]).unwrap();
    }
    world.crash();
    let loaded = |world: &World| world.nodes[0].shard.groups.loaded();
    let mut before = 0;
    for _ in 0..100 {
        world.settle();
        let now = loaded(&world);
        assert!(now <= MAX && now <= before + PAGE, "{before} before a tick, {now} behind it");
        before = now;
        world.pass(50);
    }
    assert_eq!(loaded(&world), 0);
    // Which lets the store write what it was handed.
    world.crash();
    let left = "SELECT count(*) FROM groups JOIN accounts ON id = groups.account WHERE spread < head";
    assert_eq!(file.query_row(left, [], |row| row.get(0)), Ok(0));
}
