//! Names for what a request concerns, and how they travel through the kernel in `user_data`.
//!
//! `user_data` = operation (8 bits) | generation (24 bits) | index (32 bits). For messages
//! between rings the lower 56 bits are the caller's value.

use crate::limits::MESSAGE_VALUE_MAX;

/// Index in the ring's direct-descriptor table.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Ord, PartialOrd)]
pub struct Slot(pub u32);

/// What a request carries and its completion returns.
///
/// The generation tells a late completion from one that belongs to the index's present owner:
/// whoever hands out indexes raises it on each reuse and compares on each completion.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The 24 bits of a generation that survive the trip.
    pub const GENERATION_MASK: u32 = 0x00ff_ffff;

    /// A token; the generation is cut to 24 bits.
    #[must_use]
    pub const fn new(index: u32, generation: u32) -> Token {
        Token { index, generation: generation & Token::GENERATION_MASK }
    }

    /// The caller's index.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The caller's generation, 24 bits.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// The operation a completion belongs to.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[repr(u8)]
pub(crate) enum Op {
    Accept = 1,
    Poll = 2,
    Recv = 3,
    Send = 4,
    Close = 5,
    Reset = 6,
    Connect = 7,
    Adopt = 8,
    Install = 9,
    Pass = 10,
    /// A message of ours that failed; the value is in the lower bits.
    MessageSent = 11,
    /// A message from another ring, posted by the kernel on its behalf.
    Message = 12,
    /// A descriptor from another ring.
    SlotPassed = 13,
    Doorbell = 14,
    /// A cancel, whose own end says nothing that the end of its target does not.
    Cancel = 15,
    /// An installation whose descriptor is only asked for its peer.
    PeerAddress = 16,
}

impl Op {
    const fn from_tag(tag: u8) -> Option<Op> {
        Some(match tag {
            1 => Op::Accept,
            2 => Op::Poll,
            3 => Op::Recv,
            4 => Op::Send,
            5 => Op::Close,
            6 => Op::Reset,
            7 => Op::Connect,
            8 => Op::Adopt,
            9 => Op::Install,
            10 => Op::Pass,
            11 => Op::MessageSent,
            12 => Op::Message,
            13 => Op::SlotPassed,
            14 => Op::Doorbell,
            15 => Op::Cancel,
            16 => Op::PeerAddress,
            _ => return None,
        })
    }

    /// `user_data` of a request with this token.
    pub(crate) const fn with_token(self, token: Token) -> u64 {
        (self as u64) << 56 | (token.generation as u64) << 32 | token.index as u64
    }

    /// `user_data` of a message with this value; bits above 56 are cut.
    pub(crate) const fn with_value(self, value: u64) -> u64 {
        (self as u64) << 56 | (value & MESSAGE_VALUE_MAX)
    }
}

/// `user_data` taken apart.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct UserData {
    pub op: Op,
    pub token: Token,
    pub value: u64,
}

impl UserData {
    /// `None` when the operation is not one of ours.
    #[allow(clippy::cast_possible_truncation)] // Each cast keeps exactly the field's bits.
    pub(crate) const fn decode(bits: u64) -> Option<UserData> {
        let Some(op) = Op::from_tag((bits >> 56) as u8) else { return None };
        let token = Token::new(bits as u32, (bits >> 32) as u32);
        Some(UserData { op, token, value: bits & MESSAGE_VALUE_MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::{Op, Token, UserData};

    #[test]
    fn token_survives_user_data() {
        let token = Token::new(u32::MAX, u32::MAX);
        assert_eq!(token.generation(), Token::GENERATION_MASK);
        for tag in 1..=16 {
            let op = Op::from_tag(tag).unwrap();
            assert_eq!(op as u8, tag);
            let decoded = UserData::decode(op.with_token(token)).unwrap();
            assert_eq!((decoded.op, decoded.token), (op, token));
        }
    }

    #[test]
    fn value_survives_user_data() {
        let decoded = UserData::decode(Op::Message.with_value(u64::MAX)).unwrap();
        assert_eq!((decoded.op, decoded.value), (Op::Message, (1 << 56) - 1));
    }

    #[test]
    fn foreign_user_data_is_refused() {
        assert_eq!(UserData::decode(0), None);
        assert_eq!(UserData::decode(u64::MAX), None);
    }
}
