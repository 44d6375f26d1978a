//! A worker's thread: the ring it waits on, the clock it reads, the turns it takes.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moor_ring::{Doorbell, Features, RingConfig, RingError, RingHandle};

use super::counters::{Board, Counter};
use super::io::WorkerId;
use super::mailbox::Mailboxes;
use super::settings::Settings;
use super::uring::{Uring, Wakeable};
use super::{Now, Worker};
use crate::limits::{GIVE_BACK_MS, TURN_COMPLETIONS_MAX};

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerSpec {
    /// Which one.
    pub id: WorkerId,
    /// The processor to stay on; `None`: any.
    pub cpu: Option<usize>,
    /// There are more workers than processors: they are not to take them from each other.
    pub crowded: bool,
    /// Its ring.
    pub ring: RingConfig,
    /// Clients' listener, one of a SO_REUSEPORT group.
    pub clients: TcpListener,
    /// Internal listener, likewise.
    pub internal: TcpListener,
    /// What it is told.
    pub settings: Settings,
    /// All mailboxes.
    pub mailboxes: Mailboxes,
    /// Where it publishes its counters.
    pub board: Board,
    /// Rung by the control thread.
    pub doorbell: Doorbell,
    /// Start of the gateway's clock.
    pub started: Instant,
}

/// What the starter gets from a worker, and gives to it.
#[derive(Debug)]
pub struct WorkerParts {
    /// The worker says that its ring stands, or why not.
    pub ready: Sender<Result<(RingHandle, Features), RingError>>,
    /// The worker is told how to wake everybody; closed without a word: do not start.
    pub peers: Receiver<Vec<Wakeable>>,
}

/// Runs a worker to its end. To be called on the worker's own thread.
pub fn run(spec: WorkerSpec, parts: WorkerParts) {
    let WorkerSpec {
        id,
        cpu,
        crowded,
        ring,
        clients,
        internal,
        settings,
        mailboxes,
        board,
        doorbell,
        started,
    } = spec;
    let _runs = mailboxes.worker_runs(id);
    if let Some(cpu) = cpu
        && let Err(error) = moor_ring::thread::pin_current(cpu)
    {
        tracing::warn!(worker = id.0, cpu, %error, "the worker could not be pinned");
    }
    if crowded && let Err(error) = moor_ring::thread::batch_current() {
        tracing::warn!(worker = id.0, %error, "the worker takes the processor from others when it wakes up");
    }
    let mut io = match Uring::new(&ring, clients, internal) {
        Ok(io) => io,
        Err(error) => {
            // The starter reports it; if it is gone there is nobody to tell.
            parts.ready.send(Err(error)).ok();
            return;
        }
    };
    let features = io.ring().features();
    if parts.ready.send(Ok((io.handle(), features))).is_err() {
        return;
    }
    let Ok(peers) = parts.peers.recv() else { return };
    io.set_peers(peers);
    io.ring().watch(&doorbell);
    // Workers of one process must not draw the same jitter.
    let seed = fastrand::u64(..);
    turn_until_done(Worker::new(id, io, settings, mailboxes, board, seed), started);
}

fn turn_until_done(mut worker: Worker<Uring>, started: Instant) {
    let clock = || Now(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let mut now = clock();
    let mut busy = false;
    let (mut given_back, mut gave_way) = (now, now);
    worker.set_wall_clock(unix_ms(), now);
    loop {
        let sleep = if busy { Duration::ZERO } else { Duration::from_millis(worker.sleep_ms(now)) };
        if let Err(error) = worker.io.ring().submit_and_wait(u32::from(!busy), Some(sleep)) {
            tracing::error!(worker = worker.id.0, %error, "the ring failed; the worker ends");
            return;
        }
        if now != gave_way && worker.rooms.is_behind(now.0) {
            // What single sessions wait for at another worker of this processor comes before more of a room.
            gave_way = now;
            std::thread::yield_now();
        }
        now = clock();
        let mut applied = 0;
        while applied < TURN_COMPLETIONS_MAX {
            let Some(completion) = worker.io.pop() else { break };
            worker.apply(completion, now);
            applied += 1;
        }
        busy = applied == TURN_COMPLETIONS_MAX;
        worker.counters[Counter::RingOverflows] = worker.io.ring().overflows();
        if !worker.maintain(now) {
            // Who is told something by the last turn is woken for it. Of an error nobody is left to hear.
            worker.io.ring().submit_and_wait(0, None).ok();
            return;
        }
        if now.0 >= given_back.0 + GIVE_BACK_MS {
            given_back = now;
            worker.set_wall_clock(unix_ms(), now);
            worker.pool.trim();
            moor_ring::memory::give_back();
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
