//! The gRPC side: validates, converts, and nothing else.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use proto::{
    error::v1::ErrorReason,
    presence::v1::{
        AnnounceRequest, AnnounceResponse, GetPresenceRequest, GetPresenceResponse,
        GetRoutesRequest, GetRoutesResponse, Presence as WirePresence, Route, Session,
        WatchRoutesRequest, WatchRoutesResponse, presence_service_server::PresenceService,
        registry_service_server::RegistryService,
    },
};
use runtime::{
    auth::{Caller, caller},
    ids::{InvalidId, UserId},
    status::ApiError,
};
use tokio::{sync::Notify, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Shared,
    get::{self, Online, Scope, UserPresence},
    registry::{Announcement, Seen, StreamKey, UserRoute},
};

/// Users in one `GetPresence`: a screen of conversations.
const PRESENCE_USERS_MAX: usize = 200;
/// Users in one `GetRoutes`; delivery asks for as many at a time.
const ROUTES_USERS_MAX: usize = 1_000;
/// Sessions in one `Announce`: 1.5 MB, and what is applied under one lock, about 20 ms.
const ANNOUNCE_SESSIONS_MAX: usize = 50_000;
/// Changes in one answer of a watch.
const CHANGES_MAX: usize = 1_000;
/// How long a watch may say nothing; the contract's number.
const WATCH_IDLE_MAX: Duration = Duration::from_secs(5);
/// Bytes of an edge's address and of a subscriber's name.
const NAME_BYTES_MAX: usize = 256;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `PresenceService`.
pub(crate) struct PresenceGrpc {
    shared: Arc<Shared>,
}

impl PresenceGrpc {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl PresenceService for PresenceGrpc {
    async fn get_presence(
        &self,
        request: Request<GetPresenceRequest>,
    ) -> Result<Response<GetPresenceResponse>, Status> {
        let scope = match caller(&request)? {
            Caller::User(_) => Scope::Everywhere,
            Caller::Service(_) => Scope::Here,
        };
        let user_ids = request.into_inner().user_ids;
        count_in_range("user_ids", user_ids.len(), PRESENCE_USERS_MAX)?;
        let users: Result<Vec<UserId>, InvalidId> =
            user_ids.iter().map(|id| UserId::parse(id)).collect();
        let users = users.map_err(|error| malformed("user_ids", &error))?;
        let presences = get::presences(&self.shared, &users, scope).await;
        let presences = presences.map_err(ApiError::from)?.into_iter();
        let to_wire = |(presence, user_id): (UserPresence, String)| WirePresence {
            user_id,
            online: presence.online == Online::Yes,
            last_seen_unix_ms: presence.last_seen_unix_ms,
            unknown: presence.online == Online::Unknown,
        };
        Ok(Response::new(GetPresenceResponse {
            presences: presences.zip(user_ids).map(to_wire).collect(),
        }))
    }
}

/// Serves `RegistryService`.
pub(crate) struct RegistryGrpc {
    shared: Arc<Shared>,
}

impl RegistryGrpc {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl RegistryService for RegistryGrpc {
    type AnnounceStream = BoxStream<AnnounceResponse>;
    type WatchRoutesStream = BoxStream<WatchRoutesResponse>;

    async fn announce(
        &self,
        request: Request<Streaming<AnnounceRequest>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let mut edge = AnnouncingEdge {
            shared: self.shared.clone(),
            opened: None,
        };
        let requests = request
            .into_inner()
            .take_until(self.shared.stop.clone().cancelled_owned());
        let mut refused = false;
        let answers = requests
            .map(move |request| Ok(edge.take(request?)?))
            // Nothing is taken after an error.
            .take_while(move |answer| {
                let go_on = !refused;
                refused = answer.is_err();
                std::future::ready(go_on)
            });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_routes(
        &self,
        request: Request<GetRoutesRequest>,
    ) -> Result<Response<GetRoutesResponse>, Status> {
        let GetRoutesRequest {
            subscriber,
            user_ids,
        } = request.into_inner();
        name_valid("subscriber", &subscriber)?;
        count_in_range("user_ids", user_ids.len(), ROUTES_USERS_MAX)?;
        let users: Result<Vec<UserId>, InvalidId> =
            user_ids.iter().map(|id| UserId::from_slice(id)).collect();
        let users = users.map_err(|error| malformed("user_ids", &error))?;
        let now = Instant::now();
        let (routes, lease, complete) = {
            let mut registry = self.shared.registry.lock();
            let (routes, lease) = registry.routes(&subscriber, &users, now);
            (routes, lease, registry.is_complete(now))
        };
        // The routes are in the order of the users, who may be left out.
        let mut found = routes.iter().map(|(user, _)| *user).peekable();
        let mut left_out = users.iter().filter(|user| found.next_if_eq(user).is_none());
        let complete = complete && left_out.all(|user| self.shared.peers.owns(*user));
        Ok(Response::new(GetRoutesResponse {
            routes: routes.into_iter().map(to_wire).collect(),
            lease_ms: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
            complete,
        }))
    }

    async fn watch_routes(
        &self,
        request: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let subscriber = request.into_inner().subscriber;
        name_valid("subscriber", &subscriber)?;
        let (number, wake) = self
            .shared
            .registry
            .lock()
            .watch(&subscriber)
            .map_err(ApiError::from)?;
        let watcher = Watcher {
            shared: self.shared.clone(),
            number,
            wake,
        };
        let in_force = stream::once(std::future::ready(Ok(WatchRoutesResponse::default())));
        let changes = stream::unfold(Some(watcher), |watcher| async {
            let watcher = watcher?;
            match watcher.next().await? {
                Ok(routes) => Some((Ok(WatchRoutesResponse { routes }), Some(watcher))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        let changes = changes.take_until(self.shared.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(in_force.chain(changes))))
    }
}

/// An edge's stream; when it goes, the edge's grace begins.
struct AnnouncingEdge {
    shared: Arc<Shared>,
    opened: Option<Opened>,
}

struct Opened {
    key: StreamKey,
    edge: String,
    epoch: u64,
}

impl AnnouncingEdge {
    fn take(&mut self, request: AnnounceRequest) -> Result<AnnounceResponse, ApiError> {
        let sequence = request.sequence;
        count_at_most(
            "opened",
            request.opened.len().saturating_add(request.closed.len()),
            ANNOUNCE_SESSIONS_MAX,
        )?;
        if request.snapshot && !request.closed.is_empty() {
            return Err(out_of_range("closed", "must be empty in a snapshot"));
        }
        let announcement = Announcement {
            snapshot: request.snapshot,
            continues: request.snapshot_continues,
            opened: sessions("opened", &request.opened)?,
            closed: sessions("closed", &request.closed)?,
        };
        let key = self.key(&request)?;
        let now = self.shared.now();
        let mut seen = Seen::new();
        let applied = self
            .shared
            .registry
            .lock()
            .announce(key, announcement, now, &mut seen);
        if !seen.is_empty() {
            self.shared.last_seen.note(seen);
        }
        applied?;
        Ok(AnnounceResponse { sequence })
    }

    /// The stream is opened by its first request, and all others must be of the same edge.
    fn key(&mut self, request: &AnnounceRequest) -> Result<StreamKey, ApiError> {
        if let Some(opened) = &self.opened {
            if opened.edge != request.edge || opened.epoch != request.epoch {
                return Err(out_of_range("edge", "must not change within a stream"));
            }
            return Ok(opened.key);
        }
        name_valid("edge", &request.edge)?;
        let key = self.shared.registry.lock().open_stream(
            &request.edge,
            request.epoch,
            Instant::now(),
        )?;
        self.opened = Some(Opened {
            key,
            edge: request.edge.clone(),
            epoch: request.epoch,
        });
        Ok(key)
    }
}

impl Drop for AnnouncingEdge {
    fn drop(&mut self) {
        if let Some(opened) = &self.opened {
            let now = self.shared.now();
            self.shared.registry.lock().close_stream(opened.key, now);
        }
    }
}

/// A watch; it ends with its stream.
struct Watcher {
    shared: Arc<Shared>,
    number: u32,
    wake: Arc<Notify>,
}

impl Watcher {
    /// The next changes; none if nothing has changed for a while.
    async fn next(&self) -> Option<Result<Vec<Route>, ApiError>> {
        loop {
            let changes =
                self.shared
                    .registry
                    .lock()
                    .changes(self.number, CHANGES_MAX, Instant::now());
            match changes {
                Ok(routes) if routes.is_empty() => {
                    if timeout(WATCH_IDLE_MAX, self.wake.notified()).await.is_err() {
                        return Some(Ok(Vec::new()));
                    }
                }
                Ok(routes) => return Some(Ok(routes.into_iter().map(to_wire).collect())),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.registry.lock().unwatch(self.number);
    }
}

fn to_wire((user, edges): UserRoute) -> Route {
    Route {
        user_id: user.as_bytes().to_vec(),
        edges: edges.iter().map(|edge| edge.to_string()).collect(),
    }
}

fn sessions(field: &str, sessions: &[Session]) -> Result<Vec<(UserId, u64)>, ApiError> {
    let session = |session: &Session| {
        let user = UserId::from_slice(&session.user_id).map_err(|e| malformed(field, &e))?;
        Ok((user, session.session_id))
    };
    sessions.iter().map(session).collect()
}

fn name_valid(field: &str, name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "must not be empty",
        ));
    }
    count_at_most(field, name.len(), NAME_BYTES_MAX)
}

fn count_in_range(field: &str, count: usize, max: usize) -> Result<(), ApiError> {
    if count == 0 {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "must not be empty",
        ));
    }
    count_at_most(field, count, max)
}

fn count_at_most(field: &str, count: usize, max: usize) -> Result<(), ApiError> {
    if count > max {
        return Err(out_of_range(field, &format!("at most {max}")));
    }
    Ok(())
}

fn out_of_range(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldOutOfRange, field, message)
}

fn malformed(field: &str, error: &InvalidId) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, field, error.to_string())
}
