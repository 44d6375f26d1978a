//! Clients over WebSocket: the upgrade, messages in, messages out.
//!
//! A client says by its first byte how it comes: `G` begins an HTTP request, and no frame begins so. The payloads of
//! its binary messages are one stream of frames; where messages begin and end means nothing, so none is ever put
//! together. An idle connection keeps nothing for its WebSocket but what it is; a decoder has a place only while a
//! message is under way.

#[cfg(feature = "websocket-echo")]
mod echo;

use std::collections::HashMap;

use moor_ring::Slot;
use moor_websocket::encode::{put_close, put_pong};
use moor_websocket::upgrade::{Outcome, upgrade};
use moor_websocket::{CloseCode, Decoder, Kind, Step};
use moor_wire::{Code, client};

use super::connection::{Phase, Role, Transport, low};
use super::counters::Counter;
use super::io::Io;
use super::{Now, Worker};
#[cfg(not(feature = "websocket-echo"))]
use crate::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use crate::limits::WEBSOCKET_PONGS_BYTES_MAX;

/// First byte of an HTTP GET.
const HTTP: u8 = b'G';
const _: () = assert!(client::Kind::from_byte(HTTP).is_none());

/// Size of a control frame, bytes, around its payload.
const CONTROL_HEAD_BYTES: usize = 2;

/// Decoders of the connections on which a message is under way.
#[derive(Debug, Default)]
pub struct WebSockets {
    decoders: HashMap<Slot, Decoder>,
}

impl WebSockets {
    fn take(&mut self, slot: Slot) -> Decoder {
        // Mostly nobody has one.
        if self.decoders.is_empty() {
            return Decoder::default();
        }
        self.decoders.remove(&slot).unwrap_or_default()
    }

    fn keep(&mut self, slot: Slot, decoder: Decoder) {
        if !decoder.is_idle() {
            self.decoders.insert(slot, decoder);
        }
    }

    /// Whether no message is under way. For tests.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.decoders.is_empty()
    }

    /// A connection is over.
    pub fn forget(&mut self, slot: Slot) {
        if !self.decoders.is_empty() {
            self.decoders.remove(&slot);
        }
    }
}

/// How a WebSocket is closed for this.
pub(super) const fn close_code(code: Code) -> CloseCode {
    match code {
        Code::ProtocolError | Code::Version | Code::Invalid => CloseCode::PROTOCOL_ERROR,
        Code::TooLarge => CloseCode::TOO_LARGE,
        Code::Overloaded | Code::Unavailable => CloseCode::TRY_AGAIN_LATER,
        _ => CloseCode::POLICY,
    }
}

impl<I: Io> Worker<I> {
    /// The first bytes of a client say what carries its frames.
    #[cold]
    pub(super) fn handle_first_bytes(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let over_tls = self.connections[slot.0].tls;
        if !over_tls && let Some(server) = &self.settings.tls {
            if bytes.first() == Some(&moor_tls::FIRST_BYTE) {
                let server = server.clone();
                return self.tls_begin(slot, &server, bytes, now);
            }
            if self.settings.tls_required {
                return self.refuse_bytes(slot, Code::ProtocolError, "only TLS is served here", now);
            }
        }
        let is_http = bytes.first() == Some(&HTTP);
        let transport = match &self.settings.websocket {
            Some(_) if is_http => Transport::Upgrading,
            _ => Transport::Plain,
        };
        self.connections[slot.0].role = Role::Client(transport);
        match transport {
            Transport::Upgrading => self.handle_upgrade(slot, bytes, now),
            _ if self.settings.plain => self.handle_stream(slot, bytes, now),
            _ => self.refuse_bytes(slot, Code::ProtocolError, "only WebSocket is served here", now),
        }
    }

    /// More of an HTTP request.
    #[cold]
    pub(super) fn handle_upgrade(&mut self, slot: Slot, bytes: &[u8], now: Now) {
        let Some(policy) = self.settings.websocket.clone() else { return };
        let mut request = self.take_begun(slot).unwrap_or_default();
        request.extend_from_slice(bytes);
        match upgrade(&request, &policy) {
            Outcome::NeedMore => self.keep_begun(slot, request),
            Outcome::Accept { response, consumed, .. } => {
                self.connections[slot.0].role = Role::Client(Transport::WebSocket);
                self.counters[Counter::ConnectionsWebsocket] += 1;
                self.queue_raw(slot, response.len(), |out| out.extend_from_slice(&response));
                self.handle_websocket(slot, &mut request[consumed..], now);
            }
            Outcome::Refuse(refusal) => {
                self.counters.add(Counter::UpgradesRefused);
                tracing::debug!(worker = self.id.0, ?slot, %refusal, "an upgrade was refused");
                let response = refusal.response();
                self.queue_raw(slot, response.len(), |out| out.extend_from_slice(response));
                self.finish(slot, now);
            }
        }
    }

    /// Received bytes of a WebSocket.
    #[inline(never)]
    pub(super) fn handle_websocket(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let mut decoder = self.websockets.take(slot);
        let mut input = bytes;
        #[cfg(not(feature = "websocket-echo"))]
        let message_bytes_max = WEBSOCKET_MESSAGE_BYTES_MAX;
        #[cfg(feature = "websocket-echo")]
        let message_bytes_max = self.message_bytes_max();
        while self.in_service(slot) {
            match decoder.poll_step(&mut input, message_bytes_max) {
                Ok(None) => return self.websockets.keep(slot, decoder),
                #[cfg(feature = "websocket-echo")]
                Ok(Some(Step::Data(piece))) if self.is_echo() => self.echo(slot, &piece, now),
                Ok(Some(Step::Data(piece))) if piece.kind == Kind::Binary => {
                    self.handle_stream(slot, piece.bytes, now);
                }
                Ok(Some(Step::Data(_))) => {
                    self.counters.add(Counter::ProtocolErrors);
                    self.close_websocket(slot, CloseCode::UNSUPPORTED, now);
                }
                Ok(Some(Step::Ping(payload))) => {
                    self.handle_websocket_beat(slot, now);
                    self.queue_websocket_pong(slot, &payload, now);
                }
                Ok(Some(Step::Pong(_))) => self.handle_websocket_beat(slot, now),
                Ok(Some(Step::Close { code, .. })) => {
                    self.queue_close_frame(slot, code);
                    self.peer_leaves(slot, now);
                }
                Err(error) => {
                    self.counters.add(Counter::ProtocolErrors);
                    tracing::debug!(worker = self.id.0, ?slot, %error, "a peer broke the WebSocket protocol");
                    self.close_websocket(slot, error.close_code(), now);
                }
            }
        }
    }

    /// A ping or a pong counts as a frame, and as a heartbeat of whoever has logged in: it does not stand for CONNECT.
    fn handle_websocket_beat(&mut self, slot: Slot, now: Now) {
        self.counters.add(Counter::FramesReceived);
        let connection = &mut self.connections[slot.0];
        if connection.phase == Phase::Live {
            connection.last_seen_ms = low(now.0);
        }
    }

    /// Answers a ping. Who lets the answers pile up does not read, and is closed.
    fn queue_websocket_pong(&mut self, slot: Slot, payload: &[u8], now: Now) {
        let waiting = self.connections[slot.0].outbox.as_ref().map_or(0, |outbox| outbox.sealed.len());
        if waiting > WEBSOCKET_PONGS_BYTES_MAX {
            self.counters.add(Counter::SlowReadersClosed);
            return self.abort(slot, now);
        }
        self.queue_raw(slot, CONTROL_HEAD_BYTES + payload.len(), |out| put_pong(out, payload));
    }

    fn close_websocket(&mut self, slot: Slot, code: CloseCode, now: Now) {
        self.queue_close_frame(slot, Some(code));
        self.finish(slot, now);
    }

    /// A WebSocket is about to be finished: behind all frames it is told so in its own way.
    pub(super) fn queue_close(&mut self, slot: Slot, code: CloseCode) {
        if self.connections[slot.0].role.is_websocket() && self.in_service(slot) {
            self.queue_close_frame(slot, Some(code));
        }
    }

    fn queue_close_frame(&mut self, slot: Slot, code: Option<CloseCode>) {
        if let Some(outbox) = self.connections[slot.0].outbox.as_mut() {
            self.counters[Counter::SendQueuedBytes] += outbox.seal() as u64;
        }
        let bytes = CONTROL_HEAD_BYTES + if code.is_some() { 2 } else { 0 };
        self.queue_raw(slot, bytes, |out| put_close(out, code, ""));
    }
}
