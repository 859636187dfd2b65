//! Groups: their members change while they talk (I8).
//!
//! The model: a group is one list of messages and changes, and each user sees the stretches of it during
//! which he was a member, from his joining to his leaving. The owner never leaves, so what he reads after
//! everything has come to rest is the *truth*; who was a member when follows from the changes in it.

use super::{Verdict, Wrong};
use crate::history::Record;

mod changes;
mod lists;
mod messages;
mod reads;
mod sessions;
mod world;

pub(crate) use world::GroupWorld;

/// Judges everything that was seen of groups.
pub(super) fn judge(records: &[Record], verdict: &mut Verdict) {
    let world = GroupWorld::new(records);
    for group in world.truth.keys() {
        messages::judge_truth(&world, *group, verdict);
        changes::judge(&world, *group, verdict);
        messages::judge_order(&world, *group, verdict);
    }
    messages::judge_fates(&world, verdict);
    messages::judge_sightings(&world, verdict);
    reads::judge_views(&world, verdict);
    reads::judge(&world, records, verdict);
    sessions::judge(&world, records, verdict);
    lists::judge(&world, records, verdict);
}
