//! `push`, `who`, `kick`, `stats`: what a backend service does, through the router.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Global, output};
use moor_router_client::blocking::Router;
use moor_router_client::{Code, Config, Error, Tls};

#[derive(Debug, Args)]
pub struct Push {
    /// Account whose sessions get it.
    #[arg(long, required_unless_present_any = ["session", "all"])]
    to: Option<String>,
    /// Every session of the app on one gateway, through its internal port.
    #[arg(long, conflicts_with_all = ["to", "session"])]
    all: bool,
    /// One session (its number, as `listen` prints it), through a gateway's internal port.
    #[arg(long, conflicts_with = "to")]
    session: Option<u64>,
    /// Who it is said to come from.
    #[arg(long, default_value = "moor")]
    from: String,
    /// What to say.
    text: String,
}

#[derive(Debug, Args)]
pub struct Who {
    /// The account.
    account: String,
}

#[derive(Debug, Args)]
pub struct Kick {
    /// The account.
    account: String,
    /// Only this device.
    #[arg(long)]
    device: Option<String>,
    /// Told to the client.
    #[arg(long, default_value = "closed by an operator")]
    reason: String,
}

#[derive(Debug, Args)]
pub struct Degrade {
    /// 2: level 2 off; 1: levels 1 and 2 off; off: all levels are taken again.
    #[arg(value_parser = ["2", "1", "off"])]
    level: String,
}

/// Switches business levels off and on.
pub fn degrade(degrade: &Degrade, global: &Global) -> Result<(), Failure> {
    let from_level = degrade.level.parse().ok();
    let degraded = router(global)?.degrade(from_level);
    let is_forgotten = matches!(degraded, Err(Error::Refused { code: Code::Storage, .. }));
    if !is_forgotten {
        degraded?;
    }
    let line = match from_level {
        Some(level) => format!("messages of level {level} and above are refused from now on"),
        None => "messages of all levels are taken".to_owned(),
    };
    output::line(global, &line, &json!({ "refused_from_level": from_level }))?;
    if is_forgotten {
        return Err("that could not be written: it holds until the router restarts".into());
    }
    Ok(())
}

pub(super) fn router(global: &Global) -> Result<Router, Failure> {
    connect(&global.router, "--router", "moor-router", global, global.tls.router()?)
}

fn gateway(global: &Global) -> Result<Router, Failure> {
    connect(&global.internal, "--internal", "moor-gateway", global, global.tls.internal()?)
}

/// `flag` names the address, `program` is what would listen there.
fn connect(
    address: &str,
    flag: &str,
    program: &str,
    global: &Global,
    tls: Option<Tls>,
) -> Result<Router, Failure> {
    let token = global.token.as_deref().map(str::as_bytes);
    let config = Config { node: "moor".to_owned(), tls, ..Config::new(token) };
    Router::connect_with(address, config).map_err(|error| match error {
        Error::NobodyListens { address } => format!(
            "nothing listens at {address}: start it with `cargo run --release` or `{program}`, or name another with \
             {flag}"
        )
        .into(),
        error => error.into(),
    })
}

/// Pushes a transient message.
pub fn push(push: &Push, global: &Global) -> Result<(), Failure> {
    let (from, text) = (&push.from, push.text.as_bytes());
    let reached = match (push.session, &push.to) {
        (Some(session), _) => gateway(global)?.push(session, from, text)?,
        (None, Some(to)) => router(global)?.push_account(&global.app, to, from, text)?,
        (None, None) if push.all => gateway(global)?.broadcast(&global.app, from, text)?,
        (None, None) => return Err("say --to ACCOUNT, --session NUMBER or --all".into()),
    };
    output::line(global, &format!("reached {reached} session(s)"), &json!({ "reached": reached }))?;
    if reached == 0 {
        Err("nobody is logged in to push to; `moor send` keeps a message until somebody is".into())
    } else {
        Ok(())
    }
}

/// Shows where an account is.
pub fn who(who: &Who, global: &Global) -> Result<(), Failure> {
    let found = router(global)?.lookup(&global.app, &who.account)?;
    if global.json {
        let sessions: Vec<Value> = found
            .sessions
            .iter()
            .map(|s| {
                json!({
                    "device": s.device, "gateway": s.gateway, "worker": s.worker, "session": output::session(s.session),
                    "internal": s.internal_address, "acked": s.acked,
                })
            })
            .collect();
        let object = json!({
            "app": global.app, "account": who.account, "head": found.head, "floor": found.floor,
            "sessions": sessions, "complete": found.code() != Code::Limit,
        });
        return output::line(global, "", &object);
    }
    let account = &who.account;
    let waiting = match (found.floor, found.head) {
        (_, 0) => "no messages stored".to_owned(),
        (floor, head) => format!("messages #{floor} to #{head} stored"),
    };
    let sessions = found.sessions.len();
    let more = if found.code() == Code::Limit { " and more" } else { "" };
    output::line(
        global,
        &format!("{account} of {}: {sessions} session(s){more}, {waiting}", global.app),
        &Value::Null,
    )?;
    for s in &found.sessions {
        let line = format!(
            "  device {}  gateway {}  worker {}  acknowledged #{}  session {}",
            s.device, s.gateway, s.worker, s.acked, s.session
        );
        output::line(global, &line, &Value::Null)?;
    }
    Ok(())
}

/// Closes an account's sessions.
pub fn kick(kick: &Kick, global: &Global) -> Result<(), Failure> {
    let reached = router(global)?.kick(&global.app, &kick.account, kick.device.as_deref(), &kick.reason)?;
    output::line(global, &format!("closed {reached} session(s)"), &json!({ "closed": reached }))?;
    if reached == 0 { Err(format!("{} is not logged in", kick.account).into()) } else { Ok(()) }
}

/// Shows counters: the router's, and the gateway's when its admin port answers. Those of the one are worth most when the
/// other is away.
pub fn stats(global: &Global) -> Result<(), Failure> {
    let router = router(global).and_then(|mut router| Ok(router.stats()?));
    let gateway = super::http::get_json(&global.admin, "/v1/stats");
    if global.json {
        let error = |error: &Failure| json!({ "error": error.to_string() });
        let counters = |stats: &Vec<(String, u64)>| stats.iter().cloned().collect::<BTreeMap<_, _>>();
        let object = json!({
            "router": router.as_ref().map_or_else(error, |stats| json!(counters(stats))),
            "gateway": gateway.unwrap_or_else(|why| error(&why)),
        });
        output::line(global, "", &object)?;
        return router.map(drop);
    }
    if let Ok(stats) = &router {
        output::line(global, &format!("router {}", global.router), &Value::Null)?;
        for (name, value) in stats {
            output::line(global, &format!("  {name:<44} {value:>14}"), &Value::Null)?;
        }
    }
    match gateway {
        Ok(stats) => {
            output::line(global, &format!("gateway {}", global.admin), &Value::Null)?;
            for (name, value) in stats["gateway"].as_object().into_iter().flatten() {
                output::line(global, &format!("  {name:<44} {value:>14}"), &Value::Null)?;
            }
        }
        Err(error) => output::line(global, &format!("gateway {}: {error}", global.admin), &Value::Null)?,
    }
    router.map(drop)
}
