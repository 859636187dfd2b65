//! Text and HTML of mails, from the files in `templates/`. What is put into HTML is escaped by the engine,
//! in attributes as well; text has no markup to escape.

use std::sync::LazyLock;

use minijinja::{
    AutoEscape, Environment, Error, UndefinedBehavior, context, syntax::SyntaxConfig, value::Value,
};

use super::MailError;

/// Compiled once. A template that is wrong fails every mail, and a test.
static TEMPLATES: LazyLock<Result<Environment<'static>, Error>> = LazyLock::new(compile);

/// The two forms of a mail's body.
pub(super) struct Bodies {
    pub(super) text: String,
    pub(super) html: String,
}

/// What a digest shows, in words, and nothing that is to be hidden.
pub(super) struct DigestView<'a> {
    pub(super) app_name: &'a str,
    pub(super) summary: &'a str,
    pub(super) conversations: Vec<ConversationView>,
    pub(super) conversations_more: Option<String>,
    pub(super) open_url: Option<&'a str>,
    pub(super) unsubscribe_url: &'a str,
}

pub(super) struct ConversationView {
    pub(super) title: String,
    /// How many messages, and whether the user is mentioned in them.
    pub(super) unread: String,
    pub(super) lines: Vec<LineView>,
    pub(super) more: Option<String>,
}

pub(super) struct LineView {
    pub(super) at: String,
    pub(super) sender: String,
    /// Empty if it is to be hidden.
    pub(super) text: String,
}

fn compile() -> Result<Environment<'static>, Error> {
    let mut templates = Environment::empty();
    templates.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    // An empty environment escapes nothing by itself.
    templates.set_auto_escape_callback(|name| match name.ends_with(".html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    // A name that is misspelt in a template is an error, not nothing.
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, source) in [
        (
            "confirmation.txt",
            include_str!("../../templates/confirmation.txt"),
        ),
        (
            "confirmation.html",
            include_str!("../../templates/confirmation.html"),
        ),
        ("digest.txt", include_str!("../../templates/digest.txt")),
        ("digest.html", include_str!("../../templates/digest.html")),
    ] {
        templates.add_template(name, source)?;
    }
    Ok(templates)
}

pub(super) fn confirmation(app_name: &str, code: &str) -> Result<Bodies, MailError> {
    render(
        "confirmation.txt",
        "confirmation.html",
        context! { app_name, code },
    )
}

pub(super) fn digest(view: DigestView<'_>) -> Result<Bodies, MailError> {
    let DigestView {
        app_name,
        summary,
        conversations,
        conversations_more,
        open_url,
        unsubscribe_url,
    } = view;
    let conversations: Value = conversations.into_iter().map(conversation).collect();
    let context = context! {
        app_name, summary, conversations, conversations_more, open_url, unsubscribe_url
    };
    render("digest.txt", "digest.html", context)
}

fn conversation(view: ConversationView) -> Value {
    let ConversationView {
        title,
        unread,
        lines,
        more,
    } = view;
    let heading = format!("{title} ({unread})");
    let lines: Value = lines.into_iter().map(line).collect();
    context! { title, unread, heading, lines, more }
}

fn line(view: LineView) -> Value {
    let LineView { at, sender, text } = view;
    let plain = match text.as_str() {
        "" => format!("{at} {sender}"),
        text => format!("{at} {sender}: {text}"),
    };
    context! { at, sender, text, plain }
}

fn render(text: &str, html: &str, context: Value) -> Result<Bodies, MailError> {
    let templates = TEMPLATES.as_ref().map_err(MailError::template)?;
    let rendered = |name: &str| {
        let template = templates.get_template(name)?;
        template.render(context.clone())
    };
    Ok(Bodies {
        text: rendered(text).map_err(|error| MailError::template(&error))?,
        html: rendered(html).map_err(|error| MailError::template(&error))?,
    })
}
