//! docs/credentials.md says what the code does.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use moor_credentials::issue::{SigningKey, issue};
use moor_credentials::{Algorithm, Denial, ServiceKeys, Settings, Verifier};

use crate::support::Files;

const MANUAL: &str = include_str!("../../../docs/credentials.md");

#[test]
fn the_manual_explains_every_denial() {
    for denial in Denial::ALL {
        assert!(MANUAL.contains(&format!("\n| `{}` | ", denial.name())), "{denial}");
    }
}

#[test]
fn the_file_in_the_manual_can_be_read() {
    let text = MANUAL.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let files = Files::new();
    let settings = Settings::read(&files.write("credentials.toml", text, 0o644)).unwrap();
    assert_eq!(settings.apps.keys().collect::<Vec<_>>(), ["chat", "devices", "shop"]);
    assert_eq!(settings.apps["shop"].lifetime_max_s, Some(86400));
    assert_eq!(
        settings.apps["shop"].keys[0].public_key.as_deref(),
        Some(files.path().join("keys/shop-2026-11.pem").as_path())
    );
    assert_eq!(settings.services["billing"].may, ["push", "query"]);
}

/// The shell lines of the manual between two marks, as they stand there.
fn lines(from: &str, to: &str) -> String {
    let start = MANUAL.find(from).unwrap();
    MANUAL[start..start + MANUAL[start..].find(to).unwrap()].to_owned()
}

#[test]
fn a_key_and_a_token_made_by_the_lines_of_the_manual_are_good() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let files = Files::new();
    let run = |script: &str| {
        let output = Command::new("sh").arg("-ec").arg(script).current_dir(files.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    run(&lines("openssl genpkey -algorithm ed25519", "\n\n"));
    let secret = lines("(umask 077; openssl rand -base64 48", "\n```");
    run(&secret);
    run(&lines("(umask 077; openssl rand -hex 32", "\n```"));
    let script = lines("b64() {", "```");
    let by_hand = run(&script);
    let with_secret = script.rsplit_once("\necho").unwrap().0.replace("\"EdDSA\"", "\"HS256\"");
    let last = lines("echo \"$head.$body.$(openssl dgst", "`.");
    let with_secret = run(&format!("{with_secret}\n{last}"));
    let hash = run(&format!("{} | cut -d' ' -f1", lines("tr -d '\\n' < billing.token", "`.")));

    let file = format!(
        "[apps.shop]\nissuer = \"https://login.shop.example\"\naudience = \"moor\"\nlifetime_max_s = 3600\nkeys = [{{ kid \
         = \"2026-11\", public_key = \"shop-2026-11.pem\" }}, {{ secret = \"devices.secret\" }}]\n[services.billing]\n\
         token_sha256 = [\"{hash}\"]\napps = [\"*\"]\nmay = [\"*\"]\n"
    );
    let settings = Settings::read(&files.write("credentials.toml", file, 0o644)).unwrap();
    let verifier = Verifier::load(&settings).unwrap();
    // The lines ask the clock, so this must too.
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for token in [by_hand, with_secret] {
        assert!(verifier.verify("shop", "alice", "phone", token.as_bytes(), now_s).is_ok(), "{token}");
    }
    let token = std::fs::read_to_string(files.path().join("billing.token")).unwrap();
    let services = ServiceKeys::load(&settings).unwrap();
    assert_eq!(services.check(token.trim_end().as_bytes()).unwrap().name(), "billing");
}

#[test]
fn the_older_forms_of_private_keys_sign_too() {
    for (command, algorithm) in [
        ("openssl ecparam -name prime256v1 -genkey", Algorithm::Es256),
        ("openssl genrsa -traditional 2048", Algorithm::Rs256),
    ] {
        let Ok(output) = Command::new("sh").arg("-c").arg(command).output() else { return };
        if !output.status.success() {
            eprintln!("skipped: openssl is not installed or too old for: {command}");
            continue;
        }
        let key = SigningKey::from_file_content(&output.stdout).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(issue(&key, None, &crate::support::grant()).is_ok());
    }
}
