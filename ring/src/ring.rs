//! The ring itself: set up, submit and wait, tear down.
//!
//! One thread makes a ring and uses it. The requests are in `submit.rs`, the completions in
//! `reap.rs`.
//!
//! **What is lent outlives the kernel's use.** Closing a ring does not wait for its requests, and
//! cancelling them in bulk is quadratic (3.5 s for 20,000 armed ones, 6.18). So a dropped ring
//! frees what provably nobody uses any more and leaks the rest: the receive buffers while a
//! receive is armed, and the buffers and addresses of sends, connects and adoptions in flight. A
//! ring is dropped when its thread ends, which for a worker is the end of the process. The kernel
//! winds up on the thread that dropped it: a blocking call right after may return EINTR (6.18).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use io_uring::IoUring;
use io_uring::squeue::Entry;

use crate::completion::Completion;
use crate::config::{RingConfig, RingError};
use crate::connect::Connects;
use crate::doorbell::Doorbell;
use crate::enter::{self, RingName};
use crate::errno::Errno;
use crate::features::{self, Feature, Features};
use crate::recv_buffers::{RecvBuffer, RecvBuffers};
use crate::sends::Sends;
use crate::submit::Adoption;
use crate::table::Table;

/// Names a ring as the target of other rings' messages.
///
/// It does not keep the ring: a ring that is dropped lets go of its connections, and messages to
/// it fail with `OWNERDEAD`.
#[derive(Clone, Debug)]
pub struct RingHandle {
    // A descriptor of its own for the ring. A sender makes the reference strong until its request
    // is submitted, so that the number cannot come to mean another file in between.
    fd: Weak<OwnedFd>,
}

impl RingHandle {
    pub(crate) fn open(&self) -> Result<Arc<OwnedFd>, Errno> {
        self.fd.upgrade().ok_or(Errno::OWNERDEAD)
    }
}

/// Names a listener that a ring keeps.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct ListenerId(pub(crate) u32);

/// What [`Ring::submit_and_wait`] and friends count; all of it is zero on a good day.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct Troubles {
    /// Looks that found completions beyond the queue.
    pub overflows: u64,
    /// Completions the kernel had no memory to keep; its own count.
    pub lost: u32,
    /// Completions with an unknown operation, key, slot or buffer.
    pub malformed: u64,
    /// System calls the kernel refused for now.
    pub refused: u64,
}

/// One io_uring with its direct descriptors and receive buffers. Not `Send`: the kernel takes
/// requests from the thread that made it only.
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<moor_ring::Ring>();
/// ```
pub struct Ring {
    // Closed first when dropped; everything below is memory it might use.
    pub(crate) io: IoUring,
    name: RingName,
    /// What [`RingHandle`]s refer to.
    own: Arc<OwnedFd>,
    pub(crate) features: Features,
    pub(crate) direct_slots: u32,
    pub(crate) buffers: RecvBuffers,
    /// Receives in the kernel's hands, single and multishot.
    pub(crate) recvs_armed: u64,
    pub(crate) sends: Sends,
    pub(crate) connects: Connects,
    pub(crate) adoptions: Table<Adoption>,
    pub(crate) listeners: Vec<Option<TcpListener>>,
    pub(crate) doorbells: Vec<Doorbell>,
    /// Requests that did not fit while the kernel refused to take any.
    backlog: VecDeque<Entry>,
    /// Targets of messages that are not submitted yet; the kernel looks the descriptor up then.
    pub(crate) targets: Vec<Arc<OwnedFd>>,
    /// Completions that the kernel had no part in.
    pub(crate) local: VecDeque<Completion>,
    pub(crate) troubles: Troubles,
}

impl Ring {
    /// Sets a ring up on the calling thread.
    ///
    /// # Errors
    /// When a size is out of range, or the kernel refuses: the text says what to do.
    pub fn new(config: &RingConfig) -> Result<Ring, RingError> {
        config.check()?;
        let (io, no_sq_array) = build(config)?;
        let mut features = features::inspect(&io, config.features)?;
        if !no_sq_array {
            features.lose(Feature::NoSqArray);
        }
        io.submitter().register_files_sparse(config.direct_slots).map_err(|error| {
            RingError::DirectTable { slots: config.direct_slots, errno: Errno::from_io(&error) }
        })?;
        let buffers = RecvBuffers::new(&io.submitter(), config.recv_buffers, config.recv_buffer_bytes)
            .map_err(RingError::step("provide receive buffers"))?;
        let fd = borrow(&io).try_clone_to_owned().map_err(|error| RingError::from_setup(&error))?;
        // Last: from here on the thread holds the ring, and only `Drop` lets it go.
        let mut name = RingName::Descriptor(io.as_raw_fd());
        if features.has(Feature::RegisteredRing) {
            match enter::register_ring_fd(borrow(&io)) {
                Ok(index) => name = RingName::Registered(index),
                // A thread has 16 places (IO_RINGFD_REG_MAX); one more ring works without.
                Err(_) => features.lose(Feature::RegisteredRing),
            }
        }
        Ok(Ring {
            io,
            name,
            own: Arc::new(fd),
            features,
            direct_slots: config.direct_slots,
            buffers,
            recvs_armed: 0,
            sends: Sends::new(),
            connects: Connects::new(),
            adoptions: Table::new(),
            listeners: Vec::new(),
            doorbells: Vec::new(),
            backlog: VecDeque::new(),
            targets: Vec::new(),
            local: VecDeque::new(),
            troubles: Troubles::default(),
        })
    }

    /// What the ring uses and what it does without.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The name under which other rings reach this one.
    #[must_use]
    pub fn handle(&self) -> RingHandle {
        RingHandle { fd: Arc::downgrade(&self.own) }
    }

    /// Submits what was requested, lets the kernel run what it deferred, and waits until `want`
    /// completions are there or the time is over. No timeout means without end; `want` of zero
    /// does not wait. A signal ends the wait early.
    ///
    /// # Errors
    /// Only when the ring is unusable. A full completion queue or a kernel out of memory is
    /// counted, and the requests stay for the next call.
    pub fn submit_and_wait(&mut self, want: u32, timeout: Option<Duration>) -> Result<(), RingError> {
        let want = if self.local.is_empty() { want } else { 0 };
        loop {
            self.refill_submissions();
            let waits_for = if self.backlog.is_empty() { want } else { 0 };
            if waits_for == 0 && self.io.submission().is_empty() && !self.has_deferred_work() {
                self.buffers.commit();
                return Ok(());
            }
            let submitted = self.enter(waits_for, timeout.filter(|_| waits_for > 0))?;
            if self.backlog.is_empty() || submitted == 0 {
                return Ok(());
            }
        }
    }

    /// Gives the buffer back; the kernel has it before the next submission. Dropping it does the
    /// same.
    pub fn recycle(&mut self, buffer: RecvBuffer) {
        drop(buffer);
    }

    /// Receive buffers in nobody's hands; those filled but not popped yet still count.
    #[must_use]
    pub fn buffers_free(&self) -> u32 {
        self.buffers.free()
    }

    /// How often the completion queue was found overflowing, plus completions lost for good. An
    /// overflow ends multishot requests: the queue is too short or turns are too long.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.troubles.overflows + u64::from(self.troubles.lost)
    }

    /// Completions that made no sense and were skipped. Anything but zero is a bug.
    #[must_use]
    pub fn malformed_completions(&self) -> u64 {
        self.troubles.malformed
    }

    /// System calls the kernel refused for now, for want of memory or completion space.
    #[must_use]
    pub fn submissions_refused(&self) -> u64 {
        self.troubles.refused
    }

    /// Sends whose buffer the kernel has.
    #[must_use]
    pub fn sends_in_flight(&self) -> usize {
        self.sends.len()
    }

    /// Queues an entry, submitting first when the queue is full. While the kernel takes nothing
    /// the entry waits in a backlog, in order.
    ///
    /// # Safety
    /// The memory the entry points to has to stay valid, in the way its operation uses it, until
    /// its completion is popped, or for ever if the ring is dropped before.
    pub(crate) unsafe fn push(&mut self, entry: Entry) {
        if self.backlog.is_empty() {
            // SAFETY: the caller keeps the promise that `push` asks for, word for word.
            if unsafe { self.io.submission().push(&entry) }.is_ok() {
                return;
            }
            // Without running deferred work: its completions might not fit. An error that lasts
            // shows up in the next `submit_and_wait`.
            if self.submit_only().is_ok() {
                // SAFETY: as above; the entry was not taken the first time.
                if unsafe { self.io.submission().push(&entry) }.is_ok() {
                    return;
                }
            }
        }
        self.backlog.push_back(entry);
    }

    fn refill_submissions(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: every entry of the backlog came through `push`, whose caller promised what
            // this call asks for.
            if unsafe { self.io.submission().push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Whether entering the kernel would bring completions without any waiting.
    pub(crate) fn has_deferred_work(&mut self) -> bool {
        let queue = self.io.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Runs deferred work and submits nothing.
    pub(crate) fn run_deferred_work(&mut self) -> Result<(), RingError> {
        self.note_overflow();
        self.buffers.commit();
        let result = enter::enter(self.name, 0, true, 0, None);
        self.settle(result).map(drop)
    }

    fn submit_only(&mut self) -> Result<u32, RingError> {
        self.buffers.commit();
        let to_submit = self.submission_len();
        let result = enter::enter(self.name, to_submit, false, 0, None);
        self.settle(result)
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<u32, RingError> {
        self.note_overflow();
        self.buffers.commit();
        let to_submit = self.submission_len();
        let result = enter::enter(self.name, to_submit, true, want, timeout);
        self.settle(result)
    }

    /// Sorts ordinary results of a system call from broken ones.
    fn settle(&mut self, result: io::Result<u32>) -> Result<u32, RingError> {
        if self.backlog.is_empty() && self.io.submission().is_empty() {
            self.targets.clear();
        }
        match result.map_err(|error| Errno::from_io(&error)) {
            Ok(submitted) => Ok(submitted),
            Err(Errno::INTR | Errno::TIME) => Ok(0),
            // The kernel wants completions popped (EBUSY), has no memory for requests (EAGAIN),
            // or says once that it dropped a completion (EBADR; counted by the queue itself).
            Err(Errno::BUSY | Errno::AGAIN | Errno(libc::EBADR)) => {
                self.troubles.refused += 1;
                Ok(0)
            }
            Err(errno) => Err(RingError::Enter(errno)),
        }
    }

    fn note_overflow(&mut self) {
        if self.io.submission().cq_overflow() {
            self.troubles.overflows += 1;
        }
        self.troubles.lost = self.io.completion().overflow();
    }

    fn submission_len(&mut self) -> u32 {
        u32::try_from(self.io.submission().len()).unwrap_or(u32::MAX)
    }
}

/// Builds with every flag that is wanted; tells whether NO_SQARRAY was accepted.
fn build(config: &RingConfig) -> Result<(IoUring, bool), RingError> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_single_issuer()
        .setup_submit_all()
        .setup_taskrun_flag()
        .setup_cqsize(config.completion_entries);
    if config.features.contains(Feature::DeferTaskrun) {
        builder.setup_coop_taskrun();
    } else {
        builder.setup_defer_taskrun();
    }
    if !config.features.contains(Feature::NoSqArray) {
        let mut with_all = builder.clone();
        // EINVAL before 6.6.
        if let Ok(io) = with_all.setup_no_sqarray().build(config.submission_entries) {
            return Ok((io, true));
        }
    }
    let io = builder.build(config.submission_entries).map_err(|error| RingError::from_setup(&error))?;
    Ok((io, false))
}

fn borrow(io: &IoUring) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `io`, which is borrowed for as long as the result lives.
    unsafe { BorrowedFd::borrow_raw(io.as_raw_fd()) }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let RingName::Registered(index) = self.name {
            let result = enter::unregister_ring_fd(borrow(&self.io), index);
            // On another thread than its own the index means nothing; `!Send` prevents that.
            debug_assert!(result.is_ok(), "{result:?}");
        }
        self.reap_the_last();
        if self.recvs_armed > 0 {
            self.buffers.leak();
        }
        self.sends.leak();
        for connecting in self.connects.drain() {
            connecting.leak();
        }
        for adoption in self.adoptions.drain() {
            // The plain descriptor is closed; what the kernel might still write to is the cell.
            std::mem::forget(adoption.cell);
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("name", &self.name)
            .field("direct_slots", &self.direct_slots)
            .field("recvs_armed", &self.recvs_armed)
            .field("sends_in_flight", &self.sends.len())
            .field("troubles", &self.troubles)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use crate::request;
    use crate::{Completion, Ring, RingConfig};

    #[test]
    fn what_the_kernel_would_not_take_goes_in_order() {
        let config = RingConfig { submission_entries: 4, completion_entries: 1024, ..RingConfig::default() };
        let mut ring = Ring::new(&config).unwrap();
        let target = ring.handle();
        let fd = target.open().unwrap();
        // As if the kernel had refused it; from then on everything has to queue behind it.
        ring.backlog.push_back(request::message(fd.as_raw_fd(), 0));
        for value in 1..100 {
            ring.message(&target, value);
        }
        let mut expected = 0;
        while expected < 100 {
            ring.submit_and_wait(1, Some(Duration::from_secs(10))).unwrap();
            let before = expected;
            while let Some(completion) = ring.pop() {
                assert!(matches!(completion, Completion::Message { value } if value == expected));
                expected += 1;
            }
            assert_ne!(expected, before, "requests were lost");
        }
        assert!(ring.targets.is_empty());
    }
}
