//! Node.js with the `ws` package: what most people begin with.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// `ws` on Node.js.
pub const WS: Peer = Peer {
    name: "ws",
    dialect: Dialect::WebSocket,
    guarantee: "at most once, in order",
    source: Source::Npm("ws"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(WS.name, "node")?;
    let library = places.node_modules().into_iter().find(|directory| directory.join("ws").is_dir())?;
    let package = std::fs::read_to_string(library.join("ws/package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_str(&package).ok()?;
    let own = package["version"].as_str().unwrap_or("?");
    let version = format!("{own} (node {})", word_after(&program, &["--version"], "v"));
    Some(Found { program, version, library: Some(library) })
}

fn plan(found: &Found, place: &Place) -> Plan {
    let (script, port) = (place.path("ws.cjs"), place.ports[0].to_string());
    let mut plan =
        Plan::new(place, &[&script, "127.0.0.1", &port]).file("ws.cjs", include_str!("ws.cjs").to_owned());
    let library = found.library.iter().map(|path| ("NODE_PATH", path.display().to_string()));
    plan.environment.extend(library);
    plan
}
