//! Redis as a relay: pub/sub, nothing stored.

use super::{Found, Peer, Place, Plan, Source};
use crate::compare::find::{Places, word_after};
use crate::dialect::Dialect;

/// Redis.
pub const REDIS: Peer = Peer {
    name: "redis",
    dialect: Dialect::Resp,
    guarantee: "at most once, in order; the service is told how many got it",
    source: Source::Debian("redis-server"),
    find,
    plan,
};

fn find(places: &Places) -> Option<Found> {
    let program = places.program(REDIS.name, "redis-server")?;
    let version = word_after(&program, &["--version"], "v=");
    Some(Found { program, version, library: None })
}

/// Clients come from many loopback addresses, which its protected mode takes for strangers.
fn plan(_: &Found, place: &Place) -> Plan {
    let configuration = format!(
        "bind 127.0.0.1\nprotected-mode no\nport {}\nmaxclients {}\ntcp-backlog 4096\nclient-output-buffer-limit pubsub 0 0 0\n\
         save \"\"\nappendonly no\nio-threads 1\nloglevel warning\nlogfile {:?}\ndir {:?}\n",
        place.ports[0],
        place.connections_max(),
        place.path("redis.log"),
        place.path(""),
    );
    Plan::new(place, &[&place.path("redis.conf")]).file("redis.conf", configuration)
}
