use std::{fs, path::Path};

use mail_parser::MessageParser;
use proptest::prelude::*;

use super::*;
use crate::mail::smtp::tests::Post;

const UNSUBSCRIBE_URL: &str = "https://chat.example.org/mail/unsubscribe?user=7&token=a%20b&x=1";
const OPEN_URL: &str = "https://chat.example.org/?from=mail&x=1";

fn sender() -> Sender {
    Sender {
        app_name: "Messenger".to_owned(),
        address: "no-reply@chat.example.org".parse().unwrap(),
    }
}

fn line(sender: &str, text: &str) -> DigestLine {
    DigestLine {
        sender: Some(sender.to_owned()),
        text: Some(text.to_owned()),
        at: "10:15".to_owned(),
    }
}

fn conversation(title: &str, lines: Vec<DigestLine>) -> DigestConversation {
    DigestConversation {
        title: Some(title.to_owned()),
        unread: lines.len() as u64,
        mentions: false,
        lines,
        more: 0,
    }
}

fn of(conversations: Vec<DigestConversation>) -> Digest {
    Digest {
        to: "ada@example.org".parse().unwrap(),
        conversations_more: 0,
        unread_total: conversations.iter().map(|one| one.unread).sum(),
        conversations,
        unsubscribe_url: UNSUBSCRIBE_URL.to_owned(),
        open_url: Some(OPEN_URL.to_owned()),
        message_id: message_id(&sender(), "digest 7"),
        date_unix_ms: 1_700_000_000_000,
    }
}

/// What a mail is to whoever receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    /// The names of its headers.
    headers: Vec<String>,
    subject: String,
    text: String,
    html: String,
    unsubscribe: String,
}

fn read(bytes: &[u8]) -> Read {
    assert!(bytes.is_ascii());
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    assert!(
        lines.iter().all(|line| line.len() <= 999),
        "a line is too long"
    );
    let (last, whole) = lines.split_last().unwrap();
    assert!(last.is_empty() && whole.iter().all(|line| line.ends_with(b"\r")));
    let mail = MessageParser::default().parse(bytes).unwrap();
    assert_eq!((mail.text_body_count(), mail.html_body_count()), (1, 1));
    assert_eq!(mail.attachment_count(), 0);
    let mut headers: Vec<String> = mail
        .headers_raw()
        .map(|(name, _)| name.to_owned())
        .collect();
    headers.sort();
    let raw = |name: &str| {
        let found = mail.headers_raw().find(|(header, _)| *header == name);
        found
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    Read {
        headers,
        subject: mail.subject().unwrap().to_owned(),
        text: mail.body_text(0).unwrap().into_owned(),
        html: mail.body_html(0).unwrap().into_owned(),
        unsubscribe: format!(
            "{} {}",
            raw("List-Unsubscribe"),
            raw("List-Unsubscribe-Post")
        ),
    }
}

fn read_digest(of: &Digest) -> Read {
    read(&digest(&sender(), of).unwrap())
}

/// All that is markup in HTML.
fn tags(html: &str) -> Vec<&str> {
    html.split('<')
        .skip(1)
        .map(|after| after.split_once('>').expect("a tag that does not end").0)
        .collect()
}

/// Nothing but words and line breaks.
fn assert_harmless(of: &Read) {
    for text in [&of.subject, &of.text, &of.html] {
        let harmful = |c: char| {
            (c.is_control() && c != '\r' && c != '\n')
                || "\u{200b}\u{200e}\u{200f}\u{61c}\u{feff}\u{2028}\u{2029}".contains(c)
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
        };
        let found = text.chars().find(|c| harmful(*c));
        assert_eq!(found, None, "{text}");
    }
    assert!(!of.subject.contains(['\r', '\n']));
}

/// The same digest with words that nobody could mind.
fn tame(of: &Digest) -> Digest {
    let mut tame = of.clone();
    for one in &mut tame.conversations {
        one.title = one.title.as_ref().map(|_| "title".to_owned());
        for line in &mut one.lines {
            line.sender = line.sender.as_ref().map(|_| "sender".to_owned());
            line.text = line.text.as_ref().map(|_| "text".to_owned());
            line.at = "10:15".to_owned();
        }
    }
    tame
}

/// Other people's words change the words of a mail, and neither its headers nor its markup.
fn assert_only_words(of: &Digest) -> Read {
    let (wild, tame) = (read_digest(of), read_digest(&tame(of)));
    assert_harmless(&wild);
    assert_eq!(wild.headers, tame.headers);
    assert_eq!(wild.unsubscribe, tame.unsubscribe);
    assert_eq!(tags(&wild.html), tags(&tame.html));
    assert_eq!(wild.text.lines().count(), tame.text.lines().count());
    wild
}

#[tokio::test]
async fn hostile_names_and_texts_arrive_as_words() {
    let hostile = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "Ada\r\nBcc: eve@example.org\r\n\r\n<b>body</b>",
        "Ada\nBcc: eve@example.org",
        "Ada\rBcc: eve@example.org",
        "\u{202e}gro.elpmaxe//:sptth\u{2066}x\u{2069}",
        "nul\u{0}bell\u{7}escape\u{1b}[31mdel\u{7f}c1\u{9b}",
        "=?utf-8?B?4oCuZXZpbA==?=",
        "{{ 7 * 7 }} {% raw %}",
        "line\u{2028}separator\u{2029}paragraph\u{85}next",
        "\u{200b}\u{feff}\u{3164}",
        "",
        ".\r\n.\r\nQUIT\r\n",
        "👩‍🚀🏴󠁧󠁢󠁥󠁮󠁧󠁿 می‌خواهم עברית 中文",
    ];
    let ten_kilobytes = "lorem ipsum, äöü 中文 ".repeat(400);
    let post = Post::start();
    for text in hostile.iter().copied().chain([ten_kilobytes.as_str()]) {
        let of = of(vec![conversation(
            text,
            vec![line(text, text), line(text, text)],
        )]);
        let bytes = digest(&sender(), &of).unwrap();
        let read_here = assert_only_words(&of);
        assert_eq!(post.through(&bytes).await, bytes, "{text:?}");
        assert!(read_here.text.len() < 4_096 && read_here.subject.len() < 512);
    }
    let shown = |text: &str| {
        let of = of(vec![conversation(text, vec![line(text, text)])]);
        read_digest(&of)
    };
    let script = shown(hostile[0]);
    assert!(script.html.contains("&lt;script&gt;") && script.text.contains("<script>"));
    assert!(
        shown(hostile[3])
            .subject
            .starts_with("Ada Bcc: eve@example.org <b>body</b>: 1 unread")
    );
    assert!(
        shown(hostile[6])
            .subject
            .starts_with("gro.elpmaxe//:sptthx: ")
    );
    assert!(shown(hostile[8]).subject.starts_with("= ?utf-8?B?"));
    assert!(shown(hostile[9]).text.contains("{{ 7 * 7 }}"));
    assert!(shown(hostile[11]).subject.starts_with("(no name): "));
    let emoji = shown(hostile[14]);
    for text in [&emoji.subject, &emoji.text, &emoji.html] {
        assert!(text.contains(hostile[14]), "{text}");
    }
    assert!(shown(&ten_kilobytes).text.contains('…'));
}

proptest! {
    #[test]
    fn no_name_and_no_text_changes_more_than_words(
        title in "\\PC{0,40}|(?s).{0,40}",
        name in "(?s).{0,300}",
        text in "(?s).{0,2000}|([<>&\"'=?\r\n.:/]|\u{202e}|x){0,200}",
        at in "(?s).{0,10}",
    ) {
        let mut line = line(&name, &text);
        line.at = at;
        let read = assert_only_words(&of(vec![conversation(&title, vec![line.clone(), line])]));
        prop_assert!(read.subject.ends_with(": 2 unread messages"));
    }
}

#[tokio::test]
async fn real_conversations_arrive_as_they_were_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let post = Post::start();
    for log in ["oddities", "allotment", "2005-06-16.train-c"] {
        let bytes = fs::read(folder.join(format!("{log}.raw.txt"))).unwrap();
        let said: Vec<DigestLine> = String::from_utf8_lossy(&bytes)
            .lines()
            .filter_map(|said| {
                let (at, said) = said.strip_prefix('[')?.split_once("] <")?;
                let (sender, text) = said.split_once("> ")?;
                let at = at.to_owned();
                Some(DigestLine {
                    at,
                    ..line(sender, text)
                })
            })
            .collect();
        assert!(said.len() > 10, "{log}");
        for said in said.chunks(CONVERSATIONS_MAX * LINES_MAX) {
            let conversations = said.chunks(LINES_MAX);
            let of = of(conversations
                .map(|lines| conversation(log, lines.to_vec()))
                .collect());
            let bytes = digest(&sender(), &of).unwrap();
            let arrived = read(&post.through(&bytes).await);
            assert_eq!(arrived, assert_only_words(&of));
            for line in said {
                let text = cut(clean(line.text.as_deref().unwrap()), BODY_BYTES_MAX);
                assert!(arrived.text.contains(&text), "{text}");
            }
            assert!(bytes.len() < 200_000, "{} bytes", bytes.len());
        }
    }
}

#[test]
fn a_digest_says_as_much_as_its_user_lets_it_say() {
    let mut of = of(vec![
        conversation(
            "Crew",
            vec![line("Bob", "meet me at noon"), line("Cleo", "yes")],
        ),
        conversation("Dan", vec![line("Dan", "hello")]),
    ]);
    of.conversations[0].mentions = true;
    of.conversations[0].more = 4;
    of.conversations[0].unread = 6;
    of.conversations_more = 3;
    of.unread_total = 40;
    let all = read_digest(&of);
    assert_eq!(all.subject, "40 unread messages in 5 conversations");
    for words in [
        "Crew (6 unread messages, you were mentioned)\r\n  10:15 Bob: meet me at noon\r\n  10:15 Cleo: yes\r\n  and 4 more\r\n",
        "Dan (1 unread message)\r\n  10:15 Dan: hello\r\n",
        "and 3 more conversations",
        OPEN_URL,
        UNSUBSCRIBE_URL,
    ] {
        assert!(all.text.contains(words), "{words}\n{}", all.text);
    }
    for words in [
        "Crew",
        "Bob",
        "meet me at noon",
        "you were mentioned",
        "and 3 more",
    ] {
        assert!(all.html.contains(words), "{words}\n{}", all.html);
    }

    for line in of.conversations.iter_mut().flat_map(|one| &mut one.lines) {
        line.text = None;
    }
    let names = read_digest(&of);
    for part in [&names.text, &names.html] {
        assert!(part.contains("Crew") && part.contains("Bob"), "{part}");
        assert!(!part.contains("noon") && !part.contains("hello"), "{part}");
    }

    for one in &mut of.conversations {
        one.title = None;
        one.lines.iter_mut().for_each(|line| line.sender = None);
    }
    let nothing = read_digest(&of);
    assert_eq!(nothing.subject, "40 unread messages in 5 conversations");
    let first: Vec<&str> = nothing.text.lines().take(3).collect();
    let open = format!("Open Messenger: {OPEN_URL}");
    assert_eq!(
        first,
        ["40 unread messages in 5 conversations", "", open.as_str()]
    );
    for part in [&nothing.subject, &nothing.text, &nothing.html] {
        for words in [
            "Crew",
            "Bob",
            "Dan",
            "Cleo",
            "noon",
            "10:15",
            "mentioned",
            "more conv",
        ] {
            assert!(!part.contains(words), "{words}: {part}");
        }
    }

    of.conversations.truncate(1);
    (of.conversations_more, of.unread_total) = (0, 1);
    assert_eq!(
        read_digest(&of).subject,
        "1 unread message in 1 conversation"
    );
    assert!(!format!("{of:?}").contains("ada@"));
}

#[test]
fn a_sender_or_a_text_that_is_hidden_is_hidden_also_beside_what_is_not() {
    let mut lines = vec![line("Bob", "secret"), line("Cleo", "shown")];
    lines[0].sender = None;
    let read = read_digest(&of(vec![conversation("Crew", lines)]));
    assert!(!read.text.contains("secret") && read.text.contains("Cleo: shown"));
    assert!(read.text.contains("and 1 more"), "{}", read.text);
}

#[test]
fn a_digest_is_bounded_and_counts_what_it_leaves_out() {
    let long = "ü".repeat(20_000);
    let lines = vec![line(&long, &long); 50];
    let read = assert_only_words(&of(vec![conversation(&long, lines); 1_000]));
    assert_eq!(read.subject, "50000 unread messages in 1000 conversations");
    assert!(read.text.contains("and 45 more\r\n"));
    assert!(read.text.contains("and 980 more conversations"));
    let shown =
        CONVERSATIONS_MAX * (TITLE_BYTES_MAX + LINES_MAX * (BODY_BYTES_MAX + TITLE_BYTES_MAX));
    assert!(read.text.len() < shown + 8_192, "{}", read.text.len());
    assert!(read.html.len() < shown + 65_536, "{}", read.html.len());
}

#[test]
fn a_mail_has_the_headers_that_machines_look_for_and_no_others() {
    let of = of(vec![conversation("Zoë & Jürgen", vec![line("Zoë", "hi")])]);
    let bytes = digest(&sender(), &of).unwrap();
    let shown = read(&bytes);
    assert_eq!(
        shown.headers,
        [
            "Auto-Submitted",
            "Content-Type",
            "Date",
            "From",
            "List-Unsubscribe",
            "List-Unsubscribe-Post",
            "MIME-Version",
            "Message-ID",
            "Subject",
            "To"
        ]
    );
    assert_eq!(shown.subject, "Zoë & Jürgen: 1 unread message");
    assert_eq!(
        shown.unsubscribe,
        format!("<{UNSUBSCRIBE_URL}> List-Unsubscribe=One-Click")
    );
    let mail = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(format!("<{}>", mail.message_id().unwrap()), of.message_id);
    assert_eq!(mail.date().unwrap().to_timestamp(), 1_700_000_000);
    let from = mail.from().unwrap().first().unwrap();
    assert_eq!(from.name(), Some("Messenger"));
    assert_eq!(from.address(), Some("no-reply@chat.example.org"));
    let to = mail.to().unwrap().first().unwrap();
    assert_eq!((to.name(), to.address()), (None, Some("ada@example.org")));
    assert!(
        shown
            .html
            .contains("unsubscribe?user=7&amp;token=a%20b&amp;x=1\"")
    );

    let to = "ada@example.org".parse().unwrap();
    let bytes = confirmation(&sender(), &to, "123 456", "request 9", 0).unwrap();
    let shown = read(&bytes);
    assert!(shown.text.contains("123 456") && shown.html.contains("123 456"));
    assert!(!shown.headers.iter().any(|name| name.starts_with("List-")));
    assert!(
        !shown.subject.contains("123"),
        "a screen that is locked shows it"
    );
    let wild = read(&confirmation(&sender(), &to, "<b>\r\n1", "request 9", 0).unwrap());
    assert_eq!(tags(&wild.html), tags(&shown.html));
}

#[test]
fn a_name_of_an_app_with_marks_in_it_is_one_name() {
    for name in [
        "Chat, \"Inc.\" <x@y.example>",
        "Müller; Söhne",
        "a\r\nBcc: x@y.example",
    ] {
        let mut sender = sender();
        sender.app_name = name.to_owned();
        let bytes = digest(&sender, &of(Vec::new())).unwrap();
        let mail = MessageParser::default().parse(&bytes).unwrap();
        let from: Vec<_> = mail.from().unwrap().iter().collect();
        assert_eq!(from.len(), 1);
        assert_eq!(from[0].name(), Some(clean(name).as_str()));
        assert_eq!(from[0].address(), Some("no-reply@chat.example.org"));
        assert!(mail.bcc().is_none());
    }
}

#[test]
fn the_same_mail_made_again_is_the_same_to_the_byte() {
    let of = of(vec![conversation("Crew", vec![line("Bob", "grüße")])]);
    assert_eq!(
        digest(&sender(), &of).unwrap(),
        digest(&sender(), &of).unwrap()
    );
    let id = message_id(&sender(), "digest 7");
    assert_eq!(id, of.message_id);
    assert_ne!(id, message_id(&sender(), "digest 8"));
    assert!(id.ends_with("@chat.example.org>") && is_message_id(&id));
}

#[test]
fn what_cannot_stand_in_a_header_is_refused() {
    let refused = |change: &dyn Fn(&mut Digest)| {
        let mut of = of(Vec::new());
        change(&mut of);
        digest(&sender(), &of).err()
    };
    assert!(refused(&|_| {}).is_none());
    let long = format!("https://x.example/{}", "a".repeat(900));
    for url in [
        "",
        "x",
        "http://chat.example.org/u",
        "javascript:alert(1)",
        "https://x.example/\"onclick=1",
        "https://x.example/\r\nBcc: a@b.example",
        "https://x.example/<b>",
        "https://x.example/ä",
        "https://x.example/a b",
        "data:text/html,x",
        long.as_str(),
    ] {
        let unsubscribe = refused(&|of| of.unsubscribe_url = url.to_owned());
        assert!(
            matches!(unsubscribe, Some(MailError::Url("unsubscribe URL"))),
            "{url}"
        );
        let open = refused(&|of| of.open_url = Some(url.to_owned()));
        assert!(matches!(open, Some(MailError::Url("open URL"))), "{url}");
    }
    let longest = format!("https://x.example/{}", "a".repeat(URL_BYTES_MAX - 18));
    let mut of = of(Vec::new());
    of.unsubscribe_url = longest.clone();
    assert!(read_digest(&of).unsubscribe.contains(&longest));
    for id in [
        "",
        "a@b",
        "<ab>",
        "<a@b@c>",
        "<@b>",
        "<a@>",
        "<a b@c>",
        "<a@b>\r\nX: y",
        "<ä@b>",
        &format!("<{}@b>", "a".repeat(250)),
    ] {
        let error = refused(&|of| of.message_id = id.to_owned());
        assert!(matches!(error, Some(MailError::MessageId)), "{id}");
    }
    assert!(refused(&|of| of.date_unix_ms = i64::MAX).is_none());
    assert!(refused(&|of| of.date_unix_ms = i64::MIN).is_none());
}
