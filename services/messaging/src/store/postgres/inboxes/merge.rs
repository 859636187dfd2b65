//! What changes make of inboxes, without a database.

use std::collections::{HashMap, hash_map::Entry};

use runtime::ids::{ConversationId, UserId};

use crate::{
    model::{InboxChange, InboxHead, InboxRow},
    store::{InboxApplied, StoreError},
};

/// The inbox of one user, as far as a batch touches it.
pub(super) struct Inbox {
    pub(super) user: UserId,
    /// As it is stored.
    pub(super) before: InboxHead,
    /// As it is after the changes so far.
    pub(super) head: InboxHead,
    rows: HashMap<ConversationId, InboxRow>,
}

impl Inbox {
    pub(super) fn new(user: UserId, stored: InboxHead) -> Self {
        Self {
            user,
            before: stored,
            head: stored,
            rows: HashMap::new(),
        }
    }

    pub(super) fn add_stored(&mut self, row: InboxRow) {
        self.rows.insert(row.conversation, row);
    }

    fn apply(&mut self, version: u64, change: &InboxChange) -> Result<(), StoreError> {
        if version <= self.head.version {
            return Ok(());
        }
        let conversation = change.conversation;
        let row = match self.rows.entry(conversation) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(place) => place.insert(InboxRow::new(conversation)),
        };
        let unread_before = row.counted_unread();
        if !row.merge(change) {
            return Ok(());
        }
        row.version = version;
        let unread_after = row.counted_unread();
        self.head.version = version;
        self.head.unread_total = (self.head.unread_total)
            .checked_sub(unread_before)
            .and_then(|others| others.checked_add(unread_after))
            .ok_or_else(|| StoreError::Corrupt("an unread total is not its rows' sum".into()))?;
        Ok(())
    }

    /// The rows that have changed. A version that the batch gave is above the stored head.
    pub(super) fn changed(&self) -> impl Iterator<Item = &InboxRow> {
        let before = self.before.version;
        self.rows.values().filter(move |row| row.version > before)
    }

    pub(super) fn into_applied(self) -> InboxApplied {
        let before = self.before.version;
        let mut rows: Vec<_> = self.rows.into_values().collect();
        rows.retain(|row| row.version > before);
        rows.sort_unstable_by_key(|row| row.version);
        InboxApplied {
            user: self.user,
            previous_version: before,
            version: self.head.version,
            rows,
        }
    }
}

/// Merges changes, in their order, into what is stored. Answers the inboxes that have changed, in
/// the order of their users.
pub(super) fn merge(
    mut inboxes: HashMap<UserId, Inbox>,
    changes: &[&(u64, InboxChange)],
) -> Result<Vec<Inbox>, StoreError> {
    for (version, change) in changes {
        inboxes
            .entry(change.user)
            .or_insert_with(|| Inbox::new(change.user, InboxHead::default()))
            .apply(*version, change)?;
    }
    let mut changed: Vec<_> = inboxes.into_values().collect();
    changed.retain(|inbox| inbox.head.version > inbox.before.version);
    changed.sort_unstable_by_key(|inbox| inbox.user);
    Ok(changed)
}
