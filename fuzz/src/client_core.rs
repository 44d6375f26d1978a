//! The client's session, fed with arbitrary bytes of a server, arbitrary wishes of its app, and arbitrary time.
//!
//! What holds whatever comes: messages of a channel come once and in order; nothing is acknowledged that was not
//! received; every submit is answered once or still waits; a timer that was served is not due again at once; what goes
//! out is what a gateway accepts.

use std::collections::HashMap;

use bytes::Bytes;
use moor_client::core::{Event, Options, Session};
use moor_wire::client::{Class, GroupAck, Kind, Pull, body_bytes_max, put, sync_id};
use moor_wire::frame::{Split, split};
use moor_wire::limits::CLIENT_BODY_BYTES_MAX;
use prost::Message as _;

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
    let mut options = Options::new("device");
    let first = input.byte();
    options.auto_acknowledge = first & 1 == 0;
    options.heartbeat_max_ms = if first & 2 == 0 { 0 } else { 50_000 };
    let mut bench = Bench {
        session: Session::new(options, u64::from(first)),
        now: 1000,
        channels: HashMap::new(),
        fresh: false,
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        bench.step(&mut input);
        bench.look();
    }
}

/// What the app knows of a channel.
#[derive(Default)]
struct Channel {
    /// Highest sync id that came, or that will never come.
    received: Option<u64>,
    unanswered: usize,
}

struct Bench {
    session: Session,
    now: u64,
    channels: HashMap<u16, Channel>,
    /// Nothing was sent on this connection yet.
    fresh: bool,
}

impl Bench {
    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.choice(17);
        let channel = 1 + input.choice(3) as u16;
        match op {
            0 => {
                let last = [None, Some(0), Some(5)][input.choice(3)];
                let account = ["alice", "bob", ""][input.choice(3)];
                self.close(channel);
                self.session.open(channel, "shop", account, Bytes::new(), last);
                self.channels.insert(channel, Channel { received: last, unanswered: 0 });
            }
            1 => self.close(channel),
            2 => {
                let payload = vec![7; usize::from(input.byte()) * 16];
                let client_id = Bytes::copy_from_slice(&[b'a' + input.byte() % 4]);
                if self.session.submit(channel, client_id, "bob", payload.into(), self.now).is_ok() {
                    self.channels.get_mut(&channel).expect("a channel that was opened").unanswered += 1;
                }
            }
            3 => {
                let id = if input.choice(8) == 0 { input.long() } else { u64::from(input.byte()) };
                self.session.acknowledge(channel, id, self.now);
            }
            4 => self.now += u64::from(input.short()),
            5 => {
                if let Some(at) = self.session.poll_timeout() {
                    self.now = self.now.max(at);
                }
            }
            6 => self.hear(&seeds::connected(u32::from(input.short()), u32::from(input.short()))),
            7 => self.hear(&seeds::opened(channel, 3)),
            8 => self.hear(&seeds::close(channel, i32::from(input.byte() % 20))),
            9 | 10 => {
                let far = input.choice(16) == 0;
                let id = if far { input.long() } else { u64::from(input.byte() % 16) };
                let floor = if far { input.long() } else { u64::from(input.byte() % 16) };
                self.hear(&seeds::delivery(channel, id, floor));
            }
            11 => {
                let client_id = [b'a' + input.byte() % 4];
                self.hear(&seeds::result(channel, &client_id, i32::from(input.byte() % 20)));
            }
            12 => self.hear(&seeds::away(u32::from(input.short()), input.long() as u32)),
            13 => self.hear(&seeds::error(i32::from(input.byte() % 20))),
            14 => {
                let body = input.piece();
                self.hear(&seeds::bytes(|out| put(out, Kind::Ping, Class::Command, 0, body)));
            }
            15 => {
                let piece = input.piece();
                self.hear(piece);
            }
            _ => self.session.handle_disconnected(self.now),
        }
    }

    /// What a channel says on its way out is still about what it was.
    fn close(&mut self, channel: u16) {
        self.session.close(channel);
        self.transmit();
        self.channels.remove(&channel);
    }

    fn transmit(&mut self) {
        if let Some(out) = self.session.poll_transmit(self.now) {
            self.check_sent(&out);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.session.handle_bytes(bytes, self.now);
    }

    /// What a driver does after everything that happened.
    fn look(&mut self) {
        self.take_events();
        for turn in 0.. {
            if self.session.wants_hang_up() {
                self.session.handle_disconnected(self.now);
            }
            if self.session.wants_connection(self.now) {
                self.session.handle_dialling();
                self.session.handle_connected(self.now);
                self.fresh = true;
            }
            if self.session.poll_timeout().is_none_or(|at| at > self.now) {
                break;
            }
            assert!(turn < 4, "a timer that was served is due again: {:?}", self.session);
            self.session.handle_timeout(self.now);
        }
        self.take_events();
        self.transmit();
        let unanswered: usize = self.channels.values().map(|channel| channel.unanswered).sum();
        assert_eq!(self.session.unanswered(), unanswered, "submits are neither lost nor invented");
    }

    fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event(self.now) {
            match event {
                Event::Message { channel, sync_id: Some(id), .. } => {
                    let channel =
                        self.channels.get_mut(&channel).expect("messages of a closed channel are dropped");
                    assert!(
                        channel.received.is_none_or(|received| id == received + 1),
                        "{id} came out of order"
                    );
                    channel.received = Some(id);
                }
                Event::Expired { channel, from, to } => {
                    let Some(channel) = self.channels.get_mut(&channel) else { continue };
                    assert!(from <= to && channel.received.is_some_and(|received| from == received + 1));
                    channel.received = Some(to);
                }
                Event::Accepted { channel, .. }
                | Event::Refused { channel, .. }
                | Event::Abandoned { channel, .. } => {
                    let channel = self.channels.get_mut(&channel).expect("of a channel that was opened");
                    channel.unanswered =
                        channel.unanswered.checked_sub(1).expect("one answer for each submit");
                }
                // This app wants no rooms: what is said in one is none of its business.
                Event::Room { .. } => panic!("heard in a room that was never entered"),
                Event::GroupExpired { from, to, .. } => assert!(from <= to),
                Event::GroupMessage { .. }
                | Event::GroupLeft { .. }
                | Event::GroupAnswer { .. }
                | Event::RoomRefused { .. }
                | Event::ReadMark { .. }
                | Event::DeviceAck { .. }
                | Event::Delayed { .. }
                | Event::Connected { .. }
                | Event::Disconnected(_)
                | Event::NotConnected { .. }
                | Event::Opened { .. }
                | Event::Closed { .. }
                | Event::Message { sync_id: None, .. } => {}
            }
        }
    }

    /// A gateway takes what is sent for what it is.
    fn check_sent(&mut self, mut out: &[u8]) {
        while !out.is_empty() {
            let Ok(Split::Frame { header, body, rest }) =
                split(out, |kind| body_bytes_max(kind, CLIENT_BODY_BYTES_MAX))
            else {
                panic!("not a frame that a gateway takes: {out:?}")
            };
            out = rest;
            let kind = Kind::from_byte(header.kind).expect("a known kind");
            assert_eq!(
                std::mem::take(&mut self.fresh),
                kind == Kind::Connect,
                "CONNECT comes first, and once"
            );
            match kind {
                Kind::Connect | Kind::Ping | Kind::Pong => assert_eq!(header.channel, 0),
                Kind::Open | Kind::Close | Kind::Data => assert_ne!(header.channel, 0),
                Kind::Ack => {
                    let id = sync_id(body).expect("eight bytes");
                    let received = self.channels.get(&header.channel).and_then(|channel| channel.received);
                    assert!(received.is_some_and(|received| id <= received), "{id} was not received");
                }
                Kind::Sync => assert!(sync_id(body).is_some()),
                Kind::GroupAck => assert!(GroupAck::decode(body).is_ok()),
                Kind::Pull => assert!(Pull::decode(body).is_ok()),
                kind => panic!("{kind:?} is not for a client to send"),
            }
        }
    }
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    vec![
        // Logged in, messages, a gap that is filled, acknowledgements in time.
        vec![
            0, 0, 0, 1, 0, 6, 0, 234, 96, 255, 255, 7, 0, 9, 0, 1, 1, 1, 9, 0, 1, 2, 1, 9, 0, 1, 5, 1, 9, 0,
            1, 3, 1, 5, 0, 5, 0,
        ],
        // Submits, answered, refused for now, sent again.
        vec![
            1, 0, 0, 0, 0, 6, 0, 234, 96, 0, 0, 7, 0, 2, 0, 3, 0, 2, 0, 1, 1, 11, 0, 0, 0, 11, 0, 1, 7, 5, 0,
            5, 0, 11, 0, 1, 0,
        ],
        // Sent away, a channel closed by the server, the app leaves.
        vec![
            2, 0, 0, 0, 0, 0, 1, 0, 1, 6, 0, 9, 0, 0, 0, 7, 0, 7, 1, 8, 1, 11, 12, 0, 1, 0, 0, 0, 0, 0, 0, 0,
            2, 0, 5, 0, 1, 0,
        ],
        // Bytes of nobody.
        vec![3, 6, 0, 9, 0, 0, 0, 15, 0, 9, 4, 0, 0, 1, 0, 0, 0, 1, 0, 16, 0, 5, 0],
    ]
}
