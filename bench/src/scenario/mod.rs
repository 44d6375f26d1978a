//! `moor-bench run FILE`: a scenario from start to verdict. Servers are started, loads are run against them (each a run of
//! this very program), servers are harmed meanwhile, and what was promised is compared with what the loads measured.

mod file;
mod stage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::child::{self, Running};
use crate::environment;
use crate::report::Verdict;
use file::{Fault, Load, Promise, Scenario, Times, split_figure};
use stage::Stage;

/// How often loads, faults and servers are looked at.
const TICK: Duration = Duration::from_millis(10);

/// What the file looks like: stands in --help.
const FORMAT: &str = "\
A scenario is a TOML file:
  about = \"a push to random sessions of two gateways, one of them killed\"
  values = { sessions = \"10000\" }          # placeholders; --set sessions=500 changes one
  [[server]]                               # started in this order, each when the one before listens
  name = \"edge\"
  program = \"moor-gateway\"                 # a program beside this one
  arguments = [\"--listen\", \"127.0.0.1:0\", \"--data\", \"{directory}/data\"]
  files = { \"apps.toml\" = \"...\" }          # written into {directory} before
  nice = 10                                # 0 to 19: loads have the processors first, as if on hosts of their own
  [[load]]                                 # runs of moor-bench, one after the other
  name = \"push\"
  arguments = [\"push\", \"--target\", \"{edge.clients}\", \"--admin\", \"http://{edge.admin}\", \"--connections\", \"{sessions}\"]
  beside = \"other\"                         # together with the load before it
  [[fault]]                                # while a load runs
  server = \"edge\"
  during = \"push\"
  after_ms = 5000
  what = \"kill\"                            # or \"terminate\"
  back_after_ms = 500                      # absent: it stays away
  [[promise]]
  what = \"99 of 100 arrive within 25 ms\"
  figure = \"push.p99\"                      # LOAD.KEY, a key of the load's --json
  at_most = 25000                          # or at_least
  times = \"calm.p99\"                       # the bound is a multiple of another figure, or of one of the values
{edge.clients} is where that server listens: clients, internal, router, admin. {{ and }} are braces.

Exit codes: 0 every promise was kept, 3 one was broken, 4 the harness could not keep up, 2 it could not be run.";

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = FORMAT)]
pub struct RunArguments {
    /// The scenario.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Another value for one of the scenario's placeholders; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Only say whether the file makes sense.
    #[arg(long)]
    check: bool,
    /// Write the figures of all loads, and what became of each promise, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs a scenario.
pub fn run(arguments: &RunArguments) -> Result<Verdict, String> {
    let name = arguments.file.display();
    let text =
        std::fs::read_to_string(&arguments.file).map_err(|error| format!("cannot read {name} ({error})"))?;
    let scenario = Scenario::read(&text, &arguments.set).map_err(|error| format!("{name}: {error}"))?;
    println!("{}", scenario.about);
    if arguments.check {
        return Ok(Verdict::Held);
    }
    child::end_with_us()?;
    let mut stage = Stage::set(&scenario)?;
    let mut outcomes = Vec::new();
    let mut loads = &scenario.loads[..];
    while let Some(first) = loads.first() {
        let company =
            1 + loads[1..].iter().take_while(|load| load.beside.as_ref() == Some(&first.name)).count();
        let (together, rest) = loads.split_at(company);
        outcomes.extend(run_together(&mut stage, together, &scenario.faults)?);
        loads = rest;
    }
    let judged: Vec<Judged<'_>> = scenario
        .promises
        .iter()
        .map(|promise| judge(promise, &scenario, &outcomes))
        .collect::<Result<_, _>>()?;
    let verdict = show(&outcomes, &judged);
    if let Some(path) = &arguments.json {
        write(path, &scenario.about, &outcomes, &judged, verdict)?;
    }
    Ok(verdict)
}

/// What a load left.
struct Outcome {
    name: String,
    figures: Value,
    verdict: Verdict,
}

/// A load that runs.
struct Going<'a> {
    load: &'a Load,
    running: Running,
    json: PathBuf,
    status: Option<ExitStatus>,
}

/// Runs loads that start together to the last one's end, and does to the servers what is to happen meanwhile.
fn run_together(stage: &mut Stage, loads: &[Load], faults: &[Fault]) -> Result<Vec<Outcome>, String> {
    let mut going = loads.iter().map(|load| start(stage, load)).collect::<Result<Vec<_>, _>>()?;
    let mut deeds = deeds(loads, faults);
    let started = Instant::now();
    while going.iter().any(|going| going.status.is_none()) {
        let now = started.elapsed();
        while let Some(deed) = deeds.pop_if(|deed| now >= deed.at) {
            deed.carry_out(stage)?;
        }
        for going in going.iter_mut().filter(|going| going.status.is_none()) {
            going.status = going.running.ended();
            if now > Duration::from_secs(going.load.limit_s) {
                return Err(format!("load {} did not end within {} s", going.load.name, going.load.limit_s));
            }
        }
        if let Some(casualty) = stage.casualty() {
            return Err(casualty);
        }
        std::thread::sleep(TICK);
    }
    // A load that ended early leaves nobody away.
    while let Some(deed) = deeds.pop() {
        if deed.harm.is_some() {
            return Err(format!("the load ended before {} was to be harmed", deed.server));
        }
        deed.carry_out(stage)?;
    }
    going.into_iter().map(finish).collect()
}

fn start<'a>(stage: &Stage, load: &'a Load) -> Result<Going<'a>, String> {
    let arguments: Vec<_> =
        load.arguments.iter().map(|argument| stage.fill(argument)).collect::<Result<_, _>>()?;
    let json = stage.directory().join(format!("{}.json", load.name));
    eprintln!("=== {}: moor-bench {}", load.name, arguments.join(" "));
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own);
    command.args(&arguments).arg("--json").arg(&json);
    let running = Running::spawn(&mut command, stage.directory(), None)
        .map_err(|error| format!("load {} cannot be started ({error})", load.name))?;
    Ok(Going { load, running, json, status: None })
}

fn finish(going: Going<'_>) -> Result<Outcome, String> {
    let name = &going.load.name;
    let code = going.status.and_then(|status| status.code());
    let verdicts = [Verdict::Held, Verdict::FellShort, Verdict::HarnessShort];
    let verdict = verdicts
        .into_iter()
        .find(|verdict| Some(i32::from(verdict.exit_code())) == code)
        .ok_or_else(|| format!("load {name} could not be run: it says why above"))?;
    let text = std::fs::read_to_string(&going.json)
        .map_err(|error| format!("load {name} left no figures ({error})"))?;
    let figures = serde_json::from_str(&text)
        .map_err(|error| format!("the figures of {name} are garbled ({error})"))?;
    Ok(Outcome { name: name.clone(), figures, verdict })
}

/// One thing to do to a server.
#[derive(Debug, PartialEq, Eq)]
struct Deed {
    at: Duration,
    server: String,
    /// `None`: it comes back.
    harm: Option<file::Harm>,
}

impl Deed {
    fn carry_out(&self, stage: &mut Stage) -> Result<(), String> {
        let after = self.at.as_secs_f64();
        match self.harm {
            Some(harm) => {
                eprintln!("=== after {after:.1} s: {harm:?} {}", self.server);
                stage.harm(&self.server, harm)
            }
            None => {
                eprintln!("=== after {after:.1} s: {} is started again", self.server);
                stage.bring_back(&self.server)
            }
        }
    }
}

/// What happens while these loads run, last first.
fn deeds(loads: &[Load], faults: &[Fault]) -> Vec<Deed> {
    let mut deeds: Vec<Deed> = faults
        .iter()
        .filter(|fault| loads.iter().any(|load| load.name == fault.during))
        .flat_map(|fault| {
            let at = Duration::from_millis(fault.after_ms);
            let server = || fault.server.clone();
            let harm = Deed { at, server: server(), harm: Some(fault.what) };
            let back = fault.back_after_ms.map(|after| Deed {
                at: at + Duration::from_millis(after),
                server: server(),
                harm: None,
            });
            [Some(harm), back].into_iter().flatten()
        })
        .collect();
    deeds.sort_by_key(|deed| std::cmp::Reverse(deed.at));
    deeds
}

/// A promise and what became of it.
struct Judged<'a> {
    promise: &'a Promise,
    value: f64,
    least: Option<f64>,
    most: Option<f64>,
}

impl Judged<'_> {
    fn is_kept(&self) -> bool {
        self.least.is_none_or(|least| self.value >= least) && self.most.is_none_or(|most| self.value <= most)
    }
}

fn judge<'a>(promise: &'a Promise, scenario: &Scenario, outcomes: &[Outcome]) -> Result<Judged<'a>, String> {
    let figure = |load: &str, key: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.name == load);
        let value = outcome.and_then(|outcome| outcome.figures[key].as_f64());
        value.ok_or_else(|| format!("{load} measured no {key}"))
    };
    let unit = match promise.times.as_deref().map(Times::of) {
        None => 1.0,
        Some(Times::Figure(load, key)) => figure(load, key)?,
        Some(Times::Value(name)) => scenario.number(name)?,
    };
    let times = |bound: Option<f64>| bound.map(|bound| bound * unit);
    let (load, key) = split_figure(&promise.figure)?;
    Ok(Judged {
        promise,
        value: figure(load, key)?,
        least: times(promise.at_least),
        most: times(promise.at_most),
    })
}

fn show(outcomes: &[Outcome], judged: &[Judged<'_>]) -> Verdict {
    println!();
    for judged in judged {
        let word = if judged.is_kept() { "kept  " } else { "BROKEN" };
        let bounds: Vec<_> = [("at least", judged.least), ("at most", judged.most)]
            .into_iter()
            .filter_map(|(word, bound)| Some(format!("{word} {:.3}", bound?)))
            .collect();
        let Promise { what, figure, .. } = judged.promise;
        println!("{word} {what}: {figure} is {:.3}, {}", judged.value, bounds.join(" and "));
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::FellShort) {
        println!("BROKEN {}: the server fell short, as said above", outcome.name);
    }
    if let Some(short) = outcomes.iter().find(|outcome| outcome.verdict == Verdict::HarnessShort) {
        println!("The harness could not keep up in {}, so this says little about the servers.", short.name);
        return Verdict::HarnessShort;
    }
    let held = judged.iter().all(Judged::is_kept) && outcomes.iter().all(|o| o.verdict == Verdict::Held);
    println!("{}", if held { "Every promise was kept." } else { "The servers fell short." });
    if held { Verdict::Held } else { Verdict::FellShort }
}

fn write(
    path: &Path,
    about: &str,
    outcomes: &[Outcome],
    judged: &[Judged<'_>],
    verdict: Verdict,
) -> Result<(), String> {
    let mut object = Map::new();
    environment::describe(&mut object);
    object.insert("about".to_owned(), json!(about));
    object.insert("exit_code".to_owned(), json!(verdict.exit_code()));
    let promises: Vec<_> = judged
        .iter()
        .map(|judged| {
            json!({
                "what": judged.promise.what, "figure": judged.promise.figure, "value": judged.value,
                "at_least": judged.least, "at_most": judged.most, "kept": judged.is_kept(),
            })
        })
        .collect();
    object.insert("promises".to_owned(), json!(promises));
    let loads: Map<_, _> = outcomes.iter().map(|o| (o.name.clone(), o.figures.clone())).collect();
    object.insert("loads".to_owned(), Value::Object(loads));
    let text = format!("{:#}\n", Value::Object(object));
    std::fs::write(path, text).map_err(|error| format!("cannot write {} ({error})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, figures: Value) -> Outcome {
        Outcome { name: name.to_owned(), figures, verdict: Verdict::Held }
    }

    fn scenario() -> Scenario {
        let text = "about = ''\nvalues = { quota = '90' }\n[[load]]\nname = 'calm'\narguments = []";
        Scenario::read(text, &[]).unwrap()
    }

    fn promise(figure: &str, at_most: Option<f64>, times: Option<&str>) -> Promise {
        let what = "quick".to_owned();
        Promise { what, figure: figure.to_owned(), at_most, at_least: None, times: times.map(str::to_owned) }
    }

    #[test]
    fn a_promise_is_judged_by_number_by_another_figure_or_by_a_value() {
        let outcomes = [outcome("calm", json!({ "p99": 100 })), outcome("busy", json!({ "p99": 190 }))];
        let scenario = scenario();
        let kept = |promise: &Promise| judge(promise, &scenario, &outcomes).map(|judged| judged.is_kept());
        assert_eq!(kept(&promise("busy.p99", Some(190.0), None)), Ok(true));
        assert_eq!(kept(&promise("busy.p99", Some(189.0), None)), Ok(false));
        assert_eq!(kept(&promise("busy.p99", Some(2.0), Some("calm.p99"))), Ok(true));
        assert_eq!(kept(&promise("busy.p99", Some(1.5), Some("calm.p99"))), Ok(false));
        assert_eq!(kept(&promise("busy.p99", Some(2.2), Some("quota"))), Ok(true));
        assert_eq!(kept(&promise("busy.p99", Some(2.1), Some("quota"))), Ok(false));
        assert_eq!(kept(&promise("busy.p50", Some(1.5), None)), Err("busy measured no p50".to_owned()));
        let least = Promise { at_least: Some(200.0), ..promise("busy.p99", None, None) };
        assert_eq!(kept(&least), Ok(false));
    }

    #[test]
    fn deeds_happen_in_the_order_of_time_while_their_load_runs() {
        let load =
            |name: &str| Load { name: name.to_owned(), arguments: Vec::new(), beside: None, limit_s: 1 };
        let fault = |server: &str, during: &str, after_ms, back_after_ms| Fault {
            server: server.to_owned(),
            during: during.to_owned(),
            after_ms,
            what: file::Harm::Kill,
            back_after_ms,
        };
        let faults =
            [fault("a", "talk", 50, Some(200)), fault("b", "talk", 100, None), fault("c", "later", 0, None)];
        let deeds = deeds(&[load("talk")], &faults);
        let said: Vec<_> =
            deeds.iter().rev().map(|d| (d.at.as_millis(), d.server.as_str(), d.harm.is_some())).collect();
        assert_eq!(said, [(50, "a", true), (100, "b", true), (250, "a", false)]);
    }

    #[test]
    fn a_broken_promise_and_a_slow_harness_end_differently() {
        let outcomes = [outcome("calm", json!({ "p99": 100 }))];
        let (broken, scenario) = (promise("calm.p99", Some(99.0), None), scenario());
        let judged = [judge(&broken, &scenario, &outcomes).unwrap()];
        assert_eq!(show(&outcomes, &judged), Verdict::FellShort);
        assert_eq!(show(&outcomes, &[]), Verdict::Held);
        let slow = [Outcome { verdict: Verdict::HarnessShort, ..outcome("calm", json!({})) }];
        assert_eq!(show(&slow, &judged), Verdict::HarnessShort);
    }
}
