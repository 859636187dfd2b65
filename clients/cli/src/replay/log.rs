//! Reads a log of a chat channel and the annotation beside it.
//!
//! A name is a speaker: someone who renames himself (`=== X is now known as Y`) is two of them.
//! Which names are one person is not in the log for certain, and the replay does not need to know.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Larger files are refused; the logs of the corpus have about 100 KB.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How the name of a log ends, and that of its annotation.
pub(crate) const LOG_SUFFIX: &str = ".raw.txt";
const ANNOTATION_SUFFIX: &str = ".annotation.txt";

/// One line of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Somebody said (or did) something.
    Said {
        /// The name as it stands in the log.
        nick: String,
        /// May be empty; never contains U+0000.
        text: String,
    },
    /// Joins, leaves, renames, and what has no form that is known.
    System,
}

/// "Line `answer` answers line `answered`"; the same line twice starts a thread.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(crate) struct Reply {
    // In this order, so that replies sort by the line that is sent.
    pub(crate) answer: usize,
    pub(crate) answered: usize,
}

/// A log with its annotation.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) lines: Vec<Line>,
    pub(crate) replies: Vec<Reply>,
}

impl Log {
    /// Reads `NAME.raw.txt` and `NAME.annotation.txt` beside it.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let annotation = annotation_path(path)?;
        let lines = parse_lines(&read_file(path)?);
        let annotation_bytes = read_file(&annotation)?;
        let replies = parse_annotation(&String::from_utf8_lossy(&annotation_bytes))
            .with_context(|| format!("in {}", annotation.display()))?;
        Ok(Self { lines, replies })
    }
}

fn annotation_path(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(LOG_SUFFIX)) {
        Some(stem) => Ok(path.with_file_name(format!("{stem}{ANNOTATION_SUFFIX}"))),
        None => bail!("{}: the name of a log ends in {LOG_SUFFIX}", path.display()),
    }
}

pub(crate) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = || format!("cannot read {}", path.display());
    let size = fs::metadata(path).with_context(shown)?.len();
    if size > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    }
    fs::read(path).with_context(shown)
}

fn parse_lines(bytes: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(bytes);
    raw_lines(&text).map(parse_line).collect()
}

/// Lines end with LF only: what other characters may end a line in Unicode stand inside of texts.
pub(crate) fn raw_lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    lines.map(|line| line.strip_suffix('\r').unwrap_or(line))
}

pub(crate) fn parse_line(line: &str) -> Line {
    parse_said(line).unwrap_or(Line::System)
}

/// `[HH:MM] <nick> text` or `[HH:MM]  * nick does something`.
fn parse_said(line: &str) -> Option<Line> {
    let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (hours, minutes) = time.split_once(':')?;
    if !is_two_digits(hours) || !is_two_digits(minutes) {
        return None;
    }
    let rest = rest.trim_start_matches(' ');
    let (nick, text) = if let Some(rest) = rest.strip_prefix('<') {
        let (nick, text) = rest.split_once('>')?;
        (nick, text.strip_prefix(' ').unwrap_or(text).to_owned())
    } else {
        let rest = rest.strip_prefix("* ")?;
        let nick = rest.split(' ').next()?;
        // An action is shown as it was in the channel.
        (nick, format!("* {rest}"))
    };
    if nick.is_empty() {
        return None;
    }
    Some(Line::Said {
        nick: nick.to_owned(),
        text: text.replace('\0', ""),
    })
}

fn is_two_digits(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `A B -` a line, in any order; the answer is sorted by the line that answers.
fn parse_annotation(text: &str) -> anyhow::Result<Vec<Reply>> {
    let mut replies = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let (Some(answered), Some(answer)) = (words.next(), words.next()) else {
            if line.trim().is_empty() {
                continue;
            }
            bail!("line {}: expected `A B -`", number + 1);
        };
        let parse = |word: &str| {
            word.parse()
                .with_context(|| format!("line {}: not a line number: {word:?}", number + 1))
        };
        replies.push(Reply {
            answer: parse(answer)?,
            answered: parse(answered)?,
        });
    }
    replies.sort_unstable();
    replies.dedup();
    Ok(replies)
}

#[cfg(test)]
mod tests;
