//! Channels from one service to another: over TCP, or in memory inside of one process.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::mpsc::{self, error::SendTimeoutError},
};
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes under way in each direction of a pipe before the writer waits: a few batches of frames.
const PIPE_BYTES: usize = 64 * 1024;
/// Pipes that wait to be accepted.
const PIPES_WAITING_MAX: usize = 16;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A quiet connection is asked whether it lives, so that a peer that vanished is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that may be under way to us in one stream: one large batch of pushes.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The two ends of a listener that exists in this process only.
pub fn pipe() -> (PipeConnector, PipeIncoming) {
    let (connect, incoming) = mpsc::channel(PIPES_WAITING_MAX);
    (PipeConnector { connect }, PipeIncoming { incoming })
}

/// Makes channels to the server at the other end.
#[derive(Debug, Clone)]
pub struct PipeConnector {
    connect: mpsc::Sender<DuplexStream>,
}

impl PipeConnector {
    /// A channel with a connection of its own, which is made at the first call and made again after
    /// it was lost. One connection has one lock: make several where two parts exchange much.
    pub fn channel(&self) -> Channel {
        let connect = self.connect.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let connect = connect.clone();
            async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                match connect.send_timeout(far, CONNECT_TIMEOUT).await {
                    Ok(()) => Ok(TokioIo::new(near)),
                    Err(SendTimeoutError::Timeout(_)) => Err(io::ErrorKind::TimedOut.into()),
                    Err(SendTimeoutError::Closed(_)) => {
                        Err(io::Error::from(io::ErrorKind::ConnectionRefused))
                    }
                }
            }
        });
        windows(Endpoint::from_static("http://pipe.internal"))
            .connect_with_connector_lazy(connector)
    }
}

/// The connections that arrive through a pipe.
#[derive(Debug)]
pub struct PipeIncoming {
    incoming: mpsc::Receiver<DuplexStream>,
}

impl Stream for PipeIncoming {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx).map(|next| next.map(Ok))
    }
}

/// A channel over TCP, connected at the first call, and again after the connection was lost.
pub fn tcp(uri: Uri) -> Channel {
    windows(Endpoint::from(uri))
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_lazy()
}

fn windows(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}
