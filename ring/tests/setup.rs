//! Setting up, degraded kernels, and what is left when a ring goes.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{
    PATIENCE, accepted, accepting, assert_quiet, client, close, config, connected, data, next, ring,
};
use moor_ring::{
    Completion, ConnectOptions, Feature, FeatureMask, Recv, Ring, RingConfig, RingError, SendBuffer, Token,
    probe,
};

#[test]
fn impossible_sizes_are_refused_by_name() {
    let refused = |config: RingConfig| Ring::new(&config).expect_err("refused").to_string();
    assert_eq!(
        refused(RingConfig { direct_slots: 0, ..config() }),
        "direct_slots is 0, and has to be between 1 and 1048576"
    );
    assert!(refused(RingConfig { recv_buffers: 12, ..config() }).contains("power of two"));
    assert!(refused(RingConfig { completion_entries: 63, ..config() }).contains("four times"));
    assert!(refused(RingConfig { submission_entries: 1 << 15, ..config() }).contains("submission_entries"));
}

#[test]
fn a_table_beyond_the_descriptor_limit_says_so() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let Some(slots) = limit.and_then(|limit| u32::try_from(limit + 1).ok()).filter(|&slots| slots < 1 << 20)
    else {
        return; // The limit is above what a table can hold.
    };
    let error = Ring::new(&RingConfig { direct_slots: slots, ..config() }).expect_err("too many");
    assert!(matches!(error, RingError::DirectTable { .. }), "{error:?}");
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
}

#[test]
fn every_mask_is_obeyed_and_works() {
    let found = probe().unwrap();
    let masks = Feature::ALL.into_iter().map(FeatureMask::of).chain([FeatureMask::NONE, FeatureMask::ALL]);
    for features in masks {
        let mut ring = Ring::new(&RingConfig { features, ..config() }).unwrap();
        for feature in Feature::ALL {
            assert_eq!(ring.features().has(feature), found.has(feature) && !features.contains(feature));
            if features.contains(feature) {
                assert!(ring.features().to_string().contains(feature.name()));
            }
        }
        let (mut peer, slot, address) = connected(&mut ring);
        let token = Token::new(slot.0, 1);
        ring.recv_multishot(slot, token);
        peer.write_all(b"hello").unwrap();
        let received = next(&mut ring);
        assert_eq!(data(&mut ring, received, token), b"hello");
        ring.connect(address, ConnectOptions { nodelay: true, ..ConnectOptions::default() }, token);
        let (mut connected, mut accepted) = (false, false);
        while !(connected && accepted) {
            match next(&mut ring) {
                Completion::Connected { result, .. } => connected = result.is_ok(),
                Completion::Accepted { result, .. } => accepted = result.is_ok(),
                other => panic!("{features:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn more_requests_than_entries_submit_by_themselves() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    peer.write_all(b"x").unwrap();
    for index in 0..60 {
        ring.poll_readable(slot, Token::new(index, 0));
    }
    for index in 0..60 {
        assert!(matches!(next(&mut ring), Completion::Ready { token, .. } if token.index() == index));
    }
}

#[test]
fn waiting_ends_in_time() {
    let mut ring = ring();
    let (_peer, slot, _) = connected(&mut ring);
    ring.poll_readable(slot, Token::new(0, 0));
    let before = Instant::now();
    ring.submit_and_wait(1, Some(Duration::from_millis(20))).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(20));
    assert!(ring.pop().is_none());
}

#[test]
fn a_buffer_outlives_its_ring() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    peer.write_all(b"kept").unwrap();
    ring.recv_once(slot, Token::new(0, 0));
    let Completion::Received { result: Ok(Recv::Data(buffer)), .. } = next(&mut ring) else { panic!() };
    drop(ring);
    assert_eq!(&*buffer, b"kept");
}

#[test]
fn a_ring_goes_with_everything_in_flight() {
    let mut ring = ring();
    let address = accepting(&mut ring);
    let mut peers = Vec::new();
    for kind in 0..3 {
        let peer = client(address);
        let slot = accepted(&mut ring);
        let token = Token::new(slot.0, 1);
        match kind {
            0 => ring.poll_readable(slot, token),
            1 => ring.recv_multishot(slot, token),
            _ => {
                // Until one is in flight for want of room.
                loop {
                    ring.send(slot, token, SendBuffer::Owned(vec![7; 1 << 20]), 0);
                    ring.submit_and_wait(0, None).unwrap();
                    match ring.pop() {
                        Some(Completion::Sent { result: Ok(_), .. }) => {}
                        None => break,
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(ring.sends_in_flight(), 1);
            }
        }
        peers.push(peer);
    }
    // Never submitted, and a connect halfway.
    ring.connect(address, ConnectOptions::default(), Token::new(5, 5));
    drop(ring);
    // Closing the ring closes every connection, though not at once.
    for mut peer in peers {
        peer.write_all(b"too late").ok();
        let mut rest = Vec::new();
        if let Err(error) = peer.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(rest.iter().all(|&byte| byte == 7));
    }
}

#[test]
fn what_completed_before_the_end_is_not_lost() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    ring.install(slot, Token::new(0, 0));
    let listener = std::net::TcpListener::bind(common::any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    ring.adopt(listener.into(), Token::new(1, 0));
    ring.submit_and_wait(2, None).unwrap();
    drop(ring);
    // The installed descriptor would keep the connection, the plain one the listener.
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
    // The kernel closes them one after the other.
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the listener is still there");
    }
}

#[test]
fn a_handle_does_not_keep_the_ring() {
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    ring.poll_readable(slot, Token::new(0, 0));
    assert_quiet(&mut ring);
    let _handle = ring.handle();
    drop(ring);
    // Until the end; unlike `read` it goes on after EINTR, which the ring's last work may cause.
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn rings_come_and_go_on_one_thread() {
    // More than the 16 registered rings a thread can have: each gives its place back.
    for _ in 0..40 {
        let mut ring = ring();
        assert!(ring.features().has(Feature::RegisteredRing));
        let (_peer, slot, _) = connected(&mut ring);
        close(&mut ring, slot);
    }
}
