//! Frames on their way out: a bounded queue of bytes per link, and the crossings to links of other threads.
//!
//! Frames are encoded straight into the buffer their link's socket is written from; only frames for another
//! thread's link travel in between. A full queue drops pushes (a reliable message comes again by its retry)
//! and, at twice the size, ends the link.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::lease::{Link, LinkId, ShardIndex};
use crate::limits::{CROSSING_BYTES_MAX, CROSSING_WORK_MAX, LINK_QUEUE_BYTES_HARD_MAX, LINK_QUEUE_BYTES_MAX};
use crate::metrics::Metrics;
use crate::shard::work::Work;

/// May a frame be dropped?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A push: yes, if the queue is full.
    Push,
    /// An answer somebody waits for: no.
    Answer,
}

#[derive(Debug, Default)]
struct State {
    buffer: BytesMut,
    /// Bytes taken by the writer and not yet accepted by the kernel.
    writing_bytes: usize,
    writer: Option<Waker>,
    reader: Option<Waker>,
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

impl LinkOut {
    /// Queues what `write` appends. `Ok(false)`: dropped.
    pub fn put(&self, weight: Weight, write: impl FnOnce(&mut BytesMut)) -> Result<bool, TooSlow> {
        let mut state = self.state.borrow_mut();
        let queued = state.buffer.len() + state.writing_bytes;
        if state.is_closing || (weight == Weight::Push && queued >= LINK_QUEUE_BYTES_MAX) {
            return Ok(false);
        }
        if queued >= LINK_QUEUE_BYTES_HARD_MAX {
            return Err(TooSlow);
        }
        write(&mut state.buffer);
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
        Ok(true)
    }

    /// Takes all that is queued; `None` at the end.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Option<BytesMut>> {
        let mut state = self.state.borrow_mut();
        state.writing_bytes = 0;
        if state.is_abandoned || (state.is_closing && state.buffer.is_empty()) {
            state.is_abandoned = true;
            if let Some(waker) = state.reader.take() {
                waker.wake();
            }
            return Poll::Ready(None);
        }
        if state.buffer.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.writing_bytes = state.buffer.len();
        Poll::Ready(Some(std::mem::take(&mut state.buffer)))
    }

    /// Gives a written buffer back, so that its memory is used again.
    pub fn give_back(&self, mut buffer: BytesMut) {
        let mut state = self.state.borrow_mut();
        if state.buffer.is_empty() && buffer.capacity() <= 256 * 1024 {
            buffer.clear();
            state.buffer = buffer;
        }
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
        state.buffer.is_empty() && state.writing_bytes == 0
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
    bytes: usize,
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
        if weight == Weight::Push && crossing.bytes >= CROSSING_BYTES_MAX {
            self.metrics.pushes_dropped.increment();
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
            Ok(true) => true,
            Ok(false) => {
                self.metrics.pushes_dropped.increment();
                false
            }
            Err(TooSlow) => {
                self.metrics.slow_links.increment();
                out.abandon();
                false
            }
        }
    }

    /// Hands work to another shard; back when too much waits already.
    pub fn cross(&mut self, shard: ShardIndex, work: Work) -> Result<(), Work> {
        match self.crossings.get_mut(usize::from(shard.0)) {
            Some(crossing) if crossing.parcel.work.len() < CROSSING_WORK_MAX => {
                crossing.parcel.work.push(work);
                Ok(())
            }
            _ => Err(work),
        }
    }

    /// Calls `send` with each parcel that holds something; one that `send` returns waits for the next turn.
    pub fn dispatch(&mut self, mut send: impl FnMut(usize, Parcel) -> Result<(), Parcel>) {
        for (shard, crossing) in self.crossings.iter_mut().enumerate() {
            if crossing.parcel.work.is_empty() && crossing.parcel.frames.is_empty() {
                continue;
            }
            match send(shard, std::mem::take(&mut crossing.parcel)) {
                Ok(()) => crossing.bytes = 0,
                Err(parcel) => {
                    self.metrics.crossing_full.increment();
                    crossing.parcel = parcel;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_dropped_first_and_a_deaf_link_ends() {
        let out = LinkOut::default();
        let fill = |bytes: usize| move |buffer: &mut BytesMut| buffer.resize(buffer.len() + bytes, 0);
        assert_eq!(out.put(Weight::Push, fill(LINK_QUEUE_BYTES_MAX)), Ok(true));
        assert_eq!(out.put(Weight::Push, fill(1)), Ok(false));
        assert_eq!(out.put(Weight::Answer, fill(LINK_QUEUE_BYTES_HARD_MAX)), Ok(true));
        assert_eq!(out.put(Weight::Answer, fill(1)), Err(TooSlow));
        let context = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(buffer)) = out.poll_take(&context) else { panic!("bytes are there") };
        // Still counted while the kernel has not taken them.
        assert!(!out.is_empty());
        assert_eq!(out.put(Weight::Push, fill(1)), Ok(false));
        out.give_back(buffer);
        assert!(out.poll_take(&context).is_pending() && out.is_empty());
        out.close();
        assert_eq!(out.put(Weight::Answer, fill(1)), Ok(false));
        assert!(matches!(out.poll_take(&context), Poll::Ready(None)));
    }
}
