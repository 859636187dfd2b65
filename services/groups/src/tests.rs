//! The service behind a real listener, over a pipe, on the embedded log.

mod access;
mod changes;
mod harness;
mod joining;
mod relay;
