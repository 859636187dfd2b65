//! Names for messages: UUIDs of version 7 that grow within a conversation.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use uuid::{Builder, Uuid};

/// Makes the `message_id`s of one user on one device.
///
/// The server takes a name that is larger than all before it as new without looking it up. So a name
/// is made of the time, or of the last name's if the clock went back. The 62 random bits are drawn
/// for each name anew, since two devices of a user may count up from the same name.
#[derive(Debug)]
pub(crate) struct MessageIds {
    last: HashMap<String, Uuid>,
    conversations_max: usize,
}

impl MessageIds {
    pub(crate) fn new(conversations_max: usize) -> Self {
        Self {
            last: HashMap::new(),
            conversations_max,
        }
    }

    /// The user has given this name, here or on another device.
    pub(crate) fn saw(&mut self, conversation_id: &str, message_id: &str) {
        let Ok(id) = Uuid::try_parse(message_id) else {
            return;
        };
        if id.get_version_num() != 7 {
            return;
        }
        match self.last.get_mut(conversation_id) {
            Some(last) => *last = id.max(*last),
            None => self.remember(conversation_id, id),
        }
    }

    /// A name that is larger than those before it in the conversation.
    pub(crate) fn next(&mut self, conversation_id: &str) -> String {
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let id = after(
            self.last.get(conversation_id).copied(),
            now_ms,
            rand::random(),
        );
        match self.last.get_mut(conversation_id) {
            Some(last) => *last = id,
            None => self.remember(conversation_id, id),
        }
        id.to_string()
    }

    fn remember(&mut self, conversation_id: &str, id: Uuid) {
        if self.last.len() >= self.conversations_max {
            // Names go on growing by the clock; only one that went back would show, as cost.
            self.last.clear();
        }
        self.last.insert(conversation_id.to_owned(), id);
    }
}

/// Bits of the counter behind the milliseconds.
const COUNTER_BITS: u32 = 12;

/// The name at a time, but after `last`.
fn after(last: Option<Uuid>, now_ms: u64, random: [u8; 10]) -> Uuid {
    let now = u64::from(u16::from_be_bytes([random[0], random[1]])) & ((1 << COUNTER_BITS) - 1);
    let now = now_ms << COUNTER_BITS | now;
    let place = match last.map(place_of) {
        Some(last) if now <= last => last + 1,
        _ => now,
    };
    let millis = place >> COUNTER_BITS;
    let [_, _, rest @ ..] = random;
    let mut counter_and_random = [0; 10];
    let counter = (place & ((1 << COUNTER_BITS) - 1)) as u16;
    counter_and_random[..2].copy_from_slice(&counter.to_be_bytes());
    counter_and_random[2..].copy_from_slice(&rest);
    Builder::from_unix_timestamp_millis(millis, &counter_and_random).into_uuid()
}

/// The milliseconds and the 12 bits behind them.
fn place_of(id: Uuid) -> u64 {
    let high = (id.as_u128() >> 64) as u64;
    (high >> 16) << COUNTER_BITS | (high & 0xfff)
}

#[cfg(test)]
mod tests;
