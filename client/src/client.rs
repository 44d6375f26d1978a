//! The session on tokio: one task drives it, a handle speaks to the task.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moor_wire::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::core::{Event, Options, Session};

/// Requests of the app that the task has not taken.
const REQUESTS_MAX: usize = 256;
/// Events the app has not taken; then nothing more is read from the server.
const EVENTS_MAX: usize = 1024;
/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest sleep of the task.
const SLEEP_MS_MAX: u64 = 60_000;

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
        source: io::Error,
    },
    /// The router refused the message.
    #[error("refused with {code}: {detail}")]
    Refused {
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
    /// Too many messages wait for their answers.
    #[error(transparent)]
    QueueFull(#[from] crate::core::QueueFull),
    /// The client was closed before the answer came.
    #[error("the client was closed before the answer came; the message may or may not have been accepted")]
    Closed,
}

enum Request {
    Open { channel: u16, app: String, account: String, credential: Bytes, last_sync_id: Option<u64> },
    Close { channel: u16 },
    Submit { channel: u16, client_id: Bytes, to: String, payload: Bytes, answer: Answer },
    Acknowledge { channel: u16, sync_id: u64 },
    LastSyncId { channel: u16, answer: oneshot::Sender<Option<u64>> },
}

type Answer = oneshot::Sender<Result<Accepted, ClientError>>;

/// A session that stays connected by itself. Ends when dropped.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
}

impl Client {
    /// Connects to the first of the addresses that listens, and stays connected: to the next one whenever a
    /// connection is lost. The receiver gets everything the app should know; while it is not read, the server
    /// is not read either.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none listens at first.
    pub async fn connect(
        addresses: &[String],
        options: Options,
    ) -> Result<(Self, mpsc::Receiver<Event>), ClientError> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (index, address) in addresses.iter().enumerate() {
            match dial(address).await {
                Ok(stream) => {
                    let (requests, from_app) = mpsc::channel(REQUESTS_MAX);
                    let (to_app, events) = mpsc::channel(EVENTS_MAX);
                    let driver = Driver {
                        session: Session::new(options, fastrand::u64(..)),
                        addresses: addresses.to_vec(),
                        next_address: index + 1,
                        started: Instant::now(),
                        answers: HashMap::new(),
                        from_app,
                        to_app,
                    };
                    tokio::spawn(driver.run(stream));
                    return Ok((Self { requests }, events));
                }
                Err(error) => last = error,
            }
        }
        Err(ClientError::Unreachable { addresses: addresses.join(", "), source: last })
    }

    /// Logs an account in on a channel; see [`Session::open`]. [`Event::Opened`] or [`Event::Closed`] follows.
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
        let (app, account) = (app.to_owned(), account.to_owned());
        self.request(Request::Open { channel, app, account, credential, last_sync_id }).await
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
        let (answer, answered) = oneshot::channel();
        self.request(Request::Submit { channel, client_id, to: to.to_owned(), payload, answer }).await?;
        answered.await.map_err(|_| ClientError::Closed)?
    }

    /// Says that everything up to `sync_id` is processed; only where options say that the app does.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn acknowledge(&self, channel: u16, sync_id: u64) -> Result<(), ClientError> {
        self.request(Request::Acknowledge { channel, sync_id }).await
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

    async fn request(&self, request: Request) -> Result<(), ClientError> {
        self.requests.send(request).await.map_err(|_| ClientError::Closed)
    }
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Driver {
    session: Session,
    addresses: Vec<String>,
    next_address: usize,
    started: Instant,
    answers: HashMap<(u16, Bytes), Answer>,
    from_app: mpsc::Receiver<Request>,
    to_app: mpsc::Sender<Event>,
}

impl Driver {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Until the app drops its handle.
    async fn run(mut self, first: TcpStream) {
        let mut stream = Some(first);
        loop {
            if let Some(connected) = stream.take() {
                self.session.handle_connected(self.now());
                if self.converse(connected).await.is_none() {
                    return;
                }
                self.session.handle_disconnected(self.now());
            }
            if self.hand_over_events().await.is_none() {
                return;
            }
            if self.session.wants_connection(self.now()) {
                self.session.handle_dialling();
                let address = self.addresses[self.next_address % self.addresses.len()].clone();
                self.next_address += 1;
                match dial(&address).await {
                    Ok(connected) => stream = Some(connected),
                    Err(_) => self.session.handle_disconnected(self.now()),
                }
            } else {
                let sleep = self.sleep();
                tokio::select! {
                    request = self.from_app.recv() => match request {
                        Some(request) => self.handle_request(request),
                        None => return,
                    },
                    () = tokio::time::sleep(sleep) => {}
                }
            }
        }
    }

    fn sleep(&self) -> Duration {
        let due = self.session.poll_timeout().map_or(SLEEP_MS_MAX, |due| due.saturating_sub(self.now()));
        Duration::from_millis(due.min(SLEEP_MS_MAX))
    }

    /// Drives one connection to its end. `None`: the app is gone.
    async fn converse(&mut self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = vec![0; 16 * 1024];
        let (mut reader, mut writer) = stream.split();
        loop {
            self.hand_over_events().await?;
            // Acknowledgements of the events just taken, PINGs, submits that are due.
            self.session.handle_timeout(self.now());
            if let Some(bytes) = self.session.poll_transmit(self.now())
                && writer.write_all(&bytes).await.is_err()
            {
                return Some(());
            }
            if self.session.wants_hang_up() {
                return self.hand_over_events().await;
            }
            let sleep = self.sleep();
            tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return Some(()),
                    Ok(length) => {
                        let now = self.now();
                        self.session.handle_bytes(&buffer[..length], now);
                    }
                },
                request = self.from_app.recv() => self.handle_request(request?),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn handle_request(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Open { channel, app, account, credential, last_sync_id } => {
                self.session.open(channel, &app, &account, credential, last_sync_id);
            }
            Request::Close { channel } => self.session.close(channel),
            Request::Submit { channel, client_id, to, payload, answer } => {
                match self.session.submit(channel, client_id.clone(), &to, payload, now) {
                    Ok(()) => {
                        self.answers.insert((channel, client_id), answer);
                    }
                    // Whoever asked may have stopped waiting: then nobody needs the answer.
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            Request::Acknowledge { channel, sync_id } => self.session.acknowledge(channel, sync_id, now),
            Request::LastSyncId { channel, answer } => drop(answer.send(self.session.last_sync_id(channel))),
        }
    }

    /// Answers go to whoever waits for them, everything else to the app. `None`: the app is gone.
    async fn hand_over_events(&mut self) -> Option<()> {
        while let Some(event) = self.session.poll_event(self.now()) {
            let answered = match &event {
                Event::Accepted { channel, client_id, sync_id, duplicate } => {
                    let (client_id, sync_id, duplicate) = (client_id.clone(), *sync_id, *duplicate);
                    let answer = self.answers.remove(&(*channel, client_id.clone()));
                    answer.map(|answer| (answer, Ok(Accepted { client_id, sync_id, duplicate })))
                }
                Event::Refused { channel, client_id, code, detail } => {
                    let answer = self.answers.remove(&(*channel, client_id.clone()));
                    answer.map(|a| (a, Err(ClientError::Refused { code: *code, detail: detail.clone() })))
                }
                _ => None,
            };
            match answered {
                Some((answer, result)) => drop(answer.send(result)),
                None => self.to_app.send(event).await.ok()?,
            }
        }
        Some(())
    }
}
