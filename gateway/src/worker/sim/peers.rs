//! The router and the services: registration, pushes, kicks, other workers, draining.

use moor_wire::Code;
use moor_wire::client::{Class, Close, GoAway, Kind, Submit, SubmitResult, put, put_sync_id};
use moor_wire::frame::{Frame, put_message};
use moor_wire::internal::{
    self, Failure, Kick, Lookup, LookupResult, NotHere, Outcome, Push, PushAccount, PushMany, Register,
    Registered, StatsResult, Unregister, Up, Verb, Welcome,
};
use moor_wire::limits::LOOKUP_SESSIONS_MAX;
use moor_wire::session::SessionHandle;

use super::bed::{Bed, Peer, decode, kinds, put_open, settings, verbs};
use crate::limits::{REGISTER_QUEUE_MAX, REGISTER_WALK_PER_TURN_MAX, SERVICES_MAX};
use crate::worker::Now;
use crate::worker::channels::ChannelIndex;
use crate::worker::counters::Counter;
use crate::worker::drain::DrainPlan;
use crate::worker::io::{Listener, WorkerId};
use crate::worker::mailbox::{Job, Mail};
use crate::worker::settings::Settings;
use crate::worker::wheel::NIL;

/// Answers what is announced just now.
fn answer(bed: &mut Bed, router: Peer) -> Vec<internal::Registration> {
    let batches: Vec<Register> = bed
        .read(router)
        .iter()
        .filter(|frame| frame.header.kind == Verb::Register.byte())
        .map(decode)
        .collect();
    assert!(batches.len() <= 4, "never more than four unanswered");
    let mut sessions = Vec::new();
    for batch in batches {
        let mut out = Vec::new();
        internal::put_control(&mut out, Verb::Registered, &Registered { batch: batch.batch });
        bed.write(router, &out);
        sessions.extend(batch.sessions);
    }
    sessions
}

/// Answers until nothing more is announced.
fn grant(bed: &mut Bed, router: Peer) -> Vec<internal::Registration> {
    let mut sessions = Vec::new();
    loop {
        let some = answer(bed, router);
        if some.is_empty() {
            return sessions;
        }
        sessions.extend(some);
        bed.advance(100);
    }
}

#[test]
fn sessions_are_announced_in_batches_and_again_after_the_router_was_away() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peers: Vec<_> = (0..10)
        .map(|i| {
            let peer = bed.client(0, &format!("device-{i}"));
            for channel in 1..=2 {
                bed.open(peer, channel, &format!("account-{i}-{channel}"));
            }
            peer
        })
        .collect();
    let mut announced: Vec<_> = grant(&mut bed, router).into_iter().map(|r| (r.account, r.device)).collect();
    announced.sort();
    assert_eq!(announced.len(), 20);
    announced.dedup();
    assert_eq!(announced.len(), 20, "each once");
    // One acknowledges something, one leaves while the router is away.
    let mut out = Vec::new();
    put_sync_id(&mut out, Kind::Ack, 1, 41);
    bed.write(peers[3], &out);
    bed.hang_up(router);
    assert_eq!(bed.counter(Counter::LinkLost), 1);
    bed.hang_up(peers[9]);
    assert!(bed.is_open(peers[0]), "clients stay");
    bed.advance(300);
    let router = bed.router(0);
    let again = grant(&mut bed, router);
    assert_eq!(again.len(), 18);
    let resumed = again.iter().find(|r| r.account == "account-3-1").unwrap();
    assert_eq!(resumed.last_sync_id, Some(41), "it goes on from what the device acknowledged");
}

#[test]
fn a_session_is_new_until_a_router_has_answered() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    grant(&mut bed, router);
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    bed.advance(300);
    let told = bed.read(router);
    let register =
        told.iter().find(|frame| frame.header.kind == Verb::Register.byte()).expect("it is announced");
    assert!(decode::<Register>(register).sessions[0].is_new);
    // Nobody answered. The next one answers, and the one after that.
    for is_new in [true, false] {
        let former = bed.dialled(0).unwrap();
        bed.hang_up(former);
        bed.advance(300);
        let router = bed.router(0);
        let told = grant(&mut bed, router);
        assert_eq!(told.iter().map(|session| session.is_new).collect::<Vec<_>>(), [is_new]);
    }
}

#[test]
fn everything_is_announced_before_synced_is_said() {
    let mut bed = Bed::new();
    let peer = bed.client(0, "phone");
    bed.open(peer, 1, "alice");
    let router = bed.router(0);
    let frames = bed.read(router);
    let order: Vec<Verb> = verbs(&frames).into_iter().filter(|verb| *verb != Verb::Ping).collect();
    assert_eq!(order, [Verb::Register, Verb::Synced]);
}

#[test]
fn announcing_again_is_paced() {
    let mut bed = Bed::with(1, Settings { register_per_s: 10, ..settings() });
    for i in 0..20 {
        let peer = bed.client(0, &format!("device-{i}"));
        bed.open(peer, 1, &format!("account-{i}"));
    }
    let (router, started) = (bed.router(0), bed.now);
    let seen = grant(&mut bed, router).len();
    let took_ms = bed.now - started;
    assert_eq!(seen, 20);
    assert!((1800..=2200).contains(&took_ms), "{took_ms} ms for 20 at 10 per second");
}

#[test]
fn a_walk_past_those_who_are_announced_already_takes_so_many_a_turn() {
    let mut bed = Bed::new();
    bed.router(0);
    let phone = bed.client(0, "phone");
    let worker = &mut bed.seats[0].worker;
    for number in 0..3 * REGISTER_WALK_PER_TURN_MAX {
        let account = format!("account-{number}");
        let index = worker.channels.insert((phone.slot.0, NIL), 1, "shop", &account, None).unwrap();
        worker.channels.get_mut(index).unwrap().registered_on = worker.link.generation();
    }
    // So many came at once that all are walked past.
    (0..=REGISTER_QUEUE_MAX).for_each(|_| worker.link.arrive(ChannelIndex(0)));
    let mut left = worker.link.pending(&worker.channels);
    while left > REGISTER_WALK_PER_TURN_MAX as u64 {
        bed.turn();
        let worker = &bed.seats[0].worker;
        assert_eq!(worker.link.pending(&worker.channels), left - REGISTER_WALK_PER_TURN_MAX as u64);
        left -= REGISTER_WALK_PER_TURN_MAX as u64;
    }
    bed.turn();
    let worker = &bed.seats[0].worker;
    assert_eq!(worker.link.pending(&worker.channels), 0);
}

#[test]
fn who_logs_in_while_all_are_announced_again_is_announced_at_once() {
    let mut bed = Bed::with(1, Settings { register_per_s: 100, ..settings() });
    let peers: Vec<_> = (0..30)
        .map(|i| {
            let peer = bed.client(0, &format!("device-{i}"));
            bed.open(peer, 1, &format!("account-{i}"));
            peer
        })
        .collect();
    let router = bed.router(0);
    let mut announced = answer(&mut bed, router);
    bed.advance(100);
    announced.extend(answer(&mut bed, router));
    assert!((1..30).contains(&announced.len()), "under way");
    // Its place in the table is one that the walk has left behind.
    bed.hang_up(peers[0]);
    let late = bed.client(0, "late");
    bed.open(late, 1, "late");
    let some = answer(&mut bed, router);
    assert!(some.iter().any(|session| session.account == "late" && session.is_new), "{some:?}");
    announced.extend(some);
    bed.advance(100);
    announced.extend(grant(&mut bed, router));
    let mut accounts: Vec<_> = announced.into_iter().map(|session| session.account).collect();
    accounts.sort();
    assert_eq!(accounts.len(), 31);
    accounts.dedup();
    assert_eq!(accounts.len(), 31, "each once");
}

#[test]
fn a_link_full_of_messages_takes_what_keeps_it_alive_and_what_must_be_told() {
    let mut bed = Bed::new();
    bed.seats[0].kernel.borrow_mut().recv_bytes_max = 1 << 20;
    let router = bed.router(0);
    let peers: Vec<_> = (0..2)
        .map(|i| {
            let peer = bed.client(0, &format!("device-{i}"));
            bed.open(peer, 1, &format!("account-{i}"));
            peer
        })
        .collect();
    grant(&mut bed, router);
    bed.with_socket(router, |socket| socket.window = 0);
    let submit =
        Submit { client_id: b"id".to_vec().into(), payload: vec![7; 60_000].into(), ..Submit::default() };
    let mut out = Vec::new();
    put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), 1, &submit);
    let mut taken = 0;
    while bed.counter(Counter::UpstreamRefused) == 0 {
        bed.write(peers[0], &out);
        taken += 1;
    }
    taken -= 1;
    let results = bed.read(peers[0]);
    assert_eq!(decode::<SubmitResult>(&results[0]).code, Code::Overloaded as i32);
    // What a client still sends that is small does not take the rest.
    let mut small = Vec::new();
    put_sync_id(&mut small, Kind::Ack, 1, 5);
    for _ in 0..20 {
        bed.write(peers[0], &small.repeat(2000));
    }
    // The router reads nothing and is alive.
    bed.advance(1000);
    bed.hang_up(peers[1]);
    for number in 0..10 {
        let late = bed.client(0, "late");
        bed.open(late, 1, &format!("late-{number}"));
    }
    bed.advance(20_000);
    assert_eq!(bed.counter(Counter::LinkLost), 0);
    bed.with_socket(router, |socket| socket.window = usize::MAX);
    bed.settle();
    let seen = verbs(&bed.read(router));
    let count = |verb| seen.iter().filter(|seen| **seen == verb).count();
    assert!(count(Verb::Up) >= taken, "nothing that was taken is lost");
    assert_eq!((count(Verb::Unregister), count(Verb::Register)), (1, 4), "and what has no credit yet waits");
}

#[test]
fn many_that_end_at_once_are_taken_back_as_fast_as_the_router_reads() {
    let mut bed = Bed::with(
        1,
        Settings {
            connections_max: 4000,
            channels_per_connection_max: 64,
            register_batch: 512,
            register_per_s: 10_000_000,
            ..settings()
        },
    );
    {
        let mut kernel = bed.seats[0].kernel.borrow_mut();
        (kernel.slots_max, kernel.recv_bytes_max) = (2000, 1 << 20);
    }
    let router = bed.router(0);
    // As many as would fill more than the link's queue by themselves.
    let long = "x".repeat(110);
    let peers: Vec<_> = (0..1000)
        .map(|i| {
            let peer = bed.client(0, "phone");
            let mut out = Vec::new();
            for channel in 1..=64 {
                put_open(&mut out, channel, &format!("{long}-{i}-{channel}"), None);
            }
            bed.write(peer, &out);
            peer
        })
        .collect();
    grant(&mut bed, router);
    assert_eq!(bed.counter(Counter::Registered), 64_000);
    bed.with_socket(router, |socket| socket.window = 0);
    for peer in &peers {
        bed.with_socket(*peer, |socket| socket.eof = true);
    }
    bed.settle();
    bed.advance(1000);
    assert_eq!(bed.counter(Counter::LinkLost), 0);
    bed.with_socket(router, |socket| socket.window = usize::MAX);
    bed.settle();
    let gone: usize = bed
        .read(router)
        .iter()
        .filter(|frame| frame.header.kind == Verb::Unregister.byte())
        .map(|frame| decode::<Unregister>(frame).sessions.len())
        .sum();
    assert_eq!(gone, 64_000);
    bed.assert_clean();
}

#[test]
fn a_session_that_ends_is_taken_back() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peer = bed.client(0, "phone");
    let session = bed.open(peer, 1, "alice");
    grant(&mut bed, router);
    bed.hang_up(peer);
    let frames = bed.read(router);
    let gone: Unregister = decode(frames.iter().find(|f| f.header.kind == Verb::Unregister.byte()).unwrap());
    assert_eq!((gone.sessions.len(), gone.sessions[0].session), (1, session));
    assert_eq!(gone.sessions[0].account, "alice");
}

#[test]
fn what_a_client_sends_reaches_the_router_with_who_sent_it() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peer = bed.client(0, "phone");
    let session = bed.open(peer, 3, "alice");
    bed.read(router);
    let mut out = Vec::new();
    put(&mut out, Kind::Data, Class::Reliable, 3, b"opaque to the gateway");
    bed.write(peer, &out);
    let frames = bed.read(router);
    let up = Up::parse(&frames[0].body).unwrap();
    assert_eq!((up.session.0, up.app, up.account, up.device), (session, "shop", "alice", "phone"));
    assert_eq!((up.kind, up.body), (Kind::Data.byte(), &b"opaque to the gateway"[..]));
}

#[test]
fn the_router_pushes_and_kicks_and_hears_what_is_not_here() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let peer = bed.client(0, "phone");
    let session = SessionHandle(bed.open(peer, 3, "alice"));
    let other = bed.open(peer, 4, "bob");
    bed.read(router);
    let mut out = Vec::new();
    Push::data(77, session, Class::Reliable, b"hi").put(&mut out, false);
    let gone = SessionHandle::new(0, 900, 1);
    Push::data(78, gone, Class::Reliable, b"hi").put(&mut out, false);
    internal::put_control(&mut out, Verb::Kick, &Kick { session: session.0, ..Kick::default() });
    bed.write(router, &out);
    let frames = bed.read(peer);
    assert_eq!(kinds(&frames), [Kind::Data, Kind::Close]);
    assert!(frames.iter().all(|frame| frame.header.channel == 3));
    assert_eq!(decode::<Close>(&frames[1]).code, Code::Kicked as i32, "without a code of its own");
    assert_eq!(misses(&bed.read(router)), [NotHere { cookie: 78, session: gone }]);
    assert!(bed.seats[0].worker.channels.resolve(SessionHandle(other)).is_some());
}

fn misses(frames: &[Frame]) -> Vec<NotHere> {
    let misses = frames.iter().filter(|frame| frame.header.kind == Verb::NotHere.byte());
    misses.flat_map(|frame| NotHere::parse(&frame.body).unwrap().collect::<Vec<_>>()).collect()
}

#[test]
fn one_push_for_many_sessions_reaches_each_that_is_here() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let (phone, tablet) = (bed.client(0, "phone"), bed.client(0, "tablet"));
    let here = [bed.open(phone, 3, "alice"), bed.open(tablet, 1, "bob"), bed.open(phone, 4, "carol")];
    let gone = SessionHandle::new(0, 900, 1);
    bed.read(router);
    let [alice, bob, carol] = here.map(SessionHandle);
    let mut out = Vec::new();
    let (kind, flags) = (Kind::GroupDelivery.byte(), Class::Reliable.flags());
    for body in [&b"first"[..], b"second"] {
        let sessions = [(1, alice), (2, bob), (3, gone), (4, carol)].into_iter();
        PushMany::put(&mut out, kind, flags, sessions, body);
    }
    bed.write(router, &out);
    let got = |frames: &[Frame]| -> Vec<(u16, u8, u8, Vec<u8>)> {
        let parts = |f: &Frame| (f.header.channel, f.header.kind, f.header.flags, f.body.to_vec());
        frames.iter().map(parts).collect()
    };
    let on = |channel, body: &[u8]| (channel, kind, flags, body.to_vec());
    let wanted = [on(3, b"first"), on(4, b"first"), on(3, b"second"), on(4, b"second")];
    assert_eq!(got(&bed.read(phone)), wanted);
    assert_eq!(got(&bed.read(tablet)), [on(1, b"first"), on(1, b"second")]);
    let gone = NotHere { cookie: 3, session: gone };
    assert_eq!(misses(&bed.read(router)), [gone, gone]);
    // What is cut is no frame of a router's.
    bed.write(router, &[Verb::PushMany.byte(), 0, 0, 0, 0, 0, 0, 4, kind, flags, 0, 1]);
    assert!(!bed.is_open(router));
}

#[test]
fn a_silent_router_is_left_and_a_lease_is_kept_alive() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    bed.read(router);
    bed.advance(1500);
    let pings = verbs(&bed.read(router)).into_iter().filter(|verb| *verb == Verb::Ping).count();
    assert!((2..=4).contains(&pings), "{pings} pings in a lease of 1500 ms");
    assert_eq!(bed.counter(Counter::LinkLost), 0);
    bed.routers.clear();
    bed.advance(3500);
    assert_eq!(bed.counter(Counter::LinkLost), 1, "no frame for three seconds");
    assert_eq!(bed.seats[0].kernel.borrow().dialled.len(), 2, "and another try was made");
}

#[test]
fn a_router_that_cannot_be_reached_is_tried_again_with_growing_pauses() {
    let mut bed = Bed::new();
    let router = bed.dialled(0).unwrap();
    bed.seats[0].kernel.borrow_mut().router_listens = false;
    bed.hang_up(router);
    bed.advance(30_000);
    bed.seats[0].kernel.borrow_mut().router_listens = true;
    bed.advance(2100);
    assert_eq!(bed.seats[0].kernel.borrow().dialled.len(), 2);
}

pub fn outcomes(frames: &[Frame]) -> Vec<Outcome> {
    frames
        .iter()
        .filter(|frame| frame.header.kind == Verb::Outcome.byte())
        .map(|frame| Outcome::parse(&frame.body).unwrap())
        .collect()
}

#[test]
fn a_service_is_served_by_the_worker_it_names() {
    let mut bed = Bed::with(3, settings());
    // It arrives at worker 0 and asks for worker 2; its HELLO travels with it.
    let peer = bed.arrive(0, Listener::Internal).unwrap();
    let mut out = Vec::new();
    let hello = internal::Hello {
        version: 1,
        role: internal::Role::Service as i32,
        worker: Some(2),
        ..Default::default()
    };
    internal::put_control(&mut out, Verb::Hello, &hello);
    internal::put_empty(&mut out, Verb::Ping);
    bed.write(peer, &out);
    assert!(!bed.is_open(peer), "worker 0 gave its descriptor up");
    let slot = *bed.seats[2].worker.services.keys().next().expect("worker 2 has it");
    let moved = Peer { seat: 2, slot };
    let frames = bed.read(moved);
    assert_eq!(verbs(&frames), [Verb::Welcome, Verb::Pong]);
    assert_eq!(decode::<Welcome>(&frames[0]).worker, 2);
    bed.hang_up(moved);
    bed.assert_clean();
}

/// Why a worker has shown a service out, the last of all.
fn shown_out(bed: &Bed, seat: usize) -> Code {
    let mut reader = internal::frame_reader();
    reader.push(bed.seats[seat].kernel.borrow_mut().farewells.pop().as_deref().expect("one is out"));
    decode::<Failure>(&reader.try_next().unwrap().expect("it was told why")).code()
}

#[test]
fn a_worker_has_so_many_services_however_they_come() {
    let mut bed = Bed::with(2, settings());
    for _ in 0..SERVICES_MAX {
        let service = bed.service(1, None);
        assert_eq!(verbs(&bed.read(service)), [Verb::Welcome]);
    }
    for arrives_at in [1, 0] {
        bed.service(arrives_at, Some(1));
        assert_eq!(shown_out(&bed, 1), Code::Overloaded);
    }
    assert_eq!(bed.seats[1].worker.services.len(), SERVICES_MAX as usize);
    assert_eq!(bed.counter(Counter::ServicesRefused), 2);
}

#[test]
fn who_does_not_say_who_it_is_keeps_no_service_out() {
    let mut bed = Bed::with(1, settings());
    let known = bed.service(0, None);
    bed.read(known);
    let strangers: Vec<Peer> = (1..SERVICES_MAX)
        .map(|_| {
            bed.advance(1);
            bed.arrive(0, Listener::Internal).unwrap()
        })
        .collect();
    for stranger in strangers {
        assert!(bed.is_open(stranger));
        let service = bed.service(0, None);
        assert_eq!(verbs(&bed.read(service)), [Verb::Welcome]);
        assert!(!bed.is_open(stranger), "the one that came first");
    }
    // All places are of those who have said it, the first among them.
    bed.service(0, None);
    assert_eq!(shown_out(&bed, 0), Code::Overloaded);
    let mut ping = Vec::new();
    internal::put_empty(&mut ping, Verb::Ping);
    bed.write(known, &ping);
    assert_eq!(verbs(&bed.read(known)), [Verb::Pong]);
}

#[test]
fn a_service_that_moves_to_a_worker_that_drains_does_not_keep_it() {
    let mut bed = Bed::with(2, settings());
    bed.router(1);
    let client = bed.client(1, "deaf");
    bed.mailboxes.of(WorkerId(1)).unwrap().try_put(Mail::Drain(DrainPlan { deadline_ms: 2000 })).unwrap();
    bed.advance(1500);
    bed.service(0, Some(1));
    assert_eq!(shown_out(&bed, 1), Code::Draining);
    assert!(bed.is_open(client));
    bed.advance(1000);
    assert!(bed.seats[1].ended);
}

#[test]
fn a_service_that_cannot_be_handed_over_is_told_so_and_leaves_nothing() {
    let mut bed = Bed::with(2, settings());
    bed.seats[0].kernel.borrow_mut().passes = false;
    for _ in 0..3 {
        bed.service(0, Some(1));
        assert_eq!(shown_out(&bed, 0), Code::Overloaded);
        bed.advance(3000);
        assert!(bed.seats[1].worker.arriving.len() <= 1, "what came without a descriptor stays");
    }
    bed.seats[0].kernel.borrow_mut().passes = true;
    bed.service(0, Some(1));
    assert!(bed.seats[1].worker.arriving.is_empty());
    assert_eq!(bed.seats[1].worker.services.len(), 1);
}

#[test]
fn a_service_reaches_every_worker() {
    let mut bed = Bed::with(3, settings());
    let phone = bed.client(1, "phone");
    let phone_session = SessionHandle(bed.open(phone, 1, "alice"));
    let laptop = bed.client(2, "laptop");
    bed.open(laptop, 5, "alice");
    let service = bed.service(0, None);
    bed.read(service);
    let mut out = Vec::new();
    Push::data(1, phone_session, Class::Normal, b"one").put(&mut out, true);
    PushAccount { cookie: 2, kind: Kind::Data.byte(), flags: 1, app: "shop", account: "alice", body: b"all" }
        .put(&mut out);
    PushAccount {
        cookie: 3,
        kind: Kind::Data.byte(),
        flags: 1,
        app: "shop",
        account: "nobody",
        body: b"all",
    }
    .put(&mut out);
    Push::data(4, SessionHandle::new(900, 1, 1), Class::Normal, b"no such worker").put(&mut out, true);
    bed.write(service, &out);
    let mut seen = outcomes(&bed.read(service));
    seen.sort_by_key(|outcome| outcome.cookie);
    let brief: Vec<_> = seen.iter().map(|o| (o.cookie, o.code, o.reached)).collect();
    assert_eq!(brief, [(1, Code::Ok, 1), (2, Code::Ok, 2), (3, Code::NotHere, 0), (4, Code::NotHere, 0)]);
    assert_eq!((bed.read(phone).len(), bed.read(laptop).len()), (2, 1));

    let mut out = Vec::new();
    internal::put_control(
        &mut out,
        Verb::Lookup,
        &Lookup { cookie: 5, app: "shop".into(), account: "alice".into() },
    );
    internal::put_control(&mut out, Verb::Stats, &internal::Stats { cookie: 6 });
    bed.write(service, &out);
    let frames = bed.read(service);
    let stats: StatsResult =
        decode(frames.iter().find(|f| f.header.kind == Verb::StatsResult.byte()).unwrap());
    assert!(stats.stats.iter().any(|stat| stat.name == "gateway_channels_open"));
    let found: LookupResult =
        decode(frames.iter().find(|f| f.header.kind == Verb::LookupResult.byte()).unwrap());
    let mut devices: Vec<_> = found.sessions.iter().map(|s| (s.device.as_str(), s.worker)).collect();
    devices.sort_unstable();
    assert_eq!(devices, [("laptop", 2), ("phone", 1)]);

    let kick = Kick {
        cookie: 7,
        app: "shop".into(),
        account: "alice".into(),
        device: "phone".into(),
        ..Kick::default()
    };
    let mut out = Vec::new();
    internal::put_control(&mut out, Verb::Kick, &kick);
    bed.write(service, &out);
    assert_eq!(outcomes(&bed.read(service)), [Outcome { cookie: 7, code: Code::Ok, reached: 1 }]);
    let frames = bed.read(phone);
    assert_eq!(decode::<Close>(&frames[0]).code, Code::Kicked as i32);
    assert!(bed.read(laptop).is_empty());
}

#[test]
fn a_look_up_that_finds_more_than_a_frame_holds_says_so() {
    let mut bed =
        Bed::with(2, Settings { connections_max: 600, channels_per_connection_max: 64, ..settings() });
    for seat in 0..2 {
        bed.seats[seat].kernel.borrow_mut().recv_bytes_max = 1 << 20;
        let peers: Vec<_> = (0..9).map(|_| bed.client(seat, &"d".repeat(128))).collect();
        for peer in peers {
            let mut out = Vec::new();
            for channel in 1..=64 {
                put_open(&mut out, channel, "everybody", None);
            }
            bed.write(peer, &out);
        }
    }
    let service = bed.service(0, None);
    bed.read(service);
    let mut out = Vec::new();
    let lookup = Lookup { cookie: 5, app: "shop".into(), account: "everybody".into() };
    internal::put_control(&mut out, Verb::Lookup, &lookup);
    bed.write(service, &out);
    let found: LookupResult = decode(&bed.read(service)[0]);
    assert_eq!((found.code(), found.sessions.len()), (Code::Limit, LOOKUP_SESSIONS_MAX));
}

#[test]
fn what_no_client_would_take_is_refused_and_harms_nobody() {
    let mut bed = Bed::with(2, Settings { send_queue_bytes_max: 1 << 20, ..settings() });
    bed.seats[0].kernel.borrow_mut().recv_bytes_max = 1 << 20;
    let peers = [bed.client(0, "here"), bed.client(1, "there")];
    let sessions = [bed.open(peers[0], 1, "alice"), bed.open(peers[1], 1, "alice")];
    let service = bed.service(0, None);
    bed.read(service);
    let (kind, flags) = (Kind::Data.byte(), Class::Normal.flags());
    let body = &vec![0; moor_wire::limits::SERVER_BODY_BYTES_MAX as usize + 1];
    let mut out = Vec::new();
    for session in sessions {
        Push::data(1, SessionHandle(session), Class::Normal, body).put(&mut out, true);
    }
    PushAccount { cookie: 2, kind, flags, app: "shop", account: "alice", body }.put(&mut out);
    internal::Broadcast { cookie: 3, kind, flags, app: "shop", body }.put(&mut out, true);
    internal::Broadcast { cookie: 4, kind, flags, app: "shop", body }.put(&mut out, false);
    bed.write(service, &out);
    let seen: Vec<_> = outcomes(&bed.read(service)).iter().map(|o| (o.cookie, o.code, o.reached)).collect();
    assert_eq!(seen, [1, 1, 2, 3].map(|cookie| (cookie, Code::TooLarge, 0)));
    for peer in peers {
        assert_eq!(bed.read(peer).len(), 0);
    }
}

#[test]
fn a_service_does_not_speak_for_the_gateway() {
    let mut bed = Bed::with(1, settings());
    let peer = bed.client(0, "here");
    let session = SessionHandle(bed.open(peer, 1, "alice"));
    let service = bed.service(0, None);
    bed.read(service);
    let (flags, body) = (Class::Normal.flags(), &b""[..]);
    for kind in
        [Kind::GoAway, Kind::Error, Kind::Close, Kind::Ack, Kind::Opened, Kind::ReadMarks].map(Kind::byte)
    {
        let mut out = Vec::new();
        Push { cookie: 1, session, kind, flags, body }.put(&mut out, true);
        PushAccount { cookie: 2, kind, flags, app: "shop", account: "alice", body }.put(&mut out);
        internal::Broadcast { cookie: 3, kind, flags, app: "shop", body }.put(&mut out, true);
        bed.write(service, &out);
        let seen: Vec<_> =
            outcomes(&bed.read(service)).iter().map(|o| (o.cookie, o.code, o.reached)).collect();
        assert_eq!(seen, [1, 2, 3].map(|cookie| (cookie, Code::Invalid, 0)), "kind {kind:#04x}");
    }
    assert_eq!(bed.read(peer).len(), 0);
}

#[test]
fn a_worker_that_does_not_answer_is_said_to_be_unavailable() {
    let mut bed = Bed::with(2, settings());
    let service = bed.service(0, None);
    bed.read(service);
    bed.seats[1].ended = true;
    let mut out = Vec::new();
    Push::data(9, SessionHandle::new(1, 0, 1), Class::Normal, b"x").put(&mut out, true);
    bed.write(service, &out);
    bed.advance(2200);
    assert_eq!(outcomes(&bed.read(service)), [Outcome { cookie: 9, code: Code::Unavailable, reached: 0 }]);
    for _ in 0..crate::limits::MAILBOX_ENTRIES {
        if bed.mailboxes.of(WorkerId(1)).unwrap().try_put(Mail::Stop).is_err() {
            break;
        }
    }
    bed.write(service, &out);
    assert_eq!(outcomes(&bed.read(service)), [Outcome { cookie: 9, code: Code::Overloaded, reached: 0 }]);
}

#[test]
fn a_worker_that_has_ended_has_no_sessions_and_nobody_waits_for_it() {
    let mut bed = Bed::with(2, settings());
    let (phone, pad) = (bed.client(0, "phone"), bed.client(1, "pad"));
    bed.open(phone, 1, "alice");
    let gone = SessionHandle(bed.open(pad, 1, "alice"));
    let service = bed.service(0, None);
    bed.read(service);
    bed.mailboxes.of(WorkerId(1)).unwrap().try_put(Mail::Drain(DrainPlan { deadline_ms: 200 })).unwrap();
    bed.advance(300);
    assert!(bed.seats[1].ended);
    let (kind, flags) = (Kind::Data.byte(), Class::Normal.flags());
    let mut out = Vec::new();
    Push::data(1, gone, Class::Normal, b"one").put(&mut out, true);
    Push::data(2, gone, Class::Normal, b"one").put(&mut out, false);
    PushAccount { cookie: 3, kind, flags, app: "shop", account: "alice", body: b"all" }.put(&mut out);
    PushAccount { cookie: 4, kind, flags, app: "shop", account: "nobody", body: b"all" }.put(&mut out);
    internal::Broadcast { cookie: 5, kind, flags, app: "shop", body: b"sale" }.put(&mut out, true);
    let lookup = Lookup { cookie: 6, app: "shop".into(), account: "alice".into() };
    internal::put_control(&mut out, Verb::Lookup, &lookup);
    bed.write(service, &out);
    // No time has passed.
    let frames = bed.read(service);
    let seen: Vec<_> = outcomes(&frames).iter().map(|o| (o.cookie, o.code, o.reached)).collect();
    assert_eq!(seen, [(1, Code::NotHere, 0), (3, Code::Ok, 1), (4, Code::NotHere, 0), (5, Code::Ok, 1)]);
    let miss = frames.iter().find(|f| f.header.kind == Verb::NotHere.byte()).expect("of the second push");
    assert!(NotHere::parse(&miss.body).unwrap().eq([NotHere { cookie: 2, session: gone }]));
    let found: LookupResult =
        decode(frames.iter().find(|f| f.header.kind == Verb::LookupResult.byte()).expect("an answer"));
    assert_eq!((found.code(), found.sessions.len()), (Code::Ok, 1));
    let late = bed.service(0, Some(1));
    let told = decode::<Failure>(&bed.read(late)[0]);
    assert_eq!(told.code(), Code::Draining, "whom it asks for is not there any more");
}

#[test]
fn what_a_worker_is_asked_in_its_last_turn_is_answered() {
    let mut bed = Bed::with(2, settings());
    let job = Job::Lookup { app: "shop".into(), account: "alice".into() };
    let [asking, ending] = [0, 1].map(WorkerId);
    let late = Mail::Job { origin: asking, ticket: 7, job };
    bed.mailboxes.of(ending).unwrap().try_put(late).unwrap();
    bed.seats[1].worker.mail_end(Now(bed.now));
    assert!(matches!(bed.mailboxes.of(asking).unwrap().take(), Some(Mail::Done { ticket: 7, .. })));
    assert_eq!((bed.mailboxes.runs(asking), bed.mailboxes.runs(ending)), (true, false));
}

#[test]
fn requests_beyond_those_that_may_wait_are_answered_at_once_and_counted() {
    let mut bed = Bed::with(2, settings());
    let phone = bed.client(0, "phone");
    bed.open(phone, 1, "alice");
    let service = bed.service(0, None);
    bed.read(service);
    bed.seats[1].ended = true;
    let mut out = Vec::new();
    for _ in 0..crate::limits::JOBS_PENDING_MAX {
        Push::data(9, SessionHandle::new(1, 0, 1), Class::Normal, b"x").put(&mut out, true);
    }
    bed.write(service, &out);
    assert_eq!((outcomes(&bed.read(service)), bed.counter(Counter::JobsRefused)), (Vec::new(), 0));
    let mut out = Vec::new();
    let (kind, flags) = (Kind::Data.byte(), Class::Normal.flags());
    internal::Broadcast { cookie: 5, kind, flags, app: "shop", body: b"sale" }.put(&mut out, true);
    bed.write(service, &out);
    assert_eq!(outcomes(&bed.read(service)), [Outcome { cookie: 5, code: Code::Overloaded, reached: 1 }]);
    assert_eq!(bed.counter(Counter::JobsRefused), 1);
    assert_eq!(bed.read(phone).len(), 1, "who is here has it");
}

#[test]
fn a_service_without_the_token_or_with_nonsense_is_shown_out() {
    let token: std::sync::Arc<[u8]> = b"secret".to_vec().into();
    let mut bed = Bed::with(1, Settings { internal_token: Some(token), ..settings() });
    let stranger = bed.service(0, None);
    let frames = bed.read(stranger);
    assert_eq!(decode::<Failure>(&frames[0]).code, Code::Unauthorized as i32);
    bed.hang_up(stranger);
    let rude = bed.arrive(0, Listener::Internal).unwrap();
    bed.write(rude, &[0xff; 40]);
    let frames = bed.read(rude);
    assert_eq!(decode::<Failure>(&frames[0]).code, Code::TooLarge as i32);
    bed.hang_up(rude);
    bed.assert_clean();
}

#[test]
fn an_answer_to_a_service_that_has_gone_with_its_part_of_the_table_is_dropped() {
    let mut bed = Bed::with(2, settings());
    {
        // Far enough up that nobody else is in the same chunk, which is given back with the service.
        let mut kernel = bed.seats[0].kernel.borrow_mut();
        (kernel.slots_min, kernel.slots_max) = (10_000, 10_064);
    }
    let service = bed.service(0, None);
    // The other worker is busy for longer than the service waits.
    bed.seats[1].ended = true;
    let mut out = Vec::new();
    let lookup = Lookup { cookie: 5, app: "shop".into(), account: "alice".into() };
    internal::put_control(&mut out, Verb::Lookup, &lookup);
    bed.write(service, &out);
    bed.hang_up(service);
    bed.advance(3000);
    assert_eq!(bed.counter(Counter::JobsTimedOut), 1);
    bed.seats[1].ended = false;
    bed.settle();
    bed.assert_clean();
}

#[test]
fn a_drain_asks_everybody_takes_sessions_back_and_ends_in_time() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let polite = bed.client(0, "polite");
    bed.open(polite, 1, "alice");
    let deaf = bed.client(0, "deaf");
    bed.open(deaf, 1, "bob");
    grant(&mut bed, router);
    let plan = DrainPlan { deadline_ms: 2000 };
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::Drain(plan)).unwrap();
    bed.advance(1100);
    for peer in [polite, deaf] {
        let frames = bed.read(peer);
        assert_eq!(kinds(&frames), [Kind::GoAway]);
        let goaway: GoAway = decode(&frames[0]);
        assert_eq!((goaway.retry_min_ms, goaway.retry_max_ms), (500, 5000));
    }
    assert!(bed.arrive(0, Listener::Clients).is_none(), "nobody new");
    bed.hang_up(polite);
    assert!(!bed.seats[0].ended, "one is still here");
    bed.advance(1000);
    assert!(bed.seats[0].ended);
    let gone: usize = bed
        .read(router)
        .iter()
        .filter(|f| f.header.kind == Verb::Unregister.byte())
        .map(|f| decode::<Unregister>(f).sessions.len())
        .sum();
    assert_eq!(gone, 2);
    assert_eq!(bed.seats[0].kernel.borrow().sockets.keys().copied().collect::<Vec<_>>(), [router.slot.0]);
}

#[test]
fn while_draining_the_link_is_made_again_and_services_are_told() {
    let mut bed = Bed::new();
    let router = bed.router(0);
    let client = bed.client(0, "phone");
    bed.open(client, 1, "alice");
    let service = bed.service(0, None);
    bed.read(service);
    bed.mailboxes.of(WorkerId(0)).unwrap().try_put(Mail::Drain(DrainPlan { deadline_ms: 20_000 })).unwrap();
    bed.advance(10_100);
    assert_eq!(decode::<Failure>(&bed.read(service)[0]).code, Code::Draining as i32);
    bed.hang_up(service);
    bed.hang_up(router);
    bed.advance(300);
    let router = bed.router(0);
    assert_eq!(grant(&mut bed, router).len(), 1, "who is still here is served");
    bed.hang_up(client);
    assert!(bed.seats[0].ended);
}
