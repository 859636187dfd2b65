//! Stand-ins for the registry and for the sessions of an edge, which do as they are told.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use proto::presence::v1::{
    AnnounceRequest, AnnounceResponse, GetRoutesRequest, GetRoutesResponse, Route,
    WatchRoutesRequest, WatchRoutesResponse,
    registry_service_server::{RegistryService, RegistryServiceServer},
};
use runtime::{
    auth::{KeyPair, ServiceChannel, ServiceIdentity},
    channel::{PipeConnector, PipeIncoming, pipe},
    clock::SystemClock,
    ids::{DeviceId, UserId},
    shutdown::CancellationToken,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Router};

use crate::{Answer, Broadcast, LocalEdge};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

pub(super) fn identified(connector: &PipeConnector) -> ServiceChannel {
    let key = KeyPair::generate().unwrap();
    ServiceIdentity::new("test", key, Arc::new(SystemClock)).on(connector.channel())
}

pub(super) fn serve(router: Router) -> PipeConnector {
    let (connector, incoming): (_, PipeIncoming) = pipe();
    tokio::spawn(router.serve_with_incoming(incoming));
    connector
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A registry that answers what it is told to.
pub(super) struct FakeRegistry {
    pub(super) state: Mutex<FakeState>,
    /// A permit for every `GetRoutes` that may be answered.
    pub(super) gate: Semaphore,
    /// A permit for every announcement that may be answered.
    pub(super) announce_gate: Arc<Semaphore>,
}

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) routes: HashMap<UserId, Vec<String>>,
    pub(super) lookups: Vec<Vec<UserId>>,
    pub(super) watchers: Vec<mpsc::Sender<Result<WatchRoutesResponse, Status>>>,
    pub(super) refuse_watches: bool,
    pub(super) refuse_lookups: bool,
    /// Answers do not say that who is left out has no session.
    pub(super) incomplete: bool,
    /// Requests of all streams of announcements, and how many streams there were.
    pub(super) announced: Vec<AnnounceRequest>,
    pub(super) announce_streams: u64,
    pub(super) sessions: HashMap<u64, UserId>,
    pub(super) end_announcing: CancellationToken,
    pub(super) refuse_announcing: bool,
}

#[derive(Clone)]
pub(super) struct Registry(pub(super) Arc<FakeRegistry>);

impl Registry {
    pub(super) fn start() -> (Self, ServiceChannel) {
        let registry = Self(Arc::new(FakeRegistry {
            state: Mutex::new(FakeState::default()),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            announce_gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }));
        let service = RegistryServiceServer::new(registry.clone());
        let router = tonic::transport::Server::builder().add_service(service);
        let channel = identified(&serve(router));
        (registry, channel)
    }

    pub(super) fn set_route(&self, user: UserId, edges: &[&str]) {
        let edges = edges.iter().map(|edge| (*edge).to_owned()).collect();
        self.0.state.lock().routes.insert(user, edges);
    }

    pub(super) fn lookups(&self) -> usize {
        self.0.state.lock().lookups.len()
    }

    /// Changes the route and tells every watcher.
    pub(super) fn change_route(&self, user: UserId, edges: &[&str]) {
        self.set_route(user, edges);
        let routes = vec![Route {
            user_id: user.as_bytes().to_vec(),
            edges: edges.iter().map(|edge| (*edge).to_owned()).collect(),
        }];
        for watcher in &self.0.state.lock().watchers {
            let told = WatchRoutesResponse {
                routes: routes.clone(),
            };
            let _ = watcher.try_send(Ok(told));
        }
    }

    pub(super) fn break_watches(&self) {
        for watcher in self.0.state.lock().watchers.drain(..) {
            let _ = watcher.try_send(Err(Status::unavailable("test")));
        }
    }

    /// Forgets all sessions, as a registry that was restarted.
    pub(super) fn restart_announcing(&self) {
        let mut state = self.0.state.lock();
        state.sessions.clear();
        std::mem::take(&mut state.end_announcing).cancel();
    }

    fn apply(&self, request: &AnnounceRequest, first_part: bool) {
        let mut state = self.0.state.lock();
        if request.snapshot && first_part {
            state.sessions.clear();
        }
        for session in &request.opened {
            let user = UserId::from_slice(&session.user_id).unwrap();
            state.sessions.insert(session.session_id, user);
        }
        for session in &request.closed {
            state.sessions.remove(&session.session_id);
        }
        state.announced.push(request.clone());
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type AnnounceStream = BoxStream<AnnounceResponse>;
    type WatchRoutesStream = BoxStream<WatchRoutesResponse>;

    async fn announce(
        &self,
        request: Request<Streaming<AnnounceRequest>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let registry = self.clone();
        let end = {
            let mut state = self.0.state.lock();
            if state.refuse_announcing {
                return Err(Status::unavailable("test"));
            }
            state.announce_streams += 1;
            state.end_announcing.clone()
        };
        let mut first_part = true;
        let answers = request.into_inner().then(move |request| {
            let answer = request.map(|request| {
                registry.apply(&request, first_part);
                first_part = request.snapshot && !request.snapshot_continues;
                AnnounceResponse {
                    sequence: request.sequence,
                }
            });
            let gate = registry.0.announce_gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                answer
            }
        });
        Ok(Response::new(Box::pin(
            answers.take_until(end.cancelled_owned()),
        )))
    }

    async fn get_routes(
        &self,
        request: Request<GetRoutesRequest>,
    ) -> Result<Response<GetRoutesResponse>, Status> {
        let users: Vec<UserId> = request
            .into_inner()
            .user_ids
            .iter()
            .map(|id| UserId::from_slice(id).unwrap())
            .collect();
        // The routes as they are before the wait, so that they may be old when they arrive.
        let (routes, complete) = {
            let mut state = self.0.state.lock();
            state.lookups.push(users.clone());
            if state.refuse_lookups {
                return Err(Status::unavailable("test"));
            }
            let route = |user: &UserId| {
                let edges = state.routes.get(user)?.clone();
                (!edges.is_empty()).then(|| Route {
                    user_id: user.as_bytes().to_vec(),
                    edges,
                })
            };
            let routes = users.iter().filter_map(route).collect();
            (routes, !state.incomplete)
        };
        self.0.gate.acquire().await.unwrap().forget();
        Ok(Response::new(GetRoutesResponse {
            routes,
            lease_ms: 60_000,
            complete,
        }))
    }

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let mut state = self.0.state.lock();
        if state.refuse_watches {
            return Err(Status::unavailable("test"));
        }
        let (watcher, changes) = mpsc::channel(1_000);
        let _ = watcher.try_send(Ok(WatchRoutesResponse::default()));
        state.watchers.push(watcher);
        Ok(Response::new(Box::pin(ReceiverStream::new(changes))))
    }
}

/// The sessions of one edge, which note what they get.
#[derive(Default)]
pub(super) struct Sessions {
    /// Users without a session.
    pub(super) absent: Mutex<HashSet<UserId>>,
    pub(super) broadcasts: Mutex<Vec<Broadcast>>,
    pub(super) answers: Mutex<Vec<Answer>>,
    pub(super) ended: Mutex<Vec<(UserId, DeviceId)>>,
}

impl Sessions {
    pub(super) fn count(&self) -> usize {
        self.broadcasts.lock().len()
    }

    pub(super) fn frames(&self) -> Vec<u64> {
        let number =
            |broadcast: &Broadcast| u64::from_be_bytes(broadcast.frame[..].try_into().unwrap());
        self.broadcasts.lock().iter().map(number).collect()
    }
}

impl LocalEdge for Sessions {
    fn broadcast(&self, item: &Broadcast) -> u32 {
        let absent = self.absent.lock();
        let missed = item
            .users
            .iter()
            .filter(|user| absent.contains(*user))
            .count();
        self.broadcasts.lock().push(item.clone());
        u32::try_from(missed).unwrap()
    }

    fn answer(&self, answer: Answer) {
        self.answers.lock().push(answer);
    }

    fn end_sessions(&self, user: UserId, device: DeviceId) {
        self.ended.lock().push((user, device));
    }
}
