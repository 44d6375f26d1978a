//! Debian packages that some tests need. A test whose program is missing says so and counts as skipped.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::Summary;

/// Package, and a program of it that shows whether it is there.
const PACKAGES: [(&str, &str); 6] = [
    ("valgrind", "valgrind"),
    ("strace", "strace"),
    ("iproute2", "ip"),
    ("shellcheck", "shellcheck"),
    ("systemd", "systemd-analyze"),
    ("procps", "sysctl"),
];

/// Installs what is missing when this is Debian and we are root; otherwise says what is missing.
pub fn ensure(summary: &mut Summary) -> Result<()> {
    let missing: Vec<_> = PACKAGES.into_iter().filter(|(_, program)| !is_there(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(package, _)| *package).collect();
    if !is_root()? || !is_there("apt-get") {
        summary.note(format!(
            "tests that need {} are skipped: install them, or run as root on Debian",
            names.join(", ")
        ));
        return Ok(());
    }
    summary.run_with("packages", || {
        apt(&["update", "-qq"])?;
        apt(&[&["install", "-y", "-qq", "--no-install-recommends"], names.as_slice()].concat())
    });
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { bail!("apt-get {} ended with {status}", arguments.join(" ")) }
}

pub fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output()?;
    Ok(output.stdout.starts_with(b"0\n"))
}
