//! Requests of services that concern other workers: asked by mail, answered by mail, put together here.

use std::collections::HashMap;

use moor_credentials::Right;
use moor_ring::{Slot, Token};
use moor_wire::Code;
use moor_wire::internal::{Kick, Location, LookupResult, NotHere, Outcome, Push, Verb};
use moor_wire::limits::LOOKUP_SESSIONS_MAX;
use moor_wire::session::SessionHandle;

use super::channels::{Channel, ChannelIndex};
use super::counters::Counter;
use super::io::{Io, WorkerId};
use super::mailbox::{Job, JobResult, Mail};
use super::{Now, Worker};
use crate::limits::{JOB_TIMEOUT_MS, JOBS_PENDING_MAX, TICK_MS};

/// Who asked, and how the answer is to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    slot: Slot,
    cookie: u64,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// OUTCOME in any case.
    Outcome,
    /// NOT_HERE if the session is not there, else nothing.
    Miss(SessionHandle),
    /// LOOKUP_RESULT.
    Locations,
    /// None.
    Nothing,
}

impl Asker {
    /// A service that wants an outcome.
    pub(super) const fn new(slot: Slot, cookie: u64) -> Self {
        Self { slot, cookie, answer: Answer::Outcome }
    }

    /// A service that wants locations.
    pub(super) const fn for_lookup(self) -> Self {
        Self { answer: Answer::Locations, ..self }
    }

    /// A service that wants no answer.
    pub(super) const fn for_nothing(self) -> Self {
        Self { answer: Answer::Nothing, ..self }
    }

    /// A service that wants to hear only of a miss.
    pub(super) const fn for_miss(self, session: SessionHandle) -> Self {
        Self { answer: Answer::Miss(session), ..self }
    }
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    /// Of the asker's connection: it may be gone when the answer is ready.
    token: Token,
    waiting: u32,
    sum: JobResult,
    deadline_ms: u64,
}

/// Requests waiting for other workers.
#[derive(Debug, Default)]
pub struct Jobs {
    pending: HashMap<u64, Pending>,
    tickets: u64,
    /// When those that waited too long are looked for next, milliseconds.
    look_ms: u64,
}

impl Jobs {
    /// Whether none is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// A number no other worker of this gateway gives out. 56 bits, as a ring's message carries.
    pub fn ticket(&mut self, worker: WorkerId) -> u64 {
        self.tickets += 1;
        u64::from(worker.0) << 40 | self.tickets & ((1 << 40) - 1)
    }
}

impl JobResult {
    const fn empty(code: Code) -> Self {
        Self { code, reached: 0, sessions: Vec::new() }
    }

    /// Adds another worker's part. Trouble is told even if somebody was reached; without any, one who was is enough.
    fn add(&mut self, other: Self) {
        self.reached += other.reached;
        self.sessions.extend(other.sessions);
        let trouble = |code| !matches!(code, Code::Ok | Code::NotHere);
        if self.reached > 0 && !trouble(self.code) {
            self.code = Code::Ok;
        }
        if trouble(other.code) {
            self.code = other.code;
        }
    }
}

impl<I: Io> Worker<I> {
    /// Puts mail into another worker's box and wakes it; false when the box is full.
    pub(super) fn put_mail(&mut self, worker: WorkerId, mail: Mail) -> bool {
        self.try_mail(worker, mail).is_ok()
    }

    /// Likewise; with the mail itself when the box is full.
    pub(super) fn try_mail(&mut self, worker: WorkerId, mail: Mail) -> Result<(), Mail> {
        let put = match self.mailboxes.of(worker) {
            Some(mailbox) => mailbox.try_put(mail),
            None => Err(mail),
        };
        match put {
            Ok(ring) => {
                if ring {
                    self.io.wake(worker);
                }
                Ok(())
            }
            Err(mail) => {
                self.counters.add(Counter::MailboxFull);
                Err(mail)
            }
        }
    }

    /// Has one other worker do a job.
    pub(super) fn ask_one(&mut self, asker: Asker, worker: WorkerId, job: Job, now: Now) {
        // The sessions of a worker that has ended went with it.
        if !self.mailboxes.runs(worker) {
            return self.refuse_job(asker, Code::NotHere, now);
        }
        self.ask(asker, &[worker], job, JobResult::empty(Code::NotHere), now);
    }

    /// Has every worker that runs do a job, this one at once.
    pub(super) fn ask_all(&mut self, asker: Asker, job: Job, now: Now) {
        let own = self.run_job(&job, now);
        let runs = |worker: &WorkerId| *worker != self.id && self.mailboxes.runs(*worker);
        let others: Vec<_> = (0..self.mailboxes.workers()).map(WorkerId).filter(runs).collect();
        self.ask(asker, &others, job, own, now);
    }

    fn ask(&mut self, asker: Asker, workers: &[WorkerId], job: Job, mut sum: JobResult, now: Now) {
        if !workers.is_empty() && self.jobs.pending.len() >= JOBS_PENDING_MAX {
            self.counters.add(Counter::JobsRefused);
            sum.add(JobResult::empty(Code::Overloaded));
            return self.answer(asker, sum, now);
        }
        let ticket = self.jobs.ticket(self.id);
        let mut waiting = 0;
        for worker in workers {
            let mail = Mail::Job { origin: self.id, ticket, job: job.clone() };
            if self.put_mail(*worker, mail) {
                waiting += 1;
            } else {
                sum.add(JobResult::empty(Code::Overloaded));
            }
        }
        if waiting == 0 {
            return self.answer(asker, sum, now);
        }
        let token = self.connections[asker.slot.0].token(asker.slot);
        let deadline_ms = now.0 + JOB_TIMEOUT_MS;
        self.jobs.pending.insert(ticket, Pending { asker, token, waiting, sum, deadline_ms });
    }

    /// Answers what nobody is asked to do.
    pub(super) fn refuse_job(&mut self, asker: Asker, code: Code, now: Now) {
        self.answer(asker, JobResult::empty(code), now);
    }

    /// Another worker asks.
    pub(super) fn handle_job(&mut self, origin: WorkerId, ticket: u64, job: &Job, now: Now) {
        let result = self.run_job(job, now);
        // Should the box be full the origin times the request out and says so.
        self.put_mail(origin, Mail::Done { ticket, result });
    }

    /// Another worker answers.
    pub(super) fn handle_job_done(&mut self, ticket: u64, result: JobResult, now: Now) {
        let Some(pending) = self.jobs.pending.get_mut(&ticket) else { return };
        pending.sum.add(result);
        pending.waiting -= 1;
        if pending.waiting == 0 {
            self.job_finish(ticket, now);
        }
    }

    /// Gives up on what waited too long. All are looked at, so not in every turn.
    pub(super) fn jobs_step(&mut self, now: Now) {
        if self.jobs.pending.is_empty() || now.0 < self.jobs.look_ms {
            return;
        }
        self.jobs.look_ms = now.0 + TICK_MS;
        let late: Vec<_> = self
            .jobs
            .pending
            .iter()
            .filter(|(_, p)| p.deadline_ms <= now.0)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in late {
            self.counters.add(Counter::JobsTimedOut);
            if let Some(pending) = self.jobs.pending.get_mut(&ticket) {
                pending.sum.add(JobResult::empty(Code::Unavailable));
            }
            self.job_finish(ticket, now);
        }
    }

    fn job_finish(&mut self, ticket: u64, now: Now) {
        let Some(Pending { asker, token, sum, .. }) = self.jobs.pending.remove(&ticket) else { return };
        // Whoever asked may be gone, and the memory with them.
        let asking = self.connections.get(asker.slot.0);
        if asking.is_some_and(|connection| connection.token(asker.slot) == token) {
            self.answer(asker, sum, now);
        }
    }

    fn answer(&mut self, asker: Asker, result: JobResult, now: Now) {
        let Asker { slot, cookie, answer } = asker;
        match answer {
            Answer::Locations => {
                let mut sessions = result.sessions;
                let code = match result.code {
                    _ if sessions.len() > LOOKUP_SESSIONS_MAX => Code::Limit,
                    Code::NotHere => Code::Ok,
                    code => code,
                };
                sessions.truncate(LOOKUP_SESSIONS_MAX);
                let found = LookupResult { cookie, code: code as i32, sessions, head: 0, floor: 0 };
                self.queue_internal(slot, Verb::LookupResult, &found, now);
            }
            Answer::Outcome => {
                self.queue_outcome(slot, Outcome { cookie, code: result.code, reached: result.reached }, now);
            }
            Answer::Miss(session) if result.code == Code::NotHere => {
                self.queue_not_here(slot, NotHere { cookie, session }, now);
            }
            Answer::Miss(_) | Answer::Nothing => {}
        }
    }

    /// Does a job on this worker's own sessions.
    fn run_job(&mut self, job: &Job, now: Now) -> JobResult {
        match job {
            Job::Push { session, kind, flags, body, scope } => {
                if !self.may_reach(scope, *session, Right::Push) {
                    return JobResult::empty(Code::NotHere);
                }
                let push = Push { cookie: 0, session: *session, kind: *kind, flags: *flags, body };
                let code = self.push(&push, now);
                JobResult { reached: u32::from(code == Code::Ok), ..JobResult::empty(code) }
            }
            Job::PushAccount { app, account, kind, flags, body } => {
                self.push_account(app, account, *kind, *flags, body, now)
            }
            Job::Broadcast { app, kind, flags, body } => {
                match self.collect_broadcast(app, *kind, *flags, body) {
                    Ok(reached) => JobResult { reached, ..JobResult::empty(Code::Ok) },
                    Err(code) => JobResult::empty(code),
                }
            }
            Job::Kick(kick, scope) => {
                if !self.may_reach(scope, SessionHandle(kick.session), Right::Kick) {
                    return JobResult::empty(Code::NotHere);
                }
                self.run_kick(kick, now)
            }
            Job::Lookup { app, account } => {
                let sessions: Vec<_> =
                    self.channels.of_account(app, account).map(|index| self.location(index)).collect();
                let reached = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
                JobResult { code: Code::Ok, reached, sessions }
            }
        }
    }

    fn push_account(
        &mut self,
        app: &str,
        account: &str,
        kind: u8,
        flags: u8,
        body: &[u8],
        now: Now,
    ) -> JobResult {
        let mut result = JobResult::empty(Code::NotHere);
        let sessions: Vec<_> =
            self.channels.of_account(app, account).map(|index| self.channels.handle(index)).collect();
        for session in sessions {
            let code = self.push(&Push { cookie: 0, session, kind, flags, body }, now);
            result.add(JobResult { reached: u32::from(code == Code::Ok), ..JobResult::empty(code) });
        }
        result
    }

    fn run_kick(&mut self, kick: &Kick, now: Now) -> JobResult {
        let victims: Vec<ChannelIndex> = if kick.session == 0 {
            self.channels
                .of_account(&kick.app, &kick.account)
                .filter(|index| kick.device.is_empty() || self.device_of(*index) == kick.device)
                .collect()
        } else {
            self.channels.resolve(SessionHandle(kick.session)).map(|(index, _)| index).into_iter().collect()
        };
        for victim in &victims {
            self.kick(*victim, kick, now);
        }
        let reached = u32::try_from(victims.len()).unwrap_or(u32::MAX);
        JobResult { reached, ..JobResult::empty(if reached > 0 { Code::Ok } else { Code::NotHere }) }
    }

    fn device_of(&self, index: ChannelIndex) -> &str {
        let connection = self.channels.get(index).and_then(|entry| self.connections.get(entry.connection));
        connection.map_or("", |connection| self.devices.get(connection.device))
    }

    fn location(&self, index: ChannelIndex) -> Location {
        let acked = self.channels.get(index).and_then(Channel::acked);
        Location {
            device: self.device_of(index).to_owned(),
            gateway: self.settings.node.to_string(),
            epoch: self.settings.epoch,
            worker: self.id.0,
            session: self.channels.handle(index).0,
            internal_address: self.settings.internal_address.to_string(),
            acked: acked.unwrap_or(0),
        }
    }
}
