//! How the process gets its memory, and gives it back.

use std::io;

/// Gives the whole process memory in ordinary pages, whatever its allocator asks for.
///
/// An allocator that asks for huge pages grows in steps of 2 MiB per thread and keeps them: measured with
/// 100,000 idle sessions on six workers, 130 MB resident with huge pages and 72 MB without (6.18).
///
/// # Errors
/// `EINVAL` on kernels without transparent huge pages, where there is nothing to switch off.
pub fn ordinary_pages_only() -> io::Result<()> {
    // SAFETY: this option of prctl takes plain numbers and touches no memory of the caller.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives back to the system what the calling thread has freed.
///
/// mimalloc purges freed pages a second after they were freed, but looks whether that second is over only while it
/// is asked for memory: a thread that everybody has left would keep theirs for ever. A call visits the pages of the
/// calling thread's heap and purges them at once: 2 to 140 microseconds with 16,000 sessions, 0.8 milliseconds after
/// most of them have left. Without effect where mimalloc is not the global allocator.
pub fn give_back() {
    // SAFETY: may be called at any time from any thread; it touches nothing that is allocated.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_that_huge_pages_are_off() {
        super::ordinary_pages_only().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(
            status.lines().any(|line| line.starts_with("THP_enabled:") && line.ends_with('0')),
            "{status}"
        );
    }
}
