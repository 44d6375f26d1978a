//! Which of a worker's sessions are in which room.
//!
//! A channel in no room has nothing here and knows nothing of it: what a session is in hangs on a side table. A
//! membership is 28 bytes and its share of the side table (docs/capacity.md). Members sit in [`Lane`]s; whoever leaves
//! is replaced by another of the lane, so a lane is always a list without holes, to be walked quickly.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use foldhash::fast::FixedState;
use moor_wire::Code;
use moor_wire::identity::{ROOM_MARK, check_room};
use moor_wire::rooms::{Record, RoomState};

use super::handout::Waiting;
use super::lane::{Handout, Lane, Member};
use crate::limits::{ROOM_COUNT_MS, ROOM_LANE_MEMBERS, TICK_MS};
use crate::worker::channels::ChannelIndex;
use crate::worker::settings::RoomSettings;
use crate::worker::wheel::NIL;

/// Index of a room of one worker; it may stand for another room once the last member has left and that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomIndex(pub u32);

/// One session in one room, as the session sees it.
#[derive(Clone, Copy, Debug)]
struct Membership {
    room: u32,
    position: Position,
    /// The next one of the same channel, or the next free entry.
    next: u32,
}

const _: () = assert!(size_of::<Member>() + size_of::<Membership>() <= 28);

/// Where a member sits: in which lane, and at which place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position(u32);

impl Position {
    fn new(lane: usize, place: usize) -> Self {
        Self(u32::try_from(lane * ROOM_LANE_MEMBERS + place).unwrap_or(NIL))
    }

    const fn lane(self) -> usize {
        self.0 as usize / ROOM_LANE_MEMBERS
    }

    const fn place(self) -> usize {
        self.0 as usize % ROOM_LANE_MEMBERS
    }
}

/// A room with members, or one whose last member's leaving has not been told.
#[derive(Debug)]
pub struct Room {
    /// App, mark, name.
    key: Box<str>,
    app_bytes: usize,
    /// Its members; nobody is in the last lane only if nobody is in the room.
    lanes: Vec<Lane>,
    /// How many they are.
    members: u32,
    /// Members that the router was told of, on which link and when.
    told: u32,
    told_on: u16,
    told_ms: u64,
    /// True exactly when the room stands in the list of those to be told.
    is_changed: bool,
    /// True exactly when the room stands in the list of rooms with something to hand out.
    pub is_active: bool,
    /// Not told yet.
    likes: u64,
    /// As the router said last.
    pub state: RoomState,
    /// Being handed to the members of a lane. What the others get is put together when this has come to its end.
    pub handout: Option<Box<Handout>>,
}

/// What became of a message, all lanes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages that were left out, it or older ones.
    pub thinned: u64,
    /// Older reliable messages that will not be carried again.
    pub forgot: u64,
}

impl Room {
    /// Its app.
    pub fn app(&self) -> &str {
        &self.key[..self.app_bytes]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key[self.app_bytes + ROOM_MARK.len_utf8()..]
    }

    /// True exactly when nobody is in it.
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// What waits for those who are in it, once for each lane.
    pub fn waiting(&mut self) -> impl Iterator<Item = &mut Waiting> {
        let taken = self.lanes.iter_mut().filter(|lane| !lane.members.is_empty());
        taken.map(|lane| &mut lane.waiting)
    }

    /// Takes a message of the router's.
    pub fn take(&mut self, record: &Record<'_>, down_bytes: usize) -> Taken {
        let mut taken = Taken::default();
        if record.id > 0 {
            let message = Rc::from(record.message);
            self.waiting().for_each(|waiting| taken.forgot += waiting.take_reliable(record.id, &message));
        } else {
            self.waiting().for_each(|waiting| taken.thinned += waiting.take(record, down_bytes));
        }
        taken
    }

    /// When there is something to hand out, milliseconds; `u64::MAX`: there is nothing.
    pub fn due_ms(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.waiting.due_ms()).min().unwrap_or(u64::MAX)
    }

    /// Makes a batch for the lane that has waited longest, if it is due. Returns the bytes that were written.
    pub fn begin_batch(&mut self, down_ms: u64, now_ms: u64) -> Option<usize> {
        let lanes = self.lanes.len();
        let lane = (0..lanes).min_by_key(|lane| self.lanes[*lane].waiting.due_ms())?;
        // Not by `name`, which would borrow the lanes as well.
        let room = &self.key[self.app_bytes + ROOM_MARK.len_utf8()..];
        let handout = self.lanes[lane].begin((room, self.state), (lane, lanes), down_ms, now_ms)?;
        let bytes = handout.batch.bytes();
        self.handout = Some(Box::new(handout));
        Some(bytes)
    }

    /// Members of a lane who have not got its batch.
    pub fn remaining(&self, lane: usize) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.remaining)
    }

    /// The next one of them.
    pub fn next_member(&mut self, lane: usize) -> Option<Member> {
        self.lanes.get_mut(lane)?.next()
    }

    fn seat(&mut self, member: Member) -> Position {
        self.members += 1;
        let has_holes = self.members as usize <= self.lanes.len() * ROOM_LANE_MEMBERS;
        let lane = if has_holes { self.lanes.iter().position(Lane::has_place) } else { None };
        let lane = lane.unwrap_or_else(|| {
            // Most rooms are small.
            self.lanes.reserve_exact(1);
            self.lanes.push(Lane::default());
            self.lanes.len() - 1
        });
        Position::new(lane, self.lanes[lane].seat(member))
    }

    /// Somebody leaves. Returns those who sit elsewhere now, as their sessions see it.
    fn unseat(&mut self, position: Position) -> [Option<(u32, Position)>; 2] {
        self.members -= 1;
        let lane = position.lane();
        let moved = self.lanes[lane].unseat(position.place());
        let moved = moved.map(|place| {
            let member = self.lanes[lane].members.get(place)?;
            Some((member.membership, Position::new(lane, place)))
        });
        if self.lanes[lane].members.is_empty() {
            self.handout.take_if(|handout| handout.lane == lane);
            while self.lanes.pop_if(|last| last.members.is_empty()).is_some() {}
        }
        moved
    }

    const fn count(&self) -> u32 {
        self.members
    }
}

/// What is to be told of a room.
#[derive(Debug, PartialEq, Eq)]
pub struct Telling {
    /// Its app.
    pub app: String,
    /// Its name.
    pub room: String,
    /// Members now.
    pub members: u32,
    /// Likes since it was told last.
    pub likes: u64,
}

/// Rooms of one worker.
#[derive(Debug, Default)]
pub struct Rooms {
    rooms: Vec<Option<Room>>,
    free_rooms: Vec<u32>,
    /// Names come from clients: a hash that they cannot foresee.
    by_key: HashMap<Box<str>, u32>,
    /// How many of them are each app's.
    by_app: HashMap<Box<str>, u32>,
    memberships: Vec<Membership>,
    free_membership: Option<u32>,
    members: u64,
    /// First membership of each channel that is in a room. Indexes are the worker's choice.
    first: HashMap<u32, u32, FixedState>,
    /// For look-ups.
    key: String,
    changed: Vec<RoomIndex>,
    /// When something is to be told.
    tell_ms: u64,
    /// Rooms with something to be handed out, now or later.
    pub(super) active: VecDeque<RoomIndex>,
    /// When the first of those is due.
    pub(super) due_ms: u64,
    /// Rooms that are being handed out, in turn.
    pub(super) handing: VecDeque<RoomIndex>,
    /// When that goes on, milliseconds.
    pub(super) hand_ms: u64,
}

impl Rooms {
    /// Rooms that exist.
    pub fn rooms_open(&self) -> u64 {
        self.by_key.len() as u64
    }

    /// Sessions in rooms, once per room.
    pub const fn members_open(&self) -> u64 {
        self.members
    }

    /// When it next wants a turn, milliseconds.
    pub fn next_ms(&self, link_is_up: bool) -> u64 {
        let told = if link_is_up && !self.changed.is_empty() { self.tell_ms } else { u64::MAX };
        let handed = match (self.handing.is_empty(), self.active.is_empty()) {
            (false, _) => self.hand_ms,
            (true, false) => self.due_ms,
            (true, true) => u64::MAX,
        };
        told.min(handed)
    }

    /// Whether the batches under way have more members that may have them by now than a turn reached.
    pub fn is_behind(&self, now_ms: u64) -> bool {
        !self.handing.is_empty() && self.hand_ms <= now_ms
    }

    /// The room of an index.
    pub fn get(&self, index: RoomIndex) -> Option<&Room> {
        self.rooms.get(index.0 as usize)?.as_ref()
    }

    /// The room of an index.
    pub fn get_mut(&mut self, index: RoomIndex) -> Option<&mut Room> {
        self.rooms.get_mut(index.0 as usize)?.as_mut()
    }

    fn write_key(&mut self, app: &str, room: &str) {
        self.key.clear();
        self.key.push_str(app);
        self.key.push(ROOM_MARK);
        self.key.push_str(room);
    }

    /// A room by its names.
    pub fn find(&mut self, app: &str, room: &str) -> Option<RoomIndex> {
        self.write_key(app, room);
        self.by_key.get(self.key.as_str()).copied().map(RoomIndex)
    }

    /// A session enters a room. `last_id`: reliable messages up to this one are there; `None`: those that come from now
    /// on count. Entering twice changes nothing.
    ///
    /// # Errors
    /// A code and words for the client.
    pub fn enter(
        &mut self,
        channel: ChannelIndex,
        app: &str,
        room: &str,
        last_id: Option<u64>,
        settings: &RoomSettings,
    ) -> Result<RoomIndex, (Code, String)> {
        check_room(room).map_err(|error| (Code::Invalid, error.to_string()))?;
        let known = self.find(app, room);
        if let Some(index) = known
            && self.membership_of(channel, index).is_some()
        {
            return Ok(index);
        }
        if self.memberships_of(channel).count() >= settings.per_channel_max as usize {
            let detail = format!("at most {} rooms a session", settings.per_channel_max);
            return Err((Code::Limit, detail));
        }
        if known.is_none() && self.by_key.len() >= settings.per_worker_max as usize {
            return Err((Code::Overloaded, "there is no room for another room".to_owned()));
        }
        let per_app_max = settings.per_app_max;
        if known.is_none() && per_app_max > 0 && self.rooms_of(app) >= per_app_max {
            return Err((Code::Limit, format!("at most {per_app_max} rooms an app, here")));
        }
        let index = known.unwrap_or_else(|| self.open(app.len()));
        let membership = self.take_membership();
        let next = self.first.insert(channel.0, membership).unwrap_or(NIL);
        self.members += 1;
        if let Some(room) = self.get_mut(index) {
            let newest_id = room.state.newest_id;
            let acked_id = last_id.unwrap_or(newest_id).min(newest_id);
            let position = room.seat(Member { channel, membership, acked_id });
            self.memberships[membership as usize] = Membership { room: index.0, position, next };
        }
        self.change(index);
        Ok(index)
    }

    /// Rooms of an app that exist.
    fn rooms_of(&self, app: &str) -> u32 {
        self.by_app.get(app).copied().unwrap_or(0)
    }

    /// Makes the room of the key just looked up.
    fn open(&mut self, app_bytes: usize) -> RoomIndex {
        let room = Room {
            key: self.key.as_str().into(),
            app_bytes,
            lanes: Vec::new(),
            members: 0,
            told: 0,
            told_on: 0,
            told_ms: 0,
            is_changed: false,
            is_active: false,
            likes: 0,
            state: RoomState::default(),
            handout: None,
        };
        let index = self.free_rooms.pop().unwrap_or_else(|| {
            self.rooms.push(None);
            u32::try_from(self.rooms.len() - 1).unwrap_or(u32::MAX)
        });
        match self.by_app.get_mut(room.app()) {
            Some(rooms) => *rooms += 1,
            None => {
                self.by_app.insert(room.app().into(), 1);
            }
        }
        self.by_key.insert(room.key.clone(), index);
        self.rooms[index as usize] = Some(room);
        RoomIndex(index)
    }

    fn take_membership(&mut self) -> u32 {
        if let Some(free) = self.free_membership {
            let next = self.memberships[free as usize].next;
            self.free_membership = (next != NIL).then_some(next);
            return free;
        }
        self.memberships.push(Membership { room: NIL, position: Position(NIL), next: NIL });
        u32::try_from(self.memberships.len() - 1).unwrap_or(NIL)
    }

    fn memberships_of(&self, channel: ChannelIndex) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.first.get(&channel.0).copied().unwrap_or(NIL);
        std::iter::from_fn(move || {
            let current = at;
            at = self.memberships.get(current as usize)?.next;
            Some(current)
        })
    }

    fn membership_of(&self, channel: ChannelIndex, room: RoomIndex) -> Option<u32> {
        self.memberships_of(channel).find(|at| self.memberships[*at as usize].room == room.0)
    }

    /// A session as a member of a room.
    pub fn member_mut(&mut self, channel: ChannelIndex, room: RoomIndex) -> Option<&mut Member> {
        let membership = self.membership_of(channel, room)?;
        let position = self.memberships[membership as usize].position;
        self.get_mut(room)?.lanes.get_mut(position.lane())?.members.get_mut(position.place())
    }

    /// A session leaves a room, if it is in it.
    pub fn leave(&mut self, channel: ChannelIndex, app: &str, room: &str) {
        let Some(room) = self.find(app, room) else { return };
        let Some(membership) = self.membership_of(channel, room) else { return };
        let next = self.memberships[membership as usize].next;
        let before = self.memberships_of(channel).take_while(|at| *at != membership).last();
        match before {
            Some(before) => self.memberships[before as usize].next = next,
            None if next == NIL => drop(self.first.remove(&channel.0)),
            None => drop(self.first.insert(channel.0, next)),
        }
        self.take_out(membership);
    }

    /// A session ends.
    pub fn leave_all(&mut self, channel: ChannelIndex) {
        if self.first.is_empty() {
            return;
        }
        let mut at = self.first.remove(&channel.0).unwrap_or(NIL);
        while at != NIL {
            let next = self.memberships[at as usize].next;
            self.take_out(at);
            at = next;
        }
    }

    /// Frees a membership that no channel's list has any more.
    fn take_out(&mut self, membership: u32) {
        let Membership { room: index, position, .. } = self.memberships[membership as usize];
        self.memberships[membership as usize].next = self.free_membership.replace(membership).unwrap_or(NIL);
        self.members -= 1;
        if self.members == 0 {
            // Nobody is in any room: the night does not cost the memory of the day.
            (self.memberships, self.free_membership) = (Vec::new(), None);
            self.first.shrink_to_fit();
        }
        let Some(room) = self.rooms[index as usize].as_mut() else { return };
        let was_handing = room.handout.is_some();
        for (membership, position) in room.unseat(position).into_iter().flatten() {
            if let Some(entry) = self.memberships.get_mut(membership as usize) {
                entry.position = position;
            }
        }
        let (is_handing, due_ms) = (room.handout.is_some(), room.due_ms());
        let ends = room.is_empty() && std::mem::take(&mut room.is_active);
        let index = RoomIndex(index);
        if ends {
            self.active.retain(|active| *active != index);
        }
        if was_handing && !is_handing {
            self.handing.retain(|handed| *handed != index);
            self.due_ms = self.due_ms.min(due_ms);
        }
        self.change(index);
    }

    /// Likes from a member of a room.
    pub fn like(&mut self, room: RoomIndex, likes: u32) {
        if let Some(room) = self.get_mut(room) {
            room.likes += u64::from(likes);
        }
        self.change(room);
    }

    /// A room's count or its likes are others now. Its first member and its last one's leaving are told at once.
    fn change(&mut self, index: RoomIndex) {
        let Some(room) = self.rooms.get_mut(index.0 as usize).and_then(Option::as_mut) else { return };
        let is_urgent = (room.told == 0) != room.is_empty();
        self.tell_ms = self.tell_ms.min(if is_urgent { 0 } else { room.told_ms + ROOM_COUNT_MS });
        if !std::mem::replace(&mut room.is_changed, true) {
            self.changed.push(index);
        }
    }

    /// A new link knows nothing.
    pub fn tell_all_again(&mut self) {
        for index in 0..self.rooms.len() {
            let index = RoomIndex(u32::try_from(index).unwrap_or(NIL));
            if let Some(room) = self.get_mut(index) {
                (room.told, room.told_ms) = (0, 0);
                self.change(index);
            }
        }
        self.tell_ms = 0;
    }

    /// The link is full: what is to be told waits.
    pub const fn tell_later(&mut self, ms: u64) {
        self.tell_ms = ms;
    }

    /// Whether something is to be told.
    pub const fn has_news(&self, now_ms: u64) -> bool {
        !self.changed.is_empty() && self.tell_ms <= now_ms
    }

    /// Up to `max` rooms to be told of on a link. Rooms that nobody is in go when that is told.
    pub fn take_news(&mut self, link: u16, max: usize, now_ms: u64) -> Vec<Telling> {
        let mut news = Vec::new();
        self.tell_ms = u64::MAX;
        let mut changed = std::mem::take(&mut self.changed);
        changed.retain(|index| {
            let Some(room) = self.rooms.get_mut(index.0 as usize).and_then(Option::as_mut) else {
                return false;
            };
            let told = if room.told_on == link { room.told } else { 0 };
            // All that fall due in a tick are told at its end: each telling looks at every room that has changed.
            let later_ms = (room.told_ms + ROOM_COUNT_MS).next_multiple_of(TICK_MS);
            let due_ms = if (told == 0) == room.is_empty() { later_ms } else { 0 };
            let is_news = told != room.count() || room.likes > 0;
            if is_news && (due_ms > now_ms || news.len() >= max) {
                self.tell_ms = self.tell_ms.min(due_ms);
                return true;
            }
            if is_news {
                news.push(Telling {
                    app: room.app().to_owned(),
                    room: room.name().to_owned(),
                    members: room.count(),
                    likes: std::mem::take(&mut room.likes),
                });
            }
            (room.told, room.told_on, room.told_ms) = (room.count(), link, now_ms);
            room.is_changed = false;
            self.close_empty(*index);
            false
        });
        self.changed = changed;
        news
    }

    /// There is no link to tell anything on, and the next one is told everything: rooms that nobody is in are forgotten.
    pub fn tell_nobody(&mut self) {
        for index in std::mem::take(&mut self.changed) {
            if let Some(room) = self.get_mut(index) {
                room.is_changed = false;
            }
            self.close_empty(index);
        }
        if self.by_key.is_empty() {
            // The night does not cost the memory of the day.
            *self = Self { key: std::mem::take(&mut self.key), ..Self::default() };
        }
    }

    /// Forgets a room if nobody is in it.
    fn close_empty(&mut self, index: RoomIndex) {
        let Some(place) = self.rooms.get_mut(index.0 as usize) else { return };
        let Some(room) = place.take_if(|room| room.is_empty()) else { return };
        self.by_key.remove(&room.key);
        if let Some(rooms) = self.by_app.get_mut(room.app()) {
            *rooms -= 1;
            if *rooms == 0 {
                self.by_app.remove(room.app());
            }
        }
        self.free_rooms.push(index.0);
    }

    /// Checks what must hold at any time.
    #[cfg(test)]
    pub fn validate(&self) {
        let (mut counted, mut by_app) = (0, HashMap::<Box<str>, u32>::new());
        for (index, room) in (0..).zip(&self.rooms) {
            let Some(room) = room else { continue };
            assert_eq!(self.by_key.get(&room.key), Some(&index));
            *by_app.entry(room.app().into()).or_default() += 1;
            let mut members = 0;
            for (number, lane) in room.lanes.iter().enumerate() {
                for (place, member) in lane.members.iter().enumerate() {
                    let membership = self.memberships[member.membership as usize];
                    assert_eq!((membership.room, membership.position), (index, Position::new(number, place)));
                    assert_eq!(self.membership_of(member.channel, RoomIndex(index)), Some(member.membership));
                    members += 1;
                }
                assert!(lane.members.len() <= ROOM_LANE_MEMBERS && lane.remaining <= lane.members.len());
                assert!(!lane.members.is_empty() || lane.waiting.due_ms() == u64::MAX);
            }
            assert!(room.lanes.last().is_none_or(|last| !last.members.is_empty()));
            assert_eq!(room.members, members);
            counted += u64::from(members);
            let listed = |list: &mut dyn Iterator<Item = &RoomIndex>| list.filter(|at| at.0 == index).count();
            assert_eq!(listed(&mut self.active.iter()), usize::from(room.is_active));
            assert_eq!(listed(&mut self.handing.iter()), usize::from(room.handout.is_some()));
        }
        let exists = |index: &RoomIndex| self.get(*index).is_some();
        assert!(self.active.iter().all(exists) && self.handing.iter().all(exists));
        assert_eq!(counted, self.members);
        assert_eq!(by_app, self.by_app);
        let chained: usize =
            self.first.keys().map(|channel| self.memberships_of(ChannelIndex(*channel)).count()).sum();
        assert_eq!(chained as u64, self.members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_wire::client::Class;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SETTINGS: RoomSettings =
        RoomSettings { per_channel_max: 4, per_worker_max: 100, per_app_max: 0, down_ms: 0, down_bytes: 0 };

    fn members(rooms: &mut Rooms, room: &str) -> BTreeSet<u32> {
        let Some(index) = rooms.find("shop", room) else { return BTreeSet::new() };
        let lanes = &rooms.get(index).unwrap().lanes;
        lanes.iter().flat_map(|lane| &lane.members).map(|member| member.channel.0).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_sets_of_sessions(steps in prop::collection::vec((0u8..4, 0u32..12, 0u8..5), 1..300)) {
            let mut rooms = Rooms::default();
            let mut model = BTreeSet::<(String, u32)>::new();
            for (now_ms, (what, channel, room)) in (0..).zip(steps) {
                let (channel, room) = (ChannelIndex(channel), format!("room-{room}"));
                match what {
                    0 | 1 => {
                        let full = model.iter().filter(|(_, c)| *c == channel.0).count() >= 4;
                        let inside = model.contains(&(room.clone(), channel.0));
                        let entered = rooms.enter(channel, "shop", &room, None, &SETTINGS);
                        prop_assert_eq!(entered.is_ok(), inside || !full);
                        if entered.is_ok() {
                            model.insert((room, channel.0));
                        }
                    }
                    2 => {
                        rooms.leave(channel, "shop", &room);
                        model.remove(&(room, channel.0));
                    }
                    _ => {
                        rooms.leave_all(channel);
                        model.retain(|(_, c)| *c != channel.0);
                    }
                }
                if now_ms % 7 == 0 {
                    rooms.take_news(1, 100, now_ms);
                }
                rooms.validate();
                for room in (0..5).map(|room| format!("room-{room}")) {
                    let wanted: BTreeSet<u32> = model.iter().filter(|(r, _)| *r == room).map(|(_, c)| *c).collect();
                    prop_assert_eq!(members(&mut rooms, &room), wanted);
                }
            }
        }

        #[test]
        fn a_batch_under_way_reaches_everybody_who_stays_once(
            count in 1u32..40,
            steps in prop::collection::vec((0u32..60, any::<bool>(), 1usize..8), 1..60),
        ) {
            let mut rooms = Rooms::default();
            let mut index = None;
            for channel in 0..count {
                index = rooms.enter(ChannelIndex(channel), "shop", "live", None, &SETTINGS).ok();
            }
            let index = index.unwrap();
            let (mut reached, mut gone, mut late) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
            rooms.get_mut(index).unwrap().lanes[0].remaining = count as usize;
            for (channel, enters, slice) in steps {
                if enters && channel >= count {
                    if rooms.enter(ChannelIndex(channel), "shop", "live", None, &SETTINGS).is_ok() {
                        late.insert(channel);
                    }
                } else {
                    rooms.leave(ChannelIndex(channel), "shop", "live");
                    gone.insert(channel);
                }
                rooms.validate();
                let Some(room) = rooms.get_mut(index) else { break };
                reached.extend((0..slice).map_while(|_| room.next_member(0)).map(|member| member.channel.0));
            }
            if let Some(room) = rooms.get_mut(index) {
                reached.extend(std::iter::from_fn(|| room.next_member(0)).map(|member| member.channel.0));
            }
            let once: BTreeSet<u32> = reached.iter().copied().collect();
            prop_assert_eq!(once.len(), reached.len(), "nobody twice: {:?}", reached);
            prop_assert!((0..count).filter(|c| !gone.contains(c)).all(|c| once.contains(&c)));
            prop_assert!(late.iter().all(|c| !once.contains(c)), "who came later was not there");
        }
    }

    #[test]
    fn lanes_fill_up_before_there_is_another_and_go_when_nobody_is_left() {
        let mut rooms = Rooms::default();
        let enter = |rooms: &mut Rooms, channel| {
            rooms.enter(ChannelIndex(channel), "shop", "live", None, &SETTINGS).unwrap()
        };
        let lanes = |rooms: &mut Rooms| -> Vec<usize> {
            let Some(index) = rooms.find("shop", "live") else { return Vec::new() };
            rooms.get(index).unwrap().lanes.iter().map(|lane| lane.members.len()).collect()
        };
        let count = u32::try_from(2 * ROOM_LANE_MEMBERS + 10).unwrap();
        let index = (0..count).map(|channel| enter(&mut rooms, channel)).last().unwrap();
        assert_eq!(lanes(&mut rooms), [ROOM_LANE_MEMBERS, ROOM_LANE_MEMBERS, 10]);
        // Ten of the first lane go, and ten others take their places.
        (5..15).for_each(|channel| rooms.leave_all(ChannelIndex(channel)));
        rooms.validate();
        assert!(
            (count..count + 11).map(|channel| enter(&mut rooms, channel)).all(|entered| entered == index)
        );
        assert_eq!(lanes(&mut rooms), [ROOM_LANE_MEMBERS, ROOM_LANE_MEMBERS, 11]);
        rooms.validate();
        // What waited for the last lane goes with it, and what was being handed to it.
        let room = rooms.get_mut(index).unwrap();
        let said = Record { class: Class::Normal, id: 0, message: b"hello" };
        room.take(&said, 0);
        for lane in 0..3 {
            assert!(room.begin_batch(1000, 5).is_some());
            assert_eq!(room.handout.as_ref().unwrap().lane, lane);
        }
        room.take(&said, 0);
        assert_eq!((room.due_ms(), room.begin_batch(1000, 1004)), (1005, None));
        rooms.handing.push_back(index);
        let last: Vec<u32> =
            rooms.get(index).unwrap().lanes[2].members.iter().map(|member| member.channel.0).collect();
        rooms.due_ms = u64::MAX;
        last.into_iter().for_each(|channel| rooms.leave_all(ChannelIndex(channel)));
        rooms.validate();
        assert_eq!((lanes(&mut rooms).len(), rooms.handing.len(), rooms.due_ms), (2, 0, 1005));
        (0..count + 11).for_each(|channel| rooms.leave_all(ChannelIndex(channel)));
        rooms.validate();
        assert!(lanes(&mut rooms).is_empty());
    }

    #[test]
    fn counts_are_told_at_once_when_somebody_is_first_or_last_and_else_now_and_then() {
        let mut rooms = Rooms::default();
        let counts = |rooms: &mut Rooms, now_ms| -> Vec<u32> {
            rooms.take_news(1, 100, now_ms).into_iter().map(|told| told.members).collect()
        };
        rooms.enter(ChannelIndex(1), "shop", "live", None, &SETTINGS).unwrap();
        assert!(rooms.has_news(1000));
        assert_eq!(counts(&mut rooms, 1000), [1]);
        let room = rooms.enter(ChannelIndex(2), "shop", "live", None, &SETTINGS).unwrap();
        assert!(!rooms.has_news(1000 + ROOM_COUNT_MS - 1), "the second one waits");
        assert_eq!(rooms.next_ms(true), 1000 + ROOM_COUNT_MS);
        assert_eq!(counts(&mut rooms, 1000 + ROOM_COUNT_MS), [2]);
        rooms.like(room, 3);
        rooms.like(room, 4);
        let told = rooms.take_news(1, 100, 3000);
        assert_eq!((told[0].members, told[0].likes), (2, 7));
        rooms.tell_all_again();
        assert_eq!(counts(&mut rooms, 3001), [2], "to a new link at once");
        rooms.leave_all(ChannelIndex(1));
        rooms.leave_all(ChannelIndex(2));
        assert!(rooms.has_news(3002));
        assert_eq!(counts(&mut rooms, 3002), [0]);
        assert_eq!((rooms.rooms_open(), rooms.members_open(), rooms.next_ms(true)), (0, 0, u64::MAX));
    }

    #[test]
    fn counts_that_fall_due_in_a_tick_are_told_together() {
        let mut rooms = Rooms::default();
        for (name, now_ms) in [("one", 1001), ("other", 1050)] {
            rooms.enter(ChannelIndex(1), "shop", name, None, &SETTINGS).unwrap();
            assert_eq!(rooms.take_news(1, 100, now_ms).len(), 1);
            rooms.enter(ChannelIndex(2), "shop", name, None, &SETTINGS).unwrap();
        }
        let due_ms = (1001 + ROOM_COUNT_MS).next_multiple_of(TICK_MS);
        assert_eq!((rooms.take_news(1, 100, due_ms - 1).len(), rooms.next_ms(true)), (0, due_ms));
        assert_eq!(rooms.take_news(1, 100, due_ms).len(), 2);
    }

    #[test]
    fn who_was_never_told_of_is_not_told_to_have_left() {
        let mut rooms = Rooms::default();
        rooms.enter(ChannelIndex(1), "shop", "live", None, &SETTINGS).unwrap();
        rooms.leave(ChannelIndex(1), "shop", "live");
        assert_eq!(rooms.take_news(1, 100, 1000), []);
        assert_eq!(rooms.rooms_open(), 0);
    }

    #[test]
    fn names_and_limits_are_refused_with_words() {
        let mut rooms = Rooms::default();
        let settings = RoomSettings { per_channel_max: 1, per_worker_max: 2, ..SETTINGS };
        let mut enter = |channel, room: &str| {
            rooms.enter(ChannelIndex(channel), "shop", room, None, &settings).map_err(|(code, _)| code)
        };
        assert_eq!(enter(1, ""), Err(Code::Invalid));
        assert_eq!(enter(1, "a\u{2}b"), Err(Code::Invalid));
        assert!(enter(1, "a").is_ok() && enter(1, "a").is_ok() && enter(2, "b").is_ok());
        assert_eq!(enter(1, "b"), Err(Code::Limit));
        assert_eq!(enter(3, "c"), Err(Code::Overloaded));
    }

    #[test]
    fn an_app_has_so_many_rooms_and_another_its_own() {
        let mut rooms = Rooms::default();
        let settings = RoomSettings { per_app_max: 2, ..SETTINGS };
        let enter = |rooms: &mut Rooms, channel, app: &str, room: &str| {
            rooms.enter(ChannelIndex(channel), app, room, None, &settings).map(drop).map_err(|(code, _)| code)
        };
        for room in ["a", "b"] {
            assert_eq!(enter(&mut rooms, 1, "shop", room), Ok(()));
        }
        assert_eq!(enter(&mut rooms, 2, "shop", "c"), Err(Code::Limit));
        assert_eq!(enter(&mut rooms, 2, "shop", "a"), Ok(()), "one that exists may be entered");
        assert_eq!(enter(&mut rooms, 3, "bank", "c"), Ok(()));
        rooms.validate();
        // It is gone when that was told.
        rooms.take_news(1, 100, 1000);
        rooms.leave(ChannelIndex(1), "shop", "b");
        assert_eq!(enter(&mut rooms, 2, "shop", "c"), Err(Code::Limit));
        rooms.take_news(1, 100, 2000);
        rooms.validate();
        assert_eq!(enter(&mut rooms, 2, "shop", "c"), Ok(()));
        rooms.leave_all(ChannelIndex(1));
        rooms.leave_all(ChannelIndex(2));
        rooms.leave_all(ChannelIndex(3));
        rooms.tell_nobody();
        rooms.validate();
    }
}
