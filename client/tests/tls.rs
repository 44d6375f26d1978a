//! The tokio face over TLS: rustls's server in front of a gateway made of a socket and the wire crate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use moor_client::core::{CertificateProblem, DialError};
use moor_client::{Client, ClientError, Event, Events, Options, Tls};
use moor_wire::client::{GoAway, Kind};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use support::{Gateway, Peer, message, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "edge.example";
const BOTH: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

/// Who signs certificates, and the file by which a client trusts it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), issuer.pem()).unwrap();
        Self { issuer, file }
    }

    fn tls(&self) -> Tls {
        Tls::with_authorities(self.file.path()).unwrap()
    }

    /// A server with a certificate for a name, changed as wished.
    fn server(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config =
            builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"moor.v1".to_vec()];
        Arc::new(config)
    }

    fn good(&self) -> Arc<ServerConfig> {
        self.server(NAME, BOTH, |_| {})
    }
}

/// The next failed try.
async fn not_connected(events: &mut Events) -> (String, DialError) {
    loop {
        if let Event::NotConnected { address, why } = soon("a failed try", events.recv()).await.unwrap() {
            return (address, why);
        }
    }
}

/// Whoever comes is shown the certificate; how the handshake went, if it did not end in a connection, is their affair.
async fn show(gateway: &Gateway, config: &Arc<ServerConfig>) {
    let stream = gateway.accept_socket().await;
    let shown = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    assert!(soon("the handshake", shown).await.is_err(), "the client does not take it");
}

/// What comes of connecting to a server that shows such a certificate, by a client that asks for [`NAME`].
async fn refusal(tls: Tls, config: &Arc<ServerConfig>) -> (CertificateProblem, String) {
    let gateway = Gateway::new().await;
    let addresses = [gateway.address.clone()];
    let connecting = Client::connect_tls(&addresses, Options::new("phone"), tls.server_name(NAME).unwrap());
    let (connected, ()) = tokio::join!(connecting, show(&gateway, config));
    match connected.err().unwrap() {
        ClientError::NotSecure { address, source: DialError::Certificate { problem, detail } } => {
            assert_eq!(address, gateway.address);
            (problem, detail)
        }
        other => panic!("{other}"),
    }
}

/// A client that a gateway has logged in, and what `look` found.
async fn meet<T>(
    gateways: &[&Gateway],
    tls: Tls,
    config: &Arc<ServerConfig>,
    look: impl FnOnce(&ServerConnection) -> T,
) -> (Client, Events, Peer, T) {
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address.clone()).collect();
    let starting = async {
        let (client, events) = Client::connect_tls(&addresses, Options::new("phone"), tls).await.unwrap();
        client.open(1, "shop", "alice", Bytes::new(), Some(0)).await.unwrap();
        (client, events)
    };
    let ((client, events), (peer, found)) = tokio::join!(starting, gateways[0].accept_tls(config, look));
    (client, events, peer, found)
}

#[tokio::test]
async fn a_reconnect_resumes_wherever_it_goes_and_asks_for_name_and_protocol() {
    for version in [&version::TLS13, &version::TLS12] {
        let authority = Authority::new();
        let config = authority.server(NAME, &[version], |_| {});
        let (one, two) = (Gateway::new().await, Gateway::new().await);
        let tls = authority.tls().server_name(NAME).unwrap();
        let look = |connection: &ServerConnection| {
            assert_eq!(connection.server_name(), Some(NAME));
            assert_eq!(connection.alpn_protocol(), Some(&b"moor.v1"[..]));
            connection.handshake_kind()
        };
        let (_client, mut events, mut peer, found) = meet(&[&one, &two], tls, &config, look).await;
        assert_eq!(found, Some(HandshakeKind::Full));
        for (id, gateway) in [(1, &two), (2, &one)] {
            // The ticket came before it.
            peer.deliver(id).await;
            assert_eq!(message(&mut events).await, Some(id));
            drop(peer);
            let (next, found) = gateway.accept_tls(&config, look).await;
            assert_eq!(found, Some(HandshakeKind::Resumed), "{version:?}");
            peer = next;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_and_nothing_is_said_to_who_shows_it() {
    let authority = Authority::new();
    let long_ago = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let far_away = |params: &mut CertificateParams| params.not_before = date_time_ymd(2999, 1, 1);
    let not_for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    for (config, expected, words) in [
        (Authority::named("other").good(), CertificateProblem::UnknownAuthority, "UnknownIssuer"),
        (Authority::new().good(), CertificateProblem::UnknownAuthority, "BadSignature"),
        (authority.server("other.example", BOTH, |_| {}), CertificateProblem::OtherName, "other.example"),
        (authority.server(NAME, BOTH, long_ago), CertificateProblem::Expired, "expired"),
        (authority.server(NAME, BOTH, far_away), CertificateProblem::NotYetValid, "not valid yet"),
        (authority.server(NAME, BOTH, not_for_servers), CertificateProblem::Unusable, "server"),
    ] {
        let (problem, detail) = refusal(authority.tls(), &config).await;
        assert_eq!(problem, expected, "{detail}");
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn a_certificate_that_goes_bad_is_said_at_every_try_until_it_is_renewed() {
    let authority = Authority::new();
    let expired = authority.server(NAME, BOTH, |params| params.not_after = date_time_ymd(2001, 1, 1));
    let gateway = Gateway::new().await;
    let tls = authority.tls().server_name(NAME).unwrap();
    let (_client, mut events, peer, _) = meet(&[&gateway], tls, &authority.good(), |_| ()).await;
    drop(peer);
    for _ in 0..2 {
        show(&gateway, &expired).await;
        let (address, why) = not_connected(&mut events).await;
        assert_eq!(address, gateway.address);
        assert!(matches!(why, DialError::Certificate { problem: CertificateProblem::Expired, .. }), "{why}");
        assert!(why.to_string().starts_with("the server's certificate has expired"), "{why}");
    }
    let (mut peer, ()) = gateway.accept_tls(&authority.good(), |_| ()).await;
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1));
}

#[tokio::test]
async fn a_server_without_tls_and_no_server_are_told_apart_from_a_bad_certificate() {
    let authority = Authority::new();
    let (plain, silent) = (Gateway::new().await, Gateway::new().await);
    let tls = authority.tls().server_name(NAME).unwrap();
    let addresses = [plain.address.clone(), silent.address.clone()];
    let connecting = Client::connect_tls(&addresses, Options::new("phone"), tls.clone());
    let answering = async {
        let mut stream = plain.accept_socket().await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Hangs up in the middle of the handshake, as an overloaded one does.
        drop(silent.accept_socket().await);
    };
    let (connected, ()) = tokio::join!(connecting, answering);
    let error = connected.err().unwrap();
    let ClientError::NotSecure { address, source } = &error else { panic!("{error}") };
    assert!(matches!(source, DialError::Tls { .. }), "{source}");
    assert_eq!(address, &plain.address, "the network error that followed says less");

    let addresses = [Gateway::new().await.address];
    let error = Client::connect_tls(&addresses, Options::new("phone"), tls).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { source: DialError::Network { .. }, .. }), "{error}");

    let error = Client::connect_tls(&["a b:1".to_owned()], Options::new("phone"), authority.tls())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ClientError::Tls(_)), "{error}");
}

#[tokio::test]
async fn who_is_sent_elsewhere_says_nothing_in_clear_there() {
    let authority = Authority::new();
    let (one, elsewhere) = (Gateway::new().await, Gateway::new().await);
    let tls = authority.tls().server_name(NAME).unwrap();
    let (_client, _events, mut peer, _) = meet(&[&one], tls, &authority.good(), |_| ()).await;
    let away = GoAway { retry_max_ms: 10, alternate: elsewhere.address.clone(), ..GoAway::default() };
    peer.say(Kind::GoAway, 0, &away).await;
    let mut stream = elsewhere.accept_socket().await;
    let mut first = [0];
    soon("a byte", stream.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, [22], "a handshake");
}

#[tokio::test]
async fn a_server_that_does_not_read_is_still_read_and_gets_everything_later() {
    let authority = Authority::new();
    let gateway = Gateway::new().await;
    let tls = authority.tls().server_name(NAME).unwrap();
    let (client, mut events, mut peer, _) = meet(&[&gateway], tls, &authority.good(), |_| ()).await;
    let client = Arc::new(client);
    // More than the buffers of two sockets hold.
    let sending: Vec<_> = (0..200)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.send(1, "bob", vec![7; 60_000].into()).await })
        })
        .collect();
    peer.stay_silent_until_full().await;
    peer.deliver(1).await;
    assert_eq!(message(&mut events).await, Some(1));
    for _ in &sending {
        let submit = peer.take_submit().await;
        assert!(submit.payload == vec![7; 60_000]);
        peer.accepted(&submit).await;
    }
    for sent in sending {
        soon("the answer", sent).await.unwrap().unwrap();
    }
    Arc::into_inner(client).unwrap().shutdown().await;
    peer.take(Kind::Close).await;
    assert_eq!(peer.next().await, None, "it hangs up in good order");
}
