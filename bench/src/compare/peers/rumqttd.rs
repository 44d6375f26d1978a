//! rumqttd, an MQTT broker in Rust.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// rumqttd.
pub const RUMQTTD: Peer = Peer {
    name: "rumqttd",
    dialect: Dialect::Mqtt,
    guarantee: "at most once, in order (QoS 0); what is older than its log is skipped",
    source: Source::Cargo("rumqttd"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(RUMQTTD.name, "rumqttd")?;
    let version = word_after(&program, &["--version"], "rumqttd ");
    Some(Found { program, version, library: None })
}

/// The figures of its own sample configuration, but for connections and the pause between two of them.
fn plan(_: &Found, place: &Place) -> Plan {
    let configuration = format!(
        "id = 0\n[router]\nid = 0\nmax_connections = {}\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4\"\nlisten = \"127.0.0.1:{}\"\nnext_connection_delay_ms = 0\n\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 65536\n\
         max_inflight_count = 100\ndynamic_filters = true\n",
        place.connections_max(),
        place.ports[0],
    );
    Plan::new(place, &["--quiet", "--config", &place.path("rumqttd.toml")])
        .file("rumqttd.toml", configuration)
}
