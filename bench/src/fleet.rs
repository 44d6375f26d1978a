//! The clients of one driver as plain data: who is how far, and what waits for whom. No I/O, no clock.

use std::collections::HashMap;

use crate::dialect::{Dialect, Meaning};

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Idle,
    /// Connecting or logging in.
    Greeting,
    /// Logged in.
    Live,
    /// Dropped in the storm; its connection is being closed.
    Dropped,
    /// Over.
    Gone,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// How far it is.
    pub stage: Stage,
    /// True exactly when a send is in flight.
    pub sending: bool,
    /// When its connect began, microseconds.
    pub began_us: u64,
}

/// The clients of one driver.
#[derive(Debug)]
pub struct Fleet {
    /// By index in this fleet.
    pub members: Vec<Member>,
    first: u32,
    dialect: Dialect,
    /// Starts of messages whose rest has not come.
    remainders: HashMap<u32, Vec<u8>>,
    /// What waits for a send in flight to end.
    backlog: HashMap<u32, Vec<u8>>,
}

impl Fleet {
    /// `count` clients, the first of which has number `first` among all.
    pub fn new(first: u32, count: u32, dialect: Dialect) -> Self {
        let member = Member { stage: Stage::Idle, sending: false, began_us: 0 };
        Self {
            members: vec![member; count as usize],
            first,
            dialect,
            remainders: HashMap::new(),
            backlog: HashMap::new(),
        }
    }

    /// What a client says first, if anything.
    pub fn login(&self, index: u32) -> Option<Vec<u8>> {
        self.dialect.login(self.first + index)
    }

    /// A heartbeat that carries a time, where there is one.
    pub fn ping(&self, time_us: u64) -> Option<Vec<u8>> {
        self.dialect.ping(time_us)
    }

    /// What a client has to send now: `bytes`, unless a send is in flight; then they wait.
    pub fn try_send(&mut self, index: u32, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let member = &mut self.members[index as usize];
        if std::mem::replace(&mut member.sending, true) {
            self.backlog.entry(index).or_default().extend(bytes);
            return None;
        }
        Some(bytes)
    }

    /// A send ended: what waited for it, if anything did.
    pub fn handle_sent(&mut self, index: u32) -> Option<Vec<u8>> {
        let next = self.backlog.remove(&index);
        self.members[index as usize].sending = next.is_some();
        next
    }

    /// A client is over.
    pub fn forget(&mut self, index: u32) {
        self.end(index, Stage::Gone);
    }

    /// A client drops, to come back.
    pub fn drop_out(&mut self, index: u32) {
        self.end(index, Stage::Dropped);
    }

    fn end(&mut self, index: u32, stage: Stage) {
        self.members[index as usize].stage = stage;
        self.remainders.remove(&index);
        self.backlog.remove(&index);
    }

    /// Cuts received bytes into messages and says what each meant. False: the server does not keep the protocol.
    pub fn handle_bytes(&mut self, index: u32, bytes: &[u8], mut meaning: impl FnMut(Meaning)) -> bool {
        let begun = self.remainders.remove(&index);
        let joined = begun.map(|mut begun| {
            begun.extend_from_slice(bytes);
            begun
        });
        let mut rest = joined.as_deref().unwrap_or(bytes);
        loop {
            match self.dialect.try_cut(self.first + index, rest) {
                Ok(Some((meant, tail))) => {
                    meaning(meant);
                    rest = tail;
                }
                Ok(None) => {
                    if !rest.is_empty() {
                        self.remainders.insert(index, rest.to_vec());
                    }
                    return true;
                }
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_joined_from_pieces_and_clients_are_told_apart() {
        let mut fleet = Fleet::new(40, 2, Dialect::Mqtt);
        let confirmed = [0x90, 4, 0, 1, 0, 0];
        let mut seen = Vec::new();
        for piece in confirmed.chunks(2) {
            for index in [0, 1] {
                assert!(fleet.handle_bytes(index, piece, |meaning| seen.push(meaning)));
            }
        }
        assert_eq!(seen, [Meaning::LoggedIn(40), Meaning::LoggedIn(41)]);
        assert!(fleet.remainders.is_empty());
    }

    #[test]
    fn one_send_is_in_flight_and_the_rest_waits() {
        let mut fleet = Fleet::new(0, 1, Dialect::Bare);
        assert_eq!(fleet.try_send(0, vec![1]), Some(vec![1]));
        assert_eq!(fleet.try_send(0, vec![2]), None);
        assert_eq!(fleet.try_send(0, vec![3]), None);
        assert_eq!(fleet.handle_sent(0), Some(vec![2, 3]));
        assert_eq!(fleet.handle_sent(0), None);
        assert_eq!(fleet.try_send(0, vec![4]), Some(vec![4]));
    }
}
