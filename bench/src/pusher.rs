//! Backend services that push: one connection per gateway worker, open loop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use moor_wire::client::Class;
use moor_wire::internal::{Hello, Push, Role, Verb, Welcome, frame_reader, put_control};
use moor_wire::limits::INTERNAL_VERSION;
use moor_wire::session::SessionHandle;
use prost::Message;
use rustix::net::RecvFlags;

use crate::shared::{Shared, histogram};

/// Longest time for the gateway to answer HELLO.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two pieces of pushes: how late one may be by design.
const PIECE: Duration = Duration::from_micros(200);

/// A greeted connection to one worker.
pub struct Pusher {
    stream: TcpStream,
    sessions: Vec<u64>,
}

/// Connects to every worker of the gateway.
pub fn connect_all(internal: SocketAddr, sessions: &[u64]) -> Result<Vec<Pusher>, String> {
    let (_, welcome) = greet(internal, None)?;
    (0..welcome.workers)
        .map(|worker| {
            let (stream, welcome) = greet(internal, Some(worker))?;
            if welcome.worker != worker {
                return Err(format!(
                    "the gateway answered for worker {} instead of {worker}",
                    welcome.worker
                ));
            }
            let own = |session: &&u64| SessionHandle(**session).worker() == worker;
            Ok(Pusher { stream, sessions: sessions.iter().filter(own).copied().collect() })
        })
        .collect()
}

fn greet(internal: SocketAddr, worker: Option<u32>) -> Result<(TcpStream, Welcome), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("the internal port {internal} does not answer ({error})");
    let mut stream = TcpStream::connect(internal).map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed(&e))?;
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

impl Pusher {
    /// Sessions of its worker.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Pushes `rate` per second to random sessions until the run ends. Returns how late its pushes went out while
    /// measuring, microseconds.
    pub fn run(mut self, rate: u64, bytes: usize, shared: &Arc<Shared>) -> Result<Histogram<u64>, String> {
        let gone = |error: &dyn std::fmt::Display| format!("the internal connection broke ({error})");
        let mut lateness = histogram();
        let mut body = vec![0x6d; bytes];
        let mut out = Vec::new();
        let mut rng = fastrand::Rng::new();
        let (start, mut pushed) = (shared.now_us(), 0);
        let mut answers = [0; 16 * 1024];
        while !shared.ended.load(Relaxed) && !self.sessions.is_empty() {
            let now = shared.now_us();
            let due = (now - start) * rate / 1_000_000;
            // A bounded piece at a time, so that one write never blocks for long.
            while pushed < due && out.len() < 256 * 1024 {
                let intended = start + pushed * 1_000_000 / rate;
                pushed += 1;
                // A push outside the measured time carries no time: its arrival does not count.
                let stamp = if shared.measuring.load(Relaxed) {
                    shared.pushed.fetch_add(1, Relaxed);
                    lateness.saturating_record(now.saturating_sub(intended).max(1));
                    intended
                } else {
                    0
                };
                body[..8].copy_from_slice(&stamp.to_be_bytes());
                let session = SessionHandle(self.sessions[rng.usize(0..self.sessions.len())]);
                Push::data(pushed, session, Class::Reliable, &body).put(&mut out, false);
            }
            self.stream.write_all(&out).map_err(|e| gone(&e))?;
            out.clear();
            // Only misses are answered; they are not waited for.
            match rustix::net::recv(&self.stream, &mut answers[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(gone(&"the gateway hung up")),
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(gone(&error)),
            }
            std::thread::sleep(PIECE);
        }
        Ok(lateness)
    }
}
