//! The internal protocol: no body makes a parser panic, and what was parsed is parsed alike when it is written again.
//!
//! A verb, then a body; the same bytes are also a stream for the reader of services and routers.

use moor_wire::frame::{HEADER_BYTES, Split, split};
use moor_wire::identity::{account_hash, check_account, check_app};
use moor_wire::internal::{
    Broadcast, Degrade, Failure, Group, GroupResult, Hello, History, HistoryResult, Kick, Lookup,
    LookupResult, NotHere, Outcome, Push, PushAccount, PushMany, Receipt, Register, Registered, RoomCounts,
    RoomPublish, RoomStats, RoomStatsResult, Send, SendResult, Stats, StatsResult, Subscribe,
    UP_HEAD_BYTES_MAX, Unregister, Up, Verb, Welcome, frame_reader,
};
use moor_wire::limits::{ACCOUNT_BYTES_MAX, APP_BYTES_MAX, DEVICE_BYTES_MAX};
use moor_wire::rooms::RoomPush;

use crate::frames::message;

/// Takes the verb from the first byte.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let mut reader = frame_reader();
    reader.push(bytes);
    while let Ok(Some(frame)) = reader.try_next() {
        if let Some(verb) = Verb::from_byte(frame.header.kind) {
            parse(verb, &frame.body);
        }
    }
    if let Some((verb, body)) = bytes.split_first()
        && let Some(verb) = Verb::from_byte(*verb)
    {
        parse(verb, body);
    }
}

fn parse(verb: Verb, body: &[u8]) {
    match verb {
        Verb::Hello => message::<Hello>(body),
        Verb::Welcome => message::<Welcome>(body),
        Verb::Failure => message::<Failure>(body),
        Verb::Register => message::<Register>(body),
        Verb::Registered => message::<Registered>(body),
        Verb::Unregister => message::<Unregister>(body),
        Verb::Up => up(body),
        Verb::Push => {
            let Ok(push) = Push::parse(body) else { return };
            let again = written(verb, |out| push.put(out, body.len().is_multiple_of(2)));
            assert_eq!(Push::parse(&again), Ok(push));
        }
        Verb::PushMany => {
            let Ok(many) = PushMany::parse(body) else { return };
            let targets: Vec<_> = many.pushes().map(|push| (push.cookie, push.session)).collect();
            let again = written(verb, |out| {
                PushMany::put(out, many.kind, many.flags, targets.iter().copied(), many.body);
            });
            assert_eq!(PushMany::parse(&again), Ok(many));
        }
        Verb::NotHere => {
            let Ok(entries) = NotHere::parse(body) else { return };
            for entry in entries {
                let again = written(verb, |out| entry.put(out));
                assert_eq!(NotHere::parse(&again).map(Iterator::collect), Ok(vec![entry]));
            }
        }
        Verb::PushAccount => {
            let Ok(push) = PushAccount::parse(body) else { return };
            name(push.app, push.account);
            let again = written(verb, |out| push.put(out));
            assert_eq!(PushAccount::parse(&again), Ok(push));
        }
        Verb::Outcome => {
            let Ok(outcome) = Outcome::parse(body) else { return };
            let again = written(verb, |out| outcome.put(out));
            assert_eq!(Outcome::parse(&again), Ok(outcome));
        }
        Verb::Broadcast => {
            let Ok(all) = Broadcast::parse(body) else { return };
            let again = written(verb, |out| all.put(out, true));
            assert_eq!(Broadcast::parse(&again), Ok(all));
        }
        Verb::Send => message::<Send>(body),
        Verb::SendResult => message::<SendResult>(body),
        Verb::Lookup => message::<Lookup>(body),
        Verb::LookupResult => message::<LookupResult>(body),
        Verb::Kick => message::<Kick>(body),
        Verb::Stats => message::<Stats>(body),
        Verb::StatsResult => message::<StatsResult>(body),
        Verb::Subscribe => message::<Subscribe>(body),
        Verb::Receipt => message::<Receipt>(body),
        Verb::Group => message::<Group>(body),
        Verb::GroupResult => message::<GroupResult>(body),
        Verb::History => message::<History>(body),
        Verb::HistoryResult => message::<HistoryResult>(body),
        Verb::RoomCount => message::<RoomCounts>(body),
        Verb::RoomPush => {
            let Ok(push) = RoomPush::parse(body) else { return };
            let again = written(verb, |out| push.put(out));
            assert_eq!(RoomPush::parse(&again), Ok(push));
            let bytes: usize = push.records().map(|record| record.bytes()).sum();
            assert_eq!(bytes, push.records.len(), "every byte is a record's");
        }
        Verb::RoomPublish => message::<RoomPublish>(body),
        Verb::RoomStats => message::<RoomStats>(body),
        Verb::RoomStatsResult => message::<RoomStatsResult>(body),
        Verb::Degrade => message::<Degrade>(body),
        Verb::Ping | Verb::Pong | Verb::Synced => {}
    }
}

fn up(body: &[u8]) {
    let Ok(up) = Up::parse(body) else { return };
    let again = written(Verb::Up, |out| up.put(out));
    assert_eq!(Up::parse(&again), Ok(up));
    // Only names within the limits are ever written into a head of fixed size.
    if up.app.len() <= APP_BYTES_MAX
        && up.account.len() <= ACCOUNT_BYTES_MAX
        && up.device.len() <= DEVICE_BYTES_MAX
    {
        let mut head = [0; UP_HEAD_BYTES_MAX];
        let head = [up.write_head(&mut head), up.body].concat();
        assert_eq!(head[HEADER_BYTES..], again[..], "both ways to write it are one");
    }
    name(up.app, up.account);
}

/// A name that is accepted has a place of its own.
fn name(app: &str, account: &str) {
    if check_app(app).is_ok() && check_account(account).is_ok() {
        assert!(app.len() <= APP_BYTES_MAX && account.len() <= ACCOUNT_BYTES_MAX && !app.is_empty());
        assert_eq!(account_hash(app, account), account_hash(app, account));
    }
}

/// The body of the one frame that was written.
fn written(verb: Verb, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    let Ok(Split::Frame { header, body, rest: [] }) = split(&frame, |_| u32::MAX) else {
        panic!("a frame announces the length it has")
    };
    assert_eq!(header.kind, verb.byte());
    body.to_vec()
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    crate::seeds::internal_frames()
}
