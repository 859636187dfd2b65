//! `grow-N`: one conversation grows to N messages; the rate of each tenth says what history costs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use tokio::task::JoinSet;

use crate::{
    account,
    drive::{Phase, Run, Session},
    figures::{self, CpuMeter, GrowFigures, Slice},
    pairs, process, wire,
};

/// Slices of a run.
const SLICES: u64 = 10;
/// How often the count is looked at; far shorter than a slice of any use.
const LOOK: Duration = Duration::from_millis(5);
/// A run that gets no ack for so long has failed.
const STANDSTILL_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) messages: u64,
    pub(crate) senders: usize,
    pub(crate) in_flight: usize,
}

pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    plan: &Plan,
) -> anyhow::Result<GrowFigures> {
    ensure!(
        plan.senders > 0 && plan.in_flight > 0,
        "grow needs senders and messages in flight"
    );
    let users = account::create(servers, 2, plan.senders.div_ceil(2)).await?;
    let conversation = wire::direct_conversation(&users[0][0].user_id, &users[1][0].user_id);
    // From both users in turn.
    let devices: Vec<_> = (0..plan.senders)
        .map(|n| users[n % 2][n / 2].clone())
        .collect();
    let wires = pairs::open_all(servers, &devices, plan.in_flight).await?;

    let run = Run::new(plan.messages)?;
    run.enter(Phase::Measured);
    let started = Instant::now();
    let mut sessions = JoinSet::new();
    for wire in wires {
        wire.check_in_flight(plan.in_flight)?;
        let session = Session::new(Arc::clone(&run), wire, conversation.clone(), plan.in_flight);
        sessions.spawn(session.drive());
    }
    let slices = watch(&run, server_pid, plan.messages).await?;
    let elapsed = started.elapsed();
    run.ended.cancel();
    while sessions.join_next().await.is_some() {}

    let counts = run.counts();
    let rate = |slice: Option<&Slice>| slice.map_or(0.0, |slice| slice.messages_acked_per_s);
    Ok(GrowFigures {
        workload: format!("grow-{}", plan.messages),
        seconds: figures::rounded(elapsed.as_secs_f64(), 3),
        messages_acked_per_s: figures::per_second(plan.messages, elapsed),
        last_to_first: figures::rounded(rate(slices.last()) / rate(slices.first()).max(1.0), 3),
        slices,
        rss_kb_server: server_pid.and_then(process::rss_kib),
        held_back: counts.held_back,
        errors: counts.errors.clone(),
    })
}

async fn watch(run: &Run, server_pid: Option<u32>, messages: u64) -> anyhow::Result<Vec<Slice>> {
    let mut slices = Vec::new();
    let mut acked_before = 0;
    let mut last_seen = (0, Instant::now());
    let mut started = Instant::now();
    let mut cpu = CpuMeter::start(server_pid);
    loop {
        tokio::time::sleep(LOOK).await;
        let mut counts = run.counts();
        let acked = counts.acked;
        if acked != last_seen.0 {
            last_seen = (acked, Instant::now());
        } else if last_seen.1.elapsed() > STANDSTILL_DEADLINE {
            bail!(
                "no ack for {STANDSTILL_DEADLINE:?} after {acked} messages: {:?}",
                counts.errors
            );
        }
        let slice_end = messages.saturating_mul(slices.len() as u64 + 1) / SLICES;
        if acked < slice_end {
            continue;
        }
        let grown = acked - acked_before;
        slices.push(Slice {
            messages: acked,
            messages_acked_per_s: figures::per_second(grown, started.elapsed()),
            ack_ms: counts.ack.percentiles(),
            cpu_s_per_1000_server: cpu
                .read()
                .0
                .map(|cpu_s| figures::per_thousand(cpu_s, grown)),
        });
        counts.ack.clear();
        if acked >= messages {
            return Ok(slices);
        }
        (acked_before, started, cpu) = (acked, Instant::now(), CpuMeter::start(server_pid));
    }
}
