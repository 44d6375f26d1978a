//! `listen` and `send`: clients like any app.

use bytes::Bytes;
use clap::Args;
use moor_client::{Client, Event, Options};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc::Receiver;

use super::{Failure, Global, output};

const CHANNEL: u16 = 1;

#[derive(Debug, Args)]
pub struct Listen {
    /// Account to log in.
    #[arg(long)]
    account: String,
    /// Name of this device; each device has a place of its own in the timeline.
    #[arg(long, default_value = "cli")]
    device: String,
    /// Where to start: where this device left off (`resume`), at the oldest message kept (`all`), or behind a
    /// sync id.
    #[arg(long, default_value = "resume", value_name = "resume|all|ID", value_parser = parse_from)]
    from: From,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum From {
    Resume,
    Behind(u64),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "resume" => Ok(From::Resume),
        "all" => Ok(From::Behind(0)),
        id => id.parse().map(From::Behind).map_err(|_| "say resume, all or a sync id".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct Send {
    /// Account that sends.
    #[arg(long)]
    from: String,
    /// Account that receives.
    #[arg(long)]
    to: String,
    /// Name of this device.
    #[arg(long, default_value = "cli-send")]
    device: String,
    /// Sent under this id; sending again under it stores nothing twice. Default: a new one.
    #[arg(long)]
    id: Option<String>,
    /// What to say; `-`: every line of standard input is a message.
    text: String,
}

async fn log_in(
    device: &str,
    account: &str,
    from: From,
    auto_acknowledge: bool,
    global: &Global,
) -> Result<(Client, Receiver<Event>), Failure> {
    let options = Options { auto_acknowledge, ..Options::new(device) };
    let (client, events) = Client::connect(&global.target, options).await?;
    let last_sync_id = match from {
        From::Resume => None,
        From::Behind(id) => Some(id),
    };
    client.open(CHANNEL, &global.app, account, Bytes::new(), last_sync_id).await?;
    Ok((client, events))
}

/// Prints messages until `--count` or Ctrl-C.
pub async fn listen(listen: &Listen, global: &Global) -> Result<(), Failure> {
    // A message counts as received when it has been printed.
    let (client, mut events) = log_in(&listen.device, &listen.account, listen.from, false, global).await?;
    let mut left = listen.count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.recv() => event.ok_or("the session ended")?,
            _ = tokio::signal::ctrl_c() => break,
        };
        let printed = print_event(&event, listen, global)?;
        if let Event::Message { sync_id: Some(id), .. } = event {
            client.acknowledge(CHANNEL, id).await?;
        }
        left -= u64::from(printed);
    }
    // Answered only after the acknowledgements before it were taken; a moment later they are on their way.
    client.last_sync_id(CHANNEL).await?;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    Ok(())
}

/// Whether it was a message.
fn print_event(event: &Event, listen: &Listen, global: &Global) -> Result<bool, Failure> {
    match event {
        Event::Message { sync_id, from, sent_at_ms, payload, .. } => {
            let text = output::payload(payload);
            let id = sync_id.map_or_else(|| "transient".to_owned(), |id| format!("#{id}"));
            let line = format!("{} {id} {from}: {text}", output::time_of_day(*sent_at_ms));
            let object = json!({ "event": "message", "sync_id": sync_id, "from": from, "sent_at_ms": sent_at_ms, "text": text });
            output::line(global, &line, &object)?;
            return Ok(true);
        }
        Event::Opened { session, .. } => {
            let line = format!(
                "{} of {} listens as device {} (session {session})",
                listen.account, global.app, listen.device
            );
            output::line(global, &line, &json!({ "event": "opened", "session": session }))?;
        }
        Event::Expired { from, to, .. } => {
            let line = format!("messages #{from} to #{to} are past retention");
            output::line(global, &line, &json!({ "event": "expired", "from": from, "to": to }))?;
        }
        Event::Disconnected(why) => {
            let line = format!("connection lost ({why:?}); coming back");
            output::line(global, &line, &json!({ "event": "disconnected", "why": format!("{why:?}") }))?;
        }
        Event::Closed { code, reason, reopens: false, .. } => {
            return Err(format!("the server closed the channel: {code} {reason}").into());
        }
        Event::Closed { .. } | Event::Connected { .. } | Event::Accepted { .. } | Event::Refused { .. } => {}
    }
    Ok(false)
}

/// Sends one message, or one a line.
pub async fn send(send: &Send, global: &Global) -> Result<(), Failure> {
    let (client, mut events) = log_in(&send.device, &send.from, From::Resume, false, global).await?;
    loop {
        match events.recv().await.ok_or("the session ended")? {
            Event::Opened { .. } => break,
            Event::Closed { code, reason, .. } => {
                return Err(format!("{} cannot log in: {code} {reason}", send.from).into());
            }
            _ => {}
        }
    }
    // What arrives for the sender is not for this command; it stays unacknowledged and is delivered elsewhere.
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    if send.text == "-" {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            send_one(&client, send, &line, None, global).await?;
        }
    } else {
        send_one(&client, send, &send.text, send.id.as_deref(), global).await?;
    }
    drain.abort();
    Ok(())
}

async fn send_one(
    client: &Client,
    send: &Send,
    text: &str,
    id: Option<&str>,
    global: &Global,
) -> Result<(), Failure> {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    let accepted = match id {
        Some(id) => client.send_as(CHANNEL, Bytes::copy_from_slice(id.as_bytes()), &send.to, payload).await?,
        None => client.send(CHANNEL, &send.to, payload).await?,
    };
    let again = if accepted.duplicate { ", as before" } else { "" };
    let line = format!("accepted as #{} of {}{again}", accepted.sync_id, send.to);
    let object = json!({
        "event": "accepted", "to": send.to, "sync_id": accepted.sync_id, "duplicate": accepted.duplicate,
    });
    output::line(global, &line, &object)
}
