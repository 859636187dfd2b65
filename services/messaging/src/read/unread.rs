//! What is unread, for whoever tells users of it.

use std::collections::HashMap;

use runtime::{
    ids::{ConversationId, UserId},
    status::ApiError,
};
use tokio::time::Instant;

use super::{POLL_MAX, POLL_MIN, Reader, not_yet, read_error};
use crate::{
    limits::{READ_WAIT_MAX, UNREAD_LOOKED_AT_MAX},
    model::{InboxHead, InboxRow},
};

/// What is asked of one user.
#[derive(Debug, Clone)]
pub(crate) struct UnreadQuery {
    pub(crate) user: UserId,
    pub(crate) conversations: Vec<ConversationId>,
    /// The answer is not older than this version of the user's inbox.
    pub(crate) min_inbox_version: u64,
}

/// What one user has read of some conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Without huge groups.
    pub(crate) head: InboxHead,
    /// In the order asked, or the most recent first.
    pub(crate) rows: Vec<InboxRow>,
}

impl Reader {
    /// In the order of the queries. A conversation in which nothing has happened has an empty row. Costs the
    /// same number of questions to the store whatever the number of queries.
    pub(crate) async fn unread(&self, queries: &[UnreadQuery]) -> Result<Vec<Unread>, ApiError> {
        let heads = self.wait_for_inboxes(queries).await?;
        let asked = queries.iter().flat_map(|query| {
            let conversations = query.conversations.iter();
            conversations.map(|conversation| (query.user, *conversation))
        });
        let asked: Vec<_> = asked.collect();
        let found = match asked.is_empty() {
            true => Vec::new(),
            false => self.store.inbox_rows(asked).await.map_err(read_error)?,
        };
        let mut found = found.into_iter();
        let mut answers = Vec::with_capacity(queries.len());
        for (query, mut head) in queries.iter().zip(heads) {
            let mut rows = Vec::with_capacity(query.conversations.len());
            for conversation in &query.conversations {
                let (later, row) = found.next().unwrap_or_default();
                // The total of the moment at which the rows were read.
                if later.version >= head.version {
                    head = later;
                }
                rows.push(row.unwrap_or_else(|| InboxRow::new(*conversation)));
            }
            answers.push(Unread { head, rows });
        }
        let rows = queries
            .iter()
            .zip(&mut answers)
            .flat_map(|(query, answer)| {
                let deferred = answer.rows.iter_mut().filter(|row| row.is_deferred());
                deferred.map(|row| (query.user, row))
            });
        self.complete_deferred(rows.collect()).await?;
        Ok(answers)
    }

    /// The conversations of a user with unread messages, the most recent first, among the
    /// [`UNREAD_LOOKED_AT_MAX`] most recent ones; those that the user has left are none.
    pub(crate) async fn list_unread(&self, user: UserId) -> Result<Unread, ApiError> {
        let (page, _) = self.list_apart(user, None, UNREAD_LOOKED_AT_MAX).await?;
        let mut rows = page.rows;
        rows.retain(|row| row.is_listed() && !row.has_left() && row.unread_count() > 0);
        Ok(Unread {
            head: page.head,
            rows,
        })
    }

    /// The heads of the users' inboxes, in their order, once all have got to where they are to be.
    async fn wait_for_inboxes(&self, queries: &[UnreadQuery]) -> Result<Vec<InboxHead>, ApiError> {
        let deadline = Instant::now() + READ_WAIT_MAX;
        let mut pause = POLL_MIN;
        let users: Vec<_> = queries.iter().map(|query| query.user).collect();
        // Only those that are missing are asked for again.
        let mut heads: HashMap<UserId, InboxHead> = HashMap::with_capacity(users.len());
        let mut missing = users.clone();
        loop {
            let answer = self.store.inbox_heads(missing.clone()).await;
            heads.extend(missing.drain(..).zip(answer.map_err(read_error)?));
            let version = |user| heads.get(user).map_or(0, |head: &InboxHead| head.version);
            let late = queries
                .iter()
                .filter(|query| version(&query.user) < query.min_inbox_version);
            missing = late.map(|query| query.user).collect();
            if missing.is_empty() {
                let of = |user| heads.get(user).copied().unwrap_or_default();
                return Ok(users.iter().map(of).collect());
            }
            if Instant::now() >= deadline {
                return Err(not_yet());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }
}
