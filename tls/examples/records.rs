//! What handshakes and records cost on one core: `cargo run --release -p moor-tls --example records`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use moor_tls::{Records, Server, Session};
use rustls::CipherSuite as Suite;
use support::{Wishes, client, client_config, give, meet, say, settings};

/// Time a figure takes.
const EACH: Duration = Duration::from_millis(700);
const RECORD_BYTES: usize = 128;

fn main() {
    for (kind, pair) in [
        ("ECDSA P-256", support::pair(&["shop.example"])),
        ("RSA-2048", support::pair_with(&["shop.example"], &rcgen::PKCS_RSA_SHA256)),
    ] {
        println!("{kind}");
        measure(&pair);
    }
}

fn measure(pair: &moor_tls::Pair) {
    for records in [Records::Rustls, Records::Compact] {
        let server = Server::new(&settings(records, vec![pair.clone()])).expect("settings of this program");
        for (what, resuming) in [("full", false), ("resumed", true)] {
            let wishes = Wishes { suite: Some(Suite::TLS13_AES_128_GCM_SHA256), ..Wishes::default() };
            let fresh = || client_config(std::slice::from_ref(pair), &wishes);
            let config = fresh();
            let (mut ours, mut count) = (Duration::ZERO, 0_u32);
            while ours < EACH {
                let mut client = client(&if resuming { config.clone() } else { fresh() }, "shop.example");
                ours += server_time(&server, &mut client);
                count += 1;
            }
            let per_s = f64::from(count) / ours.as_secs_f64();
            println!("{records:?}: {per_s:.0} {what} handshakes/s, {:.0} us each", 1e6 / per_s);
        }
        let wishes = Wishes { suite: Some(Suite::TLS13_AES_128_GCM_SHA256), ..Wishes::default() };
        let mut client = client(&client_config(std::slice::from_ref(pair), &wishes), "shop.example");
        let mut session = meet(&server, &mut client, 100_000).expect("a handshake").session;
        println!("{records:?}: seals {RECORD_BYTES} bytes in {:.0} ns", sealing(&mut session));
        println!("{records:?}: opens {RECORD_BYTES} bytes in {:.0} ns", opening(&mut session, &mut client));
    }
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
