//! Robustness: traffic, faults, a record of what was seen, and a judge.
mod deployment;
mod fault;
pub mod history;
mod plan;
mod recorder;
mod texts;
