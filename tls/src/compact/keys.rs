//! Traffic secrets, and the keys that follow from them (RFC 8446, 5.3 and 7.3).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey,
};
use aws_lc_rs::hkdf;
use rustls::ConnectionTrafficSecrets;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{Alert, Error};

/// Longest traffic secret: a digest of SHA-384.
pub(crate) const SECRET_BYTES_MAX: usize = 48;
/// Tag of every AEAD of TLS 1.3.
pub(super) const TAG_BYTES: usize = 16;
const IV_BYTES: usize = 12;
const KEY_BYTES_MAX: usize = 32;
/// A direction as bytes: secret, sequence number.
pub(super) const DIRECTION_BYTES: usize = SECRET_BYTES_MAX + 8;
/// How many keys a peer may be ahead of its first one when a handshake ends.
pub(super) const KEYS_AHEAD_MAX: usize = 4;

/// A cipher suite of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Suite {
    Aes128GcmSha256 = 1,
    Aes256GcmSha384 = 2,
    Chacha20Poly1305Sha256 = 3,
}

impl Suite {
    pub(super) fn of(secrets: &ConnectionTrafficSecrets) -> Self {
        match secrets {
            ConnectionTrafficSecrets::Aes256Gcm { .. } => Self::Aes256GcmSha384,
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Self::Chacha20Poly1305Sha256,
            // rustls has these three.
            _ => Self::Aes128GcmSha256,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes128GcmSha256),
            2 => Some(Self::Aes256GcmSha384),
            3 => Some(Self::Chacha20Poly1305Sha256),
            _ => None,
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128GcmSha256 => &AES_128_GCM,
            Self::Aes256GcmSha384 => &AES_256_GCM,
            Self::Chacha20Poly1305Sha256 => &CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes256GcmSha384 => hkdf::HKDF_SHA384,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => hkdf::HKDF_SHA256,
        }
    }

    const fn secret_bytes(self) -> usize {
        match self {
            Self::Aes256GcmSha384 => 48,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => 32,
        }
    }
}

struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let length = u16::try_from(out.len()).map_err(|_| Error::Unusable)?.to_be_bytes();
    let label_length = u8::try_from(b"tls13 ".len() + label.len()).map_err(|_| Error::Unusable)?;
    let info: [&[u8]; 5] = [&length, &[label_length], b"tls13 ", label, &[0]];
    hkdf::Prk::new_less_safe(suite.hkdf(), secret)
        .expand(&info, Bytes(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| Error::Unusable)
}

/// One direction of a connection.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Direction {
    sequence: u64,
    /// The traffic secret, from which the next one follows; as long as the suite's hash.
    secret: [u8; SECRET_BYTES_MAX],
    key: [u8; KEY_BYTES_MAX],
    iv: [u8; IV_BYTES],
}

impl Direction {
    fn new(suite: Suite, secret: &[u8], sequence: u64) -> Result<Self, Error> {
        let mut direction =
            Self { sequence, secret: [0; SECRET_BYTES_MAX], key: [0; KEY_BYTES_MAX], iv: [0; IV_BYTES] };
        let place = direction.secret.get_mut(..secret.len()).ok_or(Error::Unusable)?;
        place.copy_from_slice(secret);
        direction.expand(suite)?;
        Ok(direction)
    }

    /// The direction that began with this secret and is now at this key, which may be so many keys later.
    pub(super) fn reaching(
        suite: Suite,
        secret: &[u8],
        sequence: u64,
        current: &ConnectionTrafficSecrets,
        keys_ahead_max: usize,
    ) -> Option<Self> {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = current
        else {
            return None;
        };
        if secret.len() != suite.secret_bytes() || Suite::of(current) != suite {
            return None;
        }
        let mut direction = Self::new(suite, secret, sequence).ok()?;
        for _ in 0..=keys_ahead_max {
            if direction.key[..suite.aead().key_len()] == *key.as_ref() && direction.iv == iv.as_ref() {
                direction.sequence = sequence;
                return Some(direction);
            }
            direction.advance(suite).ok()?;
        }
        None
    }

    /// Key and IV of the secret.
    fn expand(&mut self, suite: Suite) -> Result<(), Error> {
        let secret = &self.secret[..suite.secret_bytes()];
        expand_label(suite, secret, b"key", &mut self.key[..suite.aead().key_len()])?;
        expand_label(suite, secret, b"iv", &mut self.iv)
    }

    /// Goes on with the next secret (RFC 8446, 7.2).
    pub(super) fn advance(&mut self, suite: Suite) -> Result<(), Error> {
        let mut next = [0; SECRET_BYTES_MAX];
        let length = suite.secret_bytes();
        expand_label(suite, &self.secret[..length], b"traffic upd", &mut next[..length])?;
        self.secret = next;
        next.zeroize();
        self.sequence = 0;
        self.expand(suite)
    }

    /// The AEAD's context, for some records.
    pub(super) fn key(&self, suite: Suite) -> Result<LessSafeKey, Error> {
        let aead = suite.aead();
        let key = UnboundKey::new(aead, &self.key[..aead.key_len()]).map_err(|_| Error::Unusable)?;
        Ok(LessSafeKey::new(key))
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The IV with the sequence number over its end; each is used once.
    fn nonce(&mut self) -> Result<Nonce, Error> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[IV_BYTES - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(Error::Unusable)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Opens a record's body in place.
    pub(super) fn open<'body>(
        &mut self,
        key: &LessSafeKey,
        head: &[u8],
        body: &'body mut [u8],
    ) -> Result<&'body mut [u8], Error> {
        let nonce = self.nonce()?;
        key.open_in_place(nonce, Aad::from(head), body).map_err(|_| Error::Peer(Alert::BAD_RECORD_MAC))
    }

    /// Seals a record's body in place.
    pub(super) fn seal(&mut self, key: &LessSafeKey, head: &[u8], body: &mut [u8]) -> Result<Tag, Error> {
        let nonce = self.nonce()?;
        key.seal_in_place_separate_tag(nonce, Aad::from(head), body).map_err(|_| Error::Unusable)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.secret);
    }

    pub(super) fn from_bytes(suite: Suite, bytes: &[u8; DIRECTION_BYTES]) -> Option<Self> {
        let (sequence, secret) = bytes.split_first_chunk::<8>()?;
        let (secret, rest) = secret.split_at_checked(suite.secret_bytes())?;
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        Self::new(suite, secret, u64::from_be_bytes(*sequence)).ok()
    }
}

#[cfg(test)]
pub(super) fn check_example(secret: &[u8], key: &[u8], iv: &[u8]) {
    let direction = Direction::new(Suite::Aes128GcmSha256, secret, 0).unwrap();
    assert_eq!((&direction.key[..16], &direction.iv[..]), (key, iv));
}
