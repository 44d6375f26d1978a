//! The head of a client's frame (RFC 6455, 5.2), refused at the first byte that breaks a rule.

use crate::Kind;
use crate::decode::Error;
use crate::limits::CONTROL_BYTES_MAX;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A fragment of a message, or the whole of it.
    Data { kind: Kind, first: bool, last: bool },
    /// A control frame.
    Control(Control),
}

/// Control frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Close,
    Ping,
    Pong,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) frame: Frame,
    /// Bytes of payload that follow.
    pub(crate) length: u64,
    pub(crate) key: [u8; 4],
    /// Bytes the head itself takes.
    pub(crate) bytes: usize,
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
/// A length byte that announces two bytes of length.
const LENGTH_16: u8 = 126;
/// A length byte that announces eight bytes of length.
const LENGTH_64: u8 = 127;

impl Head {
    /// Reads the head at the front of `bytes`, where `message` is the message under way. `None`: not whole yet,
    /// which takes fewer than [`crate::limits::CLIENT_HEAD_BYTES_MAX`] bytes.
    #[inline]
    pub(crate) fn parse(bytes: &[u8], message: Option<Kind>) -> Result<Option<Self>, Error> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let frame = frame(first, message)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Error::NotMasked);
        }
        let short = second & !MASKED;
        if matches!(frame, Frame::Control(_)) && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Error::ControlTooLong);
        }
        let rest = &bytes[2..];
        let (length, rest, length_bytes) = match short {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u16::from_be_bytes(*length);
                if length < u16::from(LENGTH_16) {
                    return Err(Error::LengthNotMinimal);
                }
                (u64::from(length), rest, 2)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from_be_bytes(*length);
                if length > i64::MAX as u64 {
                    return Err(Error::LengthNegative);
                }
                if length <= u64::from(u16::MAX) {
                    return Err(Error::LengthNotMinimal);
                }
                (length, rest, 8)
            }
            length => (u64::from(length), rest, 0),
        };
        let Some(&key) = rest.first_chunk() else { return Ok(None) };
        Ok(Some(Self { frame, length, key, bytes: 2 + length_bytes + 4 }))
    }
}

/// What the first byte of a head announces.
#[inline]
fn frame(first: u8, message: Option<Kind>) -> Result<Frame, Error> {
    if first & RESERVED != 0 {
        return Err(Error::ReservedBits);
    }
    let last = first & FIN != 0;
    let control = |control| if last { Ok(Frame::Control(control)) } else { Err(Error::ControlFragmented) };
    let begin = |kind| match message {
        None => Ok(Frame::Data { kind, first: true, last }),
        Some(_) => Err(Error::MessageUnfinished),
    };
    match (first & OPCODE, message) {
        (0x0, Some(kind)) => Ok(Frame::Data { kind, first: false, last }),
        (0x0, None) => Err(Error::NothingToContinue),
        (0x1, _) => begin(Kind::Text),
        (0x2, _) => begin(Kind::Binary),
        (0x8, _) => control(Control::Close),
        (0x9, _) => control(Control::Ping),
        (0xa, _) => control(Control::Pong),
        (opcode, _) => Err(Error::ReservedOpcode(opcode)),
    }
}
