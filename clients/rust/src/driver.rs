//! The task of a session: everything that happens, one thing after the other.
//!
//! It owns the state machines ([`Outbox`], [`Inbox`]), the connection, and the cache. What an input
//! brings about is collected, written to the cache in one batch, and told only then.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use proto::messaging::v1::{Welcome, event::Kind};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    auth::Held,
    backoff::Backoff,
    cache::{Batch, Cache},
    client::Client,
    connection::{self, Connection, Heard},
    error::{Error, Result},
    ids::MessageIds,
    inbox::{Inbox, Known, Output},
    model::{GroupChange, Message, RawEvent, SessionLimits},
    outbox::Outbox,
    session::{Command, Event, Options, OutgoingState, SessionState, Start},
    stats::{Counters, count},
};

mod commands;
mod delivery;
mod frames;
mod life;
mod reads;

use delivery::{Marks, Told};
use life::Link;
use reads::Done;

/// Commands that are taken at a time, so that they share a batch of the cache.
const COMMANDS_PER_TURN: usize = 64;
/// With nothing to wait for, look again after this long.
const IDLE: Duration = Duration::from_secs(3_600);

/// The session's ends of its channels.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) counters: Arc<Counters>,
}

/// Something that is told after the batch is in the cache.
type Afterwards = Box<dyn FnOnce() + Send>;

struct Driver {
    client: Client,
    user_id: Arc<str>,
    options: Options,
    cache: Option<Arc<dyn Cache>>,
    counters: Arc<Counters>,

    commands: mpsc::Receiver<Command>,
    /// All handles are dropped.
    unhandled: bool,
    /// `None` when nobody listens.
    events: Option<mpsc::Sender<Event>>,
    /// Events that the app has no room for.
    ready: VecDeque<Event>,
    /// Frames were let go because of that.
    shed: bool,
    state: watch::Sender<SessionState>,
    tokens: watch::Receiver<Option<Arc<Held>>>,

    inbox: Inbox,
    outbox: Outbox<watch::Sender<OutgoingState>>,
    ids: MessageIds,
    marks: Marks,
    told: Told,
    /// The server wants no marks before.
    marks_hold: Option<Instant>,
    /// When deliveries are acknowledged.
    deliver_at: Option<Instant>,
    limits: Option<SessionLimits>,

    link: Link,
    reconnect: Backoff,
    /// Times that another session of this device took over, since all was well.
    replaced: u32,
    /// The outbox has been told about the connection.
    may_send: bool,
    caught_up: bool,
    refreshing: bool,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Reads of events that are under way.
    fetching: usize,
    /// Reads of events that are to be of one conversation each, to find the one that is refused.
    fetch_alone: usize,
    /// The session is being closed: until when, and whom to tell.
    closing: Option<(Instant, Vec<oneshot::Sender<()>>)>,

    out: Vec<Output>,
    /// Conversations whose head may have moved.
    touched: HashSet<String>,
    batch: Batch,
    afterwards: Vec<Afterwards>,
}

/// What the task waits for.
enum Input {
    Command(Option<Command>),
    Heard(Heard),
    Opened(Result<(Box<Connection>, Welcome)>),
    Done(Done),
    Taken,
    Unheard,
    Tokens,
    Time,
}

/// Loads the cache, and starts the task.
pub(crate) async fn start(
    client: Client,
    user_id: Arc<str>,
    options: Options,
    ends: Ends,
) -> Result<()> {
    let cache = options.cache.clone();
    let stored = match &cache {
        Some(cache) => cache.load(&user_id, options.conversations_max).await?,
        None => crate::cache::Stored::default(),
    };
    let heads = stored.heads.into_iter().map(Known::from).collect();
    let (version, known) = beginning(stored.inbox_version, heads, &options.start);
    let mut ids = MessageIds::new(options.conversations_max);
    for (conversation_id, message_id) in &stored.last_message_ids {
        ids.saw(conversation_id, message_id);
    }
    let places_max = options.conversations_max;
    let mut outbox = Outbox::new(options.queue_max);
    for unsent in stored.unsent {
        ids.saw(&unsent.conversation_id, &unsent.message_id);
        let tag = watch::Sender::new(OutgoingState::Queued);
        outbox.queue(
            &unsent.conversation_id,
            unsent.message_id,
            unsent.draft,
            tag,
        );
    }
    let (first, cap) = options.reconnect_wait;
    let driver = Driver {
        inbox: Inbox::new(&user_id, version, known, places_max, cache.is_some()),
        outbox,
        ids,
        marks: Marks::new(stored.reads),
        told: Told::default(),
        marks_hold: None,
        deliver_at: None,
        limits: None,
        link: Link::Down(Instant::now()),
        reconnect: Backoff::new(first, cap),
        replaced: 0,
        may_send: false,
        caught_up: false,
        refreshing: false,
        work: FuturesUnordered::new(),
        fetching: 0,
        fetch_alone: 0,
        closing: None,
        out: Vec::new(),
        touched: HashSet::new(),
        batch: Batch::default(),
        afterwards: Vec::new(),
        commands: ends.commands,
        unhandled: false,
        events: Some(ends.events),
        ready: VecDeque::new(),
        shed: false,
        state: ends.state,
        tokens: client.inner.auth.watch(),
        counters: ends.counters,
        client,
        user_id,
        options,
        cache,
    };
    tokio::spawn(driver.run());
    Ok(())
}

/// Where the session begins: the version it is at, `None` = that of the present, and conversations.
fn beginning(
    stored_version: Option<u64>,
    mut known: Vec<Known>,
    start: &Start,
) -> (Option<u64>, Vec<Known>) {
    let version = match (stored_version, start) {
        (Some(version), _) => Some(version),
        // A cache without a version is new, or of an app that died before it had caught up.
        (None, Start::Present) => None,
        (None, Start::Beginning) => Some(0),
        (
            None,
            Start::Known {
                inbox_version,
                seqs,
            },
        ) => {
            known.extend(seqs.iter().map(Known::from));
            Some(*inbox_version)
        }
    };
    (version, known)
}

impl Driver {
    async fn run(mut self) {
        let error = loop {
            let now = Instant::now();
            if let Err(error) = self.tend(now) {
                break error;
            }
            if !self.afterwards.is_empty()
                && let Err(error) = self.commit().await
            {
                break error;
            }
            if self.is_over(now) {
                break Error::Closed;
            }
            let input = self.wait(now).await;
            count(&self.counters.turns);
            let done = match self.take(input).await {
                Ok(()) => self.commit().await,
                Err(error) => self.commit().await.and(Err(error)),
            };
            if let Err(error) = done {
                break error;
            }
        };
        self.end(error).await;
    }

    /// Waits for the next thing that happens.
    async fn wait(&mut self, now: Instant) -> Input {
        let wakes_at = self.wakes_at(now);
        let is_ready = !self.ready.is_empty();
        let has_events = self.events.is_some();
        tokio::select! {
            command = self.commands.recv(), if !self.unhandled => Input::Command(command),
            input = self.link.next() => input,
            Some(done) = self.work.next(), if !self.work.is_empty() => Input::Done(done),
            () = has_room(&self.events), if is_ready => Input::Taken,
            () = is_unheard(&self.events), if has_events => Input::Unheard,
            Ok(()) = self.tokens.changed() => Input::Tokens,
            () = sleep_until(wakes_at) => Input::Time,
        }
    }

    async fn take(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Command(None) => self.unhandled = true,
            Input::Command(Some(command)) => {
                self.command(command);
                for _ in 1..COMMANDS_PER_TURN {
                    let Ok(command) = self.commands.try_recv() else {
                        break;
                    };
                    self.command(command);
                }
            }
            Input::Heard(Heard::Writable) | Input::Taken | Input::Time => {}
            Input::Heard(Heard::Frames(frames, ended)) => {
                self.learn_of(&frames).await?;
                for frame in frames {
                    self.frame(frame, Instant::now())?;
                }
                if let Some(error) = ended {
                    self.broke(error)?;
                }
            }
            Input::Opened(Ok((connection, welcome))) => {
                let heads = welcome.deferred.iter();
                let ids = heads.map(|head| head.conversation_id.clone()).collect();
                self.learn(ids).await?;
                self.opened(connection, &welcome);
            }
            Input::Opened(Err(error)) => self.broke(error)?,
            Input::Done(done) => self.done(done).await?,
            Input::Unheard => {
                self.events = None;
                self.ready.clear();
            }
            Input::Tokens => self.renew_token(Instant::now()),
        }
        Ok(())
    }

    /// Everything that is due.
    fn tend(&mut self, now: Instant) -> Result<()> {
        self.hand_over();
        if self.shed && self.ready.is_empty() {
            self.shed = false;
            self.lagged(now);
        }
        self.tend_link(now)?;
        self.look_whether_to_send();
        self.write(now);
        self.start_reads(now);
        self.hand_over();
        Ok(())
    }

    /// When something becomes due, unless something happens before.
    fn wakes_at(&self, now: Instant) -> Instant {
        let closing = self.closing.as_ref().map(|(deadline, _)| *deadline);
        let times = [closing, self.link_wakes_at(), self.reads_wake_at()];
        let first = times.into_iter().flatten().min();
        first.unwrap_or(now + IDLE).min(now + IDLE)
    }

    /// Gives the app what it has room for.
    fn hand_over(&mut self) {
        let Some(events) = &self.events else {
            self.ready.clear();
            return;
        };
        while !self.ready.is_empty() {
            let Ok(permit) = events.try_reserve() else {
                return;
            };
            if let Some(event) = self.ready.pop_front() {
                permit.send(event);
            }
        }
    }

    /// Whether the app is so slow that what is pushed has to be let go.
    fn is_full(&self) -> bool {
        self.ready.len() >= self.options.events_max
    }

    /// What is put out goes to the cache, and then to the app.
    async fn commit(&mut self) -> Result<()> {
        let mut events = Vec::new();
        for output in std::mem::take(&mut self.out) {
            self.put_out(output, &mut events);
        }
        let touched = std::mem::take(&mut self.touched);
        if let Some(cache) = &self.cache {
            let known = touched.iter().filter_map(|id| self.inbox.known(id));
            self.batch.heads.extend(known.map(Into::into));
            if !self.batch.is_empty() {
                cache.apply(std::mem::take(&mut self.batch)).await?;
            }
        }
        self.batch = Batch::default();
        if self.events.is_some() {
            self.ready.extend(events);
        }
        for tell in std::mem::take(&mut self.afterwards) {
            tell();
        }
        self.look_whether_caught_up();
        Ok(())
    }

    fn put_out(&mut self, output: Output, events: &mut Vec<Event>) {
        match output {
            Output::Event(event) => {
                self.touched.insert(event.conversation_id.clone());
                self.put_out_event(event, events);
            }
            Output::Row(row) => {
                self.touched.insert(row.conversation_id.clone());
                if let Some(own) = &row.own_marks {
                    self.read_confirmed(&row.conversation_id, own.read);
                }
                if self.cache.is_some() {
                    self.batch.conversations.push((*row).clone());
                }
                events.push(Event::Conversation(row));
            }
            Output::Marks(conversation_id, members) => {
                for member in &members {
                    if member.user_id == *self.user_id {
                        self.read_confirmed(&conversation_id, member.read);
                    }
                    if self.cache.is_some() {
                        let marks = (conversation_id.clone(), member.clone());
                        self.batch.marks.push(marks);
                    }
                }
                events.push(Event::Marks {
                    conversation_id,
                    members,
                });
            }
            Output::Version(version) => self.batch.inbox_version = Some(version),
        }
    }

    fn put_out_event(&mut self, event: RawEvent, events: &mut Vec<Event>) {
        if let Some(Kind::GroupChange(_)) = &event.kind {
            // A kind of change that is not known is counted, and not shown; as one of events below.
            if let Some(change) = GroupChange::from_event(event) {
                if self.cache.is_some() {
                    self.batch.group_changes.push(change.clone());
                }
                events.push(Event::GroupChange(Box::new(change)));
            }
            return;
        }
        let Some(message) = Message::from_event(event) else {
            return;
        };
        if message.sender_id == *self.user_id {
            self.ids.saw(&message.conversation_id, &message.message_id);
        }
        if self.cache.is_some() {
            self.batch.messages.push(message.clone());
        }
        events.push(Event::Message(message));
    }

    fn look_whether_caught_up(&mut self) {
        if self.caught_up || !matches!(self.link, Link::Up(_)) || !self.inbox.is_complete() {
            return;
        }
        self.caught_up = true;
        let inbox_version = self.inbox.version();
        if self.events.is_some() {
            self.ready.push_back(Event::CaughtUp { inbox_version });
        }
        self.set_state(SessionState::Live);
    }

    /// Something that is no news of a conversation; dropped if there is no room, so that a server
    /// that comes and goes fills nothing.
    fn tell(&mut self, event: Event) {
        if self.events.is_some() && self.ready.len() < 2 * self.options.events_max {
            self.ready.push_back(event);
        }
    }

    fn set_state(&self, state: SessionState) {
        self.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }
}

/// Waits until the app has room for an event, or listens no more.
async fn has_room(events: &Option<mpsc::Sender<Event>>) {
    if let Some(events) = events {
        // An error shows as `is_unheard`.
        let _ = events.reserve().await;
    }
}

/// Waits until the app listens no more.
async fn is_unheard(events: &Option<mpsc::Sender<Event>>) {
    if let Some(events) = events {
        events.closed().await;
    }
}
