//! The HTTP request that opens a WebSocket: a decision, once taken on the front of a request, stands whatever follows.

use std::sync::LazyLock;

use moor_websocket::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use moor_websocket::upgrade::{Origins, Outcome, Policy, upgrade};

/// One for each way to treat pages.
static POLICIES: LazyLock<[Policy; 3]> = LazyLock::new(|| {
    let listed = Origins::Listed(vec!["https://shop.example".into(), "http://localhost:8080".into()]);
    [Origins::None, listed, Origins::Any].map(|origins| Policy { path: "/".into(), origins })
});

/// Two bytes that choose a policy and where the request is cut, then the request.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let Some(([policy, cut], request)) = bytes.split_first_chunk::<2>() else { return };
    let policy = &POLICIES[usize::from(*policy) % POLICIES.len()];
    let whole = upgrade(request, policy);
    check(request, &whole);
    let front = &request[..request.len() * usize::from(*cut) / 256];
    let early = upgrade(front, policy);
    check(front, &early);
    match early {
        Outcome::NeedMore => {}
        Outcome::Accept { .. } => assert_eq!(early, whole, "what follows is frames"),
        Outcome::Refuse(_) => {
            assert!(matches!(whole, Outcome::Refuse(_)), "a refusal was taken back: {whole:?}")
        }
    }
}

fn check(request: &[u8], outcome: &Outcome) {
    match outcome {
        Outcome::NeedMore => assert!(request.len() < REQUEST_BYTES_MAX, "more is held than allowed"),
        Outcome::Accept { response, consumed, .. } => {
            assert!(*consumed <= request.len().min(REQUEST_BYTES_MAX));
            assert!(request[..*consumed].ends_with(b"\n"), "a head ends with its last line");
            assert!(response.len() <= RESPONSE_BYTES_MAX);
            assert!(response.starts_with(b"HTTP/1.1 101 ") && response.ends_with(b"\r\n\r\n"));
        }
        Outcome::Refuse(refusal) => assert!(refusal.response().ends_with(b"\r\n\r\n")),
    }
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    crate::seeds::requests().iter().map(|request| [&[2, 128], request.as_bytes()].concat()).collect()
}
