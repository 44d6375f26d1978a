//! One answer for work that several parts, perhaps on several shards, must finish first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::BytesMut;
use moor_wire::Code;
use moor_wire::internal::{Outcome, Registered, Verb, put_control};

use crate::lease::Link;

/// What is said when all parts are done.
#[derive(Debug)]
pub enum Answer {
    /// REGISTERED: the gateway may send its next batch.
    Registered {
        /// The batch.
        batch: u32,
    },
    /// OUTCOME of a request.
    Outcome {
        /// The request.
        cookie: u64,
    },
}

/// Counts the parts down. Whoever finishes the last one sends the answer.
#[derive(Debug)]
pub struct Credit {
    /// Who is answered.
    pub link: Arc<Link>,
    answer: Answer,
    remaining: AtomicU32,
    /// A part had no room.
    refused: AtomicBool,
}

impl Credit {
    /// A credit of `parts` parts; at least one.
    pub fn new(link: Arc<Link>, answer: Answer, parts: usize) -> Arc<Self> {
        let remaining = AtomicU32::new(u32::try_from(parts).unwrap_or(u32::MAX));
        Arc::new(Self { link, answer, remaining, refused: AtomicBool::new(false) })
    }

    /// One part is done. True for the last one.
    pub fn finish(&self) -> bool {
        self.remaining.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// One part, yet to be finished, had no room: the answer says so, and whoever asked asks again.
    pub fn refuse(&self) {
        // Finishing the part publishes it.
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Appends the answer.
    pub fn put(&self, out: &mut BytesMut) {
        match self.answer {
            Answer::Registered { batch } => put_control(out, Verb::Registered, &Registered { batch }),
            Answer::Outcome { cookie } => {
                let refused = self.refused.load(Ordering::Relaxed);
                let code = if refused { Code::Overloaded } else { Code::Ok };
                Outcome { cookie, code, reached: 0 }.put(out);
            }
        }
    }
}
