//! What registering costs: sessions a second and resident bytes per session of a whole router.
//! `cargo run --release -p moor-router --example registers -- [sessions]`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a measurement, not a service"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use moor_router::RouterConfig;
use moor_wire::internal::{Hello, Register, Registration, Role, Verb, frame_reader, put_control};
use moor_wire::session::SessionHandle;

const BATCH: u64 = 512;
const BATCHES_UNANSWERED_MAX: u64 = 4;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn main() {
    let sessions: u64 = std::env::args().nth(1).map_or(500_000, |text| text.parse().unwrap());
    let directory = tempfile::tempdir_in(".").unwrap();
    let router = moor_router::start(RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        ..RouterConfig::default()
    })
    .unwrap();
    let mut stream = TcpStream::connect(router.listen_addr()).unwrap();
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
    let (mut reader, mut chunk) = (frame_reader(), vec![0; 64 * 1024]);
    let (mut sent, mut answered) = (0, 0);
    let batches = sessions.div_ceil(BATCH);
    let (mut start, mut start_bytes, mut start_batches) = (Instant::now(), 0, 0);
    while answered < batches {
        while sent < batches && sent - answered < BATCHES_UNANSWERED_MAX {
            let registration = |number: u64| Registration {
                session: SessionHandle::new(0, number as u32, 1).0,
                app: "shopping".into(),
                account: format!("account-{number:016}"),
                device: format!("device-{number:09}"),
                last_sync_id: None,
                is_new: true,
            };
            let sessions = (sent * BATCH..(sent + 1) * BATCH).map(registration).collect();
            put_control(&mut out, Verb::Register, &Register { batch: sent as u32, sessions });
            sent += 1;
        }
        stream.write_all(&out).unwrap();
        out.clear();
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the router closed the link");
        reader.push(&chunk[..count]);
        while let Some(frame) = reader.try_next().unwrap() {
            if frame.header.kind == Verb::Registered.byte() {
                answered += 1;
            }
        }
        // From a fifth on, so that fixed costs drop out.
        if start_bytes == 0 && answered >= batches / 5 {
            (start, start_bytes, start_batches) = (Instant::now(), resident_bytes(), answered);
        }
    }
    let counted = (batches - start_batches) * BATCH;
    println!(
        "{:.0} registrations/s, {} resident bytes per session ({} sessions)",
        counted as f64 / start.elapsed().as_secs_f64(),
        (resident_bytes() - start_bytes) / counted,
        batches * BATCH
    );
}
