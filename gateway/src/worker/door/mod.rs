//! The front door: how many come in, how fast, from where, and how loud each may be once inside.
//!
//! Every limit protects those who are in already. What is over one waits where waiting costs nothing (connections stay
//! in the kernel's queue, handshakes in ours, as long as it is short), and is refused where it would cost something; a
//! counter says how often, and the log says so once a second. `census` counts by address and by app, for all workers
//! together; `pace` is a rate of one worker; `meter` watches the busy connections; `pressure` is the memory of the host.

mod accept;
pub mod census;
mod logins;
pub mod meter;
pub mod networks;
pub mod notices;
pub mod pace;
pub mod pressure;
pub mod proxy;

use std::sync::Arc;

pub use census::Census;
pub use meter::Meters;
pub use networks::Networks;
pub use notices::{Notice, Notices};
pub use pace::Pace;
pub use pressure::Pressure;

use super::io::Io;
use super::{Now, Worker};
use crate::limits::{
    ACCEPTS_PER_S_ASSUMED, MEMORY_LOOK_MS, REFUSED_BURST_MS, SERVICE_HANDSHAKES_PER_S, WAITING_BURST_MS,
};

/// What is limited, of one worker where nothing else is said. 0: no limit. It is the configuration's table of this name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections accepted a second.
    pub accepts_per_s: u32,
    /// TLS handshakes begun a second.
    pub handshakes_per_s: u32,
    /// Channels opened a second.
    pub logins_per_s: u32,
    /// From the gateway's start until these three have grown from a quarter to all of it, milliseconds.
    pub slow_start_ms: u64,
    /// Connections of one address, over all workers.
    pub connections_per_address: u32,
    /// Connections accepted a second of one address, over all workers.
    pub accepts_per_address_per_s: u32,
    /// Addresses that neither holds for.
    pub exempt: Networks,
    /// Sessions of one app, over all workers.
    pub sessions_per_app: u32,
    /// Channels opened a second by one app, over all workers.
    pub logins_per_app_per_s: u32,
    /// Frames a second of one connection.
    pub frames_per_connection_per_s: u32,
    /// Messages a second of one channel.
    pub messages_per_channel_per_s: u32,
}

/// What all workers of a gateway know together. Cheap to clone: every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Connections by address.
    pub addresses: Arc<Census>,
    /// Sessions by app.
    pub apps: Arc<Census>,
    /// How much memory the host has left.
    pub pressure: Pressure,
}

impl Limits {
    /// Whether connections are counted by address.
    #[must_use]
    pub const fn counts_addresses(&self) -> bool {
        self.connections_per_address > 0 || self.accepts_per_address_per_s > 0
    }

    /// Whether sessions of apps are counted.
    #[must_use]
    pub const fn counts_apps(&self) -> bool {
        self.sessions_per_app > 0 || self.logins_per_app_per_s > 0
    }

    /// How long it takes to accept so many connections, milliseconds.
    #[must_use]
    pub fn acceptance_ms(&self, connections: u32) -> u32 {
        let per_s = if self.accepts_per_s == 0 { u32::MAX } else { self.accepts_per_s };
        let per_s = per_s.min(ACCEPTS_PER_S_ASSUMED);
        u32::try_from(u64::from(connections) * 1000 / u64::from(per_s)).unwrap_or(u32::MAX)
    }
}

/// The door of one worker.
#[derive(Debug)]
pub struct Door {
    /// Of accepting.
    pub accepts: Pace,
    /// Of TLS handshakes.
    pub handshakes: Pace,
    /// Of TLS handshakes of services.
    pub services: Pace,
    /// Of channels.
    pub logins: Pace,
    /// Of busy connections.
    pub meters: Meters,
    /// Of what is refused.
    pub notices: Notices,
    /// True while accepting is being, or has been, stopped because connections came too fast.
    pub paused: bool,
    /// When memory and meters were looked at last, milliseconds.
    pub looked_ms: u64,
}

impl Door {
    /// As it stands when the gateway starts.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let pace = |per_s, burst_ms| Pace::new(per_s, burst_ms, limits.slow_start_ms);
        Self {
            accepts: pace(limits.accepts_per_s, WAITING_BURST_MS),
            handshakes: pace(limits.handshakes_per_s, WAITING_BURST_MS),
            services: Pace::new(SERVICE_HANDSHAKES_PER_S, REFUSED_BURST_MS, 0),
            logins: pace(limits.logins_per_s, REFUSED_BURST_MS),
            meters: Meters::default(),
            notices: Notices::default(),
            paused: false,
            looked_ms: 0,
        }
    }
}

impl<I: Io> Worker<I> {
    /// Looks once a second at how much memory is left, and forgets who has been quiet.
    pub(super) fn door_step(&mut self, now: Now) {
        if now.0 < self.door.looked_ms + MEMORY_LOOK_MS {
            return;
        }
        self.door.looked_ms = now.0;
        self.door.meters.tidy(now.0);
        self.pressure_step(now);
    }
}
