//! The servers of a scenario: started in order, where they listen, harmed and started again, ended with us.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::file::{self, DIRECTORY, Harm, Scenario};
use crate::child::{Directory, Running, beside_us, last_words};

/// Longest time for a server to say where it listens.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(30);
/// Longest time for a server to end after SIGTERM.
const TERMINATE_LIMIT: Duration = Duration::from_secs(60);
/// Flags that name a port, and what a server calls it when it says where it listens.
const PORTS: [(&str, &str, &str); 5] = [
    ("moor-gateway", "--listen", "clients"),
    ("moor-gateway", "--internal", "internal"),
    ("moor-gateway", "--router-listen", "router"),
    ("moor-router", "--listen", "router"),
    ("", "--admin", "admin"),
];

/// A running server.
struct Actor {
    name: String,
    program: String,
    arguments: Vec<String>,
    nice: i32,
    listening: Value,
    running: Option<Running>,
    /// Grows with every start: each has an output of its own.
    starts: u32,
}

/// Everything that runs. Servers go before their directory does.
pub struct Stage {
    actors: Vec<Actor>,
    values: Vec<(String, String)>,
    directory: Directory,
}

impl Stage {
    /// Starts all servers, each when the one before it listens.
    pub fn set(scenario: &Scenario) -> Result<Self, String> {
        let values = scenario.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut stage = Self { actors: Vec::new(), values, directory: Directory::new()? };
        for server in &scenario.servers {
            for (name, text) in &server.files {
                stage.write(name, &stage.fill(text)?)?;
            }
            let arguments =
                server.arguments.iter().map(|argument| stage.fill(argument)).collect::<Result<_, _>>()?;
            let mut actor = Actor {
                name: server.name.clone(),
                program: server.program.clone(),
                arguments,
                nice: server.nice,
                listening: Value::Null,
                running: None,
                starts: 0,
            };
            actor.start(stage.directory.path())?;
            stage.actors.push(actor);
        }
        Ok(stage)
    }

    /// A text with every placeholder filled.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        file::fill(text, &mut |name| {
            if name == DIRECTORY {
                return Ok(self.directory.path().display().to_string());
            }
            if let Some((_, value)) = self.values.iter().find(|(known, _)| known == name) {
                return Ok(value.clone());
            }
            let (server, port) = name.split_once('.').ok_or_else(|| format!("nothing is called {name}"))?;
            let actor = self.actors.iter().find(|actor| actor.name == server);
            let actor = actor.ok_or_else(|| format!("{server} is not started yet"))?;
            let address = actor.listening[port].as_str();
            address
                .map(str::to_owned)
                .ok_or_else(|| format!("{server} listens at {}, not at {port}", actor.listening))
        })
    }

    /// Where loads may write.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends a server.
    pub fn harm(&mut self, name: &str, harm: Harm) -> Result<(), String> {
        let actor = self.actor(name)?;
        let Some(mut running) = actor.running.take() else { return Err(format!("{name} does not run")) };
        if harm == Harm::Terminate {
            running.signal(Signal::TERM)?;
            let asked = Instant::now();
            while running.ended().is_none() {
                if asked.elapsed() > TERMINATE_LIMIT {
                    return Err(format!("{name} did not end within {TERMINATE_LIMIT:?} of SIGTERM"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Dropping it kills it.
        drop(running);
        Ok(())
    }

    /// Starts a server again on the ports it had.
    pub fn bring_back(&mut self, name: &str) -> Result<(), String> {
        let directory = self.directory.path().to_owned();
        let actor = self.actor(name)?;
        actor.keep_ports();
        actor.start(&directory)
    }

    /// A server that ended by itself, with its last words.
    pub fn casualty(&mut self) -> Option<String> {
        let directory = self.directory.path();
        self.actors.iter_mut().find_map(|actor| {
            let status = actor.running.as_mut()?.ended()?;
            let words = last_words(&directory.join(actor.output("err")));
            Some(format!("{} ended by itself ({status}): {words}", actor.name))
        })
    }

    fn actor(&mut self, name: &str) -> Result<&mut Actor, String> {
        let actor = self.actors.iter_mut().find(|actor| actor.name == name);
        actor.ok_or_else(|| format!("there is no server {name}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.path().join(name);
        let mut options = fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("cannot write {} ({error})", path.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The first started is the last to go: nobody sees its router vanish.
        while self.actors.pop().is_some() {}
    }
}

impl Actor {
    fn output(&self, what: &str) -> String {
        format!("{}-{}.{what}", self.name, self.starts)
    }

    fn start(&mut self, directory: &Path) -> Result<(), String> {
        self.starts += 1;
        let failed = |error: std::io::Error| format!("{} cannot be started ({error})", self.name);
        let (out, err) = (directory.join(self.output("out")), directory.join(self.output("err")));
        let mut command = Command::new(beside_us(&self.program)?);
        command
            .args(&self.arguments)
            .args(["--announce", "json"])
            .current_dir(directory)
            .stdin(std::process::Stdio::null())
            .stdout(fs::File::create(&out).map_err(failed)?)
            .stderr(fs::File::create(&err).map_err(failed)?);
        let mut running = Running::spawn(&mut command, directory, None).map_err(failed)?;
        // Its threads come later and have what it has.
        if self.nice > 0 {
            running.set_nice(self.nice).map_err(failed)?;
        }
        let started = Instant::now();
        let said = loop {
            let said = fs::read_to_string(&out).unwrap_or_default();
            if let Some((line, _)) = said.split_once('\n') {
                break line.to_owned();
            }
            if let Some(status) = running.ended() {
                return Err(format!("{} ended at once ({status}): {}", self.name, last_words(&err)));
            }
            if started.elapsed() > ANNOUNCE_LIMIT {
                return Err(format!("{} does not say where it listens: {}", self.name, last_words(&err)));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let said: Value = serde_json::from_str(&said)
            .map_err(|error| format!("{} does not say where it listens ({error})", self.name))?;
        self.listening = said["listening"].clone();
        self.running = Some(running);
        Ok(())
    }

    /// From now on it asks for the ports that it was given.
    fn keep_ports(&mut self) {
        for (program, flag, port) in PORTS {
            let at = self.arguments.iter().position(|argument| argument == flag);
            if (program.is_empty() || program == self.program)
                && let Some(value) = at.and_then(|at| self.arguments.get_mut(at + 1))
                && let Some(address) = self.listening[port].as_str()
            {
                address.clone_into(value);
            }
        }
    }
}
