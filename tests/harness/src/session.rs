//! A session as bare frames.

use std::{collections::VecDeque, time::Duration};

use proto::messaging::v1::{
    ClientFrame, ClientHeartbeat, Hello, Send, SendAck, ServerFrame, Watermark, Welcome,
    client_frame::Frame as Said, server_frame::Frame as Heard,
    session_service_client::SessionServiceClient,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};
use uuid::Uuid;

use crate::{DEADLINE, Device, Refusal, within};

/// Frames of the test that wait to be sent.
const OUTGOING_MAX: usize = 64;

/// How a session is opened.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Another server than the device's, such as a proxy.
    pub url: Option<String>,
    /// The version that the device is at.
    pub inbox_version: u64,
    /// Does not say that it lives.
    pub silent: bool,
    /// Bytes that the server may send ahead of what is read; `None` = the usual.
    pub window_bytes: Option<u32>,
}

/// An open session on a connection of its own.
pub struct Session {
    /// What the server said first.
    pub welcome: Welcome,
    sender: mpsc::Sender<ClientFrame>,
    frames: Streaming<ServerFrame>,
    /// Read, but not asked for yet.
    kept: VecDeque<ServerFrame>,
    request_last: u64,
    alive: Option<JoinHandle<()>>,
}

/// What a client says first.
pub fn hello(inbox_version: u64) -> Said {
    Said::Hello(Hello {
        protocol_version: 1,
        inbox_version,
        user_agent: "harness".to_owned(),
    })
}

/// A message to send.
pub fn message(conversation_id: &str, message_id: Uuid, text: &str) -> Send {
    Send {
        conversation_id: conversation_id.to_owned(),
        message_id: message_id.to_string(),
        text: text.to_owned(),
        ..Send::default()
    }
}

impl Device {
    /// Opens a session that says that it lives, and waits for its welcome.
    pub async fn session(&self) -> Session {
        self.session_with(SessionOptions::default()).await
    }

    /// The same, in another way.
    pub async fn session_with(&self, options: SessionOptions) -> Session {
        match self.try_session(options).await {
            Ok(session) => session,
            Err(status) => panic!("no session: {status:?}"),
        }
    }

    /// Opens a session that may be refused.
    pub async fn try_session(&self, options: SessionOptions) -> Result<Session, Status> {
        let (sender, mut frames) = self.stream(&options).await?;
        let first = ClientFrame {
            request_id: 0,
            frame: Some(hello(options.inbox_version)),
        };
        let _ = sender.send(first).await;
        let welcome = within("welcome", frames.message()).await?;
        let Some(Heard::Welcome(welcome)) = welcome.and_then(|frame| frame.frame) else {
            return Err(Status::internal("the first frame is not a welcome"));
        };
        let interval = u64::from(welcome.heartbeat_interval_ms.max(2)) / 2;
        let alive = (!options.silent).then(|| stay_alive(&sender, interval));
        Ok(Session {
            welcome,
            sender,
            frames,
            kept: VecDeque::new(),
            request_last: 0,
            alive,
        })
    }

    /// Opens the stream, and says nothing.
    pub async fn stream(
        &self,
        options: &SessionOptions,
    ) -> Result<(mpsc::Sender<ClientFrame>, Streaming<ServerFrame>), Status> {
        let url = options.url.clone().unwrap_or_else(|| self.url.clone());
        let channel = Endpoint::from_shared(url)
            .expect("a URL")
            .connect_timeout(DEADLINE)
            .tcp_nodelay(true)
            .initial_stream_window_size(options.window_bytes)
            .connect()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let mut client = SessionServiceClient::with_interceptor(channel, self.bearer());
        let opening = client.session(ReceiverStream::new(receiver));
        let frames = within("a stream", opening).await?;
        Ok((sender, frames.into_inner()))
    }
}

fn stay_alive(sender: &mpsc::Sender<ClientFrame>, interval_ms: u64) -> JoinHandle<()> {
    let sender = sender.downgrade();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(interval_ms)).await;
            let Some(sender) = sender.upgrade() else {
                return;
            };
            let frame = ClientFrame {
                request_id: 0,
                frame: Some(Said::Heartbeat(ClientHeartbeat {})),
            };
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(alive) = &self.alive {
            alive.abort();
        }
    }
}

impl Session {
    /// Says something; answers the request_id. Nobody may be there any more.
    pub async fn say(&mut self, frame: Said) -> u64 {
        self.request_last += 1;
        let request_id = self.request_last;
        let frame = ClientFrame {
            request_id,
            frame: Some(frame),
        };
        let _ = within("room for a frame", self.sender.send(frame)).await;
        request_id
    }

    /// Says a frame as it is.
    pub async fn say_frame(&self, frame: ClientFrame) {
        let _ = within("room for a frame", self.sender.send(frame)).await;
    }

    /// To say things from elsewhere.
    pub fn sender(&self) -> mpsc::Sender<ClientFrame> {
        self.sender.clone()
    }

    /// Sends a message with a new id and waits for its ack.
    pub async fn send(&mut self, conversation_id: &str, text: &str) -> SendAck {
        self.send_as(conversation_id, Uuid::now_v7(), text).await
    }

    /// Sends a message and waits for its ack.
    pub async fn send_as(&mut self, conversation_id: &str, id: Uuid, text: &str) -> SendAck {
        match self.try_send(message(conversation_id, id, text)).await {
            Ok(ack) => ack,
            Err(refusal) => panic!("not sent: {refusal:?}"),
        }
    }

    /// Sends a message and waits for its answer.
    pub async fn try_send(&mut self, send: Send) -> Result<SendAck, Refusal> {
        let request_id = self.say(Said::Send(send)).await;
        self.answer(request_id).await
    }

    /// The answer to a send.
    pub async fn answer(&mut self, request_id: u64) -> Result<SendAck, Refusal> {
        let answer = self.wait_frame("an answer to a send", |frame| {
            let answers = matches!(frame.frame, Some(Heard::SendAck(_) | Heard::Error(_)));
            answers && frame.request_id == request_id
        });
        match answer.await.frame {
            Some(Heard::SendAck(ack)) => Ok(ack),
            Some(Heard::Error(error)) => Err(Refusal::from(&error)),
            _ => panic!("neither an ack nor an error"),
        }
    }

    /// Says something that must be answered by an error.
    pub async fn refusal(&mut self, frame: Said) -> Refusal {
        let request_id = self.say(frame).await;
        self.error_of(request_id).await
    }

    /// The error that answers a request.
    pub async fn error_of(&mut self, request_id: u64) -> Refusal {
        self.wait("an error", |frame| match &frame.frame {
            Some(Heard::Error(error)) if frame.request_id == request_id => {
                Some(Refusal::from(error))
            }
            _ => None,
        })
        .await
    }

    /// "This device holds everything up to here."
    pub async fn delivered(&mut self, conversation_id: &str, seq: u64) {
        let up_to = Some(mark(seq));
        let conversation_id = conversation_id.to_owned();
        self.say(Said::Delivered(proto::messaging::v1::Delivered {
            conversation_id,
            up_to,
        }))
        .await;
    }

    /// "The user has seen everything up to here."
    pub async fn read(&mut self, conversation_id: &str, seq: u64) {
        let up_to = Some(mark(seq));
        let conversation_id = conversation_id.to_owned();
        self.say(Said::Read(proto::messaging::v1::Read {
            conversation_id,
            up_to,
        }))
        .await;
    }

    /// The next frame, of those that nobody has asked for; `Err` once the session has ended, with OK
    /// if that was as agreed.
    pub async fn next(&mut self) -> Result<ServerFrame, Status> {
        if let Some(frame) = self.kept.pop_front() {
            return Ok(frame);
        }
        self.read_frame().await
    }

    async fn read_frame(&mut self) -> Result<ServerFrame, Status> {
        match within("a frame", self.frames.message()).await {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(Status::ok("ended")),
            Err(status) => Err(status),
        }
    }

    /// Waits until `wanted` has an answer for a frame, and keeps the others for later.
    pub async fn wait<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&ServerFrame) -> Option<T>,
    ) -> T {
        let mut found = None;
        let mut at = 0;
        while at < self.kept.len() && found.is_none() {
            found = wanted(&self.kept[at]);
            at += 1;
        }
        if let Some(found) = found {
            self.kept.remove(at - 1);
            return found;
        }
        within(what, async {
            loop {
                match self.frames.message().await {
                    Ok(Some(frame)) => match wanted(&frame) {
                        Some(found) => return found,
                        None => self.kept.push_back(frame),
                    },
                    end => panic!("the session ended before {what}: {end:?}"),
                }
            }
        })
        .await
    }

    async fn wait_frame(
        &mut self,
        what: &str,
        wanted: impl Fn(&ServerFrame) -> bool,
    ) -> ServerFrame {
        self.wait(what, |frame| wanted(frame).then(|| frame.clone()))
            .await
    }

    /// The next event of a conversation.
    pub async fn event(&mut self, conversation_id: &str) -> proto::messaging::v1::Event {
        self.wait("an event", |frame| match &frame.frame {
            Some(Heard::Event(event)) if event.conversation_id == conversation_id => {
                Some(event.clone())
            }
            _ => None,
        })
        .await
    }

    /// Frames that have come and nobody has asked for.
    pub fn kept(&self) -> impl Iterator<Item = &ServerFrame> {
        self.kept.iter()
    }

    /// Reads to the end; why the session ended.
    pub async fn end(&mut self) -> Refusal {
        Refusal::from(&self.end_status().await)
    }

    /// Reads to the end; the status of the stream. What came before it is kept.
    pub async fn end_status(&mut self) -> Status {
        loop {
            match self.read_frame().await {
                Ok(frame) => self.kept.push_back(frame),
                Err(status) => return status,
            }
        }
    }

    /// Closes its half, and reads to the end.
    pub async fn close(self) -> Status {
        self.close_and_read().await.1
    }

    /// Closes its half, and reads to the end: what nobody has asked for, and the status.
    pub async fn close_and_read(mut self) -> (Vec<ServerFrame>, Status) {
        if let Some(alive) = self.alive.take() {
            alive.abort();
        }
        let (gone, _) = mpsc::channel(1);
        self.sender = gone;
        let status = self.end_status().await;
        (self.kept.drain(..).collect(), status)
    }

    /// Says something and waits until the server has dealt with it, and with all before it: frames of
    /// a session are taken in order, and a repeated hello is always answered.
    pub async fn settle(&mut self) {
        let request_id = self.say(hello(0)).await;
        self.error_of(request_id).await;
    }
}

/// The watermark at an event of a conversation that has messages only.
fn mark(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}
