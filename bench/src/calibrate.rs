//! What a bare pair of sockets costs on this kernel, and what a poll on it costs: both measured in the same run
//! as the sessions, so that "above a bare socket" compares like with like.
//!
//! Both ends live in direct descriptors of rings of this process, as the gateway's and the harness's do, and
//! nothing is armed on them. Then a poll is armed on one end, as the harness does on each of its connections.
//! It runs beside the sessions, on top of them: slabs that ended sessions left half empty would hide the growth.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{Completion, ConnectOptions, Errno, Ring, RingConfig, RingError, Slot, Token};

use crate::clock::{Clock, Nanos};
use crate::error::BenchError;
use crate::limits::{CALIBRATION_MS_MAX, CALIBRATION_OUTSTANDING, SETTLE_MS};
use crate::proc::KernelMemory;

/// Where the bare sockets connect from: an address that no session uses.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 127, 0, 1);

/// What was learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Kernel bytes of two connected sockets in direct descriptors.
    pub bare_pair_bytes: f64,
    /// Kernel bytes of a one-shot poll armed on one of them.
    pub poll_bytes: f64,
}

/// Measures with so many pairs.
///
/// # Errors
/// When rings or sockets cannot be had.
pub fn calibrate(pairs: u32, clock: Clock) -> Result<Calibration, BenchError> {
    // A thread of its own: rings belong to the thread that made them.
    let measuring = thread::Builder::new()
        .name("calibrate".to_owned())
        .spawn(move || measure(pairs, clock))
        .map_err(|error| BenchError::System { what: "start a thread".to_owned(), error })?;
    measuring.join().map_err(|_| BenchError::ThreadGone)?
}

fn measure(pairs: u32, clock: Clock) -> Result<Calibration, BenchError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |error| BenchError::System { what, error }
    };
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &ListenOptions::default())
        .map_err(system("listen for bare sockets"))?;
    let address = listener.local_addr().map_err(system("listen for bare sockets"))?;
    let mut pairing = Pairing {
        accepting: ring(pairs)?,
        connecting: ring(pairs)?,
        address,
        slots: Vec::with_capacity(pairs as usize),
        accepted: 0,
        failed: None,
        deadline: clock.now().plus_ms(CALIBRATION_MS_MAX),
        clock,
    };
    let id = pairing.accepting.add_listener(listener);
    pairing.accepting.accept_multishot(id, Token::new(0, 0));
    let before = settled();
    pairing.open(pairs)?;
    let bare = settled();
    pairing.arm()?;
    let armed = settled();
    pairing.reset()?;
    Ok(Calibration {
        bare_pair_bytes: slope(before.total(), bare.total(), pairs),
        poll_bytes: slope(bare.total(), armed.total(), pairs),
    })
}

/// Bytes per piece; negative when memory shrank meanwhile.
#[allow(clippy::cast_precision_loss)]
pub fn slope(before: u64, after: u64, pieces: u32) -> f64 {
    (after as f64 - before as f64) / f64::from(pieces.max(1))
}

fn settled() -> KernelMemory {
    thread::sleep(Duration::from_millis(SETTLE_MS));
    KernelMemory::read()
}

fn ring(pairs: u32) -> Result<Ring, RingError> {
    Ring::new(&RingConfig { direct_slots: pairs + 1, recv_buffers: 8, ..RingConfig::default() })
}

struct Pairing {
    accepting: Ring,
    connecting: Ring,
    address: SocketAddr,
    slots: Vec<Slot>,
    accepted: u32,
    failed: Option<Errno>,
    deadline: Nanos,
    clock: Clock,
}

impl Pairing {
    /// Opens the pairs.
    fn open(&mut self, pairs: u32) -> Result<(), BenchError> {
        let options = ConnectOptions { source: Some(SocketAddr::from((SOURCE, 0))), nodelay: true };
        let mut begun = 0;
        while self.slots.len() < pairs as usize || self.accepted < pairs {
            // Bounded by both ends: what is connected and not accepted yet waits in the listener.
            while begun < pairs && begun < self.accepted + CALIBRATION_OUTSTANDING {
                self.connecting.connect(self.address, options, Token::new(begun, 0));
                begun += 1;
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Arms a poll on each connecting end.
    fn arm(&mut self) -> Result<(), BenchError> {
        for (index, &slot) in (0..).zip(&self.slots) {
            self.connecting.poll_readable(slot, Token::new(index, 1));
        }
        self.connecting.submit_and_wait(0, None).map_err(BenchError::from)
    }

    /// Ends each pair with a reset, which leaves nothing behind and completes the polls: closing a ring with
    /// thousands of armed requests is slow.
    fn reset(&mut self) -> Result<(), BenchError> {
        for (index, slot) in (0..).zip(std::mem::take(&mut self.slots)) {
            self.connecting.reset(slot, Token::new(index, 2));
            if index % 256 == 0 {
                self.drain()?;
            }
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<(), BenchError> {
        for ring in [&mut self.connecting, &mut self.accepting] {
            ring.submit_and_wait(0, None)?;
            while ring.pop().is_some() {}
        }
        Ok(())
    }

    /// Moves both rings; fails when the time is over.
    fn turn(&mut self) -> Result<(), BenchError> {
        for ring in [&mut self.connecting, &mut self.accepting] {
            ring.submit_and_wait(1, Some(Duration::from_micros(500)))?;
            while let Some(completion) = ring.pop() {
                match completion {
                    Completion::Connected { result: Ok(slot), .. } => self.slots.push(slot),
                    Completion::Accepted { result: Ok(_), .. } => self.accepted += 1,
                    Completion::Connected { result: Err(errno), .. }
                    | Completion::Accepted { result: Err(errno), .. } => self.failed = Some(errno),
                    _ => {}
                }
            }
        }
        let error = match self.failed {
            Some(errno) => errno.into(),
            None if self.clock.now() >= self.deadline => std::io::ErrorKind::TimedOut.into(),
            None => return Ok(()),
        };
        Err(BenchError::System { what: "open bare sockets to compare with".to_owned(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_costs_kilobytes_and_ends() {
        let result = calibrate(2_000, Clock::start()).unwrap();
        // Other programs use slab as well, so only the order of magnitude is sure.
        assert!(result.bare_pair_bytes > 2_000.0 && result.bare_pair_bytes < 50_000.0, "{result:?}");
    }
}
