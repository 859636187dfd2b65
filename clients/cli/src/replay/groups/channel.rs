//! What a line of a log says about the channel: who comes, goes, and is called otherwise.

use std::path::Path;

use crate::replay::log::{Line, parse_line, raw_lines, read_file};

/// One line, as a group sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChannelLine {
    /// Somebody said (or did) something.
    Said { nick: String, text: String },
    /// `=== nick [user@host]  has joined #channel`
    Joined { nick: String },
    /// `=== nick [user@host]  has left #channel [reason]`, or `has quit [reason]`
    Left { nick: String },
    /// `=== nick was kicked off #channel by other (reason)`
    Kicked { nick: String },
    /// `=== nick is now known as other`
    Renamed { from: String, to: String },
    /// `=== nick changed the topic of #channel to: text`, `=== #channel changed topic to text`, or
    /// `=== Topic (#channel): text`
    Topic { text: String },
    /// Modes, actions without a time, and what has no form that is known.
    Other,
}

/// Reads the lines of a log.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<ChannelLine>> {
    let bytes = read_file(path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(raw_lines(&text).map(parse).collect())
}

pub(crate) fn parse(line: &str) -> ChannelLine {
    if let Line::Said { nick, text } = parse_line(line) {
        return ChannelLine::Said { nick, text };
    }
    line.strip_prefix("=== ")
        .and_then(notice)
        .unwrap_or(ChannelLine::Other)
}

fn notice(notice: &str) -> Option<ChannelLine> {
    if let Some(text) = topic(notice) {
        let text = text.trim().to_owned();
        return Some(ChannelLine::Topic { text });
    }
    let nick = notice.split(' ').next().filter(|nick| !nick.is_empty())?;
    let rest = notice.get(nick.len()..)?.trim_start();
    let nick = nick.to_owned();
    if let Some(to) = rest.strip_prefix("is now known as ") {
        // Names have no blanks; what has is something that somebody said.
        let to = to.trim();
        let is_name = !to.is_empty() && !to.contains(' ');
        return is_name.then(|| ChannelLine::Renamed {
            from: nick,
            to: to.to_owned(),
        });
    }
    if rest.starts_with("was kicked off #") {
        return Some(ChannelLine::Kicked { nick });
    }
    // Who comes and goes is named with the address: what people say of themselves has none.
    let (address, what) = rest.split_once(']')?;
    let is_address = address
        .rsplit_once('[')
        .is_some_and(|(_, host)| host.contains('@'));
    let what = what.trim_start();
    match is_address {
        true if what.starts_with("has joined #") => Some(ChannelLine::Joined { nick }),
        true if what.starts_with("has left #") || what.starts_with("has quit") => {
            Some(ChannelLine::Left { nick })
        }
        _ => None,
    }
}

fn topic(notice: &str) -> Option<&str> {
    if let Some(rest) = notice.strip_prefix("Topic (") {
        return rest.split_once("):").map(|(_, text)| text);
    }
    if let Some((_, rest)) = notice.split_once(" changed the topic of #") {
        return rest.split_once(" to:").map(|(_, text)| text);
    }
    let (channel, text) = notice.split_once(" changed topic to ")?;
    channel.starts_with('#').then_some(text)
}

#[cfg(test)]
mod tests;
