//! An in-memory kernel: sockets as byte queues, requests that complete when they can, faults on demand.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use moor_ring::{Completion, Errno, Recv, SendBuffer, Slot, Token};

use crate::worker::io::{Io, Listener, WorkerId};

/// Completion with buffers of this kernel.
pub type Done = Completion<Vec<u8>>;

/// One end of a connection, the worker's, and what its peer does.
#[derive(Debug, Default)]
pub struct Socket {
    /// Sent by the peer, not yet read by the worker.
    pub inbound: VecDeque<u8>,
    /// The peer has hung up behind `inbound`.
    pub eof: bool,
    /// The connection was reset, by either side.
    pub reset: bool,
    /// Sent by the worker.
    pub outbound: Vec<u8>,
    /// Bytes the peer will still take before a send blocks.
    pub window: usize,
    pub armed: Option<(Arm, Token)>,
    pub sending: Option<(Token, SendBuffer, u32)>,
    /// Writes that took something.
    pub sends: u32,
    /// Where the peer is; `None`: it has gone.
    pub address: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Poll,
    Once,
    Multi,
}

/// The kernel of one worker.
#[derive(Debug)]
pub struct Kernel {
    pub sockets: BTreeMap<u32, Socket>,
    /// Connections waiting to be accepted.
    pub backlog: [VecDeque<Socket>; 2],
    /// Slots in the descriptor table.
    pub slots_max: u32,
    /// The first that is given out.
    pub slots_min: u32,
    /// Receive buffers the kernel has; each is taken by one receive until recycled.
    pub buffers_free: usize,
    /// Longest piece one receive returns.
    pub recv_bytes_max: usize,
    /// Longest piece one send takes.
    pub send_bytes_max: usize,
    /// Whether connecting out succeeds.
    pub router_listens: bool,
    /// Whether another worker's table has room for a descriptor.
    pub passes: bool,
    /// What is accepted next into a slot is told before that its former connection is closed, as before 6.15.
    pub closes_overtaken: bool,
    /// Workers woken, descriptors passed: for the bed to route.
    pub wakes: Vec<WorkerId>,
    pub passed: Vec<(WorkerId, u64, Socket)>,
    /// Slots that connected out, newest last.
    pub dialled: Vec<Slot>,
    /// What connections had been sent when they were closed, the last one last.
    pub farewells: Vec<Vec<u8>>,
    accepting: [Option<Token>; 2],
    listening: [bool; 2],
    done: VecDeque<Done>,
    overtaken: Vec<Done>,
    /// Where sends were asked for, in this order.
    pub sends_asked: Vec<Slot>,
    /// Requests made, of any kind.
    pub requests: u64,
    /// Counts of requests, for tests that care how something is done.
    pub accepts: u32,
    pub resets: u32,
    pub cancels: u32,
    pub multishots: u32,
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            sockets: BTreeMap::new(),
            backlog: [VecDeque::new(), VecDeque::new()],
            slots_max: 64,
            slots_min: 0,
            buffers_free: 16,
            recv_bytes_max: 2048,
            send_bytes_max: usize::MAX,
            router_listens: true,
            passes: true,
            closes_overtaken: false,
            wakes: Vec::new(),
            passed: Vec::new(),
            dialled: Vec::new(),
            farewells: Vec::new(),
            accepting: [None; 2],
            listening: [true; 2],
            done: VecDeque::new(),
            overtaken: Vec::new(),
            sends_asked: Vec::new(),
            requests: 0,
            accepts: 0,
            resets: 0,
            cancels: 0,
            multishots: 0,
        }
    }

    /// Takes the lowest free slot for a socket.
    pub fn place(&mut self, socket: Socket) -> Result<Slot, Errno> {
        let mut slots = self.slots_min..self.slots_max;
        let free = slots.find(|slot| !self.sockets.contains_key(slot)).ok_or(Errno::NFILE)?;
        self.sockets.insert(free, socket);
        Ok(Slot(free))
    }

    pub fn complete(&mut self, done: Done) {
        self.done.push_back(done);
    }

    /// Lets every request complete that can, once each, and returns the completions.
    pub fn run(&mut self) -> Vec<Done> {
        self.run_accepts();
        self.done.extend(self.overtaken.drain(..));
        let slots: Vec<u32> = self.sockets.keys().copied().collect();
        for slot in slots {
            self.run_recv(slot);
            self.run_send(slot);
        }
        self.done.drain(..).collect()
    }

    fn run_accepts(&mut self) {
        for listener in 0..2 {
            while let Some(token) = self.accepting[listener] {
                if !self.listening[listener] {
                    self.accepting[listener] = None;
                    self.done.push_back(Completion::Accepted {
                        token,
                        result: Err(Errno::CANCELED),
                        more: false,
                    });
                    break;
                }
                let Some(socket) = self.backlog[listener].pop_front() else { break };
                match self.place(socket) {
                    Ok(slot) => {
                        self.done.push_back(Completion::Accepted { token, result: Ok(slot), more: true })
                    }
                    Err(error) => {
                        self.accepting[listener] = None;
                        self.done.push_back(Completion::Accepted { token, result: Err(error), more: false });
                    }
                }
            }
        }
    }

    fn run_recv(&mut self, slot: u32) {
        let socket = self.sockets.get_mut(&slot).unwrap();
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
            if socket.eof { (Ok(Recv::Eof), false) } else { (Err(Errno::AGAIN), false) }
        } else if self.buffers_free == 0 {
            (Err(Errno::NOBUFS), false)
        } else {
            self.buffers_free -= 1;
            let length = socket.inbound.len().min(self.recv_bytes_max);
            (Ok(Recv::Data(socket.inbound.drain(..length).collect())), arm == Arm::Multi)
        };
        if !more {
            socket.armed = None;
        }
        self.done.push_back(Completion::Received { token, result, more });
    }

    fn run_send(&mut self, slot: u32) {
        let socket = self.sockets.get_mut(&slot).unwrap();
        let Some((token, buffer, offset)) = socket.sending.take() else { return };
        let rest = &buffer[offset as usize..];
        let length = rest.len().min(socket.window).min(self.send_bytes_max);
        let result = if socket.reset {
            Err(Errno::PIPE)
        } else if length == 0 {
            socket.sending = Some((token, buffer, offset));
            return;
        } else {
            socket.outbound.extend_from_slice(&rest[..length]);
            socket.window -= length;
            socket.sends += 1;
            Ok(u32::try_from(length).unwrap())
        };
        self.done.push_back(Completion::Sent { token, result, buffer });
    }
}

/// The worker's hold on a kernel; the test bed has the other.
#[derive(Debug, Clone)]
pub struct SimIo(pub Rc<RefCell<Kernel>>);

impl SimIo {
    /// The kernel, for a request.
    fn request(&self) -> RefMut<'_, Kernel> {
        let mut kernel = self.0.borrow_mut();
        kernel.requests += 1;
        kernel
    }

    fn arm(&self, slot: Slot, token: Token, arm: Arm) {
        let mut kernel = self.request();
        kernel.multishots += u32::from(arm == Arm::Multi);
        let socket = kernel.sockets.get_mut(&slot.0).expect("a request on a slot that is taken");
        assert!(socket.armed.is_none(), "two receives armed on {slot:?}");
        socket.armed = Some((arm, token));
    }
}

impl Io for SimIo {
    type Buffer = Vec<u8>;

    fn accept(&mut self, listener: Listener) {
        let mut kernel = self.request();
        assert!(kernel.accepting[listener as usize].is_none(), "accept armed twice");
        kernel.accepting[listener as usize] = Some(listener.token());
        kernel.accepts += 1;
    }

    fn pause_accept(&mut self, listener: Listener) {
        let mut kernel = self.request();
        if let Some(token) = kernel.accepting[listener as usize].take() {
            kernel.complete(Completion::Accepted { token, result: Err(Errno::CANCELED), more: false });
        }
    }

    fn peer_address(&mut self, slot: Slot, token: Token) {
        let mut kernel = self.request();
        let socket = kernel.sockets.get(&slot.0).expect("a question about a slot that is taken");
        let result = socket.address.map(|address| SocketAddr::from((address, 1234))).ok_or(Errno::NOTCONN);
        kernel.complete(Completion::PeerAddress { token, result });
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.request().listening[listener as usize] = false;
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
        let mut kernel = self.request();
        kernel.cancels += 1;
        let socket = kernel.sockets.get_mut(&token.index()).unwrap();
        if socket.armed == Some((Arm::Multi, token)) {
            socket.armed = None;
            kernel.complete(Completion::Received { token, result: Err(Errno::CANCELED), more: false });
        }
    }

    fn send(&mut self, slot: Slot, token: Token, buffer: SendBuffer, offset: u32) {
        let mut kernel = self.request();
        kernel.sends_asked.push(slot);
        let socket = kernel.sockets.get_mut(&slot.0).expect("a send on a slot that is taken");
        assert!(socket.sending.is_none(), "two sends in flight on {slot:?}");
        assert!((offset as usize) < buffer.len(), "an empty send");
        socket.sending = Some((token, buffer, offset));
    }

    fn close(&mut self, slot: Slot, token: Token) {
        let mut kernel = self.request();
        let socket = kernel.sockets.remove(&slot.0).expect("a close of a slot that is taken");
        assert!(
            socket.armed.is_none() && socket.sending.is_none(),
            "closed with a request in flight: no FIN"
        );
        kernel.farewells.push(socket.outbound);
        let closed = Completion::Closed { token, result: Ok(()) };
        if kernel.closes_overtaken { kernel.overtaken.push(closed) } else { kernel.complete(closed) }
    }

    fn reset(&mut self, slot: Slot, token: Token) {
        let mut kernel = self.request();
        kernel.resets += 1;
        kernel.sockets.get_mut(&slot.0).expect("a reset of a slot that is taken").reset = true;
        kernel.complete(Completion::Reset { token, result: Ok(()) });
    }

    fn connect(&mut self, _: SocketAddr, token: Token) {
        let mut kernel = self.request();
        let result = if kernel.router_listens {
            kernel.place(Socket { window: usize::MAX, ..Socket::default() })
        } else {
            Err(Errno::CONNREFUSED)
        };
        kernel.dialled.extend(result.ok());
        kernel.complete(Completion::Connected { token, result });
    }

    fn wake(&mut self, worker: WorkerId) {
        self.request().wakes.push(worker);
    }

    fn pass(&mut self, slot: Slot, worker: WorkerId, value: u64, token: Token) {
        let mut kernel = self.request();
        let socket = kernel.sockets.get_mut(&slot.0).unwrap();
        assert!(socket.armed.is_none() && socket.sending.is_none(), "passed with a request in flight");
        if !kernel.passes {
            return kernel.complete(Completion::Passed { token, result: Err(Errno::NFILE) });
        }
        let socket = kernel.sockets.get_mut(&slot.0).unwrap();
        let socket = std::mem::take(socket);
        kernel.passed.push((worker, value, socket));
        kernel.complete(Completion::Passed { token, result: Ok(()) });
    }

    fn recycle(&mut self, _: Vec<u8>) {
        self.request().buffers_free += 1;
    }
}
