//! What a worker counts: plain numbers of its own, published now and then for the control thread to read.
//!
//! Counting is an add in the worker's memory. Publishing stores the values, relaxed, into the worker's row of
//! the [`Board`]: no lock and no read-modify-write on a message's path.

use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// Only grows; its name ends in `_total`.
    Total,
    /// Goes up and down.
    Gauge,
    /// Likewise, and of all workers the least counts, not the sum.
    Least,
}

/// Name and meaning of a counter.
#[derive(Clone, Copy, Debug)]
pub struct CounterInfo {
    /// Metric name without the `gateway_` prefix.
    pub name: &'static str,
    /// One line for the operator.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: CounterKind,
}

impl CounterInfo {
    /// One value for those of all workers.
    pub fn over_workers(&self, values: impl Iterator<Item = u64>) -> u64 {
        match self.kind {
            CounterKind::Least => values.min().unwrap_or(0),
            CounterKind::Total | CounterKind::Gauge => values.fold(0, u64::wrapping_add),
        }
    }
}

macro_rules! counters {
    ($($variant:ident $kind:ident $name:literal $help:literal;)*) => {
        /// Index of a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $(#[doc = $help] $variant,)* }

        /// Every counter, in the order of [`Counter`].
        pub const COUNTERS: &[CounterInfo] = &[
            $(CounterInfo { name: $name, help: $help, kind: CounterKind::$kind },)*
        ];
    };
}

counters! {
    ConnectionsOpen Gauge "connections_open" "Client connections held, logged in or not.";
    ChannelsOpen Gauge "channels_open" "Channels open: sessions logged in.";
    ServicesOpen Gauge "services_open" "Backend services connected to the internal port.";
    LinkUp Gauge "link_up" "Router links that are up (one per worker).";
    ConnectionsHot Gauge "connections_hot" "Connections with a multishot receive armed.";
    ConnectionsWebsocket Gauge "connections_websocket" "Client connections over WebSocket.";
    ConnectionsTls Gauge "connections_tls" "Client connections over TLS.";
    SendQueuedBytes Gauge "send_queued_bytes" "Bytes waiting in send queues, in flight included.";
    MailboxEntries Gauge "mailbox_entries" "Messages from other workers waiting.";
    RegistrationsPending Gauge "registrations_pending" "Sessions not yet announced to the router.";
    LastTickMs Least "last_tick_ms" "Time of the worker's last turn, milliseconds since the gateway's start; of all workers the earliest.";
    NameBytes Gauge "name_bytes" "Memory of accounts' and devices' names, bytes.";
    Accepted Total "accepted_total" "Connections accepted.";
    AcceptRefused Total "accept_refused_total" "Connections refused with GOAWAY: the connection limit was reached, memory was short, or a drain had begun.";
    AcceptTableFull Total "accept_table_full_total" "Times the descriptor table was full and accepting paused.";
    AcceptErrors Total "accept_errors_total" "Other errors of accept.";
    AcceptPaused Total "accept_paused_total" "Times accepting paused because connections came faster than limits.accepts_per_s.";
    AcceptShed Total "accept_shed_total" "Connections refused because memory was short.";
    AddressRefused Total "address_refused_total" "Connections reset because their address had too many or opened them too fast.";
    AddressesUnknown Total "addresses_unknown_total" "Connections whose address the kernel could not say; no limit per address holds for them.";
    ProxyRefused Total "proxy_refused_total" "Connections from proxy.sources that did not begin with a PROXY header.";
    Closed Total "closed_total" "Client connections closed, for any reason.";
    ClosedByPeer Total "closed_by_peer_total" "Client connections the peer closed or reset.";
    HeartbeatLost Total "heartbeat_lost_total" "Connections closed because nothing was heard for one and a half intervals.";
    LoginTimeout Total "login_timeout_total" "Connections closed because CONNECT did not come in time.";
    TlsHandshakes Total "tls_handshakes_total" "TLS handshakes completed.";
    TlsResumed Total "tls_resumed_total" "TLS handshakes among them that a ticket made short.";
    TlsFailed Total "tls_failed_total" "TLS handshakes that failed.";
    TlsPaced Total "tls_paced_total" "Connections reset because TLS handshakes came faster than limits.handshakes_per_s and too many waited.";
    UpgradesRefused Total "upgrades_refused_total" "HTTP requests on the clients' port that were no acceptable WebSocket upgrade.";
    ProtocolErrors Total "protocol_errors_total" "Connections closed because of what the client sent.";
    FramesLimited Total "frames_limited_total" "Connections closed because they sent more frames than limits.frames_per_connection_per_s.";
    SlowReadersClosed Total "slow_readers_closed_total" "Connections closed because the peer did not read.";
    FramesEvicted Total "frames_evicted_total" "Frames dropped from a full send queue, cheapest class first.";
    FramesReceived Total "frames_received_total" "Frames received from clients, pings and pongs of WebSockets among them.";
    BytesReceived Total "bytes_received_total" "Bytes received from clients.";
    BytesSent Total "bytes_sent_total" "Bytes handed to the kernel for clients.";
    Opens Total "opens_total" "Channels opened.";
    OpensRefused Total "opens_refused_total" "Channels refused.";
    OpensPaced Total "opens_paced_total" "Channels among them refused because logins came faster than limits.logins_per_s.";
    OpensLimited Total "opens_limited_total" "Channels among them refused because of limits.sessions_per_app or limits.logins_per_app_per_s.";
    OpensUnauthorized Total "opens_unauthorized_total" "Channels among them refused because of their credential.";
    CredentialsExpired Total "credentials_expired_total" "Channels closed because their credential expired.";
    ServicesRefused Total "services_refused_total" "Services turned away because a worker had 32 of them or was draining.";
    ServicesUnauthorized Total "services_unauthorized_total" "Services turned away because of their token or certificate.";
    ServicesDenied Total "services_denied_total" "Requests of services for apps or verbs that they have no right to.";
    Upstream Total "upstream_total" "Client frames forwarded to the router.";
    UpstreamRefused Total "upstream_refused_total" "Submits answered UNAVAILABLE or OVERLOADED because the router was away or slow.";
    MessagesLimited Total "messages_limited_total" "Submits answered OVERLOADED because the channel sent more than limits.messages_per_channel_per_s.";
    Deliveries Total "deliveries_total" "Frames queued for sessions on behalf of the router or a service.";
    Broadcasts Total "broadcasts_total" "Frames handed out to every session of an app, counted once per worker.";
    BroadcastsRefused Total "broadcasts_refused_total" "Broadcasts answered OVERLOADED because 1 MiB of the app's or 16 MiB of all apps' were on their way to sessions, counted once per worker.";
    RoomsOpen Gauge "rooms_open" "Rooms with a session of this gateway in them, counted once per worker.";
    RoomMembers Gauge "room_members" "Sessions in rooms, once per room.";
    RoomsRefused Total "rooms_refused_total" "Sessions that were not let into a room: a limit, or its name.";
    RoomMessages Total "room_messages_total" "Messages for rooms received from the router, counted once per worker.";
    RoomBatches Total "room_batches_total" "Batches handed out in rooms, counted once per worker and 1,024 members.";
    RoomFrames Total "room_frames_total" "Batches handed to sessions.";
    RoomThinned Total "room_messages_thinned_total" "Messages for rooms left out of batches, once per worker and 1,024 members: rooms.down_bytes was reached.";
    RoomRepeats Total "room_repeats_total" "Batches among those handed to sessions that carried reliable messages again.";
    RoomForgotten Total "room_reliable_forgotten_total" "Reliable messages not carried again because too many waited for acknowledgements; clients pull them.";
    NotHere Total "not_here_total" "Pushes for a session that is gone.";
    Kicks Total "kicks_total" "Sessions closed by request.";
    Registered Total "registered_total" "Sessions announced to the router.";
    Unregistered Total "unregistered_total" "Sessions reported gone to the router.";
    LinkConnects Total "link_connects_total" "Router links established.";
    LinkLost Total "link_lost_total" "Router links lost.";
    RecvNoBuffer Total "recv_no_buffer_total" "Receives that found no free buffer and were armed again later.";
    RecvPromoted Total "recv_promoted_total" "Connections promoted to multishot receive.";
    RecvDemoted Total "recv_demoted_total" "Connections demoted to poll.";
    LateCompletions Total "late_completions_total" "Completions for a connection that is gone.";
    MailboxFull Total "mailbox_full_total" "Messages to another worker refused because its mailbox was full.";
    JobsRefused Total "jobs_refused_total" "Service requests that other workers never got because 4,096 were waiting for theirs; broadcasts among them reached this worker only.";
    JobsTimedOut Total "jobs_timed_out_total" "Service requests given up because another worker did not answer.";
    RingOverflows Total "ring_overflows_total" "Completions the kernel could not queue at once.";
}

/// A worker's own numbers.
#[derive(Debug)]
pub struct Counters([u64; COUNTERS.len()]);

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; COUNTERS.len()])
    }

    /// Adds one.
    pub fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    /// Publishes every value in row `worker` of the board.
    pub fn publish(&self, board: &Board, worker: usize) {
        for (cell, value) in board.row(worker).iter().zip(self.0) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Index<Counter> for Counters {
    type Output = u64;
    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl IndexMut<Counter> for Counters {
    fn index_mut(&mut self, counter: Counter) -> &mut u64 {
        &mut self.0[counter as usize]
    }
}

/// Published numbers of every worker, readable from any thread.
#[derive(Clone, Debug)]
pub struct Board(Arc<[AtomicU64]>);

impl Board {
    /// A board for `workers` workers, all zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers * COUNTERS.len()).map(|_| AtomicU64::new(0)).collect())
    }

    fn row(&self, worker: usize) -> &[AtomicU64] {
        &self.0[worker * COUNTERS.len()..(worker + 1) * COUNTERS.len()]
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.0.len() / COUNTERS.len()
    }

    /// One worker's value.
    #[must_use]
    pub fn value(&self, worker: usize, counter: usize) -> u64 {
        self.row(worker)[counter].load(Ordering::Relaxed)
    }

    /// Sum over all workers.
    #[must_use]
    pub fn sum(&self, counter: Counter) -> u64 {
        (0..self.workers()).map(|worker| self.value(worker, counter as usize)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_house() {
        for info in COUNTERS {
            assert_eq!(info.name.ends_with("_total"), info.kind == CounterKind::Total, "{}", info.name);
        }
    }

    #[test]
    fn times_are_not_added_up() {
        let of = |counter: Counter| COUNTERS[counter as usize].over_workers([7, 5].into_iter());
        assert_eq!((of(Counter::Deliveries), of(Counter::LastTickMs)), (12, 5));
    }

    #[test]
    fn a_board_shows_what_was_published_and_sums() {
        let board = Board::new(2);
        let mut counters = Counters::new();
        counters[Counter::Deliveries] = 5;
        counters.publish(&board, 0);
        counters.add(Counter::Deliveries);
        counters.publish(&board, 1);
        assert_eq!((board.value(1, Counter::Deliveries as usize), board.sum(Counter::Deliveries)), (6, 11));
    }
}
