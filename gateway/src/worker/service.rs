//! The internal port: backend services reach sessions here.
//!
//! Addressing is by worker: a service's HELLO names the worker it wants, and its descriptor moves there, so that
//! its pushes land on the owning core without a hop. What concerns other workers as well goes through their
//! mailboxes (see `jobs`).

use std::sync::Arc;

use bytes::Bytes;
use moor_credentials::Right;
use moor_ring::{Errno, Slot, Token};
use moor_wire::Code;
use moor_wire::frame::Header;
use moor_wire::internal::{
    Broadcast, FLAG_WANT_OUTCOME, Hello, Kick, Lookup, NotHere, Outcome, Push, PushAccount, Role as PeerRole,
    Stat, Stats, StatsResult, Verb, Welcome, refusal_of_pushed,
};
use moor_wire::limits::INTERNAL_VERSION;
use prost::Message;

use super::access::Scope;
use super::connection::{Phase, Receive, Role};
use super::counters::{COUNTERS, Counter};
use super::io::{Io, WorkerId};
use super::jobs::Asker;
use super::mailbox::{Arrival, Job, Mail};
use super::{Now, Worker};
use crate::limits::JOB_TIMEOUT_MS;

/// Heartbeat interval expected of a service, milliseconds.
const SERVICE_INTERVAL_MS: u32 = 60_000;

/// A connected service.
#[derive(Debug)]
pub struct Service {
    /// What it calls itself.
    node: String,
    /// What it may do.
    pub(super) may: Scope,
    /// When it came to this worker, milliseconds.
    pub(super) came_ms: u64,
}

impl Service {
    /// One that has not said who it is.
    pub const fn new(came_ms: u64) -> Self {
        Self { node: String::new(), may: None, came_ms }
    }
}

impl<I: Io> Worker<I> {
    pub(super) fn handle_service_frame(
        &mut self,
        slot: Slot,
        header: Header,
        body: &[u8],
        rest: &[u8],
        now: Now,
    ) {
        let verb = Verb::from_byte(header.kind);
        if self.connections[slot.0].phase == Phase::Greeting {
            return match (verb, Hello::decode(body)) {
                (Some(Verb::Hello), Ok(hello)) => self.handle_hello(slot, hello, header, body, rest, now),
                _ => self.refuse_bytes(slot, Code::ProtocolError, "the first frame must be HELLO", now),
            };
        }
        let asker = |cookie| Asker::new(slot, cookie);
        let wants_outcome = header.flags & FLAG_WANT_OUTCOME != 0;
        match verb {
            Some(Verb::Push) => match Push::parse(body) {
                Ok(push) => self.handle_service_push(slot, &push, wants_outcome, now),
                Err(error) => self.refuse_bytes(slot, Code::ProtocolError, &error.to_string(), now),
            },
            Some(Verb::PushAccount) => match PushAccount::parse(body) {
                Ok(push) if !self.is_allowed(slot, push.app, Right::Push, push.cookie, now) => {}
                Ok(push) => {
                    if let Some(code) = refusal_of_pushed(push.kind, push.body) {
                        return self.refuse_job(asker(push.cookie), code, now);
                    }
                    let job = Job::PushAccount {
                        app: push.app.into(),
                        account: push.account.into(),
                        kind: push.kind,
                        flags: push.flags,
                        body: Bytes::copy_from_slice(push.body),
                    };
                    self.ask_all(asker(push.cookie), job, now);
                }
                Err(error) => self.refuse_bytes(slot, Code::ProtocolError, &error.to_string(), now),
            },
            Some(Verb::Broadcast) => match Broadcast::parse(body) {
                Ok(all) => {
                    let asker = asker(all.cookie);
                    let asker = if wants_outcome { asker } else { asker.for_nothing() };
                    if !self.has_right(slot, all.app, Right::Broadcast) {
                        return self.refuse_job(asker, Code::Unauthorized, now);
                    }
                    if let Some(code) = refusal_of_pushed(all.kind, all.body) {
                        return self.refuse_job(asker, code, now);
                    }
                    let job = Job::Broadcast {
                        app: all.app.into(),
                        kind: all.kind,
                        flags: all.flags,
                        body: Bytes::copy_from_slice(all.body),
                    };
                    self.ask_all(asker, job, now);
                }
                Err(error) => self.refuse_bytes(slot, Code::ProtocolError, &error.to_string(), now),
            },
            Some(Verb::Kick) => match Kick::decode(body) {
                Ok(kick)
                    if kick.session == 0
                        && !self.is_allowed(slot, &kick.app, Right::Kick, kick.cookie, now) => {}
                Ok(kick) => {
                    let asker = asker(kick.cookie);
                    self.ask_all(asker, Job::Kick(Arc::new(kick), self.scope(slot)), now);
                }
                Err(_) => self.refuse_bytes(slot, Code::ProtocolError, "KICK does not decode", now),
            },
            Some(Verb::Lookup) => match Lookup::decode(body) {
                Ok(lookup) if !self.is_allowed(slot, &lookup.app, Right::Query, lookup.cookie, now) => {}
                Ok(lookup) => {
                    let job = Job::Lookup { app: lookup.app.into(), account: lookup.account.into() };
                    self.ask_all(asker(lookup.cookie).for_lookup(), job, now);
                }
                Err(_) => self.refuse_bytes(slot, Code::ProtocolError, "LOOKUP does not decode", now),
            },
            Some(Verb::Stats) => match Stats::decode(body) {
                Ok(stats) => self.handle_stats(slot, stats.cookie, now),
                Err(_) => self.refuse_bytes(slot, Code::ProtocolError, "STATS does not decode", now),
            },
            Some(Verb::Ping) => self.queue_empty(slot, Verb::Pong, now),
            Some(Verb::Pong) => {}
            _ => {
                let detail = format!("verb {:#04x} is not for a service to send to a gateway", header.kind);
                self.refuse_bytes(slot, Code::ProtocolError, &detail, now);
            }
        }
    }

    fn handle_hello(&mut self, slot: Slot, hello: Hello, header: Header, body: &[u8], rest: &[u8], now: Now) {
        if hello.version != INTERNAL_VERSION {
            let detail = format!("this gateway speaks version {INTERNAL_VERSION}, not {}", hello.version);
            return self.refuse_bytes(slot, Code::Version, &detail, now);
        }
        if hello.role != PeerRole::Service as i32 {
            return self.refuse_bytes(
                slot,
                Code::ProtocolError,
                "only services connect to the internal port",
                now,
            );
        }
        let Ok(may) = self.scope_of(slot, &hello.token, now) else {
            return self.refuse_bytes(
                slot,
                Code::Unauthorized,
                "no service has this token or certificate",
                now,
            );
        };
        let workers = self.mailboxes.workers();
        match hello.worker.map(WorkerId) {
            Some(worker) if worker.0 >= workers => {
                let detail = format!("there is no worker {}; there are {workers}", worker.0);
                self.refuse_bytes(slot, Code::NotFound, &detail, now);
            }
            Some(worker) if !self.mailboxes.runs(worker) => {
                self.finish_with(slot, Code::Draining, super::drain::ABOUT_TO_RESTART, now);
            }
            Some(worker) if worker != self.id => self.pass_service(slot, worker, header, body, rest, now),
            _ => self.welcome(slot, hello.node, may, now),
        }
    }

    fn welcome(&mut self, slot: Slot, node: String, may: Scope, now: Now) {
        if let Some(service) = self.services.get_mut(&slot) {
            (service.node, service.may) = (node, may);
            tracing::debug!(worker = self.id.0, service = service.node, "service connected");
        }
        let connection = &mut self.connections[slot.0];
        connection.phase = Phase::Live;
        connection.interval_ms = SERVICE_INTERVAL_MS;
        self.file_in(slot, super::timers::death_ms(SERVICE_INTERVAL_MS), now);
        let welcome = Welcome {
            version: INTERNAL_VERSION,
            node: self.settings.node.to_string(),
            epoch: self.settings.epoch,
            worker: self.id.0,
            workers: self.mailboxes.workers(),
            lease_ms: SERVICE_INTERVAL_MS,
        };
        self.queue_internal(slot, Verb::Welcome, &welcome, now);
    }

    /// Sends a service's descriptor, what it has said and its TLS to the worker it asked for. Nothing is armed on it: its
    /// HELLO came by a single read, which was the cold tier's. Nothing is being sent either: over TLS the last that was
    /// sent is what the service has answered.
    fn pass_service(
        &mut self,
        slot: Slot,
        worker: WorkerId,
        header: Header,
        body: &[u8],
        rest: &[u8],
        now: Now,
    ) {
        debug_assert_eq!(self.connections[slot.0].receive, Receive::Idle);
        let mut received = header.to_bytes().to_vec();
        received.extend_from_slice(body);
        received.extend_from_slice(rest);
        if self.connections[slot.0].outbox.is_some() {
            // Its kernel was told of the end of the send later than of the answer: a next try will do.
            return self.finish_with(slot, Code::Overloaded, "the connection is not ready to move", now);
        }
        let ticket = self.jobs.ticket(self.id);
        let arrival = Arrival { received, tls: self.take_peer(slot) };
        if let Err(mail) = self.try_mail(worker, Mail::Service { ticket, arrival }) {
            if let Mail::Service { arrival: Arrival { tls: Some(peer), .. }, .. } = mail {
                self.give_peer_back(slot, peer);
            }
            return self.finish_with(slot, Code::Overloaded, "the worker asked for is busy", now);
        }
        let connection = &mut self.connections[slot.0];
        connection.phase = Phase::Passing;
        let token = connection.token(slot);
        self.services.remove(&slot);
        self.io.pass(slot, worker, ticket, token);
    }

    /// The descriptor is with the other worker: give ours up. Or it is not: then its TLS and what it said are there and it
    /// is here, so that it has to come again.
    pub(super) fn handle_passed(&mut self, token: Token, result: Result<(), Errno>, now: Now) {
        let Some(slot) = self.current(token) else { return };
        match result {
            Ok(()) => self.close_join(slot),
            Err(error) => {
                tracing::warn!(worker = self.id.0, %error, "a service's descriptor could not be handed over");
                self.connections[slot.0].phase = Phase::Greeting;
                let detail = "the connection could not be handed to the worker asked for";
                self.finish_with(slot, Code::Overloaded, detail, now);
            }
        }
    }

    /// A service's descriptor will arrive from another worker. Should it have no place here, only the other one hears.
    pub(super) fn await_descriptor(&mut self, ticket: u64, arrival: Arrival, now: Now) {
        self.arriving.retain(|_, (_, until_ms)| *until_ms > now.0);
        self.arriving.insert(ticket, (arrival, now.0 + JOB_TIMEOUT_MS));
    }

    /// A service's descriptor arrived from another worker; its first bytes are in the mailbox.
    pub(super) fn handle_slot_passed(&mut self, value: u64, result: Result<Slot, Errno>, now: Now) {
        if !self.arriving.contains_key(&value) {
            self.mail_step(now);
        }
        let arrival = self.arriving.remove(&value).map(|(arrival, _)| arrival);
        let Ok(slot) = result else { return };
        self.occupy(slot, Role::Service, now);
        match arrival {
            Some(Arrival { received, tls }) => {
                if let Some(peer) = tls {
                    self.hold_peer(slot, peer);
                }
                if self.admit_service(slot, now) {
                    self.handle_stream(slot, &received, now);
                    self.arm(slot);
                }
            }
            // Its mail was lost with its sender: nobody knows what it wants.
            None => self.close_join(slot),
        }
    }

    fn handle_service_push(&mut self, slot: Slot, push: &Push<'_>, want_outcome: bool, now: Now) {
        if let Some(code) = refusal_of_pushed(push.kind, push.body) {
            return self.answer_push(slot, push, code, want_outcome, now);
        }
        let owner = WorkerId(push.session.worker());
        let scope = self.scope(slot);
        if owner == self.id {
            if self.may_reach(&scope, push.session, Right::Push) {
                return self.handle_push(slot, push, want_outcome, now);
            }
            return self.answer_push(slot, push, Code::NotHere, want_outcome, now);
        }
        let job = Job::Push {
            session: push.session,
            kind: push.kind,
            flags: push.flags,
            body: Bytes::copy_from_slice(push.body),
            scope,
        };
        let asker = Asker::new(slot, push.cookie);
        self.ask_one(if want_outcome { asker } else { asker.for_miss(push.session) }, owner, job, now);
    }

    /// Pushes to a session of this worker and answers as asked: always with OUTCOME, or only a miss with NOT_HERE.
    pub(super) fn handle_push(&mut self, slot: Slot, push: &Push<'_>, want_outcome: bool, now: Now) {
        let code = self.push(push, now);
        self.answer_push(slot, push, code, want_outcome, now);
    }

    fn answer_push(&mut self, slot: Slot, push: &Push<'_>, code: Code, want_outcome: bool, now: Now) {
        if want_outcome {
            let outcome = Outcome { cookie: push.cookie, code, reached: u32::from(code == Code::Ok) };
            self.queue_outcome(slot, outcome, now);
        } else if code == Code::NotHere {
            self.queue_not_here(slot, NotHere { cookie: push.cookie, session: push.session }, now);
        }
    }

    /// Says that a session is not here.
    pub(super) fn queue_not_here(&mut self, slot: Slot, not_here: NotHere, now: Now) {
        let mut frame = self.pool.buffer();
        not_here.put(&mut frame);
        self.queue_bytes(slot, &frame, now);
        self.pool.give_buffer(frame);
    }

    fn handle_stats(&mut self, slot: Slot, cookie: u64, now: Now) {
        let stats = COUNTERS.iter().enumerate().map(|(index, info)| Stat {
            name: format!("gateway_{}", info.name),
            value: info.over_workers((0..self.board.workers()).map(|worker| self.board.value(worker, index))),
        });
        let result = StatsResult { cookie, stats: stats.collect() };
        self.queue_internal(slot, Verb::StatsResult, &result, now);
    }

    /// Queues a frame for the session a push names.
    pub(super) fn push(&mut self, push: &Push<'_>, now: Now) -> Code {
        let Some((_, channel)) = self.channels.resolve(push.session) else {
            self.counters.add(Counter::NotHere);
            return Code::NotHere;
        };
        let (slot, number) = (Slot(channel.connection), channel.number);
        match self.queue_frame(slot, push.kind, push.flags, number, push.body, now) {
            super::transmit::Queued::Yes => {
                self.counters.add(Counter::Deliveries);
                Code::Ok
            }
            super::transmit::Queued::Dropped => Code::Overloaded,
            super::transmit::Queued::Gone => Code::NotHere,
        }
    }

    /// Answers a push or a kick.
    pub(super) fn queue_outcome(&mut self, slot: Slot, outcome: Outcome, now: Now) {
        let mut frame = self.pool.buffer();
        outcome.put(&mut frame);
        self.queue_bytes(slot, &frame, now);
        self.pool.give_buffer(frame);
    }
}

/// Compares a secret without telling by time where it differs.
pub(super) fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}
