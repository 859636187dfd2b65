//! What an operator may set: the replicas, and the bounds of the service.

use std::time::Duration;

use runtime::shards::Replica;
use serde::{Deserialize, Deserializer};

/// What a [`crate::Presence`] needs to know. Loaded from a file, times are in milliseconds and their
/// keys end in `_ms`; what is left out has its default, and a key that is not here is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// All replicas, this one among them, by the names that edges and senders know them by too. None =
    /// this process is the only one.
    pub replicas: Vec<Replica>,
    /// Which of the replicas this one is.
    pub name: String,
    /// How long after its start a replica does not take it for certain that a user has no session: longer
    /// than an edge needs to notice that the process before is gone (10 s), and to come (2 s of pause and
    /// 5 s to connect). Zero where all edges start with it, in one process.
    #[serde(rename = "warm_up_ms", deserialize_with = "millis")]
    pub warm_up: Duration,
    /// After which silence an edge counts as gone: three times what it says something in.
    #[serde(rename = "edge_silent_ms", deserialize_with = "millis")]
    pub edge_silent: Duration,
    /// How long an edge that is gone is remembered: an edge that reconnects within this keeps its
    /// sessions, and one that died is routed to for no longer.
    #[serde(rename = "edge_grace_ms", deserialize_with = "millis")]
    pub edge_grace: Duration,
    /// How long an asker may use a route. Changes are told meanwhile, so this only bounds what is
    /// remembered about users that nobody writes to any more.
    #[serde(rename = "lease_ms", deserialize_with = "millis")]
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
            replicas: Vec::new(),
            name: String::new(),
            warm_up: Duration::from_secs(20),
            edge_silent: Duration::from_secs(15),
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

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|ms| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let config: Config = toml::from_str(
            "name = 'presence-1'
             edge_grace_ms = 1500
             sessions_max = 7
             [[replicas]]
             name = 'presence-0'
             url = 'http://10.0.0.1:7003'
             [[replicas]]
             name = 'presence-1'
             url = 'http://10.0.0.2:7003'",
        )
        .unwrap();
        assert_eq!(config.name, "presence-1");
        let names: Vec<&str> = config.replicas.iter().map(|r| &*r.name).collect();
        assert_eq!(names, ["presence-0", "presence-1"]);
        assert_eq!(config.replicas[1].url, "http://10.0.0.2:7003");
        assert_eq!(config.edge_grace, Duration::from_millis(1_500));
        assert_eq!(config.sessions_max, 7);
        assert_eq!(config.lease, Config::default().lease);
    }

    #[test]
    fn a_key_that_does_not_exist_is_named() {
        for (bad, key) in [
            ("edge_grace = 1", "edge_grace"),
            ("lease_ms = -1", "lease_ms"),
            ("[[replicas]]\nname = 'a'\naddress = 'b'", "address"),
        ] {
            let error = toml::from_str::<Config>(bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
