//! Sockets of the kernel, in the descriptor slots of one ring: nothing but a poll is armed for a client that is idle.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use moor_ring::{
    Completion, ConnectOptions, Errno, FeatureMask, Recv, Ring, RingConfig, SendBuffer, Slot, Token,
};

use super::{Event, Network, Place, Received};

/// Connections from one source address: far below the 14,116 ports of one parity in the default range. Beyond those the kernel
/// tries port after port for each connect: 100,000 from five addresses came in at 3,500 a second instead of 20,000 (6.18).
const CLIENTS_PER_SOURCE: u32 = 5_000;

/// The address a client connects from: loopback has sixteen million of them, elsewhere the system chooses.
fn source(target: SocketAddr, number: u32) -> Option<SocketAddr> {
    let IpAddr::V4(ip) = target.ip() else { return None };
    let [_, _, high, low] = (1 + number / CLIENTS_PER_SOURCE).to_be_bytes();
    ip.is_loopback().then(|| SocketAddr::new(Ipv4Addr::new(127, 1, high, low).into(), 0))
}

/// They, and their descriptors.
pub struct Sockets {
    ring: Ring,
    slots: Vec<Slot>,
    first: u32,
    target: SocketAddr,
}

impl Sockets {
    /// Nobody is connected.
    pub fn new(place: &Place) -> io::Result<Self> {
        let ring = Ring::new(&RingConfig {
            submission_entries: 1024,
            completion_entries: 16_384,
            direct_slots: place.count + 16,
            recv_buffers: 1024,
            recv_buffer_bytes: if place.long_reads { 4096 } else { 2048 },
            features: FeatureMask::NONE,
        });
        let ring = ring.map_err(io::Error::other)?;
        let slots = vec![Slot(0); place.count as usize];
        Ok(Self { ring, slots, first: place.first, target: place.target })
    }

    fn slot(&self, client: u32) -> Slot {
        self.slots[client as usize]
    }

    /// What a completion is to a client; nothing, if it is a step on the way.
    fn event(&mut self, completion: Completion) -> Option<(u32, Event)> {
        match completion {
            Completion::Connected { token, result } => {
                let connected = result.map(|slot| {
                    self.slots[token.index() as usize] = slot;
                    self.ring.poll_readable(slot, token);
                });
                Some((token.index(), Event::Connected(connected)))
            }
            Completion::Ready { token, .. } => {
                self.ring.recv_once(self.slot(token.index()), token);
                None
            }
            Completion::Received { token, result, .. } => match result {
                Ok(Recv::Data(buffer)) => Some((token.index(), Event::Received(Received::Buffer(buffer)))),
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.ring.poll_readable(self.slot(token.index()), token);
                    None
                }
                Ok(Recv::Eof) | Err(_) => Some((token.index(), Event::Ended)),
            },
            Completion::Closed { token, .. } => Some((token.index(), Event::Closed)),
            Completion::Sent { token, result, .. } => Some((token.index(), Event::Sent(result))),
            _ => None,
        }
    }
}

impl Network for Sockets {
    fn connect(&mut self, client: u32) {
        let source = source(self.target, self.first + client);
        // Clients of many hosts would not leave their TIME_WAIT on this one, where it takes ports and is weighed.
        let options = ConnectOptions { source, nodelay: true, reset_on_close: true };
        self.ring.connect(self.target, options, Token::new(client, 0));
    }

    fn send(&mut self, client: u32, bytes: Vec<u8>) {
        self.ring.send(self.slot(client), Token::new(client, 0), SendBuffer::Owned(bytes), 0);
    }

    fn reset(&mut self, client: u32) {
        // It ends the poll that is armed, so that the slot can be closed.
        self.ring.reset(self.slot(client), Token::new(client, 0));
    }

    fn close(&mut self, client: u32) {
        self.ring.close(self.slot(client), Token::new(client, 0));
    }

    fn wait(&mut self, want: u32, nap: Option<Duration>) -> io::Result<()> {
        self.ring.submit_and_wait(want, nap).map_err(io::Error::other)
    }

    fn next(&mut self) -> Option<(u32, Event)> {
        while let Some(completion) = self.ring.pop() {
            let event = self.event(completion);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn done(&mut self, client: u32, received: Received, goes_on: bool) {
        if let Received::Buffer(buffer) = received {
            self.ring.recycle(buffer);
        }
        if goes_on {
            self.ring.poll_readable(self.slot(client), Token::new(client, 0));
        }
    }

    fn gaps(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_addresses_that_do_not_run_out_of_ports() {
        let target = "127.0.0.1:1".parse().unwrap();
        assert_eq!(source(target, 0).unwrap().to_string(), "127.1.0.1:0");
        assert_eq!(source(target, 1_999_999).unwrap().to_string(), "127.1.1.144:0");
        assert_eq!(source("192.0.2.1:1".parse().unwrap(), 0), None);
    }
}
