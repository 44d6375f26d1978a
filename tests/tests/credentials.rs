//! Who may come in, with real processes, real keys and the tools that operators use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use moor_tests::process::{Process, all_in_one, program, run, run_to_end};
use moor_tests::raw::RawClient;
use moor_wire::Code;
use moor_wire::client::{Close, Kind, Open, Opened};
use prost::Message;
use rustix::process::{Signal, kill_process};

const APPS: [&str; 2] = ["shop", "bank"];

/// A directory with a key pair for each app, made by OpenSSL, and a credentials file.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Result<Self> {
        let keys = Self(tempfile::tempdir()?);
        for app in APPS {
            keys.make_pair(app)?;
        }
        keys.declare(&APPS)?;
        Ok(keys)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make_pair(&self, app: &str) -> Result<()> {
        let (key, public) = (self.path(&format!("{app}.key")), self.path(&format!("{app}.pem")));
        let openssl = |arguments: &[&std::ffi::OsStr]| -> Result<()> {
            let (code, _, said) = run_to_end(Command::new("openssl").args(arguments))?;
            ensure!(code == Some(0), "openssl: {said}");
            Ok(())
        };
        openssl(&[
            "genpkey".as_ref(),
            "-algorithm".as_ref(),
            "ed25519".as_ref(),
            "-out".as_ref(),
            key.as_ref(),
        ])?;
        private(&key)?;
        openssl(&[
            "pkey".as_ref(),
            "-in".as_ref(),
            key.as_ref(),
            "-pubout".as_ref(),
            "-out".as_ref(),
            public.as_ref(),
        ])
    }

    /// Says in the credentials file that there are these apps.
    fn declare(&self, apps: &[&str]) -> Result<()> {
        let file: String = apps
            .iter()
            .map(|app| format!("[apps.{app}]\nkeys = [{{ public_key = \"{app}.pem\" }}]\n"))
            .collect();
        Ok(fs::write(self.path("credentials.toml"), file)?)
    }

    fn start(&self, more: &[&str]) -> Result<Process> {
        let file = self.path("credentials.toml");
        let own = ["--credentials-file", &file.to_string_lossy(), "--workers", "1"];
        all_in_one(&self.path("data"), &[&own, more].concat())
    }

    /// A token by `moor token`.
    fn token(&self, signer: &str, app: &str, account: &str, expires: &str) -> Result<String> {
        let key = self.path(&format!("{signer}.key"));
        let key = key.to_string_lossy();
        let (code, token, said) =
            run("moor", &["token", "--app", app, "--account", account, "--expires", expires, "--key", &key])?;
        ensure!(code == Some(0), "moor token: {said}");
        Ok(token.trim().to_owned())
    }
}

fn private(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

fn open(
    client: &mut RawClient,
    channel: u16,
    app: &str,
    account: &str,
    token: &str,
) -> Result<Result<u64, Code>> {
    let open = Open {
        app: app.into(),
        account: account.into(),
        credential: token.as_bytes().to_vec().into(),
        ..Open::default()
    };
    client.send(Kind::Open, channel, &open.encode_to_vec())?;
    loop {
        let frame =
            client.next_within(Duration::from_secs(10))?.ok_or_else(|| anyhow::anyhow!("no answer"))?;
        if frame.header.kind == Kind::Opened.byte() {
            return Ok(Ok(Opened::decode(frame.body)?.session));
        }
        if frame.header.kind == Kind::Close.byte() && frame.header.channel == channel {
            return Ok(Err(Code::try_from(Close::decode(frame.body)?.code)?));
        }
    }
}

#[test]
fn each_app_s_key_opens_its_own_accounts_only() -> Result<()> {
    let keys = Keys::new()?;
    let gateway = keys.start(&[])?;
    let mut client = RawClient::connect(gateway.address("clients"), "phone")?;
    let mut channel = 0;
    for signer in APPS {
        for claimed in APPS {
            for asked in APPS {
                for (holder, account) in [("alice", "alice"), ("alice", "bob")] {
                    channel += 1;
                    let token = keys.token(signer, claimed, holder, "1h")?;
                    let right = signer == claimed && claimed == asked && holder == account;
                    let opened = open(&mut client, channel, asked, account, &token)?;
                    let case =
                        format!("{holder}'s token by {signer} for {claimed} shown to {asked} for {account}");
                    assert_eq!(
                        opened.map(drop),
                        if right { Ok(()) } else { Err(Code::Unauthorized) },
                        "{case}"
                    );
                }
            }
        }
    }
    assert_eq!(open(&mut client, 60, "shop", "alice", "")?, Err(Code::Unauthorized), "nobody is anonymous");
    assert_eq!(open(&mut client, 61, "club", "alice", "")?, Err(Code::Unauthorized), "nor in another app");
    gateway.wait_stat("gateway.opens_unauthorized_total", Duration::from_secs(5), |count| count == 16)?;
    client.ping()?;
    Ok(())
}

#[test]
fn an_expired_credential_ends_its_channel_and_no_other() -> Result<()> {
    let keys = Keys::new()?;
    let file = keys.path("credentials.toml");
    fs::write(&file, fs::read_to_string(&file)?.replace("[apps.shop]", "[apps.shop]\nleeway_s = 0"))?;
    let gateway = keys.start(&[])?;
    let mut client = RawClient::connect(gateway.address("clients"), "phone")?;
    open(&mut client, 1, "shop", "alice", &keys.token("shop", "shop", "alice", "2s")?)?.expect("fresh");
    open(&mut client, 2, "bank", "alice", &keys.token("bank", "bank", "alice", "1h")?)?
        .expect("good for long");
    let close: Close = client.expect(Kind::Close)?;
    assert_eq!(
        (close.code, close.reason.as_str()),
        (Code::Unauthorized as i32, "the credential has expired")
    );
    client.submit_until_accepted(2, "m1", "bob", b"the other goes on")?;
    Ok(())
}

#[test]
fn a_reload_takes_what_is_right_and_leaves_what_is_wrong() -> Result<()> {
    let keys = Keys::new()?;
    keys.declare(&["shop"])?;
    let gateway = keys.start(&[])?;
    let token = keys.token("bank", "bank", "alice", "1h")?;
    let mut client = RawClient::connect(gateway.address("clients"), "phone")?;
    assert_eq!(open(&mut client, 1, "bank", "alice", &token)?, Err(Code::Unauthorized));
    fs::write(keys.path("credentials.toml"), "[apps.shop]\nkeyz = []\n")?;
    kill_process(gateway.pid(), Signal::HUP)?;
    gateway.wait_stat("gateway.reloads_failed_total", Duration::from_secs(5), |count| count == 1)?;
    open(&mut client, 2, "shop", "alice", &keys.token("shop", "shop", "alice", "1h")?)?.expect("as before");
    keys.declare(&APPS)?;
    kill_process(gateway.pid(), Signal::HUP)?;
    gateway.wait_stat("gateway.reloads_total", Duration::from_secs(5), |count| count == 1)?;
    open(&mut client, 3, "bank", "alice", &token)?.expect("the bank is known now");
    Ok(())
}

#[test]
fn the_gateway_does_not_start_open_to_anybody_nor_with_open_secrets() -> Result<()> {
    let refused = |arguments: &[&str], word: &str| -> Result<()> {
        for check in [&["--check"][..], &[]] {
            let (code, _, said) = run("moor-gateway", &[check, arguments].concat())?;
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(word), "{said}");
        }
        Ok(())
    };
    refused(&["--listen", "0.0.0.0:0"], "nobody asks them who they are")?;
    let keys = Keys::new()?;
    let file = keys.path("credentials.toml");
    let path = file.to_string_lossy().into_owned();
    fs::write(keys.path("s"), "a-secret-of-more-than-thirty-two-bytes")?;
    fs::set_permissions(keys.path("s"), fs::Permissions::from_mode(0o644))?;
    fs::write(&file, "[apps.shop]\nkeys = [{ secret = \"s\" }]\n")?;
    refused(&["--credentials-file", &path], "chmod 600")?;
    fs::write(&file, "[apps.shop]\nkeyz = 1\n")?;
    refused(&["--credentials-file", &path], "keys")?;
    refused(&["--credentials-file", "/nonexistent/credentials.toml"], "cannot be read")
}

#[test]
fn neither_tokens_nor_keys_reach_the_log_and_the_tools_log_in_with_them() -> Result<()> {
    let keys = Keys::new()?;
    let (file, data) = (keys.path("credentials.toml"), keys.path("data"));
    let log = keys.path("log");
    let mut child = Command::new(program("moor-gateway")?)
        .args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--router-listen", "127.0.0.1:0", "--log-level", "trace", "--announce", "json", "--data"])
        .arg(&data)
        .arg("--credentials-file")
        .arg(&file)
        .stdout(fs::File::create(keys.path("out"))?)
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let address = moor_tests::process::wait_for(Duration::from_secs(10), "the gateway's addresses", || {
        let said: serde_json::Value = match serde_json::from_str(&fs::read_to_string(keys.path("out"))?) {
            Ok(said) => said,
            Err(_) => return Ok(None),
        };
        Ok(said["listening"]["clients"].as_str().map(str::to_owned))
    });
    let exchange = address.and_then(|address| {
        let good = keys.token("shop", "shop", "alice", "1h")?;
        let bad = keys.token("bank", "shop", "alice", "1h")?;
        let mut outcomes = Vec::new();
        for (name, token) in [("good", &good), ("bad", &bad)] {
            let path = keys.path(name);
            fs::write(&path, token)?;
            let path = path.to_string_lossy().into_owned();
            let to = ["--target", &address, "--credential-file", &path];
            let (code, _, said) =
                run("moor", &[&["send", "--from", "alice", "--to", "bob", "hi"][..], &to].concat())?;
            outcomes.push((code, said));
        }
        Ok((good, bad, outcomes))
    });
    child.kill()?;
    child.wait()?;
    let (good, bad, outcomes) = exchange?;
    assert_eq!(outcomes[0].0, Some(0), "{outcomes:?}");
    assert_eq!(outcomes[1].0, Some(1), "{outcomes:?}");
    let log = fs::read_to_string(log)?;
    assert!(log.contains("bad_signature"), "the denial is in the log: {log}");
    let private_key = fs::read_to_string(keys.path("shop.key"))?;
    let key_line = private_key.lines().nth(1).expect("PEM has lines");
    for secret in [good.as_str(), bad.as_str(), key_line] {
        for part in secret.split('.') {
            assert!(!log.contains(part), "a part of a secret is in the log");
        }
    }
    Ok(())
}
