//! What a worker asks of the kernel.
//!
//! The worker is generic over [`Io`], so that a simulation can drive the very code that production runs.
//! Requests never fail here: whatever becomes of them arrives as a [`Completion`].

use std::net::SocketAddr;

pub use moor_ring::{Completion, Errno, Recv, SendBuffer, Slot, Token};

/// Which listener an accepted connection came from; the index of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Listener {
    /// Clients' port.
    Clients = 0,
    /// Internal port.
    Internal = 1,
}

impl Listener {
    /// The listener a token stands for.
    #[must_use]
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::Clients),
            1 => Some(Self::Internal),
            _ => None,
        }
    }

    /// Token of its accept request.
    #[must_use]
    pub const fn token(self) -> Token {
        Token::new(self as u32, 0)
    }
}

/// Index of a worker in its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

impl WorkerId {
    /// As an index into per-worker tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The kernel as a worker sees it.
pub trait Io {
    /// A received piece of a stream, which may be changed in place; given back with [`Io::recycle`].
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// Accept from now on, each connection into a free slot.
    fn accept(&mut self, listener: Listener);
    /// Leaves connections in the listener's queue until [`Io::accept`]; the accept request ends as cancelled.
    fn pause_accept(&mut self, listener: Listener);
    /// Ask where a connection comes from.
    fn peer_address(&mut self, slot: Slot, token: Token);
    /// Closes a listener; its accept request ends.
    fn stop_listening(&mut self, listener: Listener);
    /// One completion when there is something to read or the peer is gone.
    fn poll_readable(&mut self, slot: Slot, token: Token);
    /// Read once into a buffer of the kernel's choice, without waiting.
    fn recv_once(&mut self, slot: Slot, token: Token);
    /// Read whatever arrives until told otherwise.
    fn recv_multishot(&mut self, slot: Slot, token: Token);
    /// End a multishot read: it completes as cancelled.
    fn cancel_recv(&mut self, token: Token);
    /// Send `buffer[offset..]`; the buffer comes back with the completion.
    fn send(&mut self, slot: Slot, token: Token, buffer: SendBuffer, offset: u32);
    /// Give the descriptor up. Only with no other request on it.
    fn close(&mut self, slot: Slot, token: Token);
    /// Abort the connection: RST to the peer; every armed request completes.
    fn reset(&mut self, slot: Slot, token: Token);
    /// Connect out into a free slot, or learn within seconds that nobody answers.
    fn connect(&mut self, address: SocketAddr, token: Token);
    /// Wake another worker to look into its mailbox.
    fn wake(&mut self, worker: WorkerId);
    /// Hand a descriptor to another worker, which sees it with `value`.
    fn pass(&mut self, slot: Slot, worker: WorkerId, value: u64, token: Token);
    /// Give a receive buffer back to the kernel.
    fn recycle(&mut self, buffer: Self::Buffer);
}
