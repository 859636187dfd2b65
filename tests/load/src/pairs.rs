//! `pairs-PxI`: P users send to P others, each with I messages waiting for their acks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use crate::{
    account::{self, Device},
    drive::{Phase, Run, Session},
    figures::{self, CpuMeter, PairFigures},
    process::{self, Process},
    wire::{self, Wire},
};

/// Sessions that are opened at a time.
pub(crate) const OPENING_AT_A_TIME: usize = 32;
/// How long the last messages may take to arrive after the end: more than one heartbeat.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pairs: usize,
    pub(crate) in_flight: usize,
    pub(crate) warmup: Duration,
    pub(crate) seconds: Duration,
}

pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    processes: &[Process],
    name: &str,
    plan: &Plan,
) -> anyhow::Result<PairFigures> {
    let users = account::create(servers, plan.pairs * 2, 1).await?;
    let devices: Vec<Device> = users.into_iter().flatten().collect();
    let mut wires = open_all(servers, &devices, plan.in_flight).await?;

    let run = Run::new(u64::MAX)?;
    let mut sessions = JoinSet::new();
    for pair in (0..devices.len()).step_by(2).rev() {
        let conversation =
            wire::direct_conversation(&devices[pair].user_id, &devices[pair + 1].user_id);
        // In pairs from the end, where they can be taken off.
        let (receiver, sender) = (
            wires.pop().context("a receiver")?,
            wires.pop().context("a sender")?,
        );
        sender.check_in_flight(plan.in_flight)?;
        for (wire, in_flight) in [(receiver, 0), (sender, plan.in_flight)] {
            let session = Session::new(Arc::clone(&run), wire, conversation.clone(), in_flight);
            sessions.spawn(session.drive());
        }
    }

    tokio::time::sleep(plan.warmup).await;
    let cpu = CpuMeter::start(server_pid);
    let meters: Vec<_> = processes
        .iter()
        .map(|process| (process.name.clone(), CpuMeter::start(Some(process.pid))))
        .collect();
    let started = Instant::now();
    run.enter(Phase::Measured);
    tokio::time::sleep(plan.seconds).await;
    run.enter(Phase::Draining);
    let measured = started.elapsed();
    let (cpu_server, cpu_load) = cpu.read();
    let by_process: Vec<_> = meters
        .into_iter()
        .filter_map(|(name, meter)| Some((name, meter.read().0?)))
        .collect();
    let rss_kb_server = server_pid.and_then(process::rss_kib);

    let undelivered = run.settled(1, DRAIN_DEADLINE).await;
    run.ended.cancel();
    while sessions.join_next().await.is_some() {}

    let counts = run.counts();
    let acked = counts.ack.count();
    Ok(PairFigures {
        workload: name.to_owned(),
        seconds: figures::rounded(measured.as_secs_f64(), 3),
        messages_acked_per_s: figures::per_second(acked, measured),
        messages_delivered_per_s: figures::per_second(counts.delivery.count(), measured),
        ack_ms: counts.ack.percentiles(),
        delivery_ms: counts.delivery.percentiles(),
        cpu_s_per_1000_server: match by_process.is_empty() {
            true => cpu_server.map(|cpu_s| figures::per_thousand(cpu_s, acked)),
            false => {
                let total = by_process.iter().map(|(_, cpu_s)| cpu_s).sum();
                Some(figures::per_thousand(total, acked))
            }
        },
        cpu_s_per_1000_by_process: by_process
            .into_iter()
            .map(|(name, cpu_s)| (name, figures::per_thousand(cpu_s, acked)))
            .collect(),
        cpu_s_per_1000_load: figures::per_thousand(cpu_load, acked),
        rss_kb_server,
        acked_total: counts.acked,
        undelivered,
        held_back: counts.held_back,
        errors: counts.errors.clone(),
    })
}

/// One session for each device, in the same order. Of several servers, the two of a pair have two.
pub(crate) async fn open_all(
    servers: &[String],
    devices: &[Device],
    in_flight: usize,
) -> anyhow::Result<Vec<Wire>> {
    let server = |at: usize| servers.get((at / 2 + at % 2) % servers.len().max(1));
    stream::iter(devices.iter().enumerate())
        .map(|(at, device)| async move {
            let server = server(at).context("no server")?;
            Wire::open(server, device, in_flight).await
        })
        .buffered(OPENING_AT_A_TIME)
        .try_collect()
        .await
}
