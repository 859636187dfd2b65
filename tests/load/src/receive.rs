//! Sessions that receive: they count what comes, and time every so many of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use proto::messaging::v1::{Delivered, Read, Watermark, client_frame};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    drive::{Phase, Run},
    raw::{self, Kind, RawWire},
    wire,
};

/// Of so many events, one is decoded and timed, and its watermark told: decoding all of them would
/// measure this program.
const TIMED_EVERY: u64 = 16;
/// How often a session says that it is there, and what it holds.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What the user of a receiving session does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// The device holds it, and says so with its heartbeats.
    Hold,
    /// The user reads each message at once.
    Read,
}

/// What comes to a receiving session besides events.
pub(crate) type Answers = mpsc::UnboundedSender<Bytes>;

/// What all receiving sessions have counted.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Events of the whole run.
    pub(crate) events: AtomicU64,
    /// Events of the measured phase.
    pub(crate) measured: AtomicU64,
}

/// Takes what comes to a session, until `ended`. Answers to requests go to `answers`.
pub(crate) async fn receive(
    run: Arc<Run>,
    received: Arc<Received>,
    wire: RawWire,
    answers: Option<Answers>,
    habit: Habit,
) {
    let ended = run.ended.clone();
    let RawWire { sender, mut frames } = wire;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.tick().await;
    let mut count = 0;
    let mut newest = None;
    loop {
        tokio::select! {
            biased;
            frame = next(&mut frames) => {
                let Some(frame) = frame else {
                    return run.error("session ended");
                };
                match raw::kind(&frame) {
                    Kind::Event => {
                        count += 1;
                        received.events.fetch_add(1, Ordering::Relaxed);
                        if run.is(Phase::Measured) {
                            received.measured.fetch_add(1, Ordering::Relaxed);
                        }
                        if count % TIMED_EVERY == 0 || habit == Habit::Read {
                            newest = time(&run, frame).or(newest);
                        }
                        if habit == Habit::Read && let Some(held) = newest.take() {
                            let read = client_frame::Frame::Read(Read {
                                conversation_id: held.conversation_id,
                                up_to: held.up_to,
                            });
                            let _ = sender.try_send(raw::encode(0, read));
                        }
                    }
                    Kind::Answer => {
                        if let Some(answers) = &answers {
                            let _ = answers.send(frame);
                        }
                    }
                    Kind::Other => {}
                }
            }
            _ = heartbeat.tick() => {
                let frame = match newest.take() {
                    Some(delivered) => client_frame::Frame::Delivered(delivered),
                    None => client_frame::Frame::Heartbeat(Default::default()),
                };
                let _ = sender.try_send(raw::encode(0, frame));
            }
            () = ended.cancelled() => return,
        }
    }
}

async fn next(frames: &mut Streaming<Bytes>) -> Option<Bytes> {
    frames.next().await?.ok()
}

/// Records how long the event took; answers what the device now holds.
fn time(run: &Run, frame: Bytes) -> Option<Delivered> {
    let event = raw::event(frame)?;
    let sent_nanos = raw::sent_nanos(&event)?;
    if run.is(Phase::Measured) {
        let nanos = wire::now_nanos().saturating_sub(sent_nanos);
        run.counts().delivery.record(nanos);
    }
    Some(Delivered {
        conversation_id: event.conversation_id,
        up_to: Some(Watermark {
            seq: event.seq,
            message_index: event.message_index,
        }),
    })
}
