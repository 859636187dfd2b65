//! Conversation lists, unread counts and marks.

use std::collections::{BTreeMap, HashMap};

use super::{Verdict, World, Wrong};
use crate::history::{Keeps, List, Mark, Micros, No, Record, Row, Way};

/// Somebody said that he has read up to here.
#[derive(Debug, Clone, Copy)]
struct Said {
    t: (Micros, Micros),
    up_to: Mark,
    /// It cannot get lost any more.
    certain: bool,
}

/// What lists must show after everything has come to rest.
#[derive(Debug)]
pub(crate) struct Expected {
    /// By user and conversation.
    said: HashMap<(No, No), Vec<Said>>,
    /// The last own message, which counts as read.
    own: HashMap<(No, No), Mark>,
}

impl Expected {
    pub(crate) fn new(world: &World<'_>, records: &[Record]) -> Self {
        let mut said: HashMap<_, Vec<Said>> = HashMap::new();
        for record in records {
            if let Record::MarkRead {
                t,
                device,
                app,
                conversation,
                up_to,
                way,
                told,
            } = record
                && let Some(seen) = world.devices.get(device)
            {
                let is_kept = seen.keeps == Keeps::Cache || seen.last_app == Some(*app);
                said.entry((seen.user, *conversation))
                    .or_default()
                    .push(Said {
                        t: *t,
                        up_to: *up_to,
                        certain: *told && (*way == Way::Call || is_kept),
                    });
            }
        }
        let mut own: HashMap<_, Mark> = HashMap::new();
        for (conversation, contents) in &world.truth {
            for content in contents.iter().filter_map(|number| world.content(*number)) {
                if let Some(sender) = content.sender {
                    own.insert((sender, *conversation), content.at);
                }
            }
        }
        Self { said, own }
    }

    /// Whether a user's read mark can be this in a list that was read at `t`.
    fn allows(&self, user: No, conversation: No, read: Mark, t: (Micros, Micros)) -> bool {
        let key = (user, conversation);
        let own = self.own.get(&key).copied().unwrap_or_default();
        let said = self.said.get(&key).map_or(&[][..], Vec::as_slice);
        let certain = said
            .iter()
            .filter(|said| said.certain && said.t.1 <= t.0)
            .map(|said| said.up_to)
            .fold(own, Mark::max);
        let is_possible = |said: &Said| said.up_to == read && said.t.0 < t.1;
        read == certain || (read > certain && said.iter().any(is_possible))
    }

    /// What is wrong with a final list: a sentence each.
    pub(crate) fn compare(&self, world: &World<'_>, list: &List) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut rows: BTreeMap<No, Vec<&Row>> = BTreeMap::new();
        for row in &list.rows {
            rows.entry(row.conversation).or_default().push(row);
        }
        for conversation in world.of_user(list.user) {
            let head = world.head(conversation);
            let of_it = rows.remove(&conversation).unwrap_or_default();
            match of_it[..] {
                [] if head == Mark::default() => {}
                [row] if head != Mark::default() => {
                    wrong.extend(self.compare_row(world, list.user, row, list.t));
                }
                _ => wrong.push(format!(
                    "conversation {conversation} ends at {head:?} and has the rows {of_it:?}"
                )),
            }
        }
        if !rows.is_empty() {
            wrong.push(format!("rows of conversations of others: {rows:?}"));
        }
        let sum: u64 = list.rows.iter().map(|row| row.unread).sum();
        if sum != list.unread_total {
            wrong.push(format!(
                "the rows have {sum} unread messages, the total is {}",
                list.unread_total
            ));
        }
        wrong
    }

    /// What is wrong with a row after everything has come to rest.
    pub(crate) fn compare_row(
        &self,
        world: &World<'_>,
        user: No,
        row: &Row,
        t: (Micros, Micros),
    ) -> Option<String> {
        let head = world.head(row.conversation);
        let members = world.conversations.get(&row.conversation)?;
        let peer = members.iter().copied().find(|member| *member != user)?;
        let is_right = row.last == head
            && self.allows(user, row.conversation, row.read, t)
            && self.allows(peer, row.conversation, row.peer_read, t)
            && row.unread == head.1.saturating_sub(row.read.1);
        (!is_right).then(|| {
            let key = (user, row.conversation);
            let peers = (peer, row.conversation);
            format!(
                "conversation {} of user {user} ends at {head:?}; own {:?}, said {:?}; the peer's {:?}, \
                 said {:?}; its row is {row:?}",
                row.conversation,
                self.own.get(&key),
                self.said.get(&key).and_then(|said| said.iter().max_by_key(|said| said.up_to)),
                self.own.get(&peers),
                self.said.get(&peers).and_then(|said| said.iter().max_by_key(|said| said.up_to)),
            )
        })
    }
}

/// Judges lists, counts and rows.
pub(super) fn judge(world: &World<'_>, records: &[Record], verdict: &mut Verdict) {
    let expected = Expected::new(world, records);
    let mut versions = Versions::default();
    for record in records {
        match record {
            Record::Row { device, row, .. } => {
                if let Some(user) = world.user_of(*device) {
                    judge_row(world, row, verdict);
                    versions.add(user, row, verdict);
                }
            }
            Record::List(list) => {
                for row in &list.rows {
                    judge_row(world, row, verdict);
                    versions.add(list.user, row, verdict);
                }
            }
            _ => {}
        }
    }
    versions.sort();
    // By user: the total of the last final list.
    let mut totals: HashMap<No, u64> = HashMap::new();
    for record in records {
        match record {
            Record::List(list) => {
                if list.version < list.min_version {
                    verdict.add(Wrong::StaleReads, || {
                        format!(
                            "a list at {} of at least {}: {list:?}",
                            list.version, list.min_version
                        )
                    });
                }
                versions.judge(list, verdict);
                if list.is_final {
                    totals.insert(list.user, list.unread_total);
                    for what in expected.compare(world, list) {
                        verdict.add(Wrong::UnreadWrong, || what);
                    }
                }
            }
            Record::UnreadTotal {
                user,
                total,
                is_final: true,
                ..
            } if totals.get(user).is_some_and(|listed| listed != total) => {
                verdict.add(Wrong::UnreadWrong, || {
                    format!("user {user} has {total} unread messages, and {totals:?} in lists")
                });
            }
            Record::CacheRows { t, device, rows } => {
                if let Some(user) = world.user_of(*device) {
                    judge_cache(world, &expected, (user, *device), rows, *t, verdict);
                }
            }
            _ => {}
        }
    }
}

fn judge_cache(
    world: &World<'_>,
    expected: &Expected,
    (user, device): (No, No),
    rows: &[Row],
    t: Micros,
    verdict: &mut Verdict,
) {
    for conversation in world.of_user(user) {
        if world.head(conversation) == Mark::default() {
            continue;
        }
        let row = rows.iter().find(|row| row.conversation == conversation);
        let wrong = match row {
            Some(row) => expected.compare_row(world, user, row, (t, t)),
            None => Some(format!("no row of conversation {conversation}")),
        };
        if let Some(what) = wrong {
            verdict.add(Wrong::UnreadWrong, || {
                format!("the cache of device {device}: {what}")
            });
        }
    }
}

/// What every row must be, at any time.
fn judge_row(world: &World<'_>, row: &Row, verdict: &mut Verdict) {
    let conversation = row.conversation;
    if !world.truth.contains_key(&conversation) {
        return;
    }
    if row.unread != row.last.1.saturating_sub(row.read.1) {
        verdict.add(Wrong::UnreadWrong, || {
            format!("a row is not consistent: {row:?}")
        });
    }
    let marks = [row.read, row.delivered, row.peer_read, row.peer_delivered];
    let is_mark = |mark: &Mark| *mark <= row.last && world.is_place(conversation, *mark);
    if !marks.iter().all(is_mark) {
        verdict.add(Wrong::MarksWrong, || {
            format!("marks that are no places up to the end: {row:?}")
        });
    }
    let last = world.at(conversation, row.last.0);
    let is_last = last.map_or(row.last == Mark::default(), |content| {
        content.at == row.last
    });
    if !is_last {
        verdict.add(Wrong::Lost, || {
            format!("a row ends where the history does not go: {row:?}")
        });
    }
    let preview = row.preview.map(|(_, id)| id);
    let is_shown = preview == last.map(|content| content.id)
        && row.preview.is_none_or(|(seq, _)| seq == row.last.0);
    if is_last && !is_shown {
        verdict.add(Wrong::UnreadWrong, || {
            format!("a row shows another message than the last: {row:?}")
        });
    }
}

/// Version, end and read mark of a row.
type Versioned = (u64, Mark, Mark);

/// What versions of rows said, so that later reads can be held to it.
#[derive(Debug, Default)]
struct Versions {
    /// By user and conversation; once sorted, with the maxima up to each.
    seen: HashMap<(No, No), Vec<Versioned>>,
    /// One version is one row.
    rows: HashMap<(No, No, u64), (Mark, Mark)>,
}

impl Versions {
    fn add(&mut self, user: No, row: &Row, verdict: &mut Verdict) {
        let key = (user, row.conversation);
        let seen = (row.version, row.last, row.read);
        self.seen.entry(key).or_default().push(seen);
        let versioned = (user, row.conversation, row.version);
        let before = self.rows.insert(versioned, (row.last, row.read));
        if before.is_some_and(|before| before != (row.last, row.read)) {
            verdict.add(Wrong::Diverged, || {
                format!("user {user}: one version, two rows: {before:?} and {row:?}")
            });
        }
    }

    fn sort(&mut self) {
        for seen in self.seen.values_mut() {
            seen.sort_unstable();
            seen.dedup();
            let (mut last, mut read) = (Mark::default(), Mark::default());
            for entry in seen {
                last = last.max(entry.1);
                read = read.max(entry.2);
                (entry.1, entry.2) = (last, read);
            }
        }
    }

    /// A list that must include what happened up to a version shows no row that is older.
    fn judge(&self, list: &List, verdict: &mut Verdict) {
        for ((user, conversation), seen) in &self.seen {
            if *user != list.user {
                continue;
            }
            let known = seen.partition_point(|(version, ..)| *version <= list.min_version);
            let Some((version, last, read)) = known.checked_sub(1).map(|place| seen[place]) else {
                continue;
            };
            let row = list
                .rows
                .iter()
                .find(|row| row.conversation == *conversation);
            if !row.is_some_and(|row| row.last >= last && row.read >= read) {
                verdict.add(Wrong::StaleReads, || {
                    format!(
                        "user {user}, conversation {conversation}: at version {version} it ended at \
                         {last:?} with {read:?} read; a list of at least {} has {row:?}",
                        list.min_version
                    )
                });
            }
        }
    }
}
