//! A server of ours and a client of rustls's, in memory.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part; an example uses it too")]

pub mod conversation;

use std::io::{Read, Write};
use std::sync::Arc;

use moor_tls::{Established, Handshake, Pair, Progress, Records, Server, Session, Settings, Text};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

pub fn text(name: &str, bytes: impl Into<Vec<u8>>) -> Text {
    Text { name: name.into(), bytes: bytes.into().into() }
}

/// A self-signed certificate for these names.
pub fn pair_with(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Pair {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Pair { certificate: text("host.pem", certificate.pem()), key: text("host.key", key.serialize_pem()) }
}

pub fn pair(names: &[&str]) -> Pair {
    pair_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
}

pub fn settings(records: Records, certificates: Vec<Pair>) -> Settings {
    Settings {
        certificates,
        ticket_keys: Some(text("tickets", "07".repeat(32))),
        records,
        alpn: Vec::new(),
        tls12: true,
        client_authorities: None,
    }
}

/// How a client comes.
pub struct Wishes {
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub suite: Option<CipherSuite>,
    pub alpn: Vec<Vec<u8>>,
    pub shows: Option<Pair>,
    pub fragment: Option<usize>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            versions: rustls::ALL_VERSIONS.to_vec(),
            suite: None,
            alpn: Vec::new(),
            shows: None,
            fragment: None,
        }
    }
}

/// A configuration that trusts the certificates; it remembers tickets.
pub fn client_config(trusted: &[Pair], wishes: &Wishes) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(CertificateDer::from_pem_slice(&pair.certificate.bytes).unwrap()).unwrap();
    }
    let mut provider = aws_lc_rs::default_provider();
    if let Some(wanted) = wishes.suite {
        provider.cipher_suites.retain(|suite| suite.suite() == wanted);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&wishes.versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match &wishes.shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(&pair.certificate.bytes).unwrap()];
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&pair.key.bytes).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols.clone_from(&wishes.alpn);
    config.max_fragment_size = wishes.fragment;
    // For what no client would send.
    config.enable_secret_extraction = true;
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

pub fn client(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), name.to_owned().try_into().unwrap()).unwrap()
}

/// Everything the client wants to send.
pub fn take(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The client reads.
pub fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
        let mut some = [0; 4096];
        while let Ok(count @ 1..) = client.reader().read(&mut some) {
            plain.extend_from_slice(&some[..count]);
        }
    }
    Ok(plain)
}

/// What the client sends of `plain`.
pub fn say(client: &mut ClientConnection, plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in plain.chunks(4096) {
        client.writer().write_all(piece).unwrap();
        bytes.append(&mut take(client));
    }
    bytes.append(&mut take(client));
    bytes
}

/// A whole handshake, the client's bytes cut into pieces of `cut`.
pub fn meet(
    server: &Server,
    client: &mut ClientConnection,
    cut: usize,
) -> Result<Box<Established>, moor_tls::Error> {
    let mut handshake = Handshake::new(server)?;
    for _ in 0..10 {
        for piece in take(client).chunks(cut) {
            let mut out = Vec::new();
            let progress = handshake.advance(piece, &mut out);
            // What the client has against it shows in what it sends next.
            give(client, &out).map(drop).unwrap_or_default();
            match progress? {
                Progress::NeedMore(next) => handshake = next,
                Progress::Done(done) => {
                    assert!(!client.is_handshaking());
                    return Ok(done);
                }
            }
        }
    }
    panic!("the handshake came to no end");
}

/// What a session opens, all records at once.
pub fn open(session: &mut Session, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), moor_tls::Error> {
    let (mut input, mut plain, mut out) = (bytes.to_vec(), Vec::new(), Vec::new());
    let opened = session.open(&mut input, &mut plain, &mut out)?;
    assert_eq!(opened.used, bytes.len(), "whole records are used up");
    Ok((plain, out))
}

pub fn seal(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.seal(plain, &mut out).unwrap();
    out
}
