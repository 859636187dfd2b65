//! Ends a connection that does not begin to speak.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// Bytes of the fixed text that each HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;

/// A transport whose first bytes must come in time. Afterwards it costs nothing.
pub(super) struct Preface<I> {
    io: I,
    waiting: Option<Waiting>,
}

struct Waiting {
    missing_bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<I> Preface<I> {
    pub(super) fn new(io: I, timeout: Duration) -> Self {
        Self {
            io,
            waiting: Some(Waiting {
                missing_bytes: PREFACE_BYTES,
                deadline: Box::pin(tokio::time::sleep(timeout)),
            }),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Preface<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Some(waiting) = &mut this.waiting {
            let bytes = buffer.filled().len().saturating_sub(before);
            waiting.missing_bytes = waiting.missing_bytes.saturating_sub(bytes);
            if waiting.missing_bytes == 0 {
                this.waiting = None;
            } else if waiting.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Preface<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
