//! The live session of a device: what an app holds in its hands.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    cache::Cache,
    client::Client,
    driver,
    error::{Error, Result},
    model::{Conversation, Draft, GroupChange, MemberMarks, Message, Receipt, Watermark},
    stats::{Counters, Stats},
};

/// Events that wait for the app unless [`Options::events_max`] says otherwise.
const EVENTS_MAX: usize = 1_024;
/// Messages that wait to be sent unless [`Options::queue_max`] says otherwise.
const QUEUE_MAX: usize = 1_000;
/// Conversations whose place is remembered unless [`Options::conversations_max`] says otherwise:
/// some 300 bytes each.
const CONVERSATIONS_MAX: usize = 100_000;
/// Requests of handles that wait for the session's task; then callers wait.
const COMMANDS_MAX: usize = 256;
/// The first bound of the wait before a reconnect, and the largest.
const RECONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long [`Session::close`] waits for answers to what was sent.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Where the events of a session begin, when no cache says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// With what happens from now on. Older messages are had by calls. The default.
    #[default]
    Present,
    /// With the first event of every conversation.
    Beginning,
    /// After what the app holds already.
    Known {
        /// The inbox version that it holds everything up to.
        inbox_version: u64,
        /// Conversations, and the last seq of each that it holds. A conversation that is not named
        /// here begins with its first event.
        seqs: Vec<(String, u64)>,
    },
}

/// How a session is to be.
#[derive(Clone)]
pub struct Options {
    pub(crate) start: Start,
    pub(crate) cache: Option<Arc<dyn Cache>>,
    pub(crate) events_max: usize,
    pub(crate) queue_max: usize,
    pub(crate) conversations_max: usize,
    pub(crate) reconnect_wait: (Duration, Duration),
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("start", &self.start)
            .field("cache", &self.cache.is_some())
            .field("events_max", &self.events_max)
            .field("queue_max", &self.queue_max)
            .field("conversations_max", &self.conversations_max)
            .field("reconnect_wait", &self.reconnect_wait)
            .finish()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start: Start::Present,
            cache: None,
            events_max: EVENTS_MAX,
            queue_max: QUEUE_MAX,
            conversations_max: CONVERSATIONS_MAX,
            reconnect_wait: RECONNECT_WAIT,
        }
    }
}

impl Options {
    /// The whole history comes as events first: for verifiers, archives and bots that start anew.
    #[must_use]
    pub fn from_beginning() -> Self {
        Self::default().start(Start::Beginning)
    }

    /// Where the events begin. A cache that holds something goes before it.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Keeps unsent messages, history and the device's place across restarts of the app.
    #[must_use]
    pub fn cache(mut self, cache: impl Cache) -> Self {
        self.cache = Some(Arc::new(cache));
        self
    }

    /// Events that wait for the app; default 1,024. An app that does not take them in time gets
    /// them later: what is pushed meanwhile is let go and fetched again.
    #[must_use]
    pub fn events_max(mut self, events: usize) -> Self {
        self.events_max = events.max(1);
        self
    }

    /// Messages that wait to be sent or answered, over all conversations; default 1,000.
    #[must_use]
    pub fn queue_max(mut self, messages: usize) -> Self {
        self.queue_max = messages.max(1);
        self
    }

    /// Conversations whose place is remembered; default 100,000. Above it, those that were not
    /// heard of for longest are forgotten. With a cache they are found again there; without one, a
    /// forgotten conversation goes on with the next event that is heard of.
    #[must_use]
    pub fn conversations_max(mut self, conversations: usize) -> Self {
        self.conversations_max = conversations.max(1);
        self
    }

    /// The bound of the first wait before a reconnect, and the largest one; default 250 ms and 30 s.
    /// Waits are random up to a bound that doubles with each try.
    #[must_use]
    pub fn reconnect_wait(mut self, first: Duration, largest: Duration) -> Self {
        self.reconnect_wait = (first, largest);
        self
    }
}

/// What a session tells, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The session is open; what was missed comes next, mixed with what happens now.
    Connected,
    /// What had changed until the session was opened has been told.
    CaughtUp {
        /// The inbox version that the device is at.
        inbox_version: u64,
    },
    /// A message: each one of a conversation once, in the order of seq, whoever sent it and from
    /// whichever device, this one included.
    Message(Message),
    /// A change of a group, in the order of seq with the messages of its conversation, and once like
    /// them. Nothing comes after the one by which the user left, until the one by which he joins again.
    GroupChange(Box<GroupChange>),
    /// The row of a conversation changed: unread count, preview, own marks. `peer` and `group`
    /// are set only in rows that were asked for, and absent in those that were pushed.
    Conversation(Box<Conversation>),
    /// Marks of members have grown: the ticks of own messages, see [`crate::Tick`].
    Marks {
        /// The conversation.
        conversation_id: String,
        /// The members whose marks have grown, and where they are now.
        members: Vec<MemberMarks>,
    },
    /// The connection is gone, or could not be made; it is tried again after a while.
    Disconnected {
        /// Why.
        error: Error,
        /// When the next try begins.
        retry_in: Duration,
    },
    /// The session has ended for good: the device was logged out, or client and server do not
    /// understand each other. The last event.
    Closed(Error),
}

/// How a session is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// There is no connection; one is being made.
    Connecting,
    /// Connected; what was missed is being fetched.
    CatchingUp,
    /// Connected, and nothing known is missing.
    Live,
    /// Ended for good.
    Closed(Error),
}

/// What became of a message that was handed to [`Session::send`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutgoingState {
    /// Waits to be sent, or to be answered. It stays so while the server is away.
    Queued,
    /// It is in the conversation, durably.
    Sent(Receipt),
    /// The server refused it; it is not in the conversation and is not tried again.
    Failed(Error),
}

/// A message on its way. Dropping it changes nothing about the message.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(crate) conversation_id: String,
    pub(crate) message_id: String,
    pub(crate) state: watch::Receiver<OutgoingState>,
}

impl Outgoing {
    /// Where it goes.
    pub fn conversation_id(&self) -> &str {
        &self.conversation_id
    }

    /// The name it was given, the same in every try.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// What became of it so far.
    pub fn state(&self) -> OutgoingState {
        self.state.borrow().clone()
    }

    /// Waits for the answer. [`Error::Closed`] if the session ends before: then a message in a cache
    /// is sent by the next session, and of another one nobody knows.
    pub async fn sent(&mut self) -> Result<Receipt> {
        let answered = |state: &OutgoingState| *state != OutgoingState::Queued;
        let state = self.state.wait_for(answered).await;
        match state.map_err(|_| Error::Closed)?.clone() {
            OutgoingState::Sent(receipt) => Ok(receipt),
            OutgoingState::Failed(error) => Err(error),
            OutgoingState::Queued => Err(Error::Closed),
        }
    }
}

/// The events of a session, in order. When the app is slow, what is pushed meanwhile is fetched again
/// later, so that memory stays bounded and nothing is lost. Dropping it means that nobody wants
/// events; the session goes on for sending.
#[derive(Debug)]
pub struct Events {
    pub(crate) receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// The next message; other events on the way to it are skipped. `None` after the last event.
    pub async fn next_message(&mut self) -> Option<Message> {
        loop {
            if let Event::Message(message) = self.next().await? {
                return Some(message);
            }
        }
    }
}

impl futures_util::Stream for Events {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        self.receiver.poll_recv(context)
    }
}

/// What handles ask of the session's task.
pub(crate) enum Command {
    Send {
        conversation_id: String,
        /// `None` = a new one.
        message_id: Option<String>,
        draft: Draft,
        reply: oneshot::Sender<Result<Outgoing>>,
    },
    MarkRead {
        conversation_id: String,
        up_to: Watermark,
        reply: oneshot::Sender<Result<()>>,
    },
    Unsent {
        reply: oneshot::Sender<Vec<Outgoing>>,
    },
    Close {
        deadline: Duration,
        reply: oneshot::Sender<()>,
    },
}

/// A handle of the device's session. Cheap to clone. The session ends when all handles and its
/// [`Events`] are dropped, or with [`Session::close`].
#[derive(Clone)]
pub struct Session {
    pub(crate) client: Client,
    pub(crate) user_id: Arc<str>,
    pub(crate) device_id: Arc<str>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) state: watch::Receiver<SessionState>,
    pub(crate) cache: Option<Arc<dyn Cache>>,
    pub(crate) counters: Arc<Counters>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user_id", &self.user_id)
            .field("device_id", &self.device_id)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The user whose session it is.
    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// The device whose session it is.
    pub fn device_id(&self) -> &str {
        &self.device_id
    }

    /// The client that it was made by, for calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Queues a message: a text, or a [`Draft`] that has attachments or mentions members of a group. It
    /// is sent as soon as there is a connection, in the order of the calls for one conversation, and
    /// again under the same name until there is a definite answer.
    ///
    /// Returns when the message is queued, with a cache durably. Refused at once: an empty or too
    /// long text, U+0000, too many mentions or attachments, and [`Error::QueueFull`].
    pub async fn send(
        &self,
        conversation_id: impl Into<String>,
        draft: impl Into<Draft>,
    ) -> Result<Outgoing> {
        let (conversation_id, draft) = (conversation_id.into(), draft.into());
        self.ask(|reply| Command::Send {
            conversation_id,
            message_id: None,
            draft,
            reply,
        })
        .await?
    }

    /// Queues a message again that was refused with
    /// [`ReceiptExpired`](crate::ErrorReason::ReceiptExpired), with receipts of new uploads of the same
    /// bytes. It comes behind what was queued meanwhile.
    ///
    /// Under its old name, because that is safe whatever became of the first try: if it is in the
    /// conversation after all, the server says `duplicate`, and there is no second one. A new name
    /// would make one.
    pub async fn send_again(
        &self,
        refused: &Outgoing,
        draft: impl Into<Draft>,
    ) -> Result<Outgoing> {
        let draft = draft.into();
        self.ask(|reply| Command::Send {
            conversation_id: refused.conversation_id.clone(),
            message_id: Some(refused.message_id.clone()),
            draft,
            reply,
        })
        .await?
    }

    /// The user has seen everything up to here ([`Message::watermark`]). Told to the server as soon as
    /// there is a connection, and again until it shows that it knows.
    pub async fn mark_read(
        &self,
        conversation_id: impl Into<String>,
        up_to: Watermark,
    ) -> Result<()> {
        let conversation_id = conversation_id.into();
        self.ask(|reply| Command::MarkRead {
            conversation_id,
            up_to,
            reply,
        })
        .await?
    }

    /// The messages that are not answered yet, in the order in which they were queued, those of
    /// earlier runs of the app included.
    pub async fn unsent(&self) -> Result<Vec<Outgoing>> {
        self.ask(|reply| Command::Unsent { reply }).await
    }

    /// Messages of a conversation before a message_index (0 = the newest), newest first; at most
    /// `limit`, 1 to 200. From the cache where it has them, otherwise from the server.
    pub async fn history(
        &self,
        conversation_id: &str,
        before_message_index: u64,
        limit: usize,
    ) -> Result<Vec<Message>> {
        crate::history::page(self, conversation_id, before_message_index, limit).await
    }

    /// How the session is doing now.
    pub fn state(&self) -> SessionState {
        self.state.borrow().clone()
    }

    /// Waits until the session is connected and nothing known is missing.
    pub async fn live(&self) -> Result<()> {
        let mut state = self.state.clone();
        let settled =
            |state: &SessionState| matches!(state, SessionState::Live | SessionState::Closed(_));
        match &*state.wait_for(settled).await.map_err(|_| Error::Closed)? {
            SessionState::Closed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// What the session has done so far.
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Ends the session: no more events; answers to what was sent are waited for, up to 5 s. What is
    /// unsent stays in the cache, if there is one.
    pub async fn close(&self) {
        let ended = self.ask(|reply| Command::Close {
            deadline: CLOSE_DEADLINE,
            reply,
        });
        // An error means that it has ended already.
        let _ = ended.await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}

/// Starts the session's task.
pub(crate) async fn connect(client: Client, options: Options) -> Result<(Session, Events)> {
    let credentials = client.credentials().await?;
    let (commands, requests) = mpsc::channel(COMMANDS_MAX);
    let (events, receiver) = mpsc::channel(options.events_max);
    let (state, states) = watch::channel(SessionState::Connecting);
    let counters = Arc::new(Counters::default());
    let session = Session {
        client: client.clone(),
        user_id: credentials.user_id.into(),
        device_id: credentials.device_id.into(),
        commands,
        state: states,
        cache: options.cache.clone(),
        counters: counters.clone(),
    };
    let ends = driver::Ends {
        commands: requests,
        events,
        state,
        counters,
    };
    driver::start(client, session.user_id.clone(), options, ends).await?;
    Ok((session, Events { receiver }))
}
