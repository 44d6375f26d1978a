//! Whatever happens, in an order that a seed decides: `MOOR_SEED` runs one seed, `MOOR_SEEDS` so many.

use super::*;

impl World {
    fn step(&mut self) {
        let at = self.rng.usize(..self.nodes.len());
        let number = self.rng.usize(..self.devices.len());
        match self.rng.u32(..100) {
            0..15 => drop(self.hand_writes(at)),
            15..30 => drop(self.hand_reads(at)),
            30..45 => drop(self.take_event(at)),
            45..60 => drop(self.take_mail(at)),
            60..70 => drop(self.dispatch(at)),
            70..78 => drop(self.deliver()),
            78..90 => drop(self.speak(number)),
            90..95 => self.send(number),
            95..97 => self.pass(50),
            97 => self.pass(6_000),
            98 => self.hang_up(number),
            _ => match self.rng.u32(..6) {
                0 => self.crash(),
                1..4 => {
                    self.threshold = [0, 3, 5, 100][self.rng.usize(..4)];
                    for node in &mut self.nodes {
                        node.shard.set_group_read_threshold(self.threshold);
                    }
                }
                // The last account comes and goes; the others stay.
                _ => {
                    let accounts = vec![ACCOUNTS[4].to_owned()];
                    let act = if self.rng.bool() {
                        Act::Add(GroupNames { accounts })
                    } else {
                        Act::Remove(GroupNames { accounts })
                    };
                    self.ask(0, act);
                }
            },
        }
    }

    pub(super) fn check(&self) {
        for device in &self.devices {
            let places: Vec<u64> = device.got.iter().map(|(place, _)| *place).collect();
            if device.account == ACCOUNTS[4] {
                let distinct: BTreeSet<u64> = places.iter().copied().collect();
                assert_eq!(distinct.len(), places.len(), "{}: a repeat in {places:?}", device.name);
                assert!(places.is_sorted(), "{}: out of order: {places:?}", device.name);
                continue;
            }
            let last = places.last().copied().unwrap_or(0);
            assert_eq!(places, (1..=last).collect::<Vec<_>>(), "{} of {}", device.name, device.account);
            for (place, payload) in &self.accepted {
                let got = device.got.iter().find(|(got, _)| got == place).map(|(_, payload)| payload);
                assert_eq!(got, Some(payload), "{} of {} lacks {place}", device.name, device.account);
            }
        }
    }
}

/// Whatever happens in between: every member gets every entry once, in order, and nothing accepted is missing.
#[test]
fn sync_ids_have_no_gap_and_no_repeat_in_any_order_of_events() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MOOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MOOR_SEEDS").unwrap_or(12),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed, &ACCOUNTS);
        world.device("bob", "second");
        world.create(&["bob", "carol", "dave"]);
        for _ in 0..3_000 {
            world.step();
        }
        world.calm();
        world.check();
        assert!(!world.accepted.is_empty());
    }
}
