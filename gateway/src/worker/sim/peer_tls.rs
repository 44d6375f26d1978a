//! Services and the router over TLS: both ends against the worker.

#[path = "../../../../tls/tests/support/authority.rs"]
mod authority;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use moor_credentials::ServiceKeys;
use moor_tls::peer::{Acceptor, Dialer, PeerError};
use moor_tls::{Pair, Text};
use moor_wire::Code;
use moor_wire::client::{Class, Kind};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{
    self, Failure, Hello, LookupResult, Push, PushAccount, Register, Verb, Welcome, put_control, put_empty,
};
use moor_wire::session::SessionHandle;
use rustls::{AlertDescription, CertificateError, Error};

use self::authority::Authority;
use super::bed::{Bed, Peer, decode, kinds, settings, verbs};
use super::peers::outcomes;
use super::websocket::raw;
use crate::limits::{MAILBOX_ENTRIES, SERVICE_HANDSHAKES_PER_S};
use crate::worker::access::Access;
use crate::worker::counters::Counter;
use crate::worker::io::{Listener, WorkerId};
use crate::worker::mailbox::Mail;
use crate::worker::settings::Settings;

fn text(pem: &str) -> Text {
    Text { name: "a file".into(), bytes: pem.as_bytes().to_vec().into() }
}

fn pair(authority: &Authority, name: &str) -> Pair {
    let (certificate, key) = authority.issue(&[name]);
    Pair { certificate: text(&certificate), key: text(&key) }
}

/// A port of this authority's, which asks for its certificates.
fn acceptor(authority: &Authority) -> Acceptor {
    Acceptor::new(&pair(authority, "edge-1"), &[text(&authority.pem)]).unwrap()
}

/// Who trusts this authority, and shows a certificate of it.
fn dialer(authority: &Authority, own: &str) -> Dialer {
    Dialer::new(&[text(&authority.pem)], Some(&pair(authority, own)), "edge-1").unwrap()
}

fn bed(workers: u32, authority: &Authority) -> Bed {
    Bed::with(workers, Settings { internal_tls: Some(acceptor(authority)), ..settings() })
}

/// One end of TLS with a worker: a service, or the router.
struct End {
    peer: Peer,
    tls: Box<moor_tls::peer::Peer>,
    heard: FrameReader,
    /// Bytes arrive in pieces of this size.
    cut: usize,
}

impl End {
    fn new(peer: Peer, tls: Box<moor_tls::peer::Peer>) -> Self {
        Self { peer, tls, heard: internal::frame_reader(), cut: usize::MAX }
    }

    fn arrive(bed: &mut Bed, dialer: &Dialer) -> Self {
        let peer = bed.arrive(0, Listener::Internal).expect("accepted");
        Self::new(peer, dialer.connect().unwrap())
    }

    /// Both sides say what they have to say.
    fn exchange(&mut self, bed: &mut Bed) -> Result<(), PeerError> {
        loop {
            let mut out = Vec::new();
            self.tls.output(&mut out);
            for piece in out.chunks(self.cut) {
                bed.write(self.peer, piece);
            }
            let bytes = raw(bed, self.follow(bed));
            if out.is_empty() && bytes.is_empty() {
                return Ok(());
            }
            let mut plain = Vec::new();
            let received = self.tls.receive(&bytes, &mut plain);
            self.heard.push(&plain);
            received?;
        }
    }

    /// Where the connection is now.
    fn follow(&mut self, bed: &Bed) -> Peer {
        if !bed.is_open(self.peer) {
            let holds = |seat: &usize| !bed.seats[*seat].worker.services.is_empty();
            let seat = (0..bed.seats.len()).find(holds).expect("some worker has it");
            self.peer = Peer { seat, slot: *bed.seats[seat].worker.services.keys().next().unwrap() };
        }
        self.peer
    }

    fn say(&mut self, bed: &mut Bed, plain: &[u8]) -> Vec<Frame> {
        self.tls.send(plain).unwrap();
        self.exchange(bed).unwrap();
        self.frames()
    }

    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.heard.try_next().unwrap()).collect()
    }

    /// HELLO, and what else is said at once.
    fn greet(&mut self, bed: &mut Bed, worker: Option<u32>, token: &str) -> Vec<Frame> {
        let hello = Hello {
            version: 1,
            role: internal::Role::Service as i32,
            worker,
            token: token.as_bytes().to_vec().into(),
            ..Hello::default()
        };
        let mut out = Vec::new();
        put_control(&mut out, Verb::Hello, &hello);
        put_empty(&mut out, Verb::Ping);
        self.say(bed, &out)
    }

    fn leave(mut self, bed: &mut Bed) {
        self.tls.close();
        self.exchange(bed).unwrap();
        assert!(self.tls.is_closed(), "it is answered");
        bed.hang_up(self.peer);
    }
}

fn push(session: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Push::data(1, SessionHandle(session), Class::Normal, body).put(&mut out, true);
    out
}

#[test]
fn a_service_pushes_over_tls_in_any_pieces() {
    let authority = Authority::new();
    for cut in [usize::MAX, 100, 1] {
        let mut bed = bed(1, &authority);
        bed.seats[0].worker.send_queue_bytes_max = 1 << 20;
        let client = bed.client(0, "phone");
        let session = bed.open(client, 1, "alice");
        let mut service = End { cut, ..End::arrive(&mut bed, &dialer(&authority, "billing")) };
        assert_eq!(verbs(&service.greet(&mut bed, None, "")), [Verb::Welcome, Verb::Pong]);
        for size in [5, 20_000] {
            let frames = service.say(&mut bed, &push(session, &vec![7; size]));
            assert_eq!(outcomes(&frames)[0].code, Code::Ok);
            assert_eq!(bed.read(client)[0].body.len(), size);
        }
        assert_eq!(bed.counter(Counter::ConnectionsTls), 0, "it is no client");
        assert_eq!(bed.counter(Counter::SendQueuedBytes), 0);
        service.leave(&mut bed);
        bed.hang_up(client);
        assert_eq!(bed.counter(Counter::ServicesOpen), 0);
        assert_eq!(bed.counter(Counter::ConnectionsTls), 0, "nor was it one");
        bed.assert_clean();
    }
}

#[test]
fn clear_text_is_refused_in_clear_text_where_tls_is_spoken() {
    let mut bed = bed(1, &Authority::new());
    let service = bed.service(0, None);
    let frames = bed.read(service);
    assert_eq!(verbs(&frames), [Verb::Failure]);
    let failure = decode::<Failure>(&frames[0]);
    assert_eq!(
        (failure.code, &failure.detail[..]),
        (Code::ProtocolError as i32, "this port speaks TLS only")
    );
    bed.hang_up(service);
    // And TLS where it is not.
    let mut other = Bed::new();
    let mut service = End::arrive(&mut other, &dialer(&Authority::new(), "billing"));
    assert_eq!(service.exchange(&mut other), Err(PeerError::NotTls));
    other.hang_up(service.peer);
    for bed in [&mut bed, &mut other] {
        bed.assert_clean();
    }
}

#[test]
fn without_a_certificate_of_the_authority_nobody_is_heard() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let trusted = [text(&ours.pem)];
    let nobody = Dialer::new(&trusted, None, "edge-1").unwrap();
    let stranger = Dialer::new(&trusted, Some(&pair(&theirs, "billing")), "edge-1").unwrap();
    let mut bed = bed(1, &ours);
    for (dialer, alert) in
        [(nobody, AlertDescription::CertificateRequired), (stranger, AlertDescription::UnknownCA)]
    {
        let mut service = End::arrive(&mut bed, &dialer);
        service.tls.send(&push(1, b"hello")).unwrap();
        assert_eq!(service.exchange(&mut bed), Err(Error::AlertReceived(alert).into()));
        bed.hang_up(service.peer);
    }
    assert_eq!(bed.counter(Counter::ServicesUnauthorized), 2);
    let mut wary = End::arrive(&mut bed, &dialer(&theirs, "billing"));
    assert_eq!(
        wary.exchange(&mut bed),
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer).into())
    );
    let mut alert = Vec::new();
    wary.tls.output(&mut alert);
    bed.write(wary.peer, &alert);
    assert_eq!(bed.counter(Counter::ServicesUnauthorized), 3);
    bed.hang_up(wary.peer);
    assert_eq!(bed.counter(Counter::NotHere), 0, "nothing was looked at");
    bed.assert_clean();
}

#[test]
fn half_a_handshake_ends_at_the_deadline_and_too_many_at_once() {
    let authority = Authority::new();
    let mut bed = bed(1, &authority);
    let half = bed.arrive(0, Listener::Internal).unwrap();
    bed.write(half, &[22, 3, 1, 2, 0, 1]);
    let silent = bed.arrive(0, Listener::Internal).unwrap();
    bed.advance(u64::from(settings().first_byte_timeout_ms) + 500);
    assert_eq!(raw(&bed, half)[0], 21, "an alert");
    assert!(raw(&bed, silent).is_empty(), "it would not understand a frame");
    bed.advance(2000);
    assert!(!bed.is_open(half) && !bed.is_open(silent));
    assert_eq!(bed.counter(Counter::LoginTimeout), 2);
    for count in 0..=SERVICE_HANDSHAKES_PER_S {
        let service = bed.arrive(0, Listener::Internal).unwrap();
        bed.write(service, &[22, 3, 1]);
        assert_eq!(bed.is_open(service), count < SERVICE_HANDSHAKES_PER_S, "{count}");
        if bed.is_open(service) {
            bed.hang_up(service);
        }
    }
    bed.advance(1000);
    let mut service = End::arrive(&mut bed, &dialer(&authority, "billing"));
    assert_eq!(verbs(&service.greet(&mut bed, None, "")), [Verb::Welcome, Verb::Pong]);
    service.leave(&mut bed);
    bed.assert_clean();
}

#[test]
fn tls_moves_to_the_worker_that_a_service_asks_for() {
    let authority = Authority::new();
    for cut in [usize::MAX, 1] {
        let mut bed = bed(3, &authority);
        let client = bed.client(2, "phone");
        let session = bed.open(client, 1, "alice");
        let mut service = End { cut, ..End::arrive(&mut bed, &dialer(&authority, "billing")) };
        let frames = service.greet(&mut bed, Some(2), "");
        assert_eq!(service.peer.seat, 2, "worker 0 gave its descriptor up");
        assert_eq!(verbs(&frames), [Verb::Welcome, Verb::Pong]);
        assert_eq!(decode::<Welcome>(&frames[0]).worker, 2);
        let frames = service.say(&mut bed, &push(session, b"hello"));
        assert_eq!(outcomes(&frames)[0].code, Code::Ok);
        assert_eq!(bed.read(client)[0].body, b"hello"[..]);
        service.leave(&mut bed);
        bed.hang_up(client);
        bed.assert_clean();
    }
}

#[test]
fn who_cannot_move_is_told_so_over_tls() {
    let authority = Authority::new();
    let mut bed = bed(2, &authority);
    bed.seats[1].ended = true;
    for _ in 0..MAILBOX_ENTRIES {
        bed.mailboxes.of(WorkerId(1)).unwrap().try_put(Mail::Stop).unwrap();
    }
    let mut service = End::arrive(&mut bed, &dialer(&authority, "billing"));
    let frames = service.greet(&mut bed, Some(1), "");
    assert_eq!(decode::<Failure>(&frames[0]).code, Code::Overloaded as i32);
    assert!(service.tls.is_closed());
    bed.hang_up(service.peer);
    bed.assert_clean();
}

/// A shop's and a bank's service, known by certificate; the bank's by token as well.
fn access() -> Access {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    write("bank.token", "token-of-the-bank-backend");
    let file = "[services.shop]\ncertificate_names = [\"Shop.example\"]\napps = [\"shop\"]\nmay = [\"*\"]\n\
                [services.bank]\ncertificate_names = [\"bank.example\"]\ntoken_file = \"bank.token\"\n\
                apps = [\"bank\"]\nmay = [\"*\"]\n";
    let settings = moor_credentials::Settings::read(&write("credentials.toml", file)).unwrap();
    Access { verifier: None, services: Some(Arc::new(ServiceKeys::load(&settings).unwrap())) }
}

#[test]
fn a_certificate_stands_for_a_service_and_not_for_another() {
    let authority = Authority::new();
    let token: Arc<[u8]> = b"0123456789abcdef".to_vec().into();
    for workers in [1, 2] {
        let mut bed = Bed::with(
            workers,
            Settings {
                internal_tls: Some(acceptor(&authority)),
                internal_token: Some(Arc::clone(&token)),
                access: access(),
                ..settings()
            },
        );
        let client = bed.client(0, "phone");
        bed.open(client, 1, "alice");
        let ask = |app: &'static str| {
            let mut out = Vec::new();
            let lookup = internal::Lookup { cookie: 1, app: app.into(), account: "alice".into() };
            put_control(&mut out, Verb::Lookup, &lookup);
            out
        };
        let mut comes = |certificate: &str, token: &str| -> [bool; 2] {
            let mut service = End::arrive(&mut bed, &dialer(&authority, certificate));
            // By way of another worker, where there is one.
            let frames = service.greet(&mut bed, Some(workers - 1), token);
            let mut may = [false; 2];
            if verbs(&frames)[0] == Verb::Welcome {
                may = ["shop", "bank"].map(|app| {
                    let frames = service.say(&mut bed, &ask(app));
                    decode::<LookupResult>(&frames[0]).code != Code::Unauthorized as i32
                });
            } else {
                assert_eq!(decode::<Failure>(&frames[0]).code, Code::Unauthorized as i32);
            }
            bed.hang_up(service.peer);
            may
        };
        assert_eq!(comes("shop.example", ""), [true, false]);
        assert_eq!(comes("bank.example", ""), [false, true]);
        assert_eq!(comes("nobody.example", ""), [false, false]);
        // Who shows a token is judged by it, for better or worse.
        assert_eq!(comes("shop.example", "token-of-the-bank-backend"), [false, true]);
        assert_eq!(comes("nobody.example", "token-of-the-bank-backend"), [false, true]);
        assert_eq!(comes("shop.example", "not-the-bank's-token"), [false, false]);
        assert_eq!(comes("nobody.example", "0123456789abcdef"), [true, true]);
        bed.hang_up(client);
        bed.assert_clean();
    }
}

#[test]
fn where_no_service_is_declared_a_certificate_may_do_everything() {
    let authority = Authority::new();
    let internal_token = Some(b"0123456789abcdef".to_vec().into());
    let internal_tls = Some(acceptor(&authority));
    let mut bed = Bed::with(1, Settings { internal_tls, internal_token, ..settings() });
    let client = bed.client(0, "phone");
    bed.open(client, 1, "alice");
    let mut service = End::arrive(&mut bed, &dialer(&authority, "anybody"));
    assert_eq!(verbs(&service.greet(&mut bed, None, "")), [Verb::Welcome, Verb::Pong]);
    let (kind, flags) = (Kind::Data.byte(), Class::Normal.flags());
    let mut out = Vec::new();
    PushAccount { cookie: 2, kind, flags, app: "shop", account: "alice", body: b"hello" }.put(&mut out);
    assert_eq!(outcomes(&service.say(&mut bed, &out))[0].reached, 1);
    assert_eq!(kinds(&bed.read(client)), [Kind::Data]);
    let mut wrong = End::arrive(&mut bed, &dialer(&authority, "anybody"));
    assert_eq!(verbs(&wrong.greet(&mut bed, None, "another token")), [Verb::Failure]);

    // TLS alone, without authorities, says nothing about who comes.
    let alone = Acceptor::new(&pair(&authority, "edge-1"), &[]).unwrap();
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::InternalTls(alone)).unwrap();
    bed.settle();
    let mut nobody = End::arrive(&mut bed, &dialer(&authority, "anybody"));
    assert_eq!(verbs(&nobody.greet(&mut bed, None, "")), [Verb::Failure]);
    let mut knows = End::arrive(&mut bed, &dialer(&authority, "anybody"));
    assert_eq!(verbs(&knows.greet(&mut bed, None, "0123456789abcdef")), [Verb::Welcome, Verb::Pong]);
}

#[test]
fn new_certificates_are_for_services_that_come_later() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut bed = bed(1, &old);
    let mut early = End::arrive(&mut bed, &dialer(&old, "billing"));
    assert_eq!(verbs(&early.greet(&mut bed, None, "")), [Verb::Welcome, Verb::Pong]);
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::InternalTls(acceptor(&new))).unwrap();
    bed.settle();
    let mut later = End::arrive(&mut bed, &dialer(&new, "billing"));
    assert_eq!(verbs(&later.greet(&mut bed, None, "")), [Verb::Welcome, Verb::Pong]);
    End::arrive(&mut bed, &dialer(&old, "billing")).exchange(&mut bed).unwrap_err();
    let mut ping = Vec::new();
    put_empty(&mut ping, Verb::Ping);
    assert_eq!(verbs(&early.say(&mut bed, &ping)), [Verb::Pong], "who is in stays");
}

/// The router's end of worker 0's link.
fn router(bed: &mut Bed, acceptor: &Acceptor) -> End {
    End::new(bed.dialled(0).expect("the worker has connected"), acceptor.accept().unwrap())
}

#[test]
fn the_link_to_the_router_is_the_same_over_tls() {
    let authority = Authority::new();
    for cut in [usize::MAX, 1] {
        let router_tls = Some(dialer(&authority, "gateway-1"));
        let mut bed = Bed::with(1, Settings { router_tls, ..settings() });
        let mut link = End { cut, ..router(&mut bed, &acceptor(&authority)) };
        link.exchange(&mut bed).unwrap();
        assert_eq!(link.tls.names().unwrap(), ["gateway-1"]);
        assert_eq!(verbs(&link.frames()), [Verb::Hello]);
        let mut out = Vec::new();
        put_control(&mut out, Verb::Welcome, &Welcome { lease_ms: 1500, ..Welcome::default() });
        link.say(&mut bed, &out);
        assert!(bed.seats[0].worker.link.is_up());
        let client = bed.client(0, "phone");
        let session = bed.open(client, 1, "alice");
        link.exchange(&mut bed).unwrap();
        let frames = link.frames();
        let register = frames.iter().find(|frame| frame.header.kind == Verb::Register.byte()).unwrap();
        assert_eq!(decode::<Register>(register).sessions[0].session, session);
        let frames = link.say(&mut bed, &push(session, &[7; 5000]));
        assert_eq!(outcomes(&frames)[0].code, Code::Ok);
        assert_eq!(bed.read(client)[0].body.len(), 5000);
        // The router leaves as it should; the link comes back.
        link.tls.close();
        link.exchange(&mut bed).unwrap();
        bed.hang_up(link.peer);
        assert!(!bed.seats[0].worker.link.is_up() && bed.is_open(client));
        bed.advance(300);
        let mut link = router(&mut bed, &acceptor(&authority));
        link.exchange(&mut bed).unwrap();
        bed.hang_up(client);
        bed.hang_up(link.peer);
        bed.assert_clean();
    }
}

#[test]
fn a_router_that_is_not_trusted_hears_nothing_and_is_tried_again() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let router_tls = Some(dialer(&ours, "gateway-1"));
    let mut bed = Bed::with(1, Settings { router_tls, ..settings() });
    for acceptor in [
        acceptor(&theirs),
        // Ours, but another host's.
        Acceptor::new(&pair(&ours, "edge-2"), &[text(&ours.pem)]).unwrap(),
    ] {
        let mut link = router(&mut bed, &acceptor);
        assert!(matches!(link.exchange(&mut bed), Err(PeerError::Refused(Error::AlertReceived(_)))));
        assert!(link.frames().is_empty(), "no HELLO, no token");
        bed.hang_up(link.peer);
        bed.advance(300);
    }
    // One that speaks clear text.
    let link = bed.dialled(0).unwrap();
    let mut out = Vec::new();
    put_control(&mut out, Verb::Failure, &Failure::default());
    bed.write(link, &out);
    bed.hang_up(link);
    // What a reload brings is for the next connection.
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::RouterTls(dialer(&theirs, "gateway-1"))).unwrap();
    bed.advance(1000);
    let mut link = router(&mut bed, &acceptor(&theirs));
    link.exchange(&mut bed).unwrap();
    assert_eq!(verbs(&link.frames()), [Verb::Hello]);
    bed.hang_up(link.peer);
    bed.assert_clean();
}
