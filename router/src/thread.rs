//! A shard's thread: the event loop that feeds the shard and carries away what it decides.
//!
//! Owns the listener's accepting end, the links accepted here, the store's handle and the mailbox from the
//! other threads. Everything on this thread shares one [`Node`]; no borrow of it lives across an await.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use moor_wire::limits::LEVEL_MAX;

use crate::apps::Apps;
use crate::clock::{now_ms, wall_ms};
use crate::config::{Driver, OfflineSettings};
use crate::gate::Gate;
use crate::hook::Inbox;
use crate::lease::{LeaseTable, Link, ShardIndex};
use crate::levels::Levels;
use crate::limits::{LETTERS_TURN_MS, LINKS_PER_THREAD_MAX, STALL_MS, STOP_FLUSH_MS, TICK_MS};
use crate::link;
use crate::metrics::{Metrics, Report};
use crate::offline::Interest;
use crate::outbox::Parcel;
use crate::rooms::RoomSettings;
use crate::shard::Shard;
use crate::shard::storage::Totals;
use crate::shard::work::Work;
use crate::store::location::{LocationEvent, LocationStore};
use crate::store::{Full, MessageStore, StoreEvent};

/// What all shard threads share.
#[derive(Debug)]
pub struct Shared {
    /// Every link of the process.
    pub leases: Arc<LeaseTable>,
    /// How many shards there are.
    pub shards: u32,
    /// The router's name.
    pub name: String,
    /// This process's incarnation.
    pub epoch: u64,
    /// Who may connect.
    pub gate: Gate,
    /// How each shard treats each app.
    pub apps: Arc<Apps>,
    /// What apps' messages take in all shards.
    pub totals: Arc<Totals>,
    /// Business levels that are switched off.
    pub levels: Levels,
    /// How rooms are served.
    pub rooms: RoomSettings,
    /// How many there are.
    pub rooms_open: Arc<AtomicUsize>,
    /// All shards' numbers.
    pub report: Report,
    /// Shards that have answered everything and are about to end.
    pub settled: AtomicU32,
}

/// A letter to a shard's thread.
#[derive(Debug)]
pub enum Mail {
    /// Work and frames from another shard's thread.
    Parcel(Parcel),
    /// Finish and end.
    Stop,
}

/// What the tasks of a thread share.
#[derive(Debug)]
pub struct Node {
    /// The shard.
    pub shard: Shard,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The numbers of this thread.
    pub metrics: Arc<Metrics>,
    /// Links accepted here that are not closed yet.
    pub links: Vec<Arc<Link>>,
    /// Connections of this thread, with or without HELLO.
    pub connections: usize,
    store: Box<dyn StoreHandle>,
    locations: Box<dyn LocationHandle>,
    peers: Vec<flume::Sender<Mail>>,
    /// Where the hook is told of absences, if there is one.
    inbox: Option<Arc<Inbox>>,
    expected_tick_ms: u64,
}

/// A message store that can be printed, for `Node`'s own sake.
pub trait StoreHandle: MessageStore + std::fmt::Debug + Send {}
impl<T: MessageStore + std::fmt::Debug + Send> StoreHandle for T {}

/// A location store that can be printed, for `Node`'s own sake.
pub trait LocationHandle: LocationStore + std::fmt::Debug + Send {}
impl<T: LocationStore + std::fmt::Debug + Send> LocationHandle for T {}

impl Node {
    /// The shard an account hash falls to.
    pub fn shard_of(&self, hash: u64) -> ShardIndex {
        ShardIndex(u16::try_from(hash % u64::from(self.shared.shards)).unwrap_or(0))
    }

    /// Carries work out here or sends it to the shard concerned.
    pub fn hand_to(&mut self, shard: ShardIndex, work: Work, now_ms: u64) {
        if shard == self.shard.index {
            self.shard.apply(work, now_ms);
        } else if let Err(work) = self.shard.outbox.cross(shard, work) {
            self.shard.refuse_crossing(work);
        }
    }

    /// Ends a turn: what was collected goes to the stores and to the other threads.
    pub fn flush(&mut self) {
        let writes = self.shard.take_writes();
        if !writes.is_empty()
            && let Err(Full(writes)) = self.store.try_write(writes)
        {
            self.shard.handle_writes_refused(writes);
        }
        let reads = self.shard.take_reads();
        if !reads.is_empty()
            && let Err(Full(reads)) = self.store.try_read(reads)
        {
            self.shard.handle_reads_refused(reads);
        }
        let changes = self.shard.take_changes();
        if !changes.is_empty()
            && let Err(Full(changes)) = self.locations.try_apply(changes)
        {
            self.shard.handle_changes_refused(changes);
        }
        let finds = self.shard.take_finds();
        if !finds.is_empty()
            && let Err(Full(finds)) = self.locations.try_find(finds, &|key| self.shard.locate(key))
        {
            self.shard.handle_finds_refused(finds);
        }
        if let Some(inbox) = &self.inbox {
            for notice in self.shard.take_notices() {
                inbox.offer(notice);
            }
        }
        self.shard.hand_runs();
        let peers = &self.peers;
        self.shard.outbox.dispatch(|shard, parcel| match peers[shard].try_send(Mail::Parcel(parcel)) {
            Ok(()) => Ok(()),
            Err(flume::TrySendError::Full(Mail::Parcel(parcel))) => Err(parcel),
            // The thread has ended: its links with it.
            Err(_) => Ok(()),
        });
    }

    fn handle_parcel(&mut self, parcel: Parcel, now_ms: u64) {
        for (link, weight, frames) in parcel.frames {
            self.shard.outbox.put_crossed(link, weight, &frames);
        }
        for work in parcel.work {
            self.shard.apply(work, now_ms);
        }
    }

    fn tick(&mut self) {
        let now_ms = now_ms();
        if now_ms > self.expected_tick_ms + STALL_MS {
            tracing::warn!(
                late_ms = now_ms - self.expected_tick_ms,
                "this thread was stalled; leases start anew"
            );
            self.shared.leases.forgive(self.shard.index, now_ms);
        }
        self.expected_tick_ms = now_ms + TICK_MS;
        self.metrics.leases_expired.add(self.shared.leases.expire(self.shard.index, now_ms));
        let outbox = &self.shard.outbox;
        self.links.retain(|link| {
            if link.is_close_wanted() {
                outbox.close(link.id);
            }
            !link.is_close_wanted()
        });
        self.shard.set_wall_offset(wall_ms().saturating_sub(now_ms));
        self.shard.handle_tick(now_ms);
        // One switch for all threads, told by the first.
        if self.shard.index.0 == 0 {
            let off = LEVEL_MAX + 1 - self.shared.levels.off_from();
            self.metrics.levels_off.set(u64::from(off));
        }
        self.flush();
    }
}

/// What a shard's thread is started with.
#[derive(Debug)]
pub struct Seed {
    /// Which shard.
    pub index: ShardIndex,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The numbers of this thread.
    pub metrics: Arc<Metrics>,
    /// The accepting socket.
    pub listener: std::net::TcpListener,
    /// The shard's store.
    pub store: Box<dyn StoreHandle>,
    /// What apps' messages take in it.
    pub usage: Vec<(Box<str>, u64)>,
    /// Where whereabouts are told and asked.
    pub locations: Box<dyn LocationHandle>,
    /// Letters to this thread.
    pub mailbox: flume::Receiver<Mail>,
    /// Letters to every thread.
    pub peers: Vec<flume::Sender<Mail>>,
    /// How to wait.
    pub driver: Driver,
    /// Members from which on a group's messages are not copied.
    pub group_read_threshold: u32,
    /// Where the hook is told of absences, if there is one.
    pub inbox: Option<Arc<Inbox>>,
    /// When messages count as not fetched.
    pub offline: OfflineSettings,
    /// Of which apps that is told.
    pub interest: Interest,
}

/// Runs a shard's thread to its end. `ready` learns once whether the loop could be made.
pub fn run(seed: Seed, ready: &flume::Sender<io::Result<()>>) {
    let mut ring = io_uring_06::IoUring::builder();
    // No interrupt to run completions: the loop enters the kernel often enough. Since kernel 5.19.
    ring.setup_coop_taskrun();
    let uring = match seed.driver {
        Driver::Auto => RuntimeBuilder::<IoUringDriver>::new()
            .uring_builder(ring)
            .enable_timer()
            .build()
            .or_else(|_| RuntimeBuilder::<IoUringDriver>::new().enable_timer().build()),
        Driver::Epoll => Err(io::ErrorKind::Unsupported.into()),
    };
    match uring {
        Ok(mut runtime) => runtime.block_on(live(seed, ready)),
        Err(error) => {
            if seed.driver == Driver::Auto {
                tracing::warn!(%error, "no io_uring for the router's threads; they use epoll");
            }
            match RuntimeBuilder::<LegacyDriver>::new().enable_timer().build() {
                Ok(mut runtime) => runtime.block_on(live(seed, ready)),
                Err(error) => {
                    ready.send(Err(error)).ok();
                }
            }
        }
    }
}

async fn live(seed: Seed, ready: &flume::Sender<io::Result<()>>) {
    let Seed { index, shared, metrics, listener, store, locations, mailbox, peers, .. } = seed;
    let group_read_threshold = seed.group_read_threshold;
    let Seed { inbox, offline, interest, .. } = seed;
    let outbox = crate::outbox::Outbox::new(index, shared.shards, metrics.clone());
    let (events, location_events) = (store.events(), locations.events());
    let mut shard = Shard::new(index, outbox, metrics.clone());
    shard.set_group_read_threshold(group_read_threshold);
    shard.begin();
    shard.set_apps(shared.apps.clone());
    shard.set_usage(seed.usage, shared.totals.clone());
    shard.set_rooms(shared.rooms.clone(), shared.rooms_open.clone());
    shard.set_wall_offset(wall_ms().saturating_sub(now_ms()));
    shard.tell_offline(offline, interest, now_ms());
    if locations.wants_changes() {
        shard.tell_locations();
    }
    let node = Rc::new(RefCell::new(Node {
        shard,
        shared,
        metrics,
        links: Vec::new(),
        connections: 0,
        store,
        locations,
        peers,
        inbox,
        expected_tick_ms: now_ms() + TICK_MS,
    }));
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            ready.send(Err(error)).ok();
            return;
        }
    };
    ready.send(Ok(())).ok();
    monoio::spawn(accept(listener, node.clone()));
    monoio::spawn(take_events(events, node.clone()));
    monoio::spawn(take_location_events(location_events, node.clone()));
    monoio::spawn(tick(node.clone()));
    take_letters(&mailbox, |mail| handle_mail(&mut node.borrow_mut(), mail), || node.borrow_mut().flush())
        .await;
    stop(&node, &mailbox).await;
}

/// False when the letter says stop.
fn handle_mail(node: &mut Node, mail: Mail) -> bool {
    match mail {
        Mail::Parcel(parcel) => node.handle_parcel(parcel, now_ms()),
        Mail::Stop => return false,
    }
    true
}

async fn accept(listener: TcpListener, node: Rc<RefCell<Node>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let is_full = {
                    let node = node.borrow();
                    node.metrics.links_accepted.increment();
                    node.connections >= LINKS_PER_THREAD_MAX || node.shard.is_stopping()
                };
                if is_full {
                    node.borrow().metrics.links_refused.increment();
                    drop::<TcpStream>(stream);
                } else {
                    let node = node.clone();
                    node.borrow_mut().connections += 1;
                    monoio::spawn(async move {
                        link::serve(stream, node.clone()).await;
                        node.borrow_mut().connections -= 1;
                    });
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: those who are connected go on, others wait.
                tracing::warn!(%error, "cannot accept");
                monoio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Takes letters until one says stop, which is `false`, or nobody is left to write any. What they lead to is flushed when
/// no more of them lie there, and in between.
async fn take_letters<T>(
    letters: &flume::Receiver<T>,
    mut handle: impl FnMut(T) -> bool,
    mut flush: impl FnMut(),
) {
    let mut began_ms = now_ms();
    loop {
        let letter = match letters.try_recv() {
            Ok(letter) => letter,
            Err(_) => {
                flush();
                let Ok(letter) = letters.recv_async().await else { return };
                began_ms = now_ms();
                letter
            }
        };
        if !handle(letter) {
            return flush();
        }
        if now_ms() >= began_ms + LETTERS_TURN_MS {
            flush();
            give_way().await;
            began_ms = now_ms();
        }
    }
}

/// Lets everything else on this thread have its turn. A receiver that is ready does not; a task that wakes itself is put
/// at the head of monoio's queue (0.2.4), and while any is awake monoio looks neither at timers nor at what other threads
/// have to say. So this one sleeps, to the next millisecond.
async fn give_way() {
    monoio::time::sleep(Duration::from_micros(1)).await;
}

async fn take_events(events: flume::Receiver<StoreEvent>, node: Rc<RefCell<Node>>) {
    let handle = |event| {
        node.borrow_mut().shard.handle_store(event, now_ms());
        true
    };
    take_letters(&events, handle, || node.borrow_mut().flush()).await;
}

async fn take_location_events(events: flume::Receiver<LocationEvent>, node: Rc<RefCell<Node>>) {
    let handle = |event| {
        node.borrow_mut().shard.handle_location(event);
        true
    };
    take_letters(&events, handle, || node.borrow_mut().flush()).await;
}

async fn tick(node: Rc<RefCell<Node>>) {
    loop {
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        node.borrow_mut().tick();
    }
}

/// Answers what was offered, saves positions, lets the links take their answers, closes the store.
async fn stop(node: &Rc<RefCell<Node>>, mailbox: &flume::Receiver<Mail>) {
    {
        let mut node = node.borrow_mut();
        node.shard.stop();
        node.flush();
    }
    let give_up_ms = now_ms() + STOP_FLUSH_MS;
    let mut is_counted = false;
    loop {
        {
            let mut node = node.borrow_mut();
            while let Ok(mail) = mailbox.try_recv() {
                handle_mail(&mut node, mail);
            }
            node.flush();
            let is_settled = node.shard.is_settled();
            if is_settled && !is_counted {
                is_counted = true;
                node.shared.settled.fetch_add(1, Ordering::AcqRel);
            }
            // Other shards may still answer over the links of this thread.
            let are_all_settled = node.shared.settled.load(Ordering::Acquire) >= node.shared.shards;
            if (is_settled
                && are_all_settled
                && mailbox.is_empty()
                && node.shard.outbox.links().all(|out| out.is_empty()))
                || now_ms() > give_up_ms
            {
                break;
            }
        }
        monoio::time::sleep(Duration::from_millis(10)).await;
    }
    let store = {
        let mut node = node.borrow_mut();
        for out in node.shard.outbox.links() {
            out.close();
        }
        std::mem::replace(&mut node.store, Box::new(Closed))
    };
    store.close();
}

/// Stands where a store was that is closed.
#[derive(Debug)]
struct Closed;

impl MessageStore for Closed {
    fn try_write(&mut self, batch: Vec<crate::store::Write>) -> Result<(), Full<crate::store::Write>> {
        Err(Full(batch))
    }

    fn try_read(&mut self, batch: Vec<crate::store::Read>) -> Result<(), Full<crate::store::Read>> {
        Err(Full(batch))
    }

    fn take_usage(&mut self) -> Vec<(Box<str>, u64)> {
        Vec::new()
    }

    fn events(&self) -> flume::Receiver<StoreEvent> {
        flume::bounded(1).1
    }

    fn close(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn letters_that_never_end_leave_turns_to_tasks_timers_and_other_threads() {
        let run = || async {
            let (sender, letters) = flume::unbounded();
            let (threads, from_threads) = flume::bounded(1);
            let seen = Rc::new([(); 3].map(|()| Cell::new(false)));
            let (task, timer, thread) = (seen.clone(), seen.clone(), seen.clone());
            // A link's task, which is awake.
            let (wake, awake) = flume::bounded(1);
            monoio::spawn(async move { task[0].set(awake.recv_async().await.is_ok()) });
            monoio::spawn(async move {
                monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
                timer[1].set(true);
            });
            monoio::spawn(async move { thread[2].set(from_threads.recv_async().await.is_ok()) });
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(TICK_MS));
                threads.send(()).ok();
            });
            sender.send(0).unwrap();
            let (began_ms, flushes) = (now_ms(), Cell::new(0));
            // Each leads to another one. Without turns for the others that goes on until the time is over.
            let handle = |letter: u64| {
                if letter == 1_000 {
                    wake.send(()).unwrap();
                }
                sender.send(letter + 1).unwrap();
                !seen.iter().all(Cell::get) && now_ms() < began_ms + 10_000
            };
            take_letters(&letters, handle, || flushes.set(flushes.get() + 1)).await;
            assert_eq!(seen.each_ref().map(Cell::get), [true; 3]);
            let turns = (now_ms() - began_ms) / LETTERS_TURN_MS;
            assert!(flushes.get() > 1 && flushes.get() <= turns + 2, "{} in {turns} turns", flushes.get());
        };
        let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build().unwrap();
        runtime.block_on(run());
        // Not every host lets a process have a ring.
        if let Ok(mut runtime) = RuntimeBuilder::<IoUringDriver>::new().enable_timer().build() {
            runtime.block_on(run());
        }
    }
}
