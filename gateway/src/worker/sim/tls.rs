//! Clients over TLS: rustls's client against the worker.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use moor_tls::{Pair, Records, Server, Text};
use moor_wire::Code;
use moor_wire::client::{Class, Error, Kind};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{Broadcast, Push};
use moor_wire::session::SessionHandle;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::bed::{Bed, Peer, decode, kinds, ping, put_connect, put_open, settings};
use super::websocket::{frames, message, raw, request, split};
use crate::limits::TLS_HANDSHAKES_PER_TURN_MAX;
use crate::worker::counters::Counter;
use crate::worker::door::Limits;
use crate::worker::io::Listener;
use crate::worker::mailbox::Mail;
use crate::worker::settings::Settings;

/// A certificate for edge.example, and a client that trusts it.
static HOST: LazyLock<(Pair, Arc<ClientConfig>)> = LazyLock::new(|| host(rustls::ALL_VERSIONS));

fn host(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Pair, Arc<ClientConfig>) {
    let text = |name: &str, pem: String| Text { name: name.into(), bytes: pem.into_bytes().into() };
    let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
    let pair = Pair {
        certificate: text("host.pem", made.cert.pem()),
        key: text("host.key", made.signing_key.serialize_pem()),
    };
    (pair.clone(), trusting(&pair, versions))
}

fn trusting(pair: &Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pair.certificate.bytes).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn server(pair: &Pair, records: Records) -> Server {
    Server::new(&moor_tls::Settings {
        certificates: vec![pair.clone()],
        ticket_keys: None,
        records,
        alpn: Vec::new(),
        tls12: true,
        client_authorities: None,
    })
    .unwrap()
}

fn with_tls(records: Records) -> Bed {
    Bed::with(1, Settings { tls: Some(server(&HOST.0, records)), ..settings() })
}

/// A client over TLS.
struct Caller {
    peer: Peer,
    tls: ClientConnection,
    /// What it was told and has not looked at.
    heard: VecDeque<u8>,
    /// The server said that it will say no more.
    ended: bool,
    /// Bytes arrive in pieces of this size.
    cut: usize,
}

impl Caller {
    fn arrive(bed: &mut Bed, config: &Arc<ClientConfig>) -> Self {
        let peer = bed.arrive(0, Listener::Clients).expect("accepted");
        let tls = ClientConnection::new(Arc::clone(config), "edge.example".try_into().unwrap()).unwrap();
        Self { peer, tls, heard: VecDeque::new(), ended: false, cut: usize::MAX }
    }

    /// With its handshake done.
    fn greeted(bed: &mut Bed) -> Self {
        let mut caller = Self::arrive(bed, &HOST.1);
        caller.exchange(bed).unwrap();
        assert!(!caller.tls.is_handshaking());
        caller
    }

    /// Both sides say what they have to say.
    fn exchange(&mut self, bed: &mut Bed) -> Result<(), rustls::Error> {
        loop {
            let mut out = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut out).unwrap();
            }
            for piece in out.chunks(self.cut) {
                bed.write(self.peer, piece);
            }
            let mut bytes = &raw(bed, self.peer)[..];
            if out.is_empty() && bytes.is_empty() {
                return Ok(());
            }
            while !bytes.is_empty() {
                self.tls.read_tls(&mut bytes).unwrap();
                self.ended = self.tls.process_new_packets()?.peer_has_closed();
                let mut some = [0; 4096];
                while let Ok(count @ 1..) = self.tls.reader().read(&mut some) {
                    self.heard.extend(&some[..count]);
                }
            }
        }
    }

    fn say(&mut self, bed: &mut Bed, plain: &[u8]) {
        self.tls.writer().write_all(plain).unwrap();
        self.exchange(bed).unwrap();
    }

    fn frames(&mut self, bed: &mut Bed) -> Vec<Frame> {
        self.exchange(bed).unwrap();
        let mut reader = FrameReader::new(u32::MAX);
        reader.push(self.heard.make_contiguous());
        self.heard.clear();
        std::iter::from_fn(|| reader.try_next().unwrap()).collect()
    }

    /// Logs in on channel 1; the session.
    fn log_in(&mut self, bed: &mut Bed, account: &str) -> SessionHandle {
        let mut out = Vec::new();
        put_connect(&mut out, "phone");
        put_open(&mut out, 1, account, Some(0));
        self.say(bed, &out);
        let frames = self.frames(bed);
        assert_eq!(kinds(&frames), [Kind::Connected, Kind::Opened]);
        SessionHandle(decode::<moor_wire::client::Opened>(&frames[1]).session)
    }
}

fn push(session: SessionHandle, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Push::data(1, session, Class::Normal, body).put(&mut out, false);
    out
}

#[test]
fn frames_are_the_same_over_every_form_of_tls() {
    let tls12 = host(&[&rustls::version::TLS12]);
    for (records, host) in [(Records::Rustls, &*HOST), (Records::Compact, &*HOST), (Records::Compact, &tls12)]
    {
        for cut in [usize::MAX, 100, 1] {
            let tls = Some(server(&host.0, records));
            let mut bed = Bed::with(1, Settings { tls, ..settings() });
            let service = bed.service(0, None);
            let mut caller = Caller { cut, ..Caller::arrive(&mut bed, &host.1) };
            let session = caller.log_in(&mut bed, "alice");
            assert_eq!(bed.counter(Counter::ConnectionsTls), 1);
            assert_eq!(bed.counter(Counter::TlsHandshakes), 1);
            caller.say(&mut bed, &ping());
            assert_eq!(kinds(&caller.frames(&mut bed)), [Kind::Pong]);
            let large = vec![7; 6000];
            bed.write(service, &[push(session, b"hello"), push(session, &large)].concat());
            let frames = caller.frames(&mut bed);
            assert_eq!(frames.iter().map(|frame| frame.body.len()).collect::<Vec<_>>(), [5, 6000]);
            assert_eq!(bed.counter(Counter::SendQueuedBytes), 0);
            // The peer leaves as it should.
            caller.tls.send_close_notify();
            caller.exchange(&mut bed).unwrap();
            assert!(caller.ended, "it is answered");
            bed.hang_up(caller.peer);
            assert_eq!(bed.counter(Counter::ClosedByPeer), 1);
            assert_eq!(bed.counter(Counter::ConnectionsTls), 0);
            bed.hang_up(service);
            bed.assert_clean();
        }
    }
}

#[test]
fn a_websocket_over_tls_is_one() {
    let mut bed = with_tls(Records::Compact);
    let service = bed.service(0, None);
    let mut caller = Caller::greeted(&mut bed);
    caller.say(&mut bed, &request("/", ""));
    let answer = String::from_utf8(caller.heard.drain(..).collect()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let mut out = Vec::new();
    put_connect(&mut out, "browser");
    put_open(&mut out, 1, "alice", Some(0));
    caller.say(&mut bed, &message(&out));
    let opened = frames(&split(caller.heard.make_contiguous()));
    caller.heard.clear();
    assert_eq!(kinds(&opened), [Kind::Connected, Kind::Opened]);
    assert_eq!(bed.counter(Counter::ConnectionsWebsocket), 1);
    let session = SessionHandle(decode::<moor_wire::client::Opened>(&opened[1]).session);
    bed.write(service, &push(session, b"hello"));
    caller.exchange(&mut bed).unwrap();
    assert_eq!(frames(&split(caller.heard.make_contiguous()))[0].body, b"hello"[..]);
}

#[test]
fn who_breaks_the_protocol_is_told_in_frames_and_then_in_tls() {
    for records in [Records::Rustls, Records::Compact] {
        let mut bed = with_tls(records);
        let mut caller = Caller::greeted(&mut bed);
        caller.say(&mut bed, &ping());
        let frames = caller.frames(&mut bed);
        assert_eq!(kinds(&frames), [Kind::Error]);
        assert_eq!(decode::<Error>(&frames[0]).code, Code::ProtocolError as i32);
        assert!(caller.ended, "close_notify comes behind it");
        bed.hang_up(caller.peer);
        bed.assert_clean();
    }
}

#[test]
fn a_record_that_does_not_open_is_answered_with_an_alert() {
    for records in [Records::Rustls, Records::Compact] {
        let mut bed = with_tls(records);
        let mut caller = Caller::greeted(&mut bed);
        caller.log_in(&mut bed, "alice");
        bed.write(
            caller.peer,
            &[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        );
        let error = caller.exchange(&mut bed).unwrap_err();
        assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        bed.hang_up(caller.peer);
        bed.assert_clean();
    }
}

#[test]
fn what_is_no_handshake_ends_with_an_alert_and_half_a_one_at_the_deadline() {
    let mut bed = with_tls(Records::Compact);
    let wrong = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(wrong, &[22, 3, 1, 0, 4, 9, 0, 0, 0]);
    assert_eq!(raw(&bed, wrong)[0], 21, "an alert");
    assert_eq!(bed.counter(Counter::TlsFailed), 1);
    bed.hang_up(wrong);
    let half = bed.arrive(0, Listener::Clients).unwrap();
    bed.write(half, &[22, 3, 1, 2, 0, 1]);
    bed.advance(u64::from(settings().first_byte_timeout_ms) + 500);
    assert_eq!(bed.counter(Counter::LoginTimeout), 1);
    assert!(raw(&bed, half).is_empty(), "it would not understand a frame");
    bed.advance(60_000);
    assert!(!bed.is_open(half));
    bed.assert_clean();
}

#[test]
fn a_silent_client_with_tls_is_no_different() {
    let mut bed = with_tls(Records::Compact);
    let mut caller = Caller::greeted(&mut bed);
    bed.advance(u64::from(settings().first_byte_timeout_ms) + 500);
    let frames = caller.frames(&mut bed);
    assert_eq!(kinds(&frames), [Kind::Error], "CONNECT did not come");
    assert!(caller.ended);
}

#[test]
fn handshakes_beyond_the_turns_budget_wait_and_all_succeed() {
    let tls = Some(server(&HOST.0, Records::Compact));
    let mut bed = Bed::with(1, Settings { tls, connections_max: 128, ..settings() });
    bed.seats[0].kernel.borrow_mut().slots_max = 200;
    bed.seats[0].kernel.borrow_mut().buffers_free = 200;
    let count = TLS_HANDSHAKES_PER_TURN_MAX as usize * 2 + 8;
    let mut callers: Vec<_> = (0..count).map(|_| Caller::arrive(&mut bed, &HOST.1)).collect();
    for caller in &mut callers {
        let mut hello = Vec::new();
        caller.tls.write_tls(&mut hello).unwrap();
        bed.with_socket(caller.peer, |socket| socket.inbound.extend(hello));
    }
    // The polls fire, then the reads.
    let mut most = 0;
    for _ in 0..20 {
        bed.turn();
        most = most.max(bed.seats[0].worker.tls.waiting_count());
        if bed.seats[0].worker.tls.waiting_count() > 0 {
            assert_eq!(bed.seats[0].worker.sleep_ms(crate::worker::Now(bed.now)), 0, "there is work");
        }
    }
    assert!(most > 0, "some wait for the next turn");
    for caller in &mut callers {
        caller.log_in(&mut bed, "alice");
    }
    assert_eq!(bed.counter(Counter::TlsHandshakes), count as u64);
}

#[test]
fn handshakes_that_come_too_fast_wait_their_turn_and_the_rest_is_reset() {
    let limits = Limits { handshakes_per_s: 10, ..Limits::default() };
    let mut bed =
        Bed::with(1, Settings { tls: Some(server(&HOST.0, Records::Compact)), limits, ..settings() });
    let mut good = Caller::greeted(&mut bed);
    let mut callers: Vec<_> = (0..30).map(|_| Caller::arrive(&mut bed, &HOST.1)).collect();
    for caller in &mut callers {
        let mut hello = Vec::new();
        caller.tls.write_tls(&mut hello).unwrap();
        bed.write(caller.peer, &hello);
    }
    good.log_in(&mut bed, "alice");
    assert_eq!((bed.counter(Counter::TlsHandshakes), bed.counter(Counter::TlsPaced)), (1, 10));
    assert_ne!(bed.seats[0].worker.sleep_ms(crate::worker::Now(bed.now)), 0, "who waits for a token sleeps");
    callers.retain(|caller| bed.is_open(caller.peer));
    assert_eq!(callers.len(), 20);
    bed.advance(2500);
    for caller in &mut callers {
        caller.log_in(&mut bed, "bob");
    }
    assert_eq!(bed.counter(Counter::TlsHandshakes), 21);
}

#[test]
fn who_has_gone_before_its_handshake_began_takes_nobodys_turn() {
    let limits = Limits { handshakes_per_s: 2, ..Limits::default() };
    let mut bed =
        Bed::with(1, Settings { tls: Some(server(&HOST.0, Records::Compact)), limits, ..settings() });
    Caller::greeted(&mut bed);
    for _ in 0..3 {
        let mut gone = Caller::arrive(&mut bed, &HOST.1);
        gone.exchange(&mut bed).unwrap();
        bed.hang_up(gone.peer);
    }
    let mut caller = Caller::arrive(&mut bed, &HOST.1);
    caller.exchange(&mut bed).unwrap();
    bed.advance(600);
    caller.exchange(&mut bed).unwrap();
    assert!(!caller.tls.is_handshaking(), "half a second is what one waits for another");
}

#[test]
fn who_waits_for_a_handshake_cannot_fill_memory_meanwhile() {
    let limits = Limits { handshakes_per_s: 1, ..Limits::default() };
    let mut bed =
        Bed::with(1, Settings { tls: Some(server(&HOST.0, Records::Compact)), limits, ..settings() });
    Caller::greeted(&mut bed);
    let waiting = Caller::arrive(&mut bed, &HOST.1);
    for _ in 0..100 {
        if bed.is_open(waiting.peer) {
            bed.write(waiting.peer, &[moor_tls::FIRST_BYTE; 2048]);
        }
        let kept: usize = bed.seats[0].worker.tls.kept_bytes();
        assert!(kept <= moor_tls::limits::HANDSHAKE_BYTES_MAX, "{kept} bytes are kept");
    }
    assert_eq!(bed.counter(Counter::TlsFailed), 1);
}

#[test]
fn everybody_gets_a_broadcast_with_tls_or_without() {
    let mut bed = with_tls(Records::Compact);
    let service = bed.service(0, None);
    let plain = bed.client(0, "phone");
    bed.open(plain, 1, "bob");
    let mut caller = Caller::greeted(&mut bed);
    caller.log_in(&mut bed, "alice");
    let all = Broadcast {
        cookie: 1,
        kind: Kind::Data.byte(),
        flags: Class::Transient.flags(),
        app: "shop",
        body: b"sale",
    };
    let mut out = Vec::new();
    all.put(&mut out, false);
    bed.write(service, &out);
    assert_eq!(bed.read(plain)[0].body, b"sale"[..]);
    assert_eq!(caller.frames(&mut bed)[0].body, b"sale"[..]);
}

#[test]
fn tls_can_be_required_or_absent() {
    let tls = Some(server(&HOST.0, Records::Compact));
    let mut bed = Bed::with(1, Settings { tls, tls_required: true, ..settings() });
    let plain = bed.arrive(0, Listener::Clients).unwrap();
    let mut out = Vec::new();
    put_connect(&mut out, "phone");
    bed.write(plain, &out);
    let frames = bed.read(plain);
    assert_eq!(decode::<Error>(&frames[0]).detail, "only TLS is served here");
    Caller::greeted(&mut bed).log_in(&mut bed, "alice");

    let mut bed = Bed::new();
    let mut caller = Caller::arrive(&mut bed, &HOST.1);
    caller.exchange(&mut bed).unwrap_err();
    assert_eq!(bed.counter(Counter::ProtocolErrors), 1);
}

#[test]
fn new_certificates_are_for_those_who_come_later() {
    let mut bed = with_tls(Records::Compact);
    let mut before = Caller::greeted(&mut bed);
    let other = host(rustls::ALL_VERSIONS);
    let mail = Mail::Tls(server(&other.0, Records::Compact));
    bed.mailboxes.of(crate::worker::io::WorkerId(0)).unwrap().try_put(mail).unwrap();
    bed.settle();
    let mut later = Caller::arrive(&mut bed, &other.1);
    later.log_in(&mut bed, "alice");
    before.log_in(&mut bed, "bob");
    let mut stranger = Caller::arrive(&mut bed, &HOST.1);
    stranger.exchange(&mut bed).unwrap_err();
}

#[test]
fn records_leave_whole_through_a_narrow_window() {
    for records in [Records::Rustls, Records::Compact] {
        let mut bed = with_tls(records);
        let service = bed.service(0, None);
        let mut caller = Caller::greeted(&mut bed);
        let session = caller.log_in(&mut bed, "alice");
        bed.with_socket(caller.peer, |socket| socket.window = 10);
        for number in 0..50_u8 {
            bed.write(service, &push(session, &[number; 20]));
        }
        let mut bodies = Vec::new();
        while bodies.len() < 50 {
            bed.with_socket(caller.peer, |socket| socket.window = 10);
            bed.settle();
            bodies.extend(caller.frames(&mut bed).into_iter().map(|frame| frame.body[0]));
        }
        assert_eq!(bodies, (0..50).collect::<Vec<_>>());
        assert_eq!(bed.counter(Counter::SendQueuedBytes), 0);
    }
}
