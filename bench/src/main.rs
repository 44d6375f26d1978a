//! `moor-bench`: the load harness. Each subcommand is one measurement; all of them end by themselves.
#![forbid(unsafe_code)]

mod admin;
mod against;
mod args;
mod calibrate;
mod chat;
mod child;
mod compare;
mod dialect;
mod driver;
mod environment;
mod fleet;
mod floor;
mod groups;
mod hostile;
mod jitter;
mod measure;
mod memory;
mod network;
mod page;
mod progress;
mod pusher;
mod refusals;
mod registry;
mod report;
mod rooms;
mod sampler;
mod scenario;
mod seats;
mod secure;
mod service;
mod shared;
mod side;
mod storm;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It could not be measured at all.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    environment::began();
    let arguments = args::Arguments::parse();
    match measure::run(&arguments) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("moor-bench: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}
