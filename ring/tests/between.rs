//! What rings and threads say to each other.

mod common;

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use common::{assert_quiet, close, config, connected, data, next, ring};
use moor_ring::{
    Completion, Doorbell, Errno, Feature, MESSAGE_VALUE_MAX, Ring, RingConfig, RingHandle, Token,
};

/// Runs `body` with a ring of its own on another thread; gives its handle once `prepare` is done.
fn other_ring<T>(
    config: RingConfig,
    prepare: impl FnOnce(&mut Ring) -> T + Send + 'static,
    body: impl FnOnce(&mut Ring, T) + Send + 'static,
) -> (RingHandle, thread::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut ring = Ring::new(&config).expect("a ring");
        let prepared = prepare(&mut ring);
        sender.send(ring.handle()).expect("the test waits");
        body(&mut ring, prepared);
    });
    (receiver.recv().expect("the other thread is ready"), thread)
}

#[test]
fn messages_arrive_and_success_is_silent() {
    let (target, thread) = other_ring(
        config(),
        |_| (),
        |ring, ()| {
            for value in [0, 1, MESSAGE_VALUE_MAX] {
                match next(ring) {
                    Completion::Message { value: arrived } => assert_eq!(arrived, value),
                    other => panic!("{other:?}"),
                }
            }
        },
    );
    let mut ring = ring();
    for value in [0, 1, MESSAGE_VALUE_MAX] {
        ring.message(&target, value);
    }
    ring.submit_and_wait(0, None).unwrap();
    thread.join().unwrap();
    assert_quiet(&mut ring);
}

#[test]
fn a_slot_moves_to_another_ring() {
    let (target, thread) = other_ring(config(), connected, |ring, (_peer, own, _)| {
        let (value, slot) = match next(ring) {
            Completion::SlotPassed { value, result: Ok(slot) } => (value, slot),
            other => panic!("{other:?}"),
        };
        assert_eq!(value, 0xab_cdef);
        assert_ne!(slot, own, "the slot is the target's, where another is in the way");
        let token = Token::new(slot.0, 1);
        ring.recv_multishot(slot, token);
        let received = next(ring);
        assert_eq!(data(ring, received, token), b"to the new owner");
        ring.reset(slot, token);
        while !matches!(next(ring), Completion::Received { more: false, .. }) {}
    });
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    let token = Token::new(slot.0, 9);
    ring.pass_slot(slot, &target, 0xab_cdef, token);
    assert!(
        matches!(next(&mut ring), Completion::Passed { token: passed, result: Ok(()) } if passed == token)
    );
    close(&mut ring, slot);
    peer.write_all(b"to the new owner").unwrap();
    let error = peer.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "by the new owner");
    thread.join().unwrap();
}

#[test]
fn a_slot_does_not_fit_into_a_full_table() {
    let (done, stop) = mpsc::channel::<()>();
    let full = RingConfig { direct_slots: 1, ..config() };
    let (target, thread) = other_ring(full, connected, move |ring, _connection| {
        // The other side's failure needs this one's deferred work to run, and brings nothing.
        while stop.try_recv() == Err(mpsc::TryRecvError::Empty) {
            ring.submit_and_wait(1, Some(std::time::Duration::from_millis(10))).unwrap();
            assert!(ring.pop().is_none());
        }
    });
    let mut ring = ring();
    let (_peer, slot, _) = connected(&mut ring);
    ring.pass_slot(slot, &target, 1, Token::new(0, 0));
    let result = match next(&mut ring) {
        Completion::Passed { result, .. } => result,
        other => panic!("{other:?}"),
    };
    assert_eq!(result, Err(Errno::NFILE));
    drop(done);
    thread.join().unwrap();
}

#[test]
fn a_doorbell_rings_from_any_thread_any_number_of_times() {
    let mut ring = ring();
    let doorbell = Doorbell::new().unwrap();
    doorbell.ring();
    ring.watch(&doorbell);
    assert!(matches!(next(&mut ring), Completion::Doorbell), "rung before it was watched");
    assert_quiet(&mut ring);
    for _ in 0..3 {
        let elsewhere = doorbell.clone();
        let ringer = thread::spawn(move || {
            elsewhere.ring();
            elsewhere.ring();
        });
        ringer.join().unwrap();
        assert!(matches!(next(&mut ring), Completion::Doorbell));
        assert_quiet(&mut ring);
    }
    let elsewhere = doorbell.clone();
    let ringer = thread::spawn(move || elsewhere.ring());
    assert!(matches!(next(&mut ring), Completion::Doorbell), "while waiting");
    ringer.join().unwrap();
}

#[test]
fn without_messages_the_sender_is_told() {
    let mut ring = Ring::new(&RingConfig { features: Feature::MessageRing.into(), ..config() }).unwrap();
    let target = ring.handle();
    ring.message(&target, 5);
    ring.submit_and_wait(1, None).unwrap();
    assert!(matches!(ring.pop(), Some(Completion::MessageFailed { value: 5, error: Errno::NOSYS })));
    ring.pass_slot(moor_ring::Slot(0), &target, 5, Token::new(1, 1));
    assert!(matches!(ring.pop(), Some(Completion::Passed { result: Err(Errno::NOSYS), .. })));
}

#[test]
fn a_target_that_is_gone_fails_the_message() {
    let (target, thread) = other_ring(config(), |_| (), |_, ()| ());
    thread.join().unwrap();
    let mut ring = ring();
    ring.message(&target, 77);
    assert!(matches!(next(&mut ring), Completion::MessageFailed { value: 77, error: Errno::OWNERDEAD }));
    ring.pass_slot(moor_ring::Slot(0), &target, 5, Token::new(1, 1));
    assert!(matches!(next(&mut ring), Completion::Passed { result: Err(Errno::OWNERDEAD), .. }));
}

#[test]
fn a_target_that_goes_before_it_looked_takes_the_slot_with_it() {
    let (drop_now, dropping) = mpsc::channel::<()>();
    let (target, thread) = other_ring(config(), |_| (), move |_, ()| dropping.recv().unwrap());
    let mut ring = ring();
    let (mut peer, slot, _) = connected(&mut ring);
    ring.pass_slot(slot, &target, 5, Token::new(1, 1));
    ring.submit_and_wait(0, None).unwrap();
    drop_now.send(()).unwrap();
    thread.join().unwrap();
    // 6.18 installs it, even into the table of a dying ring.
    assert!(matches!(next(&mut ring), Completion::Passed { .. }));
    close(&mut ring, slot);
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn more_messages_than_the_queue_holds_are_counted_and_not_lost() {
    const MESSAGES: u64 = 1000;
    let small = RingConfig { submission_entries: 2, completion_entries: 8, ..config() };
    let mut target = Ring::new(&small).unwrap();
    let mut ring = ring();
    for value in 0..MESSAGES {
        ring.message(&target.handle(), value);
    }
    ring.submit_and_wait(0, None).unwrap();
    for value in 0..MESSAGES {
        match next(&mut target) {
            Completion::Message { value: arrived } => assert_eq!(arrived, value),
            other => panic!("{other:?}"),
        }
    }
    assert!(target.overflows() > 0);
    assert_quiet(&mut ring);
}
