//! What backend services ask for: look-ups, kicks, transient pushes, receipts.

use std::sync::Arc;

use moor_wire::Code;
use moor_wire::client::Class;
use moor_wire::internal::{Kick, Outcome, Push, PushAccount, Verb, put_control};

use crate::lease::Link;
use crate::outbox::Weight;
use crate::registry::{AccountIndex, Reading, SessionIndex};
use crate::shard::Shard;
use crate::shard::credit::Credit;
use crate::store::{AccountKey, Extent, Marks, Read};

impl Shard {
    pub(super) fn handle_lookup(&mut self, link: Arc<Link>, cookie: u64, key: AccountKey) {
        let extent = self
            .registry
            .find(&key.app, &key.account, key.hash)
            .and_then(|index| self.registry.account(index))
            .filter(|account| account.reading != Reading::Unloaded)
            .map(|account| Extent { head: account.head, floor: account.floor });
        match extent {
            Some(_) => self.find_sessions(link, cookie, key, extent, Code::Ok),
            None => {
                if !self.try_ask(Read::Extent { key, link: link.clone(), cookie }) {
                    self.refuse_lookup(link, cookie);
                }
            }
        }
    }

    /// Asks a session's gateway to close it. False when no live link leads there.
    pub(super) fn kick_session(&mut self, index: SessionIndex, code: Code, reason: &str) -> bool {
        let Some(session) = self.registry.session(index) else { return false };
        let Some(key) = self.key_of(session.account) else { return false };
        let Some(link) = self.links.get(&session.link).filter(|link| link.is_live()) else { return false };
        let kick = Kick {
            cookie: key.hash,
            session: session.handle.0,
            app: key.app.into(),
            account: key.account.into(),
            device: session.device.to_string(),
            code: code.into(),
            reason: reason.to_owned(),
        };
        self.outbox.put(link, Weight::Answer, |out| put_control(out, Verb::Kick, &kick))
    }

    pub(super) fn handle_kick(&mut self, link: &Link, hash: u64, kick: &Kick) {
        let code = Code::try_from(kick.code).ok().filter(|code| *code != Code::Ok).unwrap_or(Code::Kicked);
        let account = self.registry.find(&kick.app, &kick.account, hash);
        let chosen: Vec<SessionIndex> = account
            .into_iter()
            .flat_map(|index| self.registry.sessions_of(index))
            .filter(|index| {
                self.registry.session(*index).is_some_and(|session| {
                    (kick.session == 0 || session.handle.0 == kick.session)
                        && (kick.device.is_empty() || *session.device == *kick.device)
                })
            })
            .collect();
        let reached =
            chosen.into_iter().filter(|index| self.kick_session(*index, code, &kick.reason)).count();
        self.answer_outcome(link, kick.cookie, reached);
    }

    pub(super) fn handle_push_account(&mut self, link: &Link, hash: u64, body: &[u8]) {
        let Ok(all) = PushAccount::parse(body) else { return };
        let mut reached = 0;
        let weight = Weight::of(Class::from_flags(all.flags));
        let account = self.registry.find(all.app, all.account, hash);
        for session in account.into_iter().flat_map(|index: AccountIndex| self.registry.sessions_of(index)) {
            let Some(session) = self.registry.session(session) else { continue };
            let Some(gateway) = self.links.get(&session.link).filter(|link| link.is_live()) else { continue };
            let push = Push {
                cookie: hash,
                session: session.handle,
                kind: all.kind,
                flags: all.flags,
                body: all.body,
            };
            if self.outbox.put(gateway, weight, |out| push.put(out, false)) {
                reached += 1;
            }
        }
        self.answer_outcome(link, all.cookie, reached);
    }

    fn answer_outcome(&mut self, link: &Link, cookie: u64, reached: usize) {
        let code = if reached == 0 { Code::NotFound } else { Code::Ok };
        let outcome = Outcome { cookie, code, reached: u32::try_from(reached).unwrap_or(u32::MAX) };
        self.outbox.put(link, Weight::Answer, |out| outcome.put(out));
    }

    /// A refused subscription keeps its place in the shards that had one, until its link goes: taking it back
    /// could overtake the next try.
    pub(super) fn handle_subscribe(&mut self, link: Arc<Link>, app: &str, marks: &Marks, credit: &Credit) {
        if let Err(code) = self.try_subscribe(link, app, marks) {
            self.metrics.subscriptions_refused.increment();
            credit.refuse(code);
        }
        self.finish(credit);
    }

    fn try_subscribe(&mut self, link: Arc<Link>, app: &str, marks: &Marks) -> Result<(), Code> {
        // Apps are never forgotten: asking again does not help before a restart.
        let app = self.registry.intern_app(app).ok_or(Code::Limit)?;
        // Subscribers go, often the asker's own former link: it asks again, later.
        self.subscriptions.try_put(app, link, marks).then_some(()).ok_or(Code::Overloaded)
    }
}
