//! Which inbox version the device is at, and what leads to the next one.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{GRACE, RETRY_WAIT, Resume};
use crate::backoff::Backoff;

/// Updates that wait for events, or for updates before them. Above it the last ones are let go, and
/// what changed is read.
const UPDATES_MAX: usize = 256;

/// `(previous_version, version)` of an update, and the events that the device lacks for it.
type Updates = BTreeMap<(u64, u64), Vec<(String, u64)>>;

#[derive(Debug)]
pub(super) struct Versions {
    /// The device holds everything up to here.
    at: u64,
    /// All rows are being listed, from version 0; the device is at none yet.
    listing: bool,
    /// The highest version that was heard of.
    heard: u64,
    updates: Updates,
    /// What changed is to be read even if no version says so.
    forced: bool,
    /// A read is under way, or goes on from this version.
    reading: Reading,
    /// When to read what changed.
    resume_at: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    No,
    Asked,
    /// The last page said that there is more after this version.
    More(u64),
}

impl Versions {
    /// At a version; `None` = all rows are to be listed first.
    pub(super) fn new(version: Option<u64>) -> Self {
        let at = version.unwrap_or(0);
        Self {
            at,
            listing: version.is_none(),
            heard: at,
            updates: Updates::new(),
            forced: false,
            reading: Reading::No,
            resume_at: None,
            backoff: Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1),
        }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn is_complete(&self) -> bool {
        self.at >= self.heard && !self.forced && self.reading == Reading::No
    }

    /// A new session says the version. What was pushed in between is lost.
    pub(super) fn connected(&mut self, version: u64, now: Instant) {
        self.heard = self.heard.max(version);
        self.backoff.reset();
        if self.heard > self.explained() || self.resume_at.is_some() {
            self.resume_at = Some(now);
        }
    }

    /// What changed is to be read now.
    pub(super) fn force(&mut self, now: Instant) {
        self.forced = true;
        self.resume_at.get_or_insert(now);
    }

    pub(super) fn heard(&mut self, version: u64, now: Instant) {
        self.heard = self.heard.max(version);
        self.look(now);
    }

    /// An update leads from one version to another, when `needed` is held.
    pub(super) fn update(
        &mut self,
        previous: u64,
        version: u64,
        needed: Vec<(String, u64)>,
        now: Instant,
    ) {
        self.heard = self.heard.max(version);
        if version > self.at && previous < version {
            self.updates.insert((previous, version), needed);
            if self.updates.len() > UPDATES_MAX {
                self.updates.pop_last();
            }
        }
        self.look(now);
    }

    /// A page of changes has come, up to this version.
    pub(super) fn answered(&mut self, version: u64, more: bool, now: Instant) {
        self.backoff.reset();
        self.heard = self.heard.max(version);
        if more {
            self.reading = Reading::More(version);
            self.resume_at = Some(now);
        } else {
            self.reading = Reading::No;
            self.resume_at = None;
            // Frames that were let go while the read was under way asked for another.
            if self.forced {
                self.resume_at = Some(now);
            } else if self.heard > version.max(self.explained()) {
                // The server did not get as far as it said; not at once again.
                self.resume_at = Some(now + self.backoff.next(Some(GRACE)));
            }
        }
    }

    /// The first listing is complete.
    pub(super) fn listed(&mut self, version: u64, now: Instant) {
        self.listing = false;
        self.at = self.at.max(version);
        self.updates.retain(|(_, to), _| *to > version);
        self.look(now);
    }

    pub(super) fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.reading = Reading::No;
        self.forced = true;
        self.resume_at = Some(now + self.backoff.next(retry_after));
    }

    pub(super) fn take_resume(&mut self, now: Instant) -> Option<Resume> {
        if self.reading == Reading::Asked || self.resume_at.is_none_or(|at| at > now) {
            return None;
        }
        let after_version = match self.reading {
            // Before the page is held, the next one would only add to what is missing.
            Reading::More(version) if self.is_held_up(version) => return None,
            Reading::More(version) => version,
            _ => self.at,
        };
        self.reading = Reading::Asked;
        self.forced = false;
        self.resume_at = None;
        Some(Resume {
            after_version,
            min_version: self.heard,
        })
    }

    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.reading {
            Reading::Asked => None,
            Reading::More(version) if self.is_held_up(version) => None,
            _ => self.resume_at,
        }
    }

    /// Goes along the updates whose events are held. Gives the new version, if there is one.
    pub(super) fn settle(&mut self, holds: impl Fn(&str, u64) -> bool) -> Option<u64> {
        let before = self.at;
        loop {
            let at = self.at;
            self.updates.retain(|(_, version), _| *version > at);
            let next = self
                .updates
                .range_mut(..(at.saturating_add(1), 0))
                .find_map(|((_, version), needed)| {
                    needed.retain(|(id, seq)| !holds(id, *seq));
                    needed.is_empty().then_some(*version)
                });
            match next {
                Some(version) => self.at = version,
                None => break,
            }
        }
        if self.at >= self.heard && !self.forced && self.reading == Reading::No {
            self.resume_at = None;
        }
        (self.at > before).then_some(self.at)
    }

    /// Reads, after a moment of grace, if a version was heard of that no update leads to.
    fn look(&mut self, now: Instant) {
        if self.reading == Reading::No && self.heard > self.explained() {
            self.resume_at.get_or_insert(now + GRACE);
        }
    }

    /// The events of the page that led to this version are still being read.
    fn is_held_up(&self, version: u64) -> bool {
        version > self.at && !self.listing
    }

    /// The version that the updates lead to, once their events are held.
    fn explained(&self) -> u64 {
        let mut explained = self.at;
        for (previous, version) in self.updates.keys() {
            if *previous <= explained {
                explained = explained.max(*version);
            }
        }
        explained
    }
}
