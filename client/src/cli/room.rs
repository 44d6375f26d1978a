//! `room enter`, `room publish`, `room stats`.

use bytes::Bytes;
use clap::{Args, Subcommand};
use moor_client::core::RoomMessage;
use moor_client::{Event, Options};
use moor_router_client::Request;
use serde_json::json;

use super::labels::{Labels, show_marks};
use super::service::router;
use super::session::{final_refusal, print_hindrance};
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

/// Prints what is said in a room until `--count` or Ctrl-C.
pub async fn enter(enter: &Enter, global: &Global) -> Result<(), Failure> {
    let credential = Bytes::from(super::token::read_credential(global.credential_file.as_deref())?);
    let (client, mut events) = global.target.connect(Options::new(&enter.device)).await?;
    client.open(CHANNEL, &global.app, &enter.account, credential, None).await?;
    client.enter(CHANNEL, &enter.room).await?;
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
                output::line(global, &line, &json!({ "event": "opened", "session": session }))?;
            }
            event => print_hindrance(event, global)?,
        }
    }
    client.shutdown().await;
    Ok(())
}

fn print_message(message: &RoomMessage, global: &Global) -> Result<(), Failure> {
    let RoomMessage { from, r#type: number, sent_at_ms, id, .. } = message;
    let text = output::payload(&message.payload);
    let (shown, marks) = show_marks(&message.marks.clone().unwrap_or_default());
    let place = if *id > 0 { format!(" #{id}") } else { String::new() };
    let line = format!("{}{place} {from}: {text}{shown}", output::time(*sent_at_ms));
    let object = json!({
        "event": "message", "id": id, "type": number, "from": from, "sent_at_ms": sent_at_ms, "text": text,
        "marks": marks,
    });
    output::line(global, &line, &object)
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
    output::line(global, &line, &json!({ "event": "accepted", "room": room, "id": sent.sync_id }))
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
