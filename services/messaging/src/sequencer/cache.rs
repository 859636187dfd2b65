//! The conversations that a partition keeps in memory.

use std::collections::HashMap;

use runtime::ids::ConversationId;

use super::slot::Slot;

/// Conversations by how recently they were used, in two generations: when the young one is full, what
/// is idle in the old one is dropped and the young one becomes the old. So it costs a few moves per
/// conversation, and no list to maintain. A generation is full when it has many conversations, or when
/// its groups have many members.
pub(super) struct Cache {
    young: HashMap<ConversationId, Slot>,
    old: HashMap<ConversationId, Slot>,
    generation_max: usize,
    /// Members of the young generation's groups.
    young_members: usize,
    generation_members_max: usize,
}

impl Cache {
    /// Keeps about `max` idle conversations, whose groups have about `members_max` members; more while
    /// more are busy.
    pub(super) fn new(max: usize, members_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (max / 2).max(1),
            young_members: 0,
            generation_members_max: (members_max / 2).max(1),
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
            let is_full = self.young.len() >= self.generation_max
                || self.young_members >= self.generation_members_max;
            if is_full {
                self.rotate();
            }
            self.young_members += slot.weight;
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

    /// Counts the members of a group that may have grown.
    pub(super) fn weigh(&mut self, conversation: &ConversationId) {
        if conversation.group_id().is_none() {
            return;
        }
        if let Some(slot) = self.young.get_mut(conversation) {
            let before = slot.weight;
            slot.weight = slot.state.members.len();
            self.young_members = (self.young_members + slot.weight).saturating_sub(before);
        } else if let Some(slot) = self.old.get_mut(conversation) {
            slot.weight = slot.state.members.len();
        }
    }

    /// Members of all groups that are here.
    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        let slots = self.young.values().chain(self.old.values());
        let groups = slots.filter(|slot| slot.state.conversation.group_id().is_some());
        groups.map(|slot| slot.state.members.len()).sum()
    }

    fn rotate(&mut self) {
        let oldest = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.young
            .extend(oldest.into_iter().filter(|(_, slot)| !slot.is_idle()));
        self.young_members = self.young.values().map(|slot| slot.weight).sum();
    }
}
