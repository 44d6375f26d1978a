//! Pushes through the gateway's internal port at a pace, open loop.
//!
//! One thread, one connection to each worker that has sessions, so that every push lands on the core that owns
//! its session. Pushes that are due are made together and written at once; a worker that does not read stops
//! the making (bounded memory), and the time of that is the gateway's, not counted as the harness's lag.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moor_wire::client::{Class, Delivery};
use moor_wire::frame::FrameReader;
use moor_wire::internal::{
    Failure, Hello, NotHere, Push, Role, Verb, Welcome, frame_reader, put_control, put_empty,
};
use moor_wire::limits::INTERNAL_VERSION;
use moor_wire::session::SessionHandle;
use prost::Message;
use rustix::net::RecvFlags;

use crate::clock::{Clock, Nanos};
use crate::error::BenchError;
use crate::limits::{
    DRAIN_MS_MAX, PUSH_BATCH_MAX, PUSH_KEEPALIVE_MS, PUSH_QUANTUM_US, PUSH_QUEUE_BYTES_MAX, STAMP_BYTES,
};
use crate::pace::Pace;
use crate::stamp::PushStamp;
use crate::tally::Latency;

/// Time for a worker's WELCOME.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Numbers for everybody to read while it runs.
#[derive(Debug, Default)]
pub struct PushBoard {
    /// Pushes made.
    pub sent: AtomicU64,
    /// Pushes for which the gateway has no session.
    pub not_here: AtomicU64,
    /// Set by the coordinator: nothing is expected any more.
    pub stop: AtomicBool,
}

/// What the pusher brings home.
#[derive(Debug)]
pub struct PushReport {
    /// Pushes made.
    pub sent: u64,
    /// Pushes that were due and never made.
    pub unsent: u64,
    /// Pushes for which the gateway has no session.
    pub not_here: u64,
    /// How late pushes were made through the pusher's own fault.
    pub lag: Latency,
    /// Times the gateway did not read for so long that no more pushes were made.
    pub stalls: u64,
    /// Why a connection ended, if one did.
    pub broken: Option<String>,
}

/// A connection to one worker.
struct Link {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    reader: FrameReader,
}

struct Target {
    ordinal: u32,
    session: SessionHandle,
    link: usize,
    sequence: u32,
}

/// The pusher, connected.
pub struct Pusher {
    links: Vec<Link>,
    targets: Vec<Target>,
    body: Vec<u8>,
    random: fastrand::Rng,
    clock: Clock,
    board: Arc<PushBoard>,
    report: PushReport,
    stalled: bool,
    stall_end: Nanos,
}

impl Pusher {
    /// Connects to every worker that has one of the sessions.
    ///
    /// # Errors
    /// When the internal port does not take us in.
    pub fn connect(
        address: SocketAddr,
        token: &[u8],
        sessions: &[(u32, SessionHandle)],
        payload_bytes: usize,
        seed: u64,
        clock: Clock,
    ) -> Result<Pusher, BenchError> {
        let mut by_worker = BTreeMap::new();
        let mut links = Vec::new();
        let mut targets = Vec::with_capacity(sessions.len());
        for &(ordinal, session) in sessions {
            let worker = session.worker();
            let link = match by_worker.get(&worker) {
                Some(&link) => link,
                None => {
                    let link = Link::connect(address, worker, token)
                        .map_err(|error| BenchError::Internal { address, reason: error.to_string() })?;
                    links.push(link);
                    *by_worker.entry(worker).or_insert(links.len() - 1)
                }
            };
            targets.push(Target { ordinal, session, link, sequence: 0 });
        }
        // Protobuf writes fields in order and the payload is the last: its end is the body's end.
        let payload = vec![0x6d; payload_bytes.max(STAMP_BYTES)];
        let body = Delivery { payload, ..Delivery::default() }.encode_to_vec();
        let report =
            PushReport { sent: 0, unsent: 0, not_here: 0, lag: Latency::new(), stalls: 0, broken: None };
        Ok(Pusher {
            links,
            targets,
            body,
            random: fastrand::Rng::with_seed(seed),
            clock,
            board: Arc::default(),
            report,
            stalled: false,
            stall_end: Nanos(0),
        })
    }

    /// Where its numbers are.
    pub fn board(&self) -> Arc<PushBoard> {
        Arc::clone(&self.board)
    }

    /// Pushes until the pace ends, then listens until told to stop; in any case not past `deadline`.
    pub fn run(mut self, mut pace: Pace, deadline: Nanos) -> PushReport {
        let mut keepalive = self.clock.now().plus_ms(PUSH_KEEPALIVE_MS);
        let deadline = deadline.plus_ms(2 * DRAIN_MS_MAX);
        loop {
            let now = self.clock.now();
            self.push_due(&mut pace, now);
            if now >= keepalive {
                keepalive = now.plus_ms(PUSH_KEEPALIVE_MS);
                self.links.iter_mut().for_each(|link| put_empty(&mut link.out, Verb::Ping));
            }
            if let Err(error) = self.exchange() {
                self.report.broken = Some(error.to_string());
                break;
            }
            self.board.sent.store(self.report.sent, Ordering::Release);
            self.board.not_here.store(self.report.not_here, Ordering::Release);
            if self.board.stop.load(Ordering::Acquire) || now >= deadline {
                break;
            }
            let rest = Duration::from_micros(PUSH_QUANTUM_US);
            let next = pace.next().map_or(rest, |next| self.clock.now().until(next));
            std::thread::sleep(next.clamp(rest, 10 * rest));
        }
        self.report.unsent = pace.left();
        self.report
    }

    fn push_due(&mut self, pace: &mut Pace, now: Nanos) {
        let full = self.links.iter().any(|link| link.waiting() > PUSH_QUEUE_BYTES_MAX);
        if full && !self.stalled {
            self.report.stalls += 1;
        }
        self.stalled = full;
        if full {
            self.stall_end = now;
            return;
        }
        for _ in 0..PUSH_BATCH_MAX {
            let Some(intended) = pace.take(now) else { return };
            let number = self.random.usize(0..self.targets.len());
            let target = &mut self.targets[number];
            PushStamp { intended, sequence: target.sequence, ordinal: target.ordinal }.write(&mut self.body);
            target.sequence += 1;
            let push = Push::data(self.report.sent, target.session, Class::Normal, &self.body);
            push.put(&mut self.links[target.link].out, false);
            self.report.sent += 1;
            self.report.lag.record(now.us_since(intended.max(self.stall_end)));
        }
    }

    fn exchange(&mut self) -> io::Result<()> {
        for link in &mut self.links {
            link.write()?;
            self.report.not_here += link.read()?;
        }
        Ok(())
    }
}

impl Link {
    fn connect(address: SocketAddr, worker: u32, token: &[u8]) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&address, WELCOME_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WELCOME_TIMEOUT))?;
        let hello = Hello {
            version: INTERNAL_VERSION,
            role: Role::Service.into(),
            node: "moor-bench".to_owned(),
            worker: Some(worker),
            token: token.to_vec(),
            ..Hello::default()
        };
        let mut link = Link { stream, out: Vec::new(), written: 0, reader: frame_reader() };
        put_control(&mut link.out, Verb::Hello, &hello);
        link.write()?;
        let welcome = link.welcome()?;
        if welcome.worker != worker {
            return Err(io::Error::other(format!("asked for worker {worker} and reached {}", welcome.worker)));
        }
        link.stream.set_nonblocking(true)?;
        Ok(link)
    }

    fn welcome(&mut self) -> io::Result<Welcome> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.reader.try_next().map_err(io::Error::other)? {
                return match Verb::from_byte(frame.header.kind) {
                    Some(Verb::Welcome) => Welcome::decode(frame.body).map_err(io::Error::other),
                    Some(Verb::Failure) => Err(failure(&frame.body)),
                    _ => Err(io::Error::other("the answer to HELLO is not WELCOME")),
                };
            }
            match self.stream.read(&mut bytes)? {
                0 => return Err(io::Error::other("closed without an answer to HELLO")),
                length => self.reader.push(&bytes[..length]),
            }
        }
    }

    const fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the kernel takes.
    fn write(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Moved only when most of it is written: each byte moves a bounded number of times.
        if self.written > self.out.len() / 2 {
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Reads what is there; returns how many pushes missed.
    fn read(&mut self) -> io::Result<u64> {
        let mut missed = 0;
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::Error::other("the gateway closed the internal connection")),
                Ok(length) => self.reader.push(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(missed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(frame) = self.reader.try_next().map_err(io::Error::other)? {
                match Verb::from_byte(frame.header.kind) {
                    Some(Verb::NotHere) => {
                        missed += NotHere::parse(&frame.body).map_err(io::Error::other)?.count() as u64;
                    }
                    Some(Verb::Failure) => return Err(failure(&frame.body)),
                    Some(Verb::Ping) => put_empty(&mut self.out, Verb::Pong),
                    _ => {}
                }
            }
        }
    }
}

fn failure(body: &[u8]) -> io::Error {
    let failure = Failure::decode(body).unwrap_or_default();
    io::Error::other(format!("the gateway says {:?}: {}", failure.code(), failure.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_at_the_end_of_the_body_is_the_end_of_the_payload() {
        for bytes in [STAMP_BYTES, 127, 128, 60_000] {
            let mut body = Delivery { payload: vec![1; bytes], ..Delivery::default() }.encode_to_vec();
            let stamp = PushStamp { intended: Nanos(5), sequence: 6, ordinal: 7 };
            stamp.write(&mut body);
            let delivery = Delivery::decode(body.as_slice()).unwrap();
            assert_eq!((delivery.payload.len(), delivery.sync_id), (bytes, 0));
            assert_eq!(PushStamp::read(&delivery.payload), Some(stamp));
        }
    }
}
