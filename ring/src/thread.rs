//! Where a thread runs.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pins the calling thread to one processor.
///
/// # Errors
/// `EINVAL` when there is no such processor or the thread may not run there.
pub fn pin_current(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The processors the calling thread may run on, ascending.
///
/// # Errors
/// `EINVAL` on machines with more processors than the set can name.
pub fn cpus_allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

#[cfg(test)]
mod tests {
    use super::{cpus_allowed, pin_current};

    #[test]
    fn a_pinned_thread_has_one_processor() {
        // On a thread of its own: affinity belongs to the thread.
        let check = || {
            let last = *cpus_allowed().unwrap().last().unwrap();
            pin_current(last).unwrap();
            assert_eq!(cpus_allowed().unwrap(), [last]);
            assert!(pin_current(usize::MAX).is_err());
        };
        std::thread::spawn(check).join().unwrap();
    }
}
