//! A server under comparison: a child process on its own processor, with a directory of its own.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use super::peers::{Found, Peer, Place};
use crate::child::{Directory, Running, last_words};
use crate::dialect::Dialect;
use crate::side;

/// Where a server and its companion write, in their directory.
const OUTPUT: &str = "output";

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
        let place = Place { directory: directory.path().to_owned(), cpu, connections, ports: free_ports()? };
        let plan = (peer.plan)(found, &place);
        for (name, text) in &plan.files {
            let path = place.directory.join(name);
            fs::write(&path, text).map_err(|error| format!("cannot write {} ({error})", path.display()))?;
        }
        let failed = |error: String| format!("{error}: {}", last_words(&place.directory.join(OUTPUT)));
        let mut companion = None;
        if let Some((program, arguments)) = &plan.companion {
            let mut running =
                Running::start(Command::new(program).args(arguments), &place.directory, OUTPUT, Some(cpu))?;
            running.wait_until_it_listens(place.address(3)).map_err(failed)?;
            companion = Some(running);
        }
        let mut command = Command::new(&found.program);
        command.args(&plan.arguments).envs(plan.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Running::start(&mut command, &place.directory, OUTPUT, Some(cpu))?;
        for address in [plan.clients, plan.services] {
            process.wait_until_it_listens(address).map_err(failed)?;
        }
        let (dialect, clients, services) = (peer.dialect, plan.clients, plan.services);
        Ok(Self { process, _companion: companion, directory, dialect, clients, services })
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        last_words(&self.directory.path().join(OUTPUT))
    }

    /// Its processor time so far.
    pub fn work(&self) -> Result<Work, String> {
        Work::read(self.process.id())
    }

    /// Memory that is its own, bytes: what it has written to and shared memory, resident, without program files.
    pub fn own_bytes(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).map_err(|e| format!("{path} cannot be read ({e})"))?;
        own_bytes(&text).ok_or_else(|| format!("{path} is not understood"))
    }
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
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_millis(50) {
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
