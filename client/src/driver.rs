//! The task behind a [`Client`](crate::Client): one loop, one `select!`, no step of which waits for only one of
//! the app, the server and the clock.
//!
//! It never makes the app wait for an event queue the app itself should empty, and never says a message is
//! processed before the app has taken it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::client::{Accepted, Answer, ClientError, Request, Whom};
use crate::core::{Disconnect, Event, Options, Session};
use crate::dial::Duplex;
use crate::events::{EventsGiver, Place};
use crate::limits::{EVENTS_MAX, EVENTS_WAITING_MAX, FAREWELL_MS, READ_BYTES, SLEEP_MS_MAX};
use crate::link::{Happened, Link};
use crate::places::Places;
use moor_wire::client::{GroupAnswer, GroupRequest};

pub(crate) struct Driver {
    /// It never acknowledges by itself: where it should, the driver tells it what the app has taken.
    session: Session,
    places: Places,
    started: Instant,
    /// Whoever sends again under an id waits behind who did before: each sending is answered.
    answers: HashMap<(u16, Bytes), VecDeque<Answer>>,
    group_answers: HashMap<u64, (u16, oneshot::Sender<Result<GroupAnswer, ClientError>>)>,
    next_request: u64,
    from_app: mpsc::Receiver<Request>,
    to_app: EventsGiver,
}

/// What the loop woke up for.
enum Step {
    Link(Happened),
    /// The app has taken events, or time has passed.
    Due,
    Request(Request),
    /// The app has dropped its end.
    Gone,
}

impl Driver {
    pub(crate) fn new(
        options: Options,
        places: Places,
        from_app: mpsc::Receiver<Request>,
        to_app: EventsGiver,
    ) -> Self {
        let options = Options { auto_acknowledge: false, ..options };
        Self {
            session: Session::new(options, fastrand::u64(..)),
            places,
            started: Instant::now(),
            answers: HashMap::new(),
            group_answers: HashMap::new(),
            next_request: 1,
            from_app,
            to_app,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Until the app drops its handle or its events, or says so.
    pub(crate) async fn run(mut self, first: Box<dyn Duplex>) {
        let mut link = Link::up(first);
        let mut buffer = vec![0; READ_BYTES];
        self.session.handle_connected(self.now());
        let done = loop {
            self.maintain(&mut link);
            if self.to_app.is_abandoned() {
                break None;
            }
            let read = self.to_app.waiting() < EVENTS_MAX;
            let sleep = self.sleep();
            let step = tokio::select! {
                happened = link.happen(read, &mut buffer) => Step::Link(happened),
                () = self.to_app.taken() => Step::Due,
                request = self.from_app.recv() => request.map_or(Step::Gone, Step::Request),
                () = tokio::time::sleep(sleep) => Step::Due,
            };
            // Before anything is asked or ended: what the app had taken by then counts.
            self.acknowledge(self.to_app.processed());
            match step {
                Step::Link(happened) => self.handle_link(&mut link, happened, &buffer),
                Step::Due => {}
                Step::Request(Request::Shutdown { done }) => break Some(done),
                Step::Request(request) => self.handle_request(request),
                Step::Gone => break None,
            }
        };
        self.part(link, done).await;
    }

    /// What is due: timers, a hang-up, the next try, bytes to write, answers to hand over.
    fn maintain(&mut self, link: &mut Link) {
        let now = self.now();
        self.session.handle_timeout(now);
        if self.session.wants_hang_up() {
            *link = Link::Down;
            self.session.handle_disconnected(now);
        }
        self.take_events();
        if matches!(link, Link::Down) && self.session.wants_connection(now) {
            self.session.handle_dialling();
            *link = Link::Dialling(self.places.dial());
        }
        if let Link::Up(wire) = link
            && wire.is_idle()
            && let Some(piece) = self.session.poll_transmit(now)
        {
            wire.transmit(piece);
        }
    }

    /// The app has taken what stands at these places.
    fn acknowledge(&mut self, processed: Vec<Place>) {
        let now = self.now();
        for Place { channel, group, sync_id } in processed {
            match group {
                None => self.session.acknowledge(channel, sync_id, now),
                Some(group) => self.session.acknowledge_group(channel, &group, sync_id, now),
            }
        }
    }

    fn sleep(&self) -> Duration {
        let due = self.session.poll_timeout().map_or(SLEEP_MS_MAX, |due| due.saturating_sub(self.now()));
        Duration::from_millis(due.min(SLEEP_MS_MAX))
    }

    fn handle_link(&mut self, link: &mut Link, happened: Happened, buffer: &[u8]) {
        let now = self.now();
        match happened {
            Happened::Dialled(Ok(stream)) => {
                *link = Link::up(stream);
                self.session.handle_connected(now);
            }
            Happened::Dialled(Err((address, why))) => {
                *link = Link::Down;
                self.session.handle_not_connected(address, why, now);
            }
            Happened::Lost => {
                *link = Link::Down;
                self.session.handle_disconnected(now);
            }
            Happened::Read(length) => self.session.handle_bytes(&buffer[..length], now),
            Happened::Wrote => self.session.handle_written(now),
        }
    }

    fn handle_request(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Open { channel, app, account, credential, last_sync_id, groups } => {
                self.forget(channel);
                self.session.open(channel, &app, &account, credential, last_sync_id);
                for (group, sync_id) in groups {
                    self.session.resume_group(channel, &group, sync_id);
                }
            }
            Request::Close { channel } => {
                self.forget(channel);
                self.session.close(channel);
            }
            Request::Submit { sending, channel, client_id, to, payload, answer } => {
                let id = client_id.clone();
                let taken = match to {
                    Whom::Timeline(to) => self.session.submit_to(sending, channel, id, to, payload, now),
                    Whom::Room(room, number) => {
                        self.session.publish_as(sending, channel, id, (&room, number), payload, now)
                    }
                };
                match taken {
                    Ok(()) => self.answers.entry((channel, client_id)).or_default().push_back(answer),
                    // Whoever asked may have stopped waiting: then nobody needs the answer.
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            Request::Enter { channel, room, last_id, answer } => {
                let entered = self.session.enter_room(channel, &room, last_id);
                drop(answer.send(entered.map_err(Into::into)));
            }
            Request::Leave { channel, room } => self.session.leave(channel, &room),
            Request::Like { channel, room, count } => self.session.like(channel, &room, count, now),
            Request::Acknowledge { channel, sync_id } => self.session.acknowledge(channel, sync_id, now),
            Request::AcknowledgeGroup { channel, group, sync_id } => {
                self.session.acknowledge_group(channel, &group, sync_id, now);
            }
            Request::Group { channel, group, act, answer } => {
                let id = self.next_request;
                self.next_request += 1;
                let request = GroupRequest { id, group, act: Some(act) };
                match self.session.ask_group(channel, request, now) {
                    Ok(()) => {
                        self.group_answers.insert(id, (channel, answer));
                    }
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            Request::MarkRead { channel, conversation, sync_id, answer } => {
                let marked = self.session.mark_read(channel, conversation, sync_id, now);
                drop(answer.send(marked.map_err(Into::into)));
            }
            Request::LastSyncId { channel, answer } => drop(answer.send(self.session.last_sync_id(channel))),
            Request::GroupPositions { channel, answer } => {
                drop(answer.send(self.session.group_positions(channel)));
            }
            Request::RoomLastId { channel, room, answer } => {
                let _heard: bool = answer.send(self.session.room_last_id(channel, &room)).is_ok();
            }
            Request::NetworkChanged => self.session.handle_network_change(now),
            // Taken by the loop.
            Request::Shutdown { .. } => {}
        }
    }

    /// This login is over. Whoever waits for an answer is told, by the end of its answer's sender; messages the
    /// app has not taken are dropped, unacknowledged, so that they come again.
    fn forget(&mut self, number: u16) {
        self.answers.retain(|(other, _), _| *other != number);
        self.group_answers.retain(|_, (other, _)| *other != number);
        let processed = self.to_app.forget(number);
        self.acknowledge(processed);
    }

    /// Who has waited longest for the answer to a message.
    fn answer_of(&mut self, channel: u16, client_id: &Bytes) -> Option<Answer> {
        let Entry::Occupied(mut waiting) = self.answers.entry((channel, client_id.clone())) else {
            return None;
        };
        let answer = waiting.get_mut().pop_front();
        if waiting.get().is_empty() {
            waiting.remove();
        }
        answer
    }

    /// Answers go to whoever waits for them, everything else waits for the app to take it.
    fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event(self.now()) {
            if let Event::Disconnected(Disconnect::SentAway { alternate, .. }) = &event
                && !alternate.is_empty()
            {
                self.places.prefer(alternate.clone());
            }
            if let Event::GroupAnswer { answer, is_abandoned, .. } = &event
                && let Some((_, waiting)) = self.group_answers.remove(&answer.id)
            {
                let abandoned = Err(ClientError::Abandoned { code: answer.code() });
                drop(waiting.send(if *is_abandoned { abandoned } else { Ok(answer.clone()) }));
                continue;
            }
            let answered = match &event {
                Event::Accepted { channel, client_id, sync_id, duplicate } => {
                    let answer = self.answer_of(*channel, client_id);
                    let (client_id, sync_id, duplicate) = (client_id.clone(), *sync_id, *duplicate);
                    answer.map(|answer| (answer, Ok(Accepted { client_id, sync_id, duplicate })))
                }
                Event::Refused { channel, client_id, code, detail } => {
                    let answer = self.answer_of(*channel, client_id);
                    answer.map(|a| (a, Err(ClientError::Refused { code: *code, detail: detail.clone() })))
                }
                Event::Abandoned { channel, client_id, code } => {
                    let answer = self.answer_of(*channel, client_id);
                    answer.map(|answer| (answer, Err(ClientError::Abandoned { code: *code })))
                }
                _ => None,
            };
            match answered {
                Some((answer, result)) => drop(answer.send(result)),
                None if self.to_app.waiting() >= EVENTS_WAITING_MAX && may_be_dropped(&event) => {}
                None => self.to_app.give(event),
            }
        }
    }

    /// Says what is left to say: acknowledgements and the end of every channel.
    async fn part(mut self, link: Link, done: Option<oneshot::Sender<()>>) {
        self.answers.clear();
        let processed = self.to_app.forget_all();
        self.acknowledge(processed);
        self.session.close_all();
        let last = self.session.poll_transmit(self.now()).unwrap_or_default();
        if let Link::Up(wire) = link {
            let farewell = tokio::time::timeout(Duration::from_millis(FAREWELL_MS), wire.part(&last));
            // Without it nothing is lost: what was not acknowledged comes again at the next login.
            let _said: bool = farewell.await.is_ok();
        }
        if let Some(done) = done {
            // Whoever asked may have stopped waiting.
            let _heard: bool = done.send(()).is_ok();
        }
    }
}

/// Transient messages carry no promise, and old news of the connection is worth nothing. Everything else is
/// bounded: messages by the router's window, answers by the submits.
fn may_be_dropped(event: &Event) -> bool {
    // Reliable messages of a room are acknowledged when they have come.
    if let Event::Room { messages, .. } = event {
        return messages.iter().all(|message| message.id == 0);
    }
    matches!(
        event,
        Event::Message { sync_id: None, .. }
            | Event::DeviceAck { .. }
            | Event::Delayed { .. }
            | Event::Connected { .. }
            | Event::Disconnected(_)
            | Event::NotConnected { .. }
            | Event::Opened { .. }
            | Event::Closed { reopens: true, .. }
    )
}
