//! The command line: what it asks for, and in which order the sources of a setting override each other.
//!
//! Flags are made from the table of keys; only what is no setting (`--config`, `--check`, `--print-config`)
//! is written down here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser};

use super::value::{RouterChoice, Secret, Setting, Shape};
use super::{Config, ConfigError, KEYS, Key, file, print, validate};

/// Variable with the token of the internal and router ports.
const TOKEN_VARIABLE: &str = "MOOR_INTERNAL_TOKEN";

const AFTER_HELP: &str = "Examples:
  moor-gateway                                      all in one on this host, nothing to configure
  moor-gateway --listen 0.0.0.0:7100 --credentials-file c.toml    clients from everywhere, with tokens
  moor-gateway --router router-1:7300 --internal 10.0.0.7:7200 --config /etc/moor/gateway.toml
  moor-gateway --config gateway.toml --check        is it right, and what would run?
  moor-gateway --print-config > gateway.toml        a file with every setting explained

A setting comes from its flag, else from the file, else it has its default.
Signals: SIGTERM or SIGINT drains, a second one stops at once, SIGHUP reads log level, certificates and credentials again.
Exit codes: 0 drained, 1 stopped in another way, 2 could not start (one sentence says why).";

/// The connection gateway: clients keep one long connection here, with many logged-in accounts on it.
///
/// Without any flag it serves this host alone: clients on 127.0.0.1:7100, backend services on 7200, a router
/// of its own on 7300, health and metrics on http://127.0.0.1:7400/, messages under ./moor-data.
#[derive(Parser, Debug)]
#[command(name = "moor-gateway", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Actions {
    /// Read settings from a TOML file
    ///
    /// Flags override it. An unknown key is an error.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, say what would run, and end
    ///
    /// Exit code 0 when it can be used, 2 when not. Opens no port and writes nothing.
    #[arg(long)]
    check: bool,
    /// Print the configuration in force as a TOML file with every setting explained, and end
    #[arg(long)]
    print_config: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Start with this configuration, which has been validated.
    Run(Box<Config>),
    /// Print this on standard output and end with code 0.
    Print(String),
}

/// Reads the command line, the file it names and the token's variable, and validates the result.
///
/// # Errors
/// [`ConfigError`]; its `CommandLine` variant includes `--help` and `--version`, which clap prints.
pub fn request<I, T>(arguments: I) -> Result<Request, ConfigError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    request_with(arguments, std::env::var(TOKEN_VARIABLE).ok())
}

fn request_with<I, T>(arguments: I, token: Option<String>) -> Result<Request, ConfigError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    let actions = Actions::from_arg_matches(&matches)?;
    let mut config = Config::default();
    if let Some(path) = &actions.config {
        file::apply(&mut config, path)?;
    }
    if let Some(token) = token {
        let token = Secret::parse(&token).map_err(|what| wrong(TOKEN_VARIABLE, &what))?;
        config.internal_token = Some(token);
        // It overrides the file, whichever way the token stands there.
        config.internal_token_file = None;
    }
    apply_flags(&mut config, &matches)?;
    if let Some(path) = config.internal_token_file.clone() {
        config.internal_token = Some(read_token(&path)?);
    }
    validate(&config)?;
    Ok(match (actions.print_config, actions.check) {
        (true, _) => Request::Print(print::to_toml(&config)),
        (false, true) => {
            check_files(&config)?;
            Request::Print(print::summary(&config))
        }
        (false, false) => Request::Run(Box::new(config)),
    })
}

/// Whether the files that a start would read can be used.
fn check_files(config: &Config) -> Result<(), ConfigError> {
    let wrong = |error: &dyn std::fmt::Display| ConfigError::Wrong(error.to_string());
    crate::tls_files::load(&config.tls).map_err(|error| wrong(&error))?;
    crate::tls_files::internal(config).map_err(|error| wrong(&error))?;
    crate::tls_files::router(config).map_err(|error| wrong(&error))?;
    crate::credential_files::load(&config.credentials).map(drop).map_err(|error| wrong(&error))?;
    if config.router != RouterChoice::Embedded {
        return Ok(());
    }
    if let Some(path) = &config.embedded.apps {
        moor_router::Apps::read(path).map(drop).map_err(|error| wrong(&error))?;
    }
    if let Some(path) = &config.embedded.hooks {
        let telling = moor_router::Telling::read(path).map_err(|error| wrong(&error))?;
        let router = moor_router::RouterConfig { telling, ..moor_router::RouterConfig::default() };
        router.check_files().map_err(|error| wrong(&error))?;
    }
    Ok(())
}

fn wrong(name: &str, what: &str) -> ConfigError {
    ConfigError::Wrong(format!("{name}: {what}"))
}

fn apply_flags(config: &mut Config, matches: &ArgMatches) -> Result<(), ConfigError> {
    for key in KEYS.iter().filter(|key| !key.flag.is_empty()) {
        if let Some(text) = matches.get_one::<String>(key.path) {
            (key.set)(config, text).map_err(|what| wrong(&format!("--{}", key.flag), &what))?;
        }
    }
    Ok(())
}

fn read_token(path: &Path) -> Result<Secret, ConfigError> {
    let text = moor_credentials::read_secret(path, "the internal token")
        .map_err(|error| ConfigError::Wrong(format!("internal_token_file: {error}")))?;
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap_or_default().trim();
    Secret::parse(first).map_err(|_| {
        ConfigError::Wrong(format!("{}: the first line is empty and should be the token", path.display()))
    })
}

fn command() -> clap::Command {
    Actions::command().args(KEYS.iter().filter(|key| !key.flag.is_empty()).map(argument))
}

fn argument(key: &'static Key) -> Arg {
    let default = (key.get)(&Config::default()).map(|value| value.trim_matches('"').to_owned());
    let shown = match default.as_deref() {
        None => String::new(),
        Some("[]") => " [default: none]".to_owned(),
        Some(default) => format!(" [default: {default}]"),
    };
    let argument = Arg::new(key.path)
        .long(key.flag)
        .value_name(key.value_name)
        .help_heading(heading(key))
        .help(format!("{}{shown}", key.said))
        .long_help(format!("{}.\n{}\n{}", key.said, key.means, shown.trim()));
    if key.shape == Shape::Switch {
        return argument.num_args(0..=1).default_missing_value("true");
    }
    argument
}

fn heading(key: &Key) -> &'static str {
    match key.path.split_once('.').map(|(table, _)| table) {
        Some("credentials") => "Credentials",
        Some("tls") => "TLS of clients",
        Some("internal_tls") => "TLS of services",
        Some("router_tls") => "TLS with the router",
        Some("websocket") => "WebSocket",
        Some("heartbeat") => "Heartbeat",
        Some("hot") => "Hot connections",
        Some("register") => "Registration with the router",
        Some("rooms") => "Rooms",
        Some("limits") => "Limits",
        Some("memory") => "Memory",
        Some("proxy") => "Load balancers",
        Some("drain") => "Drain",
        Some("embedded") => "Embedded router",
        Some("log") => "Log",
        _ => "Settings",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn run(arguments: &[&str]) -> Result<Config, String> {
        let line = std::iter::once("moor-gateway").chain(arguments.iter().copied());
        match request_with(line, None).map_err(|error| error.to_string())? {
            Request::Run(config) => Ok(*config),
            Request::Print(text) => Err(text),
        }
    }

    #[test]
    fn clap_accepts_the_command() {
        command().debug_assert();
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(run(&[]).unwrap(), Config::default());
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moor.toml");
        std::fs::write(&path, "workers = 3\npin = false\n[drain]\ndeadline_ms = 4000\n").unwrap();
        let file = path.to_str().unwrap();
        let config = run(&["--config", file, "--drain-deadline-ms", "7_000", "--pin"]).unwrap();
        assert_eq!(config.workers(), 3);
        assert_eq!(config.drain.deadline_ms, 7000);
        assert!(config.pin);
        assert!(!run(&["--config", file, "--listen", "127.0.0.1:0"]).unwrap().pin);
    }

    #[test]
    fn a_wrong_flag_names_itself() {
        assert_eq!(
            run(&["--workers", "many"]).unwrap_err(),
            "--workers: \"many\" is not a whole number between 0 and 4294967295"
        );
        assert!(run(&["--lsten", "x"]).unwrap_err().contains("--listen"));
    }

    #[test]
    fn the_token_comes_from_variable_or_file_and_is_never_printed() {
        let open = ["moor-gateway", "--internal", "0.0.0.0:7200", "--internal-advertise", "edge:7200"];
        let token = || Some("0123456789abcdef".to_owned());
        assert!(matches!(request_with(open, token()), Ok(Request::Run(_))));
        let Ok(Request::Print(text)) = request_with(["moor-gateway", "--print-config"], token()) else {
            panic!("expected a print-out");
        };
        assert!(!text.contains("0123456789abcdef"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "fedcba9876543210\nnot this\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(run(&["--internal-token-file", path.to_str().unwrap()]).unwrap_err().contains("chmod 600"));
        mode(0o600);
        let config = run(&["--internal-token-file", path.to_str().unwrap()]).unwrap();
        assert_eq!(config.token(), b"fedcba9876543210");
        assert!(!format!("{config:?}").contains("fedcba"));
        // The variable overrides the file, the flag overrides the variable.
        let toml = folder.path().join("moor.toml");
        std::fs::write(&toml, format!("internal_token_file = {:?}", path.to_str().unwrap())).unwrap();
        let config = ["moor-gateway", "--config", toml.to_str().unwrap()];
        let flag = ["--internal-token-file", path.to_str().unwrap()];
        for (line, expected) in [
            (&config[..], &b"0123456789abcdef"[..]),
            (&[&config[..], &flag].concat()[..], b"fedcba9876543210"),
        ] {
            let Ok(Request::Run(config)) = request_with(line, token()) else { panic!("a start") };
            assert_eq!(config.token(), expected);
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(run(&["--internal-token-file", path.to_str().unwrap()]).unwrap_err().contains("first line"));
    }

    #[test]
    fn each_table_has_a_heading_of_its_own_in_the_help() {
        let table = |key: &Key| key.path.split_once('.').map(|(table, _)| table);
        for (index, key) in KEYS.iter().enumerate() {
            for other in &KEYS[..index] {
                assert_eq!(
                    table(key) == table(other),
                    heading(key) == heading(other),
                    "{} and {}",
                    key.path,
                    other.path
                );
            }
        }
    }

    #[test]
    fn a_check_reads_the_files_that_a_start_would_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("apps.toml");
        std::fs::write(&path, "[apps.shop]\nno_such_key = 1\n").unwrap();
        let path = path.to_str().unwrap();
        for flag in ["--embedded-apps", "--embedded-hooks"] {
            let said = run(&["--check", flag, path]).unwrap_err();
            assert!(said.contains(path), "{flag}: {said}");
            let said = run(&["--check", flag, path, "--router", "router-1:7300"]).unwrap_err();
            assert!(said.starts_with("The configuration is valid"), "not used, so not read: {said}");
        }
    }

    #[test]
    fn help_says_every_setting_with_its_meaning() {
        let help = command().render_long_help().to_string();
        // Wrapping and indentation apart.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let help = words(&help);
        for key in KEYS.iter().filter(|key| !key.flag.is_empty()) {
            assert!(help.contains(&format!("--{}", key.flag)), "{}", key.flag);
            assert!(help.contains(&words(key.means)), "{}", key.means);
        }
    }
}
