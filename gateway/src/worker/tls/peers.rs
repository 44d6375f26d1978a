//! Services and the router over TLS.
//!
//! Where the internal port speaks TLS the place of a service says so from accept on, so that nothing is asked of those in
//! clear text. Its first byte must be 22; whoever comes in clear is told so in clear. A connection's whole TLS is one box,
//! which moves with its descriptor to the worker that the service asks for.

use moor_ring::Slot;
use moor_tls::FIRST_BYTE;
use moor_tls::peer::Peer;
use moor_wire::Code;
use moor_wire::internal::Verb;

use super::Place;
use crate::limits::TLS_SCRATCH_BYTES_MAX;
use crate::worker::connection::Role;
use crate::worker::counters::Counter;
use crate::worker::door::Notice;
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

// A service in clear text is known by its first byte.
const _: () = assert!(Verb::from_byte(FIRST_BYTE).is_none());

impl<I: Io> Worker<I> {
    /// A service has been accepted: it is to begin TLS, if the port speaks it.
    pub(in crate::worker) fn await_tls(&mut self, slot: Slot) {
        if self.settings.internal_tls.is_some() {
            *self.tls.places.occupy(slot.0) = Place::Awaited;
            self.connections[slot.0].tls = true;
        }
    }

    /// The router is connected: TLS begins with what is sent first, if it is set. False: it cannot.
    pub(in crate::worker) fn dial_tls(&mut self, slot: Slot) -> bool {
        let Some(dialer) = &self.settings.router_tls else { return true };
        match dialer.connect() {
            Ok(peer) => {
                self.hold_peer(slot, peer);
                true
            }
            Err(error) => {
                tracing::error!(worker = self.id.0, %error, "no TLS can be begun with the router");
                false
            }
        }
    }

    /// A connection has this TLS from now on.
    pub(in crate::worker) fn hold_peer(&mut self, slot: Slot, peer: Box<Peer>) {
        *self.tls.places.occupy(slot.0) = Place::Peer(peer);
        self.connections[slot.0].tls = true;
    }

    /// Takes the TLS of a connection that moves; `None`: it is in clear text.
    pub(in crate::worker) fn take_peer(&mut self, slot: Slot) -> Option<Box<Peer>> {
        if !self.connections[slot.0].tls {
            return None;
        }
        match std::mem::replace(&mut self.tls.places[slot.0], Place::Broken) {
            Place::Peer(peer) => Some(peer),
            other => {
                self.tls.places[slot.0] = other;
                None
            }
        }
    }

    /// It does not move after all.
    pub(in crate::worker) fn give_peer_back(&mut self, slot: Slot, peer: Box<Peer>) {
        self.tls.places[slot.0] = Place::Peer(peer);
    }

    /// For whom the certificate stands that a service has shown; `None`: none was asked for.
    pub(in crate::worker) fn certificate_names(&self, slot: Slot) -> Option<Vec<String>> {
        if !self.connections[slot.0].tls {
            return None;
        }
        match &self.tls.places[slot.0] {
            Place::Peer(peer) => peer.names(),
            _ => None,
        }
    }

    /// The first bytes of a service that is to speak TLS.
    #[cold]
    pub(super) fn handle_awaited(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        if bytes.first() != Some(&FIRST_BYTE) {
            self.connections[slot.0].tls = false;
            self.tls_forget(slot);
            return self.refuse_bytes(slot, Code::ProtocolError, "this port speaks TLS only", now);
        }
        if !self.door.services.take(now.0) {
            self.notice_service(
                "the internal port has too many TLS handshakes: services are turned away",
                "",
                now,
            );
            return self.abort(slot, now);
        }
        match self.settings.internal_tls.as_ref().map(moor_tls::peer::Acceptor::accept) {
            Some(Ok(peer)) => {
                self.tls.places[slot.0] = Place::Peer(peer);
                self.handle_tls(slot, bytes, now);
            }
            // It has not gone: a reload only replaces it.
            None => self.abort(slot, now),
            Some(Err(error)) => {
                tracing::error!(worker = self.id.0, %error, "no TLS can be begun with a service");
                self.abort(slot, now);
            }
        }
    }

    /// Received bytes of a service or the router.
    pub(super) fn handle_peer(&mut self, slot: Slot, mut peer: Box<Peer>, bytes: &[u8], now: Now) {
        let (mut plain, mut out) = (std::mem::take(&mut self.tls.plain), std::mem::take(&mut self.tls.out));
        let received = peer.receive(bytes, &mut plain);
        peer.output(&mut out);
        let (was_in, is_closed) = (peer.is_established(), peer.is_closed());
        self.tls.places[slot.0] = Place::Peer(peer);
        self.queue_records(slot, &mut out);
        self.tls.out = out;
        let role = self.connections[slot.0].role;
        if !plain.is_empty() {
            self.handle_plain(slot, role, &mut plain, now);
            plain.clear();
        }
        if plain.capacity() <= TLS_SCRATCH_BYTES_MAX {
            self.tls.plain = plain;
        }
        let Err(error) = received else {
            if is_closed {
                self.finish(slot, now);
            }
            return;
        };
        if !self.in_service(slot) {
            return;
        }
        match role {
            Role::Link => {
                let router = self.settings.router;
                tracing::warn!(worker = self.id.0, %router, %error, "no TLS with the router");
            }
            _ if was_in => {
                self.counters.add(Counter::ProtocolErrors);
                tracing::debug!(worker = self.id.0, ?slot, %error, "a service broke the TLS protocol");
            }
            _ => {
                self.counters.add(Counter::ServicesUnauthorized);
                self.notice_service("a service was turned away by TLS", &error.to_string(), now);
            }
        }
        self.tls.places[slot.0] = Place::Broken;
        self.finish(slot, now);
    }

    fn notice_service(&mut self, what: &str, why: &str, now: Now) {
        if let Some(more) = self.door.notices.due(Notice::Services, now) {
            tracing::warn!(worker = self.id.0, why, more_since = more, "{what}");
        }
    }
}
