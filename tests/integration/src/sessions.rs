//! Sessions: what devices of users hear, in which order, and how they end.

mod endings;
mod marks;
mod resuming;
mod sending;
mod slow;
