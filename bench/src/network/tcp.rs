//! A TCP of clients (RFC 9293) towards one server, over a network that loses packets only where a queue overflows: a few
//! words a client, no buffers but for what the server has not confirmed. No I/O, no clock.
//!
//! A client takes segments in order, confirms each at once and asks again for what is missing by confirming twice; its
//! window is always open. What it sends it sends again when nothing is heard. It hangs up by a reset. Options are left
//! out but for the segment size.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use etherparse::{
    IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpHeaderSlice, TcpOptionElement, ip_number,
};
use moor_ring::Errno;

/// Clients that share an address, told apart by their port.
const CLIENTS_PER_ADDRESS: u32 = 50_000;
/// The first of these ports.
const FIRST_PORT: u16 = 10_000;
/// As many as the addresses of a network of 256 are for, without its first, its last and the server's.
pub const CLIENTS_MAX: u32 = 253 * CLIENTS_PER_ADDRESS;
/// Bytes of a segment, of packets of 1,500.
const SEGMENT_BYTES: u16 = 1460;
/// What the server may send before a client confirms, bytes.
const WINDOW: u16 = u16::MAX;
/// What is not confirmed within this time is sent again, and again after as long.
const REPEAT: Duration = Duration::from_millis(300);
/// As often; then the connection is given up.
const REPEATS_MAX: u8 = 50;

/// What a client notices, other than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is connected, or why not.
    Connected(Result<(), Errno>),
    /// All of a send is confirmed, so many bytes; or it will not be.
    Sent(Result<u32, Errno>),
    /// The server hung up, or does not answer.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Opening,
    Open,
}

/// A client's end.
#[derive(Clone, Copy, Debug)]
struct End {
    state: State,
    /// Without an answer, one after the other.
    repeats: u8,
    /// What the server can take.
    window: u16,
    /// First number that is not confirmed.
    unconfirmed: u32,
    /// Next number to be sent.
    next: u32,
    /// Next number expected.
    expected: u32,
}

const _: () = assert!(size_of::<End>() == 16);

/// A send of which the server has not confirmed everything.
struct Send {
    bytes: Vec<u8>,
    /// So many are confirmed.
    confirmed: usize,
    /// The number it began with.
    first: u32,
    /// The first that was not confirmed when it was last looked at.
    looked_at: u32,
}

/// The clients.
pub struct Tcp {
    server: (Ipv4Addr, u16),
    ends: Vec<End>,
    sends: HashMap<u32, Send>,
    /// When to look whether something was confirmed, of whom and the number it began with: in order.
    looks: VecDeque<(Duration, u32, u32)>,
    gaps: u64,
}

/// `a` comes before `b`, as numbers that begin anew after 2^32.
const fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

/// Hands on a segment as a packet: its headers, with their checksums, and what they are for.
fn put_packet(
    (from, to): (Ipv4Addr, Ipv4Addr),
    mut tcp: TcpHeader,
    payload: &[u8],
    put: &mut impl FnMut(&[u8], &[u8]),
) {
    let bytes = u16::try_from(tcp.header_len() + payload.len()).unwrap_or(u16::MAX);
    let Ok(mut ip) = Ipv4Header::new(bytes, 64, IpNumber::TCP, from.octets(), to.octets()) else { return };
    ip.dont_fragment = true;
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap_or(0);
    let mut header = [0; Ipv4Header::MAX_LEN + TcpHeader::MAX_LEN];
    let (ip, tcp) = (ip.to_bytes(), tcp.to_bytes());
    let length = ip.len() + tcp.len();
    header[..ip.len()].copy_from_slice(&ip);
    header[ip.len()..length].copy_from_slice(&tcp);
    put(&header[..length], payload);
}

impl Tcp {
    /// So many clients of a server, none of them connected.
    pub fn new(server: (Ipv4Addr, u16), count: u32) -> Self {
        let end = End { state: State::Closed, repeats: 0, window: 0, unconfirmed: 0, next: 0, expected: 0 };
        Self {
            server,
            ends: vec![end; count as usize],
            sends: HashMap::new(),
            looks: VecDeque::new(),
            gaps: 0,
        }
    }

    /// How often bytes came of which some before are missing.
    pub const fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Where a client is: behind the server's address.
    fn address(&self, client: u32) -> (Ipv4Addr, u16) {
        let ip = self.server.0.to_bits() + 1 + client / CLIENTS_PER_ADDRESS;
        let port = u16::try_from(client % CLIENTS_PER_ADDRESS).unwrap_or(0);
        (ip.into(), FIRST_PORT + port)
    }

    fn client_at(&self, ip: Ipv4Addr, port: u16) -> Option<u32> {
        let address = ip.to_bits().checked_sub(self.server.0.to_bits() + 1)?;
        let port = u32::from(port.checked_sub(FIRST_PORT)?);
        let client = address.checked_mul(CLIENTS_PER_ADDRESS)?.checked_add(port)?;
        (port < CLIENTS_PER_ADDRESS && (client as usize) < self.ends.len()).then_some(client)
    }

    fn segment(
        &self,
        client: u32,
        number: u32,
        flags: impl FnOnce(&mut TcpHeader),
        payload: &[u8],
        put: &mut impl FnMut(&[u8], &[u8]),
    ) {
        let (ip, port) = self.address(client);
        let mut tcp = TcpHeader::new(port, self.server.1, number, WINDOW);
        flags(&mut tcp);
        put_packet((ip, self.server.0), tcp, payload, put);
    }

    fn confirm(&self, client: u32, put: &mut impl FnMut(&[u8], &[u8])) {
        let End { next, expected, .. } = self.ends[client as usize];
        self.segment(client, next, |tcp| set_ack(tcp, expected), &[], put);
    }

    fn begin(&self, client: u32, put: &mut impl FnMut(&[u8], &[u8])) {
        let flags = |tcp: &mut TcpHeader| {
            tcp.syn = true;
            let options = [TcpOptionElement::MaximumSegmentSize(SEGMENT_BYTES)];
            tcp.set_options(&options).unwrap_or_else(|error| unreachable!("{error}"));
        };
        self.segment(client, self.ends[client as usize].unconfirmed, flags, &[], put);
    }

    /// A client that is not connected begins to be, with a number that is not easily guessed.
    pub fn connect(&mut self, client: u32, first: u32, now: Duration, put: &mut impl FnMut(&[u8], &[u8])) {
        self.ends[client as usize] = End {
            state: State::Opening,
            repeats: 0,
            window: 0,
            unconfirmed: first,
            next: first.wrapping_add(1),
            expected: 0,
        };
        self.begin(client, put);
        self.looks.push_back((now + REPEAT, client, first));
    }

    /// A client sends; nothing of what it sent before is unconfirmed.
    pub fn send(
        &mut self,
        client: u32,
        bytes: Vec<u8>,
        now: Duration,
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) {
        let End { state, unconfirmed: first, .. } = self.ends[client as usize];
        if state != State::Open {
            return heard(client, Heard::Sent(Err(Errno::NOTCONN)));
        }
        self.looks.push_back((now + REPEAT, client, first));
        self.sends.insert(client, Send { bytes, confirmed: 0, first, looked_at: first });
        self.go_on(client, put);
    }

    /// Sends what has not been sent and the server can take.
    fn go_on(&mut self, client: u32, put: &mut impl FnMut(&[u8], &[u8])) {
        let Some(send) = self.sends.get(&client) else { return };
        let End { window, unconfirmed, next, expected, .. } = self.ends[client as usize];
        let from = send.confirmed + next.wrapping_sub(unconfirmed) as usize;
        let until = send.bytes.len().min(send.confirmed + usize::from(window));
        let Some(rest) = send.bytes.get(from..until) else { return };
        let mut number = next;
        for piece in rest.chunks(usize::from(SEGMENT_BYTES)) {
            let flags = |tcp: &mut TcpHeader| {
                set_ack(tcp, expected);
                tcp.psh = true;
            };
            self.segment(client, number, flags, piece, put);
            number = number.wrapping_add(u32::try_from(piece.len()).unwrap_or(0));
        }
        self.ends[client as usize].next = number;
    }

    /// A client's connection is over, if it is not yet.
    pub fn reset(
        &mut self,
        client: u32,
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) {
        let End { state, next, .. } = self.ends[client as usize];
        if state != State::Closed {
            self.segment(client, next, |tcp| tcp.rst = true, &[], put);
            self.forget(client, heard);
        }
    }

    fn forget(&mut self, client: u32, heard: &mut impl FnMut(u32, Heard)) {
        self.ends[client as usize].state = State::Closed;
        if self.sends.remove(&client).is_some() {
            heard(client, Heard::Sent(Err(Errno::CONNRESET)));
        }
    }

    /// Sends again what has not been confirmed in time.
    pub fn repeat(
        &mut self,
        now: Duration,
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) {
        while let Some(&(due, client, first)) = self.looks.front()
            && due <= now
        {
            self.looks.pop_front();
            let end = &mut self.ends[client as usize];
            let is_opening = end.state == State::Opening && end.unconfirmed == first;
            let send = self.sends.get_mut(&client).filter(|send| send.first == first);
            let is_unheard = match send {
                Some(send) => std::mem::replace(&mut send.looked_at, end.unconfirmed) == end.unconfirmed,
                None if is_opening => true,
                None => continue,
            };
            self.looks.push_back((now + REPEAT, client, first));
            if !is_unheard {
                continue;
            }
            end.repeats += 1;
            if end.repeats > REPEATS_MAX {
                self.reset(client, put, heard);
                let gone = Heard::Connected(Err(Errno::TIMEDOUT));
                heard(client, if is_opening { gone } else { Heard::Ended });
            } else if is_opening {
                self.begin(client, put);
            } else {
                end.next = end.unconfirmed;
                // A window that is closed is asked about with a byte.
                end.window = end.window.max(1);
                self.go_on(client, put);
            }
        }
    }

    /// A packet of the server's: says what it means, and where in it the bytes are that it brings to whom.
    pub fn handle(
        &mut self,
        packet: &[u8],
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) -> Option<(u32, Range<usize>)> {
        let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
        let begins = ip.slice().len();
        let segment = packet.get(begins..usize::from(ip.total_len()))?;
        let tcp = TcpHeaderSlice::from_slice(segment).ok()?;
        if ip.protocol() != ip_number::TCP || (ip.source_addr(), tcp.source_port()) != self.server {
            return None;
        }
        let client = self.client_at(ip.destination_addr(), tcp.destination_port())?;
        let bytes = begins + tcp.slice().len()..usize::from(ip.total_len());
        let end = &mut self.ends[client as usize];
        match end.state {
            State::Closed if !tcp.rst() => {
                // The server has not heard yet that it is over.
                let number = tcp.acknowledgment_number();
                self.segment(client, number, |tcp| tcp.rst = true, &[], put);
                None
            }
            State::Closed => None,
            State::Opening => {
                if !tcp.ack() || tcp.acknowledgment_number() != end.next {
                    return None;
                }
                if tcp.rst() {
                    self.forget(client, heard);
                    heard(client, Heard::Connected(Err(Errno::CONNREFUSED)));
                } else if tcp.syn() {
                    end.state = State::Open;
                    end.repeats = 0;
                    end.window = tcp.window_size();
                    end.unconfirmed = end.next;
                    end.expected = tcp.sequence_number().wrapping_add(1);
                    self.confirm(client, put);
                    heard(client, Heard::Connected(Ok(())));
                }
                None
            }
            State::Open if tcp.rst() => {
                self.forget(client, heard);
                heard(client, Heard::Ended);
                None
            }
            State::Open => {
                if tcp.ack() {
                    self.take_confirmation(client, &tcp, put, heard);
                }
                self.take_bytes(client, &tcp, bytes, put, heard)
            }
        }
    }

    fn take_confirmation(
        &mut self,
        client: u32,
        tcp: &TcpHeaderSlice<'_>,
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) {
        let end = &mut self.ends[client as usize];
        let confirmed = tcp.acknowledgment_number();
        end.window = tcp.window_size();
        let Some(send) = self.sends.get_mut(&client) else { return };
        let more = confirmed.wrapping_sub(end.unconfirmed);
        // What was sent twice may be confirmed beyond what was sent the second time.
        let rest = u32::try_from(send.bytes.len() - send.confirmed).unwrap_or(u32::MAX);
        if (1..=rest).contains(&more) {
            end.repeats = 0;
            end.unconfirmed = confirmed;
            if is_before(end.next, confirmed) {
                end.next = confirmed;
            }
            send.confirmed += more as usize;
            if send.confirmed == send.bytes.len() {
                let bytes = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
                self.sends.remove(&client);
                heard(client, Heard::Sent(Ok(bytes)));
                return;
            }
        }
        self.go_on(client, put);
    }

    fn take_bytes(
        &mut self,
        client: u32,
        tcp: &TcpHeaderSlice<'_>,
        bytes: Range<usize>,
        put: &mut impl FnMut(&[u8], &[u8]),
        heard: &mut impl FnMut(u32, Heard),
    ) -> Option<(u32, Range<usize>)> {
        let number = tcp.sequence_number();
        if bytes.is_empty() && !tcp.fin() {
            // A question whether it is still there comes with the number before.
            if is_before(number, self.ends[client as usize].expected) {
                self.confirm(client, put);
            }
            return None;
        }
        let end = &mut self.ends[client as usize];
        if is_before(end.expected, number) {
            self.gaps += 1;
            self.confirm(client, put);
            return None;
        }
        let known = end.expected.wrapping_sub(number) as usize;
        if known > bytes.len() {
            self.confirm(client, put);
            return None;
        }
        let new = bytes.start + known..bytes.end;
        end.expected = end.expected.wrapping_add(u32::try_from(new.len()).unwrap_or(0));
        if tcp.fin() {
            end.expected = end.expected.wrapping_add(1);
        }
        self.confirm(client, put);
        if tcp.fin() {
            heard(client, Heard::Ended);
        }
        (!new.is_empty()).then_some((client, new))
    }
}

fn set_ack(tcp: &mut TcpHeader, expected: u32) {
    tcp.ack = true;
    tcp.acknowledgment_number = expected;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 18, 3, 1), 7100);

    /// A packet of a client's, as far as it matters.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Said {
        from: (Ipv4Addr, u16),
        number: u32,
        /// What is confirmed, if something is.
        ack: Option<u32>,
        /// S, F, R, of those that are set.
        flags: String,
        bytes: Vec<u8>,
    }

    fn read(header: &[u8], payload: &[u8]) -> Said {
        let packet = [header, payload].concat();
        let ip = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        assert_eq!(usize::from(ip.total_len()), packet.len());
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let tcp = TcpHeaderSlice::from_slice(&packet[20..]).unwrap();
        let (bytes, typed) = (packet[20 + tcp.slice().len()..].to_vec(), tcp.to_header());
        assert_eq!(typed.checksum, typed.calc_checksum_ipv4(&ip.to_header(), &bytes).unwrap());
        assert_eq!((ip.destination_addr(), tcp.destination_port()), SERVER);
        let flags = [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R')];
        Said {
            from: (ip.source_addr(), tcp.source_port()),
            number: tcp.sequence_number(),
            ack: tcp.ack().then(|| tcp.acknowledgment_number()),
            flags: flags.iter().filter_map(|(is_set, letter)| is_set.then_some(*letter)).collect(),
            bytes,
        }
    }

    /// A packet of the server's to a client.
    fn packet(to: (Ipv4Addr, u16), number: u32, ack: u32, flags: &str, bytes: &[u8]) -> Vec<u8> {
        let window = if flags.contains('0') { 0 } else { 4_000 };
        let mut tcp = TcpHeader::new(SERVER.1, to.1, number, window);
        set_ack(&mut tcp, ack);
        (tcp.syn, tcp.fin, tcp.rst) = (flags.contains('S'), flags.contains('F'), flags.contains('R'));
        let mut out = Vec::new();
        put_packet((SERVER.0, to.0), tcp, bytes, &mut |header, bytes| out = [header, bytes].concat());
        out
    }

    /// Some clients, what they say and what they notice.
    struct Bed {
        tcp: Tcp,
        now: Duration,
        said: Vec<Said>,
        heard: Vec<(u32, Heard)>,
    }

    impl Bed {
        fn new(count: u32) -> Self {
            Self { tcp: Tcp::new(SERVER, count), now: Duration::ZERO, said: Vec::new(), heard: Vec::new() }
        }

        fn connect(&mut self, client: u32, first: u32) {
            let said = &mut self.said;
            self.tcp.connect(client, first, self.now, &mut |header, bytes| said.push(read(header, bytes)));
        }

        fn send(&mut self, client: u32, bytes: Vec<u8>) {
            let (said, heard) = (&mut self.said, &mut self.heard);
            let (mut put, mut told) = (
                |header: &[u8], bytes: &[u8]| said.push(read(header, bytes)),
                |client, what| heard.push((client, what)),
            );
            self.tcp.send(client, bytes, self.now, &mut put, &mut told);
        }

        fn reset(&mut self, client: u32) {
            let (said, heard) = (&mut self.said, &mut self.heard);
            self.tcp.reset(
                client,
                &mut |header, bytes| said.push(read(header, bytes)),
                &mut |client, what| {
                    heard.push((client, what));
                },
            );
        }

        /// The bytes that a packet brings.
        fn handle(&mut self, packet: &[u8]) -> Option<(u32, Vec<u8>)> {
            let (said, heard) = (&mut self.said, &mut self.heard);
            let mut told = |client, what| heard.push((client, what));
            let bytes =
                self.tcp.handle(packet, &mut |header, bytes| said.push(read(header, bytes)), &mut told);
            bytes.map(|(client, range)| (client, packet[range].to_vec()))
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            let (said, heard) = (&mut self.said, &mut self.heard);
            self.tcp.repeat(
                self.now,
                &mut |header, bytes| said.push(read(header, bytes)),
                &mut |client, what| {
                    heard.push((client, what));
                },
            );
        }

        fn said(&mut self) -> Vec<Said> {
            std::mem::take(&mut self.said)
        }

        fn heard(&mut self) -> Vec<(u32, Heard)> {
            std::mem::take(&mut self.heard)
        }

        /// A client whose next number is 101, and the server's 501.
        fn connected() -> (Self, (Ipv4Addr, u16)) {
            let mut bed = Self::new(1);
            bed.connect(0, 100);
            let from = bed.said()[0].from;
            assert_eq!(bed.handle(&packet(from, 500, 101, "S", &[])), None);
            assert_eq!(bed.heard(), [(0, Heard::Connected(Ok(())))]);
            assert_eq!(bed.said()[0].ack, Some(501));
            (bed, from)
        }
    }

    #[test]
    fn clients_have_addresses_and_ports_of_their_own() {
        let mut bed = Bed::new(CLIENTS_MAX);
        let mut from = |client| {
            bed.connect(client, 7);
            let said = bed.said().remove(0);
            assert_eq!((said.number, said.ack, &*said.flags), (7, None, "S"));
            said.from
        };
        assert_eq!(from(0), ("198.18.3.2".parse().unwrap(), 10_000));
        assert_eq!(from(49_999), ("198.18.3.2".parse().unwrap(), 59_999));
        assert_eq!(from(50_000), ("198.18.3.3".parse().unwrap(), 10_000));
        assert_eq!(from(CLIENTS_MAX - 1), ("198.18.3.254".parse().unwrap(), 59_999));
        for (ip, port) in [("198.18.3.2", 9_999), ("198.18.3.1", 10_000), ("198.18.3.2", 60_000)] {
            assert_eq!(bed.handle(&packet((ip.parse().unwrap(), port), 1, 8, "S", &[])), None);
        }
        assert!(bed.said().is_empty() && bed.heard().is_empty());
    }

    #[test]
    fn who_is_not_answered_asks_again_and_gives_up() {
        let mut bed = Bed::new(2);
        bed.connect(0, 100);
        bed.connect(1, 200);
        let syn = bed.said();
        bed.pass(REPEAT / 2);
        assert!(bed.said().is_empty());
        bed.pass(REPEAT / 2);
        assert_eq!(bed.said(), syn);
        // Of another connection than this one.
        bed.handle(&packet(syn[1].from, 500, 200, "S", &[]));
        bed.handle(&packet(syn[1].from, 0, 201, "R", &[]));
        assert_eq!(bed.heard(), [(1, Heard::Connected(Err(Errno::CONNREFUSED)))]);
        (0..REPEATS_MAX).for_each(|_| bed.pass(REPEAT));
        assert_eq!(bed.heard(), [(0, Heard::Connected(Err(Errno::TIMEDOUT)))]);
        assert_eq!(bed.said().last().map(|said| &*said.flags), Some("R"));
        bed.pass(10 * REPEAT);
        assert!(bed.said().is_empty());
    }

    #[test]
    fn bytes_are_taken_in_order_once_and_confirmed() {
        let (mut bed, from) = Bed::connected();
        let mut take = |number, flags, bytes: &[u8]| {
            let taken = bed.handle(&packet(from, number, 101, flags, bytes)).map(|(_, bytes)| bytes);
            (taken, bed.said().iter().map(|said| said.ack).collect::<Vec<_>>())
        };
        assert_eq!(take(501, "", b"abc"), (Some(b"abc".to_vec()), vec![Some(504)]));
        assert_eq!(take(501, "", b"abc"), (None, vec![Some(504)]), "again");
        assert_eq!(take(507, "", b"ghi"), (None, vec![Some(504)]), "what is before is missing");
        assert_eq!(take(502, "", b"bcdef"), (Some(b"def".to_vec()), vec![Some(507)]), "some of it again");
        assert_eq!(take(506, "", b""), (None, vec![Some(507)]), "is it still there?");
        assert_eq!(take(507, "", b""), (None, vec![]));
        assert_eq!(take(500, "S", b""), (None, vec![Some(507)]), "it has not heard of the connection");
        assert_eq!(take(507, "F", b"gh"), (Some(b"gh".to_vec()), vec![Some(510)]));
        assert_eq!((bed.heard(), bed.tcp.gaps()), (vec![(0, Heard::Ended)], 1));
    }

    #[test]
    fn what_is_not_confirmed_is_sent_again_as_far_as_the_server_can_take() {
        let (mut bed, from) = Bed::connected();
        let bytes: Vec<u8> = (0..=255).cycle().take(6_000).collect();
        bed.send(0, bytes.clone());
        let pieces = |said: Vec<Said>| said.iter().map(|s| (s.number, s.bytes.len())).collect::<Vec<_>>();
        assert_eq!(pieces(bed.said()), [(101, 1460), (1561, 1460), (3021, 1080)]);
        // The second one got lost, and so did what was said of the third.
        bed.handle(&packet(from, 501, 1561, "", &[]));
        assert_eq!(pieces(bed.said()), [(4101, 1460)]);
        bed.pass(REPEAT);
        assert!(bed.said().is_empty(), "something was confirmed meanwhile");
        bed.pass(REPEAT);
        assert_eq!(pieces(bed.said()), [(1561, 1460), (3021, 1460), (4481, 1080)]);
        bed.handle(&packet(from, 501, 5561, "0", &[]));
        assert!(bed.said().is_empty(), "it can take nothing more");
        bed.pass(REPEAT);
        bed.pass(REPEAT);
        assert_eq!(pieces(bed.said()), [(5561, 1)], "can it now?");
        bed.handle(&packet(from, 501, 5562, "", &[]));
        assert_eq!(pieces(bed.said()), [(5562, 539)]);
        assert!(bed.heard().is_empty());
        bed.handle(&packet(from, 501, 6101, "", &[]));
        assert_eq!(bed.heard(), [(0, Heard::Sent(Ok(6_000)))]);
        bed.pass(10 * REPEAT);
        assert!(bed.said().is_empty());
        bed.send(0, b"lost".to_vec());
        (0..=u32::from(REPEATS_MAX) + 1).for_each(|_| bed.pass(REPEAT));
        assert_eq!(bed.heard(), [(0, Heard::Sent(Err(Errno::CONNRESET))), (0, Heard::Ended)]);
    }

    #[test]
    fn who_hangs_up_resets_and_says_so_to_whoever_goes_on() {
        let (mut bed, from) = Bed::connected();
        bed.send(0, b"hello".to_vec());
        bed.said();
        bed.reset(0);
        bed.reset(0);
        assert_eq!(bed.heard(), [(0, Heard::Sent(Err(Errno::CONNRESET)))]);
        let said = bed.said();
        assert_eq!((said.len(), said[0].number, &*said[0].flags), (1, 106, "R"));
        assert_eq!(bed.handle(&packet(from, 501, 777, "", b"still")), None);
        let said = bed.said();
        assert_eq!((said.len(), said[0].number, &*said[0].flags), (1, 777, "R"));
        bed.handle(&packet(from, 501, 777, "R", &[]));
        bed.send(0, b"hello".to_vec());
        assert!(bed.said().is_empty());
        assert_eq!(bed.heard(), [(0, Heard::Sent(Err(Errno::NOTCONN)))]);
        // It may come again.
        bed.connect(0, 4_000);
        bed.handle(&packet(from, 9_000, 4_001, "S", &[]));
        assert_eq!(bed.heard(), [(0, Heard::Connected(Ok(())))]);
        bed.handle(&packet(from, 9_001, 4_001, "R", &[]));
        assert_eq!(bed.heard(), [(0, Heard::Ended)]);
    }

    /// The server's end, as simple as can be: it says everything again that was not confirmed, and takes what comes next.
    struct Peer {
        first: u32,
        confirmed: usize,
        expected: u32,
        taken: Vec<u8>,
    }

    proptest! {
        /// Whatever a network loses, doubles and turns round: in the end both have everything, once and in order.
        #[test]
        fn everything_arrives_over_a_bad_network(
            down in prop::collection::vec(any::<u8>(), 0..9_000),
            up in prop::collection::vec(any::<u8>(), 1..9_000),
            firsts in prop::sample::select(vec![(7, 9), (u32::MAX - 2_000, u32::MAX - 100), (u32::MAX, 1)]),
            seed in any::<u64>(),
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut bed = Bed::new(1);
            bed.connect(0, firsts.0);
            let from = bed.said[0].from;
            let mut peer = Peer { first: firsts.1, confirmed: 0, expected: firsts.0, taken: Vec::new() };
            let (mut got, mut is_connected, mut is_sent) = (Vec::new(), false, false);
            let mut to_client: Vec<Vec<u8>> = Vec::new();
            for round in 0.. {
                prop_assert!(round < 2_000, "{} of {} up, {} of {} down", peer.taken.len(), up.len(), got.len(), down.len());
                bed.pass(REPEAT);
                for said in bed.said() {
                    if rng.u8(..) < 60 {
                        continue;
                    }
                    if said.flags == "S" {
                        peer.expected = said.number.wrapping_add(1);
                        to_client.push(packet(from, peer.first, peer.expected, "S", &[]));
                        continue;
                    }
                    let known = said.ack.unwrap().wrapping_sub(peer.first.wrapping_add(1)) as usize;
                    peer.confirmed = peer.confirmed.max(known);
                    if said.number == peer.expected && !said.bytes.is_empty() {
                        peer.expected = peer.expected.wrapping_add(u32::try_from(said.bytes.len()).unwrap());
                        peer.taken.extend(said.bytes);
                    }
                }
                if is_connected {
                    let at = |place: usize| peer.first.wrapping_add(1).wrapping_add(u32::try_from(place).unwrap());
                    let rest = down[peer.confirmed..].chunks(700).take(5).enumerate();
                    to_client.extend(rest.map(|(n, bytes)| {
                        packet(from, at(peer.confirmed + n * 700), peer.expected, "", bytes)
                    }));
                    to_client.push(packet(from, at(peer.confirmed), peer.expected, "", &[]));
                }
                rng.shuffle(&mut to_client);
                for packet in std::mem::take(&mut to_client) {
                    for _ in 0..[0, 1, 1, 1, 2][rng.usize(..5)] {
                        got.extend(bed.handle(&packet).into_iter().flat_map(|(_, bytes)| bytes));
                    }
                }
                for (_, heard) in bed.heard() {
                    match heard {
                        Heard::Connected(Ok(())) => {
                            is_connected = true;
                            bed.send(0, up.clone());
                        }
                        Heard::Sent(Ok(_)) => is_sent = true,
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                if is_sent && got.len() >= down.len() {
                    break;
                }
            }
            prop_assert_eq!(peer.taken, up);
            prop_assert_eq!(got, down);
        }
    }
}
