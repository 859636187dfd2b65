//! Who watches, what each was promised, and what each is still to be told.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use runtime::ids::UserId;
use tokio::sync::Notify;

use crate::error::RegistryError;

/// All watches.
#[derive(Default)]
pub(super) struct Watches {
    by_number: HashMap<u32, Watch>,
    by_subscriber: HashMap<Box<str>, u32>,
    next_number: u32,
}

struct Watch {
    subscriber: Box<str>,
    wake: Arc<Notify>,
    /// Users whose routes changed. What they are now is looked up when it is told.
    changed: VecDeque<UserId>,
    /// The leases by their ends, about; a renewed one is in here twice until the first end.
    leases: VecDeque<(u32, UserId)>,
}

impl Watches {
    pub(super) fn begin(
        &mut self,
        subscriber: &str,
        watchers_max: usize,
    ) -> Result<(u32, Arc<Notify>), RegistryError> {
        if let Some(before) = self.of(subscriber) {
            self.end(before);
        }
        if self.by_number.len() >= watchers_max {
            return Err(RegistryError::Full);
        }
        // Never given twice: a lease of an ended watch is nobody's.
        let number = self.next_number;
        self.next_number = number.checked_add(1).ok_or(RegistryError::Full)?;
        let wake = Arc::new(Notify::new());
        self.by_subscriber.insert(subscriber.into(), number);
        self.by_number.insert(
            number,
            Watch {
                subscriber: subscriber.into(),
                wake: wake.clone(),
                changed: VecDeque::new(),
                leases: VecDeque::new(),
            },
        );
        Ok((number, wake))
    }

    pub(super) fn end(&mut self, number: u32) {
        if let Some(watch) = self.by_number.remove(&number) {
            self.by_subscriber.remove(&watch.subscriber);
            // Its stream finds that it has ended.
            watch.wake.notify_one();
        }
    }

    pub(super) fn of(&self, subscriber: &str) -> Option<u32> {
        self.by_subscriber.get(subscriber).copied()
    }

    pub(super) fn is_on(&self, number: u32) -> bool {
        self.by_number.contains_key(&number)
    }

    /// Answers false if there are as many as may be.
    pub(super) fn note_lease(
        &mut self,
        number: u32,
        user: UserId,
        until_s: u32,
        max: usize,
    ) -> bool {
        match self.by_number.get_mut(&number) {
            Some(watch) if watch.leases.len() < max => {
                watch.leases.push_back((until_s, user));
                true
            }
            _ => false,
        }
    }

    /// Queues a change; ends the watch if it does not read.
    pub(super) fn tell(&mut self, number: u32, user: UserId, max: usize) {
        let Some(watch) = self.by_number.get_mut(&number) else {
            return;
        };
        if watch.changed.len() >= max {
            tracing::warn!(subscriber = %watch.subscriber, "watcher of routes is too slow");
            self.end(number);
            return;
        }
        watch.changed.push_back(user);
        watch.wake.notify_one();
    }

    pub(super) fn take_changes(
        &mut self,
        number: u32,
        max: usize,
    ) -> Result<Vec<UserId>, RegistryError> {
        let watch = self
            .by_number
            .get_mut(&number)
            .ok_or(RegistryError::WatchEnded)?;
        let n = watch.changed.len().min(max);
        let changes = watch.changed.drain(..n).collect();
        if watch.changed.is_empty() {
            // Gives back what a burst took.
            watch.changed.shrink_to(max);
        }
        Ok(changes)
    }

    #[cfg(test)]
    pub(super) fn untold(&self, number: u32) -> Vec<UserId> {
        let watch = self.by_number.get(&number);
        watch.map_or_else(Vec::new, |watch| watch.changed.iter().copied().collect())
    }

    #[cfg(test)]
    pub(super) fn leases(&self, number: u32) -> usize {
        self.by_number
            .get(&number)
            .map_or(0, |watch| watch.leases.len())
    }

    /// Takes out the leases that may have ended.
    pub(super) fn expired(&mut self, now_s: u32) -> Vec<(u32, UserId)> {
        let mut expired = Vec::new();
        for (number, watch) in &mut self.by_number {
            while let Some((_, user)) = watch.leases.pop_front_if(|(until_s, _)| *until_s < now_s) {
                expired.push((*number, user));
            }
        }
        expired
    }
}
