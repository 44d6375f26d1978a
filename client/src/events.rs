//! Events on their way from a client's task to its app.
//!
//! Owns those that the app has not taken, and the places in timelines of those it has. An event is taken and its place
//! noted under one lock: whatever ends meanwhile finds a message taken or not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::core::Event;
use crate::limits::EVENTS_MAX;

/// What a [`Client`](crate::Client) tells its app, in order.
///
/// Where [`Options::auto_acknowledge`](crate::Options::auto_acknowledge) is set, a message counts as processed once
/// [`Self::recv`] has returned it, and not before: what is not taken when the client ends comes again at the next login.
/// An app that may still lose a message it has taken acknowledges by itself.
#[derive(Debug)]
pub struct Events(Arc<Shelf>);

/// The task's end of them.
#[derive(Debug)]
pub(crate) struct EventsGiver(Arc<Shelf>);

/// A place in an account's timeline or in a group's.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) channel: u16,
    pub(crate) group: Option<String>,
    pub(crate) sync_id: u64,
}

#[derive(Debug)]
struct Shelf {
    /// Whether what is taken is noted as processed.
    auto_acknowledge: bool,
    inside: Mutex<Inside>,
    /// For the app: there is an event, or no more will come.
    given: Notify,
    /// For the task: there are places, or there is room again to read what the server sends.
    taken: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    events: VecDeque<Event>,
    /// Places of what was taken since the task last looked: no more than there were events then.
    processed: Vec<Place>,
    /// The task has ended.
    is_ended: bool,
    /// The app has dropped its end.
    is_dropped: bool,
}

/// Both ends.
pub(crate) fn events(auto_acknowledge: bool) -> (EventsGiver, Events) {
    let inside = Mutex::new(Inside::default());
    let shelf = Arc::new(Shelf { auto_acknowledge, inside, given: Notify::new(), taken: Notify::new() });
    (EventsGiver(Arc::clone(&shelf)), Events(shelf))
}

impl Events {
    /// The next event, as soon as there is one; `None` when the client has ended. A call that is dropped before it
    /// returns has taken nothing.
    pub async fn recv(&mut self) -> Option<Event> {
        // An app that finds an event every time lets others run now and then.
        tokio::task::coop::consume_budget().await;
        loop {
            match self.0.take() {
                Poll::Ready(event) => return event,
                Poll::Pending => self.0.given.notified().await,
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut inside = self.0.lock();
        inside.is_dropped = true;
        inside.events.clear();
    }
}

impl EventsGiver {
    pub(crate) fn give(&self, event: Event) {
        self.0.lock().events.push_back(event);
        self.0.given.notify_one();
    }

    /// How many the app has not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().events.len()
    }

    /// Whether something was given that nobody will take.
    pub(crate) fn is_abandoned(&self) -> bool {
        let inside = self.0.lock();
        inside.is_dropped && !inside.events.is_empty()
    }

    /// Until there is something for the task to do.
    pub(crate) async fn taken(&self) {
        self.0.taken.notified().await;
    }

    /// The places of what was taken since the last call.
    pub(crate) fn processed(&self) -> Vec<Place> {
        std::mem::take(&mut self.0.lock().processed)
    }

    /// Likewise, and drops what is not taken of a channel's login.
    pub(crate) fn forget(&self, number: u16) -> Vec<Place> {
        self.0.forget(|login| login == number)
    }

    /// Likewise of every login: no more will come.
    pub(crate) fn forget_all(&self) -> Vec<Place> {
        self.0.forget(|_| true)
    }
}

impl Drop for EventsGiver {
    fn drop(&mut self) {
        self.0.lock().is_ended = true;
        self.0.given.notify_one();
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Whatever panicked, it left no half of a change behind.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Poll<Option<Event>> {
        let mut inside = self.lock();
        let Some(event) = inside.events.pop_front() else {
            return if inside.is_ended { Poll::Ready(None) } else { Poll::Pending };
        };
        let place = if self.auto_acknowledge { Place::of(&event) } else { None };
        let has_news = place.is_some() && inside.processed.is_empty();
        inside.processed.extend(place);
        if has_news || inside.events.len() + 1 == EVENTS_MAX {
            self.taken.notify_one();
        }
        Poll::Ready(Some(event))
    }

    fn forget(&self, is_over: impl Fn(u16) -> bool) -> Vec<Place> {
        let mut inside = self.lock();
        inside.events.retain(|event| !event.login().is_some_and(&is_over));
        std::mem::take(&mut inside.processed)
    }
}

impl Place {
    /// The place that an event stands for.
    fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Message { channel, sync_id: Some(id), .. } => {
                Some(Self { channel: *channel, group: None, sync_id: *id })
            }
            Event::GroupMessage { channel, group, sync_id, .. } => {
                Some(Self { channel: *channel, group: Some(group.clone()), sync_id: *sync_id })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use moor_wire::client::TrafficMarks;

    use super::*;

    fn message(sync_id: u64) -> Event {
        Event::Message {
            channel: 1,
            sync_id: Some(sync_id),
            from: "bob".to_owned(),
            client_id: Bytes::new(),
            sent_at_ms: 0,
            payload: Bytes::new(),
            marks: TrafficMarks::default(),
        }
    }

    async fn is_woken(giver: &EventsGiver) -> bool {
        tokio::time::timeout(Duration::ZERO, giver.taken()).await.is_ok()
    }

    #[tokio::test]
    async fn the_task_is_woken_once_for_all_that_was_taken() {
        let (giver, mut events) = events(true);
        for id in 1..=3 {
            giver.give(message(id));
        }
        assert!(!is_woken(&giver).await, "given is not taken");
        for _ in 0..2 {
            events.recv().await;
        }
        assert!(is_woken(&giver).await);
        assert!(!is_woken(&giver).await);
        let processed: Vec<_> = giver.processed().iter().map(|place| place.sync_id).collect();
        assert_eq!(processed, [1, 2]);
        events.recv().await;
        assert!(is_woken(&giver).await);
    }

    #[tokio::test]
    async fn the_task_is_woken_where_there_is_room_to_read_again() {
        let (giver, mut events) = events(false);
        for id in 0..=EVENTS_MAX as u64 {
            giver.give(message(id));
        }
        events.recv().await;
        assert!(!is_woken(&giver).await);
        events.recv().await;
        assert!(is_woken(&giver).await && giver.waiting() < EVENTS_MAX);
        events.recv().await;
        assert!(!is_woken(&giver).await);
        assert!(giver.processed().is_empty(), "the app says itself what it has processed");
    }

    #[tokio::test]
    async fn what_is_no_logins_outlives_the_task() {
        let (giver, mut events) = events(true);
        let accepted = Event::Accepted { channel: 1, client_id: Bytes::new(), sync_id: 1, duplicate: false };
        giver.give(message(1));
        giver.give(accepted.clone());
        assert!(giver.forget_all().is_empty());
        drop(giver);
        assert_eq!((events.recv().await, events.recv().await), (Some(accepted), None));
    }

    #[tokio::test]
    async fn what_nobody_takes_ends_the_task() {
        let (giver, events) = events(true);
        giver.give(message(1));
        drop(events);
        assert!(!giver.is_abandoned());
        giver.give(message(2));
        assert!(giver.is_abandoned());
    }
}
