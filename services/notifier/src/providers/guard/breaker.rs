//! When to leave a provider alone: a state machine without a clock and without chance of its own.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it: one or two are a connection that ended, which says nothing.
pub(super) const FAILURES_TO_OPEN: u32 = 5;
/// The first pause. Long enough for a restart of a load balancer.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause that nobody asked for: so much later than the provider comes back at most, pushes go
/// again.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause that a provider may ask for. It is obeyed, but a mistake of theirs must not stop
/// pushes for days.
pub(super) const AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Why a try counts against the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// It does not believe who we are, rather than being away.
    pub(super) unauthorized: bool,
    /// The pause that it asked for.
    pub(super) after: Option<Duration>,
    /// For the log.
    pub(super) why: String,
}

/// May a push go?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes.
    Go,
    /// Yes, and what comes of it decides for all.
    Probe,
    /// Not before this.
    Wait(Instant),
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is left alone from now on.
    Opened,
    /// It still does not work, for another reason than before.
    OtherReason,
    /// It works again.
    Closed,
}

/// Since when it is left alone, and why.
#[derive(Debug, Clone)]
pub(super) struct Open {
    until: Instant,
    pause: Duration,
    probing: bool,
    pub(super) since: Instant,
    pub(super) failure: Failure,
}

/// Of one origin.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    in_a_row: u32,
    pub(super) open: Option<Open>,
    /// Tries that had an answer of any kind, and those that had none, ever.
    pub(super) answered: u64,
    pub(super) failed: u64,
}

impl Breaker {
    /// Asks for a push. A probe must be told of by [`Self::answered`], [`Self::failed`] or
    /// [`Self::probe_lost`], which is asked for at the latest `probe_max` later.
    pub(super) fn admit(&mut self, now: Instant, probe_max: Duration) -> Admission {
        if let Some(until) = self.closed_until(now, probe_max) {
            return Admission::Wait(until);
        }
        match &mut self.open {
            None => Admission::Go,
            Some(open) => {
                open.probing = true;
                Admission::Probe
            }
        }
    }

    /// Until when no push may go; `None` = one may ask now.
    pub(super) fn closed_until(&self, now: Instant, probe_max: Duration) -> Option<Instant> {
        let open = self.open.as_ref()?;
        if now < open.until {
            return Some(open.until);
        }
        open.probing.then(|| now + probe_max)
    }

    /// A probe was given up without an answer.
    pub(super) fn probe_lost(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// There was an answer, whatever it says of the one device: the provider works.
    pub(super) fn answered(&mut self, probe: bool) -> Option<Change> {
        self.answered += 1;
        self.in_a_row = 0;
        // What was under way when it opened says nothing of now.
        if !probe {
            return None;
        }
        self.open.take().map(|_| Change::Closed)
    }

    /// There was none. `jitter` is around 1: not all processes come back at the same moment.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        probe: bool,
        failure: Failure,
        jitter: f64,
    ) -> Option<Change> {
        self.failed += 1;
        self.in_a_row = self.in_a_row.saturating_add(1);
        let asked = failure.after.map(|after| after.min(AFTER_MAX));
        let Some(open) = &mut self.open else {
            if self.in_a_row < FAILURES_TO_OPEN && asked.is_none() {
                return None;
            }
            self.open = Some(Open {
                until: now + PAUSE_MIN.mul_f64(jitter).max(asked.unwrap_or_default()),
                pause: PAUSE_MIN,
                probing: false,
                since: now,
                failure,
            });
            return Some(Change::Opened);
        };
        if probe {
            open.probing = false;
            open.pause = (open.pause * 2).min(PAUSE_MAX);
            // An answer to another one may have asked for more meanwhile.
            open.until = open.until.max(now + open.pause.mul_f64(jitter));
        }
        // Also what was under way when it opened may say for how long.
        if let Some(asked) = asked {
            open.until = open.until.max(now + asked);
        }
        let other = open.failure.unauthorized != failure.unauthorized;
        if probe || other {
            open.failure = failure;
        }
        other.then_some(Change::OtherReason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Answer(usize),
        Fail(usize, Option<u16>),
        Lose(usize),
        Pass(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let after = proptest::option::weighted(0.2, 0..5_000_u16);
        proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Ask),
                1 => any::<usize>().prop_map(Step::Answer),
                3 => (any::<usize>(), after).prop_map(|(i, after)| Step::Fail(i, after)),
                1 => any::<usize>().prop_map(Step::Lose),
                2 => (0..2_000_u16).prop_map(Step::Pass),
            ],
            1..300,
        )
    }

    proptest! {
        /// One probe at a time while it is open, none before the pause that was asked for has passed, and
        /// pushes go freely only after an answer to a probe.
        #[test]
        fn an_open_breaker_lets_one_probe_through_and_not_before_the_pause_that_was_asked_for(
            steps in steps(), jitter in 0.75..1.25_f64,
        ) {
            let mut breaker = Breaker::default();
            let mut now = Instant::now();
            // Those under way, and which of them are probes.
            let mut under_way: Vec<bool> = Vec::new();
            let mut not_before = now;
            for step in steps {
                let pick = |i: usize, under_way: &Vec<bool>| (!under_way.is_empty()).then(|| i % under_way.len());
                match step {
                    Step::Ask => match breaker.admit(now, Duration::from_secs(10)) {
                        Admission::Go => {
                            prop_assert!(breaker.open.is_none());
                            under_way.push(false);
                        }
                        Admission::Probe => {
                            prop_assert!(breaker.open.is_some());
                            prop_assert!(!under_way.contains(&true), "two probes at once");
                            prop_assert!(now >= not_before, "before the pause that was asked for");
                            under_way.push(true);
                        }
                        Admission::Wait(until) => {
                            prop_assert!(breaker.open.is_some());
                            prop_assert!(until > now);
                        }
                    },
                    Step::Answer(i) => if let Some(i) = pick(i, &under_way) {
                        let (probe, was_open) = (under_way.swap_remove(i), breaker.open.is_some());
                        let change = breaker.answered(probe);
                        prop_assert_eq!(breaker.open.is_some(), was_open && !probe);
                        prop_assert_eq!(change.is_some(), probe);
                        if probe { not_before = now; }
                    },
                    Step::Fail(i, after) => if let Some(i) = pick(i, &under_way) {
                        let probe = under_way.swap_remove(i);
                        let after = after.map(|ms| Duration::from_millis(ms.into()));
                        let failure = Failure { unauthorized: false, after, why: String::new() };
                        breaker.failed(now, probe, failure, jitter);
                        if let Some(after) = after {
                            prop_assert!(breaker.open.is_some(), "a pause that was asked for is kept");
                            not_before = not_before.max(now + after);
                        }
                    },
                    Step::Lose(i) => {
                        let lost = pick(i, &under_way).map(|i| under_way.swap_remove(i));
                        if lost == Some(true) { breaker.probe_lost(); }
                    }
                    Step::Pass(ms) => now += Duration::from_millis(ms.into()),
                }
            }
            // Whatever happened, it comes back: a probe may go at last.
            if under_way.contains(&true) { breaker.probe_lost(); }
            now += AFTER_MAX + PAUSE_MAX;
            let admission = breaker.admit(now, Duration::from_secs(10));
            prop_assert!(matches!(admission, Admission::Go | Admission::Probe), "{:?}", admission);
        }
    }

    #[test]
    fn the_pause_doubles_with_each_failed_probe_up_to_the_longest_one() {
        let failure = || Failure {
            unauthorized: false,
            after: None,
            why: String::new(),
        };
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(breaker.failed(now, false, failure(), 1.0), None);
        }
        assert_eq!(
            breaker.failed(now, false, failure(), 1.0),
            Some(Change::Opened)
        );
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let Admission::Wait(until) = breaker.admit(now, PAUSE_MAX) else {
                panic!("it is open");
            };
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(breaker.admit(now, PAUSE_MAX), Admission::Probe);
            assert_eq!(breaker.failed(now, true, failure(), 1.0), None);
        }
        let expected = [
            500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000,
        ];
        assert_eq!(pauses, expected);
    }
}
