//! The monoio face. Needs a runtime with the timer enabled.
//!
//! Time passes for a connection only inside its methods: one that was idle for longer than a router waits is
//! found closed by the next call, which connects again before it says anything. Every method may be dropped
//! half-way: the kernel may still own its buffer then, so the next call connects anew.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use crate::addresses::Addresses;
use crate::core::{CONNECT_MS, Config, Error, Request};
use crate::desk::{Desk, Step};
use crate::limits::{CATCH_UP_READS_MAX, MONOIO_IDLE_MS, READ_BYTES};
use crate::{
    Act, GroupAnswer, Location, LookupResult, Pulled, Receipt, RoomStatsResult, Sent, Ticket, TrafficMarks,
    Welcome,
};

/// A connection to a router, or to the internal port of a gateway.
#[derive(Debug)]
pub struct Router {
    desk: Desk,
    stream: Option<TcpStream>,
    /// When this was last driven.
    stepped_ms: u64,
    /// Connecting, reading or writing: still set at the next step when the method was dropped.
    busy: bool,
    started: Instant,
    buffer: Vec<u8>,
    gateways: HashMap<(String, u32), Router>,
}

crate::methods::methods!([async], [.await]);

impl Router {
    fn new(address: &str, config: Config) -> Self {
        Self {
            desk: Desk::new(address, config),
            stream: None,
            stepped_ms: 0,
            busy: false,
            started: Instant::now(),
            buffer: Vec::new(),
            gateways: HashMap::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in whatever has arrived since the last call. The ring answers a poll no sooner than this task
    /// waits, so only a connection that was idle for a while is worth the millisecond.
    async fn catch_up(&mut self) {
        self.undo();
        if self.now().saturating_sub(self.stepped_ms) >= MONOIO_IDLE_MS {
            for _ in 0..CATCH_UP_READS_MAX {
                if self.desk.is_behind() || !self.readable(Duration::from_millis(1)).await {
                    break;
                }
                self.read().await;
            }
        }
        self.desk.handle_timeout(self.now());
    }

    /// One step towards whatever is awaited; waits until `until` at most.
    async fn step(&mut self, until: Option<u64>) {
        self.undo();
        let now = self.now();
        self.stepped_ms = now;
        match self.desk.step(now) {
            Step::Connect => {
                self.busy = true;
                let opened = open(self.desk.address(), self.desk.connect_limit(now)).await;
                self.busy = false;
                match opened {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.desk.handle_connected(self.now());
                    }
                    Err(error) => self.lost(&error),
                }
            }
            Step::Close => self.stream = None,
            Step::Look => {}
            Step::Write(bytes) => {
                let Some(stream) = &mut self.stream else { return };
                self.busy = true;
                let limit = Duration::from_millis(CONNECT_MS);
                let written = monoio::time::timeout(limit, stream.write_all(bytes)).await;
                self.busy = false;
                match written {
                    Ok((Ok(_), _)) => {}
                    Ok((Err(error), _)) => self.lost(&error),
                    Err(_elapsed) => self.lost(&ErrorKind::TimedOut.into()),
                }
            }
            Step::Wait(due) => {
                let due = until.into_iter().chain(due).min().unwrap_or(now + CONNECT_MS);
                let pause = Duration::from_millis(due.saturating_sub(now).max(1));
                if self.stream.is_none() {
                    monoio::time::sleep(pause).await;
                } else if self.readable(pause).await {
                    self.read().await;
                }
            }
        }
    }

    /// Whether a read would give something, within `limit`. Polls instead of reading, because a read that is
    /// given up may take bytes with it.
    async fn readable(&mut self, limit: Duration) -> bool {
        let Some(stream) = &self.stream else { return false };
        match monoio::time::timeout(limit, stream.readable(false)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.lost(&error);
                false
            }
            Err(_elapsed) => false,
        }
    }

    async fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.reserve(READ_BYTES);
        self.busy = true;
        let (received, buffer) = stream.read(buffer).await;
        self.busy = false;
        self.buffer = buffer;
        let now = self.now();
        match received {
            Ok(0) => self.lost(&ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.desk.handle_bytes(now, &self.buffer),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => self.lost(&error),
        }
    }

    /// Gives up a connection on which a dropped method left something half done.
    fn undo(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.lost(&ErrorKind::Interrupted.into());
        }
    }

    fn lost(&mut self, error: &std::io::Error) {
        self.stream = None;
        self.desk.handle_lost(self.now(), error);
    }
}

/// Connects to the first of the name's addresses that answers. Looking the name up blocks the thread.
async fn open(address: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    let since = Instant::now();
    let mut addresses = Addresses::new(address.to_socket_addrs()?, since, limit);
    while let Some((address, share)) = addresses.next(Instant::now()) {
        match monoio::time::timeout(share, TcpStream::connect_addr(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
