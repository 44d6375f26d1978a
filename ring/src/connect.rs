//! Outgoing connections: one request for the caller, a chain of requests for the kernel.
//!
//! The chain cannot be linked, since the slot is known only when the socket is there. So each
//! step's completion starts the next. Without [`Feature::DirectConnect`] a plain socket is made
//! at once and enters the table as the first step.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::completion::Completion;
use crate::errno::Errno;
use crate::features::Feature;
use crate::request::{self, Switch};
use crate::ring::Ring;
use crate::table::Table;
use crate::token::{Op, Slot, Token};

/// How to connect.
#[derive(Copy, Clone, Debug, Default)]
pub struct ConnectOptions {
    /// The own address. Port 0 lets the kernel choose one that is unique for the destination, so
    /// that one address reaches each destination 28,000 times or so.
    pub source: Option<SocketAddr>,
    /// Switch Nagle's algorithm off.
    pub nodelay: bool,
    /// Closing it resets the connection at once: what was not sent is given up, and nothing of it stays behind in the
    /// kernel (no TIME_WAIT, no port taken).
    pub reset_on_close: bool,
}

impl ConnectOptions {
    fn switches(self) -> Vec<Switch> {
        let mut switches = Vec::new();
        if self.nodelay {
            switches.push(Switch::NoDelay);
        }
        if self.reset_on_close {
            switches.push(Switch::ResetOnClose);
        }
        match self.source.map(|source| source.port()) {
            Some(0) => switches.push(Switch::BindAddressNoPort),
            Some(_) => switches.push(Switch::ReuseAddress),
            None => {}
        }
        switches
    }
}

/// The request whose completion is awaited.
#[derive(Debug)]
enum Step {
    Socket,
    /// The plain socket enters the table; the kernel writes the slot to the cell.
    Adopt {
        _socket: OwnedFd,
        cell: Box<AtomicI32>,
    },
    Switch,
    Bind,
    Connect,
    /// The slot is emptied after a failure.
    Close(Errno),
}

/// A connection on its way. The addresses are boxed: the kernel reads them where they are.
#[derive(Debug)]
pub(crate) struct Connecting {
    token: Token,
    destination: Box<SockAddr>,
    source: Option<Box<SockAddr>>,
    switches: Vec<Switch>,
    slot: Option<Slot>,
    step: Step,
}

impl Connecting {
    /// The kernel may go on using the addresses and the cell after the ring is closed: never free
    /// them. A plain socket is closed.
    pub(crate) fn leak(self) {
        std::mem::forget((self.destination, self.source));
        if let Step::Adopt { cell, .. } = self.step {
            std::mem::forget(cell);
        }
    }
}

/// Connections on their way, by key.
pub(crate) type Connects = Table<Connecting>;

impl Ring {
    /// Connects and reports [`Completion::Connected`] once, whatever the outcome. After a failure
    /// the slot is already free.
    pub fn connect(&mut self, address: SocketAddr, options: ConnectOptions, token: Token) {
        self.connect_with(address, options, options.switches(), token);
    }

    /// Likewise, and a peer that does not answer is given up after one repeated SYN: `TIMEDOUT` after two or three seconds
    /// in place of two minutes, in which the kernel asks ever less often whether the peer is back.
    pub fn connect_impatiently(&mut self, address: SocketAddr, options: ConnectOptions, token: Token) {
        let mut switches = options.switches();
        switches.push(Switch::GiveUpEarly);
        self.connect_with(address, options, switches, token);
    }

    fn connect_with(
        &mut self,
        address: SocketAddr,
        options: ConnectOptions,
        switches: Vec<Switch>,
        token: Token,
    ) {
        let mut connecting = Connecting {
            token,
            destination: Box::new(address.into()),
            source: options.source.map(|source| Box::new(source.into())),
            switches,
            slot: None,
            step: Step::Socket,
        };
        let domain = Domain::for_address(address);
        if self.features.has(Feature::DirectConnect) {
            let key = self.connects.insert(connecting);
            // SAFETY: the entry points to no memory.
            unsafe { self.push(request::socket(domain.into(), key)) };
            return;
        }
        let socket = match plain_socket(domain, &connecting) {
            Ok(socket) => socket,
            Err(error) => {
                let result = Err(Errno::from_io(&error));
                self.local.push_back(Completion::Connected { token, result });
                return;
            }
        };
        connecting.source = None;
        connecting.switches.clear();
        let cell = Box::new(AtomicI32::new(socket.as_raw_fd()));
        let pointer = cell.as_ptr();
        connecting.step = Step::Adopt { _socket: socket, cell };
        let key = self.connects.insert(connecting);
        // SAFETY: the cell is on the heap, belongs to the table until this step's completion, and
        // is an atomic, so that the kernel may write to it.
        unsafe { self.push(request::adopt(pointer, Op::Connect.with_token(key))) };
    }

    /// A step completed: starts the next, or reports the end.
    pub(crate) fn connect_step(&mut self, key: Token, result: i32) -> Option<Completion> {
        let Some(connecting) = self.connects.get_mut(key) else {
            self.malformed("a connect that is not in flight");
            return None;
        };
        let result = Errno::check(result);
        match (&connecting.step, result) {
            (Step::Close(errno), _) => {
                let errno = *errno;
                return self.connect_finish(key, Err(errno));
            }
            (_, Err(errno)) => {
                let Some(slot) = connecting.slot else { return self.connect_finish(key, Err(errno)) };
                connecting.step = Step::Close(errno);
                // SAFETY: the entry points to no memory.
                unsafe { self.push(request::close(slot, Op::Connect.with_token(key))) };
                return None;
            }
            (Step::Connect, Ok(_)) => {
                let slot = connecting.slot?;
                return self.connect_finish(key, Ok(slot));
            }
            (Step::Socket, Ok(index)) => connecting.slot = Some(Slot(index)),
            // The plain socket is closed by the change of the step.
            (Step::Adopt { cell, .. }, Ok(_)) => {
                connecting.slot = u32::try_from(cell.load(Ordering::Acquire)).ok().map(Slot);
            }
            (Step::Switch | Step::Bind, Ok(_)) => {}
        }
        self.connect_next(key);
        None
    }

    /// Submits the next step of a connection that has its slot.
    fn connect_next(&mut self, key: Token) {
        let Some(connecting) = self.connects.get_mut(key) else { return };
        let Some(slot) = connecting.slot else { return };
        let entry = if let Some(switch) = connecting.switches.pop() {
            connecting.step = Step::Switch;
            request::switch_on(slot, switch, key)
        } else if let Some(source) = connecting.source.as_deref()
            && !matches!(connecting.step, Step::Bind)
        {
            connecting.step = Step::Bind;
            request::bind(slot, source, key)
        } else {
            connecting.step = Step::Connect;
            request::connect(slot, &connecting.destination, key)
        };
        // SAFETY: the option's value is static; both addresses are boxed in the table, which
        // keeps them until the connection's last completion or, if the ring goes first, for ever.
        unsafe { self.push(entry) };
    }

    fn connect_finish(&mut self, key: Token, result: Result<Slot, Errno>) -> Option<Completion> {
        let Connecting { token, .. } = self.connects.remove(key)?;
        Some(Completion::Connected { token, result })
    }
}

/// Socket, options and bind on a plain descriptor; none of it waits.
fn plain_socket(domain: Domain, connecting: &Connecting) -> io::Result<OwnedFd> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    for switch in &connecting.switches {
        switch.apply(&socket)?;
    }
    if let Some(source) = connecting.source.as_deref() {
        socket.bind(source)?;
    }
    Ok(socket.into())
}
