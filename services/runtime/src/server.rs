//! A gRPC listener: accepts up to a bound, serves, and drains in time.
//!
//! The loop is ours and not tonic's, which bounds neither the number of connections, nor the time
//! that one may take to say its first word, nor the time that draining takes.

use std::{io, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{auth::AuthLayer, channel::PipeIncoming, shutdown::CancellationToken};

mod handler;
mod preface;
mod stage;

use handler::Handler;
use preface::Preface;
pub use stage::Stage;

/// Bytes of one request of a client, decoded. The largest names 500 ranges of
/// events, in 60 KB.
pub const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// Bytes of one request between services: a batch of records or pushes.
pub const INTERNAL_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that a client may have under way to us in one stream.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same for a connection. HTTP/2 counts small frames that are not read yet against half of it
/// and closes a connection that exceeds that, so it must be far above what honest clients pipeline.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that wait in a stream for a client that reads slowly; the service waits when it is full.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the headers of a request: a token and a few words.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The bounds of a listener.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Open connections; more are closed at once. Each holds a file descriptor and some 20 KB.
    pub connections_max: usize,
    /// Open streams of one connection.
    pub streams_per_connection_max: u32,
    /// A quiet connection is asked after this whether it lives.
    pub keepalive_interval: Duration,
    /// A connection that does not answer in this time is closed.
    pub keepalive_timeout: Duration,
    /// How long a connection may take to begin to speak HTTP/2.
    pub preface_timeout: Duration,
    /// How long a call may take to be answered (a stream: to begin). A shorter `grpc-timeout`
    /// counts.
    pub request_timeout: Duration,
    /// The same for calls to which the client streams, such as an upload; their services bound how long
    /// it may be silent meanwhile.
    pub streaming_timeout: Duration,
    /// How long open calls may take to end when the server stops; then they are cut.
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            streams_per_connection_max: 256,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            preface_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            streaming_timeout: Duration::from_secs(60 * 60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves `routes` behind `auth` until `stop`, then lets open calls end. Streams must be ended by
/// their services, which hear of `stop` too.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    auth: AuthLayer,
    config: ServerConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    serve_stage(listener, Stage::all(routes, &auth), config, stop).await
}

/// The same as [`serve`] for what is there later than its listener.
pub async fn serve_stage(
    listener: TcpListener,
    stage: Stage,
    config: ServerConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = Server::new(stage, config, &stop);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => server.accept(stream),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // Closed before draining, so that clients go elsewhere instead of waiting here.
    drop(listener);
    server.drain().await;
    Ok(())
}

/// The same as [`serve`] for the connections of a pipe.
pub async fn serve_pipe(
    incoming: PipeIncoming,
    routes: Routes,
    auth: AuthLayer,
    config: ServerConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = Server::new(Stage::all(routes, &auth), config, &stop);
    serve_incoming(&server, incoming, &stop).await;
    server.drain().await;
    Ok(())
}

async fn serve_incoming(
    server: &Server,
    mut incoming: impl Stream<Item = io::Result<DuplexStream>> + Unpin,
    stop: &CancellationToken,
) {
    while let Some(Some(Ok(stream))) = stop.run_until_cancelled(incoming.next()).await {
        server.accept(stream);
    }
}

/// Adds health and reflection for the services with these names, such as
/// `messenger.profile.v1.AccountService`, and says that they serve.
pub async fn add_standard(routes: &mut RoutesBuilder, services: &[&str]) -> HealthReporter {
    let reporter = HealthReporter::new();
    set_health(&reporter, services, ServingStatus::Serving).await;
    add_health(routes, &reporter);
    reporter
}

/// Says of services, and of the process as a whole, whether they serve.
pub async fn set_health(reporter: &HealthReporter, services: &[&str], status: ServingStatus) {
    reporter.set_service_status("", status).await;
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}

/// Adds what is told to `reporter` as the health service, and reflection.
pub fn add_health(routes: &mut RoutesBuilder, reporter: &HealthReporter) {
    let health = HealthService::from_health_reporter(reporter.clone());
    routes.add_service(HealthServer::new(health));
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The older one is what widespread versions of grpcurl ask for.
    match (descriptors().build_v1(), descriptors().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            routes.add_service(v1).add_service(v1alpha);
        }
        (Err(error), _) | (_, Err(error)) => {
            // Nothing but the offer to explore is missing.
            tracing::error!(%error, "no reflection");
        }
    }
}

struct Server {
    handler: Handler,
    builder: http2::Builder<TokioExecutor>,
    preface_timeout: Duration,
    drain_timeout: Duration,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    stop: CancellationToken,
    /// Cuts what did not end in time.
    cut: CancellationToken,
}

impl Server {
    fn new(stage: Stage, config: ServerConfig, stop: &CancellationToken) -> Self {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(config.streams_per_connection_max)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout)
            .auto_date_header(false);
        Self {
            handler: Handler::new(stage, config.request_timeout, config.streaming_timeout),
            builder,
            preface_timeout: config.preface_timeout,
            drain_timeout: config.drain_timeout,
            permits: Arc::new(Semaphore::new(config.connections_max)),
            connections: TaskTracker::new(),
            stop: stop.clone(),
            cut: CancellationToken::new(),
        }
    }

    fn accept<I: Transport>(&self, io: I) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            // Closed and not left waiting, so that the client tries another server.
            tracing::warn!("as many connections as may be are open: one more was closed");
            return;
        };
        if let Err(error) = io.prepare() {
            tracing::debug!(%error, "connection lost at once");
            return;
        }
        let io = TokioIo::new(Preface::new(io, self.preface_timeout));
        let connection = self.builder.serve_connection(io, self.handler.clone());
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.connections.spawn(async move {
            let _permit = permit;
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = stop.cancelled() => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    cut.run_until_cancelled(connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        });
    }

    async fn drain(self) {
        self.connections.close();
        let drained = tokio::time::timeout(self.drain_timeout, self.connections.wait()).await;
        if drained.is_err() {
            let left = self.connections.len();
            tracing::warn!(left, "connections did not end in time and are cut");
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

/// What a connection can be made of.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn prepare(&self) -> io::Result<()>;
}

impl Transport for TcpStream {
    fn prepare(&self) -> io::Result<()> {
        // Frames are small and somebody waits for each.
        self.set_nodelay(true)
    }
}

impl Transport for DuplexStream {
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
