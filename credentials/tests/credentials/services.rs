//! Tokens of services: whose they are and what they allow.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use moor_credentials::{Denial, Right, Service, ServiceKeys, ServiceSettings, limits};

use crate::support::Files;

const BILLING: &str = "billing-token-0123456789";
const CHAT: &str = "chat-token-0123456789abc";

fn hex(token: &str) -> String {
    digest(&SHA256, token.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn declare(files: &mut Files, name: &str, settings: ServiceSettings) {
    files.settings.services.insert(name.to_owned(), settings);
}

fn hashed(token: &str, apps: &[&str], may: &[&str]) -> ServiceSettings {
    ServiceSettings {
        token_sha256: vec![hex(token)],
        apps: words(apps),
        may: words(may),
        ..ServiceSettings::default()
    }
}

fn error(files: &Files) -> String {
    ServiceKeys::load(&files.settings).unwrap_err().to_string()
}

#[test]
fn a_service_touches_its_apps_in_its_ways_alone() {
    let mut files = Files::new();
    declare(&mut files, "billing", hashed(BILLING, &["shop", "bank", "atm"], &["push", "query"]));
    declare(&mut files, "chat", hashed(CHAT, &["chat"], &["*"]));
    declare(&mut files, "ops", hashed("ops-token-0123456789", &["*"], &["kick"]));
    let keys = ServiceKeys::load(&files.settings).unwrap();
    let (billing, chat) = (keys.check(BILLING.as_bytes()).unwrap(), keys.check(CHAT.as_bytes()).unwrap());
    let ops = keys.check(b"ops-token-0123456789").unwrap();
    assert_eq!((billing.name(), chat.name(), ops.name()), ("billing", "chat", "ops"));
    for right in Right::ALL {
        for app in ["shop", "bank", "atm", "chat", "sho", "shop2", "", "*"] {
            let mine = matches!(app, "shop" | "bank" | "atm") && matches!(right, Right::Push | Right::Query);
            assert_eq!(billing.allows(app, right), mine, "billing {app} {right:?}");
            assert_eq!(chat.allows(app, right), app == "chat", "chat {app} {right:?}");
            assert_eq!(ops.allows(app, right), right == Right::Kick, "ops {app} {right:?}");
            assert!(Service::unlimited("shared").allows(app, right));
        }
    }
}

#[test]
fn only_the_very_token_is_known() {
    let mut files = Files::new();
    declare(&mut files, "billing", hashed(BILLING, &["*"], &["*"]));
    let keys = ServiceKeys::load(&files.settings).unwrap();
    assert!(!keys.is_empty() && ServiceKeys::default().is_empty());
    for (token, denial) in [
        (String::new(), Denial::Missing),
        (BILLING[1..].to_owned(), Denial::UnknownService),
        (format!("{BILLING}\n"), Denial::UnknownService),
        (BILLING.to_uppercase(), Denial::UnknownService),
        (hex(BILLING), Denial::UnknownService),
        ("x".repeat(limits::SERVICE_TOKEN_BYTES_MAX), Denial::UnknownService),
        ("x".repeat(limits::SERVICE_TOKEN_BYTES_MAX + 1), Denial::TooLong),
    ] {
        assert_eq!(keys.check(token.as_bytes()), Err(denial), "{token}");
    }
    for bit in 0..BILLING.len() * 8 {
        let mut token = BILLING.as_bytes().to_vec();
        token[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.check(&token), Err(Denial::UnknownService));
    }
}

#[test]
fn a_token_file_holds_the_old_and_the_new() {
    let mut files = Files::new();
    let path = files.write("token", format!("{BILLING}\n\n  {CHAT}\r\n"), 0o600);
    let settings =
        ServiceSettings { token_sha256: Vec::new(), token_file: Some(path), ..hashed("", &["*"], &["*"]) };
    declare(&mut files, "billing", settings);
    let keys = ServiceKeys::load(&files.settings).unwrap();
    assert!(keys.check(BILLING.as_bytes()).is_ok() && keys.check(CHAT.as_bytes()).is_ok());
    let shown = format!("{keys:?}");
    assert!(shown.contains("billing") && !shown.contains("0123456789"), "{shown}");

    for (content, mode, said) in [
        (BILLING, 0o640, "chmod 600"),
        (BILLING, 0o604, "chmod 600"),
        ("fifteen-bytes-x", 0o600, "16 to 1024 bytes and this one 15"),
        ("\n\n", 0o600, "no token"),
        (
            "a-token-number-01\na-token-number-02\na-token-number-03\na-token-number-04\na-token-number-05",
            0o600,
            "at most 4",
        ),
    ] {
        files.write("token", content, mode);
        let error = error(&files);
        assert!(error.contains(said), "{error}");
        assert!(!error.contains(BILLING) && !error.contains("fifteen"), "{error}");
    }
}

#[test]
fn a_declaration_that_means_nothing_is_refused() {
    for (settings, said) in [
        (hashed(BILLING, &["shop"], &["pusch"]), "\"pusch\" is none of push, kick, query, broadcast and *"),
        (hashed(BILLING, &["shop"], &[]), "may do nothing"),
        (hashed(BILLING, &[], &["push"]), "may do nothing"),
        (hashed(BILLING, &["a\nb"], &["push"]), "control character"),
        (ServiceSettings { token_sha256: vec![], ..hashed(BILLING, &["*"], &["*"]) }, "it has no token"),
        (
            ServiceSettings { token_sha256: vec![BILLING.into()], ..hashed(BILLING, &["*"], &["*"]) },
            "64 hex digits",
        ),
        (
            ServiceSettings { token_sha256: vec!["+1".repeat(32)], ..hashed(BILLING, &["*"], &["*"]) },
            "64 hex digits",
        ),
    ] {
        let mut files = Files::new();
        declare(&mut files, "billing", settings);
        let error = error(&files);
        assert!(error.contains(said) && error.contains("services.billing"), "{error}");
        assert!(!error.contains(BILLING), "{error}");
    }
    let mut files = Files::new();
    declare(&mut files, "billing", hashed(BILLING, &["shop"], &["*"]));
    declare(&mut files, "chat", hashed(BILLING, &["chat"], &["*"]));
    assert!(error(&files).contains("has a token that \"billing\" has too"), "{}", error(&files));
    let mut files = Files::new();
    declare(&mut files, "a\u{7}b", hashed(BILLING, &["shop"], &["*"]));
    assert!(error(&files).contains("control"), "{}", error(&files));
}

fn certified(names: &[&str], apps: &[&str]) -> ServiceSettings {
    ServiceSettings { token_sha256: Vec::new(), certificate_names: words(names), ..hashed("", apps, &["*"]) }
}

#[test]
fn a_certificate_of_its_name_stands_for_a_token() {
    let mut files = Files::new();
    declare(&mut files, "billing", certified(&["Billing.example", "billing-2.example"], &["shop"]));
    declare(
        &mut files,
        "chat",
        ServiceSettings { certificate_names: words(&["chat.example"]), ..hashed(CHAT, &["chat"], &["*"]) },
    );
    let keys = ServiceKeys::load(&files.settings).unwrap();
    assert!(!keys.is_empty());
    let of = |names: &[&str]| keys.check_certificate(&words(names)).map(|service| service.name().to_owned());
    assert_eq!(of(&["billing.example"]).unwrap(), "billing");
    assert_eq!(
        of(&["host-7.example", "chat.example", "billing.example"]).unwrap(),
        "chat",
        "the first known"
    );
    assert_eq!(of(&["example"]), Err(Denial::UnknownService));
    assert_eq!(of(&["x.billing.example"]), Err(Denial::UnknownService));
    assert_eq!(of(&[]), Err(Denial::Missing));
    assert_eq!(keys.check(CHAT.as_bytes()).unwrap().name(), "chat", "its token is as good");
    assert_eq!(keys.check(b"billing.example"), Err(Denial::UnknownService), "a name is no token");

    declare(&mut files, "crm", certified(&["BILLING.example"], &["crm"]));
    assert!(error(&files).contains("\"billing.example\" is \"billing\" already"), "{}", error(&files));
    for wrong in [certified(&[""], &["crm"]), certified(&["a\nb"], &["crm"]), certified(&["a"; 17], &["crm"])]
    {
        declare(&mut files, "crm", wrong);
        assert!(error(&files).contains("services.crm: certificate_names: "), "{}", error(&files));
    }
}
