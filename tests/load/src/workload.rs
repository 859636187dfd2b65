//! The names of workloads.

use std::str::FromStr;

use anyhow::{Context, bail};

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// One user of each pair sends to the other, with so many messages waiting for their acks.
    Pairs { pairs: usize, in_flight: usize },
    /// One member of a group sends to it, with so many messages waiting for their acks.
    Group { members: usize, in_flight: usize },
    /// Many users with direct conversations and groups.
    Mixed,
    /// Not a workload: the server of the bare limit, which `group` starts by itself.
    BareServer,
    /// Sessions that say nothing, each on a connection of its own.
    Idle { sessions: usize },
    /// So many uploads at the same time, and downloads.
    Blobs { uploads: usize },
    /// One conversation that gets so many messages.
    Grow { messages: u64 },
}

/// Messages of `grow` without a number.
const GROW_MESSAGES: u64 = 1_000_000;

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let wrong = || {
            format!(
                "{name}: not one of pair-1, pairs-PxI, group-MxI, groups-mixed, idle-N, blobs-N, grow, \
                 grow-N"
            )
        };
        let workload = if name == "pair-1" {
            Self::Pairs {
                pairs: 1,
                in_flight: 1,
            }
        } else if let Some((pairs, in_flight)) = name
            .strip_prefix("pairs-")
            .and_then(|rest| rest.split_once('x'))
        {
            Self::Pairs {
                pairs: pairs.parse().with_context(wrong)?,
                in_flight: in_flight.parse().with_context(wrong)?,
            }
        } else if name == "groups-mixed" {
            Self::Mixed
        } else if name == "bare-server" {
            Self::BareServer
        } else if let Some(rest) = name.strip_prefix("group-") {
            let (members, in_flight) = rest.split_once('x').unwrap_or((rest, "1"));
            Self::Group {
                members: members.parse().with_context(wrong)?,
                in_flight: in_flight.parse().with_context(wrong)?,
            }
        } else if let Some(sessions) = name.strip_prefix("idle-") {
            Self::Idle {
                sessions: sessions.parse().with_context(wrong)?,
            }
        } else if let Some(uploads) = name.strip_prefix("blobs-") {
            Self::Blobs {
                uploads: uploads.parse().with_context(wrong)?,
            }
        } else if name == "grow" {
            Self::Grow {
                messages: GROW_MESSAGES,
            }
        } else if let Some(messages) = name.strip_prefix("grow-") {
            Self::Grow {
                messages: messages.parse().with_context(wrong)?,
            }
        } else {
            bail!(wrong());
        };
        match workload {
            Self::Pairs { pairs: 0, .. }
            | Self::Pairs { in_flight: 0, .. }
            | Self::Group { members: 0 | 1, .. }
            | Self::Group { in_flight: 0, .. }
            | Self::Idle { sessions: 0 }
            | Self::Blobs { uploads: 0 }
            | Self::Grow { messages: 0 } => bail!(wrong()),
            workload => Ok(workload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_from_its_name() {
        let parse = |name: &str| name.parse::<Workload>().ok();
        assert_eq!(
            parse("pair-1"),
            Some(Workload::Pairs {
                pairs: 1,
                in_flight: 1
            })
        );
        assert_eq!(
            parse("pairs-100x16"),
            Some(Workload::Pairs {
                pairs: 100,
                in_flight: 16
            })
        );
        assert_eq!(
            parse("group-100x16"),
            Some(Workload::Group {
                members: 100,
                in_flight: 16
            })
        );
        assert_eq!(parse("groups-mixed"), Some(Workload::Mixed));
        assert_eq!(parse("idle-2000"), Some(Workload::Idle { sessions: 2_000 }));
        assert_eq!(
            parse("grow"),
            Some(Workload::Grow {
                messages: 1_000_000
            })
        );
        for wrong in [
            "",
            "pairs-0x1",
            "pairs-1",
            "idle-",
            "idle-x",
            "grow-0",
            "group-1",
            "group-100x0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
