//! Keeps the log of a shard's file short, on a thread of its own.
//!
//! The bulk of the copying happens here, beside the commits. A log starts anew only when all of it is copied
//! while nobody writes, so the committer finishes what little came in meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use crate::limits::{CHECKPOINT_FRAMES, CHECKPOINT_FRAMES_HARD};
use crate::metrics::Metrics;
use crate::store::schema::checkpoint;

/// What the committer and the checkpointing thread tell each other.
#[derive(Debug, Default)]
pub struct Progress {
    /// Pages written to the log since it started anew, as the committer estimates.
    frames: AtomicU64,
    /// True exactly when the bulk is copied and the committer shall finish.
    is_bulk_done: AtomicBool,
    /// True when the thread shall end.
    is_over: AtomicBool,
}

impl Progress {
    /// Ends the thread, which must be unparked afterwards.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// The committer wrote `pages`; called between two commits. Wakes the thread when enough is there, and
    /// finishes or does the copying where that is due.
    pub fn handle_commit(
        &self,
        pages: u64,
        connection: &Connection,
        thread: &std::thread::Thread,
        metrics: &Metrics,
    ) {
        let frames = self.frames.fetch_add(pages, Ordering::Relaxed) + pages;
        let is_bulk_done = self.is_bulk_done.load(Ordering::Acquire);
        if is_bulk_done || frames >= CHECKPOINT_FRAMES_HARD {
            metrics.checkpoints.increment();
            match checkpoint(connection) {
                // All copied: the next commit starts the log anew.
                Ok((log, copied)) if log == copied => self.frames.store(0, Ordering::Relaxed),
                Ok((log, _)) => self.frames.store(log.min(CHECKPOINT_FRAMES), Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(%error, "checkpoint failed");
                    self.frames.store(0, Ordering::Relaxed);
                }
            }
            self.is_bulk_done.store(false, Ordering::Release);
        } else if frames >= CHECKPOINT_FRAMES {
            thread.unpark();
        }
    }
}

/// Runs until told to end.
pub fn run(connection: &Connection, progress: &Arc<Progress>, metrics: &Metrics) {
    while !progress.is_over.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_secs(5));
        let frames = progress.frames.load(Ordering::Relaxed);
        if frames < CHECKPOINT_FRAMES || progress.is_bulk_done.load(Ordering::Acquire) {
            continue;
        }
        metrics.checkpoints.increment();
        if let Err(error) = checkpoint(connection) {
            tracing::warn!(%error, "checkpoint failed");
            // A full disk: try again at leisure, not in a loop.
            std::thread::park_timeout(Duration::from_secs(1));
        }
        progress.is_bulk_done.store(true, Ordering::Release);
    }
}
