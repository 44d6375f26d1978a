//! Names the commit for the results: `MOOR_COMMIT`, or what git says; "unknown" where there is neither.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=MOOR_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // Written at every commit and checkout, also of a work tree that is not the first one.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = std::env::var("MOOR_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = commit.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo:rustc-env=MOOR_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The first line git answers; none without git, outside a clone, or for anything but plain characters.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
