//! A gateway that echoes messages, text as text and binary as binary: the server for conformance cases. It has all of
//! the gateway's flags, and listens on free ports unless they say otherwise.
//!
//! ```text
//! cargo run --release -p moor-gateway --features websocket-echo --example websocket_echo -- --listen 127.0.0.1:9001
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;

use moor_gateway::config::{self, Request};
use moor_gateway::control::logging;

/// No router is needed: nobody listens on this port, and a link that is refused is tried less and less often.
const NO_ROUTER: &str = "127.0.0.1:9";
/// Turns the echo on: see `worker/websocket/echo.rs`.
const ECHO_PATH: &str = "/echo";
/// The slowest cases send their message byte by byte.
const PATIENCE_MS: &str = "120000";

fn main() -> ExitCode {
    let mut arguments = vec!["websocket_echo".to_owned()];
    for (flag, value) in [
        ("--listen", "127.0.0.1:0"),
        ("--internal", "127.0.0.1:0"),
        ("--admin", "127.0.0.1:0"),
        ("--workers", "1"),
        ("--router", NO_ROUTER),
        ("--websocket-path", ECHO_PATH),
        ("--websocket-origins", "*"),
        ("--first-byte-timeout-ms", PATIENCE_MS),
    ] {
        if !std::env::args().any(|argument| argument == flag) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    arguments.extend(std::env::args().skip(1));
    match config::request(arguments) {
        Ok(Request::Run(config)) => match logging::init(&config.log) {
            Ok(log) => moor_gateway::appliance::run(*config, log),
            Err(error) => refuse(&error),
        },
        Ok(Request::Print(_)) => refuse(&"it only runs"),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("websocket_echo: {error}");
    ExitCode::FAILURE
}
