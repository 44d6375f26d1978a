//! What handshakes and records cost on one core: `cargo run --release -p moor-tls --example records`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use moor_tls::{Records, Server, Session};
use rustls::{CipherSuite as Suite, ClientConfig, HandshakeKind};
use support::{Wishes, client, client_config, give, meet, say, settings};

/// Time a figure takes.
const EACH: Duration = Duration::from_millis(700);
const RECORD_BYTES: usize = 128;

fn main() {
    for (kind, pair, tls12) in [
        ("ECDSA P-256", support::pair(&["shop.example"]), Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (
            "RSA-2048",
            support::pair_with(&["shop.example"], &rcgen::PKCS_RSA_SHA256),
            Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ),
    ] {
        println!("{kind}");
        for records in [Records::Rustls, Records::Compact] {
            let server =
                Server::new(&settings(records, vec![pair.clone()])).expect("settings of this program");
            handshakes(&server, &pair, Suite::TLS13_AES_128_GCM_SHA256, &format!("{records:?}, TLS 1.3"));
            if records == Records::Rustls {
                handshakes(&server, &pair, tls12, &format!("{records:?}, TLS 1.2"));
            }
            let mut client = client(&config(&pair, Suite::TLS13_AES_128_GCM_SHA256), "shop.example");
            let mut session = meet(&server, &mut client, 100_000).expect("a handshake").session;
            println!("{records:?}: seals {RECORD_BYTES} bytes in {:.0} ns", sealing(&mut session));
            println!(
                "{records:?}: opens {RECORD_BYTES} bytes in {:.0} ns",
                opening(&mut session, &mut client)
            );
        }
    }
}

/// What a client is told that has never been here.
fn config(pair: &moor_tls::Pair, suite: Suite) -> Arc<ClientConfig> {
    client_config(std::slice::from_ref(pair), &Wishes { suite: Some(suite), ..Wishes::default() })
}

/// Full handshakes and resumed ones, in turn, so that a slow second of the machine is one of both.
fn handshakes(server: &Server, pair: &moor_tls::Pair, suite: Suite, what: &str) {
    let known = config(pair, suite);
    server_time(server, &mut client(&known, "shop.example"));
    let (mut full, mut resumed, mut count) = (Duration::ZERO, Duration::ZERO, 0_u32);
    while full + resumed < EACH * 2 {
        full += server_time(server, &mut client(&config(pair, suite), "shop.example"));
        let mut again = client(&known, "shop.example");
        resumed += server_time(server, &mut again);
        assert_eq!(again.handshake_kind(), Some(HandshakeKind::Resumed));
        count += 1;
    }
    for (kind, spent) in [("full", full), ("resumed", resumed)] {
        let per_s = f64::from(count) / spent.as_secs_f64();
        println!("{what}: {per_s:.0} {kind} handshakes/s, {:.0} us each", 1e6 / per_s);
    }
    println!("{what}: resumed {:.2} times as many as full", full.as_secs_f64() / resumed.as_secs_f64());
}

/// The server's part of a handshake.
fn server_time(server: &Server, client: &mut rustls::ClientConnection) -> Duration {
    let mut spent = Duration::ZERO;
    let begun = Instant::now();
    let mut handshake = moor_tls::Handshake::new(server).expect("a handshake");
    spent += begun.elapsed();
    loop {
        let (bytes, mut out) = (support::take(client), Vec::new());
        let begun = Instant::now();
        let progress = handshake.advance(&bytes, &mut out).expect("the client is honest");
        spent += begun.elapsed();
        give(client, &out).expect("the server is honest");
        match progress {
            moor_tls::Progress::NeedMore(next) => handshake = next,
            moor_tls::Progress::Done(_) => return spent,
        }
    }
}

fn sealing(session: &mut Session) -> f64 {
    let (plain, mut out, mut count) = ([7; RECORD_BYTES], Vec::new(), 0.0);
    let begun = Instant::now();
    while begun.elapsed() < EACH {
        for _ in 0..100 {
            out.clear();
            session.seal(&plain, &mut out).expect("an open session");
        }
        count += 100.0;
    }
    begun.elapsed().as_secs_f64() * 1e9 / count
}

fn opening(session: &mut Session, client: &mut rustls::ClientConnection) -> f64 {
    let (mut spent, mut count) = (Duration::ZERO, 0.0);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    while spent < EACH {
        let mut records: Vec<_> = (0..100).map(|_| say(client, &[7; RECORD_BYTES])).collect();
        let begun = Instant::now();
        for record in &mut records {
            plain.clear();
            session.open(record, &mut plain, &mut out).expect("the client's records");
        }
        spent += begun.elapsed();
        count += 100.0;
    }
    spent.as_secs_f64() * 1e9 / count
}
