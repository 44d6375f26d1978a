//! `listen` and `send`: clients like any app.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use moor_client::core::{DialError, Disconnect, Target};
use moor_client::{Accepted, Client, ClientError, Conversation, Event, Events, Options, Sending};
use moor_wire::Code;
use moor_wire::client::Class;
use moor_wire::identity::{check_account, check_app, check_device};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::labels::{Labels, show_marks};
use super::{Failure, Global, is_broken_pipe, output};

const CHANNEL: u16 = 1;

#[derive(Debug, Args)]
pub struct Listen {
    /// Account to log in.
    #[arg(long)]
    account: String,
    /// Name of this device; each device has a place of its own in the timeline.
    #[arg(long, default_value = "cli")]
    device: String,
    /// Where to start: where this device left off (`resume`), with what comes from now on (`new`, asks the
    /// router), at the oldest message kept (`all`), or behind a sync id.
    #[arg(long, default_value = "resume", value_name = "resume|new|all|ID", value_parser = parse_from)]
    from: From,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum From {
    Resume,
    New,
    Behind(u64),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "resume" => Ok(From::Resume),
        "new" => Ok(From::New),
        "all" => Ok(From::Behind(0)),
        id => id.parse().map(From::Behind).map_err(|_| "say resume, new, all or a sync id".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct Read {
    /// Account that has read.
    #[arg(long)]
    account: String,
    /// Name of this device.
    #[arg(long, default_value = "cli-read")]
    device: String,
    /// The account whose messages are read.
    #[arg(long, required_unless_present = "group")]
    peer: Option<String>,
    /// The group that is read.
    #[arg(long, conflicts_with = "peer")]
    group: Option<String>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Up to here.
    sync_id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassName {
    Reliable,
    Normal,
    Transient,
}

#[derive(Debug, Args)]
pub struct Send {
    /// Account that sends.
    #[arg(long)]
    from: String,
    /// Account that receives.
    #[arg(long, required_unless_present_any = ["group", "room"])]
    to: Option<String>,
    /// Group that receives, of which the sender is a member.
    #[arg(long, conflicts_with = "to")]
    group: Option<String>,
    /// Room whose members hear it; the sender need not be in it.
    #[arg(long, conflicts_with_all = ["to", "group", "class"])]
    room: Option<String>,
    /// Type of a message for a room: unless the router's settings say otherwise 0 is normal, 1 reliable, and more
    /// droppable.
    #[arg(long = "type", value_name = "N", default_value_t = 0, conflicts_with_all = ["to", "group"])]
    number: u32,
    /// Name of this device.
    #[arg(long, default_value = "cli-send")]
    device: String,
    /// Sent under this id; sending again under it stores nothing twice. Default: a new one.
    #[arg(long)]
    id: Option<String>,
    /// reliable: kept until it is acknowledged. normal, transient: for whoever is logged in right now, once;
    /// transient is the first to be dropped where something is full.
    #[arg(long, default_value = "reliable", conflicts_with = "id")]
    class: ClassName,
    #[command(flatten)]
    labels: Labels,
    /// Give up after so many seconds without the router's word on a message.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// What to say; `-`: every line of standard input is a message.
    text: String,
}

/// Logs in without acknowledging anything: what a command does not show is delivered elsewhere, or to the next one.
pub(super) async fn log_in(
    device: &str,
    account: &str,
    from: From,
    read_marks: bool,
    global: &Global,
) -> Result<(Client, Events), Failure> {
    check_app(&global.app)?;
    check_account(account)?;
    check_device(device)?;
    let options = Options { auto_acknowledge: false, read_marks, ..Options::new(device) };
    let (client, events) = global.target.connect(options).await?;
    let last_sync_id = match from {
        From::Resume => None,
        From::New => Some(head_of(account, global).await?),
        From::Behind(id) => Some(id),
    };
    let credential = super::token::read_credential(global.credential_file.as_deref())?;
    client.open(CHANNEL, &global.app, account, Bytes::from(credential), last_sync_id).await?;
    Ok((client, events))
}

/// The newest message of an account, which only the router knows.
async fn head_of(account: &str, global: &Global) -> Result<u64, Failure> {
    let (account, global) = (account.to_owned(), global.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let found =
            super::service::router(&global).and_then(|mut router| Ok(router.lookup(&global.app, &account)?));
        found.map(|found| found.head).map_err(|error| error.to_string())
    });
    Ok(asked.await??)
}

/// A refusal that trying again will not change.
pub(super) fn final_refusal(event: &Event) -> Result<(), Failure> {
    match event {
        Event::Closed { code, reason, reopens: false, .. } => {
            Err(format!("the server closed the channel: {code}{}", colon(reason)).into())
        }
        Event::Disconnected(Disconnect::Refused { code, detail })
            if matches!(code, Code::Invalid | Code::Version | Code::Unauthorized | Code::ProtocolError) =>
        {
            Err(format!("the gateway refuses this client: {code}{}", colon(detail)).into())
        }
        _ => Ok(()),
    }
}

/// What keeps a login from standing or a message from being taken, and is tried again.
fn hindrance(event: &Event) -> Option<String> {
    match event {
        Event::Closed { code, reason, reopens: true, .. } => Some(format!("{code}{}", colon(reason))),
        Event::Disconnected(why) => Some(why.to_string()),
        Event::NotConnected { address, why } => Some(format!("no connection to {address}: {why}")),
        Event::Delayed { code, detail, .. } if detail.is_empty() => Some(code.to_string()),
        Event::Delayed { detail, .. } => Some(detail.clone()),
        _ => None,
    }
}

/// Until the account is logged in; where that takes too long, with what kept it last.
async fn wait_for_login(
    mut next: impl AsyncFnMut() -> Option<Event>,
    account: &str,
    seconds: u64,
) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut last = None;
    while let Ok(event) = tokio::time::timeout_at(until, next()).await {
        let event = event.ok_or("the session ended")?;
        final_refusal(&event)?;
        if matches!(event, Event::Opened { .. }) {
            return Ok(());
        }
        last = hindrance(&event).or(last);
    }
    let why = last.unwrap_or_else(|| "see what is wrong with `moor stats`".to_owned());
    Err(format!("{account} could not log in within {seconds} s: {why}").into())
}

/// What happens to the connection and the login while a command listens.
pub(super) fn print_hindrance(event: &Event, global: &Global) -> Result<(), Failure> {
    let (line, object) = match event {
        Event::Disconnected(why) => {
            let why = why.to_string();
            let line = format!("connection lost ({why}); coming back");
            (line, json!({ "event": "disconnected", "why": why }))
        }
        // That the network is away is news once, and was said.
        Event::NotConnected { why: DialError::Network { .. }, .. } => return Ok(()),
        Event::NotConnected { address, why } => {
            let why = why.to_string();
            let line = format!("no connection to {address} ({why}); trying again");
            (line, json!({ "event": "not_connected", "address": address, "why": why }))
        }
        Event::Closed { code, reason, reopens: true, .. } => {
            let line = format!("not logged in ({code}{}); trying again", colon(reason));
            (line, json!({ "event": "closed", "code": code.to_string(), "why": reason }))
        }
        _ => return Ok(()),
    };
    output::line(global, &line, &object)
}

fn colon(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Prints messages until `--count` or Ctrl-C.
pub async fn listen(listen: &Listen, global: &Global) -> Result<(), Failure> {
    let (client, mut events) = log_in(&listen.device, &listen.account, listen.from, true, global).await?;
    let listened = print_events(&client, &mut events, listen, global).await;
    // However it ended. Says the last acknowledgements, so that nothing printed is printed again.
    client.shutdown().await;
    listened
}

/// A message counts as received when it has been printed.
async fn print_events(
    client: &Client,
    events: &mut Events,
    listen: &Listen,
    global: &Global,
) -> Result<(), Failure> {
    let mut left = listen.count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.recv() => event.ok_or("the session ended")?,
            _ = tokio::signal::ctrl_c() => break,
        };
        let printed = print_event(&event, listen, global)?;
        if let Event::Message { sync_id: Some(id), .. } = event {
            client.acknowledge(CHANNEL, id).await?;
        } else if let Event::GroupMessage { group, sync_id, .. } = event {
            client.acknowledge_group(CHANNEL, &group, sync_id).await?;
        }
        left -= u64::from(printed);
    }
    Ok(())
}

/// Whether it was a message.
fn print_event(event: &Event, listen: &Listen, global: &Global) -> Result<bool, Failure> {
    final_refusal(event)?;
    match event {
        Event::Message { sync_id, from, client_id, sent_at_ms, payload, marks, .. } => {
            let (text, (shown, marks)) = (output::payload(payload), show_marks(marks));
            let id = sync_id.map_or_else(|| "transient".to_owned(), |id| format!("#{id}"));
            let line = format!("{} {id} {from}: {text}{shown}", output::time(*sent_at_ms));
            let object = json!({
                "event": "message", "sync_id": sync_id, "from": from, "sent_at_ms": sent_at_ms, "marks": marks,
            });
            output::line(global, &line, &output::message(object, client_id, payload))?;
            return Ok(true);
        }
        Event::GroupMessage {
            group, sync_id, from, client_id, sent_at_ms, payload, is_event, marks, ..
        } => {
            let (time, (shown, marks)) = (output::time(*sent_at_ms), show_marks(marks));
            let said = super::group::said(payload, *is_event);
            let text = output::payload(&said);
            let line = format!("{time} {group} #{sync_id} {}{shown}", output::said(from, &text, *is_event));
            let object = json!({
                "event": if *is_event { "group_changed" } else { "group_message" },
                "group": group, "sync_id": sync_id, "from": from, "sent_at_ms": sent_at_ms, "marks": marks,
            });
            output::line(global, &line, &output::message(object, client_id, &said))?;
            return Ok(!is_event);
        }
        Event::GroupExpired { group, from, to, .. } => {
            let line = format!("{group}: messages #{from} to #{to} are past retention");
            let object = json!({ "event": "group_expired", "group": group, "from": from, "to": to });
            output::line(global, &line, &object)?;
        }
        Event::GroupLeft { group, .. } => {
            let line = format!("{group}: no longer a member");
            output::line(global, &line, &json!({ "event": "group_left", "group": group }))?;
        }
        Event::Opened { session, .. } => {
            let line = format!(
                "{} of {} listens as device {} (session {session})",
                listen.account, global.app, listen.device
            );
            output::line(global, &line, &output::opened(*session))?;
        }
        Event::Expired { from, to, .. } => {
            let line = format!("messages #{from} to #{to} are past retention");
            output::line(global, &line, &json!({ "event": "expired", "from": from, "to": to }))?;
        }
        Event::ReadMark { conversation, sync_id, .. } => {
            let (kind, name) = match conversation {
                Conversation::Peer(name) => ("peer", name),
                Conversation::Group(name) => ("group", name),
            };
            let line = format!("{} has read {kind} {name} up to #{sync_id}", listen.account);
            let object = json!({ "event": "read", "kind": kind, "conversation": name, "sync_id": sync_id });
            output::line(global, &line, &object)?;
        }
        Event::DeviceAck { device, sync_id, .. } => {
            let line = format!("device {device} has everything up to #{sync_id}");
            let object = json!({ "event": "device_ack", "device": device, "sync_id": sync_id });
            output::line(global, &line, &object)?;
        }
        Event::Disconnected(_) | Event::NotConnected { .. } | Event::Closed { .. } => {
            print_hindrance(event, global)?;
        }
        Event::Connected { .. }
        | Event::Accepted { .. }
        | Event::Delayed { .. }
        | Event::GroupAnswer { .. }
        | Event::Refused { .. }
        | Event::Room { .. }
        | Event::RoomRefused { .. }
        | Event::Abandoned { .. } => {}
    }
    Ok(false)
}

/// Marks a conversation as read and waits until that is stored.
pub async fn read(read: &Read, global: &Global) -> Result<(), Failure> {
    let conversation = match (&read.peer, &read.group) {
        (Some(peer), _) => Conversation::Peer(peer.clone()),
        (None, Some(group)) => Conversation::Group(group.clone()),
        (None, None) => return Err("say --peer ACCOUNT or --group NAME".into()),
    };
    let (client, mut events) = log_in(&read.device, &read.account, From::Resume, true, global).await?;
    let marked = mark(&client, &mut events, read, conversation).await;
    client.shutdown().await;
    let sync_id = marked?;
    output::line(global, &format!("read up to #{sync_id}"), &json!({ "event": "read", "sync_id": sync_id }))
}

/// Up to where the conversation is read now.
async fn mark(
    client: &Client,
    events: &mut Events,
    read: &Read,
    conversation: Conversation,
) -> Result<u64, Failure> {
    // Not before: a login that is refused says more than a channel that is not there.
    wait_for_login(async || events.recv().await, &read.account, read.timeout).await?;
    client.mark_read(CHANNEL, conversation.clone(), read.sync_id).await?;
    let stored = async {
        while let Some(event) = events.recv().await {
            final_refusal(&event)?;
            match event {
                Event::ReadMark { conversation: stored, sync_id, .. }
                    if stored == conversation && sync_id >= read.sync_id =>
                {
                    return Ok::<u64, Failure>(sync_id);
                }
                _ => {}
            }
        }
        Err("the session ended".into())
    };
    let stored = tokio::time::timeout(Duration::from_secs(read.timeout), stored).await;
    let Ok(stored) = stored else {
        return Err(format!("the mark was not stored within {} s: see `moor stats`", read.timeout).into());
    };
    stored
}

/// Sends one message, or one a line.
pub async fn send(send: &Send, global: &Global) -> Result<(), Failure> {
    if send.text == "-" && global.credential_file.as_deref().is_some_and(|path| path == Path::new("-")) {
        return Err(
            "standard input has either the credential or the messages: keep the credential in a file".into(),
        );
    }
    if send.text == "-" && send.id.is_some() {
        return Err("--id is of one message, and every line of standard input is one: leave it out".into());
    }
    let (client, events) = log_in(&send.device, &send.from, From::Resume, false, global).await?;
    let mut sender = Sender { client: &client, events, send, global };
    let sent = sender.send_all().await;
    client.shutdown().await;
    sent
}

/// A login that sends. What arrives for it is not for this command, and not acknowledged.
struct Sender<'a> {
    client: &'a Client,
    events: Events,
    send: &'a Send,
    global: &'a Global,
}

impl Sender<'_> {
    async fn send_all(&mut self) -> Result<(), Failure> {
        let send = self.send;
        wait_for_login(async || self.events.recv().await, &send.from, send.timeout).await?;
        if send.text != "-" {
            return self.send_one(&send.text, send.id.as_deref()).await;
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut number = 0u64;
        while let Some(line) = lines.next_line().await? {
            number += 1;
            let Err(error) = self.send_one(&line, None).await else { continue };
            // Nobody reads the answers any more: no harm, unless there was more to say.
            if is_broken_pipe(&*error) && lines.next_line().await?.is_some() {
                let why = "nobody reads the answers any more";
                return Err(format!("{why}: what follows line {number} was not sent").into());
            }
            return Err(error);
        }
        Ok(())
    }

    async fn send_one(&mut self, text: &str, id: Option<&str>) -> Result<(), Failure> {
        let (client, send, global) = (self.client, self.send, self.global);
        let class = match send.class {
            ClassName::Reliable => None,
            ClassName::Normal => Some(Class::Normal),
            ClassName::Transient => Some(Class::Transient),
        };
        let (level, marks) = (send.labels.level, send.labels.marks()?);
        let sending = Sending { class: class.unwrap_or_default(), level, marks };
        if let Some(room) = &send.room {
            return self.say_one(room, sending, text, id).await;
        }
        let (to, name) = match (&send.to, &send.group) {
            (Some(to), _) => (Target::Account(to.clone()), to),
            (None, Some(group)) => (Target::Group(group.clone()), group),
            (None, None) => return Err("say --to ACCOUNT, --group GROUP or --room ROOM".into()),
        };
        if class.is_some() {
            let id = Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes());
            client.send_to(sending, CHANNEL, id, to, Bytes::copy_from_slice(text.as_bytes())).await?;
            let line = format!("on its way to whoever is logged in as {name}");
            return output::line(global, &line, &json!({ "event": "relayed", "to": send.to }));
        }
        let id = text_id(id);
        let payload = Bytes::copy_from_slice(text.as_bytes());
        let sent = client.send_to(sending, CHANNEL, Bytes::copy_from_slice(id.as_bytes()), to, payload);
        let Accepted { sync_id, duplicate, .. } = self.answered(sent, &id, "stores it once").await?;
        let again = if duplicate { ", as before" } else { "" };
        let line = format!("accepted as #{sync_id} of {name}{again}");
        let object = json!({
            "event": "accepted", "to": name, "client_id": id, "sync_id": sync_id, "duplicate": duplicate,
        });
        output::line(global, &line, &object)
    }

    /// Says one message in a room.
    async fn say_one(
        &mut self,
        room: &str,
        sending: Sending,
        text: &str,
        id: Option<&str>,
    ) -> Result<(), Failure> {
        let (client, global) = (self.client, self.global);
        let (id, payload) = (text_id(id), Bytes::copy_from_slice(text.as_bytes()));
        let (client_id, to) = (Bytes::copy_from_slice(id.as_bytes()), (room, self.send.number));
        let said = client.publish_with(sending, CHANNEL, client_id, to, payload);
        let once = "stores it once if its type is reliable";
        let Accepted { sync_id, duplicate, .. } = self.answered(said, &id, once).await?;
        let again = if duplicate { ", as before" } else { "" };
        let line = match sync_id {
            0 => format!("said in {room}"),
            sync_id => format!("stored as #{sync_id} of {room}{again}"),
        };
        let object = json!({
            "event": "accepted", "room": room, "client_id": id, "sync_id": sync_id, "duplicate": duplicate,
        });
        output::line(global, &line, &object)
    }

    /// The answer to a message; where none comes in time, what kept it last and what to do.
    async fn answered(
        &mut self,
        sent: impl Future<Output = Result<Accepted, ClientError>>,
        id: &str,
        once: &str,
    ) -> Result<Accepted, Failure> {
        let seconds = self.send.timeout;
        let late = tokio::time::sleep(Duration::from_secs(seconds));
        let (mut sent, mut late) = (pin!(sent), pin!(late));
        let mut last = None;
        loop {
            tokio::select! {
                answer = &mut sent => return Ok(answer?),
                Some(event) = self.events.recv() => last = hindrance(&event).or(last),
                () = &mut late => {
                    let why = last.map_or_else(String::new, |why| format!(": {why}"));
                    return Err(format!(
                        "the router did not take the message within {seconds} s{why}; it may still have it: \
                         send it again with --id {id}, which {once}"
                    )
                    .into());
                }
            }
        }
    }
}

/// An id that is text, so that it can be given back with --id.
fn text_id(given: Option<&str>) -> String {
    given.map_or_else(|| uuid::Uuid::now_v7().simple().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(said: Vec<Event>) -> String {
        let mut said = said.into_iter();
        let next = async || match said.next() {
            Some(event) => Some(event),
            None => std::future::pending().await,
        };
        let wait = async { wait_for_login(next, "alice", 0).await.map_err(|error| error.to_string()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(wait).unwrap_err()
    }

    #[test]
    fn a_login_that_takes_too_long_says_what_kept_it() {
        assert_eq!(waiting(vec![]), "alice could not log in within 0 s: see what is wrong with `moor stats`");
        let full = Event::Closed { channel: 1, code: Code::Limit, reason: "full".into(), reopens: true };
        assert_eq!(
            waiting(vec![Event::Disconnected(Disconnect::Silent), full.clone()]),
            "alice could not log in within 0 s: LIMIT: full"
        );
        let Event::Closed { channel, code, reason, .. } = full else { panic!("it is") };
        let ended = Event::Closed { channel, code, reason, reopens: false };
        assert_eq!(waiting(vec![ended]), "the server closed the channel: LIMIT: full");
    }
}
