//! Every face over TLS, against a server that is a thread on a port of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../tls/tests/support/authority.rs"]
mod authority;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use authority::Authority;
use moor_router_client::{Config, Error, Tls};
use moor_tls::peer::{Acceptor, Files, Peer};
use moor_wire::Code;
use moor_wire::frame::FrameReader;
use moor_wire::internal::{
    Failure, Hello, Stat, Stats, StatsResult, Verb, Welcome, frame_reader, put_control,
};
use prost::Message;

/// A directory of certificates.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    fn issue(&self, authority: &Authority, file: &str, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = authority.issue(&[name]);
        (self.write(&format!("{file}.pem"), &certificate), self.write(&format!("{file}.key"), &key))
    }
}

/// A server that hangs up on every connection after its second STATS.
struct Server {
    address: SocketAddr,
    /// Whose certificates came.
    seen: Arc<Mutex<Vec<Option<Vec<String>>>>>,
}

fn server(acceptor: Acceptor) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default() };
    let seen = Arc::clone(&server.seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            std::thread::spawn(move || serve(stream.unwrap(), &acceptor, &seen));
        }
    });
    server
}

fn serve(mut stream: TcpStream, acceptor: &Acceptor, seen: &Mutex<Vec<Option<Vec<String>>>>) {
    let (mut peer, mut frames, mut asked) = (acceptor.accept().unwrap(), frame_reader(), 0);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if frames.buffer_mut().is_empty() && buffer[0] == Verb::Hello.byte() {
            let mut out = Vec::new();
            let failure =
                Failure { code: Code::Unauthorized as i32, detail: "this port speaks TLS only".into() };
            put_control(&mut out, Verb::Failure, &failure);
            return stream.write_all(&out).unwrap();
        }
        let mut plain = Vec::new();
        let received = peer.receive(&buffer[..length], &mut plain);
        frames.push(&plain);
        answer(&mut frames, &mut peer, &mut asked, seen);
        let mut out = Vec::new();
        peer.output(&mut out);
        if stream.write_all(&out).is_err() || asked == 2 {
            return;
        }
        if received.is_err() {
            // Until the other side has read the alert.
            while let Ok(1..) = stream.read(&mut buffer) {}
            return;
        }
    }
}

fn answer(
    frames: &mut FrameReader,
    peer: &mut Peer,
    asked: &mut u32,
    seen: &Mutex<Vec<Option<Vec<String>>>>,
) {
    while let Some(frame) = frames.try_next().unwrap() {
        let mut out = Vec::new();
        match Verb::from_byte(frame.header.kind).unwrap() {
            Verb::Hello => {
                assert!(Hello::decode(frame.body).is_ok());
                seen.lock().unwrap().push(peer.names());
                put_control(&mut out, Verb::Welcome, &Welcome { node: "fake".into(), ..Welcome::default() });
            }
            Verb::Stats => {
                *asked += 1;
                let cookie = Stats::decode(frame.body).unwrap().cookie;
                // Longer than a record.
                let stats = vec![Stat { name: "n".repeat(60_000), value: 9 }];
                put_control(&mut out, Verb::StatsResult, &StatsResult { cookie, stats });
            }
            verb => panic!("{verb:?}"),
        }
        peer.send(&out).unwrap();
    }
}

/// A server that closes in good order instead of answering HELLO, as one that restarts does.
fn closing_server(acceptor: Acceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut peer, mut buffer, mut plain) = (acceptor.accept().unwrap(), [0; 4096], Vec::new());
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            peer.receive(&buffer[..length], &mut plain).unwrap();
            if !plain.is_empty() {
                peer.close();
            }
            let mut out = Vec::new();
            peer.output(&mut out);
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    });
    address
}

fn with(tls: Tls) -> Config {
    Config { tls: Some(tls), backoff_base_ms: 1, ..Config::new(None) }
}

macro_rules! story {
    ($router:ty, [$($async:tt)*], [$($await:tt)*]) => {
        $($async)* fn certificates() {
            let (folder, authority) = (Folder::new(), Authority::new());
            let ca = folder.write("ca.pem", &authority.pem);
            let (certificate, key) = folder.issue(&authority, "host", "router-1");
            let host = Files { certificate: Some(certificate), key: Some(key), authorities: vec![ca.clone()] };
            let server = server(host.acceptor().unwrap());
            let address = server.address.to_string();
            let (certificate, key) = folder.issue(&authority, "own", "billing");
            let trusting = Tls::new([&ca]).name("router-1");
            let tls = trusting.clone().certificate(&certificate, &key);
            let mut router = <$router>::connect_with(&address, with(tls.clone())) $($await)*.unwrap();
            assert_eq!(router.stats() $($await)*.unwrap()[0].1, 9);
            // The server hangs up after the second, and by then the certificate has been renewed; then the files are
            // lost.
            folder.issue(&authority, "own", "billing-2");
            for round in 0..4 {
                if round == 2 {
                    fs::remove_file(&key).unwrap();
                }
                assert_eq!(router.stats() $($await)*.unwrap()[0].0.len(), 60_000);
            }
            let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
            let expected = [names(&["billing"]), names(&["billing-2"]), names(&["billing-2"])];
            assert_eq!(server.seen.lock().unwrap()[..], expected);

            // Without a certificate, with one of somebody else's, to somebody else's.
            let no_tls = |error: Error| match error {
                Error::Tls { reason, .. } => reason,
                error => panic!("{error}"),
            };
            let error = <$router>::connect_with(&address, with(trusting)) $($await)*.unwrap_err();
            assert!(no_tls(error).contains("CertificateRequired"));
            let stranger = Authority::new();
            let (foreign, foreign_key) = folder.issue(&stranger, "foreign", "billing");
            let tls = Tls::new([&ca]).name("router-1").certificate(foreign, foreign_key);
            let error = <$router>::connect_with(&address, with(tls)) $($await)*.unwrap_err();
            assert!(no_tls(error).contains("UnknownCA"));
            let foreign_ca = folder.write("foreign-ca.pem", &stranger.pem);
            let tls = Tls::new([foreign_ca]).name("router-1");
            let error = <$router>::connect_with(&address, with(tls)) $($await)*.unwrap_err();
            assert!(no_tls(error).contains("UnknownIssuer"));
            // Its certificate is not for 127.0.0.1, and this file is not there.
            let error = <$router>::connect_with(&address, with(Tls::new([&ca]))) $($await)*.unwrap_err();
            assert!(no_tls(error).contains("127.0.0.1"));
            let tls = Tls::new([folder.path("nowhere.pem")]);
            let error = <$router>::connect_with(&address, with(tls)) $($await)*.unwrap_err();
            assert!(no_tls(error).contains("nowhere.pem: cannot be read"));
            assert_eq!(server.seen.lock().unwrap().len(), 3, "none of them was heard");
        }

        $($async)* fn goodbye() {
            let (folder, authority) = (Folder::new(), Authority::new());
            let ca = folder.write("ca.pem", &authority.pem);
            let (certificate, key) = folder.issue(&authority, "host", "127.0.0.1");
            let host = Files { certificate: Some(certificate), key: Some(key), authorities: Vec::new() };
            let address = closing_server(host.acceptor().unwrap()).to_string();
            let error = <$router>::connect_with(&address, with(Tls::new([&ca]))) $($await)*.unwrap_err();
            assert_eq!(error, Error::Connection { address, reason: "it was closed".into() });
        }

        $($async)* fn mismatch() {
            let (folder, authority) = (Folder::new(), Authority::new());
            let ca = folder.write("ca.pem", &authority.pem);
            let (certificate, key) = folder.issue(&authority, "host", "127.0.0.1");
            let host = Files { certificate: Some(certificate), key: Some(key), authorities: Vec::new() };
            let server = server(host.acceptor().unwrap());
            let address = server.address.to_string();
            // Nobody is asked for a certificate, and the address is what the certificate is for.
            let config = with(Tls::new([&ca]));
            let mut router = <$router>::connect_with(&address, config.clone()) $($await)*.unwrap();
            assert!(router.stats() $($await)*.is_ok());
            assert_eq!(server.seen.lock().unwrap()[..], [None]);
            let clear = <$router>::connect(&address, None) $($await)*.unwrap_err();
            assert!(clear.to_string().ends_with("this port speaks TLS only"), "{clear}");

            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut out = Vec::new();
                put_control(&mut out, Verb::Failure, &Failure::default());
                stream.write_all(&out).unwrap();
                while let Ok(1..) = stream.read(&mut [0; 4096]) {}
            });
            let error = <$router>::connect_with(&address, config) $($await)*.unwrap_err();
            assert!(error.to_string().ends_with("does not speak TLS here"), "{error}");
        }
    };
}

mod blocking {
    use super::*;

    story!(moor_router_client::blocking::Router, [], []);

    #[test]
    fn shows_and_checks_certificates() {
        certificates();
    }

    #[test]
    fn tells_tls_from_clear_text() {
        mismatch();
    }

    #[test]
    fn takes_a_goodbye_for_what_it_is() {
        goodbye();
    }
}

#[cfg(feature = "tokio")]
mod tokio_face {
    use super::*;

    story!(moor_router_client::tokio::Router, [async], [.await]);

    fn run(story: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
    }

    #[test]
    fn shows_and_checks_certificates() {
        run(certificates());
    }

    #[test]
    fn tells_tls_from_clear_text() {
        run(mismatch());
    }

    #[test]
    fn takes_a_goodbye_for_what_it_is() {
        run(goodbye());
    }
}

#[cfg(feature = "monoio")]
mod monoio_face {
    use super::*;

    story!(moor_router_client::monoio::Router, [async], [.await]);

    fn run(story: impl Future<Output = ()> + 'static) {
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .enable_timer()
            .build()
            .unwrap()
            .block_on(story);
    }

    #[test]
    fn shows_and_checks_certificates() {
        run(certificates());
    }

    #[test]
    fn tells_tls_from_clear_text() {
        run(mismatch());
    }

    #[test]
    fn takes_a_goodbye_for_what_it_is() {
        run(goodbye());
    }
}
