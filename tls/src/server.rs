//! What all connections of a listener share.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::certificates::Certificates;
use crate::error::SettingsError;
use crate::handshake::Capture;
use crate::tickets::Tickets;

/// What a connection keeps after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// rustls's unbuffered connection.
    Rustls,
    /// Secrets and sequence numbers; TLS 1.2 connections keep rustls's.
    Compact,
}

/// The content of a file and the name to call it by.
#[derive(Clone)]
pub struct Text {
    /// As the operator knows it.
    pub name: String,
    /// PEM, or lines.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Text").field(&self.name).finish()
    }
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM: the host's certificate, then those that lead to an authority.
    pub certificate: Text,
    /// PEM: PKCS#8, SEC1 or PKCS#1.
    pub key: Text,
}

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first is shown to who names no host, or one that none of them is for.
    pub certificates: Vec<Pair>,
    /// Keys that tickets are sealed with, 64 hexadecimal digits a line; the first seals, all open. `None`: one that
    /// nobody else has, so that after a restart every handshake is a full one.
    pub ticket_keys: Option<Text>,
    /// What an established connection keeps.
    pub records: Records,
    /// Protocols to agree on (ALPN), preferred first; empty: none is agreed on.
    pub alpn: Vec<Vec<u8>>,
    /// Whether TLS 1.2 is spoken.
    pub tls12: bool,
    /// Who comes must show a certificate of one of these authorities (PEM).
    pub client_authorities: Option<Text>,
}

/// Settings, loaded. To reload is to make another one; connections keep what they began with.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) records: Records,
}

impl Server {
    /// Loads settings.
    ///
    /// # Errors
    /// See [`SettingsError`]; nothing is half loaded.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let provider = Arc::new(provider());
        let certificates = Certificates::load(&settings.certificates, &provider)?;
        let versions: &[_] = if settings.tls12 { rustls::ALL_VERSIONS } else { &[&rustls::version::TLS13] };
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let builder = match &settings.client_authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let wrong =
                    |reason: String| SettingsError::Authority { file: authorities.name.clone(), reason };
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(&authorities.bytes) {
                    let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                    roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                        .build()
                        .map_err(|error| wrong(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols.clone_from(&settings.alpn);
        config.ticketer = Arc::new(Tickets::load(settings.ticket_keys.as_ref())?);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // Every ticket is a record of some 250 bytes; clients use one.
        config.send_tls13_tickets = 1;
        config.enable_secret_extraction = settings.records == Records::Compact;
        if settings.records == Records::Compact {
            config.key_log = Arc::new(Capture);
        }
        Ok(Self { config: Arc::new(config), records: settings.records })
    }
}

/// The provider's suites, AES-128 first: half the rounds of AES-256 and as much as is needed.
pub(crate) fn provider() -> CryptoProvider {
    use rustls::CipherSuite as Suite;
    let mut provider = aws_lc_rs::default_provider();
    let rank = |suite: Suite| match suite {
        Suite::TLS13_AES_128_GCM_SHA256 => 0,
        Suite::TLS13_AES_256_GCM_SHA384 => 1,
        Suite::TLS13_CHACHA20_POLY1305_SHA256 => 2,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => 3,
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 4,
        _ => 5,
    };
    provider.cipher_suites.sort_by_key(|suite| rank(suite.suite()));
    provider
}
