//! What lies between the shards and the hook's thread: bounded, and nobody who puts something in ever waits.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use super::metrics::InboxMetrics;
use super::notice::Notice;
use crate::limits::HOOK_INBOX_NOTICES_MAX;

/// The queue of notices.
#[derive(Debug)]
pub struct Inbox {
    queue: ArrayQueue<Notice>,
    /// The hook's thread sleeps on it.
    pub(super) news: Notify,
    metrics: Arc<InboxMetrics>,
}

impl Inbox {
    pub(super) fn new(metrics: Arc<InboxMetrics>) -> Self {
        Self { queue: ArrayQueue::new(HOOK_INBOX_NOTICES_MAX), news: Notify::new(), metrics }
    }

    /// Puts a notice in; where there is no room the oldest makes some.
    pub fn offer(&self, notice: Notice) {
        self.metrics.notices.increment();
        if self.queue.force_push(notice).is_some() {
            self.metrics.dropped.increment();
        }
        self.news.notify_one();
    }

    pub(super) fn take(&self) -> Option<Notice> {
        self.queue.pop()
    }
}
