//! Fan-outs that the log did not take, until it does.

use std::collections::{BTreeMap, HashMap};

use runtime::ids::ConversationId;

use super::core::FanOut;

/// What was refused, by conversation and in the order of the log. Later fan-outs of such a conversation
/// wait behind it; others do not.
#[derive(Debug, Default)]
pub(super) struct Refused {
    conversations: HashMap<ConversationId, BTreeMap<u64, FanOut>>,
}

impl Refused {
    /// Answers the fan-out if it may be appended now; otherwise it waits here.
    pub(super) fn admit(&mut self, fan_out: FanOut) -> Option<FanOut> {
        match self.conversations.get_mut(&fan_out.conversation) {
            Some(waiting) => {
                waiting.insert(fan_out.offset, fan_out);
                None
            }
            None => Some(fan_out),
        }
    }

    /// The log did not take it.
    pub(super) fn add(&mut self, fan_out: FanOut) {
        let waiting = self.conversations.entry(fan_out.conversation).or_default();
        waiting.insert(fan_out.offset, fan_out);
    }

    /// All, to be appended in this order.
    pub(super) fn take(&mut self) -> Vec<FanOut> {
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

    fn fan_out(group: u8, offset: u64) -> FanOut {
        FanOut {
            offset,
            conversation: ConversationId::group(GroupId::from_bytes([group; 16])),
            payload: bytes::Bytes::new(),
            trace: None,
        }
    }

    #[test]
    fn what_was_refused_is_not_overtaken_in_its_conversation_and_holds_up_no_other() {
        let mut refused = Refused::default();
        refused.add(fan_out(1, 7));
        // The one before it was refused later.
        refused.add(fan_out(1, 5));
        assert!(refused.admit(fan_out(1, 9)).is_none(), "it would overtake");
        assert_eq!(refused.admit(fan_out(2, 8)), Some(fan_out(2, 8)));
        let again: Vec<_> = refused.take().iter().map(|f| f.offset).collect();
        assert_eq!(again, [5, 7, 9]);
        assert!(refused.admit(fan_out(1, 11)).is_some());
    }
}
