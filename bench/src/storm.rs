//! `moor-bench storm`: a calm, then most sessions drop without a word and come back.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::admin::Stats;
use crate::args::{StormLoad, Work};
use crate::measure::{Drops, Run, WARM_UP, reached};
use crate::progress::Progress;
use crate::registry;
use crate::report::{Report, Verdict};

/// How much longer than asked a storm is watched, so that a server that falls short has a figure as well.
const LONGER: u32 = 4;
/// The others are watched for so long after everybody is back.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Longest time for the router to know where everybody is.
const SETTLES: Duration = Duration::from_secs(15);

/// Runs it.
pub fn run(storm: &StormLoad) -> Result<Verdict, String> {
    let load = &storm.load;
    let gateway = reached(load)?;
    let router = router(storm)?;
    let drops = Drops { count: storm.dropping(), spread: Duration::from_secs(storm.spread) };
    let mut report = Report::default();
    let mut run = Run::start(load, Work::Storm, &gateway, drops, None)?;
    run.log_in(&mut report, None)?;
    run.start_sends();
    run.watch("warm up", WARM_UP);
    run.shared.measuring.store(true, Relaxed);
    run.watch("calm", load.duration());

    let before = run.shared.logged_in.load(Relaxed);
    let started = Instant::now();
    run.shared.storming.store(true, Relaxed);
    let within = Duration::from_secs(storm.back_within);
    let mut progress = Progress::new("storm", u64::from(drops.count));
    let back = || run.shared.logged_in.load(Relaxed) - before;
    while back() < drops.count && started.elapsed() < within * LONGER {
        let word = format!("back of {} that dropped", run.shared.dropped.load(Relaxed));
        run.show(&mut progress, u64::from(back()), &word);
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = started.elapsed();
    let (back, dropped) = (back(), run.shared.dropped.load(Relaxed));
    drop(progress);
    let found = registry::check(router, load.app, &run.shared.sessions(), SETTLES)?;
    run.watch("after", AFTERMATH);

    report.count("storm_dropped", u64::from(dropped));
    report.count("storm_back", u64::from(back));
    report.fine("storm_back_s", took.as_secs_f64());
    report.number("storm_logins_per_s", f64::from(back) / took.as_secs_f64().max(0.001));
    report.count("others", u64::from(load.connections - drops.count));
    report.count("registry_asked", u64::from(found.asked));
    report.count("registry_wrong", u64::from(found.wrong));
    report.fine("registry_settled_s", found.settled.as_secs_f64());
    let (sent, answered) = run.last_answers();
    report.count("others_pings", sent);
    report.count("others_pings_answered", answered);
    let stormy = run.finish(&mut report)?.storm;
    report.count("storm_login_p50_us", stormy.login.value_at_quantile(0.5));
    report.count("storm_login_p99_us", stormy.login.value_at_quantile(0.99));
    report.count("storm_latency_p50_us", stormy.latency.value_at_quantile(0.5));
    report.count("storm_latency_p99_us", stormy.latency.value_at_quantile(0.99));
    report.count("storm_latency_max_us", stormy.latency.max());
    report.count("storm_harness_lateness_p99_us", stormy.lateness.value_at_quantile(0.99));

    if dropped < drops.count {
        report.shortcoming(format!("only {dropped} of {} were there to drop", drops.count));
    }
    if back < drops.count {
        report.shortcoming(format!("{back} of {} came back in {} s", drops.count, took.as_secs()));
    } else if took > within {
        report.shortcoming(format!(
            "all were back after {:.1} s, asked were {} s",
            took.as_secs_f64(),
            within.as_secs()
        ));
    }
    if answered < sent {
        report.shortcoming(format!("{answered} of {sent} pings of those who stayed were answered"));
    }
    if let Some(example) = found.example {
        report.shortcoming(format!("the router has {} sessions wrong: {example}", found.wrong));
    }
    report.require(&load.require);
    report.finish(Work::Storm.name(), load.json.as_deref())
}

/// The router to ask, which must be there before anything is begun.
fn router(storm: &StormLoad) -> Result<SocketAddr, String> {
    let known = Stats::read(&storm.load.admin)?.text("/gateway/router_address").map(str::parse);
    let address = match (storm.router, known) {
        (Some(address), _) | (None, Some(Ok(address))) => address,
        _ => return Err("the router is in a process of its own: name it with --router ADDR".to_owned()),
    };
    TcpStream::connect(address)
        .map_err(|error| format!("no router listens at {address} ({error}): name it with --router ADDR"))?;
    Ok(address)
}
