//! Which messages no device of their user has received yet, of one partition of `inbox`: without a clock,
//! a store or a network. What it knows it has from the records alone, in their order, so that reading them
//! again makes the same of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use runtime::ids::{ConversationId, UserId};

use crate::model::{InboxChange, Preview};

/// Messages of a partition that are waited for at the same time: some 20 MB. Of more, the oldest ones are
/// looked at before their time: what is told too early is asked about again by who reads it.
pub(super) const PENDING_MAX: usize = 32_768;

/// A row of a user's list.
pub(super) type Key = (UserId, ConversationId);

/// A message that no device is known to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Of the user.
    pub(super) key: Key,
    /// The newest one; those before it are told of with it.
    pub(super) preview: Preview,
    /// Its place among the messages.
    pub(super) message_index: u64,
    /// The last one that mentions the user; 0 = none.
    pub(super) mentioned_seq: u64,
    /// The record of the first of them.
    offset: u64,
    due_unix_ms: i64,
}

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Messages that were not received in time.
    pub(super) messages: Vec<Waiting>,
    /// Rows in which the user has read something.
    pub(super) reads: Vec<Key>,
    /// The records of all of them.
    offsets: Vec<u64>,
}

impl Due {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.reads.is_empty()
    }
}

/// The messages that are waited for.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: HashMap<Key, Waiting>,
    /// By the time at which they are looked at, and the record.
    by_due: BTreeSet<(i64, u64, Key)>,
    /// Rows that were read, and the first record that says so.
    reads: BTreeMap<Key, u64>,
    /// Records that must be read again if this process ends now, and for how many reasons.
    open: BTreeMap<u64, u8>,
    /// Users with a message that came since they were asked for.
    fresh: BTreeSet<UserId>,
}

impl Pending {
    /// Takes a record in that says this; a message in it is looked at when `due_unix_ms` is over.
    pub(super) fn take_in(&mut self, offset: u64, change: &InboxChange, due_unix_ms: i64) {
        let key = (change.user, change.conversation);
        let seen = change.own.delivered.seq.max(change.own.read.seq);
        let waits = self.waiting.get(&key);
        let has_come = waits.is_some_and(|waits| waits.preview.seq <= seen);
        if has_come && let Some(received) = self.take(key) {
            self.let_go(received.offset);
        }
        // Records of others' messages say what was read before, too.
        let preview_of_other = change.preview.as_ref().filter(|p| p.sender != change.user);
        let has_read = change.own.read.seq > 0 && preview_of_other.is_none();
        if has_read && !self.reads.contains_key(&key) {
            self.reads.insert(key, offset);
            self.hold(offset);
        }
        let Some(preview) = preview_of_other else {
            return;
        };
        if preview.joined || preview.seq <= seen || change.left_seq > change.joined_seq {
            return;
        }
        if let Some(known) = self.waiting.get_mut(&key) {
            known.mentioned_seq = known.mentioned_seq.max(change.mentioned_seq);
            if preview.seq > known.preview.seq {
                known.preview = preview.clone();
                known.message_index = change.last.message_index;
            }
            return;
        }
        let waiting = Waiting {
            key,
            preview: preview.clone(),
            message_index: change.last.message_index,
            mentioned_seq: change.mentioned_seq,
            offset,
            due_unix_ms,
        };
        self.by_due.insert((due_unix_ms, offset, key));
        self.hold(offset);
        self.waiting.insert(key, waiting);
        self.fresh.insert(change.user);
    }

    fn hold(&mut self, offset: u64) {
        *self.open.entry(offset).or_default() += 1;
    }

    fn let_go(&mut self, offset: u64) {
        if let Some(reasons) = self.open.get_mut(&offset) {
            *reasons -= 1;
            if *reasons == 0 {
                self.open.remove(&offset);
            }
        }
    }

    /// Takes out what waits for a row; its record stays open.
    fn take(&mut self, key: Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(&key)?;
        let (due, offset) = (waiting.due_unix_ms, waiting.offset);
        self.by_due.remove(&(due, offset, key));
        Some(waiting)
    }

    /// Users of whom it is worth asking whether they are there, at most `limit`.
    pub(super) fn take_fresh(&mut self, limit: usize) -> Vec<UserId> {
        let users: Vec<_> = self.fresh.iter().copied().take(limit).collect();
        for user in &users {
            self.fresh.remove(user);
        }
        users
    }

    /// These users have no session: nobody will receive what waits for them.
    pub(super) fn absent(&mut self, users: &BTreeSet<UserId>) {
        let of_them: Vec<_> = self
            .by_due
            .iter()
            .filter(|(due, _, (user, _))| *due > 0 && users.contains(user))
            .copied()
            .collect();
        for (due, offset, key) in of_them {
            self.by_due.remove(&(due, offset, key));
            self.by_due.insert((0, offset, key));
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.due_unix_ms = 0;
            }
        }
    }

    /// When something is to be looked at next, in Unix milliseconds; `None` while nothing waits.
    pub(super) fn next_due(&self) -> Option<i64> {
        if !self.reads.is_empty() || self.waiting.len() > PENDING_MAX {
            return Some(0);
        }
        self.by_due.first().map(|(due, ..)| *due)
    }

    /// Takes out what is to be looked at now, at most `limit` of each kind. Its records stay open until
    /// [`Pending::done`].
    pub(super) fn take_due(&mut self, now_unix_ms: i64, limit: usize) -> Due {
        let mut due = Due::default();
        while due.messages.len() < limit {
            let Some(&(at, _, key)) = self.by_due.first() else {
                break;
            };
            if at > now_unix_ms && self.waiting.len() <= PENDING_MAX {
                break;
            }
            let Some(waiting) = self.take(key) else {
                break;
            };
            due.offsets.push(waiting.offset);
            due.messages.push(waiting);
        }
        while due.reads.len() < limit {
            let Some((key, offset)) = self.reads.pop_first() else {
                break;
            };
            due.offsets.push(offset);
            due.reads.push(key);
        }
        due
    }

    /// What was taken out is durable, or needs nothing.
    pub(super) fn done(&mut self, due: &Due) {
        for offset in &due.offsets {
            self.let_go(*offset);
        }
    }

    /// Everything below is dealt with, if everything below `read` was read.
    pub(super) fn position(&self, read: u64) -> u64 {
        self.open
            .first_key_value()
            .map_or(read, |(first, _)| read.min(*first))
    }

    /// Messages that are waited for.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests;
