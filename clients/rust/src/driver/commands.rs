//! What the app asks for.

use std::collections::HashSet;

use tokio::{sync::watch, time::Instant};

use super::Driver;
use crate::{
    cache::Unsent,
    error::{Error, Result},
    model::{Draft, ErrorReason, SessionLimits, Watermark},
    session::{Command, Outgoing, OutgoingState},
};

/// Bytes of a ClientFrame before the server has said its limit.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a send besides its text: ids, numbers, tags, 50 mentions of 38 bytes, with room.
const SEND_OVERHEAD_BYTES: usize = 2_560;
/// Users that a message may mention (`send.mentioned_user_ids`).
const MENTIONS_MAX: usize = 50;
/// Attachments of a message (`send.attachment_receipts`).
const ATTACHMENTS_MAX: usize = 10;
/// Bytes of the receipt of an upload.
const RECEIPT_BYTES_MAX: usize = 2_048;
/// Bytes around a receipt in a frame: its tag and its length.
const RECEIPT_OVERHEAD_BYTES: usize = 3;
/// Bytes of a user id: a UUID in text has 36; another one is refused by the server anyway.
const USER_ID_BYTES_MAX: usize = 64;
/// Bytes of a conversation id: a direct one has 75.
const CONVERSATION_ID_BYTES_MAX: usize = 256;

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Send {
                conversation_id,
                message_id,
                draft,
                reply,
            } => {
                let queued = self.queue(conversation_id, message_id, draft);
                // Whoever asked may have gone away; the message is queued all the same.
                self.afterwards.push(Box::new(move || {
                    let _ = reply.send(queued);
                }));
            }
            Command::MarkRead {
                conversation_id,
                up_to,
                reply,
            } => {
                let marked = self.mark_read(conversation_id, up_to);
                self.afterwards.push(Box::new(move || {
                    let _ = reply.send(marked);
                }));
            }
            Command::Unsent { reply } => {
                let entries = self.outbox.entries().into_iter();
                let unsent = entries.map(|(conversation_id, entry)| Outgoing {
                    conversation_id: conversation_id.to_owned(),
                    message_id: entry.message_id.clone(),
                    state: entry.tag.subscribe(),
                });
                let _ = reply.send(unsent.collect());
            }
            Command::Close { deadline, reply } => {
                let until = Instant::now() + deadline;
                self.closing
                    .get_or_insert((until, Vec::new()))
                    .1
                    .push(reply);
                self.events = None;
                self.ready.clear();
            }
        }
    }

    fn queue(
        &mut self,
        conversation_id: String,
        message_id: Option<String>,
        draft: Draft,
    ) -> Result<Outgoing> {
        if self.closing.is_some() {
            return Err(Error::Closed);
        }
        self.check_conversation_id(&conversation_id)?;
        check_draft(self.limits, &draft)?;
        if !self.outbox.has_room() {
            return Err(Error::QueueFull);
        }
        let message_id = match message_id {
            Some(id) if self.outbox.holds(&conversation_id, &id) => {
                let message = "is not answered yet";
                return Err(Error::argument(
                    ErrorReason::RequestIdReused,
                    "send.message_id",
                    message,
                ));
            }
            Some(id) => id,
            None => self.ids.next(&conversation_id),
        };
        if self.cache.is_some() {
            self.batch.queued.push(Unsent {
                conversation_id: conversation_id.clone(),
                message_id: message_id.clone(),
                draft: draft.clone(),
            });
        }
        let (tag, state) = watch::channel(OutgoingState::Queued);
        self.outbox
            .queue(&conversation_id, message_id.clone(), draft, tag);
        Ok(Outgoing {
            conversation_id,
            message_id,
            state,
        })
    }

    fn mark_read(&mut self, conversation_id: String, up_to: Watermark) -> Result<()> {
        if self.closing.is_some() {
            return Err(Error::Closed);
        }
        self.check_conversation_id(&conversation_id)?;
        if self.marks.read(&conversation_id, up_to)? && self.cache.is_some() {
            self.batch.reads.push((conversation_id, up_to));
        }
        Ok(())
    }

    fn check_conversation_id(&self, conversation_id: &str) -> Result<()> {
        let (reason, message) = match conversation_id.len() {
            0 => (ErrorReason::FieldRequired, "is empty"),
            CONVERSATION_ID_BYTES_MAX.. => (ErrorReason::FieldMalformed, "is too long"),
            _ => return Ok(()),
        };
        Err(Error::argument(reason, "conversation_id", message))
    }
}

/// What the server would refuse in any case, of a text, of mentions and of attachments.
pub(super) fn check_draft(limits: Option<SessionLimits>, draft: &Draft) -> Result<()> {
    let ids = &draft.mentioned_user_ids;
    let (reason, message) = if ids.len() > MENTIONS_MAX {
        (ErrorReason::FieldOutOfRange, "are too many")
    } else if ids.iter().any(|id| id.len() > USER_ID_BYTES_MAX) {
        (ErrorReason::FieldMalformed, "are no user ids")
    } else {
        check_attachments(limits, draft)?;
        return check_text(limits, draft);
    };
    Err(Error::argument(reason, "send.mentioned_user_ids", message))
}

fn check_attachments(limits: Option<SessionLimits>, draft: &Draft) -> Result<()> {
    let attachments = &draft.attachments;
    let is_receipt = |receipt: &str| {
        let is_ascii = receipt.bytes().all(|byte| byte.is_ascii_graphic());
        is_ascii && (1..=RECEIPT_BYTES_MAX).contains(&receipt.len())
    };
    let blob_ids: HashSet<&str> = attachments
        .iter()
        .map(|held| held.attachment.blob_id.as_str())
        .collect();
    let (reason, message) = if attachments.len() > ATTACHMENTS_MAX {
        (ErrorReason::FieldOutOfRange, "are too many")
    } else if !attachments.iter().all(|held| is_receipt(&held.receipt)) {
        (ErrorReason::ReceiptInvalid, "are no receipts")
    } else if blob_ids.len() < attachments.len() {
        (ErrorReason::ReceiptInvalid, "are of one blob")
    } else if frame_bytes(draft) - draft.text.len() > frame_bytes_max(limits) {
        (ErrorReason::FieldOutOfRange, "are too long together")
    } else {
        return Ok(());
    };
    Err(Error::argument(reason, "send.attachment_receipts", message))
}

/// Bytes of the frame that the draft becomes, at most.
fn frame_bytes(draft: &Draft) -> usize {
    let receipts = draft.attachments.iter();
    let receipts = receipts.map(|held| held.receipt.len() + RECEIPT_OVERHEAD_BYTES);
    draft
        .text
        .len()
        .saturating_add(SEND_OVERHEAD_BYTES)
        .saturating_add(receipts.sum())
}

fn frame_bytes_max(limits: Option<SessionLimits>) -> usize {
    match limits.unwrap_or_default().frame_bytes_max {
        0 => FRAME_BYTES_MAX,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    }
}

/// What the server would refuse in any case: it takes no place in the queue, and one that is too
/// large does not end the session again and again.
fn check_text(limits: Option<SessionLimits>, draft: &Draft) -> Result<()> {
    let text = &draft.text;
    let chars_max = match limits.unwrap_or_default().text_chars_max {
        0 => usize::MAX,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    };
    let too_long = frame_bytes(draft) > frame_bytes_max(limits)
        || (text.len() > chars_max && text.chars().count() > chars_max);
    let (reason, message) = if text.is_empty() && draft.attachments.is_empty() {
        (ErrorReason::FieldRequired, "is empty")
    } else if text.contains('\0') {
        (ErrorReason::TextNotStorable, "contains U+0000")
    } else if too_long {
        (ErrorReason::TextTooLong, "is too long")
    } else {
        return Ok(());
    };
    Err(Error::argument(reason, "send.text", message))
}
