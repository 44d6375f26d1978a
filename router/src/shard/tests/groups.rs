//! Groups on two shards with real files, and clients that are the client library's own core.

mod gateway;
mod members;
mod offline;
mod orders;
mod reading;
mod rounds;
mod storage;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moor_client::core::{Event, Options, Sending, Session, Target};
use moor_wire::client::{
    Act, Connected, GroupCreate, GroupEvent, GroupHead, GroupHeads, GroupMember, GroupNames, GroupPreference,
    GroupRequest, GroupRole, Open, Opened, Pull, Submit as SubmitBody, put_control,
};
use moor_wire::frame::put_frame;
use moor_wire::internal::{PushMany, SendResult};

use super::*;
use crate::apps::Apps;
use crate::hook::Offline;
use crate::shard::work::{GroupAsk, PullAsk};
use crate::store::groups::{GroupWrite, PositionSave};
use crate::store::{Entry, schema, usage};

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
