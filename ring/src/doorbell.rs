//! A doorbell for threads that have no ring: an eventfd.
//!
//! Ringing is one `write` and never blocks; rings that come before the last one was heard
//! collapse into it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the ring that watches it, from any thread.
#[derive(Clone, Debug)]
pub struct Doorbell {
    fd: Arc<OwnedFd>,
}

impl Doorbell {
    /// A new doorbell that nobody watches yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Doorbell> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Doorbell { fd: Arc::new(fd) })
    }

    /// Rings. Rings before anybody watches are heard when the watch begins.
    pub fn ring(&self) {
        // The only failure an open eventfd knows is a counter at its end (EAGAIN), and then the
        // doorbell has been rung and not been heard yet.
        let result = rustix::io::write(self.fd.as_fd(), &1_u64.to_ne_bytes());
        debug_assert!(matches!(result, Ok(8) | Err(rustix::io::Errno::AGAIN)), "{result:?}");
    }

    /// Takes back every ring so far.
    pub(crate) fn hear(&self) {
        let mut count = [0; 8];
        let result = rustix::io::read(self.fd.as_fd(), &mut count);
        debug_assert!(matches!(result, Ok(8) | Err(rustix::io::Errno::AGAIN)), "{result:?}");
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
