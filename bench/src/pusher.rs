//! The backend service that pushes: one connection per gateway worker, one to any other server; one thread for all of
//! them, open loop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use moor_wire::internal::{Hello, Role, Verb, Welcome, frame_reader, put_control};
use moor_wire::limits::INTERNAL_VERSION;
use moor_wire::session::SessionHandle;
use prost::Message;
use rustix::net::RecvFlags;

use crate::dialect::{Dialect, Meaning};
use crate::shared::{Shared, histogram};

/// Longest time for the server to answer a hello, or to take what is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two pieces of pushes: how late one may be by design.
const PIECE: Duration = Duration::from_micros(200);
/// Longest pause of one that has little to push.
const PIECE_MAX: Duration = Duration::from_millis(5);
/// Sessions touched between two looks at the clock.
const TOUCHES_AT_ONCE: usize = 256;

/// How fast, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Deliveries per second.
    pub rate: u64,
    /// Pushes that go out at once.
    pub burst: u64,
    /// Ends after so many bursts, if the run does not end before.
    pub groups: u64,
}

/// Whom the pushes are for.
#[derive(Debug)]
enum Aim {
    /// One of these at random.
    Sessions(Vec<u64>),
    /// Everybody, so many at a time.
    Everybody(u64),
}

/// A greeted connection, and what the next write on it holds.
struct Line {
    stream: TcpStream,
    out: Vec<u8>,
}

impl Line {
    const fn new(stream: TcpStream) -> Self {
        Self { stream, out: Vec::new() }
    }

    fn flush(&mut self) -> Result<(), String> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).map_err(|error| gone(&error))?;
            self.out.clear();
        }
        Ok(())
    }

    /// Only misses are answered; they are not waited for.
    fn drain(&self, answers: &mut [u8]) -> Result<(), String> {
        match rustix::net::recv(&self.stream, answers, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(gone(&"the server hung up")),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(gone(&error)),
        }
    }
}

fn gone(error: &dyn std::fmt::Display) -> String {
    format!("the internal connection broke ({error})")
}

/// Pushes through its lines: to a session through that of its worker, to everybody through the first.
pub struct Pusher {
    lines: Vec<Line>,
    dialect: Dialect,
    aim: Aim,
    is_on_time: bool,
}

/// The pusher to random sessions of these.
pub fn to_sessions(dialect: Dialect, internal: SocketAddr, sessions: Vec<u64>) -> Result<Pusher, String> {
    let lines = match dialect {
        Dialect::Moor { .. } => {
            let (_, welcome) = greet(internal, None)?;
            (0..welcome.workers).map(|worker| to_worker(internal, worker)).collect::<Result<_, _>>()?
        }
        _ => vec![to_other(dialect, internal)?],
    };
    Ok(Pusher { lines, dialect, aim: Aim::Sessions(sessions), is_on_time: false })
}

/// The pusher to everybody.
pub fn to_everybody(dialect: Dialect, internal: SocketAddr, sessions: u64) -> Result<Pusher, String> {
    let line = match dialect {
        Dialect::Moor { .. } => Line::new(greet(internal, None)?.0),
        _ => to_other(dialect, internal)?,
    };
    Ok(Pusher { lines: vec![line], dialect, aim: Aim::Everybody(sessions), is_on_time: false })
}

fn to_worker(internal: SocketAddr, worker: u32) -> Result<Line, String> {
    let (stream, welcome) = greet(internal, Some(worker))?;
    if welcome.worker != worker {
        return Err(format!("the gateway answered for worker {} instead of {worker}", welcome.worker));
    }
    Ok(Line::new(stream))
}

/// A server that is no gateway.
fn to_other(dialect: Dialect, address: SocketAddr) -> Result<Line, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the server does not answer a service ({error})");
    let mut stream = TcpStream::connect(address).map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed(&e))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|e| failed(&e))?;
    let Some(hello) = dialect.hello() else { return Ok(Line::new(stream)) };
    stream.write_all(&hello).map_err(|e| failed(&e))?;
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let mut rest = &said[..];
        while let Some((meaning, tail)) = dialect.try_cut(0, rest).map_err(|_| failed(&"not understood"))? {
            match meaning {
                Meaning::LoggedIn(_) => return Ok(Line::new(stream)),
                Meaning::Refused(reason) => return Err(failed(&reason)),
                _ => rest = tail,
            }
        }
        let understood = said.len() - rest.len();
        said.drain(..understood);
        match stream.read(&mut buffer).map_err(|e| failed(&e))? {
            0 => return Err(failed(&"it hung up")),
            length => said.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Says HELLO at an internal port, of a gateway (whose worker may be named) or of a router.
pub fn greet(internal: SocketAddr, worker: Option<u32>) -> Result<(TcpStream, Welcome), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("the internal port {internal} does not answer ({error})");
    let mut stream = TcpStream::connect(internal).map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed(&e))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|e| failed(&e))?;
    let token = std::env::var("MOOR_INTERNAL_TOKEN").unwrap_or_default();
    let hello = Hello {
        version: INTERNAL_VERSION,
        role: Role::Service as i32,
        node: "moor-bench".to_owned(),
        worker,
        token: token.into_bytes().into(),
        ..Hello::default()
    };
    let mut out = Vec::new();
    put_control(&mut out, Verb::Hello, &hello);
    stream.write_all(&out).map_err(|e| failed(&e))?;
    let mut reader = frame_reader();
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = reader.try_next().map_err(|e| failed(&e))? {
            if frame.header.kind != Verb::Welcome.byte() {
                return Err(failed(&"it refuses HELLO; is MOOR_INTERNAL_TOKEN set as at the gateway?"));
            }
            return Ok((stream, Welcome::decode(frame.body).map_err(|e| failed(&e))?));
        }
        let length = stream.read(&mut buffer).map_err(|e| failed(&e))?;
        if length == 0 {
            return Err(failed(&"it hung up"));
        }
        reader.push(&buffer[..length]);
    }
}

/// The calling thread stands for a service or a client on a host of its own: it does not wait for the processors of this one.
pub fn be_on_time() {
    if let Err(error) = moor_ring::thread::real_time_current() {
        eprintln!(
            "threads of the harness that are to be on time wait for a processor like everybody else ({error})"
        );
    }
}

impl Pusher {
    /// It pushes when it is time, whoever else wants the processor: for a few pushes beside a load.
    pub fn on_time(self) -> Self {
        Self { is_on_time: true, ..self }
    }

    /// Deliveries of one push.
    const fn reach(&self) -> u64 {
        match &self.aim {
            Aim::Sessions(_) => 1,
            Aim::Everybody(sessions) => *sessions,
        }
    }

    /// One push to each of its sessions.
    pub fn touch(mut self, bytes: usize, shared: &Shared) -> Result<(), String> {
        let Aim::Sessions(sessions) = std::mem::replace(&mut self.aim, Aim::Everybody(0)) else {
            return Ok(());
        };
        let mut body = vec![0x6d; bytes];
        // A bounded piece at a time, so that the last does not carry the time of the first.
        for piece in sessions.chunks(TOUCHES_AT_ONCE) {
            body[..8].copy_from_slice(&shared.now_us().max(1).to_be_bytes());
            for session in piece {
                self.put(Some(*session), 1, &body);
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Pushes until the run ends or its bursts are said. Returns how late they went out while measuring,
    /// microseconds.
    pub fn run(mut self, pace: Pace, bytes: usize, shared: &Arc<Shared>) -> Result<Histogram<u64>, String> {
        if self.is_on_time {
            be_on_time();
        }
        let Pace { rate, burst, groups: groups_max } = pace;
        let mut lateness = histogram();
        if self.reach() == 0 || matches!(&self.aim, Aim::Sessions(sessions) if sessions.is_empty()) {
            return Ok(lateness);
        }
        let mut body = vec![0x6d; bytes];
        let mut rng = fastrand::Rng::new();
        let group_ns = self.reach() * burst * 1_000_000_000 / rate;
        let (start, mut groups) = (shared.now_us(), 0);
        let (mut answers, mut turn) = (vec![0; 64 * 1024], 0);
        while groups < groups_max && !shared.ended.load(Relaxed) {
            let now = shared.now_us();
            // A bounded piece at a time, so that one write never blocks for long.
            let mut written = 0;
            while groups < groups_max && start + groups * group_ns / 1000 <= now && written < 256 * 1024 {
                let intended = start + groups * group_ns / 1000;
                groups += 1;
                // A push outside the measured time carries no time: its arrival does not count.
                let stamp = if shared.measuring.load(Relaxed) {
                    shared.pushed.fetch_add(burst * self.reach(), Relaxed);
                    lateness.saturating_record(now.saturating_sub(intended).max(1));
                    intended.max(1)
                } else {
                    0
                };
                body[..8].copy_from_slice(&stamp.to_be_bytes());
                for _ in 0..burst {
                    let session = match &self.aim {
                        Aim::Sessions(sessions) => rng.choice(sessions).copied(),
                        Aim::Everybody(_) => None,
                    };
                    self.put(session, groups, &body);
                    written += body.len();
                }
            }
            self.flush()?;
            // One line a piece: every hundredth of a second for fifty workers.
            turn += 1;
            self.lines[turn % self.lines.len()].drain(&mut answers)?;
            // Few pushes are waited for one by one: a thread that looks five thousand times a second for five hundred takes
            // time from whom it measures.
            let next = start + groups * group_ns / 1000;
            let pause = Duration::from_micros(next.saturating_sub(shared.now_us()));
            std::thread::sleep(pause.clamp(PIECE, PIECE_MAX));
        }
        Ok(lateness)
    }

    fn flush(&mut self) -> Result<(), String> {
        self.lines.iter_mut().try_for_each(Line::flush)
    }

    fn put(&mut self, session: Option<u64>, cookie: u64, body: &[u8]) {
        let worker = match (self.dialect, session) {
            (Dialect::Moor { .. }, Some(session)) => SessionHandle(session).worker() as usize,
            _ => 0,
        };
        let Some(Line { out, .. }) = self.lines.get_mut(worker) else { return };
        self.dialect.put_push(out, session, cookie, body);
    }
}
