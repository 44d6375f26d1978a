//! `moor-bench compare`: what people use today, side by side with the gateway on the same work.
//!
//! In every round each server in turn is started on the first processor, with the harness on the last; the same
//! clients log in, each with a topic of its own and that of everybody; one service sends. A server is measured by its
//! processor time per delivery, by the memory of an idle client, and by the time a push takes. The floor, which is no
//! peer, shows the least that the kernel takes for the same.
//!
//! Peers live in `peers/`, the protocols in [`crate::dialect`].

mod arguments;
mod find;
mod install;
mod outcome;
mod peers;
mod server;
mod trial;

pub use arguments::CompareArguments;

use std::time::{Duration, Instant};

use find::Places;
use outcome::{Outcome, Run};
use peers::{Found, GATEWAY, OWN, PEERS, Peer};
use server::Server;

use crate::against::cpus;
use crate::child;
use crate::memory::descriptors_max;
use crate::report::Verdict;

/// How long a processor is watched before each server.
const WATCH: Duration = Duration::from_millis(100);

/// What the work and the JSON are: stands in --help.
const FORMAT: &str = "\
The work of every server, in this order, each from rest to rest:
  push            one message to a random client, at --rate
  fan-out         one message to everybody, one at a time, --rate deliveries a second
  merged fan-out  the same with --burst messages at once

--json writes a list with an object for every system that was measured, in the order of the table:
  system                          floor, moor, moor-alone (the gateway with its router in a process of its own that is
                                  not counted: what one of several gateways takes), or a peer
  version                         what the program says it is
  deliveries_per_cpu_s            pushes delivered per second of the server's processor time
  fanout_per_cpu_s                deliveries of fan-out per second of processor time
  fanout_merged_per_cpu_s         the same with --burst messages at once
  idle_user_bytes                 own resident memory (RssAnon and RssShmem) per idle client: the slope between
                                  20 % and 100 % of --idle clients
  p99_us, p50_us                  from when a push should have gone out to its arrival
  push_cpu_s_per_million, fanout_cpu_s_per_million, fanout_merged_cpu_s_per_million
                                  the same processor time the other way round
  sends_late_p99_us               how late pushes went out: high when the server does not take them
  KEY_min, KEY_max                of each of these: least and most of the rounds; KEY itself is their median
  protocol, guarantee, configuration
                                  how it was spoken to, what becomes of a message, its command and its files
  connections                     clients that got in
  jitter_us_max                   longest time its processor was taken away in a tenth of a second before a round
  rounds, shortcomings            rounds measured, and what the server should have done and did not
  run                             what is common to all: the load, the machine, the command, and `unavailable`, which
                                  says of each system that is left out why

A peer is ahead when its median is better than the gateway's; when the rounds overlap the table says that too.

Exit codes: 0 measured, 3 the gateway fell short (or, with --ahead, a peer is ahead), 4 the harness could not keep up,
2 it could not be measured.";

/// Compares.
pub fn run(arguments: &CompareArguments) -> Result<Verdict, String> {
    let (chosen, load) = (chosen(arguments)?, &arguments.load);
    let places = Places { given: arguments.program.clone(), directory: arguments.directory() };
    let (server_cpu, own_cpu) = cpus()?;
    if descriptors_max() < u64::from(load.clients_max()) + 200 {
        return Err("RLIMIT_NOFILE is too low for so many clients: raise it (ulimit -n), or lower --connections and --idle".to_owned());
    }
    child::end_with_us()?;
    if arguments.install {
        let missing: Vec<&Peer> = chosen
            .iter()
            .copied()
            .filter(|peer| peer.source != peers::Source::Workspace && (peer.find)(&places).is_none())
            .collect();
        install::install(&missing, &places.directory)?;
    }
    let mut outcomes: Vec<(&Peer, Option<Found>, Outcome)> = chosen
        .into_iter()
        .map(|peer| {
            let found = (peer.find)(&places);
            let outcome = Outcome::new(peer, found.as_ref(), &places.directory, load.clients_max());
            (peer, found, outcome)
        })
        .collect();
    moor_ring::thread::pin_current(own_cpu).map_err(|error| error.to_string())?;
    for round in 0..arguments.repeat {
        let count = outcomes.len();
        for turn in 0..count {
            // Each round begins with another, so that nobody is always behind the same one.
            let (peer, found, outcome) = &mut outcomes[(turn + round as usize) % count];
            let Some(found) = found.as_ref() else { continue };
            eprintln!("round {} of {}: {}", round + 1, arguments.repeat, peer.name);
            outcome.note_jitter(jitter(server_cpu)?);
            let start = || Server::start(peer, found, server_cpu, load.clients_max());
            let idle = start().and_then(|server| trial::idle(&server, load));
            let trial = idle.and_then(|idle| start().and_then(|server| trial::work(&server, load, idle)));
            outcome.note(round + 1, trial);
        }
    }
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|(.., outcome)| outcome).collect();
    let run = Run { arguments, server_cpu, own_cpu };
    outcome::show(&outcomes, &run);
    if let Some(path) = &arguments.json {
        let text = format!("{:#}\n", outcome::json(&outcomes, &run));
        std::fs::write(path, text).map_err(|error| format!("cannot write {} ({error})", path.display()))?;
    }
    Ok(outcome::verdict(&outcomes, arguments.ahead))
}

/// The systems of the arguments, the yardstick and the gateway first.
fn chosen(arguments: &CompareArguments) -> Result<Vec<&'static Peer>, String> {
    let all: Vec<&'static str> = PEERS.iter().map(|peer| peer.name).collect();
    let known = |name: &str| name == GATEWAY || all.contains(&name);
    if let Some((name, _)) = arguments.program.iter().find(|(name, _)| !known(name)) {
        return Err(format!("--program {name}: there are {GATEWAY}, {}", all.join(", ")));
    }
    let peers = match &arguments.peers {
        None => PEERS.to_vec(),
        Some(names) => names
            .iter()
            .map(|name| {
                let peer = PEERS.into_iter().find(|peer| peer.name == name);
                peer.ok_or_else(|| format!("--peers {name}: there are {}", all.join(", ")))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(OWN.into_iter().chain(peers).collect())
}

/// The longest time a processor was taken away from a loop that does nothing else, microseconds.
fn jitter(cpu: usize) -> Result<u64, String> {
    let watch = move || {
        moor_ring::thread::pin_current(cpu).map_err(|error| error.to_string())?;
        let (started, mut longest) = (Instant::now(), Duration::ZERO);
        let mut last = started;
        while last.duration_since(started) < WATCH {
            let now = Instant::now();
            longest = longest.max(now.duration_since(last));
            last = now;
        }
        Ok(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX))
    };
    std::thread::spawn(watch).join().map_err(|_| "a thread panicked".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let arguments = |words: &[&str]| {
            let words = [&["moor-bench", "compare"][..], words].concat();
            let arguments = <crate::args::Arguments as clap::Parser>::try_parse_from(words).unwrap();
            match arguments.subcommand {
                crate::args::Sub::Compare(arguments) => arguments,
                _ => unreachable!("compare was asked for"),
            }
        };
        let names = |words: &[&str]| -> Result<Vec<&str>, String> {
            Ok(chosen(&arguments(words))?.iter().map(|peer| peer.name).collect())
        };
        assert_eq!(
            names(&["--peers", "redis,nats"]),
            Ok(vec!["floor", "moor", "moor-alone", "redis", "nats"])
        );
        assert_eq!(names(&[]).map(|names| names.len()), Ok(OWN.len() + PEERS.len()));
        assert!(names(&["--peers", "kafka"]).unwrap_err().contains("mosquitto"));
        assert!(names(&["--program", "kafka=/x"]).unwrap_err().contains("moor, mosquitto"));
    }
}
