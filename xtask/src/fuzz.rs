//! `cargo xtask fuzz`: each target of `fuzz/` for a while, and what came of it.
//!
//! Nightly is asked for, never installed: a toolchain is its owner's business. cargo-fuzz is installed under the target
//! directory if it is nowhere else.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::release_dir;
use crate::packages;
use crate::step::{Step, Summary};

/// The version that the targets were tried with.
const CARGO_FUZZ: &str = "0.13.2";

/// Most bytes of an input: above the longest head of an HTTP request (8 kB), the largest limit that a target is after.
const INPUT_BYTES_MAX: u32 = 10 * 1024;
/// An input that takes longer is reported as a hang, seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// A target that needs more memory is reported, megabytes.
const MEMORY_MB_MAX: u32 = 2048;

/// What the engine said of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    per_second: u64,
    /// Edges of the program that were reached.
    coverage: u64,
    /// Inputs kept because each reached something new.
    corpus: u64,
}

/// Replays the committed inputs, on the usual toolchain; what the workspace has built for its tests serves here too.
pub fn inputs() -> Step {
    let target = release_dir().parent().map(Path::to_path_buf).unwrap_or_default();
    Step::cargo("committed fuzz inputs", &["test", "--manifest-path", "fuzz/Cargo.toml"])
        .env("CARGO_TARGET_DIR", std::path::absolute(target).unwrap_or_default())
}

/// Runs one target, or all of them.
pub fn run(summary: &mut Summary, seconds: u32, target: Option<&str>) -> Result<()> {
    let mut targets = targets()?;
    if let Some(target) = target {
        ensure!(
            targets.iter().any(|name| name == target),
            "there is no target {target}; there are {}",
            targets.join(", ")
        );
        targets.retain(|name| name == target);
    }
    ensure!(
        nightly("rustc").arg("--version").output().is_ok_and(|output| output.status.success()),
        "fuzzing needs the nightly toolchain: `rustup toolchain install nightly --profile minimal`"
    );
    ensure_cargo_fuzz(summary)?;
    for name in targets {
        let mut figures = Figures::default();
        let passed = summary.run_with(&format!("fuzz {name}"), || {
            figures = fuzz(&name, seconds)?;
            Ok(())
        });
        if passed {
            let Figures { executions, per_second, coverage, corpus } = figures;
            println!(
                "{name}: {executions} executions, {per_second} per second, coverage {coverage} edges, {corpus} inputs"
            );
        }
    }
    Ok(())
}

/// Names of the targets: of the files that have them.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Path::new("fuzz/fuzz_targets").read_dir().context("run this in the repository")? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// A program of the nightly toolchain, free of what the cargo that started us told us about itself.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&path).chain([tools().join("bin")]);
    if let Ok(path) = std::env::join_paths(paths) {
        command.env("PATH", path);
    }
    command
}

fn tools() -> PathBuf {
    std::path::absolute(release_dir().with_file_name("tools")).unwrap_or_default()
}

fn ensure_cargo_fuzz(summary: &mut Summary) -> Result<()> {
    if packages::is_there("cargo-fuzz") || tools().join("bin/cargo-fuzz").is_file() {
        return Ok(());
    }
    eprintln!("\n=== cargo-fuzz {CARGO_FUZZ}: installing under {}", tools().display());
    let installed = summary.run_with("cargo-fuzz", || {
        let mut install = nightly("cargo");
        install.args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ, "--root"]).arg(tools());
        let status = install.status().context("rustup cannot be started")?;
        ensure!(status.success(), "`cargo install cargo-fuzz` ended with {status}");
        Ok(())
    });
    if installed { Ok(()) } else { bail!("cargo-fuzz is not installed") }
}

/// Runs a target; its output is shown as it comes.
fn fuzz(target: &str, seconds: u32) -> Result<Figures> {
    let corpus = format!("fuzz/corpus/{target}");
    std::fs::create_dir_all(&corpus)?;
    let mut command = nightly("cargo");
    // Without a sanitizer: all of this is safe Rust, and twice as quick so.
    command.args(["fuzz", "run", "--features", "engine", "--sanitizer", "none", "--target-dir"]);
    command.arg(std::path::absolute(release_dir().with_file_name("fuzz"))?);
    command.args([target, &corpus, &format!("fuzz/seeds/{target}"), "--"]);
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    eprintln!("\n=== fuzz {target}: {seconds} s");
    let mut child = command.stderr(Stdio::piped()).spawn().context("rustup cannot be started")?;
    let mut figures = Figures::default();
    let lines = BufReader::new(child.stderr.take().context("stderr is piped")?).split(b'\n');
    for line in lines {
        // The engine prints inputs, which need not be UTF-8.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        // New inputs come by the thousand at first.
        if !line.contains("\tNEW ") && !line.contains("\tREDUCE ") {
            eprintln!("{line}");
        }
        figures.read(&line);
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "{target} ended with {status}; fuzz/README.md says what to do with what it found"
    );
    Ok(figures)
}

impl Figures {
    /// Takes what a line of the engine says, if it says something.
    fn read(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let figure = match word {
                "stat::number_of_executed_units:" => &mut self.executions,
                "stat::average_exec_per_sec:" => &mut self.per_second,
                "cov:" => &mut self.coverage,
                // As in "corp: 12/345b".
                "corp:" => &mut self.corpus,
                _ => continue,
            };
            let number = words.next().and_then(|value| value.split('/').next()?.parse().ok());
            *figure = number.unwrap_or(*figure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_the_engine_prints() {
        let mut figures = Figures::default();
        for line in [
            "#2\tINITED cov: 11 ft: 12 corp: 1/1b exec/s: 0 rss: 30Mb",
            "#4096\tpulse  cov: 312 ft: 700 corp: 45/1200b lim: 4 exec/s: 2048 rss: 31Mb",
            "Done 8000 runs in 3 second(s)",
            "stat::number_of_executed_units: 8000",
            "stat::average_exec_per_sec:     2666",
            "stat::new_units_added:          40",
        ] {
            figures.read(line);
        }
        assert_eq!(figures, Figures { executions: 8000, per_second: 2666, coverage: 312, corpus: 45 });
    }
}
