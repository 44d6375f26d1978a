//! `cargo xtask`: everything CI does, a person can do.
#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod fuzz;
mod instructions;
mod packages;
mod step;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use step::{Step, Summary};

/// Everything CI does, a person can do.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Subcommand)]
enum Task {
    /// What CI runs: format, lints, documentation, then every test.
    Ci,
    /// Every test: units, real processes, the end-to-end run, density at 100,000 sessions. Installs the Debian
    /// packages some tests need when root; otherwise says which are missing and skips those tests.
    Test,
    /// One router, two gateways, 10,000 clients, 100,000 reliable messages, with kills; prints the tally.
    E2e,
    /// Density at 100,000 sessions, checked against the limits of the day; then a storm among them.
    Density,
    /// The figures of docs/benchmarks: connect, hold, ping and push against the all-in-one gateway.
    Figures,
    /// Instructions of the hot path, counted by valgrind, against docs/benchmarks/instructions.json.
    Instructions {
        /// Write the file anew.
        #[arg(long)]
        renew: bool,
    },
    /// The cases of the Autobahn suite against the gateway's WebSocket, the client for browsers in Node and Chromium,
    /// other implementations of WebSocket. Installs what it needs: Debian packages when root, the rest under target/
    /// and clients/web/node_modules.
    Conformance,
    /// Every target of fuzz/, or one, for a while each: executions, coverage, what it found. Needs the nightly toolchain;
    /// installs cargo-fuzz under the target directory.
    Fuzz {
        /// How long each, seconds.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        /// Only this one.
        target: Option<String>,
    },
    /// Format, lints and documentation, warnings denied.
    Lint,
}

fn main() -> Result<ExitCode> {
    let mut summary = Summary::new();
    match Arguments::parse().task {
        Task::Ci => {
            lint(&mut summary);
            test(&mut summary)?;
        }
        Task::Test => test(&mut summary)?,
        Task::E2e => e2e(&mut summary),
        Task::Density => density(&mut summary),
        Task::Figures => {
            release_build(&mut summary);
            bench::figures(&mut summary)?;
        }
        Task::Instructions { renew } => instructions(&mut summary, renew),
        Task::Conformance => conformance::run(&mut summary)?,
        Task::Fuzz { seconds, target } => fuzz::run(&mut summary, seconds, target.as_deref())?,
        Task::Lint => lint(&mut summary),
    }
    Ok(summary.finish())
}

fn lint(summary: &mut Summary) {
    summary.run(Step::cargo("format", &["fmt", "--all", "--check"]));
    summary.run(Step::cargo(
        "lints",
        &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    ));
    summary.run(
        Step::cargo("documentation", &["doc", "--workspace", "--no-deps", "--all-features"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
}

fn test(summary: &mut Summary) -> Result<()> {
    packages::ensure(summary, &packages::TEST)?;
    release_build(summary);
    // All of them in one go, as the lints had them: selected otherwise, dependencies have other features and are built again.
    // Programs that tests start are the optimised ones; what starts them need not be.
    summary.run(
        Step::cargo("tests", &["test", "--workspace", "--all-features", "--no-fail-fast"])
            .env("MOOR_PROGRAMS", std::path::absolute(bench::release_dir())?),
    );
    summary.run(fuzz::inputs());
    conformance::run_if_installed(summary)?;
    e2e(summary);
    density(summary);
    instructions(summary, false);
    Ok(())
}

/// The programs that the end-to-end runs start, optimised as a user's, and the one whose instructions are counted. All in one
/// build: by itself it would have other features of dependencies, and they and the gateway be built again.
fn release_build(summary: &mut Summary) {
    let mut arguments = vec!["build", "--release", "--bins", "--example", "hot_path"];
    for package in ["moor-gateway", "moor-router", "moor-client", "moor-bench", "moor-tests"] {
        arguments.extend(["-p", package]);
    }
    summary.run(Step::cargo("release build", &arguments));
}

fn e2e(summary: &mut Summary) {
    release_build(summary);
    summary.run(Step::program("end to end", bench::release_dir().join("moor-e2e"), &[], "."));
}

fn instructions(summary: &mut Summary, renew: bool) {
    if !packages::is_there("valgrind") {
        return summary.note("instructions were not counted: valgrind is not installed".to_owned());
    }
    release_build(summary);
    summary.run_with("instructions of the hot path", || instructions::run(renew));
}

fn density(summary: &mut Summary) {
    release_build(summary);
    summary.run_with("density at 100,000 sessions", bench::density);
    summary.run_with("storm and mixed load at 100,000 sessions", bench::storm);
}
