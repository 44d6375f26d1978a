//! TLS as a client speaks it: whom it trusts, under which name it asks for the server, and the tickets it was given.
//!
//! Made once and shared: every reconnect, and every client that has a clone, resumes with tickets of the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// What is asked for by ALPN: the protocol's name.
const PROTOCOL: &[u8] = b"moor.v1";

/// Why TLS cannot be spoken as wished. Found before anything is connected.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The host has no list of authorities.
    #[error(
        "this host trusts no authorities ({detail}): install its list (Debian: ca-certificates), or name a file of your own"
    )]
    NoHostAuthorities {
        /// What was found instead.
        detail: String,
    },
    /// A file of authorities cannot be used.
    #[error("{}: {reason}", path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What should be the server's name cannot be one.
    #[error("{0:?} is not a name of a server: neither a DNS name nor an IP address")]
    ServerName(String),
}

/// How to speak TLS. Clones share their tickets.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// Asked for instead of the host that is dialled.
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Trusts the authorities this host trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). Reads files.
    ///
    /// # Errors
    /// [`TlsError::NoHostAuthorities`].
    pub fn with_host_authorities() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let mut reasons = found.errors.iter().map(ToString::to_string);
            let detail = reasons.next().unwrap_or_else(|| "there is no list".to_owned());
            return Err(TlsError::NoHostAuthorities { detail });
        }
        Ok(Self::with_roots(roots))
    }

    /// Trusts the authorities of a PEM file, and nobody else. A server's own certificate, signed by itself, is one.
    ///
    /// # Errors
    /// [`TlsError::Authorities`].
    pub fn with_authorities(path: &Path) -> Result<Self, TlsError> {
        let wrong = |reason: String| TlsError::Authorities { path: path.to_owned(), reason };
        let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(format!("is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(format!("holds no authority: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        Ok(Self::with_roots(roots))
    }

    /// As the app has it: a verifier of its platform, a certificate of its own. ALPN is set here.
    #[must_use]
    pub fn with_config(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Self { config: Arc::new(config), server_name: None }
    }

    fn with_roots(roots: RootCertStore) -> Self {
        // Not the process's default provider, which an app may have set to one without some of the suites.
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::with_config(config)
    }

    /// Asks every server for this name, and checks its certificate for it, instead of the host that is dialled: for
    /// addresses that are no names.
    ///
    /// # Errors
    /// [`TlsError::ServerName`].
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.server_name = Some(parse_name(name)?);
        Ok(self)
    }

    /// The name to ask for at an address, HOST:PORT.
    pub(crate) fn name_at(&self, address: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                parse_name(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
            }
        }
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_host_of_the_address_or_what_was_said() {
        let tls = Tls::with_roots(RootCertStore::empty());
        for (address, name) in [
            ("edge.example:7100", "edge.example"),
            ("192.0.2.1:7100", "192.0.2.1"),
            ("[2001:db8::1]:7100", "2001:db8::1"),
        ] {
            assert_eq!(tls.name_at(address).unwrap().to_str(), name);
        }
        assert!(
            matches!(tls.name_at("not a name:7100"), Err(TlsError::ServerName(name)) if name == "not a name")
        );
        let tls = tls.server_name("edge.example").unwrap();
        assert_eq!(tls.name_at("192.0.2.1:7100").unwrap().to_str(), "edge.example");
        assert!(matches!(tls.server_name("-"), Err(TlsError::ServerName(_))));
    }

    #[test]
    fn a_file_that_holds_no_authority_is_named() {
        let said = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let said = Tls::with_authorities(file.path()).unwrap_err().to_string();
            assert!(said.starts_with(&file.path().display().to_string()), "{said}");
            said
        };
        assert!(said("").ends_with("holds no certificate"));
        assert!(
            said("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
                .contains("holds no authority")
        );
        assert!(said("-----BEGIN CERTIFICATE-----\nAA==\n").contains("is not PEM"));
        let missing = Tls::with_authorities(Path::new("/nowhere/ca.pem")).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/ca.pem: cannot be read"), "{missing}");
    }
}
