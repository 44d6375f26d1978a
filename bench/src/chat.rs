//! `moor-bench chat`: clients send messages to each other, at a rate, whatever becomes of them. This is what the clients of
//! one driver say, and what they count. No I/O.
//!
//! Everybody writes to the client half the way around, so that each timeline has one sender and pairs lie across the
//! connections. By the protocol a client uses messages in order, acknowledges them after a short while, and asks again
//! from where something is missing. What is refused is counted by its code and not sent again.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use moor_wire::Code;
use moor_wire::client::{Class, Kind, Submit, put_sync_id};
use moor_wire::frame::put_message;

use crate::dialect::account;
use crate::refusals::Refusals;
use crate::report::Report;
use crate::shared::histogram;

/// An acknowledgement is held back so long, as the client library does, microseconds.
const ACK_DELAY_US: u64 = 20_000;
/// The channel that talks.
const CHANNEL: u16 = 1;

/// What all clients of a run go by.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Clients, all drivers together.
    pub clients: u32,
    /// Number of the first one's account. Another one each run: nobody has messages from before.
    pub first_account: u32,
    /// Payload of a message, bytes; the first eight carry the time.
    pub bytes: usize,
}

impl Script {
    /// The account that a client writes to.
    fn receiver(&self, number: u32) -> String {
        let receiver = (number + self.clients / 2) % self.clients;
        account(self.first_account.wrapping_add(receiver))
    }
}

/// What became of messages that carry a time, which are those sent while measuring.
pub struct Outcome {
    /// Sent.
    sent: u64,
    /// Answered OK.
    accepted: u64,
    /// Answered otherwise.
    refusals: Refusals,
    /// From when it should have been sent to its answer OK, microseconds.
    answer: Histogram<u64>,
    /// Came twice, all messages.
    duplicates: u64,
    /// Came ahead of one that was missing, all messages.
    gaps: u64,
    /// Where clients are at the end; the first of each driver has this number among all.
    places: Vec<(u32, Vec<Place>)>,
}

impl Outcome {
    /// Nothing.
    pub fn new() -> Self {
        Self {
            sent: 0,
            accepted: 0,
            refusals: Refusals::default(),
            answer: histogram(),
            duplicates: 0,
            gaps: 0,
            places: Vec::new(),
        }
    }

    /// Takes another driver's in as well.
    pub fn add(&mut self, other: Self) -> Result<(), String> {
        self.places.extend(other.places);
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refusals.add(&other.refusals);
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.answer.add(&other.answer).map_err(|error| format!("histograms do not add up: {error}"))
    }

    /// Messages that were taken and did not reach their receiver.
    fn lost(&self) -> u64 {
        let mut shares: Vec<_> = self.places.iter().collect();
        shares.sort_by_key(|(first, _)| *first);
        let places: Vec<_> = shares.into_iter().flat_map(|(_, places)| places).collect();
        let receivers = places.iter().cycle().skip(places.len() / 2);
        places
            .iter()
            .zip(receivers)
            .map(|(sender, receiver)| sender.promised.saturating_sub(receiver.has))
            .sum()
    }

    /// Its figures, at the rate that was ordered.
    pub fn report(&self, rate: u64, report: &mut Report) {
        let lost = self.lost();
        let unanswered = self.sent.saturating_sub(self.accepted + self.refusals.total());
        report.count("rate", rate);
        report.count("accepted", self.accepted);
        self.refusals.report(report);
        report.count("unanswered", unanswered);
        report.count("messages_lost", lost);
        report.count("duplicates", self.duplicates);
        report.count("gaps", self.gaps);
        report.count("answer_p50_us", self.answer.value_at_quantile(0.5));
        report.count("answer_p99_us", self.answer.value_at_quantile(0.99));
        if lost > 0 {
            report.shortcoming(format!("{lost} messages were taken and did not arrive"));
        }
        if unanswered > 0 {
            report.shortcoming(format!("{unanswered} messages were not answered"));
        }
    }
}

/// Where a client is in its timeline, and its receiver in theirs.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Every message up to this one.
    has: u64,
    /// One came ahead of another.
    has_gap: bool,
    /// It is going to say what it has.
    is_due: bool,
    /// The last of its own messages that was taken, as the receiver's timeline counts.
    promised: u64,
}

/// The clients of one driver.
pub struct Chat {
    script: Script,
    /// Number of its first client among all.
    first: u32,
    places: Vec<Place>,
    /// Who says what they have, the earliest first, microseconds.
    due: VecDeque<(u64, u32)>,
    said: u64,
    outcome: Outcome,
}

impl Chat {
    /// So many, the first of which has this number among all.
    pub fn new(script: Script, first: u32, count: u32) -> Self {
        Self {
            script,
            first,
            places: vec![Place::default(); count as usize],
            due: VecDeque::new(),
            said: 0,
            outcome: Outcome::new(),
        }
    }

    /// A client's next message; `time` is when it should have been sent, 0 when it does not count.
    pub fn submit(&mut self, index: u32, time: u64) -> Vec<u8> {
        self.said += 1;
        self.outcome.sent += u64::from(time > 0);
        // Its answer carries the time back.
        let client_id = [time.to_be_bytes(), self.said.to_be_bytes()].concat();
        let mut payload = vec![0x6d; self.script.bytes];
        payload[..8].copy_from_slice(&time.to_be_bytes());
        let submit = Submit {
            client_id: client_id.into(),
            to: self.script.receiver(self.first + index),
            payload: payload.into(),
            ..Submit::default()
        };
        let mut out = Vec::with_capacity(self.script.bytes + 64);
        put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), CHANNEL, &submit);
        out
    }

    /// An answer to a client's message that carried this time. True: that message counts and was refused.
    pub fn answer(&mut self, index: u32, code: Code, sync_id: u64, time: u64, now: u64) -> bool {
        match code {
            _ if time == 0 => return false,
            Code::Ok => {
                let place = &mut self.places[index as usize];
                place.promised = place.promised.max(sync_id);
                self.outcome.accepted += 1;
                self.outcome.answer.saturating_record(now.saturating_sub(time).max(1));
            }
            code => self.outcome.refusals.note(code),
        }
        code != Code::Ok
    }

    /// A message came to a client. True: it is used, because it is the next one.
    pub fn deliver(&mut self, index: u32, sync_id: u64, now: u64) -> bool {
        let place = &mut self.places[index as usize];
        let is_next = sync_id == place.has + 1;
        if is_next {
            *place = Place { has: sync_id, has_gap: false, ..*place };
        } else if sync_id > place.has {
            place.has_gap = true;
            self.outcome.gaps += 1;
        } else {
            self.outcome.duplicates += 1;
        }
        if !std::mem::replace(&mut place.is_due, true) {
            self.due.push_back((now + ACK_DELAY_US, index));
        }
        is_next
    }

    /// The next that says what it has, with its words.
    pub fn next_word(&mut self, now: u64) -> Option<(u32, Vec<u8>)> {
        let (_, index) = self.due.front().copied().filter(|(due, _)| *due <= now)?;
        self.due.pop_front();
        let place = &mut self.places[index as usize];
        place.is_due = false;
        let kind = if std::mem::take(&mut place.has_gap) { Kind::Sync } else { Kind::Ack };
        let mut out = Vec::with_capacity(16);
        put_sync_id(&mut out, kind, CHANNEL, place.has);
        Some((index, out))
    }

    /// What became of all.
    pub fn end(self) -> Outcome {
        Outcome { places: vec![(self.first, self.places)], ..self.outcome }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use moor_wire::frame::{Split, split};
    use moor_wire::limits::SERVER_BODY_BYTES_MAX;
    use prost::Message as _;

    use super::*;

    fn body(frame: &[u8]) -> (u8, &[u8]) {
        match split(frame, |_| SERVER_BODY_BYTES_MAX) {
            Ok(Split::Frame { header, body, rest: [] }) => (header.kind, body),
            other => panic!("{other:?}"),
        }
    }

    fn chat(clients: u32) -> Chat {
        Chat::new(Script { clients, first_account: u32::MAX - 1, bytes: 8 }, 0, clients)
    }

    #[test]
    fn everybody_has_one_sender_and_is_an_account_of_this_run() {
        for clients in [1, 2, 5, 6] {
            let mut chat = chat(clients);
            let receivers: HashSet<_> = (0..clients)
                .map(|index| Submit::decode(body(&chat.submit(index, 7)).1).unwrap())
                .inspect(|submit| assert_eq!(submit.payload, 7_u64.to_be_bytes()[..]))
                .map(|submit| submit.to)
                .collect();
            let accounts = (0..clients).map(|number| account((u32::MAX - 1).wrapping_add(number)));
            assert_eq!(receivers, accounts.collect());
        }
    }

    #[test]
    fn messages_are_used_in_order_acknowledged_late_and_asked_for_again() {
        let mut chat = chat(2);
        assert!(chat.deliver(1, 1, 1_000) && chat.deliver(1, 2, 5_000));
        assert!(chat.next_word(1_000 + ACK_DELAY_US - 1).is_none());
        let said = |chat: &mut Chat, now| {
            let (index, out) = chat.next_word(now)?;
            let (kind, sync_id) = body(&out);
            Some((index, kind, *sync_id.last_chunk::<8>()?))
        };
        let words = (1, Kind::Ack.byte(), 2_u64.to_be_bytes());
        assert_eq!(said(&mut chat, 1_000 + ACK_DELAY_US), Some(words));
        assert_eq!(said(&mut chat, u64::MAX), None);
        assert!(!chat.deliver(1, 4, 60_000), "the third is missing");
        assert_eq!(said(&mut chat, 90_000), Some((1, Kind::Sync.byte(), 2_u64.to_be_bytes())));
        assert!(chat.deliver(1, 3, 100_000) && chat.deliver(1, 4, 100_000) && !chat.deliver(1, 4, 100_000));
        assert_eq!(said(&mut chat, 200_000), Some((1, Kind::Ack.byte(), 4_u64.to_be_bytes())));
        assert_eq!((chat.outcome.gaps, chat.outcome.duplicates), (1, 1));
    }

    #[test]
    fn what_counts_is_answered_or_told() {
        let mut chat = chat(2);
        for time in [0, 0, 10, 20, 30, 40] {
            chat.submit(0, time);
        }
        let refused = [(Code::Overloaded, 0), (Code::Ok, 0), (Code::Ok, 10), (Code::Overloaded, 20)]
            .map(|(code, time)| chat.answer(0, code, 1, time, 50));
        assert_eq!(refused, [false, false, false, true]);
        let mut all = Outcome::new();
        all.add(chat.end()).unwrap();
        let mut report = Report::default();
        all.report(100, &mut report);
        let figures = ["accepted", "refused", "unanswered", "answer_p99_us"].map(|key| report.figure(key));
        assert_eq!(figures, [1.0, 1.0, 2.0, 40.0].map(Some));
    }

    #[test]
    fn what_was_taken_and_did_not_arrive_is_lost() {
        let script = Script { clients: 5, first_account: 0, bytes: 8 };
        let mut chats = [(0, 2), (2, 2), (4, 1)].map(|(first, count)| Chat::new(script, first, count));
        // From client 1 to 3, the first of which arrives; from 2 to 4; and one from 0 to 2 that does not count.
        for (chat, index, sync_id, time) in [(0, 1, 2, 10), (0, 1, 3, 10), (1, 0, 1, 10), (0, 0, 1, 0)] {
            chats[chat].answer(index, Code::Ok, sync_id, time, 50);
        }
        chats[1].deliver(1, 1, 50);
        let mut all = Outcome::new();
        // Drivers end in any order.
        chats.swap(0, 1);
        chats.into_iter().for_each(|chat| all.add(chat.end()).unwrap());
        assert_eq!(all.lost(), 3);
    }
}
