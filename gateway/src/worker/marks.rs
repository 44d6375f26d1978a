//! Read marks on their way to the router. What cannot be taken is not answered: the client says it again.

use moor_ring::Slot;
use moor_wire::Code;
use moor_wire::client::{Kind, ReadMark, sync_id};
use moor_wire::frame::Header;
use moor_wire::identity::check_conversation;
use prost::Message;

use super::counters::Counter;
use super::io::Io;
use super::{Now, Worker};

impl<I: Io> Worker<I> {
    /// A client's READ or READ_MARKS.
    pub(super) fn handle_marks(&mut self, slot: Slot, kind: Kind, header: Header, body: &[u8], now: Now) {
        let Some(channel) = self.channel_of(slot, header.channel) else {
            return self.close_frame(slot, header.channel, Code::NotFound, "no such channel is open", now);
        };
        let is_right = match kind {
            Kind::ReadMarks => sync_id(body).is_some(),
            _ => ReadMark::decode(body).is_ok_and(|mark| check_conversation(&mark.conversation).is_ok()),
        };
        if !is_right {
            let detail = "READ carries a conversation and a sync id, READ_MARKS eight bytes";
            return self.refuse_bytes(slot, Code::ProtocolError, detail, now);
        }
        // Stored like a message, and paced like one.
        if self.is_metered(slot) && !self.meter_message(slot, header.channel, now) {
            return self.counters.add(Counter::MessagesLimited);
        }
        if !self.forward(slot, channel, header, body, now) {
            self.counters.add(Counter::UpstreamRefused);
        }
    }
}
