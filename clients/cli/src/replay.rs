//! Plays real logs.
mod log;
mod plan;
