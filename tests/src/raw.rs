//! A client that speaks bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Connect, Connected, Delivery, Kind, Open, Opened, Submit, SubmitResult, frame_reader, put,
    put_control, put_sync_id,
};
use moor_wire::frame::{Frame, FrameReader, put_message};
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// How long an answer may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the frames.
#[derive(Debug)]
enum Carrier {
    Plain(Wire),
    /// By an implementation of RFC 6455 that is not ours.
    WebSocket(Box<WebSocket<Wire>>),
}

/// A connection to a gateway's client port.
#[derive(Debug)]
pub struct RawClient {
    carrier: Carrier,
    reader: FrameReader,
    /// Told by the server.
    pub heartbeat_ms: u32,
}

impl RawClient {
    /// A connection that has said nothing yet.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Wire::Plain(stream)))
    }

    /// One from an address of this host.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial_from(source: IpAddr, address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into())?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self::over(Wire::Plain(socket.into())))
    }

    /// A connection over TLS that has said nothing yet; its handshake comes with the first bytes.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial_tls(address: SocketAddr, tls: ClientConnection) -> Result<Self> {
        Wire::tls(address, tls).map(Self::over)
    }

    fn over(wire: Wire) -> Self {
        Self { carrier: Carrier::Plain(wire), reader: frame_reader(), heartbeat_ms: 0 }
    }

    /// Likewise over WebSocket, upgraded, with the subprotocol `moor.v1`.
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub fn dial_websocket(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Self::upgrade(address, Wire::Plain(stream))
    }

    /// Likewise over TLS.
    ///
    /// # Errors
    /// When the handshake fails or the upgrade is refused.
    pub fn dial_websocket_tls(address: SocketAddr, tls: ClientConnection) -> Result<Self> {
        Self::upgrade(address, Wire::tls(address, tls)?)
    }

    fn upgrade(address: SocketAddr, stream: Wire) -> Result<Self> {
        let mut request = format!("ws://{address}/").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("moor.v1"));
        let (socket, response) = tungstenite::client(request, stream)?;
        let protocol = response.headers().get("Sec-WebSocket-Protocol").map(HeaderValue::as_bytes);
        anyhow::ensure!(protocol == Some(b"moor.v1"), "the subprotocol is {protocol:?}");
        Ok(Self { carrier: Carrier::WebSocket(Box::new(socket)), reader: frame_reader(), heartbeat_ms: 0 })
    }

    /// A connection with CONNECT answered.
    ///
    /// # Errors
    /// When the server does not answer CONNECTED.
    pub fn connect(address: SocketAddr, device: &str) -> Result<Self> {
        Self::connect_with(address, device, 0)
    }

    /// Likewise, with a wish for the heartbeat.
    ///
    /// # Errors
    /// When the server does not answer CONNECTED.
    pub fn connect_with(address: SocketAddr, device: &str, heartbeat_max_ms: u32) -> Result<Self> {
        Self::dial(address)?.greet(device, heartbeat_max_ms)
    }

    /// Sends CONNECT on a connection that has said nothing yet.
    ///
    /// # Errors
    /// When the server does not answer CONNECTED.
    pub fn greet(mut self, device: &str, heartbeat_max_ms: u32) -> Result<Self> {
        let connect = Connect { version: 1, device: device.into(), heartbeat_max_ms, ..Connect::default() };
        let mut out = Vec::new();
        put_control(&mut out, Kind::Connect, 0, &connect);
        self.write(&out)?;
        let connected: Connected = self.expect(Kind::Connected)?;
        self.heartbeat_ms = connected.heartbeat_ms;
        Ok(self)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.carrier {
            Carrier::Plain(wire) => {
                wire.write_all(bytes)?;
                Ok(wire.flush()?)
            }
            Carrier::WebSocket(socket) => Ok(socket.send(Message::binary(bytes.to_vec()))?),
        }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, kind: Kind, channel: u16, body: &[u8]) -> Result<()> {
        let mut out = Vec::new();
        put(&mut out, kind, Class::Reliable, channel, body);
        self.write(&out)
    }

    /// Opens a channel in the app `shop`; the session's handle.
    ///
    /// # Errors
    /// When the server does not answer OPENED.
    pub fn open(&mut self, channel: u16, account: &str, last_sync_id: Option<u64>) -> Result<u64> {
        let open = Open { app: "shop".into(), account: account.into(), last_sync_id, ..Open::default() };
        let mut out = Vec::new();
        put_control(&mut out, Kind::Open, channel, &open);
        self.write(&out)?;
        Ok(self.expect::<Opened>(Kind::Opened)?.session)
    }

    /// Opens a channel in any app; the session's handle.
    ///
    /// # Errors
    /// When the server does not answer OPENED.
    pub fn open_in(&mut self, channel: u16, app: &str, account: &str) -> Result<u64> {
        let open = Open { app: app.into(), account: account.into(), ..Open::default() };
        let mut out = Vec::new();
        put_control(&mut out, Kind::Open, channel, &open);
        self.write(&out)?;
        Ok(self.expect::<Opened>(Kind::Opened)?.session)
    }

    /// Submits a message without waiting for its answer.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn submit(&mut self, channel: u16, client_id: &str, to: &str, payload: &[u8]) -> Result<()> {
        let submit = Submit {
            client_id: client_id.as_bytes().to_vec().into(),
            to: to.into(),
            payload: payload.to_vec().into(),
            ..Submit::default()
        };
        let mut out = Vec::new();
        put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), channel, &submit);
        self.write(&out)
    }

    /// Submits until the server says that it has the message, again whenever an answer does not come: one that was
    /// on its way to a router that died is lost, and says nothing. Its sync id.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn submit_until_accepted(
        &mut self,
        channel: u16,
        client_id: &str,
        to: &str,
        payload: &[u8],
    ) -> Result<u64> {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < PATIENCE {
            self.submit(channel, client_id, to, payload)?;
            match self.answer_to(client_id, Duration::from_secs(1))? {
                Some(result) if result.code == Code::Ok as i32 => return Ok(result.sync_id),
                refused => last = refused,
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        bail!("{client_id} is still not accepted: {last:?}")
    }

    /// The answer to one submit; answers to others are passed over. `None`: it did not come in time.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn answer_to(&mut self, client_id: &str, limit: Duration) -> Result<Option<SubmitResult>> {
        let deadline = Instant::now() + limit;
        while let Some(frame) = self.next_within(deadline.saturating_duration_since(Instant::now()))? {
            if frame.header.kind == Kind::Ack.byte() {
                let result = <SubmitResult as prost::Message>::decode(frame.body)?;
                if result.client_id == client_id.as_bytes() {
                    return Ok(Some(result));
                }
            }
        }
        Ok(None)
    }

    /// Acknowledges.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn ack(&mut self, channel: u16, sync_id: u64) -> Result<()> {
        let mut out = Vec::new();
        put_sync_id(&mut out, Kind::Ack, channel, sync_id);
        self.write(&out)
    }

    /// PING and its PONG: everything said before has been handled.
    ///
    /// # Errors
    /// When the answer does not come.
    pub fn ping(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.send(Kind::Ping, 0, b"x")?;
        self.next_of(Kind::Pong)?;
        Ok(started.elapsed())
    }

    /// The next frame within `limit`; `None` when none came.
    ///
    /// # Errors
    /// [`Hung up`](ErrorKind::UnexpectedEof) or reset.
    pub fn next_within(&mut self, limit: Duration) -> Result<Option<Frame>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.reader.try_next()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream().set_read_timeout(Some(left))?;
            self.read_some()?;
        }
    }

    /// Reads once, or until the timeout of the socket.
    fn read_some(&mut self) -> Result<()> {
        let waits =
            |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        match &mut self.carrier {
            Carrier::Plain(stream) => {
                let mut buffer = [0; 16 * 1024];
                match stream.read(&mut buffer) {
                    Ok(0) => return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
                    Ok(length) => self.reader.push(&buffer[..length]),
                    Err(error) if waits(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Carrier::WebSocket(socket) => match socket.read() {
                Ok(Message::Binary(bytes)) => self.reader.push(&bytes),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if waits(&error) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    /// The next frame of a kind; others are passed over.
    ///
    /// # Errors
    /// When it does not come within [`PATIENCE`].
    pub fn next_of(&mut self, kind: Kind) -> Result<Frame> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.next_within(left)?.with_context(|| format!("no {kind:?} in {PATIENCE:?}"))?;
            if frame.header.kind == kind.byte() {
                return Ok(frame);
            }
            if frame.header.kind == Kind::Close.byte() && kind != Kind::Close {
                bail!("the channel was closed: {:?}", <Close as prost::Message>::decode(frame.body)?);
            }
        }
    }

    /// The decoded body of the next frame of a kind.
    ///
    /// # Errors
    /// When it does not come or does not decode.
    pub fn expect<M: prost::Message + Default>(&mut self, kind: Kind) -> Result<M> {
        Ok(M::decode(self.next_of(kind)?.body)?)
    }

    /// The next delivery.
    ///
    /// # Errors
    /// When it does not come.
    pub fn delivery(&mut self) -> Result<Delivery> {
        self.expect(Kind::Data)
    }

    /// Reads until the server hangs up; how long that took.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn until_closed(&mut self, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let left = limit.saturating_sub(started.elapsed());
            match self.next_within(left) {
                Ok(Some(_)) => {}
                Ok(None) => bail!("still open after {limit:?}"),
                Err(_) => return Ok(started.elapsed()),
            }
        }
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        match &self.carrier {
            Carrier::Plain(wire) => wire.tcp(),
            Carrier::WebSocket(socket) => socket.get_ref().tcp(),
        }
    }
}

/// What carries bytes.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    /// By an implementation of TLS that is not ours.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn tls(address: SocketAddr, tls: ClientConnection) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(tls, stream))))
    }

    const fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
