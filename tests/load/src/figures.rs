//! What is printed at the end of a run.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process;

/// Longer waits count as this long: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Waits, measured in microseconds.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // Three digits: a p99 is told to 0.1 %.
        Ok(Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?))
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record((nanos / 1_000).max(1));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// Of waits, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// CPU time of the server and of this program between two moments.
#[derive(Debug)]
pub(crate) struct CpuMeter {
    server: Option<(u32, f64)>,
    load: f64,
}

impl CpuMeter {
    pub(crate) fn start(server_pid: Option<u32>) -> Self {
        Self {
            server: server_pid
                .and_then(|pid| Some((pid, process::cpu_seconds_with_children(pid)?))),
            load: process::cpu_seconds(std::process::id()).unwrap_or(0.0),
        }
    }

    /// Seconds since the start: of the server (none if it is elsewhere), and of this program.
    pub(crate) fn read(&self) -> (Option<f64>, f64) {
        let server = self
            .server
            .and_then(|(pid, before)| Some(process::cpu_seconds_with_children(pid)? - before));
        let load = process::cpu_seconds(std::process::id()).unwrap_or(0.0) - self.load;
        (server, load)
    }
}

/// What went wrong, by name.
pub(crate) type Errors = BTreeMap<String, u64>;

/// The figures of `pairs`.
#[derive(Debug, Serialize)]
pub(crate) struct PairFigures {
    pub(crate) workload: String,
    pub(crate) seconds: f64,
    pub(crate) messages_acked_per_s: f64,
    pub(crate) messages_delivered_per_s: f64,
    /// From the send to the ack at the sender.
    pub(crate) ack_ms: Percentiles,
    /// From the send to the receipt at the other user's device.
    pub(crate) delivery_ms: Percentiles,
    /// Of CPU a 1,000 acked messages; the server's with its storage.
    pub(crate) cpu_s_per_1000_server: Option<f64>,
    /// The same for each process that was listed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cpu_s_per_1000_by_process: BTreeMap<String, f64>,
    pub(crate) cpu_s_per_1000_load: f64,
    pub(crate) rss_kb_server: Option<u64>,
    /// Acked in the whole run, with warm-up and end.
    pub(crate) acked_total: u64,
    /// Acked, and not received live by the other user within the time allowed after the end.
    pub(crate) undelivered: u64,
    /// Messages that waited because the server allows a session only so many frames: if there are
    /// any, the rates are those of its limit.
    pub(crate) held_back: u64,
    pub(crate) errors: Errors,
}

impl PairFigures {
    pub(crate) fn is_clean(&self) -> bool {
        self.undelivered == 0 && self.errors.is_empty()
    }
}

/// The figures of `idle`.
#[derive(Debug, Serialize)]
pub(crate) struct IdleFigures {
    pub(crate) workload: String,
    pub(crate) sessions: usize,
    pub(crate) sessions_lost: usize,
    pub(crate) seconds: f64,
    /// Of the server: before the accounts were made, before the sessions were opened, and at the
    /// end.
    pub(crate) rss_kb_at_start: Option<u64>,
    pub(crate) rss_kb_before: Option<u64>,
    pub(crate) rss_kb_after: Option<u64>,
    /// Growth since the sessions were opened, by session.
    pub(crate) kb_per_session: Option<f64>,
    /// Growth since the start, by session: with all that logging in has left behind.
    pub(crate) kb_per_session_with_log_in: Option<f64>,
    /// Of CPU, for holding 1,000 sessions for a minute.
    pub(crate) cpu_s_per_1000_sessions_minute: Option<f64>,
    pub(crate) rss_kb_load: Option<u64>,
}

/// The figures of `blobs`.
#[derive(Debug, Serialize)]
pub(crate) struct BlobFigures {
    pub(crate) workload: String,
    pub(crate) uploads: usize,
    pub(crate) blob_bytes: usize,
    /// Of the disk itself: files of the same size, each synced, eight at a time.
    pub(crate) disk_write_mb_s: f64,
    /// All uploads at the same time.
    pub(crate) upload_rpc_mb_s: f64,
    pub(crate) upload_put_mb_s: f64,
    /// The most memory of the server meanwhile.
    pub(crate) rpc_peak_rss_mb: Option<f64>,
    pub(crate) put_peak_rss_mb: Option<f64>,
    pub(crate) cpu_s_per_gb_rpc: Option<f64>,
    /// From memory, as all that follows.
    pub(crate) disk_read_mb_s: f64,
    pub(crate) download_mb_s: f64,
    pub(crate) nginx_mb_s: Option<f64>,
    pub(crate) cpu_s_per_gb_download: Option<f64>,
}

/// The figures of `grow`.
#[derive(Debug, Serialize)]
pub(crate) struct GrowFigures {
    pub(crate) workload: String,
    pub(crate) seconds: f64,
    pub(crate) messages_acked_per_s: f64,
    /// The rate of the last slice, divided by that of the first: 1 = history costs nothing.
    pub(crate) last_to_first: f64,
    pub(crate) slices: Vec<Slice>,
    pub(crate) rss_kb_server: Option<u64>,
    /// Messages that waited because the server allows a session only so many frames: if there are
    /// any, the rates are those of its limit.
    pub(crate) held_back: u64,
    pub(crate) errors: Errors,
}

/// A stretch of a growing conversation.
#[derive(Debug, Serialize)]
pub(crate) struct Slice {
    /// Messages in the conversation at its end.
    pub(crate) messages: u64,
    pub(crate) messages_acked_per_s: f64,
    pub(crate) ack_ms: Percentiles,
    pub(crate) cpu_s_per_1000_server: Option<f64>,
}

/// `count` in `time`, by second.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    rounded(count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE), 1)
}

/// CPU seconds by 1,000 of `count`.
pub(crate) fn per_thousand(cpu_s: f64, count: u64) -> f64 {
    rounded(cpu_s * 1_000.0 / (count.max(1) as f64), 5)
}

/// To so many decimals.
pub(crate) fn rounded(number: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    (number * factor).round() / factor
}

/// One JSON object in a line, or a line for each figure.
pub(crate) fn print(figures: &impl Serialize, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(figures)?);
        return Ok(());
    }
    if let serde_json::Value::Object(fields) = serde_json::to_value(figures)? {
        for (name, value) in fields {
            match value {
                serde_json::Value::Array(rows) => {
                    println!("{name:>32}");
                    rows.iter().for_each(|row| println!("{:34}{row}", ""));
                }
                value => println!("{name:>32}  {value}"),
            }
        }
    }
    Ok(())
}
