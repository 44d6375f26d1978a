//! Clients behind a load balancer: its connections begin with a PROXY header, version 1 or 2, that says where the client
//! comes from. Only listed sources are believed, and those must send one.

use std::net::IpAddr;

use moor_ring::Slot;
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};

use super::Notice;
use crate::limits::{PROXY_HEADER_BYTES_MAX, PROXY_LINE_BYTES_MAX};
use crate::worker::connection::{Role, Transport};
use crate::worker::counters::Counter;
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

/// What the front of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// It is not all there.
    NeedMore,
    /// It is there.
    Whole {
        /// Where the client comes from; `None`: there is none, as when the balancer asks whether we are well.
        client: Option<IpAddr>,
        /// How long it is.
        bytes: usize,
    },
    /// It is none, or too long.
    Wrong,
}

/// Reads a PROXY header off the front of a connection.
#[must_use]
pub fn header(front: &[u8]) -> Header {
    let longest = if front.starts_with(b"PROXY") { PROXY_LINE_BYTES_MAX } else { PROXY_HEADER_BYTES_MAX };
    // What else it says about the client is not asked for.
    match ProxyHeader::parse(front, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        Ok((_, bytes)) if bytes > longest => Header::Wrong,
        Ok((header, bytes)) => match header.proxied_address() {
            Some(address) if address.protocol != Protocol::Stream => Header::Wrong,
            address => Header::Whole { client: address.map(|address| address.source.ip()), bytes },
        },
        Err(Error::BufferTooShort) if front.len() < longest => Header::NeedMore,
        Err(_) => Header::Wrong,
    }
}

impl<I: Io> Worker<I> {
    /// More of a PROXY header.
    #[cold]
    pub(in crate::worker) fn handle_proxy(&mut self, slot: Slot, bytes: &[u8], now: Now) {
        let mut front = self.take_begun(slot).unwrap_or_default();
        front.extend_from_slice(bytes);
        match header(&front) {
            Header::NeedMore => self.keep_begun(slot, front),
            Header::Whole { client, bytes } => {
                let mut rest = front.split_off(bytes);
                self.connections[slot.0].role = Role::Client(Transport::Unknown);
                if client.is_some_and(|client| !self.admit_address(slot, client, now)) {
                    self.abort(slot, now);
                } else if !rest.is_empty() {
                    self.handle_first_bytes(slot, &mut rest, now);
                }
            }
            Header::Wrong => {
                self.counters.add(Counter::ProxyRefused);
                if let Some(more) = self.door.notices.due(Notice::Proxy, now) {
                    tracing::warn!(
                        worker = self.id.0,
                        more_since = more,
                        "a connection from a network in proxy.sources did not begin with a PROXY header: switch \
                         the balancer's PROXY protocol on, or take it off the list"
                    );
                }
                self.abort(slot, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_version_1_has_its_length_whether_or_not_its_end_has_come() {
        let line = |bytes: usize| {
            let mut line = b"PROXY UNKNOWN ".to_vec();
            line.resize(bytes - 2, b'x');
            line.extend_from_slice(b"\r\n");
            line
        };
        let (longest, longer) = (line(PROXY_LINE_BYTES_MAX), line(PROXY_LINE_BYTES_MAX + 1));
        assert_eq!(header(&longest), Header::Whole { client: None, bytes: PROXY_LINE_BYTES_MAX });
        assert_eq!(header(&longest[..PROXY_LINE_BYTES_MAX - 1]), Header::NeedMore);
        assert_eq!(header(&longer), Header::Wrong);
        assert_eq!(header(&longer[..PROXY_LINE_BYTES_MAX]), Header::Wrong);
    }
}
