//! Writes `offline`: of messages that no device of their user has received in time, and of what was read on
//! one device after others were told of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use delivery::{Delivery, Online};
use event_log::{EventLog, NewRecord, Topic, Urgency};
use runtime::{clock::Clock, ids::UserId};

use super::pending::{Due, Key, PENDING_MAX, Pending};
use crate::{
    codec,
    model::{InboxChange, InboxHead, InboxRow},
    store::{Store, StoreError},
};

/// Rows that are looked at together: three queries, and one write of the log.
const DUE_MAX: usize = 512;
/// Users who are asked for together.
const ASKED_MAX: usize = 512;
/// Messages that are waited for above which no more is read: what is due is behind, so the log is full, or
/// the store is slow.
const READING_MAX: usize = 2 * PENDING_MAX;

/// What it works with.
#[derive(Clone)]
pub(crate) struct OfflineWriter {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) delivery: Delivery,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long a message is waited for.
    pub(crate) after: Duration,
}

/// Why what is due could not be written now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotNow {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log did not take all records")]
    Log,
}

impl OfflineWriter {
    /// Takes a record in.
    pub(super) fn take_in(
        &self,
        pending: &mut Pending,
        (offset, time_unix_ms): (u64, i64),
        change: &InboxChange,
    ) {
        let after = i64::try_from(self.after.as_millis()).unwrap_or(i64::MAX);
        pending.take_in(offset, change, time_unix_ms.saturating_add(after));
    }

    /// Whether no more is to be read before something is written.
    pub(super) fn is_full(pending: &Pending) -> bool {
        pending.len() >= READING_MAX
    }

    /// How long nothing is due.
    pub(super) fn quiet(&self, pending: &Pending) -> Option<Duration> {
        let due = pending.next_due()?;
        let left = due.saturating_sub(self.clock.now_unix_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// What is due now.
    pub(super) fn take_due(&self, pending: &mut Pending) -> Due {
        pending.take_due(self.clock.now_unix_ms(), DUE_MAX)
    }

    /// Of users with new messages, those who have no session: as far as the registry is sure.
    pub(super) fn ask(
        &self,
        pending: &mut Pending,
    ) -> Option<impl Future<Output = BTreeSet<UserId>> + Send + 'static> {
        let users = pending.take_fresh(ASKED_MAX);
        if users.is_empty() {
            return None;
        }
        let delivery = self.delivery.clone();
        Some(async move {
            let online = delivery.online(&users).await;
            let known = users.into_iter().zip(online);
            known
                .filter(|(_, online)| *online == Online::No)
                .map(|(user, _)| user)
                .collect()
        })
    }

    /// Writes what is due, as the rows are now. May be done again: whoever reads the records ignores what
    /// he has.
    pub(super) async fn write(&self, due: &Due) -> Result<(), NotNow> {
        let reads = self.told_of(&due.reads).await?;
        let asked: Vec<Key> = due
            .messages
            .iter()
            .map(|waiting| waiting.key)
            .chain(reads.iter().map(|(key, _)| *key))
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let rows = self.store.inbox_rows(asked).await?;
        let (of_messages, of_reads) = rows.split_at(due.messages.len().min(rows.len()));
        let (mut records, mut noted, mut read) = (Vec::new(), Vec::new(), Vec::new());
        for (waiting, (head, row)) in due.messages.iter().zip(of_messages) {
            let Some(row) = row else { continue };
            let seq = waiting.preview.seq;
            let seen = row.own.delivered.seq.max(row.own.read.seq);
            if seq <= seen || row.has_left() || !row.is_listed() {
                continue;
            }
            let (user, conversation) = waiting.key;
            noted.push((user, conversation, seq));
            let message = Some((
                &waiting.preview,
                waiting.message_index,
                waiting.mentioned_seq,
            ));
            records.push(record(user, *head, row, message));
        }
        for ((key, before), (head, row)) in reads.iter().zip(of_reads) {
            let Some(row) = row else { continue };
            let (user, conversation) = *key;
            records.push(record(user, *head, row, None));
            if row.own.read.seq >= *before {
                read.push((user, conversation, row.own.read.seq));
            }
        }
        // Noted first: what is in the log and not noted would never be taken away again.
        if !noted.is_empty() {
            self.store.note_offline(noted).await?;
        }
        if !records.is_empty() {
            let results = self
                .log
                .append_all(Topic::Offline, records, Urgency::Derived)
                .await;
            if results.iter().any(Result::is_err) {
                return Err(NotNow::Log);
            }
        }
        if !read.is_empty() {
            self.store.forget_offline(read).await?;
        }
        Ok(())
    }

    /// Of rows that were read, those that others were told of, and up to which seq.
    async fn told_of(&self, reads: &[Key]) -> Result<Vec<(Key, u64)>, NotNow> {
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let seqs = self.store.offline_seqs(reads.to_vec()).await?;
        let told = reads.iter().copied().zip(seqs);
        Ok(told.filter(|(_, seq)| *seq > 0).collect())
    }
}

fn record(
    user: UserId,
    head: InboxHead,
    row: &InboxRow,
    message: Option<(&crate::model::Preview, u64, u64)>,
) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(user.as_bytes()),
        payload: codec::encode_offline(user, head, row, message),
        headers: Vec::new(),
    }
}
