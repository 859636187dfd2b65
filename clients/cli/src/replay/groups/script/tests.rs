use std::path::Path;

use super::{super::channel, *};

fn script_of(text: &str) -> Script {
    let lines: Vec<_> = text.lines().map(channel::parse).collect();
    scripts(&lines, "log", "run").remove(0)
}

fn say(person: usize, text: &str) -> Step {
    Step::Say(person, text.to_owned())
}

#[test]
fn coming_going_and_names_become_memberships_of_the_same_users() {
    let script = script_of(
        "[09:00] <ada> here before the log\n\
         === grace [g@host]  has joined #ubuntu\n\
         === grace [g@host]  has joined #ubuntu\n\
         === grace is now known as hopper\n\
         [09:01] <hopper> hello\n\
         === stranger [s@host]  has left #ubuntu []\n\
         === Topic (#ubuntu): be nice\n\
         === Topic (#ubuntu): be nice\n\
         === hopper [g@host]  has left #ubuntu []\n\
         [09:02] <hopper> still here\n\
         === ada was kicked off #ubuntu by grace (noise)\n\
         === grace [g2@host]  has joined #ubuntu\n\
         [09:03] <ada>  ",
    );
    let (ada, grace, other_grace) = (1, 2, 3);
    assert_eq!(
        script.steps,
        [
            Step::Add(ada),
            say(ada, "here before the log"),
            Step::Add(grace),
            say(grace, "hello"),
            Step::Describe("be nice".to_owned()),
            Step::Leave(grace),
            Step::Add(grace),
            say(grace, "still here"),
            Step::Remove(ada),
            Step::Add(other_grace),
        ]
    );
    assert_eq!((script.people.len(), script.ignored), (4, 2));
}

/// Nobody is added twice, leaves without being there, or speaks from outside; and there is room.
fn check(script: &Script) {
    let mut members = HashSet::from([OWNER]);
    for step in &script.steps {
        match step {
            Step::Add(person) => assert!(members.insert(*person)),
            Step::Leave(person) | Step::Remove(person) => assert!(members.remove(person)),
            Step::Say(person, _) => assert!(members.contains(person)),
            Step::Describe(_) => {}
        }
        assert!(members.contains(&OWNER) && members.len() <= MEMBERS_MAX);
    }
}

#[test]
fn only_members_speak_and_a_group_is_never_too_large() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let mut parts = Vec::new();
    for name in ["2005-06-16.train-c", "2007-07-03.train-a", "oddities"] {
        let lines = channel::read(&data.join(format!("{name}.raw.txt"))).unwrap();
        let scripts = scripts(&lines, name, "run");
        let said = |step: &&Step| matches!(step, Step::Say(..));
        let all = scripts.iter().flat_map(|script| &script.steps);
        let texts = lines.iter().filter_map(|line| match line {
            ChannelLine::Said { text, .. } => Some(to_messages(text).len()),
            _ => None,
        });
        assert_eq!(all.filter(said).count(), texts.sum::<usize>());
        scripts.iter().for_each(check);
        let usernames = scripts.iter().flat_map(|script| &script.people);
        let usernames: HashSet<_> = usernames.map(|person| &person.username).collect();
        let people = scripts.iter().map(|script| script.people.len());
        assert_eq!(usernames.len(), people.sum::<usize>());
        parts.push(scripts.len());
    }
    // One of them has some 400 names.
    assert!(parts[1] > 1, "{parts:?}");
    assert_eq!((parts[0], parts[2]), (1, 1));
}
