//! What needs a look inside: two ends of ours, and bytes chosen by hand.

use super::*;

/// Two ends that understand each other.
fn pair(suite: u8, sequence: u64) -> (Compact, Compact) {
    let direction = |byte: u8, sequence: u64| {
        let mut bytes = sequence.to_be_bytes().to_vec();
        let secret = if suite == 2 { 48 } else { 32 };
        bytes.extend_from_slice(&vec![byte; secret]);
        bytes.resize(keys::DIRECTION_BYTES, 0);
        bytes
    };
    let end = |rx: Vec<u8>, tx: Vec<u8>| {
        Compact::from_bytes(&[vec![FORMAT, suite, 0, 0], rx, tx].concat()).unwrap()
    };
    (end(direction(1, 0), direction(2, sequence)), end(direction(2, sequence), direction(1, 0)))
}

fn open(end: &mut Compact, bytes: &[u8]) -> (Result<Opened, Error>, Vec<u8>, Vec<u8>) {
    let (mut input, mut plain, mut out) = (bytes.to_vec(), Vec::new(), Vec::new());
    let result = end.open(&mut input, &mut plain, &mut out);
    (result, plain, out)
}

/// The error, and that the other end is told.
fn refused(content_and_kind: &[u8]) -> Error {
    let (mut sender, mut receiver) = pair(1, 0);
    let (kind, content) = content_and_kind.split_last().unwrap();
    let mut bytes = Vec::new();
    if content.is_empty() {
        // `put` writes nothing for nothing.
        let key = sender.tx.key(sender.suite).unwrap();
        let head = [APPLICATION_DATA, 3, 3, 0, 17];
        let mut body = [*kind];
        let tag = sender.tx.seal(&key, &head, &mut body).unwrap();
        bytes = [&head[..], &body, tag.as_ref()].concat();
    } else {
        sender.put(*kind, content, &mut bytes).unwrap();
    }
    let (result, plain, out) = open(&mut receiver, &bytes);
    assert!(plain.is_empty());
    let error = result.unwrap_err();
    let (told, _, _) = open(&mut sender, &out);
    match error {
        Error::Peer(alert) => assert_eq!(told, Err(Error::GivenUp(alert))),
        _ => assert!(out.is_empty()),
    }
    error
}

#[test]
fn the_next_key_is_taken_before_the_limit_of_this_one() {
    for suite in 1..=3 {
        let (mut sender, mut receiver) = pair(suite, RECORDS_PER_KEY_MAX - 1);
        let mut bytes = Vec::new();
        sender.seal(b"with the old key", &mut bytes).unwrap();
        let before = bytes.len();
        sender.seal(b", with the new one", &mut bytes).unwrap();
        assert!(bytes.len() > before + 18 + 22, "a key update goes before");
        assert_eq!(sender.tx.sequence(), 1);
        let (result, plain, out) = open(&mut receiver, &bytes);
        assert_eq!(result, Ok(Opened { used: bytes.len(), closed: false }));
        assert_eq!((&plain[..], out.len()), (&b"with the old key, with the new one"[..], 0));
    }
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let (mut sender, _) = pair(1, u64::MAX);
    let mut bytes = Vec::new();
    // A key update, which has the last number, and then it is over.
    assert_eq!(sender.seal(b"x", &mut bytes), Err(Error::Unusable));
    assert!(bytes.len() < 40);
}

#[test]
fn what_may_not_come_is_answered_with_its_alert() {
    let peer = |alert| Error::Peer(alert);
    assert_eq!(refused(&[24, 0, 0, 1, 2, HANDSHAKE]), peer(Alert::ILLEGAL_PARAMETER));
    assert_eq!(refused(&[24, 0, 0, 1, HANDSHAKE]), peer(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(refused(&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0, HANDSHAKE]), peer(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(refused(&[1, 0, 0, 1, 0, HANDSHAKE]), peer(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(refused(&[1, 20]), peer(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(refused(&[0, 0, 0, 0]), peer(Alert::UNEXPECTED_MESSAGE), "nothing but padding");
    assert_eq!(refused(&[0]), peer(Alert::UNEXPECTED_MESSAGE));
    assert_eq!(refused(&[HANDSHAKE]), peer(Alert::UNEXPECTED_MESSAGE), "an empty handshake message");
    assert_eq!(refused(&[1, ALERT]), peer(Alert::DECODE_ERROR));
    assert_eq!(refused(&[2, 40, ALERT]), Error::GivenUp(Alert(40)));
}

#[test]
fn a_record_may_be_full_and_padded_but_not_longer() {
    let (mut sender, mut receiver) = pair(3, 0);
    let mut seal = |content: &[u8]| {
        let key = sender.tx.key(sender.suite).unwrap();
        let length = u16::try_from(content.len() + TAG_BYTES).unwrap().to_be_bytes();
        let head = [APPLICATION_DATA, 3, 3, length[0], length[1]];
        let mut body = content.to_vec();
        let tag = sender.tx.seal(&key, &head, &mut body).unwrap();
        [&head[..], &body, tag.as_ref()].concat()
    };
    let mut content = vec![5; RECORD_PLAIN_BYTES_MAX];
    content.push(APPLICATION_DATA);
    let (result, plain, _) = open(&mut receiver, &seal(&content));
    assert_eq!((result.is_ok(), plain.len()), (true, RECORD_PLAIN_BYTES_MAX));
    let (_, plain, _) = open(&mut receiver, &seal(&[5, APPLICATION_DATA, 0, 0, 0]));
    assert_eq!(plain, [5]);
    let (_, plain, _) = open(&mut receiver, &seal(&[APPLICATION_DATA]));
    assert!(plain.is_empty(), "an empty record is allowed");
    content.push(0);
    let (result, _, _) = open(&mut receiver, &seal(&content));
    assert_eq!(result, Err(Error::Peer(Alert::RECORD_OVERFLOW)));
}

#[test]
fn after_the_last_alert_nothing_is_sent() {
    let (mut sender, mut receiver) = pair(2, 0);
    let mut bytes = Vec::new();
    sender.seal(b"last words", &mut bytes).unwrap();
    sender.close(&mut bytes).unwrap();
    let length = bytes.len();
    sender.close(&mut bytes).unwrap();
    assert_eq!(sender.seal(b"more", &mut bytes), Err(Error::Unusable));
    assert_eq!(bytes.len(), length);
    let (result, plain, _) = open(&mut receiver, &bytes);
    assert_eq!((result.unwrap().closed, &plain[..]), (true, &b"last words"[..]));
    // It still reads, and answers nothing.
    let mut asked = Vec::new();
    receiver.put(HANDSHAKE, &[24, 0, 0, 1, 1], &mut asked).unwrap();
    let (result, _, out) = open(&mut sender, &asked);
    assert_eq!((result.is_ok(), out.len()), (true, 0));
}

/// RFC 8448, section 3, "Simple 1-RTT Handshake": the server's application traffic secret and its key and IV.
#[test]
fn keys_follow_from_a_secret_as_in_the_example_of_rfc_8448() {
    let hex = |digits: &str| -> Vec<u8> {
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let (key, iv) = (hex("9f02283b6c9c07efc26bb9f2ac92e356"), hex("cf782b88dd83549aadf1e984"));
    keys::check_example(&secret, &key, &iv);
}

#[test]
fn who_asks_for_a_new_key_gets_it_with_the_next_data_and_once() {
    let data = RECORD_HEAD_BYTES + 1 + 1 + TAG_BYTES;
    for (asked, answer_bytes) in [(0, data), (1, RECORD_HEAD_BYTES + 5 + 1 + TAG_BYTES + data)] {
        let (mut sender, mut receiver) = pair(1, 7);
        let mut bytes = Vec::new();
        for _ in 0..3 {
            sender.put(HANDSHAKE, &[24, 0, 0, 1, asked], &mut bytes).unwrap();
            sender.tx.advance(sender.suite).unwrap();
        }
        let (result, _, out) = open(&mut receiver, &bytes);
        assert_eq!((result.is_ok(), out.len()), (true, 0), "who is idle says nothing");
        assert_eq!(receiver.rx.sequence(), 0, "what comes next has the next key");
        // It is owed by who goes on as bytes, too.
        let mut receiver = Compact::from_bytes(&receiver.to_bytes()).unwrap();
        for bytes_max in [answer_bytes, data] {
            let mut answer = Vec::new();
            receiver.seal(b"x", &mut answer).unwrap();
            assert_eq!(answer.len(), bytes_max);
            let (result, plain, out) = open(&mut sender, &answer);
            assert_eq!(
                (result.is_ok(), plain, out.len()),
                (true, b"x".to_vec(), 0),
                "an answer is not answered"
            );
        }
    }
}
