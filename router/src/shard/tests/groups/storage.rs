//! Groups of apps whose storage is limited.

use super::*;
use crate::store::Marks;

impl World {
    /// An app's messages may take so many bytes more than they do.
    fn limit(&mut self, more: u64) {
        let limit = self.totals.as_ref().unwrap().taken("shop") + more;
        let tables = toml::from_str(&format!("shop = {{ storage_bytes = {limit} }}")).unwrap();
        let apps = Arc::new(Apps::new(&tables).unwrap().per_shard(SHARDS));
        for node in &mut self.nodes {
            node.shard.set_apps(apps.clone());
        }
    }

    /// A service sends a message.
    pub(super) fn serve(&mut self, to: AccountKey, payload_bytes: usize) {
        self.serve_marked(to, payload_bytes, None);
    }

    pub(super) fn serve_marked(&mut self, to: AccountKey, payload_bytes: usize, marks: Marks) {
        let client_id = Bytes::copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        let submit = Box::new(Submit {
            to: to.clone(),
            from: "service".into(),
            client_id,
            payload: vec![7; payload_bytes].into(),
            sent_at_ms: self.now_ms,
            origin: Origin::Service { link: self.link.clone(), cookie: 1 },
            entry: Entry::Personal,
            marks,
            copies_bytes: 0,
        });
        self.mail(to.hash, Work::Submit(submit));
    }

    fn results(&mut self) -> Vec<Code> {
        std::mem::take(&mut self.results).iter().map(SendResult::code).collect()
    }

    /// What is counted in all shards is what the files hold: nothing is on its way or owed.
    fn check_usage(&mut self) {
        let files = (0..self.nodes.len()).map(|at| {
            let path = self.directory.path().join(format!("messages-{at}.sqlite"));
            let counted = usage::recount(&schema::open_reader(&path).unwrap());
            counted.iter().map(|(_, bytes)| bytes).sum::<u64>()
        });
        let (counted, kept) = (files.sum::<u64>(), self.totals.as_ref().unwrap().taken("shop"));
        assert_eq!(counted, kept);
        let pending: u64 = self.nodes.iter_mut().map(|node| node.shard.taken("shop").1).sum();
        assert_eq!(pending, 0);
    }
}

#[test]
fn a_message_to_a_group_needs_room_for_its_copies_and_is_refused_before_it_is_accepted() {
    for is_crashed in [false, true] {
        let mut world = World::new(10, &ACCOUNTS);
        world.threshold = 100;
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(100);
        }
        world.create(&ACCOUNTS[1..]);
        world.check_usage();
        if is_crashed {
            world.crash();
            world.calm();
            world.check_usage();
        }
        let (group, alice) = (AccountKey::of_group("shop", GROUP), AccountKey::new("shop", "alice"));
        // So that the group is in memory.
        world.serve(group.clone(), 10);
        world.settle();
        assert_eq!(world.results(), [Code::Ok]);
        // Room for two with their five copies each: the third is refused at once, though nothing is stored yet.
        world.limit(2 * 6 * 1200);
        for _ in 0..3 {
            world.serve(group.clone(), 1000);
        }
        for at in 0..world.nodes.len() {
            while world.take_mail(at) {}
            world.dispatch(at);
        }
        world.deliver();
        assert_eq!(world.results.iter().filter(|result| result.code() == Code::Storage).count(), 1);
        assert!(world.results.iter().any(|result| result.detail.contains("storage_bytes")));
        world.calm();
        let mut results = world.results();
        results.sort();
        assert_eq!(results, [Code::Ok, Code::Ok, Code::Storage]);
        assert!(world.metrics.quota_refused.get() >= 1);
        assert_eq!(world.metrics.refused_storage.get(), 0);
        assert!(
            world.devices.iter().all(|device| device.got.len() == 4),
            "what was accepted reaches everybody"
        );
        world.check_usage();
        // A direct message still fits; the group's would not.
        world.limit(3 * 1200);
        world.serve(group.clone(), 1000);
        world.serve(alice.clone(), 1000);
        world.calm();
        let mut results = world.results();
        results.sort();
        assert_eq!(results, [Code::Ok, Code::Storage]);
        // From the threshold on there are no copies.
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(0);
        }
        world.serve(group.clone(), 1000);
        world.calm();
        assert_eq!(world.results(), [Code::Ok]);
        world.check_usage();
    }
}

#[test]
fn where_there_is_no_room_a_group_may_only_become_smaller() {
    let mut world = World::new(11, &ACCOUNTS);
    world.threshold = 100;
    world.create(&ACCOUNTS[1..4]);
    world.limit(0);
    let ask = |world: &mut World, number: usize, act: Act| {
        let id = world.ask(number, act);
        world.calm();
        world.devices[number].answers[&id]
    };
    let names = |name: &str| GroupNames { accounts: vec![name.to_owned()] };
    let nothing = moor_wire::client::GroupNothing {};
    assert_eq!(ask(&mut world, 0, Act::Add(names("eve"))), Code::Storage);
    let owner = GroupMember { account: "bob".into(), role: GroupRole::Owner.into() };
    assert_eq!(ask(&mut world, 0, Act::Role(owner)), Code::Ok);
    assert_eq!(ask(&mut world, 0, Act::Leave(nothing)), Code::Ok);
    assert_eq!(ask(&mut world, 1, Act::Remove(names("carol"))), Code::Ok);
    assert_eq!(ask(&mut world, 1, Act::Dissolve(nothing)), Code::Ok);
    assert_eq!(ask(&mut world, 0, Act::Create(GroupCreate::default())), Code::Storage);
    world.check_usage();
}
