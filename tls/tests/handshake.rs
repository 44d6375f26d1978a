//! Handshakes: versions, suites, both forms of a session, names, tickets, clients' certificates.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions")]

mod support;

use moor_tls::{Error, Pair, Records, Server, SettingsError};
use rustls::CipherSuite as Suite;
use support::{
    Wishes, client, client_config, give, meet, open, pair, pair_with, say, seal, settings, take, text,
};

const BOTH: [Records; 2] = [Records::Rustls, Records::Compact];

#[test]
fn every_version_suite_and_form_carries_data_both_ways() {
    let suites = [
        (Suite::TLS13_AES_128_GCM_SHA256, 0x0304),
        (Suite::TLS13_AES_256_GCM_SHA384, 0x0304),
        (Suite::TLS13_CHACHA20_POLY1305_SHA256, 0x0304),
        (Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 0x0303),
        (Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, 0x0303),
        (Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, 0x0303),
    ];
    for records in BOTH {
        for (suite, version) in suites {
            for cut in [1, 7, 100, 100_000] {
                let pair = pair(&["shop.example"]);
                let server = Server::new(&settings(records, vec![pair.clone()])).unwrap();
                let wishes = Wishes { suite: Some(suite), ..Wishes::default() };
                let mut client = client(&client_config(&[pair], &wishes), "shop.example");
                let mut done = meet(&server, &mut client, cut).unwrap();
                assert_eq!(done.version, version);
                assert!(!done.resumed && !done.closed && done.protocol.is_none());
                let compact = done.session.to_bytes().is_some();
                assert_eq!(compact, version == 0x0304 && records == Records::Compact);
                let large = vec![9; 100_000];
                for message in [&b"ping"[..], b"x", &large] {
                    let bytes = say(&mut client, message);
                    assert_eq!(open(&mut done.session, &bytes).unwrap().0, message);
                    let bytes = seal(&mut done.session, message);
                    assert_eq!(give(&mut client, &bytes).unwrap(), message);
                }
            }
        }
    }
}

#[test]
fn what_comes_with_the_last_flight_is_not_lost() {
    for records in BOTH {
        for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
            let pair = pair(&["shop.example"]);
            let server = Server::new(&settings(records, vec![pair.clone()])).unwrap();
            let wishes = Wishes { versions, ..Wishes::default() };
            let mut client = client(&client_config(&[pair], &wishes), "shop.example");
            let mut handshake = moor_tls::Handshake::new(&server).unwrap();
            let mut out = Vec::new();
            // Up to the client's last flight.
            let done = loop {
                let mut bytes = take(&mut client);
                if !client.is_handshaking() {
                    bytes.append(&mut say(&mut client, b"hello"));
                    let next = say(&mut client, b"half of this");
                    bytes.extend_from_slice(&next[..9]);
                    match handshake.advance(&bytes, &mut out).unwrap() {
                        moor_tls::Progress::Done(mut done) => {
                            assert_eq!(done.plain, b"hello");
                            assert_eq!(done.rest, next[..9]);
                            done.rest.extend_from_slice(&next[9..]);
                            break done;
                        }
                        moor_tls::Progress::NeedMore(_) => panic!("that was all"),
                    }
                }
                match handshake.advance(&bytes, &mut out).unwrap() {
                    moor_tls::Progress::NeedMore(next) => handshake = next,
                    // TLS 1.2: the server's is the last flight.
                    moor_tls::Progress::Done(mut done) => {
                        give(&mut client, &out).unwrap();
                        out.clear();
                        done.rest = say(&mut client, b"half of this");
                        break done;
                    }
                }
                give(&mut client, &out).unwrap();
                out.clear();
            };
            let mut session = done.session;
            assert_eq!(open(&mut session, &done.rest).unwrap().0, b"half of this");
            // The tickets were sent with the sequence numbers that the session goes on with.
            out.append(&mut seal(&mut session, b"welcome"));
            let plain = if client.wants_read() { give(&mut client, &out).unwrap() } else { Vec::new() };
            assert!(plain == b"welcome", "{plain:?}");
        }
    }
}

#[test]
fn a_ticket_resumes_on_another_host_with_the_same_keys() {
    for records in BOTH {
        for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
            let pair = pair(&["shop.example"]);
            let one = settings(records, vec![pair.clone()]);
            let mut stranger = one.clone();
            stranger.ticket_keys = Some(text("tickets", "08".repeat(32)));
            let mut alone = one.clone();
            alone.ticket_keys = None;
            let wishes = Wishes { versions: versions.clone(), ..Wishes::default() };
            let config = client_config(&[pair], &wishes);
            let resumed = |settings: &moor_tls::Settings| {
                let server = Server::new(settings).unwrap();
                let mut client = client(&config, "shop.example");
                let mut done = meet(&server, &mut client, 1000).unwrap();
                let bytes = say(&mut client, b"hello");
                assert_eq!(open(&mut done.session, &bytes).unwrap().0, b"hello");
                let bytes = seal(&mut done.session, b"hello");
                assert_eq!(give(&mut client, &bytes).unwrap(), b"hello");
                done.resumed
            };
            assert!(!resumed(&one), "{versions:?}");
            assert!(resumed(&one), "a restart");
            assert!(resumed(&one), "each time");
            assert!(!resumed(&stranger), "other keys");
            assert!(!resumed(&alone));
            assert!(!resumed(&alone), "keys that nobody else has");
        }
    }
}

/// The certificate that a client is shown.
fn shown(server: &Server, trusted: &[Pair], name: &str) -> Option<usize> {
    let mut client = client(&client_config(trusted, &Wishes::default()), name);
    meet(server, &mut client, 1000).ok()?;
    let shown = client.peer_certificates()?.first()?.to_vec();
    trusted.iter().position(|pair| {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(&pair.certificate.bytes).unwrap().as_ref() == shown
    })
}

#[test]
fn a_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let all = [
        pair(&["first.example"]),
        pair_with(&["shop.example"], &rcgen::PKCS_RSA_SHA256),
        pair(&["shop.example"]),
        pair(&["*.wild.example"]),
    ];
    let server = Server::new(&settings(Records::Compact, all.to_vec())).unwrap();
    assert_eq!(shown(&server, &all, "first.example"), Some(0));
    assert_eq!(shown(&server, &all, "shop.example"), Some(2), "the short signature before RSA's");
    assert_eq!(shown(&server, &all, "a.wild.example"), Some(3));
    assert_eq!(shown(&server, &all, "a.b.wild.example"), None, "a star is one label");
    assert_eq!(shown(&server, &all, "other.example"), None, "the first is shown, which is not for it");
}

#[test]
fn who_knows_no_signature_of_ours_is_told_that_nothing_is_in_common() {
    let server = Server::new(&settings(Records::Compact, vec![pair(&["shop.example"])])).unwrap();
    let wishes = Wishes {
        versions: vec![&rustls::version::TLS12],
        suite: Some(Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ..Wishes::default()
    };
    let mut client = client(&client_config(&[pair(&["shop.example"])], &wishes), "shop.example");
    let mut out = Vec::new();
    let begun = moor_tls::Handshake::new(&server).unwrap().advance(&take(&mut client), &mut out).map(|_| ());
    assert!(matches!(begun, Err(Error::Handshake(rustls::Error::PeerIncompatible(_)))), "{begun:?}");
    assert_eq!(out[5..], [2, 40], "handshake_failure");
}

#[test]
fn protocols_are_agreed_on() {
    let pair = pair(&["shop.example"]);
    let mut settings = settings(Records::Compact, vec![pair.clone()]);
    settings.alpn = vec![b"moor/1".to_vec(), b"http/1.1".to_vec()];
    let server = Server::new(&settings).unwrap();
    let meet = |alpn: &[&[u8]]| {
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        let wishes = Wishes { alpn, ..Wishes::default() };
        let mut client = client(&client_config(std::slice::from_ref(&pair), &wishes), "shop.example");
        meet(&server, &mut client, 1000)
    };
    assert_eq!(meet(&[b"http/1.1"]).unwrap().protocol.unwrap(), b"http/1.1");
    assert_eq!(meet(&[b"http/1.1", b"moor/1"]).unwrap().protocol.unwrap(), b"moor/1");
    assert_eq!(meet(&[]).unwrap().protocol, None);
    assert!(matches!(meet(&[b"h2"]), Err(Error::Handshake(_))));
}

#[test]
fn who_must_show_a_certificate_and_does_not_stays_out() {
    let host = pair(&["shop.example"]);
    let known = pair(&["router"]);
    for records in BOTH {
        let mut settings = settings(records, vec![host.clone()]);
        settings.client_authorities = Some(known.certificate.clone());
        let server = Server::new(&settings).unwrap();
        for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
            let come = |shows: Option<Pair>| {
                let wishes = Wishes { versions: versions.clone(), shows, ..Wishes::default() };
                let mut client = client(&client_config(std::slice::from_ref(&host), &wishes), "shop.example");
                meet(&server, &mut client, 1000).map(|_| ())
            };
            assert!(come(Some(known.clone())).is_ok());
            assert!(matches!(come(None), Err(Error::Handshake(rustls::Error::NoCertificatesPresented))));
            assert!(matches!(
                come(Some(pair(&["router"]))),
                Err(Error::Handshake(rustls::Error::InvalidCertificate(_)))
            ));
        }
    }
}

#[test]
fn tls12_can_be_turned_off() {
    let pair = pair(&["shop.example"]);
    let mut settings = settings(Records::Compact, vec![pair.clone()]);
    settings.tls12 = false;
    let server = Server::new(&settings).unwrap();
    let wishes = Wishes { versions: vec![&rustls::version::TLS12], ..Wishes::default() };
    let mut client = client(&client_config(&[pair], &wishes), "shop.example");
    assert!(matches!(meet(&server, &mut client, 1000), Err(Error::Handshake(_))));
}

#[test]
fn what_is_no_handshake_ends_with_an_alert() {
    let server = Server::new(&settings(Records::Compact, vec![pair(&["shop.example"])])).unwrap();
    let begin = |bytes: &[u8]| {
        let mut out = Vec::new();
        let error = moor_tls::Handshake::new(&server).unwrap().advance(bytes, &mut out).map(|_| ());
        (error, out)
    };
    let (error, alert) = begin(&[22, 3, 1, 0, 4, 9, 0, 0, 0]);
    assert!(matches!(error, Err(Error::Handshake(_))), "{error:?}");
    assert_eq!(alert[..5], [21, 3, 3, 0, 2], "a plain alert");
    let (error, _) = begin(&[22, 3, 1, 0x40, 0]);
    assert!(error.is_ok(), "a record may still become whole");
    let (error, _) = begin(&[23; 40]);
    assert!(matches!(error, Err(Error::Handshake(_))));
    let (error, _) = begin(&vec![0; moor_tls::limits::HANDSHAKE_BYTES_MAX + 1]);
    assert_eq!(error, Err(Error::TooLong));
}

#[test]
fn settings_that_cannot_be_used_say_which_file() {
    let good = pair(&["shop.example"]);
    let refused = |change: &dyn Fn(&mut moor_tls::Settings)| {
        let mut settings = settings(Records::Compact, vec![good.clone()]);
        change(&mut settings);
        Server::new(&settings).unwrap_err()
    };
    assert!(matches!(refused(&|s| s.certificates.clear()), SettingsError::NoCertificate));
    assert!(matches!(
        refused(&|s| s.certificates = vec![good.clone(); 65]),
        SettingsError::TooManyCertificates(65)
    ));
    let error = refused(&|s| s.certificates[0].certificate = text("empty.pem", "nothing"));
    assert!(error.to_string().starts_with("empty.pem holds no certificate"), "{error}");
    let error = refused(&|s| s.certificates[0].key = text("empty.key", "nothing"));
    assert!(error.to_string().starts_with("empty.key holds no private key"), "{error}");
    let error = refused(&|s| s.certificates[0].key = pair(&["shop.example"]).key);
    assert!(error.to_string().starts_with("host.pem and host.key cannot be used together"), "{error}");
    let error = refused(&|s| s.client_authorities = Some(text("ca.pem", "nothing")));
    assert!(error.to_string().starts_with("ca.pem cannot be used"), "{error}");
    let settings = settings(Records::Compact, vec![good.clone()]);
    let shown = format!("{settings:?}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("45, 45, 45"), "{shown}");
}
