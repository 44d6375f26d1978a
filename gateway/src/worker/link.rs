//! The worker's link to its router: connecting, the lease, and telling the router which sessions are here.
//!
//! Registration is idempotent and paced. Every channel remembers the generation of the link it was announced
//! on; a new link has a new generation, so "announce everything again" is a walk over the channel table that
//! skips what has been announced, in batches of which few are unanswered. Nothing is queued while the link is
//! down.

use std::collections::VecDeque;
use std::net::SocketAddr;

use moor_ring::{Errno, Slot, Token};
use moor_wire::frame::Header;
use moor_wire::internal::{
    Departure, FLAG_WANT_OUTCOME, Failure, Hello, Kick, Push, PushMany, Register, Registered, Registration,
    Role as PeerRole, Unregister, Verb, Welcome,
};
use moor_wire::limits::{INTERNAL_VERSION, REGISTER_BATCH_MAX};
use moor_wire::session::SessionHandle;
use prost::Message;

use super::channels::{ChannelIndex, Channels};
use super::chunked::Chunked;
use super::connection::{Connection, Phase, Role};
use super::counters::Counter;
use super::io::Io;
use super::{Now, Worker};
use crate::limits::{
    LEASE_MS_DEFAULT, LINK_RETRY_MS, LINK_SILENCE_MS, LINK_UPSTREAM_BYTES_MAX, REGISTER_QUEUE_MAX,
    REGISTER_UNANSWERED_MAX, REGISTER_WALK_PER_TURN_MAX,
};

/// Marks the token of a connect: no slot has this index.
const CONNECT_INDEX: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; the next try is due at this time, milliseconds.
    Down { retry_ms: u64 },
    /// A connect is under way.
    Connecting,
    /// Connected; WELCOME has not come.
    Greeting(Slot),
    /// In service.
    Up(Slot),
}

/// State of the link.
#[derive(Debug)]
pub struct RouterLink {
    address: SocketAddr,
    state: State,
    /// Of the link: grows with every WELCOME, never 0.
    generation: u16,
    /// Failed tries in a row.
    attempt: u32,
    lease_ms: u64,
    next_ping_ms: u64,
    heard_ms: u64,
    /// Register batches unanswered: of each, the sessions that no router has heard of yet.
    unanswered: VecDeque<Vec<SessionHandle>>,
    batch: u32,
    /// Where the walk over all channels stands; `None`: done on this link.
    walk: Option<u32>,
    /// Whether SYNCED has been said on this link.
    synced: bool,
    /// Opened since, in order.
    arrivals: VecDeque<ChannelIndex>,
    /// Closed since, to be said in this turn.
    departures: Vec<Departure>,
    /// Sessions the walk may announce before it waits, and when that was computed.
    budget: f64,
    budget_ms: u64,
}

impl RouterLink {
    /// A link that connects in the worker's first turn.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            state: State::Down { retry_ms: 0 },
            generation: 0,
            attempt: 0,
            lease_ms: LEASE_MS_DEFAULT,
            next_ping_ms: 0,
            heard_ms: 0,
            unanswered: VecDeque::new(),
            batch: 0,
            walk: None,
            synced: false,
            arrivals: VecDeque::new(),
            departures: Vec::new(),
            budget: 0.0,
            budget_ms: 0,
        }
    }

    /// Whether the router takes frames.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// The link's connection, when the router takes frames.
    #[must_use]
    pub const fn up_slot(&self) -> Option<Slot> {
        match self.state {
            State::Up(slot) => Some(slot),
            _ => None,
        }
    }

    /// The link's connection, whether or not the router takes frames yet.
    #[must_use]
    pub const fn slot(&self) -> Option<Slot> {
        match self.state {
            State::Greeting(slot) | State::Up(slot) => Some(slot),
            State::Down { .. } | State::Connecting => None,
        }
    }

    /// Of the link: grows with every WELCOME, never 0.
    #[must_use]
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// Sessions not yet announced on this link, about.
    #[must_use]
    pub fn pending(&self, channels: &Channels) -> u64 {
        match (self.is_up(), self.walk) {
            (false, _) => u64::from(channels.open_count()),
            (true, Some(at)) => u64::from(channels.end().saturating_sub(at)),
            (true, None) => self.arrivals.len() as u64,
        }
    }

    /// When the link next wants a turn, milliseconds.
    #[must_use]
    pub fn next_ms(&self, now: Now) -> u64 {
        match self.state {
            State::Down { retry_ms } => retry_ms,
            State::Up(_) if self.walk.is_some() && self.may_register() => now.0 + 10,
            State::Up(_) => self.next_ping_ms,
            State::Connecting | State::Greeting(_) => u64::MAX,
        }
    }

    /// Whether everything said has left for the router (or there is no router to say it to).
    #[must_use]
    pub fn is_flushed(&self, connections: &Chunked<Connection>) -> bool {
        self.departures.is_empty()
            && self.slot().is_none_or(|slot| connections.get(slot.0).is_none_or(|c| c.outbox.is_none()))
    }

    /// Whether the router has answered enough of what it was told.
    fn may_register(&self) -> bool {
        self.unanswered.len() < REGISTER_UNANSWERED_MAX
    }

    /// Whether there may be sessions that have not been announced on this link.
    fn has_news(&self) -> bool {
        self.walk.is_some() || !self.arrivals.is_empty()
    }

    /// A session was opened.
    pub fn arrive(&mut self, channel: ChannelIndex) {
        if !self.is_up() {
            return;
        }
        // So many are found again by a walk.
        if self.arrivals.len() >= REGISTER_QUEUE_MAX {
            self.arrivals.clear();
            self.walk = Some(0);
        }
        self.arrivals.push_back(channel);
    }

    /// A session is being closed.
    pub fn depart(&mut self, channel: ChannelIndex, channels: &Channels) {
        // What this link never heard of need not be taken back.
        let generation = self.generation;
        if self.is_up() && channels.get(channel).is_some_and(|entry| entry.registered_on == generation) {
            let (app, account) = channels.identity(channel);
            let session = channels.handle(channel).0;
            self.departures.push(Departure { session, app: app.to_owned(), account: account.to_owned() });
        }
    }
}

impl<I: Io> Worker<I> {
    pub(super) fn link_step(&mut self, now: Now) {
        match self.link.state {
            State::Down { retry_ms } if now.0 >= retry_ms => {
                self.link.state = State::Connecting;
                self.io.connect(self.link.address, Token::new(CONNECT_INDEX, 0));
            }
            State::Greeting(slot) | State::Up(slot) if now.0 > self.link.heard_ms + LINK_SILENCE_MS => {
                tracing::warn!(worker = self.id.0, "the router is silent; connecting again");
                self.abort(slot, now);
            }
            State::Up(slot) => {
                self.departures_step(slot, now);
                self.register_step(slot, now);
                if now.0 >= self.link.next_ping_ms {
                    self.link.next_ping_ms = now.0 + (self.link.lease_ms / 3).max(1);
                    self.queue_empty(slot, Verb::Ping, now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn handle_link_connected(&mut self, token: Token, result: Result<Slot, Errno>, now: Now) {
        debug_assert_eq!((token.index(), self.link.state), (CONNECT_INDEX, State::Connecting));
        match result {
            Ok(slot) => {
                self.occupy(slot, Role::Link, now);
                let connection = &mut self.connections[slot.0];
                connection.phase = Phase::Live;
                // The busiest connection of all starts in the hot tier and stays there.
                connection.hot = true;
                self.counters[Counter::ConnectionsHot] += 1;
                self.wheel.remove(&mut self.connections, slot.0);
                self.link.state = State::Greeting(slot);
                self.link.heard_ms = now.0;
                if !self.dial_tls(slot) {
                    return self.abort(slot, now);
                }
                let hello = Hello {
                    version: INTERNAL_VERSION,
                    role: PeerRole::Gateway as i32,
                    node: self.settings.node.to_string(),
                    epoch: self.settings.epoch,
                    worker: Some(self.id.0),
                    workers: self.mailboxes.workers(),
                    internal_address: self.settings.internal_address.to_string(),
                    token: self.settings.router_token.to_vec().into(),
                    push_many: true,
                };
                self.queue_internal(slot, Verb::Hello, &hello, now);
                self.arm(slot);
            }
            Err(error) => {
                tracing::warn!(worker = self.id.0, %error, router = %self.link.address, "the router cannot be reached");
                self.link_retry(now);
            }
        }
    }

    /// Full jitter: anywhere between now and a bound that doubles with every failure.
    fn link_retry(&mut self, now: Now) {
        let (base, cap) = LINK_RETRY_MS;
        let bound = base.saturating_mul(1 << self.link.attempt.min(16)).min(cap);
        self.link.attempt += 1;
        self.link.state = State::Down { retry_ms: now.0 + self.rng.u64(1..=bound) };
    }

    pub(super) fn link_lost(&mut self, now: Now) {
        if self.link.is_up() {
            self.counters.add(Counter::LinkLost);
            tracing::warn!(worker = self.id.0, "the router link is lost; clients stay connected");
        }
        self.link.arrivals.clear();
        self.link.departures.clear();
        // The router may not have heard of them: on the next link they are as new as they were on this one.
        for session in std::mem::take(&mut self.link.unanswered).into_iter().flatten() {
            if let Some((index, _)) = self.channels.resolve(session)
                && let Some(entry) = self.channels.get_mut(index)
            {
                entry.registered_on = 0;
            }
        }
        self.link_retry(now);
    }

    pub(super) fn handle_link_frame(&mut self, slot: Slot, header: Header, body: &[u8], now: Now) {
        self.link.heard_ms = now.0;
        let understood = match Verb::from_byte(header.kind) {
            Some(Verb::Push) => self.handle_push_from_router(slot, header.flags, body, now),
            Some(Verb::PushMany) => PushMany::parse(body).is_ok_and(|many| {
                for push in many.pushes() {
                    self.handle_push(slot, &push, false, now);
                }
                true
            }),
            Some(Verb::RoomPush) => self.handle_room_push(body, now),
            Some(Verb::Pong) => true,
            Some(Verb::Ping) => {
                self.queue_empty(slot, Verb::Pong, now);
                true
            }
            Some(Verb::Registered) => Registered::decode(body).is_ok_and(|_| {
                self.link.unanswered.pop_front();
                true
            }),
            Some(Verb::Welcome) => Welcome::decode(body).is_ok_and(|welcome| {
                self.handle_welcome(slot, &welcome, now);
                true
            }),
            Some(Verb::Kick) => Kick::decode(body).is_ok_and(|kick| {
                self.handle_kick_from_router(&kick, now);
                true
            }),
            Some(Verb::Failure) => {
                let failure = Failure::decode(body).unwrap_or_default();
                tracing::error!(
                    worker = self.id.0,
                    detail = failure.detail,
                    "the router refuses this gateway"
                );
                self.abort(slot, now);
                true
            }
            _ => false,
        };
        if !understood {
            tracing::error!(worker = self.id.0, kind = header.kind, "the router sent what no router sends");
            self.abort(slot, now);
        }
    }

    fn handle_welcome(&mut self, slot: Slot, welcome: &Welcome, now: Now) {
        if self.link.state != State::Greeting(slot) {
            return;
        }
        self.counters.add(Counter::LinkConnects);
        let link = &mut self.link;
        link.state = State::Up(slot);
        link.generation = link.generation.wrapping_add(1).max(1);
        link.attempt = 0;
        if welcome.lease_ms > 0 {
            link.lease_ms = u64::from(welcome.lease_ms);
        }
        link.next_ping_ms = now.0;
        link.unanswered.clear();
        link.walk = Some(0);
        link.synced = false;
        link.budget = f64::from(self.settings.register_per_s) / 10.0;
        link.budget_ms = now.0;
        self.rooms.tell_all_again();
        let link = &self.link;
        tracing::info!(worker = self.id.0, router = %link.address, sessions = self.channels.open_count(), "router link up");
    }

    fn handle_push_from_router(&mut self, slot: Slot, flags: u8, body: &[u8], now: Now) -> bool {
        let Ok(push) = Push::parse(body) else { return false };
        self.handle_push(slot, &push, flags & FLAG_WANT_OUTCOME != 0, now);
        true
    }

    fn handle_kick_from_router(&mut self, kick: &Kick, now: Now) {
        if let Some((channel, _)) = self.channels.resolve(SessionHandle(kick.session)) {
            self.kick(channel, kick, now);
        }
    }

    fn departures_step(&mut self, slot: Slot, now: Now) {
        while !self.link.departures.is_empty() && self.has_room_for_batch(slot) {
            let rest = self.link.departures.len().saturating_sub(REGISTER_BATCH_MAX);
            let sessions = self.link.departures.split_off(rest);
            self.counters[Counter::Unregistered] += sessions.len() as u64;
            self.queue_internal(slot, Verb::Unregister, &Unregister { sessions }, now);
        }
    }

    /// Whether a batch finds its place on the link: beside what clients send there is room for it, and for what keeps
    /// the link alive.
    fn has_room_for_batch(&self, slot: Slot) -> bool {
        self.queued_bytes(slot) <= LINK_UPSTREAM_BYTES_MAX
    }

    /// Announces sessions as far as credit and pace allow: who has just come first, and then all others that this link
    /// has not heard of.
    fn register_step(&mut self, slot: Slot, now: Now) {
        let pace = f64::from(self.settings.register_per_s);
        let elapsed_ms = now.0.saturating_sub(self.link.budget_ms);
        self.link.budget_ms = now.0;
        // At most a tenth of a second's worth is saved up.
        #[allow(clippy::cast_precision_loss, reason = "milliseconds between two turns")]
        let earned = pace * elapsed_ms as f64 / 1000.0;
        self.link.budget = (self.link.budget + earned).min((pace / 10.0).max(1.0));
        let mut looks = REGISTER_WALK_PER_TURN_MAX;
        while self.link.has_news() && self.link.may_register() && self.has_room_for_batch(slot) {
            let mut sessions = self.arrival_batch();
            if sessions.is_empty() {
                sessions = self.walk_batch(&mut looks);
            }
            if sessions.is_empty() {
                break;
            }
            self.counters[Counter::Registered] += sessions.len() as u64;
            self.link.batch = self.link.batch.wrapping_add(1);
            let new = sessions.iter().filter(|session| session.is_new);
            self.link.unanswered.push_back(new.map(|session| SessionHandle(session.session)).collect());
            self.queue_internal(slot, Verb::Register, &Register { batch: self.link.batch, sessions }, now);
        }
        if self.link.walk.is_none() && !self.link.synced {
            self.link.synced = true;
            self.queue_empty(slot, Verb::Synced, now);
        }
    }

    /// The next ones of the walk, which may look at so many more entries in this turn.
    fn walk_batch(&mut self, looks: &mut usize) -> Vec<Registration> {
        let mut batch = Vec::new();
        while let Some(at) = self.link.walk {
            if at >= self.channels.end() {
                self.link.walk = None;
                break;
            }
            if batch.len() >= self.settings.register_batch || self.link.budget < 1.0 || *looks == 0 {
                break;
            }
            *looks -= 1;
            self.link.walk = Some(at + 1);
            if let Some(registration) = self.registration(ChannelIndex(at)) {
                self.link.budget -= 1.0;
                batch.push(registration);
            }
        }
        batch
    }

    fn arrival_batch(&mut self) -> Vec<Registration> {
        let mut batch = Vec::new();
        while batch.len() < self.settings.register_batch {
            let Some(index) = self.link.arrivals.pop_front() else { break };
            // Whoever is there now: nobody is announced twice, and nobody without being there.
            batch.extend(self.registration(index));
        }
        batch
    }

    /// What to say about a channel, unless it has been said on this link.
    fn registration(&mut self, index: ChannelIndex) -> Option<Registration> {
        let generation = self.link.generation;
        let session = self.channels.get(index).map(|_| self.channels.handle(index))?;
        let entry = self.channels.get_mut(index).filter(|entry| entry.registered_on != generation)?;
        // Generations are never 0: a channel begins with that.
        let is_new = std::mem::replace(&mut entry.registered_on, generation) == 0;
        let (last_sync_id, device) = (entry.acked(), self.connections[entry.connection].device);
        let (app, account) = self.channels.identity(index);
        Some(Registration {
            session: session.0,
            app: app.to_owned(),
            account: account.to_owned(),
            device: self.devices.get(device).to_owned(),
            last_sync_id,
            is_new,
        })
    }
}
