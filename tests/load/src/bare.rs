//! The bare limit of fan-out: a tonic server that does nothing but write the frames of one stream to all
//! the others, as a process of its own, so that its CPU time can be told.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, StreamingService},
    transport::Server,
};

use crate::raw::BytesCodec;

/// Frames that may wait for a stream: as many as a session of the server may have.
const QUEUE_FRAMES: usize = 1_024;

/// A stream that frames are written to.
type FrameSender = mpsc::Sender<Result<Bytes, Status>>;

/// The streams that frames are written to.
#[derive(Clone, Default)]
struct FanOut {
    streams: Arc<Mutex<Vec<FrameSender>>>,
}

impl NamedService for FanOut {
    const NAME: &'static str = "messenger.messaging.v1.SessionService";
}

impl StreamingService<Bytes> for FanOut {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let streams = self.streams.clone();
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(QUEUE_FRAMES);
            let lock = || streams.lock().unwrap_or_else(PoisonError::into_inner);
            lock().push(sender);
            let mut frames = request.into_inner();
            let all = streams.clone();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = frames.next().await {
                    let to = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    for stream in to {
                        let _ = stream.send(Ok(frame.clone())).await;
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

impl Service<http::Request<Body>> for FanOut {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(BytesCodec).streaming(this, request).await) })
    }
}

/// Serves until the process is killed; prints its address first.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(FanOut::default())
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// The server, as a child that is killed with its handle.
pub(crate) struct Bare {
    child: Child,
    pub(crate) url: String,
}

impl Bare {
    /// Starts this program again as the bare server.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bare-server", "--threads", "2"])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let url = url.trim().to_owned();
        Ok(Self { child, url })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
