//! When to try again: exponential growth with full jitter, so that a thousand services that lost the same
//! router do not come back in the same millisecond.

/// A pause between zero and `base_ms` doubled `attempt` times, never above `cap_ms`.
///
/// `random` decides where in that window: a uniformly distributed number. The same arguments give the same
/// pause.
#[must_use]
pub fn full_jitter(base_ms: u64, cap_ms: u64, attempt: u32, random: u64) -> u64 {
    let factor = 1u64.checked_shl(attempt).unwrap_or(u64::MAX);
    let window = base_ms.saturating_mul(factor).min(cap_ms);
    window.checked_add(1).map_or(random, |steps| random % steps)
}

#[cfg(test)]
mod tests {
    use super::full_jitter;

    #[test]
    fn the_window_doubles_up_to_the_cap() {
        for (attempt, window) in [(0, 100), (1, 200), (3, 800), (7, 5000), (63, 5000), (u32::MAX, 5000)] {
            assert_eq!(full_jitter(100, 5000, attempt, window), window);
            assert_eq!(full_jitter(100, 5000, attempt, window + 1), 0);
            assert!((0..10_000).all(|random| full_jitter(100, 5000, attempt, random) <= window));
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(full_jitter(u64::MAX, u64::MAX, u32::MAX, u64::MAX), u64::MAX);
        assert_eq!(full_jitter(0, 0, 5, 12345), 0);
    }
}
