//! Groups: who is a member of what, decided here and ordered by the log; and the fan-out of a group's
//! events to its members.

pub mod decide;
pub mod fanout;
pub mod model;
pub mod store;
