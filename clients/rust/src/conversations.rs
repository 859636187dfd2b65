//! Conversations as calls: lists, history, marks, and sends without a session.

use proto::messaging::v1::{
    GetConversationRequest, GetSendStatusRequest, GetUnreadTotalRequest, ListChangesRequest,
    ListConversationsRequest, ListEventsRequest, ListMessagesRequest, ListReceiptsRequest,
    MarkReadRequest, OpenDirectConversationRequest, SendMessageRequest,
    get_send_status_response::Status, messaging_service_client::MessagingServiceClient,
};

use crate::{
    accounts::present,
    client::Client,
    error::Result,
    model::{
        ChangesPage, Conversation, ConversationsPage, Draft, EventPage, EventRange, MessagePage,
        MessageRange, Receipt, ReceiptsPage, SendStatus, Watermark,
    },
};

impl Client {
    /// The direct conversation with another user. Opening writes nothing.
    pub async fn open_direct(&self, user_id: &str) -> Result<Conversation> {
        let request = OpenDirectConversationRequest {
            user_id: user_id.to_owned(),
        };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .open_direct_conversation(request)
                    .await
            })
            .await?;
        present(answer.conversation)
    }

    /// The user's conversations, most recent first: 1 to 100 a page, 0 = 50; the page token is empty
    /// for the first page. The answer includes the changes up to `min_inbox_version`.
    pub async fn list_conversations(
        &self,
        page_size: i32,
        page_token: &str,
        min_inbox_version: u64,
    ) -> Result<ConversationsPage> {
        let request = ListConversationsRequest {
            page_size,
            page_token: page_token.to_owned(),
            min_inbox_version,
        };
        self.call(request, async |channel, request| {
            MessagingServiceClient::new(channel)
                .list_conversations(request)
                .await
        })
        .await
    }

    /// One conversation as the user sees it.
    pub async fn conversation(&self, conversation_id: &str) -> Result<Conversation> {
        let request = GetConversationRequest {
            conversation_id: conversation_id.to_owned(),
        };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .get_conversation(request)
                    .await
            })
            .await?;
        present(answer.conversation)
    }

    /// The conversations that changed after an inbox version: 1 to 500 a page, 0 = 100.
    pub async fn list_changes(
        &self,
        after_version: u64,
        page_size: i32,
        min_inbox_version: u64,
    ) -> Result<ChangesPage> {
        let request = ListChangesRequest {
            after_version,
            page_size,
            min_inbox_version,
        };
        self.call(request, async |channel, request| {
            MessagingServiceClient::new(channel)
                .list_changes(request)
                .await
        })
        .await
    }

    /// Messages as they are to be shown, of 1 to 500 conversations: a page for each range, in the
    /// same order.
    pub async fn list_messages(&self, ranges: Vec<MessageRange>) -> Result<Vec<MessagePage>> {
        let request = ListMessagesRequest { ranges };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .list_messages(request)
                    .await
            })
            .await?;
        Ok(answer.pages)
    }

    /// Events as they were, of 1 to 500 conversations: a page for each range, in the same order.
    pub async fn list_events(&self, ranges: Vec<EventRange>) -> Result<Vec<EventPage>> {
        let request = ListEventsRequest { ranges };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .list_events(request)
                    .await
            })
            .await?;
        Ok(answer.pages)
    }

    /// Sends one message without a session. After an error of kind
    /// [unknown](crate::ErrorKind::Unknown), calling again with the same `message_id` is exact.
    pub async fn send_message(
        &self,
        conversation_id: &str,
        message_id: &str,
        draft: impl Into<Draft>,
    ) -> Result<Receipt> {
        let draft = draft.into();
        let attachment_receipts = draft.receipts();
        let request = SendMessageRequest {
            conversation_id: conversation_id.to_owned(),
            message_id: message_id.to_owned(),
            text: draft.text,
            mentioned_user_ids: draft.mentioned_user_ids,
            mentions_all: draft.mentions_all,
            attachment_receipts,
        };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .send_message(request)
                    .await
            })
            .await?;
        Ok(Receipt {
            seq: answer.seq,
            message_index: answer.message_index,
            time_unix_ms: answer.time_unix_ms,
            duplicate: answer.duplicate,
        })
    }

    /// What became of a message that this user sent.
    pub async fn send_status(&self, conversation_id: &str, message_id: &str) -> Result<SendStatus> {
        let request = GetSendStatusRequest {
            conversation_id: conversation_id.to_owned(),
            message_id: message_id.to_owned(),
        };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .get_send_status(request)
                    .await
            })
            .await?;
        Ok(match present(answer.status)? {
            Status::Accepted(accepted) => SendStatus::Accepted(Receipt {
                seq: accepted.seq,
                message_index: accepted.message_index,
                time_unix_ms: accepted.time_unix_ms,
                duplicate: false,
            }),
            Status::NotAcceptedAsOfSeq(seq) => SendStatus::NotAcceptedAsOf(seq),
        })
    }

    /// The user has seen everything up to here. Answers when the mark is durable.
    pub async fn mark_read(&self, conversation_id: &str, up_to: Watermark) -> Result<()> {
        let request = MarkReadRequest {
            conversation_id: conversation_id.to_owned(),
            up_to: Some(up_to),
        };
        self.call(request, async |channel, request| {
            MessagingServiceClient::new(channel)
                .mark_read(request)
                .await
        })
        .await?;
        Ok(())
    }

    /// Unread messages over all conversations, including the changes up to `min_inbox_version`.
    pub async fn unread_total(&self, min_inbox_version: u64) -> Result<u64> {
        let request = GetUnreadTotalRequest { min_inbox_version };
        let answer = self
            .call(request, async |channel, request| {
                MessagingServiceClient::new(channel)
                    .get_unread_total(request)
                    .await
            })
            .await?;
        Ok(answer.unread_total)
    }

    /// How far the members of a conversation have got with one message (0 = the last one): how many
    /// hold it and have read it, and who. 1 to 200 members a page, 0 = 50; the page token is empty for
    /// the first page.
    pub async fn list_receipts(
        &self,
        conversation_id: &str,
        message_index: u64,
        page_size: i32,
        page_token: &str,
    ) -> Result<ReceiptsPage> {
        let request = ListReceiptsRequest {
            conversation_id: conversation_id.to_owned(),
            message_index,
            page_size,
            page_token: page_token.to_owned(),
        };
        self.call(request, async |channel, request| {
            MessagingServiceClient::new(channel)
                .list_receipts(request)
                .await
        })
        .await
    }
}
