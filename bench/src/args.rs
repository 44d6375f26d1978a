//! Arguments, and what they mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::compare::CompareArguments;
use crate::dialect::APP;
use crate::floor::FloorArguments;
use crate::groups::GroupsLoad;
use crate::hostile::Attack;
use crate::network::Stack;
use crate::page::ReportArguments;
use crate::rooms::RoomsLoad;
use crate::scenario::RunArguments;

const EXAMPLES: &str = "\
Examples (with the appliance running: cargo run --release -- --workers 6):
  moor-bench connect --connections 50000             how fast do connections and logins go?
  moor-bench hold --connections 100000 --seconds 60  does it hold them, and what does each cost?
  moor-bench ping --connections 10000 --rate 20000   how long does a heartbeat take?
  moor-bench push --connections 15000 --rate 20000   how long does a push to a random session take?
  moor-bench push --connections 15000 --rate 20000 --floor --repeat 3
                                                     and what does it cost above the least possible work?
  moor-bench chat --connections 1000 --rate 500      how long from one client through the router's disk to another?
  moor-bench mixed --connections 200000 --seconds 60 what does a session notice that gets a message a minute?
  moor-bench storm --connections 22000 --drop 20000  and when most of them drop and come back at once?
  moor-bench hostile --connections 10000 --seconds 5 what do good sessions notice of bad ones?
  moor-bench fanout --connections 15000 --rate 120000 --burst 8 --floor
                                                     one message to everybody, eight at a time
  moor-bench rooms --connections 20000 --rate 1000   and when they are all in one room?
  moor-bench hold --connections 1000000 --stack tun  and when no client costs this host a socket?
  moor-bench compare --json peers.json               and what would others take for it? Starts everything itself
  moor-bench run bench/scenarios/router-killed.toml and when the router is killed meanwhile? Starts everything itself
  moor-bench run bench/scenarios/tenants.toml        and what does an app notice of one at ten times its messages?
  moor-bench run bench/scenarios/tenants-sessions.toml
                                                     or bytes, sessions, rooms, storage: one file each
  moor-bench report push.json hold.json --html report.html --markdown report.md
                                                     what do the results of --json look like?

Exit codes: 0 the server held, 3 it fell short, 4 the harness could not keep up (nothing is said about the
server then), 2 it could not be measured.";

/// Load on a Moor gateway, with numbers one can rely on.
///
/// Connections are direct descriptors of io_uring rings, 19,000 a ring, so that RLIMIT_NOFILE (which holds per
/// table) does not bound them; towards loopback they come from many source addresses (127.1.0.0/16). Rates are
/// open loop: latency counts from the moment something should have been sent.
#[derive(Debug, Parser)]
#[command(name = "moor-bench", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub subcommand: Sub,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Sub {
    /// Connect and log in as fast as it goes.
    Connect(Load),
    /// Connect, then hold with heartbeats; memory per session; a push to some of them at the end.
    Hold(Load),
    /// Echo: PING to PONG, at a rate.
    Ping(Load),
    /// Push to random sessions through the internal port, at a rate.
    Push(Load),
    /// Messages from client to client, at a rate: each is stored by the router, answered and delivered. What is refused
    /// (quotas, levels, full queues) is counted by its code; what was taken and does not arrive is lost.
    Chat(ChatLoad),
    /// One message to every session, again and again, through the internal port.
    Fanout(Load),
    /// MigratoryData's published shape: every session gets 512 bytes a minute, at random, with heartbeats beside.
    /// Tell it --rate and --bytes for another.
    Mixed(Load),
    /// Many sessions drop at once and come back: how long does it take, do the others notice, is the router right
    /// at the end?
    Storm(StormLoad),
    /// Good sessions send heartbeats while strangers do their worst, one kind after the other: slow requests, half
    /// handshakes, endless headers, floods. The 99th percentile is compared with that of a calm before.
    Hostile(HostileLoad),
    /// One group, all its members online on several gateways, talking at a rate: how long until each member has each
    /// message, and what does the router write for it?
    Groups(GroupsLoad),
    /// One room that everybody enters, or many, on one gateway or several, with messages into them at a rate: what arrives, how
    /// late, and what pushes to single sessions notice. Then many leave and come back at once.
    Rooms(RoomsLoad),
    /// What the gateway costs above the floor: push, fan-out, merged fan-out, ping and connect, in one run. --rate
    /// and --burst are the run's own.
    Ratio(Load),
    /// What people use today (mosquitto, rumqttd, NATS, Redis, Bun, ws) side by side with the gateway on the same work:
    /// processor time per delivery, memory per idle client, latency. Starts all of them by itself.
    Compare(CompareArguments),
    /// The yardstick: a bare server without protocol and state, on one thread. `--floor` starts it by itself.
    Floor(FloorArguments),
    /// A scenario from a file: servers, loads, faults, promises.
    Run(RunArguments),
    /// Results as one self-contained HTML page, or as Markdown: percentile plots, memory over time, machine, kernel,
    /// commit and command line.
    Report(ReportArguments),
}

/// Work for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Logins.
    Connect,
    /// Held sessions.
    Hold,
    /// Echoes.
    Ping,
    /// Pushes to random sessions.
    Push,
    /// Messages from client to client.
    Chat,
    /// Pushes to everybody.
    Fanout,
    /// Pushes to random sessions, so many bytes each a minute.
    Mixed,
    /// Sessions that drop and come back.
    Storm,
    /// Sessions in a room.
    Rooms,
}

impl Work {
    /// Its subcommand.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Hold => "hold",
            Self::Ping => "ping",
            Self::Push => "push",
            Self::Chat => "chat",
            Self::Fanout => "fanout",
            Self::Mixed => "mixed",
            Self::Storm => "storm",
            Self::Rooms => "rooms",
        }
    }
}

/// What carries a client's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// TCP itself.
    #[default]
    Tcp,
    /// TLS.
    Tls,
    /// Messages of a WebSocket.
    Ws,
    /// Messages of a WebSocket over TLS.
    Wss,
}

impl Transport {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether there is TLS.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether there are messages of a WebSocket.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// The load.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// The gateway's client port.
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDR")]
    pub target: SocketAddr,
    /// The gateway's admin port, for its memory and processor time.
    #[arg(long, default_value = "http://127.0.0.1:7400", value_name = "URL")]
    pub admin: String,
    /// The gateway's internal port, for `push`; default: what the admin port says.
    #[arg(long, value_name = "ADDR")]
    pub internal: Option<SocketAddr>,
    /// The app that clients log in to.
    #[arg(long, default_value = APP, value_parser = app)]
    pub app: &'static str,
    /// Connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub connections: u32,
    /// Channels on each connection: the same account in so many apps, APP, APP-2 and so on. Messages use the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub channels: u16,
    /// What carries the protocol, all on the same port.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// Whose TCP the clients use. With `tun` it is the harness's own, behind a tun device: the server does its own half of the
    /// work and no more, as with clients on other hosts, and a client costs this host no socket. It needs root, and a gateway
    /// with `--listen 0.0.0.0:7100 --credentials-anonymous true --limits-exempt 127.0.0.0/8,198.18.0.0/15`, of which only the
    /// port counts; in a network namespace of their own (`unshare --net`, then `ip link set lo up`) nobody else sees them.
    #[arg(long, value_enum, default_value_t = Stack::Kernel)]
    pub stack: Stack,
    /// Clients over TLS resume with tickets; otherwise every handshake is a full one.
    #[arg(long)]
    pub resume: bool,
    /// How long to measure after everybody is logged in.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Pushes, pings or messages per second; of `fanout`: deliveries per second, all sessions together. Default: 10,000;
    /// of `mixed` one a minute for each connection; of `chat`, `storm` and `rooms` 1,000.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,
    /// Payload of a push or a message, bytes; the first eight carry the time. Default: 128; of `mixed` 512.
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=60_000))]
    pub bytes: Option<u32>,
    /// Messages of `fanout` that go out at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub burst: u64,
    /// Sessions of `hold`, chosen at random, that are sent one push each when it has held; all must arrive.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=5_000_000))]
    pub touch: u64,
    /// Measure the floor as well, in turn with the gateway, and print the ratio. The floor runs on the first
    /// processor, the harness on the last; start the gateway with `--workers 1`, so that it has one as well.
    #[arg(long)]
    pub floor: bool,
    /// Rounds: a figure is the median of them, told with the least and the most. Memory is weighed in the first, since a
    /// process does not grow a second time by what it has held before. `storm` has one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub repeat: u32,
    /// Heartbeat interval, seconds, at most what the server proposes. Default: 30; of `mixed` and `rooms` what the
    /// server proposes, as a real client does.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub heartbeat: Option<u64>,
    /// Longest time for everybody to log in, seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub connect_limit: u64,
    /// Clients insist where a login, or entering a room, is one too many of their app (LIMIT): they ask again after so long,
    /// milliseconds, and are counted. Without it they are given up, and the run falls short.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub insist: Option<u64>,
    /// Write all figures to this file as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A bound that a figure must keep, such as `gateway_user_bytes_per_session<=512`; may be repeated.
    #[arg(long, value_name = "KEY<=VALUE")]
    pub require: Vec<Bound>,
}

impl Load {
    /// Time to measure.
    pub const fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Pushes, pings or deliveries per second.
    pub fn rate(&self, work: Work) -> u64 {
        self.rate.unwrap_or(match work {
            Work::Mixed => u64::from(self.connections).div_ceil(60),
            Work::Chat | Work::Storm | Work::Rooms => 1_000,
            _ => 10_000,
        })
    }

    /// Longest heartbeat interval, milliseconds.
    pub fn heartbeat_ms_max(&self, work: Work) -> u64 {
        match self.heartbeat {
            Some(seconds) => seconds * 1000,
            None if matches!(work, Work::Mixed | Work::Rooms) => u64::MAX / 1000,
            None => 30_000,
        }
    }

    /// Payload of a push, bytes.
    pub fn bytes(&self, work: Work) -> usize {
        self.bytes.unwrap_or(if work == Work::Mixed { 512 } else { 128 }) as usize
    }
}

/// The name of an app. It lives as long as the process, so that whatever says it may be copied.
pub fn app(name: &str) -> Result<&'static str, String> {
    moor_wire::identity::check_app(name).map_err(|error| error.to_string())?;
    Ok(name.to_owned().leak())
}

/// The load of a chat.
#[derive(Clone, Debug, Args)]
pub struct ChatLoad {
    /// Everything else.
    #[command(flatten)]
    pub load: Load,
    /// The router, asked at the end what the app's messages take there.
    #[arg(long, value_name = "ADDR")]
    pub router: Option<SocketAddr>,
}

/// The load of a storm. `--seconds` is the calm before it; `--rate` pings a second go to those who stay.
#[derive(Clone, Debug, Args)]
pub struct StormLoad {
    /// Everything else.
    #[command(flatten)]
    pub load: Load,
    /// Sessions that drop; default: ten of eleven.
    #[arg(long, value_name = "COUNT")]
    pub drop: Option<u32>,
    /// They come back within this time, at random; 0: as fast as the harness can.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub spread: u64,
    /// All must be back this long after they dropped, seconds.
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub back_within: u64,
    /// The router, asked at the end where everybody is; default: the one in the gateway's process.
    #[arg(long, value_name = "ADDR")]
    pub router: Option<SocketAddr>,
}

impl StormLoad {
    /// Sessions that drop.
    pub fn dropping(&self) -> u32 {
        let all = self.load.connections;
        self.drop.unwrap_or_else(|| all - all.div_ceil(11)).min(all)
    }
}

/// The load of good sessions among bad ones. `--seconds` is the length of each attack.
#[derive(Clone, Debug, Args)]
pub struct HostileLoad {
    /// The good sessions.
    #[command(flatten)]
    pub load: Load,
    /// Only these attacks; default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub attack: Vec<Attack>,
    /// Connections of attackers a second; default: 1,000, and 500 where each costs a signature.
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub visits: Option<u64>,
    /// Frames of flooders a second, all together.
    #[arg(long, default_value_t = 100_000, value_name = "PER_S", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub frames: u64,
    /// So often all of them, one after the other. With two or more `growth_bytes` tells whether what the gateway holds when
    /// everybody has gone comes to rest: the most of the later half of the cycles less the most of the earlier half.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub cycles: u32,
}

impl HostileLoad {
    /// What is done, one after the other.
    pub fn attacks(&self) -> Vec<Attack> {
        if self.attack.is_empty() { Attack::ALL.to_vec() } else { self.attack.clone() }
    }

    /// How often a second.
    pub fn attack_rate(&self, attack: Attack) -> u64 {
        match attack {
            Attack::PingFlood | Attack::TinyFrames => self.frames,
            Attack::HalfHandshakes => self.visits.unwrap_or(500),
            _ => self.visits.unwrap_or(1000),
        }
    }
}

/// A bound on a figure.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Which figure.
    pub key: String,
    /// True: at most; false: at least.
    pub at_most: bool,
    /// The bound.
    pub value: f64,
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value, at_most) = match (text.split_once("<="), text.split_once(">=")) {
            (Some((key, value)), _) => (key, value, true),
            (_, Some((key, value))) => (key, value, false),
            _ => return Err("say KEY<=VALUE or KEY>=VALUE".to_owned()),
        };
        let value = value.trim().parse().map_err(|_| format!("{value} is not a number"))?;
        Ok(Self { key: key.trim().to_owned(), at_most, value })
    }
}

impl Bound {
    /// Whether a figure keeps it.
    pub fn holds(&self, figure: f64) -> bool {
        if self.at_most { figure <= self.value } else { figure >= self.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_and_kept() {
        let most: Bound = "lost<=0".parse().unwrap();
        assert!(most.holds(0.0) && !most.holds(1.0));
        let least: Bound = "connect_per_s >= 15000".parse().unwrap();
        assert!(least.key == "connect_per_s" && least.holds(15_000.0) && !least.holds(1.0));
        assert!("lost=0".parse::<Bound>().is_err());
    }

    #[test]
    fn an_app_has_a_name_that_the_server_would_take() {
        let app_of = |said: &[&str]| match Arguments::try_parse_from([&["moor-bench", "ping"], said].concat())
        {
            Ok(Arguments { subcommand: Sub::Ping(load) }) => Ok(load.app),
            other => Err(format!("{other:?}")),
        };
        assert_eq!((app_of(&[]), app_of(&["--app", "shop"])), (Ok(APP), Ok("shop")));
        assert!(app_of(&["--app", ""]).unwrap_err().contains("app"));
    }

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
