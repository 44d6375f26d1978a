//! Arguments of `moor-bench compare`.

use std::path::PathBuf;

use clap::Args;

/// Most clients: one ring of the harness, and what a server without its own table may hold where the limit of open
/// descriptors is 20,000.
const CONNECTIONS_MAX: i64 = 19_000;

/// The work, the same for everybody.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Clients; each subscribes to a topic of its own and to one of everybody.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=CONNECTIONS_MAX))]
    pub connections: u32,
    /// Clients of the memory reading, which is of a server of its own: many, since memory is taken in steps.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(10..=CONNECTIONS_MAX))]
    pub idle: u32,
    /// Deliveries per second, in each of the three kinds of work.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    pub rate: u64,
    /// Payload, bytes; the first eight carry the time.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..=60_000))]
    pub bytes: u32,
    /// Messages to everybody that are under way at once, in merged fan-out.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub burst: u64,
    /// Length of each kind of work.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

impl Load {
    /// Most clients at once.
    pub fn clients_max(&self) -> u32 {
        self.connections.max(self.idle)
    }
}

/// Arguments of `moor-bench compare`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = super::FORMAT)]
pub struct CompareArguments {
    /// The load.
    #[command(flatten)]
    pub load: Load,
    /// Rounds. In each every server is started anew; a figure is the median of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub repeat: u32,
    /// Peers to measure beside the floor and the gateway; default: all of mosquitto, rumqttd, nats, redis, bun, ws.
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME")]
    pub peers: Option<Vec<String>>,
    /// Where a program is, such as `rumqttd=/opt/rumqttd`, when it is not on PATH; may be repeated. `moor` is the
    /// gateway, else the `moor-gateway` beside this program is taken.
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    pub program: Vec<(String, PathBuf)>,
    /// Where `--install` puts what npm and cargo make, and where it is looked for. Default: moor-bench in the user's
    /// cache.
    #[arg(long, value_name = "DIR")]
    pub peers_dir: Option<PathBuf>,
    /// Install the peers that are missing, with apt-get, npm and cargo, and print each command before. Needs root.
    #[arg(long)]
    pub install: bool,
    /// Exit with 3 when a peer is ahead of the gateway anywhere.
    #[arg(long)]
    pub ahead: bool,
    /// Write a JSON list with an entry for every system that was measured; --help explains it.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl CompareArguments {
    /// The directory of what npm and cargo make.
    pub fn directory(&self) -> PathBuf {
        let cache = || {
            let own = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
            own.or_else(home).unwrap_or_else(std::env::temp_dir).join("moor-bench")
        };
        self.peers_dir.clone().unwrap_or_else(cache)
    }
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            // Programs are started in directories of their own.
            let path = std::path::absolute(path).map_err(|error| error.to_string())?;
            Ok((name.to_owned(), path))
        }
        _ => Err("say NAME=PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_with_their_paths() {
        assert_eq!(named("nats=/opt/nats"), Ok(("nats".to_owned(), PathBuf::from("/opt/nats"))));
        assert!(named("nats").is_err() && named("=x").is_err() && named("x=").is_err());
        assert!(named("nats=relative").unwrap().1.is_absolute());
    }
}
