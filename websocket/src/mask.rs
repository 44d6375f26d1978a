//! The XOR that clients apply to payloads (RFC 6455, 5.3).

/// Masks or unmasks `bytes` in place and returns the key for the byte that follows them.
///
/// Eight bytes at a time: LLVM turns the loop into vector operations, and nothing needs to be aligned.
#[must_use]
pub fn apply_mask(bytes: &mut [u8], mut key: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    // A word is two keys long, so the tail starts at the first byte of the key.
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    key.rotate_left(tail.len() % 4);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cut_gives_what_the_definition_gives(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in any::<[u8; 4]>(),
            cut in 0usize..200,
        ) {
            let expected: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let mut actual = bytes.clone();
            let (front, back) = actual.split_at_mut(cut.min(bytes.len()));
            let next = apply_mask(front, key);
            let last = apply_mask(back, next);
            prop_assert_eq!(&actual, &expected);
            prop_assert_eq!(last[0], key[bytes.len() % 4]);
        }
    }
}
