//! What refers to blobs, for the blob service. A record makes the same each time that its outputs are made,
//! by the record alone and the place of its event.

use event_log::Topic;
use runtime::ids::ConversationId;

use super::{Io, Pending};
use crate::{
    codec::{self, GroupChange, Send},
    model::Event,
};

impl Io {
    /// The blobs of a message.
    pub(super) fn refer_to_attachments(&mut self, at: &Pending, event: &Event, send: &Send) {
        let attachments = &send.body.attachments;
        if attachments.is_empty() {
            return;
        }
        let conversation = event.conversation;
        let payload = codec::encode_event_references(conversation, event.seq, attachments);
        self.derive(Topic::References, at, conversation, payload);
    }

    /// The picture of a group, if the change is about it.
    pub(super) fn refer_to_picture(
        &mut self,
        at: &Pending,
        conversation: ConversationId,
        change: &GroupChange,
    ) {
        if let Some(payload) = codec::encode_group_picture(conversation, &change.record) {
            self.derive(Topic::References, at, conversation, payload);
        }
    }
}
