//! Where a run took place: machine, kernel settings, commit, time. Read once, when the result is written.

use std::fs;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::memory::kernel_release;

/// Files below /proc/sys that bound connections, sockets and their memory, or decide about throughput.
const SYSCTLS: [&str; 24] = [
    "fs/file-max",
    "fs/nr_open",
    "kernel/io_uring_disabled",
    "net/core/default_qdisc",
    "net/core/netdev_max_backlog",
    "net/core/optmem_max",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/core/wmem_default",
    "net/core/wmem_max",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_wmem",
    "net/netfilter/nf_conntrack_max",
    "vm/max_map_count",
];

/// Notes when the process began; the first call counts.
pub fn began() -> SystemTime {
    static BEGAN: OnceLock<SystemTime> = OnceLock::new();
    *BEGAN.get_or_init(SystemTime::now)
}

/// The commit this harness was built from; "unknown" without git.
pub const fn commit() -> &'static str {
    env!("MOOR_COMMIT")
}

/// Adds `machine`, `sysctls`, `commit` and `started_at` to a result.
pub fn describe(result: &mut Map<String, Value>) {
    result.insert("machine".to_owned(), machine());
    result.insert("sysctls".to_owned(), sysctls());
    result.insert("commit".to_owned(), json!(commit()));
    result.insert("started_at".to_owned(), json!(humantime::format_rfc3339_seconds(began()).to_string()));
}

fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "cpu": field(&cpuinfo, "model name", ':').or_else(|| field(&cpuinfo, "Processor", ':')),
        // Those of the machine; the harness may be bound to fewer.
        "cpus": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "memory_bytes": field(&meminfo, "MemTotal", ':')
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024),
        "kernel": kernel_release(),
        "os": field(&release, "PRETTY_NAME", '='),
        "architecture": std::env::consts::ARCH,
        "clocksource": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    })
}

fn sysctls() -> Value {
    let mut found = Map::new();
    for path in SYSCTLS {
        // What this kernel does not have is left out.
        if let Some(value) = read(&format!("/proc/sys/{path}")) {
            found.insert(path.replace('/', "."), json!(value));
        }
    }
    if let Some(value) = read("/sys/kernel/mm/transparent_hugepage/enabled") {
        found.insert("transparent_hugepage".to_owned(), json!(chosen(&value)));
    }
    let limit = getrlimit(Resource::Nofile);
    let text = |bound: Option<u64>| bound.map_or_else(|| "unlimited".to_owned(), |bound| bound.to_string());
    found.insert("RLIMIT_NOFILE".to_owned(), json!(text(limit.current)));
    found.insert("RLIMIT_NOFILE hard".to_owned(), json!(text(limit.maximum)));
    Value::Object(found)
}

/// The words of a small file, one blank between them.
fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What stands in brackets in a list of choices.
fn chosen(choices: &str) -> &str {
    choices.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(choices, |(word, _)| word)
}

/// The value of the first line `name separator value`, without quotes.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(field("a : 1\nmodel name\t: X Y\n", "model name", ':').as_deref(), Some("X Y"));
        assert_eq!(field("PRETTY_NAME=\"D 12\"", "PRETTY_NAME", '=').as_deref(), Some("D 12"));
        assert_eq!(field("", "x", ':'), None);
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("always"), "always");
    }

    #[test]
    fn a_result_says_where_it_comes_from() {
        let mut result = Map::new();
        describe(&mut result);
        let result = Value::Object(result);
        assert!(result["machine"]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{result}");
        assert!(result["machine"]["cpus"].as_u64().unwrap() > 0, "{result}");
        assert!(
            result["sysctls"]["net.ipv4.ip_local_port_range"].as_str().unwrap().contains(' '),
            "{result}"
        );
        assert!(result["sysctls"]["RLIMIT_NOFILE"].is_string(), "{result}");
        let started = result["started_at"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(started).is_ok() && started.ends_with('Z'), "{started}");
        assert!(!result["commit"].as_str().unwrap().is_empty());
    }
}
