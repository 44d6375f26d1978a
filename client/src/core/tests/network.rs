//! Changes of the network that the platform tells.

use super::*;

/// Nobody listens: so many tries in turn, until the pauses are long. When the last of them failed.
fn away(server: &mut Server) {
    for _ in 0..40 {
        server.now = server.now.max(server.session.poll_timeout().unwrap());
        server.session.handle_dialling();
        server.session.handle_disconnected(server.now);
    }
    while server.session.poll_timeout().unwrap() < server.now + 2 * NETWORK_CHANGE_MS {
        server.session.handle_disconnected(server.now);
    }
}

#[test]
fn a_change_hastens_the_next_try_once_and_its_failure_counts() {
    let mut server = Server::live();
    away(&mut server);
    let attempt = server.session.attempt;
    server.session.handle_network_change(server.now);
    let due = server.session.poll_timeout().unwrap();
    assert!(due <= server.now + RECONNECT_MS.0, "{} ms", due - server.now);
    for _ in 0..1000 {
        server.session.handle_network_change(server.now);
        assert_eq!(server.session.poll_timeout(), Some(due), "neither sooner nor later");
    }
    server.now = due;
    assert!(server.session.wants_connection(server.now));
    server.session.handle_dialling();
    server.session.handle_disconnected(server.now);
    assert_eq!(server.session.attempt, attempt + 1);
}

#[test]
fn told_all_the_time_it_hastens_few_tries() {
    let mut server = Server::live();
    away(&mut server);
    let (end, mut tries) = (server.now + 60_000, 0);
    while server.now < end {
        server.session.handle_network_change(server.now);
        if server.session.wants_connection(server.now) {
            tries += 1;
            server.session.handle_dialling();
            server.session.handle_disconnected(server.now);
        }
        server.now += 1;
    }
    // One every five seconds, and those that were due by themselves.
    assert!((12..=24).contains(&tries), "{tries} in a minute");
}

#[test]
fn changes_do_not_move_a_return_that_the_server_told() {
    let mut server = Server::live();
    let away = GoAway { retry_min_ms: 60_000, retry_max_ms: 60_000, ..GoAway::default() };
    server.say(Kind::GoAway, 0, &away);
    server.session.handle_disconnected(server.now);
    server.session.handle_network_change(server.now);
    assert_eq!(server.session.poll_timeout(), Some(server.now + 60_000));
}

#[test]
fn a_connection_that_stands_is_asked_at_once_whether_it_does() {
    let mut server = Server::live();
    for _ in 0..2 {
        for _ in 0..1000 {
            server.session.handle_network_change(server.now);
        }
        assert_eq!(kinds(&server.sent()), [Kind::Ping]);
        server.say(Kind::Pong, 0, &Close::default());
    }
    server.session.handle_network_change(server.now);
    server.sent();
    // Half the heartbeat, where it would have been a heartbeat and that.
    server.advance(29_999);
    assert!(!server.session.wants_hang_up());
    server.session.handle_network_change(server.now);
    server.advance(1);
    assert!(server.session.wants_hang_up(), "asking again gives no more time");
}

#[test]
fn while_it_connects_a_change_is_no_news() {
    let mut server = Server::new();
    server.session.handle_dialling();
    server.session.handle_network_change(server.now);
    server.session.handle_connected(server.now);
    server.session.handle_network_change(server.now);
    assert_eq!(kinds(&server.sent()), [Kind::Connect, Kind::Open, Kind::Open]);
}
