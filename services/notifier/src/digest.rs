//! E-mail of what is unread.

pub(crate) mod schedule;
