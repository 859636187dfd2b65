//! What can be set, with defaults that are safe on the internet.

use std::num::NonZeroU32;

use serde::Deserialize;

use crate::decide::Limits;

/// The most that [`Config::members_max`] may be: each member costs a look-up and a row for each event of
/// the group.
const MEMBERS_MAX_MAX: u32 = 100_000;
/// The most that the other limits may be: lists of them are read for one change.
const LIMIT_MAX: u32 = 100_000;
/// The invitations of a group are answered in one piece.
const INVITATIONS_MAX_MAX: u32 = 100;

/// The settings of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Members of a group: each event of it is handed to all of them.
    pub members_max: u32,
    /// Members above which a group is deferred, for good: an event of it is written into the list of its
    /// author alone, and the others' lists look it up when they are read. Below, an event is a record and
    /// a row a member, which is cheap as long as most of them read it; in a huge group most do not, and a
    /// busy one would fill the log with nothing else. At least 2.
    pub deferred_above: u32,
    /// Groups that a user is a member of: somebody who is added to more cannot read them anyway.
    /// Counted as they are when he joins, so that some that he joins at the same moment may go beyond.
    pub groups_per_user_max: u32,
    /// Invitations of a group that are good at a time: links that people keep in mind.
    pub invitations_max: u32,
    /// Users who wait to be let into a group: as many as an admin can look through.
    pub join_requests_max: u32,
    /// Changes that a user may make a second, sustained: people make one now and then.
    pub changes_per_second: NonZeroU32,
    /// Changes that a user may make at once after a pause.
    pub changes_burst: NonZeroU32,
    /// Other calls that a user may make a second, sustained.
    pub reads_per_second: NonZeroU32,
    /// Other calls that a user may make at once after a pause: a device that starts asks for all of
    /// its groups.
    pub reads_burst: NonZeroU32,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{key}: must be from {least} to {most}")]
pub struct InvalidConfig {
    /// As it is called in a file.
    pub key: &'static str,
    /// The smallest that it may be.
    pub least: u32,
    /// The largest.
    pub most: u32,
}

impl Config {
    /// Refuses what the service cannot work with.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let checks = [
            ("members_max", self.members_max, 1, MEMBERS_MAX_MAX),
            ("deferred_above", self.deferred_above, 2, u32::MAX),
            (
                "groups_per_user_max",
                self.groups_per_user_max,
                1,
                LIMIT_MAX,
            ),
            (
                "invitations_max",
                self.invitations_max,
                1,
                INVITATIONS_MAX_MAX,
            ),
            ("join_requests_max", self.join_requests_max, 1, LIMIT_MAX),
        ];
        match checks
            .into_iter()
            .find(|(_, value, least, most)| !(*least..=*most).contains(value))
        {
            Some((key, _, least, most)) => Err(InvalidConfig { key, least, most }),
            None => Ok(()),
        }
    }

    pub(crate) const fn limits(&self) -> Limits {
        Limits {
            members_max: self.members_max,
            groups_per_user_max: self.groups_per_user_max,
            invitations_max: self.invitations_max,
            join_requests_max: self.join_requests_max,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            members_max: 200,
            deferred_above: 1_000,
            groups_per_user_max: 10_000,
            invitations_max: 100,
            join_requests_max: 1_000,
            changes_per_second: number(20),
            changes_burst: number(200),
            reads_per_second: number(100),
            reads_burst: number(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_makes_no_sense_is_named() {
        Config::default().check().unwrap();
        for (text, key) in [
            ("members_max = 0", "members_max"),
            ("members_max = 100001", "members_max"),
            ("deferred_above = 1", "deferred_above"),
            ("groups_per_user_max = 0", "groups_per_user_max"),
            ("invitations_max = 101", "invitations_max"),
            ("join_requests_max = 0", "join_requests_max"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.key, key);
            assert!(error.to_string().starts_with(key), "{error}");
        }
        for text in [
            "member_max = 1",
            "changes_burst = 0",
            "reads_per_second = -1",
        ] {
            let key = text.split(' ').next().unwrap();
            let error = toml::from_str::<Config>(text).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
