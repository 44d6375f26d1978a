//! Arguments of `moor`, and which command does what.

mod group;
mod http;
mod labels;
mod output;
mod room;
mod service;
mod session;
mod target;
mod tls;
mod token;

use clap::{Args, Parser, Subcommand};

/// Anything a person should read: one sentence that says what to do.
pub type Failure = Box<dyn std::error::Error>;

const EXAMPLES: &str = "\
Examples (with the appliance running: cargo run --release):
  moor listen --account alice                 wait for alice's messages, go on where she left off
  moor send --from bob --to alice \"hi\"        a reliable message; says when the router has it
  echo hello | moor send --from bob --to alice -
  moor push --to alice \"look up\"              transient, to every session of alice right now
  moor who alice                              where she is
  moor group create friends --owner alice bob carol
  moor send --from bob --group friends \"hi all\"
  moor room enter live --account alice        what is said in the room, until Ctrl-C
  moor room publish live hi --type 1          a reliable message to everybody in it
  moor send --from bob --room live --level 2 \"hi\"
                                              as a client, and the first to be refused when it gets too much
  moor stats --json | jq .router
  moor listen --account alice --target edge.example.net:7100 --tls
                                              encrypted, if edge.example.net shows a certificate this host trusts
  moor listen --account alice --target tls://127.0.0.1:7100 --ca edge.pem --server-name edge.example.net
                                              likewise, by a certificate of your own and for the name in it

With --json failures, wrong usage included, are objects too, on standard error.
Exit codes: 0 done, 1 it could not be done, 2 wrong usage.";

/// Talk to a Moor gateway and its router.
///
/// `listen` and `send` are clients like any app: they log in at a gateway. `push`, `who`, `kick`, `group`,
/// `history` and `stats` are what a backend service does: they speak to the router.
#[derive(Debug, Parser)]
#[command(name = "moor", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Where things are, and how to answer.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    #[command(flatten)]
    target: target::Target,
    /// The router.
    #[arg(
        long,
        global = true,
        env = "MOOR_ROUTER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7300",
        value_parser = target::address
    )]
    router: String,
    /// A gateway's internal port, for `push --session` and `push --all`.
    #[arg(
        long,
        global = true,
        env = "MOOR_INTERNAL",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7200",
        value_parser = target::address
    )]
    internal: String,
    /// A gateway's admin port, for `stats`.
    #[arg(
        long,
        global = true,
        env = "MOOR_ADMIN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7400",
        value_parser = target::address
    )]
    admin: String,
    #[command(flatten)]
    tls: tls::Tls,
    /// Secret of the internal and router ports.
    #[arg(long, global = true, env = "MOOR_INTERNAL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the credential that `listen` and `send` log in with; `-`: standard input. See `moor token`.
    #[arg(long, global = true, env = "MOOR_CREDENTIAL_FILE", value_name = "FILE")]
    credential_file: Option<std::path::PathBuf>,
    /// The app whose accounts are meant.
    #[arg(long, global = true, default_value = "shop")]
    app: String,
    /// One JSON object a line instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log an account in and print what it receives.
    Listen(session::Listen),
    /// Send a reliable message, or say something in a room, and wait until the router has it.
    Send(session::Send),
    /// Mark a conversation as read, on all devices of an account.
    Read(session::Read),
    /// Push a transient message to every session of an account, to one session, or to everybody on a gateway.
    Push(service::Push),
    /// Show where an account is logged in.
    Who(service::Who),
    /// Close an account's sessions.
    Kick(service::Kick),
    /// Make a group, change it, look at it, send to it.
    Group(group::Group),
    /// Show messages of an account's or a group's timeline.
    History(group::History),
    /// Refuse messages of lower business levels, so that the core keeps its promise.
    Degrade(service::Degrade),
    /// Rooms: enter one, say something in one, count who is in one.
    #[command(subcommand)]
    Room(room::Room),
    /// Show the router's and the gateway's counters.
    Stats,
    /// Make a credential with an app's signing key (docs/credentials.md).
    Token(token::Token),
}

impl Arguments {
    /// Whether a program reads the answers.
    pub const fn is_for_machines(&self) -> bool {
        self.global.json
    }
}

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Listen(listen) => on_tokio(session::listen(listen, global)),
        Command::Send(send) => on_tokio(session::send(send, global)),
        Command::Read(read) => on_tokio(session::read(read, global)),
        Command::Push(push) => service::push(push, global),
        Command::Who(who) => service::who(who, global),
        Command::Kick(kick) => service::kick(kick, global),
        Command::Group(group) => group::group(group, global),
        Command::History(history) => group::history(history, global),
        Command::Degrade(degrade) => service::degrade(degrade, global),
        Command::Room(room::Room::Enter(enter)) => on_tokio(room::enter(enter, global)),
        Command::Room(room::Room::Publish(publish)) => room::publish(publish, global),
        Command::Room(room::Room::Stats(stats)) => room::stats(stats, global),
        Command::Stats => service::stats(global),
        Command::Token(token) => token::token(token, global),
    }
}

/// Whether whoever reads the answers has had enough, as `head` does.
pub fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn on_tokio(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn check(command: &clap::Command) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} says what it does");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} says what it is", argument.get_id());
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn an_address_has_a_port() {
        let parse = |words: &[&str]| Arguments::try_parse_from(std::iter::once(&"moor").chain(words));
        for address in ["127.0.0.1:7100", "[::1]:7100", "edge.example:7100", "tls://edge.example:7100,b:1"] {
            assert!(parse(&["--target", address, "stats"]).is_ok(), "{address}");
        }
        for address in
            ["127.0.0.1", "edge.example", "edge.example:", ":7100", "tls://edge.example", "a:1,b", "a:70000"]
        {
            let refusal = parse(&["--target", address, "stats"]).unwrap_err().to_string();
            assert!(refusal.contains("say HOST:PORT"), "{refusal}");
        }
        for flag in ["--router", "--internal", "--admin"] {
            for address in ["here", "tls://here"] {
                assert!(parse(&[flag, address, "stats"]).is_err(), "{flag} {address}");
            }
        }
    }

    #[test]
    fn what_a_command_takes_stands_apart_from_what_all_take() {
        let mut command = Arguments::command();
        command.build();
        let listen = command.find_subcommand("listen").unwrap();
        let heading = |name: &str| {
            let mut arguments = listen.get_arguments();
            arguments.find(|argument| argument.get_id() == name).unwrap().get_help_heading()
        };
        assert_eq!(heading("account"), None);
        for everywhere in ["target", "router", "router_ca", "token", "json"] {
            assert_eq!(heading(everywhere), Some("Options of every command"), "{everywhere}");
        }
    }

    #[test]
    fn every_command_and_every_argument_has_help() {
        let mut command = Arguments::command();
        command.build();
        check(&command);
    }
}
