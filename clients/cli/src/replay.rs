//! Plays logs of a chat channel through real sessions, then reads everything back and compares.

mod cast;
mod groups;
mod log;
mod patience;
mod plan;
mod play;
mod read_back;
mod report;
mod verify;

use std::{
    collections::HashSet,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::Ordering,
    time::Instant,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::{
    cast::Actor,
    log::Log,
    plan::Plan,
    report::Report,
    verify::{Findings, Source, View},
};
use crate::args::{self, Global};

/// Letters of what makes the usernames of a run unlike those of others.
const RUN_CHARS: usize = 8;
/// How the bar looks.
const BAR: &str = "{msg:<32} {wide_bar} {pos}/{len} {elapsed}";

/// Runs the command: the logs one after another, so that the open sessions are those of one log.
pub(crate) async fn run(global: &Global, command: &args::Replay) -> anyhow::Result<ExitCode> {
    if command.groups {
        return groups::run(global, command).await;
    }
    // All are read first, so that a wrong name is told before anything is sent.
    let logs: Vec<(&Path, Log)> = command
        .files
        .iter()
        .map(|path| Ok((path.as_path(), Log::read(path)?)))
        .collect::<anyhow::Result<_>>()?;
    let run = run_name();

    let mut report = Report::default();
    for (number, (path, log)) in logs.iter().enumerate() {
        let mut plan = Plan::default();
        plan.add(log, &format!("{run}{number}"));
        let stage = Stage {
            global,
            command,
            path,
        };
        stage.perform(&plan, &mut report).await?;
    }
    report.finish();

    let mut out = io::stdout().lock();
    if global.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        report
            .lines()
            .iter()
            .try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One log.
struct Stage<'a> {
    global: &'a Global,
    command: &'a args::Replay,
    path: &'a Path,
}

impl Stage<'_> {
    async fn perform(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        report.logs += 1;
        report.add_skipped(&plan.skipped);
        let devices_each = usize::from(self.command.sessions_per_user);

        let bar = self.bar("accounts", plan.speakers.len());
        let actors =
            cast::assemble(&self.global.server, &plan.speakers, devices_each, &bar).await?;
        bar.finish_and_clear();

        let bar = self.bar("messages", plan.messages.len());
        let started = Instant::now();
        let sent = play::play(&actors, &plan.messages, self.command.speed, &bar).await?;
        play::wait_for_devices(&actors, &sent).await;
        report.add_sent(&sent, started.elapsed().as_secs_f64());
        bar.finish_and_clear();

        let bar = self.bar("reading back", actors.len());
        let read_back = read_back::read_back(&actors, &sent, &bar).await?;
        let still_unread = read_back::mark_read(&actors, &sent).await?;
        bar.finish_and_clear();

        let mut views = live_views(&actors);
        views.extend(read_back.views);
        let comparison = verify::compare(&sent, &views);
        for example in &comparison.examples {
            eprintln!("{}: {example}", self.path.display());
        }
        report.delivered += comparison.delivered;
        report.read_back += comparison.read_back;
        report.add_findings(&Findings {
            unread_wrong: read_back.unread_wrong + still_unread,
            ..comparison.findings
        });
        let conversations: HashSet<_> = sent.iter().map(|sent| &sent.conversation_id).collect();
        report.conversations += conversations.len();
        count_sessions(&actors, report);
        for actor in &actors {
            actor.leave().await;
        }
        Ok(())
    }

    fn bar(&self, what: &str, steps: usize) -> ProgressBar {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default();
        progress_bar(self.global, name, what, steps)
    }
}

/// What makes the usernames of a run unlike those of others.
fn run_name() -> String {
    let run = uuid::Uuid::new_v4().simple().to_string();
    run.get(..RUN_CHARS).unwrap_or_default().to_owned()
}

fn progress_bar(global: &Global, name: &str, what: &str, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if global.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is a constant; the default bar does, too.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_message(format!("{name}: {what}"));
    bar
}

fn live_views(actors: &[Actor]) -> Vec<View> {
    actors
        .iter()
        .flat_map(|actor| actor.seats.iter().map(|seat| (&actor.user_id, seat)))
        .map(|(user_id, seat)| View {
            user_id: user_id.clone(),
            source: Source::Live,
            reader: "a live session",
            messages: seat.heard.messages().clone(),
        })
        .collect()
}

fn count_sessions(actors: &[Actor], report: &mut Report) {
    report.users += actors.len();
    for seat in actors.iter().flat_map(|actor| &actor.seats) {
        report.sessions += 1;
        report.disconnects += seat.heard.disconnects.load(Ordering::Relaxed);
        report.sessions_closed += usize::from(seat.heard.closed().is_some());
    }
}
