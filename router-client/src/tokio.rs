//! The tokio face. Needs a runtime with I/O and time enabled.
//!
//! Time passes for a connection only inside its methods: one that was idle for longer than a router waits is
//! found closed by the next call, which connects again before it says anything. Every method may be dropped
//! half-way; what it asked may still happen.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::addresses::Addresses;
use crate::core::{CONNECT_MS, Config, Error, Request};
use crate::desk::{Desk, Step};
use crate::limits::{CATCH_UP_READS_MAX, READ_BYTES};
use crate::{
    Act, GroupAnswer, Location, LookupResult, Pulled, Receipt, RoomStatsResult, Sent, Ticket, TrafficMarks,
    Welcome,
};

/// A connection to a router, or to the internal port of a gateway.
#[derive(Debug)]
pub struct Router {
    desk: Desk,
    stream: Option<TcpStream>,
    /// What is still to be written of the last piece.
    writing: Bytes,
    /// A connection was being made when the method was dropped.
    connecting: bool,
    started: Instant,
    buffer: Box<[u8]>,
    gateways: HashMap<(String, u32), Router>,
}

crate::methods::methods!([async], [.await]);

impl Router {
    fn new(address: &str, config: Config) -> Self {
        Self {
            desk: Desk::new(address, config),
            stream: None,
            writing: Bytes::new(),
            connecting: false,
            started: Instant::now(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            gateways: HashMap::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in whatever has arrived since the last call. Readiness is the runtime's knowledge, so it gets one
    /// turn to learn what happened meanwhile.
    async fn catch_up(&mut self) {
        tokio::task::yield_now().await;
        for _ in 0..CATCH_UP_READS_MAX {
            let Some(stream) = &mut self.stream else { break };
            if self.desk.is_behind() {
                break;
            }
            let received = stream.try_read(&mut self.buffer);
            if !self.received(received) {
                break;
            }
        }
        self.desk.handle_timeout(self.now());
    }

    /// One step towards whatever is awaited; waits until `until` at most.
    async fn step(&mut self, until: Option<u64>) {
        if std::mem::take(&mut self.connecting) {
            self.lost(&ErrorKind::Interrupted.into());
        }
        if !self.writing.is_empty() {
            return self.write().await;
        }
        let now = self.now();
        match self.desk.step(now) {
            Step::Connect => {
                self.connecting = true;
                let opened = open(self.desk.address(), self.desk.connect_limit(now)).await;
                self.connecting = false;
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
                self.writing = bytes;
                self.write().await;
            }
            Step::Wait(due) => {
                let due = until.into_iter().chain(due).min().unwrap_or(now + CONNECT_MS);
                let pause = Duration::from_millis(due.saturating_sub(now).max(1));
                let Some(stream) = &self.stream else { return tokio::time::sleep(pause).await };
                match tokio::time::timeout(pause, stream.readable()).await {
                    Ok(Ok(())) => {
                        let received = stream.try_read(&mut self.buffer);
                        self.received(received);
                    }
                    Ok(Err(error)) => self.lost(&error),
                    Err(_elapsed) => {}
                }
            }
        }
    }

    /// Writes what is left of the last piece; a dropped method goes on here at the next call.
    async fn write(&mut self) {
        let limit = Duration::from_millis(CONNECT_MS);
        while !self.writing.is_empty() {
            let Some(stream) = &mut self.stream else { return self.writing.clear() };
            match tokio::time::timeout(limit, stream.write(&self.writing)).await {
                Ok(Ok(length)) if length > 0 => self.writing.advance(length),
                Ok(Ok(_)) => return self.lost(&ErrorKind::WriteZero.into()),
                Ok(Err(error)) => return self.lost(&error),
                Err(_elapsed) => return self.lost(&ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Hands on what a read gave; true when there may be more.
    fn received(&mut self, received: std::io::Result<usize>) -> bool {
        let now = self.now();
        match received {
            Ok(0) => self.lost(&ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.desk.handle_bytes(now, &self.buffer[..length]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.lost(&error),
        }
        false
    }

    fn lost(&mut self, error: &std::io::Error) {
        self.stream = None;
        self.writing.clear();
        self.desk.handle_lost(self.now(), error);
    }
}

/// Connects to the first of the name's addresses that answers, all of it within the limit.
async fn open(address: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let late = |_elapsed| std::io::Error::from(ErrorKind::TimedOut);
    let since = Instant::now();
    let found = tokio::time::timeout(limit, tokio::net::lookup_host(address)).await.map_err(late)??;
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    let mut addresses = Addresses::new(found, since, limit);
    while let Some((address, share)) = addresses.next(Instant::now()) {
        match tokio::time::timeout(share, TcpStream::connect(address)).await.map_err(late) {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) | Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::flood;

    #[test]
    fn no_more_is_read_ahead_than_is_allowed() {
        let story = async {
            let address = flood::server().to_string();
            let mut router = Router::connect(&address, None).await.unwrap();
            while !router.desk.is_behind() {
                router.catch_up().await;
            }
            for _ in 0..200 {
                router.catch_up().await;
                assert!(router.desk.events_waiting() <= flood::EVENTS_MAX);
            }
            // What was read is still there, in order of arrival, and the rest follows.
            for _ in 0..flood::EVENTS_MAX + 1 {
                assert_eq!(router.next_receipt(Duration::from_secs(60)).await, Ok(Some(Receipt::default())));
            }
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
    }
}
