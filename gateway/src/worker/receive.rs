//! Bytes in: the two receive tiers, and how bytes become frames.
//!
//! A cold connection has a one-shot poll armed (256 B of kernel memory); when it fires, one read follows. A hot
//! one has a multishot receive (862 B) and saves 1.7 µs per event (kernel 6.18). Buffers belong to the kernel
//! and are given back within the same turn; only the start of an unfinished frame is copied.

use moor_ring::{Errno, Recv, Slot, Token};
use moor_wire::Code;
use moor_wire::client::body_bytes_max;
use moor_wire::frame::{Header, Split, split};
use moor_wire::limits::{CONTROL_BODY_BYTES_MAX, INTERNAL_BODY_BYTES_MAX};

use super::connection::{Connection, Phase, Receive, Role, Transport, low, low_ticks};
use super::counters::Counter;
use super::door::Notice;
use super::io::Io;
use super::timers::death_ms;
use super::{Now, Worker};
use crate::limits::{BUSY_FRAMES, BUSY_RECEIVES, CANCEL_CONNECTIONS_MAX, DEMOTIONS_PER_TURN_MAX};

impl<I: Io> Worker<I> {
    pub(super) fn handle_ready(&mut self, token: Token, result: Result<(), Errno>, now: Now) {
        let Some(slot) = self.current(token) else { return };
        let connection = &mut self.connections[slot.0];
        connection.receive = Receive::Idle;
        if result.is_err() {
            self.peer_gone(slot, now);
            return;
        }
        match connection.phase {
            Phase::Greeting | Phase::Live | Phase::Finishing => {
                connection.receive = Receive::Once;
                self.io.recv_once(slot, token);
            }
            _ => self.close_join(slot),
        }
    }

    pub(super) fn handle_received(
        &mut self,
        token: Token,
        result: Result<Recv<I::Buffer>, Errno>,
        more: bool,
        now: Now,
    ) {
        let Some(slot) = self.current(token) else {
            if let Ok(Recv::Data(buffer)) = result {
                self.io.recycle(buffer);
            }
            return;
        };
        let connection = &mut self.connections[slot.0];
        connection.receive = if more { Receive::Multi } else { Receive::Idle };
        match result {
            Ok(Recv::Data(mut buffer)) => {
                if matches!(connection.phase, Phase::Greeting | Phase::Live) {
                    self.choose_tier(slot, now);
                    self.handle_bytes(slot, buffer.as_mut(), now);
                }
                self.io.recycle(buffer);
            }
            Ok(Recv::Eof) => self.peer_gone(slot, now),
            Err(Errno::NOBUFS) => {
                self.counters.add(Counter::RecvNoBuffer);
                connection.receive = Receive::Starved;
                self.starved.push_back(token);
            }
            Err(Errno::AGAIN) => {}
            Err(Errno::CANCELED) if connection.cooling => connection.cooling = false,
            Err(_) => self.peer_gone(slot, now),
        }
        self.arm(slot);
    }

    /// Arms the receives again that found no buffer; by now this turn's buffers are back with the kernel.
    pub(super) fn starved_step(&mut self) {
        for _ in 0..self.starved.len() {
            let Some(token) = self.starved.pop_front() else { break };
            let slot = Slot(token.index());
            let Some(connection) = self.connections.get_mut(slot.0) else { continue };
            if connection.token(slot) == token && connection.receive == Receive::Starved {
                connection.receive = Receive::Idle;
                self.arm(slot);
            }
        }
    }

    /// Counts a receive and moves the connection between the tiers.
    fn choose_tier(&mut self, slot: Slot, now: Now) {
        let hot = self.settings.hot;
        let connection = &mut self.connections[slot.0];
        if connection.since_burst_ms(now.0) > u64::from(hot.window_ms) {
            connection.burst_start = low_ticks(now.0);
            connection.burst = 1;
        } else {
            connection.burst = connection.burst.saturating_add(1);
        }
        if !connection.hot && connection.burst >= hot.events && connection.phase == Phase::Live {
            connection.hot = true;
            self.counters[Counter::ConnectionsHot] += 1;
            self.counters.add(Counter::RecvPromoted);
            // The wheel looks at a hot connection early enough to notice that it has cooled, and no later than at others.
            let look_in = death_ms(connection.interval_ms).min(connection.send_stalls_in_ms(now.0));
            self.file_in(slot, look_in.min(u64::from(hot.idle_ms)), now);
        }
    }

    /// Makes a hot connection cold that has been silent for long enough. Its armed receive is cancelled only
    /// where that is cheap; where it is not, the connection stays hot.
    pub(super) fn cool(&mut self, slot: Slot, now: Now) {
        let connection = &mut self.connections[slot.0];
        let cold = connection.hot
            && connection.role != Role::Link
            && connection.since_burst_ms(now.0) > u64::from(self.settings.hot.idle_ms)
            && connection.silence_ms(now.0) > u64::from(self.settings.hot.idle_ms);
        if !cold || self.demotions >= DEMOTIONS_PER_TURN_MAX || self.clients > CANCEL_CONNECTIONS_MAX {
            return;
        }
        self.demotions += 1;
        connection.hot = false;
        connection.burst = 0;
        if connection.receive == Receive::Multi {
            connection.cooling = true;
            let token = connection.token(slot);
            self.io.cancel_recv(token);
        }
        self.counters[Counter::ConnectionsHot] -= 1;
        self.counters.add(Counter::RecvDemoted);
    }

    /// Takes received bytes for what the connection's transport makes of them.
    fn handle_bytes(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let &Connection { role, tls, phase, .. } = &self.connections[slot.0];
        if role.is_client() {
            self.counters[Counter::BytesReceived] += bytes.len() as u64;
        }
        self.frames_before = self.counters[Counter::FramesReceived];
        if tls {
            self.handle_tls(slot, bytes, now);
        } else {
            self.handle_plain(slot, role, bytes, now);
        }
        // A login is as many frames as its client has sessions; what those may be has its own limits.
        if phase == Phase::Live && self.is_metered(slot) {
            self.meter_frames(slot, now);
        }
    }

    /// Whether a connection, of which something has just been received, says so much that it is metered.
    pub(super) fn is_metered(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot.0];
        let frames = self.counters[Counter::FramesReceived] - self.frames_before;
        (frames > BUSY_FRAMES || connection.hot && connection.burst >= BUSY_RECEIVES)
            && connection.role.is_client()
    }

    /// Closes a busy connection that says more than it may.
    #[inline(never)]
    fn meter_frames(&mut self, slot: Slot, now: Now) {
        let frames = self.counters[Counter::FramesReceived] - self.frames_before;
        let per_s = self.settings.limits.frames_per_connection_per_s;
        if per_s == 0 || frames == 0 || !self.in_service(slot) {
            return;
        }
        if !self.door.meters.frames(slot, frames, per_s, now.0) {
            self.counters.add(Counter::FramesLimited);
            let what = "closing a connection that sends more than limits.frames_per_connection_per_s";
            self.notice_rate(Notice::Frames, per_s, what, now);
            self.finish_with(slot, Code::Limit, &format!("more than {per_s} frames a second"), now);
        }
    }

    /// Takes bytes, out of their records if there were any, for what the connection's transport makes of them.
    #[inline]
    pub(super) fn handle_plain(&mut self, slot: Slot, role: Role, bytes: &mut [u8], now: Now) {
        match role {
            Role::Client(Transport::Plain) | Role::Service | Role::Link => {
                self.handle_stream(slot, bytes, now)
            }
            Role::Client(Transport::WebSocket) => self.handle_websocket(slot, bytes, now),
            Role::Client(Transport::Unknown) => self.handle_first_bytes(slot, bytes, now),
            Role::Client(Transport::Upgrading) => self.handle_upgrade(slot, bytes, now),
            Role::Client(Transport::Proxied) => self.handle_proxy(slot, bytes, now),
        }
    }

    /// Cuts bytes into frames and handles each.
    pub(super) fn handle_stream(&mut self, slot: Slot, bytes: &[u8], now: Now) {
        let mut input = bytes;
        if let Some(mut begun) = self.take_begun(slot)
            && !self.handle_begun(slot, &mut begun, &mut input, now)
        {
            if self.in_service(slot) {
                self.keep_begun(slot, begun);
            }
            return;
        }
        while self.in_service(slot) {
            match split(input, |kind| self.body_bytes_max(slot, kind)) {
                Ok(Split::Frame { header, body, rest }) => {
                    self.handle_frame(slot, header, body, rest, now);
                    input = rest;
                }
                Ok(Split::Need(_)) => {
                    if !input.is_empty() {
                        self.keep_begun(slot, input.to_vec());
                    }
                    return;
                }
                Err(error) => return self.refuse_bytes(slot, Code::TooLarge, &error.to_string(), now),
            }
        }
    }

    /// Completes the frame begun earlier from the front of `input`. False: it is not whole yet, or the
    /// connection is no longer in service.
    fn handle_begun(&mut self, slot: Slot, begun: &mut Vec<u8>, input: &mut &[u8], now: Now) -> bool {
        loop {
            match split(begun, |kind| self.body_bytes_max(slot, kind)) {
                Ok(Split::Frame { header, body, .. }) => {
                    self.handle_frame(slot, header, body, input, now);
                    return self.in_service(slot);
                }
                Ok(Split::Need(total)) => {
                    let Some((missing, rest)) = input.split_at_checked(total - begun.len()) else {
                        begun.extend_from_slice(input);
                        return false;
                    };
                    begun.extend_from_slice(missing);
                    *input = rest;
                }
                Err(error) => {
                    self.refuse_bytes(slot, Code::TooLarge, &error.to_string(), now);
                    return false;
                }
            }
        }
    }

    /// The start of a frame that waits for its rest. Few connections have one at a time, so none has a place for it.
    pub(super) fn take_begun(&mut self, slot: Slot) -> Option<Vec<u8>> {
        let connection = &mut self.connections[slot.0];
        std::mem::take(&mut connection.begun).then(|| self.begun.remove(&slot)).flatten()
    }

    pub(super) fn keep_begun(&mut self, slot: Slot, start: Vec<u8>) {
        self.connections[slot.0].begun = true;
        self.begun.insert(slot, start);
    }

    pub(super) fn in_service(&self, slot: Slot) -> bool {
        matches!(self.connections[slot.0].phase, Phase::Greeting | Phase::Live)
    }

    /// Longest body accepted from a peer: little until it has said who it is.
    fn body_bytes_max(&self, slot: Slot, kind: u8) -> u32 {
        let connection = &self.connections[slot.0];
        match (connection.role, connection.phase) {
            (Role::Client(_), Phase::Live) => body_bytes_max(kind, self.settings.frame_bytes_max),
            (_, Phase::Greeting) => CONTROL_BODY_BYTES_MAX,
            _ => INTERNAL_BODY_BYTES_MAX,
        }
    }

    /// A frame; `rest` is what came behind it, for a connection that moves to another worker.
    fn handle_frame(&mut self, slot: Slot, header: Header, body: &[u8], rest: &[u8], now: Now) {
        let connection = &mut self.connections[slot.0];
        connection.last_seen_ms = low(now.0);
        match connection.role {
            Role::Client(_) => self.handle_client_frame(slot, header, body, now),
            Role::Service => self.handle_service_frame(slot, header, body, rest, now),
            Role::Link => self.handle_link_frame(slot, header, body, now),
        }
    }

    /// Ends a connection over bytes that break the protocol.
    pub(super) fn refuse_bytes(&mut self, slot: Slot, code: Code, detail: &str, now: Now) {
        self.counters.add(Counter::ProtocolErrors);
        tracing::debug!(worker = self.id.0, ?slot, %code, detail, "a peer broke the protocol");
        self.finish_with(slot, code, detail, now);
    }
}
