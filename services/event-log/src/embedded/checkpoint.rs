//! Moving the WAL into the file, out of the way of appends.
//!
//! A thread of its own does most of it while the writer goes on. It cannot end it: the WAL starts
//! anew only when all of it was moved, and the writer adds to it all the time. So, when little is
//! left, the thread asks the writer to move that little between two commits. A WAL that grows past
//! a hard bound all the same is moved by the writer alone.
//!
//! Two connections that checkpoint and write one WAL need SQLite 3.51.3 or later: before, it could
//! lose commits at the moment that the WAL starts anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::{Shared, file};

/// Bytes of appends after which the thread is asked to move the WAL.
pub(super) const EVERY_BYTES: u64 = 8 * 1024 * 1024;
/// Size of the WAL at which the writer itself moves it, whatever that does to the appends that
/// wait.
pub(super) const WAL_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Frames that the writer may be asked to move: about a millisecond of its time.
const REST_FRAMES_MAX: i64 = 128;
/// How often the thread tries to catch up with the writer at once.
const ROUNDS_MAX: usize = 8;

#[derive(Default)]
struct State {
    asked: bool,
    ended: bool,
}

/// What the writer and the thread tell each other.
#[derive(Default)]
pub(super) struct Checkpoint {
    state: Mutex<State>,
    wake: Condvar,
    /// Held while one of them moves the WAL.
    moving: Mutex<()>,
    rest_is_small: AtomicBool,
}

impl Checkpoint {
    /// Asks the thread to move the WAL.
    pub(super) fn ask(&self) {
        self.state.lock().asked = true;
        self.wake.notify_one();
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.wake.notify_one();
    }

    /// Whether the writer is to move the rest now.
    pub(super) fn rest_is_small(&self) -> bool {
        self.rest_is_small.load(Ordering::Relaxed)
            && self.rest_is_small.swap(false, Ordering::Relaxed)
    }

    /// Moves what can be moved, after whoever does so now.
    pub(super) fn run(&self, connection: &Connection) -> Result<file::WalFrames, rusqlite::Error> {
        let _moving = self.moving.lock();
        file::checkpoint(connection)
    }

    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.asked && !state.ended {
            self.wake.wait(&mut state);
        }
        state.asked = false;
        !state.ended
    }
}

/// Starts the thread.
pub(super) fn start(
    connection: Connection,
    shared: Arc<Shared>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let work = move || {
        while shared.checkpoint.wait() {
            if let Err(error) = round(&connection, &shared) {
                // The writer takes over at the bound.
                tracing::warn!(%error, "the log's WAL could not be moved");
            }
        }
    };
    thread::Builder::new()
        .name("log-checkpoint".to_owned())
        .spawn(work)
}

fn round(connection: &Connection, shared: &Shared) -> Result<(), rusqlite::Error> {
    for _ in 0..ROUNDS_MAX {
        let frames = shared.checkpoint.run(connection)?;
        if frames.all - frames.moved <= REST_FRAMES_MAX {
            shared
                .checkpoint
                .rest_is_small
                .store(true, Ordering::Relaxed);
            shared.queue.poke();
            return Ok(());
        }
    }
    Ok(())
}
