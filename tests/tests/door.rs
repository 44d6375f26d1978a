//! The front door on real processes: one address too many, a load balancer, memory that is short.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use moor_tests::process::{Process, all_in_one, run, wait_for};
use moor_tests::raw::RawClient;
use moor_wire::Code;
use moor_wire::client::{GoAway, Kind};

const SOON: Duration = Duration::from_secs(5);

fn start(more: &[&str]) -> Result<(Process, tempfile::TempDir)> {
    let data = tempfile::tempdir()?;
    let gateway = all_in_one(data.path(), &[&["--workers", "2"], more].concat())?;
    Ok((gateway, data))
}

fn from(gateway: &Process, address: &str) -> Result<RawClient> {
    RawClient::dial_from(address.parse::<IpAddr>()?, gateway.address("clients"))
}

/// Whether who has just come gets in.
fn gets_in(client: RawClient) -> Option<RawClient> {
    client.greet("phone", 0).ok()
}

#[test]
fn one_address_has_its_limit_over_all_workers_and_the_others_notice_nothing() -> Result<()> {
    let limits = ["--limits-connections-per-address", "20", "--limits-exempt", "127.1.0.0/16"];
    let (gateway, _data) = start(&limits)?;
    let mut good = gets_in(from(&gateway, "127.0.0.2")?).expect("another address");
    let bad: Vec<RawClient> =
        (0..60).filter_map(|_| from(&gateway, "127.0.0.9").ok().and_then(gets_in)).collect();
    // Two workers may both count the last one.
    assert!((20..=21).contains(&bad.len()), "{} got in", bad.len());
    let refused = gateway.wait_stat("gateway.address_refused_total", SOON, |refused| refused >= 39)?;
    assert!((39..=40).contains(&refused), "{refused} refused");
    good.ping()?;
    let exempt: Vec<RawClient> =
        (0..30).filter_map(|_| from(&gateway, "127.1.0.1").ok().and_then(gets_in)).collect();
    assert_eq!(exempt.len(), 30);
    // Who leaves makes room.
    drop(bad);
    gateway.wait_stat("gateway.connections_open", SOON, |open| open == 31)?;
    assert!(gets_in(from(&gateway, "127.0.0.9")?).is_some());
    Ok(())
}

#[test]
fn behind_a_balancer_the_limit_is_the_clients() -> Result<()> {
    let limits =
        ["--limits-connections-per-address", "1", "--limits-exempt", "", "--proxy-sources", "127.0.0.7"];
    let (gateway, _data) = start(&limits)?;
    let behind = |client: &str| -> Result<Option<RawClient>> {
        let mut connection = from(&gateway, "127.0.0.7")?;
        connection.write(format!("PROXY TCP4 {client} 203.0.113.7 40000 443\r\n").as_bytes())?;
        Ok(gets_in(connection))
    };
    let mut first = behind("198.51.100.1")?.expect("the first of its address");
    assert!(behind("198.51.100.1")?.is_none(), "the second");
    let mut other = behind("198.51.100.2")?.expect("another address behind the same balancer");
    assert!(gets_in(from(&gateway, "127.0.0.7")?).is_none(), "without a header");
    first.ping()?;
    other.ping()?;
    gateway.wait_stat("gateway.address_refused_total", SOON, |refused| refused == 1)?;
    gateway.wait_stat("gateway.proxy_refused_total", SOON, |refused| refused == 1)?;
    Ok(())
}

/// A load balancer that sends its clients on with a PROXY header, from 127.0.0.7.
struct Balancer {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Balancer {
    /// `None`: HAProxy is not installed.
    fn start(gateway: SocketAddr, option: &str) -> Result<Option<Self>> {
        // It cannot be asked for a port that it chose itself.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend clients\n bind {address}\n default_backend gateway\n\
             backend gateway\n server one {gateway} {option} source 127.0.0.7\n"
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let balancer = Self { process, address, _directory: directory };
        wait_for(SOON, "the balancer listens", || Ok(TcpStream::connect(address).ok()))?;
        Ok(Some(balancer))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Its own process, and then nothing is left of it.
        self.process.kill().and_then(|()| self.process.wait().map(drop)).unwrap_or_default();
    }
}

#[test]
fn haproxy_is_understood_in_both_versions() -> Result<()> {
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options ssl,unique-id"] {
        let limits =
            ["--limits-connections-per-address", "1", "--limits-exempt", "", "--proxy-sources", "127.0.0.7"];
        let (gateway, _data) = start(&limits)?;
        let Some(balancer) = Balancer::start(gateway.address("clients"), option)? else {
            println!("SKIPPED: haproxy is not here; install the package haproxy");
            return Ok(());
        };
        // What asked whether it listens has come through as a client, and gone.
        gateway.wait_stat("gateway.connections_open", SOON, |open| open == 0)?;
        let behind = |client: &str| -> Result<Option<RawClient>> {
            Ok(gets_in(RawClient::dial_from(client.parse()?, balancer.address)?))
        };
        let mut first = behind("127.0.0.21")?.expect("the first of its address");
        assert!(behind("127.0.0.21")?.is_none(), "{option}: the second");
        let mut other = behind("127.0.0.22")?.expect("another");
        first.open(1, "alice", None)?;
        other.open(1, "bob", None)?;
        other.submit(1, "one", "alice", b"hello")?;
        assert_eq!(first.delivery()?.payload, b"hello"[..], "{option}");
        gateway.wait_stat("gateway.proxy_refused_total", SOON, |refused| refused == 0)?;
    }
    Ok(())
}

#[test]
fn without_memory_nobody_new_comes_in_and_is_told_when_to_come_back() -> Result<()> {
    let (gateway, _data) = start(&["--memory-limit-mb", "1"])?;
    gateway.wait_stat("gateway.memory_used_percent", SOON, |percent| percent > 100)?;
    let mut refused = from(&gateway, "127.0.0.2")?;
    let away: GoAway = refused.expect(Kind::GoAway)?;
    assert_eq!(away.code, Code::Overloaded as i32);
    assert!(away.retry_min_ms < away.retry_max_ms, "{away:?}");
    gateway.wait_stat("gateway.accept_shed_total", SOON, |shed| shed == 1)?;
    Ok(())
}

#[test]
fn a_kernel_that_tells_no_addresses_cannot_serve_a_balancer() -> Result<()> {
    let data = tempfile::tempdir()?;
    let data = data.path().to_str().expect("a path in UTF-8");
    let arguments =
        ["--data", data, "--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let more = ["--router-listen", "127.0.0.1:0", "--proxy-sources", "10.0.0.0/8"];
    let less = ["--disable-features", "fixed-fd-install"];
    let (code, _, stderr) = run("moor-gateway", &[&arguments[..], &more, &less].concat())?;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("proxy.sources") && stderr.contains("6.8"), "{stderr}");
    Ok(())
}
