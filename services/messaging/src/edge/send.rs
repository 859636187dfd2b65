//! Sends, in a session and as calls: checked, numbered, and appended.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use event_log::{AppendError, NewRecord, Topic, Urgency};
use futures_util::future::BoxFuture;
use proto::{error::v1::ErrorReason, log::v1::Verdict, messaging::v1 as wire_v1};
use runtime::{
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
    codec::{self, MessageBody, Origin},
    limits::SEND_DEADLINE,
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
        };
        let (conversation, message_id, body) = match check_send(session.user, sent, "send.") {
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
            self.admit(session, request_id, (conversation, message_id), body, trace);
            return None;
        };
        let (edge, session) = (self.clone(), session.clone());
        Some(Box::pin(async move {
            match edge.check_peer(peer, "send.conversation_id").await {
                Ok(()) => {
                    let name = (conversation, message_id);
                    edge.admit(&session, request_id, name, body, trace);
                }
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
        (conversation, message_id): (ConversationId, MessageId),
        body: MessageBody,
        trace: Option<Bytes>,
    ) {
        let in_flight_max = self.config.session_in_flight_max;
        let admitted = session.admit(request_id, conversation, message_id, in_flight_max);
        let request_no = match admitted {
            Ok(request_no) => request_no,
            Err(error) => {
                return session.answer(error_frame(request_id, &error, Some(message_id)));
            }
        };
        let origin = self.origin(session.id, request_no);
        let payload = codec::encode_send(conversation, session.user, message_id, body, origin);
        let record = send_record(conversation, payload, trace);
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
        };
        let (conversation, message_id, body) =
            check_send(user, sent, "").map_err(|(error, _)| error)?;
        self.check_open()?;
        if let Some(peer) = conversation.peer_of(user) {
            self.check_peer(peer, "conversation_id").await?;
        }
        let call = self.call_last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        self.waiting_calls.lock().insert(call, answer);
        let _guard = CallGuard { edge: self, call };
        let origin = self.origin(0, call);
        let payload = codec::encode_send(conversation, user, message_id, body, origin);
        let record = send_record(conversation, payload, trace);
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
}

/// The error comes with the message that it is about, if that has a name.
fn check_send(
    user: UserId,
    sent: Sent,
    prefix: &str,
) -> Result<(ConversationId, MessageId, MessageBody), (ApiError, Option<MessageId>)> {
    // The names of fields are made only for an error: most sends have none.
    let check = || -> Result<_, ApiError> {
        let message_id = validate::message_id(&sent.message_id, "message_id")?;
        let conversation = validate::conversation(user, &sent.conversation_id, "conversation_id")?;
        validate::text(&sent.text, "text")?;
        let mentioned = validate::mentions(
            conversation,
            &sent.mentioned_user_ids,
            sent.mentions_all,
            "mentioned_user_ids",
        )?;
        Ok((conversation, message_id, mentioned))
    };
    match check() {
        Ok((conversation, message_id, mentioned)) => Ok((
            conversation,
            message_id,
            MessageBody {
                text: sent.text,
                mentioned,
                mentions_all: sent.mentions_all,
            },
        )),
        Err(mut error) => {
            error.field.insert_str(0, prefix);
            let message_id = MessageId::parse(&sent.message_id).ok();
            Err((error, message_id))
        }
    }
}

fn send_record(conversation: ConversationId, payload: Bytes, trace: Option<Bytes>) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(conversation.as_bytes()),
        payload,
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
