//! The two servers a message can be measured on: the gateway, and the floor it is compared with.

use std::fs;
use std::net::SocketAddr;

use crate::admin::Stats;
use crate::args::Load;
use crate::dialect::Dialect;
use crate::floor;

/// Microseconds of a clock tick of /proc, which is a hundredth of a second on every Linux.
const TICK_US: u64 = 10_000;

/// A server under load.
pub enum Side {
    /// A Moor gateway.
    Gateway {
        /// Client port.
        target: SocketAddr,
        /// Client ports of further gateways, over which clients are spread as well.
        also: Vec<SocketAddr>,
        /// URL of the admin port.
        admin: String,
        /// Internal port, when the arguments name it.
        internal: Option<SocketAddr>,
    },
    /// The floor, in a process of its own.
    Floor(floor::Process),
}

/// Processor time, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user_us: u64,
    /// In the kernel on its behalf.
    pub system_us: u64,
}

impl Cpu {
    /// Since an earlier reading.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }

    /// Both.
    pub const fn total_us(self) -> u64 {
        self.user_us + self.system_us
    }
}

impl Side {
    /// The gateway the arguments name.
    pub fn gateway(load: &Load) -> Self {
        let admin = load.admin.clone();
        Self::Gateway { target: load.target, also: Vec::new(), admin, internal: load.internal }
    }

    /// A new floor on a processor.
    pub fn floor(load: &Load, cpu: usize) -> Result<Self, String> {
        Ok(Self::Floor(floor::Process::start(load.connections, cpu)?))
    }

    /// How it is spoken to.
    pub const fn dialect(&self, load: &Load) -> Dialect {
        match self {
            Self::Gateway { .. } => {
                let Load { app, channels, transport, .. } = *load;
                Dialect::Moor { app, channels, websocket: transport.is_websocket(), chat: None }
            }
            Self::Floor(_) => Dialect::Bare,
        }
    }

    /// Where clients connect.
    pub fn targets(&self) -> Result<Vec<SocketAddr>, String> {
        match self {
            Self::Gateway { target, also, .. } => Ok([*target].iter().chain(also).copied().collect()),
            Self::Floor(process) => Ok(vec![process.address("clients")?]),
        }
    }

    /// Where pushes come from.
    pub fn internal(&self) -> Result<SocketAddr, String> {
        match self {
            Self::Gateway { internal: Some(internal), .. } => Ok(*internal),
            Self::Gateway { admin, .. } => {
                let stats = Stats::read(admin)?;
                let text = stats.text("/gateway/internal_address").unwrap_or("127.0.0.1:7200").to_owned();
                text.parse().map_err(|_| format!("the internal address {text} needs --internal ADDR"))
            }
            Self::Floor(process) => process.address("internal"),
        }
    }

    /// Processor time of its process.
    pub fn cpu(&self) -> Result<Cpu, String> {
        match self {
            Self::Gateway { admin, .. } => {
                let stats = Stats::read(admin)?;
                let number = |name| stats.number(name);
                Ok(Cpu {
                    user_us: number("/process/user_cpu_us"),
                    system_us: number("/process/system_cpu_us"),
                })
            }
            Self::Floor(process) => processor_time(process.pid()),
        }
    }
}

/// Processor time of any process.
pub fn processor_time(pid: u32) -> Result<Cpu, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path} cannot be read ({e})"))?;
    parse_stat(&text).ok_or_else(|| format!("{path} is not understood"))
}

/// Fields 14 and 15; the name before them may contain anything, so they are counted from its end.
fn parse_stat(text: &str) -> Option<Cpu> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut ticks = || fields.next()?.ok();
    Some(Cpu { user_us: ticks()? * TICK_US, system_us: ticks()? * TICK_US })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let text = "12 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 7 9 0 0 20 0 1 0 100 1000 10 0";
        assert_eq!(parse_stat(text), Some(Cpu { user_us: 70_000, system_us: 90_000 }));
        assert_eq!(parse_stat("12 (x) S 1"), None);
    }
}
