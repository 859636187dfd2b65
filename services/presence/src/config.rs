//! The bounds of the service, which are its whole configuration.

use std::time::Duration;

/// What a [`crate::Presence`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long an edge without a stream is remembered: an edge that reconnects within this keeps
    /// its sessions, and one that died is routed to for no longer.
    pub edge_grace: Duration,
    /// How long an asker may use a route. Changes are told meanwhile, so this only bounds what is
    /// remembered about users that nobody writes to any more.
    pub lease: Duration,
    /// Sessions of this registry; an edge with more is refused. See README for the bytes of each.
    pub sessions_max: usize,
    /// Edges that are remembered: more than one registry serves.
    pub edges_max: usize,
    /// Watches at the same time, one a process.
    pub watchers_max: usize,
    /// Leases of one asker, which are then not given: more than an asker remembers.
    pub leases_per_watcher_max: usize,
    /// Changes that wait for one watcher: as many as the sessions of one edge that dies. A slower
    /// watcher starts anew.
    pub changes_per_watcher_max: usize,
    /// Last-seen times that wait to be written; further ones are lost and counted.
    pub seen_waiting_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge_grace: Duration::from_secs(10),
            lease: Duration::from_secs(5 * 60),
            sessions_max: 1_000_000,
            edges_max: 10_000,
            watchers_max: 1_024,
            leases_per_watcher_max: 500_000,
            changes_per_watcher_max: 65_536,
            seen_waiting_max: 200_000,
        }
    }
}
