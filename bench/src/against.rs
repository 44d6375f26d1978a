//! The gateway against the floor: the same work on both, in turn, in one run.

use serde_json::{Value, json};

use crate::args::{Load, Work};
use crate::measure::{once, reached};
use crate::network::Stack;
use crate::report::{Report, Verdict};
use crate::side::Side;

/// What `ratio` measures: key, work, deliveries per second, messages at once.
///
/// Fan-out one at a time keeps the floor 0.6 busy at 12 microseconds a write: a message that met the one before it in
/// a queue would be written together with it by the gateway.
const KINDS: [(&str, Work, u64, u64); 5] = [
    ("push_vs_floor", Work::Push, 20_000, 1),
    ("fanout_vs_floor", Work::Fanout, 50_000, 1),
    ("fanout_merged_vs_floor", Work::Fanout, 100_000, 8),
    ("ping_vs_floor", Work::Ping, 20_000, 1),
    ("connect_vs_floor", Work::Connect, 1, 1),
];

/// Figures of both, round by round, sorted.
struct Rounds {
    floor: Vec<f64>,
    gateway: Vec<f64>,
    ratios: Vec<f64>,
}

impl Rounds {
    /// Measures; the gateway's last round is left in the report, with what went wrong in the others and on the floor.
    fn measure(
        work: Work,
        load: &Load,
        gateway: &Side,
        cpus: (usize, usize),
        report: &mut Report,
    ) -> Result<Self, String> {
        let mut rounds = Self { floor: Vec::new(), gateway: Vec::new(), ratios: Vec::new() };
        let (mut floors, mut gateways) = (Vec::new(), Vec::new());
        for round in 1..=load.repeat {
            eprintln!("round {round} of {}: the floor, then the gateway", load.repeat);
            let mut aside = Report::default();
            let side = Side::floor(load, cpus.0)?;
            let floor = once(work, load, &side, Some(cpus.1), true, &mut aside)?;
            drop(side);
            let mut own = Report::default();
            let cost = once(work, load, gateway, Some(cpus.1), true, &mut own)?;
            floors.push(aside);
            gateways.push(own);
            rounds.floor.push(floor);
            rounds.gateway.push(cost);
            rounds.ratios.push(cost / floor);
        }
        *report = gateways.pop().unwrap_or_default();
        for (round, own) in (1..).zip(gateways) {
            report.inherit(own, &format!("round {round}"));
        }
        for (round, floor) in (1..).zip(floors) {
            report.inherit_yardstick(floor, &format!("round {round}, the floor"));
        }
        for values in [&mut rounds.floor, &mut rounds.gateway, &mut rounds.ratios] {
            values.sort_by(f64::total_cmp);
        }
        Ok(rounds)
    }

    fn json(&self) -> Value {
        let fine = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({
            "median": fine(median(&self.ratios)),
            "min": fine(least(&self.ratios)),
            "max": fine(most(&self.ratios)),
            "floor": fine(median(&self.floor)),
            "gateway": fine(median(&self.gateway)),
        })
    }
}

/// The server's processor and the harness's: the first and the last allowed. To be asked before any is pinned.
pub fn cpus() -> Result<(usize, usize), String> {
    let allowed = moor_ring::thread::cpus_allowed().map_err(|error| error.to_string())?;
    match (allowed.first(), allowed.last()) {
        (Some(first), Some(last)) => Ok((*first, *last)),
        _ => Err("no processor is allowed".to_owned()),
    }
}

/// The middle of sorted values.
pub fn median(values: &[f64]) -> f64 {
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn least(values: &[f64]) -> f64 {
    values.first().copied().unwrap_or(f64::NAN)
}

/// The greatest of sorted values.
pub fn most(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(f64::NAN)
}

/// One kind of work with `--floor`.
pub fn one(work: Work, load: &Load, gateway: &Side, report: &mut Report) -> Result<(), String> {
    let rounds = Rounds::measure(work, load, gateway, cpus()?, report)?;
    let floor = if work == Work::Connect { "floor_connect_per_s" } else { "floor_cpu_us_per_delivery" };
    report.fine(floor, median(&rounds.floor));
    report.fine("ratio_to_floor", median(&rounds.ratios));
    report.fine("ratio_to_floor_min", least(&rounds.ratios));
    report.fine("ratio_to_floor_max", most(&rounds.ratios));
    Ok(())
}

/// The floor listens on loopback, where no packet of a device's may go.
///
/// # Errors
/// The load's clients are behind a device.
pub fn over_loopback(load: &Load) -> Result<(), String> {
    match load.stack {
        Stack::Kernel => Ok(()),
        Stack::Tun => Err("the floor is measured over loopback: leave out --stack tun".to_owned()),
    }
}

/// `moor-bench ratio`: every kind of work.
pub fn ratio(load: &Load) -> Result<Verdict, String> {
    over_loopback(load)?;
    let (gateway, cpus) = (reached(load)?, cpus()?);
    let mut report = Report::default();
    for (key, work, rate, burst) in KINDS {
        eprintln!("{key}");
        let mut aside = Report::default();
        let load = Load { rate: Some(rate), burst, ..load.clone() };
        let rounds = Rounds::measure(work, &load, &gateway, cpus, &mut aside)?;
        report.inherit(aside, key);
        report.value(key, rounds.json());
    }
    report.require(&load.require);
    report.finish("ratio", load.json.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!((median(&[1.0, 2.0, 9.0]), least(&[1.0, 2.0]), most(&[1.0, 2.0])), (2.0, 1.0, 2.0));
        assert!(median(&[]).is_nan());
    }
}
