//! The test bed: workers on in-memory kernels, peers made of bytes, a clock that jumps.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use moor_ring::{Completion, Slot};
use moor_wire::client::{Class, Connect, Kind, Open, put, put_control};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{self, Verb};
use prost::Message;

use super::kernel::{Kernel, SimIo, Socket};
use crate::worker::counters::{Board, Counter};
use crate::worker::door::{Limits, Networks, Shared};
use crate::worker::io::{Listener, WorkerId};
use crate::worker::mailbox::Mailboxes;
use crate::worker::settings::{Heartbeat, HotTier, RoomSettings, Settings};
use crate::worker::{Now, Worker};

pub const HEARTBEAT_MS: u32 = 60_000;

pub fn settings() -> Settings {
    Settings {
        node: "gateway-1".into(),
        epoch: 7,
        router: "127.0.0.1:7300".parse().unwrap(),
        internal_address: "127.0.0.1:7200".into(),
        internal_token: None,
        internal_tls: None,
        router_tls: None,
        router_token: Arc::default(),
        connections_max: 32,
        frame_bytes_max: 65_536,
        channels_per_connection_max: 4,
        send_queue_bytes_max: 8192,
        first_byte_timeout_ms: 10_000,
        plain: true,
        websocket: Some(std::sync::Arc::default()),
        access: crate::worker::access::Access::default(),
        tls: None,
        tls_required: false,
        heartbeat: Heartbeat { interval_ms: HEARTBEAT_MS, min_ms: 1000 },
        hot: HotTier { events: 4, window_ms: 1000, idle_ms: 5000 },
        register_batch: 3,
        register_per_s: 10_000,
        retry_min_ms: 500,
        retry_max_ms: Some(5000),
        rooms: RoomSettings {
            per_channel_max: 3,
            per_worker_max: 8,
            per_app_max: 0,
            down_ms: 200,
            down_bytes: 2000,
        },
        limits: Limits::default(),
        proxies: Networks::default(),
        shared: Shared::default(),
    }
}

/// One worker with its kernel.
pub struct Seat {
    pub kernel: Rc<RefCell<Kernel>>,
    pub worker: Worker<SimIo>,
    pub ended: bool,
}

/// Workers of one gateway.
pub struct Bed {
    pub seats: Vec<Seat>,
    pub mailboxes: Mailboxes,
    pub now: u64,
    /// Routers that answer by themselves, so that links live while time passes.
    pub routers: Vec<Peer>,
}

/// A peer: which worker holds it, and in which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub seat: usize,
    pub slot: Slot,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(1, settings())
    }

    pub fn with(workers: u32, settings: Settings) -> Self {
        let mailboxes = Mailboxes::new(workers);
        let board = Board::new(workers as usize);
        let seats = (0..workers)
            .map(|id| {
                let kernel = Rc::new(RefCell::new(Kernel::new()));
                let io = SimIo(Rc::clone(&kernel));
                let worker = Worker::new(
                    WorkerId(id),
                    io,
                    settings.clone(),
                    mailboxes.clone(),
                    board.clone(),
                    u64::from(id),
                );
                Seat { kernel, worker, ended: false }
            })
            .collect();
        let mut bed = Self { seats, mailboxes, now: 1000, routers: Vec::new() };
        bed.settle();
        bed
    }

    /// Turns until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the workers do not come to rest");
    }

    /// One turn of every worker; whether anything happened.
    pub fn turn(&mut self) -> bool {
        let mut happened = false;
        let now = Now(self.now);
        for index in 0..self.seats.len() {
            let seat = &mut self.seats[index];
            if seat.ended {
                continue;
            }
            let done = seat.kernel.borrow_mut().run();
            happened |= !done.is_empty();
            for completion in done {
                seat.worker.apply(completion, now);
            }
            let before = seat.kernel.borrow().requests;
            seat.ended = !seat.worker.maintain(now);
            happened |= seat.kernel.borrow().requests != before;
            let (wakes, passed) = {
                let mut kernel = seat.kernel.borrow_mut();
                (std::mem::take(&mut kernel.wakes), std::mem::take(&mut kernel.passed))
            };
            happened |= !wakes.is_empty();
            for worker in wakes {
                self.seats[worker.index()].kernel.borrow_mut().complete(Completion::Message { value: 0 });
            }
            for (worker, value, socket) in passed {
                let mut kernel = self.seats[worker.index()].kernel.borrow_mut();
                let result = kernel.place(socket);
                kernel.complete(Completion::SlotPassed { value, result });
            }
        }
        happened
    }

    /// Lets time pass in small steps, everything settled at each.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 100).min(end);
            for router in self.routers.clone() {
                if self.seats[router.seat].worker.link.slot() == Some(router.slot) {
                    self.with_socket(router, |socket| {
                        let mut pong = Vec::new();
                        internal::put_empty(&mut pong, Verb::Pong);
                        socket.inbound.extend(pong);
                    });
                }
            }
            self.settle();
        }
    }

    pub fn counter(&mut self, counter: Counter) -> u64 {
        self.seats.iter().map(|seat| seat.worker.counters[counter]).sum()
    }

    /// A connection that arrives at worker `seat`; `None` when it is not accepted.
    pub fn arrive(&mut self, seat: usize, listener: Listener) -> Option<Peer> {
        self.arrive_from(seat, listener, Some("192.0.2.1".parse().unwrap()))
    }

    /// One from an address.
    pub fn arrive_from(&mut self, seat: usize, listener: Listener, address: Option<IpAddr>) -> Option<Peer> {
        let before: Vec<u32> = self.seats[seat].kernel.borrow().sockets.keys().copied().collect();
        let socket = Socket { window: usize::MAX, address, ..Socket::default() };
        self.seats[seat].kernel.borrow_mut().backlog[listener as usize].push_back(socket);
        self.turn();
        let after: Vec<u32> = self.seats[seat].kernel.borrow().sockets.keys().copied().collect();
        after.into_iter().find(|slot| !before.contains(slot)).map(|slot| Peer { seat, slot: Slot(slot) })
    }

    pub fn with_socket<T>(&self, peer: Peer, act: impl FnOnce(&mut Socket) -> T) -> T {
        let mut kernel = self.seats[peer.seat].kernel.borrow_mut();
        act(kernel.sockets.get_mut(&peer.slot.0).expect("the connection is there"))
    }

    pub fn is_open(&self, peer: Peer) -> bool {
        self.seats[peer.seat].kernel.borrow().sockets.get(&peer.slot.0).is_some_and(|socket| !socket.reset)
    }

    /// The peer sends bytes.
    pub fn write(&mut self, peer: Peer, bytes: &[u8]) {
        self.with_socket(peer, |socket| socket.inbound.extend(bytes));
        self.settle();
    }

    /// What the peer has been sent since it last looked.
    pub fn read(&mut self, peer: Peer) -> Vec<Frame> {
        let bytes = self.with_socket(peer, |socket| std::mem::take(&mut socket.outbound));
        let mut reader = FrameReader::new(u32::MAX);
        reader.push(&bytes);
        let frames = std::iter::from_fn(|| reader.try_next().unwrap()).collect();
        assert!(reader.buffer_mut().is_empty(), "half a frame was sent");
        frames
    }

    pub fn hang_up(&mut self, peer: Peer) {
        self.with_socket(peer, |socket| socket.eof = true);
        self.settle();
    }

    /// A connected client.
    pub fn client(&mut self, seat: usize, device: &str) -> Peer {
        let peer = self.arrive(seat, Listener::Clients).expect("accepted");
        let mut out = Vec::new();
        put_connect(&mut out, device);
        self.write(peer, &out);
        let frames = self.read(peer);
        assert_eq!(kinds(&frames), [Kind::Connected]);
        peer
    }

    /// Opens a channel; the session's handle.
    pub fn open(&mut self, peer: Peer, channel: u16, account: &str) -> u64 {
        let mut out = Vec::new();
        put_open(&mut out, channel, account, Some(0));
        self.write(peer, &out);
        let frames = self.read(peer);
        let opened = frames.iter().find(|f| f.header.kind == Kind::Opened.byte()).expect("OPENED");
        assert_eq!(opened.header.channel, channel);
        moor_wire::client::Opened::decode(opened.body.clone()).unwrap().session
    }

    /// Clients of the first worker with so many sessions of the app each, on channels from 1.
    pub fn crowd(&mut self, clients: usize, channels: u16) -> Vec<Peer> {
        let phones: Vec<Peer> = (0..clients).map(|n| self.client(0, &format!("phone-{n}"))).collect();
        for (phone, channel) in phones.iter().flat_map(|phone| (1..=channels).map(|n| (*phone, n))) {
            self.open(phone, channel, "alice");
        }
        phones
    }

    /// The router's end of worker `seat`'s link, welcomed.
    pub fn router(&mut self, seat: usize) -> Peer {
        let peer = self.dialled(seat).expect("the worker has connected to its router");
        let hello = self.read(peer);
        assert_eq!(hello[0].header.kind, Verb::Hello.byte());
        let mut out = Vec::new();
        internal::put_control(
            &mut out,
            Verb::Welcome,
            &internal::Welcome { lease_ms: 1500, ..Default::default() },
        );
        self.write(peer, &out);
        self.routers.retain(|router| router.seat != seat);
        self.routers.push(peer);
        peer
    }

    pub fn dialled(&mut self, seat: usize) -> Option<Peer> {
        let slot = self.seats[seat].kernel.borrow().dialled.last().copied()?;
        Some(Peer { seat, slot })
    }

    /// A service greeted by worker `worker`, arriving at worker `seat`.
    pub fn service(&mut self, seat: usize, worker: Option<u32>) -> Peer {
        let peer = self.arrive(seat, Listener::Internal).expect("accepted");
        let mut out = Vec::new();
        let hello = internal::Hello {
            version: 1,
            role: internal::Role::Service as i32,
            node: "test".into(),
            worker,
            ..Default::default()
        };
        internal::put_control(&mut out, Verb::Hello, &hello);
        self.write(peer, &out);
        peer
    }

    /// Checks what must hold whenever nothing is under way, with every client gone.
    pub fn assert_clean(&mut self) {
        for seat in &mut self.seats {
            let worker = &mut seat.worker;
            assert_eq!(worker.clients, 0, "clients");
            assert_eq!(worker.channels.open_count(), 0, "channels");
            assert_eq!(worker.rooms.members_open(), 0, "members of rooms");
            assert_eq!(worker.starved.len(), 0, "starved");
            assert_eq!(worker.begun.len(), 0, "starts of frames");
            assert!(worker.websockets.is_idle(), "messages under way");
            assert!(worker.tls.is_empty(), "TLS sessions");
            assert!(worker.door.meters.is_empty(), "metered connections");
            let shared = &worker.settings.shared;
            assert!(shared.addresses.is_empty() && shared.apps.is_empty(), "counted addresses and apps");
            let link = worker.link.slot();
            let slots: Vec<u32> = seat.kernel.borrow().sockets.keys().copied().collect();
            for slot in slots {
                assert!(
                    Some(Slot(slot)) == link || worker.services.contains_key(&Slot(slot)),
                    "slot {slot} leaked"
                );
            }
            assert_eq!(seat.kernel.borrow().buffers_free, 16, "every buffer went back");
            worker.wheel.validate(&mut worker.connections);
        }
    }
}

pub fn kinds(frames: &[Frame]) -> Vec<Kind> {
    frames.iter().map(|frame| Kind::from_byte(frame.header.kind).expect("a client kind")).collect()
}

pub fn verbs(frames: &[Frame]) -> Vec<Verb> {
    frames.iter().map(|frame| Verb::from_byte(frame.header.kind).expect("an internal verb")).collect()
}

pub fn put_connect(out: &mut Vec<u8>, device: &str) {
    let connect = Connect { version: 1, device: device.into(), ..Connect::default() };
    put_control(out, Kind::Connect, 0, &connect);
}

pub fn put_open(out: &mut Vec<u8>, channel: u16, account: &str, last_sync_id: Option<u64>) {
    let open = Open { app: "shop".into(), account: account.into(), last_sync_id, ..Open::default() };
    put_control(out, Kind::Open, channel, &open);
}

pub fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, Kind::Ping, Class::Command, 0, b"beat");
    out
}

pub fn decode<M: Message + Default>(frame: &Frame) -> M {
    M::decode(frame.body.clone()).unwrap()
}
