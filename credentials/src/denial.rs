//! Why a credential is refused: one name for the operator's metrics, one sentence for the client.

use std::fmt;

/// Why a credential is refused. Never carries a byte of the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Denial {
    /// No credential where one is needed.
    Missing,
    /// Longer than a credential may be.
    TooLong,
    /// Not three parts of base64url with JSON in it, a claim of the wrong type, twice or too often, or nested
    /// too deeply.
    Malformed,
    /// The app is not in the credentials file.
    UnknownApp,
    /// The token's `alg` is none of those this gateway knows; `none` is one of them.
    WrongAlgorithm,
    /// No key of the app has the token's algorithm and its `kid`.
    UnknownKey,
    /// No key of the app verifies the signature.
    BadSignature,
    /// `exp` is missing.
    NoExpiry,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies in the future.
    NotYet,
    /// Valid for longer than the app allows, or without the `iat` that would tell.
    LivesTooLong,
    /// `iss` is not the app's issuer.
    WrongIssuer,
    /// `aud` does not name the app's audience, or names one while the app has none.
    WrongAudience,
    /// `app` is missing or is another one.
    WrongApp,
    /// `account` and `sub` are missing, or name another account.
    WrongAccount,
    /// `devices` does not list the device.
    WrongDevice,
    /// No service has this token.
    UnknownService,
}

impl Denial {
    /// Every denial, so that a metric can show those that never happened.
    pub const ALL: [Self; 17] = [
        Self::Missing,
        Self::TooLong,
        Self::Malformed,
        Self::UnknownApp,
        Self::WrongAlgorithm,
        Self::UnknownKey,
        Self::BadSignature,
        Self::NoExpiry,
        Self::Expired,
        Self::NotYet,
        Self::LivesTooLong,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::WrongApp,
        Self::WrongAccount,
        Self::WrongDevice,
        Self::UnknownService,
    ];

    /// Its stable name, a metric's label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::UnknownApp => "unknown_app",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::LivesTooLong => "lives_too_long",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::WrongApp => "wrong_app",
            Self::WrongAccount => "wrong_account",
            Self::WrongDevice => "wrong_device",
            Self::UnknownService => "unknown_service",
        }
    }

    /// What the peer is told. It names what an honest client can act on (ask for a login, fetch a fresh token,
    /// set its clock) and what only a holder of a signed token gets to see; everything else is one sentence, so
    /// that nobody learns which apps and keys exist.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Missing => "a credential is needed",
            Self::TooLong => "the credential is too long",
            Self::Expired => "the credential has expired",
            Self::NotYet => "the credential is not valid yet",
            _ => "the credential is not accepted",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_fit_a_label() {
        let names: std::collections::HashSet<_> = Denial::ALL.iter().map(|denial| denial.name()).collect();
        assert_eq!(names.len(), Denial::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())));
    }

    #[test]
    fn what_tells_of_apps_and_keys_is_told_alike() {
        for denial in [Denial::UnknownApp, Denial::UnknownKey, Denial::BadSignature, Denial::WrongApp] {
            assert_eq!(denial.told(), "the credential is not accepted");
        }
    }
}
