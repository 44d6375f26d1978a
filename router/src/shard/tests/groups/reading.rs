//! What devices have of a group, and how they get what they lack.

use super::*;

#[test]
fn a_device_that_was_away_pulls_only_what_changed() {
    let mut world = World::new(2, &ACCOUNTS);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&ACCOUNTS[1..]);
    world.hang_up(2);
    let pulls = world.metrics.pulls.get();
    // It would be back at once: nothing is settled for it before the messages are there.
    let mut away = world.devices.remove(2);
    for _ in 0..150 {
        world.send(1);
    }
    world.calm();
    assert_eq!(world.metrics.pulls.get(), pulls, "who is online pulls nothing");
    away.got.clear();
    world.devices.insert(2, away);
    world.calm();
    let got: Vec<u64> = world.devices[2].got.iter().map(|(place, _)| *place).collect();
    assert_eq!(got, (2..=151).collect::<Vec<_>>());
    assert_eq!(world.metrics.pulls.get() - pulls, 3, "150 messages in pages of 64");
    let heads = world.metrics.group_heads.get();
    world.hang_up(2);
    world.calm();
    assert_eq!(world.metrics.group_heads.get(), heads, "nothing changed, nothing is told");
}

#[test]
fn a_push_that_was_lost_is_made_up_for_by_the_head() {
    let mut world = World::new(3, &ACCOUNTS);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&ACCOUNTS[1..]);
    world.send(1);
    // The frames on their way to the gateway are lost: nobody is told.
    for _ in 0..50 {
        world.turn_without_frames(1);
    }
    assert!(world.devices.iter().all(|device| device.got.len() == 1), "lost");
    world.calm();
    assert!(world.devices.iter().all(|device| device.got.len() == 2), "and made up for");
    world.check();
}

#[test]
fn what_is_told_again_has_the_priority_that_its_account_gave_it() {
    let mut world = World::new(14, &ACCOUNTS[..2]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&["bob"]);
    world.ask(1, Act::Prefer(GroupPreference { priority: 7, is_muted: true }));
    world.calm();
    world.send(0);
    for _ in 0..50 {
        world.turn_without_frames(0);
    }
    world.heads.clear();
    world.calm();
    let heads: Vec<_> = world.heads.iter().map(|head| (head.head, head.priority, head.is_muted)).collect();
    assert_eq!(heads, [(2, 0, false), (2, 7, true)], "ann's and bob's");
    world.check();
}

#[test]
fn a_session_stands_in_the_queue_of_retries_once_however_often_it_acknowledges() {
    let mut world = World::new(16, &ACCOUNTS[..2]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&["bob"]);
    let acked = world.metrics.group_acks.get();
    for _ in 0..50 {
        world.send(0);
        world.settle();
        world.pass(100);
        world.settle();
    }
    let timed: usize = world.nodes.iter().map(|node| node.shard.conversations.timed()).sum();
    assert!(world.metrics.group_acks.get() >= acked + 50, "acknowledged in between");
    assert!(timed <= 2, "{timed} entries for two sessions");
    world.calm();
    assert_eq!(world.nodes.iter().map(|node| node.shard.conversations.timed()).sum::<usize>(), 0);
    world.check();
}

#[test]
fn positions_do_not_pile_up_before_a_disk_that_is_behind() {
    use crate::limits::{STORE_AHEAD_WRITES, WRITES_OUTSTANDING_MAX};
    use crate::outbox::Weight;
    let max = Weight::Transient.share(WRITES_OUTSTANDING_MAX);
    let mut world = World::new(19, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let key = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(key.hash);
    let save = |device: usize| PositionSave {
        key: key.clone(),
        member: "bob".into(),
        device: format!("device-{device}").into(),
        acked: 1,
    };
    for turn in 0..3 {
        let saves = (0..max / 2).map(|device| save(device + turn * max / 2)).collect();
        world.mail(key.hash, Work::Positions(saves));
        while world.take_mail(at) {}
    }
    assert_eq!(world.nodes[at].shard.writes.len(), STORE_AHEAD_WRITES);
    assert_eq!(world.nodes[at].shard.writes_outstanding, max);
    assert_eq!(world.metrics.positions_dropped.get(), max as u64 / 2);
    world.settle();
    world.mail(key.hash, Work::Positions(vec![save(1)]));
    while world.take_mail(at) {}
    assert_eq!(world.nodes[at].shard.writes.len(), 1);
}
