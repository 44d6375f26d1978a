//! Where a thread runs, and whom it gives way to.

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

/// The calling thread waits for its turn when it wakes up, instead of taking the processor from whoever runs
/// (`SCHED_BATCH`); its niceness stays.
///
/// Where there are more busy threads than processors each then finds more to do in its turn: half the switches, and
/// where nobody else wants the processor nothing changes.
///
/// # Errors
/// `EPERM` where a filter of system calls forbids it.
pub fn batch_current() -> io::Result<()> {
    schedule_current(libc::SCHED_BATCH, 0)
}

/// The calling thread runs whenever it is awake, before all others that are not so privileged (`SCHED_FIFO`, lowest
/// priority). For threads that sleep nearly all the time and must be on time: it stops for nobody.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or a `RLIMIT_RTPRIO`.
pub fn real_time_current() -> io::Result<()> {
    schedule_current(libc::SCHED_FIFO, 1)
}

fn schedule_current(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: 0 is the calling thread, and the structure outlives the call, which only reads it.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::{batch_current, cpus_allowed, pin_current, real_time_current};

    #[test]
    fn a_batch_thread_is_one_for_itself_alone_and_so_is_a_real_time_one() {
        let policy = || {
            // SAFETY: takes a number and returns one.
            unsafe { libc::sched_getscheduler(0) }
        };
        let before = policy();
        let batch = move || {
            batch_current().unwrap();
            assert_eq!(policy(), libc::SCHED_BATCH);
        };
        let real_time = move || match real_time_current() {
            Ok(()) => assert_eq!(policy(), libc::SCHED_FIFO),
            Err(error) => assert_eq!((error.raw_os_error(), policy()), (Some(libc::EPERM), before)),
        };
        std::thread::spawn(batch).join().unwrap();
        std::thread::spawn(real_time).join().unwrap();
        assert_eq!(policy(), before);
        assert!(before != libc::SCHED_BATCH && before != libc::SCHED_FIFO);
    }

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
