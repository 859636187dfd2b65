//! Real servers for tests, for the local cluster, and for whoever wants to see them run: Apache
//! Kafka, PostgreSQL, one that speaks S3 and one that takes mails, each as child processes on free ports, with
//! their data in a temporary folder.
//!
//! A crate of its own because the tests of the adapters need it and must not depend on the
//! services. Blocking on purpose: what starts a server has nothing else to do meanwhile.

pub mod kafka;
mod ports;
pub mod postgres;
pub mod process;
mod program;
pub mod s3;
pub mod smtp;

pub use ports::{free_listener, free_port};
pub use program::program;
