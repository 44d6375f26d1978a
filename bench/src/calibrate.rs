//! What a bare connection costs the kernel on this host: the zero line of the memory figures.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{Completion, ConnectOptions, FeatureMask, Ring, RingConfig, Slot, Token};

use crate::memory::kernel_bytes;

/// Connections measured.
const PAIRS: u32 = 8000;
/// Connects under way.
const BURST: u32 = 128;
/// Longest time it may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of kernel memory.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// A loopback connection, both ends in descriptor slots, nothing armed.
    pub pair: f64,
    /// One armed poll.
    pub poll: f64,
}

/// Opens connections to itself and weighs them, first bare, then with a poll on one end.
pub fn bare() -> Result<Bare, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the bare connections cannot be measured ({error})");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any, &ListenOptions::default()).map_err(|e| failed(&e))?;
    let target = listener.local_addr().map_err(|e| failed(&e))?;
    let mut ring = Ring::new(&RingConfig {
        submission_entries: 1024,
        completion_entries: 16_384,
        direct_slots: 2 * PAIRS + 16,
        recv_buffers: 16,
        recv_buffer_bytes: 64,
        features: FeatureMask::NONE,
    })
    .map_err(|e| failed(&e))?;
    let before = settled();
    let started = Instant::now();
    let listener = ring.add_listener(listener);
    ring.accept_multishot(listener, Token::new(0, 0));
    let (mut asked, mut ends) = (0, Vec::new());
    let mut accepted = 0;
    while ends.len() < PAIRS as usize || accepted < PAIRS {
        while asked < PAIRS && asked - u32::try_from(ends.len()).unwrap_or(0) < BURST {
            let source = SocketAddr::from((Ipv4Addr::new(127, 2, 0, 1), 0));
            ring.connect(
                target,
                ConnectOptions { source: Some(source), nodelay: true },
                Token::new(asked, 0),
            );
            asked += 1;
        }
        ring.submit_and_wait(1, Some(Duration::from_millis(100))).map_err(|e| failed(&e))?;
        while let Some(completion) = ring.pop() {
            match completion {
                Completion::Accepted { result: Ok(_), .. } => accepted += 1,
                Completion::Connected { result: Ok(slot), .. } => ends.push(slot),
                Completion::Accepted { result: Err(error), .. }
                | Completion::Connected { result: Err(error), .. } => return Err(failed(&error)),
                _ => {}
            }
        }
        if started.elapsed() > LIMIT {
            return Err(failed(&"it takes too long"));
        }
    }
    let connected = settled();
    arm(&mut ring, &ends).map_err(|e| failed(&e))?;
    let armed = settled();
    Ok(Bare { pair: per(before, connected), poll: per(connected, armed).max(0.0) })
}

fn arm(ring: &mut Ring, ends: &[Slot]) -> Result<(), moor_ring::RingError> {
    for (index, slot) in (0..).zip(ends) {
        ring.poll_readable(*slot, Token::new(index, 1));
    }
    ring.submit_and_wait(0, Some(Duration::from_millis(10)))
}

#[allow(clippy::cast_precision_loss, reason = "bytes of this host's memory are far below 2^52")]
fn per(before: u64, after: u64) -> f64 {
    (after as f64 - before as f64) / f64::from(PAIRS)
}

/// Kernel memory when it no longer moves: what the kernel frees late is waited for, up to ten seconds.
pub fn settled() -> u64 {
    let started = Instant::now();
    let (mut last, mut still) = (kernel_bytes(), 0);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = kernel_bytes();
        still = if now.abs_diff(last) < 128 * 1024 { still + 1 } else { 0 };
        if still >= 4 || started.elapsed() > Duration::from_secs(10) {
            return now;
        }
        last = now;
    }
}
