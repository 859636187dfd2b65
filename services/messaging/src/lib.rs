//! Messaging: sessions, the conversation log, history, conversation lists, receipts.

pub mod codec;
mod inbox;
pub mod limits;
pub mod model;
mod sequencer;
pub mod store;
pub mod wire;

pub use inbox::INBOX_GROUP;
pub use sequencer::SEQUENCER_GROUP;

use event_log::Topic;
use store::ReaderId;

/// The name under which the store keeps a reader's position.
pub(crate) const fn reader_id(reader: &'static str, topic: Topic, partition: u32) -> ReaderId {
    ReaderId { reader, topic: topic.name(), partition }
}
