//! Debian packages that some tests need. A test whose program is missing says so and counts as skipped.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::Summary;

/// A package, and a program of it that shows whether it is there.
pub type Package = (&'static str, &'static str);

/// What `cargo xtask test` uses.
pub const TEST: [Package; 8] = [
    ("openssl", "openssl"),
    ("valgrind", "valgrind"),
    ("strace", "strace"),
    ("iproute2", "ip"),
    ("shellcheck", "shellcheck"),
    ("systemd", "systemd-analyze"),
    ("procps", "sysctl"),
    ("haproxy", "haproxy"),
];

/// What `cargo xtask conformance` uses.
pub const CONFORMANCE: [Package; 4] =
    [("nodejs", "node"), ("npm", "npm"), ("chromium", "chromium"), ("python3-venv", "python3")];

/// Installs what is missing when this is Debian and we are root; otherwise says what is missing.
pub fn ensure(summary: &mut Summary, packages: &[Package]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|(package, program)| !has(package, program)).collect();
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
    eprintln!("\n=== packages: {}", names.join(" "));
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

/// Debian's Python comes without what makes environments, which has no program to look for.
fn has(package: &str, program: &str) -> bool {
    let made = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-c", "import ensurepip, venv"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    is_there(program) && (package != "python3-venv" || made(program))
}

/// Whether a program is on the path.
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
