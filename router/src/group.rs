//! A group: who is in it, and who may change it. No I/O, no clock.
//!
//! A change is decided here, from what is known of the group, as the event that will stand in its timeline; once
//! that is stored it is applied. Asked twice, the second time finds it done and decides nothing: a client whose
//! answer was lost may ask again.

use std::collections::BTreeMap;
use std::sync::Arc;

use moor_wire::Code;
use moor_wire::client::{Act, GroupEvent, GroupMember, GroupRequest, GroupRole};
use moor_wire::identity::{account_hash, check_account};
use moor_wire::limits::{GROUP_NAMES_MAX, GROUP_TITLE_BYTES_MAX};

use crate::limits::GROUP_MEMBERS_MAX;
use crate::store::groups::GroupRows;

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it may do.
    pub role: GroupRole,
    /// The entry with which it joined: the first it is given.
    pub since: u64,
    /// Hash of the account.
    pub hash: u64,
    /// It does not want to be told of what is said while it is away.
    pub is_muted: bool,
}

/// A member as others need to know it.
#[derive(Clone, Debug)]
pub struct MemberKey {
    /// The account.
    pub account: Arc<str>,
    /// Its hash.
    pub hash: u64,
    /// The entry with which it joined.
    pub since: u64,
    /// It does not want to be told of what is said while it is away.
    pub is_muted: bool,
}

/// A group that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its title.
    pub title: String,
    /// Anybody may join.
    pub is_open: bool,
    /// Nothing happens in it any more.
    pub is_dissolved: bool,
    /// By name.
    pub members: BTreeMap<Arc<str>, Member>,
}

/// Why something is refused.
pub type Refused = (Code, &'static str);

const NOT_ALLOWED: Refused = (Code::Unauthorized, "the asking account's role in the group does not allow it");
/// There is no such group, or the asking account is not in it: a stranger is not told which.
pub const NO_GROUP: Refused = (Code::NotFound, "no such group");

fn names(accounts: &[String]) -> Result<(), Refused> {
    if accounts.len() > GROUP_NAMES_MAX {
        return Err((Code::TooLarge, "more accounts in one change than are allowed"));
    }
    if accounts.iter().any(|name| check_account(name).is_err()) {
        return Err((Code::Invalid, "an account's name is empty, too long or has control characters"));
    }
    Ok(())
}

fn set(account: &str, role: GroupRole) -> GroupMember {
    GroupMember { account: account.to_owned(), role: role.into() }
}

/// Decides on a new group.
pub fn create(actor: Option<&str>, request: &GroupRequest) -> Result<GroupEvent, Refused> {
    let Some(Act::Create(create)) = &request.act else { return Err(NO_GROUP) };
    names(&create.members)?;
    if create.title.len() > GROUP_TITLE_BYTES_MAX || create.title.chars().any(char::is_control) {
        return Err((Code::Invalid, "a title has at most 128 bytes and no control characters"));
    }
    let owner = actor.unwrap_or(&create.owner);
    if check_account(owner).is_err() {
        return Err((Code::Invalid, "a group needs an owner"));
    }
    let mut members: Vec<&str> = create.members.iter().map(String::as_str).filter(|m| *m != owner).collect();
    members.sort_unstable();
    members.dedup();
    let members = members.into_iter().map(|member| set(member, GroupRole::Member));
    Ok(GroupEvent {
        by: actor.unwrap_or_default().to_owned(),
        created: true,
        title: create.title.clone(),
        is_open: create.is_open,
        set: std::iter::once(set(owner, GroupRole::Owner)).chain(members).collect(),
        ..GroupEvent::default()
    })
}

impl Group {
    /// A group read back.
    pub fn from_rows(app: &str, rows: &GroupRows) -> Self {
        let members = rows.members.iter().map(|row| {
            let (role, since, is_muted) = (row.role, row.since, row.is_muted);
            let member = Member { role, since, hash: account_hash(app, &row.account), is_muted };
            (Arc::from(row.account.as_str()), member)
        });
        Self {
            title: rows.title.clone(),
            is_open: rows.is_open,
            is_dissolved: rows.is_dissolved,
            members: members.collect(),
        }
    }

    /// A member's role; for the operator the owner's.
    pub fn role(&self, actor: Option<&str>) -> GroupRole {
        let role = |actor| self.members.get(actor).map_or(GroupRole::None, |member| member.role);
        actor.map_or(GroupRole::Owner, role)
    }

    /// Decides on a change; `None`: it is as asked for already.
    pub fn decide(&self, actor: Option<&str>, request: &GroupRequest) -> Result<Option<GroupEvent>, Refused> {
        let role = self.role(actor);
        let may = |least: GroupRole| if role >= least { Ok(()) } else { Err(NOT_ALLOWED) };
        let mut event = GroupEvent { by: actor.unwrap_or_default().to_owned(), ..GroupEvent::default() };
        match request.act.as_ref() {
            Some(Act::Create(create)) => {
                let owner = actor.unwrap_or(&create.owner);
                return if self.role(Some(owner)) == GroupRole::Owner {
                    Ok(None)
                } else {
                    Err((Code::Invalid, "there is a group of that name"))
                };
            }
            _ if role == GroupRole::None && !(self.is_open && matches!(request.act, Some(Act::Join(_)))) => {
                return match request.act {
                    // Gone already.
                    Some(Act::Leave(_)) => Ok(None),
                    _ => Err(NO_GROUP),
                };
            }
            Some(Act::Join(_)) => {
                let Some(actor) = actor else { return Err((Code::Invalid, "an operator adds accounts")) };
                if !self.members.contains_key(actor) {
                    event.set.push(set(actor, GroupRole::Member));
                }
            }
            Some(Act::Add(add)) => {
                may(GroupRole::Admin)?;
                names(&add.accounts)?;
                let mut new: Vec<&str> = add.accounts.iter().map(String::as_str).collect();
                new.sort_unstable();
                new.dedup();
                let new = new.into_iter().filter(|name| !self.members.contains_key(*name));
                event.set.extend(new.map(|name| set(name, GroupRole::Member)));
            }
            Some(Act::Remove(remove)) => {
                names(&remove.accounts)?;
                for name in &remove.accounts {
                    let Some(member) = self.members.get(name.as_str()) else { continue };
                    let is_self = actor == Some(name.as_str());
                    if (!is_self && (role < GroupRole::Admin || (actor.is_some() && member.role >= role)))
                        || member.role == GroupRole::Owner
                    {
                        return Err(NOT_ALLOWED);
                    }
                    if !event.removed.contains(name) {
                        event.removed.push(name.clone());
                    }
                }
            }
            Some(Act::Leave(_)) => {
                if role == GroupRole::Owner {
                    return Err((Code::Invalid, "the owner gives the group away or dissolves it"));
                }
                event.removed.extend(actor.map(str::to_owned));
            }
            Some(Act::Role(wish)) => {
                may(GroupRole::Owner)?;
                self.decide_role(wish, &mut event)?;
            }
            Some(Act::Dissolve(_)) => {
                may(GroupRole::Owner)?;
                event.dissolved = true;
            }
            _ => return Err((Code::Invalid, "nothing is asked for")),
        }
        let joining = event.set.iter().filter(|m| !self.members.contains_key(m.account.as_str())).count();
        if self.members.len() + joining > GROUP_MEMBERS_MAX {
            return Err((Code::Limit, "the group has as many members as a group may have"));
        }
        let is_change = event.dissolved || !event.set.is_empty() || !event.removed.is_empty();
        Ok(is_change.then_some(event))
    }

    /// There is one owner: who is made it takes the place of the one before.
    fn decide_role(&self, wish: &GroupMember, event: &mut GroupEvent) -> Result<(), Refused> {
        let Some(member) = self.members.get(wish.account.as_str()) else {
            return Err((Code::NotFound, "that account is not in the group"));
        };
        let role = wish.role();
        if role == GroupRole::None {
            return Err((Code::Invalid, "a role is member, admin or owner"));
        }
        if member.role == role {
            return Ok(());
        }
        if member.role == GroupRole::Owner {
            return Err((Code::Invalid, "make another account the owner instead"));
        }
        if role == GroupRole::Owner {
            let owners = self.members.iter().filter(|(_, member)| member.role == GroupRole::Owner);
            event.set.extend(owners.map(|(name, _)| set(name, GroupRole::Admin)));
        }
        event.set.push(set(&wish.account, role));
        Ok(())
    }

    /// A change that stands in the timeline as `sync_id`.
    pub fn apply(&mut self, app: &str, event: &GroupEvent, sync_id: u64) {
        if event.created {
            (self.title, self.is_open) = (event.title.clone(), event.is_open);
        }
        for new in &event.set {
            let role = new.role();
            match self.members.get_mut(new.account.as_str()) {
                Some(member) => member.role = role,
                None => {
                    let hash = account_hash(app, &new.account);
                    let member = Member { role, since: sync_id, hash, is_muted: false };
                    self.members.insert(new.account.as_str().into(), member);
                }
            }
        }
        for name in &event.removed {
            self.members.remove(name.as_str());
        }
        self.is_dissolved |= event.dissolved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moor_wire::client::{GroupCreate, GroupNames, GroupNothing};

    fn ask(act: Act) -> GroupRequest {
        GroupRequest { id: 1, group: "friends".into(), act: Some(act) }
    }

    fn group() -> Group {
        let request = ask(Act::Create(GroupCreate {
            members: vec!["bob".into(), "ann".into(), "bob".into(), "carol".into()],
            ..GroupCreate::default()
        }));
        let event = create(Some("ann"), &request).unwrap();
        let mut group = Group::default();
        group.apply("shop", &event, 1);
        assert_eq!(group.members.len(), 3);
        group
    }

    fn role(account: &str, role: GroupRole) -> Act {
        Act::Role(set(account, role))
    }

    fn names(accounts: &[&str]) -> GroupNames {
        GroupNames { accounts: accounts.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn who_may_do_what() {
        let mut group = group();
        let code = |group: &Group, actor: &str, act: Act| {
            group.decide(Some(actor), &ask(act)).map(|event| event.is_some()).map_err(|(code, _)| code)
        };
        let (ann, bob, eve) = ("ann", "bob", "eve");
        assert_eq!(code(&group, bob, Act::Add(names(&["eve"]))), Err(Code::Unauthorized));
        assert_eq!(code(&group, bob, Act::Remove(names(&["carol"]))), Err(Code::Unauthorized));
        assert_eq!(code(&group, bob, Act::Dissolve(GroupNothing {})), Err(Code::Unauthorized));
        assert_eq!(code(&group, bob, Act::Remove(names(&["bob"]))), Ok(true), "oneself");
        assert_eq!(code(&group, eve, Act::Join(GroupNothing {})), Err(Code::NotFound));
        assert_eq!(code(&group, eve, Act::Leave(GroupNothing {})), Ok(false));
        assert_eq!(code(&group, ann, Act::Leave(GroupNothing {})), Err(Code::Invalid), "the owner stays");
        assert_eq!(code(&group, ann, Act::Add(names(&["bob"]))), Ok(false), "as it is");
        let event = group.decide(Some(ann), &ask(role(bob, GroupRole::Admin))).unwrap().unwrap();
        group.apply("shop", &event, 2);
        assert_eq!(code(&group, bob, Act::Add(names(&["eve"]))), Ok(true));
        assert_eq!(code(&group, bob, Act::Remove(names(&["ann"]))), Err(Code::Unauthorized));
        assert_eq!(code(&group, bob, role("carol", GroupRole::Admin)), Err(Code::Unauthorized));
        // Given away: the former owner is an admin, and there is one owner.
        let event = group.decide(Some(ann), &ask(role(bob, GroupRole::Owner))).unwrap().unwrap();
        group.apply("shop", &event, 3);
        assert_eq!((group.role(Some(ann)), group.role(Some(bob))), (GroupRole::Admin, GroupRole::Owner));
        assert_eq!(group.members["bob"].since, 1, "a role is no new membership");
        group.is_open = true;
        assert_eq!(code(&group, eve, Act::Join(GroupNothing {})), Ok(true));
    }

    #[test]
    fn a_group_is_never_larger_than_allowed() {
        let mut group = group();
        for number in group.members.len()..GROUP_MEMBERS_MAX {
            let member = Member { role: GroupRole::Member, since: 1, hash: 0, is_muted: false };
            group.members.insert(format!("member-{number}").into(), member);
        }
        let refused = group.decide(None, &ask(Act::Add(names(&["one-more"])))).unwrap_err();
        assert_eq!(refused.0, Code::Limit);
        assert_eq!(group.decide(None, &ask(Act::Add(names(&["bob"])))), Ok(None));
    }
}
