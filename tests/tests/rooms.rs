//! Rooms on real processes: what is said arrives on every gateway, and of what was accepted as reliable nothing is lost,
//! whoever is killed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moor_client::core::RoomMessage;
use moor_client::{Event, Options, Session};
use moor_tests::process::{Process, gateway, run, wait_for};
use serde_json::Value;

const ROOM: &str = "live";
const RELIABLE: u32 = 1;

type Order = Box<dyn FnOnce(&mut Session, u64) + Send>;
type Orders = Sender<Order>;

/// The client's own session core on a blocking socket, at the first of its addresses that listens.
struct Person {
    orders: Option<Orders>,
    events: Arc<Mutex<Vec<Event>>>,
    thread: Option<JoinHandle<()>>,
}

impl Person {
    fn start(name: &str, addresses: Vec<SocketAddr>) -> Self {
        let mut session = Session::new(Options::new(name), addresses.len() as u64 + name.len() as u64);
        session.open(1, "shop", name, Vec::new().into(), None);
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let (orders, from_test) = channel();
        let seen = Arc::clone(&events);
        let thread = std::thread::spawn(move || live(&mut session, &addresses, &from_test, &seen));
        Self { orders: Some(orders), events, thread: Some(thread) }
    }

    fn member(name: &str, addresses: Vec<SocketAddr>) -> Self {
        let person = Self::start(name, addresses);
        person.order(|session, _| session.enter(1, ROOM).expect("a good name"));
        person
    }

    fn order(&self, what: impl FnOnce(&mut Session, u64) + Send + 'static) {
        if let Some(orders) = &self.orders {
            orders.send(Box::new(what)).expect("the thread lives");
        }
    }

    fn say(&self, number: u32, text: &str) {
        let text = text.as_bytes().to_vec();
        self.order(move |session, now| {
            session
                .publish(1, text.clone().into(), (ROOM, number), text.into(), now)
                .expect("a good message");
        });
    }

    fn read<T>(&self, read: impl Fn(&Event) -> Vec<T>) -> Vec<T> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().flat_map(read).collect()
    }

    /// Ids and texts of what it heard, reliable or not.
    fn heard(&self, reliable: bool) -> Vec<(u64, String)> {
        self.read(|event| match event {
            Event::Room { messages, .. } => messages
                .iter()
                .filter(|message| (message.id > 0) == reliable)
                .map(|message| (message.id, String::from_utf8_lossy(&message.payload).into_owned()))
                .collect(),
            _ => Vec::new(),
        })
    }

    /// Texts of what it heard, and the marks that are given.
    fn marked(&self) -> Vec<(String, String)> {
        let words = |message: &RoomMessage| {
            let marks = message.marks.clone().unwrap_or_default();
            let given = marks.named().filter(|(_, value)| !value.is_empty());
            given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        self.read(|event| match event {
            Event::Room { messages, .. } => messages
                .iter()
                .map(|message| (String::from_utf8_lossy(&message.payload).into_owned(), words(message)))
                .collect(),
            _ => Vec::new(),
        })
    }

    fn accepted(&self) -> BTreeMap<u64, String> {
        let accepted = self.read(|event| match event {
            Event::Accepted { client_id, sync_id, .. } => {
                vec![(*sync_id, String::from_utf8_lossy(client_id).into_owned())]
            }
            _ => Vec::new(),
        });
        accepted.into_iter().collect()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the session's thread ends well");
        }
    }
}

fn live(
    session: &mut Session,
    addresses: &[SocketAddr],
    orders: &Receiver<Order>,
    events: &Mutex<Vec<Event>>,
) {
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut stream: Option<TcpStream> = None;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match orders.try_recv() {
            Ok(order) => order(session, now()),
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
        if stream.is_none() && session.wants_connection(now()) {
            session.handle_dialling();
            stream = addresses.iter().find_map(|address| TcpStream::connect(address).ok());
            match &stream {
                Some(stream) => {
                    stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
                    session.handle_connected(now());
                }
                None => session.handle_disconnected(now()),
            }
        }
        session.handle_timeout(now());
        let mut is_lost = session.wants_hang_up();
        if let Some(connected) = &mut stream {
            if let Some(bytes) = session.poll_transmit(now()) {
                is_lost |= connected.write_all(&bytes).is_err();
            }
            match connected.read(&mut buffer) {
                Ok(0) => is_lost = true,
                Ok(length) => session.handle_bytes(&buffer[..length], now()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => is_lost = true,
            }
        } else {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if is_lost {
            stream = None;
            session.handle_disconnected(now());
        }
        while let Some(event) = session.poll_event(now()) {
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }
}

fn start_router(data: &std::path::Path, more: &[&str]) -> Result<Process> {
    let data = data.to_string_lossy();
    let own = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", &data];
    Process::start("moor-router", &[&own, more].concat())
}

fn stats(router: &Process) -> Result<Value> {
    let address = router.address("router").to_string();
    let (code, out, err) = run("moor", &["room", "stats", ROOM, "--router", &address, "--json"])?;
    anyhow::ensure!(code == Some(0), "{err}");
    serde_json::from_str(&out).with_context(|| out.clone())
}

fn wait_online(router: &Process, wanted: u64) -> Result<Value> {
    wait_for(Duration::from_secs(10), "everybody to be in the room", || {
        let stats = stats(router)?;
        Ok((stats["online"] == wanted).then_some(stats))
    })
}

#[test]
fn what_is_said_arrives_on_every_gateway_large_room_or_small() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = start_router(data.path(), &["--room-buffer-members", "3"])?;
    let gateways = [
        gateway("gateway-a", router.address("router"), &[])?,
        gateway("gateway-b", router.address("router"), &[])?,
    ];
    let at = |index: usize| vec![gateways[index % 2].address("clients")];
    let mut members: Vec<_> = (0..2).map(|index| Person::member(&format!("m{index}"), at(index))).collect();
    assert_eq!(wait_online(&router, 2)?["buffered"], false);
    let address = router.address("router").to_string();
    let publish = |text: &str, number: &str| -> Result<()> {
        let told = ["room", "publish", ROOM, text, "--type", number, "--router", &address];
        let (code, _, err) = run("moor", &told)?;
        anyhow::ensure!(code == Some(0), "{err}");
        Ok(())
    };
    publish("one", "0")?;
    members.push(Person::member("m2", at(2)));
    assert_eq!(wait_online(&router, 3)?["buffered"], true);
    publish("two", "0")?;
    publish("card", "1")?;
    members[0].order(|session, now| session.like(1, ROOM, 5, now));
    members[1].order(|session, now| session.like(1, ROOM, 2, now));
    let wanted = [vec!["one", "two"], vec!["one", "two"], vec!["two"]];
    for (member, wanted) in members.iter().zip(wanted) {
        wait_for(Duration::from_secs(5), "what was said", || {
            let texts: Vec<_> = member.heard(false).into_iter().map(|(_, text)| text).collect();
            let cards = member.heard(true);
            Ok((texts == wanted && cards == [(1, "card".to_owned())]).then_some(()))
        })
        .with_context(|| format!("{:?} {:?}", member.heard(false), member.heard(true)))?;
    }
    wait_for(Duration::from_secs(5), "likes", || Ok((stats(&router)?["likes"] == 7).then_some(())))?;
    members.pop();
    wait_online(&router, 2)?;
    members.clear();
    wait_online(&router, 0)?;
    for gateway in &gateways {
        gateway.wait_stat("gateway.rooms_open", Duration::from_secs(5), |rooms| rooms == 0)?;
    }
    Ok(())
}

#[test]
fn what_is_said_from_the_command_line_has_its_level_and_its_marks() -> Result<()> {
    let data = tempfile::tempdir()?;
    let router = start_router(data.path(), &[])?;
    let gateway = gateway("gateway-a", router.address("router"), &[])?;
    let member = Person::member("m0", vec![gateway.address("clients")]);
    wait_online(&router, 1)?;
    let at = [
        format!("--target={}", gateway.address("clients")),
        format!("--router={}", router.address("router")),
    ];
    let moor = |told: &[&str]| run("moor", &[&at.each_ref().map(String::as_str), told].concat());
    let send = |told: &[&str]| moor(&[&["send", "--from", "bob", "--room", ROOM], told].concat());
    let (code, out, err) =
        send(&["--type", "1", "--mark", "release=canary", "--mark", "source=app", "--id", "card-1", "card"])?;
    assert_eq!((code, out.trim()), (Some(0), "stored as #1 of live"), "{err}");
    let (_, out, _) = send(&["--type", "1", "--id", "card-1", "card"])?;
    assert_eq!(out.trim(), "stored as #1 of live, as before");
    let (code, out, err) = moor(&["room", "publish", ROOM, "note", "--mark", "campaign=spring"])?;
    assert_eq!((code, out.trim()), (Some(0), "said in live"), "{err}");
    // Level 1, the app's own, and below are off: only what names level 0 is taken.
    assert_eq!(moor(&["degrade", "1"])?.0, Some(0));
    assert_eq!(send(&["--timeout", "1", "chatter"])?.0, Some(1), "the client tries until its time is up");
    let (code, out, err) = send(&["--level", "0", "alarm"])?;
    assert_eq!((code, out.trim()), (Some(0), "said in live"), "{err}");
    let (code, out, err) = moor(&["room", "publish", ROOM, "siren", "--level", "0"])?;
    assert_eq!((code, out.trim()), (Some(0), "said in live"), "{err}");
    assert_eq!(moor(&["group", "create", "team", "--owner", "m0"])?.0, Some(0));
    let (code, out, err) = moor(&["group", "send", "team", "hi", "--level", "0", "--mark", "source=app"])?;
    assert_eq!((code, out.trim()), (Some(0), "accepted as #2 of team"), "{err}");
    wait_for(Duration::from_secs(5), "what was said", || Ok((member.marked().len() == 4).then_some(())))?;
    let marked = member.marked();
    let marked: Vec<_> = marked.iter().map(|(text, marks)| (text.as_str(), marks.as_str())).collect();
    let wanted =
        [("card", "source=app release=canary"), ("note", "campaign=spring"), ("alarm", ""), ("siren", "")];
    assert_eq!(marked, wanted);
    // A room has types in place of classes, and only a room has them.
    assert_eq!(send(&["--class", "normal", "x"])?.0, Some(2));
    assert_eq!(moor(&["send", "--from", "bob", "--to", "alice", "--type", "1", "x"])?.0, Some(2));
    Ok(())
}

#[test]
fn of_what_was_accepted_everybody_hears_everything_once_and_in_order_whoever_is_killed() -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut router = start_router(data.path(), &["--room-types", "1=reliable/10000"])?;
    let mut first = gateway("gateway-a", router.address("router"), &[])?;
    let second = gateway("gateway-b", router.address("router"), &[])?;
    let (a, b) = (first.address("clients"), second.address("clients"));
    let members: Vec<_> = (0..4)
        .map(|index| {
            Person::member(&format!("m{index}"), if index % 2 == 0 { vec![a, b] } else { vec![b, a] })
        })
        .collect();
    let speaker = Person::start("speaker", vec![b]);
    wait_online(&router, 4)?;
    let mut said = 0;
    let mut say = |count: usize| {
        for _ in 0..count {
            speaker.say(RELIABLE, &format!("card {said}"));
            said += 1;
        }
        said
    };
    let accepted = |count: usize| {
        wait_for(Duration::from_secs(30), "the router's word on every message", || {
            Ok((speaker.accepted().len() == count).then_some(()))
        })
    };
    // Everybody has heard the first one, so that whoever comes back knows where it was.
    accepted(say(1))?;
    let caught_up = |limit: u64| -> Result<()> {
        let wanted: Vec<_> = speaker.accepted().into_iter().collect();
        for (index, member) in members.iter().enumerate() {
            wait_for(Duration::from_secs(limit), "everything to arrive", || {
                Ok((member.heard(true).len() >= wanted.len()).then_some(()))
            })
            .with_context(|| format!("member {index} heard {:?}", member.heard(true).len()))?;
            assert_eq!(member.heard(true), wanted, "member {index}");
        }
        Ok(())
    };
    // The promise of docs/protocol.md, with nobody killed.
    caught_up(3)?;
    say(20);
    first.kill()?;
    let count = say(20);
    accepted(count)?;
    caught_up(20)?;
    first = first.restart()?;
    say(20);
    router.kill()?;
    let count = say(20);
    router = router.restart()?;
    accepted(count)?;
    caught_up(20)?;
    wait_online(&router, 4)?;
    drop(first);
    Ok(())
}
