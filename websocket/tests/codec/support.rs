//! A client of few words: frames by the byte, and what a decoder makes of them.

use moor_websocket::decode::Error;
use moor_websocket::{CloseCode, Decoder, Kind, Step};

/// Opcodes and the bit of the last fragment, as in the first byte of a frame.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A masked frame with the first byte `first`.
pub fn frame(first: u8, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | u8::try_from(length).expect("in range")),
        length @ 126..=0xffff => {
            out.push(0xfe);
            out.extend_from_slice(&u16::try_from(length).expect("in range").to_be_bytes());
        }
        length => {
            out.push(0xff);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// A stream as a whole, its pieces put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message(Kind, Vec<u8>),
    /// A message that has not ended.
    Begun(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, String),
    Error(Error),
}

/// What became of a stream.
#[derive(Debug)]
pub struct Decoded {
    pub events: Vec<Event>,
    pub decoder: Decoder,
    /// Bytes taken when the stream ended or was used up.
    pub consumed: usize,
    /// Bytes of payload handed out, of control frames too.
    pub payload: usize,
}

/// Feeds `stream` in pieces, as long as `sizes` says and from its front again when it ends; checks on the way
/// what holds for every stream.
pub fn decode(stream: &[u8], sizes: &[usize], message_bytes_max: u32) -> Decoded {
    let mut decoder = Decoder::default();
    let mut bytes = stream.to_vec();
    let (mut rest, mut sizes) = (bytes.as_mut_slice(), sizes.iter().cycle());
    let (mut events, mut begun) = (Vec::new(), None);
    let (mut consumed, mut payload) = (0, 0);
    'stream: while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.clamp(1, rest.len()));
        let (mut input, after) = rest.split_at_mut(size);
        rest = after;
        loop {
            let before = input.len();
            let step = decoder.poll_step(&mut input, message_bytes_max);
            consumed += before - input.len();
            match step {
                Ok(Some(step)) => {
                    assert!(input.len() < before, "a step makes progress");
                    payload += apply(step, &mut begun, &mut events);
                    assert!(payload <= consumed, "no more payload than bytes");
                    if matches!(events.last(), Some(Event::Close(..))) {
                        break 'stream;
                    }
                }
                Ok(None) => {
                    assert!(input.is_empty(), "all is taken before more is asked for");
                    break;
                }
                Err(error) => {
                    events.push(Event::Error(error));
                    break 'stream;
                }
            }
        }
    }
    if let Some((kind, bytes)) = begun {
        let at = events
            .iter()
            .position(|e| matches!(e, Event::Close(..) | Event::Error(_)))
            .unwrap_or(events.len());
        events.insert(at, Event::Begun(kind, bytes));
    }
    Decoded { events, decoder, consumed, payload }
}

/// Adds a step to the events and returns its bytes of payload.
fn apply(step: Step<'_>, begun: &mut Option<(Kind, Vec<u8>)>, events: &mut Vec<Event>) -> usize {
    match step {
        Step::Data(piece) => {
            assert_eq!(piece.first, begun.is_none(), "a first piece begins a message");
            assert!(piece.first || piece.last || !piece.bytes.is_empty(), "a piece says something");
            let (kind, bytes) = begun.get_or_insert_with(|| (piece.kind, Vec::new()));
            assert_eq!(*kind, piece.kind);
            bytes.extend_from_slice(piece.bytes);
            let length = piece.bytes.len();
            if piece.last {
                events.extend(begun.take().map(|(kind, bytes)| Event::Message(kind, bytes)));
            }
            length
        }
        Step::Ping(payload) => {
            events.push(Event::Ping(payload.to_vec()));
            payload.len()
        }
        Step::Pong(payload) => {
            events.push(Event::Pong(payload.to_vec()));
            payload.len()
        }
        Step::Close { code, reason } => {
            events.push(Event::Close(code, reason.to_string()));
            reason.len() + if code.is_some() { 2 } else { 0 }
        }
    }
}
