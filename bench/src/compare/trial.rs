//! One server, one round: many clients idle and its memory is read; then, started anew, it pushes and fans out.
//!
//! Work goes from a quiet server to a quiet server: processor time is read before the first message and after the
//! last has arrived, so that what it spends is spent on exactly what is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::arguments::Load;
use super::server::Server;
use crate::driver::{self, Measured, Phases, Share};
use crate::network::{CLIENTS_PER_RING_MAX, Stack};
use crate::pusher::{self, Pace, Pusher};
use crate::shared::Shared;

/// Where memory is read first, in thousandths of the clients: fixed costs drop out of the slope.
const FIRST_READING_PERMILLE: u32 = 200;
/// Heartbeat of those that have one: what the gateway proposes by itself. Peers are given none, so that a shorter one would be
/// work that only the gateway does.
const HEARTBEAT_MS: u64 = 270_000;
/// Longest time for everybody to log in.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for a server to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(8);
/// It is at rest when its memory has moved by less than this for a second, bytes.
const REST_BYTES: u64 = 32 * 1024;
/// And when it works less than this in a tenth of a second, microseconds.
const REST_US: u64 = 2_000;
/// Work before what is measured, so that compilers and caches have seen it.
const WARM_UP: Duration = Duration::from_secs(1);
/// Longest wait for messages that are still on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(15);
/// Time beyond its pace that a server may make the service wait.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What became of one kind of work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Processor time of the server per delivery, microseconds.
    pub us_per_delivery: f64,
    /// Deliveries wanted.
    pub sent: u64,
    /// Deliveries made.
    pub arrived: u64,
}

/// What one round found out about a server.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Clients that logged in.
    pub connections: u32,
    /// Memory of its own per idle client, bytes.
    pub idle_bytes: f64,
    /// One message to a random client.
    pub push: Cost,
    /// One message to everybody, one at a time.
    pub fanout: Cost,
    /// Several messages to everybody at once.
    pub merged: Cost,
    /// From when a push should have been sent to when it arrived, microseconds.
    pub push_p50_us: u64,
    /// The same at the 99th percentile.
    pub push_p99_us: u64,
    /// How late pushes went out at the 99th percentile, microseconds: the harness or a server that does not take them.
    pub late_p99_us: u64,
    /// What the server should have done.
    pub shortcomings: Vec<String>,
}

/// Memory per idle client of a server that listens, bytes; and who did not get in.
pub fn idle(server: &Server, load: &Load) -> Result<(f64, Vec<String>), String> {
    let fleet = Clients::start(server, load, load.idle);
    let first = u32::try_from(u64::from(load.idle) * u64::from(FIRST_READING_PERMILLE) / 1000).unwrap_or(0);
    fleet.log_in(FIRST_READING_PERMILLE, first)?;
    let few = (fleet.shared.logged_in.load(Relaxed), fleet.resting_bytes()?);
    fleet.log_in(1000, load.idle)?;
    let many = (fleet.shared.logged_in.load(Relaxed), fleet.resting_bytes()?);
    let missing = fleet.missing();
    fleet.finish()?;
    #[allow(clippy::cast_precision_loss, reason = "bytes of this host's memory are far below 2^52")]
    let slope = (many.1 as f64 - few.1 as f64) / f64::from(many.0.saturating_sub(few.0).max(1));
    Ok((slope, missing))
}

/// Gives work to a server that listens. The calling thread is on the harness's processor, and all it starts are as
/// well.
pub fn work(server: &Server, load: &Load, idle: (f64, Vec<String>)) -> Result<Trial, String> {
    let fleet = Clients::start(server, load, load.connections);
    fleet.log_in(1000, load.connections)?;
    let connections = fleet.shared.logged_in.load(Relaxed);
    let (idle_bytes, mut shortcomings) = idle;
    shortcomings.extend(fleet.missing());
    let (push, late) = fleet.work(Aim::One)?;
    // Figures of the drivers are kept apart from here on: latency is that of pushes.
    fleet.shared.storming.store(true, Relaxed);
    let (fanout, _) = fleet.work(Aim::All(1))?;
    let (merged, _) = fleet.work(Aim::All(load.burst))?;
    for (what, cost) in [("pushes", push), ("fan-out", fanout), ("merged fan-out", merged)] {
        if cost.arrived < cost.sent {
            shortcomings.push(format!("{what}: {} of {} arrived", cost.arrived, cost.sent));
        }
    }
    let lost = fleet.shared.lost.load(Relaxed);
    if lost > 0 {
        shortcomings.push(format!("{lost} connections were lost"));
    }
    let latency = fleet.finish()?.latency;
    Ok(Trial {
        connections,
        idle_bytes,
        push,
        fanout,
        merged,
        push_p50_us: latency.value_at_quantile(0.5),
        push_p99_us: latency.value_at_quantile(0.99),
        late_p99_us: late.value_at_quantile(0.99),
        shortcomings,
    })
}

/// Whom messages are for.
#[derive(Clone, Copy, Debug)]
enum Aim {
    One,
    /// So many messages at once.
    All(u64),
}

struct Clients<'a> {
    server: &'a Server,
    load: &'a Load,
    wanted: u32,
    shared: Arc<Shared>,
    drivers: Vec<JoinHandle<std::io::Result<Phases>>>,
}

impl Drop for Clients<'_> {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
    }
}

impl<'a> Clients<'a> {
    fn start(server: &'a Server, load: &'a Load, wanted: u32) -> Self {
        let shared = Arc::new(Shared::new(wanted));
        let all = Share {
            number: 0,
            first: 0,
            count: 0,
            target: server.clients,
            stack: Stack::Kernel,
            on_time: false,
            heartbeat_ms_max: HEARTBEAT_MS,
            dialect: server.dialect,
            secure: false,
            resume: false,
            chat: None,
            dropping: 0,
            spread_us: 0,
            insist_us: None,
        };
        let drivers = driver::shares(wanted, CLIENTS_PER_RING_MAX, &[server.clients], all)
            .into_iter()
            .map(|share| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || driver::run(&[share], &shared, None))
            })
            .collect();
        Self { server, load, wanted, shared, drivers }
    }

    /// Logs in so many, in thousandths of all and in clients.
    fn log_in(&self, permille: u32, wanted: u32) -> Result<(), String> {
        let started = Instant::now();
        self.shared.goal_permille.store(permille, Relaxed);
        while self.shared.logged_in.load(Relaxed) + self.shared.login_failures.load(Relaxed) < wanted {
            if self.drivers.iter().any(JoinHandle::is_finished) {
                return Err("a driver of the harness ended".to_owned());
            }
            if started.elapsed() > LOGIN_LIMIT {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        match self.shared.logged_in.load(Relaxed) {
            0 => Err(format!("nobody could log in: {} {}", self.trouble(), self.server.last_words())),
            _ => Ok(()),
        }
    }

    fn trouble(&self) -> String {
        let trouble = self.shared.trouble.lock().ok().and_then(|trouble| trouble.clone());
        trouble.unwrap_or_else(|| "no reason was given in time".to_owned())
    }

    fn missing(&self) -> Vec<String> {
        let (there, wanted) = (self.shared.logged_in.load(Relaxed), self.wanted);
        if there >= wanted {
            return Vec::new();
        }
        vec![format!("{there} of {wanted} clients logged in ({})", self.trouble())]
    }

    /// Memory when it no longer moves.
    fn resting_bytes(&self) -> Result<u64, String> {
        let started = Instant::now();
        let (mut last, mut since) = (self.server.own_bytes()?, Instant::now());
        while since.elapsed() < Duration::from_secs(1) && started.elapsed() < REST_LIMIT {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.server.own_bytes()?;
            if now.abs_diff(last) > REST_BYTES {
                (last, since) = (now, Instant::now());
            }
        }
        self.server.own_bytes()
    }

    /// Waits until the server has nothing to do.
    fn rest(&self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let before = self.server.work()?;
            std::thread::sleep(Duration::from_millis(100));
            if self.server.work()?.since_us(&before) < REST_US || started.elapsed() > REST_LIMIT {
                return Ok(());
            }
        }
    }

    /// Warms up, then sends as many messages as the time has room for and waits for them. Returns how late they went
    /// out as well.
    fn work(&self, aim: Aim) -> Result<(Cost, Histogram<u64>), String> {
        self.send(aim, WARM_UP)?;
        self.rest()?;
        let (pushed, delivered) = (self.shared.pushed.load(Relaxed), self.shared.delivered.load(Relaxed));
        let before = self.server.work()?;
        self.shared.measuring.store(true, Relaxed);
        let late = self.send(aim, Duration::from_secs(self.load.seconds))?;
        let sent = self.shared.pushed.load(Relaxed) - pushed;
        let waited = Instant::now();
        let arrived = loop {
            let arrived = self.shared.delivered.load(Relaxed) - delivered;
            if arrived >= sent || waited.elapsed() > LAST_ANSWERS {
                break arrived;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // What it does after the last delivery, such as hearing of sends that are done, is part of the work.
        self.rest()?;
        let spent_us = self.server.work()?.since_us(&before);
        self.shared.measuring.store(false, Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let us_per_delivery = spent_us as f64 / arrived.max(1) as f64;
        Ok((Cost { us_per_delivery, sent, arrived }, late))
    }

    fn send(&self, aim: Aim, time: Duration) -> Result<Histogram<u64>, String> {
        let sessions: Vec<u64> = self.shared.sessions().into_iter().flatten().collect();
        let all = sessions.len() as u64;
        let (dialect, services) = (self.server.dialect, self.server.services);
        let (pusher, burst, reach) = match aim {
            Aim::One => (pusher::to_sessions(dialect, services, sessions)?, 1, 1),
            Aim::All(burst) => (pusher::to_everybody(dialect, services, all)?, burst, all.max(1)),
        };
        let groups = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_mul(self.load.rate)
            / 1_000_000
            / (reach * burst);
        let pace = Pace { rate: self.load.rate, burst, groups: groups.max(1) };
        self.join(pusher, pace, time + STALL_LIMIT)
    }

    /// Sends to the end of the pace; a server that does not take it in time ends the trial.
    fn join(&self, pusher: Pusher, pace: Pace, limit: Duration) -> Result<Histogram<u64>, String> {
        let (bytes, shared, started) = (self.load.bytes as usize, Arc::clone(&self.shared), Instant::now());
        let sending = std::thread::spawn(move || pusher.run(pace, bytes, &shared));
        while !sending.is_finished() {
            if started.elapsed() > limit {
                self.shared.ended.store(true, Relaxed);
                return Err("it does not take what a service sends".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        sending.join().map_err(|_| "the pusher panicked")?
    }

    /// Ends the drivers and returns what they measured of pushes.
    fn finish(mut self) -> Result<Measured, String> {
        self.shared.ended.store(true, Relaxed);
        let mut pushes = Measured::new();
        for driver in std::mem::take(&mut self.drivers) {
            let phases =
                driver.join().map_err(|_| "a driver panicked")?.map_err(|error| error.to_string())?;
            pushes.add(&phases.calm)?;
        }
        Ok(pushes)
    }
}
