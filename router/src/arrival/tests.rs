//! Meters and alarms with a clock that jumps.

use std::sync::Arc;

use moor_wire::client::Class;

use super::alarm::{ArrivalSettings, Watcher};
use super::report::rate;
use super::{Apps, LocalApps, Meter, Slot, State};
use crate::hook::Notice;
use crate::limits::{ARRIVAL_ALARM_HOLD_MS, ARRIVAL_APPS_MAX, ARRIVAL_MATURE_S, ARRIVAL_SECONDS};
use crate::metrics::Metrics;

const SLOT: Slot = Slot(1);

fn count(shard: &Metrics, state: State, count: u64, at_s: u64, now_s: u64) {
    shard.arrival.count(SLOT, Class::Reliable, state, count, at_s, now_s);
}

#[test]
fn a_rate_is_that_of_messages_old_enough_and_adds_up_over_shards() {
    let shards: Vec<Arc<Metrics>> = vec![Arc::default(), Arc::default()];
    let start_s = 1_000_000;
    for second in 0..100 {
        let now_s = start_s + second;
        count(&shards[0], State::Accepted, 6, now_s, now_s);
        count(&shards[1], State::Accepted, 4, now_s, now_s);
        // Three of four come after five seconds, into the second they belong to.
        if second >= 5 {
            count(&shards[1], State::Acknowledged, 3, now_s - 5, now_s);
        }
    }
    let now_s = start_s + 99;
    assert_eq!(rate(&shards, SLOT, 10, now_s), (100, 30));
    assert_eq!(rate(&shards, SLOT, 60, now_s), (600, 180));
    assert_eq!(rate(&shards, SLOT, 300, now_s), (900, 270), "since the start, and mature");
    // Those of the last seconds are not judged yet.
    assert_eq!(rate(&shards, SLOT, 10, start_s + ARRIVAL_MATURE_S - 1), (0, 0));
    assert_eq!(rate(&shards, SLOT, 10, start_s + ARRIVAL_MATURE_S).0, 10);
    shards[0].arrival.count(SLOT, Class::Transient, State::Accepted, 1, now_s - 15, now_s);
    assert_eq!(rate(&shards, SLOT, 10, now_s), (100, 30), "nobody acknowledges those");
    assert_eq!(rate(&shards, Slot(2), 60, now_s), (0, 0));
    let ring = ARRIVAL_SECONDS as u64;
    assert_eq!(rate(&shards, SLOT, 300, now_s + 2 * ring), (0, 0), "all of it is history");
}

#[test]
fn an_acknowledgement_that_comes_after_the_ring_has_come_round_changes_no_window() {
    let shards: Vec<Arc<Metrics>> = vec![Arc::default()];
    let ring = ARRIVAL_SECONDS as u64;
    let now_s = 5_000 + ring;
    count(&shards[0], State::Accepted, 10, now_s, now_s);
    count(&shards[0], State::Acknowledged, 7, 5_000, now_s);
    count(&shards[0], State::Acknowledged, 7, now_s + 1, now_s);
    assert_eq!(rate(&shards, SLOT, 60, now_s + ARRIVAL_MATURE_S), (10, 0));
    let mut sums = Default::default();
    shards[0].arrival.add_totals(SLOT, &mut sums);
    assert_eq!(sums[Class::Reliable as usize], [10, 0, 14, 0, 0], "the totals have them");
    // The ring's second is somebody else's now.
    count(&shards[0], State::Accepted, 1, now_s + ring, now_s + ring);
    assert_eq!(rate(&shards, SLOT, 10, now_s + ring + ARRIVAL_MATURE_S), (1, 0));
}

#[test]
fn the_first_apps_have_a_place_and_the_others_share_one() {
    let apps = Arc::new(Apps::new(["bank"]));
    let (mut here, mut there) = (LocalApps::new(apps.clone()), LocalApps::new(apps.clone()));
    assert_eq!((here.slot("bank"), here.slot("shop")), (Slot(1), Slot(2)));
    assert_eq!((there.slot("shop"), there.slot("mail")), (Slot(2), Slot(3)));
    assert_eq!(there.slot("(other)"), Slot::OTHER, "metrics have one line of that name");
    for number in 0..ARRIVAL_APPS_MAX {
        there.slot(&format!("app-{number}"));
    }
    assert_eq!(there.slot("late"), Slot::OTHER);
    // Full, and this shard has not heard of all.
    assert_eq!((here.slot("late"), here.slot("mail"), here.slot("app-0")), (Slot::OTHER, Slot(3), Slot(4)));
    assert_eq!(apps.all().len(), ARRIVAL_APPS_MAX);
}

#[test]
fn latencies_fall_into_the_bucket_that_bounds_them() {
    let meter = Meter::default();
    for latency_ms in [0, 10, 11, 3_600_000, 3_600_001] {
        meter.observe(SLOT, latency_ms);
    }
    let mut buckets = [0; 15];
    assert_eq!(meter.add_latency(SLOT, &mut buckets), 7_200_022);
    assert_eq!((buckets[0], buckets[1], buckets[13], buckets[14]), (2, 1, 1, 1));
}

#[test]
fn an_alarm_is_told_when_it_changes_and_holds() {
    let settings = ArrivalSettings { app: "shop".to_owned(), ..ArrivalSettings::default() };
    let mut watcher = Watcher::new(settings);
    let mut told =
        |accepted, acknowledged, now_ms| match watcher.handle_rate(accepted, acknowledged, now_ms, 7) {
            Some(Notice::Alarm(alarm)) => Some((alarm.is_raised, alarm.arrival_per_100k)),
            Some(other) => panic!("{other:?}"),
            None => None,
        };
    assert_eq!(told(99, 0, 0), None, "too few to say anything");
    assert_eq!(told(100, 95, 1_000), None);
    assert_eq!(told(100_000, 94_999, 2_000), Some((true, 94_999)));
    assert_eq!(told(100, 0, 3_000), None, "told already");
    assert_eq!(told(100, 100, 2_000 + ARRIVAL_ALARM_HOLD_MS - 1), None, "holds");
    // More acknowledged than accepted: a second device's may count twice.
    assert_eq!(told(100, 120, 2_000 + ARRIVAL_ALARM_HOLD_MS), Some((false, 100_000)));
    assert_eq!(told(100, 0, 2_000 + 2 * ARRIVAL_ALARM_HOLD_MS), Some((true, 0)));
    assert_eq!(
        told(0, 0, 2_000 + 3 * ARRIVAL_ALARM_HOLD_MS),
        Some((false, 100_000)),
        "nothing is sent any more"
    );
}

#[test]
fn thresholds_outside_their_bounds_are_named() {
    let complaint = |change: fn(&mut ArrivalSettings)| {
        let mut settings = ArrivalSettings { app: "shop".to_owned(), ..ArrivalSettings::default() };
        settings.check().unwrap();
        change(&mut settings);
        settings.check().unwrap_err()
    };
    assert!(complaint(|settings| settings.app.clear()).contains("app \"\""));
    assert!(complaint(|settings| settings.percent_min = 0.0).contains("percent_min is 0"));
    assert!(complaint(|settings| settings.percent_min = f64::NAN).contains("percent_min is NaN"));
    assert!(complaint(|settings| settings.window_s = 30).contains("choose 10, 60 or 300"));
    assert!(complaint(|settings| settings.messages_min = 0).contains("at least 1"));
}
