//! Clients over TLS: handshakes within a budget, records in, records out. Services and the router: `peers`.
//!
//! A client says by its first byte how it comes: 22 begins a record of a handshake. What the records carry is what it
//! would say without them, frames or HTTP. An idle connection keeps its session (216 bytes where `tls.records` is
//! compact) and a place of 16 bytes; the start of a record has memory only while its rest is missing.

mod peers;

use std::collections::{HashMap, VecDeque};

use moor_ring::{SendBuffer, Slot, Token};
use moor_tls::limits::HANDSHAKE_BYTES_MAX;
use moor_tls::peer::Peer;
use moor_tls::{Established, Handshake, Progress, Server, Session};

use super::chunked::{Chunked, Entry};
use super::connection::Phase;
use super::counters::Counter;
use super::door::{Notice, Pace};
use super::io::Io;
use super::{Now, Worker};
use crate::limits::{TLS_HANDSHAKES_PER_TURN_MAX, TLS_SCRATCH_BYTES_MAX, TLS_WAIT_S};

/// What a TLS connection has come to.
#[derive(Debug, Default)]
enum Place {
    /// Nobody over TLS is in this slot.
    #[default]
    Vacant,
    /// Its handshake is under way.
    Greeting(Box<Handshake>),
    Open(Session),
    /// A service, of which nothing has come yet.
    Awaited,
    /// A service or the router.
    Peer(Box<Peer>),
    /// It broke; what is still queued is not for the peer.
    Broken,
}

const _: () = assert!(size_of::<Place>() <= 16);

impl Place {
    /// Appends what `plain` is as records. Without a session it is for nobody.
    fn seal(&mut self, plain: &[u8], records: &mut Vec<u8>) {
        let is_sealed = match self {
            Self::Open(session) => session.seal(plain, records).is_ok(),
            Self::Peer(peer) => {
                let is_taken = peer.send(plain).is_ok();
                peer.output(records);
                is_taken
            }
            _ => true,
        };
        if !is_sealed {
            *self = Self::Broken;
        }
    }

    /// Appends that nothing more will come, and makes it so.
    fn close(&mut self, records: &mut Vec<u8>) {
        match std::mem::replace(self, Self::Broken) {
            // What cannot be said is not said.
            Self::Open(mut session) => session.close(records).unwrap_or_default(),
            Self::Peer(mut peer) => {
                peer.close();
                peer.output(records);
            }
            other => *self = other,
        }
    }
}

impl Entry for Place {
    // The slot's connection has the generations.
    const FIRST_GENERATION: u32 = 0;
    const GENERATION_MASK: u32 = 0;

    fn vacant(_: u32) -> Self {
        Self::Vacant
    }

    fn is_vacant(&self) -> bool {
        matches!(self, Self::Vacant)
    }

    fn generation(&self) -> u32 {
        0
    }
}

/// The worker's connections over TLS.
#[derive(Debug, Default)]
pub struct Tls {
    places: Chunked<Place>,
    /// Received and not used: starts of records, and whole ones that wait for their turn.
    begun: HashMap<Slot, Vec<u8>>,
    /// Handshakes under way that have something to work on.
    waiting: VecDeque<Token>,
    /// Handshakes that have not begun: each of these is to cost a signature.
    fresh: VecDeque<Token>,
    /// Handshakes worked on in this turn.
    worked: u32,
    /// What records held, until it is handled.
    plain: Vec<u8>,
    /// What is to be sent for what came.
    out: Vec<u8>,
}

impl Tls {
    /// Whether no handshake waits and none was worked on.
    pub fn is_idle(&self) -> bool {
        self.worked == 0 && self.waiting.is_empty() && self.fresh.is_empty()
    }

    /// When the next handshake can be worked on; `None`: none waits.
    pub fn next_ms(&self, pace: &Pace, now: Now) -> Option<u64> {
        if !self.waiting.is_empty() {
            return Some(now.0);
        }
        (!self.fresh.is_empty()).then(|| pace.next_ms(now.0))
    }

    /// Handshakes that wait. For tests.
    #[cfg(test)]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len() + self.fresh.len()
    }

    /// Bytes received and not used. For tests.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.begun.values().map(Vec::len).sum()
    }

    /// Whether nobody is here. For tests.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.places.next_taken(0).is_none()
    }
}

impl<I: Io> Worker<I> {
    /// A client's first byte was that of a TLS record.
    #[cold]
    pub(super) fn tls_begin(&mut self, slot: Slot, server: &Server, bytes: &mut [u8], now: Now) {
        match Handshake::new(server) {
            Ok(handshake) => {
                *self.tls.places.occupy(slot.0) = Place::Greeting(handshake);
                self.connections[slot.0].tls = true;
                self.counters[Counter::ConnectionsTls] += 1;
                self.handle_tls(slot, bytes, now);
            }
            Err(error) => {
                tracing::error!(worker = self.id.0, %error, "no TLS handshake can be begun");
                self.abort(slot, now);
            }
        }
    }

    /// Received bytes of a TLS connection.
    #[inline(never)]
    pub(super) fn handle_tls(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let place = &mut self.tls.places[slot.0];
        match std::mem::take(place) {
            Place::Open(session) => self.handle_records(slot, session, bytes, now),
            Place::Greeting(handshake) => {
                let is_fresh = handshake.is_fresh();
                *place = Place::Greeting(handshake);
                let begun = self.tls.begun.entry(slot).or_default();
                let is_first = begun.is_empty();
                begun.extend_from_slice(bytes);
                let token = self.connections[slot.0].token(slot);
                match (is_first, is_fresh) {
                    // No handshake is as long: it ends here and now.
                    _ if begun.len() > HANDSHAKE_BYTES_MAX => return self.advance_handshake(slot, now),
                    (false, _) => {}
                    (true, false) => self.tls.waiting.push_back(token),
                    (true, true) if self.has_room_for_handshake() => self.tls.fresh.push_back(token),
                    (true, true) => return self.refuse_handshake(slot, now),
                }
                self.tls_step(now);
            }
            Place::Peer(peer) => self.handle_peer(slot, peer, bytes, now),
            Place::Awaited => {
                *place = Place::Awaited;
                self.handle_awaited(slot, bytes, now);
            }
            gone @ (Place::Broken | Place::Vacant) => *place = gone,
        }
    }

    /// Whether a handshake may wait with the others: those who would wait longer than clients do need not begin.
    fn has_room_for_handshake(&self) -> bool {
        let per_s = self.settings.limits.handshakes_per_s as usize;
        per_s == 0 || self.tls.fresh.len() < per_s * TLS_WAIT_S as usize
    }

    fn refuse_handshake(&mut self, slot: Slot, now: Now) {
        self.counters.add(Counter::TlsPaced);
        let what = "TLS handshakes come faster than limits.handshakes_per_s: clients are turned away";
        self.notice_rate(Notice::Handshakes, self.settings.limits.handshakes_per_s, what, now);
        self.abort(slot, now);
    }

    /// Works on handshakes as far as the turn's budget goes: one that is long under way must not wait for a thousand
    /// that have just begun.
    pub(super) fn tls_step(&mut self, now: Now) {
        while self.tls.worked < TLS_HANDSHAKES_PER_TURN_MAX {
            let next = self.tls.waiting.pop_front().or_else(|| self.next_fresh_handshake(now));
            let Some(token) = next else { break };
            if self.is_in_service(token) {
                self.tls.worked += 1;
                self.advance_handshake(Slot(token.index()), now);
            }
        }
    }

    /// The next handshake that may begin. Who has gone while it waited takes nobody's turn.
    fn next_fresh_handshake(&mut self, now: Now) -> Option<Token> {
        while self.tls.fresh.front().is_some_and(|token| !self.is_in_service(*token)) {
            self.tls.fresh.pop_front();
        }
        let may = !self.tls.fresh.is_empty() && self.door.handshakes.take(now.0);
        if may { self.tls.fresh.pop_front() } else { None }
    }

    fn is_in_service(&self, token: Token) -> bool {
        let slot = Slot(token.index());
        self.connections.get(slot.0).is_some_and(|connection| connection.token(slot) == token)
            && self.in_service(slot)
    }

    /// A new turn has a budget of its own, and who waited comes first.
    pub(super) fn tls_turn(&mut self, now: Now) {
        self.tls.worked = 0;
        self.tls_step(now);
    }

    fn advance_handshake(&mut self, slot: Slot, now: Now) {
        let received = self.tls.begun.remove(&slot).unwrap_or_default();
        let place = &mut self.tls.places[slot.0];
        let handshake = match std::mem::take(place) {
            Place::Greeting(handshake) => handshake,
            other => return *place = other,
        };
        let mut out = std::mem::take(&mut self.tls.out);
        let progress = handshake.advance(&received, &mut out);
        let place = &mut self.tls.places[slot.0];
        match progress {
            Ok(Progress::NeedMore(handshake)) => {
                *place = Place::Greeting(handshake);
                self.queue_records(slot, &mut out);
            }
            Ok(Progress::Done(done)) => {
                *place = Place::Broken;
                self.queue_records(slot, &mut out);
                self.tls.out = out;
                return self.handle_established(slot, *done, now);
            }
            Err(error) => {
                *place = Place::Broken;
                self.queue_records(slot, &mut out);
                self.counters.add(Counter::TlsFailed);
                tracing::debug!(worker = self.id.0, ?slot, %error, "a TLS handshake failed");
                self.finish(slot, now);
            }
        }
        self.tls.out = out;
    }

    fn handle_established(&mut self, slot: Slot, done: Established, now: Now) {
        let Established { session, mut plain, mut rest, version, resumed, closed, .. } = done;
        self.counters.add(Counter::TlsHandshakes);
        if resumed {
            self.counters.add(Counter::TlsResumed);
        }
        tracing::trace!(worker = self.id.0, ?slot, version, resumed, "a TLS connection");
        self.tls.places[slot.0] = Place::Open(session);
        if !plain.is_empty() {
            self.handle_plain(slot, self.connections[slot.0].role, &mut plain, now);
        }
        if closed {
            self.peer_leaves(slot, now);
        }
        if self.in_service(slot) && !rest.is_empty() {
            self.handle_tls(slot, &mut rest, now);
        }
    }

    /// Opens records and handles what was in them.
    fn handle_records(&mut self, slot: Slot, mut session: Session, bytes: &mut [u8], now: Now) {
        let mut begun = if self.tls.begun.is_empty() { None } else { self.tls.begun.remove(&slot) };
        let input = match &mut begun {
            None => bytes,
            Some(begun) => {
                begun.extend_from_slice(bytes);
                begun.as_mut_slice()
            }
        };
        let (mut plain, mut out) = (std::mem::take(&mut self.tls.plain), std::mem::take(&mut self.tls.out));
        let opened = session.open(input, &mut plain, &mut out);
        if let Ok(opened) = &opened
            && opened.used < input.len()
        {
            self.tls.begun.insert(slot, input[opened.used..].to_vec());
        }
        self.tls.places[slot.0] = Place::Open(session);
        self.queue_records(slot, &mut out);
        self.tls.out = out;
        if !plain.is_empty() {
            self.handle_plain(slot, self.connections[slot.0].role, &mut plain, now);
            plain.clear();
        }
        if plain.capacity() <= TLS_SCRATCH_BYTES_MAX {
            self.tls.plain = plain;
        }
        match opened {
            Ok(opened) if opened.closed => self.peer_leaves(slot, now),
            Ok(_) => {}
            Err(error) => {
                self.counters.add(Counter::ProtocolErrors);
                tracing::debug!(worker = self.id.0, ?slot, %error, "a peer broke the TLS protocol");
                if self.in_service(slot) {
                    self.tls.places[slot.0] = Place::Broken;
                    self.finish(slot, now);
                }
            }
        }
    }

    /// Queues records as they are, before what is sealed later, and leaves `out` empty.
    fn queue_records(&mut self, slot: Slot, out: &mut Vec<u8>) {
        if out.is_empty() {
            return;
        }
        let connection = &mut self.connections[slot.0];
        let outbox = connection.outbox.get_or_insert_with(|| self.pool.outbox());
        self.counters[Counter::SendQueuedBytes] += out.len() as u64;
        outbox.records.append(out);
        self.mark_dirty(slot);
    }

    /// A connection over TLS is about to be closed: behind everything else it is told so.
    pub(super) fn queue_tls_end(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot.0];
        connection.outbox.get_or_insert_with(|| self.pool.outbox());
        self.mark_dirty(slot);
    }

    /// Seals what is queued and sends it. The records take the queued bytes' place in the count of what waits.
    pub(super) fn send_records(&mut self, slot: Slot, now: Now) {
        let connection = &mut self.connections[slot.0];
        let Some(outbox) = connection.outbox.as_mut().filter(|outbox| !outbox.in_flight) else { return };
        self.counters[Counter::SendQueuedBytes] -= outbox.bytes() as u64;
        if connection.role.is_websocket() {
            outbox.seal();
        }
        let mut records = std::mem::take(&mut outbox.records);
        if records.capacity() == 0 {
            records = self.pool.buffer();
        }
        for plain in [std::mem::take(&mut outbox.sealed), std::mem::take(&mut outbox.queued)] {
            if !plain.is_empty() {
                self.tls.places[slot.0].seal(&plain, &mut records);
            }
            self.pool.give_buffer(plain);
        }
        if connection.phase == Phase::Finishing {
            self.tls.places[slot.0].close(&mut records);
        }
        if records.is_empty() {
            self.pool.give_buffer(records);
            return self.sent_all(slot);
        }
        let Some(outbox) = connection.outbox.as_mut() else { return };
        outbox.begin(records.len(), now.0);
        self.counters[Counter::SendQueuedBytes] += records.len() as u64;
        let token = connection.token(slot);
        self.io.send(slot, token, SendBuffer::Owned(records), 0);
    }

    /// A connection over TLS is over.
    pub(super) fn tls_forget(&mut self, slot: Slot) {
        self.tls.begun.remove(&slot);
        self.tls.places.vacate(slot.0, 0);
        if self.connections[slot.0].role.is_client() {
            self.counters[Counter::ConnectionsTls] -= 1;
        }
    }

    /// Whether what is queued for a connection can reach its peer as frames.
    pub(super) fn is_greeting_tls(&self, slot: Slot) -> bool {
        self.connections[slot.0].tls
            && match &self.tls.places[slot.0] {
                Place::Open(_) => false,
                Place::Peer(peer) => !peer.is_established(),
                _ => true,
            }
    }
}
