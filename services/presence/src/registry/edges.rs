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
}

struct Edge {
    name: Arc<str>,
    epoch: u64,
    /// The stream that counts.
    stream: u64,
    /// When it ended, if it did.
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

    pub(super) fn open_stream(
        &mut self,
        name: &str,
        epoch: u64,
        edges_max: usize,
    ) -> Result<StreamKey, RegistryError> {
        self.next_stream += 1;
        let stream = self.next_stream;
        if let Some(number) = self.by_name.get(name)
            && let Some(edge) = self.by_number.get_mut(number)
        {
            if epoch < edge.epoch {
                return Err(RegistryError::StaleEpoch);
            }
            edge.epoch = epoch;
            edge.stream = stream;
            edge.ended = None;
            edge.snapshot = Snapshot::Expected;
            return Ok(StreamKey {
                edge: *number,
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
        self.by_number.insert(
            number,
            Edge {
                name,
                epoch,
                stream,
                ended: None,
                snapshot: Snapshot::Expected,
                sessions: HashMap::new(),
                leftover: HashMap::new(),
            },
        );
        Ok(StreamKey {
            edge: number,
            stream,
        })
    }

    pub(super) fn begin_request(
        &mut self,
        key: StreamKey,
        snapshot: bool,
    ) -> Result<(), RegistryError> {
        let edge = self
            .by_number
            .get_mut(&key.edge)
            .filter(|edge| edge.stream == key.stream)
            .ok_or(RegistryError::Replaced)?;
        match (edge.snapshot, snapshot) {
            (Snapshot::Running, true) | (Snapshot::Done, false) => {}
            (Snapshot::Expected | Snapshot::Done, true) => {
                edge.snapshot = Snapshot::Running;
                let before = std::mem::take(&mut edge.sessions);
                if edge.leftover.is_empty() {
                    edge.leftover = before;
                } else {
                    // The snapshot before was not finished.
                    edge.leftover.extend(before);
                }
            }
            (Snapshot::Expected | Snapshot::Running, false) => {
                return Err(RegistryError::SnapshotExpected);
            }
        }
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
        let Some(edge) = self.by_number.get_mut(&edge) else {
            return HashMap::new();
        };
        edge.snapshot = Snapshot::Done;
        let leftover = std::mem::take(&mut edge.leftover);
        self.sessions -= leftover.len();
        leftover
    }

    pub(super) fn close_stream(&mut self, key: StreamKey, now: Now) {
        if let Some(edge) = self.by_number.get_mut(&key.edge)
            && edge.stream == key.stream
        {
            edge.ended = Some(now);
        }
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
