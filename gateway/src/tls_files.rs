//! The files that TLS needs, read and checked as a whole: at start, and again at SIGHUP.

use std::path::Path;

use moor_credentials::{LoadError, read_public, read_secret};
use moor_tls::{Pair, Records, Server, Settings, SettingsError, Text};

use crate::config::{Tls, TlsRecords};

/// ALPN: the protocol's own name, and what browsers ask for before they upgrade.
const PROTOCOLS: [&[u8]; 2] = [b"moor.v1", b"http/1.1"];

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] LoadError),
    /// What they hold cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Loads what the configuration names; `None`: no certificate, no TLS.
///
/// # Errors
/// [`TlsError`], which names the file and says what to do.
pub fn load(config: &Tls) -> Result<Option<Server>, TlsError> {
    if !config.is_enabled() {
        return Ok(None);
    }
    let pair = |(certificate, key): (&std::path::PathBuf, &std::path::PathBuf)| {
        Ok::<_, TlsError>(Pair {
            certificate: Text { name: name(certificate), bytes: read_public(certificate)?.into() },
            key: Text { name: name(key), bytes: read_secret(key, "a private key")? },
        })
    };
    let tickets = config
        .tickets
        .as_deref()
        .map(|path| Ok::<_, TlsError>(Text { name: name(path), bytes: read_secret(path, "ticket keys")? }));
    let settings = Settings {
        certificates: config.certificates.0.iter().zip(&config.keys.0).map(pair).collect::<Result<_, _>>()?,
        ticket_keys: tickets.transpose()?,
        records: match config.records {
            TlsRecords::Rustls => Records::Rustls,
            TlsRecords::Compact => Records::Compact,
        },
        alpn: PROTOCOLS.map(<[u8]>::to_vec).to_vec(),
        tls12: config.tls12,
        client_authorities: None,
    };
    Ok(Some(Server::new(&settings)?))
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
