//! The data plane: one worker per core.
//!
//! A worker owns everything it touches: its connections, channels, timers, buffers, its link to the router and
//! its counters. Each turn it applies what the kernel finished ([`Worker::apply`]) and then maintains
//! ([`Worker::maintain`]): mail from other workers, timers, registrations, sends. Neither waits nor locks. The
//! worker does no I/O and reads no clock of its own: requests go to an [`Io`], time comes as an argument, so a
//! simulation drives the very code that production runs.

pub mod access;
mod apps;
mod broadcast;
mod buckets;
pub mod channels;
pub mod chunked;
mod client;
pub mod connection;
pub mod counters;
pub mod door;
pub mod drain;
pub mod io;
mod jobs;
mod lifecycle;
mod link;
pub mod mailbox;
mod marks;
mod names;
pub mod outbox;
mod receive;
mod rooms;
mod run;
mod service;
pub mod settings;
#[cfg(test)]
mod sim;
mod timers;
mod tls;
mod transmit;
mod uring;
mod websocket;
pub mod wheel;

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;
use moor_ring::{Completion, Slot, Token};

use crate::limits::{PUBLISH_MS, TICK_MS, TURN_WAIT_MS_MAX};
use access::Expiries;
use broadcast::Broadcasts;
use channels::Channels;
use chunked::Chunked;
use connection::Connection;
use counters::{Board, Counter, Counters};
use door::Door;
use drain::Drain;
use io::{Io, Listener, WorkerId};
use jobs::Jobs;
use link::RouterLink;
use mailbox::{Arrival, Mail, Mailboxes};
use names::Names;
use outbox::Pool;
use rooms::Rooms;
use service::Service;
use settings::Settings;
use tls::Tls;
use websocket::WebSockets;
use wheel::Wheel;

pub use run::{WorkerParts, WorkerSpec, run};
pub use uring::Wakeable;

/// Milliseconds since the gateway's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

/// One worker.
#[derive(Debug)]
pub struct Worker<I: Io> {
    id: WorkerId,
    io: I,
    settings: Settings,
    connections: Chunked<Connection>,
    /// Slots that hold a client connection, one being refused included.
    clients: u32,
    channels: Channels,
    /// Names of the clients' devices.
    devices: Names,
    broadcasts: Broadcasts,
    rooms: Rooms,
    wheel: Wheel,
    pool: Pool,
    /// Connections with something new to send, each once.
    dirty: Vec<Slot>,
    /// Starts of frames whose rest has not come.
    begun: HashMap<Slot, Vec<u8>>,
    websockets: WebSockets,
    tls: Tls,
    /// Connections whose receive found no buffer.
    starved: VecDeque<Token>,
    link: RouterLink,
    services: HashMap<Slot, Service, FixedState>,
    /// Services on their way here, by ticket, and until when their descriptors are waited for, milliseconds.
    arriving: HashMap<u64, (Arrival, u64)>,
    expiries: Expiries,
    door: Door,
    /// Frames received before the piece that is being handled.
    frames_before: u64,
    /// Bytes queued for one client: the setting, or less while memory is short.
    send_queue_bytes_max: usize,
    /// Unix time at [`Now`] zero, milliseconds.
    wall_clock_offset_ms: u64,
    jobs: Jobs,
    mailboxes: Mailboxes,
    counters: Counters,
    board: Board,
    rng: fastrand::Rng,
    drain: Option<Drain>,
    /// When to accept again after the table was full, by listener.
    accept_again_ms: [Option<u64>; 2],
    published_ms: u64,
    /// True when something has been counted that is not yet published.
    unpublished: bool,
    demotions: u32,
    stopped: bool,
}

impl<I: Io> Worker<I> {
    /// A worker that listens from its first turn on.
    pub fn new(
        id: WorkerId,
        io: I,
        settings: Settings,
        mailboxes: Mailboxes,
        board: Board,
        seed: u64,
    ) -> Self {
        let mut worker = Self {
            id,
            io,
            link: RouterLink::new(settings.router),
            door: Door::new(&settings.limits),
            frames_before: 0,
            send_queue_bytes_max: settings.send_queue_bytes_max,
            settings,
            connections: Chunked::new(),
            clients: 0,
            channels: Channels::new(id.0),
            devices: Names::new(),
            broadcasts: Broadcasts::default(),
            rooms: Rooms::default(),
            wheel: Wheel::new(),
            pool: Pool::default(),
            dirty: Vec::new(),
            begun: HashMap::new(),
            websockets: WebSockets::default(),
            tls: Tls::default(),
            starved: VecDeque::new(),
            services: HashMap::default(),
            arriving: HashMap::new(),
            expiries: Expiries::default(),
            wall_clock_offset_ms: 0,
            jobs: Jobs::default(),
            mailboxes,
            counters: Counters::new(),
            board,
            rng: fastrand::Rng::with_seed(seed),
            drain: None,
            accept_again_ms: [None; 2],
            published_ms: 0,
            unpublished: true,
            demotions: 0,
            stopped: false,
        };
        worker.io.accept(Listener::Clients);
        worker.io.accept(Listener::Internal);
        worker
    }

    /// Client connections held.
    #[must_use]
    pub const fn clients_open(&self) -> u32 {
        self.clients
    }

    /// Applies one thing the kernel finished.
    pub fn apply(&mut self, completion: Completion<I::Buffer>, now: Now) {
        self.unpublished = true;
        match completion {
            Completion::Accepted { token, result, more } => self.handle_accepted(token, result, more, now),
            Completion::Ready { token, result } => self.handle_ready(token, result, now),
            Completion::Received { token, result, more } => self.handle_received(token, result, more, now),
            Completion::Sent { token, result, buffer } => self.handle_sent(token, result, buffer, now),
            Completion::Closed { token, result } => self.handle_closed(token, result),
            Completion::Reset { token, .. } => self.handle_reset(token),
            Completion::PeerAddress { token, result } => self.handle_peer_address(token, result, now),
            Completion::Connected { token, result } => self.handle_link_connected(token, result, now),
            Completion::Passed { token, result } => self.handle_passed(token, result, now),
            Completion::SlotPassed { value, result } => self.handle_slot_passed(value, result, now),
            // The doorbell's news is in the mailbox, which every turn looks into.
            Completion::Message { .. } | Completion::Doorbell => {}
            Completion::MessageFailed { error, .. } => {
                tracing::warn!(worker = self.id.0, %error, "another worker could not be woken");
            }
            Completion::Adopted { .. } | Completion::Installed { .. } => {
                debug_assert!(false, "never asked for");
            }
        }
    }

    /// Everything that is not an answer of the kernel. Returns false when the worker has nothing left to do.
    pub fn maintain(&mut self, now: Now) -> bool {
        self.demotions = 0;
        self.mail_step(now);
        if self.stopped {
            self.publish(now);
            return false;
        }
        self.timers_step(now);
        self.accept_step(now);
        self.expiries_step(now);
        self.starved_step();
        if !self.tls.is_idle() {
            self.tls_turn(now);
        }
        self.jobs_step(now);
        self.drain_step(now);
        self.link_step(now);
        self.broadcast_step(now);
        self.flush(now);
        self.rooms_step(now);
        if now.0 >= self.published_ms + PUBLISH_MS {
            self.publish(now);
            self.door_step(now);
        }
        if self.drained() {
            self.mail_end(now);
            self.publish(now);
            return false;
        }
        true
    }

    /// How long the worker may sleep when the kernel has nothing for it, milliseconds.
    #[must_use]
    pub fn sleep_ms(&self, now: Now) -> u64 {
        let mut until = now.0 + TURN_WAIT_MS_MAX;
        if let Some(tick) = self.wheel.next_occupied() {
            until = until.min(tick * TICK_MS);
        }
        if self.unpublished {
            until = until.min(self.published_ms + PUBLISH_MS);
        }
        for again in self.accept_again_ms.iter().flatten() {
            until = until.min(*again);
        }
        if let Some(next) = self.tls.next_ms(&self.door.handshakes, now) {
            until = until.min(next);
        }
        if !self.starved.is_empty() || self.is_draining() || !self.jobs.is_empty() {
            until = until.min(now.0 + TICK_MS);
        }
        if !self.broadcasts.is_empty() {
            until = now.0;
        }
        until = until.min(self.rooms.next_ms(self.link.is_up()));
        until.min(self.link.next_ms(now)).saturating_sub(now.0)
    }

    fn publish(&mut self, now: Now) {
        self.published_ms = now.0;
        self.unpublished = false;
        let gauges = [
            (Counter::ConnectionsOpen, u64::from(self.clients)),
            (Counter::ChannelsOpen, u64::from(self.channels.open_count())),
            (Counter::ServicesOpen, self.services.len() as u64),
            (Counter::NameBytes, (self.channels.name_bytes() + self.devices.bytes()) as u64),
            (Counter::LinkUp, u64::from(self.link.is_up())),
            (Counter::RegistrationsPending, self.link.pending(&self.channels)),
            (Counter::MailboxEntries, self.mailboxes.of(self.id).map_or(0, |mailbox| mailbox.len() as u64)),
            (Counter::LastTickMs, now.0),
            (Counter::RoomsOpen, self.rooms.rooms_open()),
            (Counter::RoomMembers, self.rooms.members_open()),
        ];
        for (counter, value) in gauges {
            self.counters[counter] = value;
        }
        self.counters.publish(&self.board, self.id.index());
    }

    /// The slot a token stands for, when its connection is still that one.
    fn current(&mut self, token: Token) -> Option<Slot> {
        let slot = Slot(token.index());
        if self.connections.get(slot.0).is_some_and(|connection| connection.token(slot) == token) {
            return Some(slot);
        }
        self.counters.add(Counter::LateCompletions);
        None
    }

    /// The worker ends: who asks it for something from now on is not kept waiting, and who has is answered.
    fn mail_end(&mut self, now: Now) {
        if let Some(mailbox) = self.mailboxes.of(self.id) {
            mailbox.close();
        }
        self.mail_step(now);
    }

    fn mail_step(&mut self, now: Now) {
        let mailboxes = self.mailboxes.clone();
        let Some(mailbox) = mailboxes.of(self.id) else { return };
        mailbox.listen();
        // What is put while this runs rings the doorbell again; the bound keeps one turn finite.
        for _ in 0..mailbox.len() {
            match mailbox.take() {
                Some(Mail::Job { origin, ticket, job }) => self.handle_job(origin, ticket, &job, now),
                Some(Mail::Done { ticket, result }) => self.handle_job_done(ticket, result, now),
                Some(Mail::Service { ticket, arrival }) => self.await_descriptor(ticket, arrival, now),
                Some(Mail::Access(access)) => self.settings.access = access,
                Some(Mail::Tls(server)) => self.settings.tls = Some(server),
                Some(Mail::InternalTls(acceptor)) => self.settings.internal_tls = Some(acceptor),
                Some(Mail::RouterTls(dialer)) => self.settings.router_tls = Some(dialer),
                Some(Mail::Drain(plan)) => self.drain_begin(plan, now),
                Some(Mail::Stop) => self.stopped = true,
                None => break,
            }
        }
    }
}
