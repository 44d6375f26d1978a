//! Against an independent implementation, the client of `tungstenite`: it reads what we write, and we read what
//! it writes.

use std::io::{self, Read, Write};

use crate::support::{Event, decode};
use moor_websocket::encode::{put_close, put_message, put_ping, put_pong};
use moor_websocket::{CloseCode, Decoder, Kind};
use proptest::prelude::*;
use tungstenite::protocol::frame::coding::CloseCode as TheirCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// Both directions as bytes in memory; a read past what there is would block.
#[derive(Default)]
struct Pipe {
    to_client: Vec<u8>,
    read: usize,
    to_server: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.to_client[self.read..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.read += length;
        Ok(length)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_server.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(to_client: Vec<u8>) -> WebSocket<Pipe> {
    let config = WebSocketConfig::default();
    WebSocket::from_raw_socket(Pipe { to_client, ..Pipe::default() }, Role::Client, Some(config))
}

fn theirs(event: &Event) -> Message {
    match event {
        Event::Message(Kind::Text, bytes) => Message::text(String::from_utf8_lossy(bytes).into_owned()),
        Event::Message(Kind::Binary, bytes) => Message::binary(bytes.clone()),
        Event::Ping(payload) => Message::Ping(payload.clone().into()),
        Event::Pong(payload) => Message::Pong(payload.clone().into()),
        Event::Close(code, reason) => Message::Close(
            code.map(|code| CloseFrame { code: TheirCode::from(code.get()), reason: reason.as_str().into() }),
        ),
        Event::Begun(..) | Event::Error(_) => unreachable!("not to be said"),
    }
}

fn event() -> impl Strategy<Value = Event> {
    let payload = || prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Event::Message(Kind::Binary, bytes)),
        (65_500usize..65_600).prop_map(|length| Event::Message(Kind::Binary, vec![3; length])),
        ".{0,80}".prop_map(|text| Event::Message(Kind::Text, text.into_bytes())),
        payload().prop_map(Event::Ping),
        payload().prop_map(Event::Pong),
    ]
}

fn close() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Close(None, String::new())),
        (3000u16..5000, "[a-z€]{0,40}")
            .prop_map(|(code, reason)| Event::Close(CloseCode::from_client(code), reason)),
    ]
}

proptest! {
    #[test]
    fn we_read_what_they_write(
        mut events in prop::collection::vec(event(), 0..6),
        end in prop::option::of(close()),
        sizes in prop::collection::vec(1usize..200, 0..5),
    ) {
        let mut client = client(Vec::new());
        events.extend(end.clone());
        for event in &events {
            client.write(theirs(event)).unwrap();
            client.flush().unwrap();
        }
        let decoded = decode(&client.get_ref().to_server, &sizes, 1 << 20);
        prop_assert_eq!(decoded.events, events);
        prop_assert_eq!(decoded.decoder == Decoder::default(), end.is_none());
    }

    #[test]
    fn they_read_what_we_write(events in prop::collection::vec(event(), 0..6), end in close()) {
        let mut out = Vec::new();
        for event in events.iter().chain([&end]) {
            match event {
                Event::Message(kind, bytes) => put_message(&mut out, *kind, bytes),
                Event::Ping(payload) => put_ping(&mut out, payload),
                Event::Pong(payload) => put_pong(&mut out, payload),
                Event::Close(code, reason) => put_close(&mut out, *code, reason),
                Event::Begun(..) | Event::Error(_) => unreachable!("not to be said"),
            }
        }
        let mut client = client(out);
        for event in events.iter().chain([&end]) {
            prop_assert_eq!(client.read().unwrap(), theirs(event));
        }
    }
}
