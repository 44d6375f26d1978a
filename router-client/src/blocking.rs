//! The blocking face: one TCP connection of the standard library, no runtime, no thread of its own.
//!
//! Time passes for a connection only inside its methods. One that was idle for longer than a router waits is
//! found closed by the next call, which connects again before it says anything.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

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
    started: Instant,
    buffer: Box<[u8]>,
    gateways: HashMap<(String, u32), Router>,
}

crate::methods::methods!([], []);

impl Router {
    fn new(address: &str, config: Config) -> Self {
        Self {
            desk: Desk::new(address, config),
            stream: None,
            started: Instant::now(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            gateways: HashMap::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes in whatever has arrived since the last call, without waiting.
    fn catch_up(&mut self) {
        for _ in 0..CATCH_UP_READS_MAX {
            let Some(stream) = &mut self.stream else { break };
            if self.desk.is_behind() {
                break;
            }
            let received = stream.set_nonblocking(true).and_then(|()| {
                let received = stream.read(&mut self.buffer);
                stream.set_nonblocking(false).and(received)
            });
            if !self.received(received) {
                break;
            }
        }
        self.desk.handle_timeout(self.now());
    }

    /// One step towards whatever is awaited; waits until `until` at most.
    fn step(&mut self, until: Option<u64>) {
        let now = self.now();
        match self.desk.step(now) {
            Step::Connect => match open(self.desk.address(), self.desk.connect_limit(now)) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.desk.handle_connected(self.now());
                }
                Err(error) => self.lost(&error),
            },
            Step::Close => self.stream = None,
            Step::Look => {}
            Step::Write(bytes) => {
                if let Some(stream) = &mut self.stream
                    && let Err(error) = stream.write_all(&bytes)
                {
                    self.lost(&error);
                }
            }
            Step::Wait(due) => {
                let due = until.into_iter().chain(due).min().unwrap_or(now + CONNECT_MS);
                let pause = Duration::from_millis(due.saturating_sub(now).max(1));
                if let Some(stream) = &mut self.stream {
                    let received =
                        stream.set_read_timeout(Some(pause)).and_then(|()| stream.read(&mut self.buffer));
                    self.received(received);
                } else {
                    std::thread::sleep(pause);
                }
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
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => self.lost(&error),
        }
        false
    }

    fn lost(&mut self, error: &std::io::Error) {
        self.stream = None;
        self.desk.handle_lost(self.now(), error);
    }
}

/// Connects to the first of the name's addresses that answers. Looking the name up takes what it takes.
fn open(address: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    let since = Instant::now();
    let mut addresses = Addresses::new(address.to_socket_addrs()?, since, limit);
    while let Some((address, share)) = addresses.next(Instant::now()) {
        match TcpStream::connect_timeout(&address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(Duration::from_millis(CONNECT_MS)))?;
                return Ok(stream);
            }
            Err(error) => last = error,
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
        let address = flood::server().to_string();
        let mut router = Router::connect(&address, None).unwrap();
        while !router.desk.is_behind() {
            router.catch_up();
        }
        for _ in 0..200 {
            router.catch_up();
            assert!(router.desk.events_waiting() <= flood::EVENTS_MAX);
        }
        // What was read is still there, in order of arrival, and the rest follows.
        for _ in 0..flood::EVENTS_MAX + 1 {
            assert_eq!(router.next_receipt(Duration::from_secs(60)), Ok(Some(Receipt::default())));
        }
    }
}
