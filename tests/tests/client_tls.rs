//! `moor` over TLS against real processes: log in, send, receive, come back; and whom it does not trust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use moor_tests::listener::Listener;
use moor_tests::process::{Process, all_in_one, program, run_to_end};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use serde_json::Value;

const NAME: &str = "edge.example";
const SOON: Duration = Duration::from_secs(5);

/// A host's files. Its certificate is signed by itself.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Result<Self> {
        let host = Self { directory: tempfile::tempdir()? };
        host.renew(change)?;
        secret(&host.file("tickets"), &"5a".repeat(32))?;
        Ok(host)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn certificate(&self) -> String {
        self.file("host.pem").to_string_lossy().into_owned()
    }

    fn renew(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<()> {
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, NAME);
        change(&mut params);
        let key = KeyPair::generate()?;
        fs::write(self.file("host.pem"), params.self_signed(&key)?.pem())?;
        secret(&self.file("host.key"), &key.serialize_pem())
    }

    /// A gateway that lets nobody in without TLS.
    fn start(&self) -> Result<Process> {
        let flags =
            [("--tls-certificates", "host.pem"), ("--tls-keys", "host.key"), ("--tls-tickets", "tickets")];
        let mut arguments = vec!["--tls-required".to_owned()];
        for (flag, name) in flags {
            arguments.extend([flag.to_owned(), self.file(name).to_string_lossy().into_owned()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        all_in_one(&self.file("data"), &arguments)
    }
}

fn secret(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

/// kill -9, and up again on the same ports.
fn again(mut gateway: Process) -> Result<Process> {
    gateway.kill()?;
    gateway.restart()
}

/// `moor listen` as alice.
fn listen(arguments: &[&str]) -> Result<Listener> {
    Listener::start(&[&["--account", "alice"], arguments].concat())
}

/// `moor send`: exit code, standard output, standard error. The host it runs on trusts `trusted` and nobody else.
fn send(trusted: &str, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(program("moor")?);
    command.args(["send", "--from", "bob", "--to", "alice", "hi"]).args(arguments);
    run_to_end(command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR"))
}

#[test]
fn a_listener_over_tls_resumes_and_says_when_it_no_longer_trusts_the_gateway() -> Result<()> {
    let host = Host::new(|_| {})?;
    let gateway = host.start()?;
    // What is trusted is read at the start; what the gateway shows changes below.
    let trusted = host.file("trusted.pem");
    fs::copy(host.certificate(), &trusted)?;
    let ca = format!("--ca={}", trusted.display());
    let target = format!("--target=tls://{}", gateway.address("clients"));
    let at = [&*target, &*ca, "--server-name", NAME];
    let mut alice = listen(&at)?;
    alice.next("opened")?;
    let (code, out, err) = send("/nowhere", &at)?;
    assert_eq!((code, out.trim()), (Some(0), "accepted as #1 of alice"), "{err}");
    assert_eq!(alice.next("message")?["text"], "hi");
    gateway.wait_stat("gateway.tls_handshakes_total", SOON, |count| count == 2)?;

    // The ticket is good for the next process; it is shown no certificate.
    let gateway = again(gateway)?;
    alice.next("disconnected")?;
    alice.next("opened")?;
    gateway.wait_stat("gateway.tls_resumed_total", SOON, |count| count == 1)?;

    let (certificate, key) = (fs::read(host.certificate())?, fs::read_to_string(host.file("host.key"))?);
    host.renew(|_| {})?;
    secret(&host.file("tickets"), &"77".repeat(32))?;
    let gateway = again(gateway)?;
    let said = alice.next("not_connected")?;
    assert_eq!(said["address"], gateway.address("clients").to_string());
    assert!(said["why"].as_str().is_some_and(|why| why.contains("the server's certificate")), "{said}");
    alice.next("not_connected")?;

    fs::write(host.certificate(), certificate)?;
    secret(&host.file("host.key"), &key)?;
    let _gateway = again(gateway)?;
    alice.next("opened")?;
    Ok(())
}

#[test]
fn what_is_not_trusted_is_named_and_so_is_the_flag_that_helps() -> Result<()> {
    let (host, other) = (Host::new(|_| {})?, Host::new(|_| {})?);
    let gateway = host.start()?;
    let target = format!("--target={}", gateway.address("clients"));
    let name = ["--server-name", NAME];

    let (code, _, err) = send(&host.certificate(), &[&[&*target, "--tls"], &name[..]].concat())?;
    assert_eq!(code, Some(0), "the host's own list is used: {err}");

    let (code, _, err) = send(&other.certificate(), &[&[&*target, "--tls"], &name[..]].concat())?;
    assert!(code == Some(1) && err.contains("no authority that is trusted here"), "{err}");
    assert!(err.contains("--ca"), "{err}");

    let (code, _, err) = send("/nowhere", &[&target, "--ca", &host.certificate()])?;
    assert!(code == Some(1) && err.contains("for another name") && err.contains(NAME), "{err}");
    assert!(err.contains("--server-name"), "{err}");

    let (code, _, err) = send("/nowhere", &[&target, "--tls"])?;
    assert!(code == Some(1) && err.contains("ca-certificates"), "{err}");
    let (code, _, err) = send("/nowhere", &[&target, "--ca", "/nowhere"])?;
    assert!(code == Some(1) && err.contains("/nowhere: cannot be read"), "{err}");
    let (code, _, err) = send("/nowhere", &[&target, "--ca", &host.certificate(), "--server-name", "a b"])?;
    assert!(code == Some(1) && err.contains("not a name of a server"), "{err}");

    // In clear where TLS is required: the gateway's refusal, at once.
    let (code, _, err) = send("/nowhere", &[&target])?;
    assert!(code == Some(1) && err.contains("only TLS is served here"), "{err}");
    Ok(())
}

#[test]
fn an_expired_certificate_and_a_gateway_without_one_are_told_apart() -> Result<()> {
    let host = Host::new(|params| params.not_after = date_time_ymd(2001, 1, 1))?;
    let gateway = host.start()?;
    let trust = ["--ca", &*host.certificate(), "--server-name", NAME, "--json"];
    let target = format!("--target={}", gateway.address("clients"));
    let (code, _, err) = send("/nowhere", &[&[&*target], &trust[..]].concat())?;
    let said: Value = serde_json::from_str(&err)?;
    assert!(
        code == Some(1) && said["error"].as_str().is_some_and(|why| why.contains("has expired")),
        "{err}"
    );
    gateway.wait_stat("gateway.tls_failed_total", SOON, |count| count == 1)?;

    let plain = all_in_one(&host.file("plain"), &[])?;
    let target = format!("--target={}", plain.address("clients"));
    let (code, _, err) = send("/nowhere", &[&[&*target], &trust[..]].concat())?;
    assert!(code == Some(1) && err.contains("no TLS with the server"), "{err}");
    Ok(())
}
