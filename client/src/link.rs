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
        let wrote = self.poll_write(context)?.is_ready();
        if read {
            let mut buffer = ReadBuf::new(buffer);
            if Pin::new(&mut self.stream).poll_read(context, &mut buffer)?.is_ready() {
                let length = buffer.filled().len();
                return Poll::Ready(Ok(if length == 0 { Happened::Lost } else { Happened::Read(length) }));
            }
        }
        if wrote { Poll::Ready(Ok(Happened::Wrote)) } else { Poll::Pending }
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
