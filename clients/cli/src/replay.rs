//! Plays logs of a chat channel through real sessions, then reads everything back and compares.

mod attached;
mod cast;
mod groups;
mod log;
mod patience;
mod pictures;
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
    attached::{Attached, Look},
    cast::Actor,
    log::Log,
    pictures::Gallery,
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

    let gallery = gallery(command)?;

    let mut report = Report::default();
    for (number, (path, log)) in logs.iter().enumerate() {
        let mut plan = Plan::default();
        plan.add(log, &format!("{run}{number}"));
        let stage = Stage {
            global,
            command,
            path,
            gallery: gallery.as_ref(),
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
    gallery: Option<&'a Gallery>,
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

        let attached = match self.gallery {
            Some(gallery) => {
                let authors = plan.messages.iter().map(|message| message.from);
                let bar = |steps| self.bar("pictures", steps);
                Attached::upload(&actors, &self.name(), authors, gallery, bar).await?
            }
            None => Attached::default(),
        };

        let bar = self.bar("messages", plan.messages.len());
        let started = Instant::now();
        let speed = self.command.speed;
        let sent = play::play(&actors, &plan.messages, &attached, speed, &bar).await?;
        play::wait_for_devices(&actors, &sent).await;
        report.add_sent(&sent, started.elapsed().as_secs_f64());
        bar.finish_and_clear();

        let bar = self.bar("reading back", actors.len());
        let read_back = read_back::read_back(&actors, &sent, &bar).await?;
        let still_unread = read_back::mark_read(&actors, &sent).await?;
        bar.finish_and_clear();

        if let Some(gallery) = self.gallery {
            let looks = looks(&actors, &sent);
            let steps = looks.iter().map(|look| look.shown.len()).sum();
            let bar = self.bar("looking at pictures", steps);
            let (tally, examples) = attached::verify(&looks, gallery, &bar).await;
            bar.finish_and_clear();
            report.tally.add(tally);
            for example in examples {
                eprintln!("{}: {example}", self.path.display());
            }
        }

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

    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.split('.').next().unwrap_or_default().to_owned()
    }

    fn bar(&self, what: &str, steps: usize) -> ProgressBar {
        progress_bar(self.global, &self.name(), what, steps)
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

/// The pictures of a run, if it has any.
fn gallery(command: &args::Replay) -> anyhow::Result<Option<Gallery>> {
    match command.attachments {
        true => Gallery::new(command.seed).map(Some),
        false => Ok(None),
    }
}

/// The acknowledged messages with attachments; each is looked at by its recipient.
fn looks<'a>(actors: &'a [Actor], sent: &'a [play::Sent]) -> Vec<Look<'a>> {
    let client = |user_id: &str| {
        let actor = actors.iter().find(|actor| actor.user_id == user_id)?;
        actor.seats.last().map(|seat| &seat.client)
    };
    let of_message = |sent: &'a play::Sent| {
        let receipt = sent.receipt.filter(|_| !sent.shown.is_empty())?;
        Some(Look {
            conversation_id: &sent.conversation_id,
            seq: receipt.seq,
            shown: &sent.shown,
            sender: client(&sent.sender_id)?,
            reader: client(&sent.recipient_id)?,
        })
    };
    sent.iter().filter_map(of_message).collect()
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
