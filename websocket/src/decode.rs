//! Cuts a client's bytes into messages and control frames, wherever the network cut them.
//!
//! The decoder owns the rules of RFC 6455 for what a client may send and promises to report a broken one at the
//! first byte that breaks it. Payloads are unmasked where they lie and lent out piece by piece; nothing of a
//! message is ever kept. It never waits, allocates only for a control frame that was cut, and holds nothing
//! between messages.

use std::borrow::Cow;

use crate::close::CloseCode;
use crate::head::{Control, Frame, Head};
use crate::limits::{CLIENT_HEAD_BYTES_MAX, CONTROL_BYTES_MAX};
use crate::mask::apply_mask;
use crate::{Kind, utf8};

/// How a client broke the protocol. The connection is beyond repair: send a close with
/// [`Self::close_code`] and end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A bit that only an extension may set.
    #[error("a reserved bit is set, and no extension was negotiated")]
    ReservedBits,
    /// An opcode without a meaning.
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// Every frame of a client is masked.
    #[error("the frame is not masked")]
    NotMasked,
    /// A control frame of more than [`CONTROL_BYTES_MAX`] bytes.
    #[error("a control frame is longer than {CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    /// A control frame that is not the last fragment.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A length in more bytes than it needs.
    #[error("the length is not written in the fewest bytes")]
    LengthNotMinimal,
    /// A length with its highest bit set.
    #[error("the length is above 2^63 - 1")]
    LengthNegative,
    /// A continuation outside a message.
    #[error("a continuation frame without a message to continue")]
    NothingToContinue,
    /// A message that begins within another.
    #[error("a message begins before the one before it has ended")]
    MessageUnfinished,
    /// A message above what the caller accepts.
    #[error("the message has at least {bytes} bytes; at most {max} are accepted")]
    TooLarge {
        /// What the heads of its frames have announced so far.
        bytes: u64,
        /// What is accepted.
        max: u32,
    },
    /// A text message that is not UTF-8.
    #[error("a text message is not UTF-8")]
    TextNotUtf8,
    /// A close whose payload is one byte: neither nothing nor a code.
    #[error("a close frame holds half a code")]
    CloseTruncated,
    /// A code a client must not send.
    #[error("close code {0} is not for the wire")]
    CloseCodeInvalid(u16),
    /// A close whose reason is not UTF-8.
    #[error("the reason of a close is not UTF-8")]
    ReasonNotUtf8,
}

impl Error {
    /// The code to close the connection with.
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::TOO_LARGE,
            Self::TextNotUtf8 | Self::ReasonNotUtf8 => CloseCode::INVALID_DATA,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

/// What [`Decoder::poll_step`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'i> {
    /// The next piece of a message. A message is one or more of them; control frames may come between.
    Data(Piece<'i>),
    /// To be answered with a pong of the same payload, at most [`CONTROL_BYTES_MAX`] bytes.
    Ping(Cow<'i, [u8]>),
    /// An answer to a ping, or a heartbeat of the client; nothing is due.
    Pong(Cow<'i, [u8]>),
    /// The client closes: answer with a close of the same code and end the connection. The decoder takes
    /// nothing after it.
    Close {
        /// Why; a client may leave it out.
        code: Option<CloseCode>,
        /// For people; empty when there is none.
        reason: Cow<'i, str>,
    },
}

/// A piece of a message, where the received bytes lie.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'i> {
    /// What the message carries; the same in all its pieces.
    pub kind: Kind,
    /// True exactly when the message begins with this piece.
    pub first: bool,
    /// True exactly when the message ends with this piece.
    pub last: bool,
    /// The payload, unmasked. May be empty in the first and in the last piece. Of a text, a piece may end
    /// within a character; all that was handed out is the start of valid UTF-8, and the whole is valid.
    pub bytes: &'i mut [u8],
}

/// Where in the stream the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In a head, of which these bytes came before.
    Head { bytes: [u8; CLIENT_HEAD_BYTES_MAX - 1], length: u8 },
    /// In the payload of a fragment. `first` until a piece of the message was handed out.
    Data { first: bool, last: bool, key: [u8; 4], remaining: u32 },
    /// In the payload of a control frame.
    Control { control: Control, key: [u8; 4], remaining: u8 },
    /// Behind a close or an error.
    Ended,
}

impl Phase {
    const BETWEEN_FRAMES: Self = Self::Head { bytes: [0; CLIENT_HEAD_BYTES_MAX - 1], length: 0 };
}

/// The start of a control frame's payload, of which the rest has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CutControl {
    bytes: [u8; CONTROL_BYTES_MAX],
    length: u8,
}

/// The state of a client's stream: [`crate::limits::DECODER_BYTES`] bytes, and 126 more only while a control
/// frame is cut. It needs a place only between [`Self::poll_step`]s that leave it other than
/// [idle](Self::is_idle).
///
/// ```
/// use moor_websocket::{Decoder, Step};
///
/// let mut bytes = *b"\x82\x83\x01\x02\x03\x04\x01\x02\x03"; // binary, three bytes, masked
/// let (mut decoder, mut input) = (Decoder::default(), bytes.as_mut_slice());
/// while let Some(step) = decoder.poll_step(&mut input, 64 * 1024)? {
///     let Step::Data(piece) = step else { continue };
///     assert!(piece.first && piece.last && piece.bytes == [0, 0, 0]);
/// }
/// assert!(decoder.is_idle());
/// # Ok::<(), moor_websocket::decode::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    phase: Phase,
    /// Payload that the frames of the message under way have announced so far.
    message_bytes: u32,
    /// The message under way: set by its first head, cleared with its last piece.
    message: Option<Kind>,
    /// The start of a character at the end of a text's last piece.
    cut_character: utf8::Cut,
    /// Present exactly when the phase is `Control` and some of its payload came.
    cut_control: Option<Box<CutControl>>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            phase: Phase::BETWEEN_FRAMES,
            message_bytes: 0,
            message: None,
            cut_character: utf8::Cut::default(),
            cut_control: None,
        }
    }
}

impl Decoder {
    /// True exactly when no message and no frame is under way: the state is `Decoder::default()` and needs no
    /// place.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.message.is_none() && self.phase == Phase::BETWEEN_FRAMES
    }

    /// Takes the next step from the front of `input`, which is cut by what was consumed. `None`: `input` is
    /// used up; call again with what is received next. A message of more than `message_bytes_max` bytes of
    /// payload is refused by the head that says so.
    ///
    /// Every step consumes at least one byte of `input`. After a close or an error all input is dropped.
    ///
    /// # Errors
    /// The first rule that the client broke; what was handed out before stands.
    #[inline]
    pub fn poll_step<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: u32,
    ) -> Result<Option<Step<'i>>, Error> {
        // Whatever fails below leaves the stream ended. Steps within a call stay in a local: a phase written in
        // parts and read back whole would wait for the store.
        let mut phase = std::mem::replace(&mut self.phase, Phase::Ended);
        loop {
            match phase {
                Phase::Head { bytes, length } => {
                    let Some(head) = self.take_head(bytes, length, input)? else { return Ok(None) };
                    phase = self.begin_frame(head, message_bytes_max)?;
                }
                Phase::Data { first, last, key, remaining } => {
                    if remaining > 0 && input.is_empty() {
                        self.phase = Phase::Data { first, last, key, remaining };
                        return Ok(None);
                    }
                    let piece = self.take_piece(first, last, key, remaining, input)?;
                    if piece.first || piece.last || !piece.bytes.is_empty() {
                        return Ok(Some(Step::Data(piece)));
                    }
                    // An empty fragment in the middle says nothing.
                    phase = std::mem::replace(&mut self.phase, Phase::Ended);
                }
                Phase::Control { control, key, remaining } => {
                    let Some(payload) = self.take_control(control, key, remaining, input) else {
                        return Ok(None);
                    };
                    let step = match control {
                        Control::Close => return parse_close(payload).map(Some),
                        Control::Ping => Step::Ping(payload),
                        Control::Pong => Step::Pong(payload),
                    };
                    self.phase = Phase::BETWEEN_FRAMES;
                    return Ok(Some(step));
                }
                Phase::Ended => {
                    *input = &mut [];
                    return Ok(None);
                }
            }
        }
    }

    /// Takes a head, or its start, from `input`; `length` bytes of it came before.
    #[inline]
    fn take_head(
        &mut self,
        kept: [u8; CLIENT_HEAD_BYTES_MAX - 1],
        length: u8,
        input: &mut &mut [u8],
    ) -> Result<Option<Head>, Error> {
        // How almost every receive ends.
        if input.is_empty() {
            self.phase = Phase::Head { bytes: kept, length };
            return Ok(None);
        }
        if length == 0
            && let Some(head) = Head::parse(input, self.message)?
        {
            take(input, head.bytes);
            return Ok(Some(head));
        }
        self.take_cut_head(kept, length, input)
    }

    /// The same for a head that is not whole in `input`.
    #[cold]
    fn take_cut_head(
        &mut self,
        mut kept: [u8; CLIENT_HEAD_BYTES_MAX - 1],
        length: u8,
        input: &mut &mut [u8],
    ) -> Result<Option<Head>, Error> {
        let before = usize::from(length);
        let mut bytes = [0; CLIENT_HEAD_BYTES_MAX];
        let end = CLIENT_HEAD_BYTES_MAX.min(before + input.len());
        bytes[..before].copy_from_slice(&kept[..before]);
        bytes[before..end].copy_from_slice(&input[..end - before]);
        if let Some(head) = Head::parse(&bytes[..end], self.message)? {
            take(input, head.bytes - before);
            return Ok(Some(head));
        }
        let start = take(input, input.len());
        kept[before..end].copy_from_slice(start);
        #[expect(clippy::cast_possible_truncation, reason = "at most 13, or the head were whole")]
        let length = end as u8;
        self.phase = Phase::Head { bytes: kept, length };
        Ok(None)
    }

    /// The phase behind a head.
    #[inline]
    fn begin_frame(&mut self, head: Head, message_bytes_max: u32) -> Result<Phase, Error> {
        match head.frame {
            Frame::Data { kind, first, last } => {
                // Neither addend is above 2^63.
                let bytes = u64::from(self.message_bytes) + head.length;
                let too_large = Error::TooLarge { bytes, max: message_bytes_max };
                self.message_bytes = u32::try_from(bytes).map_err(|_| too_large)?;
                if self.message_bytes > message_bytes_max {
                    return Err(too_large);
                }
                self.message = Some(kind);
                let remaining = u32::try_from(head.length).map_err(|_| too_large)?;
                Ok(Phase::Data { first, last, key: head.key, remaining })
            }
            Frame::Control(control) => {
                let remaining = u8::try_from(head.length).map_err(|_| Error::ControlTooLong)?;
                Ok(Phase::Control { control, key: head.key, remaining })
            }
        }
    }

    /// Takes as much of a fragment's payload as there is and moves to the phase behind it.
    #[inline]
    fn take_piece<'i>(
        &mut self,
        first: bool,
        last: bool,
        key: [u8; 4],
        remaining: u32,
        input: &mut &'i mut [u8],
    ) -> Result<Piece<'i>, Error> {
        let bytes = take(input, remaining as usize);
        let key = apply_mask(bytes, key);
        let kind = self.message.unwrap_or(Kind::Binary);
        if kind == Kind::Text {
            self.cut_character.check(bytes).map_err(|_: utf8::Invalid| Error::TextNotUtf8)?;
        }
        #[expect(clippy::cast_possible_truncation, reason = "not more than was asked for")]
        let remaining = remaining - bytes.len() as u32;
        let ends = last && remaining == 0;
        self.phase = if remaining > 0 {
            Phase::Data { first: false, last, key, remaining }
        } else {
            Phase::BETWEEN_FRAMES
        };
        if ends {
            if !self.cut_character.is_whole() {
                self.phase = Phase::Ended;
                return Err(Error::TextNotUtf8);
            }
            self.message = None;
            self.message_bytes = 0;
        }
        Ok(Piece { kind, first, last: ends, bytes })
    }

    /// Takes the payload of a control frame. `None`: it is not whole, and what there is of it is kept.
    fn take_control<'i>(
        &mut self,
        control: Control,
        key: [u8; 4],
        remaining: u8,
        input: &mut &'i mut [u8],
    ) -> Option<Cow<'i, [u8]>> {
        let bytes = take(input, usize::from(remaining));
        let key = apply_mask(bytes, key);
        let whole = bytes.len() == usize::from(remaining);
        if whole && self.cut_control.is_none() {
            return Some(Cow::Borrowed(bytes));
        }
        if !whole && bytes.is_empty() {
            self.phase = Phase::Control { control, key, remaining };
            return None;
        }
        let cut = self
            .cut_control
            .get_or_insert_with(|| Box::new(CutControl { bytes: [0; CONTROL_BYTES_MAX], length: 0 }));
        let start = usize::from(cut.length);
        cut.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "not more than the u8 that was asked for")]
        let taken = bytes.len() as u8;
        cut.length += taken;
        if !whole {
            self.phase = Phase::Control { control, key, remaining: remaining - taken };
            return None;
        }
        let cut = self.cut_control.take()?;
        Some(Cow::Owned(cut.bytes[..usize::from(cut.length)].to_vec()))
    }
}

/// Cuts at most `length` bytes off the front of `input`.
#[inline]
fn take<'i>(input: &mut &'i mut [u8], length: usize) -> &'i mut [u8] {
    let length = length.min(input.len());
    let (front, rest) = std::mem::take(input).split_at_mut(length);
    *input = rest;
    front
}

/// Reads the payload of a close.
fn parse_close(payload: Cow<'_, [u8]>) -> Result<Step<'_>, Error> {
    let code = match *payload {
        [] => return Ok(Step::Close { code: None, reason: Cow::Borrowed("") }),
        [_] => return Err(Error::CloseTruncated),
        [high, low, ..] => u16::from_be_bytes([high, low]),
    };
    let code = CloseCode::from_client(code).ok_or(Error::CloseCodeInvalid(code))?;
    let reason = match payload {
        Cow::Borrowed(bytes) => std::str::from_utf8(&bytes[2..]).map(Cow::Borrowed).ok(),
        Cow::Owned(mut bytes) => String::from_utf8(bytes.split_off(2)).map(Cow::Owned).ok(),
    };
    Ok(Step::Close { code: Some(code), reason: reason.ok_or(Error::ReasonNotUtf8)? })
}
