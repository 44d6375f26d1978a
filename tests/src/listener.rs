//! `moor listen` as a person starts it, read line by line.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::program;

/// `moor listen --json`; killed when dropped.
#[derive(Debug)]
pub struct Listener {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Listener {
    /// Starts it with these further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(program("moor")?)
            .args([&["listen", "--json"], arguments].concat())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Self { child, lines })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The next line that tells of `event`.
    ///
    /// # Errors
    /// When it ends before.
    pub fn next(&mut self, event: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line)?;
            let value: Value =
                serde_json::from_str(&line).with_context(|| format!("no {event}: {line:?}"))?;
            if value["event"] == event {
                return Ok(value);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
