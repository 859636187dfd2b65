//! What some events of a group, one after the other, make of the rows of its members.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use event_log::NewRecord;
use proto::log::v1 as log;
use runtime::{
    ids::{GroupId, UserId},
    trace,
};

use super::{
    codec::{self, Event, Kind, Place, Row},
    members::{Changed, Members},
};

/// Events over which the members are known without a gap. Whoever is a member after all of them, and is
/// not named below, was one before all of them: then one row serves him as well as the others.
#[derive(Debug)]
pub(super) struct Segment {
    /// After the last event.
    members: Members,
    last: Place,
    preview: Option<Arc<log::InboxPreview>>,
    touched: BTreeMap<UserId, Touched>,
}

/// What is particular about a user.
#[derive(Debug, Default)]
struct Touched {
    /// Until he left.
    left: Option<Row>,
    /// Since he joined; nothing before is for him.
    joined: Option<Arc<log::InboxPreview>>,
    own: Place,
}

impl Segment {
    pub(super) fn new(members: Members) -> Self {
        Self {
            members,
            last: Place::default(),
            preview: None,
            touched: BTreeMap::new(),
        }
    }

    /// Whether an event for these members is the next one.
    pub(super) fn goes_on_with(&self, before: &Members) -> bool {
        self.members.version == before.version && Arc::ptr_eq(&self.members.users, &before.users)
    }

    /// Rows that it makes at most.
    pub(super) fn weight(&self) -> usize {
        1 + self.members.users.len() + self.touched.len()
    }

    /// Takes the next event, after which the members are these.
    pub(super) fn add(&mut self, event: &Event, after: Members, changed: &Changed) {
        match &event.kind {
            Kind::Message { sender, preview } => {
                if self.preview.as_ref().map(|known| known.seq) < Some(preview.seq) {
                    self.preview = Some(preview.clone());
                }
                if self.members.contains(*sender) {
                    let own = &mut self.touched.entry(*sender).or_default().own;
                    *own = own.max(event.place);
                }
            }
            Kind::Change(change) => {
                for user in &changed.removed {
                    self.leave(*user, event.place);
                }
                for user in &changed.joined {
                    let touched = self.touched.entry(*user).or_default();
                    touched.joined = Some(change.preview.clone());
                    touched.own = touched.own.max(event.place);
                }
            }
            Kind::Other => {}
        }
        self.last = self.last.max(event.place);
        self.members = after;
    }

    fn leave(&mut self, user: UserId, at: Place) {
        let mut row = if self.members.contains(user) {
            self.row(user)
        } else {
            // Forgotten, or removed before.
            let left = self.touched.remove(&user).and_then(|touched| touched.left);
            left.unwrap_or_default()
        };
        row.last = row.last.max(at);
        row.left_seq = row.left_seq.max(at.seq);
        let left = Touched {
            left: Some(row),
            ..Touched::default()
        };
        self.touched.insert(user, left);
    }

    /// The row of a member.
    fn row(&self, user: UserId) -> Row {
        let mut row = Row {
            last: self.last,
            preview: self.preview.clone(),
            ..Row::default()
        };
        let Some(touched) = self.touched.get(&user) else {
            return row;
        };
        row.own = touched.own;
        if let Some(joined) = &touched.joined {
            row.joined_seq = joined.seq;
            row.preview = row.preview.filter(|preview| preview.seq > joined.seq);
            row.preview.get_or_insert_with(|| joined.clone());
        }
        match &touched.left {
            Some(left) => left.clone().merged(row),
            None => row,
        }
    }

    /// Begins to write the rows.
    pub(super) fn into_rows(self, group: GroupId) -> Rows {
        let common = Row {
            last: self.last,
            preview: self.preview.clone(),
            ..Row::default()
        };
        let is_out = |user: &UserId| !self.members.contains(*user);
        let out = self.touched.keys().copied().filter(is_out).collect();
        Rows {
            group,
            common: common.encode(group, None),
            segment: self,
            out,
            next: 0,
        }
    }
}

/// The rows of a segment, written bit by bit.
#[derive(Debug)]
pub(super) struct Rows {
    group: GroupId,
    segment: Segment,
    common: Vec<u8>,
    /// Those who have left.
    out: Vec<UserId>,
    /// Members that have theirs.
    next: usize,
}

impl Rows {
    /// See [`Segment::weight`].
    pub(super) fn weight(&self) -> usize {
        self.segment.weight()
    }

    /// The records of so many more users. Fewer if they are all.
    pub(super) fn take(&mut self, count: usize, trace: Option<&Bytes>) -> Vec<NewRecord> {
        let mut records = Vec::with_capacity(count.min(self.segment.weight()));
        let mut put = |row: &[u8], user| {
            let (key, payload) = codec::finish(row, user);
            records.push(NewRecord {
                key,
                payload,
                headers: trace::headers(trace.cloned()),
            });
        };
        let members = self
            .segment
            .members
            .users
            .iter()
            .skip(self.next)
            .take(count);
        let taken = members.len();
        for user in members {
            if self.segment.touched.contains_key(user) {
                let row = self.segment.row(*user);
                put(&row.encode(self.group, Some(*user)), *user);
            } else {
                put(&self.common, *user);
            }
        }
        self.next += taken;
        for _ in taken..count {
            let Some(user) = self.out.pop() else {
                break;
            };
            let touched = self.segment.touched.get(&user);
            if let Some(left) = touched.and_then(|touched| touched.left.as_ref()) {
                put(&left.encode(self.group, Some(user)), user);
            }
        }
        records
    }

    /// Whether all have their records.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.segment.members.users.len() && self.out.is_empty()
    }
}
