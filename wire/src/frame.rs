//! The header both protocols share, and how a stream of bytes is cut into frames.
//!
//! ```text
//!  0       1       2               4                               8
//! +-------+-------+---------------+-------------------------------+----------
//! | kind  | flags |    channel    |  length of the body, bytes    |  body …
//! +-------+-------+---------------+-------------------------------+----------
//! ```
//! Integers are big-endian. Nothing here trusts the peer: a length is checked before a byte is kept.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Size of [`Header`] on the wire, bytes.
pub const HEADER_BYTES: usize = 8;

/// The fixed part of a frame, kind not yet interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Frame kind ([`crate::client::Kind`] or [`crate::internal::Verb`]).
    pub kind: u8,
    /// Class in the low three bits, the rest by kind.
    pub flags: u8,
    /// Channel of the client protocol; worker or zero in the internal one.
    pub channel: u16,
    /// Bytes of body that follow.
    pub length: u32,
}

/// A length above what the reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of kind {kind:#04x} announces {length} bytes; at most {max} are accepted")]
pub struct TooLarge {
    /// Kind byte of the offending frame.
    pub kind: u8,
    /// What it announced.
    pub length: u32,
    /// What is accepted.
    pub max: u32,
}

impl Header {
    /// Reads a header from its eight bytes.
    #[must_use]
    pub const fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [kind, flags, c0, c1, l0, l1, l2, l3] = bytes;
        Self {
            kind,
            flags,
            channel: u16::from_be_bytes([c0, c1]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }

    /// The eight bytes of this header.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [c0, c1] = self.channel.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [self.kind, self.flags, c0, c1, l0, l1, l2, l3]
    }

    /// Header and body together, bytes.
    #[must_use]
    pub const fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.length as usize
    }
}

/// Appends a frame whose body is already bytes.
///
/// # Panics
/// When the body is longer than a header can say (4 GiB): a bug of the caller, whose limits are far below.
pub fn put_frame(out: &mut impl BufMut, kind: u8, flags: u8, channel: u16, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a body is bounded far below 4 GiB");
    out.put_slice(&Header { kind, flags, channel, length }.to_bytes());
    out.put_slice(body);
}

/// Appends a frame whose body is a protobuf message.
///
/// # Panics
/// When the encoded body is longer than a header can say: see [`put_frame`].
pub fn put_message<M: prost::Message>(out: &mut impl BufMut, kind: u8, flags: u8, channel: u16, message: &M) {
    let length = u32::try_from(message.encoded_len()).expect("a message is bounded far below 4 GiB");
    out.put_slice(&Header { kind, flags, channel, length }.to_bytes());
    message.encode_raw(out);
}

/// What [`split`] found at the front of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame, and what follows it.
    Frame {
        /// Its header.
        header: Header,
        /// Its body.
        body: &'a [u8],
        /// The bytes behind it.
        rest: &'a [u8],
    },
    /// Not a whole frame yet: this many bytes are needed in all before another look is worth it.
    Need(usize),
}

/// Cuts the first frame off `bytes` without copying. `max` gives the longest body accepted for a kind.
///
/// # Errors
/// [`TooLarge`] as soon as the header is there and announces more than `max(kind)`.
pub fn split(bytes: &[u8], max: impl Fn(u8) -> u32) -> Result<Split<'_>, TooLarge> {
    let Some((head, tail)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Split::Need(HEADER_BYTES));
    };
    let header = Header::parse(*head);
    let max = max(header.kind);
    if header.length > max {
        return Err(TooLarge { kind: header.kind, length: header.length, max });
    }
    match tail.split_at_checked(header.length as usize) {
        Some((body, rest)) => Ok(Split::Frame { header, body, rest }),
        None => Ok(Split::Need(header.frame_bytes())),
    }
}

/// A frame that owns its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body; shares the reader's buffer.
    pub body: Bytes,
}

/// Cuts a stream into frames, keeping the remainder: for peers that can afford a buffer per connection
/// (clients, routers, services). The gateway's workers use [`split`] on the kernel's buffers instead.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    body_bytes_max: u32,
}

impl FrameReader {
    /// A reader that accepts bodies of up to `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: u32) -> Self {
        Self { buffer: BytesMut::new(), body_bytes_max }
    }

    /// Adds what was received. The caller takes frames with [`Self::try_next`] until `None` before adding
    /// more, so that at most one unfinished frame is held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer itself, for a caller that reads straight into it.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`TooLarge`]: the stream is beyond repair and must be closed.
    pub fn try_next(&mut self) -> Result<Option<Frame>, TooLarge> {
        let header = match split(&self.buffer, |_| self.body_bytes_max)? {
            Split::Frame { header, .. } => header,
            Split::Need(_) => return Ok(None),
        };
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(header.length as usize).freeze();
        Ok(Some(Frame { header, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cut_of_a_stream_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cut in 1usize..64,
        ) {
            let mut stream = Vec::new();
            for (kind, flags, channel, body) in &frames {
                put_frame(&mut stream, *kind, *flags, *channel, body);
            }
            let mut reader = FrameReader::new(300);
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                reader.push(piece);
                while let Some(frame) = reader.try_next().unwrap() {
                    seen.push((frame.header.kind, frame.header.flags, frame.header.channel, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn split_never_panics_and_never_reads_past(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Split::Frame { header, body, rest }) = split(&bytes, |_| 1000) {
                prop_assert_eq!(HEADER_BYTES + body.len() + rest.len(), bytes.len());
                prop_assert_eq!(header.length as usize, body.len());
            }
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_body_arrives() {
        let header = Header { kind: 6, flags: 0, channel: 1, length: 101 };
        let error = split(&header.to_bytes(), |_| 100).unwrap_err();
        assert_eq!(error, TooLarge { kind: 6, length: 101, max: 100 });
        let mut reader = FrameReader::new(100);
        reader.push(&header.to_bytes());
        assert!(reader.try_next().is_err());
    }

    #[test]
    fn a_message_is_framed_with_its_encoded_length() {
        let body = crate::client::Opened { session: 7 };
        let mut out = Vec::new();
        put_message(&mut out, 4, 0, 9, &body);
        let Split::Frame { header, body: bytes, rest } = split(&out, |_| 100).unwrap() else {
            panic!("whole frame")
        };
        assert_eq!((header.channel, rest.len()), (9, 0));
        assert_eq!(<crate::client::Opened as prost::Message>::decode(bytes).unwrap(), body);
    }
}
