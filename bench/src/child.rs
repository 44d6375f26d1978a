//! Child processes that end with us, in directories that go away.
//!
//! A child is killed by its id and its directory removed when it is dropped, and when this process is told to end by
//! SIGINT, SIGTERM or SIGHUP.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Longest time for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(15);
/// Exit code after a signal.
const EXIT_SIGNAL: i32 = 130;

/// Processes that run and their directories.
static LIVE: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());

/// Files that must not outlast this process.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A signal that ends this process removes this file as well.
pub fn remove_with_us(file: &Path) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(file.to_owned());
}

/// From now on a signal that ends this process ends its children as well.
pub fn end_with_us() -> Result<(), String> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Kept locked: nobody starts or reaps another one.
            let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, directory) in live.iter() {
                if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                    // It may have ended by itself.
                    kill_process(pid, Signal::KILL).unwrap_or_default();
                }
                fs::remove_dir_all(directory).unwrap_or_default();
            }
            for file in LEFT.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                fs::remove_file(file).unwrap_or_default();
            }
            std::process::exit(EXIT_SIGNAL);
        }
    });
    Ok(())
}

/// A program built beside this one.
pub fn beside_us(program: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = own.with_file_name(program);
    path.is_file().then_some(path).ok_or_else(|| {
        format!("there is no {program} beside {}: build it (cargo build --release --bins)", own.display())
    })
}

/// A directory that only we may read; removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    /// A new one.
    pub fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("moor-bench-{}-{number}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("cannot make {} ({error})", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever looks after temporary files.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A child process; killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts a program in a directory, where what it writes goes to a file. It runs on one processor if that is named:
    /// a child inherits where the thread that makes it may run.
    pub fn start(
        command: &mut Command,
        directory: &Path,
        output: &str,
        cpu: Option<usize>,
    ) -> Result<Self, String> {
        let program = command.get_program().display().to_string();
        let failed = |error: std::io::Error| format!("{program} cannot be started ({error})");
        let output = directory.join(output);
        let output = File::options().create(true).append(true).open(output).map_err(failed)?;
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output);
        Self::spawn(command, directory, cpu).map_err(failed)
    }

    /// Starts a program whose output is the caller's concern.
    pub fn spawn(command: &mut Command, directory: &Path, cpu: Option<usize>) -> std::io::Result<Self> {
        let start = || -> std::io::Result<Child> {
            if let Some(cpu) = cpu {
                moor_ring::thread::pin_current(cpu)?;
            }
            let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
            let child = command.spawn()?;
            live.push((child.id(), directory.to_owned()));
            Ok(child)
        };
        let child = std::thread::scope(|scope| scope.spawn(start).join());
        child.map_err(|_| std::io::Error::other("a thread panicked"))?.map(Self)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Gives way to others from now on.
    pub fn set_nice(&self, nice: i32) -> std::io::Result<()> {
        rustix::process::setpriority_process(Some(Pid::from_child(&self.0)), nice)?;
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Tells it something.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(Pid::from_child(&self.0), signal).map_err(|error| error.to_string())
    }

    /// Waits until it takes connections.
    pub fn wait_until_it_listens(&mut self, address: SocketAddr) -> Result<(), String> {
        let started = Instant::now();
        while let Err(error) = TcpStream::connect(address) {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Err(format!("it ended at once ({status})"));
            }
            if started.elapsed() > START_LIMIT {
                return Err(format!("it does not listen at {address} ({error})"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(id, _)| *id != self.0.id());
        drop(live);
        // Both may have happened already; there is nobody left to tell.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// The end of what was written to a file.
pub fn last_words(output: &Path) -> String {
    let said = fs::read(output).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
