//! Judges a record: pure functions over what was seen, against a simple model.
//!
//! The model: a conversation is a list of messages, which only grows at its end. The list as it was
//! read after everything had come to rest is the *truth*; everything that anybody saw before must be a
//! part of it, and nothing that was promised may be missing from it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::Record;

mod groups;
mod lists;
mod messages;
mod reads;
mod sessions;
mod world;

pub(crate) use groups::GroupWorld;
pub(crate) use lists::Expected;
pub(crate) use world::World;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// Acknowledged or seen, and not in the history.
    Lost,
    /// Twice in the history, handed out twice, or accepted twice.
    Duplicated,
    /// A place without a message, or a stream or a page that leaves one out.
    Gaps,
    /// Not at the place of its ack, or not in the order in which it was sent.
    Reordered,
    /// Not what was sent, or not by whom it was sent.
    Altered,
    /// Visible, and nobody sent it, or it was refused.
    Phantom,
    /// A read that is older than what its reader held.
    StaleReads,
    /// Two readers that do not see the same.
    Diverged,
    /// A conversation list or an unread count that is not exact.
    UnreadWrong,
    /// A mark that went back, is above the conversation's end, or is lost.
    MarksWrong,
    /// Received, read or sent by somebody who was not a member, or not allowed to.
    Foreign,
    /// Something that did not come to rest: a send without an answer, a session that is not live.
    Unsettled,
    /// A process that died by itself, did not start, or panicked.
    Crashed,
}

impl Wrong {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::Duplicated,
        Self::Gaps,
        Self::Reordered,
        Self::Altered,
        Self::Phantom,
        Self::StaleReads,
        Self::Diverged,
        Self::UnreadWrong,
        Self::MarksWrong,
        Self::Foreign,
        Self::Unsettled,
        Self::Crashed,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Gaps => "gaps",
            Self::Reordered => "reordered",
            Self::Altered => "altered",
            Self::Phantom => "phantom",
            Self::StaleReads => "stale_reads",
            Self::Diverged => "diverged",
            Self::UnreadWrong => "unread_wrong",
            Self::MarksWrong => "marks_wrong",
            Self::Foreign => "foreign",
            Self::Unsettled => "unsettled",
            Self::Crashed => "crashed",
        }
    }
}

/// Sentences that are kept of each kind: the first ones tell the most.
const EXAMPLES_MAX: usize = 50;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How often.
    pub counts: BTreeMap<Wrong, u64>,
    /// Some of it in words.
    pub examples: Vec<(Wrong, String)>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often this was found.
    pub fn count(&self, wrong: Wrong) -> u64 {
        self.counts.get(&wrong).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, wrong: Wrong, what: impl FnOnce() -> String) {
        let count = self.counts.entry(wrong).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX as u64 {
            self.examples.push((wrong, what()));
        }
    }
}

/// Judges everything.
pub fn judge(records: &[Record]) -> Verdict {
    let world = World::new(records);
    let mut verdict = Verdict::default();
    for record in records {
        match record {
            Record::Found { what, .. } => verdict.add(Wrong::Crashed, || what.clone()),
            Record::Unsettled { what } => verdict.add(Wrong::Unsettled, || what.clone()),
            _ => {}
        }
    }
    messages::judge(&world, &mut verdict);
    messages::judge_views(&world, records, &mut verdict);
    sessions::judge(&world, records, &mut verdict);
    reads::judge(&world, records, &mut verdict);
    lists::judge(&world, records, &mut verdict);
    groups::judge(records, &mut verdict);
    verdict
}

#[cfg(test)]
mod tests;
