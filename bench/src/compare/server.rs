//! A server under comparison: a child process on its own processor, with a directory of its own.
//!
//! It is killed by its id and its directory removed when it is dropped, and when this process is told to end by
//! SIGINT, SIGTERM or SIGHUP.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::peers::{Found, Peer, Place};
use crate::dialect::Dialect;
use crate::side;

/// Longest time for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(15);
/// Exit code after a signal.
const EXIT_SIGNAL: i32 = 130;

/// Processes that run and their directories.
static LIVE: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());

/// From now on a signal that ends this process ends the servers as well.
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
            std::process::exit(EXIT_SIGNAL);
        }
    });
    Ok(())
}

/// A directory that only we may read; removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("moor-bench-{}-{number}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("cannot make {} ({error})", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever looks after temporary files.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A child process; killed when dropped.
struct Running(Child);

impl Running {
    /// Starts a program on a processor: a child inherits where the thread that makes it may run.
    fn start(command: &mut Command, directory: &Path, cpu: usize) -> Result<Self, String> {
        let program = command.get_program().display().to_string();
        let failed = |error: std::io::Error| format!("{program} cannot be started ({error})");
        let output = directory.join("output");
        let output = File::options().create(true).append(true).open(output).map_err(failed)?;
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output);
        let start = || -> std::io::Result<Child> {
            moor_ring::thread::pin_current(cpu)?;
            let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
            let child = command.spawn()?;
            live.push((child.id(), directory.to_owned()));
            Ok(child)
        };
        let child = std::thread::scope(|scope| scope.spawn(start).join());
        child.map_err(|_| "a thread panicked".to_owned())?.map_err(failed).map(Self)
    }

    fn wait_until_it_listens(&mut self, address: SocketAddr) -> Result<(), String> {
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

/// A running server. Its fields are dropped in this order.
pub struct Server {
    process: Running,
    /// Not measured.
    _companion: Option<Running>,
    directory: Directory,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where services connect.
    pub services: SocketAddr,
}

impl Server {
    /// Starts one on a processor and waits until it listens.
    pub fn start(peer: &Peer, found: &Found, cpu: usize, connections: u32) -> Result<Self, String> {
        let directory = Directory::new()?;
        let place = Place { directory: directory.0.clone(), cpu, connections, ports: free_ports()? };
        let plan = (peer.plan)(found, &place);
        for (name, text) in &plan.files {
            let path = place.directory.join(name);
            fs::write(&path, text).map_err(|error| format!("cannot write {} ({error})", path.display()))?;
        }
        let failed = |error: String| format!("{error}: {}", last_words(&place.directory));
        let mut companion = None;
        if let Some((program, arguments)) = &plan.companion {
            let mut running = Running::start(Command::new(program).args(arguments), &place.directory, cpu)?;
            running.wait_until_it_listens(place.address(3)).map_err(failed)?;
            companion = Some(running);
        }
        let mut command = Command::new(&found.program);
        command.args(&plan.arguments).envs(plan.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Running::start(&mut command, &place.directory, cpu)?;
        for address in [plan.clients, plan.services] {
            process.wait_until_it_listens(address).map_err(failed)?;
        }
        let (dialect, clients, services) = (peer.dialect, plan.clients, plan.services);
        Ok(Self { process, _companion: companion, directory, dialect, clients, services })
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        last_words(&self.directory.0)
    }

    /// Its processor time so far.
    pub fn work(&self) -> Result<Work, String> {
        Work::read(self.process.0.id())
    }

    /// Memory that is its own, bytes: what it has written to and shared memory, resident, without program files.
    pub fn own_bytes(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.process.0.id());
        let text = fs::read_to_string(&path).map_err(|e| format!("{path} cannot be read ({e})"))?;
        own_bytes(&text).ok_or_else(|| format!("{path} is not understood"))
    }
}

/// The end of what the programs of a directory wrote.
fn last_words(directory: &Path) -> String {
    let said = fs::read(directory.join("output")).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

/// Ports nobody listens at now. Held all at once, so that they differ.
fn free_ports() -> Result<[u16; 5], String> {
    let failed = |error: std::io::Error| format!("there is no free port ({error})");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut listeners = Vec::new();
    let mut ports = [0; 5];
    for port in &mut ports {
        let listener = TcpListener::bind(any).map_err(failed)?;
        *port = listener.local_addr().map_err(failed)?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// `RssAnon` and `RssShmem` of /proc/PID/status.
fn own_bytes(text: &str) -> Option<u64> {
    let kibibytes = |key: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some((kibibytes("RssAnon:")? + kibibytes("RssShmem:")?) * 1024)
}

/// Processor time of a process, its threads one by one where the kernel says them to the nanosecond.
#[derive(Debug)]
pub struct Work {
    /// By `/proc/PID/stat`, in steps of 10 ms.
    total_us: u64,
    /// By `/proc/PID/task/*/schedstat`, nanoseconds.
    threads: HashMap<u32, u64>,
}

impl Work {
    fn read(id: u32) -> Result<Self, String> {
        let total_us = side::processor_time(id)?.total_us();
        let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let own = text.split_whitespace().next()?.parse().ok()?;
            Some((task.file_name().to_str()?.parse().ok()?, own))
        });
        Ok(Self { total_us, threads: threads.collect() })
    }

    /// Microseconds since an earlier reading. The sum of the threads, unless one of them has ended since, or the
    /// kernel does not count them: then the process's.
    pub fn since_us(&self, earlier: &Self) -> u64 {
        let complete = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        let sum = |work: &Self| work.threads.values().sum::<u64>();
        match sum(self).saturating_sub(sum(earlier)) / 1000 {
            0 => self.total_us.saturating_sub(earlier.total_us),
            fine if complete => fine,
            _ => self.total_us.saturating_sub(earlier.total_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_its_own_is_what_no_file_backs() {
        let text = "VmRSS:\t  900 kB\nRssAnon:\t  300 kB\nRssFile:\t  500 kB\nRssShmem:\t  100 kB\n";
        assert_eq!(own_bytes(text), Some(400 * 1024));
        assert_eq!(own_bytes("VmRSS: 1 kB"), None);
    }

    #[test]
    fn threads_count_to_the_nanosecond_unless_one_ended() {
        let work =
            |total_us, threads: &[(u32, u64)]| Work { total_us, threads: threads.iter().copied().collect() };
        let before = work(10_000, &[(1, 500_000), (2, 1_000)]);
        assert_eq!(work(20_000, &[(1, 1_500_000), (2, 1_000)]).since_us(&before), 1_000);
        assert_eq!(work(20_000, &[(1, 1_500_000), (2, 1_000), (3, 2_000_000)]).since_us(&before), 3_000);
        assert_eq!(work(20_000, &[(1, 1_500_000)]).since_us(&before), 10_000);
        assert_eq!(work(20_000, &[]).since_us(&work(10_000, &[])), 10_000);
    }

    #[test]
    fn our_own_work_is_found() {
        let before = Work::read(std::process::id()).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let after = Work::read(std::process::id()).unwrap();
        assert!(after.since_us(&before) > 1_000);
    }

    #[test]
    fn free_ports_differ() {
        let ports = free_ports().unwrap();
        let different: std::collections::HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), ports.len());
    }
}
