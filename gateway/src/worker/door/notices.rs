//! Lines in the log about what is refused, one a second at most of each kind: who tries must not fill the disk.

use crate::limits::NOTICE_MS;
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

/// What a line may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Notice {
    /// A credential or a token that is not good.
    Denied,
    /// Accepting pauses.
    Accepts,
    /// Handshakes are turned away.
    Handshakes,
    /// Logins are turned away.
    Logins,
    /// An address has, or opens, too many connections.
    Address,
    /// An app has, or opens, too many sessions.
    App,
    /// A connection says too much.
    Frames,
    /// A channel says too much.
    Messages,
    /// A load balancer does not say who is behind it.
    Proxy,
    /// A service and TLS.
    Services,
    /// Memory is short.
    Memory,
    /// The kernel refuses an accept.
    AcceptErrors,
    /// A peer does not read.
    SlowReaders,
}

const COUNT: usize = Notice::SlowReaders as usize + 1;

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    at_ms: Option<u64>,
    unsaid: u32,
}

/// When each kind was said last, and how often it was not since.
#[derive(Debug, Default)]
pub struct Notices([Said; COUNT]);

impl Notices {
    /// Something happened. `Some`: say it, and that it happened so often since it was said last.
    pub fn due(&mut self, notice: Notice, now: Now) -> Option<u32> {
        let said = &mut self.0[notice as usize];
        if said.at_ms.is_some_and(|at| now.0 < at + NOTICE_MS) {
            said.unsaid += 1;
            return None;
        }
        said.at_ms = Some(now.0);
        Some(std::mem::take(&mut said.unsaid))
    }
}

impl<I: Io> Worker<I> {
    /// Says, if it is due, that something comes more often than so many a second.
    pub(in crate::worker) fn notice_rate(
        &mut self,
        notice: Notice,
        per_s: u32,
        what: &'static str,
        now: Now,
    ) {
        if let Some(more) = self.door.notices.due(notice, now) {
            tracing::warn!(worker = self.id.0, per_s, more_since = more, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_a_second_with_how_often_it_was_not() {
        let mut notices = Notices::default();
        let said: Vec<_> =
            (0..2500).step_by(100).filter_map(|ms| notices.due(Notice::Address, Now(ms))).collect();
        assert_eq!(said, [0, 9, 9]);
        assert_eq!(notices.due(Notice::Denied, Now(2500)), Some(0), "another kind has its own");
    }
}
