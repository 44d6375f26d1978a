//! Why no connection came about: what a driver tells its session, and a session its app.

use std::io;

/// Why no connection came about. Nothing of the session was said to whoever answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing answered, or the network is away.
    #[error("{detail}")]
    Network {
        /// As the system has it.
        kind: io::ErrorKind,
        /// In words.
        detail: String,
    },
    /// Whoever answered has no certificate that is trusted here: a mistake in somebody's settings, or an impostor.
    #[error("the server's certificate {problem} ({detail})")]
    Certificate {
        /// What is wrong with it.
        problem: CertificateProblem,
        /// In the words of who checked it.
        detail: String,
    },
    /// Whoever answered speaks no TLS, or none that is spoken here.
    #[error("no TLS with the server: {detail}")]
    Tls {
        /// In words.
        detail: String,
    },
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateProblem {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for others than the server that was asked for.
    OtherName,
    /// Nobody who is trusted here vouches for it: who signed it is unknown, or the signature is not theirs, as that of
    /// a new authority under an old name.
    UnknownAuthority,
    /// Its authority has withdrawn it.
    Revoked,
    /// Anything else.
    Unusable,
}

impl std::fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "has expired, or the clock here is wrong",
            Self::NotYetValid => "is not valid yet, or the clock here is wrong",
            Self::OtherName => "is for another name",
            Self::UnknownAuthority => "is of no authority that is trusted here",
            Self::Revoked => "has been revoked",
            Self::Unusable => "cannot be used",
        })
    }
}
