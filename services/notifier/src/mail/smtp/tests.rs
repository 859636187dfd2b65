use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use futures_util::future::join_all;
use servers::smtp::{Options, Smtp, Tls as ServerTls};

use super::*;
use crate::mail::{confirmation, message_id};

const LOG_IN: Option<(&str, &str)> = Some(("notifier", "correct horse"));

fn settings(server: &Smtp, more: &str) -> SmtpSettings {
    at_port(server.address().port(), more)
}

fn at_port(port: u16, more: &str) -> SmtpSettings {
    let tls = if more.contains("tls = ") {
        ""
    } else {
        "tls = 'none'"
    };
    let text = format!(
        "host = 'localhost'\nfrom = 'Chat <no-reply@chat.example.org>'\nport = {port}\n{tls}\n{more}"
    );
    toml::from_str(&text).unwrap()
}

fn mailer(server: &Smtp, more: &str) -> Mailer {
    Mailer::open(&settings(server, more)).unwrap()
}

fn address(local: &str) -> Address {
    format!("{local}@example.org").parse().unwrap()
}

fn mail(mailer: &Mailer, seed: &str) -> Vec<u8> {
    confirmation(mailer.sender(), &address("ada"), "123456", seed, 0).unwrap()
}

async fn send(mailer: &Mailer, to: &str) -> SendOutcome {
    let bytes = mail(mailer, to);
    mailer.send(&address("bounces"), &address(to), &bytes).await
}

fn refused_by_settings(outcome: &SendOutcome, word: &str) -> bool {
    matches!(outcome, SendOutcome::Refused { settings: true, why } if why.contains(word))
}

/// A server, and who sends to it.
pub(in crate::mail) struct Post {
    server: Smtp,
    mailer: Mailer,
}

impl Post {
    pub(in crate::mail) fn start() -> Self {
        let server = Smtp::start().unwrap();
        let mailer = mailer(&server, "");
        Self { server, mailer }
    }

    /// What has come of a mail that was sent.
    pub(in crate::mail) async fn through(&self, bytes: &[u8]) -> Vec<u8> {
        let sent = self
            .mailer
            .send(&address("bounces"), &address("ada"), bytes)
            .await;
        assert_eq!(sent, SendOutcome::Taken);
        self.server.mails().unwrap().pop().unwrap().bytes
    }
}

#[tokio::test]
async fn every_answer_of_a_server_has_its_outcome() {
    let Post { server, mailer } = Post::start();
    let why = |text: &str| text.to_owned();
    let hard = SendOutcome::HardBounce;
    let refused = |why| SendOutcome::Refused {
        settings: false,
        why,
    };
    let later = |why| SendOutcome::Unavailable {
        after: Duration::from_secs(5 * 60),
        why,
    };
    // A server that has taken nothing yet may be none that knows mailboxes.
    assert_eq!(send(&mailer, "unknown").await, refused(why("550 at RCPT")));
    for (to, outcome) in [
        ("nobody", hard(why("550 5.1.1 at RCPT"))),
        ("ada", SendOutcome::Taken),
        ("unknown", hard(why("550 at RCPT"))),
        ("gone", hard(why("550 5.1.1 at the mail"))),
        ("full", SendOutcome::SoftBounce(why("452 4.2.2 at RCPT"))),
        ("later", later(why("451 4.3.0 at the mail"))),
        ("policy", refused(why("550 5.7.1 at RCPT"))),
        ("busy", later(why("421 4.3.2 at RCPT"))),
        ("bob", SendOutcome::Taken),
    ] {
        assert_eq!(send(&mailer, to).await, outcome, "{to}");
    }
    let mails = server.mails().unwrap();
    let to: Vec<&str> = mails.iter().map(|mail| mail.to[0].as_str()).collect();
    assert_eq!(to, ["ada@example.org", "bob@example.org"]);
    assert!(mails.iter().all(|mail| mail.from == "bounces@example.org"));
}

#[tokio::test]
async fn a_server_that_knows_nobody_ends_no_addresses() {
    let Post {
        server: _server,
        mailer,
    } = Post::start();
    assert_eq!(send(&mailer, "ada").await, SendOutcome::Taken);
    let mut hard = 0;
    for _ in 0..110 {
        hard += u32::from(matches!(
            send(&mailer, "nobody").await,
            SendOutcome::HardBounce(_)
        ));
    }
    assert_eq!(hard, 100);
    assert_eq!(send(&mailer, "ada").await, SendOutcome::Taken);
    assert!(matches!(
        send(&mailer, "nobody").await,
        SendOutcome::HardBounce(_)
    ));
}

#[tokio::test]
async fn a_connection_is_kept_and_one_that_the_server_ended_loses_no_mail() {
    let Post { mut server, mailer } = Post::start();
    assert_eq!(send(&mailer, "a").await, SendOutcome::Taken);
    assert!(matches!(
        send(&mailer, "policy").await,
        SendOutcome::Refused { .. }
    ));
    assert_eq!(send(&mailer, "b").await, SendOutcome::Taken);
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(mailer.idle.lock().len(), 1);
    assert_eq!(send(&mailer, "c").await, SendOutcome::Taken);
    let mails = server.mails().unwrap();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[0].peer_port, mails[1].peer_port);
    assert_ne!(mails[1].peer_port, mails[2].peer_port);
    mailer.close().await;
    assert!(mailer.idle.lock().is_empty());
    assert_eq!(send(&mailer, "d").await, SendOutcome::Taken);
}

#[tokio::test]
async fn a_connection_that_ends_as_a_mail_begins_loses_no_mail() {
    let Post { server, mailer } = Post::start();
    assert_eq!(send(&mailer, "last").await, SendOutcome::Taken);
    assert_eq!(send(&mailer, "a").await, SendOutcome::Taken);
    let mails = server.mails().unwrap();
    assert_eq!(mails.len(), 2);
    assert_ne!(mails[0].peer_port, mails[1].peer_port);
}

/// A server that says these lines, one after each that it reads, and then reads what comes.
fn scripted(lines: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = BufReader::new(stream.try_clone().unwrap()).lines();
        for line in lines {
            stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
            read.next();
        }
        read.for_each(drop);
    });
    port
}

#[tokio::test]
async fn an_answer_to_something_else_is_no_success() {
    let late = &["220 x", "250 x", "250 x", "250 x", "250 for DATA"][..];
    let early = &[
        "220 x",
        "250 x",
        "250 x",
        "250 x",
        "354 x",
        "354 for the mail",
    ];
    for (lines, stage) in [(late, "DATA"), (early, "the mail")] {
        let settings = at_port(scripted(lines), "deadline_ms = 5000");
        let mailer = Mailer::open(&settings).unwrap();
        let outcome = send(&mailer, "ada").await;
        let why = format!("an answer to something else at {stage}");
        assert_eq!(outcome, reply::lost(why));
        assert!(mailer.idle.lock().is_empty());
    }
}

#[tokio::test]
async fn a_mail_whose_answer_was_lost_is_the_same_mail_when_it_is_sent_again() {
    let Post { server, mailer } = Post::start();
    let lost = send(&mailer, "lost-answer").await;
    assert!(matches!(lost, SendOutcome::Unavailable { .. }), "{lost:?}");
    assert_eq!(send(&mailer, "lost-answer").await, SendOutcome::Taken);
    let mails = server.mails().unwrap();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].bytes, mails[1].bytes);
    let id = format!(
        "Message-ID: {}\r\n",
        message_id(mailer.sender(), "lost-answer")
    );
    assert!(String::from_utf8_lossy(&mails[1].bytes).contains(&id));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_never_that_of_another_mail() {
    let server = Smtp::start().unwrap();
    let mailer = mailer(&server, "deadline_ms = 700\nconnections_max = 1");
    assert_eq!(send(&mailer, "a").await, SendOutcome::Taken);
    let began = Instant::now();
    let late = send(&mailer, "slow").await;
    assert!(matches!(late, SendOutcome::Unavailable { .. }), "{late:?}");
    assert!(began.elapsed() < Duration::from_millis(1_500));
    assert!(mailer.idle.lock().is_empty());
    assert!(matches!(
        send(&mailer, "nobody").await,
        SendOutcome::HardBounce(_)
    ));
    assert_eq!(send(&mailer, "b").await, SendOutcome::Taken);
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_unavailable_within_the_deadline() {
    let nobody = at_port(servers::free_port().unwrap(), "");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = at_port(silent.local_addr().unwrap().port(), "deadline_ms = 300");
    for settings in [nobody, silent] {
        let mailer = Mailer::open(&settings).unwrap();
        let began = Instant::now();
        let outcome = send(&mailer, "ada").await;
        assert!(
            matches!(outcome, SendOutcome::Unavailable { .. }),
            "{outcome:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn no_more_connections_are_open_than_are_allowed() {
    let server = Smtp::start().unwrap();
    let mailer = mailer(&server, "connections_max = 2");
    let sent = join_all((0..12).map(|n| {
        let (mailer, to) = (&mailer, format!("user{n}"));
        async move { send(mailer, &to).await }
    }))
    .await;
    assert!(
        sent.iter().all(|outcome| *outcome == SendOutcome::Taken),
        "{sent:?}"
    );
    let mails = server.mails().unwrap();
    let ports: BTreeSet<u16> = mails.iter().map(|mail| mail.peer_port).collect();
    assert_eq!((mails.len(), ports.len()), (12, 2));
}

fn password_file(folder: &Path, password: &str) -> String {
    let path = folder.join("password");
    fs::write(&path, format!("{password}\n")).unwrap();
    format!(
        "username = 'notifier'\npassword_file = '{}'",
        path.display()
    )
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_blamed_on_the_settings() {
    let server = Smtp::start_with(Options {
        credentials: LOG_IN,
        tls: ServerTls::None,
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let wrong = mailer(&server, &password_file(folder.path(), "wrong"));
    let outcome = send(&wrong, "ada").await;
    assert!(
        refused_by_settings(&outcome, "535 5.7.8 at AUTH"),
        "{outcome:?}"
    );
    let right = mailer(&server, &password_file(folder.path(), "correct horse"));
    assert_eq!(send(&right, "ada").await, SendOutcome::Taken);
    assert!(server.mails().unwrap()[0].authenticated);
    assert!(!format!("{right:?}").contains("horse"));
}

#[tokio::test]
async fn tls_is_spoken_with_who_has_the_right_certificate_and_with_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let log_in = password_file(folder.path(), "correct horse");
    for (tls, name) in [
        (ServerTls::StartTls, "starttls"),
        (ServerTls::Implicit, "implicit"),
    ] {
        let credentials = LOG_IN;
        let server = Smtp::start_with(Options { credentials, tls }).unwrap();
        let ca_file = format!("ca_file = '{}'", server.certificate().display());
        let known = mailer(&server, &format!("tls = '{name}'\n{log_in}\n{ca_file}"));
        assert_eq!(
            send(&known, "ada").await,
            SendOutcome::Taken,
            "{}",
            server.log()
        );
        assert_eq!(send(&known, "bob").await, SendOutcome::Taken);
        let mails = server.mails().unwrap();
        assert!(mails.iter().all(|mail| mail.tls && mail.authenticated));
        assert_eq!(mails[0].peer_port, mails[1].peer_port);

        let stranger = mailer(&server, &format!("tls = '{name}'\n{log_in}"));
        let outcome = send(&stranger, "ada").await;
        assert!(
            refused_by_settings(&outcome, "tls: invalid peer certificate"),
            "{outcome:?}"
        );
        assert_eq!(server.mails().unwrap().len(), 2);
    }
    let plain = Smtp::start().unwrap();
    for (name, word) in [
        ("starttls", "STARTTLS is not supported"),
        ("implicit", "tls: "),
    ] {
        let outcome = send(&mailer(&plain, &format!("tls = '{name}'")), "ada").await;
        assert!(refused_by_settings(&outcome, word), "{outcome:?}");
    }
    assert!(plain.mails().unwrap().is_empty());
}

#[test]
fn settings_that_cannot_work_or_are_not_safe_are_refused() {
    let parsed = |more: &str| {
        let text = format!("host = 'mail.example.org'\n{more}");
        toml::from_str::<SmtpSettings>(&text).map_err(|error| error.to_string())
    };
    let from = "from = 'Chat <no-reply@chat.example.org>'";
    let settings = parsed(from).unwrap();
    assert_eq!(settings.tls, Tls::StartTls);
    let mailer = Mailer::open(&settings).unwrap();
    assert_eq!(
        (mailer.port, mailer.bounce_domain()),
        (587, "chat.example.org")
    );
    assert_eq!(mailer.sender().app_name, "Chat");
    for (bad, word) in [
        ("frm = ''", "frm"),
        ("", "from"),
        ("tls = 'maybe'", "maybe"),
        ("connections_max = 0", "zero"),
        ("deadline_ms = 0", "zero"),
    ] {
        let text = if bad.is_empty() {
            String::new()
        } else {
            format!("{from}\n{bad}")
        };
        let error = parsed(&text).unwrap_err();
        assert!(error.contains(word), "{bad}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let log_in = password_file(folder.path(), "secret");
    let no_file = "username = 'a'\npassword_file = '/nowhere/password'";
    for (more, key) in [
        (format!("{from}\nusername = 'a'"), "password_file"),
        (format!("{from}\npassword_file = 'a'"), "username"),
        (format!("{from}\n{no_file}"), "/nowhere/password"),
        (format!("{from}\n{log_in}\ntls = 'none'"), "tls"),
        (
            format!("{from}\nca_file = '/nowhere/ca.pem'"),
            "/nowhere/ca.pem",
        ),
        (format!("{from}\nhello_name = 'a b'"), "hello_name"),
        (
            format!("{from}\nbounce_domain = 'localhost'"),
            "bounce_domain",
        ),
        ("from = 'Chat'".to_owned(), "from"),
        ("from = 'a@localhost'".to_owned(), "from"),
    ] {
        let error = Mailer::open(&parsed(&more).unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(key) && !error.contains("secret"),
            "{more}: {error}"
        );
    }
    let empty = password_file(folder.path(), "");
    let error = Mailer::open(&parsed(&format!("{from}\n{empty}")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("no password"), "{error}");
}
