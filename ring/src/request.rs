//! Submission entries, one function a request. Nothing here is submitted, so nothing is unsafe
//! yet: what each entry's pointers must satisfy is said here and vouched for where it is pushed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};

use crate::limits::BUFFER_GROUP;
use crate::sends::SendRange;
use crate::token::{Op, Slot, Token};

/// The value of most socket options set through a ring; static, since the kernel reads it late.
static ENABLED: libc::c_int = 1;
/// SYNs that are repeated before a connection is given up early.
static SYN_REPEATS: libc::c_int = 1;
const SWITCH_BYTES: libc::socklen_t = 4;
const _: () = assert!(size_of::<libc::c_int>() == SWITCH_BYTES as usize);
/// Close at once, by a reset.
static RESETTING: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
const LINGER_BYTES: libc::socklen_t = 8;
const _: () = assert!(size_of::<libc::linger>() == LINGER_BYTES as usize);

/// The address that disconnects (connect(2)).
static UNSPECIFIED: libc::sockaddr = libc::sockaddr {
    sa_family: 0, // AF_UNSPEC
    sa_data: [0; 14],
};
const _: () = assert!(libc::AF_UNSPEC == 0);

/// Bytes of a socket address.
pub(crate) const SOCKADDR_BYTES: libc::socklen_t = 16;
const _: () = assert!(size_of::<libc::sockaddr>() == SOCKADDR_BYTES as usize);

/// A socket option that is switched on.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Switch {
    /// No Nagle.
    NoDelay,
    /// A bind without a port leaves the choice of the port to connect, which then needs it to be
    /// unique per destination only.
    BindAddressNoPort,
    /// A bind with a port shares it with connections to other destinations.
    ReuseAddress,
    /// A close resets the connection.
    ResetOnClose,
    /// A peer that does not answer is given up after one repeated SYN.
    GiveUpEarly,
}

impl Switch {
    fn level_and_name(self) -> (libc::c_int, libc::c_int) {
        match self {
            Switch::NoDelay => (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            Switch::BindAddressNoPort => (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
            Switch::ReuseAddress => (libc::SOL_SOCKET, libc::SO_REUSEADDR),
            Switch::ResetOnClose => (libc::SOL_SOCKET, libc::SO_LINGER),
            Switch::GiveUpEarly => (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
        }
    }

    /// Where its value is, for ever, and how many bytes it has.
    fn value(self) -> (*const libc::c_void, libc::socklen_t) {
        match self {
            Switch::ResetOnClose => ((&raw const RESETTING).cast(), LINGER_BYTES),
            Switch::GiveUpEarly => ((&raw const SYN_REPEATS).cast(), SWITCH_BYTES),
            Switch::NoDelay | Switch::BindAddressNoPort | Switch::ReuseAddress => {
                ((&raw const ENABLED).cast(), SWITCH_BYTES)
            }
        }
    }

    /// Switches it on by a system call, for a plain socket.
    pub(crate) fn apply(self, socket: &impl AsFd) -> io::Result<()> {
        let (level, name) = self.level_and_name();
        let fd = socket.as_fd().as_raw_fd();
        let (value, bytes) = self.value();
        // SAFETY: the kernel reads `bytes` bytes from the static, which is that long.
        let result = unsafe { libc::setsockopt(fd, level, name, value, bytes) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

pub(crate) fn accept_multishot(listener: RawFd, token: Token) -> Entry {
    opcode::AcceptMulti::new(Fd(listener))
        .allocate_file_index(true)
        .build()
        .user_data(Op::Accept.with_token(token))
}

/// Cancels one accept by its `user_data`.
pub(crate) fn stop_accept(token: Token) -> Entry {
    opcode::AsyncCancel2::new(CancelBuilder::user_data(Op::Accept.with_token(token)))
        .build()
        .user_data(Op::Cancel.with_token(token))
}

/// Cancels one receive by its `user_data`.
pub(crate) fn cancel_recv(token: Token) -> Entry {
    opcode::AsyncCancel2::new(CancelBuilder::user_data(Op::Recv.with_token(token)))
        .build()
        .user_data(Op::Cancel.with_token(token))
}

/// Readable, or hung up; POLLHUP and POLLERR are always reported.
const POLL_EVENTS: u32 = (libc::POLLIN | libc::POLLRDHUP).unsigned_abs() as u32;

pub(crate) fn poll_readable(slot: Slot, token: Token) -> Entry {
    opcode::PollAdd::new(Fixed(slot.0), POLL_EVENTS).build().user_data(Op::Poll.with_token(token))
}

pub(crate) fn poll_doorbell(fd: RawFd, index: u32) -> Entry {
    opcode::PollAdd::new(Fd(fd), POLL_EVENTS).build().user_data(Op::Doorbell.with_token(Token::new(index, 0)))
}

/// Needs the provided-buffer ring to live while it is in flight.
pub(crate) fn recv_once(slot: Slot, token: Token, buffer_bytes: u32) -> Entry {
    opcode::Recv::new(Fixed(slot.0), std::ptr::null_mut(), buffer_bytes)
        .flags(libc::MSG_DONTWAIT)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(Flags::BUFFER_SELECT)
        .user_data(Op::Recv.with_token(token))
}

/// Needs the provided-buffer ring to live while it is in flight.
pub(crate) fn recv_multishot(slot: Slot, token: Token) -> Entry {
    opcode::RecvMulti::new(Fixed(slot.0), BUFFER_GROUP).build().user_data(Op::Recv.with_token(token))
}

/// Needs the range to be readable until the completion.
pub(crate) fn send(slot: Slot, key: Token, range: SendRange) -> Entry {
    opcode::Send::new(Fixed(slot.0), range.start, range.len)
        .flags(libc::MSG_NOSIGNAL)
        .build()
        .user_data(Op::Send.with_token(key))
}

pub(crate) fn close(slot: Slot, user_data: u64) -> Entry {
    opcode::Close::new(Fixed(slot.0)).build().user_data(user_data)
}

pub(crate) fn reset(slot: Slot, token: Token) -> Entry {
    opcode::Connect::new(Fixed(slot.0), &raw const UNSPECIFIED, SOCKADDR_BYTES)
        .build()
        .user_data(Op::Reset.with_token(token))
}

pub(crate) fn socket(domain: libc::c_int, key: Token) -> Entry {
    opcode::Socket::new(domain, libc::SOCK_STREAM, 0)
        .file_index(Some(DestinationSlot::auto_target()))
        .build()
        .user_data(Op::Connect.with_token(key))
}

pub(crate) fn switch_on(slot: Slot, switch: Switch, key: Token) -> Entry {
    let (level, name) = switch.level_and_name();
    let (value, bytes) = switch.value();
    opcode::SetSockOpt::new(Fixed(slot.0), level.unsigned_abs(), name.unsigned_abs(), value, bytes)
        .build()
        .user_data(Op::Connect.with_token(key))
}

/// Needs the address to be readable until the completion.
pub(crate) fn bind(slot: Slot, address: &socket2::SockAddr, key: Token) -> Entry {
    opcode::Bind::new(Fixed(slot.0), address.as_ptr().cast(), address.len())
        .build()
        .user_data(Op::Connect.with_token(key))
}

/// Needs the address to be readable until the completion.
pub(crate) fn connect(slot: Slot, address: &socket2::SockAddr, key: Token) -> Entry {
    opcode::Connect::new(Fixed(slot.0), address.as_ptr().cast(), address.len())
        .build()
        .user_data(Op::Connect.with_token(key))
}

/// Needs the cell to be writable until the completion: the kernel reads a descriptor from it and
/// writes the slot to it.
pub(crate) fn adopt(cell: *mut RawFd, user_data: u64) -> Entry {
    // IORING_FILE_INDEX_ALLOC, which the kernel compares as 32 bits.
    opcode::FilesUpdate::new(cell.cast_const(), 1).offset(-1).build().user_data(user_data)
}

/// For [`Op::Install`] or [`Op::PeerAddress`].
pub(crate) fn install(slot: Slot, op: Op, token: Token) -> Entry {
    // No flags: the descriptor closes on exec.
    opcode::FixedFdInstall::new(Fixed(slot.0), 0).build().user_data(op.with_token(token))
}

/// Says nothing when it succeeds.
pub(crate) fn message(target: RawFd, value: u64) -> Entry {
    opcode::MsgRingData::new(Fd(target), 0, Op::Message.with_value(value), None)
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(Op::MessageSent.with_value(value))
}

pub(crate) fn pass_slot(slot: Slot, target: RawFd, value: u64, token: Token) -> Entry {
    opcode::MsgRingSendFd::new(
        Fd(target),
        Fixed(slot.0),
        DestinationSlot::auto_target(),
        Op::SlotPassed.with_value(value),
    )
    .build()
    .user_data(Op::Pass.with_token(token))
}
