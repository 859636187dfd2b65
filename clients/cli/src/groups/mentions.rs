//! Who is mentioned in a line that was typed: `@name`, and `@all`.

use messenger_client::Draft;

/// Stands for everybody.
const ALL: &str = "all";
/// Members that a message may mention; names beyond that are text like any other.
const MENTIONS_MAX: usize = 50;

/// The text with its mentions. `member` gives the id of the member of that name; who is none is just
/// written about.
pub(super) fn draft<'a>(text: &str, member: impl Fn(&str) -> Option<&'a str>) -> Draft {
    let mut draft = Draft::new(text);
    let mut before = None;
    for (at, c) in text.char_indices() {
        // Not within a word, such as an e-mail address.
        let begins = c == '@' && !before.is_some_and(char::is_alphanumeric);
        before = Some(c);
        let Some(rest) = text.get(at + 1..).filter(|_| begins) else {
            continue;
        };
        let word = rest
            .split(|c: char| !is_of_name(c))
            .next()
            .unwrap_or_default();
        let mut name = word.to_ascii_lowercase();
        // A name may contain what ends a sentence: the longest one that somebody has is meant.
        while !name.is_empty() {
            if name == ALL {
                draft = draft.mention_all();
                break;
            }
            if let Some(user_id) = member(&name) {
                if draft.mentioned_user_ids.len() < MENTIONS_MAX {
                    draft = draft.mention(user_id);
                }
                break;
            }
            if !name.ends_with(['.', '-', '_']) {
                break;
            }
            name.pop();
        }
    }
    draft
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_members_become_mentions_and_nothing_else_does() {
        let member = |name: &str| match name {
            "ada" => Some("1"),
            "grace.h" => Some("2"),
            "dot." => Some("3"),
            _ => None,
        };
        let mentioned = |text: &str| {
            let draft = draft(text, member);
            assert_eq!(draft.text, text);
            (draft.mentioned_user_ids.join(","), draft.mentions_all)
        };
        for (text, users, all) in [
            ("hello", "", false),
            ("@ada hello", "1", false),
            ("hello (@Ada), @ada!", "1", false),
            ("@grace.h. and @ada.", "2,1", false),
            ("@dot. and @dot", "3", false),
            ("@all: look", "", true),
            ("mail@ada and @adam and @", "", false),
            ("é@ada", "", false),
            ("@@ada", "1", false),
        ] {
            assert_eq!(mentioned(text), (users.to_owned(), all), "{text:?}");
        }
    }
}
