//! Starting, refusing to start, draining: what an operator sees.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use moor_tests::process::{Process, all_in_one, gateway, program, router, run, run_to_end};
use moor_tests::raw::RawClient;
use moor_wire::Code;
use moor_wire::client::{GoAway, Kind};

/// One sentence on standard error, exit code 2.
fn refused(arguments: &[&str], says: &[&str]) -> Result<()> {
    let (code, _, err) = run("moor-gateway", arguments)?;
    let last = err.lines().filter(|line| line.starts_with("moor-gateway:")).collect::<Vec<_>>();
    assert_eq!((code, last.len()), (Some(2), 1), "{arguments:?} said {err}");
    for words in says {
        assert!(last[0].contains(words), "{arguments:?} said {}", last[0]);
    }
    Ok(())
}

#[test]
fn what_cannot_start_says_what_to_do() -> Result<()> {
    let data = tempfile::tempdir()?;
    let running = all_in_one(data.path(), &[])?;
    let taken = running.address("clients").to_string();
    let other = tempfile::tempdir()?;
    let other = other.path().to_string_lossy();
    let free = ["--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--router-listen", "127.0.0.1:0"];
    refused(
        &[&["--listen", &taken, "--data", &other], &free[..]].concat(),
        &[&taken, "in use by moor-gateway, process"],
    )?;
    refused(
        &[&["--listen", "127.0.0.1:0", "--data", "/proc/no-such-place"], &free[..]].concat(),
        &["/proc/no-such-place", "--data"],
    )?;
    let held = data.path().to_string_lossy();
    refused(&[&["--listen", "127.0.0.1:0", "--data", &held], &free[..]].concat(), &["another process"])?;
    refused(&["--internal", "0.0.0.0:0"], &["token"])?;
    Ok(())
}

/// The kernel keeps the listener of a process that has gone until it has taken the ring apart that accepted from it.
#[test]
fn who_was_killed_or_told_to_end_is_started_again_on_its_ports_at_once() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut router = router(data.path())?;
    let mut edge = gateway("edge", router.address("router"), &[])?;
    for round in 0..4 {
        let mut client = RawClient::connect(edge.address("clients"), "phone")?;
        client.open(1, "alice", None)?;
        if round % 2 == 0 {
            edge.kill()?;
            router.kill()?;
        } else {
            edge.terminate(Duration::from_secs(20))?;
            router.terminate(Duration::from_secs(20))?;
        }
        router = router.restart()?;
        edge = edge.restart()?;
    }
    Ok(())
}

/// strace answers for the kernel: io_uring is not built in, or switched off.
#[test]
fn a_kernel_without_io_uring_is_named_with_what_to_do() -> Result<()> {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    for (error, says) in [("ENOSYS", "6.1"), ("EPERM", "kernel.io_uring_disabled")] {
        let mut command = std::process::Command::new("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup"])
            .args(["-e", &format!("inject=io_uring_setup:error={error}")])
            .arg(program("moor-gateway")?)
            .args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--router-listen", "127.0.0.1:0", "--data"])
            .arg(data.path());
        let (code, _, err) = run_to_end(&mut command)?;
        let last: Vec<_> = err.lines().filter(|line| line.starts_with("moor-gateway:")).collect();
        assert_eq!((code, last.len()), (Some(2), 1), "{error}: {err}");
        assert!(last[0].contains("io_uring") && last[0].contains(says), "{error}: {}", last[0]);
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "workers = 2\nlisen = \"127.0.0.1:0\"\n")?;
    let file = file.to_string_lossy();
    refused(&["--config", &file], &["lisen", "listen"])?;
    refused(&["--config", &file, "--check"], &["lisen", "listen"])?;
    std::fs::write(&*file, "workers = 2\nlisten = \"127.0.0.1:0\"\n")?;
    let (code, _, err) = run("moor-gateway", &["--config", &file, "--check"])?;
    assert_eq!(code, Some(0), "{err}");
    Ok(())
}

#[test]
fn every_program_has_a_version_and_help_that_teaches() -> Result<()> {
    for name in ["moor-gateway", "moor-router", "moor-bench", "moor"] {
        let (code, out, _) = run(name, &["--version"])?;
        assert!(code == Some(0) && out.contains(env!("CARGO_PKG_VERSION")), "{name}: {out}");
        let (code, out, _) = run(name, &["--help"])?;
        assert!(code == Some(0) && out.lines().count() > 10, "{name}: {out}");
    }
    Ok(())
}

/// Scheduling policies of a gateway's workers, as proc(5) numbers them: 0 is SCHED_OTHER, 3 is SCHED_BATCH.
fn worker_policies(workers: usize) -> Result<Vec<u32>> {
    let data = tempfile::tempdir()?;
    let gateway = all_in_one(data.path(), &["--workers", &workers.to_string()])?;
    let mut policies = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", gateway.pid().as_raw_nonzero()))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (name, fields) = stat.rsplit_once(") ").context("a thread's stat has its name in brackets")?;
        if name.contains("(worker-") {
            // The policy is field 41, the state after the name is field 3.
            policies.push(fields.split(' ').nth(38).context("41 fields")?.parse()?);
        }
    }
    Ok(policies)
}

#[test]
fn workers_give_way_where_they_outnumber_the_processors() -> Result<()> {
    // Not what std calls parallelism: a quota of processor time takes no processor away.
    let processors = rustix::thread::sched_getaffinity(None)?.count() as usize;
    assert_eq!(worker_policies(processors)?, vec![0; processors]);
    assert_eq!(worker_policies(processors + 1)?, vec![3; processors + 1]);
    Ok(())
}

#[test]
fn sigterm_sends_everybody_away_within_a_window_and_ends_with_zero() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = router(data.path())?;
    let mut gateway = gateway("gateway-a", router.address("router"), &["--drain-deadline-ms", "3000"])?;
    let mut clients = Vec::new();
    for i in 0..50 {
        let mut client = RawClient::connect(gateway.address("clients"), &format!("device-{i}"))?;
        client.open(1, &format!("account-{i}"), None)?;
        clients.push(client);
    }
    router.wait_stat("stats.router_sessions", Duration::from_secs(5), |sessions| sessions == 50)?;
    let (address, ended) =
        (gateway.address("clients"), std::thread::spawn(move || gateway.terminate(Duration::from_secs(6))));
    let mut stays = clients.pop();
    for mut client in clients {
        let goaway: GoAway = client.expect(Kind::GoAway)?;
        assert_eq!(goaway.code, Code::Draining as i32);
        assert!(goaway.retry_max_ms > goaway.retry_min_ms);
    }
    assert!(RawClient::connect(address, "late").is_err(), "nobody new is taken");
    if let Some(client) = &mut stays {
        // It was asked and did not go: it is cut at the deadline.
        client.until_closed(Duration::from_secs(5))?;
    }
    let status = ended.join().expect("the thread ends")?;
    assert_eq!(status.code(), Some(0));
    router.wait_stat("stats.router_sessions", Duration::from_secs(2), |sessions| sessions == 0)?;
    Ok(())
}

#[test]
fn a_listener_handed_over_listens_on_while_the_gateway_is_away() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = router(data.path())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, router) = (listener.local_addr()?, router.address("router").to_string());
    let mut arguments =
        vec!["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    arguments.extend(["--router", &router, "--workers", "2", "--drain-deadline-ms", "500"]);
    for round in 0..2 {
        // Who comes between two gateways waits in the queue of the socket.
        let mut waiting = RawClient::dial(address)?;
        let mut gateway = Process::start_activated("moor-gateway", &listener, &arguments)?;
        assert_eq!(gateway.address("clients"), address);
        waiting = waiting.greet("waiting", 0)?;
        waiting.open(1, "alice", None)?;
        RawClient::connect(address, "late")?;
        let status = gateway.terminate(Duration::from_secs(6))?;
        assert_eq!(status.code(), Some(0), "round {round}");
    }
    Ok(())
}

#[test]
fn without_newer_kernel_features_it_still_works() -> Result<()> {
    let data = tempfile::tempdir()?;
    let gateway = all_in_one(data.path(), &["--workers", "2", "--disable-features", "all"])?;
    let mut client = RawClient::connect(gateway.address("clients"), "phone")?;
    client.open(1, "alice", None)?;
    assert!(client.submit_until_accepted(1, "id-1", "alice", b"to myself")? > 0);
    assert_eq!(&client.delivery()?.payload[..], b"to myself");
    Ok(())
}
