//! The two forms of a session, side by side: the same bytes from a client mean the same to both.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions")]

mod support;

use moor_tls::{Records, Server, Session};
use proptest::prelude::*;
use rustls::ClientConnection;
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
