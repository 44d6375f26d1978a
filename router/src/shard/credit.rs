//! One answer for work that several parts, perhaps on several shards, must finish first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

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

/// Counts the parts down. Whoever finishes the last one sends the answer, which is OK when every part was.
#[derive(Debug)]
pub struct Credit {
    /// Who is answered.
    pub link: Arc<Link>,
    answer: Answer,
    remaining: AtomicU32,
    /// The first refusal of a part; [`Code::Ok`] as long as there is none.
    refusal: AtomicU16,
}

impl Credit {
    /// A credit of `parts` parts; at least one.
    pub fn new(link: Arc<Link>, answer: Answer, parts: usize) -> Arc<Self> {
        let remaining = AtomicU32::new(u32::try_from(parts).unwrap_or(u32::MAX));
        Arc::new(Self { link, answer, remaining, refusal: AtomicU16::new(Code::Ok as u16) })
    }

    /// A part could not be done. It is finished all the same, by [`Self::finish`] as any other.
    pub fn refuse(&self, code: Code) {
        let ok = Code::Ok as u16;
        // The release of `finish` publishes it. A part refused before keeps its code.
        self.refusal.compare_exchange(ok, code as u16, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// One part is done. True for the last one.
    pub fn finish(&self) -> bool {
        self.remaining.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Appends the answer.
    pub fn put(&self, out: &mut BytesMut) {
        match self.answer {
            Answer::Registered { batch } => put_control(out, Verb::Registered, &Registered { batch }),
            Answer::Outcome { cookie } => {
                let refusal = i32::from(self.refusal.load(Ordering::Relaxed));
                let code = Code::try_from(refusal).unwrap_or(Code::Internal);
                Outcome { cookie, code, reached: 0 }.put(out);
            }
        }
    }
}
