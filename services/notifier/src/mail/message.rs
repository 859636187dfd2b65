//! What mails say. All that comes from people is cut, cleaned and escaped here, and nowhere else.

use std::sync::LazyLock;

use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use minijinja::{Environment, Value, context, syntax::SyntaxConfig};

use crate::limits::ADDRESS_BYTES_MAX;

/// Characters of a name of a person or group.
const NAME_CHARS_MAX: usize = 80;
/// Characters of a message: its beginning is enough to know whether to open the app.
const TEXT_CHARS_MAX: usize = 200;
/// Conversations that are shown; the others are counted.
const CONVERSATIONS_MAX: usize = 50;

const DIGEST_TEXT: &str = "digest.txt";
const DIGEST_HTML: &str = "digest.html";
const CODE_TEXT: &str = "code.txt";
const CODE_HTML: &str = "code.html";

/// The templates, escaped by the ends of their names.
static TEMPLATES: LazyLock<Result<Environment<'static>, minijinja::Error>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).build()?;
    environment.set_syntax(syntax);
    for (name, source) in [
        (DIGEST_TEXT, include_str!("../../templates/digest.txt")),
        (DIGEST_HTML, include_str!("../../templates/digest.html")),
        (CODE_TEXT, include_str!("../../templates/code.txt")),
        (CODE_HTML, include_str!("../../templates/code.html")),
    ] {
        environment.add_template(name, source)?;
    }
    Ok(environment)
});

/// Why there is no mail: a defect of ours, or an address that is none.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A template.
    #[error("template: {0}")]
    Template(String),
    /// The parts do not make a mail.
    #[error("mail: {0}")]
    Message(#[from] lettre::error::Error),
    /// An address.
    #[error("address: {0}")]
    Address(#[from] lettre::address::AddressError),
    /// A header's name.
    #[error("a header has no name")]
    Header,
}

/// Whom mails are from.
#[derive(Debug, Clone)]
pub struct Sender {
    mailbox: Mailbox,
    app_name: String,
}

impl Sender {
    /// Of `Messenger <no-reply@example.org>`, or an address alone.
    pub fn new(from: &str, app_name: &str) -> Result<Self, String> {
        let mailbox: Mailbox = from.parse().map_err(|error| format!("{from:?}: {error}"))?;
        if parse_address(mailbox.email.as_ref()).is_none() {
            return Err(format!("{from:?} is no address that mail can be sent from"));
        }
        Ok(Self {
            mailbox,
            app_name: clean(app_name, NAME_CHARS_MAX),
        })
    }

    /// The address alone.
    pub fn address(&self) -> &str {
        self.mailbox.email.as_ref()
    }

    /// What Message-IDs end with.
    pub fn domain(&self) -> &str {
        self.mailbox.email.domain()
    }
}

/// What a digest says. Texts are as people wrote them.
#[derive(Debug, Clone)]
pub struct Digest {
    /// Where it goes.
    pub to: String,
    /// Over all conversations.
    pub unread_total: u64,
    /// The most recent first.
    pub conversations: Vec<DigestConversation>,
    /// Conversations with unread messages that are not among them.
    pub more: u32,
    /// What ends digests.
    pub unsubscribe_url: String,
    /// Without brackets; the same for a mail that is sent again.
    pub message_id: String,
    /// Where the app is opened.
    pub open_url: Option<String>,
}

/// A conversation with unread messages.
#[derive(Debug, Clone)]
pub struct DigestConversation {
    /// What it is called; `None` = the user wants no names.
    pub title: Option<String>,
    /// Unread messages.
    pub unread: u64,
    /// The newest one, as far as the user wants to see it.
    pub newest: Option<DigestLine>,
}

/// A message.
#[derive(Debug, Clone)]
pub struct DigestLine {
    /// Who wrote it, if the conversation's name does not say so.
    pub sender: Option<String>,
    /// What; `None` = the user wants no texts.
    pub text: Option<String>,
    /// When, by the user's clock.
    pub at: String,
}

/// An address as it is kept: its domain in lower case. `None` if mail cannot be sent there. Only ASCII: servers
/// that take other addresses are few, and one that does not would refuse each mail.
pub fn parse_address(text: &str) -> Option<String> {
    if text.len() > ADDRESS_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    let (user, domain) = text.rsplit_once('@')?;
    // Quoted local parts and addresses of machines are for those who test parsers.
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"(),:;<>[\\]@".contains(&byte);
    if !user.bytes().all(is_plain) || !domain.contains('.') || domain.starts_with('[') {
        return None;
    }
    let address = Address::new(user, domain.to_ascii_lowercase()).ok()?;
    let last = address.domain().rsplit('.').next()?;
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    (!is_number).then(|| address.to_string())
}

/// The mail with a code, for whoever owns an address.
pub fn confirmation(
    sender: &Sender,
    to: &str,
    code: &str,
    message_id: &str,
) -> Result<Vec<u8>, MessageError> {
    let app = &sender.app_name;
    let values = context! { app, code };
    let subject = format!("{code} is your code for {app}");
    write(
        sender,
        to,
        subject,
        message_id,
        None,
        [CODE_TEXT, CODE_HTML],
        values,
    )
}

/// A digest.
pub fn digest(sender: &Sender, digest: &Digest) -> Result<Vec<u8>, MessageError> {
    let shown = digest.conversations.iter().take(CONVERSATIONS_MAX);
    let shown: Vec<Value> = shown.filter_map(shown_of).collect();
    let hidden = digest.conversations.len() - shown.len();
    let more = u64::from(digest.more).saturating_add(u64::try_from(hidden).unwrap_or(u64::MAX));
    let app = &sender.app_name;
    let unread = digest.unread_total;
    let messages = if unread == 1 { "message" } else { "messages" };
    let subject = format!("{unread} unread {messages} in {app}");
    let values = context! {
        app, unread, messages, more,
        conversations => shown,
        unsubscribe_url => digest.unsubscribe_url.as_str(),
        open_url => digest.open_url.as_deref(),
    };
    write(
        sender,
        &digest.to,
        subject,
        &digest.message_id,
        Some(&digest.unsubscribe_url),
        [DIGEST_TEXT, DIGEST_HTML],
        values,
    )
}

/// A conversation without a name is counted, and not shown.
fn shown_of(conversation: &DigestConversation) -> Option<Value> {
    let line = |line: &DigestLine| {
        context! {
            sender => line.sender.as_ref().map(|name| clean(name, NAME_CHARS_MAX)),
            text => line.text.as_ref().map(|text| clean(text, TEXT_CHARS_MAX)),
            at => line.at.as_str(),
        }
    };
    Some(context! {
        title => clean(conversation.title.as_ref()?, NAME_CHARS_MAX),
        unread => conversation.unread,
        newest => conversation.newest.as_ref().map(line),
    })
}

fn write(
    sender: &Sender,
    to: &str,
    subject: String,
    message_id: &str,
    unsubscribe_url: Option<&str>,
    [text, html]: [&str; 2],
    values: Value,
) -> Result<Vec<u8>, MessageError> {
    let template = |error: &minijinja::Error| MessageError::Template(error.to_string());
    let templates = TEMPLATES.as_ref().map_err(template)?;
    let render = |name: &str| {
        let rendered = templates.get_template(name)?.render(&values);
        rendered.map_err(|error| template(&error))
    };
    let mut message = Message::builder()
        .from(sender.mailbox.clone())
        .to(Mailbox::new(None, to.parse()?))
        .subject(subject)
        .message_id(Some(format!("<{message_id}>")))
        .date_now()
        // Nobody's absence is to answer it (RFC 3834).
        .raw_header(header("Auto-Submitted", "auto-generated")?);
    if let Some(url) = unsubscribe_url {
        message = message
            .raw_header(header("List-Unsubscribe", &format!("<{url}>"))?)
            // RFC 8058: mail programs end digests with one POST, and show a button for it.
            .raw_header(header(
                "List-Unsubscribe-Post",
                "List-Unsubscribe=One-Click",
            )?);
    }
    let parts = MultiPart::alternative()
        .singlepart(SinglePart::plain(render(text)?))
        .singlepart(SinglePart::html(render(html)?));
    Ok(message.multipart(parts)?.formatted())
}

fn header(name: &str, value: &str) -> Result<HeaderValue, MessageError> {
    let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|_| MessageError::Header)?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

impl From<minijinja::Error> for MessageError {
    fn from(error: minijinja::Error) -> Self {
        Self::Template(error.to_string())
    }
}

/// One line of at most so many characters, without any that a reader does not see but is led by: what turns
/// the direction of a text would turn ours too.
fn clean(text: &str, chars_max: usize) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = |c: char| c.is_control() || c.is_whitespace();
    let mut cleaned = String::new();
    let mut count = 0;
    for c in text.trim().chars().filter(|c| !turns(*c)) {
        if breaks(c) && cleaned.ends_with(' ') {
            continue;
        }
        if count == chars_max {
            cleaned.pop();
            cleaned.push('…');
            break;
        }
        cleaned.push(if breaks(c) { ' ' } else { c });
        count += 1;
    }
    cleaned
}
