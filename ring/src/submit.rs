//! The requests. None waits and none fails: what goes wrong comes back as a completion.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;

use crate::completion::Completion;
use crate::doorbell::Doorbell;
use crate::errno::Errno;
use crate::features::Feature;
use crate::limits::MESSAGE_VALUE_MAX;
use crate::request;
use crate::ring::{ListenerId, Ring, RingHandle};
use crate::sends::SendBuffer;
use crate::token::{Op, Slot, Token};

/// A plain descriptor on its way into the table.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub token: Token,
    /// Held open until the table has it, then closed.
    pub fd: OwnedFd,
    /// The kernel reads the descriptor here and writes the slot.
    pub cell: Box<AtomicI32>,
}

impl Ring {
    /// Takes a listener in. It is not accepted from yet.
    pub fn add_listener(&mut self, listener: TcpListener) -> ListenerId {
        let index = u32::try_from(self.listeners.len()).expect("a ring has a few listeners");
        self.listeners.push(Some(listener));
        ListenerId(index)
    }

    /// The listener's descriptor, to pass it on. `None` when it was removed.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<BorrowedFd<'_>> {
        self.listeners.get(id.0 as usize)?.as_ref().map(AsFd::as_fd)
    }

    /// Gives the listener back, listening on. An armed accept holds the socket and goes on accepting even when
    /// the listener is closed: see [`Ring::stop_accept`]. Nothing here shuts the socket down, since that would end
    /// the listening of every process that shares it, such as the one that handed it over.
    pub fn release_listener(&mut self, id: ListenerId) -> Option<TcpListener> {
        self.listeners.get_mut(id.0 as usize)?.take()
    }

    /// Accepts until an error: one [`Completion::Accepted`] for each connection.
    pub fn accept_multishot(&mut self, id: ListenerId, token: Token) {
        let Some(listener) = self.listener(id) else {
            let result = Err(Errno::BADF);
            self.local.push_back(Completion::Accepted { token, result, more: false });
            return;
        };
        let entry = request::accept_multishot(listener.as_raw_fd(), token);
        // SAFETY: the entry points to no memory; a peer address is not asked for.
        unsafe { self.push(entry) };
    }

    /// Stops the accept armed with this token and leaves the listening socket alone. The accept ends with
    /// `CANCELED`.
    ///
    /// By `user_data` this walks one chain of the cancel table, 169 µs beside 500,000 armed
    /// requests (6.18): for ends and pauses.
    pub fn stop_accept(&mut self, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::stop_accept(token)) };
    }

    /// Reports [`Completion::Ready`] once, when the slot is readable or hung up. Costs 256 bytes
    /// of kernel memory while armed (6.18).
    pub fn poll_readable(&mut self, slot: Slot, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::poll_readable(slot, token)) };
    }

    /// Receives what is there now into one buffer; `AGAIN` when nothing is.
    pub fn recv_once(&mut self, slot: Slot, token: Token) {
        self.recvs_armed += 1;
        let entry = request::recv_once(slot, token, self.buffers.buffer_bytes());
        // SAFETY: the kernel writes into the provided buffers only; they live as long as the
        // ring, and longer while `recvs_armed` counts this request.
        unsafe { self.push(entry) };
    }

    /// Receives until end, error or want of buffers: one [`Completion::Received`] for each piece.
    /// Costs 862 bytes of kernel memory while armed (6.18).
    pub fn recv_multishot(&mut self, slot: Slot, token: Token) {
        self.recvs_armed += 1;
        // SAFETY: as in `recv_once`; the count falls with the completion that says "no more".
        unsafe { self.push(request::recv_multishot(slot, token)) };
    }

    /// Ends the multishot receive armed with this token: it completes with `CANCELED`, unless it
    /// ends otherwise first. Walks one chain of the cancel table: 1.5 µs beside 10,000 armed
    /// requests, 33 µs beside 100,000 (6.18), so this is not for big rings.
    pub fn cancel_recv(&mut self, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::cancel_recv(token)) };
    }

    /// Sends `buffer[offset..]`. The ring has the buffer until [`Completion::Sent`] gives it
    /// back. At most one send may be in flight on a slot, since a blocked send is overtaken by
    /// later ones.
    pub fn send(&mut self, slot: Slot, token: Token, buffer: SendBuffer, offset: u32) {
        let (key, range) = self.sends.begin(slot, token, buffer, offset);
        // SAFETY: the range lies in the buffer's heap memory, which the table keeps unmoved and
        // unwritten until the completion with this key, or for ever if the ring is dropped first.
        unsafe { self.push(request::send(slot, key, range)) };
    }

    /// Empties the slot. The peer is told only when no request is armed on it any more: an armed
    /// one holds the file open.
    pub fn close(&mut self, slot: Slot, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::close(slot, Op::Close.with_token(token))) };
    }

    /// Resets the connection (a connect to AF_UNSPEC): the peer gets an RST, armed requests
    /// complete, kernel memory is freed at once; 6 µs (6.18). The slot still has to be closed.
    pub fn reset(&mut self, slot: Slot, token: Token) {
        // SAFETY: the address is a static.
        unsafe { self.push(request::reset(slot, token)) };
    }

    /// Posts [`Completion::Message`] on another ring. `value` has 56 bits. Only a failure is
    /// reported here, as [`Completion::MessageFailed`].
    ///
    /// It is a doorbell and no mailbox: the kernel counts it as delivered once it is queued at the
    /// target, so a target that goes before it looks again takes the message with it (6.18).
    pub fn message(&mut self, target: &RingHandle, value: u64) {
        debug_assert!(value <= MESSAGE_VALUE_MAX, "a message has 56 bits");
        match self.open_target(target) {
            // SAFETY: the entry points to no memory.
            Ok(fd) => unsafe { self.push(request::message(fd, value)) },
            Err(error) => self.local.push_back(Completion::MessageFailed { value, error }),
        }
    }

    /// Gives the slot's file to another ring, which allocates a slot for it and sees
    /// [`Completion::SlotPassed`] with `value` (56 bits). Here [`Completion::Passed`] follows when
    /// the file is in the other table; the own slot stays open and has to be closed by the
    /// caller.
    ///
    /// The kernel runs the installation on the target's thread and interrupts what that is doing:
    /// its blocking calls outside the ring may return EINTR (6.18). A target that goes before it
    /// looked takes the connection with it, and `Passed` may say `Ok` all the same.
    pub fn pass_slot(&mut self, slot: Slot, target: &RingHandle, value: u64, token: Token) {
        debug_assert!(value <= MESSAGE_VALUE_MAX, "a message has 56 bits");
        match self.open_target(target) {
            // SAFETY: the entry points to no memory.
            Ok(fd) => unsafe { self.push(request::pass_slot(slot, fd, value, token)) },
            Err(error) => self.local.push_back(Completion::Passed { token, result: Err(error) }),
        }
    }

    /// The target's descriptor, which stays open until the request made with it is submitted.
    fn open_target(&mut self, target: &RingHandle) -> Result<RawFd, Errno> {
        if !self.features.has(Feature::MessageRing) {
            return Err(Errno::NOSYS);
        }
        let target = target.open()?;
        let fd = target.as_raw_fd();
        self.targets.push(target);
        Ok(fd)
    }

    /// Takes a plain descriptor into the table; the plain one is closed in any case.
    pub fn adopt(&mut self, fd: OwnedFd, token: Token) {
        let cell = Box::new(AtomicI32::new(fd.as_raw_fd()));
        let pointer = cell.as_ptr();
        let key = self.adoptions.insert(Adoption { token, fd, cell });
        // SAFETY: the cell is on the heap and belongs to the table until the completion with this
        // key, or for ever if the ring is dropped first; it is an atomic, so that the kernel may
        // write to it.
        unsafe { self.push(request::adopt(pointer, Op::Adopt.with_token(key))) };
    }

    /// Makes a plain descriptor, closed on exec, for the slot's file. Since 6.8; before,
    /// [`Completion::Installed`] says `NOSYS`.
    pub fn install(&mut self, slot: Slot, token: Token) {
        if !self.features.has(Feature::FixedFdInstall) {
            self.local.push_back(Completion::Installed { token, result: Err(Errno::NOSYS) });
            return;
        }
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::install(slot, Op::Install, token)) };
    }

    /// Asks who is at the other end. A plain descriptor is made for the question and closed again, which costs an
    /// entry and two system calls. Since 6.8; before, [`Completion::PeerAddress`] says `NOSYS`.
    pub fn peer_address(&mut self, slot: Slot, token: Token) {
        if !self.features.has(Feature::FixedFdInstall) {
            self.local.push_back(Completion::PeerAddress { token, result: Err(Errno::NOSYS) });
            return;
        }
        // SAFETY: the entry points to no memory.
        unsafe { self.push(request::install(slot, Op::PeerAddress, token)) };
    }

    /// Reports [`Completion::Doorbell`] whenever the doorbell was rung, from now on and for the
    /// ring's life.
    pub fn watch(&mut self, doorbell: &Doorbell) {
        let index = u32::try_from(self.doorbells.len()).expect("a ring has a few doorbells");
        self.doorbells.push(doorbell.clone());
        self.arm_doorbell(index);
    }

    pub(crate) fn arm_doorbell(&mut self, index: u32) {
        let Some(doorbell) = self.doorbells.get(index as usize) else { return };
        let entry = request::poll_doorbell(doorbell.raw_fd(), index);
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry) };
    }
}
