//! Lists: the rows of inboxes. Those of huge groups are *deferred*: nobody writes them for the events of
//! others, so they are completed here, by where their conversations end now.

use std::{cmp::Reverse, collections::BTreeSet};

use runtime::{
    ids::{ConversationId, UserId},
    status::ApiError,
};
use tokio::time::Instant;

use super::{POLL_MAX, POLL_MIN, Reader, not_yet, read_error};
use crate::{
    codec,
    limits::{DEFERRED_MAX, READ_WAIT_MAX},
    model::{Event, InboxHead, InboxRow, Marks, Watermark},
};

/// A page of a user's list.
#[derive(Debug)]
pub(crate) struct ListPage {
    /// With all that is unread.
    pub(crate) head: InboxHead,
    pub(crate) rows: Vec<InboxRow>,
    pub(crate) more: bool,
}

/// A page of what has changed in a user's list.
#[derive(Debug)]
pub(crate) struct ChangesPage {
    pub(crate) page: ListPage,
    /// On the last page: the deferred rows, whether or not they have changed.
    pub(crate) deferred: Vec<InboxRow>,
}

impl Reader {
    /// A user's inbox, once it has got to `min_version`.
    pub(crate) async fn wait_for_inbox(
        &self,
        user: UserId,
        min_version: u64,
    ) -> Result<InboxHead, ApiError> {
        let deadline = Instant::now() + READ_WAIT_MAX;
        let mut pause = POLL_MIN;
        loop {
            let heads = self
                .store
                .inbox_heads(vec![user])
                .await
                .map_err(read_error)?;
            let head = heads.first().copied().unwrap_or_default();
            if head.version >= min_version {
                return Ok(head);
            }
            if Instant::now() >= deadline {
                return Err(not_yet());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// One row; a conversation in which nothing has happened has an empty one.
    pub(crate) async fn row(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<InboxRow, ApiError> {
        let row = self
            .store
            .inbox_row(user, conversation)
            .await
            .map_err(read_error)?;
        let mut row = row.unwrap_or_else(|| InboxRow::new(conversation));
        self.complete(user, std::slice::from_mut(&mut row)).await?;
        Ok(row)
    }

    /// Rows with a message, the newest first, below `before`. Deferred rows are where their newest message
    /// puts them, and not where they are stored.
    pub(crate) async fn list(
        &self,
        user: UserId,
        before: Option<(i64, ConversationId)>,
        limit: usize,
    ) -> Result<ListPage, ApiError> {
        let (mut page, deferred_unread) = self.list_apart(user, before, limit).await?;
        page.head.unread_total += deferred_unread;
        Ok(page)
    }

    /// [`Self::list`], with what deferred rows count beside the head and not in it.
    pub(super) async fn list_apart(
        &self,
        user: UserId,
        before: Option<(i64, ConversationId)>,
        limit: usize,
    ) -> Result<(ListPage, u64), ApiError> {
        let deferred = self.deferred_rows(user).await?;
        // One more than asked, to know whether there is a next page, and as many as may be elsewhere.
        let stored_max = limit + 1 + deferred.len();
        let (head, mut rows) = self
            .store
            .list_inbox(user, before, stored_max)
            .await
            .map_err(read_error)?;
        let deferred_unread = count_unread(&deferred);
        let is_deferred = |row: &InboxRow| {
            let mut conversations = deferred.iter().map(|deferred| deferred.conversation);
            conversations.any(|conversation| conversation == row.conversation)
        };
        rows.retain(|row| !is_deferred(row));
        let is_below = |row: &InboxRow| {
            let place = place_in_list(row);
            place.is_some() && (before.is_none() || place < before)
        };
        rows.extend(deferred.into_iter().filter(is_below));
        rows.sort_by_key(|row| Reverse(place_in_list(row)));
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok((ListPage { head, rows, more }, deferred_unread))
    }

    /// Rows with a version above `after_version`, ascending by version.
    pub(crate) async fn changes(
        &self,
        user: UserId,
        after_version: u64,
        limit: usize,
    ) -> Result<ChangesPage, ApiError> {
        let deferred = self.deferred_rows(user).await?;
        let (mut head, mut rows) = self
            .store
            .inbox_changes(user, after_version, limit + 1)
            .await
            .map_err(read_error)?;
        head.unread_total += count_unread(&deferred);
        let more = rows.len() > limit;
        rows.truncate(limit);
        self.complete(user, &mut rows).await?;
        Ok(ChangesPage {
            page: ListPage { head, rows, more },
            deferred: match more {
                true => Vec::new(),
                false => deferred,
            },
        })
    }

    /// How many deferred conversations of a user have something unread.
    pub(crate) async fn deferred_unread(&self, user: UserId) -> Result<u64, ApiError> {
        Ok(count_unread(&self.deferred_rows(user).await?))
    }

    /// The deferred rows of a user, completed.
    async fn deferred_rows(&self, user: UserId) -> Result<Vec<InboxRow>, ApiError> {
        let (_, mut rows) = self
            .store
            .deferred_rows(user, DEFERRED_MAX)
            .await
            .map_err(read_error)?;
        self.complete(user, &mut rows).await?;
        Ok(rows)
    }

    /// Completes those rows of a user that are deferred.
    async fn complete(&self, user: UserId, rows: &mut [InboxRow]) -> Result<(), ApiError> {
        let deferred = rows.iter_mut().filter(|row| row.is_deferred());
        self.complete_deferred(deferred.map(|row| (user, row)).collect())
            .await
    }

    /// Completes deferred rows, each of its user. One query.
    pub(super) async fn complete_deferred(
        &self,
        rows: Vec<(UserId, &mut InboxRow)>,
    ) -> Result<(), ApiError> {
        if rows.is_empty() {
            return Ok(());
        }
        let conversations: BTreeSet<_> = rows.iter().map(|(_, row)| row.conversation).collect();
        let conversations = conversations.into_iter().collect();
        // Memory first: what it has forgotten when the store is asked, the store has.
        let newest = |(_, row): &(UserId, &mut InboxRow)| self.sequencers.newest(&row.conversation);
        let in_memory: Vec<_> = rows.iter().map(newest).collect();
        let heads = self.store.conversation_heads(conversations, true).await;
        let heads = heads.map_err(read_error)?;
        for ((user, row), in_memory) in rows.into_iter().zip(in_memory) {
            let mut stored = heads.iter();
            if let Some(stored) = stored.find(|head| head.conversation == row.conversation) {
                complete(user, row, stored.last, stored.message.as_ref());
            }
            if let Some((last, message)) = in_memory {
                complete(user, row, last, message.as_deref());
            }
        }
        Ok(())
    }
}

fn complete(user: UserId, row: &mut InboxRow, last: Watermark, message: Option<&Event>) {
    row.complete(last, message.map(codec::preview_of));
    if let Some(own) = message.filter(|message| message.sender == user) {
        // Who sends has read. The record that says so comes within a second.
        let place = Watermark {
            seq: own.seq,
            message_index: own.message_index,
        };
        row.own = row.own.max(Marks {
            delivered: place,
            read: place,
        });
    }
}

fn place_in_list(row: &InboxRow) -> Option<(i64, ConversationId)> {
    let preview = row.preview.as_ref()?;
    Some((preview.time_unix_ms, row.conversation))
}

/// A huge group counts once, however many of its messages are unread.
fn count_unread(deferred: &[InboxRow]) -> u64 {
    let unread = deferred.iter().map(|row| row.unread_count().min(1));
    unread.sum()
}
