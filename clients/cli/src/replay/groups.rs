//! Plays whole channels as groups: who comes is added, who goes leaves, and what is said goes to all
//! who are there. Then it compares every device of every user with the stretches that he was a member
//! of.

mod channel;
mod perform;
mod read_back;
mod report;
mod script;
mod verify;

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
    time::Instant,
};

use anyhow::{Context, bail};

use self::{
    report::Report,
    script::{Script, Step},
    verify::{Comparison, Fact, Findings, Truth},
};
use super::{
    attached::{self, Attached, Look, Shown},
    cast::{self, Actor},
    gallery,
    log::LOG_SUFFIX,
    pictures::Gallery,
    progress_bar, run_name,
};
use crate::args::{self, Global};

/// Examples of rows that are wrong which are printed of a group.
const EXAMPLES_MAX: usize = 10;

/// Runs the command: the groups one after another, so that the open sessions are those of one group.
pub(crate) async fn run(global: &Global, command: &args::Replay) -> anyhow::Result<ExitCode> {
    let run = run_name();
    // All are read first, so that a wrong name is told before anything is sent.
    let mut logs = Vec::new();
    for (number, path) in logs_of(&command.files)?.iter().enumerate() {
        let lines = channel::read(path)?;
        let name = log_name(path);
        logs.push(script::scripts(&lines, &name, &format!("{run}{number}")));
    }
    let gallery = gallery(command)?;
    let mut report = Report::default();
    for scripts in &logs {
        report.logs += 1;
        report.logs_split += usize::from(scripts.len() > 1);
        for script in scripts {
            perform(global, command, script, gallery.as_ref(), &mut report).await?;
        }
    }
    report.finish();

    let mut out = io::stdout().lock();
    if global.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        let mut lines = report.lines().into_iter();
        lines.try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The logs that were named, and those in the folders that were named, by name.
fn logs_of(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for path in paths {
        if !path.is_dir() {
            logs.push(path.clone());
            continue;
        }
        let shown = || format!("cannot read the folder {}", path.display());
        let entries = fs::read_dir(path).with_context(shown)?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.with_context(shown)?.path();
            if entry.to_string_lossy().ends_with(LOG_SUFFIX) {
                found.push(entry);
            }
        }
        if found.is_empty() {
            bail!(
                "{} has no log: their names end in {LOG_SUFFIX}",
                path.display()
            );
        }
        found.sort();
        logs.extend(found);
    }
    Ok(logs)
}

fn log_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(LOG_SUFFIX).unwrap_or(&name).to_owned()
}

async fn perform(
    global: &Global,
    command: &args::Replay,
    script: &Script,
    gallery: Option<&Gallery>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let bar = |what: &str, steps| progress_bar(global, &script.name, what, steps);
    // One of a user's devices comes at the end.
    let live_each = usize::from(command.sessions_per_user)
        .saturating_sub(1)
        .max(1);

    let accounts = bar("accounts", script.people.len());
    let actors = cast::assemble(&global.server, &script.people, live_each, &accounts).await?;
    accounts.finish_and_clear();

    let attached = match gallery {
        Some(gallery) => {
            let authors = script.steps.iter().filter_map(|step| match step {
                Step::Say(person, _) => Some(*person),
                _ => None,
            });
            let bar = |steps| bar("pictures", steps);
            Attached::upload(&actors, &script.name, authors, gallery, bar).await?
        }
        None => Attached::default(),
    };

    let steps = bar("messages", script.steps.len());
    let started = Instant::now();
    let performed = perform::perform(&actors, script, &attached, command.speed, &steps).await?;
    let truth = performed.truth();
    perform::wait_for_devices(&actors, &truth).await;
    report.seconds += started.elapsed().as_secs_f64();
    steps.finish_and_clear();

    let reading = bar("reading back", actors.len());
    let read_back = read_back::read_back(&actors, &truth, &reading).await?;
    let still_unread = read_back::mark_read(&actors, &truth).await?;
    reading.finish_and_clear();

    if let Some(gallery) = gallery {
        let looks = looks(&actors, &truth);
        let pictures = looks.iter().map(|look| look.shown.len()).sum();
        let looking = bar("looking at pictures", pictures);
        let (tally, examples) = attached::verify(&looks, gallery, &looking).await;
        looking.finish_and_clear();
        report.tally.add(tally);
        for example in examples {
            eprintln!("{}: {example}", script.name);
        }
    }

    let mut views = perform::live_views(&actors);
    views.extend(read_back.views);
    let comparison = Comparison::of(&truth, &views);
    let rows = read_back.examples.iter().take(EXAMPLES_MAX);
    for example in comparison.examples.iter().chain(rows) {
        eprintln!("{}: {example}", script.name);
    }
    report.add_findings(&Findings {
        unread_wrong: read_back.rows_wrong + still_unread,
        ..comparison.findings()
    });
    report.groups += 1;
    report.messages += performed.sent;
    report.acked += performed.ack_times.len();
    report.changes += performed.changes;
    report.lines_ignored += script.ignored;
    report.ack_times.extend(performed.ack_times);
    count_sessions(&actors, report);
    for actor in &actors {
        actor.leave().await;
    }
    Ok(())
}

/// The messages with attachments. Each is looked at by somebody who was there and did not send it, each
/// time by another one; by its sender, if nobody else was there.
fn looks<'a>(actors: &'a [Actor], truth: &'a Truth) -> Vec<Look<'a>> {
    let mut readers: HashMap<u64, Vec<usize>> = HashMap::new();
    for (place, actor) in actors.iter().enumerate() {
        for fact in truth.of_user(&actor.user_id) {
            if fact.user_id != actor.user_id {
                readers.entry(fact.seq).or_default().push(place);
            }
        }
    }
    let client = |place: usize| actors[place].seats.last().map(|seat| &seat.client);
    let of_message = |(fact, shown): (&'a Fact, &'a [Shown])| {
        let sender = actors
            .iter()
            .position(|actor| actor.user_id == fact.user_id)?;
        let reader = readers.get(&fact.seq).and_then(|readers| {
            let nth = usize::try_from(fact.seq).ok()? % readers.len();
            readers.get(nth)
        });
        Some(Look {
            conversation_id: &truth.conversation_id,
            seq: fact.seq,
            shown,
            sender: client(sender)?,
            reader: client(*reader.unwrap_or(&sender))?,
        })
    };
    truth.with_attachments().filter_map(of_message).collect()
}

fn count_sessions(actors: &[Actor], report: &mut Report) {
    report.users += actors.len();
    // And the one that reads back.
    report.sessions += actors.len();
    for seat in actors.iter().flat_map(|actor| &actor.seats) {
        report.sessions += 1;
        report.disconnects += seat.heard.disconnects.load(Ordering::Relaxed);
        report.sessions_closed += usize::from(seat.heard.closed().is_some());
    }
}

#[cfg(test)]
mod tests;
