//! Tests of the whole system from outside: bare clients, which hold a running server to what the
//! comments of `proto/` promise.
#![cfg(test)]

mod access;
mod bad_input;
mod blobs;
mod bounds;
mod crash;
mod digests;
mod distributed;
mod full_disk;
mod groups;
mod layering;
mod push;
mod reads;
mod replay;
mod restored;
mod sessions;
