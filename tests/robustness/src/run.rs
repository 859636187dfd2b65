//! One run, from the first account to the verdict.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    check::{self, Verdict, Wrong},
    deployment::Deployment,
    fault::{Injector, Named, Schedule, unavailable},
    groups::{self, GroupCast, GroupTraffic},
    history::{
        Micros, News, Record,
        groups::{Answer, GroupRecord},
    },
    plan::{Cast, Size},
    recorder::Recorder,
    settle, texts,
    traffic::Traffic,
};

/// What is found is in this file of the run's folder, in words.
pub const FINDINGS_FILE: &str = "findings.txt";
/// Conversations that people really had.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data");
/// A fault counts as observed if a client notices something during it or so soon after it.
const NOTICE: Micros = 3_000_000;
/// An ack that takes longer is noticed.
const SLOW_ACK: Micros = 250_000;
/// Traffic before the first fault and after the last one, so that both have something to break.
const LAST_QUIET: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Task {
    /// Decides operations and faults.
    pub seed: u64,
    /// How long there is traffic.
    pub lasts: Duration,
    /// How much of it.
    pub size: Size,
    /// Which faults there are.
    pub faults: Vec<Named>,
}

/// How often a fault was done, and how often somebody noticed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FaultCount {
    /// Done.
    pub injected: u64,
    /// During or right after it a client lost its connection, got an error, or waited for an ack.
    pub observed: u64,
}

/// What happened in groups.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GroupCounts {
    /// Messages handed over.
    pub sent: u64,
    /// Acks, those of retries included.
    pub acked: u64,
    /// Messages that were refused: by somebody who was not a member, or not an admin.
    pub rejected: u64,
    /// Changes that were asked for.
    pub changes: u64,
    /// Answers that a change is decided, those to a repeated request included.
    pub changes_answered: u64,
    /// Changes that were refused.
    pub changes_rejected: u64,
    /// Events handed out by sessions.
    pub handed_out: u64,
    /// Pages of history and lists.
    pub reads: u64,
}

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How often each thing that must not be was found.
    #[serde(flatten)]
    pub wrong: BTreeMap<&'static str, u64>,
    /// Messages handed over.
    pub sent: u64,
    /// Messages with an ack.
    pub acked: u64,
    /// Messages without a definite answer, for a reason that is known.
    pub unknown: u64,
    /// Messages that were refused, as planned.
    pub rejected: u64,
    /// Acks that said `duplicate`.
    pub duplicate_acks: u64,
    /// Messages handed out by sessions.
    pub handed_out: u64,
    /// Pages of history and lists.
    pub reads: u64,
    /// The same of groups, and their changes.
    pub groups: GroupCounts,
    /// Sessions that were opened again.
    pub reconnects: u64,
    /// Apps that were ended and begun again.
    pub restarts: u64,
    /// Errors of calls, by call and reason.
    pub sdk_errors: BTreeMap<String, u64>,
    /// By name.
    pub faults: BTreeMap<String, FaultCount>,
    /// What was asked for and cannot be done here, and why.
    pub faults_unavailable: BTreeMap<String, String>,
    /// What clients noticed while there was no fault: on few cores, starvation.
    pub noticed_without_fault: u64,
    /// With the rest of the arguments, repeats the plan.
    pub seed: u64,
    /// From the first account to the verdict.
    pub seconds: f64,
    /// Where the history is, if it is kept.
    pub history: Option<PathBuf>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.values().all(|count| *count == 0)
    }
}

/// Runs against a deployment that has just been started; writes the history into the folder.
pub async fn run(
    deployment: Arc<dyn Deployment>,
    task: &Task,
    folder: &Path,
    stop: CancellationToken,
) -> anyhow::Result<Report> {
    let recorder = Arc::new(Recorder::new(folder)?);
    let texts = texts::read(Path::new(DATA))?;
    let cast = Cast::new(task.seed, &task.size);
    let apps = folder.join("apps");
    let traffic = Traffic::assemble(recorder.clone(), deployment.clone(), cast, &texts, &apps);
    let traffic = traffic.await?;
    let cast = GroupCast::new(task.seed, &task.size);
    let in_groups =
        GroupTraffic::assemble(recorder.clone(), deployment.clone(), cast, &texts, &apps).await?;
    let devices = traffic.devices.len() + in_groups.devices.len();
    tracing::info!(devices, "sessions are open");

    let faults_unavailable: BTreeMap<String, String> = task
        .faults
        .iter()
        .filter_map(|fault| Some((fault.name(), unavailable(&*deployment, fault)?)))
        .collect();
    let faults = task
        .faults
        .iter()
        .filter(|fault| !faults_unavailable.contains_key(&fault.name()))
        .cloned()
        .collect();
    let injector = Arc::new(Injector {
        deployment: deployment.clone(),
        recorder: recorder.clone(),
    });
    // Processes are looked after to the end, faults end first.
    let (end, faults_end) = (CancellationToken::new(), stop.child_token());
    let watching = tokio::spawn({
        let (injector, end) = (injector.clone(), end.clone());
        async move { injector.watch(end).await }
    });
    let schedule = Schedule::new(task.seed, faults);
    let injecting = tokio::spawn({
        let (injector, end) = (injector.clone(), faults_end.clone());
        async move { injector.run(schedule, end).await }
    });

    traffic.begin(task.seed, &task.size, &stop);
    in_groups.begin(task.seed, &task.size, &stop);
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(task.lasts) => {}
    }
    faults_end.cancel();
    injecting.await.context("the faults")?;
    tracing::info!("no more faults");
    let _ = tokio::time::timeout(LAST_QUIET, stop.cancelled()).await;
    stop.cancel();
    tokio::join!(traffic.end(), in_groups.end());
    tracing::info!("no more traffic");
    let unsettled = |error: anyhow::Error| {
        let what = format!("{error:#}");
        recorder.add(Record::Unsettled { what });
    };
    settle::settle(&traffic).await.unwrap_or_else(unsettled);
    groups::settle(&in_groups).await.unwrap_or_else(unsettled);
    end.cancel();
    watching.await.context("the watch over processes")?;
    look_for_panics(&*deployment, &recorder);
    drop((traffic, in_groups));

    let records = recorder.finish()?;
    let verdict = check::judge(&records);
    write_findings(folder, &verdict)?;
    // Files of devices tell nothing that the history does not.
    let _ = fs::remove_dir_all(&apps);
    Ok(Report {
        faults_unavailable,
        seed: task.seed,
        history: Some(folder.to_owned()),
        ..report(&records, &verdict)
    })
}

/// A panic is found in the log of a process, whatever became of the process.
fn look_for_panics(deployment: &dyn Deployment, recorder: &Recorder) {
    for (node, path) in deployment.logs() {
        let log = fs::read(&path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            recorder.add(Record::Found {
                t: recorder.now(),
                what: format!("{node}: {line}"),
            });
        }
    }
}

/// Puts the findings into words, in the folder.
pub fn write_findings(folder: &Path, verdict: &Verdict) -> anyhow::Result<()> {
    let mut text = String::new();
    for (wrong, what) in &verdict.examples {
        text += &format!("{}: {what}\n", wrong.name());
    }
    let file = folder.join(FINDINGS_FILE);
    fs::write(&file, text).with_context(|| format!("{}", file.display()))
}

/// Counts what a record shows.
pub fn report(records: &[Record], verdict: &Verdict) -> Report {
    let wrong = Wrong::ALL.map(|wrong| (wrong.name(), verdict.count(wrong)));
    let mut report = Report {
        wrong: wrong.into(),
        sent: 0,
        acked: 0,
        unknown: 0,
        rejected: 0,
        duplicate_acks: 0,
        handed_out: 0,
        reads: 0,
        groups: GroupCounts::default(),
        reconnects: 0,
        restarts: 0,
        sdk_errors: BTreeMap::new(),
        faults: BTreeMap::new(),
        faults_unavailable: BTreeMap::new(),
        noticed_without_fault: 0,
        seed: 0,
        seconds: 0.0,
        history: None,
    };
    let world = check::World::new(records);
    for fate in world.fates.values() {
        report.sent += 1;
        report.acked += u64::from(!fate.acks.is_empty());
        report.unknown += u64::from(fate.unknown && fate.acks.is_empty());
        report.rejected += u64::from(fate.refused);
    }
    for record in records {
        match record {
            Record::Ack {
                duplicate: true, ..
            } => report.duplicate_acks += 1,
            Record::Got { contents, .. } => report.handed_out += contents.len() as u64,
            Record::Read(_) | Record::List(_) => report.reads += 1,
            Record::AppEnded { .. } => report.restarts += 1,
            Record::Group(record) => count_group(record, &mut report.groups),
            Record::Session {
                news: News::Disconnected(_),
                ..
            } => report.reconnects += 1,
            Record::Failed { call, reason, .. } => {
                *report
                    .sdk_errors
                    .entry(format!("{call} {reason}"))
                    .or_default() += 1;
            }
            _ => {}
        }
    }
    count_faults(records, &world, &mut report);
    report
}

fn count_group(record: &GroupRecord, counts: &mut GroupCounts) {
    match record {
        GroupRecord::Send(_) => counts.sent += 1,
        GroupRecord::Ack { .. } => counts.acked += 1,
        GroupRecord::Refused { .. } => counts.rejected += 1,
        GroupRecord::Call(_) => counts.changes += 1,
        GroupRecord::Answer { answer, .. } => match answer {
            Answer::Done { .. } => counts.changes_answered += 1,
            Answer::Refused(_) => counts.changes_rejected += 1,
            Answer::Unknown(_) => {}
        },
        GroupRecord::Got { events, .. } => counts.handed_out += events.len() as u64,
        GroupRecord::Read(_) | GroupRecord::List(_) => counts.reads += 1,
        _ => {}
    }
}

/// Whether the traffic means to be refused so.
fn is_planned(call: &str, reason: &str) -> bool {
    let reasons: &[&str] = match call {
        "send_message" => &[
            "FIELD_REQUIRED",
            "TEXT_TOO_LONG",
            "TEXT_NOT_STORABLE",
            "NOT_A_MEMBER",
        ],
        "send_to_group" => &["NOT_A_MEMBER", "ADMINS_ONLY"],
        "list_group_events" | "mark_group_read" => &["NOT_A_MEMBER"],
        _ => &["GROUP_NOT_FOUND", "MEMBER_NOT_FOUND", "ROLE_NOT_SUFFICIENT"],
    };
    reasons.contains(&reason)
}

/// Injected and observed apart: a fault that nobody notices was none, and what is noticed without a
/// fault is something else.
fn count_faults(records: &[Record], world: &check::World<'_>, report: &mut Report) {
    let mut noticed: Vec<Micros> = records
        .iter()
        .filter_map(|record| match record {
            Record::Session {
                t,
                news: News::Disconnected(_),
                ..
            } => Some(*t),
            Record::Failed {
                t, call, reason, ..
            } => {
                // Refusals are a part of the traffic.
                (!is_planned(call, reason)).then_some(*t)
            }
            Record::Ack { t, send, .. } => {
                let sent = world.fates.get(send)?.send.t;
                (t - sent > SLOW_ACK).then_some(*t)
            }
            _ => None,
        })
        .collect();
    noticed.sort_unstable();
    let mut spans: Vec<(Micros, Micros)> = Vec::new();
    for record in records {
        if let Record::Fault { t, name, .. } = record {
            let span = (t.0, t.1 + NOTICE);
            let from = noticed.partition_point(|t| *t < span.0);
            let is_noticed = noticed.get(from).is_some_and(|t| *t <= span.1);
            let count = report.faults.entry(name.clone()).or_default();
            count.injected += 1;
            count.observed += u64::from(is_noticed);
            spans.push(span);
        }
    }
    let is_covered = |t: &Micros| spans.iter().any(|span| (span.0..=span.1).contains(t));
    let without = noticed.iter().filter(|t| !is_covered(t)).count();
    report.noticed_without_fault = without as u64;
}
