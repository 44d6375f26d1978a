//! Runs of the load harness against the all-in-one gateway, on free ports, in a directory that goes away.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::step::{Step, Summary};

/// Where `cargo build --release` puts programs.
fn release_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("release")
}

/// An all-in-one gateway; killed when dropped.
struct Gateway {
    child: Child,
    addresses: Value,
    data: PathBuf,
}

impl Gateway {
    fn start(workers: u32) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("moor-xtask-{}", std::process::id()));
        let mut child = Command::new(release_dir().join("moor-gateway"))
            .args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--router-listen", "127.0.0.1:0", "--announce", "json", "--workers", &workers.to_string()])
            .arg("--data")
            .arg(&data)
            .stdout(Stdio::piped())
            .spawn()
            .context("moor-gateway cannot be started")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let addresses: Value =
            serde_json::from_str(&line).context("the gateway did not say where it listens")?;
        Ok(Self { child, addresses, data })
    }

    fn address(&self, name: &str) -> Result<&str> {
        self.addresses["listening"][name].as_str().with_context(|| format!("no address for {name}"))
    }

    /// `moor-bench SUB` with this gateway's addresses.
    fn bench(&self, sub: &str, arguments: &[&str], json: Option<&Path>) -> Result<()> {
        let mut command = Command::new(release_dir().join("moor-bench"));
        command
            .args([sub, "--target", self.address("clients")?])
            .args(["--admin", &format!("http://{}", self.address("admin")?)])
            .args(arguments);
        if let Some(json) = json {
            command.arg("--json").arg(json);
        }
        eprintln!("=== {command:?}");
        let status = command.status().context("moor-bench cannot be started")?;
        if status.success() { Ok(()) } else { bail!("moor-bench {sub} ended with {status}") }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both may have happened already; there is nobody left to tell.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
        std::fs::remove_dir_all(&self.data).unwrap_or_default();
    }
}

/// 100,000 sessions on six workers (a descriptor table may be limited to 20,000): nobody lost, memory in bounds.
///
/// The target for kernel memory is 300 bytes above a bare socket. What is measured moves between 180 and 330 with what
/// earlier runs left in the kernel's slabs, so the gate is 400: one more request armed per connection breaks it.
pub fn density() -> Result<()> {
    let gateway = Gateway::start(6)?;
    let bounds = [
        "--connections",
        "100000",
        "--seconds",
        "60",
        "--require",
        "gateway_user_bytes_per_session<=512",
        "--require",
        "kernel_bytes_per_session<=400",
    ];
    gateway.bench("hold", &bounds, None)
}

/// The figures of docs/benchmarks, one JSON file each.
pub fn figures(summary: &mut Summary) -> Result<()> {
    summary.run(Step::cargo(
        "release build",
        &["build", "--release", "--bins", "-p", "moor-gateway", "-p", "moor-bench"],
    ));
    let directory = release_dir().join("figures");
    std::fs::create_dir_all(&directory)?;
    let runs: [(&str, u32, &[&str]); 4] = [
        ("connect", 6, &["--connections", "100000", "--seconds", "60"]),
        ("hold", 6, &["--connections", "100000", "--seconds", "60"]),
        ("ping", 2, &["--connections", "15000", "--seconds", "20", "--rate", "20000"]),
        ("push", 2, &["--connections", "15000", "--seconds", "20", "--rate", "20000"]),
    ];
    for (sub, workers, arguments) in runs {
        let json = directory.join(format!("{sub}.json"));
        summary.run_with(sub, || Gateway::start(workers)?.bench(sub, arguments, Some(&json)));
    }
    summary.note(format!("the figures are in {}", directory.display()));
    Ok(())
}
