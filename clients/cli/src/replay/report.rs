//! What a replay found, for people and for machines.

use std::time::Duration;

use serde::Serialize;

use super::{attached::Tally, plan::Skipped, play::Sent, verify::Findings};

/// The result over all logs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) sent: usize,
    pub(crate) acked: usize,
    /// Acknowledged messages that came live to every session of both users (to the one that sent it
    /// as its own).
    pub(crate) delivered: usize,
    /// Acknowledged messages that new devices of both users have read, in all three ways.
    pub(crate) read_back: usize,
    #[serde(flatten)]
    pub(crate) findings: Findings,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    /// From the first message to the last device that had everything, over all logs.
    pub(crate) seconds: f64,
    pub(crate) ack_ms_p50: f64,
    pub(crate) ack_ms_p99: f64,
    pub(crate) logs: usize,
    pub(crate) users: usize,
    pub(crate) sessions: usize,
    pub(crate) conversations: usize,
    /// Connections that broke while the messages were sent and read back.
    pub(crate) disconnects: u64,
    /// Sessions that ended for good.
    pub(crate) sessions_closed: usize,
    /// Replies of which no message was made.
    pub(crate) skipped: Skipped,
    #[serde(skip)]
    ack_times: Vec<Duration>,
}

impl Report {
    /// Adds what was sent.
    pub(crate) fn add_sent(&mut self, sent: &[Sent], seconds: f64) {
        let acked = || sent.iter().filter(|sent| sent.receipt.is_some());
        self.sent += sent.len();
        self.acked += acked().count();
        self.seconds += seconds;
        self.ack_times.extend(acked().map(|sent| sent.ack_time));
    }

    /// Adds what was found of it.
    pub(crate) fn add_findings(&mut self, findings: &Findings) {
        let sum = &mut self.findings;
        sum.missing += findings.missing;
        sum.duplicated += findings.duplicated;
        sum.out_of_order += findings.out_of_order;
        sum.altered += findings.altered;
        sum.unexpected += findings.unexpected;
        sum.devices_diverged += findings.devices_diverged;
        sum.unread_wrong += findings.unread_wrong;
    }

    /// Adds what the replies without a message were.
    pub(crate) fn add_skipped(&mut self, skipped: &Skipped) {
        self.skipped.thread_starts += skipped.thread_starts;
        self.skipped.own += skipped.own;
        self.skipped.system += skipped.system;
        self.skipped.empty += skipped.empty;
    }

    /// Computes what is of all logs together.
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
            && self.sent > 0
            && [self.acked, self.delivered, self.read_back] == [self.sent; 3]
            && self.sessions_closed == 0
    }

    /// The lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let rate = self.acked as f64 / self.seconds.max(0.001);
        let skipped = &self.skipped;
        let wrong = |count: usize| if count == 0 { "ok" } else { "WRONG" };
        let mut lines = vec![
            format!(
                "{} logs, {} users with {} sessions, {} conversations",
                self.logs, self.users, self.sessions, self.conversations
            ),
            format!(
                "not messages: {} thread starts, {} answers to oneself, {} of the system, {} empty",
                skipped.thread_starts, skipped.own, skipped.system, skipped.empty
            ),
            format!(
                "{} messages in {:.1} s ({rate:.0} a second), ack p50 {:.1} ms, p99 {:.1} ms, \
                 {} disconnects",
                self.sent, self.seconds, self.ack_ms_p50, self.ack_ms_p99, self.disconnects
            ),
        ];
        let findings = &self.findings;
        for (what, count, not) in [
            ("acknowledged", self.acked, self.sent - self.acked),
            (
                "delivered to every session",
                self.delivered,
                self.sent - self.delivered,
            ),
            (
                "read back by new devices",
                self.read_back,
                self.sent - self.read_back,
            ),
            ("missing", findings.missing, findings.missing),
            ("duplicated", findings.duplicated, findings.duplicated),
            ("out of order", findings.out_of_order, findings.out_of_order),
            ("altered", findings.altered, findings.altered),
            ("unexpected", findings.unexpected, findings.unexpected),
            (
                "devices diverged",
                findings.devices_diverged,
                findings.devices_diverged,
            ),
            (
                "unread counts wrong",
                findings.unread_wrong,
                findings.unread_wrong,
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

/// Of sorted times; 0 if there are none.
pub(crate) fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let time = sorted.get(place).copied().unwrap_or_default();
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&times, 50), 100.0);
        assert_eq!(percentile_ms(&times, 99), 198.0);
        assert_eq!(percentile_ms(&times[..1], 99), 1.0);
        assert_eq!(percentile_ms(&[], 50), 0.0);
    }

    #[test]
    fn anything_wrong_makes_a_report_bad() {
        let good = || Report {
            sent: 2,
            acked: 2,
            delivered: 2,
            read_back: 2,
            ..Report::default()
        };
        assert!(good().is_good());
        assert!(!Report::default().is_good());
        assert!(!Report { acked: 1, ..good() }.is_good());
        assert!(
            !Report {
                delivered: 1,
                ..good()
            }
            .is_good()
        );
        assert!(
            !Report {
                read_back: 1,
                ..good()
            }
            .is_good()
        );
        assert!(
            !Report {
                sessions_closed: 1,
                ..good()
            }
            .is_good()
        );
        for tally in [
            Tally {
                attachments: 1,
                ..Tally::default()
            },
            Tally {
                attachments_wrong: 1,
                ..Tally::default()
            },
        ] {
            assert!(!Report { tally, ..good() }.is_good());
        }
        let findings = Findings {
            unread_wrong: 1,
            ..Findings::default()
        };
        assert!(!Report { findings, ..good() }.is_good());
    }
}
