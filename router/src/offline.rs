//! Whose messages nobody fetches, and who has been told of: per account and interval one notice, and one for each of its
//! groups. Where hooks choose messages by their marks, those that not the same hooks want are told apart. No I/O, no clock.
//!
//! The first message to an absent account is told at once; what comes within the interval is counted and told
//! together at its end. Some news wait before they are told, and are forgotten when the account comes back
//! meanwhile: those of a client that has just gone, and all of them while gateways announce their sessions to
//! a router that has just started.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::HashMap;
use moor_wire::client::TrafficMarks;

use crate::config::{OfflineSettings, Telling};
use crate::hook::{Cause, Event, MarksWanted, Notice, Offline};
use crate::limits::{
    OFFLINE_ACCOUNTS_MAX, OFFLINE_GROUPS_MAX, OFFLINE_PAYLOAD_BYTES_MAX, OFFLINE_TOLD_PER_TICK_MAX,
};
use crate::metrics::Metrics;

/// Which apps' absences anybody wants to hear of, with the longest payload that any hook of the app takes.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    everywhere: Option<usize>,
    apps: HashMap<Box<str>, usize>,
    /// Of the hooks that do not want messages of all marks, which they want.
    marks: Vec<MarksWanted>,
}

impl Interest {
    /// What the hooks of these settings want.
    pub fn new(telling: &Telling) -> Self {
        let mut interest = Self::default();
        for hook in telling.hook.iter().filter(|hook| hook.events.contains(&Event::Offline)) {
            let bytes = hook.payload_bytes_max;
            if hook.apps.is_empty() {
                interest.everywhere = interest.everywhere.max(Some(bytes));
            }
            for app in &hook.apps {
                let known = interest.apps.entry(app.as_str().into()).or_insert(bytes);
                *known = bytes.max(*known);
            }
            if hook.marks != MarksWanted::default() {
                interest.marks.push(hook.marks.clone());
            }
        }
        interest
    }

    /// Longest payload wanted with an app's notices; `None`: no notices are.
    pub fn payload_bytes_max(&self, app: &str) -> Option<usize> {
        self.everywhere.max(self.apps.get(app).copied())
    }

    /// Whether messages of these marks and of those are wanted by the same hooks.
    fn is_same(&self, these: Option<&TrafficMarks>, those: Option<&TrafficMarks>) -> bool {
        self.marks.iter().all(|wanted| wanted.matches(these) == wanted.matches(those))
    }
}

#[derive(Debug)]
struct Entry {
    app: Box<str>,
    account: Box<str>,
    /// What is told when `due_ms` comes: one for the account's own messages and one for each group, each for those that the
    /// same hooks want.
    pending: Vec<Offline>,
    /// When the interval, or the wait before the first notice, is over.
    due_ms: u64,
    /// True exactly when a notice went out within the interval.
    is_told: bool,
}

/// One shard's absences.
#[derive(Debug)]
pub struct Ledger {
    settings: OfflineSettings,
    interest: Interest,
    /// Until then absences wait.
    settled_ms: u64,
    /// By account hash.
    accounts: HashMap<u64, Entry, foldhash::fast::RandomState>,
    /// When to look at whom; an entry whose own time differs has been put in again.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    payload_bytes: usize,
    ready: Vec<Notice>,
    metrics: Arc<Metrics>,
}

fn payload_len(pending: &[Offline]) -> usize {
    pending.iter().filter_map(|offline| offline.payload.as_ref()).map(bytes::Bytes::len).sum()
}

/// Adds newer news of the same account.
fn merge(old: &mut Offline, new: Offline) {
    old.first_sync_id = old.first_sync_id.min(new.first_sync_id);
    // Who went or rests says nothing new about messages that were met before.
    let is_news = new.last_sync_id > old.last_sync_id;
    old.last_sync_id = old.last_sync_id.max(new.last_sync_id);
    // A message may be met twice: accepted, then left unacknowledged.
    old.count = (old.count + new.count).min(old.last_sync_id - old.first_sync_id + 1);
    if old.device != new.device {
        old.device = None;
    }
    if is_news {
        old.class = new.class;
        old.sent_at_ms = new.sent_at_ms;
        old.payload = new.payload;
        old.marks = new.marks;
    }
}

impl Ledger {
    /// One that nobody wants to hear of.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            settings: OfflineSettings::default(),
            interest: Interest::default(),
            settled_ms: 0,
            accounts: HashMap::default(),
            due: BinaryHeap::new(),
            payload_bytes: 0,
            ready: Vec::new(),
            metrics,
        }
    }

    /// From now on those of `interest` are told of.
    pub fn open(&mut self, settings: OfflineSettings, interest: Interest, now_ms: u64) {
        self.settled_ms = now_ms + settings.settle_ms;
        self.settings = settings;
        self.interest = interest;
    }

    /// See [`Interest::payload_bytes_max`].
    pub fn payload_bytes_max(&self, app: &str) -> Option<usize> {
        self.interest.payload_bytes_max(app)
    }

    /// Takes news of an account. Its app's notices are wanted: the caller has asked.
    pub fn handle_absence(&mut self, hash: u64, news: Offline, now_ms: u64) {
        self.handle_absences(hash, [news], now_ms);
    }

    /// Takes news of one account that came at once, and are told at once.
    pub fn handle_absences(&mut self, hash: u64, all: impl IntoIterator<Item = Offline>, now_ms: u64) {
        let mut due_ms = u64::MAX;
        for news in all {
            let wait_ms = if news.cause == Cause::Departed { self.settings.departure_ms } else { 0 };
            due_ms = due_ms.min((now_ms + wait_ms).max(self.settled_ms));
            self.collect(hash, news);
        }
        let Some(entry) = self.accounts.get_mut(&hash) else { return };
        if !entry.is_told && due_ms < entry.due_ms {
            entry.due_ms = due_ms;
            if due_ms > now_ms {
                self.due.push(Reverse((due_ms, hash)));
            } else {
                self.tell(hash, now_ms);
            }
        }
        // Entries that came and went leave their times behind.
        if self.due.len() > 4 * OFFLINE_ACCOUNTS_MAX {
            self.due = self.accounts.iter().map(|(hash, entry)| Reverse((entry.due_ms, *hash))).collect();
        }
    }

    /// Puts news to what is pending of the account.
    fn collect(&mut self, hash: u64, mut news: Offline) {
        let is_known = self
            .accounts
            .get(&hash)
            .is_some_and(|entry| entry.app == news.app && entry.account == news.account);
        if !is_known {
            // Two names with one hash: the other one is told now and forgotten.
            self.forget(hash, true);
            if self.accounts.len() >= OFFLINE_ACCOUNTS_MAX {
                self.forget_earliest();
            }
        }
        let bytes = payload_len(std::slice::from_ref(&news));
        if self.payload_bytes + bytes > OFFLINE_PAYLOAD_BYTES_MAX {
            news.payload = None;
        }
        let entry = self.accounts.entry(hash).or_insert_with(|| Entry {
            app: news.app.clone(),
            account: news.account.clone(),
            pending: Vec::new(),
            due_ms: u64::MAX,
            is_told: false,
        });
        self.payload_bytes -= payload_len(&entry.pending);
        let is_alike = |pending: &&mut Offline| {
            pending.group == news.group
                && self.interest.is_same(pending.marks.as_deref(), news.marks.as_deref())
        };
        if let Some(pending) = entry.pending.iter_mut().find(is_alike) {
            self.metrics.offline_merged.increment();
            merge(pending, news);
        } else {
            if entry.pending.len() >= OFFLINE_GROUPS_MAX {
                self.metrics.offline_early.increment();
                self.metrics.offline_notices.increment();
                self.ready.push(Notice::Offline(entry.pending.remove(0)));
            }
            entry.pending.push(news);
        }
        self.payload_bytes += payload_len(&entry.pending);
    }

    /// An account has a session: what waits to be told reaches it by that.
    pub fn handle_present(&mut self, hash: u64) {
        if self.accounts.is_empty() {
            return;
        }
        let Some(entry) = self.accounts.get_mut(&hash) else { return };
        self.payload_bytes -= payload_len(&entry.pending);
        entry.pending.clear();
        if !entry.is_told {
            self.accounts.remove(&hash);
        }
    }

    /// Tells what is due, forgets whose interval passed in silence.
    pub fn handle_tick(&mut self, now_ms: u64) {
        for _ in 0..OFFLINE_TOLD_PER_TICK_MAX {
            match self.due.peek() {
                Some(Reverse((due_ms, _))) if *due_ms <= now_ms => {}
                _ => break,
            }
            let Some(Reverse((due_ms, hash))) = self.due.pop() else { break };
            let Some(entry) = self.accounts.get(&hash).filter(|entry| entry.due_ms == due_ms) else {
                continue;
            };
            if !entry.pending.is_empty() {
                self.tell(hash, now_ms);
            } else {
                self.accounts.remove(&hash);
            }
        }
        self.metrics.offline_accounts.set(self.accounts.len() as u64);
    }

    /// Tells everything that waits.
    pub fn flush(&mut self) {
        for (_, entry) in self.accounts.drain() {
            self.metrics.offline_notices.add(entry.pending.len() as u64);
            self.ready.extend(entry.pending.into_iter().map(Notice::Offline));
        }
        self.payload_bytes = 0;
        self.due.clear();
    }

    /// Notices since the last call.
    pub fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.ready)
    }

    /// Begins an interval.
    fn tell(&mut self, hash: u64, now_ms: u64) {
        let Some(entry) = self.accounts.get_mut(&hash) else { return };
        entry.is_told = true;
        entry.due_ms = now_ms + self.settings.interval_ms;
        self.due.push(Reverse((entry.due_ms, hash)));
        self.payload_bytes -= payload_len(&entry.pending);
        self.metrics.offline_notices.add(entry.pending.len() as u64);
        self.ready.extend(entry.pending.drain(..).map(Notice::Offline));
    }

    fn forget(&mut self, hash: u64, tell: bool) {
        let Some(entry) = self.accounts.remove(&hash) else { return };
        self.payload_bytes -= payload_len(&entry.pending);
        if tell {
            self.metrics.offline_notices.add(entry.pending.len() as u64);
            self.ready.extend(entry.pending.into_iter().map(Notice::Offline));
        }
    }

    /// Makes room: whoever is next is told of now.
    fn forget_earliest(&mut self) {
        while let Some(Reverse((due_ms, hash))) = self.due.pop() {
            if self.accounts.get(&hash).is_some_and(|entry| entry.due_ms == due_ms) {
                self.metrics.offline_early.increment();
                return self.forget(hash, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use moor_wire::client::Class;

    use super::*;
    use crate::hook::HookSettings;

    struct Rig {
        ledger: Ledger,
        now_ms: u64,
    }

    const INTERVAL_MS: u64 = 60_000;

    impl Rig {
        fn new(settle_ms: u64) -> Self {
            let mut ledger = Ledger::new(Arc::default());
            let settings = OfflineSettings { interval_ms: INTERVAL_MS, departure_ms: 10_000, settle_ms };
            ledger.open(settings, Interest::default(), 0);
            Self { ledger, now_ms: 0 }
        }

        fn absent(&mut self, account: u64, sync_id: u64) {
            self.news(account, sync_id, sync_id, Cause::Absent, Some(10));
        }

        fn news(&mut self, account: u64, first: u64, last: u64, cause: Cause, payload: Option<usize>) {
            let news = Offline {
                app: "shop".into(),
                account: account.to_string().into(),
                device: (cause != Cause::Absent).then(|| "phone".into()),
                group: None,
                first_sync_id: first,
                last_sync_id: last,
                count: last - first + 1,
                class: Class::Reliable,
                sent_at_ms: Some(last),
                cause,
                marks: None,
                payload: payload.map(|bytes| vec![7; bytes].into()),
            };
            self.ledger.handle_absence(account, news, self.now_ms);
        }

        fn told(&mut self) -> Vec<(String, u64, u64, u64)> {
            let notices = self.ledger.take().into_iter();
            notices
                .map(|notice| match notice {
                    Notice::Offline(offline) => (
                        offline.account.to_string(),
                        offline.first_sync_id,
                        offline.last_sync_id,
                        offline.count,
                    ),
                    Notice::Alarm(alarm) => panic!("{alarm:?}"),
                })
                .collect()
        }

        fn later(&mut self, ms: u64) -> Vec<(String, u64, u64, u64)> {
            self.now_ms += ms;
            self.ledger.handle_tick(self.now_ms);
            self.told()
        }
    }

    fn one(account: u64, first: u64, last: u64, count: u64) -> Vec<(String, u64, u64, u64)> {
        vec![(account.to_string(), first, last, count)]
    }

    #[test]
    fn a_storm_is_one_notice_at_once_and_one_per_interval() {
        let mut rig = Rig::new(0);
        rig.absent(1, 1);
        assert_eq!(rig.told(), one(1, 1, 1, 1), "at once");
        for sync_id in 2..=1000 {
            rig.absent(1, sync_id);
            rig.absent(2, sync_id);
        }
        assert_eq!(rig.told(), one(2, 2, 2, 1));
        assert_eq!(rig.later(INTERVAL_MS - 1), []);
        let mut told = rig.later(1);
        told.sort();
        assert_eq!(told, [one(1, 2, 1000, 999), one(2, 3, 1000, 998)].concat());
        rig.absent(1, 1001);
        assert_eq!(rig.later(INTERVAL_MS), one(1, 1001, 1001, 1));
        assert_eq!(rig.later(INTERVAL_MS), []);
        assert!(rig.ledger.accounts.is_empty() && rig.ledger.due.is_empty() && rig.ledger.payload_bytes == 0);
        rig.absent(1, 1002);
        assert_eq!(rig.told(), one(1, 1002, 1002, 1), "silence for an interval, so at once again");
    }

    #[test]
    fn who_comes_back_in_time_is_not_told_of() {
        let mut rig = Rig::new(0);
        rig.news(1, 4, 6, Cause::Departed, None);
        assert_eq!(rig.later(9_999), []);
        rig.ledger.handle_present(1);
        assert_eq!(rig.later(100_000), []);
        rig.news(1, 4, 6, Cause::Departed, None);
        assert_eq!(rig.later(10_000), one(1, 4, 6, 3));
        // A message meanwhile is no reason to wait for the rest of the departure's time.
        rig.news(2, 4, 6, Cause::Departed, None);
        rig.absent(2, 7);
        assert_eq!(rig.told(), one(2, 4, 7, 4));
        // Told already, then present: the interval goes on, what was counted is forgotten.
        rig.absent(2, 8);
        rig.ledger.handle_present(2);
        rig.absent(2, 9);
        assert_eq!(rig.told(), []);
        assert_eq!(rig.later(INTERVAL_MS), one(2, 9, 9, 1));
    }

    #[test]
    fn a_router_that_has_just_started_waits_for_its_gateways() {
        let mut rig = Rig::new(30_000);
        rig.absent(1, 1);
        rig.absent(2, 1);
        assert_eq!(rig.later(29_999), []);
        rig.ledger.handle_present(1);
        assert_eq!(rig.later(1), one(2, 1, 1, 1));
        rig.absent(1, 2);
        assert_eq!(rig.told(), one(1, 2, 2, 1));
    }

    #[test]
    fn a_message_met_twice_is_counted_once_and_the_newest_is_described() {
        let mut rig = Rig::new(0);
        rig.absent(1, 1);
        rig.ledger.take();
        rig.absent(1, 2);
        rig.absent(1, 3);
        rig.news(1, 2, 3, Cause::Departed, None);
        rig.now_ms += INTERVAL_MS;
        rig.ledger.handle_tick(rig.now_ms);
        let told = rig.ledger.take();
        let [Notice::Offline(offline)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((offline.first_sync_id, offline.last_sync_id, offline.count), (2, 3, 2));
        assert_eq!(
            (offline.device.as_deref(), offline.sent_at_ms, offline.cause),
            (None, Some(3), Cause::Absent)
        );
        assert_eq!(offline.payload.as_ref().map(bytes::Bytes::len), Some(10));
    }

    #[test]
    fn accounts_times_and_payloads_are_bounded_and_nobody_is_lost() {
        let mut rig = Rig::new(1_000_000);
        let count = OFFLINE_ACCOUNTS_MAX as u64 + 100;
        for account in 0..count {
            rig.now_ms += 1;
            rig.news(account, 1, 1, Cause::Absent, Some(4096));
        }
        assert_eq!(rig.ledger.accounts.len(), OFFLINE_ACCOUNTS_MAX);
        assert!(rig.ledger.payload_bytes <= OFFLINE_PAYLOAD_BYTES_MAX);
        assert!(rig.ledger.payload_bytes > OFFLINE_PAYLOAD_BYTES_MAX / 2);
        assert_eq!(rig.told().len(), 100, "early, to make room");
        rig.ledger.flush();
        assert_eq!(rig.told().len(), OFFLINE_ACCOUNTS_MAX);
        assert_eq!(rig.ledger.payload_bytes, 0);
        // Coming and going.
        let mut rig = Rig::new(0);
        for _ in 0..OFFLINE_ACCOUNTS_MAX * 5 {
            rig.news(1, 1, 1, Cause::Departed, None);
            rig.ledger.handle_present(1);
        }
        assert!(rig.ledger.due.len() <= OFFLINE_ACCOUNTS_MAX * 4);
    }

    #[test]
    fn two_accounts_with_one_hash_are_two() {
        let mut rig = Rig::new(1_000);
        rig.absent(1, 5);
        let mut other = rig.ledger.accounts.remove(&1).unwrap();
        other.account = "other".into();
        other.pending[0].account = "other".into();
        rig.ledger.accounts.insert(1, other);
        rig.absent(1, 6);
        assert_eq!(rig.told(), [("other".to_owned(), 5, 5, 1)]);
        assert_eq!(rig.later(1_000), one(1, 6, 6, 1));
    }

    #[test]
    fn each_group_has_a_notice_of_its_own_and_all_are_told_together() {
        let mut rig = Rig::new(0);
        let in_group = |rig: &mut Rig, group: &str, sync_id: u64| {
            let news = Offline {
                app: "shop".into(),
                account: "1".into(),
                device: None,
                group: Some(group.into()),
                first_sync_id: sync_id,
                last_sync_id: sync_id,
                count: 1,
                class: Class::Reliable,
                sent_at_ms: None,
                cause: Cause::Absent,
                marks: None,
                payload: Some(vec![7; 10].into()),
            };
            rig.ledger.handle_absence(1, news, rig.now_ms);
        };
        in_group(&mut rig, "friends", 7);
        assert_eq!(rig.told(), one(1, 7, 7, 1), "at once");
        rig.absent(1, 3);
        for sync_id in 8..=10 {
            in_group(&mut rig, "friends", sync_id);
        }
        in_group(&mut rig, "work", 50);
        assert_eq!(rig.told(), []);
        let told = rig.later(INTERVAL_MS);
        assert_eq!(told, [one(1, 3, 3, 1), one(1, 8, 10, 3), one(1, 50, 50, 1)].concat());
        for group in 0..OFFLINE_GROUPS_MAX + 5 {
            in_group(&mut rig, &group.to_string(), 1);
        }
        assert_eq!(rig.told().len(), 5, "early, to make room");
        rig.ledger.handle_present(1);
        assert_eq!((rig.later(INTERVAL_MS).len(), rig.ledger.payload_bytes), (0, 0));
    }

    #[test]
    fn messages_that_not_the_same_hooks_want_are_told_apart() {
        let marked = |release: &str| TrafficMarks { release: release.to_owned(), ..TrafficMarks::default() };
        let hooks = r#"
            [[hook]]
            [[hook]]
            marks = { release = ["canary", "beta"] }
        "#;
        let mut rig = Rig::new(0);
        let telling: Telling = toml::from_str(hooks).unwrap();
        rig.ledger.interest = Interest::new(&telling);
        let news = |sync_id: u64, release: &str, cause: Cause| Offline {
            app: "shop".into(),
            account: "1".into(),
            device: None,
            group: None,
            first_sync_id: sync_id,
            last_sync_id: sync_id,
            count: 1,
            class: Class::Reliable,
            sent_at_ms: None,
            cause,
            marks: Some(marked(release)).filter(|marks| !marks.release.is_empty()).map(Box::new),
            payload: None,
        };
        let say = |rig: &mut Rig, sync_id, release| {
            rig.ledger.handle_absence(1, news(sync_id, release, Cause::Absent), rig.now_ms);
        };
        say(&mut rig, 1, "");
        assert_eq!(rig.told(), one(1, 1, 1, 1), "at once");
        // A canary's message, and others behind it: its hook hears of it, and of none but it and its like.
        for (sync_id, release) in [(2, "canary"), (3, ""), (4, "beta"), (5, "stable"), (6, "")] {
            say(&mut rig, sync_id, release);
        }
        rig.now_ms += INTERVAL_MS;
        rig.ledger.handle_tick(rig.now_ms);
        let told = rig.ledger.take();
        let of_canaries = |notice: &&Notice| telling.hook[1].wants(Event::Offline, notice);
        let ids = |notice: &Notice| match notice {
            Notice::Offline(offline) => (offline.first_sync_id, offline.last_sync_id, offline.count),
            Notice::Alarm(alarm) => panic!("{alarm:?}"),
        };
        assert_eq!(told.iter().filter(of_canaries).map(ids).collect::<Vec<_>>(), [(2, 4, 2)]);
        assert_eq!(told.iter().map(ids).collect::<Vec<_>>(), [(2, 4, 2), (3, 6, 3)]);
        // What is left behind together is told together, before anything else of the account as well.
        rig.now_ms += 10 * INTERVAL_MS;
        rig.ledger.handle_tick(rig.now_ms);
        let left =
            [(7, "canary"), (8, "")].map(|(sync_id, release)| news(sync_id, release, Cause::Unacknowledged));
        rig.ledger.handle_absences(1, left, rig.now_ms);
        assert_eq!(rig.told(), [one(1, 7, 7, 1), one(1, 8, 8, 1)].concat());
        // Where no hook chooses they are one.
        rig.ledger.interest = Interest::default();
        for (sync_id, release) in [(9, "canary"), (10, "")] {
            say(&mut rig, sync_id, release);
        }
        assert_eq!(rig.later(INTERVAL_MS), one(1, 9, 10, 2));
    }

    #[test]
    fn hooks_say_which_apps_and_payloads_are_wanted() {
        let hook = |apps: &[&str], payload_bytes_max, events: &[Event]| HookSettings {
            apps: apps.iter().map(|app| (*app).to_owned()).collect(),
            payload_bytes_max,
            events: events.to_vec(),
            ..HookSettings::default()
        };
        let wanted = |hooks: Vec<HookSettings>, app: &str| {
            Interest::new(&Telling { hook: hooks, ..Telling::default() }).payload_bytes_max(app)
        };
        let both =
            || vec![hook(&["shop", "bank"], 100, &[Event::Offline]), hook(&["shop"], 50, &[Event::Offline])];
        assert_eq!(wanted(both(), "shop"), Some(100));
        assert_eq!(wanted(both(), "mail"), None);
        let all = || [both(), vec![hook(&[], 70, &[Event::Offline, Event::Alarm])]].concat();
        assert_eq!((wanted(all(), "mail"), wanted(all(), "bank")), (Some(70), Some(100)));
        assert_eq!(wanted(vec![hook(&[], 70, &[Event::Alarm])], "shop"), None);
    }
}
