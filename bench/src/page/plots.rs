//! Which curves and bars come out of which results.

use super::bars::{Bar, Bars};
use super::chart::{Across, Line, Lines};
use super::read::{Outcome, System};
use super::summary::{Group, curve_names};
use super::units::Unit;

/// Connections from which on memory is divided by them, as a part of the most there were.
const ENOUGH_CONNECTED: f64 = 0.1;
/// The zero line of memory was read with fewer than this part of them.
const NONE_CONNECTED: f64 = 0.01;

/// Percentile curves, one chart for each kind of latency.
pub fn percentiles(group: &Group<'_>) -> Vec<Lines> {
    let chart = |name: &str| Lines {
        title: match name {
            "latency" => "Latency by percentile".to_owned(),
            "login" => "Login time by percentile".to_owned(),
            other => format!("{other} by percentile"),
        },
        note: match name {
            "latency" => {
                "From the moment a message should have been sent: waiting of the harness counts.".to_owned()
            }
            "login" => "From the start of the connect to the answer to the login.".to_owned(),
            _ => String::new(),
        },
        across: Across::Quantile,
        unit: Unit::Time,
        lines: lines(group, |run| run.percentiles.get(name).cloned().unwrap_or_default()),
        phases: Vec::new(),
    };
    curve_names(group).into_iter().map(chart).collect()
}

fn lines(group: &Group<'_>, points: impl Fn(&Outcome) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |run: &&Outcome| Line { label: run.name.clone(), points: points(run) };
    group.runs.iter().map(line).collect()
}

/// Curves over time, those everybody looks for first, then whatever else the samples have.
pub fn over_time(group: &Group<'_>) -> Vec<Lines> {
    let known = ["connected", "lost", "delivered_per_s", "p99_us", "user_bytes", "kernel_slab_bytes"];
    let mut others: Vec<&str> =
        group.runs.iter().flat_map(|run| run.over_time.keys().map(String::as_str)).collect();
    others.retain(|key| !known.contains(key));
    others.sort_unstable();
    others.dedup();
    let phases = if let [run] = group.runs.as_slice() { run.phases.clone() } else { Vec::new() };
    let chart = |title: &str, note: &str, unit: Unit, lines: Vec<Line>| Lines {
        title: title.to_owned(),
        note: note.to_owned(),
        across: Across::Time,
        unit,
        lines,
        phases: phases.clone(),
    };
    let plain = |key: &str| {
        let (unit, factor) = Unit::of(key);
        let scaled = |run: &Outcome| {
            run.over_time.get(key).into_iter().flatten().map(|point| (point.0, point.1 * factor)).collect()
        };
        (unit, lines(group, scaled))
    };
    let named = |key: &str, title: &str, note: &str| {
        let (unit, lines) = plain(key);
        chart(title, note, unit, lines)
    };
    let mut charts = vec![
        named("connected", "Connected", "Connections logged in and not lost."),
        named(
            "delivered_per_s",
            "Delivered",
            "Measured messages that arrived; none before the measured time.",
        ),
        named("p99_us", "99th percentile of each second", "Logins while they go on, messages afterwards."),
        chart(
            "User memory per session",
            "Growth of the gateway's resident memory since nobody was connected, divided by the sessions.",
            Unit::Bytes,
            lines(group, |run| per_session(run, "user_bytes")),
        ),
        chart(
            "Kernel memory per session",
            "Growth of the host's slab and TCP memory, likewise; a client on the same host is in it, and whatever else runs there moves it.",
            Unit::Bytes,
            lines(group, |run| per_session(run, "kernel_slab_bytes")),
        ),
        named("user_bytes", "User memory", "Resident memory of the gateway."),
        named("kernel_slab_bytes", "Kernel memory", "Slab objects and TCP's pages of the whole host."),
        named("lost", "Lost", "Connections lost so far."),
    ];
    charts.extend(others.into_iter().map(|key| named(key, key, "")));
    // A curve of nothing but zeros says what the table says already.
    charts.retain(|chart| {
        !chart.is_empty() && chart.lines.iter().any(|line| line.points.iter().any(|point| point.1 != 0.0))
    });
    charts
}

/// Memory above that of the first sample, divided by the sessions of each moment.
fn per_session(run: &Outcome, key: &str) -> Vec<(f64, f64)> {
    let (Some(memory), Some(connected)) = (run.over_time.get(key), run.over_time.get("connected")) else {
        return Vec::new();
    };
    let most = connected.iter().fold(0.0, |most: f64, point| most.max(point.1));
    let (Some(zero), Some(first)) = (memory.first(), connected.first()) else { return Vec::new() };
    if most <= 0.0 || first.1 > most * NONE_CONNECTED || zero.0 != first.0 {
        return Vec::new();
    }
    let channels = run.number("channels_per_connection").unwrap_or(1.0).max(1.0);
    let mut counts = connected.iter().peekable();
    let mut now = first.1;
    let mut out = Vec::new();
    for (t_s, bytes) in memory {
        while let Some(count) = counts.next_if(|count| count.0 <= *t_s) {
            now = count.1;
        }
        if now >= most * ENOUGH_CONNECTED {
            out.push((*t_s, (bytes - zero.1) / (now * channels)));
        }
    }
    out
}

/// Bars that put a group's runs side by side.
pub fn bars(group: &Group<'_>) -> Vec<Bars> {
    let stacked = |title: &str, note: &str, unit, parts: &[(&'static str, &str)]| {
        let bar = |run: &&Outcome| {
            let parts: Option<Vec<f64>> = parts.iter().map(|(_, key)| run.number(key)).collect();
            parts.map(|parts| Bar { label: run.name.clone(), parts, spread: None })
        };
        Bars {
            title: title.to_owned(),
            note: note.to_owned(),
            unit,
            parts: parts.iter().map(|(name, _)| *name).collect(),
            bars: group.runs.iter().filter_map(bar).collect(),
            mark: None,
        }
    };
    let mut all = vec![
        stacked(
            "Gateway CPU per delivery",
            "In the program and in the kernel on its behalf.",
            Unit::Time,
            &[("user", "gateway_user_cpu_us_per_delivery"), ("system", "gateway_system_cpu_us_per_delivery")],
        ),
        stacked(
            "Memory per session",
            "The gateway's own, and the kernel's above a bare connection.",
            Unit::Bytes,
            &[("user", "gateway_user_bytes_per_session"), ("kernel", "kernel_bytes_per_session")],
        ),
    ];
    for run in &group.runs {
        all.push(rounds(run, group.runs.len() > 1));
    }
    all.retain(|bars| !bars.bars.is_empty());
    all
}

/// Figures of a run that have median, least and most.
fn rounds(run: &Outcome, named: bool) -> Bars {
    let bar = |key: &str| {
        let part = |part: &str| run.number(&format!("{key}.{part}"));
        let spread = Some((part("min")?, part("max")?));
        Some(Bar {
            label: key.replace("_vs_floor", "").replace('_', " "),
            parts: vec![part("median")?],
            spread,
        })
    };
    let ratio = run.subcommand == "ratio";
    let title = if ratio { "Times the floor" } else { "Rounds" };
    let note = if ratio {
        "Median of the rounds, with least and most. CPU per delivery: less is better; connect is a rate: more is better."
    } else {
        "Median, with least and most."
    };
    Bars {
        title: if named { format!("{title}: {}", run.name) } else { title.to_owned() },
        note: note.to_owned(),
        unit: Unit::Plain,
        parts: Vec::new(),
        bars: run.figures.iter().filter_map(|(key, _)| key.strip_suffix(".median")).filter_map(bar).collect(),
        mark: ratio.then_some(1.0),
    }
}

/// Figures of compared systems, one chart for each that is a number.
pub fn compared(systems: &[System]) -> Vec<Bars> {
    let known = [
        ("deliveries_per_cpu_s", "Deliveries per second of CPU", "More is better."),
        ("fanout_per_cpu_s", "Fan-out deliveries per second of CPU", "More is better."),
        ("idle_user_bytes", "User memory of an idle session", "Less is better."),
        ("p99_us", "Latency, 99th percentile", "Less is better."),
    ];
    let mut keys: Vec<(String, String, &str)> =
        known.map(|(key, title, note)| (key.to_owned(), title.to_owned(), note)).into();
    for (key, value) in systems.iter().flat_map(|system| &system.figures) {
        if value.is_number() && keys.len() < 24 && keys.iter().all(|(known, ..)| known != key) {
            keys.push((key.clone(), key.clone(), ""));
        }
    }
    let chart = |(key, title, note): (String, String, &str)| {
        let (unit, factor) = Unit::of(&key);
        let bar = |system: &System| {
            let value = system.figures.iter().find(|(name, _)| *name == key)?.1.as_f64()?;
            Some(Bar { label: system.name.clone(), parts: vec![value * factor], spread: None })
        };
        let bars = systems.iter().filter_map(bar).collect();
        Bars { title, note: note.to_owned(), unit, parts: Vec::new(), bars, mark: None }
    };
    keys.into_iter().map(chart).filter(|bars| !bars.bars.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_per_session_counts_from_before_the_first_and_not_while_too_few_are_there() {
        let mut run = Outcome::default();
        run.over_time.insert("connected".into(), vec![(0.0, 0.0), (1.0, 5.0), (2.0, 100.0), (3.0, 50.0)]);
        run.over_time.insert("user_bytes".into(), vec![(0.0, 1e6), (1.0, 2e6), (2.0, 1.1e6), (3.0, 1.1e6)]);
        assert_eq!(per_session(&run, "user_bytes"), [(2.0, 1000.0), (3.0, 2000.0)]);
        run.figures.push(("channels_per_connection".into(), 2.into()));
        assert_eq!(per_session(&run, "user_bytes"), [(2.0, 500.0), (3.0, 1000.0)]);
        run.over_time.insert("connected".into(), vec![(0.0, 90.0), (2.0, 100.0)]);
        assert_eq!(per_session(&run, "user_bytes"), []);
    }
}
