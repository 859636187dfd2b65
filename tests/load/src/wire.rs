//! A session as bare frames: as little work as possible on this side of the connection, which
//! shares the machine with the server.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use proto::messaging::v1::{
    ClientFrame, ClientHeartbeat, Hello, Send, ServerFrame, Welcome, client_frame, server_frame,
    session_service_client::SessionServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use crate::account::Device;

/// How long connecting may take, and then the answer to `hello`.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Frames that may wait besides the sends in flight: heartbeats and watermarks.
const FRAMES_BESIDE_SENDS: usize = 8;
/// Bytes of each text (N13).
const TEXT_BYTES: usize = 200;
/// Hex digits at the start of each text: when it was sent, in nanoseconds since [`epoch`].
const STAMP_DIGITS: usize = 16;

/// An open session on a connection of its own.
pub(crate) struct Wire {
    pub(crate) sender: mpsc::Sender<ClientFrame>,
    pub(crate) frames: Streaming<ServerFrame>,
    pub(crate) welcome: Welcome,
}

impl Wire {
    /// Opens the session of a device that will have at most `in_flight` sends waiting.
    pub(crate) async fn open(
        server: &str,
        device: &Device,
        in_flight: usize,
    ) -> anyhow::Result<Self> {
        tokio::time::timeout(OPEN_DEADLINE, Self::connect(server, device, in_flight))
            .await
            .context("a session did not open in time")?
    }

    async fn connect(server: &str, device: &Device, in_flight: usize) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(server.to_owned())?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let (sender, receiver) = mpsc::channel(in_flight + FRAMES_BESIDE_SENDS);
        sender
            .send(frame(0, client_frame::Frame::Hello(hello())))
            .await?;
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        let token = format!("Bearer {}", device.access_token).parse()?;
        request.metadata_mut().insert("authorization", token);
        let mut frames = SessionServiceClient::new(channel)
            .session(request)
            .await?
            .into_inner();
        let first = frames.message().await?.and_then(|first| first.frame);
        let welcome = match first {
            Some(server_frame::Frame::Welcome(welcome)) => welcome,
            Some(server_frame::Frame::Error(error)) => bail!("hello: {}", error.message),
            _ => bail!("the first frame was not a welcome"),
        };
        Ok(Self {
            sender,
            frames,
            welcome,
        })
    }

    /// Fails if the server does not allow what the run needs.
    pub(crate) fn check_in_flight(&self, wanted: usize) -> anyhow::Result<()> {
        let allowed = self.welcome.limits.unwrap_or_default().in_flight_max as usize;
        if wanted > allowed {
            return Err(anyhow!(
                "the server allows {allowed} messages in flight, not {wanted}"
            ));
        }
        Ok(())
    }

    /// The time between two heartbeats.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        // Half of what is asked for, so that a busy machine is not taken for a dead device.
        Duration::from_millis(u64::from(self.welcome.heartbeat_interval_ms.max(1_000)) / 2)
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol_version: 1,
        inbox_version: 0,
        user_agent: concat!("load/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

pub(crate) fn frame(request_id: u64, frame: client_frame::Frame) -> ClientFrame {
    ClientFrame {
        request_id,
        frame: Some(frame),
    }
}

pub(crate) fn heartbeat() -> ClientFrame {
    frame(0, client_frame::Frame::Heartbeat(ClientHeartbeat {}))
}

/// The conversation of two users, as messaging.proto says.
pub(crate) fn direct_conversation(one: &str, other: &str) -> String {
    let (low, high) = if one < other {
        (one, other)
    } else {
        (other, one)
    };
    format!("d:{low}:{high}")
}

/// A message that is sent now.
pub(crate) fn new_send(conversation_id: &str) -> Send {
    let mut text = format!("{:0width$x} ", now_nanos(), width = STAMP_DIGITS);
    text.extend(std::iter::repeat_n('x', TEXT_BYTES - text.len()));
    Send {
        conversation_id: conversation_id.to_owned(),
        message_id: uuid::Uuid::now_v7().to_string(),
        text,
        ..Send::default()
    }
}

/// When the text was made by [`new_send`].
pub(crate) fn sent_nanos(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..STAMP_DIGITS)?, 16).ok()
}

/// Nanoseconds since the first call; both ends of a message are in this process.
pub(crate) fn now_nanos() -> u64 {
    u64::try_from(epoch().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_its_size_and_tells_when_it_was_sent() {
        let before = now_nanos();
        let send = new_send("d:a:b");
        assert_eq!(send.text.len(), 200);
        let sent = sent_nanos(&send.text).unwrap();
        assert!((before..=now_nanos()).contains(&sent));
        assert_eq!(sent_nanos("é"), None);
    }
}
