//! A kernel that does nothing but say "done": what is left is the worker's own work.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use moor_gateway::worker::counters::Board;
use moor_gateway::worker::door::{Limits, Networks, Shared};
use moor_gateway::worker::io::{Completion, Io, Listener, Recv, SendBuffer, Slot, Token, WorkerId};
use moor_gateway::worker::mailbox::Mailboxes;
use moor_gateway::worker::settings::{Heartbeat, HotTier, RoomSettings, Settings};
use moor_gateway::worker::{Now, Worker};

/// Bytes to receive; the kernel copies them into a buffer that it has back afterwards.
pub type Piece = Rc<[u8]>;

#[derive(Clone, Copy)]
enum Armed {
    Nothing,
    Poll(Token),
    Read(Token),
    Multi(Token),
}

struct State {
    done: VecDeque<Completion<Vec<u8>>>,
    buffers: Vec<Vec<u8>>,
    armed: Vec<Armed>,
    dialling: Option<Token>,
    sent: u64,
    /// What was sent last, kept only when asked for.
    last: Option<Vec<u8>>,
}

/// The worker's hold on it.
#[derive(Clone)]
pub struct Idle(Rc<RefCell<State>>);

impl Io for Idle {
    type Buffer = Vec<u8>;

    fn accept(&mut self, _: Listener) {}
    fn pause_accept(&mut self, _: Listener) {}

    fn peer_address(&mut self, _: Slot, token: Token) {
        let result = Ok(SocketAddr::from(([192, 0, 2, 1], 1234)));
        self.0.borrow_mut().done.push_back(Completion::PeerAddress { token, result });
    }

    fn stop_listening(&mut self, _: Listener) {}

    fn poll_readable(&mut self, slot: Slot, token: Token) {
        self.0.borrow_mut().armed[slot.0 as usize] = Armed::Poll(token);
    }

    fn recv_once(&mut self, slot: Slot, token: Token) {
        self.0.borrow_mut().armed[slot.0 as usize] = Armed::Read(token);
    }

    fn recv_multishot(&mut self, slot: Slot, token: Token) {
        self.0.borrow_mut().armed[slot.0 as usize] = Armed::Multi(token);
    }

    fn cancel_recv(&mut self, _: Token) {}

    fn send(&mut self, _: Slot, token: Token, buffer: SendBuffer, offset: u32) {
        let mut state = self.0.borrow_mut();
        state.sent += 1;
        if let Some(last) = &mut state.last {
            last.clear();
            last.extend_from_slice(&buffer);
        }
        let taken = u32::try_from(buffer.len()).unwrap_or(u32::MAX) - offset;
        state.done.push_back(Completion::Sent { token, result: Ok(taken), buffer });
    }

    fn close(&mut self, _: Slot, token: Token) {
        self.0.borrow_mut().done.push_back(Completion::Closed { token, result: Ok(()) });
    }

    fn reset(&mut self, _: Slot, token: Token) {
        self.0.borrow_mut().done.push_back(Completion::Reset { token, result: Ok(()) });
    }

    fn connect(&mut self, _: SocketAddr, token: Token) {
        self.0.borrow_mut().dialling = Some(token);
    }

    fn wake(&mut self, _: WorkerId) {}
    fn pass(&mut self, _: Slot, _: WorkerId, _: u64, _: Token) {}
    fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.borrow_mut().buffers.push(buffer);
    }
}

/// A worker on an idle kernel.
pub struct Bench {
    worker: Worker<Idle>,
    kernel: Idle,
    now: Now,
}

impl Bench {
    /// With room for so many connections.
    pub fn new(slots: usize) -> Self {
        let state = State {
            buffers: Vec::new(),
            done: VecDeque::with_capacity(4096),
            armed: vec![Armed::Nothing; slots],
            dialling: None,
            sent: 0,
            last: None,
        };
        let kernel = Idle(Rc::new(RefCell::new(state)));
        let settings = Settings {
            node: "gateway".into(),
            epoch: 1,
            router: SocketAddr::from(([127, 0, 0, 1], 7300)),
            internal_address: "127.0.0.1:7200".into(),
            internal_token: None,
            internal_tls: None,
            router_tls: None,
            router_token: [].into(),
            connections_max: 10_000,
            frame_bytes_max: 64 * 1024,
            channels_per_connection_max: 16,
            send_queue_bytes_max: 64 * 1024,
            first_byte_timeout_ms: 10_000,
            plain: true,
            websocket: Some(std::sync::Arc::default()),
            access: moor_gateway::worker::access::Access::default(),
            tls: None,
            tls_required: false,
            heartbeat: Heartbeat { interval_ms: 270_000, min_ms: 10_000 },
            hot: HotTier { events: 4, window_ms: 1000, idle_ms: 5000 },
            register_batch: 256,
            register_per_s: 100_000,
            rooms: RoomSettings {
                per_channel_max: 16,
                per_worker_max: 1000,
                per_app_max: 0,
                down_ms: 0,
                down_bytes: 8192,
            },
            retry_min_ms: 500,
            retry_max_ms: None,
            // As a gateway has them by default, but out of the way.
            limits: Limits {
                accepts_per_s: 1_000_000,
                logins_per_s: 1_000_000,
                connections_per_address: 1_000_000,
                accepts_per_address_per_s: 1_000_000,
                frames_per_connection_per_s: 1_000_000,
                messages_per_channel_per_s: 1_000_000,
                ..Limits::default()
            },
            proxies: Networks::default(),
            shared: Shared::default(),
        };
        let worker = Worker::new(WorkerId(0), kernel.clone(), settings, Mailboxes::new(1), Board::new(1), 1);
        Self { worker, kernel, now: Now(1000) }
    }

    /// One turn: everything the kernel has done, then maintenance, until nothing is left.
    pub fn turn(&mut self) {
        loop {
            let next = self.kernel.0.borrow_mut().done.pop_front();
            match next {
                Some(completion) => self.worker.apply(completion, self.now),
                None => break,
            }
        }
        assert!(self.worker.maintain(self.now), "the worker goes on");
    }

    /// Sends so far.
    pub fn sent(&self) -> u64 {
        self.kernel.0.borrow().sent
    }

    /// Keeps what is sent from now on, for [`Self::last`].
    pub fn watch(&self, on: bool) {
        self.kernel.0.borrow_mut().last = on.then(Vec::new);
    }

    /// What was sent last.
    pub fn last(&self) -> Vec<u8> {
        self.kernel.0.borrow().last.clone().unwrap_or_default()
    }

    /// A connection arrives in a slot.
    pub fn arrive(&mut self, slot: u32, listener: Listener) {
        let token = listener.token();
        self.worker.apply(Completion::Accepted { token, result: Ok(Slot(slot)), more: true }, self.now);
        self.turn();
    }

    /// The router's end of the link is there.
    pub fn connect(&mut self, slot: u32) {
        self.turn();
        let token = self.kernel.0.borrow_mut().dialling.take().expect("the worker dials its router");
        self.worker.apply(Completion::Connected { token, result: Ok(Slot(slot)) }, self.now);
        self.turn();
    }

    /// The peer of a connection hangs up.
    pub fn leave(&mut self, slot: u32) {
        let armed = std::mem::replace(&mut self.kernel.0.borrow_mut().armed[slot as usize], Armed::Nothing);
        if let Armed::Poll(token) = armed {
            self.worker.apply(Completion::Ready { token, result: Ok(()) }, self.now);
        }
        let armed = std::mem::replace(&mut self.kernel.0.borrow_mut().armed[slot as usize], armed);
        if let Armed::Read(token) | Armed::Multi(token) = armed {
            self.worker.apply(Completion::Received { token, result: Ok(Recv::Eof), more: false }, self.now);
        }
        self.turn();
    }

    /// Bytes arrive on a connection, by whatever receive is armed.
    pub fn receive(&mut self, slot: u32, piece: &Piece) {
        for _ in 0..2 {
            let armed = self.kernel.0.borrow().armed[slot as usize];
            let (token, more) = match armed {
                Armed::Nothing => panic!("slot {slot} does not listen"),
                Armed::Poll(token) => {
                    self.worker.apply(Completion::Ready { token, result: Ok(()) }, self.now);
                    continue;
                }
                Armed::Read(token) => (token, false),
                Armed::Multi(token) => (token, true),
            };
            let mut buffer = self.kernel.0.borrow_mut().buffers.pop().unwrap_or_default();
            buffer.extend_from_slice(piece);
            let result = Ok(Recv::Data(buffer));
            self.worker.apply(Completion::Received { token, result, more }, self.now);
            return;
        }
    }
}
