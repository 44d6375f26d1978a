//! Where the server is: the app's addresses in turn, or the one a server names; all of them over TLS or none.

use crate::dial::{Dialling, dial};
use crate::tls::Tls;

pub(crate) struct Places {
    addresses: Vec<String>,
    next: usize,
    /// From GOAWAY: the address to try first, once.
    alternate: Option<String>,
    /// Kept here so that every connection has the tickets of those before it.
    tls: Option<Tls>,
}

impl Places {
    /// `next` is the index of the address to go on with; beyond the last, the first follows.
    pub(crate) const fn new(addresses: Vec<String>, next: usize, tls: Option<Tls>) -> Self {
        Self { addresses, next, alternate: None, tls }
    }

    pub(crate) fn prefer(&mut self, alternate: String) {
        self.alternate = Some(alternate);
    }

    /// Begins to connect to the next of them.
    pub(crate) fn dial(&mut self) -> Dialling {
        let address = self.next();
        let tls = self.tls.clone();
        Box::pin(async move {
            let dialled = dial(&address, tls.as_ref()).await;
            dialled.map_err(|why| (address, why))
        })
    }

    fn next(&mut self) -> String {
        if let Some(alternate) = self.alternate.take() {
            return alternate;
        }
        self.next += 1;
        self.addresses[(self.next - 1) % self.addresses.len()].clone()
    }
}
