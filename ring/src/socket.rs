//! Sockets before a ring takes them over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How to listen. Accepted sockets inherit `nodelay` and the buffer sizes.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Let several listeners share the address; the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Connections waiting to be accepted; the kernel cuts it to `net.core.somaxconn`.
    pub backlog: u32,
    /// Switch Nagle's algorithm off.
    pub nodelay: bool,
    /// `SO_RCVBUF`, bytes; the kernel doubles it and stops tuning it.
    pub recv_buffer_bytes: Option<u32>,
    /// `SO_SNDBUF`, bytes; the kernel doubles it and stops tuning it.
    pub send_buffer_bytes: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            reuse_port: true,
            backlog: 65_535,
            nodelay: true,
            recv_buffer_bytes: None,
            send_buffer_bytes: None,
        }
    }
}

/// A listening TCP socket with the address reusable after a restart. An IPv6 wildcard takes IPv6
/// only, so that both wildcards can stand side by side.
///
/// # Errors
/// Those of `socket`, `setsockopt`, `bind` and `listen`.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(bytes) = options.recv_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// The peer of a connected socket, for a descriptor that [`crate::Ring::install`] gave.
///
/// # Errors
/// `ENOTCONN` when the connection is gone already.
pub fn peer_address(fd: &impl AsFd) -> io::Result<SocketAddr> {
    SockRef::from(fd).peer_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::{ListenOptions, listen};

    #[test]
    fn two_listeners_share_a_port() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first = listen(any, &ListenOptions::default()).unwrap();
        let address = first.local_addr().unwrap();
        listen(address, &ListenOptions::default()).unwrap();
        let alone = ListenOptions { reuse_port: false, ..ListenOptions::default() };
        assert!(listen(address, &alone).is_err());
    }
}
