//! WebSocket (RFC 6455) to a server script of this harness: the path names the client, a text message says that it
//! is subscribed, binary messages are the payload. A service sends index and payload.

use super::{Broken, Cut, LINE_BYTES_MAX, MESSAGE_BYTES_MAX, Meaning, carried, text};

/// Index of a service's message that means everybody.
const EVERYBODY: u32 = u32::MAX;
/// Frames that are not fragments.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// In the second byte of a frame.
const MASKED: u8 = 0x80;
/// Clients must mask; a mask of zeros leaves the bytes as they are, and the server undoes it all the same.
const MASK: [u8; 4] = [0; 4];
/// No frame begins with it: its highest bit is that of a frame that is no fragment.
const HTTP: u8 = b'H';

/// The upgrade of a client.
pub fn login(number: u32) -> Vec<u8> {
    upgrade(&number.to_string())
}

/// The upgrade of a service.
pub fn hello() -> Vec<u8> {
    upgrade("service")
}

/// Moor's login in one message behind the upgrade, without waiting for its answer.
pub fn moor_login(frames: &[u8]) -> Vec<u8> {
    let mut out = upgrade("");
    out.truncate(out.len() - 2);
    out.extend_from_slice(b"Sec-WebSocket-Protocol: moor.v1\r\n\r\n");
    put_frame(&mut out, BINARY, &[frames]);
    out
}

/// One binary message.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, BINARY, &[payload]);
    out
}

/// The answer to the upgrade, the head of a message, or a frame of Moor's in one. The gateway puts whole frames into
/// messages, so that nothing need be kept from one to the next.
pub fn moor_try_cut(in_chat: bool, bytes: &[u8]) -> Cut<'_> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    match *first {
        HTTP => answer(bytes),
        BINARY => {
            let length = match rest {
                [126, ..] => 3,
                [127, ..] => 9,
                [length, ..] if length & MASKED == 0 => 1,
                [] => return Ok(None),
                _ => return Err(Broken),
            };
            Ok(rest.get(length..).map(|rest| (Meaning::Other, rest)))
        }
        kind if kind & 0x80 != 0 => try_cut(0, bytes),
        _ => super::moor::try_cut(in_chat, bytes),
    }
}

/// The key is the example of section 1.2: nobody caches anything here.
fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET /{path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A binary message: index, payload.
pub fn put_push(out: &mut Vec<u8>, session: Option<u64>, body: &[u8]) {
    let index = session.map_or(EVERYBODY, |number| u32::try_from(number).unwrap_or(EVERYBODY));
    put_frame(out, BINARY, &[&index.to_be_bytes(), body]);
}

fn put_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    if length < 126 {
        out.push(MASKED | u8::try_from(length).unwrap_or(0));
    } else if let Ok(length) = u16::try_from(length) {
        out.push(MASKED | 126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(MASKED | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
    out.extend_from_slice(&MASK);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The answer to the upgrade, or one frame.
pub fn try_cut(number: u32, bytes: &[u8]) -> Cut<'_> {
    match bytes {
        [] => Ok(None),
        [HTTP, ..] => answer(bytes),
        [kind, ..] if kind & 0x80 == 0 => Err(Broken),
        [_] => Ok(None),
        [_, length, ..] if length & MASKED != 0 => Err(Broken),
        [kind, length, rest @ ..] => frame(number, *kind, *length, rest),
    }
}

fn answer(bytes: &[u8]) -> Cut<'_> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match window.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) if bytes.starts_with(b"HTTP/1.1 101 ") => Ok(Some((Meaning::Other, &bytes[end + 4..]))),
        Some(end) => Ok(Some((Meaning::Refused(text(&bytes[..end])), &bytes[end + 4..]))),
        None if window.len() == LINE_BYTES_MAX => Err(Broken),
        None => Ok(None),
    }
}

fn frame(number: u32, kind: u8, length: u8, rest: &[u8]) -> Cut<'_> {
    let (length, rest) = match length {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        length => (u64::from(length), rest),
    };
    let length = usize::try_from(length).map_err(|_| Broken)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(Broken);
    }
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let meaning = match kind {
        TEXT => Meaning::LoggedIn(u64::from(number)),
        BINARY => Meaning::Push(carried(body)),
        CLOSE => Meaning::Refused(format!("closed: {body:?}")),
        PING => {
            let mut pong = Vec::new();
            put_frame(&mut pong, PONG, &[body]);
            Meaning::Asked(pong)
        }
        PONG => Meaning::Other,
        _ => return Err(Broken),
    };
    Ok(Some((meaning, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::dialect::tests::means;

    #[test]
    fn the_answer_and_frames_are_understood_however_they_are_cut() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec();
        stream.extend_from_slice(&[TEXT, 1, b'r', BINARY, 8]);
        stream.extend_from_slice(&77u64.to_be_bytes());
        stream.extend_from_slice(&[BINARY, 126, 0, 200]);
        stream.extend_from_slice(&[0; 200]);
        stream.extend_from_slice(&[BINARY, 127, 0, 0, 0, 0, 0, 0, 0, 8]);
        stream.extend_from_slice(&78u64.to_be_bytes());
        stream.extend_from_slice(&[PING, 1, b'p', CLOSE, 2, 3, 0xe8]);
        let wanted = [
            Meaning::Other,
            Meaning::LoggedIn(7),
            Meaning::Push(77),
            Meaning::Push(0),
            Meaning::Push(78),
            Meaning::Asked(vec![PONG, MASKED | 1, 0, 0, 0, 0, b'p']),
            Meaning::Refused("closed: [3, 232]".to_owned()),
        ];
        means(Dialect::WebSocket, &stream, &wanted);
    }

    #[test]
    fn frames_of_moor_in_messages_are_understood_however_they_are_cut() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec();
        let mut pong = crate::dialect::Dialect::Bare.ping(5).unwrap();
        pong[0] = moor_wire::client::Kind::Pong.byte();
        let two = [&pong[..], &pong].concat();
        stream.extend_from_slice(&[BINARY, u8::try_from(two.len()).unwrap()]);
        stream.extend_from_slice(&two);
        stream.extend_from_slice(&[BINARY, 126, 0, u8::try_from(pong.len()).unwrap()]);
        stream.extend_from_slice(&pong);
        stream.extend_from_slice(&[CLOSE, 2, 3, 0xe8]);
        let wanted = [
            Meaning::Other,
            Meaning::Other,
            Meaning::Pong(5),
            Meaning::Pong(5),
            Meaning::Other,
            Meaning::Pong(5),
            Meaning::Refused("closed: [3, 232]".to_owned()),
        ];
        let dialect = Dialect::Moor { app: "bench", channels: 1, websocket: true, chat: None };
        means(dialect, &stream, &wanted);
        assert_eq!(dialect.carry(vec![7, 9]), [BINARY, MASKED | 2, 0, 0, 0, 0, 7, 9]);
    }

    #[test]
    fn an_answer_that_is_no_upgrade_is_a_refusal() {
        let refused = Meaning::Refused("HTTP/1.1 400 Bad Request".to_owned());
        means(Dialect::WebSocket, b"HTTP/1.1 400 Bad Request\r\n\r\n", &[refused]);
    }

    #[test]
    fn fragments_masks_and_giants_are_broken() {
        for wrong in
            [&[0x02, 1, 0][..], &[BINARY, MASKED | 1], &[BINARY, 127, 1, 0, 0, 0, 0, 0, 0, 0], &[0x83, 0]]
        {
            assert_eq!(try_cut(7, wrong), Err(Broken), "{wrong:?}");
        }
    }

    #[test]
    fn a_service_says_index_and_payload() {
        let mut out = Vec::new();
        put_push(&mut out, Some(5), b"12345678");
        assert_eq!(out, [&[BINARY, MASKED | 12, 0, 0, 0, 0, 0, 0, 0, 5][..], b"12345678"].concat());
        out.clear();
        put_push(&mut out, None, &[0; 122]);
        assert_eq!(out[..12], [BINARY, MASKED | 126, 0, 126, 0, 0, 0, 0, 255, 255, 255, 255]);
        out.clear();
        put_push(&mut out, None, &[0; 65_532]);
        assert_eq!(out[..10], [BINARY, MASKED | 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
