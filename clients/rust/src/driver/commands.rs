//! What the app asks for.

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
/// Bytes of a user id: a UUID in text has 36; another one is refused by the server anyway.
const USER_ID_BYTES_MAX: usize = 64;
/// Bytes of a conversation id: a direct one has 75.
const CONVERSATION_ID_BYTES_MAX: usize = 256;

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Send {
                conversation_id,
                draft,
                reply,
            } => {
                let queued = self.queue(conversation_id, draft);
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

    fn queue(&mut self, conversation_id: String, draft: Draft) -> Result<Outgoing> {
        if self.closing.is_some() {
            return Err(Error::Closed);
        }
        self.check_conversation_id(&conversation_id)?;
        check_draft(self.limits, &draft)?;
        if !self.outbox.has_room() {
            return Err(Error::QueueFull);
        }
        let message_id = self.ids.next(&conversation_id);
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

/// What the server would refuse in any case, of a text and of mentions.
pub(super) fn check_draft(limits: Option<SessionLimits>, draft: &Draft) -> Result<()> {
    let ids = &draft.mentioned_user_ids;
    let (reason, message) = if ids.len() > MENTIONS_MAX {
        (ErrorReason::FieldOutOfRange, "are too many")
    } else if ids.iter().any(|id| id.len() > USER_ID_BYTES_MAX) {
        (ErrorReason::FieldMalformed, "are no user ids")
    } else {
        return check_text(limits, &draft.text);
    };
    Err(Error::argument(reason, "send.mentioned_user_ids", message))
}

/// What the server would refuse in any case: it takes no place in the queue, and one that is too
/// large does not end the session again and again.
fn check_text(limits: Option<SessionLimits>, text: &str) -> Result<()> {
    let limits = limits.unwrap_or_default();
    let chars_max = match limits.text_chars_max {
        0 => usize::MAX,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    };
    let bytes_max = match limits.frame_bytes_max {
        0 => FRAME_BYTES_MAX,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    };
    let too_long = text.len().saturating_add(SEND_OVERHEAD_BYTES) > bytes_max
        || (text.len() > chars_max && text.chars().count() > chars_max);
    let (reason, message) = if text.is_empty() {
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
