//! One stream to the server, from hello to its end.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use proto::messaging::v1::{
    ClientFrame, ClientHeartbeat, Hello, ServerFrame, SessionLimits, Welcome, client_frame::Frame,
    server_frame, session_service_client::SessionServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::{
    auth::{Held, authorized},
    client::Client,
    error::{Error, Result, ServerError},
    model::ErrorReason,
    pace::Pacer,
    transport::Way,
};

/// The version of the protocol that this crate speaks.
const PROTOCOL_VERSION: u32 = 1;
/// How long it may take to connect, to say hello, and to be welcomed.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Frames that wait for the transport; then the session keeps them in its own order of urgency.
const WRITES_MAX: usize = 32;
/// Frames that are taken at a time, if so many have come.
const FRAMES_PER_TURN: usize = 64;
/// Heartbeat intervals without a frame after which the connection is taken for dead.
const SILENT_INTERVALS_MAX: u32 = 3;
/// Bounds of the heartbeat interval, whatever the server says.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(600));
/// The request ids of frames other than sends, which have the lower half.
const REQUEST_IDS_FROM: u64 = 1 << 63;
/// How long a closed session waits for the server to have read everything.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What a connection tells.
pub(crate) enum Heard {
    /// At least one frame; then the error with which the stream ended, if it did.
    Frames(Vec<ServerFrame>, Option<Error>),
    /// There is room to write again.
    Writable,
}

pub(crate) struct Connection {
    pub(crate) way: Way,
    frames: Streaming<ServerFrame>,
    writer: mpsc::Sender<ClientFrame>,
    heartbeat_interval: Duration,
    read_at: Instant,
    written_at: Instant,
    /// A frame found no room.
    blocked: bool,
    next_request_id: u64,
    pub(crate) limits: SessionLimits,
    pub(crate) pacer: Pacer,
    pub(crate) opened_at: Instant,
    /// The token that the server knows.
    pub(crate) held: Arc<Held>,
    /// After a failure, when to try again to get or to tell a new token.
    pub(crate) token_again_at: Instant,
    /// When to go to another server.
    pub(crate) leave_at: Option<Instant>,
}

/// Opens a stream, and gives the server's welcome.
pub(crate) async fn open(client: Client, inbox_version: u64) -> Result<(Box<Connection>, Welcome)> {
    let transport = &client.inner.transport;
    let way = transport.way();
    match timeout(OPEN_DEADLINE, say_hello(&client, &way, inbox_version)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => {
            transport.failed(&way, &error);
            Err(error)
        }
        Err(_) => {
            transport.leave(&way);
            Err(Error::Timeout(OPEN_DEADLINE))
        }
    }
}

async fn say_hello(
    client: &Client,
    way: &Way,
    inbox_version: u64,
) -> Result<(Box<Connection>, Welcome)> {
    let held = client.inner.auth.fresh().await?;
    match try_hello(client, way, inbox_version, held.clone()).await {
        Err(error) if error.reason() == ErrorReason::TokenExpired => {
            let stale = &held.credentials.access_token;
            let held = client.inner.auth.refresh(stale).await?;
            try_hello(client, way, inbox_version, held).await
        }
        opened => opened,
    }
}

async fn try_hello(
    client: &Client,
    way: &Way,
    inbox_version: u64,
    held: Arc<Held>,
) -> Result<(Box<Connection>, Welcome)> {
    let (writer, to_write) = mpsc::channel(WRITES_MAX);
    let hello = Frame::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        inbox_version,
        user_agent: client.inner.user_agent.clone(),
    });
    let first = ClientFrame {
        request_id: REQUEST_IDS_FROM,
        frame: Some(hello),
    };
    // There is room: the channel is new.
    let _ = writer.try_send(first);
    let request = authorized(
        ReceiverStream::new(to_write),
        &held.credentials.access_token,
    )?;
    let mut frames = SessionServiceClient::new(way.channel.clone())
        .session(request)
        .await?
        .into_inner();
    let welcome = welcome(&mut frames).await?;
    let now = Instant::now();
    let limits = welcome.limits.unwrap_or_default();
    let heartbeat_ms = u64::from(welcome.heartbeat_interval_ms);
    let connection = Connection {
        way: way.clone(),
        frames,
        writer,
        heartbeat_interval: Duration::from_millis(heartbeat_ms).clamp(HEARTBEAT.0, HEARTBEAT.1),
        read_at: now,
        written_at: now,
        blocked: false,
        next_request_id: REQUEST_IDS_FROM + 1,
        pacer: Pacer::new(limits.frames_per_second, limits.frames_burst, now),
        limits,
        opened_at: now,
        token_again_at: now,
        held,
        leave_at: None,
    };
    Ok((Box::new(connection), welcome))
}

async fn welcome(frames: &mut Streaming<ServerFrame>) -> Result<Welcome> {
    let Some(first) = frames.message().await? else {
        return Err(ended());
    };
    match first.frame {
        Some(server_frame::Frame::Welcome(welcome))
            if welcome.protocol_version == PROTOCOL_VERSION =>
        {
            Ok(welcome)
        }
        Some(server_frame::Frame::Welcome(welcome)) => Err(Error::Server(ServerError {
            code: Code::FailedPrecondition,
            reason: ErrorReason::ProtocolVersionUnsupported,
            message: format!("the server speaks version {}", welcome.protocol_version),
            field: String::new(),
            retry_after: None,
        })),
        Some(server_frame::Frame::Error(error)) => Err(error.into()),
        _ => Err(Error::Protocol(
            "the first frame is not a welcome".to_owned(),
        )),
    }
}

/// The stream was ended without an error.
fn ended() -> Error {
    Error::Transport("the server ended the session".to_owned())
}

impl Connection {
    /// Waits for frames, or for room if there was none. Loses nothing when it is dropped.
    pub(crate) async fn next(&mut self) -> Heard {
        let first = if self.blocked {
            tokio::select! {
                frame = self.frames.message() => frame,
                room = self.writer.reserve() => {
                    // Without a reader the stream ends too, which says why.
                    drop(room);
                    self.blocked = false;
                    return Heard::Writable;
                }
            }
        } else {
            self.frames.message().await
        };
        self.read_at = Instant::now();
        let mut frames = Vec::new();
        let mut next = Some(first);
        while let Some(frame) = next {
            match frame {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return Heard::Frames(frames, Some(ended())),
                Err(status) => return Heard::Frames(frames, Some(status.into())),
            }
            next = match frames.len() < FRAMES_PER_TURN {
                true => self.frames.message().now_or_never(),
                false => None,
            };
        }
        Heard::Frames(frames, None)
    }

    /// Whether a frame of the usual kind may be written now.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        if self.writer.capacity() == 0 {
            self.blocked = !self.writer.is_closed();
            return false;
        }
        self.pacer.has_room(now)
    }

    /// Whether room in the transport is being waited for.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// When the session's token is to be replaced.
    pub(crate) fn renew_at(&self) -> Instant {
        self.held.renew_at.max(self.token_again_at)
    }

    /// Writes a frame; `false` if there is no room in the transport.
    pub(crate) fn write(&mut self, request_id: u64, frame: Frame, now: Instant) -> bool {
        let frame = ClientFrame {
            request_id,
            frame: Some(frame),
        };
        if self.writer.try_send(frame).is_err() {
            self.blocked = !self.writer.is_closed();
            return false;
        }
        self.pacer.spend();
        self.written_at = now;
        true
    }

    /// A request id for a frame that is not a send.
    pub(crate) fn request_id(&mut self) -> u64 {
        self.next_request_id += 1;
        self.next_request_id
    }

    /// Writes a heartbeat if nothing else was written for an interval.
    pub(crate) fn heartbeat(&mut self, now: Instant) {
        if now >= self.heartbeat_at() {
            let heartbeat = Frame::Heartbeat(ClientHeartbeat {});
            // If the transport has no room, what waits there will do.
            self.write(0, heartbeat, now);
            self.written_at = now;
        }
    }

    pub(crate) fn heartbeat_at(&self) -> Instant {
        self.written_at + self.heartbeat_interval
    }

    /// When the connection is dead unless a frame comes.
    pub(crate) fn silent_at(&self) -> Instant {
        self.read_at + self.silence()
    }

    /// How long nothing was heard when the connection is taken for dead.
    pub(crate) fn silence(&self) -> Duration {
        self.heartbeat_interval * SILENT_INTERVALS_MAX
    }

    /// How long a frame that was written may not have been read by the server.
    pub(crate) fn doubt(&self) -> Duration {
        self.heartbeat_interval * 2
    }

    /// Ends the stream from this side, after what was written has been read.
    pub(crate) async fn close(self) {
        let mut frames = self.frames;
        drop(self.writer);
        let rest = async { while let Ok(Some(_)) = frames.message().await {} };
        let _ = timeout(CLOSE_DEADLINE, rest).await;
    }
}
