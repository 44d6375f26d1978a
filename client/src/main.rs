//! `moor`: the command line for people: listen, send, push, who, kick, stats.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::try_parse().unwrap_or_else(|wrong| refuse(&wrong));
    match cli::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // What was asked is done, as far as anybody wanted to know.
        Err(error) if cli::is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            if arguments.is_for_machines() {
                eprintln!("{}", failure(&error.to_string()));
            } else {
                eprintln!("moor: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with the arguments, or gives the help that was asked for.
fn refuse(wrong: &clap::Error) -> ! {
    if wrong.use_stderr() && std::env::args_os().any(|word| word == "--json") {
        let text = wrong.to_string();
        eprintln!("{}", failure(text.trim_start_matches("error: ").trim_end()));
        std::process::exit(wrong.exit_code());
    }
    wrong.exit()
}

/// A failure for programs.
fn failure(why: &str) -> serde_json::Value {
    serde_json::json!({ "error": why })
}
