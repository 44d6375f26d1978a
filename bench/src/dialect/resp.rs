//! Redis pub/sub in RESP2: channels `u/<n>` and `all`.

use super::{Broken, Cut, Meaning, carried, counted, line, number as decimal, text};

/// Most parts of an array: pub/sub sends three.
const PARTS_MAX: usize = 4;

/// SUBSCRIBE to both channels, `all` last: when that is confirmed both are.
pub fn login(number: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_command(&mut out, &[b"SUBSCRIBE", format!("u/{number}").as_bytes(), b"all"]);
    out
}

/// PING.
pub fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_command(&mut out, &[b"PING"]);
    out
}

/// PUBLISH.
pub fn put_push(out: &mut Vec<u8>, session: Option<u64>, body: &[u8]) {
    let channel = session.map_or_else(|| "all".to_owned(), |number| format!("u/{number}"));
    put_command(out, &[b"PUBLISH", channel.as_bytes(), body]);
}

fn put_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// One reply.
pub fn try_cut(number: u32, bytes: &[u8]) -> Cut<'_> {
    let Some((said, rest)) = line(bytes)? else { return Ok(None) };
    let (kind, value) = said.split_first().ok_or(Broken)?;
    let meaning = match kind {
        b'+' if value == b"PONG" => Meaning::LoggedIn(u64::from(number)),
        // An integer counts the receivers of a PUBLISH.
        b'+' | b':' => Meaning::Other,
        b'-' => Meaning::Refused(text(said)),
        b'*' => return array(number, decimal(value)?, rest),
        _ => return Err(Broken),
    };
    Ok(Some((meaning, rest)))
}

/// `message`, `subscribe` or whatever else begins with a word: bulk strings and integers.
fn array(number: u32, parts: usize, mut rest: &[u8]) -> Cut<'_> {
    let mut found: [&[u8]; PARTS_MAX] = [b""; PARTS_MAX];
    for part in found.get_mut(..parts).ok_or(Broken)? {
        let Some((said, tail)) = line(rest)? else { return Ok(None) };
        (*part, rest) = match said.split_first() {
            Some((b'$', length)) => match counted(tail, decimal(length)?)? {
                Some(found) => found,
                None => return Ok(None),
            },
            Some((b':', value)) => (value, tail),
            _ => return Err(Broken),
        };
    }
    let meaning = match found {
        [b"message", _, body, _] => Meaning::Push(carried(body)),
        [b"subscribe", b"all", ..] => Meaning::LoggedIn(u64::from(number)),
        _ => Meaning::Other,
    };
    Ok(Some((meaning, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::dialect::tests::means;

    #[test]
    fn replies_are_understood_however_they_are_cut() {
        let mut stream = b"+PONG\r\n:3\r\n*3\r\n$9\r\nsubscribe\r\n$3\r\nu/7\r\n:1\r\n".to_vec();
        stream.extend_from_slice(b"*3\r\n$9\r\nsubscribe\r\n$3\r\nall\r\n:2\r\n");
        let mut body = 77u64.to_be_bytes().to_vec();
        body.extend_from_slice(b"\r\n+PONG\r\n");
        put_command(&mut stream, &[b"message", b"u/7", &body]);
        put_command(&mut stream, &[b"message", b"all", &body]);
        stream.extend_from_slice(b"-ERR max number of clients reached\r\n");
        let wanted = [
            Meaning::LoggedIn(7),
            Meaning::Other,
            Meaning::Other,
            Meaning::LoggedIn(7),
            Meaning::Push(77),
            Meaning::Push(77),
            Meaning::Refused("-ERR max number of clients reached".to_owned()),
        ];
        means(Dialect::Resp, &stream, &wanted);
    }

    #[test]
    fn what_redis_does_not_say_is_broken() {
        for wrong in [&b"*9\r\n"[..], b"\r\n", b"*1\r\n+x\r\n", b"*1\r\n$2\r\nabcd\r\n", b"*1\r\n$-1\r\n"] {
            assert_eq!(try_cut(7, wrong), Err(Broken), "{}", text(wrong));
        }
    }

    #[test]
    fn a_message_is_a_command() {
        let mut out = Vec::new();
        put_push(&mut out, Some(12), b"12345678");
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nu/12\r\n$8\r\n12345678\r\n");
        assert_eq!(login(1), b"*3\r\n$9\r\nSUBSCRIBE\r\n$3\r\nu/1\r\n$3\r\nall\r\n");
    }
}
