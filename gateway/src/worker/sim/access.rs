//! Who may come in, until when, and what services may do to whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use moor_credentials::issue::{Grant, SigningKey, issue};
use moor_credentials::{ServiceKeys, Verifier};
use moor_wire::Code;
use moor_wire::client::{Class, Close, Kind, Open, Opened, put_control};
use moor_wire::internal::{
    self, Broadcast, Hello, Kick, Lookup, LookupResult, NotHere, Push, PushAccount, Verb,
};
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, decode, kinds, ping, settings, verbs};
use super::peers::outcomes;
use crate::limits::EXPIRIES_STALE_MAX;
use crate::worker::access::Access;
use crate::worker::counters::Counter;
use crate::worker::io::{Listener, WorkerId};
use crate::worker::mailbox::Mail;
use crate::worker::settings::Settings;

const SECRETS: [(&str, &str); 2] =
    [("shop", "the-shop-has-a-secret-of-its-own-1"), ("bank", "the-bank-has-a-secret-of-its-own-2")];
const TOKENS: [(&str, &str); 3] = [
    ("shop", "token-of-the-shop-backend"),
    ("bank", "token-of-the-bank-backend"),
    ("all", "token-of-operations"),
];

/// Two apps with a secret each, and three services: one for each app, one for both that may only ask.
fn access() -> Access {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let mut file = String::new();
    for (app, secret) in SECRETS {
        write(&format!("{app}.secret"), secret);
        file += &format!("[apps.{app}]\nkeys = [{{ secret = \"{app}.secret\" }}]\n");
    }
    for (service, token) in TOKENS {
        write(&format!("{service}.token"), token);
        let (apps, may) = if service == "all" { ("*", "query") } else { (service, "*") };
        file += &format!(
            "[services.{service}]\ntoken_file = \"{service}.token\"\napps = [\"{apps}\"]\nmay = [\"{may}\"]\n"
        );
    }
    let settings = moor_credentials::Settings::read(&write("credentials.toml", &file)).unwrap();
    Access {
        verifier: Some(Arc::new(Verifier::load(&settings).unwrap())),
        services: Some(Arc::new(ServiceKeys::load(&settings).unwrap())),
    }
}

fn bed(workers: u32) -> Bed {
    Bed::with(workers, Settings { access: access(), ..settings() })
}

fn token(app: &str, account: &str, expires_s: u64) -> String {
    let secret = SECRETS.iter().find(|(name, _)| *name == app).unwrap().1;
    let grant = Grant { app: app.into(), account: account.into(), expires_s, ..Grant::default() };
    issue(&SigningKey::from_secret(secret.as_bytes()), None, &grant).unwrap()
}

fn open(
    bed: &mut Bed,
    peer: Peer,
    channel: u16,
    app: &str,
    account: &str,
    credential: &str,
) -> Result<u64, i32> {
    let open = Open {
        app: app.into(),
        account: account.into(),
        credential: credential.as_bytes().to_vec().into(),
        ..Open::default()
    };
    let mut out = Vec::new();
    put_control(&mut out, Kind::Open, channel, &open);
    bed.write(peer, &out);
    let frames = bed.read(peer);
    assert_eq!((frames.len(), frames[0].header.channel), (1, channel));
    match kinds(&frames)[0] {
        Kind::Opened => Ok(decode::<Opened>(&frames[0]).session),
        _ => Err(decode::<Close>(&frames[0]).code),
    }
}

/// Lets time pass while a client stays alive.
fn live_on(bed: &mut Bed, peer: Peer, seconds: u64) {
    for _ in 0..seconds {
        bed.advance(1000);
        bed.write(peer, &ping());
    }
}

const UNAUTHORIZED: Result<u64, i32> = Err(Code::Unauthorized as i32);

#[test]
fn only_the_right_credential_opens_and_a_wrong_one_harms_no_other_channel() {
    let mut bed = bed(1);
    let client = bed.client(0, "phone");
    open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 1000)).unwrap();
    for (app, account, credential) in [
        ("shop", "alice", String::new()),
        ("shop", "alice", "nonsense".to_owned()),
        ("shop", "bob", token("shop", "alice", 1000)),
        ("bank", "alice", token("shop", "alice", 1000)),
        ("shop", "alice", token("bank", "alice", 1000)),
        ("club", "alice", token("shop", "alice", 1000)),
    ] {
        assert_eq!(open(&mut bed, client, 2, app, account, &credential), UNAUTHORIZED, "{app} {account}");
    }
    assert_eq!(bed.counter(Counter::OpensUnauthorized), 6);
    assert_eq!(bed.seats[0].worker.channels.open_count(), 1);
    open(&mut bed, client, 2, "bank", "alice", &token("bank", "alice", 1000)).unwrap();
    bed.write(client, &ping());
    assert_eq!(kinds(&bed.read(client)), [Kind::Pong]);
    bed.hang_up(client);
    bed.assert_clean();
}

#[test]
fn a_channel_ends_with_its_credential_and_the_others_go_on() {
    let mut bed = bed(1);
    let client = bed.client(0, "phone");
    open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 50)).unwrap();
    open(&mut bed, client, 2, "bank", "alice", &token("bank", "alice", 5000)).unwrap();
    // It is second 1, and 30 seconds are forgiven.
    live_on(&mut bed, client, 77);
    bed.read(client);
    assert_eq!(bed.counter(Counter::CredentialsExpired), 0);
    live_on(&mut bed, client, 3);
    let frames = bed.read(client);
    let closed: Vec<_> = frames.iter().filter(|frame| frame.header.kind == Kind::Close.byte()).collect();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].header.channel, 1);
    assert_eq!(decode::<Close>(closed[0]).reason, "the credential has expired");
    assert_eq!(open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 50)), UNAUTHORIZED);
    open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 5000)).unwrap();
    assert_eq!(bed.counter(Counter::CredentialsExpired), 1);
}

#[test]
fn expiries_of_sessions_that_are_gone_do_not_pile_up() {
    let mut bed = bed(1);
    let client = bed.client(0, "phone");
    let credential = token("shop", "alice", 100_000);
    let mut most = 0;
    for _ in 0..3 * EXPIRIES_STALE_MAX {
        open(&mut bed, client, 1, "shop", "alice", &credential).unwrap();
        let mut out = Vec::new();
        put_control(&mut out, Kind::Close, 1, &Close::default());
        bed.write(client, &out);
        most = most.max(bed.seats[0].worker.expiries.count());
    }
    assert!((EXPIRIES_STALE_MAX..EXPIRIES_STALE_MAX + 8).contains(&most), "{most}");
}

#[test]
fn what_a_reload_brings_is_for_those_who_come_later() {
    let mut bed = bed(1);
    let client = bed.client(0, "phone");
    let credential = token("shop", "alice", 1000);
    open(&mut bed, client, 1, "shop", "alice", &credential).unwrap();
    let nobody = moor_credentials::Settings::default();
    let mail =
        Mail::Access(Access { verifier: Some(Arc::new(Verifier::load(&nobody).unwrap())), services: None });
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(mail).unwrap();
    bed.settle();
    assert_eq!(open(&mut bed, client, 2, "shop", "alice", &credential), UNAUTHORIZED);
    assert_eq!(bed.seats[0].worker.channels.open_count(), 1, "who is in stays");
}

/// A service with a token; `None` when it is turned away.
fn service(bed: &mut Bed, name: &str) -> Option<Peer> {
    let token =
        TOKENS.iter().find(|(known, _)| *known == name).map_or("no-such-token-at-all", |(_, token)| token);
    let peer = bed.arrive(0, Listener::Internal).unwrap();
    let hello = Hello {
        version: 1,
        role: internal::Role::Service as i32,
        token: token.as_bytes().to_vec().into(),
        ..Hello::default()
    };
    let mut out = Vec::new();
    internal::put_control(&mut out, Verb::Hello, &hello);
    bed.write(peer, &out);
    let frames = bed.read(peer);
    (verbs(&frames) == [Verb::Welcome]).then_some(peer)
}

/// What a service is told of a request.
fn ask(bed: &mut Bed, peer: Peer, write: impl FnOnce(&mut Vec<u8>)) -> Code {
    let mut out = Vec::new();
    write(&mut out);
    bed.write(peer, &out);
    let frames = bed.read(peer);
    assert_eq!(frames.len(), 1, "{:?}", verbs(&frames));
    match verbs(&frames)[0] {
        Verb::LookupResult => Code::try_from(decode::<LookupResult>(&frames[0]).code).unwrap(),
        Verb::NotHere => {
            assert!(NotHere::parse(&frames[0].body).is_ok());
            Code::NotHere
        }
        _ => outcomes(&frames)[0].code,
    }
}

#[test]
fn a_service_reaches_its_own_app_and_no_other_on_any_worker() {
    for (service_name, app, seat) in ["shop", "bank", "all"]
        .into_iter()
        .flat_map(|s| ["shop", "bank"].map(|a| (s, a)))
        .flat_map(|(s, a)| [(s, a, 0), (s, a, 1)])
    {
        let mut bed = bed(2);
        let client = bed.client(seat, "phone");
        let session = open(&mut bed, client, 1, app, "alice", &token(app, "alice", 1000)).unwrap();
        let session = SessionHandle(session);
        let peer = service(&mut bed, service_name).expect("welcome");
        let (own, may_ask) = (service_name == app, service_name == app || service_name == "all");
        let name = format!("{service_name} to {app} on worker {seat}");
        let expect = |own: bool, denied: Code| if own { Code::Ok } else { denied };

        let code = ask(&mut bed, peer, |out| Push::data(1, session, Class::Normal, b"hello").put(out, true));
        assert_eq!(code, expect(own, Code::NotHere), "push: {name}");
        if !own {
            let code =
                ask(&mut bed, peer, |out| Push::data(1, session, Class::Normal, b"hello").put(out, false));
            assert_eq!(code, Code::NotHere, "push without outcome: {name}");
        }
        let all =
            PushAccount { cookie: 2, kind: Kind::Data.byte(), flags: 0, app, account: "alice", body: b"x" };
        assert_eq!(
            ask(&mut bed, peer, |out| all.put(out)),
            expect(own, Code::Unauthorized),
            "account: {name}"
        );
        let all = Broadcast { cookie: 3, kind: Kind::Data.byte(), flags: 0, app, body: b"x" };
        assert_eq!(
            ask(&mut bed, peer, |out| all.put(out, true)),
            expect(own, Code::Unauthorized),
            "broadcast: {name}"
        );
        if !own {
            let mut out = Vec::new();
            all.put(&mut out, false);
            bed.write(peer, &out);
            assert_eq!(bed.read(peer).len(), 0, "a broadcast that asks for no answer: {name}");
        }
        let lookup = Lookup { cookie: 4, app: app.into(), account: "alice".into() };
        let code = ask(&mut bed, peer, |out| internal::put_control(out, Verb::Lookup, &lookup));
        assert_eq!(code, expect(may_ask, Code::Unauthorized), "lookup: {name}");
        assert_eq!(bed.read(client).len(), if own { 3 } else { 0 }, "what the client got: {name}");

        let kick = Kick { cookie: 5, app: app.into(), account: "alice".into(), ..Kick::default() };
        let code = ask(&mut bed, peer, |out| internal::put_control(out, Verb::Kick, &kick));
        assert_eq!(code, expect(own, Code::Unauthorized), "kick: {name}");
        assert_eq!(bed.seats[seat].worker.channels.open_count(), u32::from(!own), "{name}");
    }
}

#[test]
fn a_service_may_kick_a_session_of_its_own_app() {
    let mut bed = bed(2);
    let client = bed.client(1, "phone");
    let session = open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 1000)).unwrap();
    let kick = Kick { cookie: 5, session, ..Kick::default() };
    for (name, code) in [("bank", Code::NotHere), ("all", Code::NotHere), ("shop", Code::Ok)] {
        let peer = service(&mut bed, name).unwrap();
        assert_eq!(ask(&mut bed, peer, |out| internal::put_control(out, Verb::Kick, &kick)), code, "{name}");
    }
    assert_eq!(kinds(&bed.read(client)), [Kind::Close]);
    assert_eq!(bed.counter(Counter::ServicesDenied), 2);
}

#[test]
fn a_service_that_is_struck_off_may_not_do_more_than_before() {
    let mut bed = bed(1);
    let client = bed.client(0, "phone");
    open(&mut bed, client, 1, "shop", "alice", &token("shop", "alice", 1000)).unwrap();
    let peer = service(&mut bed, "bank").expect("welcome");
    let none_named = Access { services: None, ..access() };
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::Access(none_named)).unwrap();
    bed.settle();
    let push = PushAccount {
        cookie: 1,
        kind: Kind::Data.byte(),
        flags: 0,
        app: "shop",
        account: "alice",
        body: b"x",
    };
    assert_eq!(ask(&mut bed, peer, |out| push.put(out)), Code::Unauthorized);
    assert_eq!(bed.read(client).len(), 0);
}

#[test]
fn who_has_no_token_is_no_service() {
    let mut bed = bed(1);
    assert!(service(&mut bed, "nobody").is_none());
    assert_eq!(bed.counter(Counter::ServicesUnauthorized), 1);
    assert!(service(&mut bed, "shop").is_some());
}
