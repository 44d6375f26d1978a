//! The kernel itself behind [`Io`]: a thin translation to the ring.

use std::net::{SocketAddr, TcpListener};

use moor_ring::{
    Completion, ConnectOptions, Doorbell, Feature, ListenerId, RecvBuffer, Ring, RingConfig, RingError,
    RingHandle, SendBuffer, Slot, Token,
};

use super::io::{Io, Listener, WorkerId};

/// How a worker is woken: by a message to its ring, or by its doorbell where rings have no messages.
#[derive(Clone, Debug)]
pub struct Wakeable {
    /// Its ring.
    pub ring: RingHandle,
    /// What it watches.
    pub doorbell: Doorbell,
}

/// A worker's ring with its listeners and the rings of the other workers.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    listeners: [Option<ListenerId>; 2],
    /// All workers, by index; filled before the first turn.
    peers: Vec<Wakeable>,
}

impl Uring {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses the ring or its tables.
    pub fn new(config: &RingConfig, clients: TcpListener, internal: TcpListener) -> Result<Self, RingError> {
        let mut ring = Ring::new(config)?;
        let listeners = [Some(ring.add_listener(clients)), Some(ring.add_listener(internal))];
        Ok(Self { ring, listeners, peers: Vec::new() })
    }

    /// How other workers wake this one.
    pub fn handle(&self) -> RingHandle {
        self.ring.handle()
    }

    /// Tells how to wake the others.
    pub fn set_peers(&mut self, peers: Vec<Wakeable>) {
        self.peers = peers;
    }

    /// The ring, for the loop that waits on it.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// The next thing the kernel finished.
    pub fn pop(&mut self) -> Option<Completion> {
        self.ring.pop()
    }
}

impl Io for Uring {
    type Buffer = RecvBuffer;

    fn accept(&mut self, listener: Listener) {
        if let Some(id) = self.listeners[listener as usize] {
            self.ring.accept_multishot(id, listener.token());
        }
    }

    fn pause_accept(&mut self, listener: Listener) {
        self.ring.stop_accept(listener.token());
    }

    fn peer_address(&mut self, slot: Slot, token: Token) {
        self.ring.peer_address(slot, token);
    }

    fn stop_listening(&mut self, listener: Listener) {
        if let Some(id) = self.listeners[listener as usize].take() {
            // A socket that systemd handed over listens on for the successor, one of our own ends here.
            self.ring.stop_accept(listener.token());
            drop(self.ring.release_listener(id));
        }
    }

    fn poll_readable(&mut self, slot: Slot, token: Token) {
        self.ring.poll_readable(slot, token);
    }

    fn recv_once(&mut self, slot: Slot, token: Token) {
        self.ring.recv_once(slot, token);
    }

    fn recv_multishot(&mut self, slot: Slot, token: Token) {
        self.ring.recv_multishot(slot, token);
    }

    fn cancel_recv(&mut self, token: Token) {
        self.ring.cancel_recv(token);
    }

    fn send(&mut self, slot: Slot, token: Token, buffer: SendBuffer, offset: u32) {
        self.ring.send(slot, token, buffer, offset);
    }

    fn close(&mut self, slot: Slot, token: Token) {
        self.ring.close(slot, token);
    }

    fn reset(&mut self, slot: Slot, token: Token) {
        self.ring.reset(slot, token);
    }

    fn connect(&mut self, address: SocketAddr, token: Token) {
        let options = ConnectOptions { nodelay: true, ..ConnectOptions::default() };
        self.ring.connect_impatiently(address, options, token);
    }

    fn wake(&mut self, worker: WorkerId) {
        let Some(peer) = self.peers.get(worker.index()) else { return };
        if self.ring.features().has(Feature::MessageRing) {
            self.ring.message(&peer.ring, 0);
        } else {
            peer.doorbell.ring();
        }
    }

    fn pass(&mut self, slot: Slot, worker: WorkerId, value: u64, token: Token) {
        if let Some(peer) = self.peers.get(worker.index()) {
            self.ring.pass_slot(slot, &peer.ring, value, token);
        }
    }

    fn recycle(&mut self, buffer: RecvBuffer) {
        self.ring.recycle(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_ring::FeatureMask;
    use std::time::Duration;

    fn uring(features: FeatureMask, doorbell: &Doorbell) -> Uring {
        let config =
            RingConfig { submission_entries: 8, completion_entries: 32, features, ..RingConfig::default() };
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let mut io = Uring::new(&config, listener(), listener()).unwrap();
        io.ring().watch(doorbell);
        io
    }

    #[test]
    fn another_worker_is_woken_with_messages_between_rings_or_without() {
        for features in [FeatureMask::NONE, FeatureMask::of(Feature::MessageRing)] {
            let bells = [Doorbell::new().unwrap(), Doorbell::new().unwrap()];
            let mut workers = bells.each_ref().map(|bell| uring(features, bell));
            let peers: Vec<_> = workers
                .iter()
                .zip(bells)
                .map(|(io, doorbell)| Wakeable { ring: io.handle(), doorbell })
                .collect();
            let [sleeper, waker] = &mut workers;
            waker.set_peers(peers);
            waker.wake(WorkerId(0));
            waker.ring().submit_and_wait(0, None).unwrap();
            sleeper.ring().submit_and_wait(1, Some(Duration::from_secs(10))).unwrap();
            let woken = sleeper.pop();
            assert!(matches!(woken, Some(Completion::Message { .. } | Completion::Doorbell)), "{woken:?}");
            assert!(waker.pop().is_none(), "nothing failed");
        }
    }
}
