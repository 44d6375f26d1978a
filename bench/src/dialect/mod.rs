//! What clients and services say to each kind of server, and what its answers mean. No I/O, no clock.
//!
//! Every dialect says the same five things: the login of client n (with its own topic and the one of everybody), a
//! heartbeat where the protocol has one, the hello of a service, a message for one client or for all, and the
//! meaning of received bytes, however they are cut. The first eight bytes of a message's payload are its time.

mod moor;
mod mqtt;
mod nats;
mod resp;
mod websocket;

use std::rc::Rc;

use moor_wire::Code;

pub use moor::{APP, account};

/// The longest message understood, bytes: the largest payload of the harness and room for its wrapping.
const MESSAGE_BYTES_MAX: usize = 72 * 1024;
/// The longest line understood, bytes; NATS introduces itself with about 500.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Moor's protocols: the client's, and the internal one of services.
    Moor {
        /// Where clients log in; a further channel's app has its number behind.
        app: &'static str,
        /// Channels on each connection.
        channels: u16,
        /// Whether clients' frames lie in messages of a WebSocket.
        websocket: bool,
        /// They send messages to each other, so that DATA is a delivery and no service's push. The first one's account
        /// has this number.
        chat: Option<u32>,
    },
    /// The floor: a greeting, then whatever a service says.
    Bare,
    /// MQTT 3.1.1 with QoS 0.
    Mqtt,
    /// The NATS client protocol.
    Nats,
    /// Redis pub/sub in RESP2.
    Resp,
    /// WebSocket: a client says its number in the path, a service says index and payload in a binary message.
    WebSocket,
}

/// What a received message meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The server's terms.
    Terms {
        /// Heartbeat interval, milliseconds.
        heartbeat_ms: u64,
    },
    /// Logged in and subscribed, with this handle. Of a service: its hello was taken.
    LoggedIn(u64),
    /// Answer to a ping that carried this.
    Pong(u64),
    /// A message that carried this.
    Push(u64),
    /// A message of another client: its place in the timeline, and the time it carried.
    Delivered {
        /// 1, 2, 3 and so on.
        sync_id: u64,
        /// 0: none.
        time: u64,
    },
    /// What became of a message of this client.
    Answered {
        /// Taken, or why not.
        code: Code,
        /// Its place in the receiver's timeline.
        sync_id: u64,
        /// The time it carried.
        time: u64,
    },
    /// The server wants these bytes back, at once.
    Asked(Vec<u8>),
    /// The server wants this client no more.
    Refused(String),
    /// The login is one too many of its app, or of its device where it was logged in.
    Limited(String),
    /// So is the room that it wanted to enter.
    RoomLimited(String),
    /// The server wants it later: at a random moment between these, milliseconds.
    TurnedAway(u32, u32),
    /// What was said in a room, or what was pulled of it.
    Room(Rc<RoomNews>),
    /// Nothing of interest.
    Other,
}

/// What a frame told of a room.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RoomNews {
    /// Reliable messages' ids, else 0, and the times their payloads carry.
    pub messages: Vec<(u64, u64)>,
    /// Messages that were left out.
    pub dropped: u64,
    /// Id of the newest reliable message.
    pub newest_id: u64,
    /// Sessions in the room.
    pub online: u32,
    /// It answers a pull.
    pub is_pulled: bool,
}

/// The server does not keep its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The first message of some bytes and what follows it; nothing while its end has not come.
pub type Cut<'a> = Result<Option<(Meaning, &'a [u8])>, Broken>;

impl Dialect {
    /// The protocol's name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moor { .. } => "Moor",
            Self::Bare => "none",
            Self::Mqtt => "MQTT 3.1.1",
            Self::Nats => "NATS",
            Self::Resp => "RESP2",
            Self::WebSocket => "WebSocket",
        }
    }

    /// Login and subscriptions of the client with this number; the floor wants none.
    pub fn login(self, number: u32) -> Option<Vec<u8>> {
        match self {
            Self::Moor { app, channels, websocket, chat } => {
                let account = account(chat.unwrap_or(0).wrapping_add(number));
                let login = moor::login(app, number, &account, channels);
                Some(if websocket { websocket::moor_login(&login) } else { login })
            }
            Self::Bare => None,
            Self::Mqtt => Some(mqtt::login(number)),
            Self::Nats => Some(nats::login(number)),
            Self::Resp => Some(resp::login(number)),
            Self::WebSocket => Some(websocket::login(number)),
        }
    }

    /// The same for clients that send messages to each other, the first of which has the account of this number.
    pub const fn in_chat(self, first_account: u32) -> Self {
        match self {
            Self::Moor { app, channels, websocket, .. } => {
                Self::Moor { app, channels, websocket, chat: Some(first_account) }
            }
            other => other,
        }
    }

    /// A heartbeat that carries a time; those that have no such thing stay silent.
    pub fn ping(self, time_us: u64) -> Option<Vec<u8>> {
        match self {
            Self::Moor { .. } | Self::Bare => Some(self.carry(moor::ping(time_us))),
            _ => None,
        }
    }

    /// Frames of a client as they travel: over a WebSocket they lie in a message.
    pub fn carry(self, frames: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Moor { websocket: true, .. } => websocket::message(&frames),
            _ => frames,
        }
    }

    /// What a service says first; [`Meaning::LoggedIn`] answers it. Moor's internal protocol has a handshake of its
    /// own and the floor wants none.
    pub fn hello(self) -> Option<Vec<u8>> {
        match self {
            Self::Moor { .. } | Self::Bare => None,
            Self::Mqtt => Some(mqtt::hello()),
            Self::Nats => Some(nats::hello()),
            Self::Resp => Some(resp::hello()),
            Self::WebSocket => Some(websocket::hello()),
        }
    }

    /// Appends a message for one client, by the handle of its login, or for everybody.
    pub fn put_push(self, out: &mut Vec<u8>, session: Option<u64>, cookie: u64, body: &[u8]) {
        match self {
            Self::Moor { app, .. } => moor::put_push(out, app, session, cookie, body),
            Self::Bare => moor::put_bare(out, session, body),
            Self::Mqtt => mqtt::put_push(out, session, body),
            Self::Nats => nats::put_push(out, session, body),
            Self::Resp => resp::put_push(out, session, body),
            Self::WebSocket => websocket::put_push(out, session, body),
        }
    }

    /// Cuts off the first message that came to the client with this number.
    pub fn try_cut(self, number: u32, bytes: &[u8]) -> Cut<'_> {
        match self {
            Self::Moor { websocket: true, chat, .. } => websocket::moor_try_cut(chat.is_some(), bytes),
            Self::Moor { chat, .. } => moor::try_cut(chat.is_some(), bytes),
            Self::Bare => moor::try_cut(false, bytes),
            Self::Mqtt => mqtt::try_cut(number, bytes),
            Self::Nats => nats::try_cut(number, bytes),
            Self::Resp => resp::try_cut(number, bytes),
            Self::WebSocket => websocket::try_cut(number, bytes),
        }
    }
}

/// The time a payload carries; 0 is none.
fn carried(body: &[u8]) -> u64 {
    body.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What was looked for at the front of received bytes, and what follows it.
type Halves<'b> = (&'b [u8], &'b [u8]);

/// A line that ends with CR LF, and what follows it.
fn line(bytes: &[u8]) -> Result<Option<Halves<'_>>, Broken> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match window.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => Ok(Some((&bytes[..end], &bytes[end + 2..]))),
        None if window.len() == LINE_BYTES_MAX => Err(Broken),
        None => Ok(None),
    }
}

/// A decimal number of at most nine digits.
fn number(text: &[u8]) -> Result<usize, Broken> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Broken);
    }
    Ok(text.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

/// So many bytes and CR LF, and what follows.
fn counted(bytes: &[u8], length: usize) -> Result<Option<Halves<'_>>, Broken> {
    if length > MESSAGE_BYTES_MAX {
        return Err(Broken);
    }
    let Some((body, rest)) = bytes.split_at_checked(length) else { return Ok(None) };
    let Some((end, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
    if end == b"\r\n" { Ok(Some((body, rest))) } else { Err(Broken) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What client 7 understands of a stream that comes in pieces of this size.
    fn understood(dialect: Dialect, stream: &[u8], piece: usize) -> Result<Vec<Meaning>, Broken> {
        let (mut seen, mut begun) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(piece) {
            begun.extend_from_slice(bytes);
            while let Some((meaning, rest)) = dialect.try_cut(7, &begun)? {
                let left = rest.len();
                seen.push(meaning);
                begun.drain(..begun.len() - left);
            }
        }
        assert!(begun.is_empty(), "{dialect:?} left {begun:?}");
        Ok(seen)
    }

    /// A stream means the same however it is cut.
    pub fn means(dialect: Dialect, stream: &[u8], wanted: &[Meaning]) {
        for piece in 1..=stream.len() {
            assert_eq!(understood(dialect, stream, piece).as_deref(), Ok(wanted), "pieces of {piece}");
        }
    }

    #[test]
    fn what_nobody_would_send_is_broken_and_not_waited_for() {
        let endless = vec![b'a'; LINE_BYTES_MAX];
        for dialect in [Dialect::Nats, Dialect::Resp, Dialect::WebSocket] {
            assert_eq!(dialect.try_cut(7, &endless), Err(Broken), "{dialect:?}");
        }
        assert_eq!(Dialect::Mqtt.try_cut(7, &[0x30, 0xff, 0xff, 0xff, 0xff]), Err(Broken));
        assert_eq!(Dialect::Mqtt.try_cut(7, &[0x30, 0xff, 0xff, 0xff, 0x7f]), Err(Broken));
    }

    #[test]
    fn numbers_are_short_and_decimal() {
        assert_eq!(number(b"128"), Ok(128));
        for wrong in [&b""[..], b"-1", b"1a", b"1234567890"] {
            assert_eq!(number(wrong), Err(Broken));
        }
    }
}
