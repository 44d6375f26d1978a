//! Eclipse Mosquitto, an MQTT broker: one thread.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// Mosquitto.
pub const MOSQUITTO: Peer = Peer {
    name: "mosquitto",
    dialect: Dialect::Mqtt,
    guarantee: "at most once, in order (QoS 0)",
    source: Source::Debian("mosquitto"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(MOSQUITTO.name, "mosquitto")?;
    let version = word_after(&program, &["-h"], "mosquitto version ");
    Some(Found { program, version, library: None })
}

/// Queues have no bound, so that nothing is skipped; `user` keeps it from giving up the right to its own directory.
fn plan(_: &Found, place: &Place) -> Plan {
    let configuration = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nmax_connections {}\nmax_queued_messages 0\n\
         persistence false\nlog_type none\nuser root\n",
        place.ports[0],
        place.connections_max(),
    );
    Plan::new(place, &["-c", &place.path("mosquitto.conf")]).file("mosquitto.conf", configuration)
}
