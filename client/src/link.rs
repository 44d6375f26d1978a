//! A connection as the driver sees it: being made, or standing with bytes on their way in both directions.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::core::DialError;
use crate::dial::{Dialling, Duplex};

/// The way to the server.
pub(crate) enum Link {
    Down,
    Dialling(Dialling),
    Up(Wire),
}

/// A connection and what is left to write of the last piece.
pub(crate) struct Wire {
    stream: Box<dyn Duplex>,
    out: Vec<u8>,
    written: usize,
    /// False when the stream itself may hold written bytes, as TLS does.
    flushed: bool,
}

/// What happened on a link.
pub(crate) enum Happened {
    /// With the address, where it failed.
    Dialled(Result<Box<dyn Duplex>, (String, DialError)>),
    /// This many bytes are in the buffer.
    Read(usize),
    Lost,
    Wrote,
}

impl Link {
    pub(crate) const fn up(stream: Box<dyn Duplex>) -> Self {
        Self::Up(Wire { stream, out: Vec::new(), written: 0, flushed: true })
    }

    /// Waits for the next thing; may be dropped at any time without losing it.
    pub(crate) async fn happen(&mut self, read: bool, buffer: &mut [u8]) -> Happened {
        match self {
            Self::Down => pending().await,
            Self::Dialling(dialled) => Happened::Dialled(dialled.await),
            Self::Up(wire) => {
                poll_fn(|context| wire.poll(read, buffer, context)).await.unwrap_or(Happened::Lost)
            }
        }
    }
}

impl Wire {
    /// Whether everything is on its way and the next piece may follow.
    pub(crate) const fn is_idle(&self) -> bool {
        self.written == self.out.len() && self.flushed
    }

    pub(crate) fn transmit(&mut self, piece: Vec<u8>) {
        (self.out, self.written, self.flushed) = (piece, 0, false);
    }

    /// Writes what is left, and the last piece, and hangs up in good order.
    pub(crate) async fn part(mut self, last: &[u8]) -> io::Result<()> {
        self.stream.write_all(&self.out[self.written..]).await?;
        self.stream.write_all(last).await?;
        self.stream.shutdown().await
    }

    /// A step in each direction that is ready for one.
    fn poll(
        &mut self,
        read: bool,
        buffer: &mut [u8],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Happened>> {
        let wrote = self.poll_write(context);
        // First what has come, whatever became of what was written: a server that sends somebody away says so and hangs
        // up, and the next write finds only that.
        if read {
            let mut buffer = ReadBuf::new(buffer);
            if Pin::new(&mut self.stream).poll_read(context, &mut buffer)?.is_ready() {
                let length = buffer.filled().len();
                return Poll::Ready(Ok(if length == 0 { Happened::Lost } else { Happened::Read(length) }));
            }
        }
        wrote.map_ok(|()| Happened::Wrote)
    }

    /// Ready when bytes, or the last of them, have gone on.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_idle() {
            return Poll::Pending;
        }
        let mut stream = Pin::new(&mut self.stream);
        let left = &self.out[self.written..];
        let mut wrote = Poll::Pending;
        if !left.is_empty() {
            let length = ready!(stream.as_mut().poll_write(context, left))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += length;
            wrote = Poll::Ready(Ok(()));
        }
        if self.written == self.out.len() {
            if stream.poll_flush(context)?.is_pending() {
                return wrote;
            }
            (self.out, self.written, self.flushed) = (Vec::new(), 0, true);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// What is written stays here until a flush.
    struct Holding {
        held: Vec<u8>,
        below: DuplexStream,
    }

    impl AsyncRead for Holding {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.below).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Holding {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.held.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            while !this.held.is_empty() {
                let length = ready!(Pin::new(&mut this.below).poll_write(context, &this.held))?;
                this.held.drain(..length);
            }
            Pin::new(&mut this.below).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.as_mut().poll_flush(context))?;
            Pin::new(&mut self.below).poll_shutdown(context)
        }
    }

    /// Both ends of TLS over a pipe that holds so many bytes each way.
    async fn tls_pair(bytes: usize) -> (Box<dyn Duplex>, Box<dyn Duplex>) {
        let certified = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let certificate = certified.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(vec![certificate], key).unwrap();
        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let (near, far) = duplex(bytes);
        let name = "edge.example".try_into().unwrap();
        let (near, far) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, near),
            TlsAcceptor::from(Arc::new(server)).accept(far)
        );
        (Box::new(near.unwrap()), Box::new(far.unwrap()))
    }

    /// The peer reads one piece to its last byte while nothing else is written; then the link is idle.
    async fn reaches(near: Box<dyn Duplex>, mut far: Box<dyn Duplex>) {
        let mut link = Link::up(near);
        let Link::Up(wire) = &mut link else { panic!("just made") };
        wire.transmit(vec![7; 4000]);
        let mut received = vec![0; 4000];
        let reading = async {
            far.read_exact(&mut received).await.unwrap();
            far
        };
        let writing = async {
            let mut buffer = [0; 64];
            while matches!(link.happen(true, &mut buffer).await, Happened::Wrote) {}
            panic!("nothing else happens");
        };
        let limit = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! { far = reading => far, () = writing => unreachable!() }
        });
        // Not yet closed: that would be a reason to write what was left.
        let _far = limit.await.expect("the last byte arrives without a further write");
        assert_eq!(received, vec![7; 4000]);
        // What is left may be nothing but the news of it.
        let limit = tokio::time::timeout(Duration::from_secs(20), async {
            while matches!(&link, Link::Up(wire) if !wire.is_idle()) {
                link.happen(true, &mut [0; 64]).await;
            }
        });
        limit.await.expect("all of it is on its way");
    }

    #[tokio::test]
    async fn the_last_byte_goes_on_without_a_further_write() {
        let (near, far) = duplex(1000);
        reaches(Box::new(Holding { held: Vec::new(), below: near }), Box::new(far)).await;
        // More than the pipe holds, so that TLS keeps the end of what it took.
        let (near, far) = tls_pair(1000).await;
        reaches(near, far).await;
        let (near, far) = duplex(1000);
        reaches(Box::new(near), Box::new(far)).await;
    }

    #[tokio::test]
    async fn what_is_written_last_goes_before_the_hang_up() {
        for (near, mut far) in [tls_pair(1000).await, {
            let (near, far) = duplex(1000);
            (Box::new(Holding { held: Vec::new(), below: near }) as _, Box::new(far) as _)
        }] {
            let Link::Up(mut wire) = Link::up(near) else { panic!("just made") };
            wire.transmit(vec![7; 4000]);
            let mut received = Vec::new();
            let (parted, read) = tokio::join!(wire.part(&[8; 4000]), far.read_to_end(&mut received));
            parted.unwrap();
            // Over TLS: with close_notify, or it would be an error.
            read.unwrap();
            assert_eq!(received, [vec![7; 4000], vec![8; 4000]].concat());
        }
    }

    #[tokio::test]
    async fn what_a_server_says_before_it_hangs_up_is_read_though_nothing_can_be_written() {
        let (near, far) = duplex(1000);
        let (mut other, gone) = duplex(1000);
        other.write_all(b"away").await.unwrap();
        drop((other, far));
        let mut link = Link::up(Box::new(tokio::io::join(gone, near)));
        let Link::Up(wire) = &mut link else { panic!("just made") };
        wire.transmit(vec![7; 10]);
        let mut buffer = [0; 64];
        assert!(matches!(link.happen(true, &mut buffer).await, Happened::Read(4)));
        assert!(matches!(link.happen(true, &mut buffer).await, Happened::Lost));
    }
}
