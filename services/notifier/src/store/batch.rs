//! What a batch says in the end, each thing once and in the order of its keys: so no two processes wait for
//! each other in a circle, and rows that lie together are written together.

use std::collections::{BTreeMap, btree_map::Entry};

use runtime::ids::{ConversationId, DeviceId, UserId};

use crate::model::{DeviceSubject, Held, Subject, Told};

/// By the key of `told`: the larger of each part.
pub(super) fn told(
    said: Vec<(DeviceSubject, Told)>,
) -> BTreeMap<(UserId, DeviceId, ConversationId), Told> {
    let mut merged = BTreeMap::new();
    for (DeviceSubject { subject, device }, told) in said {
        let most: &mut Told = merged
            .entry((subject.user, device, subject.conversation))
            .or_default();
        most.seq = most.seq.max(told.seq);
        most.read_seq = most.read_seq.max(told.read_seq);
    }
    merged
}

/// By the key of `held`: the record with the larger seq, of two with the same one the later; and the
/// earlier time.
pub(super) fn held(said: Vec<Held>) -> BTreeMap<(UserId, ConversationId), Held> {
    let mut merged: BTreeMap<_, Held> = BTreeMap::new();
    for held in said {
        let Subject { user, conversation } = held.subject;
        match merged.entry((user, conversation)) {
            Entry::Vacant(none) => {
                none.insert(held);
            }
            Entry::Occupied(mut before) => {
                let before = before.get_mut();
                let due_unix_ms = before.due_unix_ms.min(held.due_unix_ms);
                if held.seq >= before.seq {
                    *before = held;
                }
                before.due_unix_ms = due_unix_ms;
            }
        }
    }
    merged
}
