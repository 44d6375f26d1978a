//! Both ends of TLS between our own processes: who is let in, what is refused, what survives being cut into pieces.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions")]

#[path = "support/authority.rs"]
mod authority;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use authority::Authority;
use moor_tls::peer::{Acceptor, Dialer, Files, Peer, PeerError};
use moor_tls::{Pair, Text};
use rustls::{AlertDescription, CertificateError, Error};

fn text(name: &str, pem: &str) -> Text {
    Text { name: name.into(), bytes: pem.as_bytes().to_vec().into() }
}

fn pair(authority: &Authority, names: &[&str]) -> Pair {
    let (certificate, key) = authority.issue(names);
    Pair { certificate: text("host.pem", &certificate), key: text("host.key", &key) }
}

fn trusted(authority: &Authority) -> [Text; 1] {
    [text("ca.pem", &authority.pem)]
}

/// Two ends, and what each has heard.
struct Meeting {
    ends: [Box<Peer>; 2],
    heard: [Vec<u8>; 2],
}

impl Meeting {
    fn new(acceptor: &Acceptor, dialer: &Dialer) -> Self {
        Self {
            ends: [dialer.connect().unwrap(), acceptor.accept().unwrap()],
            heard: [Vec::new(), Vec::new()],
        }
    }

    /// Carries everything to and fro, in pieces, until both are silent. What each has against the other.
    fn talk(&mut self, cut: usize) -> [Result<(), PeerError>; 2] {
        let mut results = [Ok(()), Ok(())];
        loop {
            let mut silent = true;
            for from in [0, 1] {
                let mut out = Vec::new();
                self.ends[from].output(&mut out);
                silent &= out.is_empty();
                for piece in out.chunks(cut) {
                    if results[1 - from].is_ok() {
                        results[1 - from] = self.ends[1 - from].receive(piece, &mut self.heard[1 - from]);
                    }
                }
            }
            if silent {
                return results;
            }
        }
    }
}

#[test]
fn both_sides_know_each_other_and_talk_in_any_pieces() {
    let authority = Authority::new();
    let acceptor = Acceptor::new(&pair(&authority, &["router-1"]), &trusted(&authority)).unwrap();
    let shows = pair(&authority, &["billing.example", "b.example"]);
    let dialer = Dialer::new(&trusted(&authority), Some(&shows), "router-1").unwrap();
    assert!(acceptor.is_mutual());
    for cut in [1, 100, usize::MAX] {
        let mut meeting = Meeting::new(&acceptor, &dialer);
        // What is said before the handshake is over waits for its end.
        meeting.ends[0].send(b"HELLO").unwrap();
        assert_eq!(meeting.ends[1].names(), None);
        assert_eq!(meeting.talk(cut), [Ok(()), Ok(())]);
        assert!(meeting.ends.iter().all(|end| end.is_established()));
        assert_eq!(meeting.heard[1], b"HELLO");
        assert_eq!(meeting.ends[1].names().unwrap(), ["billing.example", "b.example"]);
        assert_eq!(meeting.ends[0].names().unwrap(), ["router-1"]);
        let large = vec![7; 1_000_000];
        meeting.ends[1].send(&large).unwrap();
        assert_eq!(meeting.talk(cut.max(50)), [Ok(()), Ok(())]);
        assert_eq!(meeting.heard[0], large);
        meeting.ends[0].close();
        assert_eq!(meeting.talk(cut), [Ok(()), Ok(())]);
        assert!(meeting.ends[1].is_closed() && !meeting.ends[0].is_closed());
        // Whatever comes behind it is not looked at, and ends.
        assert_eq!(meeting.ends[1].receive(&[23, 3, 3, 0, 1, 0], &mut Vec::new()), Ok(()));
    }
}

#[test]
fn one_side_may_be_nobody_only_where_nobody_is_asked() {
    let authority = Authority::new();
    let host = pair(&authority, &["10.0.0.1"]);
    let nobody = Dialer::new(&trusted(&authority), None, "10.0.0.1").unwrap();
    let open = Acceptor::new(&host, &[]).unwrap();
    let mut meeting = Meeting::new(&open, &nobody);
    meeting.ends[0].send(b"hello").unwrap();
    assert_eq!(meeting.talk(100), [Ok(()), Ok(())]);
    assert_eq!((meeting.ends[1].names(), &meeting.heard[1][..]), (None, &b"hello"[..]));

    let mutual = Acceptor::new(&host, &trusted(&authority)).unwrap();
    let mut meeting = Meeting::new(&mutual, &nobody);
    meeting.ends[0].send(b"hello").unwrap();
    let [client, server] = meeting.talk(100);
    assert_eq!(server, Err(Error::NoCertificatesPresented.into()));
    assert_eq!(client, Err(Error::AlertReceived(AlertDescription::CertificateRequired).into()), "it is told");
    assert!(meeting.heard[1].is_empty(), "nothing it said was looked at");
}

#[test]
fn strangers_are_refused_by_either_side() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let acceptor = Acceptor::new(&pair(&ours, &["router-1"]), &trusted(&ours)).unwrap();
    let refused = |dialer: &Dialer| {
        let mut meeting = Meeting::new(&acceptor, dialer);
        meeting.ends[0].send(b"hello").unwrap();
        let results = meeting.talk(usize::MAX);
        assert!(meeting.heard[1].is_empty());
        results
    };
    let stranger = Dialer::new(&trusted(&ours), Some(&pair(&theirs, &["billing"])), "router-1").unwrap();
    let [_, server] = refused(&stranger);
    assert_eq!(server, Err(Error::InvalidCertificate(CertificateError::UnknownIssuer).into()));
    let wary = Dialer::new(&trusted(&theirs), Some(&pair(&ours, &["billing"])), "router-1").unwrap();
    let [client, _] = refused(&wary);
    assert_eq!(client, Err(Error::InvalidCertificate(CertificateError::UnknownIssuer).into()));
    let elsewhere = Dialer::new(&trusted(&ours), Some(&pair(&ours, &["billing"])), "router-2").unwrap();
    let [client, _] = refused(&elsewhere);
    assert!(client.unwrap_err().to_string().contains("router-2"));
}

#[test]
fn what_is_not_tls_is_said_to_be_none_and_an_altered_record_ends_it() {
    let authority = Authority::new();
    let acceptor = Acceptor::new(&pair(&authority, &["router-1"]), &[]).unwrap();
    let dialer = Dialer::new(&trusted(&authority), None, "router-1").unwrap();
    assert_eq!(acceptor.accept().unwrap().receive(&[1, 0, 0, 0], &mut Vec::new()), Err(PeerError::NotTls));
    assert_eq!(dialer.connect().unwrap().receive(&[5, 0, 0, 0], &mut Vec::new()), Err(PeerError::NotTls));
    let mut meeting = Meeting::new(&acceptor, &dialer);
    assert_eq!(meeting.talk(1000), [Ok(()), Ok(())]);
    meeting.ends[0].send(b"hello").unwrap();
    let mut out = Vec::new();
    meeting.ends[0].output(&mut out);
    out[10] ^= 1;
    let error = meeting.ends[1].receive(&out, &mut Vec::new()).unwrap_err();
    assert_eq!(error, Error::DecryptError.into());
    let [client, _] = meeting.talk(1000);
    assert_eq!(client, Err(Error::AlertReceived(AlertDescription::BadRecordMac).into()), "it is told");
}

#[test]
fn files_are_read_together_and_keys_only_when_they_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["router-1"]);
    let files = Files {
        certificate: Some(write("host.pem", &certificate, 0o644)),
        key: Some(write("host.key", &key, 0o600)),
        authorities: vec![write("ca.pem", &authority.pem, 0o644)],
    };
    assert!(files.acceptor().unwrap().is_mutual());
    assert_eq!(files.names().unwrap(), ["router-1"]);
    let mut meeting = Meeting::new(&files.acceptor().unwrap(), &files.dialer("router-1").unwrap());
    assert_eq!(meeting.talk(1000), [Ok(()), Ok(())]);

    let complaint = |files: &Files| files.dialer("router-1").unwrap_err().to_string();
    let with = |path: &Path| Files { authorities: vec![path.to_owned()], ..files.clone() };
    assert!(complaint(&Files { authorities: Vec::new(), ..files.clone() }).contains("no authority"));
    assert!(complaint(&with(files.key.as_ref().unwrap())).contains("holds no certificate"));
    assert!(complaint(&with(Path::new("/nowhere/ca.pem"))).contains("ca.pem: cannot be read"));
    assert!(complaint(&Files { key: None, ..files.clone() }).contains("belong together"));
    assert!(files.dialer("a name").unwrap_err().to_string().contains("\"a name\" is neither"));
    let (_, other) = authority.issue(&["router-1"]);
    assert!(
        complaint(&Files { key: Some(write("other.key", &other, 0o600)), ..files.clone() })
            .contains("cannot be used together")
    );
    write("host.key", &key, 0o640);
    assert!(complaint(&files).contains("chmod 600"));
    assert!(Files::default().is_empty() && !files.is_empty());
}
