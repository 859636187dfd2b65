//! Tells users of what no device of theirs has received: pushes by APNs, FCM and Web Push, and an e-mail
//! now and then of what is unread. See README.md beside this crate.

mod decide;
pub mod limits;
pub mod model;
mod names;
pub mod providers;
pub mod push;
mod pusher;
mod quiet;
mod rate;
mod record;
mod release;
pub mod store;
mod window;
mod words;
