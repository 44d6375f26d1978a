//! What standard output says when everything listens.

use std::net::SocketAddr;

use serde_json::json;

use crate::config::{Announce, Config, RouterChoice};

/// Addresses as bound: ports 0 have become real ones.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Clients connect here.
    pub clients: SocketAddr,
    /// Services connect here.
    pub internal: SocketAddr,
    /// The embedded router, when there is one.
    pub router: Option<SocketAddr>,
    /// Admin HTTP.
    pub admin: SocketAddr,
}

/// The text for standard output that `config.announce` asks for, ready to print.
#[must_use]
pub fn banner(config: &Config, listening: &Listening) -> String {
    match config.announce {
        Announce::Json => announcement(listening),
        // Where cargo started it, cargo starts the tool too.
        Announce::Banner => welcome(config, listening, std::env::var_os("CARGO").is_some()),
    }
}

fn announcement(listening: &Listening) -> String {
    let mut addresses = json!({
        "clients": listening.clients,
        "internal": listening.internal,
        "admin": listening.admin,
    });
    if let (Some(router), Some(addresses)) = (listening.router, addresses.as_object_mut()) {
        addresses.insert("router".to_owned(), json!(router));
    }
    format!("{}\n", json!({ "listening": addresses }))
}

fn welcome(config: &Config, listening: &Listening, by_cargo: bool) -> String {
    let defaults = Config::default();
    let router = match (&config.router, listening.router) {
        (RouterChoice::Address(address), _) => format!("{address} (not in this process)"),
        (RouterChoice::Embedded, Some(bound)) => {
            format!("{bound} (in this process, data in {})", config.data.display())
        }
        (RouterChoice::Embedded, None) => "in this process".to_owned(),
    };
    // The tools know the default ports.
    let gateway = if listening.clients == defaults.listen {
        String::new()
    } else {
        format!(" --target {}", listening.clients)
    };
    let moor = if by_cargo { "cargo run --release -p moor-client --bin moor --" } else { "moor" };
    let anybody = match &config.credentials {
        credentials if credentials.anonymous => {
            "\nNOBODY IS ASKED WHO THEY ARE (credentials.anonymous): whoever reaches the clients' port can be anybody.\n"
        }
        credentials if credentials.file.is_none() => {
            "\nNobody is asked who they are: fine on this host alone. docs/credentials.md says how to ask.\n"
        }
        _ => "",
    };
    format!(
        "moor-gateway {version}, node {node}, {workers} worker{s}
  clients   {clients}
  internal  {internal}
  router    {router}
  admin     http://{admin}/
{anybody}
Try, each in a terminal of its own:
  {moor} listen{gateway} --app shop --account alice
  {moor} send{gateway} --app shop --from bob --to alice \"hi\"
  curl http://{admin}/v1/stats

Ctrl-C drains and ends.
",
        version = env!("CARGO_PKG_VERSION"),
        node = config.node(),
        workers = config.workers(),
        s = if config.workers() == 1 { "" } else { "s" },
        clients = listening.clients,
        internal = listening.internal,
        admin = listening.admin,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(clients: &str) -> Listening {
        Listening {
            clients: clients.parse().unwrap(),
            internal: "127.0.0.1:7200".parse().unwrap(),
            router: Some("127.0.0.1:7300".parse().unwrap()),
            admin: "127.0.0.1:7400".parse().unwrap(),
        }
    }

    #[test]
    fn people_read_where_and_what_next() {
        let text = welcome(&Config::default(), &listening("127.0.0.1:7100"), false);
        assert!(text.contains("clients   127.0.0.1:7100\n"), "{text}");
        assert!(text.contains("127.0.0.1:7300 (in this process, data in ./moor-data)"), "{text}");
        assert!(text.contains("\n  moor listen --app shop --account alice\n"), "{text}");
        let by_cargo = welcome(&Config::default(), &listening("127.0.0.1:7100"), true);
        assert!(by_cargo.contains("--bin moor -- listen --app shop --account alice\n"), "{by_cargo}");
        assert!(text.contains("Nobody is asked who they are"), "{text}");
        let mut config = Config::default();
        config.credentials.file = Some("credentials.toml".into());
        assert!(!banner(&config, &listening("127.0.0.1:7100")).contains("asked"));
        config.credentials.anonymous = true;
        assert!(banner(&config, &listening("127.0.0.1:7100")).contains("NOBODY IS ASKED"));
        let elsewhere = banner(&Config::default(), &listening("127.0.0.1:40001"));
        assert!(elsewhere.contains("listen --target 127.0.0.1:40001 --app"), "{elsewhere}");
    }

    #[test]
    fn programs_read_one_line() {
        let config = Config { announce: Announce::Json, ..Config::default() };
        let line = banner(&config, &listening("127.0.0.1:40001"));
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["listening"]["clients"], "127.0.0.1:40001");
        assert_eq!(value["listening"]["router"], "127.0.0.1:7300");
        let without = Listening { router: None, ..listening("127.0.0.1:1") };
        assert!(!banner(&config, &without).contains("router"));
    }
}
