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
    process,
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
    server: &str,
    server_pid: Option<u32>,
    name: &str,
    plan: &Plan,
) -> anyhow::Result<PairFigures> {
    let users = account::create(server, plan.pairs * 2, 1).await?;
    let devices: Vec<Device> = users.into_iter().flatten().collect();
    let mut wires = open_all(server, &devices, plan.in_flight).await?;

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
    let started = Instant::now();
    run.enter(Phase::Measured);
    tokio::time::sleep(plan.seconds).await;
    run.enter(Phase::Draining);
    let measured = started.elapsed();
    let (cpu_server, cpu_load) = cpu.read();
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
        cpu_s_per_1000_server: cpu_server.map(|cpu_s| figures::per_thousand(cpu_s, acked)),
        cpu_s_per_1000_load: figures::per_thousand(cpu_load, acked),
        rss_kb_server,
        acked_total: counts.acked,
        undelivered,
        held_back: counts.held_back,
        errors: counts.errors.clone(),
    })
}

/// One session for each device, in the same order.
pub(crate) async fn open_all(
    server: &str,
    devices: &[Device],
    in_flight: usize,
) -> anyhow::Result<Vec<Wire>> {
    stream::iter(devices)
        .map(|device| Wire::open(server, device, in_flight))
        .buffered(OPENING_AT_A_TIME)
        .try_collect()
        .await
}
