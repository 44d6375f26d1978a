//! What stands in the report beside its charts: groups of runs, their tables, the figures that matter most.

use serde_json::Value;

use super::chart::percent;
use super::read::{Outcome, plain};
use super::units::{Unit, figure};

/// Runs of the same work.
pub struct Group<'a> {
    /// Which work.
    pub subcommand: &'a str,
    /// At least one.
    pub runs: Vec<&'a Outcome>,
}

/// Groups in the order of the files.
pub fn groups(runs: &[Outcome]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group.subcommand == run.subcommand) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { subcommand: &run.subcommand, runs: vec![run] }),
        }
    }
    groups
}

/// A line of a table: a cell for each run, and for several runs of a number median, least and most.
pub struct Row {
    /// The figure's name.
    pub key: String,
    /// With units; empty where a run does not have it.
    pub cells: Vec<String>,
    /// Median, least and most; empty where all are alike.
    pub spread: String,
}

impl Row {
    /// True exactly when every run has the same.
    pub fn is_same(&self) -> bool {
        self.cells.windows(2).all(|two| two[0] == two[1])
    }
}

/// Every key of any run, in the order in which the runs first have it, with its value in each run.
fn merged<'a, T>(
    runs: &[&'a Outcome],
    of: impl Fn(&'a Outcome) -> &'a [(String, T)],
) -> Vec<(&'a str, Vec<Option<&'a T>>)> {
    let mut rows: Vec<(&str, Vec<Option<&T>>)> = Vec::new();
    // Runs are few and their keys mostly alike; a map from key to row keeps a hostile file from taking long.
    let mut places = std::collections::HashMap::new();
    for (column, run) in runs.iter().enumerate() {
        for (key, value) in of(run) {
            let row = *places.entry(key.as_str()).or_insert_with(|| {
                rows.push((key, vec![None; runs.len()]));
                rows.len() - 1
            });
            rows[row].1[column] = Some(value);
        }
    }
    rows
}

/// Every figure of a group.
pub fn figures(group: &Group<'_>) -> Vec<Row> {
    let row = |(key, values): (&str, Vec<Option<&Value>>)| {
        let numbers: Vec<f64> = values.iter().flatten().filter_map(|value| value.as_f64()).collect();
        let cells =
            values.iter().map(|value| value.map(|value| cell(key, value)).unwrap_or_default()).collect();
        let spread = if numbers.len() > 1 { spread(key, numbers) } else { String::new() };
        Row { key: key.to_owned(), cells, spread }
    };
    merged(&group.runs, |run| &run.figures).into_iter().map(row).collect()
}

/// A figure's value for a table.
pub fn cell(key: &str, value: &Value) -> String {
    value.as_f64().map_or_else(|| plain(value), |number| figure(key, number))
}

/// Median (of an even number: the upper one, as in `ratio`), least and most.
fn spread(key: &str, mut numbers: Vec<f64>) -> String {
    numbers.sort_by(f64::total_cmp);
    if numbers[0] == numbers[numbers.len() - 1] {
        return String::new();
    }
    let text = |at: usize| figure(key, numbers[at]);
    format!("{} ({} to {})", text(numbers.len() / 2), text(0), text(numbers.len() - 1))
}

/// Machine, kernel, commit, time.
pub fn place(group: &Group<'_>) -> Vec<Row> {
    texts(merged(&group.runs, |run| &run.place))
}

/// Settings of the kernel.
pub fn sysctls(group: &Group<'_>) -> Vec<Row> {
    texts(merged(&group.runs, |run| &run.sysctls))
}

fn texts(rows: Vec<(&str, Vec<Option<&String>>)>) -> Vec<Row> {
    let row = |(key, values): (&str, Vec<Option<&String>>)| Row {
        key: key.to_owned(),
        cells: values.into_iter().map(|value| value.cloned().unwrap_or_default()).collect(),
        spread: String::new(),
    };
    rows.into_iter().map(row).collect()
}

/// Percentile curves of a group, by name.
pub fn curve_names<'a>(group: &Group<'a>) -> Vec<&'a str> {
    let mut names: Vec<_> =
        group.runs.iter().flat_map(|run| run.percentiles.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The quantiles people ask for, of a curve.
pub fn percentiles(group: &Group<'_>, curve: &str) -> Vec<Row> {
    let wanted = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.999_99, 1.0];
    let at = |run: &Outcome, quantile: f64| {
        run.percentiles.get(curve)?.iter().find(|point| point.0 >= quantile).map(|point| point.1)
    };
    let row = |quantile| {
        let numbers: Vec<Option<f64>> = group.runs.iter().map(|run| at(run, quantile)).collect();
        let cells = numbers.iter().map(|us| us.map(|us| Unit::Time.text(us)).unwrap_or_default()).collect();
        let known: Vec<f64> = numbers.into_iter().flatten().collect();
        let spread = if known.len() > 1 { spread("p99", known) } else { String::new() };
        let key = if quantile >= 1.0 { "max".to_owned() } else { percent(quantile) };
        Row { key, cells, spread }
    };
    wanted.into_iter().map(row).collect()
}

/// Figures that matter most, with what they are called above a chart.
const HEADLINES: [(&str, &str); 16] = [
    ("sessions", "sessions"),
    ("lost", "lost"),
    ("delivered_per_s", "delivered"),
    ("latency_p50_us", "latency p50"),
    ("latency_p99_us", "latency p99"),
    ("latency_p999_us", "latency p99.9"),
    ("latency_max_us", "latency max"),
    ("jitter_us.p99", "the machine's own jitter, p99"),
    ("jitter_us.max", "the machine's own jitter, max"),
    ("gateway_cpu_us_per_delivery", "gateway CPU per delivery"),
    ("ratio_to_floor", "times the floor"),
    ("connect_per_s", "connections and logins"),
    ("login_p50_us", "login p50"),
    ("login_p99_us", "login p99"),
    ("gateway_user_bytes_per_session", "user memory per session"),
    ("kernel_bytes_per_session", "kernel memory per session, above a bare socket"),
];

/// Those a run has: what they are called, and what they are.
pub fn headlines(run: &Outcome) -> Vec<(&'static str, String)> {
    HEADLINES.iter().filter_map(|(key, label)| Some((*label, figure(key, run.number(key)?)))).collect()
}

/// How a run ended, in words, and whether well; none when the file does not say.
pub fn verdict(run: &Outcome) -> Option<(&'static str, bool)> {
    match run.exit_code? {
        0 => Some(("the server held", true)),
        3 => Some(("the server fell short", false)),
        4 => Some(("the harness could not keep up", false)),
        _ => Some(("ended otherwise", false)),
    }
}

/// What a subcommand measures.
pub fn meaning(subcommand: &str) -> &'static str {
    match subcommand {
        "connect" => "How fast connections are made and logged in.",
        "hold" => {
            "Sessions held with heartbeats, what each costs in memory, and a push to some of them at the end."
        }
        "ping" => "Echo from client to gateway and back, at a fixed rate.",
        "push" => "Messages to random sessions through the internal port, at a fixed rate.",
        "fanout" => "One message to every session, again and again.",
        "ratio" => {
            "What the gateway costs as a multiple of the floor, a bare server without protocol and state; measured in turn."
        }
        "storm" => "Everybody comes back at once.",
        "mixed" => "Several kinds of load at the same time.",
        "" => "Figures of another tool of the project.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::read::{Document, parse};

    fn run(name: &str, text: &str) -> Outcome {
        match parse(text, name.to_owned()).unwrap() {
            Document::Run(run) => *run,
            Document::Compare { .. } => panic!("a run"),
        }
    }

    #[test]
    fn runs_of_the_same_work_stand_side_by_side_with_their_median_and_nothing_is_dropped() {
        let runs = [
            run("a", r#"{"subcommand":"push","p99":100,"only_a":"x","odd":[1,{"y":2}]}"#),
            run("b", r#"{"subcommand":"push","p99":3000,"nested":{"deep":{"count":5}}}"#),
            run("c", r#"{"subcommand":"push","p99":200}"#),
            run("d", r#"{"subcommand":"hold"}"#),
        ];
        let groups = groups(&runs);
        assert_eq!(
            groups.iter().map(|g| (g.subcommand, g.runs.len())).collect::<Vec<_>>(),
            [("push", 3), ("hold", 1)]
        );
        let rows = figures(&groups[0]);
        let row = |key: &str| rows.iter().find(|row| row.key == key).unwrap();
        assert_eq!(row("p99").cells, ["100 µs", "3 ms", "200 µs"]);
        assert_eq!(row("p99").spread, "200 µs (100 µs to 3 ms)");
        assert_eq!(row("only_a").cells, ["x", "", ""]);
        assert_eq!(row("odd").cells[0], r#"[1,{"y":2}]"#);
        assert_eq!(row("nested.deep.count").cells, ["", "5", ""]);
    }

    #[test]
    fn percentiles_are_taken_from_the_curve() {
        let runs = [run(
            "a",
            r#"{"subcommand":"ping","percentiles":{"latency":[[0,1],[0.5,10],[0.99,500],[1,2000]]}}"#,
        )];
        let groups = groups(&runs);
        assert_eq!(curve_names(&groups[0]), ["latency"]);
        let rows = percentiles(&groups[0], "latency");
        let cells: Vec<_> = rows.iter().map(|row| (row.key.as_str(), row.cells[0].as_str())).collect();
        assert_eq!(cells[0], ("50%", "10 µs"));
        assert_eq!(cells[4], ("99%", "500 µs"));
        assert_eq!(*cells.last().unwrap(), ("max", "2 ms"));
    }
}
