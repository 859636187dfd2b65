//! Rows on their way into the log: the events of a group wait for each other for a moment, so that a
//! busy group costs its members one record each a second, and not one for each event.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use event_log::NewRecord;
use runtime::ids::GroupId;
use tokio::time::Instant;

use super::{
    codec::Event,
    limits::{APPEND_RECORDS_MAX, ROUND_DELAY, ROUND_INTERVAL, ROUND_MEMBERS_MAX, TURN_RECORDS},
    members::{Changed, Members},
    segment::{Rows, Segment},
};

/// The events of a group that wait; none if it was written a moment ago.
#[derive(Default)]
struct Round {
    segments: Vec<Segment>,
    /// The records that they came with.
    offsets: Vec<u64>,
    trace: Option<Bytes>,
}

/// A round that is being written.
struct Job {
    rows: VecDeque<Rows>,
    round: Written,
    trace: Option<Bytes>,
}

/// A round all of whose rows are in the log.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) group: GroupId,
    /// The records that need no more of their rows.
    pub(super) offsets: Vec<u64>,
    /// The event of it by which the group became deferred; 0 = none.
    pub(super) deferred_seq: u64,
}

/// What waits to be appended, and what is under way.
#[derive(Default)]
pub(super) struct Rounds {
    open: HashMap<GroupId, Round>,
    /// Groups by when they are due; each delay is constant, so each queue is in order.
    quiet: VecDeque<(Instant, GroupId)>,
    cooling: VecDeque<(Instant, GroupId)>,
    jobs: HashMap<GroupId, Job>,
    turns: VecDeque<GroupId>,
    /// Rows that all of this makes at most.
    members: usize,
    /// The rounds whose last row is in the append under way, while there is one.
    under_way: Option<Vec<Written>>,
    coalesced: u64,
}

impl Rounds {
    /// An event, with the members before and after it.
    pub(super) fn add(
        &mut self,
        at: (GroupId, u64),
        event: &Event,
        (before, after): (&Members, Members),
        changed: &Changed,
        trace: Option<Bytes>,
        now: Instant,
    ) {
        let (group, offset) = at;
        let quiet = &mut self.quiet;
        let round = self.open.entry(group).or_insert_with(|| {
            quiet.push_back((now + ROUND_DELAY, group));
            Round::default()
        });
        if !round.offsets.is_empty() {
            self.coalesced += 1;
        }
        round.offsets.push(offset);
        if trace.is_some() {
            round.trace = trace;
        }
        let last = round.segments.last_mut();
        match last.filter(|segment| segment.goes_on_with(before)) {
            Some(segment) => {
                self.members -= segment.weight();
                segment.add(event, after, changed);
                self.members += segment.weight();
            }
            None => {
                let mut segment = Segment::new(before.clone());
                segment.add(event, after, changed);
                self.members += segment.weight();
                round.segments.push(segment);
            }
        }
    }

    pub(super) const fn has_room(&self) -> bool {
        self.members < ROUND_MEMBERS_MAX
    }

    /// Events that shared the records of others.
    pub(super) const fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// When the next group is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let front = |queue: &VecDeque<(Instant, _)>| queue.front().map(|(at, _)| *at);
        match (front(&self.quiet), front(&self.cooling)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Whether an append can be cut now.
    pub(super) fn may_cut(&self) -> bool {
        self.under_way.is_none() && !self.turns.is_empty()
    }

    /// Begins to write what is due.
    pub(super) fn turn(&mut self, now: Instant) {
        let mut due = Vec::new();
        for queue in [&mut self.quiet, &mut self.cooling] {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                due.extend(queue.pop_front().map(|(_, group)| group));
            }
        }
        for group in due {
            let Some(round) = self.open.get_mut(&group) else {
                continue;
            };
            let is_written = self.jobs.contains_key(&group);
            if round.segments.is_empty() && !is_written {
                // Nothing came for a while: the group is quiet again.
                self.open.remove(&group);
                continue;
            }
            self.cooling.push_back((now + ROUND_INTERVAL, group));
            if is_written || round.segments.is_empty() {
                continue;
            }
            let Round {
                segments,
                offsets,
                trace,
            } = std::mem::take(round);
            let deferred_seq = segments.iter().map(Segment::deferred_seq).max();
            let rows = segments.into_iter().map(|segment| segment.into_rows(group));
            let job = Job {
                rows: rows.collect(),
                round: Written {
                    group,
                    offsets,
                    deferred_seq: deferred_seq.unwrap_or_default(),
                },
                trace,
            };
            self.jobs.insert(group, job);
            self.turns.push_back(group);
        }
    }

    /// The next append, of what is being written, some rows of each group in turns; the one after it
    /// only after [`Rounds::appended`].
    pub(super) fn cut(&mut self) -> Vec<NewRecord> {
        if !self.may_cut() {
            return Vec::new();
        }
        let mut records = Vec::new();
        let mut written = Vec::new();
        while records.len() + TURN_RECORDS <= APPEND_RECORDS_MAX {
            let Some(group) = self.turns.pop_front() else {
                break;
            };
            let Some(job) = self.jobs.get_mut(&group) else {
                continue;
            };
            if let Some(rows) = job.rows.front_mut() {
                records.extend(rows.take(TURN_RECORDS, job.trace.as_ref()));
                if rows.is_done() {
                    self.members -= rows.weight();
                    job.rows.pop_front();
                }
            }
            if !job.rows.is_empty() {
                self.turns.push_back(group);
            } else if let Some(job) = self.jobs.remove(&group) {
                written.push(job.round);
            }
        }
        self.under_way = Some(written);
        records
    }

    /// The last append is durable: answers the rounds that it was the end of.
    pub(super) fn appended(&mut self) -> Vec<Written> {
        self.under_way.take().unwrap_or_default()
    }
}
