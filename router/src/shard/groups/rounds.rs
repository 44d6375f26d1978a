//! Rounds: entries of a group's timeline on their way to the members' shards, in order, one round at a time. The next begins
//! when every shard has confirmed the last; one that failed goes out again, one that takes long is waited for.

use std::sync::Arc;

use moor_wire::Code;
use moor_wire::client::{GroupDelivery, GroupEvent};
use prost::Message as _;

use super::copy_bytes;
use super::state::{GroupState, Round};
use crate::group::{Group, Member, MemberKey};
use crate::lease::ShardIndex;
use crate::limits::{
    GROUPS_PER_TICK_MAX, SPREAD_COPIES_MAX, SPREAD_PUSHES_MAX, SPREAD_RETRY_MS, SPREAD_TIMEOUT_MS,
};
use crate::shard::Shard;
use crate::shard::spread::{Part, Spread, SpreadEntry};
use crate::shard::work::Work;
use crate::store::groups::{GroupRead, GroupWrite};
use crate::store::{AccountKey, Entry, Message, Read, Write};

pub(super) fn spread_entry(group: &str, floor: u64, message: Message) -> SpreadEntry {
    let Message { sync_id, from, client_id, sent_at_ms, payload, entry, marks } = message;
    let event = entry.is_event().then(|| GroupEvent::decode(payload.clone()).ok()).flatten();
    let from = if entry.is_event() { String::new() } else { from };
    let delivery = GroupDelivery {
        group: group.to_owned(),
        sync_id,
        from: from.clone(),
        client_id,
        sent_at_ms,
        floor,
        payload,
        is_event: entry.is_event(),
        marks: marks.map(|marks| *marks),
    };
    SpreadEntry {
        sync_id,
        entry,
        from: from.into(),
        sent_at_ms,
        body: delivery.encode_to_vec().into(),
        event: event.map(Arc::new),
    }
}

impl Shard {
    /// Hands the next entries to the members' shards, if there are any and no round is under way.
    pub(super) fn start_round(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let is_ready = state.is_loaded && state.group.is_some() && state.round.is_none() && !state.is_reading;
        if !is_ready || now_ms < state.retry_ms || self.is_stopping {
            return;
        }
        if state.spread >= state.head {
            return self.finish_dissolved(key);
        }
        let entries = state.take_entries();
        if entries.is_empty() {
            state.is_reading = true;
            let read = GroupRead::Entries { key: key.clone(), after: state.spread };
            self.reads.push(Read::Group(Box::new(read)));
        } else {
            self.begin_round(key, entries, now_ms);
        }
    }

    /// A dissolved group that is spread to its end is forgotten; its timeline stays as long as any.
    pub(super) fn finish_dissolved(&mut self, key: &AccountKey) {
        let is_over = self.groups.states.get(key).is_some_and(|state| {
            state.group.as_ref().is_some_and(|group| group.is_dissolved) && state.is_idle()
        });
        if is_over {
            self.groups.close(key);
            self.writes.push(Write::Group(Box::new(GroupWrite::Forget { key: key.clone() })));
        }
    }

    pub(super) fn begin_round(&mut self, key: &AccountKey, mut entries: Vec<SpreadEntry>, now_ms: u64) {
        let shards = self.outbox.shards();
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(group) = &state.group else { return };
        let members = group.members.len();
        if state.lists.is_empty() {
            state.lists = lists(group, shards);
        }
        let within = round_len(entries.iter().map(|entry| entry.entry), members);
        for entry in entries.drain(within..).rev() {
            state.count_queued(state.queue_bytes + entry.body.len());
            state.queue.push_front(entry);
        }
        let Some(last) = entries.last() else { return };
        let has_event = entries.iter().any(|entry| entry.entry.is_event());
        let through = last.sync_id;
        let copied = entries.iter().filter(|entry| entry.entry.is_copied());
        let copied: u64 = copied.map(|entry| copy_bytes(key, entry.body.len())).sum();
        let entries: Arc<[SpreadEntry]> = entries.into();
        self.groups.next_ticket += 1;
        let ticket = self.groups.next_ticket;
        self.metrics.group_rounds.increment();
        let mut round = Round {
            ticket,
            through,
            parts: Vec::new(),
            waiting: 0,
            is_failed: false,
            due_ms: now_ms + SPREAD_TIMEOUT_MS,
            copied_bytes: copied * members as u64,
        };
        for (shard, members) in state.lists.iter().enumerate() {
            if members.is_empty() && !has_event {
                continue;
            }
            let part = Part::new(self.index, state.key.clone(), ticket);
            let spread = Spread {
                key: state.key.clone(),
                part: part.clone(),
                entries: entries.clone(),
                members: members.clone(),
            };
            let shard = ShardIndex(u16::try_from(shard).unwrap_or(u16::MAX));
            match self.outbox.cross(shard, Work::Spread(Box::new(spread))) {
                Ok(()) => round.parts.push(part),
                Err(_) => round.is_failed = true,
            }
        }
        round.waiting = round.parts.len();
        let is_over = round.waiting == 0;
        state.round = Some(round);
        if is_over {
            self.finish_round(key, now_ms);
        }
        self.groups.refile(key, now_ms);
    }

    pub(in crate::shard) fn handle_spread_done(
        &mut self,
        key: &AccountKey,
        ticket: u64,
        is_done: bool,
        now_ms: u64,
    ) {
        let Some(round) = self.groups.states.get_mut(key).and_then(|state| state.round.as_mut()) else {
            return;
        };
        // Of a round that was over by its time, or lost in part.
        if round.ticket != ticket {
            return;
        }
        round.waiting = round.waiting.saturating_sub(1);
        round.is_failed |= !is_done;
        if round.waiting == 0 {
            self.finish_round(key, now_ms);
        }
    }

    /// The time of a round is over. Confirmations that were lost are made up for, and what was lost on its way fails.
    /// What only takes long is waited for: offered again it would be behind itself.
    fn look_at_round(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(round) = self.groups.states.get_mut(key).and_then(|state| state.round.as_mut()) else {
            return;
        };
        let mut outcomes = round.parts.iter().map(Part::outcome);
        let Some(is_done) = outcomes.try_fold(true, |all, one| Some(one? && all)) else {
            round.due_ms = now_ms + SPREAD_TIMEOUT_MS;
            return self.metrics.group_rounds_late.increment();
        };
        round.is_failed |= !is_done;
        self.finish_round(key, now_ms);
    }

    pub(super) fn finish_round(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(round) = state.round.take() else { return };
        if round.is_failed {
            self.metrics.group_round_failures.increment();
            state.clear_queue();
            state.retry_ms = now_ms + SPREAD_RETRY_MS;
        } else {
            state.spread_to(round.through, round.copied_bytes, now_ms);
            self.start_round(key, now_ms);
        }
        self.groups.refile(key, now_ms);
    }

    /// Looks at groups whose time has come.
    pub(in crate::shard) fn tick_groups(&mut self, now_ms: u64) {
        for _ in 0..GROUPS_PER_TICK_MAX {
            let Some(key) = self.groups.agenda.take(now_ms) else { break };
            self.look_at_group(&key, now_ms);
        }
        self.look_for_unspread();
        self.metrics.groups_loaded.set(self.groups.states.len() as u64);
        self.metrics.groups_resumed.set(self.groups.resumed as u64);
    }

    /// A round whose time is over or whose pause is over, a cursor to be kept, a group nobody needs.
    fn look_at_group(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        state.wake_ms = u64::MAX;
        save_spread(state, &mut self.writes);
        let is_stuck = state.changing.as_ref().is_some_and(|c| c.submit.is_some() && now_ms >= c.due_ms);
        if state.round.as_ref().is_some_and(|round| now_ms >= round.due_ms) {
            self.look_at_round(key, now_ms);
        } else if state.retry_ms > 0 && now_ms >= state.retry_ms {
            state.retry_ms = 0;
            self.start_round(key, now_ms);
        }
        if is_stuck {
            self.change_done(key, Code::Overloaded, None, "a member's shard did not answer");
        }
        if self.groups.states.get(key).is_some_and(|state| state.is_unused(now_ms)) {
            self.groups.close(key);
        }
        self.groups.refile(key, now_ms);
    }

    /// Hands out how far groups are spread.
    pub(in crate::shard) fn save_spreads(&mut self) {
        for state in self.groups.states.values_mut() {
            save_spread(state, &mut self.writes);
        }
    }
}

fn save_spread(state: &mut GroupState, writes: &mut Vec<Write>) {
    if state.saved < state.spread && state.group.is_some() {
        state.saved = state.spread;
        let write = GroupWrite::Spread { key: (*state.key).clone(), through: state.spread };
        writes.push(Write::Group(Box::new(write)));
    }
}

/// How many entries a round has: as many as lead to no more copies and pushes than a turn has time for, and one at least.
fn round_len(entries: impl Iterator<Item = Entry>, members: usize) -> usize {
    let (mut copies, mut pushes) = (0, 0);
    let fits = entries.enumerate().take_while(|(at, entry)| {
        *(if entry.is_copied() { &mut copies } else { &mut pushes }) += members;
        *at == 0 || (copies <= SPREAD_COPIES_MAX && pushes <= SPREAD_PUSHES_MAX)
    });
    fits.count()
}

/// The members by the shard their accounts fall to.
fn lists(group: &Group, shards: usize) -> Vec<Arc<[MemberKey]>> {
    let mut lists: Vec<Vec<MemberKey>> = vec![Vec::new(); shards];
    for (account, member) in &group.members {
        let shard = usize::try_from(member.hash % shards as u64).unwrap_or(0);
        let Member { hash, since, is_muted, .. } = *member;
        lists[shard].push(MemberKey { account: account.clone(), hash, since, is_muted });
    }
    lists.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{GROUP_MEMBERS_MAX, SPREAD_ENTRIES_MAX};

    #[test]
    fn a_round_is_what_a_turn_has_time_for_and_one_entry_at_least() {
        let len = |entry, members| round_len(std::iter::repeat_n(entry, SPREAD_ENTRIES_MAX), members);
        for (entry, max) in [(Entry::Copied, SPREAD_COPIES_MAX), (Entry::Shared, SPREAD_PUSHES_MAX)] {
            assert_eq!(len(entry, 1), SPREAD_ENTRIES_MAX);
            assert_eq!(len(entry, max / 3), 3);
            assert_eq!(len(entry, max + 1), 1);
        }
        assert!(len(Entry::SharedEvent, GROUP_MEMBERS_MAX) * GROUP_MEMBERS_MAX <= SPREAD_PUSHES_MAX);
        assert_eq!(round_len(std::iter::empty(), 5), 0);
    }
}
