//! The provided-buffer ring: receive memory shared by every connection of a ring.
//!
//! A buffer is always in exactly one place: with the kernel, in a [`RecvBuffer`], or on the list
//! of returned ones. Returning is dropping; the list is given to the kernel in one go before the
//! next system call. The memory is mapped, so pages that were never received into cost nothing.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::limits::BUFFER_GROUP;

/// Zeroed private memory of whole pages, unmapped when dropped.
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    fn new(bytes: usize) -> io::Result<Region> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that exists; `bytes` is not zero, since both callers checked their counts.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { start, bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `start` and `bytes` are those of a mapping this value owns; nothing borrowed
        // from it is left, since every borrower holds the `Rc` that this drop ends.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of an own mapping failed");
    }
}

/// What buffers and the ring share.
struct Shared {
    memory: Region,
    /// The ring of entries; here so that it can be leaked together with the memory.
    entries: Region,
    buffer_bytes: u32,
    /// Handed out and not dropped yet.
    lent: Cell<u32>,
    /// Dropped and not given to the kernel yet. Has room for every buffer from the start.
    returned: RefCell<Vec<u16>>,
}

/// A received piece, in memory the kernel has handed over.
///
/// Dropping it returns the memory: the kernel gets it back before the ring's next system call.
/// [`crate::Ring::recycle`] is the same under a name that shows the intention.
pub struct RecvBuffer {
    shared: Rc<Shared>,
    id: u16,
    len: u32,
    socket_nonempty: bool,
}

impl RecvBuffer {
    /// The kernel's hint that more was waiting in the socket when this piece was taken.
    #[must_use]
    pub fn socket_nonempty(&self) -> bool {
        self.socket_nonempty
    }
}

impl Deref for RecvBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let offset = usize::from(self.id) * self.shared.buffer_bytes as usize;
        // SAFETY: `take` checked that `id` is below the number of buffers, so the offset lies in
        // the mapping, which is not larger than `isize::MAX` (limits.rs).
        let start = unsafe { self.shared.memory.start.add(offset) };
        // SAFETY: `take` checked `len` against the buffer's size, so the range is inside this
        // buffer; the mapping is initialised (zeroed) and lives as long as `shared`; neither the
        // kernel nor another `RecvBuffer` has this id until this value is dropped.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for RecvBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let offset = usize::from(self.id) * self.shared.buffer_bytes as usize;
        // SAFETY: as in `deref`.
        let start = unsafe { self.shared.memory.start.add(offset) };
        // SAFETY: as in `deref`; the exclusive borrow of this value, which alone has this id, makes the range
        // nobody else's meanwhile. What is written there is overwritten by the kernel's next receive.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for RecvBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for RecvBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for RecvBuffer {
    fn drop(&mut self) {
        self.shared.lent.set(self.shared.lent.get() - 1);
        self.shared.returned.borrow_mut().push(self.id);
    }
}

impl fmt::Debug for RecvBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuffer({} bytes)", self.len)
    }
}

/// The ring's side: gives buffers to the kernel and takes those it filled.
pub(crate) struct RecvBuffers {
    shared: Rc<Shared>,
    count: u16,
    tail: u16,
    /// True exactly when the kernel has handed the buffer over and not got it back.
    handed_over: Vec<bool>,
}

impl RecvBuffers {
    /// Maps and registers. `count` is a power of two, neither is zero: the configuration is
    /// checked before it comes here.
    pub(crate) fn new(submitter: &Submitter<'_>, count: u16, buffer_bytes: u32) -> io::Result<RecvBuffers> {
        debug_assert!(count.is_power_of_two() && buffer_bytes > 0);
        let shared = Shared {
            memory: Region::new(usize::from(count) * buffer_bytes as usize)?,
            entries: Region::new(usize::from(count) * size_of::<BufRingEntry>())?,
            buffer_bytes,
            lent: Cell::new(0),
            returned: RefCell::new((0..count).collect()),
        };
        let mut buffers = RecvBuffers {
            shared: Rc::new(shared),
            count,
            tail: 0,
            handed_over: vec![true; usize::from(count)],
        };
        let address = buffers.shared.entries.start.as_ptr() as u64;
        // SAFETY: `address` is a page-aligned mapping of `count` entries. It outlives the
        // registration: the ring is closed before its `RecvBuffers` is dropped, and is leaked
        // together with the memory while a receive is armed.
        let registered = unsafe { submitter.register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) };
        registered?;
        buffers.commit();
        Ok(buffers)
    }

    /// Gives every returned buffer to the kernel.
    pub(crate) fn commit(&mut self) {
        let shared = Rc::clone(&self.shared);
        let mut returned = shared.returned.borrow_mut();
        if returned.is_empty() {
            return;
        }
        // Latest first: its lines are the ones still in the cache.
        while let Some(id) = returned.pop() {
            self.handed_over[usize::from(id)] = false;
            self.write_entry(id);
        }
        self.publish_tail();
    }

    fn write_entry(&mut self, id: u16) {
        let offset = usize::from(id) * self.shared.buffer_bytes as usize;
        let address = self.shared.memory.start.as_ptr().wrapping_add(offset);
        let position = usize::from(self.tail & (self.count - 1));
        let entries = self.shared.entries.start.cast::<BufRingEntry>();
        // SAFETY: `position` is below `count`, for which the mapping has room.
        let entry = unsafe { entries.add(position) };
        // SAFETY: the mapping is aligned and initialised, and only this thread writes entries.
        // The kernel reads an entry only between its head and the published tail; at most
        // `count` buffers exist and this one is not with the kernel, so `position` is outside.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address as u64);
        entry.set_len(self.shared.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish_tail(&self) {
        let entries = self.shared.entries.start.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `entries` points to the first entry of the mapped, zeroed ring.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: the tail lies in the first entry at an even offset of an aligned mapping that
        // `shared` keeps alive; on our side it is only ever written here, and the kernel reads
        // it with acquire semantics.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes the buffer a completion names. `None` when the kernel named one that does not exist
    /// or that we have already, or claims more bytes than it holds: a kernel bug, and the memory
    /// is not touched.
    pub(crate) fn take(&mut self, id: u16, len: u32, socket_nonempty: bool) -> Option<RecvBuffer> {
        let handed_over = self.handed_over.get_mut(usize::from(id))?;
        if *handed_over || len > self.shared.buffer_bytes {
            return None;
        }
        *handed_over = true;
        self.shared.lent.set(self.shared.lent.get() + 1);
        Some(RecvBuffer { shared: Rc::clone(&self.shared), id, len, socket_nonempty })
    }

    /// Buffers not in anybody's hands; those filled but not popped yet still count as free.
    pub(crate) fn free(&self) -> u32 {
        u32::from(self.count) - self.shared.lent.get()
    }

    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.shared.buffer_bytes
    }

    /// The kernel may still write into the memory: never unmap it.
    pub(crate) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.shared));
    }
}

#[cfg(test)]
mod tests {
    use io_uring::IoUring;

    use super::RecvBuffers;

    fn buffers() -> (IoUring, RecvBuffers) {
        let ring = IoUring::new(8).unwrap();
        let buffers = RecvBuffers::new(&ring.submitter(), 4, 64).unwrap();
        (ring, buffers)
    }

    #[test]
    fn a_buffer_is_in_one_place() {
        let (_ring, mut buffers) = buffers();
        assert_eq!(buffers.free(), 4);
        let taken = buffers.take(3, 64, false).unwrap();
        assert_eq!((taken.len(), buffers.free()), (64, 3));
        assert!(buffers.take(3, 1, false).is_none(), "handed over twice");
        drop(taken);
        assert_eq!(buffers.free(), 4);
        assert!(buffers.take(3, 1, false).is_none(), "returned but not committed");
        buffers.commit();
        assert!(buffers.take(3, 1, false).is_some());
    }

    #[test]
    fn what_the_kernel_names_is_checked() {
        let (_ring, mut buffers) = buffers();
        assert!(buffers.take(4, 1, false).is_none());
        assert!(buffers.take(0, 65, false).is_none());
        assert_eq!(buffers.free(), 4);
    }

    #[test]
    fn memory_outlives_the_ring() {
        let (ring, mut buffers) = buffers();
        let taken = buffers.take(1, 8, false).unwrap();
        drop(ring);
        drop(buffers);
        assert_eq!(*taken, [0; 8]);
    }
}
