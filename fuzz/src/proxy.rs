//! The PROXY header before a client's first byte: a decision, once taken on the front of a connection, stands whatever
//! follows, and is taken within a bound.

use moor_gateway::limits::PROXY_HEADER_BYTES_MAX;
use moor_gateway::worker::door::proxy::{Header, header};

use crate::input::Input;

/// A byte that says where the front is cut, then the connection.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let cut = usize::from(input.short());
    let whole = header(input.0);
    let front = &input.0[..cut.min(input.0.len())];
    match header(front) {
        Header::NeedMore => assert!(front.len() < PROXY_HEADER_BYTES_MAX, "more is held than allowed"),
        early @ Header::Whole { bytes, .. } => {
            assert!(bytes <= front.len().min(PROXY_HEADER_BYTES_MAX));
            assert_eq!(early, whole, "what follows is the client's");
        }
        Header::Wrong => assert_eq!(whole, Header::Wrong, "a refusal was taken back"),
    }
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let second = |rest: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", rest].concat();
    let headers = [
        b"PROXY TCP4 192.0.2.1 203.0.113.7 40000 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\nG".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        second(b"\x21\x11\0\x0c\xc0\0\x02\x01\xcb\0\x71\x07\x9c\x40\x01\xbb"),
        second(b"\x20\0\0\0"),
        second(&[b"\x21\x21\0\x28".as_slice(), &[7; 36], &[4, 0, 1, 0]].concat()),
    ];
    headers.iter().map(|header| [&[0, 20], header.as_slice()].concat()).collect()
}
