//! What a session counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a session has done since it was started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Times that the session's task woke up because something happened, or was due.
    turns,
    /// Times that the session was opened.
    connects,
    /// Send frames written, retries included.
    sends,
    /// Sends that were answered with an ack.
    acks,
    /// Acks that said `duplicate`: the try before had arrived.
    acks_duplicate,
    /// Sends that were answered with an error that made them be tried again.
    sends_retried,
    /// Event frames that came by push.
    pushes,
    /// Events that were known already.
    events_repeated,
    /// Event frames that were let go because the app was slow; they were fetched later.
    events_shed,
    /// Resumes: reads of what changed after the device's version.
    resumes,
    /// ListChanges calls.
    changes_calls,
    /// ListEvents calls.
    events_calls,
    /// Times that the server said `lagging`.
    laggings,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
