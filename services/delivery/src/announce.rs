//! The edge's side of `RegistryService.Announce`: keeps the registry knowing this edge's sessions.
//!
//! The set of sessions is kept here, 24 bytes each and the slack of a hash table, so that a registry
//! that lost them is told all of them again.

use std::{collections::HashMap, convert::Infallible, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::presence::v1::{
    AnnounceRequest, AnnounceResponse, Session, registry_service_client::RegistryServiceClient,
};
use runtime::{
    auth::ServiceChannel,
    ids::UserId,
    shutdown::{CancellationToken, Tasks},
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;

/// Sessions in one request: half a MiB.
const REQUEST_SESSIONS_MAX: usize = 16_384;
/// Changes that may wait for the registry; with more, all sessions are announced anew, which needs
/// no list of changes.
const CHANGES_MAX: usize = 65_536;
/// For the stream to open, and for each answer; then the registry counts as gone.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a new session waits to be known. Presence is soft: a session that is not known yet
/// misses live pushes, which its heartbeat heals.
const OPENED_DEADLINE: Duration = Duration::from_secs(2);

/// What an [`Announcer`] needs to know.
#[derive(Debug, Clone)]
pub struct AnnouncerConfig {
    /// Where this node takes pushes.
    pub edge: String,
    /// Grows with each start of the process: its start in milliseconds since 1970.
    pub epoch: u64,
}

/// Announces the sessions of this edge. Clones share everything.
#[derive(Clone)]
pub struct Announcer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something waits to be sent.
    wake: Notify,
}

/// A session: whose, and its id.
type Held = (UserId, u64);

#[derive(Default)]
struct State {
    sessions: HashMap<u64, UserId>,
    /// The registry has, or is being told, all of `sessions` but what is in `changes`.
    connected: bool,
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
    pub fn start(config: AnnouncerConfig, registry: ServiceChannel, tasks: &Tasks) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            wake: Notify::new(),
        });
        let client = RegistryServiceClient::new(registry);
        tasks.spawn(run(shared.clone(), config, client, tasks.stop_token()));
        Self { shared }
    }

    /// A session is there. The future resolves when the registry knows it and has invalidated the
    /// routes that it changes, or after two seconds; dropping it changes nothing.
    pub fn opened(
        &self,
        user: UserId,
        session_id: u64,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (waiter, known) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            state.sessions.insert(session_id, user);
            // Who waits is bounded by the sessions: one each, until the next answer.
            state.changes.waiters.push(waiter);
            state.change(user, session_id, |changes| &mut changes.opened);
        }
        self.shared.wake.notify_one();
        async move {
            let _ = timeout(OPENED_DEADLINE, known).await;
        }
    }

    /// A session is gone.
    pub fn closed(&self, user: UserId, session_id: u64) {
        {
            let mut state = self.shared.state.lock();
            if state.sessions.remove(&session_id).is_none() {
                return;
            }
            state.change(user, session_id, |changes| &mut changes.closed);
        }
        self.shared.wake.notify_one();
    }

    /// How many sessions are announced or waiting to be.
    pub fn sessions(&self) -> usize {
        self.shared.state.lock().sessions.len()
    }
}

impl State {
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

async fn run(
    shared: Arc<Shared>,
    config: AnnouncerConfig,
    mut client: RegistryServiceClient<ServiceChannel>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new();
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = one_stream(&shared, &config, &mut client, &mut backoff) => ended,
        };
        shared.state.lock().disconnect();
        let Err(status) = ended;
        if matches!(
            status.code(),
            Code::InvalidArgument | Code::PermissionDenied
        ) {
            // Another process announces as this edge: nothing heals that while both live.
            tracing::error!(edge = config.edge, code = ?status.code(), "registry refused this edge");
        } else {
            tracing::debug!(code = ?status.code(), "announcing interrupted");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

/// One stream: a snapshot, then the changes, until something breaks.
async fn one_stream(
    shared: &Shared,
    config: &AnnouncerConfig,
    client: &mut RegistryServiceClient<ServiceChannel>,
    backoff: &mut Backoff,
) -> Result<Infallible, Status> {
    let (requests, to_send) = mpsc::channel(1);
    let opening = client.announce(ReceiverStream::new(to_send));
    let answers = timeout(ANSWER_DEADLINE, opening)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("stream did not open")))?
        .into_inner();
    let mut stream = AnnounceStream {
        config,
        requests,
        answers,
        sequence: 0,
    };
    let all = shared.state.lock().snapshot();
    stream.tell(shared, all, true).await?;
    backoff.reset();
    loop {
        tokio::select! {
            () = shared.wake.notified() => {}
            _ = stream.answers.message() => {
                return Err(Status::unavailable("ended by the registry"));
            }
        }
        let changes = {
            let mut state = shared.state.lock();
            if !state.connected {
                return Err(Status::resource_exhausted("too many changes"));
            }
            std::mem::take(&mut state.changes)
        };
        stream.tell(shared, changes, false).await?;
    }
}

struct AnnounceStream<'a> {
    config: &'a AnnouncerConfig,
    requests: mpsc::Sender<AnnounceRequest>,
    answers: Streaming<AnnounceResponse>,
    sequence: u64,
}

impl AnnounceStream<'_> {
    /// Tells the registry, then lets go on who waited for it.
    async fn tell(
        &mut self,
        shared: &Shared,
        mut changes: Changes,
        snapshot: bool,
    ) -> Result<(), Status> {
        let waiters = std::mem::take(&mut changes.waiters);
        let told = self.send_all(changes, snapshot).await;
        if told.is_err() {
            // They wait for the snapshot of the next stream.
            shared.state.lock().changes.waiters.extend(waiters);
            return told;
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
                edge: self.config.edge.clone(),
                epoch: self.config.epoch,
                sequence: 0,
                snapshot,
                opened: some_opened,
                closed: some_closed,
                snapshot_continues: snapshot && opened.len() > 0,
            })
            .await?;
        }
        Ok(())
    }

    /// Sends one request and waits until it is applied.
    async fn ask(&mut self, mut request: AnnounceRequest) -> Result<(), Status> {
        self.sequence += 1;
        request.sequence = self.sequence;
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
