//! What a log becomes: who takes part, and which messages they send each other, in which order.

use std::collections::HashMap;

use serde::Serialize;

use super::log::{Line, Log};
use crate::text::to_messages;

/// Letters of a name that a username keeps, so that people can be told apart in a list.
const USERNAME_STEM_MAX: usize = 14;
/// Unicode scalar values of a display name.
const DISPLAY_NAME_CHARS_MAX: usize = 64;

/// One account of the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Speaker {
    /// Valid, and unique in the run.
    pub(crate) username: String,
    pub(crate) display_name: String,
}

/// One message; speakers are places in [`Plan::speakers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) text: String,
}

/// Replies of which no message was made, by the reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// `A A -`: it starts a thread and answers nobody.
    pub(crate) thread_starts: usize,
    /// The author answers himself.
    pub(crate) own: usize,
    /// One of the two lines was said by nobody, or is not in the log.
    pub(crate) system: usize,
    /// There is nothing to send.
    pub(crate) empty: usize,
}

/// All messages of a replay, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) speakers: Vec<Speaker>,
    pub(crate) messages: Vec<Planned>,
    pub(crate) skipped: Skipped,
}

impl Plan {
    /// Adds a log; its speakers are other accounts than those of the logs before, since the same
    /// name in logs that are years apart is mostly not the same person.
    ///
    /// `run` makes the usernames of this run different from those of every other run.
    pub(crate) fn add(&mut self, log: &Log, run: &str) {
        let mut accounts: HashMap<&str, usize> = HashMap::new();
        for reply in &log.replies {
            if reply.answer == reply.answered {
                self.skipped.thread_starts += 1;
                continue;
            }
            let said = |place: usize| match log.lines.get(place) {
                Some(Line::Said { nick, text }) => Some((nick.as_str(), text.as_str())),
                _ => None,
            };
            let (Some((to, _)), Some((from, text))) = (said(reply.answered), said(reply.answer))
            else {
                self.skipped.system += 1;
                continue;
            };
            if from == to {
                self.skipped.own += 1;
                continue;
            }
            let texts = to_messages(text);
            if texts.is_empty() {
                self.skipped.empty += 1;
                continue;
            }
            let mut account = |nick| {
                *accounts
                    .entry(nick)
                    .or_insert_with(|| add_speaker(&mut self.speakers, nick, run))
            };
            let (from, to) = (account(from), account(to));
            self.messages
                .extend(texts.into_iter().map(|text| Planned { from, to, text }));
        }
    }
}

pub(crate) fn add_speaker(speakers: &mut Vec<Speaker>, nick: &str, run: &str) -> usize {
    let place = speakers.len();
    speakers.push(Speaker {
        username: username(nick, run, place),
        display_name: display_name(nick),
    });
    place
}

/// What of the name may stand in a username, then the run and the speaker's number in it: names
/// that differ in case or in odd characters only stay different.
fn username(nick: &str, run: &str, place: usize) -> String {
    let mut stem: String = nick
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c))
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(USERNAME_STEM_MAX)
        .collect();
    if stem.is_empty() {
        stem.push('u');
    }
    format!("{stem}.{run}.{place}")
}

fn display_name(nick: &str) -> String {
    let name: String = nick
        .chars()
        .filter(|c| !c.is_control())
        .take(DISPLAY_NAME_CHARS_MAX)
        .collect();
    // Empty asks the server to take the username.
    name.trim().to_owned()
}

#[cfg(test)]
mod tests;
