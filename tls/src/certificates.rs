//! Which certificate a client is shown.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::SettingsError;
use crate::limits::CERTIFICATES_MAX;
use crate::server::Pair;

/// All certificates of a server, those with short signatures first among equals.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// In the order of the settings.
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(crate) fn load(pairs: &[Pair], provider: &CryptoProvider) -> Result<Self, SettingsError> {
        if pairs.is_empty() {
            return Err(SettingsError::NoCertificate);
        }
        if pairs.len() > CERTIFICATES_MAX {
            return Err(SettingsError::TooManyCertificates(pairs.len()));
        }
        let all = pairs.iter().map(|pair| load(pair, provider).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { all })
    }
}

pub(crate) fn load(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, SettingsError> {
    let no_pem = || SettingsError::NoPem { file: pair.certificate.name.clone() };
    let chain = CertificateDer::pem_slice_iter(&pair.certificate.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| no_pem())?;
    if chain.is_empty() {
        return Err(no_pem());
    }
    let key = PrivateKeyDer::from_pem_slice(&pair.key.bytes)
        .map_err(|_| SettingsError::NoKey { file: pair.key.name.clone() })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|reason| SettingsError::Pair {
        certificate: pair.certificate.name.clone(),
        key: pair.key.name.clone(),
        reason,
    })
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = |key: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|name| is_for(key, name));
        // A signature with RSA takes ten times as long.
        let slow = |key: &&Arc<CertifiedKey>| key.key.algorithm() == SignatureAlgorithm::RSA;
        self.all
            .iter()
            .filter(usable)
            .filter(named)
            .min_by_key(slow)
            .or_else(|| self.all.iter().find(usable))
            // With none that the client could check, rustls finds that nothing is in common and says so.
            .or_else(|| self.all.first())
            .cloned()
    }
}
