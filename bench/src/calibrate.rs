//! What a bare connection costs the kernel on this host: the zero line of the memory figures.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{Completion, ConnectOptions, FeatureMask, Ring, RingConfig, Slot, Token};

use crate::memory::kernel_bytes;

/// Connections measured.
const PAIRS: u32 = 7800;
/// Connections before them: each takes what the kernel's per-processor lists have left of other work, which the
/// kernel counts as in use and which would make those measured look lighter, by up to a hundred bytes.
const WARM: u32 = 2000;
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

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("the bare connections cannot be measured ({error})")
}

/// Opens connections to itself and weighs them, first bare, then with a poll on one end.
pub fn bare() -> Result<Bare, String> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any, &ListenOptions::default()).map_err(|e| failed(&e))?;
    let target = listener.local_addr().map_err(|e| failed(&e))?;
    let mut ring = Ring::new(&RingConfig {
        submission_entries: 1024,
        completion_entries: 16_384,
        direct_slots: 2 * (WARM + PAIRS) + 16,
        recv_buffers: 16,
        recv_buffer_bytes: 64,
        features: FeatureMask::NONE,
    })
    .map_err(|e| failed(&e))?;
    let listener = ring.add_listener(listener);
    ring.accept_multishot(listener, Token::new(0, 0));
    let warm = connect(&mut ring, target, WARM)?;
    let before = settled();
    let ends = connect(&mut ring, target, PAIRS)?;
    let connected = settled();
    arm(&mut ring, &warm, 0).map_err(|e| failed(&e))?;
    let warmed = settled();
    arm(&mut ring, &ends, WARM).map_err(|e| failed(&e))?;
    let armed = settled();
    Ok(Bare { pair: per(before, connected), poll: per(warmed, armed).max(0.0) })
}

/// That many more connections of this ring to itself; the connecting ends.
fn connect(ring: &mut Ring, target: SocketAddr, many: u32) -> Result<Vec<Slot>, String> {
    let source = Some(SocketAddr::from((Ipv4Addr::new(127, 2, 0, 1), 0)));
    let options = ConnectOptions { source, nodelay: true, reset_on_close: true };
    let started = Instant::now();
    let (mut asked, mut accepted, mut ends) = (0, 0, Vec::new());
    while ends.len() < many as usize || accepted < many {
        while asked < many && asked - u32::try_from(ends.len()).unwrap_or(0) < BURST {
            ring.connect(target, options, Token::new(asked, 0));
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
    Ok(ends)
}

fn arm(ring: &mut Ring, ends: &[Slot], first: u32) -> Result<(), moor_ring::RingError> {
    for (index, slot) in (first..).zip(ends) {
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
    let read = || Ok::<_, Infallible>(kernel_bytes());
    let Ok(bytes) = at_rest(read, 128 * 1024, Duration::from_millis(500), Duration::from_secs(10));
    bytes
}

/// What is read, when it has moved by less than `step` for the time of `rest`, or after `limit`.
pub fn at_rest<E>(
    mut read: impl FnMut() -> Result<u64, E>,
    step: u64,
    rest: Duration,
    limit: Duration,
) -> Result<u64, E> {
    let started = Instant::now();
    let (mut last, mut since) = (read()?, started);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = read()?;
        if now.abs_diff(last) >= step {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= rest || started.elapsed() >= limit {
            return Ok(now);
        }
    }
}
