//! The Rust SDK of the messenger.
//!
//! ```no_run
//! use messenger_client::{Client, Event, LogIn, Options};
//!
//! # async fn run() -> messenger_client::Result<()> {
//! let client = Client::builder("http://127.0.0.1:7400").build()?;
//! client
//!     .log_in(LogIn {
//!         username: "ada".to_owned(),
//!         password: "correct horse".to_owned(),
//!         ..LogIn::default()
//!     })
//!     .await?;
//! let grace = client.profile_by_username("grace").await?;
//! let conversation = client.open_direct(&grace.user_id).await?;
//!
//! let (session, mut events) = client.connect(Options::default()).await?;
//! let mut outgoing = session.send(&conversation.conversation_id, "hello").await?;
//! println!("sent as number {}", outgoing.sent().await?.message_index);
//! while let Some(event) = events.next().await {
//!     if let Event::Message(message) = event {
//!         println!("{}: {}", message.sender_id, message.text);
//!         session.mark_read(&message.conversation_id, message.watermark()).await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! | what | where |
//! |---|---|
//! | set up, tokens | [`Client::builder`], [`TokenStore`]: [`MemoryTokens`], [`FileTokens`] |
//! | accounts, devices | [`Client::register`], [`log_in`](Client::log_in), [`log_out`](Client::log_out), [`log_out_device`](Client::log_out_device), [`devices`](Client::devices) |
//! | people | [`Client::profile`], [`profile_by_username`](Client::profile_by_username), [`profiles`](Client::profiles), [`update_profile`](Client::update_profile), [`search_profiles`](Client::search_profiles), [`presence`](Client::presence) |
//! | conversations | [`Client::open_direct`], [`conversation`](Client::conversation), [`list_conversations`](Client::list_conversations), [`list_changes`](Client::list_changes), [`unread_total`](Client::unread_total), [`mark_read`](Client::mark_read) |
//! | groups | [`Client::groups`] gives [`Groups`]: make, change, join and leave them; [`Draft`] to mention members; [`Client::list_receipts`] |
//! | pictures, videos | [`Client::blobs`] gives [`Blobs`]: upload, download; [`Draft::attach`], [`Session::send_attachments`]; [`Client::set_profile_picture`], [`Groups::set_picture`] |
//! | pushes | [`Client::register_push`], [`Client::preferences`], [`Client::update_preferences`] |
//! | history | [`Client::list_messages`], [`list_events`](Client::list_events), [`Session::history`] |
//! | sends without a session | [`Client::send_message`], [`send_status`](Client::send_status) |
//! | live | [`Client::connect`] gives a [`Session`] to act and [`Events`] to listen |
//! | acting | [`Session::send`] gives an [`Outgoing`]; [`mark_read`](Session::mark_read), [`unsent`](Session::unsent), [`live`](Session::live), [`close`](Session::close), [`stats`](Session::stats) |
//! | listening | [`Event`], and [`Tick`] for the ticks of own messages |
//! | across restarts | [`Options::cache`] with a [`SqliteCache`] or a [`Cache`] of your own |
//! | errors | [`Error`], and [`Error::kind`] for what to do about it |
//!
//! # What a session promises
//!
//! - Messages of one conversation come as [`Event::Message`] once each, in the order of `seq`, the
//!   ones sent by this very session included, whatever the network loses, repeats or delays.
//! - Changes of groups come as [`Event::GroupChange`] in one order with them, once each.
//! - Messages handed to [`Session::send`] arrive once each, and those of one conversation in the order
//!   of the calls, however often the connection breaks. [`OutgoingState::Sent`] is final.
//! - It connects again by itself, with growing random waits, and ends only when the server says that
//!   trying again is useless: then [`Event::Closed`] is the last event.
//! - Memory is bounded: by [`Options::events_max`] for an app that does not listen in time, by
//!   [`Options::queue_max`] for messages that cannot be sent.
//! - With a cache, all of it holds across the end of the app at any moment.
//!
//! # What comes first
//!
//! A session without a cache begins with [`Event::Connected`], an [`Event::Conversation`] for each
//! conversation of the user, and [`Event::CaughtUp`]; older messages are had by
//! [`Session::history`], newer ones come as events. With [`Options::from_beginning`] all messages of
//! all conversations come as events, before [`Event::CaughtUp`]. A session with a cache goes on where
//! the cache ends: the rows that changed, the messages that were missed, [`Event::CaughtUp`].
//!
//! # Features
//!
//! `cache` (default): [`SqliteCache`]. `tls`: `https://` servers, with the roots of the web.

mod accounts;
mod auth;
mod backoff;
mod blobs;
mod cache;
mod client;
mod connection;
mod conversations;
mod driver;
mod error;
mod groups;
mod history;
mod ids;
mod inbox;
pub mod model;
mod outbox;
mod pace;
mod push;
mod session;
mod stats;
mod tokens;
mod transport;

pub use accounts::{LogIn, NewAccount, ProfileUpdate};
pub use blobs::{Blobs, Download, Downloaded, Progress, Source, Upload, Uploaded};
#[cfg(feature = "cache")]
pub use cache::SqliteCache;
pub use cache::{Batch, Cache, Head, Stored, Unsent};
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind, Result, ServerError};
pub use groups::{Changed, GroupUpdate, Groups, Joined, NewGroup};
pub use model::{
    Draft, DraftAttachment, ErrorReason, GroupChange, Message, Receipt, SendStatus, Tick,
    direct_conversation_id, direct_peer, group_conversation_id, group_of, is_video,
};
pub use push::PreferencesUpdate;
pub use session::{Event, Events, Options, Outgoing, OutgoingState, Session, SessionState, Start};
pub use stats::Stats;
pub use tokens::{Credentials, FileTokens, MemoryTokens, TokenStore};
