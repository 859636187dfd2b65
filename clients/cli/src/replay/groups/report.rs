//! What a replay of groups found, for people and for machines.

use std::time::Duration;

use serde::Serialize;

use super::verify::Findings;
use crate::replay::{attached::Tally, report::percentile_ms};

/// The result over all logs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) logs: usize,
    pub(crate) groups: usize,
    /// Logs that went on in another group, since more were members than one has room for.
    pub(crate) logs_split: usize,
    pub(crate) users: usize,
    /// Those that were connected all the time, and those that came at the end.
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
    pub(crate) acked: usize,
    pub(crate) changes: usize,
    #[serde(flatten)]
    pub(crate) findings: Findings,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    /// From the making of a group to the last live device that had everything, over all groups.
    pub(crate) seconds: f64,
    pub(crate) ack_ms_p50: f64,
    pub(crate) ack_ms_p99: f64,
    /// Connections that broke.
    pub(crate) disconnects: u64,
    /// Sessions that ended for good.
    pub(crate) sessions_closed: usize,
    /// Lines about who comes and goes that changed nothing.
    pub(crate) lines_ignored: usize,
    #[serde(skip)]
    pub(crate) ack_times: Vec<Duration>,
}

impl Report {
    /// Adds what was found of one group.
    pub(crate) fn add_findings(&mut self, findings: &Findings) {
        let sum = &mut self.findings;
        sum.missing += findings.missing;
        sum.duplicated += findings.duplicated;
        sum.out_of_order += findings.out_of_order;
        sum.altered += findings.altered;
        sum.foreign += findings.foreign;
        sum.unexpected += findings.unexpected;
        sum.devices_diverged += findings.devices_diverged;
        sum.unread_wrong += findings.unread_wrong;
    }

    /// Computes what is of all groups together.
    pub(crate) fn finish(&mut self) {
        self.ack_times.sort_unstable();
        self.ack_ms_p50 = percentile_ms(&self.ack_times, 50);
        self.ack_ms_p99 = percentile_ms(&self.ack_times, 99);
        self.seconds = (self.seconds * 1_000.0).round() / 1_000.0;
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.findings == Findings::default()
            && self.tally.is_good()
            && self.messages > 0
            && self.acked == self.messages
            && self.sessions_closed == 0
    }

    /// The lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let rate = self.acked as f64 / self.seconds.max(0.001);
        let wrong = |count: usize| if count == 0 { "ok" } else { "WRONG" };
        let mut lines = vec![
            format!(
                "{} logs, {} groups ({} logs needed more than one, to stay below 200 members), \
                 {} users with {} sessions",
                self.logs, self.groups, self.logs_split, self.users, self.sessions
            ),
            format!(
                "{} changes of groups; {} lines about who comes and goes changed nothing",
                self.changes, self.lines_ignored
            ),
            format!(
                "{} messages in {:.1} s ({rate:.0} a second), ack p50 {:.1} ms, p99 {:.1} ms, \
                 {} disconnects",
                self.messages, self.seconds, self.ack_ms_p50, self.ack_ms_p99, self.disconnects
            ),
        ];
        let found = &self.findings;
        for (what, count, not) in [
            ("acknowledged", self.acked, self.messages - self.acked),
            ("missing", found.missing, found.missing),
            ("duplicated", found.duplicated, found.duplicated),
            ("out of order", found.out_of_order, found.out_of_order),
            ("altered", found.altered, found.altered),
            ("foreign", found.foreign, found.foreign),
            ("unexpected", found.unexpected, found.unexpected),
            (
                "devices diverged",
                found.devices_diverged,
                found.devices_diverged,
            ),
            (
                "rows or unread counts wrong",
                found.unread_wrong,
                found.unread_wrong,
            ),
            (
                "attachments verified",
                self.tally.attachments_verified,
                self.tally.attachments - self.tally.attachments_verified,
            ),
            (
                "attachments wrong",
                self.tally.attachments_wrong,
                self.tally.attachments_wrong,
            ),
            (
                "sessions that ended",
                self.sessions_closed,
                self.sessions_closed,
            ),
        ] {
            lines.push(format!("{what:>28} {count:>7}  {}", wrong(not)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_wrong_makes_a_report_bad() {
        let good = || Report {
            messages: 2,
            acked: 2,
            ..Report::default()
        };
        assert!(good().is_good());
        assert!(!Report::default().is_good());
        assert!(!Report { acked: 1, ..good() }.is_good());
        let closed = Report {
            sessions_closed: 1,
            ..good()
        };
        assert!(!closed.is_good());
        let none = Findings::default();
        for findings in [
            Findings { missing: 1, ..none },
            Findings {
                duplicated: 1,
                ..none
            },
            Findings {
                out_of_order: 1,
                ..none
            },
            Findings { altered: 1, ..none },
            Findings { foreign: 1, ..none },
            Findings {
                unexpected: 1,
                ..none
            },
            Findings {
                devices_diverged: 1,
                ..none
            },
            Findings {
                unread_wrong: 1,
                ..none
            },
        ] {
            let mut report = good();
            report.add_findings(&findings);
            assert!(!report.is_good(), "{findings:?}");
            assert!(report.lines().iter().any(|line| line.ends_with("WRONG")));
        }
    }
}
