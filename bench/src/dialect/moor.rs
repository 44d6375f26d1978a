//! Moor's client and internal protocols, and what the floor makes of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Connect, Connected, Delivery, Error, GoAway, Kind, Open, Opened, RoomBatch, RoomMessage,
    RoomPulled, RoomRefused, SubmitResult, put, put_control,
};
use moor_wire::frame::{HEADER_BYTES, Header, Split, split};
use moor_wire::internal::{Broadcast, Push};
use moor_wire::limits::{CLIENT_VERSION, SERVER_BODY_BYTES_MAX};
use moor_wire::session::SessionHandle;
use prost::Message;

use super::{Broken, Cut, Meaning, RoomNews, carried};
use crate::floor::{EVERYBODY, put_push as put_floor};

/// The app everybody logs in to unless the arguments name another.
pub const APP: &str = "bench";

/// The account of the client with this number among all: 24 bytes, like those of the memory target.
pub fn account(number: u32) -> String {
    format!("bench-account-{number:010}")
}

/// CONNECT and every OPEN of a client, the first channel's last: when that is answered all are.
pub fn login(app: &str, number: u32, account: &str, channels: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let connect = Connect {
        version: CLIENT_VERSION,
        device: format!("bench-device-{number:07}"),
        ..Connect::default()
    };
    put_control(&mut out, Kind::Connect, 0, &connect);
    for channel in (1..=channels).rev() {
        let app = if channel == 1 { app.to_owned() } else { format!("{app}-{channel}") };
        let open = Open { app, account: account.to_owned(), last_sync_id: Some(0), ..Open::default() };
        put_control(&mut out, Kind::Open, channel, &open);
    }
    out
}

/// A PING that carries a time.
pub fn ping(time_us: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put(&mut out, Kind::Ping, Class::Command, 0, &time_us.to_be_bytes());
    out
}

/// PUSH to a session, or BROADCAST to the app.
pub fn put_push(out: &mut Vec<u8>, app: &str, session: Option<u64>, cookie: u64, body: &[u8]) {
    if let Some(session) = session {
        Push::data(cookie, SessionHandle(session), Class::Reliable, body).put(out, false);
    } else {
        let (kind, flags) = (Kind::Data.byte(), Class::Reliable.flags());
        Broadcast { cookie, kind, flags, app, body }.put(out, false);
    }
}

/// The frame a gateway would send, as the floor takes it.
pub fn put_bare(out: &mut Vec<u8>, session: Option<u64>, body: &[u8]) {
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    put(&mut frame, Kind::Data, Class::Reliable, 1, body);
    let index = session.map_or(EVERYBODY, |slot| u32::try_from(slot).unwrap_or(EVERYBODY));
    put_floor(out, index, &frame);
}

/// One frame, of a client that talks to others or not.
pub fn try_cut(in_chat: bool, bytes: &[u8]) -> Cut<'_> {
    match split(bytes, |_| SERVER_BODY_BYTES_MAX) {
        Ok(Split::Frame { header, body, rest }) => Ok(Some((interpret(in_chat, header, body), rest))),
        Ok(Split::Need(_)) => Ok(None),
        Err(_) => Err(Broken),
    }
}

fn interpret(in_chat: bool, header: Header, body: &[u8]) -> Meaning {
    match Kind::from_byte(header.kind) {
        Some(Kind::Connected) => Connected::decode(body)
            .map_or(Meaning::Other, |terms| Meaning::Terms { heartbeat_ms: u64::from(terms.heartbeat_ms) }),
        Some(Kind::Opened) if header.channel == 1 => {
            Opened::decode(body).map_or(Meaning::Other, |opened| Meaning::LoggedIn(opened.session))
        }
        // The floor sends back what it gets.
        Some(Kind::Pong | Kind::Ping) => Meaning::Pong(carried(body)),
        Some(Kind::Data) if in_chat => Delivery::decode(body).map_or(Meaning::Other, |delivery| {
            let (sync_id, time) = (delivery.sync_id, carried(&delivery.payload));
            Meaning::Delivered { sync_id, time }
        }),
        Some(Kind::Ack) => SubmitResult::decode(body).map_or(Meaning::Other, |result| {
            let (code, time) = (result.code(), carried(&result.client_id));
            Meaning::Answered { code, sync_id: result.sync_id, time }
        }),
        Some(Kind::Data) => Meaning::Push(carried(body)),
        Some(Kind::Room) => heard(body).map_or(Meaning::Other, Meaning::Room),
        Some(Kind::RoomPulled) => RoomPulled::decode(body).map_or(Meaning::Other, |pulled| {
            let newest_id = pulled.newest_id;
            Meaning::Room(Rc::new(RoomNews { newest_id, is_pulled: true, ..news(&pulled.messages) }))
        }),
        Some(Kind::RoomRefused) => {
            let refused = RoomRefused::decode(body).unwrap_or_default();
            limited(refused.code(), format!("ROOM_REFUSED {refused:?}"), Meaning::RoomLimited)
        }
        Some(Kind::GoAway) => GoAway::decode(body).map_or(Meaning::Other, |away| {
            Meaning::TurnedAway(away.retry_min_ms, away.retry_max_ms.max(away.retry_min_ms))
        }),
        Some(Kind::Error) => Meaning::Refused(format!("ERROR {:?}", Error::decode(body).unwrap_or_default())),
        Some(Kind::Close) => {
            let close = Close::decode(body).unwrap_or_default();
            limited(close.code(), format!("CLOSE {close:?}"), Meaning::Limited)
        }
        _ => Meaning::Other,
    }
}

fn limited(code: Code, text: String, meaning: fn(String) -> Meaning) -> Meaning {
    if code == Code::Limit { meaning(text) } else { Meaning::Refused(text) }
}

/// What a batch says. Members of a room hear the same one after the other, and to compare it with what was heard last takes
/// less than to decode a dozen messages: the harness shares its processors with the servers.
fn heard(body: &[u8]) -> Option<Rc<RoomNews>> {
    HEARD.with_borrow_mut(|heard| {
        if let Some(known) = heard.iter().find(|known| *known.body == *body) {
            return Some(Rc::clone(&known.news));
        }
        let RoomBatch { messages, dropped, newest_id, online, .. } = RoomBatch::decode(body).ok()?;
        let news = Rc::new(RoomNews { dropped, newest_id, online, ..news(&messages) });
        heard.truncate(HEARD_MAX - 1);
        heard.push_front(Heard { body: body.into(), news: Rc::clone(&news) });
        Some(news)
    })
}

/// Batches that a thread remembers: those of several lanes and gateways arrive between each other.
const HEARD_MAX: usize = 16;

thread_local! {
    static HEARD: RefCell<VecDeque<Heard>> = const { RefCell::new(VecDeque::new()) };
}

/// A batch that was heard, and what it says.
struct Heard {
    body: Box<[u8]>,
    news: Rc<RoomNews>,
}

fn news(messages: &[RoomMessage]) -> RoomNews {
    let messages = messages.iter().map(|message| (message.id, carried(&message.payload))).collect();
    RoomNews { messages, ..RoomNews::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::means;
    use crate::dialect::{Dialect, text};

    #[test]
    fn account_names_have_24_bytes() {
        assert_eq!(account(7), "bench-account-0000000007");
        assert_eq!(account(7).len(), 24);
        assert!(text(&login(APP, 7, &account(7), 1)).contains(&account(7)));
    }

    #[test]
    fn the_first_channel_is_opened_last_and_its_answer_is_the_login() {
        let login = login("shop", 0, &account(0), 3);
        assert!(["\x04shop", "\x06shop-2", "\x06shop-3"].iter().all(|app| text(&login).contains(app)));
        let mut rest = &login[..];
        let mut opened = Vec::new();
        while let Ok(Split::Frame { header, rest: tail, .. }) = split(rest, |_| SERVER_BODY_BYTES_MAX) {
            opened.push(header.channel);
            rest = tail;
        }
        assert_eq!(opened, [0, 3, 2, 1]);
        let mut answer = Vec::new();
        put_control(&mut answer, Kind::Opened, 2, &Opened { session: 8 });
        put_control(&mut answer, Kind::Opened, 1, &Opened { session: 9 });
        means(
            Dialect::Moor { app: APP, channels: 3, websocket: false, chat: None },
            &answer,
            &[Meaning::Other, Meaning::LoggedIn(9)],
        );
    }

    #[test]
    fn frames_are_understood_however_they_are_cut() {
        let mut stream = ping(5);
        put_control(&mut stream, Kind::Opened, 1, &Opened { session: 9 });
        put(&mut stream, Kind::Data, Class::Normal, 1, &77u64.to_be_bytes());
        stream[0] = Kind::Pong.byte();
        let wanted = [Meaning::Pong(5), Meaning::LoggedIn(9), Meaning::Push(77)];
        let dialect = Dialect::Moor { app: APP, channels: 1, websocket: false, chat: None };
        means(dialect, &stream, &wanted);
        means(Dialect::Bare, &stream, &wanted);
    }

    #[test]
    fn what_is_one_too_many_is_told_from_what_is_wrong() {
        let mut stream = Vec::new();
        for code in [Code::Limit, Code::Invalid] {
            put_control(&mut stream, Kind::Close, 1, &Close { code: code.into(), ..Close::default() });
            let refused = RoomRefused { code: code.into(), ..RoomRefused::default() };
            put_control(&mut stream, Kind::RoomRefused, 1, &refused);
        }
        let (mut rest, mut seen) = (&stream[..], Vec::new());
        while let Ok(Some((meaning, tail))) = try_cut(false, rest) {
            seen.push(match meaning {
                Meaning::Limited(_) => "login",
                Meaning::RoomLimited(_) => "room",
                Meaning::Refused(_) => "wrong",
                other => panic!("{other:?}"),
            });
            rest = tail;
        }
        assert_eq!(seen, ["login", "room", "wrong", "wrong"]);
    }

    #[test]
    fn a_batch_that_was_heard_before_says_the_same_and_another_does_not() {
        let batch = |number: u64| {
            let payload = number.to_be_bytes().to_vec().into();
            let messages = vec![RoomMessage { id: number % 2, payload, ..RoomMessage::default() }];
            RoomBatch { messages, dropped: number, newest_id: 5, online: 9, ..RoomBatch::default() }
        };
        for number in (0..40).chain(0..40).chain([7, 7]) {
            let news = heard(&batch(number).encode_to_vec()).unwrap();
            let wanted = RoomNews {
                messages: vec![(number % 2, number)],
                dropped: number,
                newest_id: 5,
                online: 9,
                is_pulled: false,
            };
            assert_eq!(*news, wanted);
        }
        assert_eq!(HEARD.with_borrow(VecDeque::len), HEARD_MAX);
        assert!(heard(&[0xff]).is_none());
    }

    #[test]
    fn in_a_chat_data_is_a_delivery_and_accounts_are_of_the_run() {
        let dialect = Dialect::Moor { app: APP, channels: 1, websocket: false, chat: None }.in_chat(40);
        assert!(text(&dialect.login(2).unwrap()).contains(&account(42)));
        let mut stream = Vec::new();
        let payload = 77u64.to_be_bytes().to_vec().into();
        put_control(&mut stream, Kind::Data, 1, &Delivery { sync_id: 3, payload, ..Delivery::default() });
        let client_id = 78u64.to_be_bytes().to_vec().into();
        let mut result = SubmitResult { client_id, sync_id: 4, ..SubmitResult::default() };
        result.set_code(Code::Overloaded);
        put_control(&mut stream, Kind::Ack, 1, &result);
        let answered = Meaning::Answered { code: Code::Overloaded, sync_id: 4, time: 78 };
        let delivered = Meaning::Delivered { sync_id: 3, time: 77 };
        means(dialect, &stream, &[delivered, answered]);
    }
}
