//! The store, as its trait promises.

use std::collections::{BTreeMap, HashMap};

use runtime::ids::ConversationId;

use crate::{
    model::{ConversationState, Event},
    sequencer::core::Name,
    store::SequencedBatch,
};

#[derive(Default)]
pub(super) struct Store {
    pub(super) events: BTreeMap<(ConversationId, u64), Event>,
    pub(super) states: HashMap<ConversationId, ConversationState>,
    pub(super) position: u64,
}

impl Store {
    pub(super) fn persist(&mut self, batch: &SequencedBatch) {
        for update in &batch.conversations {
            let head = self
                .states
                .get(&update.state.conversation)
                .map_or(0, |s| s.head_seq);
            assert!(
                head >= update.base_head_seq,
                "a batch was built on a head that is not stored"
            );
        }
        for event in &batch.events {
            let key = (event.conversation, event.seq);
            let stored = self.events.entry(key).or_insert_with(|| event.clone());
            assert_eq!(stored, event, "two events at one place");
        }
        for update in &batch.conversations {
            let new = &update.state;
            let state = self
                .states
                .entry(new.conversation)
                .or_insert_with(|| ConversationState::new(new.conversation));
            state.head_seq = state.head_seq.max(new.head_seq);
            state.last_message_index = state.last_message_index.max(new.last_message_index);
            state.last_time_unix_ms = state.last_time_unix_ms.max(new.last_time_unix_ms);
            state.applied_end = state.applied_end.max(new.applied_end);
            if new.group.version > state.group.version {
                state.group = new.group;
            }
            for member in &new.members {
                let known = state.member_mut(member.user);
                *known = known.clone().merged(member.clone());
            }
        }
    }

    pub(super) fn load(&self, asked: &[ConversationId]) -> Vec<ConversationState> {
        asked
            .iter()
            .filter_map(|conversation| self.states.get(conversation).cloned())
            .collect()
    }

    pub(super) fn find(&self, asked: &[Name]) -> Vec<Event> {
        let named = |name: &Name| {
            self.events
                .values()
                .find(|e| (e.conversation, e.sender, e.message_id) == *name)
                .cloned()
        };
        asked.iter().filter_map(named).collect()
    }
}
