//! Records of TLS 1.3 by hand (RFC 8446, 5 and 7.2): what an idle connection keeps is plain data.
//!
//! `keys.rs` owns secrets and what follows from them, this file what records mean. The provider's AEAD contexts are
//! ten times as large as the keys they are made of, so they are made for each call of [`Compact::open`] and
//! [`Compact::seal`] and dropped with it. That costs a third of what sealing 128 bytes takes in rustls (295 ns instead of
//! 203, opening 333 instead of 260; `cargo run --release -p moor-tls --example records`), a fiftieth of what sending
//! them takes.

mod keys;

use rustls::ExtractedSecrets;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Alert, Error};
use crate::handshake::Secrets;
use crate::limits::{
    KEY_UPDATES_MAX, RECORD_EXPANSION_BYTES_MAX, RECORD_HEAD_BYTES, RECORD_PLAIN_BYTES_MAX,
    RECORDS_PER_KEY_MAX,
};
use crate::session::Opened;
pub(crate) use keys::SECRET_BYTES_MAX;
use keys::{Direction, KEYS_AHEAD_MAX, Suite, TAG_BYTES};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A key update (RFC 8446, 4.6.3): type, length, whether one is asked for in return.
const KEY_UPDATE_HEAD: [u8; 4] = [24, 0, 0, 1];

/// First byte of the version in every record of every TLS (RFC 8446, 5.1).
const VERSION_MAJOR: u8 = 3;

const FATAL: u8 = 2;

/// First byte of [`Compact::to_bytes`], for those who find another one's.
const FORMAT: u8 = 1;

/// A connection after its handshake.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Compact {
    rx: Direction,
    tx: Direction,
    #[zeroize(skip)]
    suite: Suite,
    /// Key updates received since data came last.
    key_updates: u8,
    /// True when nothing may be sent any more: a last alert has been.
    closed: bool,
    /// True when the peer has asked for another key. It is told with the next data: however often an idle connection is
    /// asked, it answers once (RFC 8446, 4.6.3).
    owes_key_update: bool,
}

const _: () = assert!(size_of::<Compact>() <= 224, "what an idle TLS session keeps");

impl Compact {
    /// The connection whose handshake gave these secrets. `None` when they do not belong together.
    pub(crate) fn new(secrets: &Secrets, extracted: &ExtractedSecrets) -> Option<Self> {
        let suite = Suite::of(&extracted.tx.1);
        let direction = |secret: &Option<_>, (sequence, current): &(u64, _), keys_ahead_max| {
            let (secret, length): &(Zeroizing<[u8; SECRET_BYTES_MAX]>, usize) = secret.as_ref()?;
            Direction::reaching(suite, secret.get(..*length)?, *sequence, current, keys_ahead_max)
        };
        Some(Self {
            rx: direction(&secrets.client, &extracted.rx, KEYS_AHEAD_MAX)?,
            // An update of our own that has not been said went with rustls's connection: the peer would not know the key.
            tx: direction(&secrets.server, &extracted.tx, 0)?,
            suite,
            key_updates: 0,
            closed: false,
            owes_key_update: false,
        })
    }

    pub(crate) fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Error> {
        let result = self.open_all(input, plain);
        if let Err(Error::Peer(alert)) = result {
            self.alert(alert, out)?;
        }
        result
    }

    fn open_all(&mut self, mut input: &mut [u8], plain: &mut Vec<u8>) -> Result<Opened, Error> {
        let mut opened = Opened::default();
        let mut key = None;
        while let Some((head, rest)) = input.split_first_chunk_mut::<RECORD_HEAD_BYTES>() {
            let [kind, major, _, high, low] = *head;
            let length = usize::from(u16::from_be_bytes([high, low]));
            // Covered by the tag as well; who speaks something else need not be waited for.
            if major != VERSION_MAJOR {
                return Err(Error::Peer(Alert::PROTOCOL_VERSION));
            }
            // Everything after a handshake is protected, and protected records look like data.
            if kind != APPLICATION_DATA {
                return Err(Error::Peer(Alert::UNEXPECTED_MESSAGE));
            }
            if length > RECORD_PLAIN_BYTES_MAX + RECORD_EXPANSION_BYTES_MAX {
                return Err(Error::Peer(Alert::RECORD_OVERFLOW));
            }
            let Some((body, rest)) = rest.split_at_mut_checked(length) else { break };
            let opening = match &key {
                Some(key) => key,
                None => key.insert(self.rx.key(self.suite)?),
            };
            let content = self.rx.open(opening, head, body)?;
            // The true type is the last byte that is not padding.
            let Some(end) = content.iter().rposition(|byte| *byte != 0) else {
                return Err(Error::Peer(if content.len() > RECORD_PLAIN_BYTES_MAX + 1 {
                    Alert::RECORD_OVERFLOW
                } else {
                    Alert::UNEXPECTED_MESSAGE
                }));
            };
            if content.len() > RECORD_PLAIN_BYTES_MAX + 1 {
                return Err(Error::Peer(Alert::RECORD_OVERFLOW));
            }
            let (kind, content) = (content[end], &content[..end]);
            opened.used += RECORD_HEAD_BYTES + length;
            input = rest;
            match kind {
                APPLICATION_DATA => {
                    self.key_updates = 0;
                    plain.extend_from_slice(content);
                }
                HANDSHAKE => {
                    self.handle_key_update(content)?;
                    key = None;
                }
                ALERT => match *content {
                    [_, code] if Alert(code) == Alert::CLOSE_NOTIFY => {
                        opened.closed = true;
                        return Ok(opened);
                    }
                    [_, code] if Alert(code) == Alert::USER_CANCELED => {}
                    [_, code] => return Err(Error::GivenUp(Alert(code))),
                    _ => return Err(Error::Peer(Alert::DECODE_ERROR)),
                },
                _ => return Err(Error::Peer(Alert::UNEXPECTED_MESSAGE)),
            }
        }
        Ok(opened)
    }

    fn handle_key_update(&mut self, message: &[u8]) -> Result<(), Error> {
        let Some((head, &[asked])) = message.split_first_chunk::<4>() else {
            return Err(Error::Peer(Alert::UNEXPECTED_MESSAGE));
        };
        if *head != KEY_UPDATE_HEAD {
            return Err(Error::Peer(Alert::UNEXPECTED_MESSAGE));
        }
        if asked > 1 {
            return Err(Error::Peer(Alert::ILLEGAL_PARAMETER));
        }
        self.key_updates += 1;
        if self.key_updates > KEY_UPDATES_MAX {
            return Err(Error::Peer(Alert::UNEXPECTED_MESSAGE));
        }
        self.rx.advance(self.suite)?;
        self.owes_key_update |= asked == 1;
        Ok(())
    }

    /// Tells the peer that the next key follows, and takes it.
    fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let [kind, a, b, c] = KEY_UPDATE_HEAD;
        self.put(HANDSHAKE, &[kind, a, b, c, 0], out)?;
        self.tx.advance(self.suite)
    }

    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Unusable);
        }
        if self.owes_key_update || self.tx.sequence() >= RECORDS_PER_KEY_MAX {
            self.update_key(out)?;
            self.owes_key_update = false;
        }
        self.put(APPLICATION_DATA, plain, out)
    }

    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.alert(Alert::CLOSE_NOTIFY, out)
    }

    /// The last thing that is sent.
    fn alert(&mut self, alert: Alert, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        // close_notify is a warning, everything else the end.
        let level = if alert == Alert::CLOSE_NOTIFY { 1 } else { FATAL };
        self.put(ALERT, &[level, alert.0], out)?;
        self.closed = true;
        Ok(())
    }

    /// Appends records of one kind.
    fn put(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let key = self.tx.key(self.suite)?;
        out.reserve(
            plain.len() + plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX) * (RECORD_HEAD_BYTES + 1 + TAG_BYTES),
        );
        for piece in plain.chunks(RECORD_PLAIN_BYTES_MAX) {
            let start = out.len();
            let length = u16::try_from(piece.len() + 1 + TAG_BYTES).map_err(|_| Error::Unusable)?;
            let [high, low] = length.to_be_bytes();
            let head = [APPLICATION_DATA, VERSION_MAJOR, 3, high, low];
            out.extend_from_slice(&head);
            out.extend_from_slice(piece);
            out.push(kind);
            let tag = self.tx.seal(&key, &head, &mut out[start + RECORD_HEAD_BYTES..])?;
            out.extend_from_slice(tag.as_ref());
        }
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + 2 * keys::DIRECTION_BYTES));
        let flags = u8::from(self.closed) | u8::from(self.owes_key_update) << 1;
        bytes.extend_from_slice(&[FORMAT, self.suite as u8, self.key_updates, flags]);
        self.rx.put(&mut bytes);
        self.tx.put(&mut bytes);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT, suite, key_updates, flags @ 0..4], rest) = bytes.split_first_chunk::<4>()? else {
            return None;
        };
        let suite = Suite::from_byte(suite)?;
        let (rx, rest) = rest.split_first_chunk()?;
        let tx = rest.try_into().ok()?;
        Some(Self {
            rx: Direction::from_bytes(suite, rx)?,
            tx: Direction::from_bytes(suite, tx)?,
            suite,
            key_updates,
            closed: flags & 1 != 0,
            owes_key_update: flags & 2 != 0,
        })
    }
}

#[cfg(test)]
mod tests;
