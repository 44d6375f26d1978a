//! The router's port over TLS: who is let in, what is refused, and what SIGHUP reads.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../tls/tests/support/authority.rs"]
mod authority;
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use authority::Authority;
use common::{PATIENCE, RouterProcess};
use moor_tls::peer::{Files, Peer};
use moor_wire::frame::Frame;
use moor_wire::internal::{Failure, Hello, Role, Verb, Welcome, frame_reader, put_control, put_empty};
use prost::Message;

/// A directory of certificates, and the router's data.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A certificate for a name, and whom its holder trusts.
    fn issue(&self, by: &Authority, file: &str, name: &str, trusted: &Authority) -> Files {
        let (certificate, key) = by.issue(&[name]);
        Files {
            certificate: Some(self.write(&format!("{file}.pem"), &certificate)),
            key: Some(self.write(&format!("{file}.key"), &key)),
            authorities: vec![self.write(&format!("{file}.ca"), &trusted.pem)],
        }
    }

    fn router(&self, files: &Files, more: &[&str]) -> RouterProcess {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let (certificate, key) = (files.certificate.as_ref().map(text), files.key.as_ref().map(text));
        let authorities = files.authorities.first().map(text);
        let mut arguments = more.to_vec();
        for (flag, value) in
            [("--tls-certificate", &certificate), ("--tls-key", &key), ("--tls-authorities", &authorities)]
        {
            if let Some(value) = value {
                arguments.extend([flag, value]);
            }
        }
        RouterProcess::start(&self.0.path().join("data"), "127.0.0.1:0", &arguments)
    }
}

/// A service that says HELLO over TLS, or in clear.
struct Caller {
    stream: TcpStream,
    peer: Option<Box<Peer>>,
    frames: moor_wire::frame::FrameReader,
}

impl Caller {
    fn connect(address: SocketAddr, files: Option<&Files>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let peer = files.map(|files| files.dialer("router-1").unwrap().connect().unwrap());
        Self { stream, peer, frames: frame_reader() }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut out = bytes.to_vec();
        if let Some(peer) = &mut self.peer {
            out.clear();
            peer.send(bytes).unwrap();
            peer.output(&mut out);
        }
        self.stream.write_all(&out).unwrap();
    }

    fn next(&mut self) -> Result<Frame, String> {
        let mut buffer = [0; 1000];
        loop {
            if let Some(frame) = self.frames.try_next().unwrap() {
                return Ok(frame);
            }
            let length = self.stream.read(&mut buffer).map_err(|error| error.to_string())?;
            if length == 0 {
                return Err("hung up".to_owned());
            }
            match &mut self.peer {
                None => self.frames.push(&buffer[..length]),
                Some(peer) => {
                    let mut plain = Vec::new();
                    let received = peer.receive(&buffer[..length], &mut plain);
                    let mut out = Vec::new();
                    peer.output(&mut out);
                    self.stream.write_all(&out).unwrap_or_default();
                    received.map_err(|error| error.to_string())?;
                    self.frames.push(&plain);
                }
            }
        }
    }

    /// What a HELLO with this token is answered: the router's name, or why not.
    fn greet(&mut self, token: &str) -> Result<String, String> {
        let hello = Hello {
            version: 1,
            role: Role::Service as i32,
            node: "test".into(),
            token: token.as_bytes().to_vec().into(),
            ..Hello::default()
        };
        let mut out = Vec::new();
        put_control(&mut out, Verb::Hello, &hello);
        self.write(&out);
        let frame = self.next()?;
        match Verb::from_byte(frame.header.kind) {
            Some(Verb::Welcome) => Ok(Welcome::decode(frame.body).unwrap().node),
            Some(Verb::Failure) => Err(Failure::decode(frame.body).unwrap().detail),
            verb => panic!("{verb:?}"),
        }
    }
}

fn comes(router: &RouterProcess, files: Option<&Files>, token: &str) -> Result<String, String> {
    Caller::connect(router.address, files).greet(token)
}

#[test]
fn a_certificate_of_the_authority_is_the_way_in() {
    let (folder, ours, theirs) = (Folder::new(), Authority::new(), Authority::new());
    let host = folder.issue(&ours, "host", "router-1", &ours);
    let own = folder.issue(&ours, "own", "billing", &ours);
    let router = folder.router(&host, &[]);
    let mut caller = Caller::connect(router.address, Some(&own));
    assert_eq!(caller.greet(""), Ok("router".to_owned()));
    let mut pings = Vec::new();
    for _ in 0..10_000 {
        put_empty(&mut pings, Verb::Ping);
    }
    caller.write(&pings);
    for _ in 0..10_000 {
        assert_eq!(caller.next().unwrap().header.kind, Verb::Pong.byte());
    }
    let nobody = Files { certificate: None, key: None, ..own.clone() };
    assert!(comes(&router, Some(&nobody), "").unwrap_err().contains("CertificateRequired"));
    let stranger = folder.issue(&theirs, "stranger", "billing", &ours);
    assert!(comes(&router, Some(&stranger), "").unwrap_err().contains("UnknownCA"));
    let wary = folder.issue(&ours, "wary", "billing", &theirs);
    assert!(comes(&router, Some(&wary), "").unwrap_err().contains("UnknownIssuer"));
    assert_eq!(comes(&router, None, "").unwrap_err(), "this port speaks TLS only");
    // Half a record: the deadline of HELLO is the handshake's too.
    let mut silent = TcpStream::connect(router.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    assert!(silent.read(&mut [0; 100]).is_ok(), "it is not waited for");
    assert_eq!(router.terminate(), Some(0));
}

#[test]
fn names_and_tokens_narrow_who_comes() {
    let (folder, ours) = (Folder::new(), Authority::new());
    let host = folder.issue(&ours, "host", "router-1", &ours);
    let config = folder.write("router.toml", "token = \"0123456789abcdef\"\ntls_names = [\"edge-1\"]\n");
    let router = folder.router(&host, &["--config", config.to_str().unwrap()]);
    let edge = folder.issue(&ours, "edge", "Edge-1", &ours);
    let other = folder.issue(&ours, "other", "edge-2", &ours);
    assert!(comes(&router, Some(&edge), "").is_ok());
    assert!(comes(&router, Some(&edge), "0123456789abcdef").is_ok());
    assert!(comes(&router, Some(&edge), "not the token").unwrap_err().contains("not the one expected"));
    assert!(comes(&router, Some(&other), "0123456789abcdef").unwrap_err().contains("tls_names"));

    // Without authorities TLS hides what is said, and the token says who it is.
    let host = Files { authorities: Vec::new(), ..host };
    let config = folder.write("plain.toml", "token = \"0123456789abcdef\"\n");
    drop(router);
    let router = folder.router(&host, &["--config", config.to_str().unwrap()]);
    assert!(comes(&router, Some(&other), "0123456789abcdef").is_ok());
    assert!(comes(&router, Some(&other), "").is_err());
}

#[test]
fn sighup_takes_new_files_and_keeps_the_old_ones_if_they_are_bad() {
    let (folder, ours, next) = (Folder::new(), Authority::new(), Authority::new());
    let host = folder.issue(&ours, "host", "router-1", &ours);
    let old = folder.issue(&ours, "old", "billing", &ours);
    let new = folder.issue(&next, "new", "billing", &next);
    let router = folder.router(&host, &[]);
    let mut early = Caller::connect(router.address, Some(&old));
    early.greet("").unwrap();
    let hang_up = || rustix::process::kill_process(router.pid(), rustix::process::Signal::HUP).unwrap();
    let key = fs::read_to_string(host.key.as_ref().unwrap()).unwrap();
    folder.write("host.key", "no key");
    hang_up();
    // Only a good reload shows from outside, so a bad one is followed by it.
    assert!(comes(&router, Some(&old), "").is_ok());
    folder.write("host.key", &key);
    folder.issue(&next, "host", "router-1", &next);
    hang_up();
    let deadline = std::time::Instant::now() + PATIENCE;
    while comes(&router, Some(&new), "").is_err() {
        assert!(std::time::Instant::now() < deadline, "the new files are not taken");
    }
    assert!(comes(&router, Some(&old), "").is_err());
    let mut ping = Vec::new();
    put_empty(&mut ping, Verb::Ping);
    early.write(&ping);
    assert_eq!(early.next().unwrap().header.kind, Verb::Pong.byte(), "who is in stays");
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    let (folder, ours) = (Folder::new(), Authority::new());
    let refused = |arguments: &[&str]| {
        // Only looked at, so that one that is not refused ends as well.
        let arguments = [arguments, &["--check"]].concat();
        let output = RouterProcess::command(&folder.0.path().join("data"), &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--listen", "0.0.0.0:0"]).contains("beyond loopback"));
    let host = folder.issue(&ours, "host", "router-1", &ours);
    let (certificate, key) = (host.certificate.unwrap(), host.key.unwrap());
    let pair = ["--tls-certificate", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    assert!(refused(&[&["--listen", "0.0.0.0:0"], &pair[..]].concat()).contains("beyond loopback"));
    assert!(refused(&pair[..2]).contains("belong together"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&pair).contains("chmod 600"));
}
