//! What each verb means: bytes from the peer become checked work for the shard they concern.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, GroupAnswer, GroupRequest, Kind, Pull, ReadMark, Submit as SubmitBody, TrafficMarks, sync_id,
};
use moor_wire::identity::{account_hash, check_account, check_app, check_conversation, check_group};
use moor_wire::internal::{
    Degrade, Group, History, Kick, Lookup, NotHere, Outcome, PushAccount, Register, Send, Stat, Stats,
    StatsResult, Subscribe, Unregister, Up, Verb, put_control, put_empty, refusal_of_pushed,
};
use moor_wire::limits::{
    CLIENT_BODY_BYTES_MAX, CLIENT_ID_BYTES_MAX, LEVEL_MAX, REGISTER_BATCH_MAX, TRAFFIC_MARK_BYTES_MAX,
};
use prost::Message as _;

use crate::clock::wall_ms;
use crate::lease::{Link, ShardIndex, Synced};
use crate::levels::Levels;
use crate::link::{Refusal, rooms};
use crate::outbox::Weight;
use crate::shard::credit::{Answer, Credit};
use crate::shard::work::{GroupAsk, PullAsk, Work};
use crate::store::{AccountKey, Entry, Marks, Origin, Submit};
use crate::thread::Node;

fn wrong_role(verb: Verb) -> Refusal {
    Refusal::protocol(format!("{verb:?} is not for this role"))
}

fn key(app: &str, account: &str) -> Result<AccountKey, Refusal> {
    check_app(app)?;
    check_account(account)?;
    Ok(AccountKey::new(app, account))
}

fn group_key(app: &str, group: &str) -> Result<AccountKey, Refusal> {
    check_app(app)?;
    check_group(group)?;
    Ok(AccountKey::of_group(app, group))
}

/// A frame of a gateway's worker.
pub fn handle_gateway(
    node: &mut Node,
    link: &Arc<Link>,
    verb: Verb,
    body: Bytes,
    now_ms: u64,
) -> Result<(), Refusal> {
    match verb {
        Verb::Up => handle_up(node, link, &body, now_ms)?,
        Verb::Ping => pong(node, link),
        // Any frame renews the lease; an outcome answers a KICK of ours and changes nothing here.
        Verb::Pong | Verb::Outcome => {}
        Verb::Register => handle_register(node, link, body, now_ms)?,
        Verb::Unregister => {
            let sessions = Unregister::decode(body)?.sessions;
            let hashed = sessions.into_iter().map(|gone| (account_hash(&gone.app, &gone.account), gone));
            for (shard, sessions) in by_shard(node, hashed, |(hash, _)| *hash) {
                node.hand_to(shard, Work::Unregister { link: link.clone(), sessions }, now_ms);
            }
        }
        Verb::RoomCount => rooms::handle_counts(node, link, body, now_ms)?,
        Verb::Synced => {
            let synced = Synced::new(node.shared.leases.clone(), link.clone(), node.shared.shards);
            hand_to_all(node, || Work::Synced(synced.clone()), now_ms);
        }
        Verb::NotHere => {
            let entries = NotHere::parse(&body)?.collect::<Vec<_>>();
            for (shard, entries) in by_shard(node, entries.into_iter(), |entry| entry.cookie) {
                node.hand_to(shard, Work::NotHere { link: link.clone(), entries }, now_ms);
            }
        }
        verb => return Err(wrong_role(verb)),
    }
    Ok(())
}

/// A frame of a backend service.
pub fn handle_service(
    node: &mut Node,
    link: &Arc<Link>,
    verb: Verb,
    body: Bytes,
    now_ms: u64,
) -> Result<(), Refusal> {
    match verb {
        Verb::Ping => pong(node, link),
        Verb::Pong => {}
        Verb::Send => {
            let Send { cookie, app, from, to, client_id, class, payload, level, group, marks } =
                Send::decode(body)?;
            let origin = Origin::Service { link: link.clone(), cookie };
            let class = Class::from_flags(u8::try_from(class).unwrap_or(Class::FLAGS_MASK));
            submit(
                node,
                origin,
                &app,
                &from,
                class,
                SubmitBody { client_id, to, payload, level, group, marks, ..SubmitBody::default() },
                now_ms,
            );
        }
        Verb::Group => {
            let Group { cookie, app, account, request } = Group::decode(body)?;
            let request = request.ok_or_else(|| Refusal::protocol("GROUP without a request"))?;
            if !account.is_empty() {
                check_account(&account)?;
            }
            let origin = Origin::Service { link: link.clone(), cookie };
            ask_group(node, origin, &app, Some(account).filter(|name| !name.is_empty()), request, now_ms)?;
        }
        Verb::History => {
            let History { cookie, app, account, group, after, limit } = History::decode(body)?;
            let key = if group.is_empty() { key(&app, &account)? } else { group_key(&app, &group)? };
            let origin = Origin::Service { link: link.clone(), cookie };
            let pull = Pull { id: 0, group, after: Some(after), limit };
            let ask = Box::new(PullAsk { origin, actor: None, device: "".into(), pull });
            let shard = node.shard_of(key.hash);
            node.hand_to(shard, Work::Pull { key, ask }, now_ms);
        }
        Verb::RoomPublish => rooms::handle_publish(node, link, body, now_ms)?,
        Verb::RoomStats => rooms::handle_stats(node, link, body, now_ms)?,
        Verb::Lookup => {
            let Lookup { cookie, app, account } = Lookup::decode(body)?;
            let key = key(&app, &account)?;
            let shard = node.shard_of(key.hash);
            node.hand_to(shard, Work::Lookup { link: link.clone(), cookie, key }, now_ms);
        }
        Verb::Kick => {
            let kick = Box::new(Kick::decode(body)?);
            // A handle alone is unique only within its gateway; the account says where to look.
            let hash = key(&kick.app, &kick.account)?.hash;
            let shard = node.shard_of(hash);
            node.hand_to(shard, Work::Kick { link: link.clone(), hash, kick }, now_ms);
        }
        Verb::PushAccount => {
            let all = PushAccount::parse(&body)?;
            let hash = key(all.app, all.account)?.hash;
            if let Some(code) = refusal_of_pushed(all.kind, all.body) {
                let outcome = Outcome { cookie: all.cookie, code, reached: 0 };
                node.shard.outbox.put_local(link.id, Weight::Answer, |out| outcome.put(out));
                return Ok(());
            }
            let shard = node.shard_of(hash);
            node.hand_to(shard, Work::PushAccount { link: link.clone(), hash, body }, now_ms);
        }
        Verb::Subscribe => {
            let Subscribe { cookie, app, marks } = Subscribe::decode(body)?;
            check_app(&app)?;
            let marks = checked_marks(marks)?;
            let credit = Credit::new(link.clone(), Answer::Outcome { cookie }, node.shared.shards as usize);
            let work = || Work::Subscribe {
                link: link.clone(),
                app: app.as_str().into(),
                marks: marks.clone(),
                credit: credit.clone(),
            };
            hand_to_all(node, work, now_ms);
        }
        Verb::Stats => {
            let Stats { cookie } = Stats::decode(body)?;
            let stats = node.shared.report.snapshot().into_iter();
            let stats = stats.map(|(name, value)| Stat { name, value }).collect();
            let result = StatsResult { cookie, stats };
            node.shard
                .outbox
                .put_local(link.id, Weight::Answer, |out| put_control(out, Verb::StatsResult, &result));
        }
        Verb::Degrade => {
            let Degrade { cookie, from_level } = Degrade::decode(body)?;
            let code = degrade(node, link, from_level);
            let outcome = Outcome { cookie, code, reached: 0 };
            node.shard.outbox.put_local(link.id, Weight::Answer, |out| outcome.put(out));
        }
        verb => return Err(wrong_role(verb)),
    }
    Ok(())
}

/// Switches business levels off or on.
fn degrade(node: &Node, link: &Link, from_level: u32) -> Code {
    if !Levels::may_be(from_level) {
        return Code::Invalid;
    }
    if from_level <= LEVEL_MAX {
        tracing::warn!(node = %link.node, from_level, "business levels from this one on are off");
    } else {
        tracing::warn!(node = %link.node, "messages of all business levels are taken");
    }
    match node.shared.levels.switch(from_level) {
        Ok(()) => Code::Ok,
        Err(error) => {
            tracing::error!(%error, "which levels are off cannot be kept: the next start will not know of it");
            Code::Storage
        }
    }
}

fn pong(node: &Node, link: &Link) {
    node.shard.outbox.put_local(link.id, Weight::Answer, |out| put_empty(out, Verb::Pong));
}

/// Hands a piece of work to every shard.
fn hand_to_all(node: &mut Node, work: impl Fn() -> Work, now_ms: u64) {
    for shard in 0..node.shared.shards {
        node.hand_to(ShardIndex(u16::try_from(shard).unwrap_or(u16::MAX)), work(), now_ms);
    }
}

/// Sorts items by the shard their hash falls to.
fn by_shard<T>(
    node: &Node,
    items: impl Iterator<Item = T>,
    hash: impl Fn(&T) -> u64,
) -> HashMap<ShardIndex, Vec<T>> {
    let mut sorted: HashMap<ShardIndex, Vec<T>> = HashMap::new();
    for item in items {
        sorted.entry(node.shard_of(hash(&item))).or_default().push(item);
    }
    sorted
}

fn handle_register(node: &mut Node, link: &Arc<Link>, body: Bytes, now_ms: u64) -> Result<(), Refusal> {
    let Register { batch, sessions } = Register::decode(body)?;
    if sessions.len() > REGISTER_BATCH_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("{} registrations in a batch; at most {REGISTER_BATCH_MAX} are accepted", sessions.len()),
        ));
    }
    // One part of the credit is this function's own, so that an empty batch is answered too.
    let credit = Credit::new(link.clone(), Answer::Registered { batch }, sessions.len() + 1);
    let hashed = sessions.into_iter().map(|new| (account_hash(&new.app, &new.account), new));
    for (shard, sessions) in by_shard(node, hashed, |(hash, _)| *hash) {
        let work = Work::Register { link: link.clone(), sessions, credit: credit.clone() };
        node.hand_to(shard, work, now_ms);
    }
    if credit.finish() {
        node.shard.outbox.put_local(link.id, Weight::Answer, |out| credit.put(out));
    }
    Ok(())
}

fn handle_up(node: &mut Node, link: &Arc<Link>, body: &Bytes, now_ms: u64) -> Result<(), Refusal> {
    let up = Up::parse(body)?;
    let hash = account_hash(up.app, up.account);
    match Kind::from_byte(up.kind) {
        Some(Kind::Data) => {
            let origin = Origin::Session { link: link.clone(), session: up.session, hash };
            match SubmitBody::decode(body.slice_ref(up.body)) {
                Ok(message) => {
                    let class = Class::from_flags(up.flags);
                    submit(node, origin, up.app, up.account, class, message, now_ms);
                }
                // The client's fault, not the gateway's: the link goes on.
                Err(error) => refuse(node, &origin, &Bytes::new(), Code::Invalid, &error.to_string()),
            }
        }
        Some(Kind::Ack | Kind::Sync) if sync_id(up.body).is_some() => {
            let shard = node.shard_of(hash);
            node.hand_to(shard, Work::Cursor { link: link.clone(), hash, up: body.clone() }, now_ms);
        }
        Some(Kind::GroupAck) => {
            let shard = node.shard_of(hash);
            node.hand_to(shard, Work::GroupAck { link: link.clone(), hash, up: body.clone() }, now_ms);
        }
        Some(kind @ (Kind::Group | Kind::Pull)) => {
            let origin = Origin::Session { link: link.clone(), session: up.session, hash };
            // The client's fault, not the gateway's: the link goes on. What does not even decode is not answered.
            if handle_request(node, kind, origin, &up, body.slice_ref(up.body), now_ms).is_err() {
                node.metrics.strays.increment();
            }
        }
        Some(Kind::Read | Kind::ReadMarks) if is_about_marks(&up) => {
            let shard = node.shard_of(hash);
            node.hand_to(shard, Work::Marks { link: link.clone(), hash, up: body.clone() }, now_ms);
        }
        Some(Kind::Read | Kind::ReadMarks) => node.metrics.strays.increment(),
        Some(Kind::RoomPull) => rooms::handle_pull(node, link, &up, hash, now_ms),
        // A client's malformed ACK moves nothing; the gateway answers for its clients' manners.
        Some(Kind::Ack | Kind::Sync) => node.metrics.strays.increment(),
        _ => return Err(Refusal::protocol(format!("UP carries a frame of kind {:#04x}", up.kind))),
    }
    Ok(())
}

/// A client's GROUP or PULL.
fn handle_request(
    node: &mut Node,
    kind: Kind,
    origin: Origin,
    up: &Up<'_>,
    body: Bytes,
    now_ms: u64,
) -> Result<(), Refusal> {
    check_account(up.account)?;
    if kind == Kind::Group {
        let request = GroupRequest::decode(body)?;
        let (id, back) = (request.id, origin.clone());
        let actor = Some(up.account.to_owned());
        return ask_group(node, origin, up.app, actor, request, now_ms).or_else(|refusal| {
            let (code, detail) = (refusal.code.into(), refusal.detail);
            node.shard.answer_group(&back, GroupAnswer { id, code, detail, ..GroupAnswer::default() });
            Ok(())
        });
    }
    let ask = PullAsk {
        origin,
        actor: Some(up.account.into()),
        device: up.device.into(),
        pull: Pull::decode(body)?,
    };
    let key = match ask.pull.group.as_str() {
        "" => key(up.app, up.account),
        group => group_key(up.app, group),
    };
    let key = match key {
        Ok(key) => key,
        Err(refusal) => {
            node.shard.refuse_pull(&ask, refusal.code, &refusal.detail);
            return Ok(());
        }
    };
    let shard = node.shard_of(key.hash);
    node.hand_to(shard, Work::Pull { key, ask: Box::new(ask) }, now_ms);
    Ok(())
}

/// Hands a request about groups to the shard of the group, or of the account whose groups are meant.
fn ask_group(
    node: &mut Node,
    origin: Origin,
    app: &str,
    actor: Option<String>,
    request: GroupRequest,
    now_ms: u64,
) -> Result<(), Refusal> {
    let key = match (&request.act, &actor) {
        (Some(Act::List(_)), Some(actor)) => key(app, actor)?,
        (Some(Act::Prefer(_)), Some(actor)) => {
            check_group(&request.group)?;
            key(app, actor)?
        }
        _ => group_key(app, &request.group)?,
    };
    let ask = GroupAsk { origin, actor: actor.map(Into::into), request, at_ms: wall_ms() };
    let shard = node.shard_of(key.hash);
    node.hand_to(shard, Work::Group { key, ask: Box::new(ask) }, now_ms);
    Ok(())
}

/// Whether a READ or a READ_MARKS says what it should.
fn is_about_marks(up: &Up<'_>) -> bool {
    if check_app(up.app).is_err() || check_account(up.account).is_err() {
        return false;
    }
    if up.kind == Kind::ReadMarks.byte() {
        return sync_id(up.body).is_some();
    }
    ReadMark::decode(up.body).is_ok_and(|mark| check_conversation(&mark.conversation).is_ok())
}

pub fn refuse(node: &mut Node, origin: &Origin, client_id: &Bytes, code: Code, detail: &str) {
    node.metrics.refused_invalid.increment();
    crate::shard::answer(&mut node.shard.outbox, origin, client_id, code, None, detail);
}

/// Traffic marks as they are kept: none of them is too long, and those that say nothing are none.
pub fn checked_marks(marks: Option<TrafficMarks>) -> Result<Marks, Refusal> {
    let longest = marks.iter().flat_map(TrafficMarks::values).map(str::len).max().unwrap_or(0);
    if longest > TRAFFIC_MARK_BYTES_MAX {
        return Err(Refusal::new(Code::Invalid, "a traffic mark has at most 32 bytes"));
    }
    Ok(marks.filter(|_| longest > 0).map(Box::new))
}

/// Checks a message and hands it to the receiver's shard.
pub fn submit(
    node: &mut Node,
    origin: Origin,
    app: &str,
    from: &str,
    class: Class,
    message: SubmitBody,
    now_ms: u64,
) {
    let (client_id, level) = (&message.client_id, message.level);
    // First, and cheap: what is switched off must cost next to nothing.
    let off_from = node.shared.levels.off_from();
    if off_from <= LEVEL_MAX {
        let level = level.unwrap_or_else(|| node.shared.apps.of(app).level).min(LEVEL_MAX);
        if level >= off_from && client_id.len() <= CLIENT_ID_BYTES_MAX {
            node.metrics.degraded.increment();
            let detail = format!("messages of level {level} are switched off for now");
            let (outbox, code) = (&mut node.shard.outbox, Code::Unavailable);
            return crate::shard::answer(outbox, &origin, client_id, code, None, &detail);
        }
    }
    if !message.room.is_empty() {
        return rooms::publish(node, origin, app, from, message, now_ms);
    }
    let SubmitBody { client_id, to, payload, group, marks, .. } = message;
    if client_id.is_empty() || client_id.len() > CLIENT_ID_BYTES_MAX {
        return refuse(node, &origin, &Bytes::new(), Code::Invalid, "a client id has 1 to 32 bytes");
    }
    if payload.len() > CLIENT_BODY_BYTES_MAX as usize {
        return refuse(
            node,
            &origin,
            &client_id,
            Code::TooLarge,
            "the payload is longer than a frame may be",
        );
    }
    if !group.is_empty() && matches!(class, Class::Normal | Class::Transient) {
        let detail = "messages to groups are reliable";
        return refuse(node, &origin, &client_id, Code::Invalid, detail);
    }
    let to = match (to.is_empty(), group.is_empty()) {
        (true, false) => group_key(app, &group),
        (false, true) => key(app, &to),
        _ => Err(Refusal::new(Code::Invalid, "a message is for one account or one group")),
    };
    let to = to.and_then(|to| check_account(from).map(|()| to).map_err(Refusal::from));
    let (to, marks) = match to.and_then(|to| Ok((to, checked_marks(marks)?))) {
        Ok(found) => found,
        Err(refusal) => return refuse(node, &origin, &client_id, refusal.code, &refusal.detail),
    };
    let shard = node.shard_of(to.hash);
    let submit = Submit {
        to,
        from: from.into(),
        client_id,
        payload,
        sent_at_ms: wall_ms(),
        origin,
        entry: Entry::Personal,
        marks,
        copies_bytes: 0,
    };
    let submit = Box::new(submit);
    let work = match class {
        // Nobody but the server commands: what says so is kept like any message.
        Class::Command | Class::Reliable => Work::Submit(submit),
        Class::Normal | Class::Transient => Work::Relay { submit, class },
    };
    node.hand_to(shard, work, now_ms);
}
