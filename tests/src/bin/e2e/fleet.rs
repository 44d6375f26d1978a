//! Thousands of real client sessions on one thread: the embeddable core, non-blocking sockets, epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use moor_client::{Event, Options, Session};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::tally::Tally;

/// Between two looks at every session's timers.
const TICK: Duration = Duration::from_millis(50);
/// Connections being made at a time, so that the backlog is not the bottleneck.
const DIALLING_MAX: usize = 200;

/// What one thread does.
pub struct Plan {
    /// Its clients' numbers.
    pub clients: Range<u32>,
    /// The numbers of the messages it sends.
    pub messages: Range<u32>,
    /// Accounts in all: client `i` has accounts `2 i` and `2 i + 1`.
    pub accounts: u32,
    /// Messages per second.
    pub rate: u32,
    /// Gateways; a client goes to the next one whenever it loses its connection.
    pub addresses: Vec<SocketAddr>,
}

struct Peer {
    session: Session,
    stream: Option<TcpStream>,
    connecting: bool,
    unsent: Vec<u8>,
    next_address: usize,
    open: i64,
}

impl Plan {
    /// The number of the account that the peer at `index` has on a channel.
    fn account(&self, index: usize, channel: u16) -> u32 {
        (self.clients.start + u32::try_from(index).unwrap_or(u32::MAX)) * 2 + u32::from(channel) - 1
    }
}

/// The sessions of one thread.
pub struct Fleet {
    plan: Plan,
    tally: Arc<Tally>,
    peers: Vec<Peer>,
    epoll: OwnedFd,
    started: Instant,
    dialling: usize,
}

fn account(number: u32) -> String {
    format!("account-{number:06}")
}

impl Fleet {
    /// Sessions that want to be connected.
    pub fn new(plan: Plan, tally: Arc<Tally>) -> Result<Self> {
        let peers = plan.clients.clone().map(|client| {
            let mut session = Session::new(Options::new(format!("device-{client}")), u64::from(client));
            for channel in 1..=2u16 {
                let name = account(client * 2 + u32::from(channel) - 1);
                session.open(channel, "shop", &name, Default::default(), Some(0));
            }
            Peer {
                session,
                stream: None,
                connecting: false,
                unsent: Vec::new(),
                next_address: client as usize,
                open: 0,
            }
        });
        let peers = peers.collect();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { plan, tally, peers, epoll, started: Instant::now(), dialling: 0 })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Drives them until the tally says that it is over.
    pub fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(1024);
        let mut rng = fastrand::Rng::with_seed(u64::from(self.plan.clients.start));
        let mut next_message = self.plan.messages.start;
        let mut begun: Option<Instant> = None;
        let mut ticked = Instant::now();
        while !self.tally.has_ended() {
            events.clear();
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                self.handle_ready(index)?;
            }
            if self.tally.has_begun() {
                let elapsed = begun.get_or_insert_with(Instant::now).elapsed();
                let due = u64::from(self.plan.rate) * u64::try_from(elapsed.as_millis())? / 1000;
                while next_message < self.plan.messages.end
                    && u64::from(next_message - self.plan.messages.start) < due
                {
                    self.send(next_message, &mut rng)?;
                    next_message += 1;
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                for index in 0..self.peers.len() {
                    self.tick(index)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, message: u32, rng: &mut fastrand::Rng) -> Result<()> {
        let now = self.now();
        let to = rng.u32(0..self.plan.accounts);
        let id = message.to_be_bytes();
        // Whoever gets it sees whether it is theirs.
        let payload = [id, to.to_be_bytes()].concat();
        // A session whose channel is full of unanswered submits passes its turn to another.
        loop {
            let index = rng.usize(0..self.peers.len());
            let channel = rng.u16(1..=2);
            if self.peers[index]
                .session
                .submit(channel, id.to_vec().into(), &account(to), payload.clone().into(), now)
                .is_ok()
            {
                self.tally.note_sent();
                return self.flush(index);
            }
        }
    }

    /// Timers, and connecting where it is due.
    fn tick(&mut self, index: usize) -> Result<()> {
        let now = self.now();
        let peer = &mut self.peers[index];
        if peer.stream.is_none() {
            if peer.session.wants_connection(now) && self.dialling < DIALLING_MAX {
                self.dial(index)?;
            }
            return Ok(());
        }
        if peer.session.poll_timeout().is_some_and(|due| due <= now) {
            peer.session.handle_timeout(now);
        }
        self.flush(index)
    }

    fn dial(&mut self, index: usize) -> Result<()> {
        let peer = &mut self.peers[index];
        let address = self.plan.addresses[peer.next_address % self.plan.addresses.len()];
        peer.next_address += 1;
        peer.session.handle_dialling();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(_) => {
                self.lost(index);
                return Ok(());
            }
        }
        let stream: TcpStream = socket.into();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index as u64), flags)?;
        let peer = &mut self.peers[index];
        peer.stream = Some(stream);
        peer.connecting = true;
        self.dialling += 1;
        Ok(())
    }

    /// The connection is gone: the descriptor closes, the session decides what is next.
    fn lost(&mut self, index: usize) {
        let now = self.now();
        let peer = &mut self.peers[index];
        if std::mem::take(&mut peer.connecting) {
            self.dialling -= 1;
        } else if peer.stream.is_some() {
            self.tally.note_reconnect();
        }
        peer.stream = None;
        peer.unsent.clear();
        peer.session.handle_disconnected(now);
        self.take_events(index);
    }

    fn handle_ready(&mut self, index: usize) -> Result<()> {
        let now = self.now();
        let peer = &mut self.peers[index];
        let Some(stream) = &mut peer.stream else { return Ok(()) };
        if peer.connecting {
            if stream.take_error()?.is_some() {
                self.lost(index);
                return Ok(());
            }
            if stream.peer_addr().is_err() {
                return Ok(());
            }
            peer.connecting = false;
            self.dialling -= 1;
            peer.session.handle_connected(now);
        }
        let mut buffer = [0; 16 * 1024];
        let gone = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(length) => peer.session.handle_bytes(&buffer[..length], now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        if gone {
            self.take_events(index);
            self.lost(index);
            return Ok(());
        }
        self.flush(index)
    }

    /// Hands events over and sends what there is to send.
    fn flush(&mut self, index: usize) -> Result<()> {
        self.take_events(index);
        let now = self.now();
        let peer = &mut self.peers[index];
        let Some(stream) = peer.stream.as_mut().filter(|_| !peer.connecting) else { return Ok(()) };
        if let Some(bytes) = peer.session.poll_transmit(now) {
            peer.unsent.extend(bytes);
        }
        let mut gone = peer.session.wants_hang_up();
        while !peer.unsent.is_empty() && !gone {
            match stream.write(&peer.unsent) {
                Ok(length) => drop(peer.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => gone = true,
            }
        }
        if gone {
            self.lost(index);
        }
        Ok(())
    }

    fn take_events(&mut self, index: usize) {
        let now = self.now();
        let peer = &mut self.peers[index];
        while let Some(event) = peer.session.poll_event(now) {
            match event {
                Event::Message { channel, payload, .. } => {
                    let (number, to) = payload.split_at(payload.len().min(4));
                    if number_of(to) == self.plan.account(index, channel) {
                        self.tally.note_delivered(number_of(number));
                    } else {
                        self.tally.note_misdelivered();
                    }
                }
                Event::Accepted { client_id, .. } => self.tally.note_accepted(number_of(&client_id)),
                Event::Refused { .. } => self.tally.note_refused(),
                _ => {}
            }
        }
        let open = i64::try_from(peer.session.channels_open()).unwrap_or(0);
        if open != peer.open {
            self.tally.note_channels(open - peer.open);
            peer.open = open;
        }
    }
}

fn number_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(u32::MAX, u32::from_be_bytes)
}
