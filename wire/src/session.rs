//! The handle by which a session is addressed at its gateway.

/// A session is one open channel of one connection. The handle names the worker that owns it, its index in
/// that worker's channel slab and the generation of that index, so that a push to a session that is gone is
/// answered "not here" and never reaches whoever took its place.
///
/// ```text
/// 63        52 51                          24 23                       0
/// +-----------+------------------------------+--------------------------+
/// |  worker   |            index             |        generation        |
/// +-----------+------------------------------+--------------------------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionHandle(pub u64);

/// Most workers a gateway can have.
pub const WORKERS_MAX: u32 = 1 << 12;
/// Most channels a worker can hold.
pub const CHANNELS_PER_WORKER_MAX: u32 = 1 << 28;
/// Generations wrap here.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

impl SessionHandle {
    /// Packs the parts; each is masked to its width.
    #[must_use]
    pub const fn new(worker: u32, index: u32, generation: u32) -> Self {
        Self(
            ((worker & (WORKERS_MAX - 1)) as u64) << 52
                | ((index & (CHANNELS_PER_WORKER_MAX - 1)) as u64) << 24
                | (generation & GENERATION_MASK) as u64,
        )
    }

    /// The worker that owns the session.
    #[must_use]
    pub const fn worker(self) -> u32 {
        (self.0 >> 52) as u32
    }

    /// Index in that worker's channel slab.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "masked to 28 bits")]
    pub const fn index(self) -> u32 {
        (self.0 >> 24) as u32 & (CHANNELS_PER_WORKER_MAX - 1)
    }

    /// Generation of that index.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "masked to 24 bits")]
    pub const fn generation(self) -> u32 {
        self.0 as u32 & GENERATION_MASK
    }
}

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.worker(), self.index(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_survive(worker in 0..WORKERS_MAX, index in 0..CHANNELS_PER_WORKER_MAX, generation in 0..=GENERATION_MASK) {
            let handle = SessionHandle::new(worker, index, generation);
            prop_assert_eq!((handle.worker(), handle.index(), handle.generation()), (worker, index, generation));
        }
    }
}
