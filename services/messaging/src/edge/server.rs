//! `SessionService` by hand: the generated server would encode a frame once for every device that it
//! goes to. This one takes frames that are encoded already, and keeps its buffers small.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use futures_util::future::BoxFuture;
use proto::messaging::v1::ClientFrame;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstDecoder;
use tower::Service;

use super::{Edge, stream::SessionStream};
use crate::limits::FRAME_BYTES_MAX;

/// First size of a session's buffers, which grow when they are used: idle sessions are many.
const BUFFER_BYTES: usize = 512;
/// Frames that are ready go out together, up to this.
const YIELD_BYTES: usize = 32 * 1024;

/// Frames that are encoded already.
#[derive(Debug, Clone, Copy, Default)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Bytes;
    type Decode = ClientFrame;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<ClientFrame>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}

#[derive(Debug, Clone, Copy)]
struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(frame);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// The server of `messenger.messaging.v1.SessionService`.
#[derive(Clone)]
pub(crate) struct SessionServer {
    edge: Arc<Edge>,
}

impl SessionServer {
    pub(crate) const fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }
}

impl NamedService for SessionServer {
    const NAME: &'static str = "messenger.messaging.v1.SessionService";
}

struct OpenSession(Arc<Edge>);

impl StreamingService<ClientFrame> for OpenSession {
    type Response = Bytes;
    type ResponseStream = SessionStream;
    type Future = BoxFuture<'static, Result<Response<SessionStream>, Status>>;

    fn call(&mut self, request: Request<tonic::Streaming<ClientFrame>>) -> Self::Future {
        let edge = self.0.clone();
        Box::pin(async move { Ok(Response::new(edge.open_stream(request)?)) })
    }
}

impl Service<http::Request<Body>> for SessionServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/messenger.messaging.v1.SessionService/Session" {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let edge = self.edge.clone();
        Box::pin(async move {
            let mut grpc =
                Grpc::new(FrameCodec).apply_max_message_size_config(Some(FRAME_BYTES_MAX), None);
            Ok(grpc.streaming(OpenSession(edge), request).await)
        })
    }
}
