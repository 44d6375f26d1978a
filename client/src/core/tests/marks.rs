//! Read marks, against a server that forgets to answer and loses frames.

use super::*;

fn peer(name: &str) -> Conversation {
    Conversation::Peer(name.to_owned())
}

/// A session that wants to know what others have read.
fn curious() -> Server {
    let options = Options { read_marks: true, ..Options::new("phone") };
    let mut session = Session::new(options, 7);
    session.open(1, "shop", "alice", Bytes::new(), Some(0));
    session.open(2, "shop", "bob", Bytes::new(), Some(0));
    Server { session, now: 1000 }
}

fn mark(peer: &str, sync_id: u64, version: u64) -> ReadMark {
    ReadMark { conversation: peer.into(), sync_id, version, ..ReadMark::default() }
}

/// What was said on channel 1: marks, and the versions asked behind.
fn said(server: &mut Server) -> (Vec<(String, u64)>, Vec<u64>) {
    let (mut marks, mut asked) = (Vec::new(), Vec::new());
    for frame in server.sent().into_iter().filter(|frame| frame.header.channel == 1) {
        match Kind::from_byte(frame.header.kind) {
            Some(Kind::Read) => {
                let mark = ReadMark::decode(frame.body).unwrap();
                marks.push((mark.conversation, mark.sync_id));
            }
            Some(Kind::ReadMarks) => asked.push(sync_id(&frame.body).unwrap()),
            _ => {}
        }
    }
    (marks, asked)
}

fn told(server: &mut Server) -> Vec<(Conversation, u64)> {
    let read = |event| match event {
        Event::ReadMark { channel: 1, conversation, sync_id } => Some((conversation, sync_id)),
        _ => None,
    };
    server.events().into_iter().filter_map(read).collect()
}

#[test]
fn a_mark_is_said_until_it_is_confirmed_and_only_the_highest() {
    let mut server = Server::live();
    let set = |server: &mut Server, id| server.session.mark_read(1, peer("bob"), id, server.now);
    set(&mut server, 5).unwrap();
    set(&mut server, 4).unwrap();
    assert_eq!(said(&mut server), (vec![("bob".into(), 5)], vec![]));
    server.advance(ANSWER_MS);
    assert_eq!(said(&mut server).0, [("bob".into(), 5)]);
    set(&mut server, 7).unwrap();
    assert_eq!(said(&mut server).0, [("bob".into(), 7)]);
    // The answer to what was said before it: not the one that is waited for.
    server.say(Kind::Read, 1, &mark("bob", 5, 1));
    server.session.handle_disconnected(server.now);
    server.events();
    server.now += 60_000;
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    server.say(Kind::Connected, 0, &Connected { version: 1, heartbeat_ms: 60_000, ..Connected::default() });
    assert_eq!(said(&mut server).0, []);
    server.say(Kind::Opened, 1, &Opened { session: 1 });
    assert_eq!(said(&mut server).0, [("bob".into(), 7)]);
    server.say(Kind::Read, 1, &mark("bob", 9, 2));
    assert_eq!(told(&mut server), [(peer("bob"), 9)], "another device was further");
    server.advance(ANSWER_MS * 2);
    assert_eq!(said(&mut server).0, []);
    assert!(server.session.mark_read(1, peer(""), 1, server.now).is_err());
    assert_eq!(server.session.mark_read(9, peer("bob"), 1, server.now), Err(SubmitError::NoChannel(9)));
}

#[test]
fn what_others_read_is_asked_for_at_login_and_after_a_gap() {
    let mut server = curious();
    server.session.handle_dialling();
    server.session.handle_connected(server.now);
    server.say(Kind::Connected, 0, &Connected { version: 1, heartbeat_ms: 60_000, ..Connected::default() });
    server.say(Kind::Opened, 1, &Opened { session: 1 });
    assert_eq!(said(&mut server).1, [0]);
    server.advance(ANSWER_MS);
    assert_eq!(said(&mut server).1, [0], "not answered, asked again");
    let page = |marks, version, more| ReadMarks { marks, version, more };
    server.say(Kind::ReadMarks, 1, &page(vec![mark("bob", 3, 4)], 4, true));
    server.say(Kind::ReadMarks, 1, &page(vec![mark("carol", 1, 6)], 6, false));
    assert_eq!(told(&mut server), [(peer("bob"), 3), (peer("carol"), 1)]);
    server.say(Kind::Read, 1, &mark("bob", 4, 7));
    server.advance(ANSWER_MS);
    assert_eq!(said(&mut server).1, NO_IDS, "7 follows 6");
    server.say(Kind::Read, 1, &mark("bob", 6, 9));
    server.say(Kind::Read, 1, &mark("bob", 7, 10));
    assert_eq!(said(&mut server).1, [7], "8 did not arrive; asked once");
    server.say(Kind::ReadMarks, 1, &page(vec![mark("dave", 2, 8), mark("bob", 7, 10)], 10, false));
    assert_eq!(told(&mut server).len(), 5);
    server.advance(ANSWER_MS);
    assert_eq!(said(&mut server).1, NO_IDS);
}

const NO_IDS: [u64; 0] = [];

#[test]
fn a_device_that_acknowledges_is_told_and_a_kind_of_a_later_server_is_passed_over() {
    let mut server = Server::live();
    server.say(Kind::DeviceAck, 1, &DeviceAck { device: "pad".into(), sync_id: 4 });
    let told = Event::DeviceAck { channel: 1, device: "pad".into(), sync_id: 4 };
    assert_eq!(server.events(), [told]);
    let mut out = Vec::new();
    moor_wire::frame::put_frame(&mut out, 0x7f, 0, 1, b"?");
    server.session.handle_bytes(&out, server.now);
    assert!(server.session.is_live() && server.events().is_empty());
    out.clear();
    moor_wire::frame::put_frame(&mut out, OPTIONAL_KINDS.start() - 1, 0, 1, b"?");
    server.session.handle_bytes(&out, server.now);
    assert!(server.session.wants_hang_up());
}
