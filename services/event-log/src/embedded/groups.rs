//! Groups of readers: who reads which partition, and how far each group has come.
//!
//! The partitions of a topic are shared evenly among the members of a group. Each has one that it
//! is meant for and, perhaps still another, one that holds it: whoever holds it but is no longer
//! meant for it is told so, and only when it has seen that (or is gone, or took too long) does the
//! other get it.

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::tail::Signal;
use crate::Topic;

/// A group that the log was told of.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) topic: Topic,
    /// Index in the file of the topic's partition 0.
    pub(super) first: u32,
    /// Per partition of the topic: everything below was dealt with.
    pub(super) positions: Box<[AtomicU64]>,
    revoke_wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    members_ever: u64,
    slots: Vec<Slot>,
}

struct Member {
    id: u64,
    wake: Arc<Notify>,
}

/// A partition of the topic.
#[derive(Default)]
struct Slot {
    meant_for: Option<u64>,
    holder: Option<Holder>,
}

struct Holder {
    member: u64,
    signal: Arc<Signal>,
    /// The reader was dropped; the member keeps the partition all the same.
    dropped: bool,
    revoked_at: Option<Instant>,
}

/// What a member finds when it looks for a partition.
pub(super) enum Assignment {
    /// It may read this one.
    Partition(u32, Arc<Signal>),
    /// None yet; look again when woken, or at this time.
    Wait(Option<Instant>),
}

impl Group {
    /// A group without members.
    pub(super) fn new(
        name: String,
        topic: Topic,
        first: u32,
        positions: Box<[AtomicU64]>,
        revoke_wait: Duration,
    ) -> Self {
        let mut state = State::default();
        state.slots.resize_with(positions.len(), Slot::default);
        Self {
            name,
            topic,
            first,
            positions,
            revoke_wait,
            state: Mutex::new(state),
        }
    }

    /// Adds a member.
    pub(super) fn join(&self) -> (u64, Arc<Notify>) {
        let mut state = self.state.lock();
        state.members_ever += 1;
        let (id, wake) = (state.members_ever, Arc::new(Notify::new()));
        let member = Member {
            id,
            wake: wake.clone(),
        };
        state.members.push(member);
        state.rebalance();
        (id, wake)
    }

    /// Removes a member.
    pub(super) fn leave(&self, member: u64) {
        let mut state = self.state.lock();
        state.members.retain(|m| m.id != member);
        state.rebalance();
    }

    /// Looks for a partition that the member is to read and has not got.
    pub(super) fn assign(&self, member: u64) -> Assignment {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut again: Option<Instant> = None;
        for (partition, slot) in (0..).zip(&mut state.slots) {
            if slot.meant_for != Some(member) {
                continue;
            }
            if let Some(holder) = &slot.holder {
                let Some(revoked_at) = holder.revoked_at else {
                    continue;
                };
                // A wait beyond the end of time has no end.
                let overdue = revoked_at.checked_add(self.revoke_wait);
                if overdue.is_none_or(|at| now < at) {
                    again = again.into_iter().chain(overdue).min();
                    continue;
                }
                let group = self.name.as_str();
                tracing::warn!(group, partition, "a reader did not give its partition back");
                holder.signal.end();
            }
            let signal = Arc::new(Signal::default());
            slot.holder = Some(Holder {
                member,
                signal: signal.clone(),
                dropped: false,
                revoked_at: None,
            });
            return Assignment::Partition(partition, signal);
        }
        Assignment::Wait(again)
    }

    /// A reader has seen that its partition was taken away.
    pub(super) fn give_back(&self, partition: u32, signal: &Arc<Signal>) {
        self.state.lock().let_go(partition, signal, true);
    }

    /// A reader was dropped.
    pub(super) fn dropped(&self, partition: u32, signal: &Arc<Signal>) {
        self.state.lock().let_go(partition, signal, false);
    }

    /// Makes all members look.
    pub(super) fn wake_all(&self) {
        for member in &self.state.lock().members {
            member.wake.notify_one();
        }
    }

    /// Notes that everything below `position` was dealt with. Answers whether that is news.
    pub(super) fn commit(&self, partition: u32, position: u64) -> bool {
        let known = self.positions.get(super::queue::index(partition));
        known.is_some_and(|known| known.fetch_max(position, Ordering::AcqRel) < position)
    }
}

impl State {
    /// Spreads the partitions evenly over the members and moves as few as that needs.
    fn rebalance(&mut self) {
        let held = |slots: &[Slot], id| slots.iter().filter(|s| s.meant_for == Some(id)).count();
        let mut shares: Vec<_> = self.members.iter().map(|m| (m.id, 0)).collect();
        shares.sort_by_key(|(id, _)| Reverse(held(&self.slots, *id)));
        // Those who have most get the shares that are one larger.
        let (members, partitions) = (shares.len(), self.slots.len());
        for (place, share) in shares.iter_mut().enumerate() {
            share.1 = partitions / members + usize::from(place < partitions % members);
        }
        for slot in &mut self.slots {
            let share = shares
                .iter_mut()
                .find(|(id, left)| slot.meant_for == Some(*id) && *left > 0);
            match share {
                Some((_, left)) => *left -= 1,
                None => slot.meant_for = None,
            }
        }
        for slot in self.slots.iter_mut().filter(|s| s.meant_for.is_none()) {
            if let Some((id, left)) = shares.iter_mut().find(|(_, left)| *left > 0) {
                *left -= 1;
                slot.meant_for = Some(*id);
            }
        }
        for slot in &mut self.slots {
            slot.revoke_if_moved();
        }
        for member in &self.members {
            member.wake.notify_one();
        }
    }

    fn let_go(&mut self, partition: u32, signal: &Arc<Signal>, seen: bool) {
        let Some(slot) = self.slots.get_mut(super::queue::index(partition)) else {
            return;
        };
        // A reader that took too long may meet its successor here.
        let Some(holder) = slot
            .holder
            .as_mut()
            .filter(|h| Arc::ptr_eq(&h.signal, signal))
        else {
            return;
        };
        if !seen && holder.revoked_at.is_none() {
            holder.dropped = true;
            return;
        }
        holder.signal.end();
        slot.holder = None;
        let next = self.members.iter().find(|m| slot.meant_for == Some(m.id));
        if let Some(next) = next {
            next.wake.notify_one();
        }
    }
}

impl Slot {
    fn revoke_if_moved(&mut self) {
        let Some(holder) = &mut self.holder else {
            return;
        };
        if self.meant_for == Some(holder.member) || holder.revoked_at.is_some() {
            return;
        }
        if holder.dropped {
            self.holder = None;
        } else {
            holder.revoked_at = Some(Instant::now());
            holder.signal.revoke();
        }
    }
}

#[cfg(test)]
mod tests;
