//! An established connection's records.

use crate::compact::Compact;
use crate::error::Error;
use crate::kept::Kept;

/// An established connection: opens what the peer sends, seals what it is sent. 16 bytes and what hangs on them.
pub enum Session {
    /// rustls's connection.
    #[allow(private_interfaces, reason = "a form is chosen by settings, never by who holds it")]
    Rustls(Box<Kept>),
    /// Secrets and sequence numbers.
    #[allow(private_interfaces, reason = "a form is chosen by settings, never by who holds it")]
    Compact(Box<Compact>),
}

const _: () = assert!(size_of::<Session>() == 16);

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Rustls(_) => "Session::Rustls",
            Self::Compact(_) => "Session::Compact",
        })
    }
}

/// What became of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// So many were used; what is left is the beginning of a record, to be put before what comes next.
    pub used: usize,
    /// The peer will say no more.
    pub closed: bool,
}

impl Session {
    /// Opens every whole record of `input`, in place; appends what was in them to `plain` and what the peer is to be
    /// sent (its key update's answer, an alert) to `out`.
    ///
    /// # Errors
    /// The connection is to be closed once `out` has been sent. What came before the error is in `plain`.
    pub fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        match self {
            Self::Rustls(kept) => kept.open(input, plain, out),
            Self::Compact(compact) => compact.open(input, plain, out),
        }
    }

    /// Appends records that hold `plain`.
    ///
    /// # Errors
    /// [`Error::Unusable`]: the connection has come to its end.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Rustls(kept) => kept.seal(plain, out),
            Self::Compact(compact) => compact.seal(plain, out),
        }
    }

    /// Appends the word that nothing more will be sent.
    ///
    /// # Errors
    /// [`Error::Unusable`]: the connection has come to its end.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Rustls(kept) => kept.close(out),
            Self::Compact(compact) => compact.close(out),
        }
    }

    /// The connection as bytes, for another process: secrets, to be handled as such. `None` for what rustls keeps.
    #[must_use]
    pub fn to_bytes(&self) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        match self {
            Self::Rustls(_) => None,
            Self::Compact(compact) => Some(compact.to_bytes()),
        }
    }

    /// The connection that [`Session::to_bytes`] wrote; `None`: it did not write these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Compact::from_bytes(bytes).map(|compact| Self::Compact(Box::new(compact)))
    }
}
