//! The state machine of one connection: its reconnects, its requests and its silences. What the peer's frames
//! do to it is in `answers`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use moor_wire::client::TrafficMarks;
use moor_wire::frame::FrameReader;
use moor_wire::internal::{Hello, Role, Verb, frame_reader, put_control, put_empty};
use moor_wire::limits::INTERNAL_VERSION;

use super::{Answer, CONNECT_MS, Config, Error, Event, Request, Ticket};
use crate::backoff::full_jitter;
use crate::limits::STABLE_MS;

/// Tickets with this bit are the connection's own: subscriptions after a reconnect.
pub(super) const OWN: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Connects at this time.
    Waiting(u64),
    /// Whoever drives this is connecting.
    Connecting,
    /// HELLO is out; WELCOME must be here by this time.
    Greeting(u64),
    /// Requests flow.
    Ready,
    /// For good.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not on this connection yet.
    Queued,
    /// Written to this connection.
    Written,
    /// The other side was busy; again at this time.
    Again(u64),
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) stage: Stage,
    pub(super) deadline_ms: u64,
    pub(super) attempt: u32,
    pub(super) last: Option<Box<Error>>,
}

impl Pending {
    fn due_ms(&self) -> u64 {
        match self.stage {
            Stage::Again(at) => at.min(self.deadline_ms),
            Stage::Queued | Stage::Written => self.deadline_ms,
        }
    }
}

/// A connection to a router or a gateway, without its socket and its clock.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Config,
    pub(super) rng: fastrand::Rng,
    pub(super) state: State,
    /// Attempts in a row that failed, or led to a connection that did not last.
    attempt: u32,
    /// When WELCOME came on this connection.
    pub(super) ready_ms: Option<u64>,
    reader: FrameReader,
    pub(super) out: BytesMut,
    pub(super) events: VecDeque<Event>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// When each pending request wants attention: `(ms, ticket)`.
    due: BTreeSet<(u64, u64)>,
    pub(super) next_ticket: u64,
    pub(super) epoch: u64,
    /// Whose receipts it is subscribed to, and of which messages.
    pub(super) apps: BTreeMap<String, Option<TrafficMarks>>,
    stopped: Option<Error>,
    pub(super) written_ms: u64,
    heard_ms: u64,
    /// When the PING went out that nothing has answered yet.
    pinged_ms: Option<u64>,
}

impl Connection {
    /// A connection that wants to connect at once.
    #[must_use]
    pub fn new(config: Config, seed: u64, now_ms: u64) -> Self {
        Self {
            config,
            rng: fastrand::Rng::with_seed(seed),
            state: State::Connecting,
            attempt: 0,
            ready_ms: None,
            reader: frame_reader(),
            out: BytesMut::new(),
            events: VecDeque::from([Event::Connect]),
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            next_ticket: 1,
            epoch: 0,
            apps: BTreeMap::new(),
            stopped: None,
            written_ms: now_ms,
            heard_ms: now_ms,
            pinged_ms: None,
        }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins a request; its [`Event::Answered`] comes by its deadline at the latest.
    ///
    /// # Errors
    /// When as many as allowed are under way, or the other side has sent this service away for good.
    pub fn request(&mut self, now_ms: u64, request: Request) -> Result<Ticket, Error> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let max = self.config.in_flight_max;
        if self.in_flight() >= max {
            return Err(Error::TooManyInFlight { max });
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.enqueue(now_ms, ticket, request);
        Ok(Ticket(ticket))
    }

    pub(super) fn enqueue(&mut self, now: u64, ticket: u64, request: Request) {
        // A subscription after a reconnect is for as long as the connection lasts.
        let deadline_ms =
            if ticket & OWN == 0 { now.saturating_add(self.config.deadline_ms) } else { u64::MAX };
        let pending = Pending { request, stage: Stage::Queued, deadline_ms, attempt: 0, last: None };
        self.due.insert((pending.due_ms(), ticket));
        self.pending.insert(ticket, pending);
        if self.state == State::Ready {
            self.write(now, ticket);
        }
    }

    /// Writes a pending request to the greeted connection.
    pub(super) fn write(&mut self, now: u64, ticket: u64) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        if let Request::Push { epoch: Some(epoch), .. } = pending.request
            && epoch != self.epoch
        {
            return self.answer(ticket, Err(Error::NotHere));
        }
        pending.request.put(ticket, &mut self.out);
        self.restage(ticket, Stage::Written);
        self.written_ms = now;
    }

    pub(super) fn restage(&mut self, ticket: u64, stage: Stage) {
        if let Some(pending) = self.pending.get_mut(&ticket) {
            self.due.remove(&(pending.due_ms(), ticket));
            pending.stage = stage;
            self.due.insert((pending.due_ms(), ticket));
        }
    }

    pub(super) fn answer(&mut self, ticket: u64, result: Result<Answer, Error>) {
        let Some(pending) = self.take(ticket) else { return };
        let is_own = ticket & OWN != 0;
        match (pending.request, &result) {
            (Request::Subscribe(subscribe), Ok(_)) => {
                if !is_own {
                    self.forget_own(|app| app == subscribe.app);
                }
                self.apps.insert(subscribe.app, subscribe.marks);
            }
            (Request::Subscribe(subscribe), Err(why)) if is_own => {
                self.apps.remove(&subscribe.app);
                self.events.push_back(Event::Unsubscribed { app: subscribe.app, why: why.clone() });
            }
            _ => {}
        }
        if !is_own {
            self.events.push_back(Event::Answered(Ticket(ticket), result));
        }
    }

    /// Nobody waits for this answer any more. True: none comes. False: the request is on its way, and keeps its place until
    /// it is answered or withdrawn again.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        let is_on_its_way =
            self.pending.get(&ticket.0).is_some_and(|pending| pending.stage == Stage::Written);
        if !is_on_its_way {
            self.take(ticket.0);
        }
        !is_on_its_way
    }

    /// Takes a request out, whatever becomes of it.
    fn take(&mut self, ticket: u64) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        self.due.remove(&(pending.due_ms(), ticket));
        Some(pending)
    }

    /// Forgets what it asked by itself about such apps: each connection asks anew, and what is asked for since then holds.
    fn forget_own(&mut self, is_meant: impl Fn(&str) -> bool) {
        let is_meant = |request: &Request| matches!(request, Request::Subscribe(own) if is_meant(&own.app));
        let own = self.pending.range(OWN..).filter(|(_, pending)| is_meant(&pending.request));
        for ticket in own.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.take(ticket);
        }
    }

    /// TCP is connected: says HELLO.
    pub fn handle_connected(&mut self, now_ms: u64) {
        if self.state != State::Connecting {
            return;
        }
        self.state = State::Greeting(now_ms.saturating_add(CONNECT_MS));
        self.reader = frame_reader();
        self.out.clear();
        self.pinged_ms = None;
        (self.written_ms, self.heard_ms) = (now_ms, now_ms);
        let hello = Hello {
            version: INTERNAL_VERSION,
            role: Role::Service as i32,
            node: self.config.node.clone(),
            worker: self.config.worker,
            token: self.config.token.clone().into(),
            ..Hello::default()
        };
        put_control(&mut self.out, Verb::Hello, &hello);
    }

    /// TCP is gone, or could not be connected, for the reason given.
    pub fn handle_disconnected(&mut self, now_ms: u64, why: Error) {
        if matches!(self.state, State::Waiting(_) | State::Stopped) {
            return;
        }
        self.out.clear();
        self.reader = frame_reader();
        self.pinged_ms = None;
        // Only a connection that lasts shows that all is well: whoever welcomes and hangs up is tried less and less often,
        // like one that does not listen.
        if self.ready_ms.take().is_some_and(|since| now_ms >= since.saturating_add(STABLE_MS)) {
            self.attempt = 0;
        }
        let (base, cap) = (self.config.backoff_base_ms, self.config.backoff_cap_ms);
        let pause = full_jitter(base, cap, self.attempt, self.rng.u64(..));
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Waiting(now_ms.saturating_add(pause));
        self.forget_own(|_| true);
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            let Some(pending) = self.pending.get_mut(&ticket) else { continue };
            pending.last = Some(Box::new(why.clone()));
            let repeatable = pending.request.repeatable() || pending.stage != Stage::Written;
            let what = pending.request.name();
            if repeatable {
                self.restage(ticket, Stage::Queued);
            } else {
                self.answer(ticket, Err(Error::Uncertain { what }));
            }
        }
        self.events.push_back(Event::Lost(why));
    }

    /// Gives the connection up, and tries again later.
    pub(super) fn drop_link(&mut self, now: u64, why: Error) {
        self.events.push_back(Event::Close);
        self.handle_disconnected(now, why);
    }

    /// Gives the connection up for good.
    pub(super) fn stop(&mut self, why: Error) {
        self.state = State::Stopped;
        self.out.clear();
        self.events.push_back(Event::Close);
        self.forget_own(|_| true);
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            self.answer(ticket, Err(why.clone()));
        }
        self.stopped = Some(why.clone());
        self.events.push_back(Event::Stopped(why));
    }

    /// Bytes have arrived.
    pub fn handle_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        if !matches!(self.state, State::Greeting(_) | State::Ready) {
            return;
        }
        self.heard_ms = now_ms;
        self.pinged_ms = None;
        self.reader.push(bytes);
        while matches!(self.state, State::Greeting(_) | State::Ready) {
            let handled = match self.reader.try_next() {
                Ok(None) => return,
                Ok(Some(frame)) => self.handle_frame(now_ms, &frame),
                Err(error) => Err(Error::Protocol(error.to_string())),
            };
            if let Err(error) = handled {
                self.drop_link(now_ms, error);
            }
        }
    }

    /// Time has passed: call when [`Self::poll_timeout`] says so, or at any other time.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        while let Some(&(due_ms, ticket)) = self.due.first()
            && due_ms <= now_ms
        {
            let Some(pending) = self.pending.get_mut(&ticket) else {
                self.due.pop_first();
                continue;
            };
            if pending.deadline_ms > now_ms {
                self.restage(ticket, Stage::Queued);
                if self.state == State::Ready {
                    self.write(now_ms, ticket);
                }
                continue;
            }
            let (what, within_ms) = (pending.request.name(), self.config.deadline_ms);
            let last = pending.last.take();
            self.answer(ticket, Err(Error::Deadline { what, within_ms, last }));
        }
        match self.state {
            State::Waiting(at) if at <= now_ms => {
                self.state = State::Connecting;
                self.events.push_back(Event::Connect);
            }
            State::Greeting(by) if by <= now_ms => {
                let within_ms = CONNECT_MS;
                self.drop_link(now_ms, Error::Deadline { what: "HELLO", within_ms, last: None });
            }
            State::Ready => match self.pinged_ms {
                Some(at) if at.saturating_add(self.config.dead_ms) <= now_ms => {
                    let silent_ms = now_ms.saturating_sub(self.heard_ms);
                    self.drop_link(now_ms, Error::Silent { silent_ms });
                }
                None if self.ping_due_ms() <= now_ms => {
                    put_empty(&mut self.out, Verb::Ping);
                    self.written_ms = now_ms;
                    self.pinged_ms = Some(now_ms);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// PING when this side has been silent for the interval (the other side's rule), and when the other side
    /// has (nothing else would notice that it is gone).
    fn ping_due_ms(&self) -> u64 {
        self.written_ms.min(self.heard_ms).saturating_add(self.config.ping_ms)
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest; `None`: there is nothing to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let link = match self.state {
            State::Waiting(at) | State::Greeting(at) => Some(at),
            State::Ready => Some(
                self.pinged_ms
                    .map_or_else(|| self.ping_due_ms(), |at| at.saturating_add(self.config.dead_ms)),
            ),
            State::Connecting | State::Stopped => None,
        };
        link.into_iter().chain(self.due.first().map(|&(due_ms, _)| due_ms)).min()
    }

    /// Everything that is to be written now, in one piece.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if self.out.is_empty() { None } else { Some(self.out.split().freeze()) }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Events that [`Self::poll_event`] has not handed out yet.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// Requests without an answer yet. What it asks by itself after a reconnect takes nobody's place.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len() - self.pending.range(OWN..).count()
    }
}
