//! A listener for browsers and what stands before servers: HTTP/1.1, bounded in connections and in patience.
//! Newer versions are spoken by whoever ends TLS before it.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::task::TaskTracker;

use crate::shutdown::CancellationToken;

/// Pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long a client may take for the head of a request, and be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may leave bytes unread, or be silent in the middle of an upload, before the
/// connection is closed: a hand that covers the antenna, and no more.
const STALLED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long open requests may take to end when the process stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the head of a request: a token, a receipt and a few words.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Serves until `stop`, then lets what is open end.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    connections_max: usize,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let permits = Arc::new(Semaphore::new(connections_max));
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!("as many connections as may be are open: one more was closed");
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(STALLED_TIMEOUT));
        stream.set_write_timeout(Some(STALLED_TIMEOUT));
        let connection = builder.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let (stop, cut) = (stop.clone(), cut.clone());
        connections.spawn(async move {
            let _permit = permit;
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    cut.run_until_cancelled(connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait())
        .await
        .is_err()
    {
        cut.cancel();
        connections.wait().await;
    }
}
