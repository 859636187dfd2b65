//! Conversation lists of users in groups, unread counts and marks.

use std::collections::BTreeMap;

use super::{Verdict, Wrong, world::GroupWorld};
use crate::history::{
    Mark, Micros, No, Record,
    groups::{GroupList, GroupRecord, GroupRow, What},
};

/// Judges lists and rows.
pub(super) fn judge(world: &GroupWorld<'_>, records: &[Record], verdict: &mut Verdict) {
    for record in records {
        match record {
            Record::Group(GroupRecord::Row { device, row, .. }) => {
                if let Some(seen) = world.devices.get(device) {
                    judge_row(world, seen.user, row, verdict);
                }
            }
            Record::Group(GroupRecord::List(list)) => {
                for row in &list.rows {
                    judge_row(world, list.user, row, verdict);
                }
                if list.version < list.min_version {
                    verdict.add(Wrong::StaleReads, || {
                        format!("a list that is older than what its reader holds: {list:?}")
                    });
                }
                if list.is_final {
                    for what in world.compare(list) {
                        verdict.add(Wrong::UnreadWrong, || what);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What every row must be, at any time.
fn judge_row(world: &GroupWorld<'_>, user: No, row: &GroupRow, verdict: &mut Verdict) {
    if row.group == No::MAX || world.groups.contains_key(&row.group) {
        let is_foreign = !world.may_see(row.group, user, row.last.0);
        if is_foreign && row.last.0 <= world.head(row.group).0 {
            verdict.add(Wrong::Foreign, || {
                format!("a row of user {user} ends with what is not for him: {row:?}")
            });
        }
    }
    if !world.truth.contains_key(&row.group) {
        return;
    }
    if row.unread != row.last.1.saturating_sub(row.read.1) {
        verdict.add(Wrong::UnreadWrong, || {
            format!("a row is not consistent: {row:?}")
        });
    }
    let is_place = |mark: Mark| {
        mark == Mark::default()
            || world
                .at(row.group, mark.0)
                .is_some_and(|event| event.at == mark)
    };
    if row.read > row.last || !is_place(row.read) {
        verdict.add(Wrong::MarksWrong, || {
            format!("a mark that is no place up to the end: {row:?}")
        });
    }
    if !is_place(row.last) {
        verdict.add(Wrong::Lost, || {
            format!("a row ends where the history does not go: {row:?}")
        });
    }
}

impl GroupWorld<'_> {
    /// What is wrong with a list after everything has come to rest: a sentence each.
    pub(crate) fn compare(&self, list: &GroupList) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut rows: BTreeMap<No, Vec<&GroupRow>> = BTreeMap::new();
        for row in &list.rows {
            rows.entry(row.group).or_default().push(row);
        }
        for group in self.truth.keys() {
            let of_it = rows.remove(group).unwrap_or_default();
            let end = self.end(*group, list.user);
            match (&of_it[..], end) {
                ([], None) => {}
                ([row], Some(end)) => wrong.extend(self.compare_row(list, row, end)),
                _ => wrong.push(format!(
                    "group {group} ends at {end:?} for user {}, and has the rows {of_it:?}",
                    list.user
                )),
            }
        }
        if !rows.is_empty() && self.truth.len() == self.groups.len() {
            wrong.push(format!("rows of groups of others: {rows:?}"));
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

    fn compare_row(&self, list: &GroupList, row: &GroupRow, end: Mark) -> Option<String> {
        let (group, user) = (row.group, list.user);
        let (from, to) = self.last_window(group, user)?;
        let joined = self.at(group, from)?.at;
        let (mut own, mut preview) = (joined, (from, true));
        let range = (from..=end.0).filter_map(|seq| self.at(group, seq));
        for event in range.filter(|event| matches!(event.what, What::Message(..))) {
            preview = (event.at.0, false);
            if event.sender == Some(user) {
                own = event.at;
            }
        }
        let is_right = row.last == end
            && row.left == to.is_some()
            && row.preview == Some(preview)
            && self.allows((group, user), own, row.read, list.t)
            && row.unread == end.1.saturating_sub(row.read.1);
        (!is_right).then(|| {
            let said = self.said.get(&(group, user));
            format!(
                "group {group} of user {user}: in it from {joined:?} to {to:?}, it ends at {end:?} with \
                 {preview:?}; own {own:?}, said {:?}; its row is {row:?}",
                said.and_then(|said| said.iter().max_by_key(|said| said.up_to)),
            )
        })
    }

    /// Whether a user's mark can be this in a list that was read at `t`; he has read up to `own` at least.
    fn allows(&self, key: (No, No), own: Mark, read: Mark, t: (Micros, Micros)) -> bool {
        let said = self.said.get(&key).map_or(&[][..], Vec::as_slice);
        let certain = said
            .iter()
            .filter(|said| said.certain && said.t.1 <= t.0)
            .map(|said| said.up_to)
            .fold(own, Mark::max);
        let is_possible = said.iter().any(|said| said.up_to == read && said.t.0 < t.1);
        read == certain || (read > certain && is_possible)
    }
}
