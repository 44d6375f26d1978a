//! Records by rustls: the unbuffered connection, kept.

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncryptError, InsufficientSizeError, UnbufferedStatus};

use crate::error::Error;
use crate::handshake::{alert, begins_with_record, encode};
use crate::limits::RECORD_PLAIN_BYTES_MAX;
use crate::session::Opened;

/// Room for what a record adds to its plaintext, and for an answer to a key update before it; more is asked for.
const SEAL_ROOM_BYTES: usize = 64;

pub(crate) struct Kept {
    connection: UnbufferedServerConnection,
    /// True when opening has failed. rustls then counts on input that is gone, and may panic when it is asked again.
    is_broken: bool,
}

impl Kept {
    pub(crate) const fn new(connection: UnbufferedServerConnection) -> Self {
        Self { connection, is_broken: false }
    }

    pub(crate) fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        let opened = self.open_all(input, plain, out);
        self.is_broken |= opened.is_err();
        opened
    }

    fn open_all(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        let mut opened = Opened::default();
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut input[opened.used..]);
            let mut blocked = false;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |to| data.encode(to))?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut data)) => {
                    while let Some(record) = data.next_record() {
                        let record = record.map_err(Error::Handshake)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => opened.closed = true,
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => blocked = true,
                Ok(_) => return Err(Error::Unusable),
                Err(error) => {
                    let from = opened.used + discard;
                    alert(&mut self.connection, &mut input[from..], out);
                    return Err(Error::Handshake(error));
                }
            }
            opened.used += discard;
            if blocked && begins_with_record(&input[opened.used..]) {
                return Err(Error::Fragment);
            }
            if opened.closed || blocked {
                return Ok(opened);
            }
        }
    }

    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for piece in plain.chunks(RECORD_PLAIN_BYTES_MAX) {
            self.write(out, piece.len(), |connection, to| match connection {
                ConnectionState::WriteTraffic(traffic) => traffic.encrypt(piece, to),
                _ => Err(EncryptError::EncryptExhausted),
            })?;
        }
        Ok(())
    }

    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.write(out, 0, |connection, to| match connection {
            ConnectionState::WriteTraffic(traffic) => traffic.queue_close_notify(to),
            _ => Err(EncryptError::EncryptExhausted),
        })
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        plain_bytes: usize,
        write: impl Fn(
            &mut ConnectionState<'_, '_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        if self.is_broken {
            return Err(Error::Unusable);
        }
        let start = out.len();
        out.resize(start + plain_bytes + SEAL_ROOM_BYTES, 0);
        let result = loop {
            let mut state =
                self.connection.process_tls_records(&mut []).state.map_err(|_| Error::Unusable)?;
            if let ConnectionState::TransmitTlsData(data) = state {
                data.done();
                continue;
            }
            break match write(&mut state, &mut out[start..]) {
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    out.resize(start + required_size, 0);
                    write(&mut state, &mut out[start..])
                }
                other => other,
            };
        };
        out.truncate(start + *result.as_ref().unwrap_or(&0));
        result.map(|_| ()).map_err(|_| Error::Unusable)
    }
}
