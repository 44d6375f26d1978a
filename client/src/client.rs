//! The session on tokio: one task drives it, a handle speaks to the task.

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Act, Class, GroupAnswer};
use moor_wire::identity::NameError;
use tokio::sync::{mpsc, oneshot};

use crate::core::{Conversation, DialError, Options, Sending, Target};
use crate::dial::dial;
use crate::driver::Driver;
use crate::events::{Events, events};
use crate::limits::REQUESTS_MAX;
use crate::places::Places;
use crate::tls::{Tls, TlsError};

/// The router has the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message's id as sent.
    pub client_id: Bytes,
    /// Its place in the receiver's timeline.
    pub sync_id: u64,
    /// The router had it before.
    pub duplicate: bool,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// None of the addresses takes connections.
    #[error(
        "nothing listens at {addresses} ({source}): start it with `cargo run --release`, or name another with --target"
    )]
    Unreachable {
        /// What was tried.
        addresses: String,
        /// The last reason.
        source: DialError,
    },
    /// An address takes connections, but none of them has a server that can be trusted.
    #[error("{address}: {source}")]
    NotSecure {
        /// Which.
        address: String,
        /// Whether it is its certificate, and what of it.
        source: DialError,
    },
    /// No gateway takes a client that presents itself so.
    #[error(transparent)]
    Options(#[from] NameError),
    /// TLS cannot be spoken as wished.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The router refused the message.
    #[error("refused with {code}: {detail}")]
    Refused {
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
    /// The message was not even tried.
    #[error(transparent)]
    Submit(#[from] crate::core::SubmitError),
    /// The room was not entered.
    #[error(transparent)]
    Room(#[from] crate::core::RoomError),
    /// The channel was closed for good before the answer came.
    #[error(
        "the channel was closed ({code}) before the answer came; it may have been done or not: say it again, a \
         message with the same id"
    )]
    Abandoned {
        /// Why the channel was closed.
        code: Code,
    },
    /// The client or the channel was closed before the answer came.
    #[error("the client was closed before the answer came; the message may or may not have been accepted")]
    Closed,
}

pub(crate) enum Request {
    Open {
        channel: u16,
        app: String,
        account: String,
        credential: Bytes,
        last_sync_id: Option<u64>,
        groups: Vec<(String, u64)>,
    },
    Close {
        channel: u16,
    },
    Submit {
        sending: Sending,
        channel: u16,
        client_id: Bytes,
        to: Whom,
        payload: Bytes,
        answer: Answer,
    },
    Enter {
        channel: u16,
        room: String,
        last_id: Option<u64>,
        answer: Done,
    },
    Leave {
        channel: u16,
        room: String,
    },
    Like {
        channel: u16,
        room: String,
        count: u32,
    },
    Acknowledge {
        channel: u16,
        sync_id: u64,
    },
    AcknowledgeGroup {
        channel: u16,
        group: String,
        sync_id: u64,
    },
    Group {
        channel: u16,
        group: String,
        act: Act,
        answer: oneshot::Sender<Result<GroupAnswer, ClientError>>,
    },
    MarkRead {
        channel: u16,
        conversation: Conversation,
        sync_id: u64,
        answer: Done,
    },
    LastSyncId {
        channel: u16,
        answer: oneshot::Sender<Option<u64>>,
    },
    GroupPositions {
        channel: u16,
        answer: oneshot::Sender<Vec<(String, u64)>>,
    },
    RoomLastId {
        channel: u16,
        room: String,
        answer: oneshot::Sender<Option<u64>>,
    },
    NetworkChanged,
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// Whom a message is for.
pub(crate) enum Whom {
    /// An account or a group.
    Timeline(Target),
    /// Everybody in a room, as a message of a type.
    Room(String, u32),
}

pub(crate) type Answer = oneshot::Sender<Result<Accepted, ClientError>>;
pub(crate) type Done = oneshot::Sender<Result<(), ClientError>>;

/// A session that stays connected by itself. Ends when dropped.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
}

impl Client {
    /// Connects to the first of the addresses that listens, and stays connected: to the next one whenever a
    /// connection is lost, or to the one the server names.
    ///
    /// [`Events`] has everything the app should know. While the app does not take its events, reliable
    /// messages wait, unacknowledged; transient messages and news of the connection are dropped once a thousand
    /// wait. Other calls work meanwhile. When it is dropped the client ends with the next event.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none listens at first; [`ClientError::Options`] when none would take this client.
    pub async fn connect(addresses: &[String], options: Options) -> Result<(Self, Events), ClientError> {
        Self::connect_over(addresses, options, None).await
    }

    /// Likewise over TLS: every address, the one that a server names included, or none. A later connection resumes
    /// with the ticket of an earlier one.
    ///
    /// # Errors
    /// As [`Self::connect`]; [`ClientError::NotSecure`] when a server is there at first, but none that can be trusted;
    /// [`ClientError::Tls`] when an address holds no name to ask for. Afterwards [`Event::NotConnected`](crate::Event::NotConnected) says so.
    pub async fn connect_tls(
        addresses: &[String],
        options: Options,
        tls: Tls,
    ) -> Result<(Self, Events), ClientError> {
        for address in addresses {
            tls.name_at(address)?;
        }
        Self::connect_over(addresses, options, Some(tls)).await
    }

    async fn connect_over(
        addresses: &[String],
        options: Options,
        tls: Option<Tls>,
    ) -> Result<(Self, Events), ClientError> {
        options.check()?;
        let mut failed = ClientError::Unreachable {
            addresses: addresses.join(", "),
            source: DialError::Network {
                kind: std::io::ErrorKind::AddrNotAvailable,
                detail: "no address is given".to_owned(),
            },
        };
        for (index, address) in addresses.iter().enumerate() {
            match (dial(address, tls.as_ref()).await, &mut failed) {
                (Ok(stream), _) => {
                    let (requests, from_app) = mpsc::channel(REQUESTS_MAX);
                    let (to_app, events) = events(options.auto_acknowledge);
                    let places = Places::new(addresses.to_vec(), index + 1, tls);
                    let driver = Driver::new(options, places, from_app, to_app);
                    tokio::spawn(driver.run(stream));
                    return Ok((Self { requests }, events));
                }
                (Err(error @ DialError::Network { .. }), ClientError::Unreachable { source, .. }) => {
                    *source = error;
                }
                // A server that is there says more than one that is away.
                (Err(DialError::Network { .. }), _) => {}
                (Err(source), _) => failed = ClientError::NotSecure { address: address.clone(), source },
            }
        }
        Err(failed)
    }

    /// Logs an account in on a channel; see [`Session::open`](crate::core::Session::open). [`Event::Opened`](crate::Event::Opened) or [`Event::Closed`](crate::Event::Closed) follows.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn open(
        &self,
        channel: u16,
        app: &str,
        account: &str,
        credential: Bytes,
        last_sync_id: Option<u64>,
    ) -> Result<(), ClientError> {
        self.open_with_groups(channel, app, account, credential, last_sync_id, Vec::new()).await
    }

    /// [`Self::open`] with what the app holds of its groups from an earlier run; see [`Self::group_positions`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn open_with_groups(
        &self,
        channel: u16,
        app: &str,
        account: &str,
        credential: Bytes,
        last_sync_id: Option<u64>,
        groups: Vec<(String, u64)>,
    ) -> Result<(), ClientError> {
        let (app, account) = (app.to_owned(), account.to_owned());
        self.request(Request::Open { channel, app, account, credential, last_sync_id, groups }).await
    }

    /// Enters a room on a channel; see [`Session::enter`](crate::core::Session::enter). [`Event::Room`](crate::Event::Room) follows, again
    /// and again. Room events without a reliable message are dropped while the app does not take its events.
    ///
    /// # Errors
    /// [`ClientError::Room`], [`ClientError::Closed`].
    pub async fn enter(&self, channel: u16, room: &str) -> Result<(), ClientError> {
        self.enter_room(channel, room, None).await
    }

    /// [`Self::enter`] of a room that the app was in before; see
    /// [`Session::enter_behind`](crate::core::Session::enter_behind) and [`Self::room_last_id`].
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub async fn enter_behind(&self, channel: u16, room: &str, last_id: u64) -> Result<(), ClientError> {
        self.enter_room(channel, room, Some(last_id)).await
    }

    async fn enter_room(&self, channel: u16, room: &str, last_id: Option<u64>) -> Result<(), ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Enter { channel, room: room.to_owned(), last_id, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// Leaves a room.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn leave(&self, channel: u16, room: &str) -> Result<(), ClientError> {
        self.request(Request::Leave { channel, room: room.to_owned() }).await
    }

    /// Likes a room, so many times.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn like(&self, channel: u16, room: &str, count: u32) -> Result<(), ClientError> {
        self.request(Request::Like { channel, room: room.to_owned(), count }).await
    }

    /// Says something to everybody in a room and waits until the router has it; see
    /// [`Session::publish`](crate::core::Session::publish).
    ///
    /// # Errors
    /// As [`Self::send_as`].
    pub async fn publish(
        &self,
        channel: u16,
        client_id: Bytes,
        room: (&str, u32),
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        self.publish_with(Sending::default(), channel, client_id, room, payload).await
    }

    /// [`Self::publish`] with a business level or traffic marks; see
    /// [`Session::publish_as`](crate::core::Session::publish_as).
    ///
    /// # Errors
    /// As [`Self::send_as`].
    pub async fn publish_with(
        &self,
        sending: impl Into<Sending>,
        channel: u16,
        client_id: Bytes,
        (room, number): (&str, u32),
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        self.offer(sending.into(), channel, client_id, Whom::Room(room.to_owned(), number), payload).await
    }

    /// Logs a channel out.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn close(&self, channel: u16) -> Result<(), ClientError> {
        self.request(Request::Close { channel }).await
    }

    /// Sends a message and waits until the router has it, over reconnects, however long that takes.
    ///
    /// # Errors
    /// [`ClientError`] when it is refused for good or the client ends.
    pub async fn send(&self, channel: u16, to: &str, payload: Bytes) -> Result<Accepted, ClientError> {
        let client_id = Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes());
        self.send_as(channel, client_id, to, payload).await
    }

    /// Likewise with an id of the app's own, which may have been used for the same message before.
    ///
    /// # Errors
    /// [`ClientError`] when it is refused for good or the client ends.
    pub async fn send_as(
        &self,
        channel: u16,
        client_id: Bytes,
        to: &str,
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        self.send_with(Sending::default(), channel, client_id, to, payload).await
    }

    /// Sends a message of class normal or transient to whoever is logged in as `to` right now, once: nothing
    /// keeps it and nobody tries again. Its sync id is 0.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when nobody is logged in (`NOT_FOUND`), something on the way is full
    /// (`OVERLOADED`) or no answer came (`UNAVAILABLE`); [`ClientError::Submit`] while not logged in.
    pub async fn send_once(
        &self,
        class: Class,
        channel: u16,
        to: &str,
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        let client_id = Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes());
        self.send_with(class, channel, client_id, to, payload).await
    }

    /// Sends a message of any class and business level; see [`Self::send_as`] and [`Self::send_once`].
    ///
    /// # Errors
    /// As those.
    pub async fn send_with(
        &self,
        sending: impl Into<Sending>,
        channel: u16,
        client_id: Bytes,
        to: &str,
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        self.send_to(sending, channel, client_id, Target::Account(to.to_owned()), payload).await
    }

    /// [`Self::send_with`] to an account or a group.
    ///
    /// # Errors
    /// As [`Self::send_with`].
    pub async fn send_to(
        &self,
        sending: impl Into<Sending>,
        channel: u16,
        client_id: Bytes,
        to: Target,
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        self.offer(sending.into(), channel, client_id, Whom::Timeline(to), payload).await
    }

    async fn offer(
        &self,
        sending: Sending,
        channel: u16,
        client_id: Bytes,
        to: Whom,
        payload: Bytes,
    ) -> Result<Accepted, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Submit { sending, channel, client_id, to, payload, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// Makes, changes or looks at a group, and waits for the answer, over reconnects. Asked twice, the second time
    /// changes nothing. The answer's code says whether it was done; a look at members or a list that is refused for now is
    /// asked for again.
    ///
    /// # Errors
    /// [`ClientError::Abandoned`] when the channel is closed for good first, [`ClientError::Submit`] when the request is
    /// not even tried, [`ClientError::Closed`] when the app closes the channel or the client.
    pub async fn group(&self, channel: u16, group: &str, act: Act) -> Result<GroupAnswer, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Group { channel, group: group.to_owned(), act, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// Says that everything of a group up to `sync_id` is processed; only where options say that the app does.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn acknowledge_group(
        &self,
        channel: u16,
        group: &str,
        sync_id: u64,
    ) -> Result<(), ClientError> {
        self.request(Request::AcknowledgeGroup { channel, group: group.to_owned(), sync_id }).await
    }

    /// Says that everything up to `sync_id` is processed; only where options say that the app does.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn acknowledge(&self, channel: u16, sync_id: u64) -> Result<(), ClientError> {
        self.request(Request::Acknowledge { channel, sync_id }).await
    }

    /// Says that the account has read a conversation up to `sync_id`. Kept until the router has it, which
    /// [`Event::ReadMark`](crate::Event::ReadMark) tells; forgotten when the channel is closed for good.
    ///
    /// # Errors
    /// [`ClientError::Submit`] when the channel does not exist or was closed for good, the name is none, or 256 wait;
    /// [`ClientError::Closed`].
    pub async fn mark_read(
        &self,
        channel: u16,
        conversation: Conversation,
        sync_id: u64,
    ) -> Result<(), ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::MarkRead { channel, conversation, sync_id, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// What a channel holds without a gap, to be kept for the next start.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn last_sync_id(&self, channel: u16) -> Result<Option<u64>, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::LastSyncId { channel, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)
    }

    /// What a channel holds of its groups, to be kept for the next start's [`Self::open_with_groups`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn group_positions(&self, channel: u16) -> Result<Vec<(String, u64)>, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::GroupPositions { channel, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)
    }

    /// The last reliable message of a room that was heard without a gap, whether its event is taken or not, for the next
    /// [`Self::enter_behind`].
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn room_last_id(&self, channel: u16, room: &str) -> Result<Option<u64>, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::RoomLastId { channel, room: room.to_owned(), answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)
    }

    /// Says that the network is back, or another one, where the platform tells the app: a connection is tried soon, or
    /// found out whether it still stands; see
    /// [`Session::handle_network_change`](crate::core::Session::handle_network_change).
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn network_changed(&self) -> Result<(), ClientError> {
        self.request(Request::NetworkChanged).await
    }

    /// Ends in good order: what is processed is acknowledged, every channel is logged out. Unanswered messages
    /// are forgotten; messages that the app has not taken by then are dropped and come again at the next login. Dropping
    /// the handle does the same without waiting for it.
    pub async fn shutdown(self) {
        let (done, ended) = oneshot::channel();
        if self.request(Request::Shutdown { done }).await.is_ok() {
            // Ends with an error when the task ended on its own account, which is the same to the caller.
            drop(ended.await);
        }
    }

    async fn request(&self, request: Request) -> Result<(), ClientError> {
        self.requests.send(request).await.map_err(|_| ClientError::Closed)
    }
}
