//! The fan-out of one partition, without I/O: records in; pushes, rows, loads and changes out.
//!
//! A record is for the members of a version. Those are known from the record before it, or loaded: then
//! its group waits, with its records, and not its partition. The position passes a record when its rows
//! are durable and its change is noted; a push is tried once. The driver in `partition.rs` does what
//! this asks for; the property test drives it through crashes, replays and late answers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use delivery::Broadcast;
use event_log::{NewRecord, Record};
use runtime::{ids::GroupId, trace};
use tokio::time::Instant;

use super::{
    codec::{self, Fan, RecordError},
    limits::{
        BEHIND_PAUSE, BEHIND_SEEMS_MAX, FORGET_AFTER_MS, FORGET_CHANGES_MAX, HELD_RECORDS_MAX,
        LOADS_MAX, PARKED_BYTES, PARKED_BYTES_MAX, SEQUENCED_MAX,
    },
    members::{Cache, Changed, Knowledge, Members, knowledge},
    pushes::{Push, Pushes},
    rounds::{Rounds, Written},
};
use crate::model::{Roster, Sequenced};

/// A record that this program is too old for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewerRecord {
    pub(super) offset: u64,
    pub(super) version: u32,
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// The records that waited go on.
    Used,
    /// The store does not know what the log says of the group; it is asked again later.
    Behind,
    /// It still seems not to, and the group goes on with what it knows.
    UsedInDoubt,
}

/// Records that wait for the members of their group.
#[derive(Default)]
struct Parked {
    queue: VecDeque<(u64, Fan)>,
    /// Since when the store seems to be behind.
    behind_since: Option<Instant>,
}

/// A change whose stints are to be forgotten.
struct Forget {
    /// Not before the position has passed a record of this time: then nothing that is late by less is
    /// still to be read, however far behind the reader is.
    time_unix_ms: i64,
    group: GroupId,
    version: u64,
}

/// The state of one partition.
pub(super) struct Core {
    next_offset: u64,
    /// Records whose outputs are not durable, and how many outputs that are.
    waiting: BTreeMap<u64, u8>,
    cache: Cache,
    /// Members above which a group becomes deferred.
    deferred_above: usize,
    /// Groups that have, and are not noted as that yet: some of those with rows under way.
    deferring: HashSet<GroupId>,
    /// Whose rows are durable.
    to_defer: VecDeque<Written>,
    /// What the store is noting.
    noting_deferred: Vec<Written>,
    parked: HashMap<GroupId, Parked>,
    parked_bytes: usize,
    to_load: VecDeque<GroupId>,
    /// Groups to load again, by when.
    to_load_again: VecDeque<(Instant, GroupId)>,
    loading: usize,
    /// Groups whose records wait for room, and for nothing else.
    to_go_on: VecDeque<GroupId>,
    pushes: Pushes,
    rounds: Rounds,
    /// Changes that nobody has been told of.
    to_tell: Vec<Sequenced>,
    to_note: VecDeque<(u64, Sequenced)>,
    noting: Vec<u64>,
    to_forget: VecDeque<Forget>,
    /// By the offset that the position must have passed.
    forgettable: VecDeque<(u64, Forget)>,
    malformed: u64,
}

impl Core {
    /// A partition whose outputs below `position` are durable, with room for so many members; groups of
    /// more than `deferred_above` become deferred.
    pub(super) fn new(position: u64, members_cached_max: usize, deferred_above: usize) -> Self {
        Self {
            next_offset: position,
            waiting: BTreeMap::new(),
            cache: Cache::new(members_cached_max),
            deferred_above,
            deferring: HashSet::new(),
            to_defer: VecDeque::new(),
            noting_deferred: Vec::new(),
            parked: HashMap::new(),
            parked_bytes: 0,
            to_load: VecDeque::new(),
            to_load_again: VecDeque::new(),
            loading: 0,
            to_go_on: VecDeque::new(),
            pushes: Pushes::default(),
            rounds: Rounds::default(),
            to_tell: Vec::new(),
            to_note: VecDeque::new(),
            noting: Vec::new(),
            to_forget: VecDeque::new(),
            forgettable: VecDeque::new(),
            malformed: 0,
        }
    }

    /// Whether more records may come: what waits is bounded (I10).
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < HELD_RECORDS_MAX
            && self.parked_bytes < PARKED_BYTES_MAX
            && self.has_room_for_outputs()
    }

    fn has_room_for_outputs(&self) -> bool {
        self.pushes.has_room() && self.rounds.has_room()
    }

    /// Records that could not be decoded.
    pub(super) const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Events that shared the inbox records of others.
    pub(super) const fn coalesced(&self) -> u64 {
        self.rounds.coalesced()
    }

    /// Takes the next record. After an error the partition must stop.
    pub(super) fn ingest(&mut self, record: &Record, now: Instant) -> Result<(), NewerRecord> {
        let offset = record.offset;
        if offset < self.next_offset {
            // Below the position: its outputs are durable.
            return Ok(());
        }
        let decoded = codec::decode(&record.payload);
        if let Err(RecordError::Newer(version)) = decoded {
            return Err(NewerRecord { offset, version });
        }
        self.next_offset = offset + 1;
        let Ok(mut fan) = decoded else {
            self.malformed += 1;
            return Ok(());
        };
        let context = trace::of_headers(&record.headers);
        fan.trace = context.map(|context| Bytes::copy_from_slice(&context));
        self.waiting.insert(offset, 1);
        self.ripen(offset, record.time_unix_ms);
        if fan.change().is_some() {
            self.sequenced(offset, &fan, record.time_unix_ms);
        }
        let group = fan.group;
        if let Some(parked) = self.parked.get_mut(&group) {
            self.parked_bytes += bytes_of(&fan);
            parked.queue.push_back((offset, fan));
        } else if let Some(before) = self.members_before(&fan) {
            self.apply(offset, fan, before, now);
        } else {
            self.parked_bytes += bytes_of(&fan);
            let queue = VecDeque::from([(offset, fan)]);
            let parked = Parked {
                queue,
                behind_since: None,
            };
            self.parked.insert(group, parked);
            self.to_load.push_back(group);
        }
        Ok(())
    }

    /// The log has carried out a change.
    fn sequenced(&mut self, offset: u64, fan: &Fan, time_unix_ms: i64) {
        let sequenced = Sequenced {
            group: fan.group,
            version: fan.version,
            seq: fan.event.as_ref().map_or(0, |event| event.place.seq),
        };
        self.to_tell.push(sequenced);
        self.to_note.push_back((offset, sequenced));
        self.waiting
            .entry(offset)
            .and_modify(|outputs| *outputs += 1);
        if self.to_forget.len() >= FORGET_CHANGES_MAX {
            self.to_forget.pop_front();
        }
        self.to_forget.push_back(Forget {
            time_unix_ms: time_unix_ms.saturating_add(FORGET_AFTER_MS),
            group: fan.group,
            version: fan.version,
        });
    }

    /// The log has come to this time.
    fn ripen(&mut self, offset: u64, time_unix_ms: i64) {
        let is_ripe = |forget: &mut Forget| forget.time_unix_ms <= time_unix_ms;
        while let Some(forget) = self.to_forget.pop_front_if(is_ripe) {
            if self.forgettable.len() >= FORGET_CHANGES_MAX {
                self.forgettable.pop_front();
            }
            self.forgettable.push_back((offset, forget));
        }
    }

    /// The members that a record begins with, if the memory has just these: of a change, those before it.
    fn members_before(&mut self, fan: &Fan) -> Option<Members> {
        let before = self.cache.get(fan.group)?;
        (before.version == version_before(fan)).then_some(before)
    }

    fn apply(&mut self, offset: u64, fan: Fan, mut before: Members, now: Instant) {
        // It may have been loaded since then.
        before.deferred |= self.deferring.contains(&fan.group);
        let (mut after, changed) = match fan.change() {
            Some(change) => before.after(change),
            None => (before.clone(), Changed::default()),
        };
        let is_huge = after.users.len() > self.deferred_above;
        if is_huge && fan.event.is_some() && !after.deferred && after.has_all() {
            // All of them get a row that says so, and from the next event on only those it is about.
            after.deferred = true;
            self.deferring.insert(fan.group);
        }
        let push = Push {
            members: after.users.clone(),
            removed: changed.removed.clone(),
            frame: fan.frame,
            except_session_id: fan.except_session_id,
        };
        self.pushes.add(fan.group, push);
        self.cache.put(fan.group, after.clone());
        match &fan.event {
            Some(event) => {
                let (at, members) = ((fan.group, offset), (&before, after));
                self.rounds
                    .add(at, event, members, &changed, fan.trace, now);
            }
            None => self.done(offset),
        }
    }

    /// Groups to load; each is answered by [`Core::loaded`].
    pub(super) fn take_loads(&mut self, now: Instant) -> Vec<GroupId> {
        while self.to_load_again.front().is_some_and(|(at, _)| *at <= now) {
            let group = self.to_load_again.pop_front().map(|(_, group)| group);
            self.to_load.extend(group);
        }
        if !self.has_room_for_outputs() {
            // Each group that goes on may bring all of its members.
            return Vec::new();
        }
        let count = LOADS_MAX
            .saturating_sub(self.loading)
            .min(self.to_load.len());
        self.loading += count;
        self.to_load.drain(..count).collect()
    }

    /// The store has these stints of a group.
    pub(super) fn loaded(&mut self, group: GroupId, roster: &Roster, now: Instant) -> Loaded {
        self.loading = self.loading.saturating_sub(1);
        let Some(parked) = self.parked.get_mut(&group) else {
            return Loaded::Used;
        };
        let Some((_, first)) = parked.queue.front() else {
            return Loaded::Used;
        };
        // What was fanned out at a later version was not behind then.
        let known = self.cache.get(group).map(|members| members.version);
        let mut loaded = Loaded::Used;
        if known < Some(first.version) {
            let knowledge = knowledge(first, &roster.stints);
            let since = *parked.behind_since.get_or_insert(now);
            let seems = now.duration_since(since) < BEHIND_SEEMS_MAX;
            if knowledge == Knowledge::Behind || knowledge == Knowledge::Doubtful && seems {
                self.to_load_again.push_back((now + BEHIND_PAUSE, group));
                return Loaded::Behind;
            }
            if knowledge == Knowledge::Doubtful {
                loaded = Loaded::UsedInDoubt;
            }
        }
        parked.behind_since = None;
        // For the first record only: the others may have come after the answer was made.
        let before = Members::of(version_before(first), roster);
        self.cache.put(group, before);
        self.drain(group, now);
        loaded
    }

    /// Goes on with what has waited for room.
    pub(super) fn go_on(&mut self, now: Instant) {
        while self.has_room_for_outputs() {
            let Some(group) = self.to_go_on.pop_front() else {
                return;
            };
            self.drain(group, now);
        }
    }

    /// Takes the records of a group that wait, as far as it goes.
    fn drain(&mut self, group: GroupId, now: Instant) {
        loop {
            let has_room = self.has_room_for_outputs();
            let Some(parked) = self.parked.get_mut(&group) else {
                return;
            };
            if !has_room {
                self.to_go_on.push_back(group);
                return;
            }
            let Some((offset, fan)) = parked.queue.pop_front() else {
                self.parked.remove(&group);
                return;
            };
            match self.members_before(&fan) {
                Some(before) => {
                    self.parked_bytes -= bytes_of(&fan);
                    self.apply(offset, fan, before, now);
                }
                None => {
                    if let Some(parked) = self.parked.get_mut(&group) {
                        parked.queue.push_front((offset, fan));
                    }
                    self.to_load.push_back(group);
                    return;
                }
            }
        }
    }

    /// What is to be pushed now: see [`Pushes::take`].
    pub(super) fn take_pushes(&mut self, chunks: usize) -> Vec<Broadcast> {
        self.pushes.take(chunks)
    }

    /// Whether chunks of large groups wait.
    pub(super) fn has_chunks(&self) -> bool {
        self.pushes.has_turns()
    }

    /// Changes that the log has carried out, for those in this process who wait for them.
    pub(super) fn take_told(&mut self) -> Vec<Sequenced> {
        std::mem::take(&mut self.to_tell)
    }

    /// Changes for the store to note; the next ones only after [`Core::noted`].
    pub(super) fn cut_sequenced(&mut self) -> Vec<Sequenced> {
        if !self.noting.is_empty() {
            return Vec::new();
        }
        let count = SEQUENCED_MAX.min(self.to_note.len());
        let (offsets, changes) = self.to_note.drain(..count).unzip();
        self.noting = offsets;
        changes
    }

    /// The store has noted the changes.
    pub(super) fn noted(&mut self) {
        for offset in std::mem::take(&mut self.noting) {
            self.done(offset);
        }
    }

    /// Records for the topic `inbox`; the next ones only after [`Core::appended`].
    pub(super) fn cut_inbox(&mut self, now: Instant) -> Option<Vec<NewRecord>> {
        self.rounds.turn(now);
        self.rounds.may_cut().then(|| self.rounds.cut())
    }

    /// The log has the inbox records.
    pub(super) fn appended(&mut self) {
        for round in self.rounds.appended() {
            if round.deferred_seq > 0 {
                // A reader that knows it as deferred writes no rows for all: not before they are there.
                self.to_defer.push_back(round);
                continue;
            }
            for offset in round.offsets {
                self.done(offset);
            }
        }
    }

    /// Groups for the store to note as deferred, from which event on; the next ones only after
    /// [`Core::noted_deferred`].
    pub(super) fn cut_deferred(&mut self) -> Vec<(GroupId, u64)> {
        if !self.noting_deferred.is_empty() {
            return Vec::new();
        }
        let count = SEQUENCED_MAX.min(self.to_defer.len());
        self.noting_deferred = self.to_defer.drain(..count).collect();
        let rounds = self.noting_deferred.iter();
        rounds
            .map(|round| (round.group, round.deferred_seq))
            .collect()
    }

    /// The store has noted the groups.
    pub(super) fn noted_deferred(&mut self) {
        for round in std::mem::take(&mut self.noting_deferred) {
            self.deferring.remove(&round.group);
            for offset in round.offsets {
                self.done(offset);
            }
        }
    }

    /// When there is something to do that nothing else tells.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let load = self.to_load_again.front().map(|(at, _)| *at);
        match (self.rounds.next_due(), load) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// One of the outputs of a record is durable.
    fn done(&mut self, offset: u64) {
        if let Some(outputs) = self.waiting.get_mut(&offset) {
            *outputs -= 1;
            if *outputs == 0 {
                self.waiting.remove(&offset);
            }
        }
    }

    /// The position: the outputs of everything below are durable (I6).
    pub(super) fn low_water(&self) -> u64 {
        let first = self.waiting.first_key_value();
        first.map_or(self.next_offset, |(offset, _)| *offset)
    }

    /// Groups, and versions before which nothing comes any more, now that the store has the position.
    pub(super) fn take_forgettable(&mut self, position: u64) -> Vec<(GroupId, u64)> {
        let mut versions: HashMap<GroupId, u64> = HashMap::new();
        let is_passed = |(offset, _): &mut (u64, Forget)| *offset < position;
        while let Some((_, forget)) = self.forgettable.pop_front_if(is_passed) {
            let version = versions.entry(forget.group).or_default();
            *version = (*version).max(forget.version);
        }
        versions.into_iter().collect()
    }

    #[cfg(test)]
    pub(super) const fn next_offset(&self) -> u64 {
        self.next_offset
    }

    #[cfg(test)]
    pub(super) fn cached_members(&self) -> usize {
        self.cache.weight()
    }
}

const fn bytes_of(fan: &Fan) -> usize {
    PARKED_BYTES + fan.frame.len()
}

/// The version whose members a record begins with.
fn version_before(fan: &Fan) -> u64 {
    fan.version - u64::from(fan.change().is_some())
}
