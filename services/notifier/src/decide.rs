//! Whether a user is told of what a record says: a function of the record, of what is known of the user,
//! and of the time. Everything that may change an answer is an argument.

use crate::{
    model::{Preferences, Told},
    quiet::quiet_until,
    record::{Message, Offline},
};

/// What messaging says of the conversation, asked just before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Some device of the user has everything up to here.
    pub(crate) delivered_seq: u64,
    /// The user has seen everything up to here.
    pub(crate) read_seq: u64,
    /// The user is not a member any more.
    pub(crate) gone: bool,
    /// The conversation is muted.
    pub(crate) muted: bool,
}

/// What is to be done for one user about one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing, now or later.
    Nothing,
    /// A notification.
    Alert,
    /// Nothing before this, in Unix milliseconds; then it is decided anew.
    Later(i64),
}

/// Whether a message is shown, as far as it does not depend on the device.
pub(crate) fn alert(
    message: &Message,
    standing: &Standing,
    preferences: &Preferences,
    now_unix_ms: i64,
) -> Decision {
    let seen = standing.read_seq.max(standing.delivered_seq);
    if standing.gone || message.seq <= seen || !preferences.push {
        return Decision::Nothing;
    }
    let is_muted = standing.muted || message.muted;
    let is_mentioned = message.mentioned_seq > seen;
    if is_muted && !(is_mentioned && preferences.mentions_pierce_mute) {
        return Decision::Nothing;
    }
    match quiet_until(preferences, now_unix_ms) {
        Some(until) => Decision::Later(until),
        None => Decision::Alert,
    }
}

/// Whether a device that was told this much is told of the message: once.
pub(crate) const fn is_new(message: &Message, told: &Told) -> bool {
    message.seq > told.seq
}

/// Whether a device that shows this much is to take it away, since it was read on another one.
pub(crate) const fn is_stale(offline: &Offline, told: &Told) -> bool {
    told.seq > 0 && offline.read_seq > told.read_seq
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use runtime::ids::UserId;

    use super::*;
    use crate::model::QuietHours;

    fn message(seq: u64, mentioned_seq: u64, muted: bool) -> Message {
        Message {
            sender: UserId::from_bytes([2; 16]),
            seq,
            mentioned_seq,
            muted,
            opaque: false,
            text: String::new(),
            attachment_count: 0,
            video_count: 0,
            payload: Bytes::new(),
        }
    }

    proptest! {
        /// Said once more in words, apart from how it is decided.
        #[test]
        fn who_is_told_is_who_has_not_seen_it_and_wants_to_be_told(
            seq in 1_u64..6, mentioned_seq in 0_u64..6, delivered_seq in 0_u64..6, read_seq in 0_u64..6,
            gone: bool, muted: bool, muted_before: bool, push: bool, pierce: bool, quiet: bool,
        ) {
            let mentioned_seq = mentioned_seq.min(seq);
            let preferences = Preferences {
                push,
                mentions_pierce_mute: pierce,
                quiet_hours: QuietHours { on: quiet, from_minute: 0, to_minute: 0 },
                ..Preferences::default()
            };
            let standing = Standing { delivered_seq, read_seq, gone, muted };
            let decision = alert(&message(seq, mentioned_seq, muted_before), &standing, &preferences, 0);

            let has_it = read_seq >= seq || delivered_seq >= seq;
            let new_mention = mentioned_seq > read_seq && mentioned_seq > delivered_seq;
            let silent = (muted || muted_before) && !(pierce && new_mention);
            let expected = if has_it || gone || !push || silent {
                Decision::Nothing
            } else if quiet {
                Decision::Later(24 * 60 * 60 * 1_000)
            } else {
                Decision::Alert
            };
            prop_assert_eq!(decision, expected);
        }
    }
}
