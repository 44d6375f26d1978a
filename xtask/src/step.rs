//! One step after the other, each shown, and a summary at the end.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::bail;

/// A program to run.
pub struct Step {
    name: &'static str,
    command: Command,
}

impl Step {
    /// A cargo command.
    pub fn cargo(name: &'static str, arguments: &[&str]) -> Self {
        // Cargo tells its children which cargo it is.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments);
        Self { name, command }
    }

    /// Another program, in a directory.
    pub fn program(
        name: &'static str,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
        directory: &str,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory);
        Self { name, command }
    }

    /// With an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }
}

/// A step that has been run.
struct Line {
    name: String,
    /// Why it failed, if it did.
    outcome: Result<(), String>,
    seconds: f64,
}

/// What has been run, and how it went.
pub struct Summary {
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Summary {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { lines: Vec::new(), notes: Vec::new() }
    }

    /// Runs a program; a failure does not keep the next step from running.
    /// Returns whether it passed.
    pub fn run(&mut self, mut step: Step) -> bool {
        let name = step.name;
        eprintln!("\n=== {name}: {:?}", step.command);
        self.run_with(name, || {
            let status = step.command.status()?;
            if status.success() { Ok(()) } else { bail!("{name} ended with {status}") }
        })
    }

    /// Runs a function as a step; returns whether it passed.
    pub fn run_with(&mut self, name: &str, act: impl FnOnce() -> anyhow::Result<()>) -> bool {
        let started = Instant::now();
        let outcome = act().map_err(|error| format!("{error:#}"));
        if let Err(why) = &outcome {
            eprintln!("=== {name} failed: {why}");
        }
        let passed = outcome.is_ok();
        self.record(name, outcome, started.elapsed().as_secs_f64());
        passed
    }

    /// One of the results of a program that has several.
    pub fn record(&mut self, name: &str, outcome: Result<(), String>, seconds: f64) {
        self.lines.push(Line { name: name.to_owned(), outcome, seconds });
    }

    /// Something the reader of the summary must not miss.
    pub fn note(&mut self, text: String) {
        eprintln!("=== {text}");
        self.notes.push(text);
    }

    /// Prints the summary, whose last line is the last of all, and returns how the program is to end.
    pub fn finish(self) -> ExitCode {
        println!();
        for Line { name, outcome, seconds } in &self.lines {
            match outcome {
                Ok(()) => println!("ok   {name} ({seconds:.1} s)"),
                Err(why) => println!("FAIL {name} ({seconds:.1} s): {why}"),
            }
        }
        for note in &self.notes {
            println!("note {note}");
        }
        let failed = self.lines.iter().filter(|line| line.outcome.is_err()).count();
        println!("{} passed, {failed} failed", self.lines.len() - failed);
        if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
