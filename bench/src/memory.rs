//! What the kernel says about its memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a page on x86-64 and on the usual arm64 configuration.
const PAGE_BYTES: u64 = 4096;

/// Kernel memory in use, bytes: slab objects (sockets, requests, files) plus pages that TCP holds for queued data.
///
/// Objects are counted (`active_objs` × `objsize` of /proc/slabinfo), so that half-empty slabs left by earlier runs
/// do not matter. Who may not read that file (it is root's) gets `Slab` of /proc/meminfo, which is coarser.
pub fn kernel_bytes() -> u64 {
    let objects = fs::read_to_string("/proc/slabinfo").ok().map(|text| slab_objects(&text));
    let slab = objects.filter(|bytes| *bytes > 0).unwrap_or_else(|| {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        number_after(&meminfo, "Slab:").unwrap_or(0) * 1024
    });
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    slab + number_after(tcp, "mem ").unwrap_or(0) * PAGE_BYTES
}

/// Caches that say nothing of a server: what is left of closed connections, and the ports of the connecting ends, which
/// are shared the more, the more of them there are.
const NOT_A_SERVERS: [&str; 3] = ["tw_sock_TCP", "tcp_bind_bucket", "tcp_bind2_bucket"];

/// The names of a cache in the table may be another's: the kernel merges caches of one size, and says here which.
fn cache(name: &str) -> Option<PathBuf> {
    fs::canonicalize(Path::new("/sys/kernel/slab").join(name)).ok()
}

/// Bytes of live objects: name, active objects, objects, object size, …
fn slab_objects(text: &str) -> u64 {
    let others: Vec<PathBuf> = NOT_A_SERVERS.into_iter().filter_map(cache).collect();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?;
            let active: u64 = fields.next()?.parse().ok()?;
            let size: u64 = fields.nth(1)?.parse().ok()?;
            let counts =
                !NOT_A_SERVERS.contains(&name) && !cache(name).is_some_and(|cache| others.contains(&cache));
            counts.then_some(active * size)
        })
        .sum()
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

/// Most slots of one descriptor table: the soft limit, raised to the hard one.
pub fn descriptors_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only without the right to it, and then the soft limit holds.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .unwrap_or_default();
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// The kernel's release.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_names() {
        assert_eq!(number_after("MemFree: 1 kB\nSlab:   42 kB\n", "Slab:"), Some(42));
        assert_eq!(number_after("TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3", "mem "), Some(3));
        assert_eq!(number_after("", "Slab:"), None);
        let table = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\nTCP 10 16 2368 13 8 : x\nfilp 3 4 192 1 1 : x\ntw_sock_TCP 9 9 264 1 1 : x\n";
        assert_eq!(slab_objects(table), 10 * 2368 + 3 * 192);
        assert!(kernel_bytes() > 0);
    }
}
