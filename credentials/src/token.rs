//! The parts of a JSON Web Token (RFC 7515, RFC 7519): cut, decoded and read, each within bounds.
//!
//! Decoded parts lie in buffers of the caller and strings borrow from them; only a string with an escape and the
//! lists `devices` and `aud` allocate, and never more than the token is long.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::denial::Denial;
use crate::limits::{AUDIENCES_MAX, DEVICES_MAX, JSON_DEPTH_MAX};

/// A token cut at its two dots; the parts are still base64url.
pub(crate) struct Parts<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) claims: &'a [u8],
    pub(crate) signature: &'a [u8],
    /// What is signed: header, dot, claims.
    pub(crate) message: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(crate) fn cut(token: &'a [u8]) -> Result<Self, Denial> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Denial::Malformed);
        };
        let message = &token[..header.len() + 1 + claims.len()];
        Ok(Self { header, claims, signature, message })
    }
}

/// Decodes base64url without padding into `room`. One spelling per value: spare bits must be zero.
pub(crate) fn decode<'a>(part: &[u8], room: &'a mut [u8]) -> Result<&'a [u8], Denial> {
    let length = URL_SAFE_NO_PAD.decode_slice(part, room).map_err(|_| Denial::Malformed)?;
    Ok(&room[..length])
}

/// Reads an object of bounded depth.
pub(crate) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Denial> {
    // The parser checks only the strings it keeps.
    let text = std::str::from_utf8(json).map_err(|_| Denial::Malformed)?;
    check_shape(json)?;
    serde_json::from_str(text).map_err(|_| Denial::Malformed)
}

/// An object, not nested too deeply. Runs before the parser, so that what the parser does with deep or positional
/// input does not matter.
fn check_shape(json: &[u8]) -> Result<(), Denial> {
    if json.first() != Some(&b'{') {
        return Err(Denial::Malformed);
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(Denial::Malformed);
        }
    }
    Ok(())
}

/// The header's members that matter. A member twice is an error.
#[derive(Deserialize)]
pub(crate) struct Header<'a> {
    #[serde(borrow)]
    pub(crate) alg: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) kid: Option<Text<'a>>,
    /// Extensions that must be understood; none is (RFC 7515, section 4.1.11).
    pub(crate) crit: Option<IgnoredAny>,
}

/// The claims that matter. A claim twice is an error.
#[derive(Deserialize)]
pub(crate) struct Claims<'a> {
    #[serde(borrow)]
    pub(crate) app: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) account: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) sub: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) devices: Option<Texts<'a, DEVICES_MAX>>,
    pub(crate) exp: Option<Instant>,
    pub(crate) nbf: Option<Instant>,
    pub(crate) iat: Option<Instant>,
    #[serde(borrow)]
    pub(crate) iss: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) aud: Option<OneOrMore<'a>>,
}

/// A NumericDate: Unix seconds, a fraction cut off.
#[derive(Clone, Copy)]
pub(crate) struct Instant(pub(crate) u64);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;
        impl Visitor<'_> for Seconds {
            type Value = Instant;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("Unix seconds")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Instant, E> {
                Ok(Instant(value))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Instant, E> {
                // 2^63 seconds: beyond it a cast would be a guess.
                if !(0.0..9.2e18).contains(&value) {
                    return Err(E::custom("out of range"));
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above")]
                Ok(Instant(value as u64))
            }
        }
        deserializer.deserialize_any(Seconds)
    }
}

/// At most `MAX` strings.
pub(crate) struct Texts<'a, const MAX: usize>(Vec<Text<'a>>);

/// A string, borrowed where it has no escape. A type of its own, because an `Option<Cow<str>>` is read as owned.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Texts<'_, MAX> {
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.0.iter().any(|known| &**known == text)
    }

    fn collect<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Texts<'de, MAX>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            if texts.len() == MAX {
                return Err(de::Error::custom("too many"));
            }
            texts.push(text);
        }
        Ok(Texts(texts))
    }
}

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Texts<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for List<MAX> {
            type Value = Texts<'de, MAX>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Texts::<MAX>::collect(items)
            }
        }
        deserializer.deserialize_seq(List::<MAX>)
    }
}

/// A string or a list of strings.
pub(crate) enum OneOrMore<'a> {
    One(Text<'a>),
    More(Texts<'a, AUDIENCES_MAX>),
}

impl OneOrMore<'_> {
    pub(crate) fn contains(&self, text: &str) -> bool {
        match self {
            Self::One(known) => &**known == text,
            Self::More(known) => known.contains(text),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for OneOrMore<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMore<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a list of strings")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(OneOrMore::One(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMore::One(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Texts::collect(items).map(OneOrMore::More)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
