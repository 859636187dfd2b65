//! What people see: text that cannot harm their terminal, and times in their own zone.

use std::borrow::Cow;

use time::{OffsetDateTime, UtcOffset};

/// Shown in place of a character that could steer a terminal.
const NEUTRAL: char = '\u{fffd}';
/// Shown in place of a line break, so that a text cannot pretend to be another line.
const LINE_BREAK: &str = " \u{23ce} ";

/// Text of other people, harmless to print.
///
/// Control characters move cursors, set titles and fill clipboards; direction overrides make a text
/// read other than it is written. Both are shown as a mark.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let text = text.replace("\r\n", "\n");
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push_str(LINE_BREAK),
            '\t' => clean.push(' '),
            c if is_harmful(c) => clean.push(NEUTRAL),
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Turns times into what a clock on the wall shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    offset: UtcOffset,
}

impl Clock {
    /// Of this machine's time zone; UTC if it is not known.
    pub(crate) fn local() -> Self {
        Self {
            offset: UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC),
        }
    }

    /// The day and the time.
    pub(crate) fn date_time(&self, unix_ms: i64) -> String {
        self.at(unix_ms).map_or_else(String::new, |at| {
            let (year, month, day) = at.to_calendar_date();
            format!("{year:04}-{:02}-{day:02} {}", u8::from(month), hours(at))
        })
    }

    /// The time, without the day.
    pub(crate) fn time(&self, unix_ms: i64) -> String {
        self.at(unix_ms).map_or_else(String::new, hours)
    }

    fn at(&self, unix_ms: i64) -> Option<OffsetDateTime> {
        let at = OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1_000)).ok()?;
        at.checked_to_offset(self.offset)
    }
}

fn hours(at: OffsetDateTime) -> String {
    format!("{:02}:{:02}", at.hour(), at.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        for (text, shown) in [
            ("plain, é 中 👩‍🚀", "plain, é 中 👩‍🚀"),
            (
                "\x1b[31mred\x1b]0;title\x07",
                "\u{fffd}[31mred\u{fffd}]0;title\u{fffd}",
            ),
            ("\u{9b}2J\x7f\x08\r", "\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}"),
            (
                "one\ntwo\r\nthree\tfour",
                "one \u{23ce} two \u{23ce} three four",
            ),
            ("\u{202e}txt.exe\u{2066}", "\u{fffd}txt.exe\u{fffd}"),
        ] {
            assert_eq!(clean(text), shown, "{text:?}");
            assert!(!clean(text).chars().any(char::is_control));
        }
    }

    #[test]
    fn a_time_is_shown_in_the_zone_and_a_nonsensical_one_not_at_all() {
        let clock = Clock {
            offset: UtcOffset::from_hms(2, 30, 0).unwrap(),
        };
        assert_eq!(clock.date_time(1_790_000_000_123), "2026-09-21 16:43");
        assert_eq!(clock.time(-1), "02:29");
        assert_eq!(clock.date_time(i64::MAX), "");
    }
}
