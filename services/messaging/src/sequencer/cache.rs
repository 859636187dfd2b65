//! The conversations that a partition keeps in memory.

use std::collections::HashMap;

use runtime::ids::ConversationId;

use super::slot::Slot;

/// Conversations by how recently they were used, in two generations: when the young one is full, what
/// is idle in the old one is dropped and the young one becomes the old. So it costs a few moves per
/// conversation, and no list to maintain.
pub(super) struct Cache {
    young: HashMap<ConversationId, Slot>,
    old: HashMap<ConversationId, Slot>,
    generation_max: usize,
}

impl Cache {
    /// Keeps about `max` idle conversations; more while more are busy.
    pub(super) fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (max / 2).max(1),
        }
    }

    /// The conversation, made by `make` if it is not here.
    pub(super) fn get_or_insert_with(
        &mut self,
        conversation: ConversationId,
        make: impl FnOnce() -> Slot,
    ) -> &mut Slot {
        if !self.young.contains_key(&conversation) {
            let slot = self.old.remove(&conversation).unwrap_or_else(make);
            if self.young.len() >= self.generation_max {
                self.rotate();
            }
            self.young.insert(conversation, slot);
        }
        self.young
            .entry(conversation)
            .or_insert_with(|| Slot::new(conversation))
    }

    /// The conversation, if it is here.
    pub(super) fn get_mut(&mut self, conversation: &ConversationId) -> Option<&mut Slot> {
        match self.young.get_mut(conversation) {
            Some(slot) => Some(slot),
            None => self.old.get_mut(conversation),
        }
    }

    /// The conversation, if it is here, without counting as a use.
    pub(super) fn peek(&self, conversation: &ConversationId) -> Option<&Slot> {
        self.young
            .get(conversation)
            .or_else(|| self.old.get(conversation))
    }

    fn rotate(&mut self) {
        let oldest = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.young
            .extend(oldest.into_iter().filter(|(_, slot)| !slot.is_idle()));
    }
}
