//! Calls as bytes, for what no generated client can say.

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::within;

/// Messages that are what they are.
#[derive(Debug, Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a token");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Calls the method with this path with one message, whatever it is; answers the first message of the
/// answer. A method with a stream of answers may have none.
pub async fn call_raw(
    channel: Channel,
    path: &str,
    token: Option<&str>,
    message: Bytes,
) -> Result<Option<Bytes>, Status> {
    let requests = tokio_stream::once(message);
    let mut client = Grpc::new(channel);
    within("a connection", client.ready())
        .await
        .expect("a connection");
    let request = with_token(requests, token);
    let path = path.parse().expect("a path");
    let answer = within("an answer", client.streaming(request, path, RawCodec)).await?;
    within("a message", answer.into_inner().message()).await
}

/// Opens a session's stream for bytes.
pub async fn open_raw_session(
    channel: Channel,
    token: &str,
) -> Result<(mpsc::Sender<Bytes>, Streaming<Bytes>), Status> {
    let (sender, receiver) = mpsc::channel(16);
    let mut client = Grpc::new(channel);
    within("a connection", client.ready())
        .await
        .expect("a connection");
    let request = with_token(ReceiverStream::new(receiver), Some(token));
    let path = http_path("/messenger.messaging.v1.SessionService/Session");
    let answer = within("a stream", client.streaming(request, path, RawCodec)).await?;
    Ok((sender, answer.into_inner()))
}

fn http_path(path: &'static str) -> tonic::codegen::http::uri::PathAndQuery {
    tonic::codegen::http::uri::PathAndQuery::from_static(path)
}
