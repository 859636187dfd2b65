//! `InboxService`: checks and converts, nothing else. Its callers are services.

use std::collections::HashSet;

use proto::{
    error::v1::ErrorReason,
    messaging::v1::{self as wire_v1, inbox_service_server::InboxService},
};
use runtime::{
    ids::{ConversationId, UserId},
    status::ApiError,
};
use tonic::{Request, Response, Status};

use crate::{
    limits::{UNREAD_CONVERSATIONS_MAX, UNREAD_LIST_MAX, UNREAD_QUERIES_MAX},
    model::{InboxRow, Preview},
    read::{Reader, Unread, UnreadQuery},
};

/// The service, as gRPC calls it.
pub(crate) struct InboxGrpc {
    pub(crate) reader: Reader,
}

#[tonic::async_trait]
impl InboxService for InboxGrpc {
    async fn batch_get_unread(
        &self,
        request: Request<wire_v1::BatchGetUnreadRequest>,
    ) -> Result<Response<wire_v1::BatchGetUnreadResponse>, Status> {
        let queries = queries(&request.get_ref().queries)?;
        let found = self.reader.unread(&queries).await?;
        let answers = queries.iter().zip(&found).map(|(query, unread)| {
            let of_row = |row| conversation(query.user, row);
            answer(unread, unread.rows.iter().map(of_row))
        });
        Ok(Response::new(wire_v1::BatchGetUnreadResponse {
            answers: answers.collect(),
        }))
    }

    async fn list_unread(
        &self,
        request: Request<wire_v1::ListUnreadRequest>,
    ) -> Result<Response<wire_v1::ListUnreadResponse>, Status> {
        let request = request.get_ref();
        let user = user(&request.user_id, "user_id")?;
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        if limit == 0 || limit > UNREAD_LIST_MAX {
            let why = format!("1 to {UNREAD_LIST_MAX} conversations");
            return Err(ApiError::field(ErrorReason::FieldOutOfRange, "limit", why).into());
        }
        let unread = self.reader.list_unread(user).await?;
        let shown = unread.rows.iter().take(limit).map(|row| {
            let message = row.preview.as_ref().filter(|preview| !preview.joined);
            wire_v1::UnreadConversation {
                newest: message.map(newest),
                ..conversation(user, row)
            }
        });
        let more = unread.rows.len().saturating_sub(limit);
        Ok(Response::new(wire_v1::ListUnreadResponse {
            unread: Some(answer(&unread, shown)),
            more: u32::try_from(more).unwrap_or(u32::MAX),
        }))
    }
}

fn queries(asked: &[wire_v1::UnreadQuery]) -> Result<Vec<UnreadQuery>, ApiError> {
    if asked.is_empty() || asked.len() > UNREAD_QUERIES_MAX {
        let why = format!("1 to {UNREAD_QUERIES_MAX} queries");
        return Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            "queries",
            why,
        ));
    }
    let mut users = HashSet::with_capacity(asked.len());
    let mut queries = Vec::with_capacity(asked.len());
    for (at, query) in asked.iter().enumerate() {
        let field = format!("queries[{at}].user_id");
        let user = user(&query.user_id, &field)?;
        if !users.insert(user) {
            let why = "each query is of another user";
            return Err(ApiError::field(ErrorReason::FieldMalformed, field, why));
        }
        queries.push(UnreadQuery {
            user,
            conversations: conversations(at, &query.conversation_ids)?,
            min_inbox_version: query.min_inbox_version,
        });
    }
    Ok(queries)
}

fn conversations(at: usize, ids: &[Vec<u8>]) -> Result<Vec<ConversationId>, ApiError> {
    let field = format!("queries[{at}].conversation_ids");
    if ids.len() > UNREAD_CONVERSATIONS_MAX {
        let why = format!("at most {UNREAD_CONVERSATIONS_MAX} conversations");
        return Err(ApiError::field(ErrorReason::FieldOutOfRange, field, why));
    }
    let read = |(number, id): (usize, &Vec<u8>)| {
        ConversationId::from_slice(id).map_err(|error| {
            let field = format!("{field}[{number}]");
            ApiError::field(ErrorReason::FieldMalformed, field, error.to_string())
        })
    };
    ids.iter().enumerate().map(read).collect()
}

fn user(id: &[u8], field: &str) -> Result<UserId, ApiError> {
    if id.is_empty() {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "required",
        ));
    }
    UserId::from_slice(id)
        .map_err(|error| ApiError::field(ErrorReason::FieldMalformed, field, error.to_string()))
}

fn answer(
    unread: &Unread,
    conversations: impl Iterator<Item = wire_v1::UnreadConversation>,
) -> wire_v1::Unread {
    wire_v1::Unread {
        inbox_version: unread.head.version,
        unread_total: unread.head.unread_total,
        conversations: conversations.collect(),
    }
}

fn conversation(user: UserId, row: &InboxRow) -> wire_v1::UnreadConversation {
    let is_member = match row.conversation.group_id() {
        Some(_) => row.is_listed() && !row.has_left(),
        None => row.conversation.peer_of(user).is_some(),
    };
    wire_v1::UnreadConversation {
        conversation_id: row.conversation.as_bytes().to_vec(),
        last_seq: row.last.seq,
        last_message_index: row.last.message_index,
        delivered_seq: row.own.delivered.seq,
        read_seq: row.own.read.seq,
        // A huge group counts once, as in all lists.
        unread_count: match row.is_deferred() {
            true => row.unread_count().min(1),
            false => row.unread_count(),
        },
        gone: !is_member,
        muted: false,
        newest: None,
    }
}

fn newest(preview: &Preview) -> wire_v1::UnreadMessage {
    wire_v1::UnreadMessage {
        sender_id: preview.sender.as_bytes().to_vec(),
        seq: preview.seq,
        time_unix_ms: preview.time_unix_ms,
        text: preview.text.clone(),
        attachment_count: preview.attachment_count,
        video_count: preview.video_count,
    }
}

#[cfg(test)]
mod tests;
