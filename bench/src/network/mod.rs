//! The clients' end of their connections: sockets of this host's kernel, or a TCP of the harness's own.
//!
//! Over loopback the kernel carries a segment to the receiver's socket within the sender's call, so that a server pays for
//! what its clients' host would do: of a room's frame two fifths. On a tun device it pays for its own half.

mod kernel;
mod tcp;
mod tun;

use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::time::Duration;

use moor_ring::{Errno, RecvBuffer};

/// Clients of one ring: below a table of 20,000, which is what an untuned host may allow.
pub const CLIENTS_PER_RING_MAX: u32 = 19_000;

/// Whose TCP the clients' end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Stack {
    /// The kernel's, as everybody's.
    #[default]
    Kernel,
    /// The harness's own, on tun devices: no socket a client, and the server's work apart from its clients'.
    Tun,
}

impl Stack {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Tun => "tun",
        }
    }

    /// What a connection that does not come about may be due to.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Kernel => "",
            Self::Tun => {
                "; does the server listen on 0.0.0.0, with --limits-exempt 198.18.0.0/15 if it is a gateway?"
            }
        }
    }

    /// How many of so many clients one network of it has at most, on a host with so many descriptors a table and processors.
    pub fn clients_max(self, descriptors: u32, clients: u32, cpus: usize) -> u32 {
        match self {
            Self::Kernel => CLIENTS_PER_RING_MAX.min(descriptors),
            // Each processor has one to look after.
            Self::Tun => clients.div_ceil(u32::try_from(cpus).unwrap_or(1)).clamp(1, tcp::CLIENTS_MAX),
        }
    }
}

/// Which clients a network is for.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the network among those of the run.
    pub number: u32,
    /// Number of its first client among all.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where they connect. On a device it is the server's port that counts: the address is the device's.
    pub target: SocketAddr,
    /// A room's batch comes in one piece.
    pub long_reads: bool,
}

/// What has come of what a driver asked for, of one client.
#[derive(Debug)]
pub enum Event {
    /// It is connected, or why not.
    Connected(Result<(), Errno>),
    /// Bytes, which [`Network::done`] is told of.
    Received(Received),
    /// Nothing more will come: the server hung up, or the connection broke or was reset.
    Ended,
    /// So many bytes of a send are with the server, at last.
    Sent(Result<u32, Errno>),
    /// [`Network::close`] is done.
    Closed,
}

/// Bytes received, where they were put.
#[derive(Debug)]
pub enum Received {
    /// A ring's.
    Buffer(RecvBuffer),
    /// A packet, and the bytes in it.
    Packet(Vec<u8>, Range<usize>),
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Packet(packet, bytes) => &packet[bytes.clone()],
        }
    }
}

/// The connections of some clients, named by their index among these.
pub trait Network {
    /// Begins to connect one that has not been connected, or was closed.
    fn connect(&mut self, client: u32);

    /// Sends bytes. One send of a client is under way at a time.
    fn send(&mut self, client: u32, bytes: Vec<u8>);

    /// Ends a connection at once and without a word. [`Event::Ended`] follows.
    fn reset(&mut self, client: u32);

    /// Gives up a connection, by a reset if it is still there. [`Event::Closed`] follows.
    fn close(&mut self, client: u32);

    /// Carries out what was asked, and waits for `want` events or until `nap` is over.
    ///
    /// # Errors
    /// The ring or the device cannot be used any more.
    fn wait(&mut self, want: u32, nap: Option<Duration>) -> io::Result<()>;

    /// What has happened, oldest first.
    fn next(&mut self) -> Option<(u32, Event)>;

    /// Received bytes have been looked at; whether their client wants more.
    fn done(&mut self, client: u32, received: Received, goes_on: bool);

    /// How often bytes came of which some before are missing: the server has to send those again.
    fn gaps(&self) -> u64;
}

/// The network of some clients.
///
/// # Errors
/// What the kernel says of a ring or a device.
pub fn open(stack: Stack, place: &Place) -> io::Result<Box<dyn Network>> {
    Ok(match stack {
        Stack::Kernel => Box::new(kernel::Sockets::new(place)?),
        Stack::Tun => Box::new(tun::Device::new(place)?),
    })
}
