//! `group` and `history`: what a backend service does with groups and timelines, through the router.

use bytes::Bytes;
use clap::{Args, Subcommand};
use moor_router_client::{
    Act, GroupAnswer, GroupCreate, GroupMember, GroupNames, GroupNothing, GroupPage, GroupRole, Request,
};
use moor_wire::client::GroupEvent;
use prost::Message as _;
use serde_json::json;

use super::labels::Labels;
use super::{Failure, Global, output, service};

#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    command: Command,
    /// On behalf of this account, whose role then counts. Default: as the operator.
    #[arg(long = "as", global = true, value_name = "ACCOUNT")]
    actor: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a group.
    Create {
        /// Its name.
        group: String,
        /// Its owner.
        #[arg(long)]
        owner: String,
        /// What people see.
        #[arg(long, default_value = "")]
        title: String,
        /// Anybody may join.
        #[arg(long)]
        open: bool,
        /// The first members, besides the owner.
        members: Vec<String>,
    },
    /// Add members.
    Add {
        /// The group.
        group: String,
        /// Who is to be in it, at most 256 at a time.
        #[arg(required = true)]
        accounts: Vec<String>,
    },
    /// Remove members.
    Remove {
        /// The group.
        group: String,
        /// Who is not to be in it any more, at most 256 at a time.
        #[arg(required = true)]
        accounts: Vec<String>,
    },
    /// Make a member an admin, the owner, or a member again.
    Role {
        /// The group.
        group: String,
        /// The member.
        account: String,
        /// What it is from now on; the former owner becomes an admin.
        #[arg(value_parser = ["member", "admin", "owner"])]
        role: String,
    },
    /// End a group.
    Dissolve {
        /// The group.
        group: String,
    },
    /// Show a group's members.
    Members {
        /// The group.
        group: String,
    },
    /// Show an account's groups.
    List {
        /// The account.
        account: String,
    },
    /// Send a reliable message to a group.
    Send {
        /// The group.
        group: String,
        /// Who it is said to come from.
        #[arg(long, default_value = "moor")]
        from: String,
        #[command(flatten)]
        labels: Labels,
        /// What to say.
        text: String,
    },
}

#[derive(Debug, Args)]
pub struct History {
    /// The account, or with --group the group.
    name: String,
    /// A group's timeline.
    #[arg(long)]
    group: bool,
    /// Messages behind this sync id.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u64,
}

fn word(role: GroupRole) -> &'static str {
    match role {
        GroupRole::None => "none",
        GroupRole::Member => "member",
        GroupRole::Admin => "admin",
        GroupRole::Owner => "owner",
    }
}

/// What an entry of a group's timeline says: a message's payload, or a change in words.
pub fn said(payload: &Bytes, is_event: bool) -> Bytes {
    if is_event { describe(payload).into() } else { payload.clone() }
}

fn describe(payload: &Bytes) -> String {
    let Ok(event) = GroupEvent::decode(payload.clone()) else { return "(a change)".to_owned() };
    let mut words = Vec::new();
    if event.created {
        words.push("made the group".to_owned());
    }
    let set = event.set.iter().map(|member| format!("{} is {}", member.account, word(member.role())));
    words.extend(set);
    words.extend(event.removed.iter().map(|name| format!("{name} is out")));
    if event.dissolved {
        words.push("ended the group".to_owned());
    }
    let by = if event.by.is_empty() { "an operator" } else { &event.by };
    format!("{by}: {}", words.join(", "))
}

/// Does what is asked of a group.
pub fn group(group: &Group, global: &Global) -> Result<(), Failure> {
    let mut router = service::router(global)?;
    let actor = group.actor.as_deref();
    let mut ask = |name: &str, act: Act| -> Result<GroupAnswer, Failure> {
        Ok(router.group(&global.app, actor, name, act)?)
    };
    let names = |accounts: &[String]| GroupNames { accounts: accounts.to_vec() };
    match &group.command {
        Command::Create { group, owner, title, open, members } => {
            let (members, owner) = (members.clone(), owner.clone());
            let create = GroupCreate { title: title.clone(), is_open: *open, members, owner };
            done(global, group, &ask(group, Act::Create(create))?)
        }
        Command::Add { group, accounts } => done(global, group, &ask(group, Act::Add(names(accounts)))?),
        Command::Remove { group, accounts } => {
            done(global, group, &ask(group, Act::Remove(names(accounts)))?)
        }
        Command::Role { group, account, role } => {
            let role = match role.as_str() {
                "owner" => GroupRole::Owner,
                "admin" => GroupRole::Admin,
                _ => GroupRole::Member,
            };
            let member = GroupMember { account: account.clone(), role: role.into() };
            done(global, group, &ask(group, Act::Role(member))?)
        }
        Command::Dissolve { group } => done(global, group, &ask(group, Act::Dissolve(GroupNothing {}))?),
        Command::Members { group } => {
            let mut after = String::new();
            loop {
                let answer = ask(group, Act::Members(GroupPage { after: after.clone() }))?;
                for member in &answer.members {
                    let role = word(member.role());
                    let object = json!({ "account": member.account, "role": role });
                    output::line(global, &format!("{} {role}", member.account), &object)?;
                }
                match answer.members.last().filter(|_| answer.more) {
                    Some(last) => after.clone_from(&last.account),
                    None => return Ok(()),
                }
            }
        }
        Command::List { account } => {
            let mut after = String::new();
            loop {
                let act = Act::List(GroupPage { after: after.clone() });
                let answer = router.group(&global.app, Some(account), "", act)?;
                for group in &answer.groups {
                    let role = word(group.role());
                    let object = json!({
                        "group": group.group, "role": role, "priority": group.priority, "muted": group.is_muted,
                    });
                    output::line(global, &format!("{} {role}", group.group), &object)?;
                }
                match answer.groups.last().filter(|_| answer.more) {
                    Some(last) => after.clone_from(&last.group),
                    None => return Ok(()),
                }
            }
        }
        Command::Send { group, from, labels, text } => {
            let request = Request::send_group(&global.app, from, group, None, text.as_bytes())?;
            let sent = router.call(labels.put(request)?)?.into_sent()?;
            let object = json!({ "event": "accepted", "to": group, "sync_id": sent.sync_id });
            output::line(global, &format!("accepted as #{} of {group}", sent.sync_id), &object)
        }
    }
}

fn done(global: &Global, group: &str, answer: &GroupAnswer) -> Result<(), Failure> {
    let line = format!("{group} is at #{}", answer.sync_id);
    output::line(global, &line, &json!({ "group": group, "sync_id": answer.sync_id }))
}

/// Shows a part of a timeline, page by page.
pub fn history(history: &History, global: &Global) -> Result<(), Failure> {
    let mut router = service::router(global)?;
    let (mut after, mut left) = (history.after, history.limit);
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(u32::MAX);
        let pulled = if history.group {
            router.group_history(&global.app, &history.name, after, limit)?
        } else {
            router.history(&global.app, &history.name, after, limit)?
        };
        for message in &pulled.messages {
            let content = said(&message.payload, message.is_event);
            let text = output::payload(&content);
            let group =
                if message.group.is_empty() { String::new() } else { format!(" in {}", message.group) };
            let (time, said) =
                (output::time(message.sent_at_ms), output::said(&message.from, &text, message.is_event));
            let line = format!("{time} #{}{group} {said}", message.sync_id);
            let object = json!({
                "sync_id": message.sync_id, "from": message.from, "group": message.group,
                "sent_at_ms": message.sent_at_ms, "is_event": message.is_event,
            });
            output::line(global, &line, &output::message(object, &message.client_id, &content))?;
        }
        left = left.saturating_sub(pulled.messages.len() as u64);
        if pulled.through >= pulled.head || pulled.through <= after {
            break;
        }
        after = pulled.through;
    }
    Ok(())
}
