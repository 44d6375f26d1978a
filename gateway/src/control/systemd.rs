//! What systemd is told and what it hands over. Without systemd all of it does nothing.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;

/// The service manager's ear.
#[derive(Debug)]
pub(super) struct Notifier {
    watchdog_every_ms: Option<u64>,
    watchdog_at_ms: u64,
}

impl Notifier {
    /// Reads from the environment whether a watchdog is wanted.
    pub(super) fn new() -> Self {
        let half = |interval: Duration| u64::try_from(interval.as_millis() / 2).unwrap_or(u64::MAX).max(1);
        Self { watchdog_every_ms: sd_notify::watchdog_enabled().map(half), watchdog_at_ms: 0 }
    }

    /// Everything listens.
    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A drain has begun.
    pub(super) fn stopping(&self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Strokes the watchdog at half its interval, but only while `healthy`: a process with a stuck worker is
    /// restarted.
    pub(super) fn stroke(&mut self, now_ms: u64, healthy: bool) {
        let Some(every_ms) = self.watchdog_every_ms else { return };
        if healthy && now_ms >= self.watchdog_at_ms {
            self.watchdog_at_ms = now_ms + every_ms;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Why handed-over sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The variables are set and cannot be read.
    #[error("LISTEN_FDS or LISTEN_PID cannot be read ({0}); start through the socket unit or unset both")]
    Environment(std::io::Error),
    /// The descriptor cannot be taken.
    #[error(
        "the socket handed over as descriptor {0} cannot be taken ({1}); the sandbox must allow pidfd_open and pidfd_getfd"
    )]
    Descriptor(i32, std::io::Error),
    /// The descriptor is something else.
    #[error(
        "descriptor {0} is not a listening TCP socket; the socket unit must use ListenStream= with a port"
    )]
    NotAListener(i32),
}

/// The clients' listeners that a socket unit has handed over, in its order; none without one. With
/// `ReusePort=yes` a unit can open one for each worker.
///
/// The sockets are taken as duplicates, which safe code can own; the originals stay open (close-on-exec) until
/// the process ends, as the unit's own do.
///
/// # Errors
/// [`ActivationError`].
pub fn listeners() -> Result<Vec<TcpListener>, ActivationError> {
    let descriptors = sd_notify::listen_fds().map_err(ActivationError::Environment)?;
    descriptors.map(take).collect()
}

fn take(descriptor: i32) -> Result<TcpListener, ActivationError> {
    let refused = |error: rustix::io::Errno| ActivationError::Descriptor(descriptor, error.into());
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(refused)?;
    let socket: OwnedFd = pidfd_getfd(&own, descriptor, PidfdGetfdFlags::empty()).map_err(refused)?;
    let listens = socket_type(&socket) == Ok(SocketType::STREAM) && socket_acceptconn(&socket) == Ok(true);
    let listener = TcpListener::from(socket);
    if listens && listener.local_addr().is_ok() {
        Ok(listener)
    } else {
        Err(ActivationError::NotAListener(descriptor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    #[test]
    fn a_listener_is_taken_and_others_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = take(listener.as_raw_fd()).unwrap();
        assert_eq!(taken.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_ne!(taken.as_raw_fd(), listener.as_raw_fd());
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(matches!(take(stream.as_raw_fd()), Err(ActivationError::NotAListener(_))));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(take(file.as_raw_fd()), Err(ActivationError::NotAListener(_))));
        assert!(matches!(take(9999), Err(ActivationError::Descriptor(9999, _))));
    }

    /// Not a test: what the one below runs in a process of its own, with systemd's variables set.
    #[test]
    #[ignore = "run by systemd_hears_what_happens"]
    fn child_that_speaks_to_systemd() {
        let mut notifier = Notifier::new();
        notifier.ready("serving");
        notifier.stroke(0, true);
        notifier.stroke(400, true);
        notifier.stroke(500, false);
        notifier.stroke(1100, true);
        notifier.stopping("draining");
    }

    #[test]
    fn systemd_hears_what_happens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let status = child("child_that_speaks_to_systemd")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "1000000")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        socket.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).replace('\n', " "));
        }
        // The stroke at 400 is early; at 500 a worker is stuck.
        assert_eq!(
            heard,
            ["READY=1 STATUS=serving ", "WATCHDOG=1 ", "WATCHDOG=1 ", "STOPPING=1 STATUS=draining "]
        );
    }

    fn child(name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let path = format!("control::systemd::tests::{name}");
        command.args([&path, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command
    }

    /// Not a test: prints the listener it was handed.
    #[test]
    #[ignore = "run by a_socket_unit_hands_its_listener_over"]
    fn child_with_a_listener() {
        for listener in listeners().unwrap() {
            println!("taken {}", listener.local_addr().unwrap());
        }
    }

    #[test]
    fn a_socket_unit_hands_its_listener_over() {
        assert!(listeners().unwrap().is_empty(), "no unit has started the tests");
        // The port is free a moment before; another process could take it and fail the test, never pass it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let program = child("child_with_a_listener");
        let started = Command::new("systemd-socket-activate")
            .arg(format!("--listen={address}"))
            .arg(program.get_program())
            .args(program.get_args())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut activator = match started {
            Ok(activator) => activator,
            Err(error) => {
                eprintln!(
                    "SKIPPED: systemd-socket-activate is not here ({error}); install the package systemd"
                );
                return;
            }
        };
        let mut complaints = BufReader::new(activator.stderr.take().unwrap()).lines();
        let listening = complaints.next().unwrap().unwrap();
        assert!(listening.contains("Listening on"), "{listening}");
        // It starts the program at the first connection.
        let _client = std::net::TcpStream::connect(address).unwrap();
        let output = activator.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("taken {address}")), "{text}");
    }
}
