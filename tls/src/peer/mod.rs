//! Both ends of TLS between Moor's own processes and their services: few connections, with or without certificates on
//! both sides.
//!
//! [`Acceptor`] and [`Dialer`] are the two ends' settings, [`Peer`] is one connection of either: bytes in, bytes out.
//! TLS 1.3 only; no tickets, no resumption, no early data: a reconnect is a full handshake, in which both sides show
//! what they have now. Where an [`Acceptor`] has authorities, who comes must show a certificate of one of them before
//! anything it says is looked at; [`Peer::names`] says for whom that certificate stands.
//!
//! What a worker holds millions of is a [`crate::Session`]; a `Peer` keeps rustls's own buffered connection.

mod files;
mod names;

use std::io::{BufRead, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::certificates;
use crate::error::SettingsError;
use crate::server::{Pair, Text, provider};

pub use files::{Files, FilesError};

/// Content types of records (RFC 8446, 5.1): change of cipher, alert, handshake, data.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// Why a connection cannot go on. What there is to tell the peer is in [`Peer::output`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// Its first byte begins no record.
    #[error("the other side does not speak TLS here")]
    NotTls,
    /// In rustls's words.
    #[error("TLS: {0}")]
    Refused(#[from] rustls::Error),
}

/// The side that is connected to. Cheap to clone; to reload is to make another one.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    is_mutual: bool,
}

impl Acceptor {
    /// Shows a certificate and, with authorities (PEM), asks for one of theirs.
    ///
    /// # Errors
    /// See [`SettingsError`]; nothing is half loaded.
    pub fn new(pair: &Pair, authorities: &[Text]) -> Result<Self, SettingsError> {
        let provider = Arc::new(provider());
        let key = shown(pair, &provider)?;
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13])?;
        let is_mutual = !authorities.is_empty();
        let builder = if is_mutual {
            let roots = Arc::new(roots(authorities)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| SettingsError::Authority {
                file: authorities.iter().map(|text| &*text.name).collect::<Vec<_>>().join(", "),
                reason: error.to_string(),
            })?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(key));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), is_mutual })
    }

    /// Whether who comes must show a certificate.
    #[must_use]
    pub const fn is_mutual(&self) -> bool {
        self.is_mutual
    }

    /// A connection that has just been accepted.
    ///
    /// # Errors
    /// In rustls's words.
    pub fn accept(&self) -> Result<Box<Peer>, PeerError> {
        Ok(Peer::new(Connection::Server(ServerConnection::new(Arc::clone(&self.config))?)))
    }
}

/// The side that connects. Cheap to clone; to reload is to make another one.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Dialer {
    /// Trusts certificates of the authorities (PEM) that are for `name`, a host name or an address, and shows one itself
    /// if it is asked to.
    ///
    /// # Errors
    /// See [`SettingsError`]; nothing is half loaded.
    pub fn new(authorities: &[Text], pair: Option<&Pair>, name: &str) -> Result<Self, SettingsError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| SettingsError::Name(name.to_owned()))?;
        if authorities.is_empty() {
            return Err(SettingsError::NoAuthority);
        }
        let provider = Arc::new(provider());
        let key = pair.map(|pair| shown(pair, &provider)).transpose()?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots(authorities)?);
        let mut config = match key {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(key)),
        };
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// A connection that has just been made.
    ///
    /// # Errors
    /// In rustls's words.
    pub fn connect(&self) -> Result<Box<Peer>, PeerError> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        Ok(Peer::new(Connection::Client(connection)))
    }
}

fn shown(pair: &Pair, provider: &CryptoProvider) -> Result<SingleCertAndKey, SettingsError> {
    certificates::load(pair, provider).map(SingleCertAndKey::from)
}

fn roots(authorities: &[Text]) -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    for text in authorities {
        let wrong = |reason: String| SettingsError::Authority { file: text.name.clone(), reason };
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&text.bytes) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("it holds no certificate".to_owned()));
        }
    }
    Ok(roots)
}

/// One connection, of either end. Plain data: it may move to another thread.
pub struct Peer {
    connection: Connection,
    /// Something has come, and it was TLS.
    heard: bool,
    /// The other side has said that nothing more will come.
    closed: bool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Peer(established: {})", self.is_established())
    }
}

impl Peer {
    fn new(mut connection: Connection) -> Box<Self> {
        // What waits for the handshake, and what is sealed, is bounded by who queues it.
        connection.set_buffer_limit(None);
        Box::new(Self { connection, heard: false, closed: false })
    }

    /// Takes what the other side sent and appends what was in it to `plain`: nothing before the handshake is over. Then
    /// there may be something in [`Peer::output`].
    ///
    /// # Errors
    /// The connection is to be closed once [`Peer::output`] has been sent. What came before the error is in `plain`.
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut impl Write) -> Result<(), PeerError> {
        if let (false, Some(first)) = (self.heard, bytes.first()) {
            if !RECORD_TYPES.contains(first) {
                return Err(PeerError::NotTls);
            }
            self.heard = true;
        }
        let general = |_| PeerError::Refused(rustls::Error::General("a buffer is full".to_owned()));
        while !bytes.is_empty() {
            // Nothing is taken any more once the other side has said that it is done.
            if self.connection.read_tls(&mut bytes).map_err(general)? == 0 {
                break;
            }
            let state = self.connection.process_new_packets();
            let mut reader = self.connection.reader();
            while let Ok(some @ [_, ..]) = reader.fill_buf() {
                let length = some.len();
                plain.write_all(some).map_err(general)?;
                reader.consume(length);
            }
            self.closed = state?.peer_has_closed();
        }
        Ok(())
    }

    /// Takes what the other side is to be told; before the handshake is over it waits for that. Then it is in
    /// [`Peer::output`].
    ///
    /// # Errors
    /// In rustls's words: the connection cannot be used any more.
    pub fn send(&mut self, plain: &[u8]) -> Result<(), PeerError> {
        let unusable = |error: std::io::Error| rustls::Error::General(error.to_string());
        Ok(self.connection.writer().write_all(plain).map_err(unusable)?)
    }

    /// Appends what is to be sent, in order, to `out`.
    pub fn output(&mut self, out: &mut impl Write) {
        while self.connection.wants_write() {
            // A vector takes everything.
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// Whether there is something in [`Peer::output`].
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// The other side is to be told, behind everything else, that nothing more will come.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether the handshake is over and, where one was asked for, the other side's certificate was good.
    #[must_use]
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether the other side has said that nothing more will come.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// For whom the other side's certificate stands; `None`: it has shown none (or not yet). In lower case: the DNS names
    /// that the certificate is for or, where it is for none, the common name of its subject.
    #[must_use]
    pub fn names(&self) -> Option<Vec<String>> {
        let shown = self.connection.peer_certificates().filter(|_| self.is_established())?;
        Some(shown.first().map(names::names).unwrap_or_default())
    }
}

/// For whom a certificate (PEM; of several the first) stands, as [`Peer::names`] says it.
///
/// # Errors
/// [`SettingsError::NoPem`].
pub fn names_of(certificate: &Text) -> Result<Vec<String>, SettingsError> {
    let der = CertificateDer::from_pem_slice(&certificate.bytes)
        .map_err(|_| SettingsError::NoPem { file: certificate.name.clone() })?;
    Ok(names::names(&der))
}
