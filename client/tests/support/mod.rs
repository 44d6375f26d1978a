//! A gateway made of a socket and the wire crate, over TLS where a test says so.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moor_client::{Client, Event, Events, Options};
use moor_wire::client::{
    Connected, Delivery, Kind, Open, Opened, Submit, SubmitResult, frame_reader, put_control,
};
use moor_wire::frame::{Frame, FrameReader};
use prost::Message;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Longest any step may take: far above what it takes, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a socket is looked at that fills, and how often in turn it has to look the same to be full.
const LOOK: Duration = Duration::from_millis(10);
const FULL_AFTER_LOOKS: u32 = 10;

pub async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, step).await.unwrap_or_else(|_| panic!("{what} never came"))
}

pub struct Gateway {
    pub listener: TcpListener,
    pub address: String,
}

/// What a gateway speaks to: a socket, or TLS on one.
pub type Stream = Box<dyn Duplex>;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Gateway {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// The next connection, and nothing said yet.
    pub async fn accept_socket(&self) -> TcpStream {
        soon("a connection", self.listener.accept()).await.unwrap().0
    }

    /// The next connection, logged in, and its first OPEN, answered.
    pub async fn accept(&self) -> (Peer, Open) {
        let stream = self.accept_socket().await;
        let socket = socket_of(&stream);
        Self::log_in(Box::new(stream), socket).await
    }

    /// Likewise over TLS; and what `look` finds when the handshake is done.
    pub async fn accept_tls<T>(
        &self,
        config: &Arc<ServerConfig>,
        look: impl FnOnce(&ServerConnection) -> T,
    ) -> (Peer, T) {
        let stream = self.accept_socket().await;
        let socket = socket_of(&stream);
        let acceptor = TlsAcceptor::from(Arc::clone(config));
        let stream = soon("the handshake", acceptor.accept(stream)).await.unwrap();
        let found = look(stream.get_ref().1);
        let (peer, _) = Self::log_in(Box::new(stream), socket).await;
        (peer, found)
    }

    async fn log_in(stream: Stream, socket: OwnedFd) -> (Peer, Open) {
        let mut peer = Peer { stream, socket, reader: frame_reader() };
        peer.take(Kind::Connect).await;
        peer.say(Kind::Connected, 0, &Connected { heartbeat_ms: 60_000, ..Connected::default() }).await;
        let open = Open::decode(peer.take(Kind::Open).await.body).unwrap();
        peer.say(Kind::Opened, 1, &Opened { session: 7 }).await;
        (peer, open)
    }
}

fn socket_of(stream: &TcpStream) -> OwnedFd {
    stream.as_fd().try_clone_to_owned().unwrap()
}

pub struct Peer {
    stream: Stream,
    /// The socket below.
    socket: OwnedFd,
    reader: FrameReader,
}

impl Peer {
    /// Reads nothing until nothing more arrives: the buffers on the way are full.
    pub async fn stay_silent_until_full(&self) {
        let (mut before, mut looks_alike) = (0, 0);
        let full = async {
            while looks_alike < FULL_AFTER_LOOKS {
                tokio::time::sleep(LOOK).await;
                let waiting = rustix::io::ioctl_fionread(&self.socket).unwrap();
                looks_alike = if waiting > 0 && waiting == before { looks_alike + 1 } else { 0 };
                before = waiting;
            }
        };
        soon("a full buffer", full).await;
    }

    pub async fn say<M: Message>(&mut self, kind: Kind, channel: u16, body: &M) {
        let mut out = Vec::new();
        put_control(&mut out, kind, channel, body);
        self.stream.write_all(&out).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn deliver(&mut self, sync_id: u64) {
        self.say(Kind::Data, 1, &Delivery { sync_id, floor: 1, ..Delivery::default() }).await;
    }

    pub async fn accepted(&mut self, submit: &Submit) {
        let client_id = submit.client_id.clone();
        self.say(Kind::Ack, 1, &SubmitResult { client_id, sync_id: 9, ..SubmitResult::default() }).await;
    }

    /// The next frame; `None` when the client has hung up.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.reader.try_next().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            let length = soon("a frame", self.stream.read(&mut buffer)).await.unwrap_or(0);
            if length == 0 {
                return None;
            }
            self.reader.push(&buffer[..length]);
        }
    }

    /// The next frame of a kind.
    pub async fn take(&mut self, kind: Kind) -> Frame {
        loop {
            let frame = self.next().await.expect("the client is still there");
            if frame.header.kind == kind.byte() {
                return frame;
            }
        }
    }

    /// A message and a request about groups, in whatever order they come.
    pub async fn take_submit_and_request(&mut self) {
        let mut kinds = Vec::new();
        while !(kinds.contains(&Kind::Data.byte()) && kinds.contains(&Kind::Group.byte())) {
            kinds.push(self.next().await.expect("the client is still there").header.kind);
        }
    }

    pub async fn take_submit(&mut self) -> Submit {
        Submit::decode(self.take(Kind::Data).await.body).unwrap()
    }
}

pub async fn start(addresses: &[&Gateway], options: Options) -> (Client, Events) {
    let addresses: Vec<_> = addresses.iter().map(|g| g.address.clone()).collect();
    let (client, events) = Client::connect(&addresses, options).await.unwrap();
    client.open(1, "shop", "alice", Bytes::new(), Some(0)).await.unwrap();
    (client, events)
}

pub async fn message(events: &mut Events) -> Option<u64> {
    loop {
        if let Event::Message { sync_id, .. } = soon("an event", events.recv()).await.unwrap() {
            return sync_id;
        }
    }
}
