//! A port at start: what nobody has any more is waited for, who has it is named.
//!
//! A ring outlives its process. The kernel takes it apart afterwards, one connection after the other, and lets go of the
//! listener in it last: until then the port of a server that was killed is in use by nobody, 2 s long where it had
//! 60,000 connections (6.18). Its successor must not give up for that. Where somebody does have the port, waiting would
//! hide a mistake.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Longest wait for the kernel to let go of a port: it ends two million connections in half a minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// Why a port cannot be listened on.
#[derive(Debug)]
pub enum Unavailable {
    /// A process has it; or none that this one may see, for a minute and a half.
    InUse(Holder),
    /// What the kernel said else.
    Refused(io::Error),
}

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process by its name and number.
    Process(String, u32),
    /// Nobody that this process may see.
    Unseen,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(name, id) => write!(f, "{name}, process {id}"),
            Self::Unseen => f.write_str("a process that this user cannot see"),
        }
    }
}

/// Listens by `listen`. While the port is in use and no process is seen that has it, tries again.
///
/// # Errors
/// [`Unavailable`].
pub fn claim<T>(address: SocketAddr, mut listen: impl FnMut() -> io::Result<T>) -> Result<T, Unavailable> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        match listen() {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(Unavailable::Refused(error)),
        }
        if let Some(holder) = holder(address) {
            return Err(Unavailable::InUse(holder));
        }
        if began.elapsed() >= PATIENCE {
            return Err(Unavailable::InUse(Holder::Unseen));
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(
                %address,
                "the port is in use by no process that can be seen: waiting up to {} s for the kernel, which keeps it until \
                 the connections of a process that was killed have ended",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// The process that listens where `address` would.
fn holder(address: SocketAddr) -> Option<Holder> {
    let sockets = listeners(address);
    if sockets.is_empty() {
        return None;
    }
    let names = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let process = names.filter_map(|name| name.parse::<u32>().ok()).find(|id| holds(*id, &sockets))?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(Holder::Process(name.trim().to_owned(), process))
}

/// Whether a process has one of the sockets, as far as this one may see.
fn holds(process: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.into_iter().any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// Sockets that listen where `address` would, as descriptors name them. The kernel lists those that listen before the
/// connections, of which there may be millions.
fn listeners(address: SocketAddr) -> Vec<String> {
    let files = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|path| File::open(path).ok());
    let listening = files.flat_map(|file| {
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        lines.skip(1).map_while(|line| parse_listener(&line))
    });
    let met = listening.filter(|(local, _)| meet(*local, address));
    met.map(|(_, number)| format!("socket:[{number}]")).collect()
}

fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip(), other.ip());
    one.port() == other.port() && (one_ip == other_ip || one_ip.is_unspecified() || other_ip.is_unspecified())
}

/// A line of /proc/net/tcp or tcp6: where a socket listens, and its number. `None`: it does not listen.
fn parse_listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[_, local, _, LISTENING, _, _, _, _, _, number, ..] = &fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    // Words of the kernel's byte order that hold bytes of the network's.
    let words = (0..ip.len()).step_by(8).map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok());
    let bytes = words.map(|word| word.map(u32::to_ne_bytes)).collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::net::TcpListener;

    #[test]
    fn whoever_has_a_port_is_named_at_once() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let wildcard = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        for wanted in [address, wildcard] {
            let refused = claim(wanted, || TcpListener::bind(wanted)).unwrap_err();
            let Unavailable::InUse(Holder::Process(name, id)) = refused else { panic!("{refused:?}") };
            assert_eq!((id, name.is_empty()), (std::process::id(), false));
        }
        let other: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let refused = claim(other, || Err::<(), _>(io::ErrorKind::PermissionDenied.into())).unwrap_err();
        assert!(
            matches!(refused, Unavailable::Refused(error) if error.kind() == io::ErrorKind::PermissionDenied)
        );
    }

    #[test]
    fn what_nobody_has_is_waited_for() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tries = Cell::new(0);
        let listener = claim(free, || {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Err(io::ErrorKind::AddrInUse.into()) } else { TcpListener::bind(free) }
        });
        assert_eq!((listener.unwrap().local_addr().unwrap(), tries.get()), (free, 4));
    }

    #[test]
    fn addresses_of_both_families_are_read_as_the_kernel_writes_them() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listeners(one.local_addr().unwrap()).len(), 1);
        // A host without IPv6 has nothing to read there.
        if let Ok(one) = TcpListener::bind("[::1]:0") {
            assert_eq!(listeners(one.local_addr().unwrap()).len(), 1);
        }
        let connection =
            "  1: 0100007F:1BBC 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 77 1";
        assert_eq!(parse_listener(connection), None);
        assert_eq!(parse_listener("what"), None);
    }
}
