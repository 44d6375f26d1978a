//! Read marks of one channel: those the app has set and the router has not confirmed, and up to which version
//! this device has those of the account's other devices.

use std::collections::VecDeque;

use moor_wire::client::{ConversationKind, Kind, ReadMark, ReadMarks, put_control, put_sync_id};
use moor_wire::identity::check_conversation;

use super::channel::SubmitError;
use super::event::Event;
use crate::limits::{ANSWER_MS, MARKS_PENDING_MAX};

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversation {
    /// What another account of the app says.
    Peer(String),
    /// A group.
    Group(String),
}

impl Conversation {
    const fn parts(&self) -> (ConversationKind, &String) {
        match self {
            Self::Peer(name) => (ConversationKind::Peer, name),
            Self::Group(name) => (ConversationKind::Group, name),
        }
    }

    fn of(mark: &ReadMark) -> Self {
        let name = mark.conversation.clone();
        match mark.kind() {
            ConversationKind::Peer => Self::Peer(name),
            ConversationKind::Group => Self::Group(name),
        }
    }
}

/// A mark of the app that is not confirmed.
#[derive(Debug)]
struct Pending {
    conversation: Conversation,
    sync_id: u64,
    /// When it is said again; 0: at once.
    due_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Whether the app wants to know what other devices have read.
    is_wanted: bool,
    /// Up to this version there is no mark that this device does not have.
    known: u64,
    /// When the marks behind that were asked for, without an answer yet.
    asked_ms: Option<u64>,
    pending: Vec<Pending>,
}

impl Marks {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, ..Self::default() }
    }

    /// Takes a mark of the app; [`Self::handle_timeout`] says it.
    pub(super) fn set(&mut self, conversation: Conversation, sync_id: u64) -> Result<(), SubmitError> {
        check_conversation(conversation.parts().1)?;
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.conversation == conversation) {
            if sync_id > pending.sync_id {
                *pending = Pending { conversation, sync_id, due_ms: 0 };
            }
            return Ok(());
        }
        if self.pending.len() >= MARKS_PENDING_MAX {
            return Err(SubmitError::QueueFull);
        }
        self.pending.push(Pending { conversation, sync_id, due_ms: 0 });
        Ok(())
    }

    /// When something is due; only while the channel is open.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let asked = self.asked_ms.map(|asked_ms| asked_ms + ANSWER_MS);
        self.pending.iter().map(|pending| pending.due_ms).chain(asked).min()
    }

    pub(super) fn handle_disconnected(&mut self) {
        self.asked_ms = None;
        for pending in &mut self.pending {
            pending.due_ms = 0;
        }
    }

    pub(super) fn handle_opened(&mut self, channel: u16, now: u64, out: &mut Vec<u8>) {
        if self.is_wanted {
            self.ask(channel, now, out);
        }
        self.handle_timeout(channel, now, out);
    }

    fn ask(&mut self, channel: u16, now: u64, out: &mut Vec<u8>) {
        self.asked_ms = Some(now);
        put_sync_id(out, Kind::ReadMarks, channel, self.known);
    }

    /// Says what is due.
    pub(super) fn handle_timeout(&mut self, channel: u16, now: u64, out: &mut Vec<u8>) {
        if self.asked_ms.is_some_and(|asked_ms| now >= asked_ms + ANSWER_MS) {
            self.ask(channel, now, out);
        }
        for pending in self.pending.iter_mut().filter(|pending| pending.due_ms <= now) {
            pending.due_ms = now + ANSWER_MS;
            let (kind, conversation) = pending.conversation.parts();
            let mark = ReadMark {
                kind: kind as i32,
                conversation: conversation.clone(),
                sync_id: pending.sync_id,
                version: 0,
            };
            put_control(out, Kind::Read, channel, &mark);
        }
    }

    /// A mark was stored, of this device or another.
    pub(super) fn handle_read(
        &mut self,
        channel: u16,
        mark: &ReadMark,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        if Some(mark.version) == self.known.checked_add(1) {
            self.known = mark.version;
        } else if mark.version > self.known && self.is_wanted && self.asked_ms.is_none() {
            // One in between did not arrive.
            self.ask(channel, now, out);
        }
        self.take(channel, mark, events);
    }

    /// The marks that were asked for, or a page of them.
    pub(super) fn handle_marks(
        &mut self,
        channel: u16,
        page: &ReadMarks,
        now: u64,
        events: &mut VecDeque<Event>,
    ) {
        self.known = self.known.max(page.version);
        self.asked_ms = page.more.then_some(now);
        for mark in &page.marks {
            self.take(channel, mark, events);
        }
    }

    fn take(&mut self, channel: u16, mark: &ReadMark, events: &mut VecDeque<Event>) {
        let conversation = Conversation::of(mark);
        self.pending.retain(|pending| pending.conversation != conversation || pending.sync_id > mark.sync_id);
        events.push_back(Event::ReadMark { channel, conversation, sync_id: mark.sync_id });
    }
}
