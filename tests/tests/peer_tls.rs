//! TLS with certificates on both sides between real processes: gateways, a router, services, the command line.

#[path = "../../tls/tests/support/authority.rs"]
#[allow(clippy::unwrap_used, reason = "an authority that cannot be made is no test")]
mod authority;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use authority::Authority;
use moor_tests::process::{Process, all_in_one, gateway, run, wait_for};
use moor_tests::raw::RawClient;
use rustix::process::{Signal, kill_process};

const SOON: Duration = Duration::from_secs(10);

/// An installation's files: one authority for hosts, one for services.
struct Site {
    directory: tempfile::TempDir,
    hosts: Authority,
    services: Authority,
}

impl Site {
    fn new() -> Result<Self> {
        let site =
            Self { directory: tempfile::tempdir()?, hosts: Authority::new(), services: Authority::new() };
        site.write("hosts-ca.pem", &site.hosts.pem)?;
        site.write("services-ca.pem", &site.services.pem)?;
        site.issue(&site.hosts, "router", &["router-1"])?;
        site.issue(&site.hosts, "edge", &["edge-1", "127.0.0.1"])?;
        site.issue(&site.services, "billing", &["billing.example"])?;
        site.issue(&site.services, "chat", &["chat.example"])?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        fs::write(self.path(name), content)?;
        Ok(fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600))?)
    }

    fn issue(&self, by: &Authority, file: &str, names: &[&str]) -> Result<()> {
        let (certificate, key) = by.issue(names);
        self.write(&format!("{file}.pem"), &certificate)?;
        self.write(&format!("{file}.key"), &key)
    }

    /// Flags that name a certificate, its key and authorities.
    fn flags(&self, prefix: &str, file: &str, authorities: &str) -> Vec<String> {
        let flag = |name: &str| format!("--{prefix}-{name}");
        vec![
            flag("certificate"),
            self.text(&format!("{file}.pem")),
            flag("key"),
            self.text(&format!("{file}.key")),
            flag(if prefix.starts_with("internal") || prefix.ends_with("tls") {
                "authorities"
            } else {
                "ca"
            }),
            self.text(authorities),
        ]
    }

    fn router(&self) -> Result<Process> {
        let data = self.text("data");
        let own = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", &data];
        let tls = self.flags("tls", "router", "hosts-ca.pem");
        Process::start("moor-router", &[&own, &words(&tls)[..]].concat())
    }

    /// A gateway with certificates on every side.
    fn gateway(&self, router: &Process, more: &[&str]) -> Result<Process> {
        let internal = self.flags("internal-tls", "edge", "services-ca.pem");
        let link = self.flags("router-tls", "edge", "hosts-ca.pem");
        let name = ["--router-tls-name", "router-1"];
        let flags = [&words(&internal)[..], &words(&link)[..], &name, more].concat();
        gateway("edge-1", router.address("router"), &flags)
    }

    /// `moor push --all` as the service that has this certificate; what it says.
    fn push(&self, gateway: &Process, file: Option<&str>, ca: &str) -> Result<(Option<i32>, String)> {
        let (internal, ca) = (gateway.address("internal").to_string(), self.text(ca));
        let mut arguments =
            vec!["push", "--all", "--internal", &internal, "--internal-ca", &ca, "--internal-name", "edge-1"];
        let pair = file.map(|file| (self.text(&format!("{file}.pem")), self.text(&format!("{file}.key"))));
        if let Some((certificate, key)) = &pair {
            arguments.extend(["--internal-certificate", certificate, "--internal-key", key]);
        }
        arguments.push("hello");
        let (code, out, err) = run("moor", &arguments)?;
        Ok((code, out + &err))
    }
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

fn links_up(gateway: &Process, count: u64) -> Result<()> {
    gateway.wait_stat("gateway.link_up", SOON, |up| up == count)?;
    Ok(())
}

fn hang_up(process: &Process) -> Result<()> {
    Ok(kill_process(process.pid(), Signal::HUP)?)
}

#[test]
fn with_certificates_everywhere_messages_arrive_and_strangers_do_not_come_in() -> Result<()> {
    let site = Site::new()?;
    site.write(
        "credentials.toml",
        "[services.billing]\ncertificate_names = [\"billing.example\"]\napps = [\"shop\"]\nmay = [\"broadcast\"]\n",
    )?;
    let credentials = site.text("credentials.toml");
    let router = site.router()?;
    let more = ["--credentials-file", &credentials, "--credentials-anonymous"];
    let gateway = site.gateway(&router, &more)?;
    links_up(&gateway, 2)?;
    let mut alice = RawClient::dial(gateway.address("clients"))?.greet("phone", 0)?;
    alice.open(1, "alice", Some(0))?;
    let mut bob = RawClient::dial(gateway.address("clients"))?.greet("laptop", 0)?;
    bob.open(1, "bob", Some(0))?;
    // Through the router and back, over two links.
    bob.submit_until_accepted(1, "m-1", "alice", &[7; 60_000])?;
    assert_eq!(alice.delivery()?.payload, vec![7; 60_000]);

    // A service by its certificate, whichever worker it comes to; to both clients.
    for round in 0..4 {
        let (code, said) = site.push(&gateway, Some("billing"), "hosts-ca.pem")?;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("reached 2 session(s)"), "{said}");
        assert_eq!(alice.delivery()?.payload, b"hello"[..], "{round}");
    }
    let refused = |file: Option<&str>, ca: &str, what: &str| -> Result<()> {
        let (code, said) = site.push(&gateway, file, ca)?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(what), "{said}");
        Ok(())
    };
    refused(Some("chat"), "hosts-ca.pem", "UNAUTHORIZED")?;
    refused(None, "hosts-ca.pem", "CertificateRequired")?;
    // The hosts' authority is not the services'.
    refused(Some("edge"), "hosts-ca.pem", "UnknownCA")?;
    refused(Some("billing"), "services-ca.pem", "UnknownIssuer")?;
    let internal = gateway.address("internal").to_string();
    let (code, _, said) = run("moor", &["push", "--all", "--internal", &internal, "hello"])?;
    assert_eq!(code, Some(1));
    assert!(said.contains("this port speaks TLS only"), "{said}");
    gateway.wait_stat("gateway.services_unauthorized_total", SOON, |count| count == 4)?;

    // The router takes a host's certificate and not a service's.
    let at = router.address("router").to_string();
    let ca = site.text("hosts-ca.pem");
    let who = |file: &str| -> Result<(Option<i32>, String)> {
        let (certificate, key) = (site.text(&format!("{file}.pem")), site.text(&format!("{file}.key")));
        let tls = ["--router-ca", &ca, "--router-name", "router-1", "--router-certificate", &certificate];
        let line = [&["who", "alice", "--router", &at, "--router-key", &key], &tls[..]].concat();
        let (code, out, err) = run("moor", &line)?;
        Ok((code, out + &err))
    };
    let (code, said) = who("edge")?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("alice of shop: 1 session(s)"), "{said}");
    let (code, said) = who("billing")?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("UnknownCA"), "{said}");
    Ok(())
}

#[test]
fn a_gateway_without_the_right_certificate_gets_no_link() -> Result<()> {
    let site = Site::new()?;
    let router = site.router()?;
    let at = router.address("router");
    let ca = ["--router-tls-authorities", &site.text("hosts-ca.pem"), "--router-tls-name", "router-1"]
        .map(str::to_owned);
    let foreign = [&ca[2..], &site.flags("router-tls", "billing", "hosts-ca.pem")].concat();
    for flags in [Vec::new(), ca.to_vec(), foreign] {
        let before = router_refused(&router)?;
        let gateway = gateway("edge-1", at, &words(&flags))?;
        wait_for(SOON, "tries at the router", || Ok((router_refused(&router)? >= before + 2).then_some(())))?;
        assert_eq!(gateway.stat("gateway.link_up")?, 0, "{flags:?}");
    }
    // A token in clear text is not what the port asks for either.
    links_up(&site.gateway(&router, &[])?, 2)
}

/// Links that the router has refused.
fn router_refused(router: &Process) -> Result<u64> {
    let url = format!("http://{}/metrics", router.address("admin"));
    let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
    let line = text.lines().find(|line| line.starts_with("router_links_refused_total "));
    Ok(line.and_then(|line| line.rsplit(' ').next()).context("no such metric")?.parse()?)
}

#[test]
fn beyond_loopback_a_certificate_or_a_token_must_be_asked_for() -> Result<()> {
    let site = Site::new()?;
    let internal = site.flags("internal-tls", "edge", "services-ca.pem");
    let open = ["--internal", "0.0.0.0:0", "--internal-advertise", "edge-1:7200"];
    let data = site.text("data");
    let refused = |flags: &[&str], what: &str| -> Result<()> {
        let (code, _, said) =
            run("moor-gateway", &[flags, &["--data", &data, "--listen", "127.0.0.1:0"]].concat())?;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(what), "{said}");
        Ok(())
    };
    refused(&open, "internal_tls.authorities")?;
    refused(&[&open[..], &words(&internal)[..4]].concat(), "internal_tls.authorities")?;
    refused(&["--router-listen", "0.0.0.0:0"], "router_tls.authorities")?;
    let (code, _, said) = run("moor-router", &["--listen", "0.0.0.0:0", "--data", &data])?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("beyond loopback"), "{said}");

    // With certificates it does, and the embedded router is spoken to over TLS as well.
    let link = site.flags("router-tls", "edge", "hosts-ca.pem");
    let common = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", &data, "--workers", "2"];
    let flags =
        [&common[..], &open, &["--router-listen", "0.0.0.0:0"], &words(&internal), &words(&link)].concat();
    let gateway = Process::start("moor-gateway", &flags)?;
    links_up(&gateway, 2)?;
    Ok(())
}

#[test]
fn sighup_takes_new_files_and_keeps_the_old_ones_if_they_are_bad() -> Result<()> {
    let site = Site::new()?;
    let internal = site.flags("internal-tls", "edge", "services-ca.pem");
    let link = site.flags("router-tls", "edge", "hosts-ca.pem");
    let flags = [&words(&internal)[..], &words(&link), &["--workers", "1"]].concat();
    let gateway = all_in_one(&site.path("data"), &flags)?;
    links_up(&gateway, 1)?;
    // Nobody is logged in: it is let in all the same.
    let comes = |file: &str| -> Result<String> { Ok(site.push(&gateway, Some(file), "hosts-ca.pem")?.1) };
    assert!(comes("billing")?.contains("reached 0"));
    let key = fs::read_to_string(site.path("edge.key"))?;
    site.write("edge.key", "no key")?;
    hang_up(&gateway)?;
    gateway.wait_stat("gateway.reloads_failed_total", SOON, |count| count == 1)?;
    assert!(comes("billing")?.contains("reached 0"), "the former files are in place");
    site.write("edge.key", &key)?;
    // Another authority for services, another certificate for the host.
    let next = Authority::new();
    site.write("services-ca.pem", &next.pem)?;
    site.issue(&next, "next", &["next.example"])?;
    site.issue(&site.hosts, "edge", &["edge-1"])?;
    hang_up(&gateway)?;
    gateway.wait_stat("gateway.reloads_total", SOON, |count| count == 1)?;
    assert!(comes("next")?.contains("reached 0"));
    assert!(comes("billing")?.contains("UnknownCA"), "and no longer the old one");
    assert_eq!(gateway.stat("gateway.link_lost_total")?, 0, "what is up stays");
    Ok(())
}

#[test]
fn a_router_that_comes_back_with_a_new_certificate_is_known() -> Result<()> {
    let site = Site::new()?;
    let mut router = site.router()?;
    let gateway = site.gateway(&router, &[])?;
    links_up(&gateway, 2)?;
    router.kill()?;
    links_up(&gateway, 0)?;
    site.issue(&site.hosts, "router", &["router-1"])?;
    let router = router.restart()?;
    links_up(&gateway, 2)?;
    // A reload that the router does not survive would show here; the link goes on.
    hang_up(&router)?;
    site.issue(&site.hosts, "edge", &["edge-1"])?;
    hang_up(&gateway)?;
    gateway.wait_stat("gateway.reloads_total", SOON, |count| count == 1)?;
    let mut alice = RawClient::dial(gateway.address("clients"))?.greet("phone", 0)?;
    alice.open(1, "alice", Some(0))?;
    alice.submit_until_accepted(1, "m-1", "alice", b"to myself")?;
    assert_eq!(alice.delivery()?.payload, b"to myself"[..]);
    Ok(())
}
