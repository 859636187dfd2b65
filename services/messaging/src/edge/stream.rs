//! The stream of one session: reads the device's frames and writes the session's, in the task of the
//! connection. It is polled when the device may be written to, so a device that does not read is not
//! read from either.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    state::{InMemoryState, NotKeyed},
};
use proto::{
    error::v1::ErrorReason,
    messaging::v1::{ClientFrame, client_frame::Frame},
};
use runtime::status::ApiError;
use tonic::{Code, Status, Streaming};

use super::{
    Edge,
    session::{Session, error_frame},
};
use crate::limits::FRAMES_PER_TURN;

/// A session from its edge's side.
pub(crate) struct SessionStream {
    edge: Arc<Edge>,
    session: Arc<Session>,
    inbound: Option<Streaming<ClientFrame>>,
    /// What the last frame waits for; the next ones wait behind it, so that none overtakes it.
    waiting: Option<BoxFuture<'static, ()>>,
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock>,
}

impl SessionStream {
    pub(super) fn new(
        edge: Arc<Edge>,
        session: Arc<Session>,
        inbound: Streaming<ClientFrame>,
    ) -> Self {
        let config = &edge.config;
        let quota =
            Quota::per_second(config.session_frames_per_second).allow_burst(config.session_burst);
        let limiter = RateLimiter::direct_with_clock(quota, MonotonicClock);
        Self {
            edge,
            session,
            inbound: Some(inbound),
            waiting: None,
            limiter,
        }
    }

    /// Reads frames while there are any; answers whether there may be more at once.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            if let Some(waiting) = &mut self.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.waiting = None;
            }
            let Some(inbound) = &mut self.inbound else {
                return false;
            };
            if self.session.is_full() {
                return false;
            }
            match Pin::new(inbound).poll_next(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some(Ok(frame))) => self.frame(frame),
                Poll::Ready(Some(Err(status))) => {
                    self.inbound = None;
                    self.session.end(read_error(&status));
                }
                Poll::Ready(None) => {
                    self.inbound = None;
                    self.session.half_closed();
                }
            }
        }
        true
    }

    fn frame(&mut self, frame: ClientFrame) {
        self.session.heard();
        let request_id = frame.request_id;
        if let Err(early) = self.limiter.check() {
            let wait = early.wait_time_from(MonotonicClock.now());
            let error =
                ApiError::retry_after(ErrorReason::RateLimited, "too many frames a second", wait);
            self.edge.refuse(&self.session, frame, &error);
            return;
        }
        if self.session.is_new() && !matches!(frame.frame, Some(Frame::Hello(_))) {
            self.session.end(ApiError::new(
                ErrorReason::HelloRequired,
                "the first frame of a session is hello",
            ));
            self.inbound = None;
            return;
        }
        match self.edge.handle(&self.session, frame) {
            Ok(waiting) => self.waiting = waiting,
            Err(error) => self.session.answer(error_frame(request_id, &error, None)),
        }
    }
}

impl Stream for SessionStream {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let more = this.read(cx);
        match this.session.poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Status::from))),
            Poll::Pending => {
                if more {
                    // The turn is over, not the input.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.edge.closed(&self.session);
    }
}

fn read_error(status: &Status) -> ApiError {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => ApiError::new(
            ErrorReason::FrameTooLarge,
            format!(
                "a frame has at most {} bytes",
                crate::limits::FRAME_BYTES_MAX
            ),
        ),
        Code::Internal | Code::InvalidArgument => {
            ApiError::new(ErrorReason::FrameUnknown, "the frame cannot be decoded")
        }
        // The connection broke; nobody reads this.
        _ => ApiError::new(ErrorReason::Unavailable, "the stream broke"),
    }
}
