//! Huge groups. Nobody writes their rows for each message: they are kept here, and go along with what this
//! device holds, so that an app sees them like any others.

use tokio::time::Instant;

use super::{GRACE, Inbox, Output, Unknown};
use crate::model::{
    Attachment, Conversation, DeferredHead, MemberMarks, Preview, RawEvent, Watermark, is_video,
};
use proto::messaging::v1::event::Kind;

/// Rows that are kept: more than a server names.
const DEFERRED_MAX: usize = 256;
/// Unicode scalar values of a preview, as in the rows of the server.
const PREVIEW_CHARS_MAX: usize = 100;

/// The row of a huge group, as far as this device knows.
#[derive(Debug)]
pub(super) struct DeferredRow(Conversation);

impl DeferredRow {
    pub(super) fn new(mut row: Conversation, last_event: Watermark) -> Self {
        row.last_seq = row.last_seq.max(last_event.seq);
        row.last_message_index = row.last_message_index.max(last_event.message_index);
        let mut row = Self(row);
        row.count();
        row
    }

    pub(super) fn row(&self) -> &Conversation {
        &self.0
    }

    /// Takes over what is larger in a row: a pushed one is as old as its last record, but for the marks.
    pub(super) fn merge(&mut self, row: &Conversation) {
        let known = &mut self.0;
        known.version = known.version.max(row.version);
        known.last_seq = known.last_seq.max(row.last_seq);
        known.last_message_index = known.last_message_index.max(row.last_message_index);
        let seq = |preview: &Option<Preview>| preview.as_ref().map(|preview| preview.seq);
        if seq(&row.preview) > seq(&known.preview) {
            known.preview.clone_from(&row.preview);
        }
        if row.group.is_some() {
            known.group.clone_from(&row.group);
        }
        if let Some(own) = &row.own_marks {
            self.own(own);
        }
        self.count();
    }

    /// The next event that the device holds.
    pub(super) fn event(&mut self, event: &RawEvent, own_user_id: &str) {
        let known = &mut self.0;
        known.last_seq = known.last_seq.max(event.seq);
        known.last_message_index = known.last_message_index.max(event.message_index);
        if let Some(Kind::Message(message)) = &event.kind {
            let is_video = |attachment: &&Attachment| is_video(attachment);
            let is_newer = known.preview.as_ref().is_none_or(|p| p.seq < event.seq);
            if is_newer {
                known.preview = Some(Preview {
                    sender_id: event.sender_id.clone(),
                    message_id: message.message_id.clone(),
                    seq: event.seq,
                    time_unix_ms: event.time_unix_ms,
                    text: message.text.chars().take(PREVIEW_CHARS_MAX).collect(),
                    joined: false,
                    attachment_count: count(message.attachments.len()),
                    video_count: count(message.attachments.iter().filter(is_video).count()),
                });
            }
            if event.sender_id == own_user_id {
                // Who sends has read up to it.
                let up_to = Some(Watermark {
                    seq: event.seq,
                    message_index: event.message_index,
                });
                self.own(&MemberMarks {
                    user_id: own_user_id.to_owned(),
                    delivered: up_to,
                    read: up_to,
                });
            }
        }
        self.count();
    }

    /// Own marks that have grown.
    pub(super) fn own(&mut self, marks: &MemberMarks) {
        let own = self.0.own_marks.get_or_insert_with(|| marks.clone());
        let parts = [
            (&mut own.delivered, marks.delivered),
            (&mut own.read, marks.read),
        ];
        for (known, mark) in parts {
            if mark.map(|mark| mark.seq) > known.map(|mark| mark.seq) {
                *known = mark;
            }
        }
        self.count();
    }

    fn count(&mut self) {
        let read = self.0.own_marks.as_ref().and_then(|own| own.read);
        let read = read.map_or(0, |read| read.message_index);
        self.0.unread_count = self.0.last_message_index.saturating_sub(read);
    }
}

/// A message has a handful of attachments.
fn count(attachments: usize) -> u32 {
    u32::try_from(attachments).unwrap_or(u32::MAX)
}

impl Inbox {
    /// Where huge groups end: what is missing up to there is read. One of which there is no row is among
    /// those that a page of changes brings.
    pub(crate) fn deferred_heads(
        &mut self,
        heads: Vec<DeferredHead>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let held = self
            .places
            .values()
            .filter(|place| place.deferred.is_some());
        let has_room = held.count() < DEFERRED_MAX;
        for head in heads {
            let place = self.places.get_mut(&head.conversation_id);
            let has_row = place.as_ref().is_some_and(|place| place.deferred.is_some());
            if let Some(place) = place.filter(|place| !place.undecided) {
                place.aim(head.last_seq);
                self.advance(&head.conversation_id, 0, now + GRACE, out);
            }
            if !has_row && has_room && self.unknown != Unknown::Listing {
                self.versions.force(now);
            }
        }
        self.settle(out);
    }

    /// A pushed row of a huge group does not say where the conversation is: one that is not known begins
    /// where a page of changes says.
    pub(super) fn without_unplaced(
        &mut self,
        mut rows: Vec<Conversation>,
        now: Instant,
    ) -> Vec<Conversation> {
        let is_unplaced =
            |row: &Conversation| row.deferred && !self.places.contains_key(&row.conversation_id);
        if self.unknown != Unknown::AtFirst && rows.iter().any(is_unplaced) {
            rows.retain(|row| !is_unplaced(row));
            if self.unknown == Unknown::AtNext {
                self.versions.force(now);
            }
        }
        rows
    }

    /// Keeps the row of a huge group, and makes it what is known. Whether that is news.
    pub(super) fn keep_deferred(&mut self, row: &mut Conversation) -> bool {
        let held = self
            .places
            .values()
            .filter(|place| place.deferred.is_some());
        let has_room = held.count() < DEFERRED_MAX;
        let Some(place) = self.places.get_mut(&row.conversation_id) else {
            return false;
        };
        if !row.deferred || row.left {
            place.deferred = None;
            return false;
        }
        match &mut place.deferred {
            Some(known) => {
                let before = known.row().clone();
                known.merge(row);
                row.clone_from(known.row());
                *row != before
            }
            None => {
                let known = DeferredRow::new(row.clone(), place.last_event);
                row.clone_from(known.row());
                if has_room {
                    place.deferred = Some(Box::new(known));
                }
                true
            }
        }
    }
}
