//! What waits for the browser until it says that it has it.

use std::sync::Arc;

use tokio::sync::watch;

use super::mcs::DataMessage;

/// Messages that wait: more than any test sends.
const MESSAGES_MAX: usize = 10_000;

pub(super) type Messages = Vec<Arc<DataMessage>>;

#[derive(Debug)]
pub(super) struct Mailbox(watch::Sender<Messages>);

impl Default for Mailbox {
    fn default() -> Self {
        Self(watch::Sender::new(Messages::new()))
    }
}

impl Mailbox {
    /// `false` = it is full.
    pub(super) fn put(&self, message: DataMessage) -> bool {
        self.0.send_if_modified(|messages| {
            let fits = messages.len() < MESSAGES_MAX;
            if fits {
                messages.push(Arc::new(message));
            }
            fits
        })
    }

    /// The browser has those that the condition names, by their persistent ids.
    pub(super) fn received(&self, has: impl Fn(&str) -> bool) {
        self.0.send_if_modified(|messages| {
            messages.retain(|message| !has(message.persistent_id()));
            // Nobody waits for fewer.
            false
        });
    }

    pub(super) fn watch(&self) -> watch::Receiver<Messages> {
        self.0.subscribe()
    }
}
