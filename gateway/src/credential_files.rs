//! The credentials file, read and checked as a whole: at start, and again at SIGHUP.

use std::sync::Arc;

use moor_credentials::{Anonymous, LoadError, ServiceKeys, Settings, Verifier};

use crate::config::Credentials;
use crate::worker::access::Access;

/// Loads what the configuration names.
///
/// # Errors
/// [`LoadError`], which names the file and says what to do.
pub fn load(config: &Credentials) -> Result<Access, LoadError> {
    let Some(path) = &config.file else { return Ok(Access::default()) };
    let mut settings = Settings::read(path)?;
    if config.anonymous {
        settings.anonymous = Anonymous::Everybody;
    }
    let services = ServiceKeys::load(&settings)?;
    Ok(Access {
        verifier: Some(Arc::new(Verifier::load(&settings)?)),
        services: (!services.is_empty()).then(|| Arc::new(services)),
    })
}
