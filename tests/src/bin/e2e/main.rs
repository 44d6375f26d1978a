//! One router, two gateways, ten thousand clients, a hundred thousand reliable messages, and kill -9 of each
//! process while they are under way. Prints what was sent, accepted, delivered, lost and duplicated; ends with 1
//! when anything was lost or came twice.
#![forbid(unsafe_code)]

mod fleet;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moor_tests::process::{Process, gateway, router, wait_for};
use serde_json::json;

use fleet::{Fleet, Plan};
use tally::Tally;

/// Clients, each with two channels.
const CLIENTS: u32 = 10_000;
/// Messages.
const MESSAGES: u32 = 100_000;
/// Threads that drive clients.
const THREADS: u32 = 2;
/// Messages per second, over all threads.
const RATE: u32 = 4000;
/// Time for everybody to log in.
const LOGIN_LIMIT: Duration = Duration::from_secs(120);
/// Time for the last message to arrive after the last was sent.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let started = Instant::now();
    let data = tempfile::tempdir()?;
    let mut router = router(data.path())?;
    let router_address = router.address("router");
    let mut gateways =
        [gateway("gateway-a", router_address, &[])?, gateway("gateway-b", router_address, &[])?];
    let addresses: Vec<SocketAddr> = gateways.iter().map(|g| g.address("clients")).collect();

    let tally = Arc::new(Tally::new(MESSAGES));
    let fleets: Vec<_> = (0..THREADS)
        .map(|thread| {
            let plan = Plan {
                clients: (thread * CLIENTS / THREADS..(thread + 1) * CLIENTS / THREADS),
                messages: (thread * MESSAGES / THREADS..(thread + 1) * MESSAGES / THREADS),
                accounts: CLIENTS * 2,
                rate: RATE / THREADS,
                addresses: addresses.clone(),
            };
            let tally = Arc::clone(&tally);
            std::thread::spawn(move || Fleet::new(plan, tally)?.run())
        })
        .collect();

    wait_for(LOGIN_LIMIT, "everybody to log in", || Ok((tally.channels_open() >= CLIENTS * 2).then_some(())))
        .with_context(|| format!("{} of {} channels are open", tally.channels_open(), CLIENTS * 2))?;
    eprintln!("{:6.1} s  {CLIENTS} clients hold {} channels", started.elapsed().as_secs_f64(), CLIENTS * 2);
    tally.begin();

    let say = |what: &str| {
        eprintln!(
            "{:6.1} s  sent {:6}  accepted {:6}  delivered {:6}  channels {:5}  {what}",
            started.elapsed().as_secs_f64(),
            tally.sent(),
            tally.accepted(),
            tally.delivered(),
            tally.channels_open(),
        );
    };
    let mut kills = 0;
    let mut away: Option<(usize, Instant)> = None;
    let mut told = Instant::now();
    // Gateway a, router, gateway b, router again: each while messages are under way.
    let script = [(15, 0), (35, 2), (55, 1), (75, 2)];
    let mut last_progress = (0, Instant::now());
    let outcome = loop {
        let sent_percent = u64::from(tally.sent()) * 100 / u64::from(MESSAGES);
        if let Some((percent, victim)) = script.get(kills).filter(|_| away.is_none())
            && sent_percent >= *percent
        {
            let process: &mut Process = if *victim == 2 { &mut router } else { &mut gateways[*victim] };
            process.kill()?;
            say(&format!("kill -9 of {}", ["gateway a", "gateway b", "the router"][*victim]));
            away = Some((*victim, Instant::now()));
            kills += 1;
        }
        if let Some((victim, since)) = away
            && since.elapsed() >= Duration::from_secs(2)
        {
            let process: &mut Process = if victim == 2 { &mut router } else { &mut gateways[victim] };
            *process = process.restart()?;
            say("started again");
            away = None;
        }
        if told.elapsed() >= Duration::from_secs(5) {
            told = Instant::now();
            say("");
        }
        let done = tally.accepted() + tally.refused();
        if kills == script.len()
            && away.is_none()
            && done == MESSAGES
            && tally.delivered() >= tally.accepted()
        {
            break Ok(());
        }
        let progress = tally.accepted() + tally.delivered() + tally.sent();
        if progress != last_progress.0 {
            last_progress = (progress, Instant::now());
        } else if last_progress.1.elapsed() > ARRIVAL_LIMIT {
            break Err("no message has moved for two minutes");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    };
    // Whatever comes twice must have its chance to come: one more retry round of the router.
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(7) && outcome.is_ok() {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    tally.end();
    for fleet in fleets {
        fleet.join().map_err(|_| anyhow::anyhow!("a driver thread panicked"))??;
    }
    let report = json!({
        "clients": CLIENTS,
        "channels": CLIENTS * 2,
        "kills": kills,
        "sent": tally.sent(),
        "accepted": tally.accepted(),
        "refused": tally.refused(),
        "delivered": tally.delivered(),
        "lost": tally.lost(),
        "duplicates": tally.duplicates(),
        "misdelivered": tally.misdelivered(),
        "reconnects": tally.reconnects(),
        "seconds": started.elapsed().as_secs(),
    });
    println!("{report:#}");
    if let Err(why) = outcome {
        bail!("{why}");
    }
    let broken = [tally.lost() as u64, tally.duplicates().into(), tally.misdelivered().into()];
    if broken != [0; 3] || tally.refused() > 0 || tally.sent() != MESSAGES {
        let [lost, duplicates, misdelivered] = broken;
        bail!("the promise is broken: lost {lost}, duplicates {duplicates}, misdelivered {misdelivered}");
    }
    Ok(())
}
