//! Groups: a cast of their own, whose membership changes while they talk. Beside the traffic of direct
//! conversations, in the same run and under the same faults.

mod app;
mod cast;
mod changes;
mod device;
mod ops;
mod settle;
mod traffic;

pub(crate) use cast::GroupCast;
pub(crate) use settle::settle;
pub(crate) use traffic::GroupTraffic;
