//! NATS: core publish and subscribe, no JetStream.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// The NATS server.
pub const NATS: Peer = Peer {
    name: "nats",
    dialect: Dialect::Nats,
    guarantee: "at most once, in order; a reader that is too slow is closed",
    source: Source::Debian("nats-server"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(NATS.name, "nats-server")?;
    let version = word_after(&program, &["--version"], "nats-server: v");
    Some(Found { program, version, library: None })
}

/// Go takes as many threads as it has processors, which is one here.
fn plan(_: &Found, place: &Place) -> Plan {
    let configuration = format!(
        "listen: \"127.0.0.1:{}\"\nmax_connections: {}\nping_interval: \"1h\"\nlog_file: {:?}\n",
        place.ports[0],
        place.connections_max(),
        place.path("nats.log"),
    );
    Plan::new(place, &["-c", &place.path("nats.conf")]).file("nats.conf", configuration)
}
