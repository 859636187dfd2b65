//! Reads of groups: a page has what its reader may see of the range that it covers, all of that and
//! nothing else.

use super::{Verdict, Wrong, world::GroupWorld};
use crate::history::{
    No, Record,
    groups::{GroupEvent, GroupRead, GroupRecord, What},
};

/// Judges what each user reads of each group at the end.
pub(super) fn judge_views(world: &GroupWorld<'_>, verdict: &mut Verdict) {
    for ((group, user), numbers) in &world.views {
        let shown = || format!("group {group}: what user {user} reads at the end");
        let seqs = seqs(world, numbers);
        let is_foreign = |seq: &u64| !world.may_see(*group, *user, *seq);
        if let Some(seq) = seqs.iter().copied().find(is_foreign) {
            verdict.add(Wrong::Foreign, || format!("{} has {seq}", shown()));
        }
        let all = 1..=world.head(*group).0;
        let expected: Vec<u64> = all.filter(|seq| world.sees(*group, *user, *seq)).collect();
        let own: Vec<u64> = seqs
            .iter()
            .copied()
            .filter(|seq| world.sees(*group, *user, *seq))
            .collect();
        if own != expected {
            let place = own
                .iter()
                .zip(&expected)
                .position(|(one, other)| one != other);
            verdict.add(Wrong::Diverged, || {
                format!(
                    "{} is {} of {} events; the first difference is at {place:?}",
                    shown(),
                    own.len(),
                    expected.len()
                )
            });
        }
    }
    for ((group, user), numbers) in &world.messages {
        judge_messages(world, (*group, *user), numbers, verdict);
    }
    if !world.came_to_rest {
        return;
    }
    for (group, (_, users)) in &world.groups {
        for user in *users {
            let read = world.messages.iter();
            if !read.map(|one| one.0).any(|key| key == (*group, *user)) {
                verdict.add(Wrong::Unsettled, || {
                    format!("user {user} has not read the messages of group {group} at the end")
                });
            }
            if !world.views.contains_key(&(*group, *user)) {
                verdict.add(Wrong::Unsettled, || {
                    format!("user {user} has not read group {group} at the end")
                });
            }
        }
    }
}

/// The messages that a user reads are those among the events that he may see.
fn judge_messages(
    world: &GroupWorld<'_>,
    (group, user): (No, No),
    numbers: &[u32],
    verdict: &mut Verdict,
) {
    let read: Vec<_> = numbers.iter().filter_map(|one| world.event(*one)).collect();
    if read.iter().any(|one| !world.may_see(group, user, one.at.0)) {
        verdict.add(Wrong::Foreign, || {
            format!("group {group}: user {user} reads messages that he may not see")
        });
    }
    let is_shown = |event: &&GroupEvent| {
        matches!(event.what, What::Message(..)) && world.sees(group, user, event.at.0)
    };
    let expected: Vec<_> = world.story(group).filter(is_shown).collect();
    let own = read
        .iter()
        .copied()
        .filter(|one| world.sees(group, user, one.at.0) || !world.may_see(group, user, one.at.0));
    let own: Vec<_> = own.collect();
    if own != expected {
        let place = own
            .iter()
            .zip(&expected)
            .position(|(one, other)| one != other);
        verdict.add(Wrong::Diverged, || {
            format!(
                "group {group}: user {user} reads {} of {} messages; the first difference is at {place:?}",
                own.len(),
                expected.len()
            )
        });
    }
}

fn seqs(world: &GroupWorld<'_>, numbers: &[u32]) -> Vec<u64> {
    let events = numbers.iter().filter_map(|number| world.event(*number));
    events.map(|event| event.at.0).collect()
}

/// Judges pages.
pub(super) fn judge(world: &GroupWorld<'_>, records: &[Record], verdict: &mut Verdict) {
    for record in records {
        match record {
            Record::Group(GroupRecord::Read(read)) if world.truth.contains_key(&read.group) => {
                judge_page(world, read, verdict);
            }
            Record::Group(GroupRecord::ReadRefused {
                user,
                group,
                min_seq,
                reason,
                t,
            }) if *min_seq > 0 => verdict.add(Wrong::StaleReads, || {
                format!(
                    "user {user} holds {min_seq} of group {group}, and a read at {t:?} us was \
                     refused: {reason}"
                )
            }),
            _ => {}
        }
    }
}

fn shown(read: &GroupRead) -> String {
    let mut read = read.clone();
    // Their number tells enough.
    let count = read.events.len();
    read.events.truncate(3);
    format!("a page with {count} events: {read:?}")
}

fn judge_page(world: &GroupWorld<'_>, read: &GroupRead, verdict: &mut Verdict) {
    let (group, user) = (read.group, read.user);
    if read.head < read.min_seq {
        verdict.add(Wrong::StaleReads, || {
            format!("it reflects less than its reader holds: {}", shown(read))
        });
    }
    if read.head > world.head(group).0 {
        verdict.add(Wrong::Lost, || {
            format!("it reflects more than there is: {}", shown(read))
        });
    }
    let seqs = seqs(world, &read.events);
    if seqs.iter().any(|seq| !world.may_see(group, user, *seq)) {
        verdict.add(Wrong::Foreign, || {
            format!("it has what its reader may not see: {}", shown(read))
        });
    }
    if let Err(why) = stretch(world, read, seqs) {
        verdict.add(Wrong::Gaps, || format!("{why}: {}", shown(read)));
    }
}

/// Whether the page is the stretch that was asked for, from the right end.
fn stretch(
    world: &GroupWorld<'_>,
    read: &GroupRead,
    mut seqs: Vec<u64>,
) -> Result<(), &'static str> {
    let mut last = read.head;
    if read.before > 0 {
        last = last.min(read.before - 1);
    }
    let first = read.after + 1;
    if first > last {
        let is_empty = seqs.is_empty() && !read.more && read.covers == (0, 0);
        return is_empty
            .then_some(())
            .ok_or("it is of nothing and not empty");
    }
    let (from, to) = read.covers;
    let (begins, ends) = match read.newest_first {
        true => (to == last, from == first),
        false => (from == first, to == last),
    };
    if !begins {
        return Err("it does not begin where it should");
    }
    if read.more == ends {
        return Err("it is wrong about whether there is more");
    }
    if from > to || first > from || to > last {
        return Err("it covers what was not asked for");
    }
    if read.newest_first {
        seqs.reverse();
    }
    let is_ordered = seqs.is_sorted_by(|one, other| one < other);
    if !is_ordered || seqs.iter().any(|seq| !(from..=to).contains(seq)) {
        return Err("it is in disorder, or has what it does not cover");
    }
    let sees = |seq: &u64| world.sees(read.group, read.user, *seq);
    let is_complete = (from..=to)
        .filter(sees)
        .all(|seq| seqs.binary_search(&seq).is_ok());
    is_complete.then_some(()).ok_or("it leaves something out")
}
