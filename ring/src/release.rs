//! Whether this kernel lets go of a direct descriptor's file when the descriptor is closed.
//!
//! Before 6.13 a request holds on to the table as it was when the request was made, and what is closed later waits for it,
//! whichever slot it is of ([liburing 1192](https://github.com/axboe/liburing/issues/1192)): a closed connection stays with its peer, and in
//! memory, as long as an older one is waited on. No probe tells; so it is tried.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// Time for the other end to notice; where files are let go at once it is there before the close is reported.
const PATIENCE: Duration = Duration::from_millis(200);

/// Closes a slot while another one is waited on, and looks whether the other end notices.
pub(crate) fn is_prompt() -> io::Result<bool> {
    let mut ring = IoUring::new(4)?;
    let ((waited_on, _silent), (closed, peer)) = (UnixStream::pair()?, UnixStream::pair()?);
    ring.submitter().register_files(&[waited_on.as_raw_fd(), closed.as_raw_fd()])?;
    drop(closed);
    let wait = opcode::PollAdd::new(types::Fixed(0), libc::POLLIN as u32).build();
    let close = opcode::Close::new(types::Fixed(1)).build();
    // SAFETY: both name slots of the ring's table and no memory.
    unsafe { ring.submission().push_multiple(&[wait, close]) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    has_ended(peer)
}

fn has_ended(mut peer: UnixStream) -> io::Result<bool> {
    peer.set_read_timeout(Some(PATIENCE))?;
    match peer.read(&mut [0]) {
        Ok(bytes) => Ok(bytes == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_a_file_that_somebody_keeps() {
        let (ours, peer) = UnixStream::pair().unwrap();
        let kept = ours.try_clone().unwrap();
        drop(ours);
        assert!(!has_ended(peer.try_clone().unwrap()).unwrap());
        drop(kept);
        assert!(has_ended(peer).unwrap());
    }

    #[test]
    fn this_kernel_can_be_asked() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        // Older ones may have been given the repair.
        assert!(is_prompt().unwrap() || version < (6, 13), "{release}");
    }
}
