//! The tuning scripts: against this host, against made-up hosts, and for real in a network namespace.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tuning").join(name)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A made-up host: a folder with the files that the scripts read and write.
struct Host(tempfile::TempDir);

const SETTINGS: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.1.0-28-amd64"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("proc/sys/fs/nr_open", "1048576"),
    ("proc/sys/fs/file-max", "9223372036854775807"),
    ("proc/sys/net/core/somaxconn", "4096"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1"),
    ("proc/sys/net/ipv4/tcp_mem", "1000\t2000000\t3000"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 15000000 kB"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
];

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, value) in SETTINGS {
            host.write(path, value);
        }
        host
    }

    fn write(&self, path: &str, value: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap().trim().to_owned()
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let root = self.0.path();
        Command::new(script(name))
            .args(arguments)
            .env("MOOR_PROC_ROOT", root.join("proc"))
            .env("MOOR_SYS_ROOT", root.join("sys"))
            .env("MOOR_SYSCTL_D", root)
            .env("MOOR_NOFILE", "1048576")
            .env("MOOR_CORES", "4")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }
}

/// The line of `check` about a setting.
fn line_of<'a>(text: &'a str, setting: &str) -> &'a str {
    text.lines().find(|line| line.get(8..).is_some_and(|rest| rest.starts_with(setting))).unwrap_or(text)
}

#[test]
fn check_runs_on_this_host() {
    for connections in ["1", "2000000"] {
        let output = Command::new(script("check")).args(["--connections", connections]).output().unwrap();
        let code = output.status.code();
        let text = text(&output);
        let short = text.lines().any(|line| line.starts_with("short "));
        assert_eq!(code, Some(i32::from(short)), "{text}");
        for setting in ["RLIMIT_NOFILE", "net.core.somaxconn", "fs.nr_open", "kernel ", "memory available"] {
            assert!(text.contains(setting), "{setting} is missing in\n{text}");
        }
    }
}

#[test]
fn check_tells_short_from_better_from_absent() {
    let host = Host::new();
    let output = host.run("check", &["--connections", "100000", "--workers", "4"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let begins = |setting: &str, mark: &str| {
        let line = line_of(&said, setting);
        assert!(line.starts_with(mark), "{setting} is not {mark}: {line}");
    };
    begins("net.core.somaxconn", "short");
    begins("net.ipv4.tcp_mem", "short");
    begins("net.ipv4.tcp_max_syn_backlog", "ok");
    begins("fs.file-max", "ok");
    begins("net.ipv4.tcp_rmem", "better");
    begins("/sys/kernel/mm/transparent_hugepage/enabled", "better");
    begins("net.ipv4.tcp_wmem", "absent");
    begins("kernel ", "ok");
    // Few connections need little.
    host.write("proc/sys/net/ipv4/tcp_mem", "75000 100000 150000");
    let output = host.run("check", &["--connections", "1000", "--workers", "4"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn check_knows_what_stops_a_gateway() {
    for (path, value, setting) in [
        ("proc/sys/kernel/osrelease", "5.19.17", "kernel "),
        ("proc/sys/kernel/io_uring_disabled", "2", "kernel.io_uring_disabled"),
        ("proc/meminfo", "MemTotal: 400000 kB\nMemAvailable: 300000 kB", "memory available"),
    ] {
        let host = Host::new();
        host.write(path, value);
        let output = host.run("check", &["--connections", "100000", "--workers", "4"]);
        let text = text(&output);
        assert!(line_of(&text, setting).starts_with("short"), "{setting}: {text}");
    }
    let host = Host::new();
    host.write("proc/sys/net/netfilter/nf_conntrack_count", "70000");
    host.write("proc/sys/net/netfilter/nf_conntrack_max", "65536");
    let said = text(&host.run("check", &["--connections", "100000"]));
    assert!(line_of(&said, "net.netfilter.nf_conntrack_max").starts_with("short"), "{said}");
}

#[test]
fn a_wrong_option_is_code_2() {
    let host = Host::new();
    for (name, arguments) in [
        ("check", vec!["--conections", "5"]),
        ("check", vec!["--connections", "many"]),
        ("apply", vec!["--workers", "0"]),
        ("undo", vec!["--all"]),
        ("nic", vec!["--interface", "none0"]),
    ] {
        let output = host.run(name, &arguments);
        assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {}", text(&output));
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let host = Host::new();
    let state = host.0.path().join("saved");
    let output = host.run("apply", &["--dry-run", "--state", state.to_str().unwrap()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("net.core.somaxconn: 4096 -> 65535"), "{said}");
    assert!(said.contains("none made (--dry-run)"), "{said}");
    assert_eq!(host.read("proc/sys/net/core/somaxconn"), "4096");
    assert!(!state.exists());
}

#[test]
fn apply_and_undo_on_a_made_up_host() {
    let host = Host::new();
    let state = host.0.path().join("state/saved");
    let state = state.to_str().unwrap();
    let arguments = ["--connections", "100000", "--workers", "4", "--state", state, "--persist"];
    let output = host.run("apply", &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(host.read("proc/sys/net/core/somaxconn"), "65535");
    // What is enough stays.
    assert_eq!(host.read("proc/sys/net/ipv4/tcp_mem"), "75000 2000000 150000");
    assert_eq!(host.read("proc/sys/net/ipv4/tcp_rmem"), "4096 16384 262144");
    assert_eq!(host.read("sys/kernel/mm/transparent_hugepage/enabled"), "madvise");
    let persisted = host.read("90-moor.conf");
    assert!(persisted.contains("net.core.somaxconn = 65535") && !persisted.contains("/sys"), "{persisted}");
    // Nothing is left to do, and a larger host later keeps the first values for undo.
    assert!(text(&host.run("apply", &arguments)).contains("Nothing to change."));
    assert_eq!(host.read("90-moor.conf"), persisted, "the next boot needs all of it");
    let larger = ["--connections", "200000", "--workers", "4", "--state", state, "--persist"];
    assert!(host.run("apply", &larger).status.success());
    let persisted = host.read("90-moor.conf");
    for line in ["net.core.somaxconn = 65535", "net.ipv4.tcp_mem = 150000 2000000 300000"] {
        assert!(persisted.lines().any(|other| other == line), "{line} in {persisted}");
    }
    assert_eq!(host.read("proc/sys/net/ipv4/tcp_mem"), "150000 2000000 300000");

    let output = host.run("undo", &["--state", state]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(host.read("proc/sys/net/core/somaxconn"), "4096");
    assert_eq!(host.read("proc/sys/net/ipv4/tcp_mem"), "1000 2000000 3000");
    assert_eq!(host.read("sys/kernel/mm/transparent_hugepage/enabled"), "always");
    assert!(!host.0.path().join("90-moor.conf").exists());
    assert!(text(&host.run("undo", &["--state", state])).contains("Nothing to undo"));
}

/// Applies and undoes on the kernel's own files, in a network namespace that ends with the command.
const IN_NAMESPACE: &str = r#"
set -e
read_it() { cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/tcp_notsent_lowat; }
before=$(read_it)
"$1"/apply --connections 100000 --only net. --state "$2" --yes >/dev/null
[ "$(cat /proc/sys/net/core/somaxconn)" = 65535 ] || { echo "not applied: $(read_it)"; exit 1; }
"$1"/undo --state "$2" >/dev/null
[ "$(read_it)" = "$before" ] || { echo "not undone: $before became $(read_it)"; exit 1; }
echo applied and undone
"#;

#[test]
fn apply_and_undo_on_the_kernel_in_a_namespace() {
    let allowed = Command::new("unshare").args(["--net", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no network namespace can be made here (needs root and unshare)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "bash", "-c", IN_NAMESPACE, "bash"])
        .arg(script(""))
        .arg(folder.path().join("saved"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "applied and undone\n");
}

#[test]
fn nic_plans_and_applies_on_a_made_up_card() {
    let host = Host::new();
    for queue in ["rx-0/rps_cpus", "rx-1/rps_cpus", "tx-0/xps_cpus", "tx-1/xps_cpus"] {
        host.write(&format!("sys/class/net/eth9/queues/{queue}"), "0");
    }
    for irq in ["40", "41"] {
        host.write(&format!("sys/class/net/eth9/device/msi_irqs/{irq}"), "msi-x");
        host.write(&format!("proc/irq/{irq}/smp_affinity_list"), "0-3");
    }
    host.write("proc/interrupts", " 40: 1 2 eth9-TxRx-0\n 41: 1 2 eth9-TxRx-1");
    let plan = text(&host.run("nic", &[]));
    assert!(plan.contains("eth9: 2 receive queues, 4 cores"), "{plan}");
    assert!(plan.contains("irq/41/smp_affinity_list: 0-3 -> 1"), "{plan}");
    assert_eq!(host.read("proc/irq/41/smp_affinity_list"), "0-3");
    let output = host.run("nic", &["--interface", "eth9", "--apply"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(host.read("proc/irq/41/smp_affinity_list"), "1");
    assert_eq!(host.read("sys/class/net/eth9/queues/rx-0/rps_cpus"), "f");
    assert_eq!(host.read("sys/class/net/eth9/queues/tx-1/xps_cpus"), "2");
}

#[test]
fn the_scripts_are_clean() {
    let names = ["check", "apply", "undo", "nic", "settings.sh"];
    match Command::new("shellcheck").arg("-x").args(names.map(script)).output() {
        Ok(output) => assert!(output.status.success(), "{}", text(&output)),
        Err(error) => eprintln!("SKIPPED: shellcheck is not here ({error}); install the package shellcheck"),
    }
}

/// The units in systemd/ load without a complaint, and the gateway's sandbox keeps its grade.
#[test]
fn the_units_are_valid_and_hardened() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let names = ["moor-gateway.service", "moor-gateway.socket", "moor-router.service"];
    let mut paths = Vec::new();
    for name in names {
        // Verification wants the program to exist; the installed path need not, here.
        let unit =
            fs::read_to_string(source.join(name)).unwrap().replace("/usr/bin/moor-", "/bin/true moor-");
        let path = folder.path().join(name);
        fs::write(&path, unit).unwrap();
        paths.push(path);
    }
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).args(&paths).output();
    let output = match analyze(&["verify", "--man=no"]) {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: systemd-analyze is not here ({error}); install the package systemd");
            return;
        }
    };
    let complaints = text(&output);
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("moor-")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    // Grades as systemd 252 gives them: 0 is no exposure, 10 is no sandbox.
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "service")) {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=25", "--no-pager"])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}
