//! Bounds of an admin port, a gateway's or a router's: how many connections, and how long each may last.
//!
//! The HTTP server itself waits for a slow peer for ever and accepts whoever comes. Here a connection needs
//! one of a few permits and ends after its time, so that health checks always find a place.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Admin connections at a time: scrapers, health checks and people, with room to spare. More wait.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest life of an admin connection; a scraper that keeps one open connects again.
const LIFE: Duration = Duration::from_secs(60);
/// Pause after a failed accept: the descriptor limit is reached and does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that hands out bounded connections.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Bounded {
    /// As many connections of this one as there are permits.
    #[must_use]
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                // The semaphore is never closed.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let end = Box::pin(tokio::time::sleep(LIFE));
                    return (BoundedStream { stream, end, _permit: permit }, peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin port could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with a permit and an end.
#[derive(Debug)]
pub struct BoundedStream {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn poll_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_end(context)?;
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_end(context)?;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener as _;
    use tokio::io::AsyncReadExt as _;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_silent_connection_ends_and_gives_its_place_back() {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut bounded = Bounded { listener, permits: Arc::new(Semaphore::new(1)) };
            let _client = TcpStream::connect(address).await.unwrap();
            let _second = TcpStream::connect(address).await.unwrap();
            let (mut stream, _) = bounded.accept().await;
            assert_eq!(bounded.permits.available_permits(), 0);
            let waiting = tokio::time::timeout(Duration::from_millis(20), bounded.accept()).await;
            assert!(waiting.is_err(), "a second connection found a place");
            // Its time is over.
            stream.end.as_mut().reset(tokio::time::Instant::now());
            let mut buffer = [0; 8];
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
            assert_eq!(read.expect("it never ended").unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(stream);
            bounded.accept().await;
        });
    }
}
