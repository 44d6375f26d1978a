//! What can be said on the command line, and what it means.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::error::BenchError;
use crate::limits::{CHANNELS_MAX, CONNECTIONS_MAX, PUSH_BYTES_MAX, RATE_MAX, RINGS_MAX, SECONDS_MAX, SENDS_MAX, STAMP_BYTES};
use crate::verdict::Requirement;

const EXAMPLES: &str = "\
Examples, against a gateway started with `cargo run --release`:
  moor-bench connect --connections 15000
      how fast clients get in
  moor-bench hold --connections 100000 --seconds 60 --heartbeat 30 --json hold.json
      how many it holds, and what a session costs (start the gateway with --workers 6 where RLIMIT_NOFILE is 20000)
  moor-bench ping --connections 10000 --rate 5000
      how fast it answers
  moor-bench push --connections 15000 --rate 20000 --require 'p99<=5000'
      how fast and how cheaply it delivers

Exit codes: 0 the server held, 2 the run could not start, 3 the server fell short,
4 the harness could not keep up and its figures say nothing about the server.";

/// Puts load on a Moor gateway and measures what it does with it.
///
/// Every run is bounded in time and count and ends by itself. Latency counts from the moment a message was
/// meant to leave, so a server that stalls cannot hide it. When the harness itself was too slow, it says so.
#[derive(Debug, Parser)]
#[command(name = "moor-bench", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect and log in as fast as it goes, or at --rate per second; --seconds is the time it may take.
    #[command(after_help = EXAMPLES)]
    Connect(Common),
    /// Connect all, hold them for --seconds with heartbeats, count the lost and measure memory per session.
    ///
    /// Memory per session is the slope between 20 % and 100 % of the sessions, so that fixed costs drop out.
    /// User memory is the gateway's resident memory. Kernel memory is Slab + KernelStack + PageTables of this
    /// host, both ends of a session; run it on a quiet host. At the end bare socket pairs are opened in the same
    /// way to learn what a socket costs by itself.
    #[command(after_help = EXAMPLES)]
    Hold(HoldArgs),
    /// Ping random connections at --rate per second and measure how fast they are answered.
    #[command(after_help = EXAMPLES)]
    Ping(SteadyArgs),
    /// Push to random sessions through the gateway's internal port at --rate per second.
    #[command(after_help = EXAMPLES)]
    Push(PushArgs),
}

/// What every subcommand knows.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Where clients connect; several with commas between them are used in turn.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7100", value_delimiter = ',', value_parser = address)]
    pub target: Vec<SocketAddr>,
    /// The gateway's admin port, for memory and CPU figures; `none`: do without.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7400")]
    pub admin: String,
    /// Connections in all.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: u32,
    /// Length of the measurement.
    #[arg(long, short = 's', value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub seconds: u64,
    /// Connects, pings or pushes per second. Unset: as fast as it goes (connect, hold), 1000 (ping, push).
    #[arg(long, short = 'r', value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Write the figures here, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Fail with exit code 3 unless a figure is within a bound, as in `p99<=5000`; may be given often.
    #[arg(long, value_name = "KEY<=VALUE")]
    pub require: Vec<Requirement>,
    /// Channels (logged-in accounts) on each connection.
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(CHANNELS_MAX)))]
    pub channels: u16,
    /// Heartbeat interval to ask the server for. Unset: the one it proposes.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub heartbeat: Option<f64>,
    /// Connections that may be on their way in at a time. More of them make logins slower and not many more.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub outstanding: u32,
    /// Time for all connections to get in. Unset: 30 s and one for each 500.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub connect_timeout: Option<u64>,
    /// Rings, each with a thread and a table of descriptors. Unset: as few as RLIMIT_NOFILE allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RINGS_MAX)))]
    pub rings: Option<u32>,
    /// Addresses to connect from, with commas between them. Unset: 127.1.0.1 and up towards loopback.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What `hold` knows beside.
#[derive(Clone, Debug, Args)]
pub struct HoldArgs {
    /// What every subcommand knows.
    #[command(flatten)]
    pub common: Common,
    /// Do not open bare sockets at the end to compare with.
    #[arg(long)]
    pub no_calibration: bool,
}

/// What subcommands with a steady load know beside.
#[derive(Clone, Debug, Args)]
pub struct SteadyArgs {
    /// What every subcommand knows.
    #[command(flatten)]
    pub common: Common,
    /// Time under load before figures count.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = warmup)]
    pub warmup: f64,
}

/// What `push` knows beside.
#[derive(Clone, Debug, Args)]
pub struct PushArgs {
    /// What subcommands with a steady load know.
    #[command(flatten)]
    pub steady: SteadyArgs,
    /// The gateway's internal port. Unset: what the admin port says, else 127.0.0.1:7200.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub internal: Option<SocketAddr>,
    /// What the gateway wants shown at its internal port.
    #[arg(long, value_name = "TOKEN", env = "MOOR_INTERNAL_TOKEN", default_value = "", hide_env_values = true)]
    pub internal_token: String,
    /// Bytes of each payload.
    #[arg(long, value_name = "B", default_value_t = 128, value_parser = payload)]
    pub bytes: usize,
}

impl Common {
    /// The heartbeat interval to ask for, milliseconds; 0: none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked when parsed")]
    pub fn heartbeat_ms(&self) -> u32 {
        self.heartbeat.map_or(0, |seconds| (seconds * 1000.0) as u32)
    }

    /// Time for all connections to get in, milliseconds.
    pub fn connect_ms(&self) -> u64 {
        let paced = self.rate.map_or(0.0, |rate| f64::from(self.connections) / rate);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let paced_ms = (paced * 1000.0).min(86_400_000.0) as u64;
        let unset_ms = 30_000 + u64::from(self.connections) * 2 + paced_ms;
        self.connect_timeout.map_or(unset_ms, |seconds| seconds * 1000)
    }

    /// Channels in all.
    pub fn sessions(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.channels)
    }
}

impl SteadyArgs {
    /// Pings or pushes per second.
    pub fn per_s(&self) -> f64 {
        self.common.rate.unwrap_or(1000.0)
    }

    /// Warm-up and measurement together, seconds.
    #[allow(clippy::cast_precision_loss)]
    pub fn load_seconds(&self) -> f64 {
        self.warmup + self.common.seconds as f64
    }

    /// Refuses more than can be counted.
    ///
    /// # Errors
    /// When rate times time is beyond the bound.
    pub fn check(&self) -> Result<(), BenchError> {
        let sends = self.per_s() * self.load_seconds();
        if sends <= SENDS_MAX {
            return Ok(());
        }
        Err(BenchError::Usage(format!(
            "--rate times --seconds makes {sends:.0} messages; at most {SENDS_MAX:.0} are sent in one run"
        )))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("{error}; write it as HOST:PORT"))?;
    found.next().ok_or_else(|| "the name has no address".to_owned())
}

fn between(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (low..=high).contains(&value) { Ok(value) } else { Err(format!("has to be between {low} and {high}")) }
}

fn rate(text: &str) -> Result<f64, String> {
    between(text, 0.001, RATE_MAX)
}

fn seconds(text: &str) -> Result<f64, String> {
    between(text, 0.1, 86_400.0)
}

fn warmup(text: &str) -> Result<f64, String> {
    between(text, 0.0, 3600.0)
}

fn payload(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    if (STAMP_BYTES..=PUSH_BYTES_MAX).contains(&value) {
        return Ok(value);
    }
    Err(format!("has to be between {STAMP_BYTES} and {PUSH_BYTES_MAX}: each carries the time it was meant to leave"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_issues_command_lines_parse() {
        let cli = Cli::try_parse_from([
            "moor-bench", "push", "--target", "127.0.0.1:1,127.0.0.1:2", "--admin", "http://127.0.0.1:3",
            "--connections", "15000", "--seconds", "5", "--rate", "20000", "--json", "f", "--require", "p99<=5",
        ])
        .unwrap();
        let Command::Push(push) = cli.command else { panic!("push") };
        assert_eq!((push.steady.common.target.len(), push.bytes, push.steady.per_s()), (2, 128, 20_000.0));
        assert!(push.steady.check().is_ok());
        assert!(Cli::try_parse_from(["moor-bench", "push", "--bytes", "15"]).is_err());
        assert!(Cli::try_parse_from(["moor-bench", "hold", "--connections", "0"]).is_err());
    }
}
