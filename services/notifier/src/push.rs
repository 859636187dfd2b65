//! What is pushed, and the port to those who deliver it.

use std::time::Duration;

use async_trait::async_trait;
use runtime::ids::ConversationId;

use crate::model::{ProviderKind, Subject, Target};

/// What one notification is about, as providers know it: a newer push with the same one replaces the older
/// one on the screen. Says nothing of the conversation to whoever does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CollapseId([u8; 16]);

impl CollapseId {
    /// Of a conversation of a user: the same for ever, and another one for each user.
    pub fn of(subject: &Subject) -> Self {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new_with_prefix(b"messenger collapse id");
        hash.update(subject.user.as_bytes());
        hash.update(subject.conversation.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

impl std::fmt::Display for CollapseId {
    /// 32 hexadecimal digits: APNs takes 64 bytes at most, the `Topic` of Web Push 32 of base64url.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a screen is to show of a conversation. Its `Debug` shows no text.
#[derive(Clone, PartialEq, Eq)]
pub struct Alert {
    /// Who, or in which group: at most [`crate::limits::TITLE_BYTES_MAX`] bytes.
    pub title: String,
    /// What: at most [`crate::limits::BODY_BYTES_MAX`] bytes.
    pub body: String,
    /// Messages that it stands for.
    pub count: u64,
    /// Of the newest of them.
    pub seq: u64,
}

impl std::fmt::Debug for Alert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, seq, .. } = self;
        f.debug_struct("Alert")
            .field("count", count)
            .field("seq", seq)
            .finish_non_exhaustive()
    }
}

/// One push, the same for all devices of a user that a provider serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// What it replaces.
    pub collapse_id: CollapseId,
    /// What a click opens.
    pub conversation: ConversationId,
    /// What to show; `None` = nothing: what was shown of the conversation is to go, and the badge changes.
    pub alert: Option<Alert>,
    /// Unread messages in all.
    pub badge: u64,
    /// The user has read up to this seq. What goes away without an alert is what was shown up to it, and no
    /// more: providers may deliver this push after the alert of a later message.
    pub read_seq: u64,
    /// Not to be delivered after this, in Unix milliseconds.
    pub expires_unix_ms: i64,
}

/// What a provider said to one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It will deliver it.
    Taken,
    /// The device is not there any more: its target is to be forgotten.
    Gone,
    /// It will never take this push, for the reason named: a defect of ours, or of our settings for this one
    /// target. The next ones may well be taken.
    Refused(String),
    /// More bytes than it takes.
    TooLarge,
    /// It does not believe who we are: nothing is taken until an operator changes the settings.
    Unauthorized(String),
    /// Not now, to this device: too many pushes for it.
    TargetBusy {
        /// How long it wants to be left alone, if it said so.
        after: Option<Duration>,
    },
    /// Not now, to anyone: it is away, overloaded, or the answer did not come. The push may have been taken.
    Unavailable {
        /// How long it wants to be left alone, if it said so.
        after: Option<Duration>,
        /// What happened, for the log; contains no token and no text.
        why: String,
    },
}

/// Those of a provider's servers that are away, or work, together. Most providers have one; every browser
/// has a push service of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'t> {
    /// Its name among those of the provider.
    pub name: &'t str,
    /// Pushes wait while it is away. Not for what anybody may name by registering a target there: such a
    /// push is held instead, so that nobody can stop those of others.
    pub awaited: bool,
}

/// Who delivers pushes to devices.
#[async_trait]
pub trait PushProvider: Send + Sync + 'static {
    /// Which.
    fn kind(&self) -> ProviderKind;

    /// Whose servers a push to the target goes to.
    fn origin<'t>(&self, _target: &'t Target) -> Origin<'t> {
        Origin {
            name: "",
            awaited: true,
        }
    }

    /// Tries once, and ends after [`crate::limits::PUSH_DEADLINE`] at the latest. A target of another kind
    /// is `Refused`. Pushing the same twice shows one notification.
    async fn push(&self, target: &Target, push: &Push) -> Outcome;
}
