//! Apps beside each other: what each may offer, and whose writes go to the store next.
//!
//! Quotas refuse at the door. What has come in (messages, read marks, preferences, positions in groups) waits by app, and
//! the store is kept supplied by deficit round robin over the apps that have something waiting, in proportion to their
//! weights: an app's writes wait for its own backlog and for their share of the others', never for all of it. When there is
//! no room left, the newest write of the longest backlog makes way for one of an app that has less.

use std::collections::VecDeque;

use crate::apps::AppRules;
use crate::limits::{TENANT_MESSAGE_BYTES, TENANT_QUANTUM_BYTES};
use crate::registry::AppIndex;
use crate::store::Write;

/// Tokens that come back with time: a second's worth may be taken at once.
#[derive(Debug)]
struct Bucket {
    per_s: u64,
    /// Thousandths.
    tokens: u64,
    at_ms: u64,
}

impl Bucket {
    const fn new(per_s: u64) -> Self {
        Self { per_s, tokens: per_s.saturating_mul(1000), at_ms: 0 }
    }

    /// Whether `wanted` may be taken now. More than a second's worth costs a second's worth.
    fn has(&mut self, wanted: u64, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.at_ms).saturating_mul(self.per_s);
        self.at_ms = self.at_ms.max(now_ms);
        self.tokens = self.tokens.saturating_add(earned).min(self.full());
        self.per_s == 0 || self.tokens >= self.cost(wanted)
    }

    fn take(&mut self, wanted: u64) {
        self.tokens = self.tokens.saturating_sub(self.cost(wanted));
    }

    const fn full(&self) -> u64 {
        self.per_s.saturating_mul(1000)
    }

    fn cost(&self, wanted: u64) -> u64 {
        wanted.saturating_mul(1000).min(self.full())
    }
}

/// Which of an app's quotas is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// `messages_per_s`.
    Messages,
    /// `bytes_per_s`.
    Bytes,
}

impl Quota {
    /// For whoever is refused.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Messages => "the app sends more than its messages_per_s",
            Self::Bytes => "the app sends more than its bytes_per_s",
        }
    }
}

#[derive(Debug)]
struct Tenant {
    messages: Bucket,
    bytes: Bucket,
    weight: u64,
    waiting: VecDeque<Write>,
    /// Bytes it may still hand over in its turn.
    deficit: u64,
}

/// The apps of a shard.
#[derive(Debug, Default)]
pub struct Tenants {
    by_app: Vec<Option<Tenant>>,
    /// Apps with something waiting, whose turn it is first.
    active: VecDeque<AppIndex>,
    waiting: usize,
    /// An app that had the longest backlog for its weight when it last grew.
    longest: Option<AppIndex>,
}

/// What of a write is as long as its sender likes.
pub fn payload_bytes(write: &Write) -> usize {
    if let Write::Submit(submit) = write { submit.payload.len() } else { 0 }
}

/// A mark, a preference or a position is a row like a message without payload.
fn cost(write: &Write) -> u64 {
    payload_bytes(write) as u64 + TENANT_MESSAGE_BYTES
}

impl Tenants {
    fn get_mut(&mut self, app: AppIndex) -> Option<&mut Tenant> {
        self.by_app.get_mut(usize::from(app.0))?.as_mut()
    }

    fn get(&self, app: AppIndex) -> Option<&Tenant> {
        self.by_app.get(usize::from(app.0))?.as_ref()
    }

    /// Makes sure that an app's writes can be put.
    pub fn open(&mut self, app: AppIndex, rules: impl FnOnce() -> AppRules) {
        self.entry(app, rules);
    }

    fn entry(&mut self, app: AppIndex, rules: impl FnOnce() -> AppRules) -> &mut Tenant {
        let at = usize::from(app.0);
        if at >= self.by_app.len() {
            self.by_app.resize_with(at + 1, || None);
        }
        self.by_app[at].get_or_insert_with(|| {
            let rules = rules();
            Tenant {
                messages: Bucket::new(rules.messages_per_s),
                bytes: Bucket::new(rules.bytes_per_s),
                weight: u64::from(rules.weight),
                waiting: VecDeque::new(),
                deficit: 0,
            }
        })
    }

    /// Takes a message of so many bytes out of the app's quotas, or says which one is used up and takes nothing.
    pub fn try_take(
        &mut self,
        app: AppIndex,
        rules: impl FnOnce() -> AppRules,
        bytes: usize,
        now_ms: u64,
    ) -> Result<(), Quota> {
        let tenant = self.entry(app, rules);
        let bytes = bytes as u64;
        if !tenant.messages.has(1, now_ms) {
            return Err(Quota::Messages);
        }
        if !tenant.bytes.has(bytes, now_ms) {
            return Err(Quota::Bytes);
        }
        tenant.messages.take(1);
        tenant.bytes.take(bytes);
        Ok(())
    }

    /// Writes that wait, of all apps.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// True when an app has something waiting.
    pub fn is_behind(&self, app: AppIndex) -> bool {
        self.get(app).is_some_and(|tenant| !tenant.waiting.is_empty())
    }

    /// Puts a write behind those of its app, which has been opened.
    pub fn put(&mut self, app: AppIndex, write: Write) {
        let Some(tenant) = self.get_mut(app) else { return };
        tenant.waiting.push_back(write);
        let is_first = tenant.waiting.len() == 1;
        self.waiting += 1;
        if is_first {
            self.active.push_back(app);
        }
        if self.longest.is_none_or(|longest| self.is_longer(app, longest, 0)) {
            self.longest = Some(app);
        }
    }

    /// Whether an app's backlog is longer than another's with so many more, for their weights.
    fn is_longer(&self, app: AppIndex, other: AppIndex, more: u64) -> bool {
        let (Some(app), Some(other)) = (self.get(app), self.get(other)) else { return false };
        app.waiting.len() as u64 * other.weight > (other.waiting.len() as u64 + more) * app.weight
    }

    /// An app with a longer backlog than this one's with one more, if there is one.
    fn longer_than(&self, app: AppIndex) -> Option<AppIndex> {
        self.longest.filter(|longest| self.is_longer(*longest, app, 1))
    }

    /// True when another app has more waiting, for its weight.
    pub fn has_less(&self, app: AppIndex) -> bool {
        self.longer_than(app).is_some()
    }

    /// The write that makes room for one of `app`: the newest of an app with a longer backlog, if there is one.
    pub fn make_room(&mut self, app: AppIndex) -> Option<Write> {
        let longest = self.longer_than(app)?;
        let waiting = &mut self.get_mut(longest)?.waiting;
        // Its last one stays, so that who is active has something waiting.
        let write = if waiting.len() > 1 { waiting.pop_back()? } else { return None };
        self.waiting -= 1;
        Some(write)
    }

    /// The write whose turn it is.
    pub fn take_next(&mut self) -> Option<Write> {
        loop {
            let app = *self.active.front()?;
            let Some(tenant) = self.get_mut(app) else {
                self.active.pop_front();
                continue;
            };
            let Some(next) = tenant.waiting.front() else {
                tenant.deficit = 0;
                self.active.pop_front();
                continue;
            };
            let cost = cost(next);
            if tenant.deficit < cost {
                tenant.deficit += tenant.weight * TENANT_QUANTUM_BYTES;
                self.active.rotate_left(1);
                continue;
            }
            tenant.deficit -= cost;
            let write = tenant.waiting.pop_front();
            if tenant.waiting.is_empty() {
                // What is left of a turn is not saved up.
                tenant.deficit = 0;
                self.active.pop_front();
            }
            self.waiting -= 1;
            return write;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_second_and_refills_by_the_clock() {
        let mut bucket = Bucket::new(10);
        let mut take = |wanted, now_ms| {
            let has = bucket.has(wanted, now_ms);
            if has {
                bucket.take(wanted);
            }
            has
        };
        assert_eq!((0..12).filter(|_| take(1, 5_000)).count(), 10);
        assert!(!take(1, 5_099) && take(1, 5_100) && !take(1, 5_100));
        // A clock that steps back gives nothing and takes nothing.
        assert!(!take(1, 0) && !take(1, 5_199) && take(1, 5_200));
        // More than a second's worth passes once the bucket is full.
        assert!(!take(1_000, 6_000) && take(1_000, 6_200) && !take(1, 6_200));
        let mut none = Bucket::new(0);
        assert!((0..1000).all(|_| none.has(u64::MAX, 0)));
    }
}
