//! The two system calls that the io-uring crate does not offer in the form needed here.
//!
//! Its `Submitter` remembers a registered ring descriptor, but it borrows the ring and is made
//! anew for each call, so the index is kept here instead. A registered index saves the look-up
//! of the descriptor in each call (5.18).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::EnterFlags;

/// `IORING_REGISTER_RING_FDS` and its opposite (5.18).
const REGISTER_RING_FDS: libc::c_long = 20;
const UNREGISTER_RING_FDS: libc::c_long = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEventsArgument {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// How the kernel is told which ring is meant.
#[derive(Copy, Clone, Debug)]
pub(crate) enum RingName {
    Descriptor(RawFd),
    /// Valid on the thread that registered it, until it is unregistered.
    Registered(u32),
}

/// Submits `to_submit` entries; with `get_events` also runs deferred work and waits for `want`
/// completions or the timeout.
pub(crate) fn enter(
    ring: RingName,
    to_submit: u32,
    get_events: bool,
    want: u32,
    timeout: Option<Duration>,
) -> io::Result<u32> {
    let mut flags = if get_events { EnterFlags::GETEVENTS } else { EnterFlags::empty() };
    let name = match ring {
        RingName::Descriptor(fd) => libc::c_long::from(fd),
        RingName::Registered(index) => {
            flags.insert(EnterFlags::REGISTERED_RING);
            libc::c_long::from(index)
        }
    };
    let timespec = timeout.map(|timeout| KernelTimespec {
        seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: i64::from(timeout.subsec_nanos()),
    });
    let argument = timespec.as_ref().map(|timespec| GetEventsArgument {
        signal_mask: 0,
        signal_mask_size: 0,
        min_wait_us: 0,
        timespec: std::ptr::from_ref(timespec) as u64,
    });
    let (pointer, size) = match &argument {
        Some(argument) => {
            flags.insert(EnterFlags::EXT_ARG);
            (std::ptr::from_ref(argument), size_of::<GetEventsArgument>())
        }
        None => (std::ptr::null(), 0),
    };
    // SAFETY: the kernel reads `argument` and, through it, `timespec` during this call only, and
    // both live on this frame until it returns; without a timeout it is told that there is
    // neither. The entries it consumes were vouched for when they were pushed.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_enter, name, to_submit, want, flags.bits(), pointer, size)
    };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Registers the ring's descriptor for this thread. The registration holds the ring open, so it
/// has to be undone before the ring can go.
pub(crate) fn register_ring_fd(ring: BorrowedFd<'_>) -> io::Result<u32> {
    let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: 0 };
    update.data = u64::from(ring.as_raw_fd().unsigned_abs());
    register(ring, REGISTER_RING_FDS, &mut update)?;
    Ok(update.offset)
}

/// Undoes [`register_ring_fd`]; `index` is what that returned.
pub(crate) fn unregister_ring_fd(ring: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut update = ResourceUpdate { offset: index, reserved: 0, data: 0 };
    register(ring, UNREGISTER_RING_FDS, &mut update)
}

fn register(ring: BorrowedFd<'_>, what: libc::c_long, update: &mut ResourceUpdate) -> io::Result<()> {
    let pointer = std::ptr::from_mut(update);
    // SAFETY: `update` is a live, exclusively borrowed `io_uring_rsrc_update`, of which both
    // operations read and write exactly one, as the count says, during this call only.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), what, pointer, 1_u32) };
    if result == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
