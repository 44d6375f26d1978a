//! For conformance cases, and only with the feature `websocket-echo`: messages come back as they are.
//!
//! A gateway whose path for upgrades is [`ECHO_PATH`] takes no frames. All else is what production runs: the kernel's
//! buffers, both receive tiers, the upgrade, the decoder, queues, sends and the three steps of closing. A message that
//! has begun waits where the start of a frame does.

use moor_ring::Slot;
use moor_websocket::decode::Piece;
use moor_websocket::encode::{frame_bytes, put_message};

use crate::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use crate::worker::connection::{Phase, low};
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

/// The path that turns the echo on.
const ECHO_PATH: &str = "/echo";

/// Longest message that is echoed, bytes: the largest of the conformance cases has 16 MiB.
const ECHO_BYTES_MAX: u32 = 16 * 1024 * 1024;

impl<I: Io> Worker<I> {
    pub(super) fn is_echo(&self) -> bool {
        self.settings.websocket.as_ref().is_some_and(|policy| policy.path == ECHO_PATH)
    }

    /// Longest message taken, bytes.
    pub(super) fn message_bytes_max(&self) -> u32 {
        if self.is_echo() { ECHO_BYTES_MAX } else { WEBSOCKET_MESSAGE_BYTES_MAX }
    }

    pub(super) fn echo(&mut self, slot: Slot, piece: &Piece<'_>, now: Now) {
        let connection = &mut self.connections[slot.0];
        connection.last_seen_ms = low(now.0);
        if connection.phase == Phase::Greeting {
            // As after CONNECT: only then a connection may become hot.
            connection.phase = Phase::Live;
            connection.interval_ms = self.settings.heartbeat.interval_ms;
        }
        let mut message = self.take_begun(slot).unwrap_or_default();
        message.extend_from_slice(piece.bytes);
        if piece.last {
            self.queue_raw(slot, frame_bytes(message.len()), |out| put_message(out, piece.kind, &message));
        } else {
            self.keep_begun(slot, message);
        }
    }
}
