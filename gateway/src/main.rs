//! `moor-gateway`: reads what it is told, sets the log up and starts the appliance.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use moor_gateway::config::{self, Config, ConfigError, Request};
use moor_gateway::control::logging;

/// Freed pages go back to the system in the background, and a worker's frees do not meet another's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It could not start.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    match config::request(std::env::args_os()) {
        Ok(Request::Run(config)) => run(*config),
        Ok(Request::Print(text)) => {
            // Whoever reads may have enough and hang up, as `head` does.
            std::io::stdout().write_all(text.as_bytes()).unwrap_or_default();
            ExitCode::SUCCESS
        }
        // Help, version and wrong flags: clap prints and ends with 0 or 2.
        Err(ConfigError::CommandLine(error)) => error.exit(),
        Err(error) => refuse(&error),
    }
}

fn run(config: Config) -> ExitCode {
    let log = match logging::init(&config.log) {
        Ok(log) => log,
        Err(error) => return refuse(&error),
    };
    for warning in config::warnings(&config) {
        tracing::warn!("{warning}");
    }
    moor_gateway::appliance::run(config, log)
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("moor-gateway: {error}");
    ExitCode::from(EXIT_REFUSED)
}
