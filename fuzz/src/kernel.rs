//! A kernel in memory that does what the fuzzer decides: which request completes next, how much of it, and how badly.
//!
//! It keeps what a real one promises and no more: a request completes once, a slot is used again only after it was
//! closed, which may be told later than that it is used again, a multishot receive may end at any time. It panics when the
//! worker asks for what no worker may ask for.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use moor_gateway::worker::io::{Completion, Errno, Io, Listener, Recv, SendBuffer, Slot, Token, WorkerId};
use moor_wire::frame::FrameReader;

/// Completion with buffers of this kernel.
pub type Done = Completion<Vec<u8>>;

/// Receive buffers there are at the start.
pub const BUFFERS: usize = 8;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Service,
    Router,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Poll,
    Once,
    Multi,
}

/// The worker's end of a connection, and what its peer does.
#[derive(Debug)]
pub struct Socket {
    pub end: End,
    /// Sent by the peer, not read yet.
    pub inbound: VecDeque<u8>,
    /// The peer has hung up behind `inbound`.
    pub eof: bool,
    /// The connection is broken.
    pub reset: bool,
    /// Bytes the peer still takes.
    pub window: usize,
    /// The peer has asked for a WebSocket.
    pub is_websocket: bool,
    /// Where it comes from; `None`: the kernel cannot say.
    pub address: Option<IpAddr>,
    /// Cuts what the worker sends; `None`: these are no frames.
    pub sent: Option<FrameReader>,
    armed: Option<(Arm, Token)>,
    sending: Option<(Token, SendBuffer, u32)>,
    /// The question where it comes from.
    asked: Option<Token>,
}

impl Socket {
    pub fn new(end: End) -> Self {
        Self {
            end,
            inbound: VecDeque::new(),
            eof: false,
            reset: false,
            window: usize::MAX,
            is_websocket: false,
            address: None,
            asked: None,
            sent: Some(FrameReader::new(u32::MAX)),
            armed: None,
            sending: None,
        }
    }
}

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Accept,
    Refuse,
    /// Nothing, until the next says otherwise.
    Hang,
}

/// The kernel of one worker.
#[derive(Debug)]
pub struct Kernel {
    pub sockets: BTreeMap<u32, Socket>,
    /// Connections that wait to be accepted.
    pub backlog: [VecDeque<Socket>; 2],
    /// Slots of the descriptor table that the next connection may take: the lowest free one from the first on.
    pub slots: std::ops::Range<u32>,
    pub buffers_free: usize,
    /// Longest piece one receive returns.
    pub recv_bytes_max: usize,
    /// Longest piece one send takes.
    pub send_bytes_max: usize,
    pub dial: Dial,
    /// Passing a descriptor on fails.
    pub passing_fails: bool,
    /// The next multishot request says that it was its last completion.
    pub multishot_ends: bool,
    pub wakes: Vec<WorkerId>,
    pub passed: Vec<(WorkerId, u64, Socket)>,
    /// Requests so far.
    pub requests: u64,
    dialling: Option<Token>,
    accepting: [Option<Token>; 2],
    listening: [bool; 2],
    done: VecDeque<Done>,
    /// Of closes, told behind what comes into the slots next.
    overtaken: Vec<Done>,
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            sockets: BTreeMap::new(),
            backlog: [VecDeque::new(), VecDeque::new()],
            slots: 0..64,
            buffers_free: BUFFERS,
            recv_bytes_max: 2048,
            send_bytes_max: usize::MAX,
            dial: Dial::Accept,
            passing_fails: false,
            multishot_ends: false,
            wakes: Vec::new(),
            passed: Vec::new(),
            requests: 0,
            dialling: None,
            accepting: [None; 2],
            listening: [true; 2],
            done: VecDeque::new(),
            overtaken: Vec::new(),
        }
    }

    /// Takes a free slot for a socket.
    pub fn place(&mut self, socket: Socket) -> Result<Slot, Errno> {
        let mut slots = self.slots.clone();
        let free = slots.find(|slot| !self.sockets.contains_key(slot)).ok_or(Errno::NFILE)?;
        self.sockets.insert(free, socket);
        Ok(Slot(free))
    }

    pub fn complete(&mut self, done: Done) {
        self.done.push_back(done);
    }

    /// Lets requests complete, at most one receive and one send a socket; `lazy` has a bit for each that rather waits,
    /// in a circle.
    pub fn run(&mut self, lazy: u8) -> Vec<Done> {
        let mut turn = 0;
        let mut waits = || {
            turn += 1;
            lazy >> (turn % 8) & 1 == 1
        };
        if !waits() {
            self.run_connect();
            self.run_accepts();
        }
        self.done.extend(self.overtaken.drain(..));
        let slots: Vec<u32> = self.sockets.keys().copied().collect();
        for slot in slots {
            if !waits() {
                self.run_asked(slot);
                self.run_recv(slot);
            }
            if !waits() {
                self.run_send(slot);
            }
        }
        self.done.drain(..).collect()
    }

    fn run_connect(&mut self) {
        let Some(token) = self.dialling.filter(|_| self.dial != Dial::Hang) else { return };
        self.dialling = None;
        let result = match self.dial {
            Dial::Accept => self.place(Socket::new(End::Router)),
            _ => Err(Errno::CONNREFUSED),
        };
        self.done.push_back(Completion::Connected { token, result });
    }

    fn run_accepts(&mut self) {
        for listener in 0..2 {
            while let Some(token) = self.accepting[listener] {
                let (result, more) = if !self.listening[listener] {
                    (Err(Errno::CANCELED), false)
                } else if let Some(socket) = self.backlog[listener].pop_front() {
                    let result = self.place(socket);
                    let more = result.is_ok() && !std::mem::take(&mut self.multishot_ends);
                    (result, more)
                } else {
                    break;
                };
                if !more {
                    self.accepting[listener] = None;
                }
                self.done.push_back(Completion::Accepted { token, result, more });
            }
        }
    }

    fn run_asked(&mut self, slot: u32) {
        let Some(socket) = self.sockets.get_mut(&slot) else { return };
        let Some(token) = socket.asked.take() else { return };
        let result = socket.address.map(|address| SocketAddr::from((address, 1234))).ok_or(Errno::NOTCONN);
        self.done.push_back(Completion::PeerAddress { token, result });
    }

    fn run_recv(&mut self, slot: u32) {
        let Some(socket) = self.sockets.get_mut(&slot) else { return };
        let Some((arm, token)) = socket.armed else { return };
        let nothing = socket.inbound.is_empty() && !socket.eof && !socket.reset;
        if nothing && arm != Arm::Once {
            return;
        }
        if arm == Arm::Poll {
            socket.armed = None;
            return self.done.push_back(Completion::Ready { token, result: Ok(()) });
        }
        let (result, more) = if socket.reset {
            (Err(Errno::CONNRESET), false)
        } else if socket.inbound.is_empty() {
            (if socket.eof { Ok(Recv::Eof) } else { Err(Errno::AGAIN) }, false)
        } else if self.buffers_free == 0 {
            (Err(Errno::NOBUFS), false)
        } else {
            self.buffers_free -= 1;
            let length = socket.inbound.len().min(self.recv_bytes_max);
            let data = socket.inbound.drain(..length).collect();
            (Ok(Recv::Data(data)), arm == Arm::Multi && !std::mem::take(&mut self.multishot_ends))
        };
        if !more {
            socket.armed = None;
        }
        self.done.push_back(Completion::Received { token, result, more });
    }

    fn run_send(&mut self, slot: u32) {
        let Some(socket) = self.sockets.get_mut(&slot) else { return };
        let Some((token, buffer, offset)) = socket.sending.take() else { return };
        let rest = &buffer[offset as usize..];
        let length = rest.len().min(socket.window).min(self.send_bytes_max);
        let result = if socket.reset {
            Err(Errno::PIPE)
        } else if length == 0 {
            socket.sending = Some((token, buffer, offset));
            return;
        } else {
            if let Some(reader) = &mut socket.sent {
                reader.push(&rest[..length]);
            }
            socket.window -= length;
            Ok(u32::try_from(length).expect("a send buffer is bounded"))
        };
        self.done.push_back(Completion::Sent { token, result, buffer });
    }
}

/// The worker's hold on a kernel.
#[derive(Debug, Clone)]
pub struct Hold(pub Rc<RefCell<Kernel>>);

impl Hold {
    fn request<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        let mut kernel = self.0.borrow_mut();
        kernel.requests += 1;
        act(&mut kernel)
    }

    fn on<T>(&self, slot: Slot, act: impl FnOnce(&mut Socket) -> T) -> T {
        self.request(|kernel| {
            act(kernel.sockets.get_mut(&slot.0).expect("a request on a slot that is taken"))
        })
    }

    fn arm(&self, slot: Slot, token: Token, arm: Arm) {
        self.on(slot, |socket| {
            assert!(socket.armed.is_none(), "two receives armed on {slot:?}");
            socket.armed = Some((arm, token));
        });
    }
}

fn is_busy(socket: &Socket) -> bool {
    socket.armed.is_some() || socket.sending.is_some() || socket.asked.is_some()
}

impl Io for Hold {
    type Buffer = Vec<u8>;

    fn accept(&mut self, listener: Listener) {
        self.request(|kernel| {
            let before = kernel.accepting[listener as usize].replace(listener.token());
            assert!(before.is_none(), "accept armed twice");
        });
    }

    fn pause_accept(&mut self, listener: Listener) {
        self.request(|kernel| {
            if let Some(token) = kernel.accepting[listener as usize].take() {
                kernel.complete(Completion::Accepted { token, result: Err(Errno::CANCELED), more: false });
            }
        });
    }

    fn peer_address(&mut self, slot: Slot, token: Token) {
        self.on(slot, |socket| {
            assert!(!is_busy(socket), "asked with a request in flight");
            socket.asked = Some(token);
        });
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.request(|kernel| kernel.listening[listener as usize] = false);
    }

    fn poll_readable(&mut self, slot: Slot, token: Token) {
        self.arm(slot, token, Arm::Poll);
    }

    fn recv_once(&mut self, slot: Slot, token: Token) {
        self.arm(slot, token, Arm::Once);
    }

    fn recv_multishot(&mut self, slot: Slot, token: Token) {
        self.arm(slot, token, Arm::Multi);
    }

    fn cancel_recv(&mut self, token: Token) {
        self.request(|kernel| {
            let socket = kernel.sockets.get_mut(&token.index()).expect("a cancel on a slot that is taken");
            if socket.armed == Some((Arm::Multi, token)) {
                socket.armed = None;
                kernel.complete(Completion::Received { token, result: Err(Errno::CANCELED), more: false });
            }
        });
    }

    fn send(&mut self, slot: Slot, token: Token, buffer: SendBuffer, offset: u32) {
        self.on(slot, |socket| {
            assert!(socket.sending.is_none(), "two sends in flight on {slot:?}");
            assert!((offset as usize) < buffer.len(), "an empty send");
            socket.sending = Some((token, buffer, offset));
        });
    }

    fn close(&mut self, slot: Slot, token: Token) {
        self.request(|kernel| {
            let socket = kernel.sockets.remove(&slot.0).expect("a close of a slot that is taken");
            assert!(!is_busy(&socket), "closed with a request in flight: no FIN");
            let closed = Completion::Closed { token, result: Ok(()) };
            // Half of the slots are of an older kernel.
            if slot.0 % 2 == 0 { kernel.overtaken.push(closed) } else { kernel.complete(closed) }
        });
    }

    fn reset(&mut self, slot: Slot, token: Token) {
        self.on(slot, |socket| socket.reset = true);
        self.request(|kernel| kernel.complete(Completion::Reset { token, result: Ok(()) }));
    }

    fn connect(&mut self, _: SocketAddr, token: Token) {
        self.request(|kernel| {
            assert!(kernel.dialling.is_none(), "two connects under way");
            kernel.dialling = Some(token);
        });
    }

    fn wake(&mut self, worker: WorkerId) {
        self.request(|kernel| kernel.wakes.push(worker));
    }

    fn pass(&mut self, slot: Slot, worker: WorkerId, value: u64, token: Token) {
        self.request(|kernel| {
            let fails = kernel.passing_fails;
            let socket = kernel.sockets.get_mut(&slot.0).expect("a slot that is taken is passed on");
            assert!(!is_busy(socket), "passed with a request in flight");
            let result = if fails {
                Err(Errno::NFILE)
            } else {
                // The descriptor is open in both tables until the worker closes its own.
                let moved = std::mem::replace(socket, Socket::new(End::Service));
                kernel.passed.push((worker, value, moved));
                Ok(())
            };
            kernel.complete(Completion::Passed { token, result });
        });
    }

    fn recycle(&mut self, _: Vec<u8>) {
        self.request(|kernel| kernel.buffers_free += 1);
    }
}
