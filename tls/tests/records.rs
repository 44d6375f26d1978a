//! The two forms of a session, side by side: the same bytes from a client mean the same to both.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions")]

mod support;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use moor_tls::{Error, Handshake, Progress, Records, Server, Session};
use proptest::prelude::*;
use rustls::{CipherSuite, ClientConnection, ConnectionTrafficSecrets, ProtocolVersion};
use support::conversation::{PAIR, SUITES, Step, established, play};
use support::{Wishes, client, client_config, give, open, say, seal, settings, take};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![8 => 0usize..300, 1 => Just(16 * 1024), 1 => 0usize..40_000].prop_map(Step::Say),
        3 => Just(Step::UpdateKeys),
        2 => (0usize..300).prop_map(Step::UpdateAndSay),
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

/// A record that the client would not send itself, of a type and with this in it: its next and last one.
fn record(client: ClientConnection, kind: u8, payload: &[u8]) -> Vec<u8> {
    let is_13 = client.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) =
        client.dangerous_extract_secrets().unwrap().tx
    else {
        panic!("only AES-128-GCM");
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
    let (iv, mut sealed) = (iv.as_ref(), payload.to_vec());
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    if is_13 {
        sealed.push(kind);
        let mut nonce: [u8; 12] = iv.try_into().unwrap();
        nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
        let head = [&[23, 3, 3], &length(sealed.len() + 16)[..]].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut sealed).unwrap();
        [head, sealed].concat()
    } else {
        let about = [&sequence.to_be_bytes()[..], &[kind, 3, 3], &length(payload.len())].concat();
        let nonce = Nonce::try_assume_unique_for_key(iv).unwrap();
        key.seal_in_place_append_tag(nonce, Aad::from(&about), &mut sealed).unwrap();
        [&[kind, 3, 3], &length(8 + sealed.len())[..], &iv[4..], &sealed].concat()
    }
}

/// What rustls keeps: TLS 1.2 in any case.
const KEPT: [(Records, CipherSuite); 2] = [
    (Records::Rustls, CipherSuite::TLS13_AES_128_GCM_SHA256),
    (Records::Compact, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
];

#[test]
fn a_part_of_a_handshake_message_ends_a_session_and_nothing_is_said_on_it() {
    for (records, suite) in KEPT {
        for said in [&b""[..], b"before it"] {
            let (mut session, mut client) = established(records, suite, None);
            let mut bytes = say(&mut client, said);
            bytes.append(&mut record(client, 22, &[1]));
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let result = session.open(&mut bytes, &mut plain, &mut out);
            assert!(matches!(result, Err(Error::Fragment)), "{suite:?}: {result:?}");
            assert_eq!(plain, said);
            session.seal(b"the time is over", &mut out).unwrap_err();
            session.close(&mut out).unwrap_err();
        }
    }
}

#[test]
fn a_part_of_a_handshake_message_behind_the_last_ends_the_handshake() {
    for records in [Records::Rustls, Records::Compact] {
        let server = Server::new(&settings(records, vec![PAIR.clone()])).unwrap();
        let wishes = Wishes { suite: Some(SUITES[0]), ..Wishes::default() };
        let mut client = client(&client_config(std::slice::from_ref(&*PAIR), &wishes), "shop.example");
        let mut out = Vec::new();
        let Progress::NeedMore(handshake) =
            Handshake::new(&server).unwrap().advance(&take(&mut client), &mut out).unwrap()
        else {
            panic!("the client has not finished");
        };
        give(&mut client, &out).unwrap();
        let mut last = take(&mut client);
        last.append(&mut record(client, 22, &[24]));
        let result = handshake.advance(&last, &mut out);
        assert!(matches!(result, Err(Error::Fragment)), "{records:?}");
    }
}

#[test]
fn an_empty_record_is_none_that_is_kept() {
    for (records, suite) in KEPT {
        let (mut session, client) = established(records, suite, None);
        assert_eq!(open(&mut session, &record(client, 23, b"")).unwrap().0, b"", "{suite:?}");
        session.seal(b"still here", &mut Vec::new()).unwrap();
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
