//! The registry: which user has sessions on which edges, and who was told so. In memory only.
//!
//! Pure: it is told the time, and says what is to be noted and told; so a test can drive it through
//! everything that may happen.
//!
//! **Invariant**: a watch that has an unexpired lease of a user is told every later change of that
//! user's edges, or is ended. A lease here outlives what the asker was promised.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use runtime::ids::UserId;
use tokio::sync::Notify;

use crate::{config::Config, error::RegistryError};

mod edges;
mod entry;
mod watches;

use edges::Edges;
pub(crate) use edges::{Announcement, StreamKey};
use entry::{Entry, Held, Lease};
use watches::Watches;

/// A moment, for waiting and for showing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) unix_ms: i64,
}

/// A user and the addresses of his edges; none = no session, or not leased any more.
pub(crate) type UserRoute = (UserId, Vec<Arc<str>>);

/// Users that came, or ended a session, and when: to be noted as seen.
pub(crate) type Seen = Vec<(UserId, i64)>;

/// Who has sessions where.
pub(crate) struct Registry {
    config: Config,
    began: Instant,
    users: HashMap<UserId, Entry>,
    edges: Edges,
    watches: Watches,
}

impl Registry {
    pub(crate) fn new(config: Config, began: Instant) -> Self {
        Self {
            config,
            began,
            users: HashMap::new(),
            edges: Edges::default(),
            watches: Watches::default(),
        }
    }

    /// An edge has opened a stream; an older stream of it counts no longer.
    pub(crate) fn open_stream(
        &mut self,
        edge: &str,
        epoch: u64,
        now: Instant,
    ) -> Result<StreamKey, RegistryError> {
        let edges_max = self.config.edges_max;
        self.edges.open_stream(edge, epoch, edges_max, now)
    }

    /// Applies one request of an edge's stream. What came or went is added to `seen`, also when the
    /// request is refused half-way.
    pub(crate) fn announce(
        &mut self,
        key: StreamKey,
        announcement: Announcement,
        now: Now,
        seen: &mut Seen,
    ) -> Result<(), RegistryError> {
        let Announcement {
            snapshot,
            continues,
            opened,
            closed,
        } = announcement;
        self.edges.begin_request(key, snapshot, now.instant)?;
        for (user, session_id) in opened {
            if self.edges.sessions() >= self.config.sessions_max {
                return Err(RegistryError::Full);
            }
            let added = self.edges.add(key.edge, session_id, user);
            if let Some(before) = added.replaced {
                self.remove(before, key.edge, session_id, now, now.unix_ms, seen);
            }
            if added.is_new {
                self.add(user, key.edge, session_id, now, seen);
            }
        }
        for (user, session_id) in closed {
            if self.edges.remove(key.edge, session_id, user) {
                self.remove(user, key.edge, session_id, now, now.unix_ms, seen);
            }
        }
        if snapshot && !continues {
            for (session_id, user) in self.edges.end_snapshot(key.edge) {
                self.remove(user, key.edge, session_id, now, now.unix_ms, seen);
            }
        }
        Ok(())
    }

    /// An edge's stream has ended; its sessions stay for the grace.
    pub(crate) fn close_stream(&mut self, key: StreamKey, now: Now) {
        self.edges.close_stream(key, now);
    }

    /// Notices edges that are silent; forgets those whose grace is over, and leases. To be called about every second.
    pub(crate) fn expire(&mut self, now: Now) -> Seen {
        let mut seen = Seen::new();
        self.edges.close_silent(now, self.config.edge_silent);
        for gone in self.edges.expire(now.instant, self.config.edge_grace) {
            for (session_id, user) in gone.sessions {
                self.remove(
                    user,
                    gone.edge,
                    session_id,
                    now,
                    gone.ended_unix_ms,
                    &mut seen,
                );
            }
        }
        let now_s = self.seconds(now.instant);
        for (watch, user) in self.watches.expired(now_s) {
            if let Some(entry) = self.users.get_mut(&user) {
                entry
                    .leases
                    .retain(|l| l.watch != watch || l.until_s >= now_s);
            }
        }
        seen
    }

    /// The routes of those of `users` that have sessions, and how long they may be used.
    pub(crate) fn routes(
        &mut self,
        subscriber: &str,
        users: &[UserId],
        now: Instant,
    ) -> (Vec<UserRoute>, Duration) {
        let now_s = self.seconds(now);
        let watch = self.watches.of(subscriber);
        let mut leased = watch.is_some();
        let mut routes = Vec::with_capacity(users.len());
        for user in users {
            let Some(entry) = self.users.get_mut(user) else {
                continue;
            };
            routes.push((*user, self.edges.names(entry.edges())));
            if let Some(watch) = watch
                && leased
            {
                leased = lease(&mut self.watches, &self.config, watch, *user, entry, now_s);
            }
        }
        let for_how_long = if leased {
            self.config.lease
        } else {
            Duration::ZERO
        };
        (routes, for_how_long)
    }

    /// From now on changes of what this subscriber leases are told; an older watch of it ends.
    pub(crate) fn watch(&mut self, subscriber: &str) -> Result<(u32, Arc<Notify>), RegistryError> {
        self.watches.begin(subscriber, self.config.watchers_max)
    }

    /// The watch is over.
    pub(crate) fn unwatch(&mut self, watch: u32) {
        self.watches.end(watch);
    }

    /// What is to be told to a watch, at most `max` changes; none if nothing changed.
    pub(crate) fn changes(
        &mut self,
        watch: u32,
        max: usize,
        now: Instant,
    ) -> Result<Vec<UserRoute>, RegistryError> {
        let now_s = self.seconds(now);
        let users = self.watches.take_changes(watch, max)?;
        let route = |user: UserId| {
            // Only who still has a lease will hear of the next change, so only he may go on using
            // what he is told now.
            let entry = self.users.get_mut(&user);
            let leased = entry.and_then(|entry| {
                let lease = entry.leases.iter_mut().find(|lease| lease.watch == watch)?;
                lease.telling = false;
                (lease.until_s >= now_s).then_some(&*entry)
            });
            (
                user,
                leased.map_or_else(Vec::new, |entry| self.edges.names(entry.edges())),
            )
        };
        Ok(users.into_iter().map(route).collect())
    }

    /// Whether all edges had the time to announce themselves since the start.
    pub(crate) fn is_warm(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= self.config.warm_up
    }

    /// Whether a user who is not here has no session for certain: also no edge that is known may hold
    /// sessions which it has not told.
    pub(crate) fn is_complete(&self, now: Instant) -> bool {
        self.is_warm(now) && self.edges.are_in_step()
    }

    pub(crate) fn is_online(&self, user: UserId) -> bool {
        self.users.contains_key(&user)
    }

    /// Everybody who has a session.
    pub(crate) fn online(&self) -> Vec<UserId> {
        self.users.keys().copied().collect()
    }

    fn seconds(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn add(&mut self, user: UserId, edge: u32, session_id: u64, now: Now, seen: &mut Seen) {
        let now_s = self.seconds(now.instant);
        let entry = self.users.entry(user).or_insert_with(|| {
            // Also when he comes, so that who is there when everything dies was seen.
            seen.push((user, now.unix_ms));
            Entry::default()
        });
        if entry.add(Held { edge, session_id }) {
            tell(&mut self.watches, &self.config, user, entry, now_s);
        }
    }

    fn remove(
        &mut self,
        user: UserId,
        edge: u32,
        session_id: u64,
        now: Now,
        seen_unix_ms: i64,
        seen: &mut Seen,
    ) {
        let now_s = self.seconds(now.instant);
        let Some(entry) = self.users.get_mut(&user) else {
            return;
        };
        if entry.remove(Held { edge, session_id }) {
            tell(&mut self.watches, &self.config, user, entry, now_s);
        }
        // Not only the last session to go: one that is in its grace may go after it, and earlier.
        seen.push((user, seen_unix_ms));
        if entry.sessions().is_empty() {
            self.users.remove(&user);
        }
    }
}

/// Tells all who have a lease, once for all changes until they ask what changed.
fn tell(watches: &mut Watches, config: &Config, user: UserId, entry: &mut Entry, now_s: u32) {
    entry.leases.retain_mut(|lease| {
        if lease.until_s < now_s || !watches.is_on(lease.watch) {
            return false;
        }
        if !lease.telling {
            lease.telling = true;
            watches.tell(lease.watch, user, config.changes_per_watcher_max);
        }
        true
    });
}

/// Gives a lease; answers false if the asker has as many as he may.
fn lease(
    watches: &mut Watches,
    config: &Config,
    watch: u32,
    user: UserId,
    entry: &mut Entry,
    now_s: u32,
) -> bool {
    // Kept for twice as long as promised, so that it is renewed once in that time, however often it
    // is asked for; and a second more, since these seconds are whole ones.
    let promised_s = u32::try_from(config.lease.as_secs()).unwrap_or(u32::MAX / 4) + 1;
    let until_s = now_s.saturating_add(promised_s.saturating_mul(2));
    match entry.leases.iter_mut().find(|lease| lease.watch == watch) {
        Some(lease) if lease.until_s >= now_s.saturating_add(promised_s) => return true,
        Some(lease) => {
            if !watches.note_lease(watch, user, until_s, config.leases_per_watcher_max) {
                return false;
            }
            lease.until_s = until_s;
        }
        None => {
            if !watches.note_lease(watch, user, until_s, config.leases_per_watcher_max) {
                return false;
            }
            // Those of watches that ended; the others are bounded by the watches.
            entry
                .leases
                .retain(|lease| lease.until_s >= now_s && watches.is_on(lease.watch));
            entry.leases.push(Lease {
                watch,
                until_s,
                telling: false,
            });
        }
    }
    true
}

#[cfg(test)]
mod tests;
