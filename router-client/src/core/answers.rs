//! What the peer's frames do to a connection: greetings, answers, receipts, failures.

use moor_wire::Code;
use moor_wire::frame::Frame;
use moor_wire::internal::{
    Failure, GroupResult, HistoryResult, LookupResult, NotHere, Outcome, RoomStatsResult, SendResult,
    StatsResult, Subscribe, Verb, Welcome, put_empty,
};
use prost::Message;

use super::connection::{Connection, OWN, Pending, Stage, State};
use super::{Answer, Error, Event, Request, Sent};
use crate::backoff::full_jitter;

impl Connection {
    pub(super) fn handle_frame(&mut self, now: u64, frame: &Frame) -> Result<(), Error> {
        let body = &frame.body[..];
        let verb = Verb::from_byte(frame.header.kind);
        if matches!(self.state, State::Greeting(_)) && !matches!(verb, Some(Verb::Welcome | Verb::Failure)) {
            return Err(Error::Protocol("the first frame is neither WELCOME nor FAILURE".into()));
        }
        match verb {
            Some(Verb::Welcome) => self.welcomed(now, read(body)?),
            Some(Verb::Failure) => self.failed(now, read(body)?),
            Some(Verb::Ping) => {
                put_empty(&mut self.out, Verb::Pong);
                self.written_ms = now;
            }
            Some(Verb::SendResult) => self.sent(now, read(body)?),
            Some(Verb::LookupResult) => {
                let found: LookupResult = read(body)?;
                // More than one answer can name is no refusal: what it names is there.
                let code = if found.code() == Code::Limit { Code::Ok as i32 } else { found.code };
                self.judged(now, found.cookie, code, "", Answer::Lookup(found));
            }
            Some(Verb::StatsResult) => {
                let result: StatsResult = read(body)?;
                let stats = result.stats.into_iter().map(|stat| (stat.name, stat.value)).collect();
                self.judged(now, result.cookie, Code::Ok as i32, "", Answer::Stats(stats));
            }
            Some(Verb::RoomStatsResult) => {
                let stats: RoomStatsResult = read(body)?;
                let (ticket, code) = (stats.cookie, stats.code);
                self.judged(now, ticket, code, "", Answer::RoomStats(stats));
            }
            Some(Verb::Outcome) => {
                let outcome = Outcome::parse(body).map_err(|e| Error::Protocol(e.to_string()))?;
                self.judged(now, outcome.cookie, outcome.code as i32, "", Answer::Reached(outcome.reached));
            }
            Some(Verb::NotHere) => {
                for miss in NotHere::parse(body).map_err(|e| Error::Protocol(e.to_string()))? {
                    self.judged(now, miss.cookie, Code::NotHere as i32, "", Answer::Reached(0));
                }
            }
            Some(Verb::GroupResult) => {
                let result: GroupResult = read(body)?;
                let mut answer = result.answer.unwrap_or_default();
                let (code, detail) = (answer.code, std::mem::take(&mut answer.detail));
                self.judged(now, result.cookie, code, &detail, Answer::Group(answer));
            }
            Some(Verb::HistoryResult) => {
                let result: HistoryResult = read(body)?;
                let mut pulled = result.pulled.unwrap_or_default();
                let (code, detail) = (pulled.code, std::mem::take(&mut pulled.detail));
                self.judged(now, result.cookie, code, &detail, Answer::History(pulled));
            }
            Some(Verb::Receipt) => self.events.push_back(Event::Receipt(read(body)?)),
            // PONG has done its work by arriving; later versions may say more than this one knows.
            _ => {}
        }
        Ok(())
    }

    fn welcomed(&mut self, now: u64, welcome: Welcome) {
        if self.state == State::Ready {
            return;
        }
        self.state = State::Ready;
        self.ready_ms = Some(now);
        self.epoch = welcome.epoch;
        self.events.push_back(Event::Ready(welcome));
        for (app, marks) in self.apps.clone() {
            let ticket = self.next_ticket | OWN;
            self.next_ticket += 1;
            let subscribe = Subscribe { cookie: 0, app, marks };
            self.enqueue(now, ticket, Request::Subscribe(subscribe));
        }
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            if self.pending.get(&ticket).is_some_and(|pending| pending.stage == Stage::Queued) {
                self.write(now, ticket);
            }
        }
    }

    fn failed(&mut self, now: u64, failure: Failure) {
        let code = code_of(failure.code);
        let error = Error::Refused { what: "the connection", code, detail: failure.detail };
        if matches!(code, Code::Unauthorized | Code::Version | Code::Invalid) {
            self.stop(error);
        } else {
            self.drop_link(now, error);
        }
    }

    fn sent(&mut self, now: u64, result: SendResult) {
        let client_id = match self.pending.get(&result.cookie) {
            Some(Pending { request: Request::Send(send), .. }) => send.client_id.to_vec(),
            Some(Pending { request: Request::RoomPublish(publish), .. }) => publish.client_id.to_vec(),
            _ => return,
        };
        let sent = Sent { client_id, sync_id: result.sync_id, duplicate: result.duplicate };
        self.judged(now, result.cookie, result.code, &result.detail, Answer::Sent(sent));
    }

    /// An answer with its code: final, or a reason to ask again.
    fn judged(&mut self, now: u64, ticket: u64, code: i32, detail: &str, answer: Answer) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let code = code_of(code);
        let detail = detail.to_owned();
        let refused = Error::Refused { what: pending.request.name(), code, detail };
        // Nobody waits for a subscription after a reconnect who could ask again.
        let again = ticket & OWN != 0 || pending.request.outlasts_refusals();
        match code {
            Code::Ok => self.answer(ticket, Ok(answer)),
            // Nobody is there: that is a count, not a failure.
            Code::NotFound | Code::NotHere if pending.request.may_reach_nobody() => {
                self.answer(ticket, Ok(Answer::Reached(0)));
            }
            Code::NotHere => self.answer(ticket, Err(Error::NotHere)),
            _ if again && may_pass(code) => {
                let (base, cap) = (self.config.backoff_base_ms, self.config.backoff_cap_ms);
                let pause = 1 + full_jitter(base, cap, pending.attempt, self.rng.u64(..));
                pending.attempt = pending.attempt.saturating_add(1);
                pending.last = Some(Box::new(refused));
                self.restage(ticket, Stage::Again(now.saturating_add(pause)));
            }
            _ => self.answer(ticket, Err(refused)),
        }
    }
}

/// One that this side does not know counts as INTERNAL.
fn code_of(code: i32) -> Code {
    Code::try_from(code).unwrap_or(Code::Internal)
}

/// The codes of a refusal that may pass, after which the same is asked again (docs/protocol.md, Sending); the others are final.
const fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Overloaded | Code::Storage | Code::Internal | Code::Draining)
}

fn read<M: Message + Default>(body: &[u8]) -> Result<M, Error> {
    M::decode(body).map_err(|error| Error::Protocol(error.to_string()))
}
