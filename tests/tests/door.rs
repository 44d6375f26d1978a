//! The front door on real processes: one address too many, a load balancer, memory that is short.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use moor_tests::process::{Process, all_in_one, run};
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
