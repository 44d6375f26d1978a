//! The measurements: what each subcommand orders, waits for and reports.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::admin::Stats;
use crate::against;
use crate::args::{Arguments, ChatLoad, Load, Sub, Work};
use crate::calibrate::{self, Bare, at_rest, settled};
use crate::chat::Script;
use crate::compare;
use crate::driver::{self, Measured, Phases, Share};
use crate::floor;
use crate::groups;
use crate::hostile;
use crate::jitter::{self, Jitter};
use crate::memory::descriptors_max;
use crate::network::Stack;
use crate::page;
use crate::progress::Progress;
use crate::pusher::{self, Pace, Pusher};
use crate::report::{Report, Verdict, percentiles};
use crate::rooms;
use crate::sampler::Sampler;
use crate::scenario;
use crate::seats::Orders;
use crate::service::Service;
use crate::shared::Shared;
use crate::side::Side;
use crate::storm;

/// Time under load before latencies count.
pub const WARM_UP: Duration = Duration::from_secs(2);
/// Up to so many rings a processor each has a thread, which connects a tenth faster; beyond it threads share them.
const RINGS_ALONE_PER_CPU: usize = 4;
/// Of so many clients in a room one is pushed to.
const ONE_LISTENER_OF: u32 = 50;
/// How late the harness's own sends may be at the 99th percentile before it says so, microseconds.
const LATENESS_P99_US_MAX: u64 = 20_000;
/// Longest wait for the last answers after the last send.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// The same for messages of a chat: what got lost on the way is delivered again after 5 s.
const LAST_MESSAGES: Duration = Duration::from_secs(15);
/// Longest wait for the pushes after `hold`.
const TOUCH_ANSWERS: Duration = Duration::from_secs(30);
/// Longest wait for the next one to be gone, and at last for the gateway to give back what they took.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Nobody else has gone for so long: who was going has gone.
const DEPARTED: Duration = Duration::from_millis(500);
/// What need not be waited for: workers keep their pools.
const GIVEN_BACK_PERCENT_ENOUGH: f64 = 90.0;
/// Where the first memory reading is taken, in thousandths of the connections: fixed costs drop out of the slope.
const FIRST_READING_PERMILLE: u32 = 200;

/// Runs what the arguments ask for.
pub fn run(arguments: &Arguments) -> Result<Verdict, String> {
    let (load, work) = match &arguments.subcommand {
        Sub::Connect(load) => (load, Work::Connect),
        Sub::Hold(load) => (load, Work::Hold),
        Sub::Ping(load) => (load, Work::Ping),
        Sub::Push(load) => (load, Work::Push),
        Sub::Chat(chat) => (&chat.load, Work::Chat),
        Sub::Fanout(load) => (load, Work::Fanout),
        Sub::Mixed(load) => (load, Work::Mixed),
        Sub::Storm(storm) => return storm::run(storm),
        Sub::Hostile(hostile) => return hostile::run(hostile),
        Sub::Groups(groups) => return groups::run(groups),
        Sub::Rooms(rooms) => return rooms::run(rooms),
        Sub::Compare(arguments) => return compare::run(arguments),
        Sub::Ratio(load) => return against::ratio(load),
        Sub::Run(arguments) => return scenario::run(arguments),
        Sub::Report(report) => return page::report(report).map(|()| Verdict::Held),
        Sub::Floor(floor) => return floor::serve(floor).map(|()| Verdict::Held),
    };
    if load.floor {
        against::over_loopback(load)?;
    }
    if load.floor && work == Work::Chat {
        return Err("the floor carries nothing from client to client: leave out --floor".to_owned());
    }
    let gateway = reached(load)?;
    let mut report = Report::default();
    if load.floor {
        against::one(work, load, &gateway, &mut report)?;
    } else {
        let mut rounds = Vec::new();
        for round in 1..=load.repeat {
            if load.repeat > 1 {
                eprintln!("round {round} of {}", load.repeat);
            }
            let mut report = Report::default();
            if round > 1 {
                departed(&load.admin)?;
            }
            // A process that has held them before does not grow by them again.
            once(work, load, &gateway, None, round == 1, &mut report)?;
            rounds.push(report);
        }
        report = if load.repeat > 1 { Report::middle(rounds) } else { rounds.pop().unwrap_or_default() };
    }
    if let Sub::Chat(ChatLoad { router: Some(router), .. }) = &arguments.subcommand {
        report.count("stored_bytes", stored_bytes(*router, load.app)?);
    }
    report.require(&load.require);
    report.finish(work.name(), load.json.as_deref())
}

/// What an app's messages take at a router, all shards together.
fn stored_bytes(router: SocketAddr, app: &str) -> Result<u64, String> {
    let of_app = format!("router_app_stored_bytes{{app={app:?},");
    let stats = Service::connect(router)?.stats()?;
    Ok(stats.iter().filter(|stat| stat.name.starts_with(&of_app)).map(|stat| stat.value).sum())
}

/// The gateway of the arguments; both its ports are asked before anything is begun.
pub fn reached(load: &Load) -> Result<Side, String> {
    Stats::read(&load.admin)?;
    TcpStream::connect(load.target).map_err(|error| {
        format!("nothing listens at {} ({error}): start the gateway with `cargo run --release`", load.target)
    })?;
    departed(&load.admin)?;
    Ok(Side::gateway(load))
}

/// Whoever was leaving the gateway has left: who has ended a run may hold their places for seconds still, while the
/// kernel takes their rings apart.
fn departed(admin: &str) -> Result<(), String> {
    let read = || Ok::<_, String>(Stats::read(admin)?.number("/gateway/connections_open"));
    at_rest(read, 1, DEPARTED, GIVEN_BACK_WITHIN).map(drop)
}

/// One measurement. Returns what is compared with the floor: connections per second, or microseconds of processor
/// time per delivery.
///
/// With a processor given, this thread and those it starts stay there. Memory is weighed where it is asked for and the
/// work is to hold.
pub fn once(
    work: Work,
    load: &Load,
    side: &Side,
    cpu: Option<usize>,
    weigh: bool,
    report: &mut Report,
) -> Result<f64, String> {
    if let Some(cpu) = cpu {
        moor_ring::thread::pin_current(cpu).map_err(|error| error.to_string())?;
    }
    let weigh = weigh && work == Work::Hold;
    let scales = match load.stack {
        _ if !weigh => None,
        Stack::Kernel => Some(Scales::Pairs(calibrate::bare()?)),
        Stack::Tun => Some(Scales::Ends),
    };
    let empty = if weigh { Stats::read(&load.admin)?.resident_bytes() } else { 0 };
    let mut run = Run::start(load, work, side, Drops::default(), None)?;
    let mut figure = run.log_in(report, scales)?;
    match work {
        Work::Connect | Work::Storm | Work::Rooms => {}
        Work::Hold => {
            run.watch("hold", load.duration());
            run.touch(report)?;
        }
        Work::Ping | Work::Chat => {
            run.start_sends();
            figure = run.measure(report)?;
        }
        Work::Push | Work::Mixed => figure = run.push(report)?,
        Work::Fanout => figure = run.fanout(report)?,
    }
    let held = if weigh { Stats::read(&load.admin)?.resident_bytes() } else { 0 };
    let phases = run.finish(report)?;
    if work == Work::Chat {
        phases.chat.report(load.rate(work), report);
    }
    if weigh {
        given_back(empty, held, load, report)?;
    }
    Ok(figure)
}

/// Everybody has gone: how much of what they took the gateway has given back to the system, percent.
fn given_back(empty: u64, held: u64, load: &Load, report: &mut Report) -> Result<(), String> {
    let (mut since, mut before) = (Instant::now(), u64::MAX);
    loop {
        let stats = Stats::read(&load.admin)?;
        let left = stats.number("/gateway/connections_open");
        // The kernel takes half a minute to end two million of them: as long as some go, the others are waited for.
        if left < before {
            (since, before) = (Instant::now(), left);
        }
        let gone = held.saturating_sub(stats.resident_bytes());
        #[allow(clippy::cast_precision_loss, reason = "bytes of this host's memory are far below 2^52")]
        let percent = 100.0 * gone as f64 / held.saturating_sub(empty).max(1) as f64;
        if left == 0 && percent >= GIVEN_BACK_PERCENT_ENOUGH || since.elapsed() >= GIVEN_BACK_WITHIN {
            report.number("gateway_user_bytes_given_back_percent", percent);
            report.count("gateway_user_bytes_left", stats.resident_bytes());
            if left > 0 {
                report.shortcoming(format!("the gateway still counts {left} connections that have gone"));
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Who drops in a storm, and how they come back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drops {
    /// How many.
    pub count: u32,
    /// Within this time.
    pub spread: Duration,
}

/// What the kernel's memory is compared with.
pub enum Scales {
    /// Both ends of a connection are the kernel's: with a bare one.
    Pairs(Bare),
    /// Only the server's is.
    Ends,
}

/// A run: its drivers, from the first login to the last figure.
pub struct Run<'a> {
    load: &'a Load,
    work: Work,
    side: &'a Side,
    /// What it shares with its drivers.
    pub shared: Arc<Shared>,
    rings: u64,
    /// Who connects where.
    shares: Vec<Share>,
    drivers: Vec<JoinHandle<std::io::Result<Phases>>>,
    pushers: Vec<JoinHandle<Result<Histogram<u64>, String>>>,
    /// Pushes and pings are measured: their latencies are reported.
    latencies: bool,
    sampler: RefCell<Sampler>,
    jitter: JoinHandle<Jitter>,
}

impl<'a> Run<'a> {
    /// Starts the drivers; nobody connects yet, nor enters the room if there is one.
    pub fn start(
        load: &'a Load,
        work: Work,
        side: &'a Side,
        drops: Drops,
        room: Option<&Arc<Orders>>,
    ) -> Result<Self, String> {
        let slots = u32::try_from(descriptors_max().saturating_sub(64)).unwrap_or(u32::MAX);
        if slots < 64 {
            return Err("RLIMIT_NOFILE is below 128: raise it (ulimit -n)".to_owned());
        }
        let shared = Arc::new(Shared::new(load.connections));
        let targets = side.targets()?;
        let (clients, bytes) = (load.connections, load.bytes(work));
        let chat = (work == Work::Chat).then(|| Script { clients, first_account: fastrand::u32(..), bytes });
        let dialect = side.dialect(load);
        let all = Share {
            number: 0,
            first: 0,
            count: 0,
            target: targets[0],
            stack: load.stack,
            on_time: false,
            heartbeat_ms_max: load.heartbeat_ms_max(work),
            dialect: chat.map_or(dialect, |script| dialect.in_chat(script.first_account)),
            secure: matches!(side, Side::Gateway { .. }) && load.transport.is_secure(),
            resume: load.resume,
            chat,
            dropping: drops.count,
            spread_us: u64::try_from(drops.spread.as_micros()).unwrap_or(u64::MAX),
            insist_us: load.insist.map(|pause_ms| pause_ms * 1000),
        };
        let sampler = RefCell::new(Sampler::new(&shared, side));
        let jitter = jitter::start(&shared);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let per_network = load.stack.clients_max(slots, load.connections, cpus);
        // In a room pushes go to some of the clients, and these to threads that are on time: what is measured is the server,
        // not for how long a harness with many others to look after leaves a push lying.
        let listeners = if room.is_some() { load.connections / ONE_LISTENER_OF } else { 0 };
        let others = load.connections - listeners;
        let mut shares = driver::shares(others, per_network, &targets, all);
        let threads = if shares.len() <= cpus * RINGS_ALONE_PER_CPU { shares.len() } else { cpus };
        let mut parts: Vec<Vec<Share>> = (0..threads)
            .map(|thread| shares.iter().skip(thread).step_by(threads).copied().collect())
            .collect();
        let numbers = u32::try_from(shares.len()).unwrap_or(u32::MAX);
        for share in driver::shares(listeners, per_network, &targets, Share { on_time: true, ..all }) {
            let share = Share { number: numbers + share.number, first: others + share.first, ..share };
            shares.push(share);
            parts.push(vec![share]);
        }
        let start = |own: Vec<Share>| {
            let (shared, room) = (Arc::clone(&shared), room.cloned());
            std::thread::spawn(move || driver::run(&own, &shared, room.as_ref()))
        };
        let drivers = parts.into_iter().map(start).collect();
        let rings = shares.len() as u64;
        let pushers = Vec::new();
        Ok(Self {
            load,
            work,
            side,
            shared,
            rings,
            shares,
            drivers,
            pushers,
            latencies: false,
            sampler,
            jitter,
        })
    }

    /// Shows how far a phase is, and takes a sample when one is due. Every loop that waits calls it.
    pub fn show(&self, progress: &mut Progress, done: u64, word: &str) {
        let mut sampler = self.sampler.borrow_mut();
        let seen = sampler.tick(progress.what(), &self.shared, self.side);
        progress.show(done, &format!("{seen}; {word}"));
    }

    /// Logs everybody in, in two steps when memory is weighed. Returns how many a second.
    pub fn log_in(&mut self, report: &mut Report, scales: Option<Scales>) -> Result<f64, String> {
        let all = self.load.connections;
        let first = u32::try_from(u64::from(all) * u64::from(FIRST_READING_PERMILLE) / 1000).unwrap_or(0);
        let mut took = Duration::ZERO;
        let mut readings = None;
        if scales.is_some() {
            took += self.log_in_to(FIRST_READING_PERMILLE, first)?;
            let sessions = self.shared.logged_in.load(Relaxed);
            readings = Some((sessions, settled(), self.resident_at_rest()?));
        }
        took += self.log_in_to(1000, all)?;
        let sessions = self.shared.logged_in.load(Relaxed);
        let channels = self.load.channels;
        report.count("sessions", u64::from(sessions) * u64::from(channels));
        report.count("channels_per_connection", u64::from(channels));
        report.detail("transport", json!(self.load.transport.name()));
        report.detail("stack", json!(self.load.stack.name()));
        if self.load.transport.is_secure() {
            report.count("tls_resumed", self.shared.resumed.load(Relaxed));
        }
        report.count("turned_away", u64::from(self.shared.turned_away.load(Relaxed)));
        report.count("hung_up_on", u64::from(self.shared.hung_up_on.load(Relaxed)));
        let per_s = f64::from(sessions) / took.as_secs_f64().max(0.001);
        report.number("connect_per_s", per_s);
        if let (Some(scales), Some((before, kernel, resident))) = (scales, readings) {
            let more = f64::from(sessions.saturating_sub(before).max(1));
            let kernel = slope(kernel, settled(), more);
            let user = slope(resident, self.resident_at_rest()?, more);
            report.number("gateway_user_bytes_per_session", user / f64::from(channels));
            report.number("gateway_user_bytes_per_connection", user);
            match scales {
                // Both ends of every connection are on this host: what a bare one costs and the harness's own poll
                // are weighed beforehand and taken off.
                Scales::Pairs(bare) => {
                    report.number("kernel_bytes_per_session", kernel - bare.pair - bare.poll);
                    report.number("kernel_bytes_per_pair", kernel);
                    report.number("kernel_bytes_bare_pair", bare.pair);
                    report.number("kernel_bytes_harness_poll", bare.poll);
                }
                Scales::Ends => report.number("kernel_bytes_per_connection", kernel),
            }
        }
        Ok(per_s)
    }

    /// Resident memory of the gateway when what the logins' burst needed has been given back: a worker does so after
    /// a few seconds.
    fn resident_at_rest(&self) -> Result<u64, String> {
        let read = || Ok(Stats::read(&self.load.admin)?.resident_bytes());
        at_rest(read, 64 * 1024, Duration::from_secs(5), Duration::from_secs(20))
    }

    fn log_in_to(&self, permille: u32, wanted: u32) -> Result<Duration, String> {
        let started = Instant::now();
        self.shared.goal_permille.store(permille, Relaxed);
        let mut progress = Progress::new("log in", u64::from(wanted));
        loop {
            let logged_in = self.shared.logged_in.load(Relaxed);
            let failed = self.shared.login_failures.load(Relaxed);
            let outside = self.shared.outside.load(Relaxed);
            let answered = logged_in + failed + outside;
            let word = format!("{failed} failed, {outside} wait outside");
            self.show(&mut progress, u64::from(logged_in), &word);
            // Shares are rounded down one by one.
            if answered + u32::try_from(self.rings).unwrap_or(0) > wanted
                && (permille < 1000 || answered >= wanted)
            {
                return Ok(started.elapsed());
            }
            if self.drivers.iter().any(JoinHandle::is_finished) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > Duration::from_secs(self.load.connect_limit) {
                return Ok(started.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets time pass and shows what goes on.
    pub fn watch(&self, what: &'static str, time: Duration) {
        let started = Instant::now();
        let mut progress = Progress::new(what, time.as_secs());
        while started.elapsed() < time {
            let (pongs, pings) = (self.shared.pongs.load(Relaxed), self.shared.pings.load(Relaxed));
            let word = format!("{pongs} of {pings} heartbeats answered");
            self.show(&mut progress, started.elapsed().as_secs(), &word);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the measuring and waits, not for ever, for what is still on its way. Returns what was sent and not refused,
    /// and what arrived.
    pub fn last_answers(&self) -> (u64, u64) {
        self.shared.measuring.store(false, Relaxed);
        let limit = if self.work == Work::Chat { LAST_MESSAGES } else { LAST_ANSWERS };
        let wanted = || self.shared.pushed.load(Relaxed).saturating_sub(self.shared.refused.load(Relaxed));
        let arrived = || self.shared.delivered.load(Relaxed);
        let is_answered = || self.work != Work::Chat || self.shared.accepted.load(Relaxed) == wanted();
        let waited = Instant::now();
        while (arrived() < wanted() || !is_answered()) && waited.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
        (wanted(), arrived())
    }

    /// One push each to sessions chosen at random: what is held is alive in both directions.
    fn touch(&self, report: &mut Report) -> Result<(), String> {
        let mut sessions = self.sessions();
        fastrand::shuffle(&mut sessions);
        sessions.truncate(usize::try_from(self.load.touch).unwrap_or(usize::MAX));
        if sessions.is_empty() {
            return Ok(());
        }
        let wanted = sessions.len() as u64;
        self.shared.measuring.store(true, Relaxed);
        self.pusher_to(sessions)?.touch(self.load.bytes(self.work), &self.shared)?;
        let waited = Instant::now();
        while self.shared.delivered.load(Relaxed) < wanted && waited.elapsed() < TOUCH_ANSWERS {
            std::thread::sleep(Duration::from_millis(10));
        }
        let arrived = self.shared.delivered.load(Relaxed);
        report.count("touched", wanted);
        report.count("touched_delivered", arrived);
        if arrived != wanted {
            report.shortcoming(format!("{arrived} of {wanted} sessions got their push"));
        }
        Ok(())
    }

    fn sessions(&self) -> Vec<u64> {
        self.shared.sessions().into_iter().flatten().collect()
    }

    /// Each driver's part of a rate, at least 1.
    fn per_driver(&self, rate: u64) -> u64 {
        (rate / self.rings).max(1)
    }

    /// Orders PINGs, or messages of a chat, so many per second over all drivers.
    pub fn start_sends(&mut self) {
        self.latencies = true;
        self.shared.sends_per_s.store(self.per_driver(self.load.rate(self.work)), Relaxed);
    }

    fn push(&mut self, report: &mut Report) -> Result<f64, String> {
        self.start_pusher(self.pusher_to(self.sessions())?, self.load.rate(self.work), 1);
        self.measure(report)
    }

    fn fanout(&mut self, report: &mut Report) -> Result<f64, String> {
        let sessions = u64::from(self.shared.logged_in.load(Relaxed));
        let dialect = self.side.dialect(self.load);
        let pusher = pusher::to_everybody(dialect, self.side.internal()?, sessions)?;
        self.start_pusher(pusher, self.load.rate(self.work), self.load.burst);
        self.measure(report)
    }

    fn pusher_to(&self, sessions: Vec<u64>) -> Result<Pusher, String> {
        pusher::to_sessions(self.side.dialect(self.load), self.side.internal()?, sessions)
    }

    /// Pushes at a rate to everybody at one of several gateways, through its internal port.
    pub fn start_unicast(&mut self, gateway: &Side, rate: u64) -> Result<(), String> {
        let (targets, known) = (gateway.targets()?, self.shared.sessions());
        let listen = self.shares.iter().any(|share| share.on_time);
        let own = |share: &&Share| targets.contains(&share.target) && share.on_time == listen;
        let sessions = self.shares.iter().filter(own).flat_map(|share| {
            let first = share.first as usize;
            known[first..first + share.count as usize].iter().copied().flatten()
        });
        let pusher =
            pusher::to_sessions(gateway.dialect(self.load), gateway.internal()?, sessions.collect())?;
        self.latencies = true;
        self.start_pusher(pusher.on_time(), rate, 1);
        Ok(())
    }

    fn start_pusher(&mut self, pusher: Pusher, rate: u64, burst: u64) {
        let bytes = self.load.bytes(self.work);
        let shared = Arc::clone(&self.shared);
        self.pushers.push(std::thread::spawn(move || {
            pusher.run(Pace { rate, burst, groups: u64::MAX }, bytes, &shared)
        }));
    }

    /// Warms up, measures, and says what came back. Returns the server's processor time per delivery, microseconds.
    fn measure(&mut self, report: &mut Report) -> Result<f64, String> {
        self.latencies = true;
        self.watch("warm up", WARM_UP);
        let wire_before = self.shared.wire_received.load(Relaxed);
        let cpu_before = self.side.cpu()?;
        let started = Instant::now();
        self.shared.measuring.store(true, Relaxed);
        self.watch(self.work.name(), self.load.duration());
        let elapsed = started.elapsed();
        let delivered = self.shared.delivered.load(Relaxed);
        let received = self.shared.wire_received.load(Relaxed) - wire_before;
        let cpu = self.side.cpu()?.since(cpu_before);
        let (wanted, arrived) = self.last_answers();
        let reads = self.shared.reads.load(Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let per_delivery = |value: u64| value as f64 / delivered.max(1) as f64;
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        report.number("delivered_per_s", delivered as f64 / elapsed.as_secs_f64());
        let cost = per_delivery(cpu.total_us());
        report.fine("gateway_cpu_us_per_delivery", cost);
        report.fine("gateway_user_cpu_us_per_delivery", per_delivery(cpu.user_us));
        report.fine("gateway_system_cpu_us_per_delivery", per_delivery(cpu.system_us));
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        report.fine("frames_per_read", arrived as f64 / reads.max(1) as f64);
        report.number("wire_bytes_received_per_delivery", per_delivery(received));
        report.count("sent", self.shared.pushed.load(Relaxed));
        // What became of messages between clients is known one by one.
        if self.work != Work::Chat && arrived * 1000 < wanted * 999 {
            report.shortcoming(format!("{arrived} of {wanted} arrived"));
        }
        Ok(cost)
    }

    /// Ends the run and reports what is common to all, of the calm. Returns all that was measured.
    pub fn finish(self, report: &mut Report) -> Result<Phases, String> {
        self.shared.ended.store(true, Relaxed);
        let Phases { mut calm, mut storm, mut heard, mut chat } = Phases::new();
        let jitter = self.jitter.join().map_err(|_| "the thread that measures jitter panicked")?;
        for driver in self.drivers {
            let phases =
                driver.join().map_err(|_| "a driver panicked")?.map_err(|error| error.to_string())?;
            calm.add(&phases.calm)?;
            storm.add(&phases.storm)?;
            heard.add(&phases.heard)?;
            chat.add(phases.chat)?;
        }
        let Measured { login, latency, lateness } = &mut calm;
        for pusher in self.pushers {
            let own = pusher.join().map_err(|_| "the pusher panicked")??;
            lateness.add(&own).map_err(|error| format!("histograms do not add up: {error}"))?;
        }
        let (sent, received) = (self.shared.wire_sent.load(Relaxed), self.shared.wire_received.load(Relaxed));
        report.count("wire_bytes_sent", sent);
        report.count("wire_bytes_received", received);
        if self.load.stack == Stack::Tun {
            report.count("segments_missed", self.shared.gaps.load(Relaxed));
        }
        report.detail("samples", self.sampler.borrow().json());
        let latencies = if self.latencies { percentiles(latency) } else { json!([]) };
        let mut curves = json!({ "login": percentiles(login), "latency": latencies });
        if !storm.login.is_empty() {
            curves["storm login"] = percentiles(&storm.login);
            curves["storm latency"] = percentiles(&storm.latency);
        }
        report.detail("percentiles", curves);
        if let Side::Gateway { admin, .. } = self.side {
            let stats = Stats::read(admin)?;
            report.detail("gateway_version", json!(stats.text("/process/version")));
            report.detail("gateway_workers", json!(stats.list("/workers").len()));
        }
        report.count("login_p50_us", login.value_at_quantile(0.5));
        report.count("login_p99_us", login.value_at_quantile(0.99));
        let (pings, pongs) = (self.shared.pings.load(Relaxed), self.shared.pongs.load(Relaxed));
        let lost = self.shared.lost.load(Relaxed);
        report.count("lost", u64::from(lost));
        report.count("heartbeats_sent", pings);
        if self.latencies {
            report.latency(latency);
            report.count("harness_lateness_p99_us", lateness.value_at_quantile(0.99));
            if lateness.value_at_quantile(0.99) > LATENESS_P99_US_MAX {
                report.harness_short(format!(
                    "its sends were {} µs late at the 99th percentile; lower --rate or give it processors",
                    lateness.value_at_quantile(0.99)
                ));
            }
        } else {
            report.count("heartbeats_answered", pongs);
        }
        report.value("jitter_us", jitter.figure(self.latencies));
        if lost > 0 {
            report.shortcoming(format!("{lost} sessions were lost"));
        }
        let (logged_in, outside) = (self.shared.logged_in.load(Relaxed), self.shared.outside.load(Relaxed));
        report.count("sessions_at_end", self.shared.sessions().iter().flatten().count() as u64);
        report.count("logins_limited", self.shared.logins_limited.load(Relaxed));
        if logged_in + outside < self.load.connections {
            let trouble = self.shared.trouble.lock().ok().and_then(|t| t.clone());
            report.shortcoming(format!(
                "{logged_in} of {} logged in ({})",
                self.load.connections,
                trouble.unwrap_or_else(|| "no reason was given in time".to_owned())
            ));
        }
        Ok(Phases { calm, storm, heard, chat })
    }
}

#[allow(clippy::cast_precision_loss, reason = "bytes of this host's memory are far below 2^52")]
fn slope(before: u64, after: u64, sessions: f64) -> f64 {
    (after as f64 - before as f64) / sessions
}
