//! What stands between a reader and a provider: a rate, a number at once, and a breaker that leaves a
//! provider alone that does not work. Tries until there is an answer that decides.

use std::{borrow::Cow, collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{Quota, RateLimiter, clock::Clock as _, state::InMemoryState, state::NotKeyed};
use parking_lot::Mutex;
use runtime::{clock::Clock, shutdown::CancellationToken};
use serde::Deserialize;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

pub use self::stats::GuardStats;
use self::{
    breaker::{AFTER_MAX, Admission, Breaker, Change, Failure, PAUSE_MAX, PAUSE_MIN},
    stats::{Counters, count},
};
use crate::{
    limits::PUSH_DEADLINE,
    model::{ProviderKind, Target},
    push::{Alert, Origin, Outcome, Push, PushProvider},
};

mod breaker;
mod stats;

/// How long a device is left alone whose provider said that it has too many pushes, and not for how long.
const BUSY_PAUSE: Duration = Duration::from_secs(60);
/// How long a push is held that failed again and again while others were taken. It costs a record of the
/// log each time.
const ODD_PAUSE: Duration = Duration::from_secs(10 * 60);
/// How long a push waits at most for a provider that is away; then it is held as long, so that those behind
/// it have their turn: it may be the only one that the provider does not answer.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a push may wait for its provider and then go as it was decided, unless it is the one that tries
/// whether the provider works again: meanwhile it may have been read, or more may have come.
pub(crate) const FRESH_MAX: Duration = Duration::from_secs(10);
/// Failures in a row of one push, each while nearly all others were answered, until it is held: it must not
/// stop those behind it for what only it meets. With the pauses between them about 15 s.
const ODD_TRIES_MAX: u32 = 6;
/// Answers to others between two tries of a push that mean that the provider works.
const OTHERS_MIN: u64 = 10;
/// Tries of a push whose origin is not awaited, before it is held.
const TRIES_NOT_AWAITED_MAX: u32 = 3;
/// Origins that are remembered at the same time, beside the awaited ones. Microsoft has some dozens; more
/// share one memory.
const ORIGINS_MAX: usize = 64;
/// How long an answer is waited for when the process ends: without it, the push comes again.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// After this a provider that should have ended by itself is given up.
const PUSH_ABANDONED: Duration = PUSH_DEADLINE.saturating_mul(2);

/// The settings of a guard.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Pushes that this process sends a second, sustained and at once.
    pub pushes_per_second: NonZeroU32,
    /// Pushes of this process whose answer is waited for at the same time. Providers take hundreds of
    /// requests on a connection; theirs take 50 to 200 ms each.
    pub at_once_max: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            pushes_per_second: number(2_000),
            at_once_max: number(256),
        }
    }
}

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It will be delivered.
    Taken,
    /// The device is not there any more: its target is to be forgotten.
    Gone,
    /// It will never be taken, for the reason named.
    Refused(String),
    /// It will never be taken: more bytes than the provider takes, also without its body.
    TooLarge,
    /// Not now: it is to come again this much later.
    BusyUntil(Duration),
    /// It is too late for it.
    Expired,
    /// It has waited for a provider that was away: whether it is wanted still has to be asked.
    Old,
    /// The process ends. Whether it was taken is not known.
    Stopped,
}

/// An origin that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Which; empty if the provider has one.
    pub origin: String,
    /// For how long already.
    pub for_duration: Duration,
    /// It does not believe who we are: an operator must change the settings.
    pub unauthorized: bool,
    /// What happened last.
    pub why: String,
}

/// One origin of the provider.
#[derive(Debug)]
struct Lane {
    name: String,
    awaited: bool,
    breaker: Mutex<Breaker>,
    /// The breaker has changed.
    changed: Notify,
}

/// Time as tokio has it, which tests can hold.
#[derive(Debug, Clone, Copy, Default)]
struct TokioClock;

impl governor::clock::Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

/// A provider that is treated well. One in a process for each provider; all readers share it.
pub struct Guard {
    provider: Arc<dyn PushProvider>,
    clock: Arc<dyn Clock>,
    rate: RateLimiter<NotKeyed, InMemoryState, TokioClock>,
    slots: Semaphore,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    counters: Counters,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guard").field(&self.kind().name()).finish()
    }
}

/// The right to try once. A probe that ends without a word gives its place to another.
struct Turn<'g> {
    _slot: SemaphorePermit<'g>,
    lane: &'g Lane,
    probe: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.lane.breaker.lock().probe_lost();
            self.lane.changed.notify_waiters();
        }
    }
}

/// What one push has met.
#[derive(Debug)]
struct Tries {
    began: Instant,
    failed: u32,
    /// In a row, while others were answered.
    odd: u32,
    others_answered: u64,
    others_failed: u64,
}

impl Guard {
    /// Guards a provider.
    pub fn new(provider: Arc<dyn PushProvider>, config: &Config, clock: Arc<dyn Clock>) -> Self {
        let at_once = usize::try_from(config.at_once_max.get()).unwrap_or(usize::MAX);
        Self {
            provider,
            clock,
            rate: RateLimiter::direct_with_clock(
                Quota::per_second(config.pushes_per_second),
                TokioClock,
            ),
            slots: Semaphore::new(at_once.min(Semaphore::MAX_PERMITS)),
            lanes: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Whom it guards.
    pub fn kind(&self) -> ProviderKind {
        self.provider.kind()
    }

    /// Tries until the answer decides. While the provider is away it waits up to a quarter of an hour: the
    /// record stays in the log meanwhile, and whoever calls bounds how many wait.
    pub async fn settle(&self, target: &Target, push: &Push, stop: &CancellationToken) -> Settled {
        let settled = self.until_decided(target, push, stop).await;
        self.counters.settled(&settled);
        settled
    }

    /// What is left alone now.
    pub fn away(&self) -> Vec<Away> {
        let lanes: Vec<Arc<Lane>> = self.lanes.lock().values().cloned().collect();
        let away = lanes.iter().filter_map(|lane| {
            let breaker = lane.breaker.lock();
            let open = breaker.open.as_ref()?;
            Some(Away {
                origin: lane.name.clone(),
                for_duration: open.since.elapsed(),
                unauthorized: open.failure.unauthorized,
                why: open.failure.why.clone(),
            })
        });
        away.collect()
    }

    /// No origin that pushes wait for is left alone.
    pub fn is_healthy(&self) -> bool {
        let lanes = self.lanes.lock();
        let mut awaited = lanes.values().filter(|lane| lane.awaited);
        awaited.all(|lane| lane.breaker.lock().open.is_none())
    }

    /// What happened so far.
    pub fn stats(&self) -> GuardStats {
        self.counters.read()
    }

    async fn until_decided(
        &self,
        target: &Target,
        push: &Push,
        stop: &CancellationToken,
    ) -> Settled {
        let lane = self.lane(self.provider.origin(target));
        let mut push = Cow::Borrowed(push);
        let mut tries = Tries::begin(&lane);
        let expired = tokio::time::sleep(self.time_left(&push));
        let waited_enough = tokio::time::sleep(WAIT_MAX);
        tokio::pin!(expired, waited_enough);
        loop {
            let waits_since = Instant::now();
            let turn = tokio::select! {
                biased;
                () = stop.cancelled() => return Settled::Stopped,
                () = &mut expired => return Settled::Expired,
                turn = self.turn(&lane) => turn,
                () = &mut waited_enough => return Settled::BusyUntil(WAIT_MAX),
            };
            let mut turn = match turn {
                Ok(turn) => turn,
                Err(pause) => return Settled::BusyUntil(pause),
            };
            if !turn.probe && waits_since.elapsed() >= FRESH_MAX {
                return Settled::Old;
            }
            let Some(outcome) = self.try_once(target, &push, stop).await else {
                return Settled::Stopped;
            };
            let failure = match outcome {
                Outcome::Unavailable { after, why } => Failure {
                    unauthorized: false,
                    after,
                    why,
                },
                Outcome::Unauthorized(why) => Failure {
                    unauthorized: true,
                    after: None,
                    why,
                },
                answer => {
                    self.answered(&mut turn);
                    let smaller = (answer == Outcome::TooLarge).then(|| without_body(&push));
                    match smaller.flatten() {
                        Some(smaller) => push = Cow::Owned(smaller),
                        None => return settled(answer),
                    }
                    continue;
                }
            };
            self.failed(&mut turn, failure);
            drop(turn);
            if let Some(pause) = tries.held(&lane) {
                return Settled::BusyUntil(pause);
            }
            if tries.began.elapsed() >= WAIT_MAX {
                return Settled::BusyUntil(WAIT_MAX);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Settled::Stopped,
                () = &mut expired => return Settled::Expired,
                () = tokio::time::sleep(tries.pause().mul_f64(jitter())) => {}
            }
        }
    }

    /// One try; `None` if the process ends and no answer came in time.
    async fn try_once(
        &self,
        target: &Target,
        push: &Push,
        stop: &CancellationToken,
    ) -> Option<Outcome> {
        count(&self.counters.tries);
        let answer = tokio::time::timeout(PUSH_ABANDONED, self.provider.push(target, push));
        tokio::pin!(answer);
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = stop.cancelled() => {
                tokio::time::timeout(STOP_PATIENCE, answer).await.ok()?
            }
        };
        Some(answer.unwrap_or_else(|_| Outcome::Unavailable {
            after: None,
            why: "the try did not end".to_owned(),
        }))
    }

    /// Waits for the right to try. Answers for how long not, if the origin is left alone and is not awaited.
    async fn turn<'g>(&'g self, lane: &'g Lane) -> Result<Turn<'g>, Duration> {
        loop {
            lane.admitted().await?;
            let slot = match self.slots.acquire().await {
                Ok(slot) => slot,
                // Never closed.
                Err(_) => std::future::pending().await,
            };
            while let Err(not_until) = self.rate.check() {
                tokio::time::sleep(not_until.wait_time_from(TokioClock.now())).await;
            }
            // Asked again: it may have been left alone while this waited, and a probe begins here.
            let admission = lane.breaker.lock().admit(Instant::now(), PUSH_ABANDONED);
            let probe = match admission {
                Admission::Go => false,
                Admission::Probe => true,
                Admission::Wait(_) => continue,
            };
            return Ok(Turn {
                _slot: slot,
                lane,
                probe,
            });
        }
    }

    fn answered(&self, turn: &mut Turn<'_>) {
        let change = turn.lane.breaker.lock().answered(turn.probe);
        turn.probe = false;
        if change == Some(Change::Closed) {
            turn.lane.changed.notify_waiters();
            let (provider, origin) = (self.kind().name(), turn.lane.name.as_str());
            tracing::info!(provider, origin, "the push provider works again");
        }
    }

    fn failed(&self, turn: &mut Turn<'_>, failure: Failure) {
        count(&self.counters.failed);
        let (unauthorized, why) = (failure.unauthorized, failure.why.clone());
        let now = Instant::now();
        let change = turn
            .lane
            .breaker
            .lock()
            .failed(now, turn.probe, failure, jitter());
        turn.probe = false;
        turn.lane.changed.notify_waiters();
        if change == Some(Change::Opened) {
            count(&self.counters.opened);
        }
        let (provider, origin) = (self.kind().name(), turn.lane.name.as_str());
        match change {
            Some(_) if unauthorized => {
                tracing::error!(provider, origin, %why, "the push provider does not believe who we are");
            }
            Some(_) => {
                tracing::warn!(provider, origin, %why, "the push provider is left alone");
            }
            None => {}
        }
    }

    fn time_left(&self, push: &Push) -> Duration {
        let left_ms = push
            .expires_unix_ms
            .saturating_sub(self.clock.now_unix_ms());
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }

    /// What is known of an origin.
    fn lane(&self, origin: Origin<'_>) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(origin.name) {
            return lane.clone();
        }
        let mut name = origin.name;
        if !origin.awaited && lanes.values().filter(|lane| !lane.awaited).count() >= ORIGINS_MAX {
            // Nobody uses it now; what is forgotten with it is learned again.
            let unused = lanes
                .iter()
                .find(|(_, lane)| !lane.awaited && Arc::strong_count(lane) == 1)
                .map(|(name, _)| name.clone());
            match unused {
                Some(unused) => drop(lanes.remove(&unused)),
                None => name = "others",
            }
        }
        let lane = lanes.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Lane {
                name: name.to_owned(),
                awaited: origin.awaited,
                breaker: Mutex::default(),
                changed: Notify::new(),
            })
        });
        lane.clone()
    }
}

impl Lane {
    /// Waits until a push may go; answers for how long not, if that is not waited for.
    async fn admitted(&self) -> Result<(), Duration> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let now = Instant::now();
            let Some(until) = self.breaker.lock().closed_until(now, PUSH_ABANDONED) else {
                return Ok(());
            };
            if !self.awaited {
                return Err((until - now).max(PAUSE_MIN));
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

impl Tries {
    fn begin(lane: &Lane) -> Self {
        let breaker = lane.breaker.lock();
        Self {
            others_answered: breaker.answered,
            others_failed: breaker.failed,
            began: Instant::now(),
            failed: 0,
            odd: 0,
        }
    }

    /// One more has failed. Answers for how long the push is to be held, if it is not tried again.
    fn held(&mut self, lane: &Lane) -> Option<Duration> {
        let breaker = lane.breaker.lock();
        let (answered, failed) = (
            breaker.answered - self.others_answered,
            // This one is among them.
            (breaker.failed - self.others_failed).saturating_sub(1),
        );
        (self.others_answered, self.others_failed) = (breaker.answered, breaker.failed);
        self.failed += 1;
        let works = answered >= OTHERS_MIN && failed.saturating_mul(10) <= answered;
        self.odd = if works { self.odd + 1 } else { 0 };
        if self.odd >= ODD_TRIES_MAX {
            return Some(ODD_PAUSE);
        }
        (!lane.awaited && self.failed >= TRIES_NOT_AWAITED_MAX).then_some(BUSY_PAUSE)
    }

    /// Before the next one.
    fn pause(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failed.saturating_sub(1));
        PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
    }
}

/// What an answer means, which is neither of those that are tried again.
fn settled(answer: Outcome) -> Settled {
    match answer {
        Outcome::Taken => Settled::Taken,
        Outcome::Gone => Settled::Gone,
        Outcome::Refused(why) => Settled::Refused(why),
        Outcome::TooLarge => Settled::TooLarge,
        Outcome::TargetBusy { after } => {
            let after = after.unwrap_or(BUSY_PAUSE);
            Settled::BusyUntil(after.clamp(Duration::from_secs(1), AFTER_MAX))
        }
        Outcome::Unauthorized(_) | Outcome::Unavailable { .. } => Settled::BusyUntil(BUSY_PAUSE),
    }
}

/// The same without its body, if it has one.
fn without_body(push: &Push) -> Option<Push> {
    let alert = push.alert.as_ref().filter(|alert| !alert.body.is_empty())?;
    let alert = Alert {
        body: String::new(),
        ..alert.clone()
    };
    Some(Push {
        alert: Some(alert),
        ..push.clone()
    })
}

/// Around 1: what waited for the same thing does not come back at the same moment.
fn jitter() -> f64 {
    rand::random_range(0.75..1.25)
}

#[cfg(test)]
mod tests;
