//! How far the device holds one conversation.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{KnownMarks, RETRY_WAIT, deferred::DeferredRow};
use crate::{
    backoff::Backoff,
    model::{MemberMarks, RawEvent, Watermark},
};

/// What is known of a conversation from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) conversation_id: String,
    /// Every event up to here has been put out, or is gone.
    pub(crate) seq: u64,
    /// The last event that was put out.
    pub(crate) last_event: Watermark,
}

impl From<&(String, u64)> for Known {
    fn from((conversation_id, seq): &(String, u64)) -> Self {
        Self {
            conversation_id: conversation_id.clone(),
            seq: *seq,
            // The message_index is not known before the next event.
            last_event: Watermark::default(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Place {
    /// Every event up to here has been put out, or is gone.
    pub(super) seq: u64,
    /// The last event that was put out.
    pub(super) last_event: Watermark,
    /// The last event that is known to exist.
    pub(super) target: u64,
    /// The last event that was heard of one by one: by push, or by an ack. Only members hear so.
    pub(super) heard: u64,
    /// The user has left the group: nothing after this event is for him, and none is asked for.
    pub(super) end: Option<u64>,
    /// Events that wait for those before them.
    pub(super) early: BTreeMap<u64, RawEvent>,
    /// Where the conversation begins is not known yet, see `Unknown::Listing`.
    pub(super) undecided: bool,
    /// The first event that was heard of while undecided.
    pub(super) first_heard: u64,
    /// The version of the newest row.
    pub(super) row_version: u64,
    pub(super) marks: KnownMarks,
    /// Of a huge group.
    pub(super) deferred: Option<Box<DeferredRow>>,
    /// Its events are being read.
    pub(super) fetching: bool,
    /// When to read what is missing.
    pub(super) fetch_at: Option<Instant>,
    pub(super) backoff: Backoff,
    /// An event was put out, now or before a restart; otherwise it is known by its row only.
    handed_out: bool,
    /// The session in which the server was told that the device holds everything up to a seq.
    pub(super) told: (u64, u64),
    /// When it was used last, by `Inbox::clock`.
    pub(super) touched: u64,
}

impl Place {
    /// Known by its row.
    pub(super) fn listed(seq: u64, last_event: Watermark, touched: u64) -> Self {
        Self {
            seq,
            last_event,
            target: seq,
            heard: 0,
            end: None,
            early: BTreeMap::new(),
            undecided: false,
            first_heard: u64::MAX,
            row_version: 0,
            marks: KnownMarks::default(),
            deferred: None,
            fetching: false,
            fetch_at: None,
            backoff: Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1),
            handed_out: false,
            told: (0, 0),
            touched,
        }
    }

    /// Known from before.
    pub(super) fn held(seq: u64, last_event: Watermark, touched: u64) -> Self {
        Self {
            handed_out: last_event.seq > 0,
            ..Self::listed(seq, last_event, touched)
        }
    }

    /// The row says where the conversation is.
    pub(super) fn decide(&mut self, last: Watermark) {
        self.undecided = false;
        if self.first_heard <= last.seq {
            self.seq = self.first_heard.saturating_sub(1);
        } else {
            self.seq = last.seq;
            self.last_event = last;
        }
    }

    /// An event was heard of. If it comes after the user has left, he is in the group again.
    pub(super) fn hear(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
        self.end = self.end.filter(|end| seq <= *end);
        self.aim(seq);
    }

    /// An event is known to exist.
    pub(super) fn aim(&mut self, seq: u64) {
        let seq = self.end.map_or(seq, |end| seq.min(end));
        self.target = self.target.max(seq);
    }

    /// A newer row says whether the user has left, and where the conversation ends for him. The event of
    /// a later joining may have come before the row of the leaving.
    pub(super) fn leave_or_stay(&mut self, left: bool, last_seq: u64) {
        self.end = (left && self.heard <= last_seq).then_some(last_seq);
        if self.end.is_some() {
            // What was taken for missing was not for this user.
            self.target = last_seq.max(self.seq);
        }
    }

    pub(super) fn retry_later(&mut self, now: Instant, retry_after: Option<Duration>) {
        self.fetch_at = Some(now + self.backoff.next(retry_after));
    }

    pub(super) fn retry_now(&mut self, now: Instant) {
        self.backoff.reset();
        self.fetch_at = Some(now);
    }

    /// The event is the next one.
    pub(super) fn put_out(&mut self, event: &RawEvent) {
        self.handed_out = true;
        self.seq = event.seq;
        self.last_event = Watermark {
            seq: event.seq,
            message_index: event.message_index,
        };
    }

    /// Whether the own marks say that the server does not know what this device holds, and this
    /// session has not told it.
    pub(super) fn lacks_delivery(&self, own: &MemberMarks, session: u64) -> bool {
        let reached = |mark: &Option<Watermark>| mark.as_ref().map_or(0, |mark| mark.seq);
        let told = match self.told {
            (told_in, seq) if told_in == session => seq,
            _ => 0,
        };
        // A conversation that was only listed is not held.
        self.handed_out
            && reached(&own.delivered).max(reached(&own.read)).max(told) < self.last_event.seq
    }

    /// Nothing is missing, nothing is under way, and it is no huge group, of which a server names few.
    pub(super) fn is_idle(&self) -> bool {
        self.deferred.is_none()
            && !self.undecided
            && !self.fetching
            && self.seq >= self.target
            && self.early.is_empty()
    }
}
