//! The edge's side of `RegistryService.Announce`: keeps the registry knowing this edge's sessions.
//!
//! Each shard of the registry has a stream of its own, which tells it the sessions of its users. They
//! are kept here, 24 bytes each and the slack of a hash table, so that a shard that lost them is told
//! all of them again: within some 20 s, whatever happened to it, because a stream that has nothing to
//! tell asks for an answer all the same.

use std::{collections::HashMap, convert::Infallible, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::presence::v1::{
    AnnounceRequest, AnnounceResponse, Session, registry_service_client::RegistryServiceClient,
};
use runtime::{
    auth::ServiceChannel,
    ids::UserId,
    shards::Shards,
    shutdown::{CancellationToken, Tasks},
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{Registries, backoff::Backoff};

/// Sessions in one request: half a MiB.
const REQUEST_SESSIONS_MAX: usize = 16_384;
/// Changes that may wait for a shard; with more, all its sessions are announced anew, which needs no
/// list of changes.
const CHANGES_MAX: usize = 65_536;
/// For the stream to open, and for each answer; then the registry counts as gone.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// What an [`Announcer`] needs to know.
#[derive(Debug, Clone)]
pub struct AnnouncerConfig {
    /// Where this node takes pushes.
    pub edge: String,
    /// The process's start in milliseconds since 1970: of two processes that are both there, the one
    /// with the higher epoch is the edge. A clock that was set back costs nothing once the registry
    /// has noticed that the process before is gone.
    pub epoch: u64,
    /// How long a stream may have nothing to tell before it asks for an answer all the same. So a
    /// replica that vanished is noticed, and one that is there knows that this edge is.
    pub idle_max: Duration,
    /// How long a new session waits to be known. Presence is soft: a session that is not known yet misses
    /// live pushes, which its heartbeat heals.
    pub opened_max: Duration,
}

impl AnnouncerConfig {
    /// The usual times.
    pub fn new(edge: impl Into<String>, epoch: u64) -> Self {
        Self {
            edge: edge.into(),
            epoch,
            // The contract's number: a third of the silence that the registry bears.
            idle_max: Duration::from_secs(5),
            // Many times what a healthy registry takes; nobody likes to wait longer for a session.
            opened_max: Duration::from_millis(500),
        }
    }
}

/// Announces the sessions of this edge. Clones share everything.
#[derive(Clone)]
pub struct Announcer {
    owners: Arc<Shards>,
    /// By the numbers of the owners.
    shards: Arc<[Arc<Shard>]>,
    opened_max: Duration,
}

/// What one shard is to know.
struct Shard {
    state: Mutex<State>,
    /// Something waits to be sent.
    wake: Notify,
}

/// A session: whose, and its id.
type Held = (UserId, u64);

struct State {
    sessions: HashMap<u64, UserId>,
    /// The shard has, or is being told, all of `sessions` but what is in `changes`.
    connected: bool,
    /// It answered in time when it was last asked, so that new sessions may wait for it.
    answers: bool,
    changes: Changes,
}

#[derive(Default)]
struct Changes {
    opened: Vec<Held>,
    closed: Vec<Held>,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Changes {
    fn len(&self) -> usize {
        self.opened.len() + self.closed.len()
    }
}

impl Announcer {
    /// Starts announcing; ends with `tasks`.
    pub fn start(config: AnnouncerConfig, registries: &Registries, tasks: &Tasks) -> Self {
        let owners = registries.shards().clone();
        let opened_max = config.opened_max;
        let config = Arc::new(config);
        let start = |(number, channel): (usize, &ServiceChannel)| {
            let shard = Arc::new(Shard {
                state: Mutex::new(State::new()),
                wake: Notify::new(),
            });
            let stream = Announcing {
                shard: shard.clone(),
                replica: owners.name(number).to_owned(),
                config: config.clone(),
                client: RegistryServiceClient::new(channel.clone()),
            };
            tasks.spawn(stream.run(tasks.stop_token()));
            shard
        };
        Self {
            shards: registries
                .channels()
                .iter()
                .enumerate()
                .map(start)
                .collect(),
            owners: Arc::new(owners),
            opened_max,
        }
    }

    /// A session is there. The future resolves when its shard knows it and has invalidated the routes
    /// that it changes; after `opened_max` at most, and at once while the shard is away or has just
    /// let others wait in vain: it is told later then. Dropping it changes nothing.
    pub fn opened(
        &self,
        user: UserId,
        session_id: u64,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shard = self.of(user).clone();
        let opened_max = self.opened_max;
        let waits = {
            let mut state = shard.state.lock();
            state.sessions.insert(session_id, user);
            state.change(user, session_id, |changes| &mut changes.opened);
            state.answers.then(|| {
                let (waiter, known) = oneshot::channel();
                // Who waits is bounded by the sessions: one each, until the next answer.
                state.changes.waiters.push(waiter);
                known
            })
        };
        shard.wake.notify_one();
        async move {
            let Some(known) = waits else {
                return;
            };
            if timeout(opened_max, known).await.is_err() {
                shard.state.lock().answers = false;
            }
        }
    }

    /// A session is gone.
    pub fn closed(&self, user: UserId, session_id: u64) {
        let shard = self.of(user);
        {
            let mut state = shard.state.lock();
            if state.sessions.remove(&session_id).is_none() {
                return;
            }
            state.change(user, session_id, |changes| &mut changes.closed);
        }
        shard.wake.notify_one();
    }

    /// How many sessions are announced or waiting to be.
    pub fn sessions(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.state.lock().sessions.len()).sum()
    }

    /// Whether new sessions wait, whatever shard they are of.
    #[cfg(test)]
    pub(crate) fn all_answer(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.all(|shard| shard.state.lock().answers)
    }

    fn of(&self, user: UserId) -> &Arc<Shard> {
        &self.shards[self.owners.owner(user.as_bytes())]
    }
}

impl State {
    /// Nothing is known of the shard yet, so the first sessions wait for it.
    fn new() -> Self {
        Self {
            sessions: HashMap::new(),
            connected: false,
            answers: true,
            changes: Changes::default(),
        }
    }

    fn change(
        &mut self,
        user: UserId,
        session_id: u64,
        kind: impl FnOnce(&mut Changes) -> &mut Vec<Held>,
    ) {
        // Without a connection there will be a snapshot.
        if !self.connected {
            return;
        }
        if self.changes.len() >= CHANGES_MAX {
            self.disconnect();
            return;
        }
        kind(&mut self.changes).push((user, session_id));
    }

    /// From now on changes are not listed: the next thing sent is a snapshot. Who waits goes on.
    fn disconnect(&mut self) {
        self.connected = false;
        self.changes.opened = Vec::new();
        self.changes.closed = Vec::new();
        // Those that gave up, so that they do not pile up while the registry is away.
        self.changes.waiters.retain(|waiter| !waiter.is_closed());
    }

    /// The shard cannot be reached: nobody waits for it until it has answered.
    fn away(&mut self) {
        self.answers = false;
        // They go on when their waiters are dropped.
        self.changes.waiters = Vec::new();
    }

    /// All sessions, and who waits for any of them; later changes are listed.
    fn snapshot(&mut self) -> Changes {
        self.connected = true;
        let mut all = std::mem::take(&mut self.changes);
        all.opened = self
            .sessions
            .iter()
            .map(|(id, user)| (*user, *id))
            .collect();
        all
    }
}

fn to_wire(sessions: impl Iterator<Item = Held>) -> Vec<Session> {
    let to_wire = |(user, session_id): Held| Session {
        user_id: user.as_bytes().to_vec(),
        session_id,
    };
    sessions.map(to_wire).collect()
}

/// The announcing to one shard.
struct Announcing {
    shard: Arc<Shard>,
    /// The name of the shard's replica, for the log.
    replica: String,
    config: Arc<AnnouncerConfig>,
    client: RegistryServiceClient<ServiceChannel>,
}

impl Announcing {
    async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.one_stream(&mut backoff) => ended,
            };
            self.shard.state.lock().disconnect();
            let Err(status) = ended;
            let (replica, edge, code) = (&self.replica, &self.config.edge, status.code());
            if matches!(code, Code::InvalidArgument | Code::PermissionDenied) {
                // Another process announces as this edge: nothing heals that while both live.
                tracing::error!(replica, edge, ?code, "registry refused this edge");
            } else {
                tracing::debug!(replica, ?code, "announcing interrupted");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// One stream: a snapshot, then the changes, until something breaks.
    async fn one_stream(&mut self, backoff: &mut Backoff) -> Result<Infallible, Status> {
        let shard = &*self.shard;
        let mut stream = self
            .open()
            .await
            .inspect_err(|_| shard.state.lock().away())?;
        let all = shard.state.lock().snapshot();
        stream.tell(shard, all, true).await?;
        backoff.reset();
        loop {
            let idle = tokio::select! {
                () = shard.wake.notified() => false,
                () = tokio::time::sleep(self.config.idle_max) => true,
                _ = stream.answers.message() => {
                    return Err(Status::unavailable("ended by the registry"));
                }
            };
            if idle {
                stream.ask(AnnounceRequest::default()).await?;
                continue;
            }
            let changes = {
                let mut state = shard.state.lock();
                if !state.connected {
                    return Err(Status::resource_exhausted("too many changes"));
                }
                std::mem::take(&mut state.changes)
            };
            stream.tell(shard, changes, false).await?;
        }
    }

    async fn open(&self) -> Result<AnnounceStream<'_>, Status> {
        let (requests, to_send) = mpsc::channel(1);
        let mut client = self.client.clone();
        let opening = client.announce(ReceiverStream::new(to_send));
        let answers = timeout(ANSWER_DEADLINE, opening)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("stream did not open")))?
            .into_inner();
        Ok(AnnounceStream {
            config: &self.config,
            requests,
            answers,
            sequence: 0,
        })
    }
}

struct AnnounceStream<'a> {
    config: &'a AnnouncerConfig,
    requests: mpsc::Sender<AnnounceRequest>,
    answers: Streaming<AnnounceResponse>,
    sequence: u64,
}

impl AnnounceStream<'_> {
    /// Tells the shard, then lets go on who waited for it.
    async fn tell(
        &mut self,
        shard: &Shard,
        mut changes: Changes,
        snapshot: bool,
    ) -> Result<(), Status> {
        let waiters = std::mem::take(&mut changes.waiters);
        let told = self.send_all(changes, snapshot).await;
        {
            let mut state = shard.state.lock();
            if told.is_err() {
                // They wait for the snapshot of the next stream.
                state.changes.waiters.extend(waiters);
                return told;
            }
            state.answers = true;
        }
        for waiter in waiters {
            // Gone if it gave up waiting.
            let _ = waiter.send(());
        }
        Ok(())
    }

    /// In as many requests as it takes, one under way at a time: what changes meanwhile shares the
    /// next.
    async fn send_all(&mut self, changes: Changes, snapshot: bool) -> Result<(), Status> {
        let mut opened = changes.opened.into_iter();
        let mut closed = changes.closed.into_iter();
        // A snapshot of nothing is told as well.
        let mut first = snapshot;
        while first || opened.len() + closed.len() > 0 {
            first = false;
            let some_opened = to_wire(opened.by_ref().take(REQUEST_SESSIONS_MAX));
            let left = REQUEST_SESSIONS_MAX - some_opened.len();
            // Taken after all that were opened, since a session may be in both.
            let some_closed = to_wire(closed.by_ref().take(left));
            self.ask(AnnounceRequest {
                snapshot,
                opened: some_opened,
                closed: some_closed,
                snapshot_continues: snapshot && opened.len() > 0,
                ..AnnounceRequest::default()
            })
            .await?;
        }
        Ok(())
    }

    /// Sends one request and waits until it is applied.
    async fn ask(&mut self, mut request: AnnounceRequest) -> Result<(), Status> {
        self.sequence += 1;
        request.sequence = self.sequence;
        request.edge.clone_from(&self.config.edge);
        request.epoch = self.config.epoch;
        let asking = async {
            if self.requests.send(request).await.is_err() {
                return Err(Status::unavailable("stream is closed"));
            }
            match self.answers.message().await? {
                Some(answer) if answer.sequence == self.sequence => Ok(()),
                Some(_) => Err(Status::internal("answer to another request")),
                None => Err(Status::unavailable("ended by the registry")),
            }
        };
        timeout(ANSWER_DEADLINE, asking)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    }
}
