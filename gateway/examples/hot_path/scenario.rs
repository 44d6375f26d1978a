//! What happens most often, one thing at a time.

use std::hint::black_box;

use moor_gateway::limits::ROOM_MEMBERS_PER_TURN_MAX;
use moor_gateway::worker::io::Listener;
use moor_gateway::worker::wheel::{Link, Links, Wheel};
use moor_wire::client::{
    Class, Connect, Delivery, Kind, Open, Opened, RoomEnter, RoomMessage, Submit, put, put_control,
    put_sync_id,
};
use moor_wire::frame::{Split, put_message, split};
use moor_wire::internal::{self, Broadcast, Hello, Push, Verb, Welcome};
use moor_wire::rooms::{RoomPush, RoomState, put_record};
use moor_wire::session::SessionHandle;
use prost::Message;

use super::kernel::{Bench, Piece};

const LINK: u32 = 0;
const SERVICE: u32 = 1;
const FIRST_CLIENT: u32 = 2;
/// Sessions of a scenario.
pub const CLIENTS: u32 = 64;

/// A scenario: its name and how to run it so many times.
pub struct Scenario {
    /// As the baseline calls it.
    pub name: &'static str,
    /// Sets up, and gives back what is done once.
    pub set_up: fn() -> Box<dyn FnMut()>,
}

/// All of them.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "split a frame", set_up: split_frames },
    Scenario { name: "file and fire a timer", set_up: timers },
    Scenario { name: "answer a ping", set_up: pings },
    Scenario { name: "push to a session", set_up: pushes },
    Scenario { name: "forward a submit", set_up: submits },
    Scenario { name: "forward an acknowledgement", set_up: acknowledgements },
    Scenario { name: "log in and leave", set_up: visits },
    Scenario { name: "broadcast to 64 sessions", set_up: broadcasts },
    Scenario { name: "batch to 64 members of a room", set_up: batches },
];

fn piece(write: impl FnOnce(&mut Vec<u8>)) -> Piece {
    let mut out = Vec::new();
    write(&mut out);
    out.into()
}

/// A worker with a router, a service and clients, and the handles of their sessions.
fn populated() -> (Bench, Vec<SessionHandle>) {
    let mut bench = deserted(CLIENTS);
    let sessions = (0..CLIENTS).map(|client| log_in(&mut bench, client)).collect();
    // Whoever said so much at once is hot; the measured state is the usual one.
    bench.turn();
    (bench, sessions)
}

/// A worker with a router and a service, and room for clients.
pub fn deserted(clients: u32) -> Bench {
    let mut bench = Bench::new((FIRST_CLIENT + clients) as usize);
    bench.connect(LINK);
    let welcome = Welcome { lease_ms: 1_000_000, ..Welcome::default() };
    bench.receive(LINK, &piece(|out| internal::put_control(out, Verb::Welcome, &welcome)));
    bench.turn();
    bench.arrive(SERVICE, Listener::Internal);
    let hello = Hello { version: 1, role: internal::Role::Service as i32, ..Hello::default() };
    bench.receive(SERVICE, &piece(|out| internal::put_control(out, Verb::Hello, &hello)));
    bench.turn();
    bench
}

/// A client leaves.
pub fn log_out(bench: &mut Bench, client: u32) {
    bench.leave(FIRST_CLIENT + client);
}

/// A client comes and logs in.
pub fn log_in(bench: &mut Bench, client: u32) -> SessionHandle {
    let slot = FIRST_CLIENT + client;
    bench.arrive(slot, Listener::Clients);
    let connect = Connect { version: 1, device: format!("bench-device-{client:07}"), ..Connect::default() };
    let account = format!("bench-account-{client:010}");
    let open = Open { app: "shop".into(), account, last_sync_id: Some(0), ..Open::default() };
    bench.receive(slot, &piece(|out| put_control(out, Kind::Connect, 0, &connect)));
    bench.turn();
    bench.watch(true);
    bench.receive(slot, &piece(|out| put_control(out, Kind::Open, 1, &open)));
    bench.turn();
    let sent = bench.last();
    bench.watch(false);
    // The last thing sent is OPENED, or the REGISTER that follows it: the handle is in both; ask the order.
    let mut rest = &sent[..];
    while let Ok(Split::Frame { header, body, rest: tail }) = split(rest, |_| u32::MAX) {
        if header.kind == Verb::Register.byte() {
            let register = internal::Register::decode(body).expect("REGISTER");
            return SessionHandle(register.sessions.last().expect("a session").session);
        }
        if header.kind == Kind::Opened.byte() {
            return SessionHandle(Opened::decode(body).expect("OPENED").session);
        }
        rest = tail;
    }
    panic!("the login was not answered");
}

fn delivery() -> Vec<u8> {
    let payload = vec![7; 128].into();
    Delivery { from: "bench-account-0000000009".into(), payload, ..Delivery::default() }.encode_to_vec()
}

fn split_frames() -> Box<dyn FnMut()> {
    let mut frames = Vec::new();
    put(&mut frames, Kind::Data, Class::Normal, 3, &[1; 128]);
    Box::new(move || {
        black_box(split(black_box(&frames), |_| 65_536).is_ok());
    })
}

struct Entries(Vec<Link>);

impl Links for Entries {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.0[index as usize]
    }
}

fn timers() -> Box<dyn FnMut()> {
    let mut entries = Entries(vec![Link::default(); 1000]);
    let mut wheel = Wheel::new();
    for index in 0..1000 {
        wheel.file(&mut entries, index, 1 + u64::from(index));
    }
    let mut tick = 0;
    Box::new(move || {
        tick += 1;
        while let Some(index) = wheel.pop_expired(&mut entries, tick) {
            wheel.file(&mut entries, index, tick + 1000);
        }
    })
}

/// Every client in turn receives the same bytes.
fn from_clients(bytes: &Piece) -> Box<dyn FnMut()> {
    let (mut bench, _) = populated();
    let (bytes, mut client) = (bytes.clone(), 0);
    Box::new(move || {
        bench.receive(FIRST_CLIENT + client, &bytes);
        bench.turn();
        client = (client + 1) % CLIENTS;
    })
}

fn pings() -> Box<dyn FnMut()> {
    from_clients(&piece(|out| put(out, Kind::Ping, Class::Command, 0, b"heart")))
}

fn submits() -> Box<dyn FnMut()> {
    let submit = Submit {
        client_id: vec![1; 16].into(),
        to: "bob".into(),
        payload: vec![2; 128].into(),
        ..Submit::default()
    };
    from_clients(&piece(|out| put_message(out, Kind::Data.byte(), Class::Reliable.flags(), 1, &submit)))
}

fn acknowledgements() -> Box<dyn FnMut()> {
    from_clients(&piece(|out| put_sync_id(out, Kind::Ack, 1, 5)))
}

fn visits() -> Box<dyn FnMut()> {
    let mut bench = deserted(2);
    // Somebody stays: tables and pages that come with the first and go with the last are no part of a visit.
    log_in(&mut bench, 1);
    Box::new(move || {
        log_in(&mut bench, 0);
        log_out(&mut bench, 0);
    })
}

fn pushes() -> Box<dyn FnMut()> {
    let (mut bench, sessions) = populated();
    let body = delivery();
    let frames: Vec<Piece> = sessions
        .iter()
        .map(|session| piece(|out| Push::data(1, *session, Class::Normal, &body).put(out, false)))
        .collect();
    let mut next = 0;
    Box::new(move || {
        let before = bench.sent();
        bench.receive(SERVICE, &frames[next]);
        bench.turn();
        assert_eq!(bench.sent(), before + 1, "a push is one send");
        next = (next + 1) % frames.len();
    })
}

fn broadcasts() -> Box<dyn FnMut()> {
    let (mut bench, _) = populated();
    let body = delivery();
    let all = Broadcast {
        cookie: 1,
        kind: Kind::Data.byte(),
        flags: Class::Transient.flags(),
        app: "shop",
        body: &body,
    };
    let frame = piece(|out| all.put(out, false));
    Box::new(move || {
        let before = bench.sent();
        bench.receive(SERVICE, &frame);
        bench.turn();
        assert_eq!(bench.sent(), before + u64::from(CLIENTS), "a send per session");
    })
}

fn batches() -> Box<dyn FnMut()> {
    let (mut bench, _) = populated();
    let enter =
        piece(|out| put_control(out, Kind::Enter, 1, &RoomEnter { room: "live".into(), last_id: None }));
    for client in 0..CLIENTS {
        bench.receive(FIRST_CLIENT + client, &enter);
    }
    bench.turn();
    let mut records = Vec::new();
    for _ in 0..10 {
        let message =
            RoomMessage { from: "bob".into(), payload: vec![7; 64].into(), ..RoomMessage::default() };
        put_record(&mut records, Class::Normal, &message);
    }
    let state = RoomState { online: CLIENTS, ..RoomState::default() };
    let push = RoomPush { app: "shop", room: "live", state, dropped: 0, records: &records };
    let frame = piece(|out| push.put(out));
    Box::new(move || {
        let before = bench.sent();
        bench.receive(LINK, &frame);
        // A turn has some of the members; all of them may have it at once.
        for _ in 0..(CLIENTS as usize).div_ceil(ROOM_MEMBERS_PER_TURN_MAX) {
            bench.turn();
        }
        assert_eq!(bench.sent(), before + u64::from(CLIENTS), "a send per member");
    })
}
