//! The whole data plane: two workers of one gateway, each on a kernel in memory, and bytes that decide what happens to
//! them: who connects, what arrives in which pieces, what completes when, errors, resets, jumps of the clock.
//!
//! What holds whatever comes: no panic and no request that no worker may make (`kernel.rs`); a peer is sent whole
//! frames of its protocol; the workers come to rest; and when everybody has left, nothing is left of them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use moor_gateway::worker::access::Access;
use moor_gateway::worker::counters::{Board, Counter};
use moor_gateway::worker::door::{Limits, Networks, Shared};
use moor_gateway::worker::drain::DrainPlan;
use moor_gateway::worker::io::{Completion, Listener, WorkerId};
use moor_gateway::worker::mailbox::{Mail, Mailboxes};
use moor_gateway::worker::settings::{Heartbeat, HotTier, RoomSettings, Settings};
use moor_gateway::worker::{Now, Worker};
use moor_wire::Code;
use moor_wire::client::{Class, Kind, put, put_sync_id};
use moor_wire::internal::{
    Broadcast, Kick, Lookup, Push, PushAccount, PushMany, Registered, Role, Stats, Verb, put_control,
    put_empty,
};
use moor_wire::session::SessionHandle;

use crate::input::Input;
use crate::kernel::{BUFFERS, Dial, End, Hold, Kernel, Socket};
use crate::seeds;

const WORKERS: u32 = 2;
/// Steps of an input; more say nothing new and cost time.
const STEPS_MAX: usize = 300;
/// Turns until workers that nobody disturbs are at rest: each lets every connection receive and send once.
const REST_TURNS_MAX: usize = 20_000;
/// Longer than every timer of the worker: heartbeats, lingering, stalled sends.
const EVERY_TIMER_MS: u64 = 2_000_000;

/// Two bytes of settings, then steps.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut gateway = Gateway::new(&mut input);
    gateway.turn(0);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        gateway.step(&mut input);
    }
    gateway.leave();
}

fn settings(input: &mut Input<'_>) -> Settings {
    let (first, second) = (input.byte(), input.byte());
    Settings {
        node: "gateway".into(),
        epoch: 7,
        router: SocketAddr::from(([127, 0, 0, 1], 7300)),
        internal_address: "127.0.0.1:7200".into(),
        internal_token: None,
        internal_tls: None,
        router_tls: None,
        router_token: Arc::default(),
        connections_max: [4, 12, 64][usize::from(first) % 3],
        frame_bytes_max: 4096,
        channels_per_connection_max: 3,
        send_queue_bytes_max: 2048,
        first_byte_timeout_ms: 10_000,
        plain: second & 1 == 0,
        access: Access::default(),
        tls: None,
        tls_required: false,
        websocket: (second & 2 == 0).then(Arc::default),
        heartbeat: Heartbeat { interval_ms: 60_000, min_ms: 1000 },
        hot: HotTier { events: 2, window_ms: 1000, idle_ms: 5000 },
        register_batch: 2,
        register_per_s: 100,
        retry_min_ms: 500,
        retry_max_ms: (second & 8 == 0).then_some(5000),
        rooms: RoomSettings {
            per_channel_max: 3,
            per_worker_max: 8,
            per_app_max: 6,
            down_ms: 200,
            down_bytes: 2000,
        },
        limits: if second & 4 == 0 { Limits::default() } else { limits() },
        proxies: if second & 4 == 0 { Networks::default() } else { balancers() },
        shared: Shared::default(),
    }
}

/// Every limit, each low enough to be met.
fn limits() -> Limits {
    Limits {
        accepts_per_s: 20,
        logins_per_s: 20,
        connections_per_address: 3,
        accepts_per_address_per_s: 10,
        sessions_per_app: 4,
        logins_per_app_per_s: 10,
        frames_per_connection_per_s: 20,
        messages_per_channel_per_s: 5,
        ..Limits::default()
    }
}

fn balancers() -> Networks {
    ["10.0.0.0/8".parse().expect("a network")].into_iter().collect()
}

/// Where clients come from: two hosts, a load balancer, and nobody knows where.
const ADDRESSES: [Option<[u8; 4]>; 4] =
    [Some([192, 0, 2, 1]), Some([192, 0, 2, 2]), Some([10, 0, 0, 1]), None];

/// A worker and its kernel.
struct Seat {
    kernel: Rc<RefCell<Kernel>>,
    worker: Worker<Hold>,
    ended: bool,
}

struct Gateway {
    seats: Vec<Seat>,
    mailboxes: Mailboxes,
    board: Board,
    now: u64,
    /// For what a peer says next: it may be told to say half of it.
    cut: Option<u8>,
    /// Connections so far: each comes from elsewhere.
    arrived: usize,
}

impl Gateway {
    fn new(input: &mut Input<'_>) -> Self {
        let settings = settings(input);
        let (mailboxes, board) = (Mailboxes::new(WORKERS), Board::new(WORKERS as usize));
        let seats = (0..WORKERS)
            .map(|id| {
                let kernel = Rc::new(RefCell::new(Kernel::new()));
                let hold = Hold(Rc::clone(&kernel));
                let (mailboxes, board) = (mailboxes.clone(), board.clone());
                let worker =
                    Worker::new(WorkerId(id), hold, settings.clone(), mailboxes, board, u64::from(id));
                Seat { kernel, worker, ended: false }
            })
            .collect();
        Self { seats, mailboxes, board, now: 1000, cut: None, arrived: 0 }
    }

    /// One turn of every worker; whether anything happened.
    fn turn(&mut self, lazy: u8) -> bool {
        let (now, mut happened) = (Now(self.now), false);
        for index in 0..self.seats.len() {
            let seat = &mut self.seats[index];
            if seat.ended {
                continue;
            }
            let done = seat.kernel.borrow_mut().run(lazy);
            happened |= !done.is_empty();
            for completion in done {
                seat.worker.apply(completion, now);
            }
            let before = seat.kernel.borrow().requests;
            seat.ended = !seat.worker.maintain(now);
            let (wakes, passed) = {
                let mut kernel = seat.kernel.borrow_mut();
                happened |= kernel.requests != before;
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
            self.check_sent(index);
        }
        happened
    }

    /// What the worker has sent are frames that its peer knows.
    fn check_sent(&mut self, seat: usize) {
        let mut kernel = self.seats[seat].kernel.borrow_mut();
        for socket in kernel.sockets.values_mut().filter(|socket| !socket.is_websocket) {
            let Some(reader) = &mut socket.sent else { continue };
            while let Some(frame) = reader.try_next().expect("no limit") {
                let kind = frame.header.kind;
                let is_known = match socket.end {
                    // Pushes carry whatever kind a service says: its frames are its own business.
                    End::Client => true,
                    End::Service | End::Router => Verb::from_byte(kind).is_some(),
                };
                assert!(is_known, "{:?} was sent a frame of kind {kind:#04x}", socket.end);
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let seat = usize::from(op >> 7);
        match op & 0x1f {
            0 | 1 => self.arrive(seat, Listener::Clients),
            2 => self.arrive(seat, Listener::Internal),
            3..=7 => self.peer_says(seat, End::Client, input),
            8..=10 => self.peer_says(seat, End::Service, input),
            11..=13 => self.peer_says(seat, End::Router, input),
            14 => {
                let end = input.one_of(&[End::Client, End::Service, End::Router]);
                let piece = input.piece();
                self.say(seat, end, input, piece.to_vec());
            }
            15 => self.with_any(seat, input, |socket, _| socket.eof = true),
            16 => self.with_any(seat, input, |socket, _| socket.reset = true),
            17 => self.with_any(seat, input, |socket, input| {
                socket.window = input.one_of(&[0, 1, 50, 5000, usize::MAX]);
            }),
            18 => self.now += u64::from(input.byte()),
            19 => self.now += u64::from(input.short()),
            20 => self.now += u64::from(input.short()) * 64,
            21 => self.kernel(seat, |kernel| kernel.recv_bytes_max = 1 + usize::from(input.byte()) * 8),
            22 => self.kernel(seat, |kernel| kernel.send_bytes_max = 1 + usize::from(input.byte()) * 8),
            23 => {
                // Where the next connection goes: chunks of the table come and go.
                let first = u32::from(input.byte()) * 64;
                let room = 1 + u32::from(input.byte());
                self.kernel(seat, |kernel| kernel.slots = first..first + room);
            }
            24 => {
                let dial = input.one_of(&[Dial::Accept, Dial::Refuse, Dial::Hang]);
                self.kernel(seat, |kernel| kernel.dial = dial);
            }
            25 => self.kernel(seat, |kernel| kernel.multishot_ends = true),
            26 => {
                let fails = input.choice(2) == 1;
                self.kernel(seat, |kernel| kernel.passing_fails = fails);
            }
            27 => {
                let away = input.choice(BUFFERS);
                self.starve(seat, away);
            }
            28 => self.cut = Some(input.byte()),
            29 => self.command(seat, input),
            _ => {}
        }
        // The two bits between say how many turns follow, and one byte which requests complete in them.
        let lazy = if op & 0x20 == 0 { 0 } else { input.byte() };
        if op & 0x40 == 0 {
            self.turn(lazy);
        }
    }

    fn kernel(&self, seat: usize, act: impl FnOnce(&mut Kernel)) {
        act(&mut self.seats[seat].kernel.borrow_mut());
    }

    /// For one turn other workers' connections hold the buffers.
    fn starve(&mut self, seat: usize, away: usize) {
        let held = self.seats[seat].kernel.borrow().buffers_free.min(away + 1);
        self.kernel(seat, |kernel| kernel.buffers_free -= held);
        self.turn(0);
        self.kernel(seat, |kernel| kernel.buffers_free += held);
    }

    fn arrive(&mut self, seat: usize, listener: Listener) {
        let end = if listener == Listener::Clients { End::Client } else { End::Service };
        let mut socket = Socket::new(end);
        self.arrived = self.arrived.wrapping_add(1);
        socket.address = ADDRESSES[self.arrived % ADDRESSES.len()].map(Into::into);
        self.kernel(seat, |kernel| kernel.backlog[listener as usize].push_back(socket));
    }

    /// Something from the control thread.
    fn command(&mut self, seat: usize, input: &mut Input<'_>) {
        let mail = match input.choice(4) {
            0 | 1 => Mail::Access(Access::default()),
            2 => {
                let deadline_ms = u64::from(input.short());
                Mail::Drain(DrainPlan { deadline_ms })
            }
            _ => Mail::Stop,
        };
        let mailbox = self.mailboxes.of(WorkerId(seat as u32)).expect("a mailbox for each worker");
        // A worker that has ended looks into its mailbox no more.
        if !self.seats[seat].ended {
            mailbox.try_put(mail).map(drop).expect("a mailbox has room");
        }
    }

    /// Slots whose peers are such an end and have not left.
    fn slots(&self, seat: usize, is_meant: impl Fn(&Socket) -> bool) -> Vec<u32> {
        let kernel = self.seats[seat].kernel.borrow();
        let meant =
            kernel.sockets.iter().filter(|(_, socket)| !socket.eof && !socket.reset && is_meant(socket));
        meant.map(|(slot, _)| *slot).collect()
    }

    fn with_any(
        &mut self,
        seat: usize,
        input: &mut Input<'_>,
        act: impl FnOnce(&mut Socket, &mut Input<'_>),
    ) {
        let slots = self.slots(seat, |_| true);
        if slots.is_empty() {
            return;
        }
        let slot = input.one_of(&slots);
        let mut kernel = self.seats[seat].kernel.borrow_mut();
        act(kernel.sockets.get_mut(&slot).expect("it was there"), input);
    }

    fn peer_says(&mut self, seat: usize, end: End, input: &mut Input<'_>) {
        let bytes = match end {
            End::Client => client_frame(input),
            End::Service => service_frame(input),
            End::Router => router_frame(input),
        };
        self.say(seat, end, input, bytes);
    }

    /// One of the peers says bytes, in WebSocket frames if that is how it talks.
    fn say(&mut self, seat: usize, end: End, input: &mut Input<'_>, mut bytes: Vec<u8>) {
        let slots = self.slots(seat, |socket| socket.end == end);
        if slots.is_empty() {
            return;
        }
        if let Some(cut) = self.cut.take() {
            bytes.truncate(bytes.len() * usize::from(cut) / 256);
        }
        let slot = input.one_of(&slots);
        let mut kernel = self.seats[seat].kernel.borrow_mut();
        let socket = kernel.sockets.get_mut(&slot).expect("it was there");
        if bytes.starts_with(b"GET ") {
            socket.is_websocket = true;
            socket.sent = None;
        } else if socket.is_websocket {
            bytes = seeds::websocket_frame(0x82, &bytes);
        }
        socket.inbound.extend(bytes);
    }

    /// Everybody leaves, however badly they stood, and no router is there any more.
    fn leave(&mut self) {
        for seat in &self.seats {
            let mut kernel = seat.kernel.borrow_mut();
            kernel.dial = Dial::Refuse;
            kernel.slots = 0..100_000;
            kernel.recv_bytes_max = 64 * 1024;
            kernel.send_bytes_max = usize::MAX;
            kernel.passing_fails = false;
            kernel.backlog.iter_mut().for_each(std::collections::VecDeque::clear);
            for socket in kernel.sockets.values_mut() {
                socket.eof = true;
                socket.window = usize::MAX;
            }
        }
        self.rest();
        // What was on its way between the workers, or lingers, has its time too.
        for _ in 0..4 {
            self.now += EVERY_TIMER_MS / 4;
            self.rest();
        }
        self.check_empty();
    }

    /// Turns until nothing happens any more. Who is at rest has nothing to do at once.
    fn rest(&mut self) {
        for _ in 0..REST_TURNS_MAX {
            if self.turn(0) {
                // A peer that was passed on meanwhile leaves as well.
                for seat in &self.seats {
                    seat.kernel.borrow_mut().sockets.values_mut().for_each(|socket| socket.eof = true);
                }
                continue;
            }
            for seat in self.seats.iter().filter(|seat| !seat.ended) {
                assert_ne!(seat.worker.sleep_ms(Now(self.now)), 0, "awake with nothing to do");
            }
            return;
        }
        panic!("the workers do not come to rest");
    }

    fn check_empty(&mut self) {
        // The last counts are published by a turn after the interval.
        self.now += 1000;
        self.turn(0);
        for (index, seat) in self.seats.iter().enumerate() {
            // Who was told to stop leaves everything as it is: its process ends.
            if seat.ended {
                continue;
            }
            let kernel = seat.kernel.borrow();
            assert_eq!(seat.worker.clients_open(), 0, "clients of worker {index}");
            assert!(kernel.sockets.is_empty(), "slots of worker {index} leaked: {:?}", kernel.sockets.keys());
            assert_eq!(kernel.buffers_free, BUFFERS, "every buffer of worker {index} went back");
            for counter in [
                Counter::ConnectionsOpen,
                Counter::ChannelsOpen,
                Counter::ServicesOpen,
                Counter::ConnectionsHot,
                Counter::ConnectionsWebsocket,
                Counter::ConnectionsTls,
                Counter::SendQueuedBytes,
            ] {
                assert_eq!(self.board.value(index, counter as usize), 0, "{counter:?} of worker {index}");
            }
        }
    }
}

const ACCOUNTS: [&str; 3] = ["alice", "bob", "carol"];

/// A body as long as the next byte says, up to some 4 kB: above the limits of this gateway.
fn body(input: &mut Input<'_>) -> Vec<u8> {
    vec![7; usize::from(input.byte()) * 20]
}

fn client_frame(input: &mut Input<'_>) -> Vec<u8> {
    match input.choice(12) {
        0 | 1 => seeds::connect(input.one_of(&["phone", "tablet", ""]), u32::from(input.short())),
        2 | 3 => {
            let last = [None, Some(0), Some(5)][input.choice(3)];
            seeds::open(u16::from(input.byte() % 5), input.one_of(&ACCOUNTS), last)
        }
        4 => seeds::submit(u16::from(input.byte() % 5), input.one_of(&ACCOUNTS), &body(input)),
        5 => {
            let kind = input.one_of(&[Kind::Ack, Kind::Sync]);
            seeds::bytes(|out| put_sync_id(out, kind, u16::from(input.byte() % 5), u64::from(input.byte())))
        }
        6 => seeds::close(u16::from(input.byte() % 5), i32::from(input.byte() % 20)),
        7 => seeds::bytes(|out| put(out, Kind::Ping, Class::Command, 0, b"beat")),
        8 => seeds::requests()[input.choice(4)].clone().into_bytes(),
        // A frame of a WebSocket, in one already if the client talks so.
        9 => seeds::websocket_frame(input.byte(), input.piece()),
        10 => {
            // Several at once: a login as clients do it.
            let account = input.one_of(&ACCOUNTS);
            [seeds::connect("phone", 0), seeds::open(1, account, None), seeds::open(2, account, Some(1))]
                .concat()
        }
        _ => input.piece().to_vec(),
    }
}

fn session(input: &mut Input<'_>) -> SessionHandle {
    let place = input.byte();
    SessionHandle::new(u32::from(place & 3), u32::from(place >> 2 & 7), 1 + u32::from(place >> 5))
}

fn service_frame(input: &mut Input<'_>) -> Vec<u8> {
    let cookie = 5;
    match input.choice(10) {
        0 | 1 => seeds::hello(Role::Service, [None, Some(0), Some(1), Some(2)][input.choice(4)]),
        2 => push(input),
        3 => {
            let (account, body) = (input.one_of(&ACCOUNTS), body(input));
            seeds::bytes(|out| {
                PushAccount { cookie, kind: 6, flags: input.byte(), app: "shop", account, body: &body }
                    .put(out);
            })
        }
        4 => {
            let body = body(input);
            let all = Broadcast { cookie, kind: 6, flags: input.byte(), app: "shop", body: &body };
            seeds::bytes(|out| all.put(out, input.choice(2) == 1))
        }
        5 => kick(input),
        6 => {
            let lookup = Lookup { cookie, app: "shop".into(), account: input.one_of(&ACCOUNTS).into() };
            seeds::bytes(|out| put_control(out, Verb::Lookup, &lookup))
        }
        7 => seeds::bytes(|out| put_control(out, Verb::Stats, &Stats { cookie })),
        8 => seeds::bytes(|out| put_empty(out, input.one_of(&[Verb::Ping, Verb::Pong]))),
        _ => input.piece().to_vec(),
    }
}

fn push(input: &mut Input<'_>) -> Vec<u8> {
    let (session, body) = (session(input), body(input));
    let (kind, flags) = (input.one_of(&[6, 7, 5]), input.byte());
    seeds::bytes(|out| Push { cookie: 5, session, kind, flags, body: &body }.put(out, input.choice(2) == 1))
}

fn kick(input: &mut Input<'_>) -> Vec<u8> {
    let by_session = input.choice(2) == 0;
    let kick = Kick {
        cookie: 5,
        session: if by_session { session(input).0 } else { 0 },
        app: "shop".into(),
        account: input.one_of(&ACCOUNTS).into(),
        device: input.one_of(&["", "phone"]).into(),
        code: Code::Kicked as i32,
        reason: "out".into(),
    };
    seeds::bytes(|out| put_control(out, Verb::Kick, &kick))
}

fn router_frame(input: &mut Input<'_>) -> Vec<u8> {
    match input.choice(10) {
        0..=2 => seeds::welcome(u64::from(input.byte()), u32::from(input.short())),
        3 => seeds::bytes(|out| put_control(out, Verb::Registered, &Registered { batch: 1 })),
        4 => push(input),
        5 => kick(input),
        6 => seeds::bytes(|out| put_empty(out, input.one_of(&[Verb::Ping, Verb::Pong]))),
        7 => seeds::internal_frames()[input.choice(22)].clone(),
        8 => push_many(input),
        _ => input.piece().to_vec(),
    }
}

fn push_many(input: &mut Input<'_>) -> Vec<u8> {
    let sessions: Vec<_> = (0..input.choice(4)).map(|cookie| (cookie as u64, session(input))).collect();
    let (kind, flags, body) = (input.one_of(&[6, 0x11, 5]), input.byte(), body(input));
    seeds::bytes(|out| PushMany::put(out, kind, flags, sessions.iter().copied(), &body))
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    vec![
        // A client logs in with two channels, the router welcomes, a push, the client leaves.
        vec![1, 0, 0, 3, 10, 0, 0, 11, 0, 7, 10, 0, 0, 30, 11, 4, 0, 2, 0, 1, 0, 0, 15, 1, 30],
        // Services of both workers: one is passed on; look-up, kick, broadcast.
        vec![
            1, 0, 2, 8, 0, 2, 0, 0, 3, 10, 1, 1, 30, 30, 130, 136, 0, 0, 0, 136, 6, 0, 1, 136, 5, 1, 0, 0, 0,
            136, 4, 2, 3, 1, 0, 30,
        ],
        // Over WebSocket, in small pieces, with a slow reader.
        vec![
            1, 0, 21, 3, 22, 2, 0, 3, 8, 0, 0, 30, 3, 10, 0, 0, 30, 30, 17, 0, 0, 3, 7, 0, 3, 7, 0, 20, 3, 0,
        ],
        // Half a frame, buffers gone, a reset, the clock jumps.
        vec![0, 0, 0, 0, 28, 100, 3, 10, 0, 0, 27, 7, 30, 16, 0, 20, 200, 200, 19, 255, 255],
        // Drained while clients are there; the other worker stopped.
        vec![2, 0, 0, 128, 3, 10, 0, 0, 131, 10, 1, 0, 29, 2, 10, 0, 19, 4, 0, 157, 3, 30],
        // The router away, back, silent; slots far up the table.
        vec![
            1, 0, 24, 1, 19, 20, 0, 24, 0, 19, 20, 0, 11, 0, 1, 5, 220, 0, 23, 40, 9, 0, 3, 10, 2, 1, 20, 0,
            255, 30,
        ],
        // A service far up the table asks a worker that answers no more, and leaves with its part of the table.
        vec![1, 0, 23, 200, 10, 2, 8, 0, 0, 0, 30, 30, 157, 3, 8, 6, 0, 0, 30, 15, 1, 30, 30, 30],
    ]
}
