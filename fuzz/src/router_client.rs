//! A service's connection to a router or a gateway, fed with arbitrary bytes, requests and time.
//!
//! What holds whatever comes: every request is answered exactly once; a timer that was served is not due again at once;
//! HELLO comes first, and nothing but whole frames goes out.

use std::collections::HashSet;

use moor_router_client::core::{Config, Connection, Error, Event, Request, Ticket};
use moor_wire::internal::{Verb, frame_reader};

use crate::input::Input;
use crate::seeds;

/// Steps of an input; more say nothing new.
const STEPS_MAX: usize = 400;

/// A first byte with options, then steps.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.byte();
    let mut config = Config::new((first & 1 == 1).then_some(b"token"));
    config.in_flight_max = 8;
    let mut bench = Bench {
        connection: Connection::new(config, u64::from(first), 1000),
        now: 1000,
        waiting: HashSet::new(),
        answered: 0,
        is_connecting: false,
        fresh: false,
    };
    let frames = seeds::internal_frames();
    bench.look();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        bench.step(&mut input, &frames);
        bench.look();
    }
    // However it went, all are answered in the end.
    bench.now += 1_000_000;
    bench.look();
    assert!(bench.waiting.is_empty(), "requests without an answer: {:?}", bench.waiting);
}

struct Bench {
    connection: Connection,
    now: u64,
    waiting: HashSet<Ticket>,
    answered: u64,
    is_connecting: bool,
    fresh: bool,
}

impl Bench {
    fn step(&mut self, input: &mut Input<'_>, frames: &[Vec<u8>]) {
        match input.choice(8) {
            0 => self.request(input),
            1 => self.now += u64::from(input.short()),
            2 => {
                if let Some(at) = self.connection.poll_timeout() {
                    self.now = self.now.max(at);
                }
            }
            // A frame as it should be, but for its cookie: the eight bytes that begin most bodies.
            3 | 4 => {
                let mut frame = frames[input.choice(frames.len())].clone();
                let cookie = u64::from(input.byte());
                match Verb::from_byte(frame[0]) {
                    Some(Verb::SendResult | Verb::LookupResult | Verb::StatsResult) => {
                        // The tag of a fixed64 in field 1, then its bytes, least first.
                        frame[9..17].copy_from_slice(&cookie.to_le_bytes());
                    }
                    Some(Verb::Outcome | Verb::NotHere) => {
                        frame[8..16].copy_from_slice(&cookie.to_be_bytes())
                    }
                    _ => {}
                }
                if frame.len() > 18 && frame[0] == Verb::Outcome.byte() {
                    frame[17] = input.byte() % 20;
                }
                self.connection.handle_bytes(self.now, &frame);
            }
            5 => {
                let piece = input.piece();
                self.connection.handle_bytes(self.now, piece);
            }
            6 => self.connection.handle_disconnected(self.now, broken()),
            _ => {
                if std::mem::take(&mut self.is_connecting) {
                    self.connection.handle_connected(self.now);
                    self.fresh = true;
                }
            }
        }
    }

    fn request(&mut self, input: &mut Input<'_>) {
        let request = match input.choice(8) {
            0 => Request::send("shop", "alice", "bob", Some(b"1"), b"hello"),
            1 => Request::lookup("shop", "alice"),
            2 => Request::push(3, (input.choice(2) == 0).then_some(7), "alice", b"hello"),
            3 => Request::push_account("shop", "alice", "bob", b"hello"),
            4 => Request::broadcast("shop", "alice", b"hello"),
            5 => Request::kick("shop", "alice", None, "out"),
            6 => Request::subscribe("shop"),
            _ => Ok(Request::Stats),
        };
        let request = request.expect("names that are names");
        if let Ok(ticket) = self.connection.request(self.now, request) {
            assert!(self.waiting.insert(ticket), "a ticket twice");
        }
    }

    /// What a face does after everything that happened.
    fn look(&mut self) {
        for turn in 0.. {
            self.take_events();
            if self.connection.poll_timeout().is_none_or(|at| at > self.now) {
                break;
            }
            assert!(turn < 4, "a timer that was served is due again");
            self.connection.handle_timeout(self.now);
        }
        if let Some(out) = self.connection.poll_transmit() {
            let mut reader = frame_reader();
            reader.push(&out);
            while let Some(frame) = reader.try_next().expect("frames that a router takes") {
                let verb = Verb::from_byte(frame.header.kind).expect("a known verb");
                assert_eq!(
                    std::mem::take(&mut self.fresh),
                    verb == Verb::Hello,
                    "HELLO comes first, and once"
                );
            }
            assert!(reader.buffer_mut().is_empty(), "half a frame was sent");
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Connect => self.is_connecting = true,
                Event::Close | Event::Lost(_) | Event::Stopped(_) => self.is_connecting = false,
                Event::Answered(ticket, _) => {
                    assert!(self.waiting.remove(&ticket), "an answer that nobody waits for");
                    self.answered += 1;
                }
                Event::Ready(_) | Event::Receipt(_) | Event::Unsubscribed { .. } => {}
            }
        }
        assert!(self.connection.in_flight() >= self.waiting.len(), "a request was forgotten");
    }
}

fn broken() -> Error {
    Error::Connection { address: "router".into(), reason: "reset".into() }
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    vec![
        // Greeted, a request of each kind, answers to some.
        vec![0, 7, 3, 1, 0, 0, 0, 0, 0, 1, 0, 3, 0, 6, 0, 7, 3, 13, 1, 3, 15, 2, 3, 10, 3, 0, 3, 18, 5],
        // The connection breaks under way and comes back.
        vec![1, 7, 3, 1, 0, 0, 2, 0, 0, 2, 1, 6, 2, 7, 3, 1, 0, 3, 8, 1],
        // Busy, then in time; then silence.
        vec![0, 7, 3, 1, 0, 0, 3, 3, 10, 1, 8, 2, 2, 2, 2, 5, 8, 3, 0, 0, 0, 0, 0, 0, 0],
        // Sent away for good.
        vec![1, 0, 5, 7, 3, 2, 0, 0, 0],
    ]
}
