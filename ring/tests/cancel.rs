//! Ending one armed receive, while everything around it goes on.

mod common;

use std::io::Write;

use common::{accepted, assert_quiet, client, config, connected, data, next, ring};
use moor_ring::{Completion, Errno, Feature, FeatureMask, Recv, Ring, RingConfig, SendBuffer, Token};

fn assert_cancelled(ring: &mut Ring, expected: Token) {
    match next(ring) {
        Completion::Received { token, result: Err(Errno::CANCELED), more: false } if token == expected => {}
        other => panic!("expected the end of the receive, got {other:?}"),
    }
}

#[test]
fn a_cancelled_recv_ends_alone_and_takes_nothing() {
    let mut ring = ring();
    let (mut peer, slot, address) = connected(&mut ring);
    let (token, poll) = (Token::new(slot.0, 1), Token::new(slot.0, 2));
    let mut neighbour = client(address);
    let other_slot = accepted(&mut ring);
    // The same index in another generation, and another request on the same slot.
    let other = Token::new(slot.0, 3);
    ring.recv_multishot(slot, token);
    ring.recv_multishot(other_slot, other);
    ring.poll_readable(slot, poll);
    assert_quiet(&mut ring);

    ring.cancel_recv(token);
    assert_cancelled(&mut ring, token);
    assert_quiet(&mut ring);
    assert_eq!(ring.buffers_free(), 8, "an end keeps no buffer");

    peer.write_all(b"later").unwrap();
    assert!(matches!(next(&mut ring), Completion::Ready { token, result: Ok(()) } if token == poll));
    assert_quiet(&mut ring);
    ring.recv_once(slot, token);
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"later");
    neighbour.write_all(b"still armed").unwrap();
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, other), b"still armed");
    assert_eq!(ring.malformed_completions(), 0);
}

#[test]
fn a_cancelled_recv_can_be_armed_again_under_its_token() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 1);
    for _ in 0..3 {
        ring.recv_multishot(slot, token);
        peer.write_all(b"x").unwrap();
        let received = next(&mut ring);
        assert_eq!(data(&mut ring, received, token), b"x");
        // Twice is once.
        ring.cancel_recv(token);
        ring.cancel_recv(token);
        assert_cancelled(&mut ring, token);
        assert_quiet(&mut ring);
    }
}

#[test]
fn a_cancel_that_comes_after_the_end_is_not_heard_of() {
    let mut ring = ring();
    let (peer, slot, address) = connected(&mut ring);
    let token = Token::new(slot.0, 1);
    ring.recv_multishot(slot, token);
    assert_quiet(&mut ring);
    drop(peer);
    // The end is in the queue, or about to be, and not popped yet.
    ring.submit_and_wait(1, Some(common::PATIENCE)).unwrap();
    ring.cancel_recv(token);
    match next(&mut ring) {
        Completion::Received { result: Ok(Recv::Eof), more: false, .. } => {}
        other => panic!("{other:?}"),
    }
    // Armed on another connection under the same token, before the cancel is even submitted.
    let mut second = client(address);
    let slot = accepted(&mut ring);
    ring.recv_multishot(slot, token);
    assert_quiet(&mut ring);
    second.write_all(b"unharmed").unwrap();
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"unharmed");
}

#[test]
fn a_recv_with_more_waiting_than_one_turn_takes_is_cancelled_as_well() {
    // Everything waits before the receive is armed: its first turn takes 33 pieces and the cancel
    // finds it (6.18). Or everything comes while it is armed: then it has taken all by the time of
    // the cancel. The same with either way of running the kernel's deferred work.
    for (armed_first, features) in [
        (false, FeatureMask::NONE),
        (true, FeatureMask::NONE),
        (false, Feature::DeferTaskrun.into()),
        (true, Feature::DeferTaskrun.into()),
    ] {
        let many = RingConfig {
            recv_buffers: 256,
            recv_buffer_bytes: 16,
            completion_entries: 1024,
            features,
            ..config()
        };
        let mut ring = Ring::new(&many).unwrap();
        let (mut peer, slot, _) = connected(&mut ring);
        let token = Token::new(slot.0, 1);
        let sent: Vec<u8> = (0..4080).map(|at| (at % 251) as u8).collect();
        if armed_first {
            ring.recv_multishot(slot, token);
            assert_quiet(&mut ring);
            peer.write_all(&sent).unwrap();
        } else {
            peer.write_all(&sent).unwrap();
            ring.poll_readable(slot, Token::new(0, 0));
            assert!(matches!(next(&mut ring), Completion::Ready { .. }));
            ring.recv_multishot(slot, token);
        }
        let mut received = Vec::new();
        if armed_first {
            // The deferred work has run, or this would not be here.
            let piece = next(&mut ring);
            received.extend(data(&mut ring, piece, token));
        }
        ring.cancel_recv(token);
        loop {
            match next(&mut ring) {
                Completion::Received { result: Ok(Recv::Data(buffer)), more: true, .. } => {
                    received.extend_from_slice(&buffer);
                }
                Completion::Received { token: ended, result: Err(Errno::CANCELED), more: false } => {
                    assert_eq!(ended, token);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        // What it had not taken is in the socket: not a byte is lost or doubled.
        while received.len() < sent.len() {
            ring.recv_once(slot, token);
            let piece = next(&mut ring);
            received.extend(data(&mut ring, piece, token));
        }
        assert_eq!(received, sent);
        assert_quiet(&mut ring);
    }
}

#[test]
fn a_cancel_of_nothing_says_nothing() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 1);
    ring.recv_multishot(slot, token);
    ring.cancel_recv(Token::new(slot.0, 2));
    assert_quiet(&mut ring);
    peer.write_all(b"another generation").unwrap();
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"another generation");
}

#[test]
fn buffers_read_like_slices() {
    fn len(bytes: impl AsRef<[u8]>) -> usize {
        bytes.as_ref().len()
    }
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    peer.write_all(b"four").unwrap();
    ring.recv_once(slot, Token::new(0, 0));
    let Completion::Received { result: Ok(Recv::Data(buffer)), .. } = next(&mut ring) else { panic!() };
    assert_eq!(len(buffer), 4);
    assert_eq!((len(SendBuffer::Owned(vec![0; 3])), len(SendBuffer::Shared(b"ab"[..].into()))), (3, 2));
}
