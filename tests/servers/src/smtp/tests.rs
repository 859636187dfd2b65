use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use super::*;

/// Says lines, one after the answer to the one before; the last answer, or what came of it.
fn talk(server: &Smtp, lines: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut answer = || loop {
        match answers.next() {
            // A hyphen after the code: more of the answer follows.
            Some(Ok(line)) if line.as_bytes().get(3) == Some(&b'-') => {}
            Some(line) => return line,
            None => return Ok(String::new()),
        }
    };
    let mut last = answer()?;
    for line in lines {
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        last = answer()?;
    }
    Ok(last)
}

fn send(server: &Smtp, to: &str) -> String {
    let to = format!("RCPT TO:<{to}@example.org>");
    let lines = [
        "EHLO test",
        "MAIL FROM:<a@example.org>",
        &to,
        "DATA",
        "Message-ID: <1@x>\r\n\r\n..\r\n.",
    ];
    talk(server, &lines).unwrap_or_default()
}

#[test]
fn mails_are_kept_with_their_envelope_over_a_restart() {
    let mut server = Smtp::start().unwrap();
    assert!(send(&server, "b").starts_with("250 "));
    let (address, pid) = (server.address(), server.pid());
    server.kill().unwrap();
    assert!(talk(&server, &[]).is_err());
    server.start_again().unwrap();
    assert_eq!(server.address(), address);
    assert_ne!(server.pid(), pid);
    assert!(send(&server, "c").starts_with("250 "));
    let mails = server.mails().unwrap();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].from, "a@example.org");
    assert_eq!(mails[0].to, ["b@example.org"]);
    assert_eq!(mails[1].to, ["c@example.org"]);
    assert_eq!(mails[0].bytes, b"Message-ID: <1@x>\r\n\r\n.\r\n");
    let folder = server.folder.path().to_owned();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn it_misbehaves_as_it_is_asked() {
    let server = Smtp::start().unwrap();
    assert_eq!(send(&server, "lost-answer"), "");
    assert!(send(&server, "lost-answer").starts_with("250 "));
    assert_eq!(server.mails().unwrap().len(), 2);
    assert!(send(&server, "later").starts_with("451 "));
    assert!(send(&server, "gone").starts_with("550 5.1.1"));
    for (to, answer) in [
        ("nobody", "550 5.1.1"),
        ("full", "452 4.2.2"),
        ("policy", "550 5.7.1"),
        ("busy", "421"),
    ] {
        let to = format!("RCPT TO:<{to}@example.org>");
        let said = talk(&server, &["EHLO test", "MAIL FROM:<a@example.org>", &to]).unwrap();
        assert!(said.starts_with(answer), "{to}: {said}");
    }
    assert_eq!(server.mails().unwrap().len(), 2);
}
