//! The way to a server: a TCP connection, and TLS on it where the app wants it.

use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use moor_router_client::addresses::Addresses;
use rustls::CertificateError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::core::{CertificateProblem, DialError};
use crate::limits::{DIAL_MS, SOCKET_UNSENT_BYTES};
use crate::tls::Tls;

/// Bytes both ways, whatever is below. What was written is on its way only after a flush.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

/// A connection being made: it, or where it failed and why.
pub(crate) type Dialling = Pin<Box<dyn Future<Output = Result<Box<dyn Duplex>, (String, DialError)>> + Send>>;

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects within [`DIAL_MS`], handshake included.
pub(crate) async fn dial(address: &str, tls: Option<&Tls>) -> Result<Box<dyn Duplex>, DialError> {
    let limit = Duration::from_millis(DIAL_MS);
    match tokio::time::timeout(limit, connect(address, tls)).await {
        Ok(connected) => connected,
        Err(_) => Err(network(&io::Error::from(io::ErrorKind::TimedOut))),
    }
}

async fn connect(address: &str, tls: Option<&Tls>) -> Result<Box<dyn Duplex>, DialError> {
    // Before anybody is dialled for nothing: GOAWAY may have named what is no name.
    let secure = match tls {
        None => None,
        Some(tls) => {
            let name = tls.name_at(address).map_err(|error| DialError::Tls { detail: error.to_string() })?;
            Some((TlsConnector::from(tls.config()), name))
        }
    };
    let stream = open(address).await.map_err(|error| network(&error))?;
    stream.set_nodelay(true).map_err(|error| network(&error))?;
    bound_unsent(&stream).map_err(|error| network(&error))?;
    match secure {
        None => Ok(Box::new(stream)),
        Some((connector, name)) => match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(handshake(&error)),
        },
    }
}

/// Connects to the first of the name's addresses that answers.
async fn open(address: &str) -> io::Result<TcpStream> {
    let since = Instant::now();
    let found = tokio::net::lookup_host(address).await?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut addresses = Addresses::new(found, since, Duration::from_millis(DIAL_MS));
    while let Some((address, share)) = addresses.next(Instant::now()) {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// The kernel takes little more than it can send. Otherwise it takes megabytes on a link that was fast a moment ago, and a
/// PING waits behind them.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_unsent(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(SOCKET_UNSENT_BYTES)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "as above")]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

fn network(error: &io::Error) -> DialError {
    DialError::Network { kind: error.kind(), detail: error.to_string() }
}

/// What ended a handshake: rustls's errors travel within those of the stream.
fn handshake(error: &io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            DialError::Certificate { problem: problem(why), detail: why.to_string() }
        }
        Some(other) => DialError::Tls { detail: other.to_string() },
        None => network(error),
    }
}

const fn problem(error: &CertificateError) -> CertificateProblem {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => CertificateProblem::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => CertificateProblem::NotYetValid,
        E::NotValidForName | E::NotValidForNameContext { .. } => CertificateProblem::OtherName,
        E::UnknownIssuer | E::BadSignature => CertificateProblem::UnknownAuthority,
        E::Revoked => CertificateProblem::Revoked,
        _ => CertificateProblem::Unusable,
    }
}
