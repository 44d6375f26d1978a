//! The files of one end: read together, again for every reload. A key that others can read is refused.

use std::path::{Path, PathBuf};

use moor_credentials::{LoadError, read_public, read_secret};

use super::{Acceptor, Dialer, names_of};
use crate::error::SettingsError;
use crate::server::{Pair, Text};

/// Why files cannot be used: which one, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read, or not only by its owner.
    #[error(transparent)]
    File(#[from] LoadError),
    /// What they hold cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Where one end's certificate, key and authorities stand, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The certificate that is shown, then those that lead to an authority.
    pub certificate: Option<PathBuf>,
    /// Its key. Nobody but its owner may be able to read it.
    pub key: Option<PathBuf>,
    /// Whose certificates are good.
    pub authorities: Vec<PathBuf>,
}

impl Files {
    /// Whether none is named.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.certificate.is_none() && self.key.is_none() && self.authorities.is_empty()
    }

    /// What accepts connections with them: asks for certificates where there are authorities.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn acceptor(&self) -> Result<Acceptor, FilesError> {
        let pair = self.pair()?.ok_or(SettingsError::NoCertificate)?;
        Ok(Acceptor::new(&pair, &self.authorities()?)?)
    }

    /// What connects with them to whoever has a certificate for `name`.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn dialer(&self, name: &str) -> Result<Dialer, FilesError> {
        Ok(Dialer::new(&self.authorities()?, self.pair()?.as_ref(), name)?)
    }

    /// For whom the certificate stands.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn names(&self) -> Result<Vec<String>, FilesError> {
        let path = self.certificate.as_deref().ok_or(SettingsError::NoCertificate)?;
        Ok(names_of(&public(path)?)?)
    }

    fn pair(&self) -> Result<Option<Pair>, FilesError> {
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                let bytes = read_secret(key, "a private key")?;
                let key = Text { name: key.display().to_string(), bytes };
                Ok(Some(Pair { certificate: public(certificate)?, key }))
            }
            _ => Err(SettingsError::HalfAPair.into()),
        }
    }

    fn authorities(&self) -> Result<Vec<Text>, FilesError> {
        self.authorities.iter().map(|path| public(path)).collect()
    }
}

fn public(path: &Path) -> Result<Text, FilesError> {
    Ok(Text { name: path.display().to_string(), bytes: read_public(path)?.into() })
}
