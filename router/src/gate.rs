//! Who may connect: the token, and certificates where TLS asks for them.

use std::sync::{PoisonError, RwLock};

use moor_tls::peer::{Acceptor, Files, FilesError};

/// What is asked of whoever connects. One for all threads.
#[derive(Debug, Default)]
pub struct Gate {
    /// What every HELLO must carry.
    token: Option<String>,
    /// TLS of connections from now on; looked at once per connection.
    acceptor: RwLock<Option<Acceptor>>,
    /// Names of certificates that may connect, in lower case; empty: all.
    names: Vec<String>,
}

impl Gate {
    /// Reads the files.
    pub fn new(token: Option<String>, files: &Files, names: &[String]) -> Result<Self, FilesError> {
        let acceptor = if files.is_empty() { None } else { Some(files.acceptor()?) };
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self { token, acceptor: RwLock::new(acceptor), names })
    }

    /// TLS of a connection that begins now; `None`: clear text.
    pub fn acceptor(&self) -> Option<Acceptor> {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections from now on are shown what the files hold now; with an error they are shown what they were.
    pub fn reload(&self, files: &Files) -> Result<(), FilesError> {
        let acceptor = files.acceptor()?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = Some(acceptor);
        Ok(())
    }

    /// Whether whoever shows this token may come in, or who shows none and has a certificate, by its names.
    pub fn check(&self, token: &[u8], certificate: Option<&[String]>) -> Result<(), &'static str> {
        if !self.names.is_empty()
            && let Some(names) = certificate
            && !names.iter().any(|name| self.names.contains(name))
        {
            return Err("tls_names has none of the certificate's names");
        }
        match &self.token {
            // A certificate stands for the token; a token that is shown must be the right one all the same.
            Some(_) if token.is_empty() && certificate.is_some() => Ok(()),
            Some(expected) if !is_equal(expected.as_bytes(), token) => {
                Err("the token is not the one expected here")
            }
            _ => Ok(()),
        }
    }
}

/// Compares without telling by its time how far the two agree.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_stands_for_the_token_and_not_for_a_wrong_one() {
        let gate = |token: Option<&str>, names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            Gate::new(token.map(str::to_owned), &Files::default(), &names).unwrap()
        };
        let edge = ["edge-1".to_owned(), "edge".to_owned()];
        let edge = Some(&edge[..]);
        let with_token = gate(Some("secret"), &[]);
        assert!(with_token.check(b"secret", None).is_ok() && with_token.check(b"", edge).is_ok());
        assert!(with_token.check(b"", None).is_err() && with_token.check(b"wrong", None).is_err());
        assert!(with_token.check(b"wrong", edge).is_err());
        assert!(gate(None, &[]).check(b"", None).is_ok());
        let named = gate(Some("secret"), &["Edge"]);
        assert!(named.check(b"", edge).is_ok());
        let other = ["billing".to_owned()];
        assert!(named.check(b"secret", Some(&other)).is_err() && named.check(b"", Some(&[])).is_err());
        assert!(gate(None, &["edge-2"]).check(b"", edge).is_err());
    }
}
