//! What this host gives: cores, descriptors, its name. Each is asked once, at start.

use crate::limits::RESERVED_SLOTS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most slots of one descriptor table (`IORING_MAX_FIXED_FILES`, kernel 6.1 to 6.18).
const TABLE_SLOTS_MAX: u64 = 1 << 20;

/// One worker per core that this process may run on (affinity and cgroup quota are respected).
#[must_use]
pub fn workers_auto() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// Raises the soft limit of open descriptors to the hard one and returns what then holds. A ring's
/// descriptor table may have that many slots; the kernel checks when the table is registered, per table.
#[must_use]
pub fn descriptors_raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the soft limit of open descriptors to the hard one");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(TABLE_SLOTS_MAX)
}

/// Connections for a descriptor table: all of it but the slots the worker needs for itself.
pub(super) fn connections_auto(descriptors: u64) -> u32 {
    let slots = u32::try_from(descriptors.min(TABLE_SLOTS_MAX)).unwrap_or(u32::MAX);
    slots.saturating_sub(RESERVED_SLOTS).max(1)
}

/// Most connections that can be asked for per worker.
pub(super) fn connections_max() -> u32 {
    connections_auto(TABLE_SLOTS_MAX)
}

/// The host's name, when it has one that tells hosts apart.
pub(super) fn host_name() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().ok()?;
    let short: String =
        name.split('.').next()?.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    (!short.is_empty() && short != "localhost").then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_connections_leave_the_reserved_slots() {
        assert_eq!(connections_auto(20_000), 20_000 - RESERVED_SLOTS);
        assert_eq!(connections_auto(u64::MAX), (1 << 20) - RESERVED_SLOTS);
        assert_eq!(connections_auto(1), 1);
    }

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let raised = descriptors_raise();
        assert_eq!(Some(raised), getrlimit(Resource::Nofile).maximum.or(Some(TABLE_SLOTS_MAX)));
    }
}
