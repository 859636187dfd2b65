//! Sends, in a session and as calls: checked, numbered, and appended.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use event_log::{AppendError, NewRecord, Topic, Urgency};
use futures_util::future::BoxFuture;
use proto::{
    error::v1::ErrorReason,
    log::v1::{Attachment, Verdict},
    messaging::v1 as wire_v1,
};
use runtime::{
    auth::{ReceiptError, ReceiptPurpose, ReceiptVerifier},
    ids::{ConversationId, MessageId, UserId},
    status::ApiError,
    trace,
};
use tokio::sync::oneshot;

use super::{
    Edge,
    session::{Session, error_frame, send_unknown},
};
use crate::{
    codec::{self, MessageBody, Origin, Send},
    limits::{ATTACHMENTS_MAX, SEND_DEADLINE},
    model::Marks,
    validate,
};

impl Edge {
    pub(super) fn send(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request_id: u64,
        send: wire_v1::Send,
    ) -> Option<BoxFuture<'static, ()>> {
        let trace = trace::parse(&send.traceparent);
        let sent = Sent {
            conversation_id: send.conversation_id,
            message_id: send.message_id,
            text: send.text,
            mentioned_user_ids: send.mentioned_user_ids,
            mentions_all: send.mentions_all,
            attachment_receipts: send.attachment_receipts,
        };
        let (conversation, send) = match self.check_send(session.user, sent, "send.") {
            Ok(checked) => checked,
            Err((error, message_id)) => {
                session.answer(error_frame(request_id, &error, message_id));
                return None;
            }
        };
        // Who is in a group, only the log knows.
        let unknown_peer = conversation.peer_of(session.user);
        let unknown_peer = unknown_peer.filter(|peer| !self.directory.is_known(*peer));
        let Some(peer) = unknown_peer else {
            self.admit(session, request_id, conversation, send, trace);
            return None;
        };
        let (edge, session) = (self.clone(), session.clone());
        Some(Box::pin(async move {
            let message_id = send.message_id;
            match edge.check_peer(peer, "send.conversation_id").await {
                Ok(()) => edge.admit(&session, request_id, conversation, send, trace),
                Err(error) => {
                    if error.reason != ErrorReason::ConversationNotFound {
                        session.refused(conversation, message_id);
                    }
                    session.answer(error_frame(request_id, &error, Some(message_id)));
                }
            }
        }))
    }

    async fn check_peer(&self, peer: UserId, field: &str) -> Result<(), ApiError> {
        if self.directory.exists(peer).await? {
            return Ok(());
        }
        Err(validate::no_such_conversation(field))
    }

    fn admit(
        &self,
        session: &Arc<Session>,
        request_id: u64,
        conversation: ConversationId,
        mut send: Send,
        trace: Option<Bytes>,
    ) {
        let message_id = send.message_id;
        let in_flight_max = self.config.session_in_flight_max;
        let admitted = session.admit(request_id, conversation, message_id, in_flight_max);
        let request_no = match admitted {
            Ok(request_no) => request_no,
            Err(error) => {
                return session.answer(error_frame(request_id, &error, Some(message_id)));
            }
        };
        send.origin = self.origin(session.id, request_no);
        let record = send_record(conversation, send, trace);
        let session = session.clone();
        let done = move |result: Result<_, AppendError>| {
            // The verdict is the answer; only its absence is told here.
            if let Err(error) = result {
                session.not_appended(request_no, &append_error(&error));
            }
        };
        self.log
            .append(Topic::Messages, record, Urgency::Now, Box::new(done));
    }

    /// The send without its origin. The error comes with the message that it is about, if that has a name.
    fn check_send(
        &self,
        user: UserId,
        sent: Sent,
        prefix: &str,
    ) -> Result<(ConversationId, Send), (ApiError, Option<MessageId>)> {
        let message_id = MessageId::parse(&sent.message_id).ok();
        check_send(&self.receipts, user, sent).map_err(|mut error| {
            error.field.insert_str(0, prefix);
            (error, message_id)
        })
    }

    fn origin(&self, session_id: u64, request_id: u64) -> Origin {
        Origin {
            edge: self.config.advertised_edge.clone(),
            session_id,
            request_id,
        }
    }

    /// A send as a call.
    pub(crate) async fn send_message(
        &self,
        user: UserId,
        request: wire_v1::SendMessageRequest,
        trace: Option<Bytes>,
    ) -> Result<Verdict, ApiError> {
        let sent = Sent {
            conversation_id: request.conversation_id,
            message_id: request.message_id,
            text: request.text,
            mentioned_user_ids: request.mentioned_user_ids,
            mentions_all: request.mentions_all,
            attachment_receipts: request.attachment_receipts,
        };
        let checked = self.check_send(user, sent, "");
        let (conversation, mut send) = checked.map_err(|(error, _)| error)?;
        let message_id = send.message_id;
        self.check_open()?;
        if let Some(peer) = conversation.peer_of(user) {
            self.check_peer(peer, "conversation_id").await?;
        }
        let call = self.call_last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        self.waiting_calls.lock().insert(call, answer);
        let _guard = CallGuard { edge: self, call };
        send.origin = self.origin(0, call);
        let record = send_record(conversation, send, trace);
        self.append(record).await?;
        match tokio::time::timeout(SEND_DEADLINE, answered).await {
            Ok(Ok(verdict)) if verdict.message_id == message_id.as_bytes() => Ok(verdict),
            // Not an answer to this call; cannot be, but an ack must not be wrong.
            Ok(Ok(_)) => Err(send_unknown()),
            Ok(Err(_)) | Err(_) => Err(send_unknown()),
        }
    }

    /// Puts a user's read watermark into the log; answers when it is durable.
    pub(crate) async fn mark_read(
        &self,
        user: UserId,
        conversation: ConversationId,
        marks: Marks,
    ) -> Result<(), ApiError> {
        self.check_open()?;
        self.append(NewRecord {
            key: Bytes::copy_from_slice(conversation.as_bytes()),
            payload: codec::encode_marks(conversation, &[(user, marks)]),
            headers: Vec::new(),
        })
        .await
    }

    async fn append(&self, record: NewRecord) -> Result<(), ApiError> {
        let append = self
            .log
            .append_all(Topic::Messages, vec![record], Urgency::Now);
        match tokio::time::timeout(SEND_DEADLINE, append).await {
            Ok(results) => match results.into_iter().next() {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(append_error(&error)),
                None => Err(send_unknown()),
            },
            Err(_) => Err(send_unknown()),
        }
    }
}

/// Forgets a call that nobody waits for any more.
struct CallGuard<'a> {
    edge: &'a Edge,
    call: u64,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.edge.waiting_calls.lock().remove(&self.call);
    }
}

/// A message as a client sends it, in a session or by a call.
struct Sent {
    conversation_id: String,
    message_id: String,
    text: String,
    mentioned_user_ids: Vec<String>,
    mentions_all: bool,
    attachment_receipts: Vec<String>,
}

/// The names of fields are made only for an error: most sends have none.
fn check_send(
    receipts: &ReceiptVerifier,
    user: UserId,
    sent: Sent,
) -> Result<(ConversationId, Send), ApiError> {
    let message_id = validate::message_id(&sent.message_id, "message_id")?;
    let conversation = validate::conversation(user, &sent.conversation_id, "conversation_id")?;
    validate::text(&sent.text, sent.attachment_receipts.is_empty(), "text")?;
    let mentioned = validate::mentions(
        conversation,
        &sent.mentioned_user_ids,
        sent.mentions_all,
        "mentioned_user_ids",
    )?;
    // Last, since it costs most.
    let proven = attachments(receipts, user, &sent.attachment_receipts)?;
    let send = Send {
        sender: user,
        message_id,
        body: MessageBody {
            text: sent.text,
            mentioned,
            mentions_all: sent.mentions_all,
            attachments: proven.attachments,
        },
        refused_unless_duplicate: match proven.is_expired {
            true => ErrorReason::ReceiptExpired as u32,
            false => 0,
        },
        origin: Origin::default(),
    };
    Ok((conversation, send))
}

/// What receipts prove.
#[derive(Debug, Default, PartialEq)]
struct Proven {
    attachments: Vec<Attachment>,
    /// Some receipt was good once, and is not any more. A retry of a message that was accepted in time is
    /// to be acknowledged, and only the log knows whether it is one (I4).
    is_expired: bool,
}

/// Ten of them cost half a millisecond of the connection's task, ten times as much as all else of a send.
/// At the most frames that a session may send, which nobody does with pictures, that is 5 % of a core.
fn attachments(
    verifier: &ReceiptVerifier,
    user: UserId,
    receipts: &[String],
) -> Result<Proven, ApiError> {
    const FIELD: &str = "attachment_receipts";
    if receipts.len() > ATTACHMENTS_MAX {
        let why = format!("a message has at most {ATTACHMENTS_MAX} attachments");
        return Err(ApiError::field(ErrorReason::FieldOutOfRange, FIELD, why));
    }
    let invalid = |why| ApiError::field(ErrorReason::ReceiptInvalid, FIELD, why);
    let mut proven = Proven::default();
    for receipt in receipts {
        let receipt = match verifier.verify(receipt, user, ReceiptPurpose::Attachment) {
            Ok(receipt) => receipt,
            Err(ReceiptError::Expired(receipt)) => {
                proven.is_expired = true;
                *receipt
            }
            Err(ReceiptError::Invalid) => {
                return Err(invalid("not a receipt of an attachment of the caller"));
            }
        };
        proven.attachments.push(receipt.attachment);
    }
    if !codec::are_attachments(&proven.attachments) {
        return Err(invalid("each receipt is of another blob"));
    }
    Ok(proven)
}

fn send_record(conversation: ConversationId, send: Send, trace: Option<Bytes>) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(conversation.as_bytes()),
        payload: codec::encode_send(conversation, send),
        headers: trace::headers(trace),
    }
}

fn append_error(error: &AppendError) -> ApiError {
    match error {
        AppendError::Full => ApiError::retry_after(
            ErrorReason::Overloaded,
            "the server has as much to do as it may",
            Duration::from_secs(1),
        ),
        AppendError::Failed(_) | AppendError::Closed => ApiError::unavailable(error),
        AppendError::TooLarge => ApiError::internal(error),
        AppendError::Unknown(_) => send_unknown(),
    }
}

#[cfg(test)]
mod tests;
