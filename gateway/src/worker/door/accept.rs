//! How a connection comes in: accepted at a pace, asked where it comes from, refused with a word while that is cheap.

use std::net::{IpAddr, SocketAddr};

use moor_ring::{Errno, Slot, Token};
use moor_wire::Code;

use super::Notice;
use super::census::Key;
use super::pressure::Level;
use crate::limits::{ACCEPT_BACKOFF_MS, RETRY_MS_MAX, SERVICES_MAX};
use crate::worker::connection::{Phase, Role, Transport, low};
use crate::worker::counters::Counter;
use crate::worker::drain;
use crate::worker::io::{Io, Listener};
use crate::worker::wheel::tick_at;
use crate::worker::{Now, Service, Worker};

impl<I: Io> Worker<I> {
    pub(in crate::worker) fn handle_accepted(
        &mut self,
        token: Token,
        result: Result<Slot, Errno>,
        more: bool,
        now: Now,
    ) {
        let Some(listener) = Listener::from_index(token.index()) else {
            debug_assert!(false, "only listeners accept");
            return;
        };
        let paced = listener == Listener::Clients;
        match result {
            Ok(slot) => self.admit(slot, listener, now),
            Err(_) if self.is_draining() || (paced && self.door.paused) => {}
            Err(error) => {
                let counter =
                    if error == Errno::NFILE { Counter::AcceptTableFull } else { Counter::AcceptErrors };
                self.counters.add(counter);
                if let Some(more) = self.door.notices.due(Notice::AcceptErrors, now) {
                    tracing::warn!(worker = self.id.0, %error, ?listener, more_since = more, "accepting pauses");
                }
            }
        }
        let too_fast = paced && result.is_ok() && !self.door.accepts.owe(now.0);
        if self.is_draining() {
            return;
        }
        if too_fast && !self.door.paused {
            self.pause_accepting(more, now);
        }
        if more {
            return;
        }
        if paced && std::mem::take(&mut self.door.paused) {
            self.accept_again_ms[listener as usize] = Some(self.door.accepts.next_ms(now.0));
        } else if result.is_ok() {
            self.io.accept(listener);
        } else {
            // A full table would end the next accept at once as well: never spin on it.
            self.accept_again_ms[listener as usize] = Some(now.0 + ACCEPT_BACKOFF_MS);
        }
    }

    /// Leaves connections in the kernel's queue for a while.
    fn pause_accepting(&mut self, armed: bool, now: Now) {
        self.door.paused = true;
        self.counters.add(Counter::AcceptPaused);
        let what = "connections come faster than limits.accepts_per_s: they wait in the kernel's queue";
        self.notice_rate(Notice::Accepts, self.settings.limits.accepts_per_s, what, now);
        if armed {
            self.io.pause_accept(Listener::Clients);
        }
    }

    pub(in crate::worker) fn accept_step(&mut self, now: Now) {
        for listener in [Listener::Clients, Listener::Internal] {
            let again = &mut self.accept_again_ms[listener as usize];
            if again.is_some_and(|at| at <= now.0) {
                *again = None;
                if self.drain.is_none() {
                    self.io.accept(listener);
                }
            }
        }
    }

    fn admit(&mut self, slot: Slot, listener: Listener, now: Now) {
        match listener {
            Listener::Clients => {
                self.counters.add(Counter::Accepted);
                self.occupy(slot, Role::Client(Transport::Unknown), now);
                self.clients += 1;
                if self.refuses_everybody(now) {
                    self.refuse(slot, now);
                } else if self.asks_addresses() {
                    let connection = &mut self.connections[slot.0];
                    connection.phase = Phase::Asking;
                    let token = connection.token(slot);
                    self.io.peer_address(slot, token);
                } else {
                    self.arm(slot);
                }
            }
            Listener::Internal => {
                self.occupy(slot, Role::Service, now);
                self.await_tls(slot);
                if self.admit_service(slot, now) {
                    self.arm(slot);
                }
            }
        }
    }

    /// Lets a service in, whichever worker accepted it, unless there are as many as may be. False: it is on its way out.
    pub(in crate::worker) fn admit_service(&mut self, slot: Slot, now: Now) -> bool {
        let (code, detail) = if self.is_draining() {
            (Code::Draining, drain::ABOUT_TO_RESTART)
        } else if self.services.len() >= SERVICES_MAX as usize && !self.show_out_a_stranger(now) {
            (Code::Overloaded, "the worker has as many services as it may")
        } else {
            self.services.insert(slot, Service::new(now.0));
            return true;
        };
        self.counters.add(Counter::ServicesRefused);
        if let Some(more) = self.door.notices.due(Notice::Services, now) {
            tracing::warn!(worker = self.id.0, detail, more_since = more, "a service is turned away");
        }
        self.finish_with(slot, code, detail, now);
        false
    }

    /// Gives the place away that has been held for longest by one who has not said who it is: else those who never do would
    /// keep the others out. False: all have.
    fn show_out_a_stranger(&mut self, now: Now) -> bool {
        let strangers =
            self.services.iter().filter(|(slot, _)| self.connections[slot.0].phase == Phase::Greeting);
        let Some(slot) = strangers.min_by_key(|(_, service)| service.came_ms).map(|(slot, _)| *slot) else {
            return false;
        };
        self.counters.add(Counter::ServicesRefused);
        if let Some(more) = self.door.notices.due(Notice::Services, now) {
            let detail = "it did not say who it is, and another one came";
            tracing::warn!(worker = self.id.0, detail, more_since = more, "a service is turned away");
        }
        self.abort(slot, now);
        true
    }

    /// Whether it matters where a client comes from.
    fn asks_addresses(&self) -> bool {
        self.settings.limits.counts_addresses() || !self.settings.proxies.is_empty()
    }

    /// Whether nobody new can come in, whoever it is.
    fn refuses_everybody(&mut self, now: Now) -> bool {
        if self.settings.shared.pressure.level() >= Level::Refuse {
            self.counters.add(Counter::AcceptShed);
            if let Some(more) = self.door.notices.due(Notice::Memory, now) {
                tracing::warn!(worker = self.id.0, more_since = more, "memory is short: nobody new comes in");
            }
            return true;
        }
        self.clients > self.settings.connections_max || self.is_draining()
    }

    /// Makes a slot hold a new connection. The kernel may say that it does before it says that the former one is closed: before
    /// 6.15 what a multishot accept posts overtakes the completion of the close that made room for it.
    pub(in crate::worker) fn occupy(&mut self, slot: Slot, role: Role, now: Now) {
        if self.connections.get(slot.0).is_some_and(|former| former.phase == Phase::Closing) {
            self.vacate_overtaken(slot);
        }
        let connection = self.connections.occupy(slot.0);
        connection.role = role;
        connection.phase = Phase::Greeting;
        connection.last_seen_ms = low(now.0);
        connection.interval_ms = self.settings.first_byte_timeout_ms;
        let deadline = now.0 + u64::from(connection.interval_ms);
        self.wheel.file(&mut self.connections, slot.0, tick_at(deadline));
    }

    #[cold]
    #[inline(never)]
    fn vacate_overtaken(&mut self, slot: Slot) {
        self.vacate(slot);
    }

    /// The kernel says where a client comes from; or cannot, when it has gone already or no descriptor is left for the
    /// question. Such clients are let in uncounted: what they may do is limited all the same.
    pub(in crate::worker) fn handle_peer_address(
        &mut self,
        token: Token,
        result: Result<SocketAddr, Errno>,
        now: Now,
    ) {
        let Some(slot) = self.current(token) else { return };
        if self.connections[slot.0].phase != Phase::Asking {
            return;
        }
        self.connections[slot.0].phase = Phase::Greeting;
        if self.is_draining() {
            return self.refuse(slot, now);
        }
        match result {
            Ok(address) if self.settings.proxies.contains(address.ip()) => {
                self.connections[slot.0].role = Role::Client(Transport::Proxied);
            }
            Ok(address) => {
                if !self.admit_address(slot, address.ip(), now) {
                    return self.abort(slot, now);
                }
            }
            Err(_) => self.counters.add(Counter::AddressesUnknown),
        }
        self.arm(slot);
    }

    /// Counts a client at its address, unless that has too many or opens them too fast.
    pub(super) fn admit_address(&mut self, slot: Slot, address: IpAddr, now: Now) -> bool {
        let (limits, addresses) = (&self.settings.limits, &self.settings.shared.addresses);
        if limits.exempt.contains(address) {
            return true;
        }
        let (per_s, max) = (limits.accepts_per_address_per_s, limits.connections_per_address);
        let key = addresses.address(address);
        let too_many = if per_s > 0 && !addresses.take(key, per_s, now.0) {
            "limits.accepts_per_address_per_s"
        } else if max > 0 && !addresses.enter(key, max) {
            "limits.connections_per_address"
        } else {
            if max > 0 {
                self.connections[slot.0].address = Some(key);
            }
            return true;
        };
        self.counters.add(Counter::AddressRefused);
        if let Some(more) = self.door.notices.due(Notice::Address, now) {
            tracing::warn!(
                worker = self.id.0,
                %address,
                limit = too_many,
                more_since = more,
                "an address has too many connections, or opens them too fast; if it is a load balancer, list it in \
                 proxy.sources or limits.exempt"
            );
        }
        false
    }

    /// A connection of an address is over.
    pub(in crate::worker) fn leave_address(&self, address: Option<Key>) {
        if let Some(key) = address {
            self.settings.shared.addresses.leave(key);
        }
    }

    /// A word, no receive, and out: its slot is free as soon as the kernel has the word.
    fn refuse(&mut self, slot: Slot, now: Now) {
        self.counters.add(Counter::AcceptRefused);
        let (retry_min_ms, retry_max_ms) = self.retry_window(self.clients);
        let frame = drain::refusal(retry_min_ms, retry_max_ms);
        self.queue_bytes(slot, &frame, now);
        self.connections[slot.0].phase = Phase::Finishing;
    }

    /// When so many clients should come back, so that they are accepted as fast as they come: each picks a moment.
    pub(in crate::worker) fn retry_window(&self, clients: u32) -> (u32, u32) {
        let min_ms = self.settings.retry_min_ms;
        let max_ms = self.settings.retry_max_ms.unwrap_or_else(|| {
            let needed_ms = self.settings.limits.acceptance_ms(clients);
            needed_ms.saturating_add(min_ms).min(RETRY_MS_MAX).max(min_ms.saturating_mul(2))
        });
        (min_ms, max_ms)
    }
}
