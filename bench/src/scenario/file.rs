//! What a scenario file says, and whether it makes sense. Nothing is started here.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

/// Longest time for a load, seconds, unless it names its own.
const LIMIT_S_DEFAULT: u64 = 600;

/// A scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One sentence: what it shows.
    pub about: String,
    /// Values for placeholders, each to be changed by `--set`.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Started in this order, ended in the other.
    #[serde(default, rename = "server")]
    pub servers: Vec<Server>,
    /// Run in this order.
    #[serde(default, rename = "load")]
    pub loads: Vec<Load>,
    /// What happens to servers meanwhile.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// What must hold at the end.
    #[serde(default, rename = "promise")]
    pub promises: Vec<Promise>,
}

/// A program to start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// What placeholders and faults call it.
    pub name: String,
    /// A program built beside this one.
    pub program: String,
    /// Its arguments, placeholders and all; `--announce json` comes with them.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Files written before it is started, into the scenario's directory, readable for us alone.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// How far it stands behind the loads where processors are short, as nice(1) counts: 0 to [`NICE_MAX`].
    #[serde(default)]
    pub nice: i32,
}

/// The lowest priority there is.
pub const NICE_MAX: i32 = 19;

/// A run of this program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// What promises call it.
    pub name: String,
    /// Subcommand and arguments, placeholders and all; `--json` comes with them.
    pub arguments: Vec<String>,
    /// Starts together with the load of this name, which stands right before it or shares its company.
    pub beside: Option<String>,
    /// It is ended after this time, seconds.
    #[serde(default = "limit_s_default")]
    pub limit_s: u64,
}

const fn limit_s_default() -> u64 {
    LIMIT_S_DEFAULT
}

/// What happens to a server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// To which.
    pub server: String,
    /// While this load runs.
    pub during: String,
    /// So long after the load was started, milliseconds.
    pub after_ms: u64,
    /// What.
    pub what: Harm,
    /// Started again on the ports it had, so long after, milliseconds; absent: it stays away.
    pub back_after_ms: Option<u64>,
}

/// Ways to end a server.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Harm {
    /// SIGKILL.
    Kill,
    /// SIGTERM: it drains.
    Terminate,
}

/// A bound on a figure of a load.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// In words.
    pub what: String,
    /// `LOAD.KEY`, where KEY is a key of the load's JSON.
    pub figure: String,
    /// At most this.
    pub at_most: Option<f64>,
    /// At least this.
    pub at_least: Option<f64>,
    /// The bounds are multiples of this other figure, or of the value of this name.
    pub times: Option<String>,
}

impl Scenario {
    /// Reads a scenario; `settings` are `NAME=VALUE` and change its values.
    pub fn read(text: &str, settings: &[String]) -> Result<Self, String> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for setting in settings {
            let (name, value) = setting.split_once('=').ok_or(format!("{setting}: say NAME=VALUE"))?;
            let known: Vec<_> = scenario.values.keys().cloned().collect();
            let place = scenario
                .values
                .get_mut(name)
                .ok_or_else(|| format!("there is no value {name}; there are {}", known.join(", ")))?;
            value.clone_into(place);
        }
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for name in self.servers.iter().map(|server| &server.name).chain(self.loads.iter().map(|l| &l.name)) {
            if name.is_empty() || name.contains(['.', '{', '}', '/']) {
                return Err(format!("\"{name}\" is no name: leave out dots, braces and slashes"));
            }
            if !names.insert(name) {
                return Err(format!("two things are called {name}"));
            }
        }
        for Server { name, nice, .. } in &self.servers {
            if !(0..=NICE_MAX).contains(nice) {
                return Err(format!("server {name} cannot have nice = {nice}: 0 to {NICE_MAX}"));
            }
        }
        if self.loads.is_empty() {
            return Err("there is no [[load]]".to_owned());
        }
        for (at, load) in self.loads.iter().enumerate() {
            let before = self.loads[..at].last();
            if let Some(beside) = &load.beside
                && before.is_none_or(|b| b.name != *beside && b.beside.as_ref() != Some(beside))
            {
                return Err(format!("load {} is beside {beside}, which must stand right before", load.name));
            }
        }
        for fault in &self.faults {
            self.has_server(&fault.server)?;
            self.has_load(&fault.during)?;
        }
        for promise in &self.promises {
            if promise.at_most.is_none() && promise.at_least.is_none() {
                return Err(format!("\"{}\" promises neither at_most nor at_least", promise.what));
            }
            self.has_load(split_figure(&promise.figure)?.0)?;
            match promise.times.as_deref().map(Times::of) {
                Some(Times::Figure(load, _)) => self.has_load(load)?,
                Some(Times::Value(name)) => drop(self.number(name)?),
                None => {}
            }
        }
        for server in &self.servers {
            let texts = server.arguments.iter().chain(server.files.values());
            texts.map(String::as_str).try_for_each(|text| self.check_placeholders(text))?;
        }
        self.loads.iter().flat_map(|load| &load.arguments).try_for_each(|text| self.check_placeholders(text))
    }

    /// A value that is a number.
    pub fn number(&self, name: &str) -> Result<f64, String> {
        let value = self.values.get(name).ok_or_else(|| format!("there is no value {name}"))?;
        value.parse().map_err(|_| format!("the value {name} is {value}, which is no number"))
    }

    fn has_server(&self, name: &str) -> Result<(), String> {
        let is_there = self.servers.iter().any(|server| server.name == name);
        is_there.then_some(()).ok_or_else(|| format!("there is no server {name}"))
    }

    fn has_load(&self, name: &str) -> Result<(), String> {
        let is_there = self.loads.iter().any(|load| load.name == name);
        is_there.then_some(()).ok_or_else(|| format!("there is no load {name}"))
    }

    fn check_placeholders(&self, text: &str) -> Result<(), String> {
        fill(text, &mut |name| match name.split_once('.') {
            Some((server, _)) => self.has_server(server).map(|()| String::new()),
            None if name == DIRECTORY || self.values.contains_key(name) => Ok(String::new()),
            None => Err(format!("nothing is called {{{name}}}")),
        })
        .map(drop)
    }
}

/// The placeholder for the scenario's directory.
pub const DIRECTORY: &str = "directory";

/// What bounds are multiples of.
pub enum Times<'a> {
    /// A load and a key of its figures.
    Figure(&'a str, &'a str),
    /// One of the scenario's values.
    Value(&'a str),
}

impl<'a> Times<'a> {
    /// A figure has a dot.
    pub fn of(text: &'a str) -> Self {
        text.split_once('.').map_or(Self::Value(text), |(load, key)| Self::Figure(load, key))
    }
}

/// `LOAD.KEY` in two.
pub fn split_figure(figure: &str) -> Result<(&str, &str), String> {
    figure.split_once('.').ok_or_else(|| format!("{figure}: a figure is LOAD.KEY"))
}

/// Puts values for `{placeholders}`; `{{` and `}}` are braces.
pub fn fill(text: &str, value: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        let (brace, tail) = rest[at..].split_at(1);
        if let Some(tail) = tail.strip_prefix(brace) {
            filled.push_str(brace);
            rest = tail;
        } else if brace == "{"
            && let Some((name, tail)) = tail.split_once('}')
        {
            filled.push_str(&value(name)?);
            rest = tail;
        } else {
            return Err(format!("a brace without its other half in \"{text}\""));
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        about = "a push"
        values = { rate = "100", place = "here" }
        [[server]]
        name = "edge"
        program = "moor-gateway"
        arguments = ["--data", "{directory}/data"]
        [[load]]
        name = "calm"
        arguments = ["push", "--target", "{edge.clients}", "--rate", "{rate}"]
        [[load]]
        name = "beside"
        arguments = ["hold"]
        beside = "calm"
        [[promise]]
        what = "quick"
        figure = "calm.p99"
        at_most = 2
    "#;

    #[test]
    fn a_good_one_is_read_and_its_values_are_set() {
        let scenario = Scenario::read(GOOD, &["rate=7".to_owned()]).unwrap();
        assert_eq!((scenario.values["rate"].as_str(), scenario.loads[0].limit_s), ("7", LIMIT_S_DEFAULT));
        let error = Scenario::read(GOOD, &["speed=7".to_owned()]).unwrap_err();
        assert_eq!(error, "there is no value speed; there are place, rate");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (good, bad, why) in [
            ("{rate}", "{speed}", "nothing is called {speed}"),
            ("{edge.clients}", "{edge.clients", "a brace without"),
            ("{edge.clients}", "{core.clients}", "there is no server core"),
            ("calm.p99", "storm.p99", "there is no load storm"),
            ("calm.p99", "p99", "a figure is LOAD.KEY"),
            ("name = \"edge\"", "name = \"edge\"\nnice = -1", "edge cannot have nice = -1: 0 to 19"),
            ("at_most = 2", "", "neither at_most nor at_least"),
            ("at_most = 2", "at_most = 2\ntimes = 'speed'", "there is no value speed"),
            ("at_most = 2", "at_most = 2\ntimes = 'place'", "is here, which is no number"),
            ("at_most = 2", "at_most = 2\ntimes = 'storm.p99'", "there is no load storm"),
            ("beside = \"calm\"", "beside = \"edge\"", "must stand right before"),
            ("name = \"beside\"", "name = \"edge\"", "two things are called edge"),
            ("program =", "programme =", "unknown field"),
        ] {
            let text = GOOD.replace(good, bad);
            assert_ne!(text, GOOD, "{good} is in the text");
            let error = Scenario::read(&text, &[]).unwrap_err();
            assert!(error.contains(why), "{error} for {bad}");
        }
    }

    #[test]
    fn placeholders_are_filled_and_braces_stay() {
        let mut value = |name: &str| Ok(name.to_uppercase());
        assert_eq!(fill("a {b} {{c}} {d.e}", &mut value).unwrap(), "a B {c} D.E");
        assert!(fill("a }", &mut value).is_err());
    }

    #[test]
    fn every_committed_scenario_makes_sense() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(error) = Scenario::read(&text, &[]) {
                panic!("{}: {error}", path.display());
            }
            count += 1;
        }
        assert!(count > 0);
    }
}
