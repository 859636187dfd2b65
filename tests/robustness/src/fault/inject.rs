//! Does faults to a deployment, and takes them back.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{Action, JUMPS, Planned, Schedule, Step, link_state};
use crate::{
    deployment::{Deployment, LinkState, kind_of},
    history::Record,
    recorder::Recorder,
};

/// Rounds of a storm over all processes of a kind.
const STORM_ROUNDS: usize = 2;
/// How long a clock must be right again before the next fault: the library looks once a second.
const CLOCK_SETTLES: Duration = Duration::from_millis(1_200);
/// Between two looks whether a process has died.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Follows a schedule.
pub struct Injector {
    /// To which.
    pub deployment: Arc<dyn Deployment>,
    /// Where it is taken down.
    pub recorder: Arc<Recorder>,
}

impl Injector {
    /// Injects until told to stop; then everything is healed.
    pub async fn run(&self, schedule: Schedule, stop: CancellationToken) {
        for step in schedule {
            let Step { quiet, faults } = step;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(quiet) => {}
            }
            let all = faults.iter().map(|fault| self.inject(fault, &stop));
            futures_util::future::join_all(all).await;
        }
    }

    /// Looks for processes that die by themselves, until told to stop.
    pub async fn watch(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            for what in self.deployment.died().await {
                self.found(what);
            }
            let _ = tokio::time::timeout(WATCH_EVERY, stop.cancelled()).await;
        }
    }

    fn found(&self, what: String) {
        tracing::error!(what, "found");
        let t = self.recorder.now();
        self.recorder.add(Record::Found { t, what });
    }

    async fn inject(&self, fault: &Planned, stop: &CancellationToken) {
        let name = fault.named.name();
        let began = self.recorder.now();
        let targets = match fault.named.action {
            Action::Cut | Action::Reset | Action::Delay | Action::HalfOpen => {
                self.deployment.links()
            }
            _ => self.deployment.nodes(),
        };
        let of_kind: Vec<_> = targets
            .into_iter()
            .filter(|target| kind_of(target) == fault.named.kind)
            .collect();
        let Some(target) = of_kind.get(fault.pick as usize % of_kind.len().max(1)) else {
            return;
        };
        tracing::info!(name, target, lasts = ?fault.lasts, "fault");
        let done = self.carry_out(fault, target, &of_kind, stop).await;
        let detail = match done {
            Ok(detail) => detail,
            Err(error) => {
                self.found(format!("{name} of {target}: {error:#}"));
                "failed".to_owned()
            }
        };
        self.recorder.add(Record::Fault {
            t: (began, self.recorder.now()),
            name,
            target: target.clone(),
            detail,
        });
    }

    async fn carry_out(
        &self,
        fault: &Planned,
        target: &str,
        of_kind: &[String],
        stop: &CancellationToken,
    ) -> anyhow::Result<String> {
        let deployment = &self.deployment;
        let action = fault.named.action;
        let hold = async || {
            let _ = tokio::time::timeout(fault.lasts, stop.cancelled()).await;
        };
        let mut detail = format!("{} ms", fault.lasts.as_millis());
        match action {
            Action::Kill => {
                deployment.kill(target).await?;
                hold().await;
                deployment.start(target).await.context("start")?;
            }
            Action::Restart => {
                let stopped = deployment.terminate(target).await;
                hold().await;
                deployment.start(target).await.context("start")?;
                stopped.context("stop")?;
            }
            Action::Pause => {
                deployment.pause(target).await?;
                hold().await;
                deployment.resume(target).await?;
            }
            Action::Storm => {
                for node in of_kind.iter().cycle().take(of_kind.len() * STORM_ROUNDS) {
                    let stopped = deployment.terminate(node).await;
                    deployment.start(node).await.context("start")?;
                    stopped.context("stop")?;
                    hold().await;
                }
            }
            Action::ClockJump => {
                let seconds = JUMPS[fault.choice as usize % JUMPS.len()];
                detail = format!("{detail}, {seconds:+} s");
                deployment.clock_jump(target, seconds).await?;
                hold().await;
                deployment.clock_jump(target, 0).await?;
                tokio::time::sleep(CLOCK_SETTLES).await;
            }
            Action::DiskFull => {
                deployment.fill_disk(target).await?;
                hold().await;
                deployment.free_disk(target).await?;
            }
            Action::Cut | Action::Reset | Action::Delay | Action::HalfOpen => {
                let state = link_state(action, fault.choice);
                detail = format!("{detail}, {state:?}");
                deployment.set_link(target, state).await?;
                hold().await;
                if action == Action::HalfOpen && fault.choice.is_multiple_of(2) {
                    // The way back was forgotten meanwhile: what is open is reset and does not go on.
                    detail += ", then reset";
                    deployment.set_link(target, LinkState::Cut).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                deployment.set_link(target, LinkState::Open).await?;
            }
        }
        Ok(detail)
    }
}
