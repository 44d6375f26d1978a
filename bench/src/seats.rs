//! Who of a driver's clients is in a room, and what a client there does by the protocol: it uses reliable messages in
//! order, acknowledges them and pulls what is missing, each at a random moment. No I/O.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use hdrhistogram::Histogram;
use moor_wire::client::{Kind, RoomAck, RoomEnter, RoomLeave, RoomPull, put_control};
use moor_wire::rooms::ack_spread_ms;

use crate::dialect::RoomNews;
use crate::shared::histogram;

/// A pull comes at a random moment within this time: everybody has got the same batch, microseconds.
const SPREAD_US: u64 = 400_000;
/// A pull without an answer is made again, microseconds.
const PULL_AGAIN_US: u64 = 2_000_000;
/// The channel that is in the room.
const CHANNEL: u16 = 1;
/// Comings and goings that are made good at once after a pause.
const BEHIND_US_MAX: u64 = 100_000;

/// What the measurement orders, and what all drivers have counted.
#[derive(Debug)]
pub struct Orders {
    /// The app its room is in.
    pub app: &'static str,
    /// The rooms; clients are spread over them by number.
    pub rooms: Vec<String>,
    /// How many of its clients each driver should have there, in thousandths.
    pub goal_permille: AtomicU32,
    /// Clients of all drivers.
    pub clients: u32,
    /// Comings and goings per second, of all drivers together.
    pub moves_per_s: AtomicU64,
    /// Clients that have said ENTER and not LEAVE, and of whom nobody said that theirs is one room too many.
    pub seated: AtomicU64,
    /// Those of whom it was said, and who have heard nothing of the room since.
    pub outside: AtomicU64,
    /// How often it was said.
    pub limited: AtomicU64,
    /// The sum of the reliable messages that each seated client has without a gap.
    pub caught: AtomicU64,
    /// Batches that arrived while measuring.
    pub frames: AtomicU64,
}

impl Orders {
    /// Nobody is in these rooms.
    pub fn new(app: &'static str, rooms: Vec<String>, clients: u32) -> Self {
        Self {
            app,
            rooms,
            clients,
            goal_permille: AtomicU32::new(0),
            moves_per_s: AtomicU64::new(0),
            seated: AtomicU64::new(0),
            outside: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            caught: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        }
    }

    /// The room of the client with this number among all.
    fn room(&self, number: u32) -> String {
        self.rooms[number as usize % self.rooms.len()].clone()
    }
}

/// What a driver's clients heard.
pub struct Heard {
    /// Messages that carried a time, in batches or pulled.
    pub messages: u64,
    /// What batches said was left out, all clients together.
    pub dropped: u64,
    /// Reliable messages that came twice.
    pub duplicates: u64,
    /// Pulls that were made.
    pub pulls: u64,
    /// From the moment a message should have been published, microseconds.
    pub latency: Histogram<u64>,
    /// The same of reliable messages, when they could be used.
    pub reliable: Histogram<u64>,
}

impl Heard {
    /// Nothing.
    pub fn new() -> Self {
        Self { messages: 0, dropped: 0, duplicates: 0, pulls: 0, latency: histogram(), reliable: histogram() }
    }

    /// Takes another's in as well.
    pub fn add(&mut self, other: &Self) -> Result<(), String> {
        let failed = |error| format!("histograms do not add up: {error}");
        self.messages += other.messages;
        self.dropped += other.dropped;
        self.duplicates += other.duplicates;
        self.pulls += other.pulls;
        self.latency.add(&other.latency).map_err(failed)?;
        self.reliable.add(&other.reliable).map_err(failed)
    }
}

/// A client's place.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    /// It has every reliable message up to this one.
    has: u64,
    /// The newest one that it was told of.
    newest: u64,
    is_acking: bool,
    is_pulling: bool,
    /// True exactly when it counts as outside.
    is_outside: bool,
    /// It has been away and not heard since what is the newest.
    was_away: bool,
    /// Reliable messages up to this one were said before it came back: how long they took says nothing.
    away_until: u64,
}

/// What a client is to say when its moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Enter,
    Ack,
    Pull,
}

/// The clients of one driver.
pub struct Seats {
    orders: Arc<Orders>,
    /// Number of the first one among all.
    first: u32,
    seats: Vec<Seat>,
    /// The first so many are in their rooms, or want to be.
    seated: u32,
    /// Up to when comings and goings have been made, microseconds.
    moved_us: u64,
    due: BinaryHeap<Reverse<(u64, u32, Word)>>,
    rng: fastrand::Rng,
    /// Not yet published.
    caught: u64,
    frames: u64,
    /// What they heard.
    pub heard: Heard,
}

impl Seats {
    /// So many, the first of which has this number among all; none in a room.
    pub fn new(orders: &Arc<Orders>, first: u32, count: u32) -> Self {
        Self {
            orders: Arc::clone(orders),
            first,
            seats: vec![Seat::default(); count as usize],
            seated: 0,
            moved_us: 0,
            due: BinaryHeap::new(),
            rng: fastrand::Rng::with_seed(u64::from(first)),
            caught: 0,
            frames: 0,
            heard: Heard::new(),
        }
    }

    /// The next that comes or goes, with what it says; nothing when everybody is where they should be or the pace
    /// allows nobody.
    pub fn next_move(&mut self, now: u64) -> Option<(u32, Vec<u8>)> {
        let count = u64::try_from(self.seats.len()).unwrap_or(0);
        let goal = count * u64::from(self.orders.goal_permille.load(Relaxed)) / 1000;
        let goal = u32::try_from(goal).unwrap_or(0);
        let all = self.orders.moves_per_s.load(Relaxed);
        if goal == self.seated || all == 0 {
            self.moved_us = now;
            return None;
        }
        // Few among many move slowly, not never.
        let pace = (all * count / u64::from(self.orders.clients.max(1))).max(1);
        let interval = 1_000_000 / pace;
        self.moved_us = self.moved_us.max(now.saturating_sub(BEHIND_US_MAX.max(interval)));
        let next = self.moved_us + interval;
        if next > now {
            return None;
        }
        self.moved_us = next;
        let mut out = Vec::with_capacity(64);
        if self.seated < goal {
            let index = self.seated;
            self.seated += 1;
            self.sit_down(index);
            put_control(&mut out, Kind::Enter, CHANNEL, &self.enter(index));
            return Some((index, out));
        }
        self.seated -= 1;
        let index = self.seated;
        self.seats[index as usize].was_away = true;
        if std::mem::take(&mut self.seats[index as usize].is_outside) {
            self.orders.outside.fetch_sub(1, Relaxed);
        } else {
            self.stand_up(index);
        }
        let room = self.orders.room(self.first + index);
        put_control(&mut out, Kind::Leave, CHANNEL, &RoomLeave { room });
        Some((index, out))
    }

    fn enter(&self, index: u32) -> RoomEnter {
        let room = self.orders.room(self.first + index);
        RoomEnter { room, last_id: Some(self.seats[index as usize].has) }
    }

    fn sit_down(&self, index: u32) {
        self.orders.seated.fetch_add(1, Relaxed);
        self.orders.caught.fetch_add(self.seats[index as usize].has, Relaxed);
    }

    fn stand_up(&mut self, index: u32) {
        self.orders.seated.fetch_sub(1, Relaxed);
        self.publish();
        self.orders.caught.fetch_sub(self.seats[index as usize].has, Relaxed);
    }

    /// A client's room is one too many: it asks again when it is time, microseconds.
    pub fn handle_limit(&mut self, index: u32, again_us: u64) {
        self.orders.limited.fetch_add(1, Relaxed);
        if index >= self.seated {
            return;
        }
        if !std::mem::replace(&mut self.seats[index as usize].is_outside, true) {
            self.orders.outside.fetch_add(1, Relaxed);
            self.stand_up(index);
        }
        self.due.push(Reverse((again_us, index, Word::Enter)));
    }

    /// The next acknowledgement or pull whose moment has come.
    pub fn next_word(&mut self, now: u64) -> Option<(u32, Vec<u8>)> {
        loop {
            let Reverse((due, index, word)) = *self.due.peek()?;
            if due > now {
                return None;
            }
            self.due.pop();
            let is_here = index < self.seated;
            let seat = &mut self.seats[index as usize];
            let (room, mut out) = (self.orders.room(self.first + index), Vec::with_capacity(64));
            match word {
                Word::Enter => {
                    if !is_here || !seat.is_outside {
                        continue;
                    }
                    put_control(&mut out, Kind::Enter, CHANNEL, &self.enter(index));
                }
                Word::Ack => {
                    seat.is_acking = false;
                    put_control(&mut out, Kind::RoomAck, CHANNEL, &RoomAck { room, id: seat.has });
                }
                Word::Pull => {
                    seat.is_pulling = is_here && seat.has < seat.newest;
                    if !seat.is_pulling {
                        continue;
                    }
                    self.heard.pulls += 1;
                    self.due.push(Reverse((now + PULL_AGAIN_US, index, Word::Pull)));
                    put_control(&mut out, Kind::RoomPull, CHANNEL, &RoomPull { room, after_id: seat.has });
                }
            }
            if is_here {
                return Some((index, out));
            }
        }
    }

    /// A batch, or the answer to a pull, has come to a client.
    pub fn hear(&mut self, index: u32, news: &RoomNews, now: u64, is_measuring: bool) {
        self.frames += u64::from(is_measuring && !news.is_pulled);
        self.heard.dropped += if is_measuring { news.dropped } else { 0 };
        if index >= self.seated {
            return;
        }
        // Only who is in it hears of it.
        if std::mem::take(&mut self.seats[index as usize].is_outside) {
            self.orders.outside.fetch_sub(1, Relaxed);
            self.sit_down(index);
        }
        let seat = &mut self.seats[index as usize];
        let mut has_reliable = false;
        if std::mem::take(&mut seat.was_away) {
            seat.away_until = news.newest_id;
        }
        let away_until = seat.away_until;
        let was_there = |id| id == 0 || id > away_until;
        for &(id, time) in &news.messages {
            let latency = (time > 0 && was_there(id)).then(|| now.saturating_sub(time).max(1));
            if let Some(latency) = latency {
                self.heard.messages += 1;
                self.heard.latency.saturating_record(latency);
            }
            if id == 0 {
                continue;
            }
            has_reliable = true;
            if id == seat.has + 1 {
                seat.has = id;
                self.caught += 1;
                latency.into_iter().for_each(|latency| self.heard.reliable.saturating_record(latency));
            } else if id <= seat.has {
                self.heard.duplicates += 1;
            }
        }
        seat.newest = seat.newest.max(news.newest_id);
        let (acks, pulls) = (has_reliable && !seat.is_acking, seat.has < seat.newest && !seat.is_pulling);
        seat.is_acking |= acks;
        seat.is_pulling |= pulls;
        let ack = (acks, Word::Ack, ack_spread_ms(news.online) * 1000);
        for (wanted, word, spread_us) in [ack, (pulls, Word::Pull, SPREAD_US)] {
            if wanted {
                self.due.push(Reverse((now + self.rng.u64(0..spread_us), index, word)));
            }
        }
    }

    /// Once a turn.
    pub fn publish(&mut self) {
        self.orders.caught.fetch_add(std::mem::take(&mut self.caught), Relaxed);
        self.orders.frames.fetch_add(std::mem::take(&mut self.frames), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(count: u32) -> Seats {
        let orders = Orders::new("bench", vec!["hall".to_owned(), "yard".to_owned()], count);
        orders.goal_permille.store(1000, Relaxed);
        orders.moves_per_s.store(1_000, Relaxed);
        Seats::new(&Arc::new(orders), 7, count)
    }

    fn news(messages: &[(u64, u64)], newest_id: u64) -> RoomNews {
        RoomNews { messages: messages.to_vec(), newest_id, ..RoomNews::default() }
    }

    #[test]
    fn they_come_and_go_at_a_pace() {
        let mut seats = seats(10);
        assert!(seats.next_move(0).is_none());
        let came = |seats: &mut Seats, now| std::iter::from_fn(|| seats.next_move(now)).count();
        assert_eq!(came(&mut seats, 3_000), 3);
        assert_eq!(came(&mut seats, 3_900), 0);
        assert_eq!(came(&mut seats, 20_000), 7);
        seats.orders.goal_permille.store(500, Relaxed);
        assert_eq!(came(&mut seats, 20_500), 0);
        assert_eq!(came(&mut seats, 21_900), 1);
        assert_eq!((seats.seated, seats.orders.seated.load(Relaxed)), (9, 9));
    }

    #[test]
    fn few_clients_among_many_move_too() {
        let orders = Orders::new("bench", vec!["hall".to_owned()], 1_000);
        orders.goal_permille.store(1000, Relaxed);
        orders.moves_per_s.store(40, Relaxed);
        let mut seats = Seats::new(&Arc::new(orders), 996, 4);
        assert!(seats.next_move(0).is_none());
        assert!(seats.next_move(1_000_000).is_some());
    }

    #[test]
    fn whose_room_is_one_too_many_stays_outside_and_asks_again() {
        let mut seats = seats(2);
        seats.next_move(0);
        let entered: Vec<_> = std::iter::from_fn(|| seats.next_move(5_000)).collect();
        assert!(text(&entered[0].1).contains("yard") && text(&entered[1].1).contains("hall"), "{entered:?}");
        let counts = |seats: &Seats| {
            [&seats.orders.seated, &seats.orders.outside, &seats.orders.limited].map(|c| c.load(Relaxed))
        };
        seats.handle_limit(1, 9_000);
        seats.handle_limit(1, 9_000);
        assert_eq!(counts(&seats), [1, 1, 2]);
        assert!(seats.next_word(8_999).is_none());
        let words: Vec<_> = std::iter::from_fn(|| seats.next_word(9_000)).collect();
        assert!(words.iter().all(|(index, out)| (*index, out[0]) == (1, Kind::Enter.byte())), "{words:?}");
        assert_eq!(counts(&seats), [1, 1, 2], "nobody has said that it is let in");
        seats.hear(1, &news(&[], 0), 9_500, true);
        assert_eq!(counts(&seats), [2, 0, 2]);
        seats.handle_limit(0, 9_900);
        seats.orders.goal_permille.store(0, Relaxed);
        let left = std::iter::from_fn(|| seats.next_move(20_000)).count();
        assert_eq!((left, counts(&seats)), (2, [0, 0, 3]));
        assert!(seats.next_word(u64::MAX).is_none(), "who has left does not ask");
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn what_was_said_while_it_was_away_is_used_and_not_timed() {
        let mut seats = seats(1);
        seats.next_move(0);
        assert!(seats.next_move(1_000).is_some());
        seats.hear(0, &news(&[(1, 5)], 1), 1_005, true);
        seats.orders.goal_permille.store(0, Relaxed);
        assert!(seats.next_move(3_000).is_some());
        seats.orders.goal_permille.store(1000, Relaxed);
        assert!(seats.next_move(5_000).is_some());
        seats.hear(0, &news(&[], 2), 6_000, true);
        seats.hear(0, &RoomNews { is_pulled: true, ..news(&[(2, 1_500)], 2) }, 9_000, true);
        assert_eq!((seats.heard.reliable.len(), seats.heard.messages), (1, 1));
        seats.hear(0, &news(&[(3, 9_100), (0, 9_100)], 3), 9_200, true);
        assert_eq!((seats.heard.reliable.len(), seats.heard.messages, seats.seats[0].has), (2, 3, 3));
    }

    #[test]
    fn reliable_messages_are_used_in_order_acknowledged_and_pulled() {
        let mut seats = seats(1);
        seats.next_move(0);
        assert!(seats.next_move(1_000).is_some());
        seats.hear(0, &news(&[(1, 5), (0, 6), (3, 7)], 3), 1_005, true);
        seats.publish();
        assert_eq!(seats.orders.caught.load(Relaxed), 1, "the third came before the second");
        assert_eq!(seats.heard.messages, 3);
        assert!(seats.next_word(1_005).is_none());
        let words: Vec<u8> =
            std::iter::from_fn(|| seats.next_word(1_005 + SPREAD_US)).map(|(_, out)| out[0]).collect();
        assert!(words.contains(&Kind::RoomAck.byte()) && words.contains(&Kind::RoomPull.byte()));
        let pulled = RoomNews { is_pulled: true, ..news(&[(2, 0), (3, 0)], 3) };
        seats.hear(0, &pulled, 2_000, true);
        seats.hear(0, &news(&[(3, 7)], 3), 2_000, true);
        seats.publish();
        assert_eq!((seats.orders.caught.load(Relaxed), seats.heard.duplicates), (3, 1));
        assert_eq!(seats.orders.frames.load(Relaxed), 2, "what was pulled is no batch");
        // Whoever has everything does not pull again.
        let words: Vec<u8> =
            std::iter::from_fn(|| seats.next_word(10_000_000)).map(|(_, out)| out[0]).collect();
        assert_eq!(words, [Kind::RoomAck.byte()]);
    }
}
