//! Sessions that take frames as bytes: one that only counts must not pay for decoding, since it shares
//! the machine with the server.

use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use proto::messaging::v1::{ClientFrame, Event, ServerFrame, client_frame, event, server_frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use crate::{account::Device, wire};

/// How long connecting may take, and then the answer to `hello`.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// The method of sessions.
pub(crate) const SESSION: &str = "/messenger.messaging.v1.SessionService/Session";
/// The first byte of a `ServerFrame` that answers no request and is an event.
const EVENT_TAG: u8 = 4 << 3 | 2;
/// The first byte of one that answers a request.
const REQUEST_TAG: u8 = 1 << 3;

/// Bytes in, bytes out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BytesCodec;

impl Codec for BytesCodec {
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

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(frame);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// An open session, as bytes.
pub(crate) struct RawWire {
    pub(crate) sender: mpsc::Sender<Bytes>,
    pub(crate) frames: Streaming<Bytes>,
}

impl RawWire {
    /// Opens a session; `queue` frames may wait to be sent.
    pub(crate) async fn open(server: &str, device: &Device, queue: usize) -> anyhow::Result<Self> {
        tokio::time::timeout(OPEN_DEADLINE, Self::connect(server, device, queue))
            .await
            .context("a session did not open in time")?
    }

    async fn connect(server: &str, device: &Device, queue: usize) -> anyhow::Result<Self> {
        let mut wire = Self::stream(server, &device.access_token, queue).await?;
        let hello = client_frame::Frame::Hello(wire::hello());
        wire.sender.send(encode(0, hello)).await?;
        let first = wire.frames.message().await?.context("no welcome")?;
        let first = ServerFrame::decode(first)?;
        let Some(server_frame::Frame::Welcome(_)) = first.frame else {
            anyhow::bail!("the first frame was not a welcome");
        };
        Ok(wire)
    }

    /// A stream of the session's method, on a connection of its own.
    pub(crate) async fn stream(server: &str, token: &str, queue: usize) -> anyhow::Result<Self> {
        let channel: Channel = Endpoint::from_shared(server.to_owned())?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        let token = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", token);
        let mut client = Grpc::new(channel);
        client.ready().await?;
        let path = PathAndQuery::from_static(SESSION);
        let frames = client.streaming(request, path, BytesCodec).await?;
        Ok(Self {
            sender,
            frames: frames.into_inner(),
        })
    }
}

/// A frame to the server.
pub(crate) fn encode(request_id: u64, frame: client_frame::Frame) -> Bytes {
    ClientFrame {
        request_id,
        frame: Some(frame),
    }
    .encode_to_vec()
    .into()
}

/// What a frame is, at the cost of a look at its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event that was pushed.
    Event,
    /// The answer to a request: it is to be decoded.
    Answer,
    /// Anything else.
    Other,
}

/// Looks at the first byte: fields are written in the order of their numbers.
pub(crate) fn kind(frame: &[u8]) -> Kind {
    match frame.first() {
        Some(&EVENT_TAG) => Kind::Event,
        Some(&REQUEST_TAG) => Kind::Answer,
        _ => Kind::Other,
    }
}

/// The event of a frame.
pub(crate) fn event(frame: Bytes) -> Option<Event> {
    match ServerFrame::decode(frame).ok()?.frame {
        Some(server_frame::Frame::Event(event)) => Some(event),
        _ => None,
    }
}

/// A frame like those that members of a group get, sent now.
pub(crate) fn like_event() -> Bytes {
    let group = uuid::Uuid::nil();
    let send = wire::new_send("");
    let event = Event {
        conversation_id: format!("g:{group}"),
        seq: 1_000_000,
        message_index: 1_000_000,
        time_unix_ms: 1_700_000_000_000,
        sender_id: group.to_string(),
        kind: Some(event::Kind::Message(proto::messaging::v1::Message {
            message_id: send.message_id,
            text: send.text,
            ..Default::default()
        })),
    };
    let frame = ServerFrame {
        request_id: 0,
        frame: Some(server_frame::Frame::Event(event)),
    };
    frame.encode_to_vec().into()
}

/// When the message of an event was sent.
pub(crate) fn sent_nanos(event: &Event) -> Option<u64> {
    match &event.kind {
        Some(event::Kind::Message(message)) => wire::sent_nanos(&message.text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::messaging::v1::SendAck;

    use super::*;

    #[test]
    fn the_first_byte_tells_what_a_frame_is() {
        let encoded = |request_id, frame| {
            ServerFrame {
                request_id,
                frame: Some(frame),
            }
            .encode_to_vec()
        };
        let event = server_frame::Frame::Event(Event::default());
        let ack = server_frame::Frame::SendAck(SendAck::default());
        assert_eq!(kind(&encoded(0, event)), Kind::Event);
        assert_eq!(kind(&encoded(7, ack)), Kind::Answer);
        assert_eq!(kind(&[]), Kind::Other);
    }
}
