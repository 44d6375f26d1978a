//! The floor: the least work a server can do on the same sockets (see `moor-bench floor`).

use super::{Found, Peer, Place, Plan, Source};
use crate::dialect::Dialect;

/// The yardstick.
pub const FLOOR: Peer = Peer {
    name: "floor",
    dialect: Dialect::Bare,
    guarantee: "none: bytes are written, nothing is remembered",
    source: Source::Workspace,
    find: |_| {
        let version = format!("moor-bench {}", env!("CARGO_PKG_VERSION"));
        Some(Found { program: std::env::current_exe().ok()?, version, library: None })
    },
    plan,
};

fn plan(_: &Found, place: &Place) -> Plan {
    let (listen, internal) = (place.address(0), place.address(1));
    let arguments = ["--listen", &listen.to_string(), "--internal", &internal.to_string()];
    let more = ["--cpu", &place.cpu.to_string(), "--connections", &place.connections_max().to_string()];
    Plan { services: internal, ..Plan::new(place, &[&["floor"][..], &arguments, &more].concat()) }
}
