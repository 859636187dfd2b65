//! A server of one user, "me", that keeps the protocol but for what a test tells it to do wrong.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::Stream;
use messenger_client::ErrorReason;
use parking_lot::Mutex;
use proto::{
    messaging::v1::{
        self as pb, client_frame, server_frame::Frame, session_service_server::SessionService,
    },
    profile::v1::Tokens,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

#[path = "fake_blobs.rs"]
pub(crate) mod blobs;
#[path = "calls.rs"]
mod calls;
#[path = "fake_groups.rs"]
pub(crate) mod groups;

pub(crate) const ME: &str = "me";
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
const RANGES_MAX: usize = 500;

/// What the server does with one send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnSend {
    Accept,
    /// Takes it, and breaks the stream before the ack.
    AcceptAndBreak,
    /// Breaks the stream before taking it.
    Break,
    RateLimit(u32),
    /// Says that it does not know, and has taken it or not.
    Unknown {
        taken: bool,
    },
    Refuse(ErrorReason),
}

/// What the server does with pushes, as shares of 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OnPush {
    pub(crate) lost: f64,
    pub(crate) repeated: f64,
    pub(crate) late: f64,
}

#[derive(Default)]
pub(crate) struct State {
    /// The events of each conversation.
    pub(crate) conversations: BTreeMap<String, Vec<pb::Event>>,
    /// By version - 1: the conversation that changed.
    pub(crate) changes: Vec<String>,
    pub(crate) marks: HashMap<String, (u64, u64)>,
    /// What the calls about groups have made of them.
    pub(crate) groups: groups::Groups,
    /// What was uploaded.
    pub(crate) blobs: blobs::Blobs,
    /// The picture of the user's profile: the receipt that it was set with.
    pub(crate) picture: String,
    /// What is to be done with the next sends; then with all others.
    pub(crate) on_sends: VecDeque<OnSend>,
    pub(crate) on_push: OnPush,
    /// Statuses that the next sessions end with instead of being welcomed.
    pub(crate) on_hello: VecDeque<Status>,
    /// There are no heartbeats, and none are expected.
    pub(crate) quiet: bool,
    /// Sessions hear nothing any more.
    pub(crate) silent: bool,
    pub(crate) limits: pb::SessionLimits,
    sessions: Vec<(u64, mpsc::Sender<Result<pb::ServerFrame, Status>>)>,
    late: Vec<pb::ServerFrame>,
    random: Option<StdRng>,
    pub(crate) valid_tokens: HashSet<String>,
    pub(crate) refresh_token: String,
    /// What the server has seen.
    pub(crate) seen: Seen,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) hellos: Vec<u64>,
    pub(crate) sends: Vec<(Instant, pb::Send)>,
    pub(crate) delivered: Vec<pb::Delivered>,
    pub(crate) reads: Vec<pb::Read>,
    pub(crate) renewals: Vec<String>,
    pub(crate) heartbeats: usize,
    pub(crate) refreshes: usize,
    pub(crate) changes_calls: usize,
    pub(crate) events_calls: usize,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) address: SocketAddr,
    _server: Arc<Stop>,
}

struct Stop(JoinHandle<()>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut state = State {
            random: Some(StdRng::seed_from_u64(7)),
            limits: pb::SessionLimits {
                text_chars_max: 700,
                frame_bytes_max: 16 * 1024,
                in_flight_max: 8,
                frames_per_second: 0,
                frames_burst: 0,
            },
            ..State::default()
        };
        state.issue();
        let state = Arc::new(Mutex::new(state));
        let service = Service(state.clone());
        let server = groups::add(calls::add(Server::builder(), &service), &service);
        let server = blobs::add(server, &service)
            .add_service(pb::session_service_server::SessionServiceServer::new(
                service.clone(),
            ))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let beats = beat(Arc::downgrade(&state));
        let server = tokio::spawn(async move {
            tokio::select! {
                done = server => done.unwrap(),
                () = beats => {}
            }
        });
        Self {
            state,
            address,
            _server: Arc::new(Stop(server)),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Something is said in a conversation by somebody else.
    pub(crate) fn say(&self, conversation_id: &str, text: &str) {
        let mut state = self.state.lock();
        let message_id = format!("theirs-{}", state.changes.len());
        let event = state.next_event(conversation_id, "peer", &message_id, text);
        state.publish(event, 0);
    }

    /// All sessions break now.
    pub(crate) fn break_all(&self) {
        self.state.lock().break_all();
    }

    pub(crate) fn push_all(&self, frame: Frame) {
        let mut state = self.state.lock();
        let frame = pb::ServerFrame {
            request_id: 0,
            frame: Some(frame),
        };
        state
            .sessions
            .retain(|(_, s)| s.try_send(Ok(frame.clone())).is_ok());
    }

    pub(crate) fn end_all(&self, status: &Status) {
        for (_, session) in self.state.lock().sessions.drain(..) {
            let _ = session.try_send(Err(status.clone()));
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    pub(crate) fn texts(&self, conversation_id: &str) -> Vec<String> {
        let state = self.state.lock();
        let events = state.conversations.get(conversation_id);
        events.into_iter().flatten().map(text_of).collect()
    }
}

pub(crate) fn text_of(event: &pb::Event) -> String {
    match &event.kind {
        Some(pb::event::Kind::Message(message)) => message.text.clone(),
        Some(pb::event::Kind::GroupChange(_)) | None => String::new(),
    }
}

/// A status as the server gives it.
pub(crate) fn status(code: Code, reason: ErrorReason) -> Status {
    let details = ErrorDetails::with_error_info(reason.info_name(), "messenger", HashMap::new());
    Status::with_error_details(code, "as the test wants", details)
}

async fn beat(state: std::sync::Weak<Mutex<State>>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let Some(state) = state.upgrade() else {
            return;
        };
        let mut state = state.lock();
        if state.silent || state.quiet {
            continue;
        }
        for frame in std::mem::take(&mut state.late) {
            state
                .sessions
                .retain(|(_, s)| s.try_send(Ok(frame.clone())).is_ok());
        }
        let beat = pb::ServerHeartbeat {
            inbox_version: state.version(),
            ..pb::ServerHeartbeat::default()
        };
        let frame = pb::ServerFrame {
            request_id: 0,
            frame: Some(Frame::Heartbeat(beat)),
        };
        state
            .sessions
            .retain(|(_, s)| s.try_send(Ok(frame.clone())).is_ok());
    }
}

impl State {
    pub(crate) fn version(&self) -> u64 {
        self.changes.len() as u64
    }

    /// New tokens; the old access tokens stay valid until a test says otherwise.
    pub(crate) fn issue(&mut self) -> Tokens {
        let number = self.valid_tokens.len();
        let access_token = format!("access-{number}-{}", self.seen.refreshes);
        self.valid_tokens.insert(access_token.clone());
        self.refresh_token = format!("refresh-{number}-{}", self.seen.refreshes);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let expires = i64::try_from(now.as_millis()).unwrap() + 600_000;
        Tokens {
            access_token,
            access_expires_unix_ms: expires,
            refresh_token: self.refresh_token.clone(),
            refresh_expires_unix_ms: expires,
        }
    }

    fn break_all(&mut self) {
        self.sessions.clear();
        self.late.clear();
    }

    pub(crate) fn row(&self, conversation_id: &str, version: u64) -> pb::Conversation {
        let events = &self.conversations[conversation_id];
        let last = events.last().unwrap();
        let (delivered, read) = self.marks.get(conversation_id).copied().unwrap_or_default();
        let mark = |seq| {
            Some(pb::Watermark {
                seq,
                message_index: seq,
            })
        };
        let left = self.groups.left.contains(conversation_id);
        pb::Conversation {
            left,
            conversation_id: conversation_id.to_owned(),
            version,
            last_seq: last.seq,
            last_message_index: last.message_index,
            own_marks: Some(pb::MemberMarks {
                user_id: ME.to_owned(),
                delivered: mark(delivered),
                read: mark(read),
            }),
            ..pb::Conversation::default()
        }
    }

    fn find(&self, conversation_id: &str, message_id: &str) -> Option<&pb::Event> {
        self.conversations
            .get(conversation_id)?
            .iter()
            .find(|event| match &event.kind {
                Some(pb::event::Kind::Message(message)) => {
                    event.sender_id == ME && message.message_id == message_id
                }
                Some(pb::event::Kind::GroupChange(_)) | None => false,
            })
    }

    /// A message that comes after all others of its conversation.
    pub(crate) fn next_event(
        &self,
        conversation_id: &str,
        sender_id: &str,
        message_id: &str,
        text: &str,
    ) -> pb::Event {
        let events = self.conversations.get(conversation_id);
        let last = events.and_then(|events| events.last());
        pb::Event {
            conversation_id: conversation_id.to_owned(),
            seq: last.map_or(0, |last| last.seq) + 1,
            message_index: last.map_or(0, |last| last.message_index) + 1,
            time_unix_ms: 1,
            sender_id: sender_id.to_owned(),
            kind: Some(pb::event::Kind::Message(pb::Message {
                message_id: message_id.to_owned(),
                text: text.to_owned(),
                ..pb::Message::default()
            })),
        }
    }

    /// Keeps an event, and pushes it to all sessions but one.
    pub(crate) fn publish(&mut self, event: pb::Event, except: u64) -> pb::Event {
        let conversation_id = event.conversation_id.as_str();
        let events = self
            .conversations
            .entry(conversation_id.to_owned())
            .or_default();
        events.push(event.clone());
        self.changes.push(event.conversation_id.clone());
        let version = self.version();
        let update = pb::InboxUpdate {
            previous_version: version - 1,
            version,
            conversations: vec![self.row(&event.conversation_id, version)],
        };
        self.push(Frame::Event(event.clone()), except);
        self.push(Frame::InboxUpdate(update), 0);
        event
    }

    fn push(&mut self, frame: Frame, except: u64) {
        let OnPush {
            lost,
            repeated,
            late,
        } = self.on_push;
        let random = self.random.as_mut().unwrap();
        let frame = pb::ServerFrame {
            request_id: 0,
            frame: Some(frame),
        };
        if random.random_bool(late) {
            self.late.push(frame.clone());
            if !random.random_bool(repeated) {
                return;
            }
        }
        if random.random_bool(lost) {
            return;
        }
        let times = if random.random_bool(repeated) { 2 } else { 1 };
        for _ in 0..times {
            for (session, sender) in &self.sessions {
                if *session != except {
                    // A full queue loses the frame; the heartbeat tells.
                    let _ = sender.try_send(Ok(frame.clone()));
                }
            }
        }
    }
}

#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Mutex<State>>);

impl Service {
    #[allow(clippy::result_large_err)] // As tonic has it.
    pub(crate) fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or_else(|| status(Code::Unauthenticated, ErrorReason::TokenMissing))?;
        match self.0.lock().valid_tokens.contains(token) {
            true => Ok(()),
            false => Err(status(Code::Unauthenticated, ErrorReason::TokenExpired)),
        }
    }

    fn send(
        &self,
        session: u64,
        blocked: &mut HashMap<String, String>,
        send: &pb::Send,
    ) -> Option<Frame> {
        let mut state = self.0.lock();
        state.seen.sends.push((Instant::now(), send.clone()));
        let refuse = |reason, retry_after_ms| {
            Some(Frame::Error(pb::Error {
                code: Code::Unavailable.into(),
                reason: i32::from(reason),
                retry_after_ms,
                message_id: send.message_id.clone(),
                ..pb::Error::default()
            }))
        };
        let blocked_by = blocked.get(&send.conversation_id);
        if blocked_by.is_some_and(|id| *id != send.message_id) {
            return refuse(ErrorReason::PrecedingSendUnknown, 0);
        }
        blocked.remove(&send.conversation_id);
        let what = state.on_sends.pop_front().unwrap_or(OnSend::Accept);
        let take = |state: &mut State| {
            let known = state.find(&send.conversation_id, &send.message_id).cloned();
            let duplicate = known.is_some();
            let event = known.unwrap_or_else(|| {
                let (id, message) = (&send.conversation_id, &send.message_id);
                let mut event = state.next_event(id, ME, message, &send.text);
                if let Some(pb::event::Kind::Message(message)) = &mut event.kind {
                    message
                        .mentioned_user_ids
                        .clone_from(&send.mentioned_user_ids);
                    message.mentions_all = send.mentions_all;
                    message.attachments = state.blobs.attachments(&send.attachment_receipts);
                }
                state.publish(event, session)
            });
            (event, duplicate)
        };
        let mut block = || blocked.insert(send.conversation_id.clone(), send.message_id.clone());
        match what {
            OnSend::Accept => {
                let (event, duplicate) = take(&mut state);
                Some(Frame::SendAck(pb::SendAck {
                    conversation_id: send.conversation_id.clone(),
                    message_id: send.message_id.clone(),
                    seq: event.seq,
                    message_index: event.message_index,
                    time_unix_ms: event.time_unix_ms,
                    duplicate,
                }))
            }
            OnSend::AcceptAndBreak => {
                take(&mut state);
                state.sessions.retain(|(id, _)| *id != session);
                None
            }
            OnSend::Break => {
                state.sessions.retain(|(id, _)| *id != session);
                None
            }
            OnSend::RateLimit(ms) => {
                block();
                refuse(ErrorReason::RateLimited, ms)
            }
            OnSend::Unknown { taken } => {
                block();
                if taken {
                    take(&mut state);
                }
                refuse(ErrorReason::SendUnknown, 0)
            }
            OnSend::Refuse(reason) => refuse(reason, 0),
        }
    }

    async fn serve(self, session: u64, mut frames: Streaming<pb::ClientFrame>) {
        let mut blocked = HashMap::new();
        while let Ok(Some(frame)) = frames.message().await {
            let answer = match frame.frame {
                Some(client_frame::Frame::Send(send)) => self.send(session, &mut blocked, &send),
                Some(other) => self.note(other),
                None => None,
            };
            let state = self.0.lock();
            if state.silent {
                continue;
            }
            let Some((_, sender)) = state.sessions.iter().find(|(id, _)| *id == session) else {
                return;
            };
            if let Some(answer) = answer {
                let _ = sender.try_send(Ok(pb::ServerFrame {
                    request_id: frame.request_id,
                    frame: Some(answer),
                }));
            }
        }
        self.0.lock().sessions.retain(|(id, _)| *id != session);
    }

    fn note(&self, frame: client_frame::Frame) -> Option<Frame> {
        let mut state = self.0.lock();
        match frame {
            client_frame::Frame::Delivered(delivered) => {
                let id = delivered.conversation_id.clone();
                let seq = delivered.up_to.unwrap().seq;
                let marks = state.marks.entry(id).or_default();
                marks.0 = marks.0.max(seq);
                state.seen.delivered.push(delivered);
                None
            }
            client_frame::Frame::Read(read) => {
                state.seen.reads.push(read);
                None
            }
            client_frame::Frame::RenewToken(renew) => {
                state.seen.renewals.push(renew.access_token);
                Some(Frame::TokenRenewed(pb::TokenRenewed::default()))
            }
            client_frame::Frame::Heartbeat(_) => {
                state.seen.heartbeats += 1;
                None
            }
            _ => None,
        }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<pb::ServerFrame, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Service {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<pb::ClientFrame>>,
    ) -> Result<Response<Frames>, Status> {
        self.authorize(&request)?;
        let mut frames = request.into_inner();
        let Some(first) = frames.message().await? else {
            return Err(status(Code::FailedPrecondition, ErrorReason::HelloRequired));
        };
        let Some(client_frame::Frame::Hello(hello)) = first.frame else {
            return Err(status(Code::FailedPrecondition, ErrorReason::HelloRequired));
        };
        let (sender, receiver) = mpsc::channel(10_000);
        let session = {
            let mut state = self.0.lock();
            state.seen.hellos.push(hello.inbox_version);
            if let Some(status) = state.on_hello.pop_front() {
                return Err(status);
            }
            let welcome = pb::Welcome {
                protocol_version: 1,
                user_id: ME.to_owned(),
                device_id: "device".to_owned(),
                inbox_version: state.version(),
                server_time_unix_ms: 0,
                heartbeat_interval_ms: match state.quiet {
                    true => 600_000,
                    false => HEARTBEAT.as_millis() as u32,
                },
                limits: Some(state.limits),
                deferred: Vec::new(),
            };
            let frame = pb::ServerFrame {
                request_id: first.request_id,
                frame: Some(Frame::Welcome(welcome)),
            };
            sender.try_send(Ok(frame)).unwrap();
            let session = state.seen.hellos.len() as u64;
            state.sessions.push((session, sender));
            session
        };
        tokio::spawn(self.clone().serve(session, frames));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
