//! What verbs about rooms mean.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Class, RoomPull, Submit as SubmitBody};
use moor_wire::identity::{account_hash, check_account, check_app, check_room, room_account};
use moor_wire::internal::{RoomCounts, RoomPublish, RoomStats, Up};
use moor_wire::limits::{CLIENT_BODY_BYTES_MAX, CLIENT_ID_BYTES_MAX, ROOM_COUNTS_MAX, ROOM_LIKES_MAX};
use prost::Message as _;

use crate::clock::wall_ms;
use crate::lease::Link;
use crate::link::Refusal;
use crate::link::decode::{checked_marks, refuse, submit};
use crate::shard::rooms::{Pull, RoomWork};
use crate::shard::work::Work;
use crate::store::{AccountKey, Entry, Origin, Submit};
use crate::thread::Node;

/// A room as the account that stands for it.
fn key(app: &str, room: &str) -> Result<AccountKey, Refusal> {
    check_app(app)?;
    check_room(room)?;
    let account = room_account(room);
    Ok(AccountKey { hash: account_hash(app, &account), app: app.into(), account: account.into() })
}

fn hand(node: &mut Node, hash: u64, work: RoomWork, now_ms: u64) {
    let shard = node.shard_of(hash);
    node.hand_to(shard, Work::Room(work), now_ms);
}

/// `ROOM_COUNT`.
pub fn handle_counts(node: &mut Node, link: &Arc<Link>, body: Bytes, now_ms: u64) -> Result<(), Refusal> {
    let RoomCounts { rooms } = RoomCounts::decode(body)?;
    if rooms.len() > ROOM_COUNTS_MAX {
        let detail = format!("{} rooms in a batch; at most {ROOM_COUNTS_MAX} are accepted", rooms.len());
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    for count in rooms {
        let key = key(&count.app, &count.room)?;
        // No worker has more: a bound for what a broken one may claim.
        let likes = count.likes.min(u64::from(ROOM_LIKES_MAX) << 20);
        let hash = key.hash;
        hand(node, hash, RoomWork::Count { link: link.clone(), members: count.members, likes, key }, now_ms);
    }
    Ok(())
}

/// A client's message for a room.
pub fn publish(node: &mut Node, origin: Origin, app: &str, from: &str, message: SubmitBody, now_ms: u64) {
    let SubmitBody { client_id, to, payload, group, room, room_type, marks, .. } = message;
    if client_id.is_empty() || client_id.len() > CLIENT_ID_BYTES_MAX {
        return refuse(node, &origin, &Bytes::new(), Code::Invalid, "a client id has 1 to 32 bytes");
    }
    if !to.is_empty() || !group.is_empty() {
        return refuse(
            node,
            &origin,
            &client_id,
            Code::Invalid,
            "a message is for an account, a group or a room",
        );
    }
    if payload.len() > CLIENT_BODY_BYTES_MAX as usize {
        let detail = "the payload is longer than a frame may be";
        return refuse(node, &origin, &client_id, Code::TooLarge, detail);
    }
    let to = key(app, &room).and_then(|to| check_account(from).map(|()| to).map_err(Refusal::from));
    let (to, marks) = match to.and_then(|to| Ok((to, checked_marks(marks)?))) {
        Ok(found) => found,
        Err(refusal) => return refuse(node, &origin, &client_id, refusal.code, &refusal.detail),
    };
    let hash = to.hash;
    let (from, sent_at_ms, entry) = (from.into(), wall_ms(), Entry::Personal);
    let submit = Submit { to, from, client_id, payload, sent_at_ms, origin, entry, marks, copies_bytes: 0 };
    if node.shard_of(hash) != node.shard.index && node.shard.takes_for_another(app, room_type) {
        return node.shard.take_for_another(submit, room_type, now_ms);
    }
    hand(node, hash, RoomWork::Publish { submit: Box::new(submit), number: room_type }, now_ms);
}

/// `ROOM_PUBLISH`.
pub fn handle_publish(node: &mut Node, link: &Arc<Link>, body: Bytes, now_ms: u64) -> Result<(), Refusal> {
    let RoomPublish { cookie, app, room, from, r#type, client_id, payload, marks, level } =
        RoomPublish::decode(body)?;
    let origin = Origin::Service { link: link.clone(), cookie };
    if room.is_empty() {
        refuse(node, &origin, &client_id, Code::Invalid, "no room is named");
        return Ok(());
    }
    let message = SubmitBody {
        client_id,
        to: String::new(),
        payload,
        room,
        room_type: r#type,
        marks,
        level,
        ..SubmitBody::default()
    };
    submit(node, origin, &app, &from, Class::Reliable, message, now_ms);
    Ok(())
}

/// `ROOM_STATS`.
pub fn handle_stats(node: &mut Node, link: &Arc<Link>, body: Bytes, now_ms: u64) -> Result<(), Refusal> {
    let RoomStats { cookie, app, room } = RoomStats::decode(body)?;
    let key = key(&app, &room)?;
    let hash = key.hash;
    hand(node, hash, RoomWork::Stats { link: link.clone(), cookie, key }, now_ms);
    Ok(())
}

/// A client's `ROOM_PULL`. A malformed one pulls nothing; the gateway answers for its clients' manners.
pub fn handle_pull(node: &mut Node, link: &Arc<Link>, up: &Up<'_>, hash: u64, now_ms: u64) {
    let pull = RoomPull::decode(up.body).ok().and_then(|pull| {
        let key = key(up.app, &pull.room).ok()?;
        Some(Pull { key, link: link.clone(), session: up.session, hash, after_id: pull.after_id })
    });
    match pull {
        Some(pull) => hand(node, pull.key.hash, RoomWork::Pull(Box::new(pull)), now_ms),
        None => node.metrics.strays.increment(),
    }
}
