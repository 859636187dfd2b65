use std::{collections::HashSet, path::Path};

use super::*;

fn plan_of(names: &[&str]) -> Plan {
    let mut plan = Plan::default();
    for name in names {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/data")
            .join(name);
        plan.add(&Log::read(&path).unwrap(), "run");
    }
    plan
}

fn is_username(name: &str) -> bool {
    (2..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c))
}

#[test]
fn each_answer_is_a_message_to_the_author_of_the_line_it_answers() {
    let plan = plan_of(&["allotment.raw.txt"]);
    let shown: Vec<_> = plan
        .messages
        .iter()
        .take(4)
        .map(|message| {
            let name = |place: usize| plan.speakers[place].display_name.as_str();
            (name(message.from), name(message.to), message.text.as_str())
        })
        .collect();
    let both = "every day in the first weeks, then what old_pete says";
    assert_eq!(
        shown,
        [
            (
                "tobi",
                "maren",
                "maren: yes, since May. They want more water than you think"
            ),
            ("maren", "tobi", "tobi: every day?"),
            (
                "old_pete",
                "maren",
                "maren: every second day is enough if you mulch"
            ),
            ("tobi", "maren", both),
        ]
    );
    // One line that answers two people is two messages.
    assert_eq!(plan.messages[4].text, both);
    assert_eq!(plan.messages.len(), 25);
    assert_eq!(
        plan.skipped,
        Skipped {
            thread_starts: 5,
            own: 1,
            ..Skipped::default()
        }
    );
}

#[test]
fn what_cannot_be_sent_is_skipped_and_counted() {
    let plan = plan_of(&["oddities.raw.txt"]);
    assert_eq!(
        plan.skipped,
        Skipped {
            thread_starts: 3,
            own: 1,
            system: 4,
            empty: 1,
        }
    );
    assert!(
        plan.messages
            .iter()
            .all(|message| message.from != message.to)
    );
    assert!(
        plan.messages
            .iter()
            .all(|message| !message.text.trim().is_empty())
    );
    assert!(
        plan.messages
            .iter()
            .all(|message| !message.text.contains('\0'))
    );
}

#[test]
fn long_texts_become_several_messages() {
    let plan = plan_of(&["oddities.raw.txt"]);
    let lengths: Vec<_> = plan
        .messages
        .iter()
        .map(|message| message.text.chars().count())
        .filter(|length| *length >= 350)
        .collect();
    assert_eq!(lengths, [700, 700, 414, 700, 700]);
}

#[test]
fn usernames_are_valid_and_unique_over_all_logs() {
    let logs = ["oddities.raw.txt", "allotment.raw.txt", "busy.raw.txt"];
    let plan = plan_of(&[logs.as_slice(), &logs].concat());
    let names: HashSet<_> = plan
        .speakers
        .iter()
        .map(|speaker| &speaker.username)
        .collect();
    assert_eq!(names.len(), plan.speakers.len());
    for name in names {
        assert!(is_username(name), "{name:?}");
    }
    assert!(is_username(&username(
        &"ä_".repeat(40),
        "0123456789",
        99_999
    )));
}
