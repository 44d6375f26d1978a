//! `moor-bench hostile`: good sessions send heartbeats while strangers do what strangers do, one kind after the other.
//!
//! Each attack has a rate, so that it is the gateway that is measured and not how much of the machine the attackers
//! take: what they reached is in the report. They come from 127.9.0.0/16, the good ones from 127.1.0.0/16: a gateway for
//! which `limits.exempt` is only the latter knows them apart.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moor_wire::client::{Class, Connect, Kind, put, put_control};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::admin::Stats;
use crate::against::{median, most};
use crate::args::{HostileLoad, Work};
use crate::measure::{once, reached};
use crate::report::{Report, Verdict};
use crate::secure::Secure;

/// Between two looks at how many are due.
const STEP: Duration = Duration::from_millis(5);
/// Attackers' connections that are open at a time; the oldest goes when another comes.
const OPEN_MAX: usize = 2000;
/// Connections that flood.
const FLOODERS: usize = 4;
/// Bytes that a flooder tries to send at once.
const FLOOD_BYTES: usize = 2048;
/// Priority of the attackers' thread: the lowest.
const LAST: i32 = 19;
/// Longest wait until the gateway is rid of the attackers.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// What strangers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attack {
    /// Requests that come a byte a second.
    Slowloris,
    /// TLS handshakes that are begun and left.
    HalfHandshakes,
    /// Requests whose head does not end.
    OversizedHeaders,
    /// Logged-in connections that send nothing but PINGs.
    PingFlood,
    /// Logged-in connections that send the shortest frames there are.
    TinyFrames,
    /// Connections of one address, opened as fast as asked.
    ConnectionFlood,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Slowloris,
        Self::HalfHandshakes,
        Self::OversizedHeaders,
        Self::PingFlood,
        Self::TinyFrames,
        Self::ConnectionFlood,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Slowloris => "slowloris",
            Self::HalfHandshakes => "half_handshakes",
            Self::OversizedHeaders => "oversized_headers",
            Self::PingFlood => "ping_flood",
            Self::TinyFrames => "tiny_frames",
            Self::ConnectionFlood => "connection_flood",
        }
    }
}

/// Runs them.
pub fn run(hostile: &HostileLoad) -> Result<Verdict, String> {
    let load = &hostile.load;
    let gateway = reached(load)?;
    let mut report = Report::default();
    let before = Stats::read(&load.admin)?;
    // A first round fills pools and pages, which is no growth.
    let mut calm = Vec::new();
    for _ in 0..3 {
        let mut round = Report::default();
        eprintln!("calm");
        once(Work::Ping, load, &gateway, None, false, &mut round)?;
        calm.push(round.figure("latency_p99_us").unwrap_or(f64::NAN));
        report.inherit(round, "calm");
    }
    calm.sort_by(f64::total_cmp);
    let calm_p99_us = median(&calm);
    let held = Stats::read(&load.admin)?.resident_bytes();
    let mut tolls: Vec<(Attack, Toll)> =
        hostile.attacks().into_iter().map(|attack| (attack, Toll::default())).collect();
    let mut resident = Vec::new();
    let (after, gone) = loop {
        for (attack, toll) in &mut tolls {
            eprintln!("{}", attack.name());
            let attackers = Attackers::start(*attack, hostile);
            let mut round = Report::default();
            let result = once(Work::Ping, load, &gateway, None, false, &mut round);
            let attacked = attackers.stop();
            result?;
            let (done, refused) = attacked?;
            let p99_us = round.figure("latency_p99_us").unwrap_or(f64::NAN);
            toll.p99_us.push(p99_us);
            toll.done += done;
            toll.refused += refused;
            let ratio = p99_us / calm_p99_us;
            eprintln!("  p99 {p99_us:.0} µs, {ratio:.2} of calm; {done} done, {refused} refused");
            report.inherit(round, attack.name());
        }
        let (after, gone) = wait_until_gone(hostile)?;
        resident.push(after.resident_bytes());
        eprintln!(
            "cycle {} of {}: {} bytes resident",
            resident.len(),
            hostile.cycles,
            after.resident_bytes()
        );
        if !gone || resident.len() >= hostile.cycles as usize {
            break (after, gone);
        }
    };
    tolls.iter_mut().for_each(|(_, toll)| toll.p99_us.sort_by(f64::total_cmp));
    let worst = tolls.iter().map(|(_, toll)| most(&toll.p99_us) / calm_p99_us).fold(0.0, f64::max);
    let attacks: serde_json::Map<_, _> =
        tolls.iter().map(|(attack, toll)| (attack.name().to_owned(), toll.to_json(calm_p99_us))).collect();
    report.number("calm_p99_us", calm_p99_us);
    report.value("calm_p99_us_rounds", json!(calm));
    report.value("attacks", serde_json::Value::Object(attacks));
    report.fine("worst_ratio", worst);
    report.count("left_open", after.number("/gateway/connections_open"));
    report.count("resident_bytes_calm", held);
    report.count("resident_bytes_after", after.resident_bytes());
    if let Some(growth) = growth(&resident) {
        report.value("resident_bytes_by_cycle", json!(resident));
        report.value("growth_bytes", json!(growth));
    }
    let mut counters = serde_json::Map::new();
    for key in [
        "accept_refused",
        "address_refused",
        "tls_paced",
        "frames_limited",
        "login_timeout",
        "upgrades_refused",
        "protocol_errors",
    ] {
        let pointer = format!("/gateway/{key}_total");
        let count = after.number(&pointer) - before.number(&pointer);
        counters.insert(key.to_owned(), json!(count));
    }
    report.value("counters", serde_json::Value::Object(counters));
    if !gone {
        report.shortcoming("connections of attackers are still open".to_owned());
    }
    report.require(&load.require);
    report.finish("hostile", load.json.as_deref())
}

/// What one attack did to the good ones, over all cycles.
#[derive(Debug, Default)]
struct Toll {
    /// Of each round; sorted when all have been.
    p99_us: Vec<f64>,
    done: u64,
    refused: u64,
}

impl Toll {
    /// The middle round's figures, and the highest.
    fn to_json(&self, calm_p99_us: f64) -> serde_json::Value {
        let p99_us = median(&self.p99_us);
        json!({
            "p99_us": p99_us,
            "ratio": p99_us / calm_p99_us,
            "ratio_max": most(&self.p99_us) / calm_p99_us,
            "done": self.done,
            "refused": self.refused,
        })
    }
}

/// By how much the most that was held after any cycle of the second half is above the most of the first half: pools
/// and pages that fill up come to rest, a leak does not. `None`: too few cycles to tell.
fn growth(resident: &[u64]) -> Option<i64> {
    let (first, second) = resident.split_at(resident.len() / 2);
    let most = |half: &[u64]| half.iter().max().and_then(|bytes| i64::try_from(*bytes).ok());
    Some(most(second)? - most(first)?)
}

fn wait_until_gone(hostile: &HostileLoad) -> Result<(Stats, bool), String> {
    let since = Instant::now();
    loop {
        let stats = Stats::read(&hostile.load.admin)?;
        let gone = stats.number("/gateway/connections_open") == 0;
        if gone || since.elapsed() > GONE_WITHIN {
            return Ok((stats, gone));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A thread full of strangers.
struct Attackers {
    ended: Arc<AtomicBool>,
    /// What was done, and how often it was refused.
    thread: JoinHandle<(u64, u64)>,
}

impl Attackers {
    fn start(attack: Attack, hostile: &HostileLoad) -> Self {
        let ended = Arc::default();
        let mut crowd = Crowd {
            target: hostile.load.target,
            attack,
            per_s: hostile.attack_rate(attack),
            open: VecDeque::new(),
            secure: Secure::new(1, false),
            ended: Arc::clone(&ended),
            done: 0,
            refused: 0,
        };
        let thread = std::thread::spawn(move || {
            crowd.run();
            (crowd.done, crowd.refused)
        });
        Self { ended, thread }
    }

    /// What was done, and how often it was refused.
    fn stop(self) -> Result<(u64, u64), String> {
        self.ended.store(true, Relaxed);
        self.thread.join().map_err(|_| "the attackers panicked".to_owned())
    }
}

struct Crowd {
    target: SocketAddr,
    attack: Attack,
    /// Connections or frames a second.
    per_s: u64,
    open: VecDeque<TcpStream>,
    secure: Secure,
    ended: Arc<AtomicBool>,
    done: u64,
    refused: u64,
}

impl Crowd {
    fn run(&mut self) {
        // They would be on machines of their own: here they get what the others leave. (Of a thread, on Linux.)
        if rustix::process::setpriority_process(None, LAST).is_err() {
            eprintln!("the attackers' thread keeps its priority");
        }
        let started = Instant::now();
        let mut due = 0;
        let mut dripped = Instant::now();
        while !self.ended.load(Relaxed) {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let until = self.per_s * elapsed_ms / 1000;
            // What could not be done in time is not made up for.
            let now_due = (until - due).min(self.per_s / 10 + 1);
            due = until;
            match self.attack {
                Attack::PingFlood | Attack::TinyFrames => self.flood(now_due),
                _ => (0..now_due).for_each(|_| self.visit()),
            }
            if self.attack == Attack::Slowloris && dripped.elapsed() > Duration::from_secs(1) {
                dripped = Instant::now();
                let before = self.open.len();
                self.open.retain_mut(|stream| stream.write(b"x").is_ok());
                self.refused += (before - self.open.len()) as u64;
            }
            std::thread::sleep(STEP);
        }
    }

    fn connect(&self, host: u8) -> Option<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        // Who is reset leaves no port behind.
        socket.set_linger(Some(Duration::ZERO)).ok()?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 9, host, 9), 0)).into()).ok()?;
        socket.connect_timeout(&self.target.into(), Duration::from_millis(200)).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket.into())
    }

    /// Comes, says something, and stays until too many others have come.
    fn visit(&mut self) {
        // Everybody comes from somewhere else, except where that is the attack.
        let host = if self.attack == Attack::ConnectionFlood { 0 } else { fastrand::u8(1..) };
        let Some(mut stream) = self.connect(host) else {
            self.refused += 1;
            return;
        };
        let said = match self.attack {
            Attack::Slowloris => stream.write(b"GET / HTTP/1.1\r\nHost: ").map(drop),
            Attack::HalfHandshakes => {
                let hello = self.secure.begin(0, &[]).unwrap_or_default();
                stream.write_all(&hello)
            }
            Attack::OversizedHeaders => {
                let head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 16 * 1024]].concat();
                stream.write(&head).map(drop)
            }
            _ => Ok(()),
        };
        *(if said.is_ok() { &mut self.done } else { &mut self.refused }) += 1;
        self.open.push_back(stream);
        if self.open.len() > OPEN_MAX {
            self.open.pop_front();
        }
    }

    /// Sends so many frames over a few connections; who is closed comes back.
    fn flood(&mut self, frames: u64) {
        while self.open.len() < FLOODERS {
            let Some(mut stream) = self.connect(fastrand::u8(1..)) else { break };
            let mut login = Vec::new();
            let connect = Connect { version: 1, device: "flooder".into(), ..Connect::default() };
            put_control(&mut login, Kind::Connect, 0, &connect);
            if stream.write_all(&login).is_err() {
                break;
            }
            self.open.push_back(stream);
        }
        let mut frame = Vec::new();
        match self.attack {
            Attack::PingFlood => put(&mut frame, Kind::Ping, Class::Command, 0, b"12345678"),
            _ => put(&mut frame, Kind::Pong, Class::Command, 0, &[]),
        }
        let at_once = FLOOD_BYTES / frame.len();
        let piece = frame.repeat(at_once);
        let mut left = frames;
        while left > 0 {
            let Some(mut stream) = self.open.pop_front() else { return };
            let count = left.min(at_once as u64);
            left -= count;
            let length = usize::try_from(count).map_or(piece.len(), |count| count * frame.len());
            // Answers are taken, so that a flooder is no slow reader.
            let mut answers = [0; 16 * 1024];
            let heard = stream.read(&mut answers);
            match (stream.write_all(&piece[..length]), heard) {
                (Ok(()), Ok(1..)) => {}
                (Ok(()), Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
                _ => {
                    self.refused += 1;
                    continue;
                }
            }
            self.done += count;
            self.open.push_back(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::growth;

    #[test]
    fn what_fills_up_is_no_growth_and_what_goes_on_is() {
        assert_eq!(growth(&[30]), None, "one cycle tells nothing");
        assert_eq!(growth(&[30, 37, 38, 38, 37, 38]), Some(0));
        assert_eq!(growth(&[30, 31, 32, 33, 34]), Some(3));
        assert_eq!(growth(&[40, 38]), Some(-2));
    }
}
