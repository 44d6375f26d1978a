//! UTF-8 checked piece by piece, refusing at the first byte after which nothing could make the text valid.

/// The start of a character that the end of a piece cut off: at most three bytes, of which none is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut([u8; 3]);

/// The text is not UTF-8, whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid;

impl Cut {
    /// True exactly when the text so far ends with a whole character.
    pub(crate) fn is_whole(self) -> bool {
        self == Self::default()
    }

    /// Checks the next piece of the text.
    #[inline]
    pub(crate) fn check(&mut self, piece: &[u8]) -> Result<(), Invalid> {
        let rest = if self.is_whole() { piece } else { self.complete(piece)? };
        let Err(error) = std::str::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        // The library knows a valid start from an invalid one, byte by byte.
        self.keep(&rest[error.valid_up_to()..]);
        Ok(())
    }

    /// Completes the cut character from the front of `piece` and returns what follows it.
    fn complete<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Invalid> {
        let kept = self.0.iter().take_while(|&&byte| byte != 0).count();
        let mut character = [0; 4];
        character[..kept].copy_from_slice(&self.0[..kept]);
        for (taken, &byte) in piece.iter().enumerate() {
            let length = kept + taken + 1;
            character[length - 1] = byte;
            match std::str::from_utf8(&character[..length]) {
                Ok(_) => {
                    *self = Self::default();
                    return Ok(&piece[taken + 1..]);
                }
                Err(error) if error.error_len().is_some() => return Err(Invalid),
                Err(_) => self.keep(&character[..length]),
            }
        }
        Ok(&[])
    }

    fn keep(&mut self, start: &[u8]) {
        self.0 = [0; 3];
        self.0[..start.len()].copy_from_slice(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many bytes are taken before the text is refused, or all of them; fed in pieces of `size`.
    fn accepted(bytes: &[u8], size: usize) -> (usize, bool) {
        let mut cut = Cut::default();
        for (index, piece) in bytes.chunks(size).enumerate() {
            if cut.check(piece).is_err() {
                return (index * size, false);
            }
        }
        (bytes.len(), cut.is_whole())
    }

    proptest! {
        #[test]
        fn any_cut_of_text_is_accepted(text in ".{0,40}", size in 1usize..9) {
            prop_assert_eq!(accepted(text.as_bytes(), size), (text.len(), true));
        }

        #[test]
        fn bytes_are_text_exactly_when_the_library_says_so(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x7eu8..0xa2, 0xc0u8..=0xff], 0..12),
            size in 1usize..6,
        ) {
            let (taken, whole) = accepted(&bytes, size);
            prop_assert_eq!(taken == bytes.len() && whole, std::str::from_utf8(&bytes).is_ok());
        }
    }

    #[test]
    fn the_first_hopeless_byte_is_refused() {
        // Hopeless at which byte: a stray continuation, overlong forms, a surrogate, above U+10FFFF.
        let cases: [(&[u8], usize); 8] = [
            (b"\x80", 0),
            (b"\xc1\x81", 0),
            (b"\xe0\x9f\xbf", 1),
            (b"\xf0\x8f\xbf\xbf", 1),
            (b"\xed\xa0\x80", 1),
            (b"\xf4\x90\x80\x80", 1),
            (b"\xf5\x80\x80\x80", 0),
            (b"\xe2\x82A", 2),
        ];
        for (bytes, hopeless) in cases {
            assert_eq!(accepted(bytes, 1), (hopeless, false), "{bytes:x?}");
        }
        assert_eq!(accepted("\u{10ffff}".as_bytes(), 1), (4, true));
        assert_eq!(accepted(b"\xf0\x9f\x98", 1), (3, false));
    }
}
