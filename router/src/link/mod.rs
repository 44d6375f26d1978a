//! A connection of a gateway worker or a service: TLS, HELLO, frames in, frames out, the end.
//!
//! Two tasks per link on the thread that accepted it. The reading one decodes what the kernel gave and hands
//! it to the thread's shard, or to another's, in one go; the writing one empties the link's queue. The
//! socket is gone only when both are done with it.

mod decode;
mod records;
mod rooms;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use monoio::buf::IoBufMut;
use monoio::io::{
    AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable,
};
use monoio::net::TcpStream;
use moor_tls::peer::{Acceptor, PeerError};
use moor_wire::Code;
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::identity::NameError;
use moor_wire::internal::{Failure, Hello, LayoutError, Role, Verb, Welcome, frame_reader, put_control};
use moor_wire::limits::{
    CONTROL_BODY_BYTES_MAX, INTERNAL_ADDRESS_BYTES_MAX, INTERNAL_VERSION, NODE_BYTES_MAX, REASON_BYTES_MAX,
};
use prost::Message as _;

use crate::clock::now_ms;
use crate::lease::{Link, Peer};
use crate::limits::{CLOSE_LINGER_MS, HELLO_TIMEOUT_MS, KEEPALIVE_S, LEASE_MS, READ_BYTES};
use crate::link::records::Records;
use crate::outbox::{LinkOut, Weight};
use crate::seldom::Seldom;
use crate::thread::Node;

/// Why a link is closed by us.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    code: Code,
    detail: String,
}

impl Refusal {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        let mut end = detail.len().min(REASON_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        detail.truncate(end);
        Self { code, detail }
    }

    fn protocol(detail: impl Into<String>) -> Self {
        Self::new(Code::ProtocolError, detail)
    }
}

impl From<moor_wire::frame::TooLarge> for Refusal {
    fn from(error: moor_wire::frame::TooLarge) -> Self {
        Self::new(Code::TooLarge, error.to_string())
    }
}

impl From<LayoutError> for Refusal {
    fn from(error: LayoutError) -> Self {
        Self::protocol(error.to_string())
    }
}

impl From<prost::DecodeError> for Refusal {
    fn from(error: prost::DecodeError) -> Self {
        Self::protocol(error.to_string())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(Code::Invalid, error.to_string())
    }
}

/// The receiving side of a link.
struct Receiver {
    half: OwnedReadHalf<TcpStream>,
    frames: FrameReader,
    out: Rc<LinkOut>,
    records: Rc<Records>,
    /// Received and not opened, over TLS; the memory is used again.
    received: Vec<u8>,
    /// What TLS had against the peer: it has been told by an alert.
    broken: Option<PeerError>,
}

impl Receiver {
    /// Reads until there is something more for frames. `Ok(0)`: the end, theirs or ours.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.records.is_clear() { self.fill_clear().await } else { self.fill_opened().await }
    }

    /// Reads until records held something.
    async fn fill_opened(&mut self) -> io::Result<usize> {
        loop {
            let mut buffer = std::mem::take(&mut self.received);
            buffer.clear();
            buffer.reserve(READ_BYTES);
            let done = read_once(&mut self.half, &self.out, buffer).await;
            let Some((result, buffer)) = done else { return Ok(0) };
            self.received = buffer;
            let before = self.frames.buffer_mut().len();
            let goes_on = result? > 0 && self.open();
            let opened = self.frames.buffer_mut().len() - before;
            if opened > 0 || !goes_on {
                return Ok(opened);
            }
        }
    }

    /// Opens what was received. False: nothing more will come.
    fn open(&mut self) -> bool {
        let opened = self.records.open(&self.received, self.frames.buffer_mut());
        if self.records.has_output() {
            self.out.nudge();
        }
        opened.unwrap_or_else(|error| {
            self.broken = Some(error);
            false
        })
    }

    /// Begins TLS with the first bytes. False: the peer went away.
    async fn secure(&mut self, acceptor: &Acceptor) -> Result<bool, Refusal> {
        if !matches!(self.fill_clear().await, Ok(1..)) {
            return Ok(false);
        }
        let first = std::mem::take(self.frames.buffer_mut());
        if first.first() != Some(&moor_tls::FIRST_BYTE) {
            return Err(Refusal::protocol("this port speaks TLS only"));
        }
        self.records.begin(acceptor).map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        self.received = first.into();
        Ok(self.open())
    }

    /// Reads once, straight behind what is left of the last read. `Ok(0)`: the end, theirs or ours.
    async fn fill_clear(&mut self) -> io::Result<usize> {
        let mut buffer = std::mem::take(self.frames.buffer_mut());
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        let (start, end) = (buffer.len(), buffer.capacity());
        let done = read_once(&mut self.half, &self.out, buffer.slice_mut(start..end)).await;
        let Some((result, slice)) = done else { return Ok(0) };
        *self.frames.buffer_mut() = slice.into_inner();
        result
    }

    /// Gives a peer that was told FAILURE a moment to read it: closing with unread bytes would destroy it.
    async fn linger(&mut self) {
        let deadline = Duration::from_millis(CLOSE_LINGER_MS);
        let drain = async {
            loop {
                let (result, _) = self.half.read(BytesMut::with_capacity(READ_BYTES)).await;
                if !matches!(result, Ok(1..)) {
                    return;
                }
            }
        };
        monoio::time::timeout(deadline, drain).await.ok();
    }
}

/// Reads once. `None`: the link is closing, and the buffer is gone with the request.
async fn read_once<B: IoBufMut>(
    half: &mut OwnedReadHalf<TcpStream>,
    out: &LinkOut,
    buffer: B,
) -> Option<(io::Result<usize>, B)> {
    let mut read = pin!(half.read(buffer));
    poll_fn(|context| {
        if out.poll_closing(context).is_ready() {
            return Poll::Ready(None);
        }
        read.as_mut().poll(context).map(Some)
    })
    .await
}

/// Writes until the queue is closed and empty, or abandoned.
async fn write_all(mut half: OwnedWriteHalf<TcpStream>, out: Rc<LinkOut>, records: Rc<Records>) {
    while let Some(queued) = poll_fn(|context| out.poll_take(context)).await {
        let buffer = records.seal(queued);
        if buffer.is_empty() {
            continue;
        }
        let mut write = pin!(half.write_all(buffer));
        let done = poll_fn(|context| {
            if out.poll_abandoned(context).is_ready() {
                return Poll::Ready(None);
            }
            write.as_mut().poll(context).map(Some)
        })
        .await;
        match done {
            Some((Ok(_), buffer)) => out.give_back(buffer),
            Some((Err(error), _)) => {
                tracing::debug!(%error, "a link cannot be written to");
                out.abandon();
            }
            None => break,
        }
    }
    let last = records.close();
    if !last.is_empty() {
        monoio::time::timeout(Duration::from_millis(CLOSE_LINGER_MS), half.write_all(last)).await.ok();
    }
    // Fails when the peer is gone already, which is what we wanted.
    half.shutdown().await.ok();
}

/// Whoever reaches the port can be refused as often as it likes.
static REFUSED: Seldom = Seldom::new();

/// A connection's whole life.
pub async fn serve(stream: TcpStream, node: Rc<RefCell<Node>>) {
    // Frames are small and answers awaited; a socket that refuses the option still works.
    stream.set_nodelay(true).ok();
    let (idle_s, interval_s, probes) = KEEPALIVE_S;
    let (idle, interval) = (Duration::from_secs(idle_s), Duration::from_secs(interval_s));
    stream.set_tcp_keepalive(Some(idle), Some(interval), Some(probes)).ok();
    let (read_half, write_half) = stream.into_split();
    let (out, records) = (Rc::new(LinkOut::default()), Rc::new(Records::default()));
    monoio::spawn(write_all(write_half, out.clone(), records.clone()));
    let mut receiver = Receiver {
        half: read_half,
        frames: FrameReader::new(CONTROL_BODY_BYTES_MAX),
        out: out.clone(),
        records,
        received: Vec::new(),
        broken: None,
    };

    let deadline = Duration::from_millis(HELLO_TIMEOUT_MS);
    let acceptor = node.borrow().shared.gate.acceptor();
    let greeting = monoio::time::timeout(deadline, async {
        match &acceptor {
            Some(acceptor) if !receiver.secure(acceptor).await? => Ok(None),
            _ => greet(&mut receiver, &node).await,
        }
    })
    .await;
    let ending = match greeting {
        Ok(Ok(Some(link))) => {
            let ending = receive(&mut receiver, &node, &link).await;
            let mut node = node.borrow_mut();
            // Superseded, expired or stopping: whoever voided it has counted it.
            node.shared.leases.close(&link);
            node.shard.outbox.remove(link.id);
            tracing::debug!(node = %link.node, worker = link.worker, "link closed");
            ending
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::protocol("no HELLO in time")),
    };
    match ending {
        Ok(()) if receiver.broken.is_some() => {
            node.borrow().metrics.links_refused.increment();
            let error = receiver.broken.take().map(tracing::field::display);
            if let Some(more) = REFUSED.due() {
                tracing::info!(error, more_since = more, "link refused");
            }
            out.close();
            receiver.linger().await;
        }
        Ok(()) => out.close(),
        Err(refusal) => {
            node.borrow().metrics.links_refused.increment();
            if let Some(more) = REFUSED.due() {
                tracing::info!(%refusal, more_since = more, "link refused");
            }
            let failure = Failure { code: refusal.code.into(), detail: refusal.detail };
            out.put(Weight::Answer, |bytes| put_control(bytes, Verb::Failure, &failure)).ok();
            out.close();
            receiver.linger().await;
        }
    }
    let finished = poll_fn(|context| out.poll_finished(context));
    monoio::time::timeout(Duration::from_millis(CLOSE_LINGER_MS), finished).await.ok();
    out.abandon();
}

/// Waits for HELLO and admits the peer. `None`: it went away.
async fn greet(receiver: &mut Receiver, node: &Rc<RefCell<Node>>) -> Result<Option<Arc<Link>>, Refusal> {
    let frame = loop {
        if let Some(frame) = receiver.frames.try_next()? {
            break frame;
        }
        if !matches!(receiver.fill().await, Ok(1..)) {
            return Ok(None);
        }
    };
    // Only now, with long frames allowed: a stranger makes us hold little.
    let rest = std::mem::take(receiver.frames.buffer_mut());
    receiver.frames = frame_reader();
    *receiver.frames.buffer_mut() = rest;
    if Verb::from_byte(frame.header.kind) != Some(Verb::Hello) {
        return Err(Refusal::protocol("the first frame is not HELLO"));
    }
    let hello = Hello::decode(frame.body)?;
    if hello.version != INTERNAL_VERSION {
        return Err(Refusal::new(
            Code::Version,
            format!("version {} is not spoken here; {INTERNAL_VERSION} is", hello.version),
        ));
    }
    if hello.node.is_empty() || hello.node.len() > NODE_BYTES_MAX {
        return Err(Refusal::new(Code::Invalid, "a node's name has 1 to 64 bytes"));
    }
    if hello.internal_address.len() > INTERNAL_ADDRESS_BYTES_MAX {
        return Err(Refusal::new(Code::Invalid, "an internal address has at most 260 bytes"));
    }
    let role = match hello.role() {
        Role::Unspecified => return Err(Refusal::protocol("HELLO names no role")),
        role => role,
    };
    let mut node = node.borrow_mut();
    let node = &mut *node;
    let names = receiver.records.certificate_names();
    if let Err(why) = node.shared.gate.check(&hello.token, names.as_deref()) {
        return Err(Refusal::new(Code::Unauthorized, why));
    }
    let peer = Peer {
        role,
        node: hello.node,
        epoch: hello.epoch,
        worker: hello.worker.unwrap_or(0),
        internal_address: hello.internal_address,
        takes_push_many: hello.push_many,
    };
    let (link, superseded) = node
        .shared
        .leases
        .admit(peer, node.shard.index, now_ms())
        .map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
    node.metrics.links_superseded.add(superseded);
    node.shard.outbox.add(link.id, receiver.out.clone());
    node.links.push(link.clone());
    let welcome = Welcome {
        version: INTERNAL_VERSION,
        node: node.shared.name.clone(),
        epoch: node.shared.epoch,
        worker: 0,
        workers: node.shared.shards,
        lease_ms: LEASE_MS,
    };
    node.shard.outbox.put_local(link.id, Weight::Answer, |out| put_control(out, Verb::Welcome, &welcome));
    tracing::debug!(node = %link.node, epoch = link.epoch, worker = link.worker, "link opened");
    Ok(Some(link))
}

/// Decodes and hands on until the link ends.
async fn receive(receiver: &mut Receiver, node: &Rc<RefCell<Node>>, link: &Arc<Link>) -> Result<(), Refusal> {
    loop {
        {
            let mut node = node.borrow_mut();
            let now_ms = now_ms();
            link.touch(now_ms);
            let handled = handle_frames(&mut receiver.frames, &mut node, link, now_ms);
            node.flush();
            handled?;
        }
        if !matches!(receiver.fill().await, Ok(1..)) {
            return Ok(());
        }
    }
}

fn handle_frames(
    frames: &mut FrameReader,
    node: &mut Node,
    link: &Arc<Link>,
    now_ms: u64,
) -> Result<(), Refusal> {
    while let Some(Frame { header, body }) = frames.try_next()? {
        let verb = Verb::from_byte(header.kind)
            .ok_or_else(|| Refusal::protocol(format!("{:#04x} is not a verb", header.kind)))?;
        match link.role {
            Role::Gateway => decode::handle_gateway(node, link, verb, body, now_ms)?,
            _ => decode::handle_service(node, link, verb, body, now_ms)?,
        }
    }
    Ok(())
}
