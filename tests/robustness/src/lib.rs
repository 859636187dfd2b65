//! Robustness: traffic through the SDK, faults, a record of what every client saw, and a judge who
//! compares the record with a simple model afterwards. See README.md.

pub mod check;
pub mod deployment;
pub mod fault;
mod groups;
pub mod history;
pub mod plan;
pub mod recorder;
pub mod run;
mod settle;
mod texts;
mod traffic;
