//! The NATS client protocol, not verbose: subjects `u.<n>` and `all`.

use super::{Broken, Cut, Meaning, carried, counted, line, number as decimal, text};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false,\"lang\":\"rust\",\"version\":\"1\",\"protocol\":0}\r\n";

/// CONNECT, both subscriptions, and a ping: its answer says that they are in force.
pub fn login(number: u32) -> Vec<u8> {
    format!("{CONNECT}SUB u.{number} 1\r\nSUB all 2\r\nPING\r\n").into_bytes()
}

/// CONNECT, and a ping whose answer ends the handshake.
pub fn hello() -> Vec<u8> {
    format!("{CONNECT}PING\r\n").into_bytes()
}

/// PUB.
pub fn put_push(out: &mut Vec<u8>, session: Option<u64>, body: &[u8]) {
    let head = match session {
        Some(number) => format!("PUB u.{number} {}\r\n", body.len()),
        None => format!("PUB all {}\r\n", body.len()),
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// One line, and the payload when it announces one: `MSG <subject> <sid> [reply-to] <bytes>`.
pub fn try_cut(number: u32, bytes: &[u8]) -> Cut<'_> {
    let Some((said, rest)) = line(bytes)? else { return Ok(None) };
    let mut words = said.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let meaning = match words.next() {
        Some(b"MSG") => {
            let length = decimal(words.next_back().ok_or(Broken)?)?;
            let Some((body, rest)) = counted(rest, length)? else { return Ok(None) };
            return Ok(Some((Meaning::Push(carried(body)), rest)));
        }
        Some(b"PONG") => Meaning::LoggedIn(u64::from(number)),
        Some(b"PING") => Meaning::Asked(b"PONG\r\n".to_vec()),
        Some(b"-ERR") => Meaning::Refused(text(said)),
        Some(b"INFO" | b"+OK") => Meaning::Other,
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
    fn lines_and_payloads_are_understood_however_they_are_cut() {
        let mut stream = b"INFO {\"server_id\":\"x\"} \r\n+OK\r\nPONG\r\nPING\r\n".to_vec();
        // A payload that looks like lines.
        let mut body = 77u64.to_be_bytes().to_vec();
        body.extend_from_slice(b"\r\nPONG\r\n");
        for head in ["MSG u.7 1 16\r\n", "MSG all 2 reply.to 16\r\n"] {
            stream.extend_from_slice(head.as_bytes());
            stream.extend_from_slice(&body);
            stream.extend_from_slice(b"\r\n");
        }
        stream.extend_from_slice(b"-ERR 'Slow Consumer'\r\n");
        let wanted = [
            Meaning::Other,
            Meaning::Other,
            Meaning::LoggedIn(7),
            Meaning::Asked(b"PONG\r\n".to_vec()),
            Meaning::Push(77),
            Meaning::Push(77),
            Meaning::Refused("-ERR 'Slow Consumer'".to_owned()),
        ];
        means(Dialect::Nats, &stream, &wanted);
    }

    #[test]
    fn a_payload_ends_where_it_says() {
        assert_eq!(try_cut(7, b"MSG u.7 1 2\r\nabcd\r\n"), Err(Broken));
        assert_eq!(try_cut(7, b"MSG u.7 1 99999999\r\n"), Err(Broken));
        assert_eq!(try_cut(7, b"HELLO\r\n"), Err(Broken));
    }

    #[test]
    fn a_message_is_said_with_its_length() {
        let mut out = Vec::new();
        put_push(&mut out, Some(12), b"12345678");
        put_push(&mut out, None, b"12345678");
        assert_eq!(out, b"PUB u.12 8\r\n12345678\r\nPUB all 8\r\n12345678\r\n");
        assert!(login(3).ends_with(b"SUB u.3 1\r\nSUB all 2\r\nPING\r\n"));
    }
}
