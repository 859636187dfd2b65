//! Pictures and video: uploaded apart from messages, checked, made smaller, kept while something refers
//! to them, and downloaded at signed URLs. See README.md beside this crate.

pub mod limits;
pub mod media;
pub mod model;
pub mod objects;
pub mod references;
pub mod removal;
pub mod store;
