//! Signals, as messages to the control thread.

use std::io;
use std::sync::mpsc::{self, Receiver};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::lifecycle::Signal;

/// Takes SIGTERM, SIGINT and SIGHUP from now on and passes them to the receiver. To be called before other
/// threads start, so that no signal is lost in between.
///
/// # Errors
/// The kernel refuses the handlers or the thread.
pub fn watch() -> io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let asked = if signal == SIGHUP { Signal::Reload } else { Signal::Terminate };
            if sender.send(asked).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn signals_arrive_as_messages() {
        let receiver = watch().unwrap();
        let hear = || receiver.recv_timeout(Duration::from_secs(5)).unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert_eq!(hear(), Signal::Reload);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(hear(), Signal::Terminate);
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(hear(), Signal::Terminate);
    }
}
