use super::*;

fn said(nick: &str, text: &str) -> Line {
    Line::Said {
        nick: nick.to_owned(),
        text: text.to_owned(),
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(name)
}

#[test]
fn lines_of_every_form_are_read_and_others_are_nobodys() {
    for (line, expected) in [
        (
            "[09:01] <maren> good morning",
            said("maren", "good morning"),
        ),
        (
            "[09:01] <[{Knut}]> <a> [12:34]",
            said("[{Knut}]", "<a> [12:34]"),
        ),
        ("[09:01] <a> ", said("a", "")),
        ("[09:01] <a>", said("a", "")),
        ("[09:01] <a>  two  blanks ", said("a", " two  blanks ")),
        ("[09:01] <a> n\0ul", said("a", "nul")),
        ("[09:01]  * |Matt| waves", said("|Matt|", "* |Matt| waves")),
        ("[09:01] * a", said("a", "* a")),
        ("[09:01] <> nobody", Line::System),
        ("[9:01] <a> short hour", Line::System),
        ("[09:xx] <a> no minutes", Line::System),
        ("[09:99", Line::System),
        ("=== a is now known as b", Line::System),
        ("a line without a time or a name", Line::System),
        ("[09:01] <never closed", Line::System),
        ("", Line::System),
    ] {
        assert_eq!(parse_line(line), expected, "{line:?}");
    }
}

#[test]
fn lines_keep_their_numbers_whatever_stands_in_them() {
    let lines = parse_lines(b"[00:00] <a> \xff\xe2\x80\xa8x\r\n\n=== s\n[00:01] <b> y");
    assert_eq!(
        lines,
        [
            said("a", "\u{fffd}\u{2028}x"),
            Line::System,
            Line::System,
            said("b", "y")
        ]
    );
}

#[test]
fn an_annotation_is_sorted_by_the_line_that_answers() {
    let replies = parse_annotation("7 9 -\n3 3 - \n1 9 -\n\n7 9 -\n").unwrap();
    let reply = |answered, answer| Reply { answer, answered };
    assert_eq!(replies, [reply(3, 3), reply(1, 9), reply(7, 9)]);
    for wrong in ["7\n", "x 9 -\n", "1 -2 -\n"] {
        assert!(parse_annotation(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_log_of_odd_encodings_is_read_to_its_end() {
    let log = Log::read(&data("oddities.raw.txt")).unwrap();
    assert_eq!(log.lines.len(), 31);
    assert!(matches!(&log.lines[3], Line::Said { text, .. } if text.starts_with("caf\u{fffd} ")));
    assert!(matches!(&log.lines[30], Line::Said { nick, .. } if nick == "^_^"));
    let system = log.lines.iter().filter(|line| **line == Line::System);
    assert_eq!(system.count(), 4);
}

#[test]
fn what_is_no_log_is_named_in_the_error() {
    let error = Log::read(&data("README.md")).unwrap_err();
    assert!(error.to_string().contains("README.md"), "{error}");
    let error = Log::read(&data("absent.raw.txt")).unwrap_err();
    assert!(error.to_string().contains("absent.raw.txt"), "{error}");
}
