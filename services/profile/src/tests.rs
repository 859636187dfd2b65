//! The service behind a real listener, over a pipe.

mod access;
mod accounts;
mod harness;
mod log_out;
mod profiles;
mod refresh;
#[cfg(feature = "distributed")]
mod replicas;
