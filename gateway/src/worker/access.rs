//! Who may come in, for how long, and what services may do.
//!
//! A client's credential is checked when it opens a channel and not again: what ends a session earlier is its expiry,
//! which is kept here and not in the channel, or a kick. A service's token is checked in its HELLO; what it may do is
//! asked with every verb. The sessions of an app that a service has no right to are not there for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use moor_credentials::{Admission, Denial, Right, Service, ServiceKeys, Verifier};
use moor_ring::Slot;
use moor_wire::Code;
use moor_wire::client::Open;
use moor_wire::internal::{LookupResult, Outcome, Verb};
use moor_wire::session::SessionHandle;

use super::channels::Channels;
use super::counters::Counter;
use super::door::Notice;
use super::io::Io;
use super::{Now, Worker};
use crate::limits::{EXPIRIES_PER_TURN_MAX, EXPIRIES_STALE_MAX};

/// What a service may do; `None`: everything.
pub type Scope = Option<Arc<Service>>;

/// What credentials are checked against. Cheap to clone; a reload makes another one.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Clients' credentials; `None`: everybody is whoever they say.
    pub verifier: Option<Arc<Verifier>>,
    /// Services' tokens and certificates, beside the one token that all may share.
    pub services: Option<Arc<ServiceKeys>>,
}

/// When admissions end, soonest first.
#[derive(Debug, Default)]
pub struct Expiries {
    /// Unix time in seconds, and the session.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Expiries {
    /// A session's admission ends at a time. Sessions that are gone are weeded out when they outnumber the others.
    pub fn insert(&mut self, expires_s: u64, session: SessionHandle, channels: &Channels) {
        self.ends.push(Reverse((expires_s, session.0)));
        if self.ends.len() > 2 * channels.open_count() as usize + EXPIRIES_STALE_MAX {
            self.ends.retain(|Reverse((_, session))| channels.resolve(SessionHandle(*session)).is_some());
        }
    }

    /// The next session whose admission has ended.
    fn pop(&mut self, now_s: u64) -> Option<SessionHandle> {
        let Reverse((expires_s, session)) = *self.ends.peek()?;
        if expires_s > now_s {
            return None;
        }
        self.ends.pop();
        Some(SessionHandle(session))
    }

    /// How many are kept. For tests.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.ends.len()
    }
}

impl<I: Io> Worker<I> {
    /// The wall clock, as the thread's loop reads it from time to time: admissions end by it.
    pub fn set_wall_clock(&mut self, unix_ms: u64, now: Now) {
        self.wall_clock_offset_ms = unix_ms.saturating_sub(now.0);
    }

    fn unix_s(&self, now: Now) -> u64 {
        (self.wall_clock_offset_ms + now.0) / 1000
    }

    /// Whether a client may open this channel.
    pub(super) fn admit_account(&mut self, slot: Slot, open: &Open, now: Now) -> Result<Option<u64>, Denial> {
        let Some(verifier) = &self.settings.access.verifier else { return Ok(None) };
        let device = self.devices.get(self.connections[slot.0].device);
        match verifier.verify(&open.app, &open.account, device, &open.credential, self.unix_s(now)) {
            Ok(Admission { expires_s }) => Ok(expires_s),
            Err(denial) => {
                self.counters.add(Counter::OpensUnauthorized);
                self.log_denial(denial, &open.app, now);
                Err(denial)
            }
        }
    }

    fn log_denial(&mut self, denial: Denial, what: &str, now: Now) {
        if let Some(more) = self.door.notices.due(Notice::Denied, now) {
            tracing::info!(
                worker = self.id.0,
                denial = denial.name(),
                what,
                more_since = more,
                "access denied"
            );
        }
    }

    /// Closes the channels whose admission has ended.
    pub(super) fn expiries_step(&mut self, now: Now) {
        let now_s = self.unix_s(now);
        for _ in 0..EXPIRIES_PER_TURN_MAX {
            let Some(session) = self.expiries.pop(now_s) else { return };
            if let Some((channel, _)) = self.channels.resolve(session) {
                let reason = "the credential has expired";
                if self.close_channel(channel, Code::Unauthorized, reason, now) {
                    self.counters.add(Counter::CredentialsExpired);
                }
            }
        }
    }

    /// What a service may do that shows this token, or none: then its certificate stands for one.
    pub(super) fn scope_of(&mut self, slot: Slot, token: &[u8], now: Now) -> Result<Scope, Denial> {
        let shared = self.settings.internal_token.as_deref();
        if shared.is_some_and(|shared| super::service::equal_in_constant_time(shared, token)) {
            return Ok(None);
        }
        let certificate = if token.is_empty() { self.certificate_names(slot) } else { None };
        let scope = match (&self.settings.access.services, certificate) {
            (Some(services), Some(names)) => services.check_certificate(&names).map(Some),
            (Some(services), None) => services.check(token).map(Some),
            (None, Some(_)) => Ok(None),
            (None, None) if shared.is_none() => Ok(None),
            (None, None) => Err(Denial::UnknownService),
        };
        if let Err(denial) = scope {
            self.counters.add(Counter::ServicesUnauthorized);
            self.log_denial(denial, "a service", now);
        }
        scope
    }

    /// What a connected service may do: what it could when it came.
    pub(super) fn scope(&self, slot: Slot) -> Scope {
        self.services.get(&slot)?.may.clone()
    }

    /// Whether a service may do this to an app's accounts; counted when it may not.
    pub(super) fn has_right(&mut self, slot: Slot, app: &str, right: Right) -> bool {
        let allowed = self.scope(slot).is_none_or(|service| service.allows(app, right));
        if !allowed {
            self.counters.add(Counter::ServicesDenied);
        }
        allowed
    }

    /// Likewise; answers it when it may not.
    pub(super) fn is_allowed(&mut self, slot: Slot, app: &str, right: Right, cookie: u64, now: Now) -> bool {
        if self.has_right(slot, app, right) {
            return true;
        }
        let code = Code::Unauthorized;
        if right == Right::Query {
            let none = LookupResult { cookie, code: code as i32, ..LookupResult::default() };
            self.queue_internal(slot, Verb::LookupResult, &none, now);
        } else {
            self.queue_outcome(slot, Outcome { cookie, code, reached: 0 }, now);
        }
        false
    }

    /// Whether a service has this right on a session's app. Asked by the worker that has the session; to a service
    /// without it the session is not there.
    pub(super) fn may_reach(&mut self, scope: &Scope, session: SessionHandle, right: Right) -> bool {
        let Some(service) = scope else { return true };
        let Some((channel, _)) = self.channels.resolve(session) else { return true };
        let allowed = service.allows(self.channels.identity(channel).0, right);
        if !allowed {
            self.counters.add(Counter::ServicesDenied);
        }
        allowed
    }
}
