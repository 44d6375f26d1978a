//! How many durable submits a second one shard takes: a router in this process, one gateway link, a window
//! of unanswered submits. `cargo run --release -p moor-router --example submits -- [seconds] [window] [full|normal|off]`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a measurement, not a service"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use moor_router::{Fsync, RouterConfig};
use moor_wire::Code;
use moor_wire::client::{Kind, Submit, SubmitResult};
use moor_wire::internal::{Hello, Push, Role, Up, Verb, frame_reader, put_control};
use moor_wire::session::SessionHandle;
use prost::Message;

const ACCOUNTS: u64 = 100_000;
const PAYLOAD_BYTES: usize = 100;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(5, |text| text.parse().unwrap());
    let window: u64 = arguments.next().map_or(2_000, |text| text.parse().unwrap());
    let fsync = match arguments.next().as_deref() {
        None | Some("full") => Fsync::Full,
        Some("normal") => Fsync::Normal,
        _ => Fsync::Off,
    };
    let directory = tempfile::tempdir_in(".").unwrap();
    let router = moor_router::start(RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        fsync,
        ..RouterConfig::default()
    })
    .unwrap();
    let mut stream = TcpStream::connect(router.listen_addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut out = Vec::new();
    let hello = Hello {
        version: 1,
        role: Role::Gateway.into(),
        node: "measure".into(),
        epoch: 1,
        worker: Some(0),
        workers: 1,
        ..Hello::default()
    };
    put_control(&mut out, Verb::Hello, &hello);
    let (mut sent, mut accepted, mut failed) = (0u64, 0u64, 0u64);
    let mut started_at: HashMap<u64, Instant> = HashMap::new();
    let mut latencies_us: Vec<u64> = Vec::new();
    let (mut reader, mut chunk) = (frame_reader(), vec![0; 256 * 1024]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        while sent - accepted - failed < window {
            let submit = Submit {
                client_id: sent.to_be_bytes().to_vec().into(),
                to: format!("account-{}", fastrand::u64(..ACCOUNTS)),
                payload: vec![0; PAYLOAD_BYTES].into(),
                ..Submit::default()
            };
            let body = submit.encode_to_vec();
            let up = Up {
                session: SessionHandle(1),
                kind: Kind::Data.byte(),
                flags: 1,
                app: "shop",
                account: "bob",
                device: "phone",
                body: &body,
            };
            up.put(&mut out);
            started_at.insert(sent, Instant::now());
            sent += 1;
        }
        stream.write_all(&out).unwrap();
        out.clear();
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the router closed the link");
        reader.push(&chunk[..count]);
        while let Some(frame) = reader.try_next().unwrap() {
            if frame.header.kind == Verb::Push.byte() {
                let result = SubmitResult::decode(Push::parse(&frame.body).unwrap().body).unwrap();
                let id = u64::from_be_bytes((&result.client_id[..]).try_into().unwrap());
                latencies_us.push(started_at.remove(&id).unwrap().elapsed().as_micros() as u64);
                if result.code() == Code::Ok { accepted += 1 } else { failed += 1 }
            }
        }
    }
    let elapsed = start.elapsed();
    latencies_us.sort_unstable();
    let at = |share: f64| latencies_us[((latencies_us.len() - 1) as f64 * share) as usize];
    let stats: HashMap<_, _> = router.stats().into_iter().collect();
    println!(
        "{:.0} submits/s answered OK ({accepted} in {elapsed:.1?}, {failed} failed), fsync {fsync:?}, window {window}, {PAYLOAD_BYTES} B payload, {ACCOUNTS} accounts",
        accepted as f64 / elapsed.as_secs_f64()
    );
    println!("latency p50 {} us, p99 {} us, max {} us", at(0.5), at(0.99), at(1.0));
    let commits = stats["router_store_commits_total"].max(1);
    println!(
        "{commits} commits, {} operations each, {} us each, {} checkpoints",
        stats["router_store_commit_ops_total"] / commits,
        stats["router_store_commit_us_total"] / commits,
        stats["router_store_checkpoints_total"]
    );
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    println!(
        "resident {} MiB",
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024 / 1024
    );
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        println!("{:?} {} MiB", entry.file_name(), entry.metadata().unwrap().len() >> 20);
    }
}
