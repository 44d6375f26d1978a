//! The core with a clock that jumps.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{Class, TrafficMarks};
use moor_wire::limits::TRAFFIC_MARK_BYTES_MAX;
use serde_json::json;

use super::core::{Attempt, Core, Outcome, Unaccepted, VendorIndex};
use super::metrics::HookMetrics;
use super::notice::{Alarm, Cause, Notice, Offline};
use super::settings::{Event, HookSettings};
use crate::limits::{HOOK_BATCHES_WAITING_MAX, HOOK_NOTICE_BYTES_MAX, HOOK_PAYLOAD_BYTES_MAX};

struct Rig {
    core: Core,
    now_ms: u64,
    metrics: Vec<Arc<HookMetrics>>,
    sent: u64,
}

fn settings() -> HookSettings {
    HookSettings {
        name: "vendor".to_owned(),
        url: "http://vendor.example/".to_owned(),
        secret_file: "secret".into(),
        batch_wait_ms: 0,
        breaker_failures: 1000,
        ..HookSettings::default()
    }
}

fn offline(app: &str, last_sync_id: u64) -> Notice {
    Notice::Offline(Offline {
        app: app.into(),
        account: "alice".into(),
        device: None,
        group: None,
        first_sync_id: 1,
        last_sync_id,
        count: 1,
        class: Class::Reliable,
        sent_at_ms: Some(5),
        cause: Cause::Absent,
        marks: None,
        payload: None,
    })
}

fn ids(body: &[u8]) -> Vec<u64> {
    let array: Vec<serde_json::Value> = serde_json::from_slice(body).unwrap();
    array.iter().map(|notice| notice["last_sync_id"].as_u64().unwrap()).collect()
}

fn failed() -> Outcome {
    Outcome::Failed { reason: "status 500".to_owned(), retry_after_ms: None }
}

fn accepted() -> Outcome {
    Outcome::Accepted(Vec::new())
}

impl Rig {
    fn new(hooks: impl IntoIterator<Item = HookSettings>) -> Self {
        let hooks: Vec<_> = hooks.into_iter().map(|hook| (hook, Arc::new(HookMetrics::default()))).collect();
        let metrics = hooks.iter().map(|(_, metrics)| metrics.clone()).collect();
        Self { core: Core::new(hooks, 7, 1), now_ms: 1_000_000, metrics, sent: 0 }
    }

    fn notify(&mut self, count: u64) {
        for _ in 0..count {
            self.sent += 1;
            self.core.handle_notice(&offline("shop", self.sent), self.now_ms);
        }
    }

    fn attempt(&mut self) -> Option<Attempt> {
        self.core.poll_attempt(self.now_ms)
    }

    /// Jumps to when the core wants to be asked, and asks.
    fn next(&mut self) -> Attempt {
        for _ in 0..3 {
            self.now_ms = self.now_ms.max(self.core.next_due_ms().expect("nothing is due"));
            if let Some(attempt) = self.attempt() {
                return attempt;
            }
        }
        panic!("due, and nothing to do");
    }

    fn finish(&mut self, attempt: &Attempt, outcome: Outcome) {
        self.core.handle_outcome(attempt.vendor, attempt.batch, outcome, self.now_ms);
    }

    /// Sync ids given up on since the last look, with the reason.
    fn dead(&mut self) -> Vec<(String, Vec<u64>)> {
        std::iter::from_fn(|| self.core.poll_dead())
            .map(|dead| {
                let list = dead.notices.iter();
                (dead.reason, list.map(|notice| ids(&[b"[", &notice[..], b"]"].concat())[0]).collect())
            })
            .collect()
    }
}

#[test]
fn a_batch_goes_when_it_is_full_or_its_oldest_has_waited() {
    let mut rig = Rig::new([HookSettings { batch_notices: 3, batch_wait_ms: 200, ..settings() }]);
    rig.notify(2);
    assert!(rig.attempt().is_none());
    assert_eq!(rig.core.next_due_ms(), Some(1_000_200));
    rig.notify(2);
    let first = rig.attempt().unwrap();
    assert_eq!(ids(&first.body), [1, 2, 3]);
    assert!(rig.attempt().is_none(), "the fourth waits");
    rig.now_ms += 199;
    assert!(rig.attempt().is_none());
    rig.now_ms += 1;
    let second = rig.attempt().unwrap();
    assert_eq!(ids(&second.body), [4]);
    assert_ne!(first.idempotency_key, second.idempotency_key);
    rig.finish(&first, accepted());
    rig.finish(&second, accepted());
    assert!(rig.core.is_settled());
    assert_eq!((rig.metrics[0].delivered.get(), rig.metrics[0].queued.get()), (4, 0));
    assert_eq!(rig.core.next_due_ms(), None);
}

#[test]
fn marks_choose_the_hook_and_are_told() {
    let wants = |marks: &str| HookSettings { marks: toml::from_str(marks).unwrap(), ..settings() };
    let mut rig = Rig::new([
        wants(""),
        wants("release = [\"canary\", \"beta\"]"),
        wants("release = [\"\"]"),
        wants("release = [\"canary\"]\nsource = [\"qr\"]"),
    ]);
    let marked = |release: &str, last_sync_id| {
        let Notice::Offline(notice) = offline("shop", last_sync_id) else { unreachable!() };
        let marks = TrafficMarks { release: release.to_owned(), ..TrafficMarks::default() };
        Notice::Offline(Offline { marks: Some(Box::new(marks)), ..notice })
    };
    for notice in [marked("canary", 1), marked("stable", 2), offline("shop", 3)] {
        rig.core.handle_notice(&notice, rig.now_ms);
    }
    rig.now_ms += 1_000;
    let mut told: Vec<(usize, Vec<u64>)> = Vec::new();
    while let Some(attempt) = rig.attempt() {
        let notices: serde_json::Value = serde_json::from_slice(&attempt.body).unwrap();
        let release = if ids(&attempt.body)[0] == 1 { json!("canary") } else { json!(null) };
        assert_eq!(notices[0]["marks"]["release"], release);
        told.push((attempt.vendor.0, ids(&attempt.body)));
        rig.finish(&attempt, accepted());
    }
    assert_eq!(told, [(0, vec![1, 2, 3]), (1, vec![1]), (2, vec![3])]);
}

#[test]
fn a_batch_has_no_more_bytes_than_it_may() {
    let batch_bytes = HOOK_NOTICE_BYTES_MAX * 2;
    let mut rig = Rig::new([HookSettings { batch_bytes, payload_bytes_max: 4096, ..settings() }]);
    for last_sync_id in 1..=20 {
        let Notice::Offline(mut notice) = offline("shop", last_sync_id) else { unreachable!() };
        notice.payload = Some(Bytes::from(vec![b'x'; HOOK_PAYLOAD_BYTES_MAX]));
        rig.core.handle_notice(&Notice::Offline(notice), rig.now_ms);
    }
    let mut seen = Vec::new();
    while !rig.core.is_settled() {
        let attempt = rig.next();
        assert!(attempt.body.len() <= batch_bytes, "{}", attempt.body.len());
        seen.extend(ids(&attempt.body));
        rig.finish(&attempt, accepted());
    }
    assert_eq!(seen, (1..=20).collect::<Vec<u64>>());
}

#[test]
fn the_longest_notice_fits_its_limit() {
    // Every byte of the names is escaped to six, and the numbers are as long as they get.
    let name: Box<str> = "\u{1}".repeat(128).into();
    let notice = Notice::Offline(Offline {
        app: name.clone(),
        account: name.clone(),
        device: Some(name.clone()),
        group: Some(name),
        first_sync_id: u64::MAX,
        last_sync_id: u64::MAX,
        count: u64::MAX,
        class: Class::Transient,
        sent_at_ms: Some(u64::MAX),
        cause: Cause::Unacknowledged,
        marks: {
            let mark = "\u{1}".repeat(TRAFFIC_MARK_BYTES_MAX);
            Some(Box::new(TrafficMarks { source: mark.clone(), campaign: mark.clone(), release: mark }))
        },
        payload: Some(vec![0; HOOK_PAYLOAD_BYTES_MAX].into()),
    });
    let json = notice.to_json("ffffffffffffffff-18446744073709551615", HOOK_PAYLOAD_BYTES_MAX);
    assert!(json.len() <= HOOK_NOTICE_BYTES_MAX, "{}", json.len());
    assert!(notice.to_json("1", HOOK_PAYLOAD_BYTES_MAX - 1).len() < json.len() - HOOK_PAYLOAD_BYTES_MAX);
}

#[test]
fn hooks_hear_what_they_asked_for_and_do_not_wait_for_each_other() {
    let shop = HookSettings { apps: vec!["shop".to_owned()], concurrency: 1, ..settings() };
    let alarms = HookSettings { events: vec![Event::Alarm], ..settings() };
    let mut rig = Rig::new([shop, alarms, settings()]);
    rig.core.handle_notice(&offline("bank", 1), rig.now_ms);
    let only = rig.attempt().unwrap();
    assert_eq!(only.vendor, VendorIndex(2));
    assert!(rig.attempt().is_none());
    let alarm = Alarm {
        app: "shop".into(),
        is_raised: true,
        arrival_per_100k: 87_500,
        threshold_per_100k: 95_000,
        window_ms: 60_000,
        accepted: 800,
        acknowledged: 700,
        at_ms: 9,
    };
    rig.core.handle_notice(&Notice::Alarm(alarm), rig.now_ms);
    let to: Vec<_> =
        std::iter::from_fn(|| rig.attempt()).map(|attempt| (attempt.vendor.0, attempt)).collect();
    assert_eq!(to.iter().map(|(vendor, _)| *vendor).collect::<Vec<_>>(), [0, 1, 2]);
    let text = std::str::from_utf8(&to[1].1.body).unwrap();
    assert!(text.contains("\"arrival_percent\":87.5") && text.contains("\"raised\":true"), "{text}");
    // One request at a time for the first, and it hangs.
    rig.core.handle_notice(&offline("shop", 2), rig.now_ms);
    assert_eq!(rig.attempt().unwrap().vendor, VendorIndex(2));
    assert!(rig.attempt().is_none());
}

#[test]
fn a_failed_batch_comes_again_unchanged_after_a_random_wait_whose_bound_doubles() {
    let (mut longest, mut shortest) = ([0_u64; 4], [u64::MAX; 4]);
    let mut rig = Rig::new([HookSettings { tries: 5, retry_min_ms: 100, retry_max_ms: 300, ..settings() }]);
    for _ in 0..200 {
        rig.notify(1);
        let first = rig.next();
        rig.finish(&first, failed());
        for retry in 0..4 {
            let before_ms = rig.now_ms;
            let again = rig.next();
            assert_eq!((&again.body, &again.idempotency_key), (&first.body, &first.idempotency_key));
            longest[retry] = longest[retry].max(rig.now_ms - before_ms);
            shortest[retry] = shortest[retry].min(rig.now_ms - before_ms);
            rig.finish(&again, failed());
        }
        let dead = rig.dead();
        assert_eq!(dead, [("status 500".to_owned(), vec![rig.sent])]);
    }
    for (longest, bound) in longest.into_iter().zip([100, 200, 300, 300]) {
        assert!(longest <= bound && longest > bound * 9 / 10, "{longest} of {bound}");
    }
    assert!(shortest.iter().all(|shortest| *shortest < 10), "{shortest:?}");
    assert_eq!((rig.metrics[0].requests.get(), rig.metrics[0].dead.get()), (1000, 200));
}

#[test]
fn the_breaker_opens_lets_one_through_and_closes() {
    let breaker =
        HookSettings { breaker_failures: 3, breaker_open_ms: 5_000, batch_notices: 1, ..settings() };
    let mut rig = Rig::new([HookSettings { retry_min_ms: 1, retry_max_ms: 1, tries: 100, ..breaker }]);
    rig.notify(10);
    // A success in between starts the run of failures anew.
    for outcome in [failed(), failed(), accepted(), failed(), failed()] {
        let attempt = rig.next();
        rig.finish(&attempt, outcome);
    }
    assert_eq!(rig.metrics[0].breaker.get(), 0);
    // Two at a time, both fail: the second one's failure came too late to open it again.
    let (one, two) = (rig.next(), rig.next());
    rig.finish(&one, failed());
    rig.finish(&two, failed());
    assert_eq!((rig.metrics[0].breaker.get(), rig.metrics[0].opened.get()), (2, 1));
    let opened_ms = rig.now_ms;
    rig.now_ms += 4_999;
    assert!(rig.attempt().is_none(), "open");
    let probe = rig.next();
    assert_eq!((rig.now_ms, rig.metrics[0].breaker.get()), (opened_ms + 5_000, 1));
    assert!(rig.attempt().is_none(), "one only");
    rig.finish(&probe, failed());
    assert_eq!((rig.metrics[0].breaker.get(), rig.metrics[0].opened.get()), (2, 2));
    assert!(rig.attempt().is_none());
    let probe = rig.next();
    assert_eq!(rig.now_ms, opened_ms + 10_000);
    rig.finish(&probe, accepted());
    assert_eq!(rig.metrics[0].breaker.get(), 0);
    while !rig.core.is_settled() {
        let attempt = rig.next();
        rig.finish(&attempt, accepted());
    }
    assert_eq!((rig.metrics[0].delivered.get(), rig.dead()), (10, vec![]));
}

#[test]
fn a_refusal_is_final_and_does_not_count_as_the_vendor_s_failure() {
    let mut rig = Rig::new([HookSettings { breaker_failures: 1, ..settings() }]);
    rig.notify(2);
    let attempt = rig.next();
    rig.finish(&attempt, Outcome::Refused("status 400".to_owned()));
    assert_eq!(rig.dead(), [("status 400".to_owned(), vec![1, 2])]);
    assert_eq!((rig.metrics[0].breaker.get(), rig.metrics[0].refused.get()), (0, 2));
    assert!(rig.core.is_settled());
}

#[test]
fn retry_after_is_respected_for_the_whole_vendor() {
    let mut rig = Rig::new([HookSettings { batch_notices: 1, breaker_failures: 1, ..settings() }]);
    rig.notify(3);
    let attempt = rig.next();
    rig.finish(&attempt, Outcome::Throttled { retry_after_ms: Some(90_000) });
    assert_eq!(rig.metrics[0].breaker.get(), 0, "it lives");
    rig.now_ms += 89_999;
    assert!(rig.attempt().is_none());
    let again = rig.next();
    assert_eq!(rig.now_ms, 1_090_000);
    rig.finish(&again, Outcome::Failed { reason: "status 503".to_owned(), retry_after_ms: Some(u64::MAX) });
    assert_eq!(rig.core.next_due_ms(), Some(1_000_000 + 3_600_000), "not for ever; then they are too old");
}

#[test]
fn of_an_accepted_batch_only_what_was_not_accepted_comes_again_under_a_new_key() {
    let mut rig = Rig::new([HookSettings { tries: 2, ..settings() }]);
    rig.notify(5);
    let first = rig.next();
    let item = |index, may_retry| Unaccepted { index, may_retry, reason: "no such device".to_owned() };
    let list = vec![item(1, true), item(3, false), item(3, false), item(99, true)];
    rig.finish(&first, Outcome::Accepted(list));
    assert_eq!(rig.dead(), [("no such device".to_owned(), vec![4])]);
    assert_eq!((rig.metrics[0].delivered.get(), rig.metrics[0].refused.get()), (3, 1));
    let again = rig.next();
    assert_eq!(ids(&again.body), [2]);
    assert_ne!(again.idempotency_key, first.idempotency_key);
    // Batches cut at the same time are others.
    rig.notify(1);
    let other = rig.next();
    assert_ne!(again.batch, other.batch);
    rig.finish(&other, accepted());
    rig.finish(&again, Outcome::Accepted(vec![item(0, true)]));
    assert_eq!(rig.dead(), [("not accepted by the vendor".to_owned(), vec![2])], "tries are used");
}

#[test]
fn a_full_queue_drops_its_oldest_and_batches_between_tries_are_bounded() {
    let tight = HookSettings { queue_notices: 3, batch_notices: 1, concurrency: 1, ..settings() };
    let mut rig = Rig::new([HookSettings { retry_min_ms: 3_600_000, retry_max_ms: 3_600_000, ..tight }]);
    rig.notify(5);
    assert_eq!(
        rig.dead(),
        [("the queue was full".to_owned(), vec![1]), ("the queue was full".to_owned(), vec![2])]
    );
    let mut failures = 0;
    while let Some(attempt) = rig.attempt() {
        rig.finish(&attempt, failed());
        rig.notify(1);
        failures += 1;
    }
    assert!((HOOK_BATCHES_WAITING_MAX..HOOK_BATCHES_WAITING_MAX + 8).contains(&failures), "{failures}");
    assert_eq!(rig.metrics[0].dropped.get(), 2);
    rig.notify(1);
    assert_eq!(rig.metrics[0].dropped.get(), 3);
    let mut bytes = Rig::new([HookSettings { queue_bytes: HOOK_NOTICE_BYTES_MAX, ..settings() }]);
    bytes.notify(1000);
    let queued = bytes.metrics[0].queued.get();
    assert!((50..150).contains(&queued), "{queued} notices of some 150 bytes");
}

#[test]
fn what_waited_too_long_is_given_up_on() {
    let mut rig = Rig::new([HookSettings { age_max_ms: 60_000, breaker_failures: 1, ..settings() }]);
    rig.notify(1);
    let attempt = rig.next();
    rig.finish(&attempt, Outcome::Failed { reason: "timeout".to_owned(), retry_after_ms: Some(3_000_000) });
    rig.notify(1);
    rig.now_ms = rig.core.next_due_ms().unwrap();
    assert!(rig.attempt().is_none());
    assert_eq!(rig.now_ms, 1_060_000);
    let mut dead = rig.dead();
    dead.sort();
    assert_eq!(dead, [("waited too long".to_owned(), vec![1]), ("waited too long".to_owned(), vec![2])]);
    assert!(rig.core.is_settled());
    assert_eq!(rig.metrics[0].expired.get(), 2);
}

#[test]
fn at_the_end_nothing_waits_for_company_and_what_is_left_is_dead() {
    let mut rig =
        Rig::new([HookSettings { batch_wait_ms: 60_000, concurrency: 1, batch_notices: 2, ..settings() }]);
    rig.notify(1);
    assert!(rig.attempt().is_none());
    rig.core.stop();
    let attempt = rig.attempt().unwrap();
    rig.notify(2);
    assert!(!rig.core.is_settled());
    rig.core.bury_all();
    assert_eq!(
        rig.dead(),
        [("the router stopped".to_owned(), vec![2, 3]), ("the router stopped".to_owned(), vec![1])]
    );
    assert!(rig.core.is_settled());
    // Its answer comes too late to matter.
    rig.finish(&attempt, accepted());
    assert_eq!(rig.metrics[0].delivered.get(), 0);
}

#[test]
fn settings_outside_their_bounds_are_named() {
    let complaint = |change: fn(&mut HookSettings)| {
        let mut hook = settings();
        change(&mut hook);
        hook.check().unwrap_err()
    };
    settings().check().unwrap();
    assert!(complaint(|hook| hook.name = "A b".to_owned()).contains("name must be"));
    assert!(complaint(|hook| hook.url = "ftp://x/".to_owned()).contains("must begin with https://"));
    assert!(complaint(|hook| hook.url = "/only/a/path".to_owned()).contains("must begin with https://"));
    assert!(complaint(|hook| hook.secret_file = "".into()).contains("secret_file is missing"));
    assert!(complaint(|hook| hook.concurrency = 0).contains("concurrency is 0: choose 1 to 64"));
    assert!(complaint(|hook| hook.retry_max_ms = 1).contains("retry_min_ms is 500: choose 1 to 1"));
    assert!(complaint(|hook| hook.events.clear()).contains("events is empty"));
    assert!(
        complaint(|hook| hook.payload_bytes_max = 4097).contains("the hook \"vendor\": payload_bytes_max")
    );
}
