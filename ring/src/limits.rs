//! Every maximum of this crate, with its unit and its reason.

/// Entries of a submission queue. The kernel takes up to 32,768 (`IORING_MAX_ENTRIES`), but its
/// completion queue ends at 65,536 and has to be four times as long.
pub const SUBMISSION_ENTRIES_MAX: u32 = 16_384;

/// Entries of a completion queue (`IORING_MAX_CQ_ENTRIES`).
pub(crate) const COMPLETION_ENTRIES_MAX: u32 = 65_536;

/// Completions per submission entry, at least. Multishot requests complete many times, and a
/// completion queue that overflows ends them.
pub const COMPLETIONS_PER_SUBMISSION_MIN: u32 = 4;

/// Slots of a direct-descriptor table (`IORING_MAX_FIXED_FILES`, 2^20 since 5.13).
pub const DIRECT_SLOTS_MAX: u32 = 1 << 20;

/// Buffers of a provided-buffer ring: its tail is 16 bits and the kernel keeps one bit back.
pub const RECV_BUFFERS_MAX: u16 = 1 << 15;

/// Bytes of one receive buffer. Far above any frame; bounds the memory one ring can map to
/// 32,768 buffers of 1 MiB.
pub(crate) const RECV_BUFFER_BYTES_MAX: u32 = 1 << 20;

/// Largest value a message between rings can carry: 56 bits, since the operation takes eight.
pub const MESSAGE_VALUE_MAX: u64 = (1 << 56) - 1;

/// System calls that one `pop` may make to run deferred work before it reports an empty queue.
/// Each runs everything that was pending, so two do; the rest is for work that begets work.
pub(crate) const FLUSHES_PER_POP_MAX: u32 = 4;

/// Group of the provided-buffer ring. There is one a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

const _: () = assert!(SUBMISSION_ENTRIES_MAX * COMPLETIONS_PER_SUBMISSION_MIN <= COMPLETION_ENTRIES_MAX);
const _: () = assert!(RECV_BUFFERS_MAX.is_power_of_two());
const _: () = assert!((RECV_BUFFERS_MAX as usize) * (RECV_BUFFER_BYTES_MAX as usize) <= isize::MAX as usize);
