//! An account's devices among themselves: who may be there beside whom, and what they are told of each other.

use moor_wire::Code;
use moor_wire::client::{Class, DeviceAck, Kind};
use moor_wire::identity::device_kind;
use moor_wire::internal::Push;
use prost::Message as _;

use crate::apps::DevicePolicy;
use crate::outbox::Weight;
use crate::registry::{AccountIndex, SessionIndex};
use crate::shard::Shard;

impl Shard {
    /// A session is new, not only announced again: closes those that its app's policy excludes beside it. A
    /// session of the same device stays: that is the device itself, coming back.
    pub(super) fn make_way(&mut self, new: SessionIndex) {
        let Some(session) = self.registry.session(new) else { return };
        let Some(account) = self.registry.account(session.account) else { return };
        let (is_excluded, reason): (fn(&str, &str) -> bool, _) =
            match self.apps.of(&self.registry.app_name(account.app)).devices {
                DevicePolicy::All => return,
                DevicePolicy::Latest => (|_, _| true, "another device logged in"),
                DevicePolicy::OnePerKind => {
                    (|kind, other| kind == other, "another device of this kind logged in")
                }
            };
        let kind = device_kind(&session.device);
        let excluded: Vec<SessionIndex> = self
            .registry
            .sessions_of(session.account)
            .filter(|index| {
                self.registry.session(*index).is_some_and(|other| {
                    other.device != session.device && is_excluded(kind, device_kind(&other.device))
                })
            })
            .collect();
        for index in excluded {
            self.metrics.devices_kicked.increment();
            self.kick_session(index, Code::Kicked, reason);
            self.drop_session(index);
        }
    }

    /// A device acknowledged everything up to `acked`: the account's other devices may show it.
    pub(super) fn tell_device_ack(&mut self, from: SessionIndex, acked: u64) {
        if !self.has_device_acks {
            return;
        }
        let Some(session) = self.registry.session(from) else { return };
        let (owner, device) = (session.account, session.device.clone());
        let Some(account) = self.registry.account(owner) else { return };
        if account.sessions < 2 || !self.apps.of(&self.registry.app_name(account.app)).device_acks {
            return;
        }
        let body = DeviceAck { device: device.to_string(), sync_id: acked }.encode_to_vec();
        self.metrics.device_acks.increment();
        self.push_others(owner, Some(&device), Kind::DeviceAck, Class::Transient, &body);
    }

    /// Pushes a frame to every session of an account but those of one device.
    pub(super) fn push_others(
        &mut self,
        owner: AccountIndex,
        but: Option<&str>,
        kind: Kind,
        class: Class,
        body: &[u8],
    ) {
        let Some(hash) = self.registry.account(owner).map(|account| account.hash) else { return };
        for index in self.registry.sessions_of(owner) {
            let Some(session) = self.registry.session(index) else { continue };
            if but == Some(&*session.device) {
                continue;
            }
            let Some(link) = self.links.get(&session.link).filter(|link| link.is_live()) else { continue };
            let push =
                Push { cookie: hash, session: session.handle, kind: kind.byte(), flags: class.flags(), body };
            self.outbox.put(link, Weight::of(class), |out| push.put(out, false));
        }
    }
}
