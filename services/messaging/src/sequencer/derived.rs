//! Derived records that the log did not take, until it does.

use std::collections::{BTreeMap, HashMap};

use event_log::Topic;
use runtime::ids::ConversationId;

use super::core::Derived;

/// What was refused, by topic and conversation and in the order of the log. Later records of such a
/// conversation for the topic wait behind it; others do not.
#[derive(Debug, Default)]
pub(super) struct Refused {
    conversations: HashMap<(Topic, ConversationId), BTreeMap<u64, Derived>>,
}

impl Refused {
    /// Answers the record if it may be appended now; otherwise it waits here.
    pub(super) fn admit(&mut self, derived: Derived) -> Option<Derived> {
        let key = (derived.topic, derived.conversation);
        match self.conversations.get_mut(&key) {
            Some(waiting) => {
                waiting.insert(derived.offset, derived);
                None
            }
            None => Some(derived),
        }
    }

    /// The log did not take it.
    pub(super) fn add(&mut self, derived: Derived) {
        let key = (derived.topic, derived.conversation);
        let waiting = self.conversations.entry(key).or_default();
        waiting.insert(derived.offset, derived);
    }

    /// All, to be appended in this order.
    pub(super) fn take(&mut self) -> Vec<Derived> {
        let conversations = std::mem::take(&mut self.conversations);
        conversations
            .into_values()
            .flat_map(BTreeMap::into_values)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use runtime::ids::GroupId;

    use super::*;

    fn derived(topic: Topic, group: u8, offset: u64) -> Derived {
        Derived {
            topic,
            offset,
            conversation: ConversationId::group(GroupId::from_bytes([group; 16])),
            payload: bytes::Bytes::new(),
            trace: None,
        }
    }

    #[test]
    fn what_was_refused_is_not_overtaken_in_its_conversation_and_holds_up_no_other() {
        let fan_out = |group, offset| derived(Topic::Fanout, group, offset);
        let mut refused = Refused::default();
        refused.add(fan_out(1, 7));
        // The one before it was refused later.
        refused.add(fan_out(1, 5));
        assert!(refused.admit(fan_out(1, 9)).is_none(), "it would overtake");
        assert_eq!(refused.admit(fan_out(2, 8)), Some(fan_out(2, 8)));
        // Of the same record, for another topic.
        let references = derived(Topic::References, 1, 9);
        assert_eq!(refused.admit(references.clone()), Some(references));
        let again: Vec<_> = refused.take().iter().map(|f| f.offset).collect();
        assert_eq!(again, [5, 7, 9]);
        assert!(refused.admit(fan_out(1, 11)).is_some());
    }
}
