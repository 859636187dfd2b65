//! `MessagingService`: checks and converts, nothing else.

use std::sync::Arc;

use prost::Message as _;
use proto::{
    error::v1::ErrorReason,
    log::v1 as log,
    messaging::v1::{self as wire_v1, messaging_service_server::MessagingService},
};
use runtime::{
    auth::user_caller,
    ids::{ConversationId, GroupId, UserId},
    page_token::{self, page_size},
    status::ApiError,
    trace,
};
use tonic::{Request, Response, Status};

use crate::{
    directory::Directory,
    edge::{Edge, rejection},
    limits::{
        ANSWER_BYTES_MAX, CHANGES_PAGE_DEFAULT, CHANGES_PAGE_MAX, CONVERSATIONS_PAGE_DEFAULT,
        CONVERSATIONS_PAGE_MAX, EVENTS_PAGE_DEFAULT, EVENTS_PAGE_MAX,
    },
    model::{InboxRow, Marks},
    read::{ListPage, PageRequest, Reader},
    validate, wire,
};

pub(crate) mod inbox;
mod ranges;

use self::ranges::{event_range, message_range, no_room, page_requests};

/// The service, as gRPC calls it.
pub(crate) struct Grpc {
    pub(crate) edge: Arc<Edge>,
    pub(crate) reader: Reader,
    pub(crate) directory: Arc<Directory>,
}

impl Grpc {
    /// Who calls; too many calls are refused here.
    fn caller<T>(&self, request: &Request<T>) -> Result<UserId, ApiError> {
        let user = user_caller(request)?.user_id;
        self.edge.check_rate(user)?;
        Ok(user)
    }

    /// Rows with the profiles of the peers, and with the groups, so that no screen asks again for each.
    async fn rows(
        &self,
        user: UserId,
        rows: &[InboxRow],
    ) -> Result<Vec<wire_v1::Conversation>, ApiError> {
        let peers: Vec<UserId> = rows
            .iter()
            .filter_map(|row| row.conversation.peer_of(user))
            .collect();
        let groups: Vec<GroupId> = rows
            .iter()
            .filter_map(|row| row.conversation.group_id())
            .collect();
        let (snippets, groups) = tokio::join!(
            self.directory.snippets(&peers),
            self.directory.group_snippets(user, &groups),
        );
        let mut snippets = snippets?;
        let conversations = rows.iter().map(|row| {
            let mut conversation = wire::conversation(user, row);
            let peer = row.conversation.peer_of(user);
            conversation.peer = peer.and_then(|peer| snippets.remove(&peer));
            let group = row.conversation.group_id();
            conversation.group = group.and_then(|group| groups.get(&group).cloned());
            conversation
        });
        Ok(conversations.collect())
    }

    async fn conversation(
        &self,
        user: UserId,
        conversation: ConversationId,
        missing: ErrorReason,
        field: &str,
    ) -> Result<wire_v1::Conversation, ApiError> {
        if conversation.group_id().is_some() {
            self.reader
                .check_was_member(conversation, user, field)
                .await?;
        }
        let row = self.reader.row(user, conversation).await?;
        let conversations = self.rows(user, &[row]).await?;
        conversations
            .into_iter()
            .next()
            .filter(|row| row.peer.is_some() || conversation.group_id().is_some())
            .ok_or_else(|| ApiError::field(missing, field, "there is no such user"))
    }

    /// Refuses conversations with users who do not exist, as sends do. Nobody is asked about a peer who
    /// is remembered, or with whom something has happened; all others are one question.
    async fn check_peers(
        &self,
        user: UserId,
        conversations: &[ConversationId],
        field: impl Fn(usize) -> String,
    ) -> Result<(), ApiError> {
        // Of a group, the log knows who is in it.
        let is_known = |conversation: &ConversationId| {
            let peer = conversation.peer_of(user);
            peer.is_none_or(|peer| self.directory.is_known(peer))
        };
        let unsure = conversations.iter().copied();
        let unsure = unsure.filter(|conversation| !is_known(conversation));
        let empty = self.reader.without_events(unsure.collect()).await?;
        let peer_of = |conversation: &ConversationId| conversation.peer_of(user);
        let peers: Vec<UserId> = empty.iter().filter_map(peer_of).collect();
        let existing = self.directory.snippets(&peers).await?;
        let missing = conversations.iter().position(|conversation| {
            let exists = peer_of(conversation).is_some_and(|peer| existing.contains_key(&peer));
            empty.contains(conversation) && !exists
        });
        match missing {
            Some(at) => Err(validate::no_such_conversation(&field(at))),
            None => Ok(()),
        }
    }

    /// [`Self::check_peers`] for the conversations of ranges.
    async fn check_ranges(&self, user: UserId, requests: &[PageRequest]) -> Result<(), ApiError> {
        let conversations: Vec<_> = requests.iter().map(|r| r.conversation).collect();
        let field = |at| format!("ranges[{at}].conversation_id");
        self.check_peers(user, &conversations, field).await
    }
}

#[tonic::async_trait]
impl MessagingService for Grpc {
    async fn open_direct_conversation(
        &self,
        request: Request<wire_v1::OpenDirectConversationRequest>,
    ) -> Result<Response<wire_v1::OpenDirectConversationResponse>, Status> {
        let user = self.caller(&request)?;
        let peer = validate::user_id(&request.get_ref().user_id, "user_id")?;
        let conversation = ConversationId::direct(user, peer).map_err(|_| {
            ApiError::field(
                ErrorReason::FieldMalformed,
                "user_id",
                "must be another user",
            )
        })?;
        let conversation = self
            .conversation(user, conversation, ErrorReason::UserNotFound, "user_id")
            .await?;
        Ok(Response::new(wire_v1::OpenDirectConversationResponse {
            conversation: Some(conversation),
        }))
    }

    async fn send_message(
        &self,
        request: Request<wire_v1::SendMessageRequest>,
    ) -> Result<Response<wire_v1::SendMessageResponse>, Status> {
        let user = self.caller(&request)?;
        let trace = trace::of_call(request.metadata());
        let request = request.into_inner();
        let (conversation_id, message_id) =
            (request.conversation_id.clone(), request.message_id.clone());
        let verdict = self.edge.send_message(user, request, trace).await?.verdict;
        let Some(log::verdict::Verdict::Accepted(accepted)) = verdict else {
            return Err(rejection(&verdict).into());
        };
        Ok(Response::new(wire_v1::SendMessageResponse {
            conversation_id,
            message_id,
            seq: accepted.seq,
            message_index: accepted.message_index,
            time_unix_ms: accepted.time_unix_ms,
            duplicate: accepted.duplicate,
        }))
    }

    async fn get_send_status(
        &self,
        request: Request<wire_v1::GetSendStatusRequest>,
    ) -> Result<Response<wire_v1::GetSendStatusResponse>, Status> {
        use wire_v1::get_send_status_response::{Accepted, Status as SendStatus};
        let user = self.caller(&request)?;
        let request = request.get_ref();
        let conversation =
            validate::conversation(user, &request.conversation_id, "conversation_id")?;
        let message_id = validate::message_id(&request.message_id, "message_id")?;
        let field = |_| "conversation_id".to_owned();
        self.check_peers(user, &[conversation], field).await?;
        let status = match self.reader.find(conversation, user, message_id).await? {
            Ok(event) => SendStatus::Accepted(Accepted {
                seq: event.seq,
                message_index: event.message_index,
                time_unix_ms: event.time_unix_ms,
            }),
            Err(head_seq) => SendStatus::NotAcceptedAsOfSeq(head_seq),
        };
        Ok(Response::new(wire_v1::GetSendStatusResponse {
            status: Some(status),
        }))
    }

    async fn list_conversations(
        &self,
        request: Request<wire_v1::ListConversationsRequest>,
    ) -> Result<Response<wire_v1::ListConversationsResponse>, Status> {
        let user = self.caller(&request)?;
        let request = request.get_ref();
        let limit = page_size(
            request.page_size,
            CONVERSATIONS_PAGE_DEFAULT,
            CONVERSATIONS_PAGE_MAX,
            "page_size",
        )?;
        let scope = ("ListConversations", user);
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(list_cursor(&page_token::decode(
                &scope,
                token,
                "page_token",
            )?)?),
        };
        self.reader
            .wait_for_inbox(user, request.min_inbox_version)
            .await?;
        let ListPage { head, rows, more } = self.reader.list(user, before, limit).await?;
        let next_page_token = match rows.last().filter(|_| more) {
            Some(row) => page_token::encode(&scope, &list_cursor_bytes(row)),
            None => String::new(),
        };
        Ok(Response::new(wire_v1::ListConversationsResponse {
            conversations: self.rows(user, &rows).await?,
            next_page_token,
            inbox_version: head.version,
            unread_total: head.unread_total,
        }))
    }

    async fn get_conversation(
        &self,
        request: Request<wire_v1::GetConversationRequest>,
    ) -> Result<Response<wire_v1::GetConversationResponse>, Status> {
        let user = self.caller(&request)?;
        let field = "conversation_id";
        let conversation = validate::conversation(user, &request.get_ref().conversation_id, field)?;
        let conversation = self
            .conversation(user, conversation, ErrorReason::ConversationNotFound, field)
            .await?;
        Ok(Response::new(wire_v1::GetConversationResponse {
            conversation: Some(conversation),
        }))
    }

    async fn list_changes(
        &self,
        request: Request<wire_v1::ListChangesRequest>,
    ) -> Result<Response<wire_v1::ListChangesResponse>, Status> {
        let user = self.caller(&request)?;
        let request = request.get_ref();
        let limit = page_size(
            request.page_size,
            CHANGES_PAGE_DEFAULT,
            CHANGES_PAGE_MAX,
            "page_size",
        )?;
        self.reader
            .wait_for_inbox(user, request.min_inbox_version)
            .await?;
        let changes = self
            .reader
            .changes(user, request.after_version, limit)
            .await?;
        let ListPage {
            head,
            mut rows,
            more,
        } = changes.page;
        let version = match rows.last().filter(|_| more) {
            Some(row) => row.version,
            None => head.version.max(request.after_version),
        };
        rows.retain(InboxRow::is_listed);
        // Together, so that each profile and group is asked for once.
        let changed = rows.len();
        rows.extend(changes.deferred);
        let mut conversations = self.rows(user, &rows).await?;
        let deferred = conversations.split_off(changed.min(conversations.len()));
        Ok(Response::new(wire_v1::ListChangesResponse {
            conversations,
            version,
            more,
            unread_total: head.unread_total,
            deferred,
        }))
    }

    async fn list_messages(
        &self,
        request: Request<wire_v1::ListMessagesRequest>,
    ) -> Result<Response<wire_v1::ListMessagesResponse>, Status> {
        let user = self.caller(&request)?;
        let ranges = &request.get_ref().ranges;
        let requests = page_requests(user, ranges.len(), ranges.iter().map(message_range))?;
        self.check_ranges(user, &requests).await?;
        let mut pages = Vec::with_capacity(requests.len());
        let mut room = ANSWER_BYTES_MAX;
        for mut request in requests {
            request.bytes_max = room;
            let page = match room {
                0 => no_room(),
                _ => self.reader.messages(request).await?,
            };
            room = room.saturating_sub(page.bytes());
            let indexes = || page.events.iter().map(|event| event.message_index);
            let as_of = page.head_seq;
            pages.push(wire_v1::MessagePage {
                conversation_id: request.conversation.to_string(),
                from_message_index: indexes().min().unwrap_or(0),
                to_message_index: indexes().max().unwrap_or(0),
                messages: page
                    .events
                    .iter()
                    .map(|event| wire::shown_message(event))
                    .collect(),
                as_of_seq: if request.as_of_seq > 0 {
                    as_of.min(request.as_of_seq)
                } else {
                    as_of
                },
                more: page.more,
            });
        }
        Ok(Response::new(wire_v1::ListMessagesResponse { pages }))
    }

    async fn list_events(
        &self,
        request: Request<wire_v1::ListEventsRequest>,
    ) -> Result<Response<wire_v1::ListEventsResponse>, Status> {
        let user = self.caller(&request)?;
        let ranges = &request.get_ref().ranges;
        let requests = page_requests(user, ranges.len(), ranges.iter().map(event_range))?;
        self.check_ranges(user, &requests).await?;
        let mut pages = Vec::with_capacity(requests.len());
        let mut room = ANSWER_BYTES_MAX;
        for mut request in requests {
            request.bytes_max = room;
            let page = match room {
                0 => no_room(),
                _ => self.reader.events(request).await?,
            };
            room = room.saturating_sub(page.bytes());
            pages.push(wire_v1::EventPage {
                conversation_id: request.conversation.to_string(),
                from_seq: page.from,
                to_seq: page.to,
                events: page.events.iter().map(|event| wire::event(event)).collect(),
                last_seq: page.head_seq,
                more: page.more,
            });
        }
        let response = wire_v1::ListEventsResponse { pages };
        debug_assert!(response.encoded_len() < 2 * ANSWER_BYTES_MAX);
        Ok(Response::new(response))
    }

    async fn mark_read(
        &self,
        request: Request<wire_v1::MarkReadRequest>,
    ) -> Result<Response<wire_v1::MarkReadResponse>, Status> {
        let user = self.caller(&request)?;
        let request = request.into_inner();
        let conversation =
            validate::conversation(user, &request.conversation_id, "conversation_id")?;
        let read = validate::watermark(request.up_to, "up_to")?;
        let field = |_| "conversation_id".to_owned();
        self.check_peers(user, &[conversation], field).await?;
        self.edge
            .mark_read(
                user,
                conversation,
                Marks {
                    read,
                    ..Marks::default()
                },
            )
            .await?;
        Ok(Response::new(wire_v1::MarkReadResponse {}))
    }

    async fn list_receipts(
        &self,
        request: Request<wire_v1::ListReceiptsRequest>,
    ) -> Result<Response<wire_v1::ListReceiptsResponse>, Status> {
        let user = self.caller(&request)?;
        let request = request.get_ref();
        let field = "conversation_id";
        let conversation = validate::conversation(user, &request.conversation_id, field)?;
        self.check_peers(user, &[conversation], |_| field.to_owned())
            .await?;
        let limit = page_size(
            request.page_size,
            EVENTS_PAGE_DEFAULT,
            EVENTS_PAGE_MAX,
            "page_size",
        )?;
        let scope = ("ListReceipts", user, conversation, request.message_index);
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(user_cursor(&page_token::decode(
                &scope,
                token,
                "page_token",
            )?)?),
        };
        let receipts = self
            .reader
            .receipts(conversation, user, request.message_index, after, limit)
            .await?;
        let next_page_token = match receipts.members.last().filter(|_| receipts.more) {
            Some((user, _)) => page_token::encode(&scope, user.as_bytes()),
            None => String::new(),
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let members = receipts.members.iter();
        Ok(Response::new(wire_v1::ListReceiptsResponse {
            message_index: receipts.message_index,
            member_count: count(receipts.member_count),
            delivered_count: count(receipts.delivered_count),
            read_count: count(receipts.read_count),
            members: members
                .map(|(user, marks)| wire::member_marks(*user, *marks))
                .collect(),
            next_page_token,
        }))
    }

    async fn get_unread_total(
        &self,
        request: Request<wire_v1::GetUnreadTotalRequest>,
    ) -> Result<Response<wire_v1::GetUnreadTotalResponse>, Status> {
        let user = self.caller(&request)?;
        let head = self
            .reader
            .wait_for_inbox(user, request.get_ref().min_inbox_version)
            .await?;
        Ok(Response::new(wire_v1::GetUnreadTotalResponse {
            unread_total: head.unread_total + self.reader.deferred_unread(user).await?,
            inbox_version: head.version,
        }))
    }
}

fn list_cursor_bytes(row: &InboxRow) -> Vec<u8> {
    let time = row
        .preview
        .as_ref()
        .map_or(0, |preview| preview.time_unix_ms);
    let mut bytes = time.to_le_bytes().to_vec();
    bytes.extend_from_slice(row.conversation.as_bytes());
    bytes
}

fn list_cursor(bytes: &[u8]) -> Result<(i64, ConversationId), ApiError> {
    let cursor = bytes
        .split_first_chunk::<8>()
        .and_then(|(time, conversation)| {
            let conversation = ConversationId::from_slice(conversation).ok()?;
            Some((i64::from_le_bytes(*time), conversation))
        });
    cursor.ok_or_else(not_a_page_token)
}

fn user_cursor(bytes: &[u8]) -> Result<UserId, ApiError> {
    UserId::from_slice(bytes).map_err(|_| not_a_page_token())
}

fn not_a_page_token() -> ApiError {
    ApiError::field(
        ErrorReason::PageTokenInvalid,
        "page_token",
        "not a page token",
    )
}
