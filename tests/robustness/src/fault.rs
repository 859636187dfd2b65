//! Faults: what there is, when which one comes, and how it is done.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::deployment::{Ability, Deployment, LinkState, kind_of};

mod inject;

pub use inject::Injector;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// SIGTERM, and started again.
    Restart,
    /// Every process of a kind is stopped and started in quick succession.
    Storm,
    /// A link ends all its connections and lets none in.
    Cut,
    /// A link ends all its connections.
    Reset,
    /// A link is slow.
    Delay,
    /// A link passes nothing on and closes nothing.
    HalfOpen,
    /// A process's wall clock jumps, and back.
    ClockJump,
    /// A process's disk is full.
    DiskFull,
}

/// A fault with a name, such as `kill-messaging`: an action, and a kind of node or link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// What is done.
    pub action: Action,
    /// To which kind of node or link.
    pub kind: String,
}

/// A fault of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub named: Named,
    /// Which of the kind, modulo their count.
    pub pick: u32,
    /// How long.
    pub lasts: Duration,
    /// What else there is to choose: a number for the action's own use.
    pub choice: u32,
}

/// What comes next: a pause without faults, then some at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Without faults.
    pub quiet: Duration,
    /// Together.
    pub faults: Vec<Planned>,
}

/// Seconds that a clock jumps.
pub(crate) const JUMPS: [i64; 8] = [-86_400, -3_600, -30, -2, 2, 30, 3_600, 86_400];
/// How much later a slow link passes on.
pub(crate) const DELAYS_MS: [u64; 4] = [20, 80, 200, 400];
/// Of 100 steps, those with two faults.
const DOUBLE_PERCENT: u32 = 20;

impl Action {
    /// The word in names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Storm => "storm",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::Delay => "delay",
            Self::HalfOpen => "half-open",
            Self::ClockJump => "clock-jump",
            Self::DiskFull => "disk-full",
        }
    }

    /// How long it lasts, in milliseconds: long enough to be noticed, short enough for many in a run.
    fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Self::Kill => 0..3_000,
            Self::Pause => 100..5_000,
            Self::Restart => 0..500,
            Self::Storm => 200..1_000,
            Self::Cut => 200..4_000,
            // Long enough for every connection to hear of it.
            Self::Reset => 20..60,
            Self::Delay => 1_000..6_000,
            Self::HalfOpen => 500..9_000,
            Self::ClockJump => 1_000..5_000,
            Self::DiskFull => 300..4_000,
        }
    }
}

impl Named {
    /// Its name.
    pub fn name(&self) -> String {
        format!("{}-{}", self.action.word(), self.kind)
    }
}

/// Every fault that a deployment can have, or could have on another machine.
pub fn catalogue(deployment: &dyn Deployment) -> Vec<Named> {
    let nodes = deployment.nodes();
    let kinds: BTreeSet<String> = nodes.iter().map(|name| kind_of(name)).collect();
    let links: BTreeSet<String> = deployment
        .links()
        .iter()
        .map(|name| kind_of(name))
        .collect();
    let mut all = BTreeSet::new();
    for kind in kinds {
        let of_kind = nodes.iter().filter(|name| kind_of(name) == kind).count();
        let mut actions = vec![Action::Kill, Action::Pause];
        if !["kafka", "postgres", "s3"].contains(&kind.as_str()) {
            actions.extend([Action::Restart, Action::ClockJump]);
        }
        if of_kind > 1 && (kind == "messaging" || kind == "groups") {
            actions.push(Action::Storm);
        }
        if kind == "server" {
            actions.push(Action::DiskFull);
        }
        all.extend(actions.into_iter().map(|action| Named {
            action,
            kind: kind.clone(),
        }));
    }
    for kind in links {
        for action in [Action::Cut, Action::Reset, Action::Delay, Action::HalfOpen] {
            let kind = kind.clone();
            all.insert(Named { action, kind });
        }
    }
    all.into_iter().collect()
}

/// Why a deployment cannot have a fault here; `None` if it can.
pub fn unavailable(deployment: &dyn Deployment, fault: &Named) -> Option<String> {
    let ability = match fault.action {
        Action::ClockJump => Ability::ClockJump,
        Action::DiskFull => Ability::FillDisk,
        Action::Restart => Ability::Restart,
        _ => return None,
    };
    let nodes = deployment.nodes();
    let mut of_kind = nodes.iter().filter(|node| kind_of(node) == fault.kind);
    of_kind.find_map(|node| deployment.lacks(ability, node))
}

/// When which fault comes: without an end, each as often as the others.
#[derive(Debug)]
pub struct Schedule {
    random: StdRng,
    faults: Vec<Named>,
    bag: Vec<Named>,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn new(seed: u64, faults: Vec<Named>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed.rotate_left(17) ^ 0xfa17),
            faults,
            bag: Vec::new(),
        }
    }

    fn take(&mut self) -> Option<Planned> {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.faults);
            self.bag.shuffle(&mut self.random);
        }
        let named = self.bag.pop()?;
        Some(Planned {
            pick: self.random.random(),
            lasts: Duration::from_millis(self.random.random_range(named.action.lasts_ms())),
            choice: self.random.random(),
            named,
        })
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let quiet = Duration::from_millis(self.random.random_range(500..4_000));
        let mut faults = vec![self.take()?];
        if self.random.random_ratio(DOUBLE_PERCENT, 100)
            && let Some(other) = self.take()
        {
            // Two things cannot be done to one process at the same time.
            if other.named.kind != faults[0].named.kind {
                faults.push(other);
            } else {
                self.bag.push(other.named);
            }
        }
        Some(Step { quiet, faults })
    }
}

/// What a link is to do for a fault.
pub(crate) fn link_state(action: Action, choice: u32) -> LinkState {
    let pick = |count: usize| choice as usize % count;
    match action {
        Action::Delay => {
            LinkState::Delayed(Duration::from_millis(DELAYS_MS[pick(DELAYS_MS.len())]))
        }
        Action::HalfOpen => [
            LinkState::Frozen,
            LinkState::FrozenThere,
            LinkState::FrozenBack,
        ][pick(3)],
        _ => LinkState::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Vec<Named> {
        [Action::Kill, Action::Pause, Action::Cut]
            .map(|action| Named {
                action,
                kind: if action == Action::Cut {
                    "client-server"
                } else {
                    "server"
                }
                .to_owned(),
            })
            .to_vec()
    }

    #[test]
    fn a_seed_repeats_the_schedule() {
        let plan = |seed| Schedule::new(seed, faults()).take(50).collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn every_fault_has_its_turn_and_no_process_has_two_at_once() {
        let steps: Vec<_> = Schedule::new(3, faults()).take(30).collect();
        for fault in faults() {
            let all = steps.iter().flat_map(|step| &step.faults);
            assert!(
                all.filter(|planned| planned.named == fault).count() >= 8,
                "{}",
                fault.name()
            );
        }
        let is_double = |step: &&Step| step.faults.len() == 2;
        assert!(steps.iter().any(|step| is_double(&step)));
        for step in steps.iter().filter(is_double) {
            assert_ne!(step.faults[0].named.kind, step.faults[1].named.kind);
        }
    }
}
