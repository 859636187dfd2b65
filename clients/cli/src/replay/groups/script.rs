//! What the log of a channel becomes: a group, and what happens in it one after another.
//!
//! Somebody who is called otherwise stays the same user. Who speaks without having been seen to come is
//! added before; who leaves without having been in the group is ignored. Logs do not tell of everybody
//! who goes, so a group only grows where a channel would not: a log in which more would be members at a
//! time than a group has room for goes on in another group, which begins empty.

use std::collections::{HashMap, HashSet};

use super::channel::ChannelLine;
use crate::{
    replay::plan::{Speaker, add_speaker},
    text::to_messages,
};

/// Members of a group at a time, its owner included: below the 200 that a server allows.
pub(crate) const MEMBERS_MAX: usize = 199;
/// Unicode scalar values of a description.
const DESCRIPTION_CHARS_MAX: usize = 512;
/// Unicode scalar values of a name that are taken from the name of the log.
const NAME_CHARS_MAX: usize = 80;
/// The owner, in [`Script::people`].
pub(crate) const OWNER: usize = 0;

/// One thing that happens; people are places in [`Script::people`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The owner adds a member.
    Add(usize),
    /// A member leaves.
    Leave(usize),
    /// The owner removes a member.
    Remove(usize),
    /// The owner changes the description.
    Describe(String),
    /// A member says something.
    Say(usize, String),
}

/// One group.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) name: String,
    /// The owner, who says nothing, and all who ever are members.
    pub(crate) people: Vec<Speaker>,
    pub(crate) steps: Vec<Step>,
    /// Lines about who comes and goes that change nothing.
    pub(crate) ignored: usize,
}

/// The scripts of a log: one, or more if it needs more room than a group has.
pub(crate) fn scripts(lines: &[ChannelLine], name: &str, run: &str) -> Vec<Script> {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    let mut scripts = Vec::new();
    let mut writer = Writer::new(&name, &format!("{run}p1"));
    for line in lines {
        if writer.needs_room_for(line) {
            let part = scripts.len() + 2;
            let next = Writer::new(&format!("{name} ({part})"), &format!("{run}p{part}"));
            scripts.push(std::mem::replace(&mut writer, next).script);
        }
        writer.line(line);
    }
    scripts.push(writer.script);
    // A group in which nobody says anything shows nothing.
    scripts.retain(|script| {
        let is_said = |step: &Step| matches!(step, Step::Say(..));
        script.steps.iter().any(is_said)
    });
    scripts
}

struct Writer {
    run: String,
    script: Script,
    /// Who is called so now.
    called: HashMap<String, usize>,
    members: HashSet<usize>,
    description: String,
}

impl Writer {
    fn new(name: &str, run: &str) -> Self {
        let mut people = Vec::new();
        add_speaker(&mut people, "channel operator", run);
        Self {
            run: run.to_owned(),
            script: Script {
                name: name.to_owned(),
                people,
                steps: Vec::new(),
                ignored: 0,
            },
            called: HashMap::new(),
            members: HashSet::from([OWNER]),
            description: String::new(),
        }
    }

    fn needs_room_for(&self, line: &ChannelLine) -> bool {
        let (ChannelLine::Said { nick, .. } | ChannelLine::Joined { nick }) = line else {
            return false;
        };
        let is_member = |place| self.members.contains(place);
        self.members.len() >= MEMBERS_MAX && !self.called.get(nick).is_some_and(is_member)
    }

    fn line(&mut self, line: &ChannelLine) {
        match line {
            ChannelLine::Said { nick, text } => {
                let texts = to_messages(text);
                if texts.is_empty() {
                    return;
                }
                let person = self.person(nick);
                self.add(person);
                let said = texts.into_iter().map(|text| Step::Say(person, text));
                self.script.steps.extend(said);
            }
            ChannelLine::Joined { nick } => {
                let person = self.person(nick);
                // Gone without a line that says it, and here again.
                if !self.add(person) {
                    self.script.ignored += 1;
                }
            }
            ChannelLine::Left { nick } => self.go(nick, Step::Leave),
            ChannelLine::Kicked { nick } => self.go(nick, Step::Remove),
            ChannelLine::Renamed { from, to } => match self.called.remove(from) {
                Some(person) => drop(self.called.insert(to.clone(), person)),
                None => self.script.ignored += 1,
            },
            ChannelLine::Topic { text } => {
                let visible = text.chars().filter(|c| !c.is_control());
                let text: String = visible.take(DESCRIPTION_CHARS_MAX).collect();
                // The same again would be no change.
                if text != self.description {
                    self.description.clone_from(&text);
                    self.script.steps.push(Step::Describe(text));
                }
            }
            ChannelLine::Other => {}
        }
    }

    fn person(&mut self, nick: &str) -> usize {
        if let Some(person) = self.called.get(nick) {
            return *person;
        }
        let person = add_speaker(&mut self.script.people, nick, &self.run);
        self.called.insert(nick.to_owned(), person);
        person
    }

    /// `false` if the person is a member already.
    fn add(&mut self, person: usize) -> bool {
        let is_new = self.members.insert(person);
        if is_new {
            self.script.steps.push(Step::Add(person));
        }
        is_new
    }

    fn go(&mut self, nick: &str, how: fn(usize) -> Step) {
        match self.called.get(nick) {
            Some(person) if self.members.remove(person) => self.script.steps.push(how(*person)),
            _ => self.script.ignored += 1,
        }
    }
}

#[cfg(test)]
mod tests;
