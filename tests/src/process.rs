//! The real binaries as child processes.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A program of this workspace: from the directory that `MOOR_PROGRAMS` names, else built with the same profile as the
/// caller.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let named = std::env::var_os("MOOR_PROGRAMS").map(PathBuf::from);
    let beside = own.ancestors().skip(1).take(2);
    let directories = named.as_deref().map_or_else(|| beside.collect(), |named| vec![named]);
    for directory in directories {
        let candidate = directory.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not built: run `cargo xtask test`, or `cargo build --release --bins` first")
}

/// A running gateway or router. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    listening: Value,
    /// How it was started, with ports as bound, for [`Process::restart`].
    program: &'static str,
    arguments: Vec<String>,
}

impl Process {
    /// Starts a program and waits until it says where it listens.
    ///
    /// # Errors
    /// When it cannot be started or does not say so.
    pub fn start(program_name: &'static str, arguments: &[&str]) -> Result<Self> {
        Self::start_owned(program_name, arguments.iter().map(|&a| a.to_owned()).collect())
    }

    fn start_owned(program_name: &'static str, arguments: Vec<String>) -> Result<Self> {
        Self::spawn(Command::new(program(program_name)?), program_name, arguments)
    }

    /// Starts a program as a socket unit of systemd does, with a listener of the clients' port that stays the
    /// caller's as well.
    ///
    /// # Errors
    /// When it cannot be started or does not say where it listens.
    pub fn start_activated(
        program_name: &'static str,
        listener: &TcpListener,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("sh");
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(program(program_name)?).stdin(OwnedFd::from(listener.try_clone()?));
        Self::spawn(command, program_name, arguments.iter().map(|&a| a.to_owned()).collect())
    }

    fn spawn(mut command: Command, program_name: &'static str, arguments: Vec<String>) -> Result<Self> {
        command.args(&arguments).args(["--announce", "json"]).stdout(Stdio::piped());
        if std::env::var_os("MOOR_TEST_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().with_context(|| format!("{program_name} cannot be started"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .with_context(|| format!("{program_name} {arguments:?} did not say where it listens"))?;
        Ok(Self { child, listening: said["listening"].clone(), program: program_name, arguments })
    }

    /// Starts it again after it ended, on the very ports it had.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&self) -> Result<Self> {
        let mut arguments = self.arguments.clone();
        for (flag, name) in [
            ("--listen", if self.program == "moor-router" { "router" } else { "clients" }),
            ("--internal", "internal"),
            ("--router-listen", "router"),
            ("--admin", "admin"),
        ] {
            if let (Some(at), Some(address)) =
                (arguments.iter().position(|a| a == flag), self.listening[name].as_str())
            {
                address.clone_into(&mut arguments[at + 1]);
            }
        }
        Self::start_owned(self.program, arguments)
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it did not say so.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.listening[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.listening));
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: a started process has one.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits up to `limit` for it to end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        kill_process(self.pid(), Signal::TERM)?;
        let started = Instant::now();
        wait_for(limit, "the process to end after SIGTERM", || Ok(self.child.try_wait()?))
            .with_context(|| format!("after {:?}", started.elapsed()))
    }

    /// A number of `/v1/stats`, such as `gateway.connections_open`.
    ///
    /// # Errors
    /// When the admin port does not answer or has no such number.
    pub fn stat(&self, path: &str) -> Result<u64> {
        let url = format!("http://{}/v1/stats", self.address("admin"));
        let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
        let stats: Value = serde_json::from_str(&text)?;
        let pointer = format!("/{}", path.replace('.', "/"));
        stats.pointer(&pointer).and_then(Value::as_u64).with_context(|| format!("no {path} in {stats}"))
    }

    /// Waits until a number of `/v1/stats` is as wanted.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_stat(&self, path: &str, limit: Duration, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        let mut last = None;
        wait_for(limit, path, || {
            last = self.stat(path).ok();
            Ok(last.filter(|value| wanted(*value)))
        })
        .with_context(|| format!("{path} is {last:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Asks again and again until there is an answer or the time is up. The pause is only there to leave the
/// processors to the programs under test.
///
/// # Errors
/// When the time is up, or `ask` fails.
pub fn wait_for<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if started.elapsed() >= limit {
            bail!("waited {limit:?} for {what}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A router on a free port.
///
/// # Errors
/// When it does not start.
pub fn router(data: &Path) -> Result<Process> {
    let data = data.to_string_lossy();
    Process::start("moor-router", &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", &data])
}

/// A router on a free port with a configuration file, which stands beside its data.
///
/// # Errors
/// When it does not start.
pub fn router_with(data: &Path, config: &str) -> Result<Process> {
    let file = data.join("router.toml");
    std::fs::write(&file, config)?;
    let (data, file) = (data.to_string_lossy(), file.to_string_lossy());
    let own = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", &data, "--config", &file];
    Process::start("moor-router", &own)
}

/// A gateway on free ports that uses `router`.
///
/// # Errors
/// When it does not start.
pub fn gateway(node: &str, router: SocketAddr, more: &[&str]) -> Result<Process> {
    let router = router.to_string();
    let own = [
        "--node",
        node,
        "--router",
        &router,
        "--listen",
        "127.0.0.1:0",
        "--internal",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--workers",
        "2",
    ];
    Process::start("moor-gateway", &[&own, more].concat())
}

/// An all-in-one gateway on free ports.
///
/// # Errors
/// When it does not start.
pub fn all_in_one(data: &Path, more: &[&str]) -> Result<Process> {
    let data = data.to_string_lossy();
    let own = [
        "--listen",
        "127.0.0.1:0",
        "--internal",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--router-listen",
        "127.0.0.1:0",
        "--data",
        &data,
    ];
    Process::start("moor-gateway", &[&own, more].concat())
}

/// Runs a program to its end: exit code, standard output, standard error.
///
/// # Errors
/// When it cannot be started or does not end within ten seconds.
pub fn run(program_name: &str, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    run_to_end(Command::new(program(program_name)?).args(arguments))
}

/// Likewise with any command.
///
/// # Errors
/// When it cannot be started or does not end within ten seconds.
pub fn run_to_end(command: &mut Command) -> Result<(Option<i32>, String, String)> {
    run_within(Duration::from_secs(10), command)
}

/// Likewise with another limit.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn run_within(limit: Duration, command: &mut Command) -> Result<(Option<i32>, String, String)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let name = format!("{:?}", command.get_program());
    let status = wait_for(limit, &name, || Ok(child.try_wait()?));
    if status.is_err() {
        child.kill()?;
    }
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().context("piped")?.read_to_string(&mut out)?;
    child.stderr.take().context("piped")?.read_to_string(&mut err)?;
    Ok((status?.code(), out, err))
}
