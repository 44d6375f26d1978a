//! Completions: from what the kernel wrote to what the caller matches on.
//!
//! Everything is checked here, once. A completion that makes no sense is a bug of this crate or
//! of the kernel: it stops a debug build and is counted and skipped in a release build.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use io_uring::cqueue;

use crate::completion::{Completion, Recv};
use crate::errno::Errno;
use crate::limits::FLUSHES_PER_POP_MAX;
use crate::recv_buffers::RecvBuffer;
use crate::ring::Ring;
use crate::token::{Op, Slot, Token, UserData};

impl Ring {
    /// The next completion. When none is there but the kernel has deferred work or completions
    /// beyond the queue, it is made to deliver them, without waiting.
    pub fn pop(&mut self) -> Option<Completion> {
        let mut flushes = 0;
        loop {
            if let Some(completion) = self.local.pop_front() {
                return Some(completion);
            }
            // Taken off the queue before it is decoded: decoding may submit.
            let next = self.io.completion().next();
            if let Some(cqe) = next {
                if let Some(completion) = self.decode(&cqe) {
                    return Some(completion);
                }
                continue;
            }
            if flushes == FLUSHES_PER_POP_MAX || !self.has_deferred_work() {
                return None;
            }
            flushes += 1;
            // An error that lasts is reported by the next `submit_and_wait`.
            self.run_deferred_work().ok()?;
        }
    }

    /// Takes what completed already before the ring goes, so that no descriptor or buffer that
    /// came back is lost. Bounded by the queue: nothing new is asked for.
    pub(crate) fn reap_the_last(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let ready = self.io.completion().len();
        for _ in 0..ready {
            let next = self.io.completion().next();
            drop(next.and_then(|cqe| self.decode(&cqe)));
        }
    }

    /// Counts what cannot be; see the module's head.
    pub(crate) fn malformed(&mut self, what: &str) {
        self.troubles.malformed += 1;
        debug_assert!(false, "malformed completion: {what}");
    }

    /// `None` for completions that are the ring's own business.
    fn decode(&mut self, cqe: &cqueue::Entry) -> Option<Completion> {
        let Some(UserData { op, token, value }) = UserData::decode(cqe.user_data()) else {
            self.malformed("an unknown operation");
            return None;
        };
        let result = Errno::check(cqe.result());
        let done = result.map(drop);
        let more = cqueue::more(cqe.flags());
        match op {
            Op::Accept => Some(Completion::Accepted { token, result: self.slot(result), more }),
            Op::Poll => Some(Completion::Ready { token, result: done }),
            Op::Recv => Some(self.received(token, result, cqe.flags(), more)),
            Op::Send => self.sent(token, result),
            Op::Close => Some(Completion::Closed { token, result: done }),
            Op::Reset => Some(Completion::Reset { token, result: done }),
            Op::Connect => self.connect_step(token, cqe.result()),
            Op::Adopt => self.adopted(token, result),
            Op::Install => Some(Completion::Installed { token, result: result.and_then(own) }),
            Op::PeerAddress => {
                let result = result.and_then(own).and_then(|fd| {
                    // No system call is known that asks a direct descriptor (6.18).
                    crate::socket::peer_address(&fd).map_err(|error| Errno::from_io(&error))
                });
                Some(Completion::PeerAddress { token, result })
            }
            Op::Pass => Some(Completion::Passed { token, result: done }),
            Op::MessageSent => done.err().map(|error| Completion::MessageFailed { value, error }),
            Op::Message => Some(Completion::Message { value }),
            Op::SlotPassed => Some(Completion::SlotPassed { value, result: self.slot(result) }),
            Op::Doorbell => {
                self.doorbells.get(token.index() as usize)?.hear();
                self.arm_doorbell(token.index());
                Some(Completion::Doorbell)
            }
            // Whether there was anything to stop shows in the accept's own completion.
            Op::Cancel => None,
        }
    }

    fn slot(&mut self, result: Result<u32, Errno>) -> Result<Slot, Errno> {
        let index = result?;
        if index >= self.direct_slots {
            self.malformed("a slot beyond the table");
            return Err(Errno::IO);
        }
        Ok(Slot(index))
    }

    fn received(&mut self, token: Token, result: Result<u32, Errno>, flags: u32, more: bool) -> Completion {
        if !more {
            self.recvs_armed = self.recvs_armed.saturating_sub(1);
        }
        // A buffer can come with an end or an error as well; then it goes straight back.
        let len = result.unwrap_or(0);
        let buffer =
            cqueue::buffer_select(flags).map(|id| self.buffers.take(id, len, cqueue::sock_nonempty(flags)));
        let result = match (result, buffer) {
            (Err(errno), _) => Err(errno),
            (Ok(0), _) => Ok(Recv::<RecvBuffer>::Eof),
            (Ok(_), Some(Some(buffer))) => Ok(Recv::Data(buffer)),
            (Ok(_), Some(None) | None) => {
                self.malformed("a receive without a buffer of ours");
                Err(Errno::IO)
            }
        };
        Completion::Received { token, result, more }
    }

    fn sent(&mut self, key: Token, result: Result<u32, Errno>) -> Option<Completion> {
        let Some((token, buffer)) = self.sends.finish(key) else {
            self.malformed("a send that is not in flight");
            return None;
        };
        Some(Completion::Sent { token, result, buffer })
    }

    fn adopted(&mut self, key: Token, result: Result<u32, Errno>) -> Option<Completion> {
        let Some(adoption) = self.adoptions.remove(key) else {
            self.malformed("an adoption that is not in flight");
            return None;
        };
        let index = adoption.cell.load(Ordering::Acquire);
        let result = result.and_then(|_| Errno::check(index));
        drop(adoption.fd);
        Some(Completion::Adopted { token: adoption.token, result: self.slot(result) })
    }
}

/// Owns the descriptor an installation reports.
fn own(fd: u32) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::IO)?;
    // SAFETY: the kernel has just opened this descriptor for us and reports it this one time, so
    // nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
