//! Tells users of what no device of theirs has received: pushes by APNs, FCM and Web Push, and an e-mail
//! now and then of what is unread. See README.md beside this crate.

pub mod limits;
pub mod model;
pub mod providers;
pub mod push;
pub mod store;
