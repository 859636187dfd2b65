use std::{net::SocketAddr, time::Duration};

use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders};
use servers::smtp::{Smtp, SmtpOptions, SmtpTls};

use super::{smtp::meaning, *};

const FROM: &str = "Messenger <no-reply@example.org>";
const TO: &str = "ann@example.org";

fn settings(address: SocketAddr, more: &str) -> SmtpSettings {
    let (host, port) = (address.ip(), address.port());
    toml::from_str(&format!(
        "host = '{host}'\nport = {port}\ntls = 'none'\n{more}"
    ))
    .unwrap()
}

fn mailer(server: &Smtp) -> Mailer {
    Mailer::open(&settings(server.address(), "deadline_ms = 10000")).unwrap()
}

fn sender() -> Sender {
    Sender::new(FROM, "Messenger").unwrap()
}

fn of(title: &str, sender: Option<&str>, text: Option<&str>) -> DigestConversation {
    DigestConversation {
        title: Some(title.to_owned()),
        unread: 3,
        newest: Some(DigestLine {
            sender: sender.map(str::to_owned),
            text: text.map(str::to_owned),
            at: "Fri 27 Nov, 14:05".to_owned(),
        }),
    }
}

fn digest_of(conversations: Vec<DigestConversation>) -> Digest {
    Digest {
        to: TO.to_owned(),
        unread_total: 3 * u64::try_from(conversations.len()).unwrap(),
        conversations,
        more: 0,
        unsubscribe_url: "https://chat.example.org/v1/unsubscribe/abc".to_owned(),
        message_id: "digest.abc@example.org".to_owned(),
        open_url: Some("https://chat.example.org/?a=1&b=\"2\"".to_owned()),
    }
}

/// The names of headers, and the two parts.
struct Read {
    subject: String,
    text: String,
    html: String,
    headers: Vec<String>,
}

fn read(bytes: &[u8]) -> Read {
    let message = MessageParser::default().parse(bytes).unwrap();
    let part = |part: Option<std::borrow::Cow<'_, str>>| part.unwrap().into_owned();
    assert_eq!(
        message.content_type().unwrap().subtype(),
        Some("alternative")
    );
    assert_eq!(message.parts.len(), 3);
    Read {
        subject: message.subject().unwrap().to_owned(),
        text: part(message.body_text(0)),
        html: part(message.body_html(0)),
        headers: message
            .headers_raw()
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

fn raw<'m>(message: &'m Message<'_>, name: &'m str) -> &'m str {
    message.header_raw(name).unwrap().trim()
}

#[test]
fn a_digest_says_who_wrote_what_and_how_it_is_ended() {
    let bytes = digest(
        &sender(),
        &Digest {
            more: 2,
            ..digest_of(vec![
                of("Grace", None, Some("Did you see the café? 🙂")),
                of("Crew", Some("Ada"), Some("At noon.")),
            ])
        },
    )
    .unwrap();
    let shown = read(&bytes);
    assert_eq!(shown.subject, "6 unread messages in Messenger");
    let text = shown.text.replace("\r\n", "\n");
    assert!(
        text.contains("Grace (3)\n    Fri 27 Nov, 14:05: Did you see the café? 🙂\n"),
        "{text}"
    );
    assert!(
        text.contains("Crew (3)\n    Fri 27 Nov, 14:05  Ada: At noon.\n"),
        "{text}"
    );
    assert!(text.contains("... and 2 more conversations."), "{text}");
    assert!(
        text.contains("no more of these: https://chat.example.org/v1/unsubscribe/abc"),
        "{text}"
    );
    assert!(
        shown.html.contains("Did you see the café? 🙂"),
        "{}",
        shown.html
    );
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(message.message_id(), Some("digest.abc@example.org"));
    assert_eq!(
        raw(&message, "List-Unsubscribe"),
        "<https://chat.example.org/v1/unsubscribe/abc>"
    );
    assert_eq!(
        raw(&message, "List-Unsubscribe-Post"),
        "List-Unsubscribe=One-Click"
    );
    assert_eq!(raw(&message, "Auto-Submitted"), "auto-generated");
    assert!(message.date().is_some());
    let HeaderValue::Address(from) = message.header("From").unwrap() else {
        panic!("no address");
    };
    assert_eq!(
        from.first().unwrap().address(),
        Some("no-reply@example.org")
    );
    assert!(
        bytes
            .split(|byte| *byte == b'\n')
            .all(|line| line.len() <= 998)
    );
    // Once more: another boundary perhaps, and the same name.
    let again = digest(&sender(), &digest_of(vec![])).unwrap();
    let again = MessageParser::default().parse(&again).unwrap();
    assert_eq!(again.message_id(), message.message_id());
}

#[test]
fn what_people_write_is_text_wherever_it_is_shown() {
    let plain = read(
        &digest(
            &sender(),
            &digest_of(vec![of("Grace", Some("Ada"), Some("x"))]),
        )
        .unwrap(),
    );
    let hostile =
        "<script>alert('x')</script>\r\nBcc: eve@example.org\r\n\r\n\u{202e}&lt;b \" onload=\"x";
    let long = "lorem ".repeat(2_000);
    for hostile in [hostile, &long] {
        let conversation = of(hostile, Some(hostile), Some(hostile));
        let bytes = digest(&sender(), &digest_of(vec![conversation])).unwrap();
        assert!(bytes.len() < 8_000, "{} bytes", bytes.len());
        let shown = read(&bytes);
        assert_eq!(shown.headers, plain.headers);
        for part in [&shown.text, &shown.html, &shown.subject] {
            assert!(!part.contains('\u{202e}'), "{part}");
            assert!(!part.contains("\nBcc:"), "{part}");
        }
        assert!(!shown.html.contains("<script"), "{}", shown.html);
        assert!(!shown.html.contains("\" onload"), "{}", shown.html);
        // The text is text, and not escaped twice.
        assert_eq!(
            shown.text.contains("<script>alert('x')</script> Bcc:"),
            hostile != long
        );
    }
    // Settings are shown too.
    assert!(
        plain.html.contains("?a=1&amp;b=&quot;2&quot;\""),
        "{}",
        plain.html
    );
}

#[test]
fn who_wants_no_names_gets_none() {
    let mut hidden = of("Grace", Some("Ada"), Some("a secret"));
    (hidden.title, hidden.newest) = (None, None);
    let shown = read(&digest(&sender(), &digest_of(vec![hidden.clone(), hidden])).unwrap());
    assert!(
        shown
            .text
            .contains("You have 6 unread messages in Messenger."),
        "{}",
        shown.text
    );
    for part in [&shown.text, &shown.html] {
        assert!(!part.contains("more conv"), "{part}");
    }
    let mut names = of("Grace", Some("Ada"), None);
    names.unread = 1;
    let one = Digest {
        unread_total: 1,
        ..digest_of(vec![names])
    };
    let shown = read(&digest(&sender(), &one).unwrap());
    assert_eq!(shown.subject, "1 unread message in Messenger");
    assert!(
        shown.text.contains("Fri 27 Nov, 14:05  Ada"),
        "{}",
        shown.text
    );
}

#[test]
fn a_mail_with_a_code_says_it_in_both_parts() {
    let bytes = confirmation(&sender(), TO, "012345", "code.abc@example.org").unwrap();
    let shown = read(&bytes);
    assert_eq!(shown.subject, "012345 is your code for Messenger");
    assert!(shown.text.contains("Your code is 012345."));
    assert!(shown.html.contains(">012345<"));
    assert!(!shown.headers.iter().any(|name| name.starts_with("List-")));
}

#[test]
fn addresses_are_those_that_mail_can_be_sent_to() {
    let parsed = |text: &str| parse_address(text);
    assert_eq!(
        parsed("Ann@Example.ORG").as_deref(),
        Some("Ann@example.org")
    );
    assert_eq!(
        parsed("a.b+c@x-y.example").as_deref(),
        Some("a.b+c@x-y.example")
    );
    let long = format!("{}@example.org", "a".repeat(250));
    for wrong in [
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@localhost",
        "ann@[127.0.0.1]",
        "ann@127.0.0.1",
        "\"a b\"@example.org",
        "a@b@example.org",
        "ann@example.org\r\nBcc: x@example.org",
        "ann@example.org, bob@example.org",
        "Ann <ann@example.org>",
        "änn@example.org",
        "ann@exämple.org",
        "ann@example..org",
        "ann@-example.org",
        " ann@example.org",
        &long,
    ] {
        assert_eq!(parsed(wrong), None, "{wrong}");
    }
}

#[test]
fn only_the_word_of_a_server_that_there_is_no_such_address_is_a_hard_bounce() {
    use SendOutcome as O;
    for (code, enhanced, expected) in [
        (550, Some([5, 1, 1]), O::HardBounce),
        (553, Some([5, 1, 3]), O::HardBounce),
        (550, Some([5, 2, 1]), O::HardBounce),
        (550, None, O::SoftBounce),
        (552, Some([5, 2, 2]), O::SoftBounce),
        (450, Some([4, 2, 1]), O::SoftBounce),
        (452, None, O::SoftBounce),
        (550, Some([5, 7, 1]), O::Refused),
        (554, Some([5, 6, 0]), O::Refused),
        (501, None, O::Refused),
        (535, Some([5, 7, 8]), O::Unavailable),
        (530, Some([5, 7, 0]), O::Unavailable),
        (421, None, O::Unavailable),
        (451, Some([4, 7, 1]), O::Unavailable),
        (451, None, O::Unavailable),
    ] {
        assert_eq!(meaning(code, enhanced), expected, "{code} {enhanced:?}");
    }
}

#[tokio::test]
async fn each_answer_of_a_mail_server_has_its_meaning() {
    use SendOutcome as O;
    let server = Smtp::start().unwrap();
    let mailer = mailer(&server);
    let mail = digest(&sender(), &digest_of(vec![of("Grace", None, Some("x"))])).unwrap();
    let send = async |local: &str| {
        let to = format!("{local}@example.org");
        mailer.send("bounce+abc@example.org", &to, &mail).await
    };
    // Between them good ones: what one met is not the next one's fault.
    for (local, expected) in [
        ("nobody", O::HardBounce),
        ("full", O::SoftBounce),
        ("plain", O::SoftBounce),
        ("policy", O::Refused),
        ("unwanted", O::Refused),
        ("away", O::Unavailable),
        ("later", O::Unavailable),
        ("slow", O::Taken),
        // It has it, and we do not know.
        ("lost-answer", O::Unavailable),
        ("lost-answer", O::Taken),
    ] {
        assert_eq!(send(local).await, expected, "{local}");
        assert_eq!(send("good").await, O::Taken, "after {local}");
    }
    let kept = server.mails().unwrap();
    let lost: Vec<_> = kept
        .iter()
        .filter(|mail| mail.to == "lost-answer@example.org")
        .collect();
    assert_eq!(lost.len(), 2);
    for mail in lost {
        let message = MessageParser::default().parse(&mail.data).unwrap();
        assert_eq!(message.message_id(), Some("digest.abc@example.org"));
        assert_eq!(mail.from, "bounce+abc@example.org");
    }
    assert!(
        kept.iter()
            .all(|mail| mail.data.contains("List-Unsubscribe: <https://"))
    );
}

#[tokio::test]
async fn a_server_that_went_away_and_came_back_loses_nothing() {
    use SendOutcome as O;
    let mut server = Smtp::start().unwrap();
    let mailer = mailer(&server);
    let mail = confirmation(&sender(), TO, "012345", "code.abc@example.org").unwrap();
    assert_eq!(mailer.send(sender().address(), TO, &mail).await, O::Taken);
    server.kill().unwrap();
    assert_eq!(
        mailer.send(sender().address(), TO, &mail).await,
        O::Unavailable
    );
    server.start_again().unwrap();
    assert_eq!(mailer.send(sender().address(), TO, &mail).await, O::Taken);
    // Its connections were cut, and the mailer does not know.
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(mailer.send(sender().address(), TO, &mail).await, O::Taken);
    assert_eq!(server.mails().unwrap().len(), 3);
}

#[tokio::test]
async fn wrong_passwords_and_silent_servers_are_nobodys_bounce() {
    use SendOutcome as O;
    let options = SmtpOptions {
        credentials: Some(("us".to_owned(), "right".to_owned())),
        tls: None,
    };
    let server = Smtp::start_with(&options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mail = confirmation(&sender(), TO, "012345", "code.abc@example.org").unwrap();
    for (password, expected) in [("right", O::Taken), ("wrong", O::Unavailable)] {
        let file = folder.path().join(password);
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let more = format!("username = 'us'\npassword_file = {file:?}");
        let mailer = Mailer::open(&settings(server.address(), &more)).unwrap();
        assert_eq!(mailer.send(sender().address(), TO, &mail).await, expected);
    }
    let anonymous = Mailer::open(&settings(server.address(), "")).unwrap();
    let sent = anonymous.send(sender().address(), TO, &mail).await;
    assert_eq!(sent, O::Unavailable);
    // It listens and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = settings(silent.local_addr().unwrap(), "deadline_ms = 300");
    let silent = Mailer::open(&settings).unwrap();
    let sender = sender();
    let sending = silent.send(sender.address(), TO, &mail);
    let sent = tokio::time::timeout(Duration::from_secs(20), sending).await;
    assert_eq!(sent.unwrap(), O::Unavailable);
}

#[tokio::test]
async fn mail_goes_by_tls_to_who_has_the_name_and_else_not_at_all() {
    use SendOutcome as O;
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (ca, password) = (folder.path().join("ca.pem"), folder.path().join("password"));
    std::fs::write(&ca, made.cert.pem()).unwrap();
    std::fs::write(&password, "secret\n").unwrap();
    let mail = confirmation(&sender(), TO, "012345", "code.abc@example.org").unwrap();
    let send = async |host: &str, port: u16, mode: &str, trusted: bool| {
        let ca = if trusted {
            format!("ca_file = {ca:?}\n")
        } else {
            String::new()
        };
        let settings: SmtpSettings = toml::from_str(&format!(
            "host = '{host}'\nport = {port}\ntls = '{mode}'\nusername = 'us'\n\
             password_file = {password:?}\n{ca}deadline_ms = 5000"
        ))
        .unwrap();
        let mailer = Mailer::open(&settings).unwrap();
        mailer.send(sender().address(), TO, &mail).await
    };
    for (mode, implicit) in [("implicit", true), ("starttls", false)] {
        let options = SmtpOptions {
            credentials: Some(("us".to_owned(), "secret".to_owned())),
            tls: Some(SmtpTls {
                implicit,
                certificate: made.cert.pem(),
                key: made.signing_key.serialize_pem(),
            }),
        };
        let server = Smtp::start_with(&options).unwrap();
        let port = server.address().port();
        assert_eq!(
            send("localhost", port, mode, true).await,
            O::Taken,
            "{mode}"
        );
        // Nobody vouches for it; it has another name.
        assert_eq!(
            send("localhost", port, mode, false).await,
            O::Unavailable,
            "{mode}"
        );
        assert_eq!(
            send("127.0.0.1", port, mode, true).await,
            O::Unavailable,
            "{mode}"
        );
        assert_eq!(server.mails().unwrap().len(), 1, "{mode}");
    }
    // Somebody in between says that there is no TLS: the password is not said either.
    let plain = Smtp::start().unwrap();
    let sent = send("localhost", plain.address().port(), "starttls", true).await;
    assert_eq!((sent, plain.mails().unwrap().len()), (O::Unavailable, 0));
}
