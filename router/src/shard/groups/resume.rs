//! What a former process left unspread: accepted, and not in all members' timelines. It is finished after a restart, whether
//! anybody uses those groups or not: a page of the file at each tick, as long as few of them are still under way. They have
//! room beside the groups in use, and leave memory as soon as they are spread.

use super::state::Waiting;
use crate::limits::{GROUPS_RESUMED_MAX, UNSPREAD_PAGE};
use crate::shard::Shard;
use crate::store::groups::GroupRead;
use crate::store::{AccountKey, Read};

impl Shard {
    /// Begins to look for such groups. Called once, before everything else.
    pub fn begin(&mut self) {
        self.groups.unspread_after = Some(0);
        self.look_for_unspread();
    }

    /// Asks for the next page, if there is one and nobody asks for it already.
    pub(super) fn look_for_unspread(&mut self) {
        let has_room = self.groups.resumed + UNSPREAD_PAGE <= GROUPS_RESUMED_MAX;
        if has_room
            && !self.is_stopping
            && let Some(after) = self.groups.unspread_after.take()
        {
            self.reads.push(Read::Group(Box::new(GroupRead::Unspread { after })));
        }
    }

    /// A page is read.
    pub(super) fn handle_unspread(&mut self, keys: Vec<AccountKey>, end: Option<i64>, now_ms: u64) {
        self.groups.unspread_after = end;
        for key in keys {
            self.enter_group(key, Waiting::Look, now_ms);
        }
    }
}
