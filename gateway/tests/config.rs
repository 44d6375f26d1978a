//! The binary's command line, as an operator and a script meet it; and the manual, which must agree with it.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moor-gateway"))
        .args(arguments)
        .env_remove("MOOR_INTERNAL_TOKEN")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn check_says_what_would_run() {
    let output = gateway(&[
        "--check",
        "--workers",
        "3",
        "--listen",
        "0.0.0.0:9100",
        "--credentials-anonymous",
        "true",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.starts_with("The configuration is valid."), "{text}");
    assert!(text.contains("0.0.0.0:9100") && text.contains("workers      3"), "{text}");
}

#[test]
fn a_wrong_file_is_one_sentence_and_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:0\"\n[drain]\ndedline_ms = 1\n").unwrap();
    for more in [&["--check"][..], &[]] {
        let output = gateway(&[&["--config", path.to_str().unwrap()], more].concat());
        assert_eq!(output.status.code(), Some(2));
        let expected = format!(
            "moor-gateway: {}:3: `drain.dedline_ms` is not a setting; did you mean `drain.deadline_ms`?\n",
            path.display()
        );
        assert_eq!(stderr(&output), expected);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_open_port_without_a_token_is_refused() {
    let output = gateway(&["--internal", "10.0.0.7:7200"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("internal_token_file"), "{}", stderr(&output));
}

#[test]
fn a_wrong_flag_is_code_2_and_help_and_version_are_code_0() {
    let output = gateway(&["--worker", "3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--workers"));
    assert!(stdout(&gateway(&["--version"])).starts_with("moor-gateway 0."));
    let help = stdout(&gateway(&["--help"]));
    assert!(help.contains("Examples:") && help.contains("--heartbeat-interval-ms"), "{help}");
}

#[test]
fn the_printed_configuration_is_a_valid_file() {
    let output = gateway(&["--print-config", "--workers", "5"]);
    assert_eq!(output.status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("printed.toml");
    std::fs::write(&path, stdout(&output)).unwrap();
    let again = gateway(&["--config", path.to_str().unwrap(), "--print-config"]);
    assert_eq!(stdout(&again), stdout(&output), "{}", stderr(&again));
}

/// Replaces what stands between the markers of `name` and says whether it was different.
fn renew(manual: &mut String, name: &str, table: &str) -> bool {
    let (start, end) = (format!("<!-- {name}:start -->\n"), format!("<!-- {name}:end -->"));
    let from = manual.find(&start).expect("a start marker") + start.len();
    let to = from + manual[from..].find(&end).expect("an end marker");
    let differs = manual[from..to] != *table;
    manual.replace_range(from..to, table);
    differs
}

/// The manual's tables are made from the code. `MOOR_RENEW_DOCS=1 cargo test -p moor-gateway --test config`
/// writes them anew.
#[test]
fn the_manual_agrees_with_the_code() {
    use moor_gateway::{config, control::metrics, worker::counters::COUNTERS};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let mut manual = std::fs::read_to_string(&path).unwrap();
    let settings = renew(&mut manual, "settings", &config::keys_markdown());
    let counters = renew(&mut manual, "metrics", &metrics::metrics_markdown(COUNTERS));
    let router = renew(&mut manual, "router-metrics", &moor_router::metrics_markdown());
    if std::env::var_os("MOOR_RENEW_DOCS").is_some() {
        std::fs::write(&path, manual).unwrap();
    } else {
        assert!(
            !settings && !counters && !router,
            "docs/operating.md is out of date: run with MOOR_RENEW_DOCS=1"
        );
    }
}
