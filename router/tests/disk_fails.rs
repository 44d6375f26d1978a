//! Writes that begin to fail under load: what was answered OK is kept, what was answered STORAGE is not there,
//! and the shard goes on when the disk does.
//!
//! Three real faults. A limit on the size of files makes the kernel cut writes short and refuse the rest, which
//! SQLite takes for a broken disk (SQLITE_IOERR); it needs no privilege. A full file system (SQLITE_FULL) needs
//! a mount, flushes that fail need strace.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use common::{PATIENCE, Peer, RouterProcess, SmallDisk, Who};
use moor_wire::Code;
use moor_wire::internal::{Stats, StatsResult, Verb, put_control};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

const RECEIVERS: u64 = 20;
const IN_FLIGHT: usize = 200;
const BOB: Who<'static> = Who::new(1, "bob", "phone");

fn receiver(id: u64) -> String {
    format!("account-{}", id % RECEIVERS)
}

/// Everything that was offered, over the lives of all routers.
#[derive(Default)]
struct Ledger {
    next: u64,
    /// Receiver and sync id of each message answered OK.
    accepted: BTreeMap<(String, u64), u64>,
    refused: BTreeSet<u64>,
}

/// A gateway that offers messages without waiting for each answer, so that commits hold many.
struct Load<'a> {
    gateway: Peer,
    ledger: &'a mut Ledger,
    in_flight: usize,
}

impl<'a> Load<'a> {
    fn new(router: &RouterProcess, epoch: u64, ledger: &'a mut Ledger) -> Self {
        let mut gateway = Peer::gateway(router.address, "east", epoch, 0);
        gateway.register(1, vec![BOB.registration(None)]);
        Self { gateway, ledger, in_flight: 0 }
    }

    /// Returns in the midst of it, with messages unanswered.
    fn run_until(&mut self, is_enough: impl Fn(&Ledger) -> bool) {
        let started = Instant::now();
        while !is_enough(self.ledger) {
            assert!(started.elapsed() < PATIENCE, "{} refused", self.ledger.refused.len());
            while self.in_flight < IN_FLIGHT {
                let id = self.ledger.next;
                self.ledger.next += 1;
                self.in_flight += 1;
                let payload = id.to_be_bytes().repeat(128);
                self.gateway.put_submit(&BOB, &receiver(id), &id.to_be_bytes(), &payload);
            }
            self.gateway.flush();
            self.answers(IN_FLIGHT / 2);
        }
    }

    /// Takes answers until no more than `left` are missing.
    fn answers(&mut self, left: usize) {
        while self.in_flight > left {
            self.in_flight -= 1;
            let result = self.gateway.expect_result();
            let id = u64::from_be_bytes((&*result.client_id).try_into().unwrap());
            match result.code() {
                Code::Ok => {
                    assert!(!result.duplicate, "{result:?}");
                    let other = self.ledger.accepted.insert((receiver(id), result.sync_id), id);
                    assert_eq!(other, None, "two messages in one place");
                }
                Code::Storage => assert!(self.ledger.refused.insert(id)),
                code => panic!("{code}"),
            }
        }
    }
}

/// What every receiver is given, by place. The heads say how much that must be.
fn collect(router: &RouterProcess, epoch: u64) -> BTreeMap<(String, u64), u64> {
    let mut service = Peer::service(router.address, "svc");
    let mut gateway = Peer::gateway(router.address, "east", epoch, 0);
    let names: Vec<String> = (0..RECEIVERS).map(receiver).collect();
    let mut got = BTreeMap::new();
    for (session, name) in (100..).zip(&names) {
        let who = Who::new(session, name, "phone");
        gateway.register(1, vec![who.registration(Some(0))]);
        for place in 1..=service.lookup("shop", name).head {
            let (to, delivery) = gateway.expect_delivery();
            assert_eq!((to, delivery.sync_id), (session, place), "a gap");
            let id = u64::from_be_bytes((&*delivery.client_id).try_into().unwrap());
            assert!(delivery.payload == id.to_be_bytes().repeat(128), "a damaged payload");
            got.insert((name.clone(), place), id);
            gateway.ack(&who, place);
        }
        service.ping();
    }
    got
}

fn stat(router: &RouterProcess, name: &str) -> u64 {
    let mut service = Peer::service(router.address, "stats");
    put_control(&mut service.out, Verb::Stats, &Stats { cookie: 1 });
    service.flush();
    let result: StatsResult = service.expect_control(Verb::StatsResult);
    result.stats.iter().find(|stat| stat.name == name).unwrap().value
}

/// A disk that can be made to refuse writes. Healed with the value, at the latest.
trait Fault {
    fn strike(&mut self, router: &RouterProcess);
    fn heal(&mut self);
}

/// Twice with recovery before the end, twice killed while the disk fails.
fn loses_nothing_and_keeps_nothing_refused(data: &Path, mut fault: impl Fault) {
    let mut ledger = Ledger::default();
    let start = || RouterProcess::start_without_xfsz(data, "127.0.0.1:0", &[]);
    for round in 0..4 {
        let router = start();
        let mut load = Load::new(&router, round * 2 + 1, &mut ledger);
        let (accepted, refused) = (load.ledger.accepted.len(), load.ledger.refused.len());
        load.run_until(|now| now.accepted.len() > accepted + 500);
        fault.strike(&router);
        load.run_until(|now| now.refused.len() > refused + 500);
        let failures = stat(&router, "router_store_commit_failures_total");
        let newly_refused = (load.ledger.refused.len() - refused) as u64;
        assert!(failures > 0 && newly_refused > failures, "{failures} commits with {newly_refused} messages");
        if round % 2 == 0 {
            fault.heal();
            let accepted = load.ledger.accepted.len();
            load.run_until(|now| now.accepted.len() > accepted + 500);
        }
        load.answers(0);
        router.kill_9();
        fault.heal();
        common::check_usage(data);
        let router = start();
        let got = collect(&router, round * 2 + 2);
        let lost = ledger.accepted.iter().find(|(place, id)| got.get(*place) != Some(*id));
        assert_eq!(lost, None, "answered OK and not there");
        let kept = got.iter().find(|(place, _)| !ledger.accepted.contains_key(*place));
        assert_eq!(kept, None, "there without having been answered OK");
        router.kill_9();
    }
    let (accepted, refused) = (ledger.accepted.len(), ledger.refused.len());
    println!("offered {}, accepted {accepted}, refused {refused}", ledger.next);
    assert_eq!((accepted + refused) as u64, ledger.next, "every message was answered once");

    // What was refused had not been stored: sent again it is new.
    let router = start();
    let mut gateway = Peer::gateway(router.address, "east", 100, 0);
    for id in ledger.refused.iter().take(200) {
        gateway.put_submit(&BOB, &receiver(*id), &id.to_be_bytes(), b"again");
        gateway.flush();
        let result = gateway.expect_result();
        assert_eq!((result.code(), result.duplicate), (Code::Ok, false));
    }
}

/// Limits the size of the router's files to what its log has now and a little more: each time the log is cut
/// off at another place within a frame.
struct FileLimit {
    log: PathBuf,
    limited: Option<Pid>,
    strikes: u64,
}

impl FileLimit {
    fn set(pid: Pid, current: Option<u64>) -> std::io::Result<()> {
        prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum: None }).map(drop).map_err(Into::into)
    }
}

impl Fault for FileLimit {
    fn strike(&mut self, router: &RouterProcess) {
        self.strikes += 1;
        let bytes = std::fs::metadata(&self.log).unwrap().len() + 40_000 + self.strikes * 1_999;
        Self::set(router.pid(), Some(bytes)).unwrap();
        self.limited = Some(router.pid());
    }

    fn heal(&mut self) {
        if let Some(pid) = self.limited.take() {
            // Fails where the router has been killed meanwhile, and its limit with it.
            Self::set(pid, None).ok();
        }
    }
}

#[test]
fn a_disk_that_breaks_off_in_the_midst_of_writes() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("messages-0.sqlite-wal");
    let fault = FileLimit { log, limited: None, strikes: 0 };
    loses_nothing_and_keeps_nothing_refused(data.path(), fault);
}

/// A file that takes all the space there is.
struct Ballast(PathBuf);

impl Fault for Ballast {
    fn strike(&mut self, _: &RouterProcess) {
        let mut file = File::create(&self.0).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn heal(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn a_disk_that_is_full_in_the_midst_of_writes() {
    let Some(disk) = SmallDisk::mount("48m") else {
        println!("SKIPPED: mounting a tmpfs needs root; run this test as root to see a full disk");
        return;
    };
    loses_nothing_and_keeps_nothing_refused(&disk.path().join("data"), Ballast(disk.path().join("ballast")));
}

/// Fails every flush to the disk by tracing the router: what was written is in the kernel's cache, and nobody
/// may say that it is kept.
struct FailingFlush(Option<Child>);

impl Fault for FailingFlush {
    fn strike(&mut self, router: &RouterProcess) {
        let pid = router.pid().as_raw_nonzero().to_string();
        let inject = "inject=fsync,fdatasync:error=EIO";
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", inject, "-o", "/dev/null", "-p", &pid])
            .spawn()
            .unwrap();
        self.0 = Some(tracer);
        let is_traced = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        };
        let started = Instant::now();
        while !std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(is_traced) {
            assert!(started.elapsed() < PATIENCE, "strace does not attach");
            std::thread::yield_now();
        }
    }

    fn heal(&mut self) {
        if let Some(mut tracer) = self.0.take() {
            // It lets go of the router, which goes on untraced; or both have ended already.
            kill_process(Pid::from_child(&tracer), Signal::TERM).ok();
            tracer.wait().unwrap();
        }
    }
}

#[test]
fn a_disk_that_does_not_flush() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: failing flushes are injected with strace; install it to see them");
        return;
    }
    let data = tempfile::tempdir().unwrap();
    loses_nothing_and_keeps_nothing_refused(data.path(), FailingFlush(None));
}
