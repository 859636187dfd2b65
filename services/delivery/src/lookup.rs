//! Keeps the routes: asks the registry for those that are missing, many at a time, and follows what
//! it tells of changes. One task of each kind a shard, so that shards do not wait for each other.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::presence::v1::{
    GetRoutesRequest, GetRoutesResponse, Route as WireRoute, WatchRoutesRequest,
    WatchRoutesResponse, registry_service_client::RegistryServiceClient,
};
use runtime::{auth::ServiceChannel, ids::UserId, shutdown::CancellationToken};
use tokio::{sync::mpsc, time::timeout};
use tonic::Status;

use crate::{
    Broadcast, Cold, Counters, Inner, Users,
    backoff::Backoff,
    push::Item,
    routes::{Route, Split},
};

/// Users in one `GetRoutes`; the contract's limit.
pub(crate) const LOOKUP_USERS_MAX: usize = 1_000;
/// Pushes that are looked up together, so that the first does not wait long for the last.
const LOOKUP_ITEMS_MAX: usize = 512;
/// For an answer of the registry: a push that waited longer is overtaken by the heartbeat.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);
/// For the first answer of a watch.
const WATCH_DEADLINE: Duration = Duration::from_secs(5);

/// One replica of the registry, as this process asks it.
#[derive(Clone)]
pub(crate) struct Registry {
    client: RegistryServiceClient<ServiceChannel>,
    subscriber: String,
}

impl Registry {
    pub(crate) fn new(channel: ServiceChannel, subscriber: &str) -> Self {
        Self {
            client: RegistryServiceClient::new(channel),
            subscriber: subscriber.to_owned(),
        }
    }

    /// One `GetRoutes`, of at most [`LOOKUP_USERS_MAX`] users.
    pub(crate) async fn routes_of(
        &mut self,
        users: &[UserId],
    ) -> Result<GetRoutesResponse, Status> {
        let request = GetRoutesRequest {
            subscriber: self.subscriber.clone(),
            user_ids: users.iter().map(|user| user.as_bytes().to_vec()).collect(),
        };
        let answer = timeout(LOOKUP_DEADLINE, self.client.get_routes(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        Ok(answer?.into_inner())
    }
}

/// Follows the changes of one shard until `stop`.
pub(crate) async fn watch(
    inner: Arc<Inner>,
    shard: usize,
    mut registry: Registry,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new();
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = watch_once(&inner, shard, &mut registry, &mut backoff) => ended,
        };
        inner.routes.watch_broke(shard);
        let replica = inner.shards.name(shard);
        tracing::debug!(replica, code = ?ended.code(), reason = ended.message(), "watch of routes ended");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

/// One watch; answers why it ended.
async fn watch_once(
    inner: &Inner,
    shard: usize,
    registry: &mut Registry,
    backoff: &mut Backoff,
) -> Status {
    let request = WatchRoutesRequest {
        subscriber: registry.subscriber.clone(),
    };
    let opening = async {
        let mut changes = registry.client.watch_routes(request).await?.into_inner();
        let first = changes.message().await?;
        Ok::<_, Status>(first.map(|_| changes))
    };
    let mut changes = match timeout(WATCH_DEADLINE, opening).await {
        Ok(Ok(Some(changes))) => changes,
        Ok(Ok(None)) => return Status::unavailable("ended before it was in force"),
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("no first answer"),
    };
    inner.routes.watch_began(shard);
    backoff.reset();
    loop {
        match timeout(inner.watch_silent_max, changes.message()).await {
            Ok(Ok(Some(WatchRoutesResponse { routes }))) => {
                for route in routes {
                    if let Ok(user) = UserId::from_slice(&route.user_id) {
                        let edges = inner.route_of(&route.edges);
                        inner.routes.changed(shard, user, edges);
                    }
                }
            }
            Ok(Ok(None)) => return Status::unavailable("ended by the registry"),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the registry is silent"),
        }
    }
}

/// Looks up what waits for one shard, until `stop`.
pub(crate) async fn look_up(
    inner: Arc<Inner>,
    shard: usize,
    mut registry: Registry,
    mut waiting: mpsc::Receiver<Cold>,
    stop: CancellationToken,
) {
    let mut items = Vec::new();
    let mut away = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            n = waiting.recv_many(&mut items, LOOKUP_ITEMS_MAX) => {
                if n == 0 {
                    return;
                }
            }
        }
        let result = look_up_batch(&inner, shard, &mut registry, &mut items).await;
        if let Err(status) = &result
            && !away
        {
            let replica = inner.shards.name(shard);
            tracing::warn!(replica, code = ?status.code(), "no routes from the registry");
        }
        away = result.is_err();
    }
}

/// Hands over what waits, after asking for the routes that are not known.
async fn look_up_batch(
    inner: &Inner,
    shard: usize,
    registry: &mut Registry,
    items: &mut Vec<Cold>,
) -> Result<(), Status> {
    let now = Instant::now();
    // None = not known yet, or no session.
    let mut routes: HashMap<UserId, Option<Route>> = HashMap::new();
    for item in items.iter() {
        match item {
            Cold::Push(broadcast) => {
                for user in broadcast.users.iter() {
                    routes
                        .entry(*user)
                        .or_insert_with(|| inner.routes.get(user, now));
                }
            }
            Cold::EndSessions(user, _) => {
                routes.insert(*user, None);
            }
        }
    }
    let unknown: Vec<UserId> = routes
        .iter()
        .filter(|(_, route)| route.is_none())
        .map(|(user, _)| *user)
        .collect();
    let mut result = Ok(());
    for users in unknown.chunks(LOOKUP_USERS_MAX) {
        result = ask(inner, shard, registry, users, &mut routes).await;
        if result.is_err() {
            break;
        }
    }
    for item in items.drain(..) {
        match item {
            Cold::Push(broadcast) => hand_over(inner, &broadcast, &routes),
            Cold::EndSessions(user, device) => {
                let route = routes.get(&user).and_then(Option::as_ref);
                for link in route.into_iter().flat_map(Route::links) {
                    inner.links.send(link, Item::EndSessions(user, device));
                }
            }
        }
    }
    result
}

/// One `GetRoutes`: fills `routes` and remembers the answer.
async fn ask(
    inner: &Inner,
    shard: usize,
    registry: &mut Registry,
    users: &[UserId],
    routes: &mut HashMap<UserId, Option<Route>>,
) -> Result<(), Status> {
    Counters::add(&inner.counters.lookups, 1);
    let lookup = inner.routes.begin_lookup(shard);
    // The lease is counted from before the question, so that it ends here first.
    let asked = Instant::now();
    let response = registry.routes_of(users).await?;
    let found: Vec<(UserId, Route)> = response
        .routes
        .iter()
        .filter_map(|WireRoute { user_id, edges }| {
            let user = UserId::from_slice(user_id).ok()?;
            Some((user, inner.route_of(edges)?))
        })
        .collect();
    for (user, route) in &found {
        if let Some(known) = routes.get_mut(user) {
            *known = Some(route.clone());
        }
    }
    let until = asked + Duration::from_millis(response.lease_ms.into());
    inner.routes.end_lookup(&lookup, found, until);
    Ok(())
}

/// Hands one push over to other edges by what was found. Users without a route have no session there.
fn hand_over(inner: &Inner, broadcast: &Broadcast, routes: &HashMap<UserId, Option<Route>>) {
    let mut split = Split::default();
    for user in broadcast.users.iter() {
        split.add(*user, routes.get(user).and_then(Option::as_ref));
    }
    split.here = Users::new();
    inner.hand_over(broadcast, split);
}
