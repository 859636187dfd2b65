//! `groups-mixed`: many users, of whom most write to one other and some to groups of 5 to 200.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use proto::messaging::v1::{ServerFrame, client_frame, server_frame};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinSet,
};

use crate::{
    account::{self, Device},
    drive::{Phase, Run},
    figures::{self, Errors, Percentiles},
    groups::{self, Meters},
    pairs::OPENING_AT_A_TIME,
    process::Process,
    raw,
    receive::{Habit, Received, receive},
    wire,
};

/// Members of the smallest and of the largest group.
const MEMBERS: (usize, usize) = (5, 200);
/// Of a hundred messages, so many are to groups.
const TO_GROUPS_PERCENT: u32 = 10;
/// How long the last messages may take to arrive after the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// An ack that takes longer counts as lost.
const ACK_DEADLINE: Duration = Duration::from_secs(15);
/// The run can be repeated: who writes to whom is drawn from this.
const SEED: u64 = 1;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) users: usize,
    /// Messages that wait for their acks, of all users together.
    pub(crate) in_flight: usize,
    pub(crate) warmup: Duration,
    pub(crate) seconds: Duration,
}

/// The figures of a mixed run.
#[derive(Debug, Serialize)]
pub(crate) struct MixedFigures {
    pub(crate) workload: String,
    pub(crate) users: usize,
    pub(crate) groups: usize,
    pub(crate) in_flight: usize,
    pub(crate) seconds: f64,
    pub(crate) messages_acked_per_s: f64,
    pub(crate) deliveries_per_s: f64,
    pub(crate) ack_ms: Percentiles,
    /// From the send to the receipt, of every 16th delivery to a device.
    pub(crate) delivery_ms: Percentiles,
    /// Of CPU for 10,000 deliveries.
    pub(crate) cpu_s_per_10000_server: Option<f64>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) cpu_s_per_10000_by_process: std::collections::BTreeMap<String, f64>,
    pub(crate) cpu_s_per_10000_load: f64,
    pub(crate) acked_total: u64,
    pub(crate) undelivered: u64,
    pub(crate) errors: Errors,
}

impl MixedFigures {
    pub(crate) fn is_clean(&self) -> bool {
        self.undelivered == 0 && self.errors.is_empty()
    }
}

/// A group, by the numbers of its members.
struct Group {
    conversation: String,
    members: Vec<usize>,
}

/// What those who send share.
struct World {
    devices: Vec<Device>,
    senders: Vec<mpsc::Sender<Bytes>>,
    groups: Vec<Group>,
}

pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    processes: &[Process],
    name: &str,
    plan: &Plan,
) -> anyhow::Result<MixedFigures> {
    let mut random = StdRng::seed_from_u64(SEED);
    let users = account::create(servers, plan.users, 1).await?;
    let devices: Vec<Device> = users.into_iter().flatten().collect();
    let groups = make_groups(servers, &devices, &mut random).await?;
    let wires = groups::open_all(servers, &devices).await?;

    let run = Run::new(u64::MAX)?;
    let received = Arc::new(Received::default());
    let mut sessions = JoinSet::new();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut senders = Vec::with_capacity(wires.len());
    for wire in wires {
        senders.push(wire.sender.clone());
        let (run, received) = (run.clone(), received.clone());
        let (answers, habit) = (Some(answers.clone()), Habit::Hold);
        sessions.spawn(receive(run, received, wire, answers, habit));
    }
    let world = World {
        devices,
        senders,
        groups,
    };
    // What the making of groups has pushed is not a message.
    let mut expected = received.events.load(Ordering::Relaxed);

    let started = Instant::now();
    let mut measuring: Option<(Instant, Meters)> = None;
    let mut measured: Option<(Duration, groups::Cpu, u64)> = None;
    let mut slots: Vec<Option<Slot>> = Vec::new();
    slots.resize_with(plan.in_flight, || None);
    let mut acked_measured = 0_u64;
    loop {
        if measuring.is_none() && started.elapsed() >= plan.warmup {
            run.enter(Phase::Measured);
            measuring = Some((Instant::now(), Meters::start(server_pid, processes)));
        }
        if measuring
            .as_ref()
            .is_some_and(|(since, _)| since.elapsed() >= plan.seconds)
            && let Some((since, meters)) = measuring.take()
        {
            run.enter(Phase::Draining);
            let deliveries = received.measured.load(Ordering::Relaxed);
            measured = Some((since.elapsed(), meters.read(deliveries), deliveries));
        }
        let draining = measured.is_some();
        for (at, slot) in slots.iter_mut().enumerate() {
            if slot.is_none() && !draining {
                *slot = Some(send(&world, &mut random, at));
            }
        }
        if draining && slots.iter().all(Option::is_none) {
            break;
        }
        let Some(slot) = next_answer(&mut answered, &run, &mut slots).await else {
            let lost = slots.iter().flatten().count();
            run.error(format!("{lost} ACKS_LOST"));
            break;
        };
        expected += slot.recipients;
        let mut counts = run.counts();
        counts.acked += 1;
        if run.is(Phase::Measured) {
            acked_measured += 1;
            let nanos = wire::now_nanos().saturating_sub(slot.sent_nanos);
            counts.ack.record(nanos);
        }
    }
    let (time, cpu, deliveries) = measured.context("the run broke off")?;
    let undelivered = settled(&received, expected).await;
    run.ended.cancel();
    while sessions.join_next().await.is_some() {}

    let counts = run.counts();
    Ok(MixedFigures {
        workload: name.to_owned(),
        users: plan.users,
        groups: world.groups.len(),
        in_flight: plan.in_flight,
        seconds: figures::rounded(time.as_secs_f64(), 3),
        messages_acked_per_s: figures::per_second(acked_measured, time),
        deliveries_per_s: figures::per_second(deliveries, time),
        ack_ms: counts.ack.percentiles(),
        delivery_ms: counts.delivery.percentiles(),
        cpu_s_per_10000_server: cpu.server,
        cpu_s_per_10000_by_process: cpu.by_process,
        cpu_s_per_10000_load: cpu.load,
        acked_total: counts.acked,
        undelivered,
        errors: counts.errors.clone(),
    })
}

/// Every user is in one group, of a size between the smallest and the largest: many small ones, few
/// large ones.
async fn make_groups(
    servers: &[String],
    devices: &[Device],
    random: &mut StdRng,
) -> anyhow::Result<Vec<Group>> {
    let server = servers.first().context("no server")?;
    let (low, high) = ((MEMBERS.0 as f64).ln(), (MEMBERS.1 as f64).ln());
    let mut rest: Vec<usize> = (0..devices.len()).collect();
    let mut sets = Vec::new();
    while rest.len() >= MEMBERS.0 {
        let size = random.random_range(low..=high).exp().round() as usize;
        sets.push(rest.split_off(rest.len() - size.clamp(MEMBERS.0, rest.len().min(MEMBERS.1))));
    }
    stream::iter(sets)
        .map(|members| async move {
            let of = |at: &usize| devices.get(*at).cloned();
            let users: Vec<Device> = members.iter().filter_map(of).collect();
            let (owner, others) = users.split_first().context("a group has members")?;
            let conversation = groups::make_group(server, owner, others, "mixed").await?;
            anyhow::Ok(Group {
                conversation,
                members,
            })
        })
        .buffered(OPENING_AT_A_TIME)
        .try_collect()
        .await
}

/// A message in flight.
struct Slot {
    sent_nanos: u64,
    /// Devices that it is to come to.
    recipients: u64,
}

/// Sends a message of somebody to somebody.
fn send(world: &World, random: &mut StdRng, at: usize) -> Slot {
    let is_to_group = !world.groups.is_empty() && random.random_ratio(TO_GROUPS_PERCENT, 100);
    let (sender, conversation, recipients) = if is_to_group {
        let group = &world.groups[random.random_range(0..world.groups.len())];
        let sender = group.members[random.random_range(0..group.members.len())];
        let recipients = group.members.len() as u64 - 1;
        (sender, group.conversation.clone(), recipients)
    } else {
        let sender = random.random_range(0..world.devices.len());
        // Everybody has one partner: the neighbour.
        let partner = sender ^ 1;
        let partner = if partner < world.devices.len() {
            partner
        } else {
            0
        };
        let [one, other] = [sender, partner].map(|at| world.devices[at].user_id.as_str());
        (sender, wire::direct_conversation(one, other), 1)
    };
    let send = client_frame::Frame::Send(wire::new_send(&conversation));
    let _ = world.senders[sender].try_send(raw::encode(at as u64 + 1, send));
    Slot {
        sent_nanos: wire::now_nanos(),
        recipients,
    }
}

/// The next message that was acked; none if no answer comes any more. What was refused is an error of the
/// run, and its slot is free again.
async fn next_answer(
    answered: &mut UnboundedReceiver<Bytes>,
    run: &Run,
    slots: &mut [Option<Slot>],
) -> Option<Slot> {
    loop {
        let answer = tokio::time::timeout(ACK_DEADLINE, answered.recv()).await;
        let frame = ServerFrame::decode(answer.ok()??).ok()?;
        let at = usize::try_from(frame.request_id.checked_sub(1)?).ok()?;
        match frame.frame {
            Some(server_frame::Frame::SendAck(_)) => return slots.get_mut(at)?.take(),
            Some(server_frame::Frame::Error(error)) => {
                run.error(error.reason().info_name());
                let mut slot = slots.get_mut(at)?.take()?;
                slot.recipients = 0;
                return Some(slot);
            }
            _ => {}
        }
    }
}

/// Waits until everything that was acked has come; answers how many deliveries are missing.
async fn settled(received: &Received, expected: u64) -> u64 {
    let end = Instant::now() + DRAIN_DEADLINE;
    loop {
        let missing = expected.saturating_sub(received.events.load(Ordering::Relaxed));
        if missing == 0 || Instant::now() >= end {
            return missing;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
