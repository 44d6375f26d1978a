//! The servers compared: one file each says how it is found, configured and started.
//!
//! All get one processor, one port for clients and one for services (the same where the protocol is), a directory
//! that is removed afterwards, no persistence, no logging and as many connections as are asked for. What their
//! authors chose otherwise is left as it is.

mod bun;
mod floor;
mod moor;
mod mosquitto;
mod nats;
mod redis;
mod rumqttd;
mod ws;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::find::Places;
use crate::dialect::Dialect;

/// A kind of server.
pub struct Peer {
    /// Its name in tables, arguments and JSON.
    pub name: &'static str,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// What becomes of a message in the mode that is measured.
    pub guarantee: &'static str,
    /// How one gets it.
    pub source: Source,
    /// Finds it on this machine.
    pub find: fn(&Places) -> Option<Found>,
    /// How it is started.
    pub plan: fn(&Found, &Place) -> Plan,
}

/// Where a server comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Debian package.
    Debian(&'static str),
    /// A package of npm.
    Npm(&'static str),
    /// A crate with a program.
    Cargo(&'static str),
    /// This workspace.
    Workspace,
}

/// A server that is installed.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its program.
    pub program: PathBuf,
    /// What it says its version is.
    pub version: String,
    /// Where its libraries are, if it needs to be told.
    pub library: Option<PathBuf>,
}

/// Where a server is to run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its directory.
    pub directory: PathBuf,
    /// The processor it is on.
    pub cpu: usize,
    /// Clients that will come.
    pub connections: u32,
    /// Free ports.
    pub ports: [u16; 5],
}

impl Place {
    /// One of its addresses.
    pub fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.get(index).copied().unwrap_or(0)))
    }

    /// Connections that it must be able to hold: the clients, services, and one to see that it listens.
    pub const fn connections_max(&self) -> u32 {
        self.connections + 100
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What its directory holds.
    pub files: Vec<(&'static str, String)>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment beyond ours.
    pub environment: Vec<(&'static str, String)>,
    /// What must listen before it can start, and is not measured: program and arguments. It listens at the fourth port.
    pub companion: Option<(PathBuf, Vec<String>)>,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where services connect.
    pub services: SocketAddr,
}

impl Plan {
    /// One port for all, nothing but arguments.
    fn new(place: &Place, arguments: &[&str]) -> Self {
        Self {
            files: Vec::new(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            companion: None,
            clients: place.address(0),
            services: place.address(0),
        }
    }

    fn file(mut self, name: &'static str, text: String) -> Self {
        self.files.push((name, text));
        self
    }
}

/// What is measured in any case: the yardstick and the gateway.
pub const OWN: [&Peer; 3] = [&floor::FLOOR, &moor::MOOR, &moor::ALONE];

/// What they are compared with.
pub const PEERS: [&Peer; 6] =
    [&mosquitto::MOSQUITTO, &rumqttd::RUMQTTD, &nats::NATS, &redis::REDIS, &bun::BUN, &ws::WS];

/// The name of the gateway.
pub const GATEWAY: &str = moor::MOOR.name;
/// What the peers are compared with.
pub const GATEWAYS: [&str; 2] = [GATEWAY, moor::ALONE.name];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_listens_where_it_says_and_keeps_to_its_directory() {
        let place = Place {
            directory: PathBuf::from("/nowhere/compare"),
            cpu: 0,
            connections: 50,
            ports: [61_001, 61_002, 61_003, 61_004, 61_005],
        };
        let found = Found {
            program: PathBuf::from("/nowhere/program"),
            version: "1".to_owned(),
            library: Some(PathBuf::from("/nowhere/node_modules")),
        };
        for peer in OWN.into_iter().chain(PEERS) {
            let plan = (peer.plan)(&found, &place);
            let mut said = plan.arguments.join(" ");
            for (name, text) in &plan.files {
                assert!(said.contains(&place.path(name)), "{} is not told of {name}", peer.name);
                said.push_str(text);
            }
            for address in [plan.clients, plan.services] {
                assert!(
                    said.contains(&address.port().to_string()),
                    "{} does not listen at {address}",
                    peer.name
                );
            }
        }
    }
}
