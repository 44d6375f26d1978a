//! Error numbers as the kernel reports them in completions.

use std::fmt;
use std::io;

/// A positive error number.
#[derive(Copy, Clone, Eq, PartialEq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($code), "`: ", $text, ".")]
            pub const $name: Errno = Errno(libc::$code);)*

            /// The symbol of the C header, when it is one this crate knows.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$code => Some(stringify!($code)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    PERM = EPERM, "not permitted";
    NOENT = ENOENT, "not found";
    INTR = EINTR, "interrupted by a signal";
    IO = EIO, "input or output error; also what this crate reports for a malformed completion";
    BADF = EBADF, "no such descriptor, or an empty direct slot";
    AGAIN = EAGAIN, "would block";
    NOMEM = ENOMEM, "out of memory";
    ACCES = EACCES, "access denied";
    FAULT = EFAULT, "bad address";
    BUSY = EBUSY, "busy";
    INVAL = EINVAL, "invalid argument; also how an accept on a removed listener ends";
    NFILE = ENFILE, "the direct-descriptor table is full";
    MFILE = EMFILE, "too many open descriptors";
    NOSPC = ENOSPC, "no space left";
    PIPE = EPIPE, "the connection was shut down for writing";
    NOSYS = ENOSYS, "not available here";
    CANCELED = ECANCELED, "the request was cancelled";
    OVERFLOW = EOVERFLOW, "the target could not be told";
    BADFD = EBADFD, "not an io_uring";
    NOTSOCK = ENOTSOCK, "not a socket";
    OPNOTSUPP = EOPNOTSUPP, "operation not supported";
    ADDRINUSE = EADDRINUSE, "address in use";
    ADDRNOTAVAIL = EADDRNOTAVAIL, "address not available";
    NETDOWN = ENETDOWN, "network down";
    NETUNREACH = ENETUNREACH, "network unreachable";
    CONNABORTED = ECONNABORTED, "connection aborted before it was accepted";
    CONNRESET = ECONNRESET, "connection reset";
    NOBUFS = ENOBUFS, "no receive buffer was free";
    ISCONN = EISCONN, "already connected";
    NOTCONN = ENOTCONN, "not connected";
    TIMEDOUT = ETIMEDOUT, "timed out";
    CONNREFUSED = ECONNREFUSED, "connection refused";
    HOSTUNREACH = EHOSTUNREACH, "host unreachable";
    ALREADY = EALREADY, "already in progress";
    OWNERDEAD = EOWNERDEAD, "the target ring is gone";
    TIME = ETIME, "the timer expired";
}

impl Errno {
    /// The error number inside an [`io::Error`], `EIO` when it carries none.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::IO, Errno)
    }

    /// A completion's result: the value, or the error number it stands for.
    pub(crate) fn check(result: i32) -> Result<u32, Errno> {
        u32::try_from(result).map_err(|_| Errno(result.checked_neg().unwrap_or(libc::EIO)))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl std::error::Error for Errno {}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match self.name() {
            Some(name) => write!(f, "{name}: {text}"),
            None => write!(f, "errno {}: {text}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn displays_name_and_text() {
        assert_eq!(Errno::NOBUFS.to_string(), "ENOBUFS: No buffer space available");
        assert!(Errno(4000).to_string().starts_with("errno 4000: "));
    }

    #[test]
    fn checks_every_result() {
        assert_eq!(Errno::check(7), Ok(7));
        assert_eq!(Errno::check(-libc::ENFILE), Err(Errno::NFILE));
        assert_eq!(Errno::check(i32::MIN), Err(Errno::IO));
    }
}
