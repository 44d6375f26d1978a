//! A client on a thread of its own: the client library's core over a blocking socket, back by itself whenever its
//! gateway dies, at the next one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moor_client::core::{Event, Options, Sending, Session, SubmitError, Target};
use moor_wire::Code;
use moor_wire::client::{Act, GroupRequest};

/// What a member has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Entries of the group's timeline as they came: place and payload; changes have none.
    pub entries: Vec<(u64, Option<String>)>,
    /// Places of own messages by payload.
    pub accepted: BTreeMap<String, u64>,
    /// Answers to requests by id.
    pub answers: BTreeMap<u64, Code>,
    /// Logged in right now.
    pub is_open: bool,
}

enum Order {
    Send { group: String, payload: String },
    Ask { id: u64, group: String, act: Act },
}

/// The handle on a member.
#[derive(Debug)]
pub struct Member {
    orders: mpsc::Sender<Order>,
    seen: Arc<Mutex<Seen>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Logs an account in and keeps it logged in, at one of the gateways.
    #[must_use]
    pub fn start(account: &str, gateways: Vec<SocketAddr>, first: usize) -> Self {
        let (orders, from_test) = mpsc::channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut session = Session::new(Options::new(format!("device-of-{account}")), first as u64);
        session.open(1, "shop", account, bytes::Bytes::new(), None);
        let (seen_there, over_there) = (seen.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut life = Life {
                session,
                started: Instant::now(),
                stream: None,
                gateways,
                next: first,
                seen: seen_there,
            };
            while !over_there.load(Ordering::Relaxed) {
                life.turn(&from_test);
            }
        });
        Self { orders, seen, is_over, thread: Some(thread) }
    }

    /// Sends to a group, under the payload as client id.
    pub fn send(&self, group: &str, payload: &str) {
        let order = Order::Send { group: group.to_owned(), payload: payload.to_owned() };
        self.orders.send(order).unwrap_or_default();
    }

    /// Asks something about a group.
    pub fn ask(&self, id: u64, group: &str, act: Act) {
        self.orders.send(Order::Ask { id, group: group.to_owned(), act }).unwrap_or_default();
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            thread.join().unwrap_or_default();
        }
    }
}

struct Life {
    session: Session,
    started: Instant,
    stream: Option<TcpStream>,
    gateways: Vec<SocketAddr>,
    next: usize,
    seen: Arc<Mutex<Seen>>,
}

impl Life {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&mut self, orders: &mpsc::Receiver<Order>) {
        let now = self.now();
        self.session.handle_timeout(now);
        while let Ok(order) = orders.try_recv() {
            let done = match order {
                Order::Send { group, payload } => {
                    let payload = bytes::Bytes::from(payload.into_bytes());
                    self.session.submit_to(
                        Sending::default(),
                        1,
                        payload.clone(),
                        Target::Group(group),
                        payload,
                        now,
                    )
                }
                Order::Ask { id, group, act } => {
                    self.session.ask_group(1, GroupRequest { id, group, act: Some(act) }, now)
                }
            };
            assert!(!matches!(done, Err(SubmitError::NoChannel(_))), "the channel is wanted");
        }
        if self.session.wants_hang_up() {
            self.lost();
        }
        if self.stream.is_none() && self.session.wants_connection(now) {
            self.dial();
        }
        if let Err(error) = self.exchange()
            && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
        {
            self.lost();
        }
        self.take_events();
    }

    fn dial(&mut self) {
        self.session.handle_dialling();
        let address = self.gateways[self.next % self.gateways.len()];
        self.next += 1;
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).unwrap_or_default();
                stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap_or_default();
                self.stream = Some(stream);
                let now = self.now();
                self.session.handle_connected(now);
            }
            Err(_) => self.lost(),
        }
    }

    fn lost(&mut self) {
        self.stream = None;
        let now = self.now();
        self.session.handle_disconnected(now);
    }

    fn exchange(&mut self) -> std::io::Result<()> {
        let now = self.now();
        let Some(stream) = &mut self.stream else {
            std::thread::park_timeout(Duration::from_millis(5));
            return Ok(());
        };
        if let Some(out) = self.session.poll_transmit(now) {
            stream.write_all(&out)?;
        }
        let mut buffer = [0; 64 * 1024];
        match stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.session.handle_bytes(&buffer[..length], now);
                Ok(())
            }
        }
    }

    fn take_events(&mut self) {
        let now = self.now();
        while let Some(event) = self.session.poll_event(now) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::GroupMessage { sync_id, payload, is_event, .. } => {
                    let text = (!is_event).then(|| String::from_utf8_lossy(&payload).into_owned());
                    seen.entries.push((sync_id, text));
                }
                Event::Accepted { client_id, sync_id, .. } => {
                    seen.accepted.insert(String::from_utf8_lossy(&client_id).into_owned(), sync_id);
                }
                Event::GroupAnswer { answer, .. } => {
                    seen.answers.insert(answer.id, answer.code());
                }
                Event::Opened { .. } => seen.is_open = true,
                Event::Disconnected(_) | Event::Closed { .. } => seen.is_open = false,
                _ => {}
            }
        }
    }
}
