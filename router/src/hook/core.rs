//! What a hook does next: queues, batches, retries, breakers. No I/O, no clock.
//!
//! Per vendor: notices queue, oldest first, bounded by count and bytes. A batch is cut when there is enough for one or
//! the oldest has waited its time, and goes out when the breaker and the number of requests under way allow. A
//! batch that failed waits a random time (full jitter: anything up to a bound that doubles) and goes out
//! again with the same idempotency key, before new ones. Whatever is given up on is handed out as dead letters.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::breaker::Breaker;
use super::metrics::HookMetrics;
use super::notice::Notice;
use super::settings::{Event, HookSettings};
use crate::limits::{HOOK_BATCHES_WAITING_MAX, HOOK_RETRY_AFTER_MAX_MS};

/// Position of a hook in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorIndex(pub usize);

/// A batch's number in this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(pub u64);

/// A request to make.
#[derive(Debug)]
pub struct Attempt {
    /// To whom.
    pub vendor: VendorIndex,
    /// For [`Core::handle_outcome`].
    pub batch: BatchId,
    /// The same for every try of one batch.
    pub idempotency_key: Arc<str>,
    /// A JSON array of notices.
    pub body: Bytes,
}

/// A notice of an accepted batch that the vendor did not accept.
#[derive(Debug, PartialEq, Eq)]
pub struct Unaccepted {
    /// Its place in the batch.
    pub index: usize,
    /// Whether it may be sent again.
    pub may_retry: bool,
    /// What the vendor says.
    pub reason: String,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted, but for these.
    Accepted(Vec<Unaccepted>),
    /// The vendor will never accept it.
    Refused(String),
    /// The vendor lives and asks for a pause.
    Throttled {
        /// At least so long.
        retry_after_ms: Option<u64>,
    },
    /// No answer, or one that says the vendor is broken.
    Failed {
        /// What went wrong.
        reason: String,
        /// The vendor asks to be left alone for so long.
        retry_after_ms: Option<u64>,
    },
}

/// Notices given up on.
#[derive(Debug)]
pub struct Dead {
    /// Whose.
    pub vendor: VendorIndex,
    /// Why.
    pub reason: String,
    /// Requests made for them.
    pub tries: u32,
    /// As they would have been told.
    pub notices: Vec<Bytes>,
}

#[derive(Debug)]
struct Item {
    json: Bytes,
    since_ms: u64,
}

#[derive(Debug)]
struct Batch {
    id: BatchId,
    idempotency_key: Arc<str>,
    notices: Vec<Bytes>,
    body: Bytes,
    /// When its oldest notice came.
    since_ms: u64,
    tries: u32,
    due_ms: u64,
}

#[derive(Debug)]
struct Vendor {
    settings: HookSettings,
    queue: VecDeque<Item>,
    queue_bytes: usize,
    /// Batches between two tries.
    waiting: Vec<Batch>,
    in_flight: HashMap<BatchId, Batch>,
    breaker: Breaker,
    /// The vendor asked for silence until then.
    paused_until_ms: u64,
    metrics: Arc<HookMetrics>,
}

/// All vendors.
#[derive(Debug)]
pub struct Core {
    vendors: Vec<Vendor>,
    dead: VecDeque<Dead>,
    random: fastrand::Rng,
    /// Part of every id, so that those of two runs differ.
    epoch: u64,
    next_id: u64,
    /// Partial batches go out at once.
    is_stopping: bool,
}

fn array(notices: &[Bytes]) -> Bytes {
    let mut body = BytesMut::with_capacity(notices.iter().map(|notice| notice.len() + 1).sum::<usize>() + 2);
    body.extend_from_slice(b"[");
    for (index, notice) in notices.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(notice);
    }
    body.extend_from_slice(b"]");
    body.freeze()
}

impl Vendor {
    fn is_batch_due(&self, now_ms: u64, is_stopping: bool) -> bool {
        self.queue.front().is_some_and(|oldest| {
            is_stopping
                || self.queue.len() >= self.settings.batch_notices
                || self.queue_bytes >= self.settings.batch_bytes
                || now_ms >= oldest.since_ms + self.settings.batch_wait_ms
        })
    }

    /// Takes a request's worth of notices from the queue.
    fn cut_batch(&mut self, id: BatchId, idempotency_key: Arc<str>) -> Option<Batch> {
        let since_ms = self.queue.front()?.since_ms;
        let mut notices = Vec::new();
        // Brackets, and a comma each.
        let mut bytes = 2;
        while notices.len() < self.settings.batch_notices
            && let Some(item) = self.queue.front()
            && (notices.is_empty() || bytes + item.json.len() < self.settings.batch_bytes)
            && let Some(item) = self.queue.pop_front()
        {
            self.queue_bytes -= item.json.len();
            bytes += item.json.len() + 1;
            notices.push(item.json);
        }
        let body = array(&notices);
        Some(Batch { id, idempotency_key, notices, body, since_ms, tries: 0, due_ms: 0 })
    }

    fn take_waiting(&mut self, now_ms: u64) -> Option<Batch> {
        let due = self.waiting.iter().enumerate().filter(|(_, batch)| batch.due_ms <= now_ms);
        let (position, _) = due.min_by_key(|(_, batch)| batch.due_ms)?;
        Some(self.waiting.swap_remove(position))
    }

    /// When it has something to do without further news.
    fn due_ms(&self, is_stopping: bool) -> Option<u64> {
        let oldest = self.queue.front().map(|item| item.since_ms);
        let expiry = oldest
            .into_iter()
            .chain(self.waiting.iter().map(|batch| batch.since_ms))
            .map(|since_ms| since_ms + self.settings.age_max_ms)
            .min();
        let retry = self.waiting.iter().map(|batch| batch.due_ms).min();
        let first = oldest.filter(|_| self.waiting.len() < HOOK_BATCHES_WAITING_MAX).map(|since_ms| {
            if self.is_batch_due(since_ms, is_stopping) { 0 } else { since_ms + self.settings.batch_wait_ms }
        });
        let send = retry
            .into_iter()
            .chain(first)
            .min()
            .filter(|_| self.in_flight.len() < self.settings.concurrency)
            .and_then(|due_ms| self.breaker.ready_ms().map(|ready_ms| due_ms.max(ready_ms)))
            .map(|due_ms| due_ms.max(self.paused_until_ms));
        send.into_iter().chain(expiry).min()
    }

    fn count(&self) {
        let waiting: usize = self.waiting.iter().map(|batch| batch.notices.len()).sum();
        self.metrics.queued.set((self.queue.len() + waiting) as u64);
        self.metrics.in_flight.set(self.in_flight.len() as u64);
        self.metrics.breaker.set(self.breaker.number());
    }
}

impl Core {
    /// Of hooks whose settings were checked; `seed` decides the waits between tries.
    pub fn new(
        hooks: impl IntoIterator<Item = (HookSettings, Arc<HookMetrics>)>,
        epoch: u64,
        seed: u64,
    ) -> Self {
        let vendors = hooks.into_iter().map(|(settings, metrics)| Vendor {
            queue: VecDeque::new(),
            queue_bytes: 0,
            waiting: Vec::new(),
            in_flight: HashMap::new(),
            breaker: Breaker::new(settings.breaker_failures, settings.breaker_open_ms),
            paused_until_ms: 0,
            metrics,
            settings,
        });
        Self {
            vendors: vendors.collect(),
            dead: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
            epoch,
            next_id: 0,
            is_stopping: false,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Queues a notice for every hook that wants it.
    pub fn handle_notice(&mut self, notice: &Notice, now_ms: u64) {
        let event = match notice {
            Notice::Offline(_) => Event::Offline,
            Notice::Alarm(_) => Event::Alarm,
        };
        let number = self.next_id();
        let id = format!("{:x}-{number}", self.epoch);
        for index in 0..self.vendors.len() {
            let vendor = &mut self.vendors[index];
            if !vendor.settings.wants(event, notice) {
                continue;
            }
            let json = notice.to_json(&id, vendor.settings.payload_bytes_max);
            let mut pushed_out = Vec::new();
            while (vendor.queue.len() >= vendor.settings.queue_notices
                || vendor.queue_bytes + json.len() > vendor.settings.queue_bytes)
                && let Some(oldest) = vendor.queue.pop_front()
            {
                vendor.queue_bytes -= oldest.json.len();
                vendor.metrics.dropped.increment();
                pushed_out.push(oldest.json);
            }
            vendor.queue_bytes += json.len();
            vendor.queue.push_back(Item { json, since_ms: now_ms });
            vendor.count();
            self.bury(VendorIndex(index), "the queue was full", 0, pushed_out);
        }
    }

    /// The next request to make now, if any.
    pub fn poll_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        for index in 0..self.vendors.len() {
            self.expire(index, now_ms);
            let id = BatchId(self.next_id + 1);
            let vendor = &mut self.vendors[index];
            if vendor.in_flight.len() >= vendor.settings.concurrency
                || now_ms < vendor.paused_until_ms
                || !vendor.breaker.may_send(now_ms)
            {
                continue;
            }
            let mut batch = vendor.take_waiting(now_ms);
            if batch.is_none()
                && vendor.waiting.len() < HOOK_BATCHES_WAITING_MAX
                && vendor.is_batch_due(now_ms, self.is_stopping)
            {
                let key = format!("{:x}-batch-{}", self.epoch, id.0);
                batch = vendor.cut_batch(id, key.into());
                self.next_id += 1;
            }
            let Some(mut batch) = batch else { continue };
            batch.tries += 1;
            vendor.breaker.handle_sent();
            vendor.metrics.requests.increment();
            let attempt = Attempt {
                vendor: VendorIndex(index),
                batch: batch.id,
                idempotency_key: batch.idempotency_key.clone(),
                body: batch.body.clone(),
            };
            vendor.in_flight.insert(batch.id, batch);
            vendor.count();
            return Some(attempt);
        }
        None
    }

    /// Takes what became of a request.
    pub fn handle_outcome(&mut self, index: VendorIndex, batch: BatchId, outcome: Outcome, now_ms: u64) {
        let Some(vendor) = self.vendors.get_mut(index.0) else { return };
        let Some(batch) = vendor.in_flight.remove(&batch) else { return };
        match outcome {
            Outcome::Accepted(unaccepted) => {
                vendor.breaker.handle_success();
                self.settle(index, batch, unaccepted, now_ms);
            }
            Outcome::Refused(reason) => {
                vendor.breaker.handle_success();
                vendor.metrics.refused.add(batch.notices.len() as u64);
                self.bury(index, &reason, batch.tries, batch.notices);
            }
            Outcome::Throttled { retry_after_ms } => {
                vendor.breaker.handle_success();
                vendor.metrics.throttled.increment();
                self.again(index, batch, "throttled by the vendor", retry_after_ms, now_ms);
            }
            Outcome::Failed { reason, retry_after_ms } => {
                vendor.metrics.failures.increment();
                if vendor.breaker.handle_failure(now_ms) {
                    vendor.metrics.opened.increment();
                    tracing::warn!(hook = %vendor.settings.name, %reason, open_ms = vendor.settings.breaker_open_ms, "the vendor fails; its circuit breaker opens");
                }
                self.again(index, batch, &reason, retry_after_ms, now_ms);
            }
        }
        if let Some(vendor) = self.vendors.get(index.0) {
            vendor.count();
        }
    }

    /// An accepted batch, without what the vendor did not take of it.
    fn settle(&mut self, index: VendorIndex, batch: Batch, unaccepted: Vec<Unaccepted>, now_ms: u64) {
        // By place, once each: a list of the vendor's may repeat itself.
        let mut left: Vec<Option<Unaccepted>> = batch.notices.iter().map(|_| None).collect();
        for item in unaccepted {
            if let Some(place) = left.get_mut(item.index) {
                *place = Some(item);
            }
        }
        let mut retried = Vec::new();
        let mut delivered = 0;
        for (notice, unaccepted) in batch.notices.into_iter().zip(left) {
            match unaccepted {
                None => delivered += 1,
                Some(Unaccepted { may_retry: true, .. }) => retried.push(notice),
                Some(Unaccepted { reason, .. }) => {
                    self.vendors[index.0].metrics.refused.increment();
                    self.bury(index, &reason, batch.tries, vec![notice]);
                }
            }
        }
        self.vendors[index.0].metrics.delivered.add(delivered);
        if !retried.is_empty() {
            // Another batch than the one the vendor has accepted: it would take the old key for a repeat.
            let id = BatchId(self.next_id());
            let idempotency_key = format!("{:x}-batch-{}", self.epoch, id.0).into();
            let body = array(&retried);
            let (since_ms, tries) = (batch.since_ms, batch.tries);
            let rest = Batch { id, idempotency_key, notices: retried, body, since_ms, tries, due_ms: 0 };
            self.again(index, rest, "not accepted by the vendor", None, now_ms);
        }
    }

    /// A batch waits for its next try, or had its last.
    fn again(
        &mut self,
        index: VendorIndex,
        mut batch: Batch,
        reason: &str,
        retry_after_ms: Option<u64>,
        now_ms: u64,
    ) {
        let vendor = &mut self.vendors[index.0];
        if let Some(wait_ms) = retry_after_ms {
            let until_ms = now_ms + wait_ms.min(HOOK_RETRY_AFTER_MAX_MS);
            vendor.paused_until_ms = vendor.paused_until_ms.max(until_ms);
        }
        if batch.tries >= vendor.settings.tries {
            return self.bury(index, reason, batch.tries, batch.notices);
        }
        let doublings = batch.tries.saturating_sub(1).min(32);
        let bound_ms = (vendor.settings.retry_min_ms << doublings).min(vendor.settings.retry_max_ms);
        batch.due_ms = now_ms + self.random.u64(0..=bound_ms);
        vendor.waiting.push(batch);
    }

    /// Gives up on what waited too long.
    fn expire(&mut self, index: usize, now_ms: u64) {
        let vendor = &mut self.vendors[index];
        let age_max_ms = vendor.settings.age_max_ms;
        let is_old = |since_ms: u64| now_ms >= since_ms + age_max_ms;
        let mut old = Vec::new();
        while vendor.queue.front().is_some_and(|item| is_old(item.since_ms))
            && let Some(item) = vendor.queue.pop_front()
        {
            vendor.queue_bytes -= item.json.len();
            old.push(item.json);
        }
        let mut given_up = vec![(0, old)];
        for batch in vendor.waiting.extract_if(.., |batch| is_old(batch.since_ms)) {
            given_up.push((batch.tries, batch.notices));
        }
        vendor.metrics.expired.add(given_up.iter().map(|(_, notices)| notices.len() as u64).sum());
        for (tries, notices) in given_up {
            self.bury(VendorIndex(index), "waited too long", tries, notices);
        }
    }

    fn bury(&mut self, vendor: VendorIndex, reason: &str, tries: u32, notices: Vec<Bytes>) {
        if notices.is_empty() {
            return;
        }
        self.vendors[vendor.0].metrics.dead.add(notices.len() as u64);
        self.vendors[vendor.0].count();
        self.dead.push_back(Dead { vendor, reason: reason.to_owned(), tries, notices });
    }

    /// Notices given up on since the last call. The caller takes them after every event: nothing bounds them here.
    pub fn poll_dead(&mut self) -> Option<Dead> {
        self.dead.pop_front()
    }

    /// When to ask for an attempt again, if nothing happens before; a time that is past means at once.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.vendors.iter().filter_map(|vendor| vendor.due_ms(self.is_stopping)).min()
    }

    /// From now on batches go out without waiting for more notices.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// True when every notice has been told or given up on.
    pub fn is_settled(&self) -> bool {
        self.vendors
            .iter()
            .all(|vendor| vendor.queue.is_empty() && vendor.waiting.is_empty() && vendor.in_flight.is_empty())
    }

    /// Gives up on everything that is left.
    pub fn bury_all(&mut self) {
        for index in 0..self.vendors.len() {
            let vendor = &mut self.vendors[index];
            vendor.queue_bytes = 0;
            let queued = vendor.queue.drain(..).map(|item| item.json).collect();
            let batches: Vec<Batch> =
                vendor.waiting.drain(..).chain(vendor.in_flight.drain().map(|(_, batch)| batch)).collect();
            let reason = "the router stopped";
            self.bury(VendorIndex(index), reason, 0, queued);
            for batch in batches {
                self.bury(VendorIndex(index), reason, batch.tries, batch.notices);
            }
        }
    }
}
