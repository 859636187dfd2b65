//! The edges and their sessions, as they announce them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use runtime::ids::UserId;

use super::Now;
use crate::error::RegistryError;

/// One request of an edge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announcement {
    pub(crate) snapshot: bool,
    pub(crate) continues: bool,
    pub(crate) opened: Vec<(UserId, u64)>,
    pub(crate) closed: Vec<(UserId, u64)>,
}

/// One stream of one edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamKey {
    pub(super) edge: u32,
    stream: u64,
}

/// All edges.
#[derive(Default)]
pub(super) struct Edges {
    by_number: HashMap<u32, Edge>,
    by_name: HashMap<Arc<str>, u32>,
    next_number: u32,
    next_stream: u64,
    /// Of all edges.
    sessions: usize,
    /// Edges that may hold sessions which are not known.
    out_of_step: usize,
}

struct Edge {
    name: Arc<str>,
    epoch: u64,
    /// The stream that counts.
    stream: u64,
    /// When it last said anything.
    heard: Instant,
    /// When it ended, or was found silent, if it did.
    ended: Option<Now>,
    snapshot: Snapshot,
    sessions: HashMap<u64, UserId>,
    /// Announced before, and in no part of the running snapshot so far. No session is in both.
    leftover: HashMap<u64, UserId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    Expected,
    Running,
    Done,
}

/// What adding a session did.
pub(super) struct Added {
    /// The session was not known.
    pub(super) is_new: bool,
    /// It was known as another user's, who must lose it.
    pub(super) replaced: Option<UserId>,
}

/// An edge that was forgotten.
pub(super) struct Gone {
    pub(super) edge: u32,
    pub(super) sessions: Vec<(u64, UserId)>,
    pub(super) ended_unix_ms: i64,
}

impl Edge {
    /// One if it may hold sessions which are not known.
    fn out_of_step(&self) -> usize {
        usize::from(self.ended.is_some() || self.snapshot != Snapshot::Done)
    }
}

impl Edges {
    /// How many sessions are known.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    pub(super) fn names(&self, edges: impl Iterator<Item = u32>) -> Vec<Arc<str>> {
        edges
            .filter_map(|edge| Some(self.by_number.get(&edge)?.name.clone()))
            .collect()
    }

    /// Whether every edge that is known is there and has told everything.
    pub(super) fn are_in_step(&self) -> bool {
        self.out_of_step == 0
    }

    pub(super) fn open_stream(
        &mut self,
        name: &str,
        epoch: u64,
        edges_max: usize,
        now: Instant,
    ) -> Result<StreamKey, RegistryError> {
        self.next_stream += 1;
        let stream = self.next_stream;
        if let Some(number) = self.by_name.get(name).copied()
            && let Some(edge) = self.by_number.get(&number)
        {
            // Epochs are told by clocks, and a clock may be wrong: it decides only between two that
            // are both there.
            if epoch < edge.epoch && edge.ended.is_none() {
                return Err(RegistryError::StaleEpoch);
            }
            self.change(number, |edge| {
                edge.epoch = epoch;
                edge.stream = stream;
                edge.heard = now;
                edge.ended = None;
                edge.snapshot = Snapshot::Expected;
            });
            return Ok(StreamKey {
                edge: number,
                stream,
            });
        }
        if self.by_number.len() >= edges_max {
            return Err(RegistryError::Full);
        }
        // Never given twice, so that nothing old is taken for something new.
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(RegistryError::Full)?;
        let name: Arc<str> = name.into();
        self.by_name.insert(name.clone(), number);
        let edge = Edge {
            name,
            epoch,
            stream,
            heard: now,
            ended: None,
            snapshot: Snapshot::Expected,
            sessions: HashMap::new(),
            leftover: HashMap::new(),
        };
        self.out_of_step += edge.out_of_step();
        self.by_number.insert(number, edge);
        Ok(StreamKey {
            edge: number,
            stream,
        })
    }

    pub(super) fn begin_request(
        &mut self,
        key: StreamKey,
        snapshot: bool,
        now: Instant,
    ) -> Result<(), RegistryError> {
        let edge = self
            .by_number
            .get(&key.edge)
            .filter(|edge| edge.stream == key.stream)
            .ok_or(RegistryError::Replaced)?;
        if !snapshot && edge.snapshot != Snapshot::Done {
            return Err(RegistryError::SnapshotExpected);
        }
        self.change(key.edge, |edge| {
            edge.heard = now;
            // It was silent, and has missed nothing: a stream loses no request.
            edge.ended = None;
            if snapshot && edge.snapshot != Snapshot::Running {
                edge.snapshot = Snapshot::Running;
                // What is left over from a snapshot that was not finished is still there.
                edge.leftover.extend(std::mem::take(&mut edge.sessions));
            }
        });
        Ok(())
    }

    pub(super) fn add(&mut self, edge: u32, session_id: u64, user: UserId) -> Added {
        let Some(edge) = self.by_number.get_mut(&edge) else {
            return Added {
                is_new: false,
                replaced: None,
            };
        };
        let before = edge
            .leftover
            .remove(&session_id)
            .or_else(|| edge.sessions.get(&session_id).copied());
        edge.sessions.insert(session_id, user);
        if before.is_none() {
            self.sessions += 1;
        }
        Added {
            is_new: before != Some(user),
            replaced: before.filter(|before| *before != user),
        }
    }

    /// Answers whether the session was known as this user's.
    pub(super) fn remove(&mut self, edge: u32, session_id: u64, user: UserId) -> bool {
        let Some(edge) = self.by_number.get_mut(&edge) else {
            return false;
        };
        let known = edge.sessions.get(&session_id) == Some(&user);
        if known {
            edge.sessions.remove(&session_id);
            self.sessions -= 1;
        }
        known
    }

    /// Ends the snapshot: what was in none of its parts is taken out and answered.
    pub(super) fn end_snapshot(&mut self, edge: u32) -> HashMap<u64, UserId> {
        let mut leftover = HashMap::new();
        self.change(edge, |edge| {
            edge.snapshot = Snapshot::Done;
            leftover = std::mem::take(&mut edge.leftover);
        });
        self.sessions -= leftover.len();
        leftover
    }

    pub(super) fn close_stream(&mut self, key: StreamKey, now: Now) {
        self.change(key.edge, |edge| {
            if edge.stream == key.stream {
                edge.ended.get_or_insert(now);
            }
        });
    }

    /// An edge that has said nothing for so long counts as gone, unless it says something again.
    pub(super) fn close_silent(&mut self, now: Now, silent: Duration) {
        for edge in self.by_number.values_mut() {
            let silence = now.instant.saturating_duration_since(edge.heard);
            if silence >= silent && edge.ended.is_none() {
                let before = edge.out_of_step();
                edge.ended = Some(now);
                self.out_of_step += edge.out_of_step() - before;
            }
        }
    }

    /// Changes an edge, and keeps count of those that are out of step.
    fn change(&mut self, number: u32, change: impl FnOnce(&mut Edge)) {
        let Some(edge) = self.by_number.get_mut(&number) else {
            return;
        };
        self.out_of_step -= edge.out_of_step();
        change(edge);
        self.out_of_step += edge.out_of_step();
    }

    /// Takes out the edges whose stream ended longer ago than the grace.
    pub(super) fn expire(&mut self, now: Instant, grace: Duration) -> Vec<Gone> {
        let over = |edge: &Edge| {
            edge.ended
                .filter(|ended| now.saturating_duration_since(ended.instant) >= grace)
        };
        let gone: Vec<(u32, i64)> = self
            .by_number
            .iter()
            .filter_map(|(number, edge)| Some((*number, over(edge)?.unix_ms)))
            .collect();
        let mut all = Vec::with_capacity(gone.len());
        for (number, ended_unix_ms) in gone {
            let Some(edge) = self.by_number.remove(&number) else {
                continue;
            };
            self.by_name.remove(&edge.name);
            self.out_of_step -= edge.out_of_step();
            let sessions: Vec<_> = edge.sessions.into_iter().chain(edge.leftover).collect();
            self.sessions -= sessions.len();
            all.push(Gone {
                edge: number,
                sessions,
                ended_unix_ms,
            });
        }
        all
    }
}
