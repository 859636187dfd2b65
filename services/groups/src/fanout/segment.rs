//! What some events of a group, one after the other, make of the rows of its members; of a deferred group,
//! of those whom they are about.

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
    /// The last message that mentions all; 0 = none of these. Its sender, too: he has read it.
    mentions_all_seq: u64,
    /// Whether all members have a row of it: the group was not deferred before.
    for_all: bool,
    /// The event by which it became so; 0 = none of these.
    deferred_seq: u64,
}

/// What is particular about a user.
#[derive(Debug, Default)]
struct Touched {
    /// Until he left.
    left: Option<Row>,
    /// Since he joined; nothing before is for him.
    joined: Option<Arc<log::InboxPreview>>,
    /// When the group was deferred.
    deferred_seq: u64,
    own: Place,
    /// The last message that mentions him by name.
    mentioned_seq: u64,
}

impl Segment {
    pub(super) fn new(members: Members) -> Self {
        Self {
            for_all: !members.deferred,
            members,
            last: Place::default(),
            preview: None,
            touched: BTreeMap::new(),
            mentions_all_seq: 0,
            deferred_seq: 0,
        }
    }

    /// Whether an event for these members is the next one.
    pub(super) fn goes_on_with(&self, before: &Members) -> bool {
        self.members.version == before.version
            && self.members.deferred == before.deferred
            && Arc::ptr_eq(&self.members.users, &before.users)
    }

    /// The event of it by which the group became deferred; 0 = none.
    pub(super) const fn deferred_seq(&self) -> u64 {
        self.deferred_seq
    }

    /// Rows that it makes at most.
    pub(super) fn weight(&self) -> usize {
        let members = match self.for_all {
            true => self.members.users.len(),
            false => 0,
        };
        1 + members + self.touched.len()
    }

    /// Takes the next event, after which the members are these.
    pub(super) fn add(&mut self, event: &Event, after: Members, changed: &Changed) {
        match &event.kind {
            Kind::Message {
                sender,
                preview,
                mentioned,
                mentions_all,
            } => {
                if self.preview.as_ref().map(|known| known.seq) < Some(preview.seq) {
                    self.preview = Some(preview.clone());
                }
                if self.members.contains(*sender) {
                    let own = &mut self.touched.entry(*sender).or_default().own;
                    *own = own.max(event.place);
                }
                if *mentions_all {
                    self.mentions_all_seq = self.mentions_all_seq.max(event.place.seq);
                }
                // Of a deferred group, too, since somebody means this user: at most so many records as a
                // message can name users. Mentioning all would undo what deferring saves.
                for user in mentioned {
                    if self.members.contains(*user) {
                        let seq = &mut self.touched.entry(*user).or_default().mentioned_seq;
                        *seq = event.place.seq.max(*seq);
                    }
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
                    if after.deferred {
                        touched.deferred_seq = event.place.seq;
                    }
                }
            }
            Kind::Other => {}
        }
        if after.deferred && !self.members.deferred {
            self.deferred_seq = event.place.seq;
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
            deferred_seq: self.deferred_seq,
            mentioned_seq: self.mentions_all_seq,
            ..Row::default()
        };
        let Some(touched) = self.touched.get(&user) else {
            return row;
        };
        row.own = touched.own;
        row.deferred_seq = row.deferred_seq.max(touched.deferred_seq);
        if let Some(joined) = &touched.joined {
            row.joined_seq = joined.seq;
            if row.mentioned_seq < joined.seq {
                row.mentioned_seq = 0;
            }
            row.preview = row.preview.filter(|preview| preview.seq > joined.seq);
            row.preview.get_or_insert_with(|| joined.clone());
        }
        row.mentioned_seq = row.mentioned_seq.max(touched.mentioned_seq);
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
            deferred_seq: self.deferred_seq,
            mentioned_seq: self.mentions_all_seq,
            ..Row::default()
        };
        let is_in = |user: &UserId| self.members.contains(*user);
        let (touched, out) = self.touched.keys().copied().partition(is_in);
        Rows {
            group,
            common: common.encode(group, None),
            members: match self.for_all {
                true => self.members.users.clone(),
                false => Arc::new(touched),
            },
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
    /// Those of them who get one.
    members: Arc<Vec<UserId>>,
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
        let members = self.members.iter().skip(self.next).take(count);
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
        self.next >= self.members.len() && self.out.is_empty()
    }
}
