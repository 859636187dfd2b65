//! Finding users by how their names begin.

use std::collections::BTreeSet;

use crate::{Accounts, error::Error, model::User};

/// Prefixes up to this many characters are kept ready in the order of usernames, since many users
/// share them. Longer ones are shared by few, who are sorted when asked for.
pub const SHORT_PREFIX_CHARS: usize = 3;

/// A page of users, and the username to go on after; `None` on the last page.
pub type Page = (Vec<User>, Option<String>);

impl Accounts {
    /// Up to `limit` users who are found by `prefix`, after the username `after`.
    pub async fn search(&self, prefix: &str, after: &str, limit: usize) -> Result<Page, Error> {
        // One more than wanted tells whether there is a next page.
        let mut users = self.store.search(prefix, after, limit + 1).await?;
        if users.len() <= limit {
            return Ok((users, None));
        }
        users.truncate(limit);
        let last = users.last().map(|user| user.username.clone());
        Ok((users, last))
    }
}

/// The form in which names are compared: lower case, single spaces, none at the ends.
pub fn normalise(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// What a user is found by, in the form of [`normalise`]: the username, the display name, and each
/// word of it, with and without its punctuation. At most some 100, as names are short.
pub fn terms(username: &str, display_name: &str) -> BTreeSet<String> {
    let name = normalise(display_name);
    let words = name.split(' ');
    let parts = name.split(|c: char| !c.is_alphanumeric());
    let mut terms: BTreeSet<String> = words.chain(parts).map(str::to_owned).collect();
    terms.insert(username.to_owned());
    terms.insert(name.clone());
    terms.remove("");
    terms
}

/// The short prefixes of terms, see [`SHORT_PREFIX_CHARS`].
pub fn short_prefixes(terms: &BTreeSet<String>) -> BTreeSet<String> {
    let mut prefixes = BTreeSet::new();
    for term in terms {
        let mut prefix = String::new();
        for c in term.chars().take(SHORT_PREFIX_CHARS) {
            prefix.push(c);
            prefixes.insert(prefix.clone());
        }
    }
    prefixes
}
