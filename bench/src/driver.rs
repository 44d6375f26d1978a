//! A driver: one network with its share of the clients. A thread runs one of them, or looks after several in turn.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use moor_ring::Errno;

use crate::chat::{Chat, Outcome, Script};
use crate::dialect::{Dialect, Meaning};
use crate::fleet::{Fleet, Stage};
use crate::network::{self, Event, Network, Place, Stack};
use crate::pusher;
use crate::seats::{Heard, Orders, Seats};
use crate::secure::Secure;
use crate::shared::{Shared, Tally, histogram};

/// Logins under way in one share: more of them make the gateway's pools larger, not the logins quicker.
const LOGINS_MAX: usize = 64;
/// Pause before a connect or login that failed is tried again, microseconds.
const RETRY_US: u64 = 100_000;
/// Tries before a client is given up.
const TRIES_MAX: u32 = 50;

/// Longest sleep of a turn: how late a ping or a message goes out by design.
const NAP_SENDING: Duration = Duration::from_millis(1);
/// The same when there is nothing but heartbeats to send.
const NAP: Duration = Duration::from_millis(10);
/// Sleep between two looks at several networks: how late an arrival is seen by design.
const ROUND: Duration = Duration::from_micros(500);
/// Events of a round after which there is no sleep.
const ROUND_BUSY: usize = 512;
/// Events of a network in one turn.
const TURN_MAX: usize = 8192;
/// Clients that hang up at once when the run is over, and the longest wait for one of them to be gone.
const HANG_UP_AT_ONCE: usize = 1024;
const HUNG_UP_WITHIN: Duration = Duration::from_secs(5);

/// What one driver measured, before and during a storm.
#[derive(Clone)]
pub struct Measured {
    /// From the start of a connect to OPENED, microseconds.
    pub login: Histogram<u64>,
    /// Of pongs and pushes while measuring, microseconds.
    pub latency: Histogram<u64>,
    /// How late its own pings went out while measuring, microseconds.
    pub lateness: Histogram<u64>,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { login: histogram(), latency: histogram(), lateness: histogram() }
    }

    /// Takes another's figures in as well.
    pub fn add(&mut self, other: &Self) -> Result<(), String> {
        let failed = |error| format!("histograms do not add up: {error}");
        self.login.add(&other.login).map_err(failed)?;
        self.latency.add(&other.latency).map_err(failed)?;
        self.lateness.add(&other.lateness).map_err(failed)
    }
}

/// What a driver measured: without a storm and in it.
pub struct Phases {
    /// Until a storm begins.
    pub calm: Measured,
    /// From then on.
    pub storm: Measured,
    /// In a room.
    pub heard: Heard,
    /// Of messages between clients.
    pub chat: Outcome,
}

impl Phases {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { calm: Measured::new(), storm: Measured::new(), heard: Heard::new(), chat: Outcome::new() }
    }
}

/// A share of the clients.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Number of it among all.
    pub number: u32,
    /// Number of its first client among all.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where they connect.
    pub target: SocketAddr,
    /// Whose TCP that is by.
    pub stack: Stack,
    /// They hear at once what is said to them, whoever else wants the processor: for a few.
    pub on_time: bool,
    /// Longest heartbeat interval, milliseconds, where the server proposes a longer one.
    pub heartbeat_ms_max: u64,
    /// How the server is spoken to.
    pub dialect: Dialect,
    /// Whether it is over TLS.
    pub secure: bool,
    /// Whether tickets are used.
    pub resume: bool,
    /// What they say to each other, if they do.
    pub chat: Option<Script>,
    /// So many of them, the first ones, drop when the storm begins.
    pub dropping: u32,
    /// And come back within this time, at random.
    pub spread_us: u64,
    /// After so long they ask again for what is one too many of their app; `None`: they give up.
    pub insist_us: Option<u64>,
}

/// Shares of `connections` clients, one per network, as many for each of the `targets`; those who drop are divided likewise.
pub fn shares(connections: u32, per_network: u32, targets: &[SocketAddr], all: Share) -> Vec<Share> {
    let each = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let networks = connections.div_ceil(per_network).next_multiple_of(each).min(connections);
    let part = |whole: u32, number: u32| {
        let bound = |at| u32::try_from(u64::from(whole) * u64::from(at) / u64::from(networks)).unwrap_or(0);
        (bound(number), bound(number + 1) - bound(number))
    };
    (0..networks)
        .zip(targets.iter().cycle())
        .map(|(number, target)| {
            let (first, count) = part(connections, number);
            let dropping = part(all.dropping, number).1.min(count);
            Share { number, first, count, target: *target, dropping, ..all }
        })
        .collect()
}

struct Driver {
    network: Box<dyn Network>,
    fleet: Fleet,
    secure: Option<Secure>,
    share: Share,
    shared: Arc<Shared>,
    tally: Tally,
    seats: Option<Seats>,
    chat: Option<Chat>,
    storming: bool,
    /// Next client to connect, and those to connect again, the earliest first, with their tries so far.
    next: u32,
    again: BinaryHeap<Reverse<(u64, u32)>>,
    tries: Vec<u8>,
    /// When those who were turned away come back, microseconds.
    away: HashMap<u32, u64>,
    /// Those whose last login was one too many.
    outside: HashSet<u32>,
    under_way: usize,
    live: u32,
    /// Round-robin position of heartbeats; pings or messages of the open loop so far, and when it began.
    beat: u64,
    sent: u64,
    send_start_us: Option<u64>,
    rng: fastrand::Rng,
}

/// Runs shares to the end of the run, all on this thread.
///
/// One network is waited for. Several are looked at in turn, so that a thousand arrivals on fifty rings cost as many
/// wake-ups as on one and the harness leaves the processors to the server.
pub fn run(shares: &[Share], shared: &Arc<Shared>, room: Option<&Arc<Orders>>) -> io::Result<Phases> {
    // They measure a server beside them: it is not to be interrupted for each arrival, unless that is what is measured.
    if shares.iter().all(|share| share.on_time) {
        pusher::be_on_time();
    } else if let Err(error) = moor_ring::thread::batch_current() {
        eprintln!("the harness takes the processor from the server when it wakes up ({error})");
    }
    let mut phases = Phases::new();
    let mut drivers =
        shares.iter().map(|share| Driver::new(*share, shared, room)).collect::<Result<Vec<_>, _>>()?;
    while !shared.ended.load(Relaxed) {
        if let [alone] = &mut drivers[..] {
            let sending = shared.sends_per_s.load(Relaxed) > 0;
            alone.turn(&mut phases, 1, Some(if sending { NAP_SENDING } else { NAP }))?;
            continue;
        }
        let mut done = 0;
        for driver in &mut drivers {
            done += driver.turn(&mut phases, 0, None)?;
        }
        if done < ROUND_BUSY {
            std::thread::sleep(ROUND);
        }
    }
    for driver in &mut drivers {
        shared.gaps.fetch_add(driver.network.gaps(), Relaxed);
        driver.hang_up()?;
    }
    // The histograms of all drivers have the same bounds.
    for seats in drivers.iter().filter_map(|driver| driver.seats.as_ref()) {
        phases.heard.add(&seats.heard).unwrap_or_else(|error| unreachable!("{error}"));
    }
    for chat in drivers.iter_mut().filter_map(|driver| driver.chat.take()) {
        phases.chat.add(chat.end()).unwrap_or_else(|error| unreachable!("{error}"));
    }
    Ok(phases)
}

impl Driver {
    fn new(share: Share, shared: &Arc<Shared>, room: Option<&Arc<Orders>>) -> io::Result<Self> {
        let Share { number, first, count, target, .. } = share;
        let place = Place { number, first, count, target, long_reads: room.is_some() };
        Ok(Self {
            network: network::open(share.stack, &place)?,
            fleet: Fleet::new(share.first, share.count, share.dialect),
            secure: share.secure.then(|| Secure::new(share.count, share.resume)),
            share,
            shared: Arc::clone(shared),
            tally: Tally::new(),
            seats: room.map(|orders| Seats::new(orders, share.first, share.count)),
            chat: share.chat.map(|script| Chat::new(script, share.first, share.count)),
            storming: false,
            next: 0,
            again: BinaryHeap::new(),
            tries: vec![0; share.count as usize],
            away: HashMap::new(),
            outside: HashSet::new(),
            under_way: 0,
            live: 0,
            beat: 0,
            sent: 0,
            send_start_us: None,
            rng: fastrand::Rng::with_seed(u64::from(share.first)),
        })
    }

    /// Sends what is due, then takes what has happened; waits for `want` events or until `nap` is over.
    /// Returns how many there were.
    fn turn(&mut self, phases: &mut Phases, want: u32, nap: Option<Duration>) -> io::Result<usize> {
        let now = self.shared.now_us();
        if !self.storming && self.shared.storming.load(Relaxed) {
            self.storming = true;
            self.drop_all();
        }
        let measured = if self.storming { &mut phases.storm } else { &mut phases.calm };
        self.connect_due(now);
        self.beat_due(now);
        self.send_due(now, measured);
        self.seats_due(now);
        self.chat_due(now);
        self.network.wait(want, nap)?;
        let mut done = 0;
        while let Some((index, event)) = self.network.next() {
            self.apply(index, event, measured);
            done += 1;
            if done == TURN_MAX {
                break;
            }
        }
        self.tally.publish(&self.shared);
        Ok(done)
    }

    // --- connecting -------------------------------------------------------------------------------------

    fn connect_due(&mut self, now: u64) {
        let permille = u64::from(self.shared.goal_permille.load(Relaxed));
        let goal = u32::try_from(u64::from(self.share.count) * permille / 1000).unwrap_or(0);
        while self.under_way < LOGINS_MAX {
            let due = self.again.peek().filter(|Reverse((due, _))| *due <= now).copied();
            let index = if let Some(Reverse((_, index))) = due {
                self.again.pop();
                index
            } else if self.next < goal {
                self.next += 1;
                self.next - 1
            } else {
                break;
            };
            let member = &mut self.fleet.members[index as usize];
            member.stage = Stage::Greeting;
            member.began_us = now;
            self.under_way += 1;
            self.network.connect(index);
        }
    }

    fn handle_connected(&mut self, index: u32, result: Result<(), Errno>) {
        match result {
            Ok(()) => {
                let login = self.fleet.login(index);
                match (&mut self.secure, login) {
                    (Some(secure), login) => match secure.begin(index, &login.unwrap_or_default()) {
                        Ok(hello) => self.send_raw(index, hello),
                        Err(error) => self.shared.note_trouble(|| error),
                    },
                    (None, Some(login)) => self.send_raw(index, login),
                    (None, None) => {}
                }
            }
            Err(error) => {
                self.under_way -= 1;
                if self.may_try_again(index) {
                    self.again.push(Reverse((self.shared.now_us() + RETRY_US, index)));
                } else {
                    let hint = self.share.stack.hint();
                    self.shared.note_trouble(|| format!("connect: {error}{hint}"));
                    self.fleet.forget(index);
                }
            }
        }
    }

    /// Counts a try that failed; false: it was the last one.
    fn may_try_again(&mut self, index: u32) -> bool {
        let tries = &mut self.tries[index as usize];
        *tries = tries.saturating_add(1);
        u32::from(*tries) < TRIES_MAX
    }

    // --- the storm --------------------------------------------------------------------------------------

    /// Those who are to drop do, all at once and without a word, as behind a router that lost its power.
    fn drop_all(&mut self) {
        for index in 0..self.share.dropping {
            if self.fleet.members[index as usize].stage == Stage::Live {
                self.fleet.drop_out(index);
                self.live -= 1;
                self.shared.note_session(self.share.first + index, None);
                self.shared.dropped.fetch_add(1, Relaxed);
                self.network.reset(index);
            }
        }
    }

    /// Whoever dropped, or was turned away, comes back once its descriptor is closed.
    fn handle_closed(&mut self, index: u32) {
        let member = &mut self.fleet.members[index as usize];
        if member.stage == Stage::Dropped {
            member.stage = Stage::Idle;
            let now = self.shared.now_us();
            let back = self.away.remove(&index);
            let back = back.unwrap_or_else(|| now + self.rng.u64(0..=self.share.spread_us));
            self.again.push(Reverse((back, index)));
        }
    }

    // --- heartbeats, pings and messages -----------------------------------------------------------------

    /// Everybody is heard once per interval, evenly: the client at position `beat` of the round is due when that
    /// fraction of the interval has passed.
    fn beat_due(&mut self, now: u64) {
        let proposed = self.shared.heartbeat_ms.load(Relaxed);
        let interval_us = proposed.min(self.share.heartbeat_ms_max) * 1000;
        let due = now * u64::from(self.share.count) / interval_us.max(1);
        // After a pause, such as the first round, nobody needs to be caught up with.
        self.beat = self.beat.max(due.saturating_sub(u64::from(self.share.count)));
        while self.beat < due {
            let index = u32::try_from(self.beat % u64::from(self.share.count)).unwrap_or(0);
            self.beat += 1;
            if self.fleet.members[index as usize].stage == Stage::Live
                // A heartbeat carries no time: its answer is counted, not measured.
                && let Some(ping) = self.fleet.ping(0)
            {
                self.shared.pings.fetch_add(1, Relaxed);
                self.send(index, ping);
            }
        }
    }

    /// Open loop: a ping, or a message of a chat, goes out when it is due, whatever has been answered.
    fn send_due(&mut self, now: u64, measured: &mut Measured) {
        let rate = self.shared.sends_per_s.load(Relaxed);
        if rate == 0 || self.live == 0 {
            return;
        }
        let start = *self.send_start_us.get_or_insert(now);
        let due = (now - start) * rate / 1_000_000;
        while self.sent < due {
            self.sent += 1;
            let intended = start + self.sent * 1_000_000 / rate;
            // Whoever drops in the storm is not measured before it either.
            let index = self.rng.u32(self.share.dropping.min(self.share.count - 1)..self.share.count);
            if self.fleet.members[index as usize].stage == Stage::Live {
                // What is sent outside the measured time carries no time: it does not count.
                let measuring = self.shared.measuring.load(Relaxed);
                if measuring {
                    self.shared.pushed.fetch_add(1, Relaxed);
                    measured.lateness.saturating_record(now.saturating_sub(intended).max(1));
                }
                let time = if measuring { intended.max(1) } else { 0 };
                let out = match &mut self.chat {
                    Some(chat) => Some(self.share.dialect.carry(chat.submit(index, time))),
                    None => self.fleet.ping(time),
                };
                if let Some(out) = out {
                    self.send(index, out);
                }
            }
        }
    }

    // --- a room -----------------------------------------------------------------------------------------

    /// Comings and goings, acknowledgements and pulls.
    fn seats_due(&mut self, now: u64) {
        let Some(mut seats) = self.seats.take() else { return };
        while let Some((index, bytes)) = seats.next_move(now).or_else(|| seats.next_word(now)) {
            self.say(index, bytes);
        }
        seats.publish();
        self.seats = Some(seats);
    }

    // --- a chat -----------------------------------------------------------------------------------------

    /// Acknowledgements, and questions for what is missing.
    fn chat_due(&mut self, now: u64) {
        while let Some((index, bytes)) = self.chat.as_mut().and_then(|chat| chat.next_word(now)) {
            self.say(index, bytes);
        }
    }

    /// A client says frames, if it is logged in.
    fn say(&mut self, index: u32, frames: Vec<u8>) {
        if self.fleet.members[index as usize].stage == Stage::Live {
            self.send(index, self.share.dialect.carry(frames));
        }
    }

    fn send(&mut self, index: u32, bytes: Vec<u8>) {
        let bytes = match &mut self.secure {
            Some(secure) => secure.seal(index, &bytes),
            None => bytes,
        };
        self.send_raw(index, bytes);
    }

    fn send_raw(&mut self, index: u32, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if let Some(bytes) = self.fleet.try_send(index, bytes) {
            self.network.send(index, bytes);
        }
    }

    // --- events -----------------------------------------------------------------------------------------

    fn apply(&mut self, index: u32, event: Event, measured: &mut Measured) {
        match event {
            Event::Connected(result) => self.handle_connected(index, result),
            Event::Received(bytes) => {
                self.tally.received += bytes.len() as u64;
                let kept = self.handle_wire(index, &bytes, measured);
                self.network.done(index, bytes, kept);
                if !kept {
                    self.over(index);
                }
            }
            Event::Ended => self.over(index),
            Event::Closed => self.handle_closed(index),
            Event::Sent(result) => {
                self.tally.sent += u64::from(result.unwrap_or(0));
                let next = self.fleet.handle_sent(index);
                if let (Ok(_), Some(bytes)) = (result, next) {
                    self.network.send(index, bytes);
                }
            }
        }
    }

    /// Received bytes, out of their records if there are any. False: the client is over.
    fn handle_wire(&mut self, index: u32, bytes: &[u8], measured: &mut Measured) -> bool {
        let Some(secure) = &mut self.secure else { return self.handle_bytes(index, bytes, measured) };
        match secure.open(index, bytes) {
            Ok(opened) => {
                if opened.resumed == Some(true) {
                    self.shared.resumed.fetch_add(1, Relaxed);
                }
                self.send_raw(index, opened.out);
                opened.plain.is_empty() || self.handle_bytes(index, &opened.plain, measured)
            }
            Err(error) => {
                self.shared.note_trouble(|| error);
                false
            }
        }
    }

    /// False: the client is over.
    fn handle_bytes(&mut self, index: u32, bytes: &[u8], measured: &mut Measured) -> bool {
        let now = self.shared.now_us();
        let is_greeting = self.fleet.members[index as usize].stage == Stage::Greeting;
        let (shared, tally) = (&self.shared, &mut self.tally);
        let (seats, chat) = (&mut self.seats, &mut self.chat);
        let (mut logged_in, mut refused, mut asked, mut away) = (None, None, None, None);
        let again = self.share.insist_us.map(|pause| now + pause);
        let mut limited = None;
        let mut messages = 0_u32;
        let mut arrived = |time: u64| {
            messages += 1;
            shared.delivered.fetch_add(1, Relaxed);
            let latency = now.saturating_sub(time).max(1);
            measured.latency.saturating_record(latency);
            tally.latencies.saturating_record(latency);
        };
        let kept = self.fleet.handle_bytes(index, bytes, |meaning| match meaning {
            Meaning::Terms { heartbeat_ms } => shared.heartbeat_ms.store(heartbeat_ms.max(1), Relaxed),
            Meaning::LoggedIn(session) => logged_in = Some(session),
            Meaning::Pong(0) => {
                shared.pongs.fetch_add(1, Relaxed);
            }
            Meaning::Push(0) => {}
            Meaning::Pong(time) | Meaning::Push(time) => arrived(time),
            Meaning::Delivered { sync_id, time } => {
                if chat.as_mut().is_some_and(|chat| chat.deliver(index, sync_id, now)) && time > 0 {
                    arrived(time);
                }
            }
            Meaning::Answered { code, sync_id, time } => {
                if let Some(chat) = chat.as_mut().filter(|_| time > 0) {
                    let counter = if chat.answer(index, code, sync_id, time, now) {
                        &shared.refused
                    } else {
                        &shared.accepted
                    };
                    counter.fetch_add(1, Relaxed);
                }
            }
            Meaning::Room(news) => {
                let is_measuring = shared.measuring.load(Relaxed);
                if let Some(seats) = seats {
                    seats.hear(index, &news, now, is_measuring);
                }
            }
            Meaning::Asked(answer) => asked = Some(answer),
            Meaning::RoomLimited(reason) => match (&mut *seats, again) {
                (Some(seats), Some(again)) => seats.handle_limit(index, again),
                _ => refused = Some(reason),
            },
            Meaning::Limited(reason) => match again {
                Some(again) if is_greeting => limited = Some(again),
                _ => refused = Some(reason),
            },
            Meaning::Refused(reason) => refused = Some(reason),
            Meaning::TurnedAway(min_ms, max_ms) => away = Some((min_ms, max_ms)),
            Meaning::Other => {}
        });
        if messages > 0 {
            shared.reads.fetch_add(1, Relaxed);
        }
        if let Some(answer) = asked {
            self.send(index, answer);
        }
        if let Some(session) = logged_in {
            let member = &mut self.fleet.members[index as usize];
            member.stage = Stage::Live;
            let login = now.saturating_sub(member.began_us).max(1);
            measured.login.saturating_record(login);
            self.tally.latencies.saturating_record(login);
            self.under_way -= 1;
            self.live += 1;
            self.shared.logged_in.fetch_add(1, Relaxed);
            if self.outside.remove(&index) {
                self.shared.outside.fetch_sub(1, Relaxed);
            }
            self.shared.note_session(self.share.first + index, Some(session));
        }
        if let Some(again) = limited {
            self.away.insert(index, again);
            self.shared.logins_limited.fetch_add(1, Relaxed);
            if self.outside.insert(index) {
                self.shared.outside.fetch_add(1, Relaxed);
            }
            return false;
        }
        if let Some((min_ms, max_ms)) = away {
            let pause = u64::from(self.rng.u32(min_ms..=max_ms)) * 1000;
            self.away.insert(index, now + pause);
            self.shared.turned_away.fetch_add(1, Relaxed);
            return false;
        }
        if let Some(reason) = refused {
            self.shared.note_trouble(|| reason);
            let stage = &mut self.fleet.members[index as usize].stage;
            if *stage == Stage::Greeting {
                // Asking again would not help.
                *stage = Stage::Gone;
                self.under_way -= 1;
            }
            return false;
        }
        kept
    }

    /// The server ended a client, or it ended itself.
    fn over(&mut self, index: u32) {
        match self.fleet.members[index as usize].stage {
            Stage::Live => {
                self.live -= 1;
                self.shared.note_session(self.share.first + index, None);
                self.shared.lost.fetch_add(1, Relaxed);
            }
            Stage::Greeting if self.storming || self.away.contains_key(&index) => {
                // What a client does after a storm, or when it is told to come later.
                self.under_way -= 1;
                self.fleet.drop_out(index);
                return self.close(index);
            }
            Stage::Greeting => {
                self.under_way -= 1;
                self.shared.hung_up_on.fetch_add(1, Relaxed);
                if self.may_try_again(index) {
                    self.away.insert(index, self.shared.now_us() + RETRY_US);
                    self.fleet.drop_out(index);
                    return self.close(index);
                }
                let hint = self.share.stack.hint();
                self.shared.note_trouble(|| format!("the server hung up during the login{hint}"));
            }
            // Its receive, armed before the storm, ended.
            Stage::Dropped => return self.close(index),
            Stage::Idle | Stage::Gone => {}
        }
        self.fleet.forget(index);
        self.close(index);
    }

    // --- the end ----------------------------------------------------------------------------------------

    /// Everybody who is there hangs up, by a reset. A ring that is dropped with thousands of polls armed leaves that to the
    /// kernel, which takes a processor for seconds to end them, from whoever is measured next.
    fn hang_up(&mut self) -> io::Result<()> {
        let (mut open, mut changed) = (0, Instant::now());
        for index in 0..self.share.count {
            if self.leave(index) {
                open += 1;
                self.network.reset(index);
            }
            let is_last = index + 1 == self.share.count;
            while (open >= HANG_UP_AT_ONCE || is_last && open > 0) && changed.elapsed() < HUNG_UP_WITHIN {
                self.network.wait(1, Some(NAP))?;
                while let Some((client, event)) = self.network.next() {
                    match event {
                        // Of these one comes, of those who are reset and of those who are still to be.
                        Event::Ended => {
                            open += usize::from(self.leave(client));
                            self.close(client);
                        }
                        Event::Received(bytes) => self.network.done(client, bytes, true),
                        Event::Closed => (open, changed) = (open.saturating_sub(1), Instant::now()),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// A client is over. False: it was already, or had not come.
    fn leave(&mut self, index: u32) -> bool {
        let is_live = self.fleet.members[index as usize].stage == Stage::Live;
        if is_live {
            self.fleet.forget(index);
        }
        is_live
    }

    fn close(&mut self, index: u32) {
        if let Some(secure) = &mut self.secure {
            secure.forget(index);
        }
        self.network.close(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::CLIENTS_PER_RING_MAX;

    #[test]
    fn shares_cover_everybody_once_and_fit_their_rings() {
        let target = "127.0.0.1:1".parse().unwrap();
        for connections in [1, 18_999, 19_000, 19_001, 100_000, 2_000_000] {
            let all = Share {
                number: 0,
                first: 0,
                count: 0,
                target,
                stack: Stack::Kernel,
                on_time: false,
                heartbeat_ms_max: 0,
                dialect: Dialect::Bare,
                secure: false,
                resume: false,
                chat: None,
                dropping: connections / 2,
                spread_us: 0,
                insist_us: None,
            };
            let targets = [target, "127.0.0.1:2".parse().unwrap()];
            let shares = shares(connections, CLIENTS_PER_RING_MAX, &targets, all);
            assert_eq!(shares.iter().map(|s| s.count).sum::<u32>(), connections);
            let first = shares.iter().filter(|s| s.target == target).map(|s| s.count).sum::<u32>();
            assert!(first.abs_diff(connections - first) as usize <= shares.len(), "each target has its half");
            assert!(shares.iter().all(|s| s.count <= CLIENTS_PER_RING_MAX && s.dropping <= s.count));
            assert_eq!(shares.iter().map(|s| s.dropping).sum::<u32>(), connections / 2);
            assert!(shares.windows(2).all(|w| w[0].first + w[0].count == w[1].first));
        }
    }
}
