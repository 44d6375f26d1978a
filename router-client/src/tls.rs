//! TLS to a router or a gateway's internal port: how it is set, and what wraps a connection's bytes.
//!
//! The files are read for every connection, so that a certificate that was renewed needs no restart; files that cannot be
//! used then leave those in place that could.

use std::path::PathBuf;

use bytes::Bytes;
use moor_tls::peer::{Dialer, Files, Peer};

/// How to connect over TLS.
///
/// ```
/// use moor_router_client::{Config, Tls};
///
/// let tls = Tls::new(["ca.pem"]).certificate("billing.pem", "billing.key").name("router-1");
/// let config = Config { tls: Some(tls), ..Config::new(None) };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    files: Files,
    name: Option<String>,
}

impl Tls {
    /// Trusts these authorities (PEM files) and shows no certificate.
    pub fn new<P: Into<PathBuf>>(authorities: impl IntoIterator<Item = P>) -> Self {
        let authorities = authorities.into_iter().map(Into::into).collect();
        Self { files: Files { authorities, ..Files::default() }, name: None }
    }

    /// Shows a certificate (PEM), which stands for a token. Nobody but its owner may be able to read the key.
    #[must_use]
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.files.certificate = Some(certificate.into());
        self.files.key = Some(key.into());
        self
    }

    /// What the other side's certificate must be for, wherever it is reached; else it is the host that is connected to.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn dialer(&self, address: &str) -> Result<Dialer, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        self.files.dialer(self.name.as_deref().unwrap_or(host)).map_err(|error| error.to_string())
    }
}

/// Why nothing more will come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side has said that it closes.
    Closed,
    /// TLS cannot go on.
    Broken(String),
}

/// TLS of one face's connections; nothing at all where none is set.
#[derive(Debug, Default)]
pub(crate) struct Wrap {
    /// Made of the files when they could last be used.
    dialer: Option<Dialer>,
    peer: Option<Box<Peer>>,
}

impl Wrap {
    /// TCP is connected: begins, if there is TLS.
    pub(crate) fn begin(&mut self, tls: Option<&Tls>, address: &str) -> Result<(), String> {
        self.peer = None;
        let Some(tls) = tls else { return Ok(()) };
        match (tls.dialer(address), &self.dialer) {
            (Ok(dialer), _) => self.dialer = Some(dialer),
            (Err(reason), None) => return Err(reason),
            (Err(reason), Some(_)) => {
                tracing::warn!(address, reason, "the files of TLS cannot be used; the former stay");
            }
        }
        let connected = self.dialer.as_ref().map(Dialer::connect).transpose();
        self.peer = connected.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The connection is over.
    pub(crate) fn end(&mut self) {
        self.peer = None;
    }

    /// Opens what was received; `None`: it is clear text. Beside what was in it, why nothing more will come.
    pub(crate) fn open(&mut self, received: &[u8]) -> Option<(Vec<u8>, Option<End>)> {
        let peer = self.peer.as_mut()?;
        let mut plain = Vec::new();
        let end = match peer.receive(received, &mut plain) {
            Ok(()) if peer.is_closed() => Some(End::Closed),
            Ok(()) => None,
            Err(error) => Some(End::Broken(error.to_string())),
        };
        Some((plain, end))
    }

    /// What is to be written for these bytes; before the handshake is over they wait, and it may be nothing.
    pub(crate) fn seal(&mut self, plain: Bytes) -> Bytes {
        let Some(peer) = &mut self.peer else { return plain };
        // A connection that takes nothing more has an alert to send, or nothing, and is found broken by its next read.
        peer.send(&plain).unwrap_or_default();
        self.output()
    }

    /// What TLS has to say for itself.
    pub(crate) fn output(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(peer) = &mut self.peer {
            peer.output(&mut out);
        }
        out.into()
    }
}
