//! What the server takes as a text.

/// Unicode scalar values of a text (F1).
pub(crate) const TEXT_CHARS_MAX: usize = 700;

/// The text as messages that the server takes: without U+0000, cut at the limit, and no empty ones.
/// Nothing else is lost or added.
pub(crate) fn to_messages(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().filter(|c| *c != '\0').collect();
    chars
        .chunks(TEXT_CHARS_MAX)
        .map(|piece| piece.iter().collect::<String>())
        .filter(|piece| !piece.trim().is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_the_limit_and_nothing_of_it_is_lost() {
        let text: String = ('\u{1f400}'..='\u{1f440}').cycle().take(1_401).collect();
        let messages = to_messages(&text);
        let lengths: Vec<_> = messages
            .iter()
            .map(|message| message.chars().count())
            .collect();
        assert_eq!(lengths, [700, 700, 1]);
        assert_eq!(messages.concat(), text);
    }

    #[test]
    fn what_is_nothing_is_not_sent() {
        for nothing in ["", " \t", "\0", &" ".repeat(2_000)] {
            assert!(to_messages(nothing).is_empty(), "{nothing:?}");
        }
        assert_eq!(to_messages(" a\0b "), [" ab "]);
    }
}
