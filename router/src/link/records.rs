//! TLS of one link, between its socket and its frames; nothing at all for a link in clear text.
//!
//! Both tasks of the link have it: the reading one opens what comes, the writing one seals what goes. What TLS says for
//! itself (handshake, alerts) leaves with the next write.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use moor_tls::peer::{Acceptor, Peer, PeerError};

/// The TLS of a link; clear text until it has begun.
#[derive(Debug, Default)]
pub struct Records(RefCell<Option<Box<Peer>>>);

impl Records {
    /// From now on everything is TLS.
    pub fn begin(&self, acceptor: &Acceptor) -> Result<(), PeerError> {
        *self.0.borrow_mut() = Some(acceptor.accept()?);
        Ok(())
    }

    /// Whether it is clear text.
    pub fn is_clear(&self) -> bool {
        self.0.borrow().is_none()
    }

    /// Appends to `frames` what was in received bytes. False: the other side will say no more.
    pub fn open(&self, received: &[u8], frames: &mut BytesMut) -> Result<bool, PeerError> {
        let mut peer = self.0.borrow_mut();
        let Some(peer) = peer.as_mut() else {
            frames.extend_from_slice(received);
            return Ok(true);
        };
        peer.receive(received, &mut frames.writer())?;
        Ok(!peer.is_closed())
    }

    /// Whether TLS has something to say for itself.
    pub fn has_output(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|peer| peer.has_output())
    }

    /// What is to be written for what was queued.
    pub fn seal(&self, queued: BytesMut) -> BytesMut {
        let mut peer = self.0.borrow_mut();
        let Some(peer) = peer.as_mut() else { return queued };
        // A connection that takes nothing more has an alert to send, or nothing.
        peer.send(&queued).unwrap_or_default();
        let mut records = BytesMut::new();
        peer.output(&mut (&mut records).writer());
        records
    }

    /// The last that is to be written: that nothing more will come.
    pub fn close(&self) -> BytesMut {
        if let Some(peer) = self.0.borrow_mut().as_mut() {
            peer.close();
        }
        self.seal(BytesMut::new())
    }

    /// For whom the other side's certificate stands; `None`: it has shown none.
    pub fn certificate_names(&self) -> Option<Vec<String>> {
        self.0.borrow().as_ref().and_then(|peer| peer.names())
    }
}
