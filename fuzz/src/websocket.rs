//! A client's WebSocket frames: however the network cuts them, they are the same messages and the same end.

use moor_websocket::decode::{Error, Piece};
use moor_websocket::limits::CONTROL_BYTES_MAX;
use moor_websocket::{Decoder, Kind, Step};

use crate::input::pieces;

/// Small, so that the fuzzer finds it.
const MESSAGE_BYTES_MAX: u32 = 300;

/// What was said, without where it was cut.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// Four bytes of cuts, then a stream of frames.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let Some((cuts, stream)) = bytes.split_first_chunk::<4>() else { return };
    let mut at_once = Ear::default();
    at_once.hear(stream);
    let mut cut = Ear::default();
    for piece in pieces(stream, cuts) {
        cut.hear(piece);
        // Where the two broke off is where they are compared.
        if cut.error.is_some() {
            break;
        }
    }
    assert_eq!(cut.said, at_once.said);
    assert_eq!(cut.error, at_once.error);
    assert_eq!(cut.decoder.is_idle(), at_once.decoder.is_idle());
    // Of a text that turns out to be none, the pieces before the broken one were lent out already.
    if cut.error.is_none() {
        assert_eq!(cut.begun, at_once.begun);
    }
}

/// Puts messages together.
#[derive(Default)]
struct Ear {
    decoder: Decoder,
    begun: Option<(Kind, Vec<u8>)>,
    said: Vec<Said>,
    error: Option<Error>,
}

impl Ear {
    fn hear(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let mut input = bytes.as_mut_slice();
        loop {
            let before = input.len();
            let step = match self.decoder.poll_step(&mut input, MESSAGE_BYTES_MAX) {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => {
                    self.error = Some(error);
                    self.ended();
                    return;
                }
            };
            assert!(input.len() < before, "a step consumes something");
            match step {
                Step::Data(piece) => take(&mut self.begun, &mut self.said, &piece),
                Step::Ping(payload) => self.said.push(Said::Ping(control(&payload))),
                Step::Pong(payload) => self.said.push(Said::Pong(control(&payload))),
                Step::Close { code, reason } => {
                    control(reason.as_bytes());
                    self.said.push(Said::Close(code.map(|code| code.get()), reason.into_owned()));
                    self.ended();
                    return;
                }
            }
        }
        assert!(input.is_empty(), "all that came is used");
        if self.begun.is_some() {
            assert!(!self.decoder.is_idle(), "a message under way is a state");
        }
    }

    /// Nothing is taken after the end.
    fn ended(&mut self) {
        let mut after = *b"\x82\x80\0\0\0\0";
        let mut input = after.as_mut_slice();
        assert_eq!(self.decoder.poll_step(&mut input, MESSAGE_BYTES_MAX), Ok(None));
        assert!(input.is_empty());
    }
}

fn take(begun: &mut Option<(Kind, Vec<u8>)>, said: &mut Vec<Said>, piece: &Piece<'_>) {
    assert_eq!(piece.first, begun.is_none(), "a message has one first piece");
    let (kind, message) = begun.get_or_insert_with(|| (piece.kind, Vec::new()));
    assert_eq!(*kind, piece.kind);
    assert!(piece.first || piece.last || !piece.bytes.is_empty(), "a piece that says nothing");
    message.extend_from_slice(piece.bytes);
    assert!(message.len() <= MESSAGE_BYTES_MAX as usize);
    if *kind == Kind::Text {
        match std::str::from_utf8(message) {
            Ok(_) => {}
            Err(error) => assert!(
                !piece.last && error.error_len().is_none(),
                "a text that is not UTF-8 was let through"
            ),
        }
    }
    if piece.last
        && let Some((kind, message)) = begun.take()
    {
        said.push(Said::Message(kind, message));
    }
}

fn control(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= CONTROL_BYTES_MAX);
    payload.to_vec()
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    crate::seeds::websocket_streams()
        .into_iter()
        .map(|stream| [&[0, 6, 40, 255][..], &stream].concat())
        .collect()
}
