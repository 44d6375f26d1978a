//! The life of an accepted connection, and the kernel traps along it.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use common::{
    ACCEPT, PATIENCE, accepted, accepting, assert_quiet, client, close, config, connected, data, next, ring,
};
use moor_ring::{Completion, Errno, Recv, Ring, RingConfig, SendBuffer, Token};

#[test]
fn accept_recv_send_close() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 1);

    peer.write_all(b"ping").unwrap();
    ring.recv_once(slot, token);
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"ping");
    assert_eq!(ring.buffers_free(), 8);

    ring.send(slot, token, SendBuffer::Owned(b"--pong".to_vec()), 2);
    assert_eq!(ring.sends_in_flight(), 1);
    match next(&mut ring) {
        Completion::Sent { token: sent, result: Ok(4), buffer } if sent == token => {
            assert_eq!(&*buffer, b"--pong");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ring.sends_in_flight(), 0);
    let mut pong = [0; 4];
    peer.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"pong");

    close(&mut ring, slot);
    assert_eq!(peer.read(&mut pong).unwrap(), 0, "the peer sees the end");
    ring.close(slot, token);
    assert!(matches!(next(&mut ring), Completion::Closed { result: Err(Errno::BADF), .. }));
    assert_eq!((ring.malformed_completions(), ring.overflows()), (0, 0));
}

#[test]
fn recv_once_does_not_wait() {
    let mut ring = ring();
    let (_peer, slot, _) = connected(&mut ring);
    ring.recv_once(slot, Token::new(0, 0));
    assert!(matches!(next(&mut ring), Completion::Received { result: Err(Errno::AGAIN), more: false, .. }));
}

#[test]
fn a_poll_fires_once_on_data_and_on_the_peers_close() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 7);
    ring.poll_readable(slot, token);
    assert_quiet(&mut ring);
    peer.write_all(b"x").unwrap();
    assert!(matches!(next(&mut ring), Completion::Ready { token: ready, result: Ok(()) } if ready == token));
    ring.recv_once(slot, token);
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"x");
    peer.write_all(b"y").unwrap();
    assert_quiet(&mut ring);

    ring.recv_once(slot, token);
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"y");
    ring.poll_readable(slot, token);
    drop(peer);
    assert!(matches!(next(&mut ring), Completion::Ready { result: Ok(()), .. }));
    ring.recv_once(slot, token);
    assert!(matches!(next(&mut ring), Completion::Received { result: Ok(Recv::Eof), more: false, .. }));
    assert_eq!(ring.buffers_free(), 8, "an end keeps no buffer");
}

#[test]
fn popping_alone_makes_the_kernel_deliver() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    ring.poll_readable(slot, Token::new(0, 0));
    assert_quiet(&mut ring);
    peer.write_all(b"x").unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ring.pop() {
            Some(Completion::Ready { result: Ok(()), .. }) => break,
            None => assert!(Instant::now() < deadline, "nothing was delivered"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn multishot_recv_runs_out_of_buffers_and_goes_on_after_recycling() {
    let mut ring = Ring::new(&RingConfig { recv_buffers: 2, recv_buffer_bytes: 16, ..config() }).unwrap();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 1);
    let sent: Vec<u8> = (0..64).collect();
    peer.write_all(&sent).unwrap();

    let mut held = Vec::new();
    let mut received = Vec::new();
    ring.recv_multishot(slot, token);
    let mut starved = 0;
    while received.len() < sent.len() {
        match next(&mut ring) {
            Completion::Received { result: Ok(Recv::Data(buffer)), .. } => {
                received.extend_from_slice(&buffer);
                held.push(buffer);
            }
            Completion::Received { result: Err(Errno::NOBUFS), more, .. } => {
                assert!(!more, "want of buffers ends a multishot receive");
                assert_eq!((held.len(), ring.buffers_free()), (2, 0));
                starved += 1;
                for buffer in held.drain(..) {
                    ring.recycle(buffer);
                }
                assert_eq!(ring.buffers_free(), 2);
                ring.recv_multishot(slot, token);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, sent);
    assert!(starved >= 1);
}

#[test]
fn a_full_table_ends_the_accept() {
    let mut ring = Ring::new(&RingConfig { direct_slots: 2, ..config() }).unwrap();
    let (listener, address) = common::listening(&mut ring);
    ring.accept_multishot(listener, ACCEPT);
    let peers = [client(address), client(address)];
    let slots = [accepted(&mut ring), accepted(&mut ring)];
    let mut refused = client(address);
    match next(&mut ring) {
        Completion::Accepted { token: ACCEPT, result: Err(Errno::NFILE), more: false } => {}
        other => panic!("{other:?}"),
    }
    // The kernel had taken it off the queue already and drops it.
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));

    close(&mut ring, slots[0]);
    ring.accept_multishot(listener, ACCEPT);
    let _late = client(address);
    assert_eq!(accepted(&mut ring), slots[0]);
    drop(peers);
}

#[test]
fn closing_under_an_armed_poll_sends_nothing() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 3);
    ring.poll_readable(slot, token);
    close(&mut ring, slot);
    assert_quiet(&mut ring);
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // The request holds the file: it is the peer's end that completes it.
    drop(peer);
    assert!(matches!(next(&mut ring), Completion::Ready { token: ready, .. } if ready == token));
}

#[test]
fn a_reset_completes_what_is_armed_and_tells_the_peer() {
    let mut ring = ring();
    let address = accepting(&mut ring);
    for multishot in [false, true] {
        let mut peer = client(address);
        let slot = accepted(&mut ring);
        let token = Token::new(slot.0, 3);
        if multishot {
            ring.recv_multishot(slot, token);
        } else {
            ring.poll_readable(slot, token);
        }
        assert_quiet(&mut ring);
        ring.reset(slot, Token::new(slot.0, 4));
        let (mut reset, mut woken) = (false, false);
        while !(reset && woken) {
            match next(&mut ring) {
                Completion::Reset { token, result: Ok(()) } if token.generation() == 4 => reset = true,
                Completion::Ready { token: ready, result: Ok(()) } if ready == token => woken = true,
                Completion::Received { token: ended, result: Err(Errno::CONNRESET), more: false }
                    if ended == token =>
                {
                    woken = true;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        close(&mut ring, slot);
    }
}

#[test]
fn a_late_completion_carries_the_old_generation() {
    let mut ring = ring();
    let (first, slot, address) = connected(&mut ring);
    ring.poll_readable(slot, Token::new(slot.0, 1));
    close(&mut ring, slot);
    let _second = client(address);
    assert_eq!(accepted(&mut ring), slot, "the slot is used again at once");
    ring.poll_readable(slot, Token::new(slot.0, 2));
    assert_quiet(&mut ring);
    drop(first);
    match next(&mut ring) {
        Completion::Ready { token, result: Ok(()) } => assert_eq!(token, Token::new(slot.0, 1)),
        other => panic!("{other:?}"),
    }
    assert_quiet(&mut ring);
}

#[test]
fn a_slow_reader_gets_a_large_send_in_pieces() {
    const BYTES: u32 = 1 << 20;
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let payload: std::rc::Rc<[u8]> = (0..=250).cycle().take(BYTES as usize).collect();
    let expected = payload.to_vec();
    let (begin, begun) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        begun.recv().unwrap();
        let mut received = vec![0; BYTES as usize];
        peer.read_exact(&mut received).unwrap();
        assert!(received == expected);
    });
    let mut begin = Some(begin);
    let mut offset = 0;
    while offset < BYTES {
        ring.send(slot, Token::new(0, 0), SendBuffer::Shared(payload.clone()), offset);
        if offset > 0 {
            // The reader begins when a second send is on its way, which may find no room.
            ring.submit_and_wait(0, None).unwrap();
            if let Some(begin) = begin.take() {
                begin.send(()).unwrap();
            }
        }
        match next(&mut ring) {
            Completion::Sent { result: Ok(bytes), .. } => offset += bytes,
            other => panic!("{other:?}"),
        }
    }
    if let Some(begin) = begin {
        begin.send(()).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn a_listener_is_closed_when_its_accept_has_been_stopped() {
    let mut ring = ring();
    let (listener, address) = common::listening(&mut ring);
    ring.accept_multishot(listener, ACCEPT);
    assert_quiet(&mut ring);
    ring.stop_accept(ACCEPT);
    drop(ring.release_listener(listener));
    match next(&mut ring) {
        Completion::Accepted { token: ACCEPT, result: Err(Errno::CANCELED), more: false } => {}
        other => panic!("{other:?}"),
    }
    assert!(std::net::TcpStream::connect(address).is_err());
    ring.accept_multishot(listener, ACCEPT);
    assert!(matches!(next(&mut ring), Completion::Accepted { result: Err(Errno::BADF), more: false, .. }));
}

#[test]
fn a_stopped_accept_leaves_the_socket_listening() {
    let mut ring = ring();
    let (listener, address) = common::listening(&mut ring);
    ring.accept_multishot(listener, ACCEPT);
    assert_quiet(&mut ring);
    ring.stop_accept(ACCEPT);
    match next(&mut ring) {
        Completion::Accepted { token: ACCEPT, result: Err(Errno::CANCELED), more: false } => {}
        other => panic!("{other:?}"),
    }
    let _peer = client(address);
    assert_quiet(&mut ring);
    let listener = ring.release_listener(listener).unwrap();
    listener.accept().unwrap();
}
