//! Which of the router's threads run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Held by a thread as long as it runs.
pub type Running = Arc<()>;

#[derive(Debug)]
struct Thread {
    name: Box<str>,
    running: Weak<()>,
}

/// The threads without which a router is not whole. Copies are of the same.
#[derive(Clone, Debug, Default)]
pub struct Threads(Arc<Mutex<Vec<Thread>>>);

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, for it to hold what is returned.
    pub fn add(&self, name: &str) -> Running {
        let running = Running::default();
        self.lock().push(Thread { name: name.into(), running: Arc::downgrade(&running) });
        running
    }

    /// The names of those that have ended.
    pub fn ended(&self) -> Vec<String> {
        let threads = self.lock();
        let ended = threads.iter().filter(|thread| thread.running.strong_count() == 0);
        ended.map(|thread| thread.name.to_string()).collect()
    }

    /// All may end: the router stops.
    pub fn dismiss(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_has_ended_and_one_that_is_dismissed_has_not() {
        let threads = Threads::default();
        let (stop, stopped) = flume::bounded::<()>(0);
        let running = threads.add("good");
        let good = std::thread::spawn(move || {
            stopped.recv().ok();
            drop(running);
        });
        let running = threads.add("bad");
        let bad = std::thread::spawn(move || {
            let _running = running;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(bad.join().is_err());
        assert_eq!(threads.ended(), ["bad"]);
        threads.dismiss();
        drop(stop);
        good.join().unwrap();
        assert!(threads.ended().is_empty());
    }
}
