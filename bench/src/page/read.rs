//! Result files: untrusted input, turned into types or into an error that says what is wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

/// Largest file that is read: three times what a run of 3,600 samples and every curve could need a hundred times.
const FILE_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Most samples of one run.
const SAMPLES_MAX: usize = 100_000;
/// Most curves over time of one run, and most percentile curves.
const CURVES_MAX: usize = 32;

/// A percentile: the quantile, 0 to 1, and microseconds.
pub type Point = (f64, f64);

/// One run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How the report calls it.
    pub name: String,
    /// What was measured; empty when the file does not say.
    pub subcommand: String,
    /// The process's exit code, when the file says it.
    pub exit_code: Option<u64>,
    /// What the server should have done.
    pub shortcomings: Vec<String>,
    /// Every figure, parts of figures as `figure.part`.
    pub figures: Vec<(String, Value)>,
    /// Percentile curves by name, both coordinates rising.
    pub percentiles: BTreeMap<String, Vec<Point>>,
    /// Curves over time by name: seconds, value.
    pub over_time: BTreeMap<String, Vec<(f64, f64)>>,
    /// When what began: seconds, name.
    pub phases: Vec<(f64, String)>,
    /// Last second of the samples.
    pub seconds: f64,
    /// Where and how it was measured.
    pub place: Vec<(String, String)>,
    /// Settings of the kernel.
    pub sysctls: Vec<(String, String)>,
    /// The command line.
    pub command: Option<String>,
}

impl Outcome {
    /// A figure that is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.figures.iter().find(|(name, _)| name == key)?.1.as_f64()
    }
}

/// One of the systems of a `compare`.
#[derive(Debug)]
pub struct System {
    /// Its name.
    pub name: String,
    /// Everything else about it.
    pub figures: Vec<(String, Value)>,
}

/// What a file turned out to be.
#[derive(Debug)]
pub enum Document {
    /// A run.
    Run(Box<Outcome>),
    /// A comparison with other systems.
    Compare {
        /// How the report calls it.
        name: String,
        /// The systems.
        systems: Vec<System>,
    },
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Document, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|error| wrong(&format_args!("cannot be read ({error})")))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| wrong(&format_args!("cannot be read ({error})")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(&"has more than 100 MiB, which no result of moor-bench has"));
    }
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, name).map_err(|why| wrong(&why))
}

/// Understands a file's text.
pub fn parse(text: &str, name: String) -> Result<Document, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON ({error})"))?;
    match value {
        Value::Object(object) => Ok(Document::Run(Box::new(outcome(object, name)?))),
        Value::Array(rows) if !rows.is_empty() => {
            let systems =
                rows.into_iter().enumerate().map(|(at, row)| system(at, row)).collect::<Result<_, _>>()?;
            Ok(Document::Compare { name, systems })
        }
        _ => Err("is no result of moor-bench: neither an object nor a list of systems".to_owned()),
    }
}

fn system(at: usize, row: Value) -> Result<System, String> {
    let number = at + 1;
    let Value::Object(mut row) = row else {
        return Err(format!("is a list, so of systems compared, but entry {number} is no object"));
    };
    let Some(Value::String(name)) = row.remove("system") else {
        return Err(format!("is a list, so of systems compared, but entry {number} has no text `system`"));
    };
    Ok(System { name, figures: flat(row) })
}

fn outcome(mut object: Map<String, Value>, name: String) -> Result<Outcome, String> {
    let mut run = Outcome { name, ..Outcome::default() };
    match object.remove("subcommand") {
        Some(Value::String(subcommand)) => run.subcommand = subcommand,
        Some(_) => return Err("`subcommand` is no text".to_owned()),
        // Other tools of the project write plain figures.
        None if !object.is_empty() && object.values().all(Value::is_number) => {}
        None => {
            return Err("has no `subcommand` and is no plain list of figures: not from moor-bench".to_owned());
        }
    }
    for (key, value) in taken(&mut object, "percentiles", as_object)?.into_iter().flatten() {
        if run.percentiles.len() == CURVES_MAX {
            return Err(format!("`percentiles` has more than {CURVES_MAX} curves"));
        }
        let curve = curve(&value).ok_or_else(|| {
            format!("`percentiles.{key}` is no list of [quantile from 0 to 1, microseconds] that rises")
        })?;
        if !curve.is_empty() {
            run.percentiles.insert(key, curve);
        }
    }
    samples(&taken(&mut object, "samples", as_list)?.unwrap_or_default(), &mut run)?;
    for (at, value) in taken(&mut object, "shortcomings", as_list)?.into_iter().flatten().enumerate() {
        let text = value.as_str().ok_or_else(|| format!("`shortcomings` {} is no text", at + 1))?;
        run.shortcomings.push(text.to_owned());
    }
    run.exit_code = taken(&mut object, "exit_code", Value::as_u64)?;
    run.command = taken(&mut object, "command", |value| value.as_str().map(str::to_owned))?;
    for key in ["started_at", "commit", "version", "gateway_version", "gateway_workers"] {
        match object.remove(key) {
            None | Some(Value::Null) => {}
            Some(value) => run.place.push((key.replace('_', " "), plain(&value))),
        }
    }
    let machine = taken(&mut object, "machine", as_object)?;
    // The older files name these two alone; the newer ones say them of the machine as well.
    for key in ["kernel", "cpus"] {
        if let Some(value) = object.remove(key) {
            let known = machine.as_ref().and_then(|machine| machine.get(key));
            if known != Some(&value) {
                let label = if known.is_some() { "cpus of the harness" } else { key };
                run.place.push((label.to_owned(), plain(&value)));
            }
        }
    }
    for (key, value) in machine.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let text = match (key.as_str(), value.as_f64()) {
            ("memory_bytes", Some(bytes)) => format!("{:.1} GiB", bytes / f64::from(1 << 30)),
            _ => plain(&value),
        };
        run.place.push((key.replace("_bytes", ""), text));
    }
    let sysctls = taken(&mut object, "sysctls", as_object)?;
    run.sysctls = sysctls.into_iter().flatten().map(|(key, value)| (key, plain(&value))).collect();
    run.figures = flat(object);
    Ok(run)
}

/// A key's value when it has the right type; none when it is not there or null.
fn taken<T>(
    object: &mut Map<String, Value>,
    key: &str,
    right: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            right(&value).map(Some).ok_or_else(|| format!("`{key}` has the wrong type: {}", kind(&value)))
        }
    }
}

fn as_list(value: &Value) -> Option<Vec<Value>> {
    value.as_array().cloned()
}

fn as_object(value: &Value) -> Option<Map<String, Value>> {
    value.as_object().cloned()
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn curve(value: &Value) -> Option<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    for pair in value.as_array()? {
        let [quantile, us] = pair.as_array()?.as_slice() else { return None };
        let (quantile, us) = (quantile.as_f64()?, us.as_f64()?);
        let rises = points.last().is_none_or(|last| last.0 < quantile && last.1 <= us);
        if !(0.0..=1.0).contains(&quantile) || us < 0.0 || !rises {
            return None;
        }
        points.push((quantile, us));
    }
    Some(points)
}

fn samples(samples: &[Value], run: &mut Outcome) -> Result<(), String> {
    if samples.len() > SAMPLES_MAX {
        return Err(format!("`samples` has {} entries, at most {SAMPLES_MAX} are drawn", samples.len()));
    }
    for (at, sample) in samples.iter().enumerate() {
        let number = at + 1;
        let fields = sample.as_object().ok_or_else(|| format!("`samples` {number} is no object"))?;
        let t_s = fields.get("t_s").and_then(Value::as_f64);
        let t_s = t_s.filter(|t_s| *t_s >= run.seconds).ok_or_else(|| {
            format!("`samples` {number} has no `t_s`, or one that goes back: seconds since the start")
        })?;
        run.seconds = t_s;
        for (key, value) in fields.iter().filter(|(key, value)| *key != "t_s" && !value.is_null()) {
            if let (true, Some(phase)) = (key == "phase", value.as_str()) {
                if run.phases.last().is_none_or(|(_, last)| last != phase) {
                    run.phases.push((t_s, phase.to_owned()));
                }
                continue;
            }
            let value = value.as_f64().ok_or_else(|| format!("`samples` {number}: `{key}` is no number"))?;
            if !run.over_time.contains_key(key) && run.over_time.len() == CURVES_MAX {
                return Err(format!("`samples` have more than {CURVES_MAX} curves"));
            }
            run.over_time.entry(key.clone()).or_default().push((t_s, value));
        }
    }
    Ok(())
}

/// Objects in objects as `outer.inner`; nothing is left out.
fn flat(object: Map<String, Value>) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    // JSON is nested at most 128 deep: serde_json refuses more.
    fn descend(prefix: &str, object: Map<String, Value>, out: &mut Vec<(String, Value)>) {
        for (key, value) in object {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) if !inner.is_empty() => descend(&key, inner, out),
                value => out.push((key, value)),
            }
        }
    }
    descend("", object, &mut out);
    out
}

/// A value without the quotes of a text.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
