//! The codes a connection is closed with (RFC 6455, 7.4, and the IANA registry it opened).

/// A status code of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer sent a kind of data that is not accepted (text where binary is expected).
    pub const UNSUPPORTED: Self = Self(1003);
    /// Data that contradicts its kind: text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// Against a rule of the server that has no code of its own.
    pub const POLICY: Self = Self(1008);
    /// A message above what is accepted.
    pub const TOO_LARGE: Self = Self(1009);
    /// The server is overloaded; come back later or elsewhere. Sent by servers only.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The code a client sent, if a client may send it: 1000 to 1003, 1007 to 1011, 3000 to 4999.
    #[must_use]
    pub const fn from_client(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1011 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_send_the_codes_of_the_standard_and_the_free_ranges_only() {
        let accepted: Vec<u16> =
            (0..=u16::MAX).filter(|&code| CloseCode::from_client(code).is_some()).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1011).chain(3000..=4999).collect();
        assert_eq!(accepted, expected);
        assert_eq!(CloseCode::from_client(1008), Some(CloseCode::POLICY));
        assert_eq!(CloseCode::TRY_AGAIN_LATER.get(), 1013);
    }
}
