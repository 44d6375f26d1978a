//! A handshake: rustls's, until there is a session.

use std::cell::RefCell;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{HandshakeKind, KeyLog, ProtocolVersion};
use zeroize::Zeroizing;

use crate::compact::{Compact, SECRET_BYTES_MAX};
use crate::error::Error;
use crate::kept::Kept;
use crate::limits::{HANDSHAKE_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::server::{Records, Server};
use crate::session::Session;

/// A traffic secret and its length.
type Secret = (Zeroizing<[u8; SECRET_BYTES_MAX]>, usize);

/// Both sides' first traffic secrets, which compact records begin with.
#[derive(Default)]
pub(crate) struct Secrets {
    pub(crate) client: Option<Secret>,
    pub(crate) server: Option<Secret>,
}

thread_local! {
    /// Of the handshake that this thread is advancing.
    static SECRETS: RefCell<Secrets> = const { RefCell::new(Secrets { client: None, server: None }) };
}

/// Takes the traffic secrets where rustls shows them; nothing is logged.
#[derive(Debug)]
pub(crate) struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut kept = Zeroizing::new([0; SECRET_BYTES_MAX]);
        let Some(place) = kept.get_mut(..secret.len()) else { return };
        place.copy_from_slice(secret);
        SECRETS.with_borrow_mut(|secrets| match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.client = Some((kept, secret.len())),
            "SERVER_TRAFFIC_SECRET_0" => secrets.server = Some((kept, secret.len())),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

/// A handshake under way.
pub struct Handshake {
    connection: UnbufferedServerConnection,
    records: Records,
    /// What has come and is not used yet: the beginning of a record.
    inbox: Vec<u8>,
    received: usize,
    secrets: Secrets,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Handshake({} bytes received)", self.received)
    }
}

/// How far a handshake is.
#[derive(Debug)]
pub enum Progress {
    /// It needs more from the peer.
    NeedMore(Box<Handshake>),
    /// It is over.
    Done(Box<Established>),
}

/// The end of a handshake.
#[derive(Debug)]
pub struct Established {
    /// The connection from now on.
    pub session: Session,
    /// What the peer already said, decrypted.
    pub plain: Vec<u8>,
    /// The beginning of a record of the peer's, to be put before what comes next.
    pub rest: Vec<u8>,
    /// 0x0303 for TLS 1.2, 0x0304 for 1.3.
    pub version: u16,
    /// Whether a ticket made it a short one.
    pub resumed: bool,
    /// What was agreed on by ALPN.
    pub protocol: Option<Vec<u8>>,
    /// Whether the peer has already said that it will say no more.
    pub closed: bool,
}

impl Handshake {
    /// A handshake that has not begun.
    ///
    /// # Errors
    /// [`Error::Handshake`] in rustls's words.
    pub fn new(server: &Server) -> Result<Box<Self>, Error> {
        let connection = UnbufferedServerConnection::new(server.config.clone()).map_err(Error::Handshake)?;
        Ok(Box::new(Self {
            connection,
            records: server.records,
            inbox: Vec::new(),
            received: 0,
            secrets: Secrets::default(),
        }))
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.received == 0
    }

    /// Takes what the peer sent and appends what it is to be sent.
    ///
    /// # Errors
    /// The connection is to be closed once `out` has been sent.
    pub fn advance(mut self: Box<Self>, received: &[u8], out: &mut Vec<u8>) -> Result<Progress, Error> {
        self.received += received.len();
        if self.received > HANDSHAKE_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let mut inbox = Zeroizing::new(std::mem::take(&mut self.inbox));
        inbox.extend_from_slice(received);
        let mut used = 0;
        let (mut plain, mut closed) = (Vec::new(), false);
        let established = loop {
            SECRETS.with_borrow_mut(|secrets| *secrets = Secrets::default());
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut inbox[used..]);
            SECRETS.with_borrow_mut(|secrets| {
                self.secrets.client = secrets.client.take().or(self.secrets.client.take());
                self.secrets.server = secrets.server.take().or(self.secrets.server.take());
            });
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    used += discard;
                    alert(&mut self.connection, &mut inbox[used..], out);
                    return Err(Error::Handshake(error));
                }
            };
            let mut established = None;
            match state {
                ConnectionState::EncodeTlsData(mut data) => encode(out, |to| data.encode(to))?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::ReadTraffic(mut data) => {
                    while let Some(record) = data.next_record() {
                        let record = record.map_err(Error::Handshake)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::BlockedHandshake => established = Some(false),
                ConnectionState::WriteTraffic(_) => established = Some(true),
                ConnectionState::PeerClosed => closed = true,
                _ => return Err(Error::Unusable),
            }
            used += discard;
            if let Some(established) = established {
                break established;
            }
        };
        let rest = inbox[used..].to_vec();
        if established {
            if begins_with_record(&rest) {
                return Err(Error::Fragment);
            }
            return self.finish(plain, rest, closed).map(|done| Progress::Done(Box::new(done)));
        }
        self.inbox = rest;
        Ok(Progress::NeedMore(self))
    }

    fn finish(self, plain: Vec<u8>, rest: Vec<u8>, closed: bool) -> Result<Established, Error> {
        let Self { connection, records, secrets, .. } = self;
        let tls13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let version = connection.protocol_version().map_or(0, u16::from);
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let protocol = connection.alpn_protocol().map(<[u8]>::to_vec);
        let session = if tls13 && records == Records::Compact {
            // What the connection could do beyond records is not needed: the secrets of later keys follow from these.
            let (extracted, _) = connection.dangerous_into_kernel_connection().map_err(Error::Handshake)?;
            Session::Compact(Box::new(Compact::new(&secrets, &extracted).ok_or(Error::Unusable)?))
        } else {
            Session::Rustls(Box::new(Kept::new(connection)))
        };
        Ok(Established { session, plain, rest, version, resumed, protocol, closed })
    }
}

/// Appends what rustls wants the peer to be told about the error it has just returned. `input` is what it had not used.
///
/// That is an alert, behind an answer to a key update if one is waiting. To ask again after the alert would have rustls
/// look at the input again and find the next fault in it; to ask with no input loses it the fragments it counts on.
pub(crate) fn alert(connection: &mut UnbufferedServerConnection, input: &mut [u8], out: &mut Vec<u8>) {
    for _ in 0..2 {
        let start = out.len();
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process_tls_records(input).state else {
            return;
        };
        // An alert is two bytes; sealed by TLS 1.3 they are 24 with head, type and tag, and look like data.
        if encode(out, |to| data.encode(to)).is_err()
            || matches!(out[start..], [21, ..])
            || out.len() - start == 24
        {
            return;
        }
    }
}

/// Whether there is a whole record at the front. Of what rustls leaves behind a handshake, while it waits for more, that is one it
/// has opened and keeps: a part of a handshake message.
pub(crate) fn begins_with_record(input: &[u8]) -> bool {
    input.split_first_chunk().is_some_and(|([.., high, low], rest): (&[u8; RECORD_HEAD_BYTES], _)| {
        rest.len() >= usize::from(u16::from_be_bytes([*high, *low]))
    })
}

/// Appends what rustls encodes.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = out.len();
    let needed = match write(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => required_size,
        Ok(_) => 0,
        Err(_) => return Err(Error::Unusable),
    };
    out.resize(start + needed, 0);
    let written = write(&mut out[start..]).map_err(|_| Error::Unusable)?;
    out.truncate(start + written);
    Ok(())
}
