//! Frames on their way out: a bounded queue of bytes per link, and the crossings to links of other threads.
//!
//! Frames are encoded straight into the buffer their link's socket is written from; only frames for another
//! thread's link travel in between. A full queue drops pushes, the lightest first (a reliable message comes
//! again by its retry), and, at twice the size, ends the link.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::lease::{Link, LinkId, ShardIndex};
use crate::limits::{
    CROSSING_BYTES_MAX, CROSSING_ONCE_MAX, CROSSING_WORK_MAX, LINK_QUEUE_BYTES_HARD_MAX, LINK_QUEUE_BYTES_MAX,
};
use crate::metrics::Metrics;
use crate::queue::{Dropped, Queues, count_frames};
use crate::shard::work::Work;

pub use crate::queue::Weight;

#[derive(Debug, Default)]
struct State {
    queues: Queues,
    /// Bytes taken by the writer and not yet accepted by the kernel.
    writing_bytes: usize,
    writer: Option<Waker>,
    reader: Option<Waker>,
    /// The writer has something to write that is not in the queue: what TLS has to say for itself.
    is_nudged: bool,
    /// No more frames; what is queued is still written.
    is_closing: bool,
    /// Not even that.
    is_abandoned: bool,
}

/// The queue of one link: filled by the shard, emptied by the link's writing task.
#[derive(Debug, Default)]
pub struct LinkOut {
    state: RefCell<State>,
}

/// The link did not read: its queue is at the hard limit.
#[derive(Debug, PartialEq, Eq)]
pub struct TooSlow;

/// What became of a frame, and of others for its sake.
#[derive(Debug, PartialEq, Eq)]
pub struct Placed {
    /// True when it will be written.
    pub is_queued: bool,
    /// Frames dropped; itself among them when it was not queued.
    pub dropped: Dropped,
}

impl LinkOut {
    /// Queues what `write` appends. At the limit lighter frames make room; where that is not enough, a push is
    /// dropped itself.
    pub fn put(&self, weight: Weight, write: impl FnOnce(&mut BytesMut)) -> Result<Placed, TooSlow> {
        let mut state = self.state.borrow_mut();
        if state.is_closing {
            return Ok(Placed { is_queued: false, dropped: Dropped::some(weight, 1) });
        }
        let max = if weight == Weight::Answer { LINK_QUEUE_BYTES_HARD_MAX } else { LINK_QUEUE_BYTES_MAX };
        let queued = state.queues.bytes() + state.writing_bytes;
        let mut dropped = Dropped::NONE;
        if queued >= max {
            dropped = state.queues.evict(weight, queued + 1 - max);
            if state.queues.bytes() + state.writing_bytes >= max {
                if weight == Weight::Answer {
                    return Err(TooSlow);
                }
                dropped.add(weight, 1);
                return Ok(Placed { is_queued: false, dropped });
            }
        }
        write(state.queues.buffer_mut(weight));
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
        Ok(Placed { is_queued: true, dropped })
    }

    /// The writer is to look whether TLS has something to say.
    pub fn nudge(&self) {
        let mut state = self.state.borrow_mut();
        state.is_nudged = true;
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
    }

    /// Takes what is to be written next, which may be nothing after a nudge; `None` at the end.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Option<BytesMut>> {
        let mut state = self.state.borrow_mut();
        state.writing_bytes = 0;
        let is_nudged = std::mem::take(&mut state.is_nudged);
        if state.is_abandoned || (state.is_closing && state.queues.is_empty() && !is_nudged) {
            state.is_abandoned = true;
            if let Some(waker) = state.reader.take() {
                waker.wake();
            }
            return Poll::Ready(None);
        }
        let Some(buffer) = state.queues.take().or_else(|| is_nudged.then(BytesMut::new)) else {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.writing_bytes = buffer.len();
        Poll::Ready(Some(buffer))
    }

    /// Gives a written buffer back, so that its memory is used again.
    pub fn give_back(&self, buffer: BytesMut) {
        self.state.borrow_mut().queues.give_back(buffer);
    }

    /// Ready when the writing task must let go of its socket, written or not.
    pub fn poll_abandoned(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.is_abandoned {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when the reading task shall stop.
    pub fn poll_closing(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.is_closing {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when everything queued has been written, or nothing more will be.
    pub fn poll_finished(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.is_abandoned {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// No more frames are taken; what is queued is still written.
    pub fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.is_closing = true;
        for waker in [state.reader.take(), state.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Nothing more is written either.
    pub fn abandon(&self) {
        self.state.borrow_mut().is_abandoned = true;
        self.close();
    }

    /// True when nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        state.queues.is_empty() && state.writing_bytes == 0
    }
}

/// What crosses from one shard's thread to another's in one go.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Work for that shard.
    pub work: Vec<Work>,
    /// Frames for links of that thread.
    pub frames: Vec<(LinkId, Weight, BytesMut)>,
}

#[derive(Debug, Default)]
struct Crossing {
    parcel: Parcel,
    /// Of frames.
    bytes: usize,
    /// Of messages in work.
    work_bytes: usize,
}

/// Everything a shard's thread sends.
#[derive(Debug)]
pub struct Outbox {
    here: ShardIndex,
    local: HashMap<LinkId, Rc<LinkOut>>,
    crossings: Vec<Crossing>,
    metrics: Arc<Metrics>,
}

impl Outbox {
    /// The outbox of thread `here` of `shards`.
    pub fn new(here: ShardIndex, shards: u32, metrics: Arc<Metrics>) -> Self {
        let crossings = (0..shards).map(|_| Crossing::default()).collect();
        Self { here, local: HashMap::new(), crossings, metrics }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.crossings.len()
    }

    /// A link of this thread has a queue from now on.
    pub fn add(&mut self, link: LinkId, out: Rc<LinkOut>) {
        self.local.insert(link, out);
        self.metrics.links_open.set(self.local.len() as u64);
    }

    /// It has none any more.
    pub fn remove(&mut self, link: LinkId) {
        self.local.remove(&link);
        self.metrics.links_open.set(self.local.len() as u64);
    }

    /// A link of this thread takes no more frames and ends when its queue is written.
    pub fn close(&self, link: LinkId) {
        if let Some(out) = self.local.get(&link) {
            out.close();
        }
    }

    /// The queues of this thread's links.
    pub fn links(&self) -> impl Iterator<Item = &Rc<LinkOut>> {
        self.local.values()
    }

    /// Sends what `write` appends to a link. False when it was dropped.
    pub fn put(&mut self, link: &Link, weight: Weight, write: impl FnOnce(&mut BytesMut)) -> bool {
        if link.owner == self.here {
            return self.put_local(link.id, weight, write);
        }
        let Some(crossing) = self.crossings.get_mut(usize::from(link.owner.0)) else { return false };
        if crossing.bytes >= weight.share(CROSSING_BYTES_MAX) {
            count_dropped(&self.metrics, Dropped::some(weight, 1));
            return false;
        }
        let frames = &mut crossing.parcel.frames;
        match frames.last_mut() {
            Some((id, last, bytes)) if *id == link.id && *last == weight => {
                let before = bytes.len();
                write(bytes);
                crossing.bytes += bytes.len() - before;
            }
            _ => {
                let mut bytes = BytesMut::new();
                write(&mut bytes);
                crossing.bytes += bytes.len();
                frames.push((link.id, weight, bytes));
            }
        }
        true
    }

    /// Sends to a link of this thread.
    pub fn put_local(&self, link: LinkId, weight: Weight, write: impl FnOnce(&mut BytesMut)) -> bool {
        let Some(out) = self.local.get(&link) else { return false };
        match out.put(weight, write) {
            Ok(Placed { is_queued, dropped }) => {
                if dropped != Dropped::NONE {
                    count_dropped(&self.metrics, dropped);
                }
                is_queued
            }
            Err(TooSlow) => {
                self.metrics.slow_links.increment();
                out.abandon();
                false
            }
        }
    }

    /// Sends whole frames that came from another thread.
    pub fn put_crossed(&self, link: LinkId, weight: Weight, frames: &[u8]) {
        if !self.put_local(link, weight, |out| out.extend_from_slice(frames)) && weight != Weight::Answer {
            // One of them has been counted.
            count_dropped(&self.metrics, Dropped::some(weight, count_frames(frames).saturating_sub(1)));
        }
    }

    /// Hands work to another shard; back when too much waits already.
    pub fn cross(&mut self, shard: ShardIndex, work: Work) -> Result<(), Work> {
        let max =
            if work.is_said_once() { CROSSING_ONCE_MAX } else { work.weight().share(CROSSING_WORK_MAX) };
        let bytes = work.bytes();
        let bytes_max = if bytes > 0 { work.weight().share(CROSSING_BYTES_MAX) } else { usize::MAX };
        match self.crossings.get_mut(usize::from(shard.0)) {
            Some(crossing) if crossing.parcel.work.len() < max && crossing.work_bytes < bytes_max => {
                crossing.work_bytes += bytes;
                crossing.parcel.work.push(work);
                Ok(())
            }
            _ => {
                self.metrics.crossing_refused.increment();
                Err(work)
            }
        }
    }

    /// Calls `send` with each parcel that holds something; one that `send` returns waits for the next turn.
    pub fn dispatch(&mut self, mut send: impl FnMut(usize, Parcel) -> Result<(), Parcel>) {
        for (shard, crossing) in self.crossings.iter_mut().enumerate() {
            if crossing.parcel.work.is_empty() && crossing.parcel.frames.is_empty() {
                continue;
            }
            match send(shard, std::mem::take(&mut crossing.parcel)) {
                Ok(()) => (crossing.bytes, crossing.work_bytes) = (0, 0),
                Err(parcel) => {
                    self.metrics.crossing_full.increment();
                    crossing.parcel = parcel;
                }
            }
        }
    }
}

fn count_dropped(metrics: &Metrics, dropped: Dropped) {
    metrics.pushes_dropped.add(dropped.total());
    metrics.pushes_dropped_normal.add(dropped.of(Weight::Normal));
    metrics.pushes_dropped_transient.add(dropped.of(Weight::Transient));
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUED: Result<Placed, TooSlow> = Ok(Placed { is_queued: true, dropped: Dropped::NONE });

    /// Frames without a body.
    fn fill(bytes: usize) -> impl FnOnce(&mut BytesMut) {
        move |buffer: &mut BytesMut| buffer.resize(buffer.len() + bytes, 0)
    }

    fn refused(weight: Weight) -> Result<Placed, TooSlow> {
        Ok(Placed { is_queued: false, dropped: Dropped::some(weight, 1) })
    }

    #[test]
    fn pushes_are_dropped_first_and_a_deaf_link_ends() {
        let out = LinkOut::default();
        assert_eq!(out.put(Weight::Reliable, fill(LINK_QUEUE_BYTES_MAX)), QUEUED);
        assert_eq!(out.put(Weight::Reliable, fill(8)), refused(Weight::Reliable));
        assert_eq!(out.put(Weight::Answer, fill(LINK_QUEUE_BYTES_HARD_MAX)), QUEUED);
        assert_eq!(out.put(Weight::Answer, fill(8)), Err(TooSlow));
        let context = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(buffer)) = out.poll_take(&context) else { panic!("bytes are there") };
        // Still counted while the kernel has not taken them.
        assert_eq!(out.put(Weight::Reliable, fill(8)), refused(Weight::Reliable));
        out.give_back(buffer);
        while let Poll::Ready(Some(buffer)) = out.poll_take(&context) {
            assert!(!out.is_empty());
            out.give_back(buffer);
        }
        assert!(out.is_empty());
        out.close();
        assert_eq!(out.put(Weight::Answer, fill(8)), refused(Weight::Answer));
        assert!(matches!(out.poll_take(&context), Poll::Ready(None)));
    }

    #[test]
    fn lighter_frames_make_room_and_reliable_ones_are_only_refused() {
        let out = LinkOut::default();
        assert_eq!(out.put(Weight::Transient, fill(LINK_QUEUE_BYTES_MAX)), QUEUED);
        assert_eq!(out.put(Weight::Transient, fill(8)), refused(Weight::Transient));
        let made_room = |weight| Ok(Placed { is_queued: true, dropped: Dropped::some(weight, 1) });
        assert_eq!(out.put(Weight::Normal, fill(8)), made_room(Weight::Transient));
        assert_eq!(out.put(Weight::Reliable, fill(8)), made_room(Weight::Transient));
        // All that is lighter goes before a link is given up.
        assert_eq!(out.put(Weight::Answer, fill(LINK_QUEUE_BYTES_HARD_MAX)), QUEUED);
        assert_eq!(out.put(Weight::Answer, fill(8)), Err(TooSlow));
        assert_eq!(
            out.state.borrow().queues.bytes(),
            LINK_QUEUE_BYTES_HARD_MAX,
            "answers are all that is left"
        );
    }
}
