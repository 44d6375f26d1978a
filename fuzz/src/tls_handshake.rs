//! What anybody on the internet may say to a TLS port before it knows them: bytes instead of, or in the midst of, a
//! handshake.

use std::sync::LazyLock;

use moor_tls::limits::HANDSHAKE_BYTES_MAX;
use moor_tls::{Handshake, Progress, Records, Server};
use rustls::ClientConnection;

use crate::input::{Input, pieces};
use crate::tls::conversation::PAIR;
use crate::tls::{Wishes, client, client_config, settings, take};

/// One for each form of a session.
static SERVERS: LazyLock<[Server; 2]> = LazyLock::new(|| {
    [Records::Rustls, Records::Compact]
        .map(|records| Server::new(&settings(records, vec![PAIR.clone()])).expect("a certificate of our own"))
});

/// Which server, how the stream is cut, how much of a real client's first flight comes first, then bytes.
///
/// # Panics
/// When more is held or said than allowed.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let server = &SERVERS[input.choice(SERVERS.len())];
    let cuts = [input.byte(), input.byte()];
    let mut stream = Vec::new();
    let genuine = input.byte();
    if genuine > 0 {
        stream = hello();
        stream.truncate(stream.len() * usize::from(genuine) / 255);
    }
    stream.extend_from_slice(input.0);
    let mut handshake = Handshake::new(server).expect("a server makes handshakes");
    let mut said = 0;
    for piece in pieces(&stream, &cuts) {
        let mut out = Vec::new();
        let progress = handshake.advance(piece, &mut out);
        said += out.len();
        assert!(said <= 3 * HANDSHAKE_BYTES_MAX, "{said} bytes for a stranger");
        match progress {
            Ok(Progress::NeedMore(next)) => handshake = next,
            Ok(Progress::Done(_)) => panic!("a handshake without a client"),
            Err(_) => return,
        }
    }
}

fn hello() -> Vec<u8> {
    let config = client_config(std::slice::from_ref(&*PAIR), &Wishes::default());
    let mut client: ClientConnection = client(&config, "shop.example");
    take(&mut client)
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let with = |head: &[u8], bytes: &[u8]| [head, bytes].concat();
    vec![
        with(&[0, 255, 255, 0], &hello()),
        with(&[1, 20, 3, 255], &[20, 3, 3, 0, 1, 1]),
        with(&[1, 20, 3, 255], &[21, 3, 3, 0, 2, 1, 0]),
        with(&[0, 20, 3, 100], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
        with(&[1, 0, 0, 0], b"GET / HTTP/1.1\r\n"),
    ]
}
