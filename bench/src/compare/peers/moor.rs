//! Moor: `moor-gateway` beside this program, one worker, its router in the same process or in one of its own.

use std::path::PathBuf;

use super::{Found, Peer, Place, Plan, Source};
use crate::child;
use crate::compare::find::{Places, word_after};
use crate::dialect::{APP, Dialect};

const GUARANTEE: &str = "at most once, in order; the service is told of a session that is not here, and a reader that \
                         is too slow is closed, not skipped";

/// The gateway as it is started without any flag: its router in the same process.
pub const MOOR: Peer = Peer {
    name: "moor",
    dialect: Dialect::Moor { app: APP, channels: 1, websocket: false, chat: None },
    guarantee: GUARANTEE,
    source: Source::Workspace,
    find,
    plan: |_, place| with_router(place, "embedded"),
};

/// One of several gateways: their router is another process, which is not measured.
pub const ALONE: Peer = Peer {
    name: "moor-alone",
    find: |places| find(places).filter(|found| router(found).is_file()),
    plan: |found, place| {
        let at = place.address(3).to_string();
        let arguments =
            ["--listen", &at, "--admin", &place.address(2).to_string(), "--data", &place.path("data")];
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Plan { companion: Some((router(found), arguments)), ..with_router(place, &at) }
    },
    ..MOOR
};

fn find(places: &Places) -> Option<Found> {
    let program = places.given(MOOR.name).or_else(|| child::beside_us("moor-gateway").ok())?;
    let version = word_after(&program, &["--version"], "moor-gateway ");
    Some(Found { program, version, library: None })
}

fn router(found: &Found) -> PathBuf {
    found.program.with_file_name("moor-router")
}

fn with_router(place: &Place, router: &str) -> Plan {
    let [listen, internal, admin, own] = [0, 1, 4, 3].map(|index| place.address(index).to_string());
    let ports = ["--listen", &listen, "--internal", &internal, "--admin", &admin, "--router", router];
    let data = place.path("data");
    let embedded: &[&str] =
        if router == "embedded" { &["--router-listen", &own, "--data", &data] } else { &[] };
    let rest = ["--workers", "1", "--node", "compare"];
    Plan { services: place.address(1), ..Plan::new(place, &[&ports[..], embedded, &rest].concat()) }
}
