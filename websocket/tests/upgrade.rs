//! Which requests open a connection, and what the others are told.

use moor_websocket::limits::{REQUEST_BYTES_MAX, REQUEST_FIELDS_MAX, RESPONSE_BYTES_MAX};
use moor_websocket::upgrade::{Origins, Outcome, Policy, Refusal, Subprotocol, upgrade};
use proptest::prelude::*;

/// The request of the standard's own example, field by field.
const FIELDS: [(&str, &str); 5] = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

/// That request with `name` left out or, with values, said anew as often as there are values.
fn request(name: &str, values: &[&str]) -> Vec<u8> {
    let kept = FIELDS.iter().copied().filter(|(field, _)| !field.eq_ignore_ascii_case(name));
    let fields = kept.chain(values.iter().map(|&value| (name, value)));
    let fields: String = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

fn decide(name: &str, values: &[&str], origins: Origins) -> Outcome {
    upgrade(&request(name, values), &Policy { path: "/".to_owned(), origins })
}

/// What becomes of the request under the default policy.
fn decide_default(name: &str, values: &[&str]) -> Result<Option<Subprotocol>, Refusal> {
    match upgrade(&request(name, values), &Policy::default()) {
        Outcome::Accept { subprotocol, .. } => Ok(subprotocol),
        Outcome::Refuse(refusal) => Err(refusal),
        Outcome::NeedMore => panic!("the request is whole"),
    }
}

/// The outcome for the first line `line` where the endpoint is `path`.
fn decide_line(line: &str, path: &str) -> Outcome {
    let request = String::from_utf8(request("", &[])).expect("ASCII").replace("GET / HTTP/1.1", line);
    upgrade(request.as_bytes(), &Policy { path: path.to_owned(), origins: Origins::None })
}

#[test]
fn the_example_of_the_standard_is_answered_as_it_says() {
    let mut bytes = request("", &[]);
    let length = bytes.len();
    bytes.extend_from_slice(b"\x82\x80");
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let Outcome::Accept { response, consumed, subprotocol } = upgrade(&bytes, &Policy::default()) else {
        panic!("accepted")
    };
    assert_eq!(String::from_utf8(response).unwrap(), expected);
    assert_eq!((consumed, subprotocol), (length, None));
}

#[test]
fn a_head_is_awaited_byte_by_byte() {
    let bytes = request("Origin", &[]);
    for end in 0..bytes.len() {
        assert_eq!(upgrade(&bytes[..end], &Policy::default()), Outcome::NeedMore, "{end}");
    }
}

#[test]
fn our_subprotocol_is_found_in_any_list() {
    let ours = Ok(Some(Subprotocol::MoorV1));
    assert_eq!(decide_default("Sec-WebSocket-Protocol", &["moor.v1"]), ours);
    assert_eq!(decide_default("Sec-WebSocket-Protocol", &["chat,\tmoor.v1 , mqtt"]), ours);
    assert_eq!(decide_default("sec-websocket-protocol", &["chat", "moor.v1"]), ours);
    assert_eq!(decide_default("Sec-WebSocket-Protocol", &["moor.v11, Moor.v1"]), Ok(None));
    let Outcome::Accept { response, .. } = decide("Sec-WebSocket-Protocol", &["moor.v1"], Origins::None)
    else {
        panic!("accepted")
    };
    assert!(response.ends_with(b"\r\nSec-WebSocket-Protocol: moor.v1\r\n\r\n"));
    assert!(response.len() <= RESPONSE_BYTES_MAX);
}

#[test]
fn lists_and_letter_case_are_read_as_http_reads_them() {
    for (name, value) in [
        ("Connection", "keep-alive, Upgrade"),
        ("connection", "UPGRADE"),
        ("Upgrade", "WebSocket"),
        ("UPGRADE", "h2c, websocket"),
        ("Content-Length", "0"),
    ] {
        assert_eq!(decide_default(name, &[value]), Ok(None), "{name}: {value}");
    }
    assert_eq!(decide_default("Connection", &["keep-alive", "upgrade"]), Ok(None));
}

#[test]
fn each_field_out_of_order_has_its_refusal() {
    let cases: [(&str, &[&str], Refusal); 20] = [
        ("Host", &[], Refusal::Host),
        ("Host", &["a", "b"], Refusal::Host),
        ("Upgrade", &[], Refusal::NotUpgrade),
        ("Upgrade", &["websockets"], Refusal::NotUpgrade),
        ("Connection", &[], Refusal::NotUpgrade),
        ("Connection", &["keep-alive"], Refusal::NotUpgrade),
        ("Sec-WebSocket-Version", &[], Refusal::WebsocketVersion),
        ("Sec-WebSocket-Version", &["8"], Refusal::WebsocketVersion),
        ("Sec-WebSocket-Version", &["13", "13"], Refusal::WebsocketVersion),
        ("Sec-WebSocket-Key", &[], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25j"], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZWU="], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ"], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ=!"], Refusal::Key),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="], Refusal::Key),
        ("Content-Length", &["1"], Refusal::Body),
        ("Transfer-Encoding", &["chunked"], Refusal::Body),
        ("Origin", &["https://example.org"], Refusal::Origin),
        ("Broken name", &["x"], Refusal::Malformed),
    ];
    for (name, values, refusal) in cases {
        assert_eq!(decide_default(name, values), Err(refusal), "{name}: {values:?}");
    }
}

#[test]
fn first_lines() {
    let accepted = |outcome| matches!(outcome, Outcome::Accept { .. });
    assert!(accepted(decide_line("GET /ws?token=a/b HTTP/1.1", "/ws")));
    assert!(accepted(decide_line("GET http://host:1/ws?x HTTP/1.1", "/ws")));
    assert!(accepted(decide_line("GET HTTPS://host HTTP/1.1", "/")));
    for (line, path, refusal) in [
        ("GET / HTTP/1.1", "/ws", Refusal::Path),
        ("GET /ws/ HTTP/1.1", "/ws", Refusal::Path),
        ("GET /wss HTTP/1.1", "/ws", Refusal::Path),
        ("GET http://host/ HTTP/1.1", "/ws", Refusal::Path),
        ("POST / HTTP/1.1", "/", Refusal::Method),
        ("get / HTTP/1.1", "/", Refusal::Method),
        ("GET / HTTP/1.0", "/", Refusal::HttpVersion),
        ("GET / HTTP/2.0", "/", Refusal::HttpVersion),
        ("\x16\x03\x01", "/", Refusal::Malformed),
    ] {
        assert_eq!(decide_line(line, path), Outcome::Refuse(refusal), "{line}");
    }
}

#[test]
fn origins_are_exact() {
    let listed =
        || Origins::Listed(vec!["https://a.example".to_owned(), "https://b.example:8443".to_owned()]);
    let accepted =
        |values: &[&str], origins| matches!(decide("Origin", values, origins), Outcome::Accept { .. });
    assert!(accepted(&[], listed()) && accepted(&[], Origins::None));
    assert!(accepted(&["https://a.example"], listed()) && accepted(&["HTTPS://B.example:8443"], listed()));
    assert!(accepted(&["null"], Origins::Any) && accepted(&["https://evil.example"], Origins::Any));
    for origin in ["http://a.example", "https://a.example.evil", "https://a.example:444", "null", ""] {
        assert!(!accepted(&[origin], listed()), "{origin}");
    }
    assert!(!accepted(&["https://a.example", "https://a.example"], listed()));
}

#[test]
fn a_head_is_bounded_whether_it_is_whole_or_not() {
    let too_large = Outcome::Refuse(Refusal::HeadTooLarge);
    // Everything but the value of the padding field.
    let frame = request("Padding", &[""]).len();
    let padded = |bytes: usize| request("Padding", &[&"x".repeat(bytes - frame)]);
    let policy = Policy::default();
    let longest = padded(REQUEST_BYTES_MAX);
    assert!(matches!(upgrade(&longest, &policy), Outcome::Accept { consumed: REQUEST_BYTES_MAX, .. }));
    assert_eq!(upgrade(&padded(REQUEST_BYTES_MAX + 1), &policy), too_large);
    let endless = padded(2 * REQUEST_BYTES_MAX);
    assert_eq!(upgrade(&endless[..REQUEST_BYTES_MAX - 1], &policy), Outcome::NeedMore);
    assert_eq!(upgrade(&endless[..REQUEST_BYTES_MAX], &policy), too_large);

    let fields = |count: usize| request("x", &vec!["y"; count - FIELDS.len()]);
    assert!(matches!(upgrade(&fields(REQUEST_FIELDS_MAX), &policy), Outcome::Accept { .. }));
    assert_eq!(upgrade(&fields(REQUEST_FIELDS_MAX + 1), &policy), too_large);
}

#[test]
fn every_refusal_is_a_whole_response() {
    for (refusal, status) in [
        (Refusal::Malformed, 400),
        (Refusal::HeadTooLarge, 431),
        (Refusal::HttpVersion, 505),
        (Refusal::Method, 405),
        (Refusal::Path, 404),
        (Refusal::Host, 400),
        (Refusal::Body, 400),
        (Refusal::NotUpgrade, 426),
        (Refusal::WebsocketVersion, 426),
        (Refusal::Key, 400),
        (Refusal::Origin, 403),
    ] {
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(refusal.response()).unwrap();
        assert_eq!(parsed, httparse::Status::Complete(refusal.response().len()));
        assert_eq!(response.code, Some(status), "{refusal}");
        let field = |name| response.headers.iter().find(|field| field.name == name).map(|field| field.value);
        assert_eq!(field("Content-Length"), Some(b"0".as_slice()));
        assert!(field("Connection").unwrap().ends_with(b"close"));
        if status == 426 {
            assert_eq!(field("Sec-WebSocket-Version"), Some(b"13".as_slice()));
            assert_eq!(field("Upgrade"), Some(b"websocket".as_slice()));
        }
        assert_eq!(field("Allow").is_some(), status == 405);
    }
}

proptest! {
    #[test]
    fn any_bytes_have_an_outcome(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..300) {
        let mut disturbed = request("", &[]);
        let at = at.min(disturbed.len());
        disturbed.splice(at..at, bytes.iter().copied());
        for bytes in [bytes, disturbed] {
            if let Outcome::Accept { consumed, .. } = upgrade(&bytes, &Policy::default()) {
                prop_assert!(consumed <= bytes.len());
            }
        }
    }
}
