//! The rules of RFC 6455 for a client's frames, one by one.

use crate::support::{BINARY, CLOSE, CONTINUATION, Event, FIN, PING, PONG, TEXT, decode, frame};
use moor_websocket::decode::Error;
use moor_websocket::{CloseCode, Decoder, Kind, Step};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MAX: u32 = 1 << 20;

/// The events of frames, fed whole and byte by byte.
fn events(frames: &[Vec<u8>]) -> Vec<Event> {
    let stream = frames.concat();
    let whole = decode(&stream, &[], MAX);
    let cut = decode(&stream, &[1], MAX);
    assert_eq!(cut.events, whole.events);
    assert_eq!(cut.decoder, whole.decoder);
    whole.events
}

/// The error that `bytes` end with, and the length of their shortest start that is refused.
fn refused(bytes: &[u8]) -> (Error, usize) {
    let refusal = |end: usize| match decode(&bytes[..end], &[1], MAX).events.pop() {
        Some(Event::Error(error)) => Some((error, end)),
        _ => None,
    };
    (0..=bytes.len()).find_map(refusal).expect("refused")
}

#[test]
fn the_examples_of_the_standard() {
    assert_eq!(
        events(&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec()]),
        [Event::Message(Kind::Text, b"Hello".to_vec())]
    );
    assert_eq!(
        events(&[b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec()]),
        [Event::Pong(b"Hello".to_vec())]
    );
}

#[test]
fn fragments_make_one_message_and_control_frames_may_come_between() {
    let frames = [
        frame(TEXT, KEY, "a\u{e9}".as_bytes()),
        frame(FIN | PING, KEY, b"now"),
        frame(CONTINUATION, KEY, b""),
        frame(FIN | PONG, KEY, b""),
        frame(CONTINUATION, [0; 4], "\u{20ac}".as_bytes()),
        frame(FIN | CONTINUATION, KEY, b""),
        frame(FIN | BINARY, KEY, b"\xff"),
        frame(FIN | CLOSE, KEY, b"\x03\xe8bye"),
    ];
    let expected = [
        Event::Ping(b"now".to_vec()),
        Event::Pong(Vec::new()),
        Event::Message(Kind::Text, "a\u{e9}\u{20ac}".as_bytes().to_vec()),
        Event::Message(Kind::Binary, b"\xff".to_vec()),
        Event::Close(Some(CloseCode::NORMAL), "bye".to_owned()),
    ];
    assert_eq!(events(&frames), expected);
}

#[test]
fn the_steps_of_a_message_say_where_it_begins_and_ends() {
    let steps = |stream: &[u8], size: usize| {
        let (mut bytes, mut decoder, mut steps) = (stream.to_vec(), Decoder::default(), Vec::new());
        for mut input in bytes.chunks_mut(size) {
            while let Some(step) = decoder.poll_step(&mut input, MAX).unwrap() {
                let Step::Data(piece) = step else { panic!("data") };
                steps.push((piece.first, piece.last, piece.bytes.to_vec()));
            }
        }
        steps
    };
    let whole = frame(FIN | BINARY, KEY, b"abc");
    assert_eq!(steps(&whole, 100), [(true, true, b"abc".to_vec())]);
    assert_eq!(steps(&whole, 8), [(true, false, b"ab".to_vec()), (false, true, b"c".to_vec())]);
    // Cut right behind the head: no empty piece is handed out before the payload comes.
    assert_eq!(steps(&whole, 6), [(true, true, b"abc".to_vec())]);
    assert_eq!(steps(&frame(FIN | BINARY, KEY, b""), 100), [(true, true, Vec::new())]);
    let fragments = [frame(BINARY, KEY, b""), frame(CONTINUATION, KEY, b""), frame(FIN, KEY, b"")].concat();
    assert_eq!(steps(&fragments, 100), [(true, false, Vec::new()), (false, true, Vec::new())]);
}

#[test]
fn between_messages_there_is_nothing_to_keep() {
    let mut decoder = Decoder::default();
    let message = [frame(BINARY, KEY, b"ab"), frame(FIN | PING, KEY, b"p"), frame(FIN, KEY, b"c")].concat();
    let ping = frame(FIN | PING, KEY, &[1; 125]);
    for stream in [message, ping, frame(FIN | TEXT, KEY, b"abc")] {
        let mut bytes = stream.clone();
        for (index, mut input) in bytes.chunks_mut(1).enumerate() {
            while decoder.poll_step(&mut input, MAX).unwrap().is_some() {}
            let ended = index + 1 == stream.len();
            assert_eq!(decoder.is_idle(), ended, "byte {index}");
            assert_eq!(decoder == Decoder::default(), ended, "byte {index}");
        }
    }
}

#[test]
fn heads_that_break_a_rule_are_refused_at_their_first_wrong_byte() {
    let fragmented = |second: u8| [frame(TEXT, KEY, b"a"), vec![second, 0x80, 0, 0, 0, 0]].concat();
    let cases: [(&[u8], Error, usize); 17] = [
        (&[FIN | 0x40 | TEXT, 0x80], Error::ReservedBits, 1),
        (&[FIN | 0x20 | TEXT, 0x80], Error::ReservedBits, 1),
        (&[FIN | 0x10 | PING, 0x80], Error::ReservedBits, 1),
        (&[FIN | 0x3, 0x80], Error::ReservedOpcode(3), 1),
        (&[0x7, 0x80], Error::ReservedOpcode(7), 1),
        (&[FIN | 0xb, 0x80], Error::ReservedOpcode(11), 1),
        (&[FIN | 0xf, 0x80], Error::ReservedOpcode(15), 1),
        (&[FIN | CONTINUATION, 0x80], Error::NothingToContinue, 1),
        (&fragmented(FIN | TEXT), Error::MessageUnfinished, 8),
        (&fragmented(BINARY), Error::MessageUnfinished, 8),
        (&[CLOSE, 0x80], Error::ControlFragmented, 1),
        (&[PING, 0x80], Error::ControlFragmented, 1),
        (&[FIN | BINARY, 0x05, 0], Error::NotMasked, 2),
        (&[FIN | PING, 0xfe, 0, 126], Error::ControlTooLong, 2),
        (&[FIN | BINARY, 0xfe, 0, 125, 0], Error::LengthNotMinimal, 4),
        (&[FIN | BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Error::LengthNotMinimal, 10),
        (&[FIN | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], Error::LengthNegative, 10),
    ];
    for (bytes, error, known_at) in cases {
        assert_eq!(refused(bytes), (error, known_at), "{bytes:x?}");
        assert_eq!(error.close_code(), CloseCode::PROTOCOL_ERROR);
    }
}

#[test]
fn text_is_refused_at_the_first_hopeless_byte_wherever_it_is_cut() {
    // U+1112 as the cases of the conformance suite have it, then a byte above U+10FFFF.
    let front = "\u{3ba}\u{1f79}\u{3c3}".as_bytes();
    let broken = [front, b"\xf4\x90\x80\x80tail"].concat();
    let one = frame(FIN | TEXT, KEY, &broken);
    let known_at = 6 + front.len() + 2;
    assert_eq!(refused(&one), (Error::TextNotUtf8, known_at));
    let two =
        [frame(TEXT, KEY, &broken[..front.len() + 1]), frame(FIN, KEY, &broken[front.len() + 1..])].concat();
    assert_eq!(refused(&two), (Error::TextNotUtf8, known_at + 6));
    // A text that ends within a character is known to be wrong with its last byte.
    let cut = frame(FIN | TEXT, KEY, b"a\xe2\x82");
    assert_eq!(refused(&cut), (Error::TextNotUtf8, cut.len()));
    let cut = [frame(TEXT, KEY, b"a\xe2\x82"), frame(FIN, KEY, b"")].concat();
    assert_eq!(refused(&cut), (Error::TextNotUtf8, cut.len()));
    assert_eq!(Error::TextNotUtf8.close_code(), CloseCode::INVALID_DATA);
    // A cut character is of its message alone.
    assert_eq!(events(&[frame(FIN | BINARY, KEY, b"\xe2"), frame(FIN | TEXT, KEY, b"a")]).len(), 2);
}

#[test]
fn a_message_is_bounded_over_all_its_fragments_before_the_payload_comes() {
    let too_large = |stream: &[u8], bytes: u64| {
        let decoded = decode(stream, &[], 10);
        assert_eq!(decoded.events.last(), Some(&Event::Error(Error::TooLarge { bytes, max: 10 })));
    };
    too_large(&frame(FIN | BINARY, KEY, &[0; 11])[..6], 11);
    too_large(&[frame(BINARY, KEY, &[0; 6]), frame(FIN, KEY, &[0; 5])[..6].to_vec()].concat(), 11);
    too_large(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff....", i64::MAX as u64);
    too_large(
        &[frame(BINARY, KEY, b"a"), b"\x80\xff\0\0\0\x01\0\0\0\0....".to_vec()].concat(),
        (1 << 32) + 1,
    );
    assert_eq!(Error::TooLarge { bytes: 11, max: 10 }.close_code(), CloseCode::TOO_LARGE);
    // Control frames do not count, and each message counts anew.
    let ping = frame(FIN | PING, KEY, &[0; 125]);
    let fits =
        [frame(BINARY, KEY, &[0; 6]), ping, frame(FIN, KEY, &[0; 4]), frame(FIN | BINARY, KEY, &[0; 10])];
    assert_eq!(decode(&fits.concat(), &[], 10).events.len(), 3);
}

#[test]
fn closes_are_read_and_checked() {
    let close = |payload: &[u8]| events(&[frame(FIN | CLOSE, KEY, payload)]).remove(0);
    assert_eq!(close(b""), Event::Close(None, String::new()));
    assert_eq!(close(b"\x0f\xa0"), Event::Close(CloseCode::from_client(4000), String::new()));
    let longest = [b"\x03\xf0".as_slice(), &[b'x'; 123]].concat();
    assert_eq!(close(&longest), Event::Close(Some(CloseCode::POLICY), "x".repeat(123)));
    assert_eq!(close(b"\x03"), Event::Error(Error::CloseTruncated));
    for code in [0, 999, 1004, 1005, 1006, 1012, 1015, 1016, 2999, 5000, 65_535] {
        assert_eq!(close(&u16::to_be_bytes(code)), Event::Error(Error::CloseCodeInvalid(code)));
    }
    assert_eq!(close(b"\x03\xe8\xff"), Event::Error(Error::ReasonNotUtf8));
    assert_eq!(Error::ReasonNotUtf8.close_code(), CloseCode::INVALID_DATA);
    assert_eq!(Error::CloseTruncated.close_code(), CloseCode::PROTOCOL_ERROR);
}

#[test]
fn nothing_is_taken_behind_a_close_or_an_error() {
    for end in [frame(FIN | CLOSE, KEY, b""), vec![0xff]] {
        let mut decoder = Decoder::default();
        let mut bytes = [end, frame(FIN | PING, KEY, b"late")].concat();
        let mut input = bytes.as_mut_slice();
        assert!(!matches!(decoder.poll_step(&mut input, MAX), Ok(None | Some(Step::Ping(_)))));
        assert_eq!(decoder.poll_step(&mut input, MAX), Ok(None));
        assert!(input.is_empty());
        assert!(!decoder.is_idle());
    }
}

/// `cargo test --release -p moor-websocket --test codec -- --ignored --nocapture`
#[test]
#[ignore = "a figure to look at, not a check"]
fn nanoseconds_per_message() {
    const MESSAGES: u32 = 400;
    for (first, length) in [(FIN | BINARY, 128), (FIN | TEXT, 128), (FIN | BINARY, 16 * 1024)] {
        let stream = frame(first, KEY, &vec![b'x'; length]).repeat(MESSAGES as usize);
        let mut bytes = stream.clone();
        let mut best = f64::MAX;
        for _ in 0..200 {
            bytes.copy_from_slice(&stream);
            let (mut input, mut decoder, mut seen) = (bytes.as_mut_slice(), Decoder::default(), 0);
            let start = std::time::Instant::now();
            while let Ok(Some(Step::Data(piece))) = decoder.poll_step(&mut input, MAX) {
                seen += std::hint::black_box(piece.bytes).len();
            }
            best = best.min(start.elapsed().as_secs_f64());
            assert_eq!(seen, length * MESSAGES as usize);
        }
        println!("first byte {first:#x}, {length} bytes: {:.1} ns", best * 1e9 / f64::from(MESSAGES));
    }
}
