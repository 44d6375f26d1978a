//! The clients' side of TLS: rustls's, with a place for each client. No I/O.
//!
//! The harness takes whatever certificate it is shown (it still checks that the server has its key): it measures, and the
//! server is the one named on its command line.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};

/// Names that are asked for, in turn. Tickets are kept by name, eight each, and hundreds of logins are under way at once.
const HOSTS: u32 = 1024;

/// TLS for the clients of one driver.
#[derive(Debug)]
pub struct Secure {
    config: Arc<ClientConfig>,
    connections: Vec<Option<Box<ClientConnection>>>,
}

/// What came of received bytes.
#[derive(Debug, Default)]
pub struct Opened {
    /// What was in them.
    pub plain: Vec<u8>,
    /// What is to be sent for them.
    pub out: Vec<u8>,
    /// The handshake ended with them, and whether a ticket made it short.
    pub resumed: Option<bool>,
}

impl Secure {
    /// For so many clients; those that may resume take the tickets of others, all being the same to the server.
    pub fn new(count: u32, resume: bool) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = match resume {
            // It counts eight for a name.
            true => Resumption::in_memory_sessions(16 * HOSTS as usize),
            false => Resumption::disabled(),
        };
        Self { config: Arc::new(config), connections: (0..count).map(|_| None).collect() }
    }

    /// A client has connected: what it sends first; `login` follows its handshake.
    pub fn begin(&mut self, index: u32, login: &[u8]) -> Result<Vec<u8>, String> {
        let name = format!("host-{}.invalid", index % HOSTS);
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| format!("no TLS client: {error}"))?;
        connection.writer().write_all(login).map_err(|error| error.to_string())?;
        let out = sealed(&mut connection);
        self.connections[index as usize] = Some(Box::new(connection));
        Ok(out)
    }

    /// Bytes of a client, as they go out.
    pub fn seal(&mut self, index: u32, plain: &[u8]) -> Vec<u8> {
        let Some(connection) = &mut self.connections[index as usize] else { return Vec::new() };
        // A buffer in memory takes what it is given.
        connection.writer().write_all(plain).unwrap_or_default();
        sealed(connection)
    }

    /// Received bytes of a client.
    pub fn open(&mut self, index: u32, mut bytes: &[u8]) -> Result<Opened, String> {
        let mut opened = Opened::default();
        let Some(connection) = &mut self.connections[index as usize] else { return Ok(opened) };
        let handshaking = connection.is_handshaking();
        while !bytes.is_empty() {
            connection.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            connection.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = connection.reader().read(&mut some) {
                opened.plain.extend_from_slice(&some[..count]);
            }
        }
        if handshaking && !connection.is_handshaking() {
            opened.resumed = Some(connection.handshake_kind() == Some(HandshakeKind::Resumed));
        }
        opened.out = sealed(connection);
        Ok(opened)
    }

    /// A client is over.
    pub fn forget(&mut self, index: u32) {
        self.connections[index as usize] = None;
    }
}

fn sealed(connection: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while connection.wants_write() {
        // A vector takes everything.
        if connection.write_tls(&mut out).is_err() {
            break;
        }
    }
    out
}

/// Takes any certificate, but not any signature.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
