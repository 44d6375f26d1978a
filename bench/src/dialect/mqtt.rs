//! MQTT 3.1.1 with QoS 0: a clean session, topics `u/<n>` and `all`.

use super::{Broken, Cut, MESSAGE_BYTES_MAX, Meaning, carried};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 0xd0;
/// The kind without its flags.
const KIND_MASK: u8 = 0xf0;
/// The return code of a subscription that was refused.
const SUBSCRIPTION_REFUSED: u8 = 0x80;

/// CONNECT and SUBSCRIBE in one write: section 3.1.4 lets a client go on before CONNACK.
pub fn login(number: u32) -> Vec<u8> {
    let mut out = connect(&format!("client-{number}"));
    // Packet identifier 1, which SUBACK repeats; after each filter the QoS asked for.
    let mut body = vec![0, 1];
    for topic in [format!("u/{number}"), "all".to_owned()] {
        put_text(&mut body, &topic);
        body.push(0);
    }
    put_packet(&mut out, SUBSCRIBE, &[&body]);
    out
}

/// CONNECT, and a ping whose answer ends the handshake.
pub fn hello() -> Vec<u8> {
    let mut out = connect("service");
    out.extend_from_slice(&PINGREQ);
    out
}

/// PUBLISH.
pub fn put_push(out: &mut Vec<u8>, session: Option<u64>, body: &[u8]) {
    let mut topic = Vec::with_capacity(16);
    put_text(&mut topic, &session.map_or_else(|| "all".to_owned(), |number| format!("u/{number}")));
    put_packet(out, PUBLISH, &[&topic, body]);
}

/// One packet.
pub fn try_cut(number: u32, bytes: &[u8]) -> Cut<'_> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, rest)) = remaining_length(rest)? else { return Ok(None) };
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let meaning = match kind & KIND_MASK {
        CONNACK => match body {
            [_, 0] => Meaning::Other,
            _ => Meaning::Refused(format!("CONNACK {body:?}")),
        },
        SUBACK if body.len() == 4 && !body[2..].contains(&SUBSCRIPTION_REFUSED) => {
            Meaning::LoggedIn(u64::from(number))
        }
        SUBACK => Meaning::Refused(format!("SUBACK {body:?}")),
        PINGRESP => Meaning::LoggedIn(u64::from(number)),
        PUBLISH => {
            let (topic, body) = body.split_first_chunk::<2>().ok_or(Broken)?;
            Meaning::Push(carried(body.get(usize::from(u16::from_be_bytes(*topic))..).ok_or(Broken)?))
        }
        _ => Meaning::Other,
    };
    Ok(Some((meaning, rest)))
}

/// Seven bits a byte, the lowest first, at most four bytes (section 2.2.3).
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Broken> {
    let mut length = 0;
    for place in 0..4 {
        let Some(byte) = bytes.get(place) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return if length > MESSAGE_BYTES_MAX {
                Err(Broken)
            } else {
                Ok(Some((length, &bytes[place + 1..])))
            };
        }
    }
    Err(Broken)
}

fn connect(client: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(32);
    put_text(&mut body, "MQTT");
    // Protocol level 4, clean session, and a keep-alive no run lives to see; rumqttd refuses to have it off.
    body.extend_from_slice(&[4, 2, 0xff, 0xff]);
    put_text(&mut body, client);
    let mut out = Vec::with_capacity(64);
    put_packet(&mut out, CONNECT, &[&body]);
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_packet(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.push(kind);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let more = length >= 0x80;
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::dialect::tests::means;

    #[test]
    fn packets_are_understood_however_they_are_cut() {
        let mut stream = vec![CONNACK, 2, 0, 0, SUBACK, 4, 0, 1, 0, 0];
        let mut body = 77u64.to_be_bytes().to_vec();
        body.resize(128, 0x6d);
        put_push(&mut stream, Some(7), &body);
        put_push(&mut stream, None, &body);
        let wanted = [Meaning::Other, Meaning::LoggedIn(7), Meaning::Push(77), Meaning::Push(77)];
        means(Dialect::Mqtt, &stream, &wanted);
    }

    #[test]
    fn a_refusal_is_no_login() {
        means(Dialect::Mqtt, &[CONNACK, 2, 0, 5], &[Meaning::Refused("CONNACK [0, 5]".to_owned())]);
        let refused = Meaning::Refused("SUBACK [0, 1, 0, 128]".to_owned());
        means(Dialect::Mqtt, &[SUBACK, 4, 0, 1, 0, 0x80], &[refused]);
    }

    #[test]
    fn a_login_is_connect_and_two_filters() {
        let wanted = b"\x10\x14\0\x04MQTT\x04\x02\xff\xff\0\x08client-5\x82\x0e\0\x01\0\x03u/5\0\0\x03all\0";
        assert_eq!(login(5), wanted);
    }

    #[test]
    fn long_messages_have_long_lengths() {
        let mut out = Vec::new();
        put_push(&mut out, Some(1), &[0; 200]);
        assert_eq!(out[..8], [PUBLISH, 0x80 | 77, 1, 0, 3, b'u', b'/', b'1']);
        assert_eq!(remaining_length(&out[1..]), Ok(Some((205, &out[3..]))));
    }
}
