use super::*;

fn joined(nick: &str) -> ChannelLine {
    ChannelLine::Joined {
        nick: nick.to_owned(),
    }
}

fn left(nick: &str) -> ChannelLine {
    ChannelLine::Left {
        nick: nick.to_owned(),
    }
}

fn topic(text: &str) -> ChannelLine {
    ChannelLine::Topic {
        text: text.to_owned(),
    }
}

#[test]
fn real_lines_say_who_comes_goes_and_is_called_otherwise() {
    for (line, expected) in [
        (
            "=== L0sT [~waa3@raptor.ukc.ac.uk]  has joined #ubuntu",
            joined("L0sT"),
        ),
        (
            "=== `anthony [~anthony@213.151.107.243]  has joined #Ubuntu",
            joined("`anthony"),
        ),
        (
            "=== oO[NOVA] Oo [n=NovaFlas@sev.demon.nl]  has joined #ubuntu",
            joined("oO[NOVA]"),
        ),
        (
            "=== HellDragon [n=JD@about/copyleft/pdpc.active.HellDragon]  has joined #ubuntu",
            joined("HellDragon"),
        ),
        (
            "=== Ironfrost [~adsfkjask@82-36-124-129.cable.ubr04.king.blueyonder.co.uk]  has left #ubuntu []",
            left("Ironfrost"),
        ),
        (
            "=== swarms [~s@host80]  has left #ubuntu [\"Ubuntu]",
            left("swarms"),
        ),
        ("=== a [n=a@b]  has quit [Read error]", left("a")),
        (
            "=== el was kicked off #ubuntu by LoRez (LoRez)",
            ChannelLine::Kicked {
                nick: "el".to_owned(),
            },
        ),
        (
            "=== ealden is now known as ealden|dinner",
            ChannelLine::Renamed {
                from: "ealden".to_owned(),
                to: "ealden|dinner".to_owned(),
            },
        ),
        (
            "=== mode/#ubuntu [+o gnomefreak]  by ChanServ",
            ChannelLine::Other,
        ),
        ("=== jiyuu0 here to witness...", ChannelLine::Other),
        ("=== join irc.nitronfire.co.uk looking", ChannelLine::Other),
        ("=== nick has joined #ubuntu", ChannelLine::Other),
        ("=== ", ChannelLine::Other),
        ("", ChannelLine::Other),
        (
            "=== seb changed the topic of #ubuntu to: Be nice: always",
            topic("Be nice: always"),
        ),
        ("=== #ubuntu changed topic to Be nice", topic("Be nice")),
        ("=== Topic (#ubuntu): Be nice", topic("Be nice")),
        (
            "[09:14] <will> === x [a@b]  has joined #ubuntu",
            ChannelLine::Said {
                nick: "will".to_owned(),
                text: "=== x [a@b]  has joined #ubuntu".to_owned(),
            },
        ),
    ] {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn a_whole_log_is_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let lines = read(&data.join("2005-06-16.train-c.raw.txt")).unwrap();
    let count = |is: fn(&ChannelLine) -> bool| lines.iter().filter(|line| is(line)).count();
    assert!(count(|line| matches!(line, ChannelLine::Joined { .. })) > 50);
    assert!(count(|line| matches!(line, ChannelLine::Left { .. })) > 5);
    assert!(count(|line| matches!(line, ChannelLine::Renamed { .. })) > 5);
    assert!(count(|line| matches!(line, ChannelLine::Said { .. })) > 1_000);
}
