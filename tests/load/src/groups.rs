//! `group-MxI`: one group of M members who are all there, one of whom sends with I messages in flight.
//! In the same run, the bare limit: the same frames to the same number of streams by a server that does
//! nothing else.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::groups::v1::{
    AddMembersRequest, CreateGroupRequest, group_service_client::GroupServiceClient,
};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet};
use tonic::transport::Endpoint;

use crate::{
    account::{self, Device},
    bare::Bare,
    drive::{Phase, Run, Session},
    figures::{self, CpuMeter, Errors, Percentiles},
    pairs::OPENING_AT_A_TIME,
    process::Process,
    raw::{self, RawWire},
    receive::{Habit, Received, receive},
    wire::Wire,
};

/// How long the last messages may take to arrive after the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Users that one call adds.
const ADD_MAX: usize = 200;
/// Streams of the bare server: with more of them, what waits in it takes minutes to arrive.
const BARE_STREAMS_MAX: usize = 1_000;
/// Frames that the bare server is sent ahead of what its receivers have.
const BARE_AHEAD: usize = 64;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) members: usize,
    pub(crate) in_flight: usize,
    /// Between an ack and the next message.
    pub(crate) pause: Duration,
    pub(crate) habit: Habit,
    pub(crate) warmup: Duration,
    pub(crate) seconds: Duration,
}

/// The figures of a group.
#[derive(Debug, Serialize)]
pub(crate) struct GroupFigures {
    pub(crate) workload: String,
    pub(crate) seconds: f64,
    pub(crate) messages_acked_per_s: f64,
    /// Events that came to members other than the sender.
    pub(crate) deliveries_per_s: f64,
    pub(crate) ack_ms: Percentiles,
    /// From the send to the receipt, of every 16th delivery.
    pub(crate) delivery_ms: Percentiles,
    /// Of CPU for 10,000 deliveries; the server's with its storage.
    pub(crate) cpu_s_per_10000_server: Option<f64>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) cpu_s_per_10000_by_process: std::collections::BTreeMap<String, f64>,
    pub(crate) cpu_s_per_10000_load: f64,
    /// The server that does nothing but write, for as long; of groups up to [`BARE_STREAMS_MAX`].
    pub(crate) bare: Option<BareFigures>,
    /// Deliveries by CPU second of the server, divided by those of the bare one.
    pub(crate) of_bare_by_cpu: Option<f64>,
    /// Deliveries by second, divided by those of the bare one.
    pub(crate) of_bare_by_time: Option<f64>,
    pub(crate) acked_total: u64,
    /// Events that did not come live within the time allowed after the end.
    pub(crate) undelivered: u64,
    pub(crate) errors: Errors,
}

impl GroupFigures {
    pub(crate) fn is_clean(&self) -> bool {
        self.undelivered == 0 && self.errors.is_empty()
    }
}

/// The figures of the bare server.
#[derive(Debug, Serialize)]
pub(crate) struct BareFigures {
    pub(crate) deliveries_per_s: f64,
    pub(crate) cpu_s_per_10000_server: Option<f64>,
    pub(crate) cpu_s_per_10000_load: f64,
}

pub(crate) async fn run(
    servers: &[String],
    server_pid: Option<u32>,
    processes: &[Process],
    name: &str,
    plan: &Plan,
) -> anyhow::Result<GroupFigures> {
    let users = account::create(servers, plan.members, 1).await?;
    let devices: Vec<Device> = users.into_iter().flatten().collect();
    let (sender, receivers) = devices.split_first().context("a group has members")?;
    let server = servers.first().context("no server")?;
    let conversation = make_group(server, sender, receivers, name).await?;
    let wires = open_all(servers, receivers).await?;
    let wire = Wire::open(server, sender, plan.in_flight).await?;
    wire.check_in_flight(plan.in_flight)?;

    let run = Run::new(u64::MAX)?;
    let received = Arc::new(Received::default());
    let mut sessions = JoinSet::new();
    for wire in wires {
        let habit = plan.habit;
        sessions.spawn(receive(run.clone(), received.clone(), wire, None, habit));
    }
    let session = Session::new(run.clone(), wire, conversation, plan.in_flight);
    sessions.spawn(session.pausing(plan.pause).drive());

    tokio::time::sleep(plan.warmup).await;
    let meters = Meters::start(server_pid, processes);
    let started = Instant::now();
    run.enter(Phase::Measured);
    tokio::time::sleep(plan.seconds).await;
    run.enter(Phase::Draining);
    let measured = started.elapsed();
    let deliveries = received.measured.load(Ordering::Relaxed);
    let cpu = meters.read(deliveries);
    let undelivered = settled(&run, &received, receivers.len()).await;
    run.ended.cancel();
    while sessions.join_next().await.is_some() {}

    let bare = match receivers.len() {
        ..=BARE_STREAMS_MAX => Some(bare(receivers.len(), plan).await?),
        _ => None,
    };
    let counts = run.counts();
    let deliveries_per_s = figures::per_second(deliveries, measured);
    let by_cpu = |ours: f64, bare: f64| figures::rounded(bare / ours.max(f64::MIN_POSITIVE), 3);
    Ok(GroupFigures {
        workload: name.to_owned(),
        seconds: figures::rounded(measured.as_secs_f64(), 3),
        messages_acked_per_s: figures::per_second(counts.ack.count(), measured),
        deliveries_per_s,
        ack_ms: counts.ack.percentiles(),
        delivery_ms: counts.delivery.percentiles(),
        of_bare_by_cpu: cpu
            .server
            .zip(bare.as_ref().and_then(|bare| bare.cpu_s_per_10000_server))
            .map(|(ours, bare)| by_cpu(ours, bare)),
        of_bare_by_time: bare
            .as_ref()
            .map(|bare| figures::rounded(deliveries_per_s / bare.deliveries_per_s, 3)),
        cpu_s_per_10000_server: cpu.server,
        cpu_s_per_10000_by_process: cpu.by_process,
        cpu_s_per_10000_load: cpu.load,
        bare,
        acked_total: counts.acked,
        undelivered,
        errors: counts.errors.clone(),
    })
}

/// Makes a group of these users; answers its conversation.
pub(crate) async fn make_group(
    server: &str,
    owner: &Device,
    others: &[Device],
    name: &str,
) -> anyhow::Result<String> {
    let channel = Endpoint::from_shared(server.to_owned())?.connect().await?;
    let mut client = GroupServiceClient::new(channel);
    let request_id = || uuid::Uuid::now_v7().to_string();
    let mut parts = others.chunks(ADD_MAX).map(|part| {
        let ids = part.iter().map(|device| device.user_id.clone());
        ids.collect::<Vec<_>>()
    });
    let create = authorised(
        CreateGroupRequest {
            request_id: request_id(),
            name: name.to_owned(),
            user_ids: parts.next().unwrap_or_default(),
            ..CreateGroupRequest::default()
        },
        owner,
    )?;
    let group = client.create_group(create).await?.into_inner().group;
    let group = group.context("no group")?;
    for user_ids in parts {
        let add = AddMembersRequest {
            request_id: request_id(),
            group_id: group.group_id.clone(),
            if_version: 0,
            user_ids,
        };
        client.add_members(authorised(add, owner)?).await?;
    }
    Ok(group.conversation_id)
}

fn authorised<T>(message: T, device: &Device) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let token = format!("Bearer {}", device.access_token).parse()?;
    request.metadata_mut().insert("authorization", token);
    Ok(request)
}

/// One session for each device, shared by the servers.
pub(crate) async fn open_all(
    servers: &[String],
    devices: &[Device],
) -> anyhow::Result<Vec<RawWire>> {
    stream::iter(devices.iter().enumerate())
        .map(|(at, device)| async move {
            let server = servers.get(at % servers.len().max(1));
            RawWire::open(server.context("no server")?, device, 8).await
        })
        .buffered(OPENING_AT_A_TIME)
        .try_collect()
        .await
}

/// Waits until each receiver has all that was acked; answers how many deliveries are missing.
async fn settled(run: &Run, received: &Received, receivers: usize) -> u64 {
    let end = Instant::now() + DRAIN_DEADLINE;
    loop {
        let expected = run.counts().acked * receivers as u64;
        // The changes of the group came as events, too.
        let missing = expected.saturating_sub(received.events.load(Ordering::Relaxed));
        if missing == 0 || Instant::now() >= end {
            return missing;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// CPU of everything that serves, and of this program.
pub(crate) struct Meters {
    own: CpuMeter,
    listed: Vec<(String, CpuMeter)>,
}

/// CPU seconds for 10,000 of what was counted.
pub(crate) struct Cpu {
    pub(crate) server: Option<f64>,
    pub(crate) by_process: std::collections::BTreeMap<String, f64>,
    pub(crate) load: f64,
}

impl Meters {
    pub(crate) fn start(server_pid: Option<u32>, processes: &[Process]) -> Self {
        let meter = |process: &Process| (process.name.clone(), CpuMeter::start(Some(process.pid)));
        Self {
            own: CpuMeter::start(server_pid),
            listed: processes.iter().map(meter).collect(),
        }
    }

    pub(crate) fn read(self, count: u64) -> Cpu {
        let per = |cpu_s: f64| figures::rounded(figures::per_thousand(cpu_s, count) * 10.0, 4);
        let (server, load) = self.own.read();
        let listed = self.listed.into_iter();
        let listed: Vec<(String, f64)> = listed
            .filter_map(|(name, meter)| Some((name, meter.read().0?)))
            .collect();
        let total = match listed.is_empty() {
            true => server,
            false => Some(listed.iter().map(|(_, cpu_s)| cpu_s).sum()),
        };
        Cpu {
            server: total.map(per),
            by_process: listed
                .into_iter()
                .map(|(name, cpu_s)| (name, per(cpu_s)))
                .collect(),
            load: per(load),
        }
    }
}

/// Frames like those of the group, to as many streams, by a server that only writes.
async fn bare(receivers: usize, plan: &Plan) -> anyhow::Result<BareFigures> {
    let bare = Bare::start()?;
    let run = Run::new(u64::MAX)?;
    let received = Arc::new(Received::default());
    let mut sessions = JoinSet::new();
    for _ in 0..receivers {
        let wire = RawWire::stream(&bare.url, "", 8).await?;
        let habit = Habit::Hold;
        sessions.spawn(receive(run.clone(), received.clone(), wire, None, habit));
    }
    // A stream more, for what is to be written; it is written to itself as well, and counts.
    let source = RawWire::stream(&bare.url, "", BARE_AHEAD).await?;
    let sender = source.sender.clone();
    let habit = Habit::Hold;
    sessions.spawn(receive(run.clone(), received.clone(), source, None, habit));
    let streams = receivers as u64 + 1;
    let feeding = tokio::spawn(feed(sender, received.clone(), streams, run.ended.clone()));

    tokio::time::sleep(plan.warmup).await;
    let meters = Meters::start(Some(bare.pid()), &[]);
    let started = Instant::now();
    run.enter(Phase::Measured);
    tokio::time::sleep(plan.seconds).await;
    run.enter(Phase::Draining);
    let measured = started.elapsed();
    let deliveries = received.measured.load(Ordering::Relaxed);
    let cpu = meters.read(deliveries);
    run.ended.cancel();
    let _ = feeding.await;
    while sessions.join_next().await.is_some() {}
    Ok(BareFigures {
        deliveries_per_s: figures::per_second(deliveries, measured),
        cpu_s_per_10000_server: cpu.server,
        cpu_s_per_10000_load: cpu.load,
    })
}

/// Keeps the bare server busy, some frames ahead of the slowest possible reader.
async fn feed(
    sender: mpsc::Sender<bytes::Bytes>,
    received: Arc<Received>,
    streams: u64,
    ended: tokio_util::sync::CancellationToken,
) {
    let mut sent = 0_u64;
    while !ended.is_cancelled() {
        let done = received.events.load(Ordering::Relaxed) / streams;
        if sent > done + BARE_AHEAD as u64 {
            tokio::time::sleep(Duration::from_micros(200)).await;
            continue;
        }
        if sender.send(raw::like_event()).await.is_err() {
            return;
        }
        sent += 1;
        tokio::task::yield_now().await;
    }
}
