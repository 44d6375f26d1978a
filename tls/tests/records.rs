//! The two forms of a session, side by side: the same bytes from a client mean the same to both.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions")]

mod support;

use std::sync::LazyLock;

use moor_tls::{Error, Pair, Records, Server, Session};
use proptest::prelude::*;
use rustls::{CipherSuite as Suite, ClientConnection};
use support::{Wishes, client, client_config, give, meet, open, pair, say, seal, settings, take};

const SUITES: [Suite; 3] =
    [Suite::TLS13_AES_128_GCM_SHA256, Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_CHACHA20_POLY1305_SHA256];

/// Making one takes longer than a handshake.
static PAIR: LazyLock<Pair> = LazyLock::new(|| pair(&["shop.example"]));

fn established(records: Records, suite: Suite, fragment: Option<usize>) -> (Session, ClientConnection) {
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
enum Step {
    Say(usize),
    /// New keys for what the client sends; it asks the server for the same.
    UpdateKeys,
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![8 => 0usize..300, 1 => Just(16 * 1024), 1 => 0usize..40_000].prop_map(Step::Say),
        3 => Just(Step::UpdateKeys),
        4 => prop_oneof![8 => 1usize..300, 1 => 1usize..40_000].prop_map(Step::Hear),
        1 => Just(Step::Close),
        1 => any::<usize>().prop_map(Step::Corrupt),
        1 => prop::collection::vec(any::<u8>(), 5..40).prop_map(Step::Forge),
        1 => (20u8..25, 0usize..20_000).prop_map(|(kind, length)| {
            let mut bytes = vec![kind, 3, 3];
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            bytes.resize(5 + length, 0);
            Step::Forge(bytes)
        }),
        1 => Just(Step::Repeat),
    ]
}

/// What became of a connection, as somebody outside sees it.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Heard(Vec<u8>),
    Closed,
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

fn play(records: Records, suite: Suite, fragment: Option<usize>, cuts: usize, steps: &[Step]) -> Vec<Seen> {
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
                    give(&mut client, &out).unwrap();
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
                    // What is no record at all is a matter of taste: rustls tells decode_error from unexpected_message.
                    let forged = matches!(step, Step::Forge(_)) && told != 255;
                    seen.push(Seen::Failed(if forged { 0 } else { told }));
                    return seen;
                }
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn both_forms_see_the_same(
        suite in prop::sample::select(&SUITES[..]),
        fragment in prop_oneof![3 => Just(None), 1 => Just(Some(64)), 1 => Just(Some(1000))],
        cuts in prop_oneof![Just(100_000usize), 20usize..50, 500usize..2000],
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let rustls = play(Records::Rustls, suite, fragment, cuts, &steps);
        let compact = play(Records::Compact, suite, fragment, cuts, &steps);
        prop_assert_eq!(rustls, compact);
    }

    #[test]
    fn a_session_goes_on_as_bytes(suite in prop::sample::select(&SUITES[..]), moves in 1usize..6) {
        let (mut session, mut client) = established(Records::Compact, suite, None);
        for _ in 0..moves {
            let bytes = session.to_bytes().unwrap();
            for length in 0..bytes.len() {
                prop_assert!(Session::from_bytes(&bytes[..length]).is_none());
            }
            session = Session::from_bytes(&bytes).unwrap();
            client.refresh_traffic_keys().unwrap();
            let said = say(&mut client, b"hello");
            let (plain, out) = open(&mut session, &said).unwrap();
            prop_assert_eq!(plain, b"hello");
            give(&mut client, &out).unwrap();
            let bytes = seal(&mut session, b"welcome");
            prop_assert_eq!(give(&mut client, &bytes).unwrap(), b"welcome");
        }
    }

    #[test]
    fn no_bytes_make_a_session_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Session::from_bytes(&bytes));
    }
}

#[test]
fn key_updates_without_data_have_a_limit_in_both() {
    for records in [Records::Rustls, Records::Compact] {
        let (mut session, mut client) = established(records, SUITES[0], None);
        let mut update = |client: &mut ClientConnection| {
            client.refresh_traffic_keys().unwrap();
            let bytes = take(client);
            open(&mut session, &bytes).map(|(_, out)| give(client, &out).unwrap())
        };
        for _ in 0..32 {
            update(&mut client).unwrap();
        }
        update(&mut client).unwrap_err();
    }
}

#[test]
fn data_in_between_makes_key_updates_free_again() {
    for records in [Records::Rustls, Records::Compact] {
        let (mut session, mut client) = established(records, SUITES[1], None);
        for _ in 0..100 {
            client.refresh_traffic_keys().unwrap();
            let bytes = say(&mut client, b"x");
            let (_, mut out) = open(&mut session, &bytes).unwrap();
            out.append(&mut seal(&mut session, b"y"));
            assert_eq!(give(&mut client, &out).unwrap(), b"y");
        }
    }
}

/// Bytes that a session holds, its handshake's leftovers included.
fn weigh(records: Records) -> i64 {
    let server = Server::new(&settings(records, vec![PAIR.clone()])).unwrap();
    let config =
        client_config(std::slice::from_ref(&*PAIR), &Wishes { suite: Some(SUITES[0]), ..Wishes::default() });
    let mut sessions = Vec::with_capacity(8);
    let mut weigh_one = || {
        let mut client = client(&config, "shop.example");
        let mut to_server = take(&mut client);
        let counted = allocation_counter::measure(|| {
            let mut handshake = moor_tls::Handshake::new(&server).unwrap();
            let session = loop {
                let mut to_client = Vec::new();
                match handshake.advance(&to_server, &mut to_client).unwrap() {
                    moor_tls::Progress::NeedMore(next) => handshake = next,
                    moor_tls::Progress::Done(done) => break done.session,
                }
                allocation_counter::opt_out(|| {
                    give(&mut client, &to_client).unwrap();
                    to_server = take(&mut client);
                });
            };
            sessions.push(session);
        });
        counted.bytes_current
    };
    // What is made once is made in the first.
    weigh_one();
    weigh_one()
}

#[test]
fn what_a_session_keeps_is_small() {
    let (compact, rustls) = (weigh(Records::Compact), weigh(Records::Rustls));
    assert!((200..=256).contains(&compact), "{compact} bytes");
    assert!(rustls > 4 * compact, "{rustls} bytes: then compact need not be");
    println!("a session keeps {compact} bytes, rustls's {rustls}");
}
