//! A conversation of a client with one form of a session, and what somebody outside sees of it.

use std::sync::LazyLock;

use moor_tls::{Error, Pair, Records, Server, Session};
use rustls::{CipherSuite as Suite, ClientConnection, PeerMisbehaved};

use super::{Wishes, client, client_config, give, meet, pair, say, seal, settings, take};

/// Those of TLS 1.3.
pub const SUITES: [Suite; 3] =
    [Suite::TLS13_AES_128_GCM_SHA256, Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_CHACHA20_POLY1305_SHA256];

/// Making one takes longer than a handshake.
pub static PAIR: LazyLock<Pair> = LazyLock::new(|| pair(&["shop.example"]));

pub fn established(records: Records, suite: Suite, fragment: Option<usize>) -> (Session, ClientConnection) {
    let server = Server::new(&settings(records, vec![PAIR.clone()])).unwrap();
    let wishes = Wishes { suite: Some(suite), fragment, ..Wishes::default() };
    let mut client = client(&client_config(std::slice::from_ref(&*PAIR), &wishes), "shop.example");
    let session = meet(&server, &mut client, 1000).unwrap().session;
    (session, client)
}

/// Most bytes that the head of a record can claim to be followed by.
const LENGTH_MAX: usize = u16::MAX as usize;

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Step {
    Say(usize),
    /// New keys for what the client sends; it asks the server for the same.
    UpdateKeys,
    /// New keys, and at once what is said with them.
    UpdateAndSay(usize),
    /// The server says something.
    Hear(usize),
    Close,
    /// A byte of the client's next record is touched.
    Corrupt(usize),
    /// Bytes that are no record of this connection.
    Forge(Vec<u8>),
    /// The same record twice.
    Repeat,
}

/// What became of a connection, as somebody outside sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Heard(Vec<u8>),
    Closed,
    /// The client has had enough of the answers to its key updates.
    Left,
    /// The alert that the client was told; 255: none.
    Failed(u8),
}

/// The alert in an error of the client's.
fn alert_of(error: &rustls::Error) -> u8 {
    match error {
        rustls::Error::AlertReceived(alert) => u8::from(*alert),
        other => panic!("the client does not understand the server: {other}"),
    }
}

/// Plays the steps.
pub fn play(
    records: Records,
    suite: Suite,
    fragment: Option<usize>,
    cuts: usize,
    steps: &[Step],
) -> Vec<Seen> {
    let (mut session, mut client) = established(records, suite, fragment);
    let mut seen = Vec::new();
    let mut begun = Vec::new();
    let mut last = Vec::new();
    for step in steps {
        let bytes = match step {
            Step::Say(length) => say(&mut client, &vec![7; *length]),
            Step::UpdateKeys => {
                client.refresh_traffic_keys().unwrap();
                take(&mut client)
            }
            Step::UpdateAndSay(length) => {
                client.refresh_traffic_keys().unwrap();
                let mut bytes = take(&mut client);
                bytes.append(&mut say(&mut client, &vec![6; *length]));
                bytes
            }
            Step::Hear(length) => {
                let bytes = seal(&mut session, &vec![8; *length]);
                assert_eq!(give(&mut client, &bytes).unwrap().len(), *length);
                take(&mut client)
            }
            Step::Close => {
                client.send_close_notify();
                take(&mut client)
            }
            Step::Corrupt(at) => {
                let mut bytes = say(&mut client, b"to be touched");
                let length = bytes.len();
                // Not its length, which would only make the server wait.
                bytes[5 + at % (length - 5)] ^= 1;
                bytes
            }
            // With what follows it, whatever length it claims: one form refuses from the head alone what the other
            // first waits for.
            Step::Forge(bytes) => [bytes.as_slice(), &[0; LENGTH_MAX]].concat(),
            Step::Repeat => last.clone(),
        };
        last.clone_from(&bytes);
        for piece in bytes.chunks(cuts) {
            begun.extend_from_slice(piece);
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let result = session.open(&mut begun, &mut plain, &mut out);
            if !plain.is_empty() {
                match seen.last_mut() {
                    Some(Seen::Heard(before)) => before.append(&mut plain),
                    _ => seen.push(Seen::Heard(plain)),
                }
            }
            match result {
                Ok(opened) => {
                    begun.drain(..opened.used);
                    match give(&mut client, &out) {
                        Ok(_) => {}
                        // It asked for so many, and heard nothing else.
                        Err(rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests)) => {
                            seen.push(Seen::Left);
                            return seen;
                        }
                        Err(error) => panic!("the client does not understand the server: {error}"),
                    }
                    if opened.closed {
                        seen.push(Seen::Closed);
                        let mut out = Vec::new();
                        session.close(&mut out).unwrap();
                        give(&mut client, &out).unwrap();
                        return seen;
                    }
                }
                Err(error) => {
                    let told = give(&mut client, &out).err().map_or(255, |error| alert_of(&error));
                    if let Error::Peer(alert) = error {
                        assert_eq!(alert.0, told, "the client is told");
                    }
                    let is_taste = match step {
                        // What is no record at all: rustls tells decode_error from unexpected_message.
                        Step::Forge(_) => told != 255,
                        // Keys renewed too often: rustls says nothing at all.
                        Step::UpdateKeys | Step::UpdateAndSay(_) => true,
                        _ => false,
                    };
                    seen.push(Seen::Failed(if is_taste { 0 } else { told }));
                    return seen;
                }
            }
        }
    }
    seen
}
