//! PULL: ranges of timelines, of an account for itself and of a group for its members.

use moor_wire::Code;
use moor_wire::client::Pulled;
use moor_wire::limits::SERVER_BODY_BYTES_MAX;
use prost::Message as _;

use super::delivery_of;
use crate::group::NO_GROUP;
use crate::limits::{HISTORIES_OUTSTANDING_MAX, HISTORY_MESSAGES_MAX};
use crate::shard::Shard;
use crate::shard::work::PullAsk;
use crate::store::groups::{GroupFound, GroupRead, History};
use crate::store::{AccountKey, Found, Read};

impl Shard {
    pub(super) fn run_pull(&mut self, key: &AccountKey, ask: PullAsk) {
        let since = self.living(key).and_then(|group| match ask.actor.as_deref() {
            None => Some(0),
            Some(actor) => group.members.get(actor).map(|member| member.since),
        });
        match since {
            Some(since) => self.read_history(key.clone(), since, ask),
            None => self.refuse_pull(&ask, NO_GROUP.0, NO_GROUP.1),
        }
    }

    pub(super) fn read_history(&mut self, key: AccountKey, since: u64, ask: PullAsk) {
        if self.groups.histories_outstanding >= HISTORIES_OUTSTANDING_MAX {
            return self.refuse_pull(&ask, Code::Overloaded, "too many ranges are asked for");
        }
        self.groups.histories_outstanding += 1;
        let limit = match ask.pull.limit as usize {
            0 => HISTORY_MESSAGES_MAX,
            limit => limit.min(HISTORY_MESSAGES_MAX),
        };
        let history = History {
            key,
            after: ask.pull.after,
            since,
            member: ask.actor.unwrap_or_default(),
            device: ask.device,
            limit,
            origin: ask.origin,
            id: ask.pull.id,
        };
        self.reads.push(Read::Group(Box::new(GroupRead::History(Box::new(history)))));
    }

    pub(super) fn answer_history(&mut self, history: &History, found: Found) {
        self.groups.histories_outstanding -= 1;
        let GroupFound::History { after } = found.group else { return };
        let mut pulled = Pulled {
            id: history.id,
            group: history.key.group().unwrap_or_default().to_owned(),
            after,
            head: found.extent.head,
            floor: found.extent.floor,
            through: found.through.max(after),
            ..Pulled::default()
        };
        // A PULLED is no longer than any other frame; its first message always fits.
        let mut room = SERVER_BODY_BYTES_MAX as usize - 512;
        for message in found.messages {
            let delivery = delivery_of(message, 0);
            let bytes = delivery.encoded_len() + 8;
            if bytes > room && !pulled.messages.is_empty() {
                pulled.through = pulled.messages.last().map_or(after, |last| last.sync_id);
                break;
            }
            room = room.saturating_sub(bytes);
            pulled.messages.push(delivery);
        }
        self.answer_pulled(&history.origin, pulled);
    }
}
