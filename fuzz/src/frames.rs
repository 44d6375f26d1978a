//! The client protocol's frames: what `split` makes of a stream, `FrameReader` makes of it however it is cut, and what a
//! body says survives being said again.

use moor_wire::client::{
    Close, Connect, Connected, Delivery, DeviceAck, Error, GoAway, GroupAck, GroupAnswer, GroupDelivery,
    GroupHeads, GroupRequest, Kind, Open, Opened, Pull, Pulled, ReadMark, ReadMarks, RoomAck, RoomBatch,
    RoomEnter, RoomLeave, RoomLike, RoomPull, RoomPulled, RoomRefused, Submit, SubmitResult, body_bytes_max,
    put_control, sync_id,
};
use moor_wire::frame::{Frame, FrameReader, HEADER_BYTES, Header, Split, put_frame, split};
use prost::Message;

use crate::input::pieces;

/// Small, so that the fuzzer finds it.
const DATA_BYTES_MAX: u32 = 512;

/// Four bytes of cuts, then a stream of frames.
///
/// # Panics
/// When a rule of this module is broken.
pub fn run(bytes: &[u8]) {
    let Some((cuts, stream)) = bytes.split_first_chunk::<4>() else { return };
    let (frames, outcome) = whole(stream);
    for frame in &frames {
        said_again(frame.header, &frame.body);
    }
    let mut reader = FrameReader::new(DATA_BYTES_MAX);
    let (mut seen, mut refused) = (Vec::new(), None);
    'stream: for piece in pieces(stream, cuts) {
        reader.push(piece);
        loop {
            match reader.try_next() {
                Ok(Some(frame)) => seen.push(frame),
                Ok(None) => break,
                Err(error) => {
                    refused = Some(error);
                    break 'stream;
                }
            }
        }
        assert!(
            reader.buffer_mut().len() <= HEADER_BYTES + DATA_BYTES_MAX as usize,
            "more than a frame is held"
        );
    }
    assert_eq!(seen, frames);
    assert_eq!(refused, outcome.err());
    if outcome.is_ok() {
        assert_eq!(reader.buffer_mut(), outcome.unwrap_or_default());
    }
    // The limits by kind only ever make a frame less welcome.
    if let Ok(Split::Frame { header, .. }) = split(stream, |kind| body_bytes_max(kind, DATA_BYTES_MAX)) {
        assert!(header.length <= body_bytes_max(header.kind, DATA_BYTES_MAX));
    }
}

/// The frames of a stream that came at once, and what is left behind them.
fn whole(stream: &[u8]) -> (Vec<Frame>, Result<&[u8], moor_wire::frame::TooLarge>) {
    let (mut frames, mut left) = (Vec::new(), stream);
    loop {
        match split(left, |_| DATA_BYTES_MAX) {
            Ok(Split::Frame { header, body, rest }) => {
                let mut again = Vec::new();
                put_frame(&mut again, header.kind, header.flags, header.channel, body);
                assert_eq!([&again, rest].concat(), left, "nothing is lost and nothing invented");
                frames.push(Frame { header, body: body.to_vec().into() });
                left = rest;
            }
            Ok(Split::Need(total)) => {
                assert!(total > left.len(), "what is needed is there");
                return (frames, Ok(left));
            }
            Err(error) => return (frames, Err(error)),
        }
    }
}

fn said_again(header: Header, body: &[u8]) {
    match Kind::from_byte(header.kind) {
        Some(Kind::Connect) => message::<Connect>(body),
        Some(Kind::Connected) => message::<Connected>(body),
        Some(Kind::Open) => message::<Open>(body),
        Some(Kind::Opened) => message::<Opened>(body),
        Some(Kind::Close) => message::<Close>(body),
        Some(Kind::Data) => {
            message::<Submit>(body);
            message::<Delivery>(body);
        }
        Some(Kind::Ack) => {
            message::<SubmitResult>(body);
            assert_eq!(sync_id(body).is_some(), body.len() == 8);
        }
        Some(Kind::Sync) => assert_eq!(
            sync_id(body).map(|id| id.to_be_bytes().to_vec()),
            (body.len() == 8).then(|| body.to_vec())
        ),
        Some(Kind::GoAway) => message::<GoAway>(body),
        Some(Kind::Error) => message::<Error>(body),
        Some(Kind::Group) => {
            message::<GroupRequest>(body);
            message::<GroupAnswer>(body);
        }
        Some(Kind::GroupDelivery) => message::<GroupDelivery>(body),
        Some(Kind::GroupAck) => message::<GroupAck>(body),
        Some(Kind::GroupHeads) => message::<GroupHeads>(body),
        Some(Kind::Pull) => message::<Pull>(body),
        Some(Kind::Pulled) => message::<Pulled>(body),
        Some(Kind::Enter) => message::<RoomEnter>(body),
        Some(Kind::Leave) => message::<RoomLeave>(body),
        Some(Kind::Room) => message::<RoomBatch>(body),
        Some(Kind::RoomAck) => message::<RoomAck>(body),
        Some(Kind::RoomLike) => message::<RoomLike>(body),
        Some(Kind::RoomPull) => message::<RoomPull>(body),
        Some(Kind::RoomPulled) => message::<RoomPulled>(body),
        Some(Kind::RoomRefused) => message::<RoomRefused>(body),
        Some(Kind::Read) => message::<ReadMark>(body),
        Some(Kind::ReadMarks) => message::<ReadMarks>(body),
        Some(Kind::DeviceAck) => message::<DeviceAck>(body),
        Some(Kind::Ping | Kind::Pong) | None => {}
    }
}

/// A message that decodes is the same after it was encoded, and announces the length it has.
pub(crate) fn message<M: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = M::decode(body) else { return };
    let mut frame = Vec::new();
    put_control(&mut frame, Kind::Data, 0, &message);
    let Ok(Split::Frame { body, rest: [], .. }) = split(&frame, |_| u32::MAX) else {
        panic!("a frame announces the length it has")
    };
    assert_eq!(M::decode(body).as_ref(), Ok(&message));
}

/// Frames of every kind, and what the fuzzer may make of them.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    crate::seeds::client_frames().into_iter().map(|frames| [&[2, 0, 9, 255][..], &frames].concat()).collect()
}
