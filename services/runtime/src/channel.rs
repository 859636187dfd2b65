//! Channels from one service to another: over TCP, or in memory inside of one process.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::{
    io::DuplexStream,
    net::TcpStream,
    sync::mpsc::{self, error::SendTimeoutError},
    time::timeout,
};
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes under way in each direction of a pipe before the writer waits: a few batches of frames.
const PIPE_BYTES: usize = 64 * 1024;
/// Pipes that wait to be accepted.
const PIPES_WAITING_MAX: usize = 16;
/// How long a connection may take to be made: far above what it takes within a region, and short
/// enough to try the next replica while somebody still waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection is asked whether it lives, so that a peer that vanished without a word is noticed
/// while those who wait for it still do.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
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

/// A channel to one of the replicas of a service, whose addresses are `host:port`. It has one
/// connection, which is made at the first call and made again after it was lost: to the next replica
/// that takes it, of all the addresses that the names stand for by then. So it works as long as one
/// replica does. Where load is to be spread over replicas, make several; each begins at another one.
///
/// Two times bound how long a replica that vanished without a word is waited for: about 8 s.
pub fn replicas(addresses: Vec<String>) -> Channel {
    let addresses: Arc<[String]> = addresses.into();
    let next = Arc::new(AtomicUsize::new(rand::rng().random_range(0..1 << 16)));
    let connector = tower::service_fn(move |_: Uri| {
        let (addresses, next) = (addresses.clone(), next.clone());
        async move { connect(&addresses, &next).await.map(TokioIo::new) }
    });
    windows(Endpoint::from_static("http://service.internal"))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// A channel to one server, by its address alone.
pub fn tcp(uri: Uri) -> Channel {
    replicas(
        uri.authority()
            .map(ToString::to_string)
            .into_iter()
            .collect(),
    )
}

/// Connects to the first replica that takes it, from the next one on.
async fn connect(addresses: &[String], next: &AtomicUsize) -> io::Result<TcpStream> {
    let resolved = resolve(addresses).await?;
    let first = next.fetch_add(1, Ordering::Relaxed);
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for at in 0..resolved.len() {
        let address = resolved[(first + at) % resolved.len()];
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(refused)) => error = refused,
            Err(elapsed) => error = elapsed.into(),
        }
    }
    Err(error)
}

/// All addresses that the names stand for, each name's in a fixed order.
async fn resolve(names: &[String]) -> io::Result<Vec<SocketAddr>> {
    let mut resolved = Vec::with_capacity(names.len());
    let mut error = None;
    for name in names {
        match timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(name)).await {
            Ok(Ok(found)) => resolved.extend(found),
            Ok(Err(failed)) => error = Some(failed),
            Err(elapsed) => error = Some(elapsed.into()),
        }
    }
    match error {
        // One name that is known is enough.
        Some(error) if resolved.is_empty() => Err(error),
        _ => {
            resolved.sort_unstable();
            resolved.dedup();
            Ok(resolved)
        }
    }
}

fn windows(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}
