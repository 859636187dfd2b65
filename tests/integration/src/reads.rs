//! History and lists against a model of what was sent.

mod history;
mod lists;
