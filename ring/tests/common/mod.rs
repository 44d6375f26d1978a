//! What the ring's tests share. Nothing sleeps: every wait is for a completion, with a limit.
#![allow(dead_code)] // Each test file uses its part.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{Completion, ListenerId, Recv, Ring, RingConfig, Slot, Token};

/// Longer than anything here takes; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const ACCEPT: Token = Token::new(u32::MAX, 0);

pub fn config() -> RingConfig {
    RingConfig {
        submission_entries: 16,
        completion_entries: 64,
        direct_slots: 16,
        recv_buffers: 8,
        recv_buffer_bytes: 4096,
        ..RingConfig::default()
    }
}

pub fn ring() -> Ring {
    Ring::new(&config()).expect("this kernel runs a ring")
}

/// A port that was free a moment ago.
pub fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// The next completion.
pub fn next(ring: &mut Ring) -> Completion {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(completion) = ring.pop() {
            return completion;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no completion came");
        ring.submit_and_wait(1, Some(left)).expect("the ring makes progress");
    }
}

/// Everything submitted so far has been looked at by the kernel and brought nothing: the message
/// the ring sends to itself afterwards is the next completion.
pub fn assert_quiet(ring: &mut Ring) {
    let own = ring.handle();
    ring.submit_and_wait(0, None).expect("the ring makes progress");
    ring.message(&own, 0xace);
    match next(ring) {
        Completion::Message { value: 0xace } => {}
        other => panic!("expected silence, got {other:?}"),
    }
}

pub fn listening(ring: &mut Ring) -> (ListenerId, SocketAddr) {
    let listener = listen(any_port(), &ListenOptions::default()).expect("loopback listens");
    let address = listener.local_addr().expect("it has an address");
    (ring.add_listener(listener), address)
}

pub fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

pub fn accepted(ring: &mut Ring) -> Slot {
    match next(ring) {
        Completion::Accepted { token: ACCEPT, result: Ok(slot), more: true } => slot,
        other => panic!("expected an accepted connection, got {other:?}"),
    }
}

/// A listener with its accept armed.
pub fn accepting(ring: &mut Ring) -> SocketAddr {
    let (listener, address) = listening(ring);
    ring.accept_multishot(listener, ACCEPT);
    ring.submit_and_wait(0, None).expect("the ring makes progress");
    address
}

/// One connection, its accept still armed.
pub fn connected(ring: &mut Ring) -> (TcpStream, Slot, SocketAddr) {
    let address = accepting(ring);
    let stream = client(address);
    let slot = accepted(ring);
    (stream, slot, address)
}

pub fn close(ring: &mut Ring, slot: Slot) {
    let token = Token::new(slot.0, 0xc105e);
    ring.close(slot, token);
    match next(ring) {
        Completion::Closed { token: closed, result: Ok(()) } if closed == token => {}
        other => panic!("expected a closed slot, got {other:?}"),
    }
}

/// The bytes of a received piece, given back to the ring.
pub fn data(ring: &mut Ring, completion: Completion, expected: Token) -> Vec<u8> {
    match completion {
        Completion::Received { token, result: Ok(Recv::Data(buffer)), .. } if token == expected => {
            let bytes = buffer.to_vec();
            ring.recycle(buffer);
            bytes
        }
        other => panic!("expected data, got {other:?}"),
    }
}
