//! The files that TLS needs, read and checked as a whole: at start, and again at SIGHUP.

use std::path::Path;

use moor_credentials::{LoadError, read_public, read_secret};
use moor_tls::peer::{Acceptor, Dialer, FilesError};
use moor_tls::{Pair, Records, Server, Settings, SettingsError, Text};

use crate::config::{Config, RouterChoice, Tls, TlsRecords};

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
    /// Likewise, of services or the router.
    #[error("{table}: {error}")]
    Peers {
        /// Which table of the configuration names them.
        table: &'static str,
        /// What is wrong.
        error: Box<FilesError>,
    },
}

/// Loads what the internal port shows and asks for; `None`: it speaks clear text.
///
/// # Errors
/// [`TlsError`], which names the file and says what to do.
pub fn internal(config: &Config) -> Result<Option<Acceptor>, TlsError> {
    let files = config.internal_tls.files();
    let wrong = |error| TlsError::Peers { table: "internal_tls", error: Box::new(error) };
    if files.is_empty() { Ok(None) } else { files.acceptor().map(Some).map_err(wrong) }
}

/// Loads what is shown to the router and asked of it; `None`: clear text is spoken with it.
///
/// # Errors
/// [`TlsError`], which names the file and says what to do.
pub fn router(config: &Config) -> Result<Option<Dialer>, TlsError> {
    let files = config.router_tls.files();
    if files.is_empty() {
        return Ok(None);
    }
    let wrong = |error| TlsError::Peers { table: "router_tls", error: Box::new(error) };
    let name = match (&config.router_tls.name, &config.router) {
        (Some(name), _) => name.clone(),
        (None, RouterChoice::Address(address)) => host(address).to_owned(),
        (None, RouterChoice::Embedded) => {
            files.names().map_err(wrong)?.into_iter().next().unwrap_or_else(|| "localhost".to_owned())
        }
    };
    files.dialer(&name).map(Some).map_err(wrong)
}

/// The host of a host and port.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
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
