//! What a server sends: frames are never masked, messages never fragmented.
//!
//! Everything is appended to the caller's buffer. A payload that lies elsewhere (shared by many connections)
//! is sent behind its [`Head`].

use crate::Kind;
use crate::close::CloseCode;
use crate::limits::{CLOSE_REASON_BYTES_MAX, CONTROL_BYTES_MAX, SERVER_HEAD_BYTES_MAX};

/// The head of a server's frame: [`head_bytes`] of the payload's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; SERVER_HEAD_BYTES_MAX],
    length: u8,
}

impl Head {
    /// The head of a whole message of `payload_bytes` bytes.
    #[must_use]
    pub fn message(kind: Kind, payload_bytes: usize) -> Self {
        let opcode = match kind {
            Kind::Text => 0x1,
            Kind::Binary => 0x2,
        };
        Self::new(opcode, payload_bytes)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each arm holds what its pattern bounds")]
    fn new(opcode: u8, payload_bytes: usize) -> Self {
        const FIN: u8 = 0x80;
        let mut bytes = [0; SERVER_HEAD_BYTES_MAX];
        bytes[0] = FIN | opcode;
        match payload_bytes {
            0..=125 => bytes[1] = payload_bytes as u8,
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            }
        }
        Self { bytes, length: head_bytes(payload_bytes) as u8 }
    }

    /// Its bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Size of the head of a frame with `payload_bytes` bytes: 2 up to 125, 4 up to 65,535, else 10.
#[must_use]
pub const fn head_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => SERVER_HEAD_BYTES_MAX,
    }
}

/// Size of a frame with `payload_bytes` bytes, head included.
#[must_use]
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    head_bytes(payload_bytes) + payload_bytes
}

/// Appends a whole message: [`frame_bytes`] of the payload's length.
pub fn put_message(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    out.extend_from_slice(Head::message(kind, payload.len()).as_bytes());
    out.extend_from_slice(payload);
}

/// Appends a ping; a payload above [`CONTROL_BYTES_MAX`] bytes is cut there.
pub fn put_ping(out: &mut Vec<u8>, payload: &[u8]) {
    put_control(out, 0x9, payload);
}

/// Appends the answer to a ping, with its payload; one above [`CONTROL_BYTES_MAX`] bytes is cut there.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put_control(out, 0xa, payload);
}

/// Appends a close. Without a code there is no reason either: the answer to a close that had none. A reason
/// above [`CLOSE_REASON_BYTES_MAX`] bytes is cut between characters.
pub fn put_close(out: &mut Vec<u8>, code: Option<CloseCode>, reason: &str) {
    let mut payload = [0; CONTROL_BYTES_MAX];
    let mut length = 0;
    if let Some(code) = code {
        let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &reason[..end];
        length = 2 + reason.len();
        payload[..2].copy_from_slice(&code.get().to_be_bytes());
        payload[2..length].copy_from_slice(reason.as_bytes());
    }
    put_control(out, 0x8, &payload[..length]);
}

fn put_control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    out.extend_from_slice(Head::new(opcode, payload.len()).as_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_the_fewest_bytes() {
        let cases: [(usize, &[u8]); 6] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (usize::MAX >> 1, &[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ];
        for (length, expected) in cases {
            assert_eq!(Head::message(Kind::Binary, length).as_bytes(), expected);
            assert_eq!(head_bytes(length), expected.len());
        }
    }

    #[test]
    fn frames_are_as_the_standard_writes_them() {
        let mut out = Vec::new();
        put_message(&mut out, Kind::Text, b"Hello");
        put_ping(&mut out, b"Hello");
        put_pong(&mut out, b"");
        put_close(&mut out, Some(CloseCode::NORMAL), "bye");
        put_close(&mut out, None, "unsaid");
        assert_eq!(out, b"\x81\x05Hello\x89\x05Hello\x8a\x00\x88\x05\x03\xe8bye\x88\x00");
    }

    #[test]
    fn what_does_not_fit_a_control_frame_is_cut() {
        let mut out = Vec::new();
        put_close(&mut out, Some(CloseCode::POLICY), &"é".repeat(100));
        // 61 characters of two bytes: the 62nd would end at 124.
        assert_eq!(out.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&out[4..]).is_ok());
        out.clear();
        put_pong(&mut out, &[7; 300]);
        assert_eq!((out[1], out.len()), (125, 127));
    }
}
