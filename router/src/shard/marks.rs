//! Read marks: how far an account has read its conversations, the same on all its devices.
//!
//! A mark that is news is stored, then pushed to every session of the account, its sender's among them: that is
//! the sender's answer. Each change has the account's next version, so that a device sees a gap and asks for the
//! marks behind the version it has.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{Class, ConversationKind, Kind, ReadMark, ReadMarks, sync_id};
use moor_wire::internal::{Push, Up};
use prost::Message as _;

use crate::lease::Link;
use crate::limits::READ_MARKS_PAGE;
use crate::outbox::Weight;
use crate::shard::Shard;
use crate::store::marks::{Asker, Mark, MarkSave, Marked};
use crate::store::{AccountKey, Found, Read, Write};

impl Mark {
    fn body(&self) -> ReadMark {
        ReadMark {
            kind: i32::try_from(self.kind).unwrap_or(0),
            conversation: self.conversation.to_string(),
            sync_id: self.sync_id,
            version: self.version,
        }
    }
}

/// The account and the session that a client's frame came from.
fn sender(link: &Arc<Link>, hash: u64, up: &Up<'_>) -> (AccountKey, Asker) {
    let key = AccountKey { hash, app: up.app.into(), account: up.account.into() };
    (key, Asker { link: link.clone(), session: up.session })
}

impl Shard {
    /// A client's READ or READ_MARKS.
    pub(super) fn handle_marks(&mut self, link: &Arc<Link>, hash: u64, up: &Bytes) {
        let Ok(up) = Up::parse(up) else { return };
        let (key, asker) = sender(link, hash, &up);
        if up.kind == Kind::ReadMarks.byte() {
            let Some(since) = sync_id(up.body) else { return };
            // Not answered, so the client asks again.
            if !self.try_ask(Read::Marks { key, asker, since }) {
                self.metrics.marks_refused.increment();
            }
            return;
        }
        let Ok(mark) = ReadMark::decode(up.body) else { return };
        self.metrics.marks.increment();
        let quota = if self.is_stopping { None } else { self.try_quota(&key.app, 0, self.now_ms).ok() };
        // Not answered, so the client says it again: a mark can wait longer than a message.
        let Some(app) = quota.filter(|app| self.has_place(*app, Weight::Normal)) else {
            self.metrics.marks_refused.increment();
            return;
        };
        let kind = ConversationKind::try_from(mark.kind).unwrap_or_default() as u32;
        let mark = Mark { kind, conversation: mark.conversation.into(), sync_id: mark.sync_id, version: 0 };
        self.put_write(app, Write::Mark(Box::new(MarkSave { key, mark, asker })));
    }

    pub(super) fn handle_marked(&mut self, marked: Vec<Marked>) {
        for Marked { save, outcome } in marked {
            self.leave_store(0);
            let Ok(saved) = outcome else {
                self.metrics.marks_refused.increment();
                continue;
            };
            let body = saved.mark.body().encode_to_vec();
            let MarkSave { key, asker, .. } = *save;
            let account = self.registry.find(&key.app, &key.account, key.hash).filter(|_| saved.is_news);
            if let Some(account) = account {
                self.push_others(account, None, Kind::Read, Class::Normal, &body);
            }
            // Whoever said so learns what holds, and stops saying it: also before its session is announced.
            let is_told =
                account.and_then(|account| self.find_session(account, asker.session, &asker.link)).is_some();
            if !is_told {
                self.answer_marks(&asker, key.hash, Kind::Read, &body);
            }
        }
    }

    pub(super) fn handle_marks_found(&mut self, key: AccountKey, asker: Asker, found: Found) {
        let is_more = found.marks.len() >= READ_MARKS_PAGE;
        let page = ReadMarks {
            marks: found.marks.iter().map(Mark::body).collect(),
            version: found.through,
            more: is_more,
        };
        self.answer_marks(&asker, key.hash, Kind::ReadMarks, &page.encode_to_vec());
        // What comes behind it the client asks for by itself where there is no room.
        if is_more && !self.try_ask(Read::Marks { key, asker, since: found.through }) {
            self.metrics.marks_refused.increment();
        }
    }

    fn answer_marks(&mut self, asker: &Asker, hash: u64, kind: Kind, body: &[u8]) {
        let push = Push {
            cookie: hash,
            session: asker.session,
            kind: kind.byte(),
            flags: Class::Normal.flags(),
            body,
        };
        self.outbox.put(&asker.link, Weight::Normal, |out| push.put(out, false));
    }
}
