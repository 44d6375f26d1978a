//! Runs a scenario of the hot path so many times, for a tool that counts instructions.
//!
//! `cargo xtask instructions` runs it under valgrind twice, with different counts: the difference of the two is the
//! work itself, without the set-up.
#![forbid(unsafe_code)]

mod kernel;
mod scenario;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(Ok(times))) =
        (arguments.next(), arguments.next().map(|times| times.parse::<u32>()))
    else {
        eprintln!("hot_path SCENARIO TIMES; scenarios:");
        for scenario in &scenario::SCENARIOS {
            println!("{}", scenario.name);
        }
        return ExitCode::from(2);
    };
    let Some(scenario) = scenario::SCENARIOS.iter().find(|scenario| scenario.name == name) else {
        eprintln!("there is no scenario {name:?}");
        return ExitCode::from(2);
    };
    let mut once = (scenario.set_up)();
    for _ in 0..times {
        once();
    }
    ExitCode::SUCCESS
}
