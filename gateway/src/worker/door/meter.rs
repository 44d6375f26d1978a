//! How much the busy connections say.
//!
//! Only busy connections are metered: those that are heard more than [`BUSY_RECEIVES`] times in a window, and those that
//! say more than [`BUSY_FRAMES`] frames at once. What others say is below any limit worth setting (64 frames a second),
//! costs no look-up, and who has been quiet since keeps nothing for it.
//!
//! [`BUSY_RECEIVES`]: crate::limits::BUSY_RECEIVES
//! [`BUSY_FRAMES`]: crate::limits::BUSY_FRAMES

use std::collections::HashMap;

use foldhash::fast::FixedState;
use moor_ring::Slot;

/// Microseconds of a second.
pub const US_PER_S: u32 = 1_000_000;

/// How far ahead of its rate somebody may be who was quiet before, microseconds.
pub const BURST_US: u32 = US_PER_S;

/// How far ahead of its rate somebody is, microseconds, given when the next may come by a clock that wraps after 71
/// minutes. Nobody is ever further ahead than a burst: what looks so was long ago.
fn ahead_us(free_us: u32, now_ms: u64) -> u32 {
    let ahead_us = free_us.wrapping_sub(clock_us(now_ms));
    if ahead_us > BURST_US { 0 } else { ahead_us }
}

#[allow(clippy::cast_possible_truncation, reason = "a clock that wraps")]
const fn clock_us(now_ms: u64) -> u32 {
    (now_ms * 1000) as u32
}

/// Whether something that costs so much of a rate may happen now. Then when the next may.
#[must_use]
pub fn is_due(free_us: u32, now_ms: u64, cost_us: u32) -> Option<u32> {
    let ahead_us = ahead_us(free_us, now_ms);
    (ahead_us <= BURST_US.saturating_sub(cost_us)).then(|| clock_us(now_ms).wrapping_add(ahead_us + cost_us))
}

/// What one connection has said lately.
#[derive(Debug)]
struct Meter {
    frames_free_us: u32,
    /// By number of the channel; few of a connection's are busy at a time.
    channels: Vec<(u16, u32)>,
}

/// Meters of the busy connections.
#[derive(Debug, Default)]
pub struct Meters {
    // Slots are the kernel's choice: nobody can make them collide.
    meters: HashMap<Slot, Meter, FixedState>,
}

impl Meters {
    fn of(&mut self, slot: Slot, now_ms: u64) -> &mut Meter {
        self.meters
            .entry(slot)
            .or_insert_with(|| Meter { frames_free_us: clock_us(now_ms), channels: Vec::new() })
    }

    /// So many frames have come on a connection. False when they are too many.
    pub fn frames(&mut self, slot: Slot, count: u64, per_s: u32, now_ms: u64) -> bool {
        let meter = self.of(slot, now_ms);
        let cost_us = u64::from(US_PER_S) * count / u64::from(per_s);
        // One receive is never too many by itself.
        let cost_us = u32::try_from(cost_us).unwrap_or(BURST_US).clamp(1, BURST_US);
        let next_us = is_due(meter.frames_free_us, now_ms, cost_us);
        meter.frames_free_us = next_us.unwrap_or(meter.frames_free_us);
        next_us.is_some()
    }

    /// Whether a channel may say one more message; then it has.
    pub fn message(&mut self, slot: Slot, channel: u16, per_s: u32, now_ms: u64) -> bool {
        let meter = self.of(slot, now_ms);
        let cost_us = (US_PER_S / per_s).max(1);
        if let Some((_, free_us)) = meter.channels.iter_mut().find(|(number, _)| *number == channel) {
            let next_us = is_due(*free_us, now_ms, cost_us);
            *free_us = next_us.unwrap_or(*free_us);
            return next_us.is_some();
        }
        // Those who have been quiet since need no place.
        meter.channels.retain(|(_, free_us)| ahead_us(*free_us, now_ms) > 0);
        meter.channels.push((channel, clock_us(now_ms).wrapping_add(cost_us)));
        true
    }

    /// Forgets who has been quiet since.
    pub fn tidy(&mut self, now_ms: u64) {
        self.meters.retain(|_, meter| {
            meter.channels.retain(|(_, free_us)| ahead_us(*free_us, now_ms) > 0);
            ahead_us(meter.frames_free_us, now_ms) > 0 || !meter.channels.is_empty()
        });
        // All places are looked at, taken or not.
        if self.meters.capacity() > 4 * self.meters.len() {
            self.meters.shrink_to_fit();
        }
    }

    /// A connection is over.
    pub fn forget(&mut self, slot: Slot) {
        self.meters.remove(&slot);
    }

    /// Whether nobody is metered. For tests.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.meters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_its_rate_and_a_seconds_worth_at_once() {
        let mut meters = Meters::default();
        let mut said = |channel, from: u64, to: u64| {
            (from..to)
                .flat_map(|now| [now; 5])
                .filter(|now| meters.message(Slot(1), channel, 100, *now))
                .count()
        };
        assert_eq!(said(1, 1000, 2000), 100 + 99);
        assert_eq!(said(2, 2000, 2001), 5, "another channel is another's");
        assert_eq!(said(1, 2000, 3000), 100);
        assert_eq!(said(1, 4_294_900, 4_295_900), 100 + 99, "over the wrap of the clock");
    }

    #[test]
    fn channels_that_are_quiet_are_forgotten() {
        let mut meters = Meters::default();
        for channel in 0..1000 {
            assert!(meters.message(Slot(1), channel, 10, 1000 + u64::from(channel) * 50));
        }
        assert!(meters.meters[&Slot(1)].channels.len() <= 3);
        meters.tidy(1000 + 999 * 50 + 50);
        assert_eq!(meters.meters.len(), 1, "it said something a moment ago");
        meters.tidy(1000 + 999 * 50 + 100);
        assert!(meters.is_empty());
    }

    #[test]
    fn frames_count_together_however_they_come() {
        let mut meters = Meters::default();
        let bursts = (0..20).filter(|_| meters.frames(Slot(1), 100, 1000, 5000)).count();
        assert_eq!(bursts, 10);
        assert!(!meters.frames(Slot(1), 1, 1000, 5000) && meters.frames(Slot(1), 1, 1000, 5001));
        assert!(meters.frames(Slot(2), 1_000_000, 10, 5000), "one receive is never too many by itself");
        meters.forget(Slot(1));
        assert!(meters.frames(Slot(1), 100, 1000, 5000));
    }
}
