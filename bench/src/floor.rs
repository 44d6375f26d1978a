//! The floor: the least work a server can do on the same sockets, as the yardstick of every figure.
//!
//! One thread, one ring, no protocol and no state: it greets each connection with its number, echoes what clients
//! say, writes a frame to the connection named by four bytes, and writes one to all. What a gateway costs above
//! this is the gateway's own.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use clap::Args;
use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{
    Completion, FeatureMask, ListenerId, Recv, Ring, RingConfig, RingError, SendBuffer, Slot, Token,
};
use moor_wire::client::{Kind, Opened, put_control};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;

/// Index in a push that means everybody.
pub const EVERYBODY: u32 = u32::MAX;
/// Longest time for it to end when it is told to.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Longest frame relayed, bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

const CLIENTS: Token = Token::new(0, 0);
const INTERNAL: Token = Token::new(1, 0);
/// Generations: what a token of a connection belongs to.
const CLIENT: u32 = 1;
const SERVICE: u32 = 2;

/// Arguments of `moor-bench floor`.
#[derive(Debug, Args)]
pub struct FloorArguments {
    /// Where clients connect.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where pushes come from: index u32, length u32, frame; index 4294967295 is everybody.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub internal: SocketAddr,
    /// The processor to stay on.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Connections at most.
    #[arg(long, default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
}

/// Serves until its time is over; or, once told to end by SIGTERM, until all clients have gone.
pub fn serve(arguments: &FloorArguments) -> Result<(), String> {
    if let Some(cpu) = arguments.cpu {
        moor_ring::thread::pin_current(cpu).map_err(|e| format!("cannot stay on processor {cpu} ({e})"))?;
    }
    let open = |address: SocketAddr| -> Result<(TcpListener, SocketAddr), String> {
        let failed = |error: std::io::Error| format!("cannot listen at {address} ({error})");
        let listener = listen(address, &ListenOptions::default()).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((listener, address))
    };
    let (clients, clients_at) = open(arguments.listen)?;
    let (internal, internal_at) = open(arguments.internal)?;
    let mut floor = Floor::new(clients, internal, arguments.connections).map_err(|e| e.to_string())?;
    let told_to_end = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&told_to_end)).map_err(|e| e.to_string())?;
    let addresses = json!({ "clients": clients_at.to_string(), "internal": internal_at.to_string() });
    println!("{}", json!({ "listening": addresses }));
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(arguments.seconds) {
        if told_to_end.load(Relaxed) && !floor.clients.contains(&true) {
            break;
        }
        floor.turn().map_err(|e| e.to_string())?;
    }
    Ok(())
}

struct Floor {
    ring: Ring,
    /// True where a client is.
    clients: Vec<bool>,
    /// True where a send is in flight; a ring has one per slot.
    sending: Vec<bool>,
    /// What came while a send was waited for.
    later: VecDeque<Completion>,
    /// What a service has begun to say.
    begun: Vec<u8>,
    pool: Vec<Vec<u8>>,
}

impl Floor {
    fn new(clients: TcpListener, internal: TcpListener, connections: u32) -> Result<Self, RingError> {
        let mut ring = Ring::new(&RingConfig {
            submission_entries: 1024,
            completion_entries: 16_384,
            direct_slots: connections + 16,
            recv_buffers: 1024,
            recv_buffer_bytes: 4096,
            features: FeatureMask::NONE,
        })?;
        let listeners: [(ListenerId, Token); 2] =
            [(ring.add_listener(clients), CLIENTS), (ring.add_listener(internal), INTERNAL)];
        for (listener, token) in listeners {
            ring.accept_multishot(listener, token);
        }
        Ok(Self {
            ring,
            clients: vec![false; connections as usize + 16],
            sending: vec![false; connections as usize + 16],
            later: VecDeque::new(),
            begun: Vec::new(),
            pool: Vec::new(),
        })
    }

    fn turn(&mut self) -> Result<(), RingError> {
        self.ring.submit_and_wait(u32::from(self.later.is_empty()), Some(Duration::from_secs(1)))?;
        while let Some(completion) = self.later.pop_front().or_else(|| self.ring.pop()) {
            match completion {
                Completion::Accepted { token, result: Ok(slot), .. } => self.handle_accepted(token, slot),
                Completion::Received { token, result, more } => {
                    let slot = Slot(token.index());
                    let alive = match result {
                        Ok(Recv::Data(bytes)) => {
                            self.handle_bytes(slot, token.generation(), &bytes)?;
                            self.ring.recycle(bytes);
                            true
                        }
                        Err(error) => error == moor_ring::Errno::NOBUFS,
                        Ok(Recv::Eof) => false,
                    };
                    match (alive, more) {
                        (true, false) => self.ring.recv_multishot(slot, token),
                        (false, false) => self.ring.close(slot, token),
                        _ => {}
                    }
                    self.clients[slot.0 as usize] &= alive;
                }
                Completion::Sent { token, buffer, .. } => self.handle_sent(token, buffer),
                _ => {}
            }
        }
        Ok(())
    }

    fn handle_accepted(&mut self, token: Token, slot: Slot) {
        let kind = if token == CLIENTS { CLIENT } else { SERVICE };
        let token = Token::new(slot.0, kind);
        if kind == CLIENT {
            self.clients[slot.0 as usize] = true;
            let mut greeting = self.buffer();
            put_control(&mut greeting, Kind::Opened, 1, &Opened { session: u64::from(slot.0) });
            self.sending[slot.0 as usize] = true;
            self.ring.send(slot, token, SendBuffer::Owned(greeting), 0);
        }
        self.ring.recv_multishot(slot, token);
    }

    fn handle_sent(&mut self, token: Token, buffer: SendBuffer) {
        self.sending[token.index() as usize] = false;
        if let SendBuffer::Owned(buffer) = buffer {
            self.pool.push(buffer);
        }
    }

    fn handle_bytes(&mut self, slot: Slot, kind: u32, bytes: &[u8]) -> Result<(), RingError> {
        if kind == CLIENT {
            return self.write(slot, bytes);
        }
        let mut begun = std::mem::take(&mut self.begun);
        begun.extend_from_slice(bytes);
        let mut rest = &begun[..];
        while let Some((index, frame, tail)) = cut(rest) {
            if index == EVERYBODY {
                self.write_all(frame)?;
            } else if self.clients.get(index as usize).is_some_and(|there| *there) {
                self.write(Slot(index), frame)?;
            }
            rest = tail;
        }
        let left = rest.len();
        begun.drain(..begun.len() - left);
        self.begun = begun;
        Ok(())
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.pool.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), RingError> {
        let mut buffer = self.buffer();
        buffer.extend_from_slice(bytes);
        self.send(slot, SendBuffer::Owned(buffer))
    }

    /// Every message is a write of its own: one that is under way is waited for, not joined. A reader that takes
    /// nothing for a second misses the message.
    fn send(&mut self, slot: Slot, buffer: SendBuffer) -> Result<(), RingError> {
        let began = Instant::now();
        while self.sending[slot.0 as usize] && began.elapsed() < Duration::from_secs(1) {
            self.ring.submit_and_wait(1, Some(Duration::from_millis(100)))?;
            while let Some(completion) = self.ring.pop() {
                match completion {
                    Completion::Sent { token, buffer, .. } => self.handle_sent(token, buffer),
                    other => self.later.push_back(other),
                }
            }
        }
        if !std::mem::replace(&mut self.sending[slot.0 as usize], true) {
            self.ring.send(slot, Token::new(slot.0, CLIENT), buffer, 0);
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), RingError> {
        let shared: Rc<[u8]> = bytes.into();
        for slot in 0..self.clients.len() {
            if self.clients[slot] {
                let slot = Slot(u32::try_from(slot).unwrap_or(EVERYBODY));
                self.send(slot, SendBuffer::Shared(shared.clone()))?;
            }
        }
        Ok(())
    }
}

/// A push at the front: index, frame and what follows.
fn cut(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (index, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = (u32::from_be_bytes(*length) as usize).min(FRAME_BYTES_MAX);
    let (frame, rest) = rest.split_at_checked(length)?;
    Some((u32::from_be_bytes(*index), frame, rest))
}

/// Appends a push.
pub fn put_push(out: &mut Vec<u8>, index: u32, frame: &[u8]) {
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(frame);
}

/// A floor in a process of its own; ends when dropped.
pub struct Process {
    child: Child,
    addresses: Value,
}

impl Process {
    /// Starts one on a processor.
    pub fn start(connections: u32, cpu: usize) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the floor cannot be started ({error})");
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut child = Command::new(program)
            .args(["floor", "--connections", &connections.to_string(), "--cpu", &cpu.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(&e))?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or_else(|| failed(&"no output"))?;
        BufReader::new(stdout).read_line(&mut line).map_err(|e| failed(&e))?;
        let addresses = serde_json::from_str(&line).map_err(|e| failed(&e))?;
        Ok(Self { child, addresses })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens: `clients` or `internal`.
    pub fn address(&self, name: &str) -> Result<SocketAddr, String> {
        let text = self.addresses["listening"][name].as_str().unwrap_or_default();
        text.parse().map_err(|_| format!("the floor did not say where {name} connect"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed among thousands of armed receives it would leave the kernel to end them, for seconds of the processor that
        // the next server is measured on.
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap_or_default();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < ENDS_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Both may have happened already; there is nobody left to tell.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_cut_where_they_end() {
        let mut out = Vec::new();
        put_push(&mut out, 7, b"seven");
        put_push(&mut out, EVERYBODY, b"all");
        let (index, frame, rest) = cut(&out).unwrap();
        assert_eq!((index, frame), (7, &b"seven"[..]));
        assert_eq!(cut(rest), Some((EVERYBODY, &b"all"[..], &b""[..])));
        for short in 0..4 + 4 + 5 {
            assert_eq!(cut(&out[..short]), None);
        }
    }

    #[test]
    fn it_greets_echoes_and_pushes() {
        use std::io::Read;
        use std::net::TcpStream;
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let open = || listen(any, &ListenOptions::default()).unwrap();
        let (clients, internal) = (open(), open());
        let (to_clients, to_internal) = (clients.local_addr().unwrap(), internal.local_addr().unwrap());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let server = std::thread::spawn(move || {
            let mut floor = Floor::new(clients, internal, 10).unwrap();
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                floor.turn().unwrap();
            }
        });
        let mut greeting = Vec::new();
        put_control(&mut greeting, Kind::Opened, 1, &Opened { session: 0 });
        let mut people: Vec<(TcpStream, u32)> = (0..2)
            .map(|_| {
                let mut stream = TcpStream::connect(to_clients).unwrap();
                let mut bytes = vec![0; 64];
                let length = stream.read(&mut bytes).unwrap();
                let (_, body) = bytes[..length].split_at(moor_wire::frame::HEADER_BYTES);
                let slot = <Opened as prost::Message>::decode(body).unwrap().session;
                (stream, u32::try_from(slot).unwrap())
            })
            .collect();
        let mut service = TcpStream::connect(to_internal).unwrap();
        let mut out = Vec::new();
        put_push(&mut out, people[1].1, b"two");
        put_push(&mut out, EVERYBODY, b"all");
        service.write_all(&out).unwrap();
        people[0].0.write_all(b"echo").unwrap();
        let mut two = [0; 6];
        people[1].0.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"twoall");
        let mut one = [0; 7];
        people[0].0.read_exact(&mut one).unwrap();
        assert!(&one == b"allecho" || &one == b"echoall");
        drop(stop);
        drop((people, service));
        server.join().unwrap();
    }
}
