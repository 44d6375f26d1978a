//! The sizes of a ring, and why there may be no ring: sentences that say what to do.

use std::io;

use crate::errno::Errno;
use crate::features::FeatureMask;
use crate::limits::{
    COMPLETION_ENTRIES_MAX, COMPLETIONS_PER_SUBMISSION_MIN, DIRECT_SLOTS_MAX, RECV_BUFFER_BYTES_MAX,
    RECV_BUFFERS_MAX, SUBMISSION_ENTRIES_MAX,
};

/// The sizes of a ring.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Requests per system call; the kernel rounds up to a power of two. When more are made, the
    /// ring submits by itself.
    pub submission_entries: u32,
    /// Completions that fit between two looks; at least four times the submissions.
    pub completion_entries: u32,
    /// Connections the ring can hold. The kernel compares it with RLIMIT_NOFILE, per ring.
    pub direct_slots: u32,
    /// Receive buffers shared by all connections, a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Bytes of each receive buffer.
    pub recv_buffer_bytes: u32,
    /// Kernel features to take for missing.
    pub features: FeatureMask,
}

impl Default for RingConfig {
    /// Sizes for one worker with some thousand connections.
    fn default() -> RingConfig {
        RingConfig {
            submission_entries: 1024,
            completion_entries: 8192,
            direct_slots: 4096,
            recv_buffers: 1024,
            recv_buffer_bytes: 4096,
            features: FeatureMask::NONE,
        }
    }
}

impl RingConfig {
    pub(crate) fn check(&self) -> Result<(), RingError> {
        let within = |name, value: u32, max: u32| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(RingError::Range { name, value, max }) }
        };
        within("submission_entries", self.submission_entries, SUBMISSION_ENTRIES_MAX)?;
        within("completion_entries", self.completion_entries, COMPLETION_ENTRIES_MAX)?;
        within("direct_slots", self.direct_slots, DIRECT_SLOTS_MAX)?;
        within("recv_buffers", u32::from(self.recv_buffers), u32::from(RECV_BUFFERS_MAX))?;
        within("recv_buffer_bytes", self.recv_buffer_bytes, RECV_BUFFER_BYTES_MAX)?;
        if self.completion_entries < self.submission_entries * COMPLETIONS_PER_SUBMISSION_MIN {
            return Err(RingError::CompletionQueueShort {
                submissions: self.submission_entries,
                completions: self.completion_entries,
            });
        }
        if !self.recv_buffers.is_power_of_two() {
            return Err(RingError::RecvBuffersNotPowerOfTwo(self.recv_buffers));
        }
        Ok(())
    }
}

/// Why there is no ring, or no progress.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `ENOSYS`.
    #[error(
        "this kernel was built without io_uring, or a sandbox hides it: use Linux 6.1 or newer with CONFIG_IO_URING"
    )]
    NotBuilt,
    /// `EPERM` or `EACCES`.
    #[error(
        "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, and in a container allow the io_uring calls in its seccomp profile"
    )]
    Forbidden,
    /// Below the floor.
    #[error("this kernel's io_uring is too old: use Linux 6.1 or newer")]
    TooOld,
    /// `EMFILE` or `ENFILE` for the ring's own descriptor.
    #[error("no descriptor is left for a ring: raise RLIMIT_NOFILE (LimitNOFILE= in systemd)")]
    OutOfDescriptors,
    /// `ENOMEM`, which before 5.12 accounting and in small cgroups means a limit.
    #[error("not enough memory for a ring: raise RLIMIT_MEMLOCK or the memory limit, or lower its sizes")]
    OutOfMemory,
    /// The direct-descriptor table was refused.
    #[error(
        "cannot register {slots} direct descriptors ({errno}): raise RLIMIT_NOFILE to at least that, or use more workers with fewer connections each"
    )]
    DirectTable {
        /// How many were asked for.
        slots: u32,
        /// What the kernel said.
        errno: Errno,
    },
    /// A setting out of range.
    #[error("{name} is {value}, and has to be between 1 and {max}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The largest legal value.
        max: u32,
    },
    /// The completion queue would overflow.
    #[error(
        "completion_entries is {completions}, and has to be at least four times submission_entries ({submissions})"
    )]
    CompletionQueueShort {
        /// Entries of the submission queue.
        submissions: u32,
        /// Entries of the completion queue.
        completions: u32,
    },
    /// The kernel masks indexes.
    #[error("recv_buffers is {0}, and has to be a power of two")]
    RecvBuffersNotPowerOfTwo(u16),
    /// Any other error of setting up.
    #[error("cannot {what}: {errno}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The ring cannot make progress; a bug, or it was used on another thread.
    #[error("the ring does not take requests any more: {0}")]
    Enter(Errno),
}

impl RingError {
    pub(crate) fn from_setup(error: &io::Error) -> RingError {
        match Errno::from_io(error) {
            Errno::NOSYS => RingError::NotBuilt,
            Errno::PERM | Errno::ACCES => RingError::Forbidden,
            Errno::INVAL => RingError::TooOld,
            Errno::MFILE | Errno::NFILE => RingError::OutOfDescriptors,
            Errno::NOMEM => RingError::OutOfMemory,
            errno => RingError::Setup { what: "set up a ring", errno },
        }
    }

    pub(crate) fn step(what: &'static str) -> impl Fn(io::Error) -> RingError {
        move |error| match Errno::from_io(&error) {
            Errno::NOMEM => RingError::OutOfMemory,
            errno => RingError::Setup { what, errno },
        }
    }
}
