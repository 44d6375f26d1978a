//! Clients over TLS, by other implementations (rustls's client, OpenSSL), on real processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use moor_tests::process::{Process, all_in_one, run, run_to_end};
use moor_tests::raw::RawClient;
use rustix::process::{Signal, kill_process};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// A host's files, and how a client trusts them.
struct Host {
    _directory: tempfile::TempDir,
    certificate: PathBuf,
    key: PathBuf,
    tickets: PathBuf,
    data: PathBuf,
}

impl Host {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let host = Self {
            certificate: path("host.pem"),
            key: path("host.key"),
            tickets: path("tickets"),
            data: path("data"),
            _directory: directory,
        };
        host.renew()?;
        secret(&host.tickets, &"5a".repeat(32))?;
        Ok(host)
    }

    /// Another certificate and key in the same files.
    fn renew(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()])?;
        fs::write(&self.certificate, made.cert.pem())?;
        secret(&self.key, &made.signing_key.serialize_pem())
    }

    fn start(&self, more: &[&str]) -> Result<Process> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (certificate, key, tickets) = (text(&self.certificate), text(&self.key), text(&self.tickets));
        let tls = ["--tls-certificates", &certificate, "--tls-keys", &key, "--tls-tickets", &tickets];
        all_in_one(&self.data, &[&tls, more].concat())
    }

    /// Trusts what the files hold now; remembers tickets.
    fn config(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate)?)?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        Ok(Arc::new(builder.with_no_client_auth()))
    }
}

fn secret(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

fn caller(config: &Arc<ClientConfig>) -> Result<ClientConnection> {
    Ok(ClientConnection::new(Arc::clone(config), "edge.example".try_into()?)?)
}

#[test]
fn one_port_serves_all_four_ways_to_come_and_they_talk_to_each_other() -> Result<()> {
    for records in ["rustls", "compact"] {
        let host = Host::new()?;
        let gateway = host.start(&["--workers", "2", "--tls-records", records])?;
        let (address, config) = (gateway.address("clients"), host.config()?);
        let mut clients = [
            RawClient::dial(address)?,
            RawClient::dial_websocket(address)?,
            RawClient::dial_tls(address, caller(&config)?)?,
            RawClient::dial_websocket_tls(address, caller(&config)?)?,
        ]
        .into_iter()
        .enumerate()
        .map(|(number, client)| client.greet(&format!("device-{number}"), 0))
        .collect::<Result<Vec<_>>>()?;
        for (number, client) in clients.iter_mut().enumerate() {
            client.open(1, &format!("account-{number}"), Some(0))?;
        }
        gateway.wait_stat("gateway.connections_tls", Duration::from_secs(5), |count| count == 2)?;
        for payload in [&b"hello"[..], &[7; 60_000]] {
            for from in 0..4 {
                for to in 0..4 {
                    let name = format!("{from}-{to}-{}", payload.len());
                    clients[from].submit_until_accepted(1, &name, &format!("account-{to}"), payload)?;
                    assert_eq!(clients[to].delivery()?.payload, payload, "{records}: {name}");
                }
            }
        }
        for client in &mut clients {
            client.ping()?;
        }
        drop(clients);
        gateway.wait_stat("gateway.connections_tls", Duration::from_secs(5), |count| count == 0)?;
    }
    Ok(())
}

#[test]
fn a_ticket_outlives_the_process() -> Result<()> {
    for records in ["rustls", "compact"] {
        let host = Host::new()?;
        let config = host.config()?;
        let mut gateway = host.start(&["--tls-records", records])?;
        RawClient::dial_tls(gateway.address("clients"), caller(&config)?)?.greet("phone", 0)?.ping()?;
        gateway.kill()?;
        let gateway = host.start(&["--tls-records", records])?;
        RawClient::dial_tls(gateway.address("clients"), caller(&config)?)?.greet("phone", 0)?.ping()?;
        gateway.wait_stat("gateway.tls_resumed_total", Duration::from_secs(5), |count| count == 1)?;
        assert_eq!(gateway.stat("gateway.tls_handshakes_total")?, 1);
    }
    Ok(())
}

#[test]
fn certificates_are_renewed_without_dropping_anybody_and_bad_ones_are_not_taken() -> Result<()> {
    let host = Host::new()?;
    let gateway = host.start(&["--workers", "1"])?;
    let address = gateway.address("clients");
    // Who resumes is shown no certificate.
    let forgetful = |mut config: Arc<ClientConfig>| {
        Arc::make_mut(&mut config).resumption = Resumption::disabled();
        config
    };
    let before = forgetful(host.config()?);
    let mut early = RawClient::dial_tls(address, caller(&before)?)?.greet("phone", 0)?;
    let comes = |config: &Arc<ClientConfig>| -> Result<bool> {
        Ok(RawClient::dial_tls(address, caller(config)?)?.greet("phone", 0).is_ok())
    };
    // A key that is not the certificate's: who comes is shown the pair that was good.
    let key = fs::read_to_string(&host.key)?;
    secret(&host.key, &rcgen::KeyPair::generate()?.serialize_pem())?;
    kill_process(gateway.pid(), Signal::HUP)?;
    gateway.wait_stat("gateway.reloads_failed_total", Duration::from_secs(5), |count| count == 1)?;
    assert!(comes(&before)?, "the former pair is in place");
    secret(&host.key, &key)?;
    host.renew()?;
    let after = forgetful(host.config()?);
    kill_process(gateway.pid(), Signal::HUP)?;
    gateway.wait_stat("gateway.reloads_total", Duration::from_secs(5), |count| count == 1)?;
    // The worker has its mail before it takes another connection.
    assert!(comes(&after)?);
    assert!(!comes(&before)?, "and no longer the old one");
    early.ping()?;
    Ok(())
}

#[test]
fn files_that_cannot_be_used_stop_the_start_and_say_what_to_do() -> Result<()> {
    let host = Host::new()?;
    let start = |certificate: &Path, key: &Path| -> Result<String> {
        let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
        let arguments = ["--listen", "127.0.0.1:0", "--tls-certificates", &certificate, "--tls-keys", &key];
        let (code, _, said) = run("moor-gateway", &arguments)?;
        assert_eq!(code, Some(2), "{said}");
        assert!(!said.contains("PRIVATE KEY-----"), "{said}");
        Ok(said)
    };
    let missing = host.data.join("nothing.pem");
    let said = start(&missing, &host.key)?;
    assert!(said.contains("nothing.pem: cannot be read"), "{said}");
    let said = start(&host.key, &host.key)?;
    assert!(said.contains("holds no certificate"), "{said}");
    fs::set_permissions(&host.key, fs::Permissions::from_mode(0o644))?;
    let said = start(&host.certificate, &host.key)?;
    assert!(said.contains("chmod 600"), "{said}");
    Ok(())
}

/// What `openssl s_client` says of a connection it closes at once.
fn openssl(gateway: &Process, host: &Host, more: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &gateway.address("clients").to_string()]);
    command.args(["-servername", "edge.example", "-verify_return_error", "-CAfile"]).arg(&host.certificate);
    let (code, out, err) = run_to_end(command.args(more).stdin(Stdio::null())).context("openssl s_client")?;
    Ok((code, out + &err))
}

#[test]
fn openssl_agrees_to_every_suite_and_resumes() -> Result<()> {
    let host = Host::new()?;
    let gateway = host.start(&["--tls-records", "compact"])?;
    for (version, suite) in [
        ("-tls1_3", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ] {
        let choice = if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" };
        let (code, said) = openssl(&gateway, &host, &[version, choice, suite])?;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(suite) && said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    for old in ["-tls1", "-tls1_1"] {
        let (_, said) = openssl(&gateway, &host, &[old, "-cipher", "ALL:@SECLEVEL=0"])?;
        assert!(said.contains("Cipher is (NONE)") || said.contains("no protocols available"), "{said}");
    }
    let ticket = host.data.join("session").to_string_lossy().into_owned();
    let (_, said) = openssl(&gateway, &host, &["-tls1_2", "-sess_out", &ticket])?;
    assert!(said.contains("New, "), "{said}");
    let (_, said) = openssl(&gateway, &host, &["-tls1_2", "-sess_in", &ticket])?;
    assert!(said.contains("Reused, "), "{said}");
    Ok(())
}
