//! Figures: collected, judged, shown, written.

use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::args::Bound;
use crate::environment;
use crate::memory::kernel_release;

/// Points of a percentile curve: closer together towards the end, as HdrHistogram plots them.
const QUANTILES: [f64; 32] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.98, 0.985, 0.99,
    0.9925, 0.995, 0.9975, 0.998, 0.999, 0.9995, 0.999_75, 0.9999, 0.999_95, 0.999_975, 0.999_99, 0.999_995,
    0.999_999, 1.0,
];

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server held.
    Held,
    /// It fell short of what was asked or of a bound.
    FellShort,
    /// The harness was the bottleneck.
    HarnessShort,
}

impl Verdict {
    /// The process's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::FellShort => 3,
            Self::HarnessShort => 4,
        }
    }
}

/// Figures by name, in the order they were found.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<(&'static str, Value)>,
    /// Written to the file and not shown: curves.
    details: Vec<(&'static str, Value)>,
    shortcomings: Vec<String>,
    /// Why the harness itself could not keep up.
    harness: Option<String>,
    /// Of figures that are the middle of several rounds: the least and the most.
    spread: Map<String, Value>,
}

impl Report {
    /// Several rounds of the same as one: every number is the middle one of the rounds that have it, everything else
    /// and the curves are the last round's.
    pub fn middle(rounds: Vec<Self>) -> Self {
        let count = rounds.len();
        let mut all = Self::default();
        let mut seen: Vec<(&'static str, Vec<Value>)> = Vec::new();
        for (round, report) in rounds.into_iter().enumerate() {
            for (key, value) in report.figures {
                match seen.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, values)) => values.push(value),
                    None => seen.push((key, vec![value])),
                }
            }
            all.details = report.details;
            all.harness = all.harness.or(report.harness);
            all.shortcomings
                .extend(report.shortcomings.into_iter().map(|text| format!("round {}: {text}", round + 1)));
        }
        for (key, mut values) in seen {
            let last = values.last().cloned().unwrap_or_default();
            if values.len() == count && values.iter().all(Value::is_number) {
                let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
                values.sort_by(|a, b| number(a).total_cmp(&number(b)));
                let (least, most) = (values[0].clone(), values[count - 1].clone());
                all.spread.insert(key.to_owned(), json!([least, most]));
                all.figures.push((key, values[count / 2].clone()));
            } else {
                all.figures.push((key, last));
            }
        }
        all
    }

    /// A whole number.
    pub fn count(&mut self, key: &'static str, value: u64) {
        self.figures.push((key, json!(value)));
    }

    /// A number with one decimal.
    pub fn number(&mut self, key: &'static str, value: f64) {
        self.figures.push((key, json!((value * 10.0).round() / 10.0)));
    }

    /// A number with three decimals.
    pub fn fine(&mut self, key: &'static str, value: f64) {
        self.figures.push((key, json!((value * 1000.0).round() / 1000.0)));
    }

    /// A figure that is there.
    pub fn figure(&self, key: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == key).and_then(|(_, value)| value.as_f64())
    }

    /// Anything else.
    pub fn value(&mut self, key: &'static str, value: Value) {
        self.figures.push((key, value));
    }

    /// What only the file gets.
    pub fn detail(&mut self, key: &'static str, value: Value) {
        self.details.push((key, value));
    }

    /// Percentiles of a latency, microseconds, under the two sets of names.
    pub fn latency(&mut self, latency: &Histogram<u64>) {
        self.count("latency_p50_us", latency.value_at_quantile(0.5));
        for (names, quantile) in [(["latency_p99_us", "p99"], 0.99), (["latency_p999_us", "p999"], 0.999)] {
            for name in names {
                self.count(name, latency.value_at_quantile(quantile));
            }
        }
        self.count("latency_max_us", latency.max());
    }

    /// Something the server should have done.
    pub fn shortcoming(&mut self, text: String) {
        self.shortcomings.push(text);
    }

    /// The harness was the bottleneck.
    pub fn harness_short(&mut self, text: String) {
        self.harness = Some(text);
    }

    /// Takes over what went wrong in another run, not its figures.
    pub fn inherit(&mut self, other: Self, run: &str) {
        self.shortcomings.extend(other.shortcomings.into_iter().map(|text| format!("{run}: {text}")));
        let harness = other.harness.map(|text| format!("{run}: {text}"));
        self.harness = self.harness.take().or(harness);
    }

    /// Likewise, of the yardstick: that it fell short says nothing about the server.
    pub fn inherit_yardstick(&mut self, other: Self, run: &str) {
        let short = other.harness.or_else(|| other.shortcomings.into_iter().next());
        self.harness = self.harness.take().or(short.map(|text| format!("{run}: {text}")));
    }

    /// Judges the bounds.
    pub fn require(&mut self, bounds: &[Bound]) {
        for bound in bounds {
            let found = self.figures.iter().find(|(key, _)| *key == bound.key);
            // Of several rounds the middle one counts.
            let figure = found.and_then(|(_, value)| value.as_f64().or_else(|| value["median"].as_f64()));
            let sign = if bound.at_most { "<=" } else { ">=" };
            match figure {
                Some(figure) if bound.holds(figure) => {}
                Some(figure) => {
                    self.shortcomings
                        .push(format!("{} is {figure}, required {sign} {}", bound.key, bound.value));
                }
                None => self.shortcomings.push(format!("{} was required and not measured", bound.key)),
            }
        }
    }

    /// Prints the table, writes the file, says how it ended.
    pub fn finish(self, subcommand: &str, json: Option<&Path>) -> Result<Verdict, String> {
        println!("moor-bench {subcommand}");
        for (key, value) in &self.figures {
            let spread =
                self.spread.get(*key).map_or_else(String::new, |of| format!("  ({} to {})", of[0], of[1]));
            println!("  {key:<42} {:>16}{spread}", value.to_string());
        }
        for text in &self.shortcomings {
            println!("The server fell short: {text}");
        }
        let verdict = match (&self.harness, self.shortcomings.is_empty()) {
            (Some(why), _) => {
                println!("The harness could not keep up, so this says little about the server: {why}");
                Verdict::HarnessShort
            }
            (None, true) => {
                println!("The server held.");
                Verdict::Held
            }
            (None, false) => Verdict::FellShort,
        };
        if let Some(path) = json {
            let all = self.figures.into_iter().chain(self.details);
            let mut object: Map<String, Value> = all.map(|(key, value)| (key.to_owned(), value)).collect();
            environment::describe(&mut object);
            if !self.spread.is_empty() {
                object.insert("spread".to_owned(), Value::Object(self.spread));
            }
            object.insert("subcommand".to_owned(), json!(subcommand));
            object.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
            object.insert("kernel".to_owned(), json!(kernel_release()));
            object.insert(
                "cpus".to_owned(),
                json!(std::thread::available_parallelism().map_or(0, usize::from)),
            );
            object
                .insert("command".to_owned(), json!(std::env::args().skip(1).collect::<Vec<_>>().join(" ")));
            object.insert("exit_code".to_owned(), json!(verdict.exit_code()));
            object.insert("shortcomings".to_owned(), json!(self.shortcomings));
            object.insert("harness_short".to_owned(), json!(self.harness));
            let text = format!("{:#}\n", Value::Object(object));
            std::fs::write(path, text)
                .map_err(|error| format!("cannot write {} ({error})", path.display()))?;
        }
        Ok(verdict)
    }
}

/// `[[quantile, microseconds], …]`, rising; nothing of an empty histogram.
pub fn percentiles(latency: &Histogram<u64>) -> Value {
    let points: &[f64] = if latency.is_empty() { &[] } else { &QUANTILES };
    points.iter().map(|quantile| json!([quantile, latency.value_at_quantile(*quantile)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::histogram;

    #[test]
    fn percentiles_rise_from_the_least_to_the_most() {
        let mut latency = histogram();
        assert_eq!(percentiles(&latency), json!([]));
        (1..=200_000_u64).for_each(|value| latency.saturating_record(value * 7919 % 100_003 + 50));
        let Value::Array(points) = percentiles(&latency) else { panic!("a list") };
        let points: Vec<_> =
            points.iter().map(|p| (p[0].as_f64().unwrap(), p[1].as_u64().unwrap())).collect();
        assert!(points.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1), "{points:?}");
        assert_eq!(points[0], (0.0, latency.min()));
        assert_eq!(*points.last().unwrap(), (1.0, latency.value_at_quantile(1.0)));
        for quantile in [0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 0.99999] {
            assert!(points.contains(&(quantile, latency.value_at_quantile(quantile))), "{quantile}");
        }
    }

    #[test]
    fn of_several_rounds_the_middle_is_told_with_least_and_most_and_what_went_wrong_in_each() {
        let round = |value: f64, weighed: Option<u64>| {
            let mut report = Report::default();
            report.number("p99", value);
            report.value("jitter_us", json!({ "max": value }));
            weighed.into_iter().for_each(|bytes| report.count("bytes", bytes));
            report
        };
        let mut bad = round(9.0, None);
        bad.shortcoming("one was lost".to_owned());
        let all = Report::middle(vec![round(5.0, Some(150)), bad, round(2.0, None)]);
        assert_eq!(
            all.figures,
            [("p99", json!(5.0)), ("jitter_us", json!({ "max": 2.0 })), ("bytes", json!(150))]
        );
        assert_eq!(
            Value::Object(all.spread.clone()),
            json!({ "p99": [2.0, 9.0] }),
            "what was weighed once has none"
        );
        assert_eq!(all.shortcomings, ["round 2: one was lost"]);
    }

    #[test]
    fn a_broken_bound_is_a_shortcoming_and_a_slow_harness_says_nothing_of_the_server() {
        let mut report = Report::default();
        report.number("kernel_bytes_per_session", 280.04);
        report.require(&["kernel_bytes_per_session<=300".parse().unwrap()]);
        assert!(report.shortcomings.is_empty());
        report.require(&["kernel_bytes_per_session<=200".parse().unwrap(), "unknown<=1".parse().unwrap()]);
        assert_eq!(report.shortcomings.len(), 2);
        assert_eq!(Report { figures: Vec::new(), ..report }.finish("test", None), Ok(Verdict::FellShort));
        let slow = || Report { harness: Some("late".to_owned()), ..Report::default() };
        assert_eq!(slow().finish("test", None), Ok(Verdict::HarnessShort));
        // What another run is blamed for keeps its name; a floor that falls short is no fault of the server's.
        let bad = || {
            let mut bad = Report::default();
            bad.shortcoming("one was lost".to_owned());
            bad
        };
        let mut all = Report::default();
        all.inherit(bad(), "round 1");
        all.inherit(slow(), "round 2");
        assert_eq!(
            (all.shortcomings, all.harness),
            (vec!["round 1: one was lost".into()], Some("round 2: late".into()))
        );
        let mut all = Report::default();
        all.inherit_yardstick(bad(), "the floor");
        assert_eq!((all.shortcomings, all.harness), (Vec::new(), Some("the floor: one was lost".to_owned())));
    }
}
