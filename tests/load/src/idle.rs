//! `idle-N`: N sessions that say nothing but heartbeats, each on a connection of its own, as phones
//! in pockets are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    account::{self, DEVICES_PER_USER_MAX, Device},
    figures::{self, CpuMeter, IdleFigures},
    pairs, process,
    wire::{self, Wire},
};

/// Between log-ins and the first measurement, and between opening and the hold: what was set free
/// is given back to the machine by then.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    sessions: usize,
    seconds: Duration,
) -> anyhow::Result<IdleFigures> {
    let rss = || server_pid.and_then(process::rss_kib);
    let rss_kb_at_start = rss();
    let devices = devices(servers, sessions).await?;
    tokio::time::sleep(SETTLE).await;

    let rss_kb_before = rss();
    let wires = pairs::open_all(servers, &devices, 0).await?;
    let ended = CancellationToken::new();
    let lost = Arc::new(AtomicUsize::new(0));
    let mut held = JoinSet::new();
    for wire in wires {
        held.spawn(hold(wire, ended.clone(), Arc::clone(&lost)));
    }
    tokio::time::sleep(SETTLE).await;
    let cpu = CpuMeter::start(server_pid);
    tokio::time::sleep(seconds).await;
    let (cpu_server, _) = cpu.read();
    let rss_kb_after = rss();
    let rss_kb_load = process::rss_kib(std::process::id());
    ended.cancel();
    while held.join_next().await.is_some() {}

    let per_session = |before: Option<u64>| {
        let grown = rss_kb_after? as f64 - before? as f64;
        Some(figures::rounded(grown / sessions as f64, 2))
    };
    let minutes = seconds.as_secs_f64() / 60.0;
    Ok(IdleFigures {
        workload: format!("idle-{sessions}"),
        sessions,
        sessions_lost: lost.load(Ordering::Relaxed),
        seconds: seconds.as_secs_f64(),
        rss_kb_at_start,
        rss_kb_before,
        rss_kb_after,
        kb_per_session: per_session(rss_kb_before),
        kb_per_session_with_log_in: per_session(rss_kb_at_start),
        cpu_s_per_1000_sessions_minute: cpu_server
            .map(|cpu_s| figures::rounded(cpu_s * 1_000.0 / sessions as f64 / minutes, 3)),
        rss_kb_load,
    })
}

/// A session belongs to one device, so there are as many of these.
async fn devices(servers: &[String], sessions: usize) -> anyhow::Result<Vec<Device>> {
    let users = sessions.div_ceil(DEVICES_PER_USER_MAX);
    let each = sessions.div_ceil(users);
    let mut devices: Vec<_> = account::create(servers, users, each)
        .await?
        .into_iter()
        .flatten()
        .collect();
    devices.truncate(sessions);
    Ok(devices)
}

async fn hold(mut wire: Wire, ended: CancellationToken, lost: Arc<AtomicUsize>) {
    let mut heartbeat = tokio::time::interval(wire.heartbeat_interval());
    loop {
        tokio::select! {
            frame = wire.frames.next() => if !matches!(frame, Some(Ok(_))) {
                lost.fetch_add(1, Ordering::Relaxed);
                return;
            },
            // A full queue means that the connection stands still; the server will end it.
            _ = heartbeat.tick() => drop(wire.sender.try_send(wire::heartbeat())),
            () = ended.cancelled() => return,
        }
    }
}
