//! Requests that are owed an answer: whoever holds a request's ticket gets it. A ticket that is dropped, within a future
//! that is, say, gives the answer up, and its place goes to the next request that needs one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::core::{Answer, Error, Ticket as Number};

/// The right to the answer of a request that was begun. Dropped with its clones it gives the answer up; what was asked may
/// happen all the same.
#[derive(Clone, Debug)]
pub struct Ticket {
    number: Number,
    held: Arc<()>,
}

/// Who holds the ticket, and the answer once it is here.
type Entry = (Weak<()>, Option<Result<Answer, Error>>);

/// What is owed.
#[derive(Debug, Default)]
pub(crate) struct Owed(HashMap<Number, Entry>);

impl Owed {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// An answer is owed to whoever gets this.
    pub(crate) fn issue(&mut self, number: Number) -> Ticket {
        let held = Arc::new(());
        self.0.insert(number, (Arc::downgrade(&held), None));
        Ticket { number, held }
    }

    /// An answer is here.
    pub(crate) fn settle(&mut self, number: Number, result: Result<Answer, Error>) {
        match self.0.get_mut(&number) {
            Some((holder, answer)) if holder.strong_count() > 0 => *answer = Some(result),
            _ => drop(self.0.remove(&number)),
        }
    }

    /// The answer, once it is here, and once only.
    pub(crate) fn take(&mut self, ticket: &Ticket) -> Option<Result<Answer, Error>> {
        let is_its_holder = |entry: &&Entry| entry.0.as_ptr() == Arc::as_ptr(&ticket.held);
        match self.0.get(&ticket.number).filter(is_its_holder) {
            None => Some(Err(Error::UnknownTicket)),
            Some((_, None)) => None,
            Some((_, Some(_))) => self.0.remove(&ticket.number)?.1,
        }
    }

    /// Forgets answers that were given up: those that are here, and those that `withdraw` says will not come.
    pub(crate) fn forget_given_up(&mut self, mut withdraw: impl FnMut(Number) -> bool) {
        self.0.retain(|number, (holder, answer)| {
            let is_over = holder.strong_count() == 0 && (answer.is_some() || withdraw(*number));
            !is_over
        });
    }
}
