//! Tickets: what lets a client resume on any host that has the keys, also after a restart.
//!
//! A ticket is `name (8) | salt (16) | sealed(issued at (8) | state) | tag (16)`. Each is sealed with AES-256-GCM under
//! a key of its own, expanded from a ticket key and the salt, so that many hosts may share a ticket key without ever
//! meeting the same nonce twice.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, rand};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::error::SettingsError;
use crate::limits::{TICKET_KEYS_MAX, TICKET_LIFETIME_S};
use crate::server::Text;

const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 8;
const SALT_BYTES: usize = 16;
const TIME_BYTES: usize = 8;

struct Key {
    name: [u8; NAME_BYTES],
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

impl Key {
    fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.as_slice());
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&digest.as_ref()[..NAME_BYTES]);
        Self { name, secret }
    }

    /// The key and nonce of the ticket with this salt.
    fn of_ticket(&self, salt: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.secret.as_slice());
        let key = secret.expand(&[b"moor ticket"], &AES_256_GCM).ok()?;
        let mut nonce = [0; 12];
        secret.expand(&[b"moor nonce"], NonceBytes).ok()?.fill(&mut nonce).ok()?;
        Some((LessSafeKey::new(UnboundKey::from(key)), Nonce::assume_unique_for_key(nonce)))
    }
}

struct NonceBytes;

impl hkdf::KeyType for NonceBytes {
    fn len(&self) -> usize {
        12
    }
}

/// The ticket keys of a server.
pub(crate) struct Tickets {
    /// The first seals.
    keys: Vec<Key>,
    /// Unix time, seconds.
    clock: fn() -> u64,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tickets({} keys)", self.keys.len())
    }
}

impl Tickets {
    pub(crate) fn load(text: Option<&Text>) -> Result<Self, SettingsError> {
        let keys = match text {
            Some(text) => read(text)?,
            None => {
                let mut secret = Zeroizing::new([0; KEY_BYTES]);
                rand::fill(secret.as_mut_slice()).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
                vec![Key::new(secret)]
            }
        };
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { keys, clock })
    }
}

fn read(text: &Text) -> Result<Vec<Key>, SettingsError> {
    let mut keys = Vec::new();
    for (number, line) in text.bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = || SettingsError::TicketKey { file: text.name.clone(), line: number + 1 };
        keys.push(Key::new(from_hex(line).ok_or_else(wrong)?));
    }
    if keys.is_empty() || keys.len() > TICKET_KEYS_MAX {
        return Err(SettingsError::TicketKeys { file: text.name.clone(), count: keys.len() });
    }
    Ok(keys)
}

fn from_hex(digits: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != KEY_BYTES || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).ok()?;
        let (sealing, nonce) = key.of_ticket(&salt)?;
        let mut sealed = Vec::with_capacity(TIME_BYTES + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&(self.clock)().to_be_bytes());
        sealed.extend_from_slice(plain);
        sealing.seal_in_place_append_tag(nonce, Aad::from(&key.name), &mut sealed).ok()?;
        Some([&key.name[..], &salt, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (salt, sealed) = rest.split_at_checked(SALT_BYTES)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let (opening, nonce) = key.of_ticket(salt)?;
        let mut sealed = sealed.to_vec();
        let plain = opening.open_in_place(nonce, Aad::from(&key.name), &mut sealed).ok()?;
        let (issued, state) = plain.split_first_chunk::<TIME_BYTES>()?;
        let age = (self.clock)().checked_sub(u64::from_be_bytes(*issued))?;
        (age <= u64::from(TICKET_LIFETIME_S)).then(|| state.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(lines: &str) -> Result<Tickets, SettingsError> {
        let text = Text { name: "tickets".into(), bytes: Zeroizing::new(lines.as_bytes().to_vec()) };
        Tickets::load(Some(&text))
    }

    fn key(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    #[test]
    fn who_has_the_key_opens() {
        let (first, second) = (key(1), key(2));
        let old = tickets(&first).unwrap();
        let new = tickets(&format!("# the new one\n{second}\n\n {first} \n")).unwrap();
        let stranger = tickets(&key(3)).unwrap();
        let ticket = old.encrypt(b"state").unwrap();
        assert_eq!(old.decrypt(&ticket).unwrap(), b"state");
        assert_eq!(new.decrypt(&ticket).unwrap(), b"state");
        assert!(stranger.decrypt(&ticket).is_none());
        assert!(old.decrypt(&new.encrypt(b"state").unwrap()).is_none(), "the first key seals");
        assert_ne!(ticket, old.encrypt(b"state").unwrap());
    }

    #[test]
    fn what_was_touched_does_not_open() {
        let tickets = tickets(&key(1)).unwrap();
        let ticket = tickets.encrypt(b"state").unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert!(tickets.decrypt(&touched).is_none(), "byte {at}");
            assert!(tickets.decrypt(&ticket[..at]).is_none(), "the first {at} bytes");
        }
    }

    #[test]
    fn an_old_ticket_does_not_open_and_nor_does_one_of_tomorrow() {
        let mut tickets = tickets(&key(1)).unwrap();
        tickets.clock = || 1_000_000;
        let ticket = tickets.encrypt(b"state").unwrap();
        tickets.clock = || 1_000_000 + 12 * 60 * 60;
        assert!(tickets.decrypt(&ticket).is_some());
        tickets.clock = || 1_000_001 + 12 * 60 * 60;
        assert!(tickets.decrypt(&ticket).is_none());
        tickets.clock = || 999_999;
        assert!(tickets.decrypt(&ticket).is_none());
    }

    #[test]
    fn lines_that_are_no_keys_are_named() {
        let wrong = |lines: &str| tickets(lines).unwrap_err().to_string();
        assert!(wrong(&format!("{}\n12345", key(1))).contains("tickets, line 2"));
        assert!(wrong(&key(1).replace('0', "x")).contains("line 1"));
        assert!(wrong("").contains("0 ticket keys"));
        assert!(wrong(&(key(1) + "\n").repeat(9)).contains("9 ticket keys"));
        assert!(!format!("{:?}", tickets(&key(7)).unwrap()).contains("07"));
    }
}
