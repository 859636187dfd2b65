//! The bytes of mails. Nothing here waits, and nothing asks the clock: the same input gives the same mail.
//!
//! Names and texts are other people's words. Before they are put anywhere they lose what could make a mail
//! look other than it is (see [`clean`]), and their length; what is left is escaped by the templates and
//! encoded by lettre.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use sha2::{Digest as _, Sha256};

use super::templates::{self, Bodies, ConversationView, DigestView, LineView};
use crate::{
    limits::{BODY_BYTES_MAX, TITLE_BYTES_MAX},
    words::cut,
};

/// Conversations that a digest shows; it counts the others. More are not read in a mail, and mailboxes
/// cut mails of 100 kB.
pub const CONVERSATIONS_MAX: usize = 20;
/// Messages of a conversation that a digest shows; it counts the others.
pub const LINES_MAX: usize = 5;
/// Bytes of a time as the caller has formatted it.
const AT_BYTES_MAX: usize = 64;
/// Bytes of a code: it is typed by a person.
const CODE_BYTES_MAX: usize = 64;
/// Bytes of a URL: in `List-Unsubscribe` it cannot be broken, and a line has 998 (RFC 5322, 2.1.1).
const URL_BYTES_MAX: usize = 900;
/// Bytes of a Message-ID: it cannot be broken either, and stores of mails keep it as a key.
const MESSAGE_ID_BYTES_MAX: usize = 250;
/// The last second that a `Date` can say, 9999-12-31 23:59:59 UTC.
const DATE_UNIX_MS_MAX: i64 = 253_402_300_799_000;
/// Stands for a name of which nothing can be shown.
const NAMELESS: &str = "(no name)";

/// Why there are no bytes. Shows nothing of the mail.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// It is not of the form `<left@right>`.
    #[error("the Message-ID is malformed")]
    MessageId,
    /// Not https (or http on this machine), or too long for a header.
    #[error("the {0} cannot be used in a mail")]
    Url(&'static str),
    /// A template is wrong: a defect of ours.
    #[error("template: {0}")]
    Template(String),
    /// A defect of ours.
    #[error("message: {0}")]
    Message(#[from] lettre::error::Error),
}

impl MailError {
    /// Where in which template, and not with what.
    pub(super) fn template(error: &minijinja::Error) -> Self {
        let name = error.name().unwrap_or("?");
        let line = error.line().unwrap_or(0);
        Self::Template(format!("{name}, line {line}: {:?}", error.kind()))
    }
}

/// Who sends: what recipients see in front of every mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The name of the app.
    pub app_name: String,
    /// The address in `From`. Its domain is that of Message-IDs.
    pub address: Address,
}

/// What a user has not read. What his privacy setting hides is not in it: with names only, texts are
/// `None`; with nothing, names and titles as well, and then the mail is nothing but two numbers. Its
/// `Debug` shows no address and no text.
#[derive(Clone)]
pub struct Digest {
    /// The user's address.
    pub to: Address,
    /// The first [`CONVERSATIONS_MAX`] are shown, unless their titles are hidden.
    pub conversations: Vec<DigestConversation>,
    /// Conversations with unread messages that are not in `conversations`.
    pub conversations_more: u64,
    /// Unread messages of all conversations.
    pub unread_total: u64,
    /// Ends these mails by one POST and without asking (RFC 8058). At most 900 bytes, https.
    pub unsubscribe_url: String,
    /// Opens the app.
    pub open_url: Option<String>,
    /// `<left@right>`, see [`message_id`]. The same when the mail is sent again.
    pub message_id: String,
    /// The mail's `Date`. The same when the mail is sent again.
    pub date_unix_ms: i64,
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest")
            .field("message_id", &self.message_id)
            .field("unread_total", &self.unread_total)
            .finish_non_exhaustive()
    }
}

/// One conversation of a [`Digest`].
#[derive(Clone)]
pub struct DigestConversation {
    /// The group's name, or the other's; `None` = hidden, and then nothing of the conversation is shown.
    pub title: Option<String>,
    /// Unread messages of it.
    pub unread: u64,
    /// The user is mentioned in one of them.
    pub mentions: bool,
    /// Messages to show, in their order: the first [`LINES_MAX`] are.
    pub lines: Vec<DigestLine>,
    /// Unread messages that are not in `lines`.
    pub more: u64,
}

/// One message of a [`DigestConversation`].
#[derive(Clone)]
pub struct DigestLine {
    /// What its sender is called; `None` = hidden, and then the message is only counted.
    pub sender: Option<String>,
    /// What it says; `None` = hidden.
    pub text: Option<String>,
    /// When, by the user's clock and in words.
    pub at: String,
}

/// The Message-ID of a mail about `seed`: the same for ever, another one for each sender's domain, and
/// nothing of the seed can be read from it.
pub fn message_id(sender: &Sender, seed: &str) -> String {
    let id = hash(b"messenger message id", seed);
    format!("<{id}@{}>", sender.address.domain())
}

/// The mail that brings a code to whoever says that an address is his. `message_id_seed` names the request
/// and is not the code.
pub fn confirmation(
    sender: &Sender,
    to: &Address,
    code: &str,
    message_id_seed: &str,
    date_unix_ms: i64,
) -> Result<Vec<u8>, MailError> {
    let app_name = name(&sender.app_name);
    let code = cut(clean(code), CODE_BYTES_MAX);
    let envelope = Heading {
        app_name: &app_name,
        sender,
        to,
        subject: "Confirm your e-mail address",
        message_id: &message_id(sender, message_id_seed),
        date_unix_ms,
    };
    format(envelope, &[], templates::confirmation(&app_name, &code)?)
}

/// The mail that tells a user what he has not read.
pub fn digest(sender: &Sender, digest: &Digest) -> Result<Vec<u8>, MailError> {
    let unsubscribe_url = usable_url(&digest.unsubscribe_url, "unsubscribe URL")?;
    let open_url = digest.open_url.as_deref();
    let open_url = open_url
        .map(|url| usable_url(url, "open URL"))
        .transpose()?;
    let app_name = name(&sender.app_name);
    let in_all = (digest.conversations.len() as u64).saturating_add(digest.conversations_more);
    let unread = number(digest.unread_total, "unread message");
    let summary = format!("{unread} in {}", number(in_all, "conversation"));

    let shown: Vec<ConversationView> = digest
        .conversations
        .iter()
        .take(CONVERSATIONS_MAX)
        .filter_map(conversation)
        .collect();
    let subject = match (shown.as_slice(), in_all) {
        ([only], 1) => Cow::Owned(format!("{}: {unread}", only.title)),
        _ => Cow::Borrowed(summary.as_str()),
    };
    let hidden = in_all.saturating_sub(shown.len() as u64);
    let conversations_more = (!shown.is_empty() && hidden > 0)
        .then(|| format!("and {}", number(hidden, "more conversation")));
    let bodies = templates::digest(DigestView {
        app_name: &app_name,
        summary: &summary,
        conversations: shown,
        conversations_more,
        open_url,
        unsubscribe_url,
    })?;
    let envelope = Heading {
        app_name: &app_name,
        sender,
        to: &digest.to,
        subject: &subject,
        message_id: &digest.message_id,
        date_unix_ms: digest.date_unix_ms,
    };
    let unsubscribe = [
        ("List-Unsubscribe", format!("<{unsubscribe_url}>")),
        (
            "List-Unsubscribe-Post",
            "List-Unsubscribe=One-Click".to_owned(),
        ),
    ];
    format(envelope, &unsubscribe, bodies)
}

fn conversation(of: &DigestConversation) -> Option<ConversationView> {
    let mut unread = number(of.unread, "unread message");
    if of.mentions {
        unread.push_str(", you were mentioned");
    }
    let lines: Vec<LineView> = of.lines.iter().take(LINES_MAX).filter_map(line).collect();
    let left_out = (of.lines.len() - lines.len()) as u64;
    let more = of.more.saturating_add(left_out);
    // Without any message shown, the number of unread ones says it already.
    let more = (!lines.is_empty() && more > 0).then(|| format!("and {more} more"));
    Some(ConversationView {
        title: name(of.title.as_deref()?),
        unread,
        lines,
        more,
    })
}

fn line(of: &DigestLine) -> Option<LineView> {
    let text = of.text.as_deref().map(clean).unwrap_or_default();
    Some(LineView {
        at: cut(clean(&of.at), AT_BYTES_MAX),
        sender: name(of.sender.as_deref()?),
        text: cut(text, BODY_BYTES_MAX),
    })
}

fn number(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

fn name(text: &str) -> String {
    match clean(text) {
        shown if shown.is_empty() => NAMELESS.to_owned(),
        shown => cut(shown, TITLE_BYTES_MAX),
    }
}

/// Other people's words on one line, without what makes a mail look other than it is: control characters,
/// the controls of the direction of text, and characters that take no room. White space of any kind is one
/// space, so that no text looks like a line of somebody else. Joiners stay: Persian and emoji need them.
fn clean(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let before = shown.len();
        if before > 0 {
            shown.push(' ');
        }
        let begins = shown.len();
        shown.extend(word.chars().filter(|c| !is_misleading(*c)));
        if shown.len() == begins {
            shown.truncate(before);
        }
    }
    shown
}

const fn is_misleading(c: char) -> bool {
    matches!(
        c,
        // Directions: marks, embeddings and overrides, isolates.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // No room: soft hyphen, zero-width space, word joiner and invisible operators, fillers, shorthand
        // controls, annotations, byte order mark.
        | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{3164}' | '\u{ffa0}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
    )
}

/// A URL as it is given, if it can stand in a header and in an attribute as it is.
fn usable_url<'u>(text: &'u str, what: &'static str) -> Result<&'u str, MailError> {
    let legible = |byte: u8| byte.is_ascii_graphic() && !b"\"'<>\\^`{|}".contains(&byte);
    let url = (text.len() <= URL_BYTES_MAX && text.bytes().all(legible))
        .then(|| reqwest::Url::parse(text).ok())
        .flatten()
        .ok_or(MailError::Url(what))?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() {
        "https" => Ok(text),
        "http" if local => Ok(text),
        _ => Err(MailError::Url(what)),
    }
}

/// Whether it is a Message-ID that needs no quoting (RFC 5322, 3.6.4).
fn is_message_id(text: &str) -> bool {
    let part = |part: &str| {
        let legible = |byte: u8| byte.is_ascii_graphic() && !b"\"(),:;<>@[\\]".contains(&byte);
        !part.is_empty() && part.bytes().all(legible)
    };
    let inner = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    text.len() <= MESSAGE_ID_BYTES_MAX
        && inner
            .and_then(|inner| inner.split_once('@'))
            .is_some_and(|(left, right)| part(left) && part(right))
}

/// What a mail's header says.
struct Heading<'a> {
    app_name: &'a str,
    sender: &'a Sender,
    to: &'a Address,
    subject: &'a str,
    message_id: &'a str,
    date_unix_ms: i64,
}

fn format(
    heading: Heading<'_>,
    more: &[(&'static str, String)],
    bodies: Bodies,
) -> Result<Vec<u8>, MailError> {
    if !is_message_id(heading.message_id) {
        return Err(MailError::MessageId);
    }
    let date_unix_ms = heading.date_unix_ms.clamp(0, DATE_UNIX_MS_MAX);
    let date = Duration::from_millis(u64::try_from(date_unix_ms).unwrap_or(0));
    let from = Mailbox::new(
        Some(heading.app_name.to_owned()),
        heading.sender.address.clone(),
    );
    // A subject that says of itself that it is encoded would be decoded, into whatever it hides.
    let subject = heading.subject.replace("=?", "= ?");
    let mut builder = Message::builder()
        .date(SystemTime::UNIX_EPOCH + date)
        .from(from)
        .to(Mailbox::new(None, heading.to.clone()))
        .subject(subject)
        .raw_header(raw("Message-ID", heading.message_id))
        .raw_header(raw("Auto-Submitted", "auto-generated"));
    for (name, value) in more {
        builder = builder.raw_header(raw(name, value));
    }
    // Of the mail and not of chance, so that a mail that is sent again is the same to the byte. Nobody who
    // writes a message knows the id of the mail that will show it.
    let boundary = hash(b"messenger boundary", heading.message_id);
    let parts = MultiPart::alternative()
        .boundary(boundary)
        .singlepart(SinglePart::plain(bodies.text))
        .singlepart(SinglePart::html(bodies.html));
    Ok(builder.multipart(parts)?.formatted())
}

/// A header of one unbroken value, which is ASCII and was checked.
fn raw(name: &'static str, value: &str) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str(name);
    HeaderValue::dangerous_new_pre_encoded(name, value.to_owned(), value.to_owned())
}

/// 32 hexadecimal digits.
fn hash(purpose: &[u8], text: &str) -> String {
    let mut hash = Sha256::new_with_prefix(purpose);
    hash.update(text);
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests;
