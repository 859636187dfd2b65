//! Messaging: sessions, the conversation log, history, conversation lists, receipts.

pub mod limits;
pub mod model;
pub mod store;
