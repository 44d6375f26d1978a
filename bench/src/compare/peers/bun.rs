//! Bun's WebSocket server, which is uWebSockets inside: the fastest of its kind that a registry has.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// Bun.
pub const BUN: Peer = Peer {
    name: "bun",
    dialect: Dialect::WebSocket,
    guarantee: "at most once, in order",
    source: Source::Npm("bun"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(BUN.name, "bun")?;
    let version = word_after(&program, &["--version"], "");
    Some(Found { program, version, library: None })
}

fn plan(_: &Found, place: &Place) -> Plan {
    let (script, port) = (place.path("bun.js"), place.ports[0].to_string());
    Plan::new(place, &["run", &script, "127.0.0.1", &port]).file("bun.js", include_str!("bun.js").to_owned())
}
