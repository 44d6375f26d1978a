//! Messages between workers, and from the control thread to a worker.
//!
//! A mailbox is bounded; a full one refuses and the sender says so to whoever asked. The doorbell is rung only
//! when nobody has rung it since the owner last looked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use moor_tls::peer::{Acceptor, Dialer, Peer};
use moor_wire::Code;
use moor_wire::internal::Location;
use moor_wire::session::SessionHandle;

use super::access::{Access, Scope};
use super::drain::DrainPlan;
use super::io::WorkerId;
use crate::limits::MAILBOX_ENTRIES;

/// Work one worker asks of another on behalf of a service.
#[derive(Clone, Debug)]
pub enum Job {
    /// A frame for one session.
    Push {
        /// Whom it is for.
        session: SessionHandle,
        /// Kind of the client frame.
        kind: u8,
        /// Flags of the client frame.
        flags: u8,
        /// Its body.
        body: Bytes,
        /// What who asks may do.
        scope: Scope,
    },
    /// A frame for every session of an account.
    PushAccount {
        /// App.
        app: Arc<str>,
        /// Account.
        account: Arc<str>,
        /// Kind of the client frame.
        kind: u8,
        /// Flags of the client frame.
        flags: u8,
        /// Its body.
        body: Bytes,
    },
    /// A frame for every session of an app.
    Broadcast {
        /// App.
        app: Arc<str>,
        /// Kind of the client frame.
        kind: u8,
        /// Flags of the client frame.
        flags: u8,
        /// Its body.
        body: Bytes,
    },
    /// Close sessions, as far as who asks may.
    Kick(Arc<moor_wire::internal::Kick>, Scope),
    /// Where an account's sessions are.
    Lookup {
        /// App.
        app: Arc<str>,
        /// Account.
        account: Arc<str>,
    },
}

/// One worker's part of an answer.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// What became of it.
    pub code: Code,
    /// Sessions reached.
    pub reached: u32,
    /// Sessions found, for a look-up.
    pub sessions: Vec<Location>,
}

/// A service that moves to another worker, but for its descriptor.
#[derive(Debug)]
pub struct Arrival {
    /// What it has said, its HELLO first, out of records if there were any.
    pub received: Vec<u8>,
    /// Its TLS; `None`: clear text.
    pub tls: Option<Box<Peer>>,
}

/// A message in a mailbox.
#[derive(Debug)]
pub enum Mail {
    /// Do this and answer with the ticket.
    Job {
        /// Who asks.
        origin: WorkerId,
        /// Names the request at the origin.
        ticket: u64,
        /// What to do.
        job: Job,
    },
    /// The answer.
    Done {
        /// As in the job.
        ticket: u64,
        /// This worker's part.
        result: JobResult,
    },
    /// A service's descriptor is on its way here, with what it has sent so far.
    Service {
        /// Comes with the descriptor.
        ticket: u64,
        /// What moves beside it.
        arrival: Arrival,
    },
    /// From the control thread: whoever comes from now on is checked against this.
    Access(Access),
    /// From the control thread: whoever comes from now on is shown these certificates.
    Tls(moor_tls::Server),
    /// From the control thread: services that come from now on are shown this certificate, and asked for one of these
    /// authorities.
    InternalTls(Acceptor),
    /// From the control thread: likewise the router, with the next connection.
    RouterTls(Dialer),
    /// From the control thread: finish gracefully.
    Drain(DrainPlan),
    /// From the control thread: stop at once.
    Stop,
}

/// A worker's bounded mailbox.
#[derive(Debug)]
pub struct Mailbox {
    queue: ArrayQueue<Mail>,
    /// True when the doorbell has been rung since the owner last looked.
    rung: AtomicBool,
    /// True once the owner has ended: nobody takes anything out any more.
    closed: AtomicBool,
}

impl Mailbox {
    /// An empty mailbox.
    #[must_use]
    pub fn new() -> Self {
        let queue = ArrayQueue::new(MAILBOX_ENTRIES);
        Self { queue, rung: AtomicBool::new(false), closed: AtomicBool::new(false) }
    }

    /// The owner ends. It looks once more afterwards; what is put in later than that is lost, and who waits for an answer
    /// to it is told after a while.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the owner takes messages out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Puts a message in. `Ok(true)`: ring the doorbell; `Ok(false)`: somebody already has.
    ///
    /// # Errors
    /// The message itself when the mailbox is full.
    pub fn try_put(&self, mail: Mail) -> Result<bool, Mail> {
        self.queue.push(mail)?;
        Ok(!self.rung.swap(true, Ordering::AcqRel))
    }

    /// Puts an order of the control thread's in, whose doorbell is another. Where the mailbox is full the message that has
    /// waited longest makes way and is returned; who waits for an answer to it is told after a while.
    pub fn put_order(&self, mail: Mail) -> Option<Mail> {
        self.queue.force_push(mail)
    }

    /// The owner is about to look: the next message rings again. Whoever found the bell rung has put its message in
    /// before, and this, which reads what it found, comes after: the look that follows sees the message.
    pub fn listen(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// The next message.
    pub fn take(&self) -> Option<Mail> {
        self.queue.pop()
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

/// Every worker's mailbox. One that is open is of a worker that runs.
#[derive(Clone, Debug)]
pub struct Mailboxes {
    boxes: Arc<[Mailbox]>,
}

impl Mailboxes {
    /// Mailboxes for `workers` workers.
    #[must_use]
    pub fn new(workers: u32) -> Self {
        Self { boxes: (0..workers).map(|_| Mailbox::new()).collect() }
    }

    /// Number of workers.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "made from a u32")]
    pub fn workers(&self) -> u32 {
        self.boxes.len() as u32
    }

    /// The mailbox of a worker.
    #[must_use]
    pub fn of(&self, worker: WorkerId) -> Option<&Mailbox> {
        self.boxes.get(worker.index())
    }

    /// To be held while a worker runs.
    #[must_use]
    pub fn worker_runs(&self, worker: WorkerId) -> WorkerRuns {
        WorkerRuns(self.clone(), worker)
    }

    /// Whether there is such a worker, and it has not ended.
    #[must_use]
    pub fn runs(&self, worker: WorkerId) -> bool {
        self.of(worker).is_some_and(Mailbox::is_open)
    }

    /// Workers that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.boxes.iter().filter(|mailbox| mailbox.is_open()).count()
    }
}

/// A worker runs. When this goes it has ended, also by a panic.
#[derive(Debug)]
pub struct WorkerRuns(Mailboxes, WorkerId);

impl Drop for WorkerRuns {
    fn drop(&mut self) {
        if let Some(mailbox) = self.0.of(self.1) {
            mailbox.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_has_ended() {
        let mailboxes = Mailboxes::new(2);
        let runs = mailboxes.worker_runs(WorkerId(1));
        let ended = std::panic::catch_unwind(move || {
            let _runs = runs;
            std::panic::resume_unwind(Box::new("a broken invariant"));
        });
        assert!(ended.is_err());
        assert_eq!((mailboxes.running(), mailboxes.runs(WorkerId(1))), (1, false));
    }

    #[test]
    fn the_doorbell_rings_once_until_the_owner_looks() {
        let mailbox = Mailbox::new();
        assert!(mailbox.try_put(Mail::Stop).unwrap());
        assert!(!mailbox.try_put(Mail::Stop).unwrap());
        mailbox.listen();
        assert_eq!(std::iter::from_fn(|| mailbox.take()).count(), 2);
        assert!(mailbox.try_put(Mail::Stop).unwrap());
    }

    #[test]
    fn a_full_mailbox_refuses_and_gives_the_message_back() {
        let mailbox = Mailbox::new();
        for _ in 0..MAILBOX_ENTRIES {
            mailbox.try_put(Mail::Stop).unwrap();
        }
        assert!(matches!(mailbox.try_put(Mail::Stop), Err(Mail::Stop)));
    }
}
