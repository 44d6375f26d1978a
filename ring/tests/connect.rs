//! Outgoing connections, and descriptors that enter and leave the table.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{any_port, client, close, config, connected, data, next};
use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{
    Completion, ConnectOptions, Errno, Feature, FeatureMask, Ring, RingConfig, SendBuffer, Slot, Token,
    socket,
};

/// Every test of connecting runs both ways.
fn rings() -> impl Iterator<Item = Ring> {
    [FeatureMask::NONE, Feature::DirectConnect.into()]
        .into_iter()
        .map(|features| Ring::new(&RingConfig { features, ..config() }).expect("a ring"))
}

fn connect(ring: &mut Ring, address: SocketAddr, options: ConnectOptions) -> Result<Slot, Errno> {
    let token = Token::new(3, 33);
    ring.connect(address, options, token);
    match next(ring) {
        Completion::Connected { token: connected, result } if connected == token => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connects_from_a_source_address() {
    for mut ring in rings() {
        let listener = TcpListener::bind(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 0));
        let options = ConnectOptions { source: Some(source), nodelay: true, ..ConnectOptions::default() };
        let slot = connect(&mut ring, address, options).unwrap();
        let (mut peer, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), source.ip());
        ring.send(slot, Token::new(3, 33), SendBuffer::Owned(b"hello".to_vec()), 0);
        assert!(matches!(next(&mut ring), Completion::Sent { result: Ok(5), .. }));
        let mut hello = [0; 5];
        peer.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");

        ring.install(slot, Token::new(3, 34));
        let plain = match next(&mut ring) {
            Completion::Installed { result: Ok(fd), .. } => TcpStream::from(fd),
            other => panic!("{other:?}"),
        };
        assert!(plain.nodelay().unwrap());
    }
}

#[test]
fn a_close_resets_where_it_was_asked_for() {
    for (mut ring, reset_on_close) in rings().zip([true, true]).chain(rings().zip([false, false])) {
        let listener = TcpListener::bind(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        let options = ConnectOptions { reset_on_close, ..ConnectOptions::default() };
        let slot = connect(&mut ring, address, options).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        close(&mut ring, slot);
        let end = peer.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(end, if reset_on_close { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

#[test]
fn one_source_port_serves_several_destinations() {
    for mut ring in rings() {
        let listeners = [TcpListener::bind(any_port()).unwrap(), TcpListener::bind(any_port()).unwrap()];
        let free = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        for listener in &listeners {
            let options = ConnectOptions { source: Some(free), ..ConnectOptions::default() };
            connect(&mut ring, listener.local_addr().unwrap(), options).unwrap();
            assert_eq!(listener.accept().unwrap().1, free);
        }
    }
}

#[test]
fn a_refused_connection_leaves_its_slot_free() {
    for mut ring in rings() {
        let refusing = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        // More often than there are slots: none is lost.
        for _ in 0..config().direct_slots + 1 {
            let result = connect(&mut ring, refusing, ConnectOptions::default());
            assert_eq!(result, Err(Errno::CONNREFUSED));
        }
    }
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_early() {
    // A full queue drops what comes, as a host that is down does.
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let listener = listen(any_port(), &options).unwrap();
    let address = listener.local_addr().unwrap();
    let mut rings: Vec<Ring> = rings().collect();
    let mut queued = Vec::new();
    while queued.len() < 10
        && let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        queued.push(stream);
    }
    assert!(queued.len() < 10, "the queue is never full");
    for ring in &mut rings {
        ring.connect_impatiently(address, ConnectOptions::default(), Token::new(3, 33));
        ring.submit_and_wait(0, None).unwrap();
    }
    for ring in &mut rings {
        assert!(matches!(next(ring), Completion::Connected { result: Err(Errno::TIMEDOUT), .. }));
    }
}

#[test]
fn a_source_that_is_not_ours_is_refused() {
    for mut ring in rings() {
        let listener = TcpListener::bind(any_port()).unwrap();
        let foreign = SocketAddr::from((IpAddr::from([192, 0, 2, 1]), 0));
        let options = ConnectOptions { source: Some(foreign), ..ConnectOptions::default() };
        let result = connect(&mut ring, listener.local_addr().unwrap(), options);
        assert_eq!(result, Err(Errno::ADDRNOTAVAIL));
    }
}

#[test]
fn a_full_table_refuses_to_connect_and_to_adopt() {
    for features in [FeatureMask::NONE, Feature::DirectConnect.into()] {
        let mut ring = Ring::new(&RingConfig { direct_slots: 1, features, ..config() }).unwrap();
        let (_peer, _slot, address) = connected(&mut ring);
        assert_eq!(connect(&mut ring, address, ConnectOptions::default()), Err(Errno::NFILE));
        ring.adopt(TcpListener::bind(any_port()).unwrap().into(), Token::new(8, 8));
        assert!(matches!(next(&mut ring), Completion::Adopted { result: Err(Errno::NFILE), .. }));
    }
}

#[test]
fn a_descriptor_goes_in_and_comes_out() {
    let mut ring = common::ring();
    let listener = TcpListener::bind(any_port()).unwrap();
    let mut peer = client(listener.local_addr().unwrap());
    let (plain, from) = listener.accept().unwrap();
    let token = Token::new(1, 2);
    ring.adopt(plain.into(), token);
    let slot = match next(&mut ring) {
        Completion::Adopted { token: adopted, result: Ok(slot) } if adopted == token => slot,
        other => panic!("{other:?}"),
    };
    peer.write_all(b"in").unwrap();
    ring.recv_multishot(slot, token);
    let received = next(&mut ring);
    assert_eq!(data(&mut ring, received, token), b"in");

    ring.install(slot, token);
    let mut plain = match next(&mut ring) {
        Completion::Installed { token: installed, result: Ok(fd) } if installed == token => {
            TcpStream::from(fd)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(socket::peer_address(&plain).unwrap(), from);
    close(&mut ring, slot);
    plain.write_all(b"out").unwrap();
    let mut out = [0; 3];
    peer.read_exact(&mut out).unwrap();
    assert_eq!(&out, b"out");
}

#[test]
fn the_peer_of_a_direct_descriptor_is_known_by_its_address() {
    let mut ring = common::ring();
    let (peer, slot, _) = common::connected(&mut ring);
    let token = Token::new(slot.0, 3);
    ring.peer_address(slot, token);
    match next(&mut ring) {
        Completion::PeerAddress { token: asked, result: Ok(address) } => {
            assert_eq!((asked, address), (token, peer.local_addr().unwrap()));
        }
        other => panic!("{other:?}"),
    }
    ring.peer_address(Slot(slot.0 + 1), token);
    assert!(matches!(next(&mut ring), Completion::PeerAddress { result: Err(Errno::BADF), .. }));
    close(&mut ring, slot);
}

#[test]
fn without_installing_nobodys_address_is_known() {
    let mut ring = Ring::new(&RingConfig { features: Feature::FixedFdInstall.into(), ..config() }).unwrap();
    ring.peer_address(Slot(0), Token::new(0, 0));
    assert!(matches!(ring.pop(), Some(Completion::PeerAddress { result: Err(Errno::NOSYS), .. })));
}

#[test]
fn installing_can_be_switched_off() {
    let mut ring = Ring::new(&RingConfig { features: Feature::FixedFdInstall.into(), ..config() }).unwrap();
    ring.install(Slot(0), Token::new(0, 0));
    assert!(matches!(ring.pop(), Some(Completion::Installed { result: Err(Errno::NOSYS), .. })));
}
