//! Every face against a server that is a thread on a port of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moor_router_client::{Answer, Code, Config, Error, Location, Receipt, Request, Welcome};
use moor_wire::client::Delivery;
use moor_wire::frame::Frame;
use moor_wire::internal::{
    Failure, Hello, Kick, Lookup, LookupResult, Outcome, Push, PushAccount, Send, SendResult, Stat, Stats,
    StatsResult, Subscribe, Verb, frame_reader, put_control,
};
use prost::Message;

/// What the server saw.
#[derive(Debug, Default)]
struct Seen {
    greetings: Vec<Hello>,
    sends: Vec<Send>,
    pushes: Vec<(u64, Vec<u8>)>,
    lookups: u32,
}

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// A server with epoch 7 that hangs up instead of answering the first SEND and the second LOOKUP.
fn server(token: &'static [u8]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default() };
    let shared = server.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let server = shared.clone();
            std::thread::spawn(move || server.serve(stream.unwrap(), token));
        }
    });
    server
}

impl Server {
    fn serve(&self, mut stream: TcpStream, token: &[u8]) {
        let mut reader = frame_reader();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            reader.push(&buffer[..length]);
            while let Some(frame) = reader.try_next().unwrap() {
                let Some(answer) = self.answer(&frame, token) else { return };
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    }

    /// What to answer; `None`: hang up.
    fn answer(&self, frame: &Frame, token: &[u8]) -> Option<Vec<u8>> {
        let mut seen = self.seen.lock().unwrap();
        let (mut out, body) = (Vec::new(), &frame.body[..]);
        match Verb::from_byte(frame.header.kind).unwrap() {
            Verb::Hello => {
                let hello = Hello::decode(body).unwrap();
                if hello.token == token {
                    let welcome = Welcome { version: 1, node: "fake".into(), epoch: 7, ..Welcome::default() };
                    put_control(&mut out, Verb::Welcome, &welcome);
                } else {
                    let failure = Failure { code: Code::Unauthorized as i32, detail: "wrong token".into() };
                    put_control(&mut out, Verb::Failure, &failure);
                }
                seen.greetings.push(hello);
            }
            Verb::Lookup => {
                seen.lookups += 1;
                if seen.lookups == 2 {
                    return None;
                }
                let cookie = Lookup::decode(body).unwrap().cookie;
                let location = Location {
                    epoch: 7,
                    worker: 3,
                    session: 42,
                    internal_address: self.address.to_string(),
                    ..Location::default()
                };
                let found =
                    LookupResult { cookie, sessions: vec![location], head: 5, ..LookupResult::default() };
                put_control(&mut out, Verb::LookupResult, &found);
            }
            Verb::Send => {
                let send = Send::decode(body).unwrap();
                let cookie = send.cookie;
                seen.sends.push(send);
                if seen.sends.len() == 1 {
                    return None;
                }
                let result = SendResult { cookie, sync_id: 6, ..SendResult::default() };
                put_control(&mut out, Verb::SendResult, &result);
            }
            Verb::Push => {
                let push = Push::parse(body).unwrap();
                let delivery = Delivery::decode(push.body).unwrap();
                assert_eq!((delivery.sync_id, &delivery.from[..]), (0, "orders"));
                seen.pushes.push((push.session.0, delivery.payload.to_vec()));
                let code = if push.session.0 == 42 { Code::Ok } else { Code::NotHere };
                Outcome { cookie: push.cookie, code, reached: 1 }.put(&mut out);
            }
            Verb::PushAccount => {
                let cookie = PushAccount::parse(body).unwrap().cookie;
                Outcome { cookie, code: Code::Ok, reached: 2 }.put(&mut out);
            }
            Verb::Kick => {
                let kick = Kick::decode(body).unwrap();
                assert_eq!((&kick.device[..], kick.code()), ("phone", Code::Kicked));
                Outcome { cookie: kick.cookie, code: Code::Ok, reached: 1 }.put(&mut out);
            }
            Verb::Stats => {
                let cookie = Stats::decode(body).unwrap().cookie;
                let stats = vec![Stat { name: "sessions".into(), value: 9 }];
                put_control(&mut out, Verb::StatsResult, &StatsResult { cookie, stats });
            }
            Verb::Subscribe => {
                let subscribe = Subscribe::decode(body).unwrap();
                Outcome { cookie: subscribe.cookie, code: Code::Ok, reached: 0 }.put(&mut out);
                let receipt = Receipt { app: subscribe.app, sync_id: 6, ..Receipt::default() };
                put_control(&mut out, Verb::Receipt, &receipt);
            }
            verb => panic!("{verb:?}"),
        }
        Some(out)
    }
}

/// A gateway that answers one push, then ends, closes its port, and says so by ending the thread.
fn gateway_that_dies() -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.78.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut reader, mut buffer) = (frame_reader(), [0; 4096]);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            reader.push(&buffer[..length]);
            while let Some(frame) = reader.try_next().unwrap() {
                let mut out = Vec::new();
                if frame.header.kind == Verb::Hello.byte() {
                    put_control(&mut out, Verb::Welcome, &Welcome { epoch: 7, ..Welcome::default() });
                    stream.write_all(&out).unwrap();
                } else {
                    let cookie = Push::parse(&frame.body).unwrap().cookie;
                    Outcome { cookie, code: Code::Ok, reached: 1 }.put(&mut out);
                    stream.write_all(&out).unwrap();
                    return;
                }
            }
        }
    });
    (address, thread)
}

/// The same story for a face: `face!(Router, [], [])` or `face!(Router, [async], [.await])`.
macro_rules! story {
    ($router:ty, [$($async:tt)*], [$($await:tt)*]) => {
        $($async)* fn everything() {
            let server = server(b"secret");
            let address = server.address.to_string();
            let mut router = <$router>::connect(&address, Some(b"secret")) $($await)*.unwrap();
            assert_eq!((&router.welcome().node[..], router.welcome().epoch), ("fake", 7));

            let found = router.lookup("shop", "alice") $($await)*.unwrap();
            assert_eq!((found.head, found.sessions.len()), (5, 1));
            // The server hangs up on the next two and is asked again.
            assert_eq!(router.lookup("shop", "alice") $($await)*.unwrap().head, 5);
            let sent = router.send("shop", "orders", "alice", None, b"hello") $($await)*.unwrap();
            assert_eq!((sent.sync_id, sent.duplicate), (6, false));
            {
                let seen = server.seen.lock().unwrap();
                assert_eq!((seen.sends.len(), seen.greetings.len(), seen.lookups), (2, 3, 3));
                assert!(seen.sends.iter().all(|send| send.client_id == sent.client_id));
            }

            assert_eq!(router.push_account("shop", "alice", "orders", b"x") $($await)*, Ok(2));
            assert_eq!(router.kick("shop", "alice", Some("phone"), "bye") $($await)*, Ok(1));
            assert_eq!(router.stats() $($await)*, Ok(vec![("sessions".to_owned(), 9)]));
            router.subscribe("shop") $($await)*.unwrap();
            let receipt = router.next_receipt(Duration::from_secs(5)) $($await)*.unwrap().unwrap();
            assert_eq!((&receipt.app[..], receipt.sync_id), ("shop", 6));
            assert_eq!(router.next_receipt(Duration::from_millis(1)) $($await)*, Ok(None));

            // Two under way at once, taken in the other order; a ticket is good for one answer.
            let first = router.start(Request::Stats) $($await)*.unwrap();
            let second = router.start(Request::Stats) $($await)*.unwrap();
            assert!(matches!(router.finish(&second) $($await)*, Ok(Answer::Stats(_))));
            assert!(matches!(router.finish(&first) $($await)*, Ok(Answer::Stats(_))));
            assert_eq!(router.finish(&first) $($await)*, Err(Error::UnknownTicket));
            // Nor does it serve at another connection, which counts its requests likewise.
            let mut other = <$router>::connect(&address, Some(b"secret")) $($await)*.unwrap();
            let theirs = other.start(Request::Stats) $($await)*.unwrap();
            let mut third = <$router>::connect(&address, Some(b"secret")) $($await)*.unwrap();
            let _ours = third.start(Request::Stats) $($await)*.unwrap();
            assert_eq!(third.finish(&theirs) $($await)*, Err(Error::UnknownTicket));

            // One connection per worker is kept; its token is the router's.
            let here = &found.sessions[0];
            assert_eq!(router.push_to(here, "orders", b"1") $($await)*, Ok(1));
            assert_eq!(router.push_to(here, "orders", b"2") $($await)*, Ok(1));
            let gone = Location { session: 43, ..here.clone() };
            assert_eq!(router.push_to(&gone, "orders", b"3") $($await)*, Err(Error::NotHere));
            let restarted = Location { epoch: 8, ..here.clone() };
            assert_eq!(router.push_to(&restarted, "orders", b"4") $($await)*, Err(Error::NotHere));
            let seen = server.seen.lock().unwrap();
            let pushed: Vec<_> = seen.pushes.iter().map(|(session, body)| (*session, &body[..])).collect();
            assert_eq!(pushed, [(42, &b"1"[..]), (42, b"2"), (43, b"3")]);
            let workers: Vec<_> = seen.greetings[5..].iter().map(|hello| hello.worker).collect();
            assert_eq!(workers, [Some(3), Some(3)]);
        }

        $($async)* fn given_up() {
            let address = server(b"").address.to_string();
            let config = Config { in_flight_max: 2, ..Config::default() };
            let mut router = <$router>::connect_with(&address, config) $($await)*.unwrap();
            for _ in 0..5 {
                let _given_up = router.start(Request::Stats) $($await)*.unwrap();
                assert_eq!(router.stats() $($await)*, Ok(vec![("sessions".to_owned(), 9)]));
            }
        }

        $($async)* fn dead_gateway() {
            let server = server(b"");
            let mut router = <$router>::connect(&server.address.to_string(), None) $($await)*.unwrap();
            let (address, thread) = gateway_that_dies();
            let internal_address = address.to_string();
            let there = Location { epoch: 7, session: 42, internal_address, ..Location::default() };
            assert_eq!(router.push_to(&there, "orders", b"1") $($await)*, Ok(1));
            thread.join().unwrap();
            // Never the whole deadline: the port is closed, and that is known at once.
            let first = router.push_to(&there, "orders", b"2") $($await)*.unwrap_err();
            assert!(matches!(first, Error::NoGateway { .. } | Error::Uncertain { .. }), "{first}");
            let second = router.push_to(&there, "orders", b"3") $($await)*.unwrap_err();
            assert_eq!(second, Error::NoGateway { address: there.internal_address });
        }

        $($async)* fn refusals() {
            let server = server(b"secret");
            let refused = <$router>::connect(&server.address.to_string(), None) $($await)*.unwrap_err();
            assert_eq!(refused.to_string(), "the connection was refused: UNAUTHORIZED: wrong token");

            // No other test binds this address, so its port stays free.
            let free = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap().to_string();
            let nobody = <$router>::connect(&free, None) $($await)*.unwrap_err();
            assert_eq!(nobody, Error::NobodyListens { address: free.clone() });
            let nobody = <$router>::connect_worker(&free, 1, None) $($await)*.unwrap_err();
            assert_eq!(nobody, Error::NoGateway { address: free });
        }
    };
}

mod blocking {
    use super::*;

    story!(moor_router_client::blocking::Router, [], []);

    #[test]
    fn does_everything() {
        everything();
    }

    #[test]
    fn says_what_is_wrong() {
        refusals();
    }

    #[test]
    fn a_ticket_given_up_keeps_nobodys_place() {
        given_up();
    }

    #[test]
    fn a_gateway_that_died_is_known_at_once() {
        dead_gateway();
    }
}

#[cfg(feature = "tokio")]
mod tokio_face {
    use super::*;

    story!(moor_router_client::tokio::Router, [async], [.await]);

    fn run(story: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
    }

    #[test]
    fn does_everything() {
        run(everything());
    }

    #[test]
    fn says_what_is_wrong() {
        run(refusals());
    }

    #[test]
    fn a_ticket_given_up_keeps_nobodys_place() {
        run(given_up());
    }

    #[test]
    fn a_gateway_that_died_is_known_at_once() {
        run(dead_gateway());
    }

    async fn yields(turns: u32) {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_dropped_call_leaves_a_usable_connection() {
        run(async {
            let server = server(b"");
            let address = server.address.to_string();
            let mut router = moor_router_client::tokio::Router::connect(&address, None).await.unwrap();
            for turns in 0..3_000 {
                tokio::select! {
                    biased;
                    _ = router.stats() => {}
                    () = yields(turns % 8) => {}
                }
            }
            assert_eq!(router.stats().await, Ok(vec![("sessions".to_owned(), 9)]));
        });
    }
}

#[cfg(feature = "monoio")]
mod monoio_face {
    use super::*;

    story!(moor_router_client::monoio::Router, [async], [.await]);

    fn run(story: impl Future<Output = ()> + 'static) {
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .enable_timer()
            .build()
            .unwrap()
            .block_on(story);
    }

    #[test]
    fn does_everything() {
        run(everything());
    }

    #[test]
    fn says_what_is_wrong() {
        run(refusals());
    }

    #[test]
    fn a_ticket_given_up_keeps_nobodys_place() {
        run(given_up());
    }

    #[test]
    fn a_gateway_that_died_is_known_at_once() {
        run(dead_gateway());
    }
}
