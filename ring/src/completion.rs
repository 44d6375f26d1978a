//! What a ring reports: every completion, decoded.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::errno::Errno;
use crate::recv_buffers::RecvBuffer;
use crate::sends::SendBuffer;
use crate::token::{Slot, Token};

/// What a receive brought.
#[derive(Debug)]
pub enum Recv<R = RecvBuffer> {
    /// At least one byte.
    Data(R),
    /// The peer closed its side.
    Eof,
}

/// A completion. `R` is the receive buffer, so that a simulation can bring its own.
#[derive(Debug)]
pub enum Completion<R = RecvBuffer> {
    /// A connection was accepted into a slot, or the multishot accept ended with an error.
    Accepted {
        /// The token of the accept.
        token: Token,
        /// The new connection. `NFILE`: the table is full; re-arm after a pause.
        result: Result<Slot, Errno>,
        /// True exactly when the accept is still armed.
        more: bool,
    },
    /// A one-shot poll fired: readable, or hung up. The next receive tells which.
    Ready {
        /// The token of the poll.
        token: Token,
        /// An error when the poll itself could not be armed.
        result: Result<(), Errno>,
    },
    /// A receive completed.
    Received {
        /// The token of the receive.
        token: Token,
        /// `NOBUFS`: no buffer was free and the receive ended; `AGAIN`: a single receive found
        /// nothing.
        result: Result<Recv<R>, Errno>,
        /// True exactly when a multishot receive is still armed.
        more: bool,
    },
    /// A send completed.
    Sent {
        /// The token of the send.
        token: Token,
        /// How many bytes the kernel took from the offset on; may be fewer than there were.
        result: Result<u32, Errno>,
        /// The buffer, which is the caller's again.
        buffer: SendBuffer,
    },
    /// A slot was emptied.
    Closed {
        /// The token of the close.
        token: Token,
        /// `BADF` when the slot was empty.
        result: Result<(), Errno>,
    },
    /// A connection was reset; its armed requests complete too.
    Reset {
        /// The token of the reset.
        token: Token,
        /// Whether the kernel did it.
        result: Result<(), Errno>,
    },
    /// A connection was made, or could not be; then its slot is already free again.
    Connected {
        /// The token of the connect.
        token: Token,
        /// The new connection.
        result: Result<Slot, Errno>,
    },
    /// A plain descriptor entered the table.
    Adopted {
        /// The token of the adoption.
        token: Token,
        /// Its slot; `NFILE` when the table is full. The plain descriptor is closed either way.
        result: Result<Slot, Errno>,
    },
    /// A plain descriptor for a slot; the slot stays open beside it.
    Installed {
        /// The token of the installation.
        token: Token,
        /// The descriptor; `NOSYS` before Linux 6.8.
        result: Result<OwnedFd, Errno>,
    },
    /// Who is at the other end of a connection.
    PeerAddress {
        /// The token of the question.
        token: Token,
        /// The address; `NOTCONN` when the peer is gone, `NOSYS` before Linux 6.8, `MFILE` when the process has no
        /// descriptor left.
        result: Result<SocketAddr, Errno>,
    },
    /// A descriptor given to another ring arrived there, or did not. The own slot is still open.
    Passed {
        /// The token of the handing over.
        token: Token,
        /// `NFILE` when the target's table is full, `OWNERDEAD` when the target is gone.
        result: Result<(), Errno>,
    },
    /// Another ring passed a descriptor.
    SlotPassed {
        /// What the other ring said with it, 56 bits.
        value: u64,
        /// Where it is in this ring's table.
        result: Result<Slot, Errno>,
    },
    /// A message from another ring.
    Message {
        /// What it said, 56 bits.
        value: u64,
    },
    /// A message to another ring could not be delivered.
    MessageFailed {
        /// What was to be said.
        value: u64,
        /// `OWNERDEAD` when the target is gone, `NOSYS` when messages are not available.
        error: Errno,
    },
    /// A doorbell that this ring watches was rung, once or more.
    Doorbell,
}
