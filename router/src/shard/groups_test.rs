//! Groups on two shards with real files, and clients that are the client library's own core, in an order of
//! events that a seed decides: a run is repeated by its seed alone. `MOOR_SEED` runs one seed, `MOOR_SEEDS` so many.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use moor_client::core::{Event, Options, Sending, Session, Target};
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, Connected, GroupCreate, GroupEvent, GroupHead, GroupHeads, GroupMember, GroupNames,
    GroupPreference, GroupRequest, GroupRole, Kind, Open, Opened, Pull, Submit as SubmitBody, put_control,
};
use moor_wire::frame::{FrameReader, put_frame};
use moor_wire::internal::{
    Departure, NotHere, Push, PushMany, Registration, Role, SendResult, Up, Verb, frame_reader,
};
use moor_wire::session::SessionHandle;
use prost::Message as _;

use super::Shard;
use super::credit::{Answer, Credit};
use super::storage::Totals;
use super::work::{GroupAsk, PullAsk, Work};
use crate::apps::Apps;
use crate::config::{Fsync, OfflineSettings, Telling};
use crate::hook::{Cause, HookSettings, Notice, Offline};
use crate::lease::{LeaseTable, Link, Peer, ShardIndex};
use crate::metrics::Metrics;
use crate::offline::Interest;
use crate::outbox::{LinkOut, Outbox};
use crate::store::groups::{GroupWrite, PositionSave};
use crate::store::sqlite::SqliteStore;
use crate::store::{AccountKey, Entry, MessageStore, Origin, StoreEvent, Submit, Write, schema, usage};

const SHARDS: u32 = 2;
const GROUP: &str = "friends";
const ACCOUNTS: [&str; 5] = ["ann", "bob", "carol", "dave", "eve"];

/// A device with its connection to the one gateway.
struct Device {
    account: &'static str,
    name: String,
    session: Session,
    reader: FrameReader,
    /// Its session at the gateway while it is connected and logged in.
    handle: Option<u64>,
    is_connected: bool,
    /// Places in the group's timeline, as they were handed to the app.
    got: Vec<(u64, Bytes)>,
    answers: BTreeMap<u64, Code>,
}

struct Node {
    shard: Shard,
    store: Box<SqliteStore>,
    mailbox: VecDeque<Work>,
    events: VecDeque<StoreEvent>,
}

struct World {
    directory: tempfile::TempDir,
    nodes: Vec<Node>,
    leases: LeaseTable,
    link: Arc<Link>,
    out: Rc<LinkOut>,
    reader: FrameReader,
    devices: Vec<Device>,
    metrics: Arc<Metrics>,
    rng: fastrand::Rng,
    now_ms: u64,
    next_handle: u64,
    next_id: u64,
    epoch: u64,
    threshold: u32,
    /// What was accepted: place and payload.
    accepted: BTreeMap<u64, Bytes>,
    pauses: Cell<u32>,
    totals: Option<Arc<Totals>>,
    /// What services were answered that sent messages.
    results: Vec<SendResult>,
    /// Heads that sessions were told.
    heads: Vec<GroupHead>,
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.drain(..) {
            node.store.close();
        }
    }
}

impl World {
    fn new(seed: u64, accounts: &[&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Arc::<Metrics>::default();
        let leases = LeaseTable::new(1500);
        let (link, out) = admit(&leases, 1);
        let mut world = Self {
            directory,
            nodes: Vec::new(),
            leases,
            link,
            out,
            reader: frame_reader(),
            devices: Vec::new(),
            metrics,
            rng: fastrand::Rng::with_seed(seed),
            now_ms: 1_000_000,
            next_handle: 1,
            next_id: 1,
            epoch: 1,
            threshold: 3,
            accepted: BTreeMap::new(),
            pauses: Cell::new(0),
            totals: None,
            results: Vec::new(),
            heads: Vec::new(),
        };
        world.boot();
        for (number, account) in accounts.iter().enumerate() {
            world.device(account, &format!("device-{number}"));
        }
        world
    }

    fn device(&mut self, account: &'static str, name: &str) {
        let options = Options::new(name);
        let mut session = Session::new(options, self.devices.len() as u64 + 7);
        session.open(1, "shop", account, Bytes::new(), None);
        self.devices.push(Device {
            account,
            name: name.to_owned(),
            session,
            reader: moor_wire::frame::FrameReader::new(1 << 20),
            handle: None,
            is_connected: false,
            got: Vec::new(),
            answers: BTreeMap::new(),
        });
    }

    /// Starts the shards on what the files hold.
    fn boot(&mut self) {
        let totals = self.totals.insert(Arc::default()).clone();
        for index in 0..SHARDS {
            let path = self.directory.path().join(format!("messages-{index}.sqlite"));
            let mut store = SqliteStore::open(&path, "test", Fsync::Off, 10_000, &self.metrics).unwrap();
            let here = ShardIndex(u16::try_from(index).unwrap());
            let mut shard =
                Shard::new(here, Outbox::new(here, SHARDS, self.metrics.clone()), self.metrics.clone());
            shard.set_group_read_threshold(self.threshold);
            let usage = store.take_usage();
            totals.add(&usage);
            shard.set_usage(usage, totals.clone());
            shard.begin();
            if index == 0 {
                shard.outbox.add(self.link.id, self.out.clone());
            }
            let (mailbox, events) = (VecDeque::new(), VecDeque::new());
            self.nodes.push(Node { shard, store: Box::new(store), mailbox, events });
        }
    }

    /// kill -9: everything in memory is gone; what the stores were handed is on disk.
    fn crash(&mut self) {
        for node in self.nodes.drain(..) {
            node.store.close();
        }
        self.epoch += 1;
        (self.link, self.out) = admit(&self.leases, self.epoch);
        self.reader = frame_reader();
        self.boot();
        for number in 0..self.devices.len() {
            self.register(number, None);
        }
    }

    fn shard_of(&self, hash: u64) -> usize {
        usize::try_from(hash % u64::from(SHARDS)).unwrap()
    }

    fn mail(&mut self, hash: u64, work: Work) {
        let shard = self.shard_of(hash);
        self.nodes[shard].mailbox.push_back(work);
    }

    fn register(&mut self, number: usize, last_sync_id: Option<u64>) {
        let device = &self.devices[number];
        let Some(session) = device.handle else { return };
        let key = AccountKey::new("shop", device.account);
        let registration = Registration {
            session,
            app: "shop".into(),
            account: device.account.into(),
            device: device.name.clone(),
            last_sync_id,
            is_new: false,
        };
        let credit = Credit::new(self.link.clone(), Answer::Registered { batch: 1 }, 1);
        let sessions = vec![(key.hash, registration)];
        self.mail(key.hash, Work::Register { link: self.link.clone(), sessions, credit });
    }

    fn hand_writes(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let batch = node.shard.take_writes();
        if batch.is_empty() {
            return false;
        }
        let mut awaited = batch.iter().filter(|write| matches!(write, Write::Submit(_))).count();
        awaited += batch.iter().filter(|write| is_awaited(write)).count();
        node.store.try_write(batch).unwrap();
        let events = node.store.events();
        while awaited > 0 {
            let event = events.recv().unwrap();
            awaited -= match &event {
                StoreEvent::Written(written) => written.len(),
                StoreEvent::Rows(rows) => rows.len(),
                StoreEvent::Read(_) | StoreEvent::Marked(_) | StoreEvent::Freed(_) => 0,
            };
            node.events.push_back(event);
        }
        true
    }

    fn hand_reads(&mut self, at: usize) -> bool {
        let node = &mut self.nodes[at];
        let batch = node.shard.take_reads();
        if batch.is_empty() {
            return false;
        }
        let mut awaited = batch.len();
        node.store.try_read(batch).unwrap();
        let events = node.store.events();
        while awaited > 0 {
            let event = events.recv().unwrap();
            if let StoreEvent::Read(done) = &event {
                awaited -= done.len();
            }
            node.events.push_back(event);
        }
        true
    }

    fn take_event(&mut self, at: usize) -> bool {
        let Some(event) = self.nodes[at].events.pop_front() else { return false };
        self.nodes[at].shard.handle_store(event, self.now_ms);
        true
    }

    fn take_mail(&mut self, at: usize) -> bool {
        let Some(work) = self.nodes[at].mailbox.pop_front() else { return false };
        self.nodes[at].shard.apply(work, self.now_ms);
        true
    }

    fn dispatch(&mut self, at: usize) -> bool {
        let mut parcels = Vec::new();
        self.nodes[at].shard.outbox.dispatch(|shard, parcel| {
            parcels.push((shard, parcel));
            Ok(())
        });
        let any = !parcels.is_empty();
        for (shard, parcel) in parcels {
            for (link, weight, frames) in parcel.frames {
                let outbox = &self.nodes[shard].shard.outbox;
                outbox.put_local(link, weight, |out| out.extend_from_slice(&frames));
            }
            self.nodes[shard].mailbox.extend(parcel.work);
        }
        any
    }

    /// What the router sent to the gateway goes to the devices.
    fn deliver(&mut self) -> bool {
        let context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(bytes)) = self.out.poll_take(&context) {
            self.reader.push(&bytes);
        }
        let mut any = false;
        while let Some(frame) = self.reader.try_next().unwrap() {
            any = true;
            if frame.header.kind == Verb::SendResult.byte() {
                self.results.push(SendResult::decode(frame.body.clone()).unwrap());
            }
            match Verb::from_byte(frame.header.kind) {
                Some(Verb::Push) => self.carry(&Push::parse(&frame.body).unwrap()),
                Some(Verb::PushMany) => {
                    for push in PushMany::parse(&frame.body).unwrap().pushes() {
                        self.carry(&push);
                    }
                }
                _ => {}
            }
        }
        any
    }

    /// What the gateway does with a push.
    fn carry(&mut self, push: &Push<'_>) {
        if push.kind == Kind::GroupHeads.byte() {
            self.heads.extend(GroupHeads::decode(push.body).unwrap().heads);
        }
        let device = self.devices.iter_mut().find(|device| device.handle == Some(push.session.0));
        let Some(device) = device else {
            let entries = vec![NotHere { cookie: push.cookie, session: push.session }];
            self.mail(push.cookie, Work::NotHere { link: self.link.clone(), entries });
            return;
        };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, push.kind, push.flags, 1, push.body);
        device.session.handle_bytes(&bytes, self.now_ms);
    }

    /// One device's connection: dials, speaks, takes its events.
    fn speak(&mut self, number: usize) -> bool {
        let now = self.now_ms;
        let device = &mut self.devices[number];
        device.session.handle_timeout(now);
        if device.session.wants_hang_up() {
            self.hang_up(number);
            return true;
        }
        let device = &mut self.devices[number];
        if !device.is_connected && device.session.wants_connection(now) {
            device.session.handle_dialling();
            device.session.handle_connected(now);
            device.is_connected = true;
        }
        let out = device.session.poll_transmit(now);
        let any = out.is_some();
        device.reader.push(&out.unwrap_or_default());
        while let Some(frame) = self.devices[number].reader.try_next().unwrap() {
            self.handle_client_frame(number, frame.header.kind, frame.body);
        }
        self.take_app_events(number);
        any
    }

    fn take_app_events(&mut self, number: usize) {
        let now = self.now_ms;
        let device = &mut self.devices[number];
        while let Some(event) = device.session.poll_event(now) {
            match event {
                Event::GroupMessage { sync_id, payload, .. } => device.got.push((sync_id, payload)),
                Event::GroupAnswer { answer, .. } => {
                    device.answers.insert(answer.id, answer.code());
                }
                Event::Accepted { client_id, sync_id, .. } => {
                    let place = self.accepted.insert(sync_id, client_id.clone());
                    assert!(place.is_none_or(|known| known == client_id), "two messages in one place");
                }
                Event::Refused { code, .. } => assert_eq!(code, Code::NotFound, "only strangers are refused"),
                _ => {}
            }
        }
    }

    /// The gateway, in small.
    fn handle_client_frame(&mut self, number: usize, kind: u8, body: Bytes) {
        let link = self.link.clone();
        let device = &mut self.devices[number];
        let key = AccountKey::new("shop", device.account);
        let mut answer = Vec::new();
        match Kind::from_byte(kind).unwrap() {
            Kind::Connect => {
                let connected = Connected { version: 1, heartbeat_ms: 270_000, ..Connected::default() };
                put_control(&mut answer, Kind::Connected, 0, &connected);
                device.session.handle_bytes(&answer, self.now_ms);
            }
            Kind::Open => {
                let open = Open::decode(body).unwrap();
                device.handle = Some(self.next_handle);
                put_control(&mut answer, Kind::Opened, 1, &Opened { session: self.next_handle });
                self.next_handle += 1;
                device.session.handle_bytes(&answer, self.now_ms);
                self.register(number, open.last_sync_id);
            }
            Kind::Ping => {
                put_frame(&mut answer, Kind::Pong.byte(), Class::Command.flags(), 0, &body);
                device.session.handle_bytes(&answer, self.now_ms);
            }
            kind => {
                let Some(session) = device.handle.map(SessionHandle) else { return };
                let (account, name) = (device.account, device.name.clone());
                let origin = Origin::Session { link: link.clone(), session, hash: key.hash };
                let up = {
                    let mut frame = Vec::new();
                    let (app, device) = ("shop", name.as_str());
                    Up { session, kind: kind.byte(), flags: 0, app, account, device, body: &body }
                        .put(&mut frame);
                    Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..])
                };
                match kind {
                    Kind::Data => {
                        let submit = SubmitBody::decode(body).unwrap();
                        let to = AccountKey::of_group("shop", &submit.group);
                        let submit = Submit {
                            to: to.clone(),
                            from: account.into(),
                            client_id: submit.client_id,
                            payload: submit.payload,
                            sent_at_ms: self.now_ms,
                            origin,
                            entry: Entry::Personal,
                            marks: None,
                            copies_bytes: 0,
                        };
                        self.mail(to.hash, Work::Submit(Box::new(submit)));
                    }
                    Kind::Ack | Kind::Sync => self.mail(key.hash, Work::Cursor { link, hash: key.hash, up }),
                    Kind::GroupAck => self.mail(key.hash, Work::GroupAck { link, hash: key.hash, up }),
                    Kind::Group => {
                        let request = GroupRequest::decode(body).unwrap();
                        let group = match request.act {
                            Some(Act::Prefer(_)) => key,
                            _ => AccountKey::of_group("shop", &request.group),
                        };
                        let ask =
                            GroupAsk { origin, actor: Some(account.into()), request, at_ms: self.now_ms };
                        self.mail(group.hash, Work::Group { key: group, ask: Box::new(ask) });
                    }
                    Kind::Pull => {
                        let pull = Pull::decode(body).unwrap();
                        let group = AccountKey::of_group("shop", &pull.group);
                        let (actor, device) = (Some(account.into()), name.into());
                        let ask = Box::new(PullAsk { origin, actor, device, pull });
                        self.mail(group.hash, Work::Pull { key: group, ask });
                    }
                    other => panic!("{other:?} from a client"),
                }
            }
        }
    }

    fn hang_up(&mut self, number: usize) {
        let device = &mut self.devices[number];
        if !device.is_connected {
            return;
        }
        (device.is_connected, device.handle) = (false, None);
        device.reader = FrameReader::new(1 << 20);
        device.session.handle_disconnected(self.now_ms);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.pauses.set(self.pauses.get() + 1);
        for node in &mut self.nodes {
            node.shard.handle_tick(self.now_ms);
        }
    }

    /// Everything that can happen without time passing.
    fn settle(&mut self) {
        loop {
            let mut any = false;
            for at in 0..self.nodes.len() {
                any |= self.hand_writes(at) | self.hand_reads(at) | self.dispatch(at);
                while self.take_event(at) || self.take_mail(at) {
                    any = true;
                }
            }
            any |= self.deliver();
            for number in 0..self.devices.len() {
                any |= self.speak(number);
            }
            if !any {
                return;
            }
        }
    }

    /// A turn in which one device speaks, and what the router sends to the gateway is lost.
    fn turn_without_frames(&mut self, number: usize) {
        for at in 0..self.nodes.len() {
            self.hand_writes(at);
            self.hand_reads(at);
            while self.take_event(at) || self.take_mail(at) {}
            self.dispatch(at);
        }
        let context = Context::from_waker(Waker::noop());
        while self.out.poll_take(&context).is_ready() {}
        self.speak(number);
    }

    /// A while of peace: long enough for every retry.
    fn calm(&mut self) {
        for _ in 0..400 {
            self.settle();
            self.pass(200);
        }
        self.settle();
    }

    fn ask(&mut self, number: usize, act: Act) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let request = GroupRequest { id, group: GROUP.into(), act: Some(act) };
        let now = self.now_ms;
        // A full queue is an ordinary day while nobody is connected.
        self.devices[number].session.ask_group(1, request, now).ok();
        id
    }

    fn send(&mut self, number: usize) {
        let id = self.next_id;
        self.next_id += 1;
        let client_id = Bytes::copy_from_slice(&id.to_be_bytes());
        let to = Target::Group(GROUP.into());
        let now = self.now_ms;
        self.devices[number]
            .session
            .submit_to(Sending::default(), 1, client_id.clone(), to, client_id, now)
            .ok();
    }

    fn step(&mut self) {
        let at = self.rng.usize(..self.nodes.len());
        let number = self.rng.usize(..self.devices.len());
        match self.rng.u32(..100) {
            0..15 => drop(self.hand_writes(at)),
            15..30 => drop(self.hand_reads(at)),
            30..45 => drop(self.take_event(at)),
            45..60 => drop(self.take_mail(at)),
            60..70 => drop(self.dispatch(at)),
            70..78 => drop(self.deliver()),
            78..90 => drop(self.speak(number)),
            90..95 => self.send(number),
            95..97 => self.pass(50),
            97 => self.pass(6_000),
            98 => self.hang_up(number),
            _ => match self.rng.u32(..6) {
                0 => self.crash(),
                1..4 => {
                    self.threshold = [0, 3, 5, 100][self.rng.usize(..4)];
                    for node in &mut self.nodes {
                        node.shard.set_group_read_threshold(self.threshold);
                    }
                }
                // The last account comes and goes; the others stay.
                _ => {
                    let accounts = vec![ACCOUNTS[4].to_owned()];
                    let act = if self.rng.bool() {
                        Act::Add(GroupNames { accounts })
                    } else {
                        Act::Remove(GroupNames { accounts })
                    };
                    self.ask(0, act);
                }
            },
        }
    }

    fn check(&self) {
        for device in &self.devices {
            let places: Vec<u64> = device.got.iter().map(|(place, _)| *place).collect();
            if device.account == ACCOUNTS[4] {
                let distinct: BTreeSet<u64> = places.iter().copied().collect();
                assert_eq!(distinct.len(), places.len(), "{}: a repeat in {places:?}", device.name);
                assert!(places.is_sorted(), "{}: out of order: {places:?}", device.name);
                continue;
            }
            let last = places.last().copied().unwrap_or(0);
            assert_eq!(places, (1..=last).collect::<Vec<_>>(), "{} of {}", device.name, device.account);
            for (place, payload) in &self.accepted {
                let got = device.got.iter().find(|(got, _)| got == place).map(|(_, payload)| payload);
                assert_eq!(got, Some(payload), "{} of {} lacks {place}", device.name, device.account);
            }
        }
    }

    /// The router has a hook, and the groups' threshold is that of this world.
    fn tell_vendors(&mut self) {
        for node in &mut self.nodes {
            node.shard.set_group_read_threshold(self.threshold);
            let hook = HookSettings { payload_bytes_max: 64, ..HookSettings::default() };
            let telling = Telling { hook: vec![hook], ..Telling::default() };
            let settings = OfflineSettings { interval_ms: 1000, departure_ms: 10, settle_ms: 0 };
            node.shard.tell_offline(settings, Interest::new(&telling), self.now_ms);
        }
    }

    /// What vendors were told since the last call, by account.
    fn told(&mut self) -> Vec<Offline> {
        let notices = self.nodes.iter_mut().flat_map(|node| node.shard.take_notices());
        let offline = |notice| match notice {
            Notice::Offline(offline) => offline,
            Notice::Alarm(alarm) => panic!("{alarm:?}"),
        };
        let mut told: Vec<Offline> = notices.map(offline).collect();
        told.sort_by(|a, b| a.account.cmp(&b.account));
        told
    }

    fn create(&mut self, members: &[&str]) {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        let id = self.ask(0, Act::Create(GroupCreate { members, ..GroupCreate::default() }));
        self.calm();
        assert_eq!(self.devices[0].answers.get(&id), Some(&Code::Ok));
    }
}

fn is_awaited(write: &Write) -> bool {
    matches!(write, Write::Group(group) if matches!(
        **group,
        GroupWrite::Membership { .. } | GroupWrite::Preference(_) | GroupWrite::Position(_)
    ))
}

fn is_membership(write: &Write) -> bool {
    matches!(write, Write::Group(group) if matches!(**group, GroupWrite::Membership { .. }))
}

fn admit(leases: &LeaseTable, epoch: u64) -> (Arc<Link>, Rc<LinkOut>) {
    let node = "east".to_owned();
    let peer = Peer {
        role: Role::Gateway,
        node,
        epoch,
        worker: 0,
        internal_address: String::new(),
        takes_push_many: epoch % 2 == 1,
    };
    let (link, _) = leases.admit(peer, ShardIndex(0), 0).unwrap();
    (link, Rc::new(LinkOut::default()))
}

/// Whatever happens in between: every member gets every entry once, in order, and nothing accepted is missing.
#[test]
fn sync_ids_have_no_gap_and_no_repeat_in_any_order_of_events() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MOOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MOOR_SEEDS").unwrap_or(12),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed, &ACCOUNTS);
        world.device("bob", "second");
        world.create(&["bob", "carol", "dave"]);
        for _ in 0..3_000 {
            world.step();
        }
        world.calm();
        world.check();
        assert!(!world.accepted.is_empty());
    }
}

#[test]
fn below_the_threshold_members_have_copies_and_from_it_on_one_body_serves_all() {
    for (threshold, copies, pushes) in [(100, true, false), (0, false, true)] {
        let mut world = World::new(1, &ACCOUNTS);
        world.threshold = threshold;
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(threshold);
        }
        world.create(&ACCOUNTS[1..]);
        // What the creation itself gives the members is not counted.
        world.calm();
        let before = (world.metrics.group_copies.get(), world.metrics.group_pushes.get());
        for _ in 0..10 {
            world.send(1);
        }
        world.calm();
        world.check();
        assert_eq!(world.accepted.len(), 10);
        let copied = world.metrics.group_copies.get() - before.0;
        let pushed = world.metrics.group_pushes.get() - before.1;
        assert_eq!((copied == 50, pushed == 50), (copies, pushes), "{copied} copies, {pushed} pushes");
        let messages = world.devices[2].got.len();
        assert_eq!(messages, 11, "ten messages behind the creation");
    }
}

#[test]
fn a_device_that_was_away_pulls_only_what_changed() {
    let mut world = World::new(2, &ACCOUNTS);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&ACCOUNTS[1..]);
    world.hang_up(2);
    let pulls = world.metrics.pulls.get();
    // It would be back at once: nothing is settled for it before the messages are there.
    let mut away = world.devices.remove(2);
    for _ in 0..150 {
        world.send(1);
    }
    world.calm();
    assert_eq!(world.metrics.pulls.get(), pulls, "who is online pulls nothing");
    away.got.clear();
    world.devices.insert(2, away);
    world.calm();
    let got: Vec<u64> = world.devices[2].got.iter().map(|(place, _)| *place).collect();
    assert_eq!(got, (2..=151).collect::<Vec<_>>());
    assert_eq!(world.metrics.pulls.get() - pulls, 3, "150 messages in pages of 64");
    let heads = world.metrics.group_heads.get();
    world.hang_up(2);
    world.calm();
    assert_eq!(world.metrics.group_heads.get(), heads, "nothing changed, nothing is told");
}

#[test]
fn a_push_that_was_lost_is_made_up_for_by_the_head() {
    let mut world = World::new(3, &ACCOUNTS);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&ACCOUNTS[1..]);
    world.send(1);
    // The frames on their way to the gateway are lost: nobody is told.
    for _ in 0..50 {
        world.turn_without_frames(1);
    }
    assert!(world.devices.iter().all(|device| device.got.len() == 1), "lost");
    world.calm();
    assert!(world.devices.iter().all(|device| device.got.len() == 2), "and made up for");
    world.check();
}

#[test]
fn who_comes_while_its_membership_is_being_written_is_told_of_the_group() {
    let mut world = World::new(7, &ACCOUNTS[..1]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.calm();
    let bobs = world.shard_of(AccountKey::new("shop", "bob").hash);
    world.ask(0, Act::Create(GroupCreate { members: vec!["bob".into()], ..GroupCreate::default() }));
    let is_waiting = |world: &World| world.nodes[bobs].shard.writes.iter().any(is_membership);
    let turn = |world: &mut World, writes: &dyn Fn(&World, usize) -> bool| {
        for at in 0..world.nodes.len() {
            if writes(world, at) {
                world.hand_writes(at);
            }
            world.hand_reads(at);
            while world.take_event(at) || world.take_mail(at) {}
            world.dispatch(at);
        }
        world.deliver();
        for number in 0..world.devices.len() {
            world.speak(number);
        }
    };
    let mut turns = 0;
    while !is_waiting(&world) {
        turn(&mut world, &|world, _| !is_waiting(world));
        turns += 1;
        assert!(turns < 100, "bob's membership is to be written");
    }
    // Nobody of bob's was there when the entry was pushed; and where bob is a member is read before it is written.
    world.device("bob", "late");
    for _ in 0..50 {
        turn(&mut world, &|_, at| at != bobs);
    }
    assert!(is_waiting(&world) && world.devices[1].handle.is_some());
    assert_eq!(world.devices[1].got.len(), 1, "the creation");
    world.calm();
    assert_eq!(world.devices[1].got.len(), 1, "which comes once");
    assert!(world.nodes[bobs].shard.conversations.joining.is_empty(), "nothing of it is kept");
}

#[test]
fn vendors_are_told_of_what_is_said_in_groups_while_a_member_is_away() {
    for threshold in [0, 100] {
        // Eve and dave are never there.
        let mut world = World::new(8, &ACCOUNTS[..3]);
        world.threshold = threshold;
        world.tell_vendors();
        world.create(&ACCOUNTS[1..]);
        assert_eq!(world.told(), [], "that a group was made is no message");
        world.send(1);
        world.settle();
        let told = world.told();
        assert_eq!(told.iter().map(|offline| &*offline.account).collect::<Vec<_>>(), ["dave", "eve"]);
        for offline in &told {
            assert_eq!(
                (offline.group.as_deref(), offline.count, offline.cause),
                (Some(GROUP), 1, Cause::Absent)
            );
            assert_eq!(
                offline.payload.as_deref(),
                Some(&world.accepted[&2][..]),
                "what was said, not its wrapping"
            );
        }
        // Dave does not want to be woken for it, over a crash as well.
        world.device("dave", "tablet");
        world.calm();
        let wish = GroupPreference { priority: 3, is_muted: true };
        let id = world.ask(3, Act::Prefer(wish));
        world.calm();
        assert_eq!(world.devices[3].answers.get(&id), Some(&Code::Ok));
        world.crash();
        world.tell_vendors();
        world.devices.pop();
        // That its session is gone is found out by the first message for it.
        world.send(1);
        world.calm();
        world.told();
        for _ in 0..3 {
            world.send(1);
        }
        world.calm();
        let told = world.told();
        let told: Vec<_> = told.iter().map(|offline| (&*offline.account, offline.count)).collect();
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 3, "{told:?}");
        assert!(told.iter().all(|(account, _)| *account == "eve"), "{told:?}");
    }
}

#[test]
fn vendors_are_told_of_what_a_device_leaves_unacknowledged_or_behind() {
    let mut world = World::new(9, &ACCOUNTS[..3]);
    world.threshold = 0;
    world.tell_vendors();
    world.create(&ACCOUNTS[1..3]);
    let told = |world: &mut World| -> Vec<(String, Cause, u64)> {
        let told = world.told().into_iter();
        told.map(|offline| (offline.account.into(), offline.cause, offline.last_sync_id)).collect()
    };
    // Nothing that the router says arrives: three retries later it gives up on ann and carol; bob has said it.
    world.send(1);
    for _ in 0..100 {
        world.turn_without_frames(1);
        world.pass(1_000);
    }
    let given_up = |account: &str| (account.to_owned(), Cause::Unacknowledged, 2);
    assert_eq!(told(&mut world), [given_up("ann"), given_up("carol")]);
    // Carol's link is gone with what was under way.
    world.send(1);
    for _ in 0..10 {
        world.turn_without_frames(1);
    }
    let carol = world.devices[2].handle.unwrap();
    let key = AccountKey::new("shop", "carol");
    let departure = Departure { session: carol, app: "shop".into(), account: "carol".into() };
    let sessions = vec![(key.hash, departure)];
    world.mail(key.hash, Work::Unregister { link: world.link.clone(), sessions });
    world.devices.pop();
    world.settle();
    world.pass(1_000);
    world.pass(1_000);
    assert_eq!(told(&mut world), [("carol".to_owned(), Cause::Departed, 3)]);
}

#[test]
fn who_is_removed_is_told_and_gets_nothing_more() {
    let mut world = World::new(4, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    let id = world.ask(0, Act::Remove(GroupNames { accounts: vec!["eve".into()] }));
    world.calm();
    assert_eq!(world.devices[0].answers.get(&id), Some(&Code::Ok));
    let before = world.devices[4].got.len();
    world.send(1);
    world.calm();
    assert_eq!(world.devices[4].got.len(), before);
    assert_eq!(world.devices[3].got.len(), 3);
    // A stranger's message is refused, and it may not look either.
    world.send(4);
    let looked = world.ask(4, Act::Members(moor_wire::client::GroupPage::default()));
    world.calm();
    assert_eq!(world.accepted.len(), 1);
    assert_eq!(world.devices[4].answers.get(&looked), Some(&Code::NotFound));
    // Back in: from that entry on.
    world.ask(0, Act::Add(GroupNames { accounts: vec!["eve".into()] }));
    world.send(1);
    world.calm();
    let got: Vec<u64> = world.devices[4].got.iter().skip(before).map(|(place, _)| *place).collect();
    assert_eq!(got, [4, 5]);
}

#[test]
fn a_dissolved_group_is_forgotten_and_its_name_may_be_used_again() {
    let mut world = World::new(5, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    world.ask(0, Act::Dissolve(moor_wire::client::GroupNothing {}));
    world.calm();
    let listed = |world: &mut World| {
        let id = world.ask(1, Act::Members(moor_wire::client::GroupPage::default()));
        world.calm();
        world.devices[1].answers[&id]
    };
    assert_eq!(listed(&mut world), Code::NotFound);
    world.create(&["bob"]);
    assert_eq!(listed(&mut world), Code::Ok);
}

#[test]
fn an_account_in_as_many_groups_as_allowed_is_not_added_to_another() {
    let mut world = World::new(6, &ACCOUNTS);
    world.create(&["bob"]);
    let carol = AccountKey::new("shop", "carol");
    let shard = world.shard_of(carol.hash);
    let path = world.directory.path().join(format!("messages-{shard}.sqlite"));
    let file = rusqlite::Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    file.execute("INSERT INTO accounts (app, account, head, floor) VALUES ('shop', 'carol', 0, 1) ON CONFLICT DO NOTHING", [])
        .unwrap();
    for number in 1..crate::limits::GROUPS_PER_ACCOUNT_MAX {
        file.execute(
            "INSERT INTO memberships SELECT id, ?1, 1, 0, 0 FROM accounts WHERE account = 'carol'",
            [format!("group-{number}")],
        )
        .unwrap();
    }
    let add = |world: &mut World, account: &str| {
        let id = world.ask(0, Act::Add(GroupNames { accounts: vec![account.to_owned()] }));
        world.calm();
        world.devices[0].answers[&id]
    };
    assert_eq!(add(&mut world, "carol"), Code::Ok, "the last one there is room for");
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["carol".into()] }));
    world.calm();
    file.execute(
        "INSERT INTO memberships SELECT id, 'one-more', 1, 0, 0 FROM accounts WHERE account = 'carol'",
        [],
    )
    .unwrap();
    assert_eq!(add(&mut world, "carol"), Code::Limit);
    assert_eq!(add(&mut world, "dave"), Code::Ok, "the group goes on");
}

impl World {
    /// An app's messages may take so many bytes more than they do.
    fn limit(&mut self, more: u64) {
        let limit = self.totals.as_ref().unwrap().taken("shop") + more;
        let tables = toml::from_str(&format!("shop = {{ storage_bytes = {limit} }}")).unwrap();
        let apps = Arc::new(Apps::new(&tables).unwrap().per_shard(SHARDS));
        for node in &mut self.nodes {
            node.shard.set_apps(apps.clone());
        }
    }

    /// A service sends a message.
    fn serve(&mut self, to: AccountKey, payload_bytes: usize) {
        let client_id = Bytes::copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        let submit = Box::new(Submit {
            to: to.clone(),
            from: "service".into(),
            client_id,
            payload: vec![7; payload_bytes].into(),
            sent_at_ms: self.now_ms,
            origin: Origin::Service { link: self.link.clone(), cookie: 1 },
            entry: Entry::Personal,
            marks: None,
            copies_bytes: 0,
        });
        self.mail(to.hash, Work::Submit(submit));
    }

    fn results(&mut self) -> Vec<Code> {
        std::mem::take(&mut self.results).iter().map(SendResult::code).collect()
    }

    /// What is counted in all shards is what the files hold: nothing is on its way or owed.
    fn check_usage(&mut self) {
        let files = (0..self.nodes.len()).map(|at| {
            let path = self.directory.path().join(format!("messages-{at}.sqlite"));
            let counted = usage::recount(&schema::open_reader(&path).unwrap());
            counted.iter().map(|(_, bytes)| bytes).sum::<u64>()
        });
        let (counted, kept) = (files.sum::<u64>(), self.totals.as_ref().unwrap().taken("shop"));
        assert_eq!(counted, kept);
        let pending: u64 = self.nodes.iter_mut().map(|node| node.shard.taken("shop").1).sum();
        assert_eq!(pending, 0);
    }
}

#[test]
fn a_message_to_a_group_needs_room_for_its_copies_and_is_refused_before_it_is_accepted() {
    for is_crashed in [false, true] {
        let mut world = World::new(10, &ACCOUNTS);
        world.threshold = 100;
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(100);
        }
        world.create(&ACCOUNTS[1..]);
        world.check_usage();
        if is_crashed {
            world.crash();
            world.calm();
            world.check_usage();
        }
        let (group, alice) = (AccountKey::of_group("shop", GROUP), AccountKey::new("shop", "alice"));
        // So that the group is in memory.
        world.serve(group.clone(), 10);
        world.settle();
        assert_eq!(world.results(), [Code::Ok]);
        // Room for two with their five copies each: the third is refused at once, though nothing is stored yet.
        world.limit(2 * 6 * 1200);
        for _ in 0..3 {
            world.serve(group.clone(), 1000);
        }
        for at in 0..world.nodes.len() {
            while world.take_mail(at) {}
            world.dispatch(at);
        }
        world.deliver();
        assert_eq!(world.results.iter().filter(|result| result.code() == Code::Storage).count(), 1);
        assert!(world.results.iter().any(|result| result.detail.contains("storage_bytes")));
        world.calm();
        let mut results = world.results();
        results.sort();
        assert_eq!(results, [Code::Ok, Code::Ok, Code::Storage]);
        assert!(world.metrics.quota_refused.get() >= 1);
        assert_eq!(world.metrics.refused_storage.get(), 0);
        assert!(
            world.devices.iter().all(|device| device.got.len() == 4),
            "what was accepted reaches everybody"
        );
        world.check_usage();
        // A direct message still fits; the group's would not.
        world.limit(3 * 1200);
        world.serve(group.clone(), 1000);
        world.serve(alice.clone(), 1000);
        world.calm();
        let mut results = world.results();
        results.sort();
        assert_eq!(results, [Code::Ok, Code::Storage]);
        // From the threshold on there are no copies.
        for node in &mut world.nodes {
            node.shard.set_group_read_threshold(0);
        }
        world.serve(group.clone(), 1000);
        world.calm();
        assert_eq!(world.results(), [Code::Ok]);
        world.check_usage();
    }
}

#[test]
fn where_there_is_no_room_a_group_may_only_become_smaller() {
    let mut world = World::new(11, &ACCOUNTS);
    world.threshold = 100;
    world.create(&ACCOUNTS[1..4]);
    world.limit(0);
    let ask = |world: &mut World, number: usize, act: Act| {
        let id = world.ask(number, act);
        world.calm();
        world.devices[number].answers[&id]
    };
    let names = |name: &str| GroupNames { accounts: vec![name.to_owned()] };
    let nothing = moor_wire::client::GroupNothing {};
    assert_eq!(ask(&mut world, 0, Act::Add(names("eve"))), Code::Storage);
    let owner = GroupMember { account: "bob".into(), role: GroupRole::Owner.into() };
    assert_eq!(ask(&mut world, 0, Act::Role(owner)), Code::Ok);
    assert_eq!(ask(&mut world, 0, Act::Leave(nothing)), Code::Ok);
    assert_eq!(ask(&mut world, 1, Act::Remove(names("carol"))), Code::Ok);
    assert_eq!(ask(&mut world, 1, Act::Dissolve(nothing)), Code::Ok);
    assert_eq!(ask(&mut world, 0, Act::Create(GroupCreate::default())), Code::Storage);
    world.check_usage();
}

#[test]
fn a_tick_looks_at_so_many_groups_and_no_more() {
    use crate::limits::{GROUP_IDLE_MS, GROUPS_PER_TICK_MAX};
    let mut world = World::new(12, &ACCOUNTS[..1]);
    let now_ms = world.now_ms;
    let shard = &mut world.nodes[0].shard;
    let count = GROUPS_PER_TICK_MAX + 10;
    for number in 0..count {
        let key = AccountKey::of_group("shop", &format!("group-{number}"));
        shard.groups.open_empty(key, now_ms);
    }
    // Nothing is to be done about them until nobody has asked for them for a while; then a few at a time.
    let loaded = |shard: &Shard| shard.groups.loaded();
    shard.handle_tick(now_ms + GROUP_IDLE_MS - 1);
    assert_eq!(loaded(shard), count);
    shard.handle_tick(now_ms + GROUP_IDLE_MS);
    assert_eq!(loaded(shard), 10);
    shard.handle_tick(now_ms + GROUP_IDLE_MS);
    assert_eq!(shard.groups.loaded(), 0);
    assert_eq!(shard.groups.filed(), 0);
}

#[test]
fn what_other_shards_do_not_answer_is_given_up_on_in_its_time() {
    let mut world = World::new(13, &ACCOUNTS);
    world.create(&ACCOUNTS[1..]);
    let turn = |world: &mut World, is_lost: bool| {
        for at in 0..world.nodes.len() {
            world.hand_writes(at);
            world.hand_reads(at);
            while world.take_event(at) {}
            world.dispatch(at);
            if is_lost {
                world.nodes[at]
                    .mailbox
                    .retain(|work| !matches!(work, Work::SpreadDone { .. } | Work::VacancyFound { .. }));
            }
            while world.take_mail(at) {}
        }
        world.deliver();
        for number in 0..world.devices.len() {
            world.speak(number);
        }
    };
    // A round that is not confirmed: it comes again, and what it brings is known.
    let failures = world.metrics.group_round_failures.get();
    world.send(1);
    for _ in 0..50 {
        turn(&mut world, true);
    }
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    assert!(world.nodes[at].shard.groups.is_spreading(&group));
    world.pass(9_999);
    assert_eq!(world.metrics.group_round_failures.get(), failures);
    world.pass(1);
    assert_eq!(world.metrics.group_round_failures.get(), failures + 1);
    world.calm();
    assert!(!world.nodes[at].shard.groups.is_spreading(&group));
    world.check();
    // A change that waits for the answer whether there is room for who is added: it is refused.
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["eve".into()] }));
    world.calm();
    let id = world.ask(0, Act::Add(GroupNames { accounts: vec!["eve".into()] }));
    for _ in 0..50 {
        turn(&mut world, true);
    }
    assert_eq!(world.devices[0].answers.get(&id), None);
    world.pass(10_000);
    for _ in 0..10 {
        turn(&mut world, true);
    }
    assert_eq!(world.devices[0].answers.get(&id), Some(&Code::Overloaded));
}

#[test]
fn what_is_told_again_has_the_priority_that_its_account_gave_it() {
    let mut world = World::new(14, &ACCOUNTS[..2]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&["bob"]);
    world.ask(1, Act::Prefer(GroupPreference { priority: 7, is_muted: true }));
    world.calm();
    world.send(0);
    for _ in 0..50 {
        world.turn_without_frames(0);
    }
    world.heads.clear();
    world.calm();
    let heads: Vec<_> = world.heads.iter().map(|head| (head.head, head.priority, head.is_muted)).collect();
    assert_eq!(heads, [(2, 0, false), (2, 7, true)], "ann's and bob's");
    world.check();
}

#[test]
fn of_copies_that_a_device_leaves_behind_only_those_are_told_that_its_account_wants_to_be() {
    for is_departure in [false, true] {
        let mut world = World::new(15, &ACCOUNTS[..3]);
        world.threshold = 100;
        world.tell_vendors();
        world.create(&ACCOUNTS[1..3]);
        world.ask(1, Act::Prefer(GroupPreference { priority: 0, is_muted: true }));
        world.calm();
        world.told();
        // Ann says it, bob has muted the group: only carol is told of.
        world.send(0);
        for _ in 0..50 {
            world.turn_without_frames(0);
        }
        let cause = if is_departure {
            for number in 0..3 {
                let key = AccountKey::new("shop", world.devices[number].account);
                let session = world.devices[number].handle.unwrap();
                let departure = Departure { session, app: "shop".into(), account: (*key.account).into() };
                let sessions = vec![(key.hash, departure)];
                world.mail(key.hash, Work::Unregister { link: world.link.clone(), sessions });
            }
            Cause::Departed
        } else {
            Cause::Unacknowledged
        };
        for _ in 0..100 {
            world.turn_without_frames(0);
            world.pass(1_000);
        }
        let told = world.told().into_iter().map(|news| {
            (news.account.to_string(), news.cause, news.first_sync_id, news.last_sync_id, news.count)
        });
        assert_eq!(told.collect::<Vec<_>>(), [("carol".to_owned(), cause, 2, 2, 1)]);
    }
}

#[test]
fn a_session_stands_in_the_queue_of_retries_once_however_often_it_acknowledges() {
    let mut world = World::new(16, &ACCOUNTS[..2]);
    world.threshold = 0;
    for node in &mut world.nodes {
        node.shard.set_group_read_threshold(0);
    }
    world.create(&["bob"]);
    let acked = world.metrics.group_acks.get();
    for _ in 0..50 {
        world.send(0);
        world.settle();
        world.pass(100);
        world.settle();
    }
    let timed: usize = world.nodes.iter().map(|node| node.shard.conversations.timed()).sum();
    assert!(world.metrics.group_acks.get() >= acked + 50, "acknowledged in between");
    assert!(timed <= 2, "{timed} entries for two sessions");
    world.calm();
    assert_eq!(world.nodes.iter().map(|node| node.shard.conversations.timed()).sum::<usize>(), 0);
    world.check();
}

#[test]
fn however_many_changes_wait_for_one_that_is_refused_the_stack_holds() {
    let mut world = World::new(17, &ACCOUNTS);
    world.create(&ACCOUNTS[1..4]);
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    let names = |name: &str| GroupNames { accounts: vec![name.to_owned()] };
    let waiting = crate::limits::GROUP_WAITING_MAX - 1;
    let acts = std::iter::once(Act::Add(names("eve"))).chain((0..waiting).map(|_| Act::Remove(names("bob"))));
    let origin = Origin::Service { link: world.link.clone(), cookie: 1 };
    for act in acts {
        let request = GroupRequest { id: 1, group: GROUP.into(), act: Some(act) };
        let ask = GroupAsk { origin: origin.clone(), actor: None, request, at_ms: world.now_ms };
        world.mail(group.hash, Work::Group { key: group.clone(), ask: Box::new(ask) });
    }
    // Whether there is room for eve is asked; meanwhile the router is about to stop.
    while world.take_mail(at) {}
    world.hand_reads(at);
    while world.take_event(at) {}
    world.nodes[at].shard.stop();
    let refused = world.metrics.group_refused.get();
    world.settle();
    assert_eq!(world.metrics.group_refused.get() - refused, waiting as u64 + 1);
}

#[test]
fn a_group_made_anew_in_the_commit_that_forgets_the_former_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("messages.sqlite");
    let mut store = SqliteStore::open(&path, "test", Fsync::Off, 10_000, &Arc::default()).unwrap();
    let key = AccountKey::of_group("shop", GROUP);
    let create = |number: u8| {
        let set = vec![GroupMember { account: "ann".into(), role: GroupRole::Owner.into() }];
        let event = GroupEvent { created: true, set, ..GroupEvent::default() };
        Write::Submit(Box::new(Submit {
            to: key.clone(),
            from: "\u{1}".into(),
            client_id: vec![number].into(),
            payload: event.encode_to_vec().into(),
            sent_at_ms: 1,
            origin: Origin::Change { grows: true },
            entry: Entry::CopiedEvent,
            marks: None,
            copies_bytes: 0,
        }))
    };
    let forget = Write::Group(Box::new(GroupWrite::Forget { key: key.clone() }));
    for batch in [vec![create(1)], vec![forget, create(2)]] {
        store.try_write(batch).unwrap();
        let StoreEvent::Written(written) = store.events().recv().unwrap() else { panic!("a commit") };
        assert!(written[0].outcome.is_ok());
    }
    Box::new(store).close();
    let file = schema::open_reader(&path).unwrap();
    let count = |table: &str| {
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("groups"), count("members")), (1, 1));
}

#[test]
fn a_preference_is_answered_when_it_is_written_and_only_of_a_group_of_one_s_own() {
    let mut world = World::new(18, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let wish = || Act::Prefer(GroupPreference { priority: 1, is_muted: true });
    let bob = AccountKey::new("shop", "bob");
    let at = world.shard_of(bob.hash);
    let id = world.ask(1, wish());
    world.speak(1);
    while world.take_mail(at) {}
    world.deliver();
    world.take_app_events(1);
    assert_eq!(world.devices[1].answers.get(&id), None, "nothing is written");
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Ok));
    // The store's queue is full.
    let id = world.ask(1, wish());
    world.speak(1);
    while world.take_mail(at) {}
    let writes = world.nodes[at].shard.take_writes();
    assert_eq!(writes.len(), 1);
    world.nodes[at].shard.handle_writes_refused(writes);
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Overloaded));
    world.ask(0, Act::Remove(GroupNames { accounts: vec!["bob".into()] }));
    world.calm();
    let id = world.ask(1, wish());
    world.calm();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::NotFound));
    assert!(world.nodes.iter().all(|node| node.shard.is_settled()));
}

#[test]
fn positions_do_not_pile_up_before_a_disk_that_is_behind() {
    use crate::limits::POSITIONS_OUTSTANDING_MAX;
    let mut world = World::new(19, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let key = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(key.hash);
    let save = |device: usize| PositionSave {
        key: key.clone(),
        member: "bob".into(),
        device: format!("device-{device}").into(),
        acked: 1,
    };
    for turn in 0..3 {
        let saves = (0..POSITIONS_OUTSTANDING_MAX / 2).map(|device| save(device + turn)).collect();
        world.mail(key.hash, Work::Positions(saves));
        while world.take_mail(at) {}
    }
    assert_eq!(world.nodes[at].shard.writes.len(), POSITIONS_OUTSTANDING_MAX);
    assert_eq!(world.metrics.positions_dropped.get(), POSITIONS_OUTSTANDING_MAX as u64 / 2);
    world.settle();
    world.mail(key.hash, Work::Positions(vec![save(1)]));
    while world.take_mail(at) {}
    assert_eq!(world.nodes[at].shard.writes.len(), 1);
}

#[test]
fn requests_that_wait_for_their_groups_are_bounded_by_their_bytes() {
    use crate::limits::{GROUP_WAITING_MAX, GROUPS_WAITING_BYTES_MAX};
    let mut world = World::new(20, &ACCOUNTS[..1]);
    let origin = Origin::Service { link: world.link.clone(), cookie: 1 };
    let accounts: Vec<String> = (0..256).map(|number| format!("{number:0128}")).collect();
    let act = || Some(Act::Add(GroupNames { accounts: accounts.clone() }));
    let request = GroupRequest { id: 1, group: "group-0".into(), act: act() };
    let fit = GROUPS_WAITING_BYTES_MAX / request.encoded_len();
    assert!(fit > GROUP_WAITING_MAX, "more than one group's");
    // Nothing is read of them meanwhile.
    for number in 0..fit + 10 {
        let group = format!("group-{}", number / GROUP_WAITING_MAX);
        let key = AccountKey::of_group("shop", &group);
        let request = GroupRequest { id: 1, group, act: act() };
        let ask = GroupAsk { origin: origin.clone(), actor: None, request, at_ms: world.now_ms };
        world.nodes[0].shard.apply(Work::Group { key, ask: Box::new(ask) }, world.now_ms);
    }
    assert_eq!(world.metrics.group_refused.get(), 10);
}

#[test]
fn a_group_is_muted_also_where_no_more_groups_fit_into_memory() {
    let mut world = World::new(21, &ACCOUNTS[..2]);
    world.create(&["bob"]);
    let group = AccountKey::of_group("shop", GROUP);
    let at = world.shard_of(group.hash);
    // Nobody has asked for it for a while, and others are in use.
    assert_eq!(world.nodes[at].shard.groups.loaded(), 0);
    for number in 0..crate::limits::GROUPS_LOADED_MAX {
        let key = AccountKey::of_group("shop", &format!("group-{number}"));
        world.nodes[at].shard.groups.open_empty(key, world.now_ms);
    }
    let id = world.ask(1, Act::Prefer(GroupPreference { priority: 1, is_muted: true }));
    world.settle();
    assert_eq!(world.devices[1].answers.get(&id), Some(&Code::Ok));
    world.crash();
    let file = schema::open_reader(&world.directory.path().join(format!("messages-{at}.sqlite"))).unwrap();
    let muted = file.query_row("SELECT is_muted FROM members WHERE member = 'bob'", [], |row| row.get(0));
    assert_eq!(muted, Ok(1));
}
