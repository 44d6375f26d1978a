//! What holds for every stream, however it is cut.

use crate::support::{BINARY, CLOSE, Event, FIN, PING, PONG, TEXT, decode, frame};
use moor_websocket::mask::apply_mask;
use moor_websocket::{CloseCode, Decoder, Kind};
use proptest::prelude::*;

const MAX: u32 = 1 << 20;

/// A message and where its fragments end, or a control frame; and a key.
#[derive(Clone, Debug)]
enum Said {
    Message(Event, Vec<prop::sample::Index>),
    Control(Event),
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..140),
        // Lengths of two and of eight bytes.
        1 => (65_530usize..65_545).prop_map(|length| vec![7; length]),
    ];
    let payload = || prop::collection::vec(any::<u8>(), 0..=125);
    let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop_oneof![
        4 => (bytes, cuts()).prop_map(|(bytes, cuts)| Said::Message(Event::Message(Kind::Binary, bytes), cuts)),
        4 => (".{0,60}", cuts())
            .prop_map(|(text, cuts)| Said::Message(Event::Message(Kind::Text, text.into_bytes()), cuts)),
        2 => payload().prop_map(|payload| Said::Control(Event::Ping(payload))),
        1 => payload().prop_map(|payload| Said::Control(Event::Pong(payload))),
    ]
}

fn close() -> impl Strategy<Value = Event> {
    let code = prop_oneof![Just(1000u16), Just(1011), 3000u16..5000];
    prop_oneof![
        Just(Event::Close(None, String::new())),
        (code, ".{0,30}").prop_map(|(code, reason)| Event::Close(CloseCode::from_client(code), reason)),
    ]
}

/// The stream that says it all; `between`, a ping after each fragment that is not the last.
fn stream(said: &[Said], end: Option<&Event>, key: [u8; 4], between: bool) -> (Vec<u8>, Vec<Event>) {
    let (mut stream, mut events) = (Vec::new(), Vec::new());
    for one in said {
        match one {
            Said::Message(event @ Event::Message(kind, bytes), cuts) => {
                let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
                ends.push(bytes.len());
                ends.sort_unstable();
                let mut start = 0;
                for (index, &end) in ends.iter().enumerate() {
                    let opcode = match (index, kind) {
                        (0, Kind::Text) => TEXT,
                        (0, Kind::Binary) => BINARY,
                        _ => 0,
                    };
                    let last = index + 1 == ends.len();
                    stream.extend(frame(opcode | if last { FIN } else { 0 }, key, &bytes[start..end]));
                    start = end;
                    if between && !last {
                        stream.extend(frame(FIN | PING, key, b"between"));
                        events.push(Event::Ping(b"between".to_vec()));
                    }
                }
                events.push(event.clone());
            }
            Said::Message(..) => unreachable!("a message is one"),
            Said::Control(event) => {
                stream.extend(match event {
                    Event::Ping(payload) => frame(FIN | PING, key, payload),
                    Event::Pong(payload) => frame(FIN | PONG, key, payload),
                    _ => unreachable!("a ping or a pong"),
                });
                events.push(event.clone());
            }
        }
    }
    if let Some(event @ Event::Close(code, reason)) = end {
        let mut payload = code.map_or(Vec::new(), |code| code.get().to_be_bytes().to_vec());
        payload.extend_from_slice(reason.as_bytes());
        payload.truncate(125);
        while std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_err() {
            payload.pop();
        }
        stream.extend(frame(FIN | CLOSE, key, &payload));
        let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
        events.push(if let Event::Close(code, _) = event {
            Event::Close(*code, reason)
        } else {
            event.clone()
        });
    }
    (stream, events)
}

/// Bytes that get past the first checks more often than chance would have it.
fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        Just(FIN | BINARY),
        Just(TEXT),
        Just(BINARY),
        Just(FIN),
        Just(0u8),
        Just(FIN | PING),
        Just(FIN | CLOSE),
        any::<u8>()
    ];
    let second = prop_oneof![4 => 0x80u8..0x88, 1 => Just(0xfe), 1 => Just(0xff), 1 => any::<u8>()];
    let one = (first, second, prop::collection::vec(any::<u8>(), 0..14));
    prop::collection::vec(one, 0..12).prop_map(|frames| {
        frames.into_iter().flat_map(|(first, second, rest)| [vec![first, second], rest].concat()).collect()
    })
}

proptest! {
    #[test]
    fn a_valid_stream_gives_what_was_said_however_it_is_cut(
        said in prop::collection::vec(said(), 0..6),
        end in prop::option::of(close()),
        key in any::<[u8; 4]>(),
        between in any::<bool>(),
        sizes in prop::collection::vec(1usize..40, 1..8),
    ) {
        let (stream, expected) = stream(&said, end.as_ref(), key, between);
        for sizes in [sizes.as_slice(), &[1], &[]] {
            let decoded = decode(&stream, sizes, MAX);
            prop_assert_eq!(&decoded.events, &expected);
            prop_assert_eq!(decoded.consumed, stream.len());
            prop_assert_eq!(decoded.decoder == Decoder::default(), end.is_none());
        }
    }

    #[test]
    fn any_bytes_end_the_same_however_they_are_cut(
        bytes in prop_oneof![nearly_frames(), prop::collection::vec(any::<u8>(), 0..100)],
        sizes in prop::collection::vec(1usize..10, 1..6),
        max in prop_oneof![Just(0u32), 1u32..40, Just(u32::MAX)],
    ) {
        // That it neither panics nor stalls nor hands out more than came is checked on the way.
        let whole = decode(&bytes, &[], max);
        let cut = decode(&bytes, &sizes, max);
        // A refused text is handed out up to the piece that breaks it, and pieces differ with the cuts.
        let settled = |events: Vec<Event>| -> Vec<Event> {
            let broken = matches!(events.last(), Some(Event::Error(_)));
            events.into_iter().filter(|event| !(broken && matches!(event, Event::Begun(..)))).collect()
        };
        prop_assert_eq!(settled(cut.events), settled(whole.events));
        prop_assert!(whole.payload <= whole.consumed);
    }

    #[test]
    fn unmasking_is_the_definition_at_every_alignment(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        key in any::<[u8; 4]>(),
        start in 0usize..16,
    ) {
        let start = start.min(bytes.len());
        let expected: Vec<u8> = bytes[start..].iter().enumerate().map(|(i, byte)| byte ^ key[i & 3]).collect();
        let mut actual = bytes;
        let next = apply_mask(&mut actual[start..], key);
        prop_assert_eq!(&actual[start..], &expected);
        prop_assert_eq!(next, std::array::from_fn::<u8, 4, _>(|i| key[(expected.len() + i) & 3]));
    }
}
