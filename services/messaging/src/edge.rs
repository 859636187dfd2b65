//! The edge: holds the sessions of devices, checks what they say, appends it to the log, and hands
//! them what the readers of the log made of it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use delivery::{Announcer, Answer, Broadcast, LocalEdge};
use event_log::EventLog;
use futures_util::future::BoxFuture;
use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};
use parking_lot::Mutex;
use proto::{
    error::v1::ErrorReason,
    log::v1::Verdict,
    messaging::v1::{self as wire_v1, ClientFrame, client_frame, server_frame},
};
use rand::RngExt;
use runtime::{
    auth::{Caller, ReceiptVerifier, UserCaller, Verifier, user_caller},
    clock::Clock,
    ids::{ConversationId, DeviceId, MessageId, UserId},
    status::ApiError,
};
use tokio::sync::oneshot;
use tonic::{Request, Status, Streaming};

use crate::{
    config::Config,
    directory::Directory,
    limits::{CALL_DEADLINE, FRAME_BYTES_MAX, TEXT_CHARS_MAX, USER_AGENT_BYTES_MAX},
    model::Marks,
    store::{Store, StoreError},
    validate, wire,
};

mod deferred;
mod marks;
mod send;
mod server;
mod session;
mod sessions;
mod stream;
mod sweep;

use self::{
    marks::MarkBuffer,
    session::{Session, error_frame},
    sessions::Sessions,
    stream::SessionStream,
};
pub(crate) use server::SessionServer;
pub(crate) use session::rejection;

/// The version of the session's protocol, and the only one so far.
const PROTOCOL_VERSION: u32 = 1;

/// Calls by user.
type CallLimiter = RateLimiter<UserId, DashMapStateStore<UserId>, MonotonicClock>;

/// What the edge needs of others.
pub(crate) struct EdgeParts {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) announcer: Announcer,
    pub(crate) verifier: Verifier,
    pub(crate) receipts: ReceiptVerifier,
}

/// The edge of this node.
pub(crate) struct Edge {
    config: Config,
    clock: Arc<dyn Clock>,
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    announcer: Announcer,
    verifier: Verifier,
    receipts: ReceiptVerifier,
    sessions: Sessions,
    session_last: AtomicU64,
    marks: Arc<MarkBuffer>,
    calls: CallLimiter,
    call_last: AtomicU64,
    /// The node is stopping and takes nothing new.
    draining: AtomicBool,
    waiting_calls: Mutex<HashMap<u64, oneshot::Sender<Verdict>>>,
}

impl Edge {
    pub(crate) fn new(parts: EdgeParts) -> Arc<Self> {
        let EdgeParts {
            config,
            clock,
            log,
            store,
            directory,
            announcer,
            verifier,
            receipts,
        } = parts;
        let quota = Quota::per_second(config.calls_per_second).allow_burst(config.calls_burst);
        Arc::new(Self {
            config,
            clock,
            log,
            store,
            directory,
            announcer,
            verifier,
            receipts,
            sessions: Sessions::new(),
            // Session ids differ between edges and between starts, so that "all but this session" means
            // one session in the whole system.
            session_last: AtomicU64::new(u64::from(rand::rng().random::<u32>()) << 32),
            marks: MarkBuffer::new(),
            calls: RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock),
            // As above: an answer to a call of the process before must not find one of this process.
            call_last: AtomicU64::new(u64::from(rand::rng().random::<u32>()) << 32),
            draining: AtomicBool::new(false),
            waiting_calls: Mutex::default(),
        })
    }

    /// Runs what the sessions share: timers and receipts.
    pub(crate) fn start(self: &Arc<Self>, tasks: &runtime::shutdown::Tasks) {
        tasks.spawn(sweep::run(self.clone(), tasks.stop_token()));
        tasks.spawn(self.marks.clone().run(self.log.clone(), tasks.stop_token()));
    }

    /// Asks all sessions to reconnect elsewhere, spread over the drain; then ends those that stayed.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let window_ms = u32::try_from(self.config.drain.as_millis()).unwrap_or(u32::MAX);
        let mut count = 0_usize;
        for session in self.sessions.all() {
            let reconnect_after_ms = rand::rng().random_range(0..=window_ms);
            let frame = wire_v1::GoingAway { reconnect_after_ms };
            session.answer(wire::push(server_frame::Frame::GoingAway(frame)));
            count += 1;
        }
        if count == 0 {
            return;
        }
        tracing::info!(sessions = count, "asked to reconnect elsewhere");
        let deadline = tokio::time::Instant::now() + self.config.drain;
        while self.sessions.all().next().is_some() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.end_all();
    }

    /// Ends what is still open; also what came in the moment in which the drain began.
    pub(crate) fn end_all(&self) {
        for session in self.sessions.all() {
            session.end(going_away());
        }
    }

    /// Whether something new may come.
    fn check_open(&self) -> Result<(), ApiError> {
        match self.draining.load(Ordering::SeqCst) {
            true => Err(going_away()),
            false => Ok(()),
        }
    }

    /// Whether the user may make a call now.
    pub(crate) fn check_rate(&self, user: UserId) -> Result<(), ApiError> {
        self.calls.check_key(&user).map_err(|early| {
            use governor::clock::Clock as _;
            let wait = early.wait_time_from(MonotonicClock.now());
            ApiError::retry_after(ErrorReason::RateLimited, "too many calls a second", wait)
        })
    }

    // --- streams -----------------------------------------------------------------------------------

    fn open_stream(
        self: Arc<Self>,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<SessionStream, Status> {
        let UserCaller {
            user_id,
            device_id,
            expires_unix_ms,
            ..
        } = user_caller(&request)?;
        self.check_open()?;
        let id = self.session_last.fetch_add(1, Ordering::Relaxed) + 1;
        let session = Arc::new(Session::new(id, user_id, device_id, expires_unix_ms));
        self.sessions.add(session.clone());
        Ok(SessionStream::new(self, session, request.into_inner()))
    }

    fn closed(&self, session: &Session) {
        self.forget(session);
    }

    /// The session gets nothing more.
    fn forget(&self, session: &Session) {
        if self.sessions.remove(session) {
            self.announcer.closed(session.user, session.id);
        }
    }

    /// Refuses a frame for now.
    fn refuse(&self, session: &Session, frame: ClientFrame, error: &ApiError) {
        let mut message_id = None;
        if let Some(client_frame::Frame::Send(send)) = &frame.frame
            && let Ok(conversation) = ConversationId::parse(&send.conversation_id)
            && let Ok(id) = MessageId::parse(&send.message_id)
        {
            session.refused(conversation, id);
            message_id = Some(id);
        }
        session.answer(error_frame(frame.request_id, error, message_id));
    }

    /// Carries out a frame; what it must wait for is the answer. An error answers the frame.
    fn handle(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: ClientFrame,
    ) -> Result<Option<BoxFuture<'static, ()>>, ApiError> {
        let request_id = frame.request_id;
        match frame.frame {
            Some(client_frame::Frame::Hello(hello)) => {
                session.begin()?;
                Ok(self.hello(session, request_id, &hello))
            }
            Some(client_frame::Frame::Send(send)) => Ok(self.send(session, request_id, send)),
            Some(client_frame::Frame::Delivered(mark)) => {
                let conversation = validate::conversation(
                    session.user,
                    &mark.conversation_id,
                    "delivered.conversation_id",
                )?;
                let delivered = validate::watermark(mark.up_to, "delivered.up_to")?;
                self.marks.add(
                    conversation,
                    session.user,
                    Marks {
                        delivered,
                        ..Marks::default()
                    },
                )?;
                Ok(None)
            }
            Some(client_frame::Frame::Read(mark)) => {
                let conversation = validate::conversation(
                    session.user,
                    &mark.conversation_id,
                    "read.conversation_id",
                )?;
                let read = validate::watermark(mark.up_to, "read.up_to")?;
                self.marks.add(
                    conversation,
                    session.user,
                    Marks {
                        read,
                        ..Marks::default()
                    },
                )?;
                Ok(None)
            }
            Some(client_frame::Frame::Heartbeat(_)) => Ok(None),
            Some(client_frame::Frame::RenewToken(renew)) => {
                self.renew(session, request_id, &renew.access_token)?;
                Ok(None)
            }
            None => Err(ApiError::new(
                ErrorReason::FrameUnknown,
                "the frame has no content that this server knows",
            )),
        }
    }

    // --- hello and tokens --------------------------------------------------------------------------

    fn hello(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request_id: u64,
        hello: &wire_v1::Hello,
    ) -> Option<BoxFuture<'static, ()>> {
        if hello.protocol_version < PROTOCOL_VERSION {
            session.end(ApiError::field(
                ErrorReason::ProtocolVersionUnsupported,
                "hello.protocol_version",
                format!("this server speaks version {PROTOCOL_VERSION}"),
            ));
            return None;
        }
        if hello.user_agent.len() > USER_AGENT_BYTES_MAX {
            session.end(ApiError::field(
                ErrorReason::FieldOutOfRange,
                "hello.user_agent",
                format!("at most {USER_AGENT_BYTES_MAX} bytes"),
            ));
            return None;
        }
        let (edge, session) = (self.clone(), session.clone());
        Some(Box::pin(
            async move { edge.welcome(&session, request_id).await },
        ))
    }

    async fn welcome(&self, session: &Arc<Session>, request_id: u64) {
        if let Some(older) = self.sessions.open(session.clone()) {
            older.end(ApiError::new(
                ErrorReason::SessionReplaced,
                "the same device opened a newer session",
            ));
            self.announcer.closed(older.user, older.id);
        }
        // Known to senders before the version is read: what comes after that version is pushed.
        self.announcer.opened(session.user, session.id).await;
        let read = async {
            let heads = self.store.inbox_heads(vec![session.user]).await?;
            let mut deferred = deferred::heads(self.store.as_ref(), [session.user]).await?;
            let deferred = deferred.remove(&session.user).unwrap_or_default();
            Ok::<_, StoreError>((heads.first().copied().unwrap_or_default(), deferred))
        };
        let (head, deferred) = match tokio::time::timeout(CALL_DEADLINE, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return session.end(ApiError::unavailable(&error)),
            Err(elapsed) => return session.end(ApiError::unavailable(&elapsed)),
        };
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let welcome = wire_v1::Welcome {
            protocol_version: PROTOCOL_VERSION,
            user_id: session.user.to_string(),
            device_id: session.device.to_string(),
            inbox_version: head.version,
            server_time_unix_ms: self.clock.now_unix_ms(),
            heartbeat_interval_ms: ms(self.config.heartbeat_interval),
            limits: Some(wire_v1::SessionLimits {
                text_chars_max: count(TEXT_CHARS_MAX),
                frame_bytes_max: count(FRAME_BYTES_MAX),
                in_flight_max: count(self.config.session_in_flight_max),
                frames_per_second: self.config.session_frames_per_second.get(),
                frames_burst: self.config.session_burst.get(),
            }),
            deferred,
        };
        let frame = wire::answer(request_id, server_frame::Frame::Welcome(welcome));
        session.welcome(frame, self.config.heartbeat_interval);
    }

    fn renew(&self, session: &Session, request_id: u64, token: &str) -> Result<(), ApiError> {
        let expires_unix_ms = match self.verifier.verify(token)? {
            Caller::User(user)
                if user.user_id == session.user && user.device_id == session.device =>
            {
                user.expires_unix_ms
            }
            _ => {
                return Err(ApiError::field(
                    ErrorReason::TokenInvalid,
                    "renew_token.access_token",
                    "the token is not one of this device",
                ));
            }
        };
        session.renewed(expires_unix_ms);
        let frame = wire_v1::TokenRenewed { expires_unix_ms };
        session.answer(wire::answer(
            request_id,
            server_frame::Frame::TokenRenewed(frame),
        ));
        Ok(())
    }
}

fn going_away() -> ApiError {
    ApiError::new(ErrorReason::GoingAway, "the server is stopping")
}

impl LocalEdge for Edge {
    fn broadcast(&self, item: &Broadcast) -> u32 {
        let mut missed = 0;
        for user in item.users.iter() {
            let found = self.sessions.for_user(*user, |session| {
                if session.id != item.except_session_id {
                    session.push(&item.frame);
                }
            });
            missed += u32::from(!found);
        }
        missed
    }

    fn answer(&self, answer: Answer) {
        if answer.session_id == 0 {
            if let Some(call) = self.waiting_calls.lock().remove(&answer.request_id) {
                let _ = call.send(answer.verdict);
            }
        } else if let Some(session) = self.sessions.get(answer.session_id) {
            session.verdict(answer.request_id, &answer.verdict);
        }
    }

    fn end_sessions(&self, user: UserId, device: DeviceId) {
        // Also those that have not said hello yet; it is rare, and worth looking at all.
        let is_of_device =
            |session: &Arc<Session>| session.user == user && session.device == device;
        for session in self.sessions.all().filter(is_of_device) {
            session.end(ApiError::new(
                ErrorReason::DeviceRevoked,
                "the device was logged out",
            ));
            self.forget(&session);
        }
    }
}
