//! What the protocols' sides say on a good day: the fuzzer starts from it, and targets mix it with what it makes up.

use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Connect, Connected, Delivery, Error, GoAway, Kind, Open, Opened, Submit, SubmitResult, put,
    put_control, put_sync_id,
};
use moor_wire::frame::put_message;
use moor_wire::internal;
use moor_wire::internal::{
    Broadcast, Departure, Failure, Hello, Kick, Location, Lookup, LookupResult, NotHere, Outcome, Push,
    PushAccount, PushMany, Receipt, Register, Registered, Registration, Role, Send, SendResult, Stat, Stats,
    StatsResult, Subscribe, Unregister, Up, Verb, Welcome, put_empty,
};
use moor_wire::session::SessionHandle;
use prost::Message;

/// A frame, or several.
pub(crate) fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

pub(crate) fn connect(device: &str, heartbeat_max_ms: u32) -> Vec<u8> {
    let connect = Connect { version: 1, device: device.into(), heartbeat_max_ms, ..Connect::default() };
    bytes(|out| put_control(out, Kind::Connect, 0, &connect))
}

pub(crate) fn open(channel: u16, account: &str, last_sync_id: Option<u64>) -> Vec<u8> {
    let open = Open { app: "shop".into(), account: account.into(), last_sync_id, ..Open::default() };
    bytes(|out| put_control(out, Kind::Open, channel, &open))
}

pub(crate) fn submit(channel: u16, to: &str, payload: &[u8]) -> Vec<u8> {
    let submit = Submit {
        client_id: b"0123".to_vec().into(),
        to: to.into(),
        payload: payload.to_vec().into(),
        level: Some(1),
        ..Submit::default()
    };
    bytes(|out| put_message(out, Kind::Data.byte(), Class::Reliable.flags(), channel, &submit))
}

pub(crate) fn delivery(channel: u16, sync_id: u64, floor: u64) -> Vec<u8> {
    let payload = b"hello".to_vec().into();
    let delivery = Delivery { sync_id, from: "alice".into(), floor, payload, ..Delivery::default() };
    bytes(|out| put_message(out, Kind::Data.byte(), Class::Reliable.flags(), channel, &delivery))
}

pub(crate) fn hello(role: Role, worker: Option<u32>) -> Vec<u8> {
    let hello = Hello { version: 1, role: role as i32, node: "test".into(), worker, ..Hello::default() };
    bytes(|out| internal::put_control(out, Verb::Hello, &hello))
}

pub(crate) fn welcome(epoch: u64, lease_ms: u32) -> Vec<u8> {
    let welcome = Welcome { version: 1, node: "router".into(), epoch, lease_ms, ..Welcome::default() };
    bytes(|out| internal::put_control(out, Verb::Welcome, &welcome))
}

pub(crate) fn close(channel: u16, code: i32) -> Vec<u8> {
    bytes(|out| {
        put_control(out, Kind::Close, channel, &Close { code, reason: "because".into(), ..Close::default() })
    })
}

pub(crate) fn away(retry_min_ms: u32, retry_max_ms: u32) -> Vec<u8> {
    let away = GoAway { code: Code::Draining as i32, retry_min_ms, retry_max_ms, alternate: String::new() };
    bytes(|out| put_control(out, Kind::GoAway, 0, &away))
}

pub(crate) fn error(code: i32) -> Vec<u8> {
    bytes(|out| put_control(out, Kind::Error, 0, &Error { code, detail: "so".into() }))
}

pub(crate) fn connected(heartbeat_ms: u32, frame_bytes_max: u32) -> Vec<u8> {
    let connected =
        Connected { version: 1, gateway: "gateway".into(), heartbeat_ms, frame_bytes_max, channels_max: 16 };
    bytes(|out| put_control(out, Kind::Connected, 0, &connected))
}

pub(crate) fn opened(channel: u16, session: u64) -> Vec<u8> {
    bytes(|out| put_control(out, Kind::Opened, channel, &Opened { session }))
}

pub(crate) fn result(channel: u16, client_id: &[u8], code: i32) -> Vec<u8> {
    let client_id = client_id.to_vec().into();
    let result = SubmitResult { client_id, code, sync_id: 7, duplicate: false, detail: "detail".into() };
    bytes(|out| put_control(out, Kind::Ack, channel, &result))
}

/// Streams of client frames: from a client, then from a server.
pub(crate) fn client_frames() -> Vec<Vec<u8>> {
    vec![
        [connect("phone", 60_000), open(1, "alice", Some(7)), submit(1, "bob", b"hi")].concat(),
        bytes(|out| {
            put(out, Kind::Ping, Class::Command, 0, b"beat");
            put_sync_id(out, Kind::Ack, 1, 7);
            put_sync_id(out, Kind::Sync, 1, 3);
            put(out, Kind::Close, Class::Command, 1, &[]);
        }),
        [connected(60_000, 65_536), opened(1, 3), delivery(1, 8, 1), result(1, b"0123", 0)].concat(),
        [close(1, Code::Kicked as i32), error(Code::Version as i32), away(500, 5000)].concat(),
    ]
}

/// Frames of the internal protocol, one of each kind.
pub(crate) fn internal_frames() -> Vec<Vec<u8>> {
    fn control<M: Message>(verb: Verb, body: &M) -> Vec<u8> {
        bytes(|out| internal::put_control(out, verb, body))
    }
    let session = SessionHandle::new(0, 1, 1);
    let (app, account, device) = ("shop", "alice", "phone");
    let registration = Registration {
        session: session.0,
        app: app.into(),
        account: account.into(),
        device: device.into(),
        last_sync_id: Some(1),
        is_new: true,
    };
    let departure = Departure { session: session.0, app: app.into(), account: account.into() };
    let location = Location {
        device: device.into(),
        gateway: "gateway".into(),
        epoch: 7,
        session: session.0,
        ..Location::default()
    };
    vec![
        hello(Role::Service, Some(1)),
        welcome(7, 1500),
        control(Verb::Failure, &Failure { code: Code::Unauthorized as i32, detail: "no".into() }),
        control(Verb::Register, &Register { batch: 1, sessions: vec![registration.clone(), registration] }),
        control(Verb::Registered, &Registered { batch: 1 }),
        control(Verb::Unregister, &Unregister { sessions: vec![departure] }),
        bytes(|out| {
            put_empty(out, Verb::Ping);
            put_empty(out, Verb::Synced);
            Up { session, kind: 6, flags: 1, app, account, device, body: b"body" }.put(out);
        }),
        bytes(|out| Push::data(5, session, Class::Reliable, b"body").put(out, true)),
        bytes(|out| NotHere { cookie: 5, session }.put(out)),
        bytes(|out| PushAccount { cookie: 5, kind: 6, flags: 3, app, account, body: b"body" }.put(out)),
        bytes(|out| Outcome { cookie: 5, code: Code::Ok, reached: 2 }.put(out)),
        bytes(|out| Broadcast { cookie: 5, kind: 6, flags: 3, app, body: b"body" }.put(out, true)),
        control(
            Verb::Send,
            &Send {
                cookie: 1,
                app: app.into(),
                from: account.into(),
                to: "bob".into(),
                client_id: b"1".to_vec().into(),
                class: 1,
                payload: b"hi".to_vec().into(),
                level: Some(2),
                marks: None,
                group: String::new(),
            },
        ),
        control(
            Verb::SendResult,
            &SendResult { cookie: 1, code: 0, sync_id: 9, duplicate: true, detail: String::new() },
        ),
        control(Verb::Lookup, &Lookup { cookie: 1, app: app.into(), account: account.into() }),
        control(
            Verb::LookupResult,
            &LookupResult { cookie: 1, code: 0, sessions: vec![location], head: 9, floor: 1 },
        ),
        control(
            Verb::Kick,
            &Kick {
                cookie: 1,
                app: app.into(),
                account: account.into(),
                reason: "out".into(),
                ..Kick::default()
            },
        ),
        control(Verb::Stats, &Stats { cookie: 1 }),
        control(
            Verb::StatsResult,
            &StatsResult { cookie: 1, stats: vec![Stat { name: "open".into(), value: 3 }] },
        ),
        control(Verb::Subscribe, &Subscribe { cookie: 1, app: app.into(), marks: None }),
        control(
            Verb::Receipt,
            &Receipt {
                app: app.into(),
                account: account.into(),
                device: device.into(),
                sync_id: 3,
                at_ms: 4,
            },
        ),
        bytes(|out| PushMany::put(out, 6, 1, [(5, session), (6, session)].into_iter(), b"body")),
    ]
}

/// Requests for a WebSocket.
pub(crate) fn requests() -> [String; 4] {
    let request = |more: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
    };
    [
        request("Sec-WebSocket-Protocol: other, moor.v1\r\n"),
        request("Origin: https://shop.example\r\n"),
        request("Content-Length: 0\r\nCookie: a=b; c=d\r\n"),
        "POST /other?query HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ]
}

/// A client's WebSocket frame; the mask is 1, 2, 3, 4.
pub(crate) fn websocket_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | payload.len() as u8),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Streams of a client's WebSocket frames.
pub(crate) fn websocket_streams() -> Vec<Vec<u8>> {
    let frame = websocket_frame;
    vec![
        [frame(0x82, b"binary"), frame(0x89, b"ping"), frame(0x81, "text: ä€😀".as_bytes())].concat(),
        [
            frame(0x01, "half a ".as_bytes()),
            frame(0x8a, b""),
            frame(0x00, &[0xe2, 0x82]),
            frame(0x80, &[0xac]),
        ]
        .concat(),
        [frame(0x82, &[7; 200]), frame(0x88, &[3, 232, b'b', b'y', b'e'])].concat(),
        [frame(0x02, &[]), frame(0x00, &[]), frame(0x80, &[]), frame(0x88, &[])].concat(),
        frame(0x81, &[0xff]),
    ]
}
