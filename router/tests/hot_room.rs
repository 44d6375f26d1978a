//! A hot room: what is said in it is worked on by the shards of the links it comes on, and each sender is heard in order.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::{Peer, Who};
use moor_router::{Fsync, RoomSettings, RouterConfig, RouterHandle};
use moor_wire::Code;
use moor_wire::client::{Class, Kind, RoomMessage, Submit};
use moor_wire::internal::{RoomCount, RoomCounts, Verb};
use moor_wire::rooms::RoomPush;
use prost::Message;

const SHARDS: u32 = 3;
const SPEAKERS: u32 = 12;
const MESSAGES: u32 = 400;
/// Droppable, where nothing is said about it.
const CHATTER: u32 = 7;
/// Likewise, but ten a second.
const RARE: u32 = 8;

fn counted(router: &RouterHandle, name: &str) -> u64 {
    router.stats().into_iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| count)
}

fn said(client_id: &[u8], room_type: u32) -> Submit {
    Submit { client_id: client_id.to_vec().into(), room: "live".into(), room_type, ..Submit::default() }
}

#[test]
fn several_shards_take_what_is_said_in_a_room_and_each_sender_is_heard_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let router = moor_router::start(RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: directory.path().to_owned(),
        shards: Some(SHARDS),
        fsync: Fsync::Off,
        rooms: RoomSettings {
            types: "7=droppable/10000,8=droppable/10".parse().unwrap(),
            ..RoomSettings::default()
        },
        ..RouterConfig::default()
    })
    .unwrap();
    let mut listener = Peer::gateway(router.listen_addr(), "listener", 1, 0);
    let count = RoomCount { app: "shop".into(), room: "live".into(), members: 1, likes: 0 };
    listener.put(Verb::RoomCount, &RoomCounts { rooms: vec![count] });
    listener.flush();
    listener.synced();

    // Every speaker is a gateway of its own: their links are spread over the shards.
    let names: Vec<String> = (0..SPEAKERS).map(|number| format!("speaker-{number:02}")).collect();
    let who = |number: u32| Who::new(u64::from(number) + 100, &names[number as usize], "phone");
    let mut speakers: Vec<Peer> = Vec::new();
    for number in 0..SPEAKERS {
        let mut peer = Peer::gateway(router.listen_addr(), &names[number as usize], 1, 0);
        peer.register(1, vec![who(number).registration(None)]);
        speakers.push(peer);
    }
    for message in 0..MESSAGES {
        for (peer, number) in speakers.iter_mut().zip(0..) {
            let submit = said(&message.to_be_bytes(), CHATTER);
            peer.put_up(&who(number), Kind::Data, &submit.encode_to_vec());
            if message % 50 == 49 {
                peer.flush();
            }
        }
    }
    for peer in &mut speakers {
        for _ in 0..MESSAGES {
            assert_eq!(peer.expect_result().code(), Code::Ok);
        }
    }
    let mut heard: HashMap<String, Vec<u32>> = HashMap::new();
    while heard.values().map(Vec::len).sum::<usize>() < (SPEAKERS * MESSAGES) as usize {
        let body = listener.expect(Verb::RoomPush);
        let push = RoomPush::parse(&body).unwrap();
        assert_eq!(push.dropped, 0);
        for record in push.records() {
            assert_eq!(record.class, Class::Transient);
            let message = RoomMessage::decode(record.message).unwrap();
            assert_eq!(message.r#type, CHATTER);
            let id = u32::from_be_bytes(message.client_id[..].try_into().unwrap());
            heard.entry(message.from).or_default().push(id);
        }
    }
    for (name, ids) in &heard {
        assert!(ids.iter().copied().eq(0..MESSAGES), "{name} was heard out of order: {ids:?}");
    }
    assert_eq!(heard.len(), SPEAKERS as usize);
    assert_eq!(counted(&router, "router_room_publishes_total"), u64::from(SPEAKERS * MESSAGES));
    assert!(counted(&router, "router_room_runs_total") > 0, "other shards took their part");

    // Of what comes too fast the room's shard leaves out as much, and tells of it, whoever took it.
    for (peer, number) in speakers.iter_mut().zip(0..) {
        for message in 0..20_u8 {
            peer.put_up(&who(number), Kind::Data, &said(&[message], RARE).encode_to_vec());
        }
        peer.flush();
        for _ in 0..20 {
            assert_eq!(peer.expect_result().code(), Code::Ok, "left out is no fault of who said it");
        }
    }
    let (mut rare, mut dropped) = (0, 0);
    while rare + dropped < u64::from(SPEAKERS) * 20 {
        // What was left out is told along with what is said next.
        speakers[0].put_up(&who(0), Kind::Data, &said(b"next", 0).encode_to_vec());
        speakers[0].flush();
        assert_eq!(speakers[0].expect_result().code(), Code::Ok);
        let body = listener.expect(Verb::RoomPush);
        let push = RoomPush::parse(&body).unwrap();
        let types = push.records().map(|record| RoomMessage::decode(record.message).unwrap().r#type);
        rare += types.filter(|number| *number == RARE).count() as u64;
        dropped += push.dropped;
    }
    assert!((10..100).contains(&rare), "{rare} came through, 10 may in a second");
    assert_eq!(rare + dropped, u64::from(SPEAKERS) * 20);
    assert_eq!(counted(&router, "router_room_limited_total"), dropped);
}
