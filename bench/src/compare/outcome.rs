//! What was found out: collected over the rounds, judged, shown, written.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::arguments::CompareArguments;
use super::peers::{Found, GATEWAY, GATEWAYS, OWN, Peer, Place, Source};
use super::trial::{Cost, Trial};
use crate::memory::kernel_release;
use crate::report::Verdict;

/// How late the harness's own sends may be at the 99th percentile, microseconds. Judged by the floor and the gateway,
/// which take what they are sent.
const LATE_P99_US_MAX: u64 = 20_000;

/// The longest error that is shown, bytes: some servers explain themselves at length.
const ERROR_BYTES_MAX: usize = 200;

/// A figure of every round: its name in JSON, in words, and where it is.
type Figure = (&'static str, &'static str, fn(&Trial) -> f64);

/// Those a server is judged by; less is better.
const JUDGED: [Figure; 5] = [
    ("push_cpu_s_per_million", "push", |trial| trial.push.us_per_delivery),
    ("fanout_cpu_s_per_million", "fan-out", |trial| trial.fanout.us_per_delivery),
    ("fanout_merged_cpu_s_per_million", "merged fan-out", |trial| trial.merged.us_per_delivery),
    ("idle_user_bytes", "idle memory", |trial| trial.idle_bytes),
    ("p99_us", "p99 of a push", |trial| count(trial.push_p99_us)),
];

/// The others.
const MORE: [Figure; 5] = [
    ("deliveries_per_cpu_s", "", |trial| per_cpu_s(trial.push)),
    ("fanout_per_cpu_s", "", |trial| per_cpu_s(trial.fanout)),
    ("fanout_merged_per_cpu_s", "", |trial| per_cpu_s(trial.merged)),
    ("p50_us", "", |trial| count(trial.push_p50_us)),
    ("sends_late_p99_us", "", |trial| count(trial.late_p99_us)),
];

fn per_cpu_s(cost: Cost) -> f64 {
    if cost.us_per_delivery > 0.0 { 1e6 / cost.us_per_delivery } else { 0.0 }
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
const fn count(value: u64) -> f64 {
    value as f64
}

/// Median, least and most of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.len() % 2, values.get(middle)?) {
            (0, above) => f64::midpoint(values[middle - 1], *above),
            (_, middle) => *middle,
        };
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }

    fn overlaps(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// What is common to all systems of a run.
pub struct Run<'a> {
    /// What was asked for.
    pub arguments: &'a CompareArguments,
    /// The servers' processor.
    pub server_cpu: usize,
    /// The harness's.
    pub own_cpu: usize,
}

/// What was found out about a system.
pub struct Outcome {
    name: &'static str,
    protocol: &'static str,
    guarantee: &'static str,
    version: String,
    configuration: Vec<String>,
    trials: Vec<Trial>,
    shortcomings: Vec<String>,
    /// Why it could not be measured, the first time.
    unavailable: Option<String>,
    jitter_us_max: u64,
}

impl Outcome {
    /// Nothing yet; of one that is not installed, how to install it.
    pub fn new(peer: &Peer, found: Option<&Found>, directory: &Path, connections: u32) -> Self {
        let unavailable = found.is_none().then(|| {
            let what = if peer.source == Source::Workspace { "built" } else { "installed" };
            format!("not {what}: {}", peer.source.command(directory).join(" "))
        });
        Self {
            name: peer.name,
            protocol: peer.dialect.name(),
            guarantee: peer.guarantee,
            version: found.map_or_else(String::new, |found| found.version.clone()),
            configuration: found.map_or_else(Vec::new, |found| configuration(peer, found, connections)),
            trials: Vec::new(),
            shortcomings: Vec::new(),
            unavailable,
            jitter_us_max: 0,
        }
    }

    /// Its processor was taken away for so long.
    pub fn note_jitter(&mut self, longest_us: u64) {
        self.jitter_us_max = self.jitter_us_max.max(longest_us);
    }

    /// A round is over.
    pub fn note(&mut self, round: u32, trial: Result<Trial, String>) {
        let said = match trial {
            Ok(trial) => {
                let said = trial.shortcomings.clone();
                self.trials.push(trial);
                said
            }
            Err(mut error) => {
                while error.len() > ERROR_BYTES_MAX {
                    error.pop();
                }
                self.unavailable.get_or_insert_with(|| error.clone());
                vec![error]
            }
        };
        self.shortcomings.extend(said.into_iter().map(|text| format!("round {round}: {text}")));
    }

    fn spread(&self, figure: &Figure) -> Option<Spread> {
        Spread::of(self.trials.iter().map(figure.2).collect())
    }

    /// The yardstick or the gateway, no peer.
    fn is_own(&self) -> bool {
        OWN.iter().any(|own| own.name == self.name)
    }

    /// Why it has no row.
    fn absent(&self) -> Option<&str> {
        if self.trials.is_empty() { Some(self.unavailable.as_deref().unwrap_or("no round")) } else { None }
    }
}

/// Command and files as they are for a place that stands for any.
fn configuration(peer: &Peer, found: &Found, connections: u32) -> Vec<String> {
    let place = Place { directory: "DIR".into(), cpu: 0, connections, ports: [1, 2, 3, 4, 5] };
    let plan = (peer.plan)(found, &place);
    let line = |program: &Path, arguments: &[String]| {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", arguments.join(" "))
    };
    let mut lines = vec![line(&found.program, &plan.arguments)];
    lines.extend(plan.companion.iter().map(|(program, arguments)| line(program, arguments)));
    for (name, text) in plan.files {
        // Scripts are in the source; a configuration is a few lines.
        if Path::new(name).extension().is_some_and(|kind| kind == "js" || kind == "cjs") {
            lines.push(format!("{name}: bench/src/compare/peers/{name}"));
        } else {
            lines.push(format!("{name}: {}", text.lines().collect::<Vec<_>>().join("; ")));
        }
    }
    lines
}

/// Where a peer's median is better than one of ours, or how far it is behind at best; a line for each figure.
fn judge(outcomes: &[Outcome], ours: &str) -> Vec<(bool, String)> {
    let Some(own) = outcomes.iter().find(|outcome| outcome.name == ours) else { return Vec::new() };
    let peers = || outcomes.iter().filter(|outcome| !outcome.is_own());
    let line = |figure: &Figure| {
        let mine = own.spread(figure)?;
        let mut others: Vec<_> =
            peers().filter_map(|peer| peer.spread(figure).map(|theirs| (peer.name, theirs))).collect();
        others.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
        let (_, best) = others.first()?;
        let ahead: Vec<_> = others
            .iter()
            .filter(|(_, theirs)| theirs.median < mine.median)
            .map(|(name, theirs)| {
                let unsure = if theirs.overlaps(mine) { ", rounds overlap" } else { "" };
                format!("{name} ({:.1} against {:.1}{unsure})", theirs.median, mine.median)
            })
            .collect();
        let text = if ahead.is_empty() {
            let unsure = if best.overlaps(mine) { "; rounds overlap" } else { "" };
            let share = mine.median / best.median;
            format!("{ours} takes {share:.2} of what the best peer, {}, takes{unsure}", others[0].0)
        } else {
            format!("AHEAD OF {ours}: {}", ahead.join(", "))
        };
        Some((!ahead.is_empty(), format!("{:<15} {text}", figure.1)))
    };
    JUDGED.iter().filter_map(line).collect()
}

/// The table, the verdicts, the configurations.
pub fn show(outcomes: &[Outcome], run: &Run<'_>) {
    let load = &run.arguments.load;
    println!(
        "moor-bench compare: {} clients ({} idle), {} bytes, {} deliveries/s, {} s each, median of {} rounds; servers on processor {}, harness on {}",
        load.connections,
        load.idle,
        load.bytes,
        load.rate,
        load.seconds,
        run.arguments.repeat,
        run.server_cpu,
        run.own_cpu
    );
    println!(
        "{:<10} {:<22} {:^35} {:>9} {:>9}",
        "", "", "CPU-s per million deliveries", "B/idle", "push p99"
    );
    let merged = format!("{} at once", load.burst);
    println!(
        "{:<10} {:<22} {:>11} {:>11} {merged:>11} {:>9} {:>9}",
        "system", "version", "push", "fan-out", "client", "ms"
    );
    for outcome in outcomes {
        if let Some(why) = outcome.absent() {
            println!("{:<10} {why}", outcome.name);
            continue;
        }
        let figures: Vec<f64> =
            JUDGED.iter().map(|figure| outcome.spread(figure).map_or(f64::NAN, |s| s.median)).collect();
        if let [push, fanout, merged, idle, p99] = figures[..] {
            let (version, p99) = (&outcome.version, p99 / 1000.0);
            let mark = if outcome.shortcomings.is_empty() { "" } else { " *" };
            println!(
                "{:<10} {version:<22} {push:>11.2} {fanout:>11.2} {merged:>11.2} {idle:>9.0} {p99:>9.2}{mark}",
                outcome.name
            );
        }
    }
    for outcome in outcomes {
        for text in &outcome.shortcomings {
            println!("* {}: {text}", outcome.name);
        }
    }
    println!();
    for ours in GATEWAYS {
        for (_, line) in judge(outcomes, ours) {
            println!("{line}");
        }
    }
    println!("\nguarantee and configuration (DIR is a directory of its own, the ports are examples):");
    for outcome in outcomes.iter().filter(|outcome| outcome.absent().is_none()) {
        println!("{} ({}): {}", outcome.name, outcome.protocol, outcome.guarantee);
        for line in &outcome.configuration {
            println!("    {line}");
        }
    }
}

/// How it ended.
pub fn verdict(outcomes: &[Outcome], ahead_wanted: bool) -> Verdict {
    let own = || outcomes.iter().filter(|outcome| outcome.is_own());
    let late = own().flat_map(|outcome| &outcome.trials).map(|trial| trial.late_p99_us).max().unwrap_or(0);
    let short = own().any(|outcome| !outcome.shortcomings.is_empty());
    if late > LATE_P99_US_MAX {
        println!("The harness could not keep up: its sends were {late} µs late at the 99th percentile.");
        Verdict::HarnessShort
    } else if short || (ahead_wanted && judge(outcomes, GATEWAY).iter().any(|(ahead, _)| *ahead)) {
        Verdict::FellShort
    } else {
        Verdict::Held
    }
}

/// The list; see [`super::FORMAT`].
pub fn json(outcomes: &[Outcome], run: &Run<'_>) -> Value {
    let unavailable: Map<String, Value> = outcomes
        .iter()
        .filter_map(|outcome| Some((outcome.name.to_owned(), json!(outcome.absent()?))))
        .collect();
    let load = &run.arguments.load;
    let common = json!({
        "connections": load.connections,
        "idle": load.idle,
        "bytes": load.bytes,
        "rate": load.rate,
        "burst": load.burst,
        "seconds": load.seconds,
        "repeat": run.arguments.repeat,
        "server_cpu": run.server_cpu,
        "harness_cpu": run.own_cpu,
        "kernel": kernel_release(),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        "unavailable": unavailable,
    });
    let entry = |outcome: &Outcome| {
        let mut entry = Map::new();
        let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
        put("system", json!(outcome.name));
        put("version", json!(outcome.version));
        for figure in JUDGED.iter().chain(&MORE) {
            let Some(spread) = outcome.spread(figure) else { continue };
            let fine = |value: f64| json!((value * 1000.0).round() / 1000.0);
            put(figure.0, fine(spread.median));
            put(&format!("{}_min", figure.0), fine(spread.min));
            put(&format!("{}_max", figure.0), fine(spread.max));
        }
        put("protocol", json!(outcome.protocol));
        put("guarantee", json!(outcome.guarantee));
        put("configuration", json!(outcome.configuration));
        put("jitter_us_max", json!(outcome.jitter_us_max));
        put("rounds", json!(outcome.trials.len()));
        put("connections", json!(outcome.trials.iter().map(|trial| trial.connections).min()));
        put("shortcomings", json!(outcome.shortcomings));
        put("run", common.clone());
        Value::Object(entry)
    };
    outcomes.iter().filter(|outcome| outcome.absent().is_none()).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peers::PEERS;

    fn trial(us: f64, idle_bytes: f64) -> Trial {
        let cost = Cost { us_per_delivery: us, sent: 10, arrived: 10 };
        Trial {
            connections: 10,
            idle_bytes,
            push: cost,
            fanout: cost,
            merged: cost,
            push_p50_us: 100,
            push_p99_us: 200,
            late_p99_us: 5,
            shortcomings: Vec::new(),
        }
    }

    fn outcome(name: &str, rounds: &[(f64, f64)]) -> Outcome {
        let peer = OWN.into_iter().chain(PEERS).find(|peer| peer.name == name).unwrap();
        let found = Found { program: "/x/program".into(), version: "1".to_owned(), library: None };
        let mut outcome = Outcome::new(peer, Some(&found), Path::new("/d"), 10);
        for (round, (us, idle)) in (1..).zip(rounds) {
            outcome.note(round, Ok(trial(*us, *idle)));
        }
        outcome
    }

    #[test]
    fn a_peer_that_is_ahead_is_named_and_the_floor_is_none() {
        let own = || outcome("moor", &[(5.0, 100.0), (5.1, 100.0), (5.2, 100.0)]);
        let peers = [outcome("floor", &[(1.0, 1.0)]), own(), outcome("redis", &[(4.0, 1000.0)])];
        let lines = judge(&peers, GATEWAY);
        assert_eq!(
            lines.iter().map(|(ahead, _)| *ahead).collect::<Vec<_>>(),
            [true, true, true, false, false]
        );
        assert!(lines[0].1.contains("redis (4.0 against 5.1)"), "{}", lines[0].1);
        assert!(lines[3].1.contains("takes 0.10 of what the best peer, redis"), "{}", lines[3].1);
        assert_eq!(verdict(&peers, true), Verdict::FellShort);
        assert_eq!(verdict(&peers, false), Verdict::Held);
        let close = [own(), outcome("nats", &[(5.0, 1.0), (5.3, 1.0)])];
        assert!(judge(&close, GATEWAY)[0].1.contains("rounds overlap"), "{}", judge(&close, GATEWAY)[0].1);
    }

    #[test]
    fn the_list_has_the_documented_keys_and_says_what_is_left_out() {
        let mut failed = outcome("nats", &[]);
        failed.note(1, Err("it ended at once".to_owned()));
        let missing = Outcome::new(PEERS[0], None, Path::new("/d"), 10);
        let arguments = <crate::args::Arguments as clap::Parser>::parse_from(["moor-bench", "compare"]);
        let crate::args::Sub::Compare(arguments) = &arguments.subcommand else { unreachable!() };
        let run = Run { arguments, server_cpu: 0, own_cpu: 1 };
        let list = json(&[outcome("moor", &[(5.0, 100.0), (4.0, 120.0)]), failed, missing], &run);
        assert_eq!(list.as_array().map(Vec::len), Some(1));
        let entry = &list[0];
        for (key, value) in [
            ("deliveries_per_cpu_s", 225_000.0),
            ("fanout_per_cpu_s_min", 200_000.0),
            ("fanout_merged_per_cpu_s_max", 250_000.0),
            ("idle_user_bytes", 110.0),
            ("p99_us", 200.0),
            ("push_cpu_s_per_million", 4.5),
        ] {
            assert_eq!(entry[key].as_f64(), Some(value), "{key}");
        }
        assert_eq!(entry["run"]["unavailable"]["nats"], "it ended at once");
        let how = entry["run"]["unavailable"]["mosquitto"].as_str().unwrap();
        assert!(how.contains("not installed: apt-get install") && how.ends_with("mosquitto"), "{how}");
        for key in entry.as_object().unwrap().keys() {
            let plain = key.trim_end_matches("_min").trim_end_matches("_max");
            assert!(crate::compare::FORMAT.contains(plain), "{key} is not documented");
        }
    }
}
