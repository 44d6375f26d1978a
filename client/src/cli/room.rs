//! `room enter`, `room publish`, `room stats`.

use clap::{Args, Subcommand};
use moor_client::core::{RoomError, RoomMessage};
use moor_client::{Client, ClientError, Event, Events};
use moor_router_client::Request;
use moor_wire::identity::check_room;
use serde_json::json;

use super::labels::{Labels, show_marks};
use super::service::router;
use super::session::{From, final_refusal, log_in, print_hindrance};
use super::{Failure, Global, output};

const CHANNEL: u16 = 1;

#[derive(Debug, Subcommand)]
pub enum Room {
    /// Log an account in, enter a room and print what is said there.
    Enter(Enter),
    /// Say something to everybody in a room, through the router; `moor send --room` says it as a client does.
    Publish(Publish),
    /// Show how many are in a room.
    Stats(Stats),
}

#[derive(Debug, Args)]
pub struct Enter {
    /// The room.
    room: String,
    /// Account to log in.
    #[arg(long)]
    account: String,
    /// Name of this device.
    #[arg(long, default_value = "cli-room")]
    device: String,
    /// Likes to give it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    like: u32,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Publish {
    /// The room.
    room: String,
    /// What to say.
    text: String,
    /// Who it is said to come from.
    #[arg(long, default_value = "moor")]
    from: String,
    /// Type of the message: unless the router's settings say otherwise 0 is normal, 1 reliable, and more droppable.
    #[arg(long = "type", value_name = "N", default_value_t = 0)]
    number: u32,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// The room.
    room: String,
}

/// Prints what is said in a room until `--count` or Ctrl-C. Messages for the account itself are for whoever shows them.
pub async fn enter(enter: &Enter, global: &Global) -> Result<(), Failure> {
    check_room(&enter.room)?;
    let (client, mut events) = log_in(&enter.device, &enter.account, From::Resume, false, global).await?;
    let heard = print_room(&client, &mut events, enter, global).await;
    client.shutdown().await;
    heard
}

async fn print_room(
    client: &Client,
    events: &mut Events,
    enter: &Enter,
    global: &Global,
) -> Result<(), Failure> {
    match client.enter(CHANNEL, &enter.room).await {
        // Its login was refused: an event says why.
        Err(ClientError::Room(RoomError::NoChannel(_))) => {}
        entered => entered?,
    }
    if enter.like > 0 {
        client.like(CHANNEL, &enter.room, enter.like).await?;
    }
    let mut left = enter.count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.recv() => event.ok_or("the session ended")?,
            _ = tokio::signal::ctrl_c() => break,
        };
        final_refusal(&event)?;
        match &event {
            Event::Room { messages, dropped, online, likes, .. } => {
                for message in messages.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                    print_message(message, global)?;
                }
                left -= left.min(messages.len() as u64);
                if messages.is_empty() || *dropped > 0 {
                    let line = format!("{online} here, {likes} likes, {dropped} messages left out");
                    let object =
                        json!({ "event": "room", "online": online, "likes": likes, "dropped": dropped });
                    output::line(global, &line, &object)?;
                }
            }
            Event::RoomRefused { code, reason, .. } => {
                return Err(format!("refused: {code}: {reason}").into());
            }
            Event::Opened { session, .. } => {
                let line = format!("{} is in {} (session {session})", enter.account, enter.room);
                output::line(global, &line, &output::opened(*session))?;
            }
            event => print_hindrance(event, global)?,
        }
    }
    Ok(())
}

fn print_message(message: &RoomMessage, global: &Global) -> Result<(), Failure> {
    let RoomMessage { from, r#type: number, client_id, sent_at_ms, payload, id, .. } = message;
    let text = output::payload(payload);
    let (shown, marks) = show_marks(&message.marks.clone().unwrap_or_default());
    let sync_id = (*id > 0).then_some(id);
    let place = sync_id.map_or_else(String::new, |id| format!(" #{id}"));
    let line = format!("{}{place} {from}: {text}{shown}", output::time(*sent_at_ms));
    let object = json!({
        "event": "message", "sync_id": sync_id, "type": number, "from": from, "sent_at_ms": sent_at_ms,
        "marks": marks,
    });
    output::line(global, &line, &output::message(object, client_id, payload))
}

/// Says something in a room.
pub fn publish(publish: &Publish, global: &Global) -> Result<(), Failure> {
    let Publish { room, text, from, number, labels } = publish;
    let request = Request::room_publish(&global.app, from, (room, *number), None, text.as_bytes())?;
    let sent = router(global)?.call(labels.put(request)?)?.into_sent()?;
    let line = match sent.sync_id {
        0 => format!("said in {room}"),
        id => format!("stored as #{id} of {room}"),
    };
    output::line(global, &line, &json!({ "event": "accepted", "room": room, "sync_id": sent.sync_id }))
}

/// Shows a room's numbers.
pub fn stats(stats: &Stats, global: &Global) -> Result<(), Failure> {
    let room = &stats.room;
    let found = router(global)?.room_stats(&global.app, room)?;
    let how = if found.buffered { "in batches" } else { "at once" };
    let line = format!(
        "{room} of {}: {} online on {} workers, {} likes, newest reliable message #{}, delivered {how}",
        global.app, found.online, found.workers, found.likes, found.newest_id
    );
    let object = json!({
        "app": global.app, "room": room, "online": found.online, "workers": found.workers, "likes": found.likes,
        "newest_id": found.newest_id, "buffered": found.buffered,
    });
    output::line(global, &line, &object)
}
