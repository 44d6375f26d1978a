//! The configuration in words: the annotated file, the summary of `--check`, the manual's table.

use std::fmt::Write as _;

use super::{Config, KEYS, RouterChoice, descriptors_raise, warnings};

/// Width of comment lines.
const COLUMNS: usize = 98;

/// The configuration in force as a TOML file in which every setting is explained. Reading it back gives the
/// same configuration, except for the token, which is left out.
#[must_use]
pub fn to_toml(config: &Config) -> String {
    let mut text = String::from("# Settings of moor-gateway, as in force. Any of them may be left out.\n");
    let mut table = "";
    for key in KEYS {
        let (its_table, name) = key.path.split_once('.').unwrap_or(("", key.path));
        text.push('\n');
        if its_table != table {
            append(&mut text, format_args!("[{its_table}]\n"));
            table = its_table;
        }
        for line in wrap(&format!("{}. {}", key.said, key.means), COLUMNS - 2) {
            append(&mut text, format_args!("# {line}\n"));
        }
        match (key.get)(config) {
            Some(value) => append(&mut text, format_args!("{name} = {value}\n")),
            None => append(&mut text, format_args!("# {name} =\n")),
        }
    }
    text
}

/// What would run with this configuration.
#[must_use]
pub fn summary(config: &Config) -> String {
    let workers = config.workers();
    let each = config.connections_per_worker(descriptors_raise());
    let router = match &config.router {
        RouterChoice::Embedded => format!(
            "embedded on {}, data in {}, fsync {}, {} messages per account",
            config.router_listen,
            config.data.display(),
            config.embedded.fsync.word(),
            config.embedded.retention_messages_per_account
        ),
        RouterChoice::Address(address) => address.clone(),
    };
    let (internal, token) = (&config.internal_tls, config.internal_token.is_some());
    let asks = match (internal.certificate.is_some(), internal.authorities.0.is_empty(), token) {
        (_, false, _) => "TLS, certificate required",
        (true, true, true) => "TLS, token required",
        (true, true, false) => "TLS, no token",
        (false, true, true) => "token required",
        (false, true, false) => "no token",
    };
    let lines = [
        ("node", config.node()),
        ("clients", config.listen.to_string()),
        ("internal", format!("{} ({asks})", config.internal)),
        ("router", if config.router_tls.authorities.0.is_empty() { router } else { router + ", TLS" }),
        ("admin", format!("http://{}/", config.admin)),
        ("workers", format!("{workers}{}", if config.pin { ", one core each" } else { "" })),
        ("connections", format!("{} ({each} per worker)", u64::from(workers) * u64::from(each))),
        ("heartbeat", format!("{} s", config.heartbeat.interval_ms / 1000)),
        ("drain", format!("within {} ms", config.drain.deadline_ms)),
    ];
    let mut text = String::from("The configuration is valid. This would run:\n");
    for (name, value) in lines {
        append(&mut text, format_args!("  {name:<12} {value}\n"));
    }
    for warning in warnings(config) {
        append(&mut text, format_args!("warning: {warning}\n"));
    }
    text
}

/// The table of settings in docs/operating.md.
#[must_use]
pub fn keys_markdown() -> String {
    let defaults = Config::default();
    let mut text = String::from("| key | flag | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let flag = if key.flag.is_empty() { String::new() } else { format!("`--{}`", key.flag) };
        let default = (key.get)(&defaults).map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
        let meaning = format!("{}. {}", key.said, key.means).replace('|', "\\|");
        append(&mut text, format_args!("| `{}` | {flag} | {default} | {meaning} |\n", key.path));
    }
    text
}

fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    text.write_fmt(arguments).unwrap_or_default();
}

fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines.last().is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > columns);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;
    use moor_websocket::upgrade::Origins;
    use std::path::Path;

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let mut config = Config::default();
        config.node = Some("edge \"7\"".to_owned());
        config.workers = crate::config::Auto::Set(6);
        config.router = RouterChoice::Address("router-1:7300".to_owned());
        config.log.level = "info,moor_gateway=debug".to_owned();
        config.drain.retry_max_ms = crate::config::Auto::Set(9000);
        config.router_tls.names.0 = vec!["edge-1".into(), "edge \"2\"".into()];
        config.internal_tls.authorities.0 = vec!["ca.pem".into()];
        config.tls.keys.0 = vec!["a.key".into(), "b \"2\".key".into()];
        config.websocket.origins =
            Origins::Listed(vec!["https://a.example".into(), "https://b.example:8443".into()]);
        let mut back = Config::default();
        file::apply_text(&mut back, Path::new("printed.toml"), &to_toml(&config)).unwrap();
        assert_eq!(back, config);
    }

    #[test]
    fn the_summary_says_what_would_run() {
        let config = Config { workers: crate::config::Auto::Set(3), ..Config::default() };
        let text = summary(&config);
        assert!(text.contains("clients      127.0.0.1:7100\n"), "{text}");
        assert!(text.contains("workers      3, one core each\n"), "{text}");
        assert!(text.contains("embedded on 127.0.0.1:7300, data in ./moor-data"), "{text}");
    }

    #[test]
    fn comments_are_wrapped_at_words() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("abcdefgh i", 4), ["abcdefgh", "i"]);
    }
}
