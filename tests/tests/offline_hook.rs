//! The offline hook on real processes, against a vendor that misbehaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moor_tests::process::{Process, all_in_one, gateway, run, wait_for};
use moor_tests::raw::RawClient;
use moor_tests::vendor::{Manner, Vendor};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;

const SECRET: &str = "a secret of sixteen bytes and more";
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with a hook's files.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Result<Self> {
        let host = Self { directory: tempfile::tempdir()? };
        fs::write(host.path("secret"), format!("{SECRET}\n"))?;
        fs::set_permissions(host.path("secret"), fs::Permissions::from_mode(0o600))?;
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the tables; `more` are further lines of the hook's.
    fn write_hooks(&self, url: &str, more: &str) -> Result<PathBuf> {
        let text = format!(
            "[offline]\ninterval_ms = 0\ndeparture_ms = 100\nsettle_ms = 0\n\
             [[hook]]\nname = \"vendor\"\nurl = \"{url}\"\nsecret_file = \"{}\"\nkey_id = \"key-7\"\n\
             batch_wait_ms = 10\nretry_min_ms = 1\nretry_max_ms = 50\n{more}",
            self.path("secret").display()
        );
        let path = self.path("hooks.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    fn router(&self, vendor: &Vendor, more: &str) -> Result<Process> {
        let file = self.write_hooks(&format!("http://{}/push", vendor.address()), more)?;
        let (file, data) = (text(&file), text(&self.path("data")));
        let own = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        Process::start("moor-router", &[&own[..], &["--data", &data, "--config", &file]].concat())
    }

    /// Dead letters so far.
    fn dead(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("data").join("hook-vendor.dead")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A logged-in client.
fn login(gateway: &Process, account: &str) -> Result<RawClient> {
    let mut client = RawClient::connect(gateway.address("clients"), "phone")?;
    client.open(1, account, None)?;
    Ok(client)
}

fn hook_stat(router: &Process, name: &str) -> Result<u64> {
    router.stat(&format!("stats.router_hook_{name}{{hook=\"vendor\"}}"))
}

fn wait_hook(router: &Process, name: &str, is_wanted: impl Fn(u64) -> bool) -> Result<u64> {
    router.wait_stat(&format!("stats.router_hook_{name}{{hook=\"vendor\"}}"), PATIENCE, is_wanted)
}

#[test]
fn a_message_to_an_absent_account_is_told_signed_with_its_payload_and_one_to_a_present_is_not() -> Result<()>
{
    let host = Host::new()?;
    let vendor = Vendor::start(SECRET.as_bytes(), None)?;
    let router = host.router(&vendor, "payload_bytes_max = 100\n")?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let (mut bob, mut alice) = (login(&gateway, "bob")?, login(&gateway, "alice")?);
    // Once it has been delivered the session is known to the router.
    bob.submit_until_accepted(1, "m-1", "alice", b"to a present one")?;
    let delivery = alice.delivery()?;
    alice.ack(1, delivery.sync_id)?;
    bob.submit_until_accepted(1, "m-2", "carol", b"hello")?;
    let notice = vendor.wait("carol's notice", |notice| notice["account"] == "carol")?;
    assert_eq!(notice["app"], "shop");
    assert_eq!((&notice["kind"], &notice["cause"]), (&"offline".into(), &"absent".into()));
    assert_eq!((&notice["first_sync_id"], &notice["count"]), (&1.into(), &1.into()));
    assert_eq!(notice["payload"], "aGVsbG8=");
    assert!(notice["sent_at_ms"].as_u64().context("a time")? > 1_600_000_000_000);
    // Gone with a message unacknowledged.
    bob.submit_until_accepted(1, "m-3", "alice", b"on a dying link")?;
    alice.delivery()?;
    drop(alice);
    let notice = vendor.wait("alice's notice", |notice| notice["cause"] == "departed")?;
    assert_eq!((&notice["account"], &notice["device"]), (&"alice".into(), &"phone".into()));
    assert_eq!((&notice["first_sync_id"], &notice["last_sync_id"]), (&2.into(), &2.into()));
    // And it is not lost.
    let mut alice = RawClient::connect(gateway.address("clients"), "phone")?;
    alice.open(1, "alice", Some(1))?;
    assert_eq!(&alice.delivery()?.payload[..], b"on a dying link");
    let before_alice = vendor.accepted().iter().filter(|notice| notice["cause"] == "absent").count();
    // Bob's first message may have been accepted before alice was announced.
    assert!(before_alice <= 2, "{:?}", vendor.accepted());
    assert_eq!(vendor.counts().2, 0, "forged");
    Ok(())
}

#[test]
fn a_vendor_that_is_down_opens_the_breaker_slows_nobody_leaves_dead_letters_and_recovers() -> Result<()> {
    let host = Host::new()?;
    let vendor = Vendor::start(SECRET.as_bytes(), None)?;
    let router =
        host.router(&vendor, "tries = 3\nbreaker_failures = 3\nbreaker_open_ms = 100\ntimeout_ms = 300\n")?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let (mut bob, mut alice) = (login(&gateway, "bob")?, login(&gateway, "alice")?);
    bob.submit_until_accepted(1, "first", "alice", b"first")?;
    alice.delivery()?;
    let mut number = 0;
    for manner in [Manner::Status(500, ""), Manner::Hang, Manner::Reset] {
        let opened = hook_stat(&router, "breaker_opened_total")?;
        let dead = host.dead().len();
        vendor.behave(manner.clone());
        for _ in 0..20 {
            number += 1;
            bob.submit_until_accepted(1, &format!("absent-{number}"), &format!("absent-{number}"), b"x")?;
        }
        wait_hook(&router, "breaker_opened_total", |now| now > opened)
            .with_context(|| format!("{manner:?}"))?;
        // Messages go on meanwhile as if nothing were.
        let started = Instant::now();
        for round in 0..20 {
            bob.submit(1, &format!("{number}-{round}"), "alice", b"while the vendor is down")?;
            alice.delivery()?;
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{manner:?}: {:?}", started.elapsed());
        wait_for(PATIENCE, "dead letters", || Ok((host.dead().len() >= dead + 20).then_some(())))?;
    }
    let dead = host.dead();
    assert_eq!(dead.len(), 60);
    assert!(dead.iter().all(|letter| letter["tries"] == 3 && letter["hook"] == "vendor"), "{dead:?}");
    let reasons = ["status 500", "no answer within 300 ms"];
    for reason in reasons {
        assert!(dead.iter().any(|letter| letter["reason"] == reason), "{reason} in {dead:?}");
    }
    assert_eq!(vendor.accepted(), Vec::<Value>::new());
    vendor.behave(Manner::Accept);
    bob.submit_until_accepted(1, "recovered", "dave", b"x")?;
    vendor.wait("dave's notice", |notice| notice["account"] == "dave")?;
    wait_hook(&router, "breaker_state", |state| state == 0)?;
    assert_eq!(hook_stat(&router, "dead_letters_total")?, 60);
    assert_eq!(vendor.counts().2, 0, "forged");
    Ok(())
}

#[test]
fn repeats_are_known_by_their_key_and_refusals_are_final() -> Result<()> {
    let host = Host::new()?;
    let vendor = Vendor::start(SECRET.as_bytes(), None)?;
    let router = host.router(&vendor, "")?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let mut bob = login(&gateway, "bob")?;
    let mut send = |account: &str| bob.submit_until_accepted(1, account, account, b"x").map(drop);
    let told = |account: &'static str| move |notice: &Value| notice["account"] == account;
    vendor.behave(Manner::LoseAnswer);
    send("lost")?;
    vendor.wait("the notice whose answer is lost", told("lost"))?;
    vendor.behave(Manner::Accept);
    wait_for(PATIENCE, "the repeat", || Ok((vendor.counts().1 >= 1).then_some(())))?;
    assert_eq!(vendor.accepted().len(), 1, "once");
    vendor.behave(Manner::AcceptBut(vec![(0, true)]));
    send("later")?;
    vendor.wait("the notice not taken the first time", told("later"))?;
    vendor.behave(Manner::AcceptBut(vec![(0, false)]));
    send("never")?;
    wait_for(PATIENCE, "a dead letter", || Ok((host.dead().len() == 1).then_some(())))?;
    vendor.behave(Manner::Status(410, ""));
    send("gone")?;
    wait_for(PATIENCE, "another", || Ok((host.dead().len() == 2).then_some(())))?;
    let dead: Vec<_> = host
        .dead()
        .into_iter()
        .map(|letter| (letter["notice"]["account"].clone(), letter["reason"].clone()))
        .collect();
    assert_eq!(dead, [("never".into(), "unknown device".into()), ("gone".into(), "status 410".into())]);
    // A pause that is asked for is kept.
    vendor.behave(Manner::Status(429, "retry-after: 1\r\n"));
    send("paused")?;
    wait_hook(&router, "throttled_total", |count| count == 1)?;
    vendor.behave(Manner::Accept);
    let paused = Instant::now();
    vendor.wait("the notice after the pause", told("paused"))?;
    assert!(paused.elapsed() > Duration::from_millis(800), "{:?}", paused.elapsed());
    assert_eq!(vendor.counts().2, 0, "forged");
    Ok(())
}

#[test]
fn an_orderly_end_leaves_nothing_untold_or_unwritten() -> Result<()> {
    let host = Host::new()?;
    let vendor = Vendor::start(SECRET.as_bytes(), None)?;
    let mut router = host.router(&vendor, "concurrency = 1\n")?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let mut bob = login(&gateway, "bob")?;
    vendor.behave(Manner::Hang);
    for account in ["dave", "erin", "frank"] {
        bob.submit_until_accepted(1, account, account, b"x")?;
    }
    assert!(router.terminate(Duration::from_secs(10))?.success());
    let mut accounts: Vec<_> =
        host.dead().iter().map(|letter| letter["notice"]["account"].to_string()).collect();
    accounts.sort();
    assert_eq!(accounts, ["\"dave\"", "\"erin\"", "\"frank\""]);
    Ok(())
}

#[test]
fn an_embedded_router_tells_over_tls_whom_it_was_told_to_believe() -> Result<()> {
    let host = Host::new()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(host.path("ca.pem"), made.cert.pem())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let tls =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    let vendor = Vendor::start(SECRET.as_bytes(), Some(Arc::new(tls)))?;
    let url = format!("https://localhost:{}/push", vendor.address().port());
    let file = host.write_hooks(&url, &format!("ca_file = \"{}\"\n", host.path("ca.pem").display()))?;
    let gateway = all_in_one(&host.path("data"), &["--workers", "1", "--embedded-hooks", &text(&file)])?;
    let mut bob = login(&gateway, "bob")?;
    bob.submit_until_accepted(1, "m-1", "carol", b"hello")?;
    vendor.wait("carol's notice", |notice| notice["account"] == "carol")?;
    assert_eq!(vendor.counts().2, 0, "forged");
    Ok(())
}

#[test]
fn too_few_acknowledged_messages_are_an_alarm_that_is_told_and_seen() -> Result<()> {
    let host = Host::new()?;
    let vendor = Vendor::start(SECRET.as_bytes(), None)?;
    let threshold = "[[arrival]]\napp = \"shop\"\npercent_min = 95\nmessages_min = 20\nwindow_s = 60\n";
    let router = host.router(&vendor, &format!("events = [\"alarm\"]\n{threshold}"))?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let (mut bob, mut alice) = (login(&gateway, "bob")?, login(&gateway, "alice")?);
    bob.submit_until_accepted(1, "here", "alice", b"x")?;
    let delivery = alice.delivery()?;
    alice.ack(1, delivery.sync_id)?;
    for number in 0..19 {
        bob.submit_until_accepted(1, &format!("m-{number}"), "carol", b"x")?;
    }
    // Not before they are ten seconds old.
    let alarm = vendor.wait("an alarm", |notice| notice["kind"] == "alarm")?;
    assert_eq!((&alarm["app"], &alarm["raised"]), (&"shop".into(), &true.into()));
    assert_eq!((&alarm["accepted"], &alarm["acknowledged"]), (&20.into(), &1.into()));
    assert_eq!(alarm["arrival_percent"], 5.0);
    assert_eq!(router.stat("stats.router_arrival_alarm{app=\"shop\"}")?, 1);
    let messages = |state: &str| {
        let labels = format!("{{app=\"shop\",class=\"reliable\",state=\"{state}\"}}");
        router.stat(&format!("stats.router_messages_total{labels}"))
    };
    assert_eq!((messages("accepted")?, messages("acknowledged")?), (20, 1));
    assert!(messages("offline")? >= 19);
    let url = format!("http://{}/metrics", router.address("admin"));
    let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
    assert!(text.contains("router_acknowledge_seconds_count{app=\"shop\"} 1\n"), "{text}");
    Ok(())
}

#[test]
fn a_check_reads_what_the_hooks_name() -> Result<()> {
    let host = Host::new()?;
    let file = text(&host.write_hooks("https://vendor.example/push", "")?);
    let check = |program: &str, flag: &str| run(program, &[flag, &file, "--check"]);
    for (program, flag) in [("moor-router", "--config"), ("moor-gateway", "--embedded-hooks")] {
        let (code, _, error) = check(program, flag)?;
        assert_eq!(code, Some(0), "{program}: {error}");
    }
    fs::set_permissions(host.path("secret"), fs::Permissions::from_mode(0o644))?;
    for (program, flag) in [("moor-router", "--config"), ("moor-gateway", "--embedded-hooks")] {
        let (code, _, error) = check(program, flag)?;
        assert_eq!(code, Some(2), "{program}");
        assert!(error.contains("the hook \"vendor\"") && error.contains("chmod 600"), "{program}: {error}");
    }
    Ok(())
}
