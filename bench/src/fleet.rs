//! The clients of one driver as plain data: who is how far, and what a received frame means. No I/O, no clock.

use std::collections::HashMap;

use moor_ring::Slot;
use moor_wire::client::{
    Class, Close, Connect, Connected, Error, GoAway, Kind, Open, Opened, put, put_control,
};
use moor_wire::frame::{Header, Split, split};
use moor_wire::limits::{CLIENT_VERSION, SERVER_BODY_BYTES_MAX};
use prost::Message;

/// The app everybody logs in to.
pub const APP: &str = "bench";

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Idle,
    /// Connecting or logging in.
    Greeting,
    /// Logged in.
    Live,
    /// Dropped in the storm; its descriptor is being closed.
    Dropped,
    /// Over.
    Gone,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its descriptor, while it has one.
    pub slot: Slot,
    /// How far it is.
    pub stage: Stage,
    /// True exactly when a send is in flight.
    pub sending: bool,
    /// When its connect began, microseconds.
    pub began_us: u64,
}

/// What a frame meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The server's terms.
    Terms {
        /// Heartbeat interval, milliseconds.
        heartbeat_ms: u64,
    },
    /// Logged in, with this handle.
    LoggedIn(u64),
    /// Answer to a ping that carried this.
    Pong(u64),
    /// A push that carried this.
    Push(u64),
    /// The server wants this client no more.
    Refused(String),
    /// Nothing of interest.
    Other,
}

/// The clients of one driver.
#[derive(Debug)]
pub struct Fleet {
    /// By index in this fleet.
    pub members: Vec<Member>,
    first: u32,
    channels: u16,
    /// Starts of frames whose rest has not come.
    remainders: HashMap<u32, Vec<u8>>,
    /// What waits for a send in flight to end.
    backlog: HashMap<u32, Vec<u8>>,
}

impl Fleet {
    /// `count` clients, the first of which has number `first` among all, with so many channels each.
    pub fn new(first: u32, count: u32, channels: u16) -> Self {
        let member = Member { slot: Slot(0), stage: Stage::Idle, sending: false, began_us: 0 };
        Self {
            members: vec![member; count as usize],
            first,
            channels,
            remainders: HashMap::new(),
            backlog: HashMap::new(),
        }
    }

    /// The account of the client with this number among all: 24 bytes, like those of the memory target.
    pub fn account(number: u32) -> String {
        format!("bench-account-{number:010}")
    }

    /// CONNECT and every OPEN of a client, the first channel's last: when that is answered all are.
    pub fn login(&self, index: u32) -> Vec<u8> {
        let number = self.first + index;
        let mut out = Vec::with_capacity(128);
        let connect = Connect {
            version: CLIENT_VERSION,
            device: format!("bench-device-{number:07}"),
            ..Connect::default()
        };
        put_control(&mut out, Kind::Connect, 0, &connect);
        for channel in (1..=self.channels).rev() {
            let app = if channel == 1 { APP.to_owned() } else { format!("{APP}-{channel}") };
            let account = Self::account(number);
            let open = Open { app, account, last_sync_id: Some(0), ..Open::default() };
            put_control(&mut out, Kind::Open, channel, &open);
        }
        out
    }

    /// A PING that carries a time.
    pub fn ping(time_us: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put(&mut out, Kind::Ping, Class::Command, 0, &time_us.to_be_bytes());
        out
    }

    /// What a client has to send now: `bytes`, unless a send is in flight; then they wait.
    pub fn try_send(&mut self, index: u32, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let member = &mut self.members[index as usize];
        if std::mem::replace(&mut member.sending, true) {
            self.backlog.entry(index).or_default().extend(bytes);
            return None;
        }
        Some(bytes)
    }

    /// A send ended: what waited for it, if anything did.
    pub fn handle_sent(&mut self, index: u32) -> Option<Vec<u8>> {
        let next = self.backlog.remove(&index);
        self.members[index as usize].sending = next.is_some();
        next
    }

    /// A client is over.
    pub fn forget(&mut self, index: u32) {
        self.end(index, Stage::Gone);
    }

    /// A client drops, to come back.
    pub fn drop_out(&mut self, index: u32) {
        self.end(index, Stage::Dropped);
    }

    fn end(&mut self, index: u32, stage: Stage) {
        self.members[index as usize].stage = stage;
        self.remainders.remove(&index);
        self.backlog.remove(&index);
    }

    /// Cuts received bytes into frames and says what each meant. False: the server does not keep the protocol.
    pub fn handle_bytes(&mut self, index: u32, bytes: &[u8], mut meaning: impl FnMut(Meaning)) -> bool {
        let begun = self.remainders.remove(&index);
        let joined = begun.map(|mut begun| {
            begun.extend_from_slice(bytes);
            begun
        });
        let mut rest = joined.as_deref().unwrap_or(bytes);
        loop {
            match split(rest, |_| SERVER_BODY_BYTES_MAX) {
                Ok(Split::Frame { header, body, rest: tail }) => {
                    meaning(interpret(header, body));
                    rest = tail;
                }
                Ok(Split::Need(_)) => {
                    if !rest.is_empty() {
                        self.remainders.insert(index, rest.to_vec());
                    }
                    return true;
                }
                Err(_) => return false,
            }
        }
    }
}

fn interpret(header: Header, body: &[u8]) -> Meaning {
    let carried = || body.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    match Kind::from_byte(header.kind) {
        Some(Kind::Connected) => Connected::decode(body)
            .map_or(Meaning::Other, |terms| Meaning::Terms { heartbeat_ms: u64::from(terms.heartbeat_ms) }),
        Some(Kind::Opened) if header.channel == 1 => {
            Opened::decode(body).map_or(Meaning::Other, |opened| Meaning::LoggedIn(opened.session))
        }
        // The floor sends back what it gets.
        Some(Kind::Pong | Kind::Ping) => Meaning::Pong(carried()),
        Some(Kind::Data) => Meaning::Push(carried()),
        Some(Kind::GoAway) => {
            Meaning::Refused(format!("GOAWAY {:?}", GoAway::decode(body).unwrap_or_default()))
        }
        Some(Kind::Error) => Meaning::Refused(format!("ERROR {:?}", Error::decode(body).unwrap_or_default())),
        Some(Kind::Close) => Meaning::Refused(format!("CLOSE {:?}", Close::decode(body).unwrap_or_default())),
        _ => Meaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_have_24_bytes() {
        let fleet = Fleet::new(7, 1, 1);
        let login = fleet.login(0);
        let text = String::from_utf8_lossy(&login);
        assert!(text.contains("bench-account-0000000007"));
        assert_eq!("bench-account-0000000007".len(), 24);
    }

    #[test]
    fn the_first_channel_is_opened_last_and_its_answer_is_the_login() {
        let login = Fleet::new(0, 1, 3).login(0);
        let mut rest = &login[..];
        let mut opened = Vec::new();
        while let Ok(Split::Frame { header, rest: tail, .. }) = split(rest, |_| SERVER_BODY_BYTES_MAX) {
            opened.push(header.channel);
            rest = tail;
        }
        assert_eq!(opened, [0, 3, 2, 1]);
        let mut answer = Vec::new();
        put_control(&mut answer, Kind::Opened, 2, &Opened { session: 8 });
        put_control(&mut answer, Kind::Opened, 1, &Opened { session: 9 });
        let mut seen = Vec::new();
        assert!(Fleet::new(0, 1, 3).handle_bytes(0, &answer, |meaning| seen.push(meaning)));
        assert_eq!(seen, [Meaning::Other, Meaning::LoggedIn(9)]);
    }

    #[test]
    fn frames_are_understood_however_they_are_cut() {
        let mut stream = Fleet::ping(5);
        put_control(&mut stream, Kind::Opened, 1, &Opened { session: 9 });
        put(&mut stream, Kind::Data, Class::Normal, 1, &77u64.to_be_bytes());
        stream[0] = Kind::Pong.byte();
        for cut in 1..stream.len() {
            let mut fleet = Fleet::new(0, 1, 1);
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                assert!(fleet.handle_bytes(0, piece, |meaning| seen.push(meaning)));
            }
            assert_eq!(seen, [Meaning::Pong(5), Meaning::LoggedIn(9), Meaning::Push(77)]);
        }
    }

    #[test]
    fn one_send_is_in_flight_and_the_rest_waits() {
        let mut fleet = Fleet::new(0, 1, 1);
        assert_eq!(fleet.try_send(0, vec![1]), Some(vec![1]));
        assert_eq!(fleet.try_send(0, vec![2]), None);
        assert_eq!(fleet.try_send(0, vec![3]), None);
        assert_eq!(fleet.handle_sent(0), Some(vec![2, 3]));
        assert_eq!(fleet.handle_sent(0), None);
        assert_eq!(fleet.try_send(0, vec![4]), Some(vec![4]));
    }
}
