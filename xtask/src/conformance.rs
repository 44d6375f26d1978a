//! What others say about the protocols at the front door: the cases of the Autobahn suite (by the Python package
//! `kosoku`), browsers, other implementations of WebSocket.
//!
//! What it installs from registries lies in `clients/web/node_modules` and under the target directory, and is installed
//! again when the file that names it has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bench::{Program, release_dir};
use crate::packages;
use crate::step::{Step, Summary};

const WEB: &str = "clients/web";
const NODE_MODULES: &str = "clients/web/node_modules/.package-lock.json";
const REQUIREMENTS: &str = "tests/interop/requirements.txt";

/// Sections of the suite and how many cases each has; 8 and 11 have none, 12 and 13 are about compression, which is
/// not negotiated.
const SECTIONS: [(&str, usize); 8] =
    [("1", 16), ("2", 11), ("3", 7), ("4", 10), ("5", 20), ("6", 145), ("7", 37), ("10", 1)];
/// Limits and performance: large messages, whose times are of interest.
const PERFORMANCE: [(&str, usize); 1] = [("9", 54)];

/// Installs what is missing and runs everything.
pub fn run(summary: &mut Summary) -> Result<()> {
    packages::ensure(summary, &packages::CONFORMANCE)?;
    if !is_current(NODE_MODULES.as_ref(), &format!("{WEB}/package-lock.json")) {
        summary.run(Step::program("npm packages", "npm", &["ci", "--no-audit", "--no-fund"], WEB));
    }
    if !is_current(&stamp(), REQUIREMENTS) {
        eprintln!("\n=== Python packages: {REQUIREMENTS}");
        summary.run_with("Python packages", install_python);
    }
    check(summary)
}

/// Runs everything if an earlier [`run`] has installed what it needs: tests do not depend on registries.
pub fn run_if_installed(summary: &mut Summary) -> Result<()> {
    if Path::new(NODE_MODULES).is_file() && stamp().is_file() && packages::is_there("chromium") {
        return check(summary);
    }
    summary.note("conformance was not run: `cargo xtask conformance` installs what it needs".to_owned());
    Ok(())
}

fn check(summary: &mut Summary) -> Result<()> {
    let gateway = ["build", "--release", "-p", "moor-gateway"];
    let echo = ["--features", "websocket-echo", "--example", "websocket_echo"];
    if !summary.run(Step::cargo("gateway", &gateway))
        || !summary.run(Step::cargo("echo endpoint", &[gateway.as_slice(), &echo].concat()))
    {
        return Ok(());
    }
    autobahn(summary);
    let gateway = std::path::absolute(release_dir().join("moor-gateway"))?;
    for (name, script) in [
        ("web client: core and face", "test"),
        ("web client: Node and npm ws with a gateway, ws:// and wss://", "test:gateway"),
        ("web client: Chromium with a gateway, ws:// and wss://", "test:browser"),
        ("web client: package, types, example", "test:package"),
    ] {
        let step = Step::program(name, "npm", &["run", "--silent", script], WEB);
        summary.run(step.env("MOOR_GATEWAY", &gateway));
    }
    let python = std::path::absolute(environment().join("bin/python"))?;
    let script = ["websockets_exchange.py"];
    let step = Step::program("Python websockets with a gateway", &python, &script, "tests/interop");
    summary.run(step.env("MOOR_GATEWAY", &gateway));
    let step = Step::program("TLS audit by sslyze", &python, &["tls_audit.py"], "tests/interop");
    summary.run(step.env("MOOR_GATEWAY", &gateway));
    Ok(())
}

/// Runs the cases against the echo endpoint; a line for each section.
fn autobahn(summary: &mut Summary) {
    for (name, sections, is_timed) in [("cases", &SECTIONS[..], false), ("performance", &PERFORMANCE, true)] {
        eprintln!(
            "\n=== Autobahn {name}: sections {:?}",
            sections.iter().map(|(s, _)| *s).collect::<Vec<_>>()
        );
        match kosoku(name, sections) {
            Ok(report) => {
                for (section, expected) in sections {
                    judge(summary, &report, section, *expected, is_timed);
                }
            }
            Err(error) => {
                summary.run_with(&format!("Autobahn {name}"), || Err(error));
            }
        }
    }
}

/// Returns the results of the cases by their numbers.
fn kosoku(name: &str, sections: &[(&str, usize)]) -> Result<Value> {
    let echo = Program::start("examples/websocket_echo", &["--log-level", "error"])?;
    let reports = home().join(name);
    let mut command = Command::new(environment().join("bin/kosoku"));
    command.arg("-o").arg(&reports);
    for (section, _) in sections {
        command.args(["-i", &format!("{section}.*")]);
    }
    command.arg(format!("ws://{}/echo", echo.address("clients")?));
    let index = reports.join("index.json");
    // What an earlier run left is no result of this one.
    if index.exists() {
        fs::remove_file(&index)?;
    }
    // It ends with an error when a case fails: what counts is the report.
    command.status().context("kosoku cannot be started")?;
    let text = fs::read_to_string(&index).with_context(|| format!("{} was not written", index.display()))?;
    let mut report: Value = serde_json::from_str(&text)?;
    let agents = report.as_object_mut().context("a report has agents")?;
    agents.values_mut().next().map(Value::take).context("a report has one agent")
}

fn judge(summary: &mut Summary, report: &Value, section: &str, expected: usize, is_timed: bool) {
    let prefix = format!("{section}.");
    let cases: Vec<_> =
        report.as_object().into_iter().flatten().filter(|(id, _)| id.starts_with(&prefix)).collect();
    // Informational: what the standard leaves open.
    let is_good = |value: &Value| matches!(value.as_str(), Some("OK" | "INFORMATIONAL"));
    let (mut good, mut milliseconds) = (0, 0);
    for (id, case) in &cases {
        milliseconds += case["duration"].as_u64().unwrap_or_default();
        if is_good(&case["behavior"]) && is_good(&case["behaviorClose"]) {
            good += 1;
        } else {
            eprintln!(
                "{id}: {}, close {}; see {}",
                case["behavior"], case["behaviorClose"], case["reportfile"]
            );
        }
        if is_timed {
            println!("Autobahn {id}: {} ms", case["duration"]);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 milliseconds")]
    let seconds = milliseconds as f64 / 1000.0;
    let line = format!("Autobahn section {section}: {good} of {expected} cases");
    let passed = good == expected && cases.len() == expected;
    let why = || format!("{} were run; what failed stands above", cases.len());
    summary.record(&line, passed.then_some(()).ok_or_else(why), seconds);
}

/// An environment of Python of our own, with what `REQUIREMENTS` names.
fn install_python() -> Result<()> {
    let environment = environment();
    fs::create_dir_all(home())?;
    run_quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    run_quietly(pip.args(["install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]))?;
    fs::copy(REQUIREMENTS, stamp())?;
    ensure!(environment.join("bin/kosoku").is_file(), "kosoku was not installed");
    Ok(())
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let status =
        command.stdout(Stdio::null()).status().with_context(|| format!("{command:?} cannot be started"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}

/// Whether what is installed is not older than the file that names it.
fn is_current(installed: &Path, named_by: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified(installed).is_some_and(|at| Some(at) >= modified(named_by.as_ref()))
}

fn home() -> PathBuf {
    release_dir().with_file_name("conformance")
}

fn environment() -> PathBuf {
    home().join("python")
}

/// Written when the environment is whole.
fn stamp() -> PathBuf {
    home().join("requirements.txt")
}
