//! Messages that are sent once.

use super::*;

fn send(server: &mut Server, id: &'static str) -> Result<(), SubmitError> {
    let (id, payload) = (Bytes::from_static(id.as_bytes()), Bytes::from_static(b"typing"));
    server.session.submit_as(Class::Transient, 1, id, "carol", payload, server.now)
}

fn answer(server: &mut Server, id: &'static str, code: Code) {
    let client_id = Bytes::from_static(id.as_bytes());
    let result = SubmitResult { client_id, code: code as i32, ..SubmitResult::default() };
    server.say(Kind::Ack, 1, &result);
}

fn refusals(server: &mut Server) -> Vec<(Bytes, Code)> {
    let refused = |event| match event {
        Event::Refused { client_id, code, .. } => Some((client_id, code)),
        _ => None,
    };
    server.events().into_iter().filter_map(refused).collect()
}

#[test]
fn it_carries_its_class_and_every_answer_is_final() {
    let mut server = Server::live();
    for id in ["a", "b", "c"] {
        send(&mut server, id).unwrap();
    }
    let frames = server.sent();
    assert!(frames.iter().all(|frame| Class::from_flags(frame.header.flags) == Class::Transient));
    assert_eq!(frames.len(), 3);
    answer(&mut server, "a", Code::Ok);
    answer(&mut server, "b", Code::NotFound);
    answer(&mut server, "c", Code::Overloaded);
    let events = server.events();
    assert!(matches!(&events[0], Event::Accepted { sync_id: 0, .. }), "{events:?}");
    assert!(matches!(&events[1], Event::Refused { code: Code::NotFound, .. }));
    assert!(matches!(&events[2], Event::Refused { code: Code::Overloaded, .. }));
    server.now += 60_000;
    server.session.handle_timeout(server.now);
    assert_eq!(server.submits_sent(), Vec::<String>::new());
}

#[test]
fn it_waits_for_nothing_and_is_never_sent_twice() {
    let mut server = Server::live();
    send(&mut server, "late").unwrap();
    server.sent();
    server.now += ANSWER_MS;
    server.session.handle_timeout(server.now);
    assert_eq!(refusals(&mut server), [(Bytes::from_static(b"late"), Code::Unavailable)]);
    send(&mut server, "cut").unwrap();
    server.sent();
    server.session.handle_disconnected(server.now);
    assert_eq!(refusals(&mut server), [(Bytes::from_static(b"cut"), Code::Unavailable)]);
    assert_eq!(send(&mut server, "off"), Err(SubmitError::Offline(1)));
    server.now += 60_000;
    server.connect();
    assert_eq!((server.submits_sent(), server.session.unanswered()), (Vec::<String>::new(), 0));
}

#[test]
fn it_is_not_sent_again_by_the_next_one_before_its_end_is_noticed() {
    let mut server = Server::live();
    send(&mut server, "late").unwrap();
    assert_eq!(server.submits_sent(), ["late"]);
    // The app is faster than the driver's clock.
    server.now += ANSWER_MS;
    send(&mut server, "next").unwrap();
    assert_eq!(server.submits_sent(), ["next"]);
    server.session.handle_timeout(server.now);
    assert_eq!(refusals(&mut server), [(Bytes::from_static(b"late"), Code::Unavailable)]);
    assert_eq!(server.session.unanswered(), 1);
}
