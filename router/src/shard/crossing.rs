//! What becomes of work that another shard has no room for: it is refused where somebody waits for an answer, and forgotten
//! where its sender says it again by itself. What a gateway says once (who is here, who has gone, that this was all,
//! how many are in a room) has twice the room; beyond that its link ends, and on the next one everything is said anew.

use moor_wire::Code;
use moor_wire::internal::{Outcome, PushAccount};

use crate::lease::Link;
use crate::outbox::Weight;
use crate::shard::Shard;
use crate::shard::rooms::RoomWork;
use crate::shard::work::Work;

impl Shard {
    /// Another shard's queue is full.
    pub fn refuse_crossing(&mut self, work: Work) {
        match work {
            Work::Submit(submit) => {
                self.metrics.refused_overload.increment();
                self.answer(&submit, Code::Overloaded, None, "too many messages wait for their shard");
            }
            Work::Group { ask, .. } => {
                self.refuse_ask(&ask, Code::Overloaded, "too much waits for the group's shard");
            }
            Work::Pull { ask, .. } => {
                self.refuse_pull(&ask, Code::Overloaded, "too much waits for the timeline's shard");
            }
            Work::Relay { submit, .. } => {
                self.refuse_relay(&submit, "too many messages wait for their shard")
            }
            Work::Subscribe { credit, .. } => {
                self.metrics.subscriptions_refused.increment();
                credit.refuse(Code::Overloaded);
                self.finish(&credit);
            }
            Work::Lookup { link, cookie, .. } => self.refuse_lookup(link, cookie),
            Work::Kick { link, kick, .. } => self.refuse_outcome(&link, kick.cookie),
            Work::PushAccount { link, body, .. } => {
                if let Ok(all) = PushAccount::parse(&body) {
                    self.refuse_outcome(&link, all.cookie);
                }
            }
            Work::Register { link, .. }
            | Work::Unregister { link, .. }
            | Work::Room(RoomWork::Count { link, .. }) => self.end_link(&link),
            Work::Synced(synced) => self.end_link(&synced.link),
            Work::Room(work) => self.refuse_room_crossing(work),
            Work::NotHere { .. }
            | Work::Marks { .. }
            | Work::Cursor { .. }
            | Work::Spread(_)
            | Work::SpreadDone { .. }
            | Work::Mute { .. }
            | Work::GroupAck { .. }
            | Work::Positions(_)
            | Work::Vacancy(_)
            | Work::VacancyFound { .. }
            | Work::Heads(_)
            | Work::HeadsFound { .. } => {}
        }
    }

    fn refuse_outcome(&mut self, link: &Link, cookie: u64) {
        let outcome = Outcome { cookie, code: Code::Overloaded, reached: 0 };
        self.outbox.put(link, Weight::Answer, |out| outcome.put(out));
    }

    fn end_link(&mut self, link: &Link) {
        tracing::warn!(node = %link.node, worker = link.worker, "another shard is too far behind: the gateway is to come again");
        self.metrics.links_overrun.increment();
        self.outbox.close(link.id);
    }
}
