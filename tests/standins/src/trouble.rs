//! Misbehaviour on demand.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

/// What goes wrong with a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It is not taken, with this status, the provider's word for it, and a header `retry-after`.
    Status(u16, &'static str, Option<u32>),
    /// It is taken, and the stream is reset instead of an answer.
    TakenUnanswered,
    /// It is taken, and the stream is reset after the headers of the answer.
    CutOff,
    /// It is not taken, and its stream is refused: whoever sent it may send it again at once.
    RefusedStream,
    /// It is answered as usual, and the connection takes no more (GOAWAY).
    GoAway,
    /// It is taken, and the connection is closed before the answer.
    Disconnect,
    /// It is answered as usual, so much later.
    Slow(Duration),
}

/// Which pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// So many of the next ones.
    Next(usize),
    /// All that go to this token.
    Token(String),
    /// All.
    All,
}

/// How long answers take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delays {
    /// Of most.
    pub usual: Duration,
    /// Of some.
    pub slow: Duration,
    /// Of how many in a thousand.
    pub slow_per_mille: u32,
}

impl Delays {
    pub(crate) fn draw(&self) -> Duration {
        let slow = self.slow_per_mille > 0 && rand::random_range(0..1_000) < self.slow_per_mille;
        if slow { self.slow } else { self.usual }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Troubles {
    planned: Mutex<Vec<(Scope, Trouble)>>,
    /// So that the usual case takes no lock.
    count: AtomicUsize,
}

impl Troubles {
    pub(crate) fn plan(&self, scope: Scope, trouble: Trouble) {
        let mut planned = self.planned.lock();
        planned.push((scope, trouble));
        self.count.store(planned.len(), Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        let mut planned = self.planned.lock();
        planned.clear();
        self.count.store(0, Ordering::SeqCst);
    }

    pub(crate) fn of(&self, token: &str) -> Option<Trouble> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut planned = self.planned.lock();
        let at = planned.iter().position(|(scope, _)| match scope {
            Scope::Next(left) => *left > 0,
            Scope::Token(named) => named == token,
            Scope::All => true,
        })?;
        let (scope, trouble) = &mut planned[at];
        let trouble = trouble.clone();
        if let Scope::Next(left) = scope {
            *left -= 1;
            if *left == 0 {
                planned.remove(at);
                self.count.store(planned.len(), Ordering::SeqCst);
            }
        }
        Some(trouble)
    }
}
