//! `moor-bench rooms`: everybody in one room, or spread over many, messages into them at a rate, pushes to single sessions
//! beside; then many leave and come back at once.
//!
//! A message's latency counts from the moment it should have been published until a client has it; a reliable one's until
//! the client may use it, those before it included, unless the client was away when it was said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use moor_wire::Code;
use moor_wire::internal::{RoomPublish, RoomStats, RoomStatsResult, SendResult, Verb, put_control};
use prost::Message as _;

use crate::args::{Load, Work};
use crate::measure::{Drops, Run, WARM_UP, reached};
use crate::progress::Progress;
use crate::pusher;
use crate::report::{Report, Verdict};
use crate::seats::Orders;
use crate::service::Service;
use crate::shared::{Shared, histogram};
use crate::side::{Cpu, Side};

/// How fast everybody enters before the measurement, all together, a second.
const ENTERS_PER_S: u64 = 50_000;
/// Longest time for the router to count everybody who is in the room.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for the last reliable messages.
const CAUGHT_WITHIN: Duration = Duration::from_secs(15);
/// Pause between what is measured and the storm.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two pieces of what is published: how late a message may be by design.
const PIECE: Duration = Duration::from_millis(1);
/// Longest wait for the answers to what was published last.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How many say something, in turn.
const SPEAKERS: u64 = 100;
/// Types of room messages, as the router takes them where nothing is configured.
const RELIABLE: u32 = 1;
const DROPPABLE: u32 = 2;

/// The load of `rooms`. `--rate` messages a second go into the rooms in turn; `--seconds` is the time in them, a quarter of
/// it the calm before and the storm after.
#[derive(Clone, Debug, Args)]
pub struct RoomsLoad {
    /// Everything else.
    #[command(flatten)]
    pub load: Load,
    /// Client ports of further gateways; sessions are spread over all.
    #[arg(long, value_delimiter = ',', value_name = "ADDR,...")]
    pub also: Vec<SocketAddr>,
    /// Their admin ports.
    #[arg(long, value_delimiter = ',', value_name = "URL,...")]
    pub also_admin: Vec<String>,
    /// The router, which the messages go to.
    #[arg(long, default_value = "127.0.0.1:7300", value_name = "ADDR")]
    pub router: SocketAddr,
    /// Rooms, over which sessions are spread.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rooms: u32,
    /// Of so many messages of a room one is reliable. Each of them is acknowledged by everybody.
    #[arg(long, default_value_t = 5_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub one_reliable_of: u64,
    /// Pushes to single sessions a second, all gateways together. They go to one client in fifty, whom threads look after that run
    /// before all others: what is measured is the server, not how long the harness leaves a push lying.
    #[arg(long, default_value_t = 1_000, value_name = "PER_S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub unicast: u64,
    /// Sessions that leave and come back at the end; default: a quarter.
    #[arg(long, value_name = "COUNT")]
    pub movers: Option<u32>,
    /// They do so within this time, seconds.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub moves_within: u64,
}

/// What the publisher counted.
struct Published {
    lateness: Histogram<u64>,
    /// While measuring.
    measured: u64,
    /// Or not answered, in all its time.
    refused: u64,
}

/// Runs it.
pub fn run(rooms: &RoomsLoad) -> Result<Verdict, String> {
    let load = &rooms.load;
    if rooms.also.len() != rooms.also_admin.len() {
        return Err("each gateway of --also needs its admin port in --also-admin".to_owned());
    }
    let mut router = Service::connect(rooms.router)?;
    let first = reached(load)?;
    let others = rooms.also.iter().zip(&rooms.also_admin).map(|(target, admin)| {
        reached(&Load { target: *target, admin: admin.clone(), internal: None, ..load.clone() })
    });
    let gateways = std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>, String>>()?;
    let all = Side::Gateway {
        target: load.target,
        also: rooms.also.clone(),
        admin: load.admin.clone(),
        internal: load.internal,
    };

    let mut report = Report::default();
    let run_id = fastrand::u64(..);
    let names = (0..rooms.rooms).map(|number| format!("bench-{run_id:x}-{number}")).collect();
    let orders = Arc::new(Orders::new(load.app, names, load.connections));
    let mut run = Run::start(load, Work::Rooms, &all, Drops::default(), Some(&orders))?;
    run.log_in(&mut report, None)?;
    for gateway in &gateways {
        run.start_unicast(gateway, (rooms.unicast / gateways.len() as u64).max(1))?;
    }
    run.watch("warm up", WARM_UP);
    run.shared.measuring.store(true, Relaxed);
    run.watch("calm", load.duration() / 4);
    run.shared.measuring.store(false, Relaxed);
    // What is still under way belongs to the calm.
    run.watch("pause", Duration::from_secs(1));
    run.shared.storming.store(true, Relaxed);

    let sessions = u64::from(run.shared.logged_in.load(Relaxed));
    orders.moves_per_s.store(ENTERS_PER_S, Relaxed);
    orders.goal_permille.store(1000, Relaxed);
    let entered = counted(&run, "enter", &mut router, &orders, sessions)?;

    let publisher = Publisher::start(rooms, &orders, &run.shared)?;
    run.watch("warm up", WARM_UP);
    let cpu_before = cpu(&gateways)?;
    let started = Instant::now();
    run.shared.measuring.store(true, Relaxed);
    run.watch("talk", load.duration());
    run.shared.measuring.store(false, Relaxed);
    let took = started.elapsed();
    let frames = orders.frames.load(Relaxed);
    let cpu_us: u64 =
        cpu(&gateways)?.iter().zip(cpu_before).map(|(now, then)| now.since(then).total_us()).sum();
    // What was said while measuring is not to arrive in the storm.
    run.watch("pause", ARRIVES_WITHIN);

    let movers = u64::from(rooms.movers.unwrap_or(load.connections / 4)).min(sessions);
    let half = Duration::from_secs(rooms.moves_within) / 2;
    let storm = Instant::now();
    let pace = movers * 1000 / u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    orders.moves_per_s.store(pace, Relaxed);
    let stays = u32::try_from((sessions - movers) * 1000 / sessions.max(1)).unwrap_or(1000);
    orders.goal_permille.store(stays, Relaxed);
    run.watch("leave", half);
    orders.goal_permille.store(1000, Relaxed);
    run.watch("come back", half);
    let storm_counted = counted(&run, "come back", &mut router, &orders, sessions)?;
    let storm_s = storm.elapsed().as_secs_f64();
    let published = publisher.end()?;
    let Known { open, newest, wanted, .. } = Known::ask(&mut router, &orders)?;
    let missing = missing(&run, &orders, wanted);
    // Of those who speak in turn.
    let (seated, limited) = (orders.seated.load(Relaxed), orders.limited.load(Relaxed));
    let deliveries = published.measured * seated / u64::from(rooms.rooms);
    let phases = run.finish(&mut report)?;
    let (heard, busy) = (&phases.heard, &phases.storm.latency);

    report.count("room_gateways", gateways.len() as u64);
    report.count("rooms", u64::from(rooms.rooms));
    report.count("rooms_open", open);
    report.count("rooms_limited", limited);
    report.fine("room_entered_s", entered.took.as_secs_f64());
    report.count("published", published.measured);
    report.count("published_refused", published.refused);
    report.count("publisher_lateness_p99_us", published.lateness.value_at_quantile(0.99));
    report.fine("room_frames_per_session_per_s", per(frames, sessions.max(1)) / took.as_secs_f64());
    report.number("room_frames_per_s", per(frames, 1) / took.as_secs_f64());
    report.fine("room_messages_per_frame", per(heard.messages, frames.max(1)));
    report.fine("room_published_per_frame", per(deliveries, frames.max(1)));
    report.fine("room_heard_ratio", per(heard.messages, deliveries.max(1)));
    report.fine("gateway_cpu_us_per_frame", per(cpu_us, frames.max(1)));
    report.fine("gateway_cpus", per(cpu_us, 1_000_000) / took.as_secs_f64());
    report.count("room_p50_us", heard.latency.value_at_quantile(0.5));
    report.count("room_p99_us", heard.latency.value_at_quantile(0.99));
    report.count("room_max_us", heard.latency.max());
    report.count("reliable_published", newest);
    report.count("reliable_wanted", wanted);
    report.count("reliable_missing", missing);
    report.count("reliable_p99_us", heard.reliable.value_at_quantile(0.99));
    report.count("reliable_max_us", heard.reliable.max());
    report.count("reliable_duplicates", heard.duplicates);
    report.count("reliable_pulls", heard.pulls);
    report.count("unicast_calm_p99_us", phases.calm.latency.value_at_quantile(0.99));
    report.count("unicast_room_p50_us", busy.value_at_quantile(0.5));
    report.count("unicast_room_p99_us", busy.value_at_quantile(0.99));
    let calm_p99 = phases.calm.latency.value_at_quantile(0.99).max(1);
    report.fine("unicast_p99_ratio", per(busy.value_at_quantile(0.99), calm_p99));
    report.count("movers", movers);
    report.fine("moved_s", storm_s);
    report.count("room_count_wrong", entered.wrong + storm_counted.wrong);

    if entered.wrong + storm_counted.wrong > 0 {
        report.shortcoming("the router counted others in the room than were there".to_owned());
    }
    if missing > 0 {
        report.shortcoming(format!("{missing} reliable messages did not arrive"));
    }
    if published.refused > 0 {
        report.shortcoming(format!("{} messages were refused", published.refused));
    }
    report.require(&load.require);
    report.finish(Work::Rooms.name(), load.json.as_deref())
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per(value: u64, of: u64) -> f64 {
    value as f64 / of as f64
}

fn cpu(gateways: &[Side]) -> Result<Vec<Cpu>, String> {
    gateways.iter().map(Side::cpu).collect()
}

/// What the router knows of all rooms.
#[derive(Default)]
struct Known {
    /// Rooms with somebody in them.
    open: u64,
    /// Sessions in them.
    online: u64,
    /// Reliable messages.
    newest: u64,
    /// The same, each as often as there are sessions in its room.
    wanted: u64,
}

impl Known {
    fn ask(router: &mut Service, orders: &Orders) -> Result<Self, String> {
        let mut known = Self::default();
        for room in &orders.rooms {
            let ask = RoomStats { cookie: 1, app: orders.app.to_owned(), room: room.clone() };
            router.say(Verb::RoomStats, &ask)?;
            let found =
                RoomStatsResult::decode(router.hear(Verb::RoomStatsResult)?).map_err(|e| e.to_string())?;
            if found.code() != Code::Ok {
                return Err(format!("the router knows no room: {}", found.code()));
            }
            let online = u64::from(found.online);
            known.open += u64::from(online > 0);
            known.online += online;
            known.newest += found.newest_id;
            known.wanted += found.newest_id * online;
        }
        Ok(known)
    }
}

/// How long it took until the router counted right, and by how many it was wrong at the end.
struct Settled {
    took: Duration,
    wrong: u64,
}

/// Waits until everybody has said that they are in their room, or was told that it is one too many, and the router counts
/// those who are.
fn counted(
    run: &Run<'_>,
    what: &'static str,
    router: &mut Service,
    orders: &Orders,
    sessions: u64,
) -> Result<Settled, String> {
    let started = Instant::now();
    let mut progress = Progress::new(what, sessions);
    loop {
        let (seated, outside) = (orders.seated.load(Relaxed), orders.outside.load(Relaxed));
        let online = Known::ask(router, orders)?.online;
        let inside = sessions.saturating_sub(outside);
        run.show(&mut progress, seated, &format!("{online} counted by the router"));
        let took = started.elapsed();
        if seated == inside && online == inside || took > COUNTED_WITHIN {
            return Ok(Settled { took, wrong: online.abs_diff(inside) });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until everybody together has so many reliable messages; returns how many are missing.
fn missing(run: &Run<'_>, orders: &Orders, wanted: u64) -> u64 {
    let started = Instant::now();
    let mut progress = Progress::new("last messages", wanted);
    loop {
        let caught = orders.caught.load(Relaxed);
        run.show(&mut progress, caught, "reliable messages used");
        if caught >= wanted || started.elapsed() > CAUGHT_WITHIN {
            return wanted.saturating_sub(caught);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A publisher at work, on a connection of its own.
struct Publisher {
    thread: JoinHandle<Result<Published, String>>,
    end: Arc<AtomicBool>,
}

impl Publisher {
    fn start(rooms: &RoomsLoad, orders: &Orders, shared: &Arc<Shared>) -> Result<Self, String> {
        let router = Service::connect(rooms.router)?;
        let end = Arc::new(AtomicBool::new(false));
        let (shared, until, rooms_said) = (Arc::clone(shared), Arc::clone(&end), orders.rooms.clone());
        let (rate, one_of) = (rooms.load.rate(Work::Rooms), rooms.one_reliable_of);
        let (app, bytes) = (rooms.load.app, rooms.load.bytes(Work::Rooms));
        let thread = std::thread::spawn(move || {
            publish(router, &Words { app, rooms: rooms_said, rate, one_of, bytes }, &shared, &until)
        });
        Ok(Self { thread, end })
    }

    fn end(self) -> Result<Published, String> {
        self.end.store(true, Relaxed);
        self.thread.join().map_err(|_| "the publisher panicked")?
    }
}

/// What is said.
struct Words {
    app: &'static str,
    /// In turn.
    rooms: Vec<String>,
    rate: u64,
    one_of: u64,
    bytes: usize,
}

/// Open loop: a message goes out when it is due, whatever has been answered. Waits for the last answers.
fn publish(
    mut router: Service,
    words: &Words,
    shared: &Shared,
    until: &AtomicBool,
) -> Result<Published, String> {
    pusher::be_on_time();
    let mut published = Published { lateness: histogram(), measured: 0, refused: 0 };
    let (start, mut sent, mut answered) = (shared.now_us(), 0, 0);
    let mut payload = vec![0x6d; words.bytes];
    let rooms = words.rooms.len() as u64;
    let mut in_turn = words.rooms.iter().cycle();
    let mut out = Vec::new();
    let mut ended = None;
    loop {
        if ended.is_none() && until.load(Relaxed) {
            ended = Some(Instant::now());
        }
        while ended.is_none() && start + sent * 1_000_000 / words.rate <= shared.now_us() {
            let intended = start + sent * 1_000_000 / words.rate;
            sent += 1;
            let stamp = if shared.measuring.load(Relaxed) {
                published.measured += 1;
                published.lateness.saturating_record(shared.now_us().saturating_sub(intended).max(1));
                intended.max(1)
            } else {
                0
            };
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
            let message = RoomPublish {
                cookie: sent,
                app: words.app.to_owned(),
                room: in_turn.next().cloned().unwrap_or_default(),
                from: format!("speaker-{}", sent % SPEAKERS),
                r#type: if sent.div_ceil(rooms).is_multiple_of(words.one_of) { RELIABLE } else { DROPPABLE },
                client_id: sent.to_be_bytes().to_vec().into(),
                payload: payload.clone().into(),
                ..RoomPublish::default()
            };
            put_control(&mut out, Verb::RoomPublish, &message);
        }
        router.write(&out)?;
        out.clear();
        for answer in router.came(Verb::SendResult)? {
            let answer = SendResult::decode(answer).map_err(|error| error.to_string())?;
            answered += 1;
            published.refused += u64::from(answer.code() != Code::Ok);
        }
        if ended.is_some_and(|ended| answered >= sent || ended.elapsed() > ANSWERS_WITHIN) {
            published.refused += sent - answered;
            return Ok(published);
        }
        std::thread::sleep(PIECE);
    }
}
