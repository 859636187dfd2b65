//! From recipients to live sessions: finds the edges that hold a user's sessions, and hands frames
//! and verdicts over to them. Used by whoever reads the log, and by edges to announce their sessions.
//!
//! Everything here is tried once and never waited for: a lost push costs latency, which the next
//! heartbeat of the session ends. So every queue drops when it is full, and counts what it drops.
//!
//! - [`Registries`]: the replicas of the registry. Each owns the users that hash to its name.
//! - [`Delivery`]: pushes and answers, to this node's own sessions or to another edge.
//! - [`Announcer`]: tells the registry which sessions this edge holds.
//! - [`PushReceiver`]: the edge's side of `EdgeService.Push`.
//!
//! Each replica of the registry is spoken to apart: it has its own stream of announcements, its own
//! watch, and its own queue of look-ups. One that is away or slow costs its own users their remote
//! pushes until it is back, and the others nothing; its routes alone are forgotten.
//!
//! A push to users whose routes are known costs one look-up in a cache for each, and if all of them
//! are on this node one call of [`LocalEdge::broadcast`]: no allocation, no encoding, no other task
//! (0.2 us for two users, see `tests/costs.rs`).
//! Pushes of one user may overtake each other while his route is looked up; devices order by seq.

mod announce;
mod backoff;
mod lookup;
mod online;
mod push;
mod receive;
mod registries;
mod routes;
mod users;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::log::v1::Verdict;
use runtime::{
    auth::ServiceChannel,
    ids::{DeviceId, UserId},
    shards::Shards,
    shutdown::Tasks,
};

use tokio::sync::mpsc;

use push::{Item, Links};
use routes::{Plan, Route, Routes, Split, Target};

pub use announce::{Announcer, AnnouncerConfig};
pub use online::Online;
pub use receive::PushReceiver;
pub use registries::Registries;
pub use users::Users;

/// Why there is no channel to an edge.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the channel to an edge from its address; should connect lazily and never block.
pub type ConnectEdge = Arc<dyn Fn(&str) -> Result<ServiceChannel, ConnectError> + Send + Sync>;

/// The sessions of this node. Nothing here blocks or waits.
pub trait LocalEdge: Send + Sync + 'static {
    /// Queues the frame in all sessions of the users but the excepted one. Answers how many of the
    /// users have no session here at all.
    fn broadcast(&self, item: &Broadcast) -> u32;

    /// Hands a verdict to the session or the call that waits for it.
    fn answer(&self, answer: Answer);

    /// Ends the sessions of a device that was logged out.
    fn end_sessions(&self, user: UserId, device: DeviceId);
}

/// An edge that is made later than what pushes to it. Until it is set there are no sessions.
impl LocalEdge for OnceLock<Arc<dyn LocalEdge>> {
    fn broadcast(&self, item: &Broadcast) -> u32 {
        match self.get() {
            Some(local) => local.broadcast(item),
            None => u32::try_from(item.users.len()).unwrap_or(u32::MAX),
        }
    }

    fn answer(&self, answer: Answer) {
        if let Some(local) = self.get() {
            local.answer(answer);
        }
    }

    fn end_sessions(&self, user: UserId, device: DeviceId) {
        if let Some(local) = self.get() {
            local.end_sessions(user, device);
        }
    }
}

/// One encoded frame for all sessions of some users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Whose sessions.
    pub users: Users,
    /// An encoded `ServerFrame` that contains nothing of its recipient.
    pub frame: Bytes,
    /// The session that caused it and has its ack instead; 0 = none.
    pub except_session_id: u64,
    /// For inbox updates: the version that the one user is at with this frame; otherwise 0.
    pub inbox_version: u64,
}

/// The verdict on one send.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The session that waits, or 0 for a unary call.
    pub session_id: u64,
    /// The request of the session, or the call.
    pub request_id: u64,
    /// What the sequencer made of it.
    pub verdict: Verdict,
}

/// What a [`Delivery`] needs to know.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Where this node takes pushes, as it announces itself; empty if it holds no sessions.
    pub own_edge: String,
    /// Names this process to the registry, unlike every other process.
    pub subscriber: String,
    /// Users whose routes are remembered, of all shards together; some 80 bytes each.
    pub routes_max: usize,
    /// Pushes that may wait for their routes. Each shard of the registry has an equal part, so that
    /// one that is away takes no place of the others.
    pub cold_pushes_max: usize,
    /// Items that may wait for one other edge.
    pub edge_items_max: usize,
    /// Bytes of frames that may wait for one other edge.
    pub edge_bytes_max: usize,
    /// How long a watch of the registry may say nothing before it counts as broken. The registry says
    /// something every five seconds; one that does not is stopped, or cut off, and tells no changes.
    pub watch_silent_max: Duration,
    /// The stream to another edge is closed when nothing was for it for this long.
    pub edge_idle_max: Duration,
}

impl DeliveryConfig {
    /// The usual limits.
    pub fn new(own_edge: impl Into<String>, subscriber: impl Into<String>) -> Self {
        Self {
            own_edge: own_edge.into(),
            subscriber: subscriber.into(),
            // The users of several full nodes: 20 MB.
            routes_max: 200_000,
            // A few batches of look-ups; what waits longer is old news. 16 MB of the largest frames.
            cold_pushes_max: 4_096,
            // A tenth of a second at the highest rate that one stream was measured at.
            edge_items_max: 32_768,
            edge_bytes_max: 16 * 1024 * 1024,
            // The contract's number: three times the registry's pause.
            watch_silent_max: Duration::from_secs(15),
            // Opening it anew costs a round trip, keeping it some 20 KB.
            edge_idle_max: Duration::from_secs(60),
        }
    }
}

/// How often what happened; all grow only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryStats {
    /// Calls of `GetRoutes` for pushes.
    pub lookups: u64,
    /// Pushes dropped because too many waited for their routes.
    pub cold_dropped: u64,
    /// Items dropped because an edge was away, or slower than what came for it.
    pub edge_dropped: u64,
    /// Users that had no session where their route said.
    pub missed: u64,
    /// Requests sent to other edges.
    pub edge_requests: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    lookups: AtomicU64,
    cold_dropped: AtomicU64,
    edge_dropped: AtomicU64,
    missed: AtomicU64,
    edge_requests: AtomicU64,
}

/// Hands over to live sessions. Clones share everything.
#[derive(Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    own_edge: String,
    local: Arc<dyn LocalEdge>,
    routes: Arc<Routes>,
    links: Links,
    /// Who is asked for whom.
    shards: Shards,
    /// What waits for a look-up, by shard.
    cold: Vec<mpsc::Sender<Cold>>,
    /// For questions that are not about a push.
    asking: Vec<lookup::Registry>,
    watch_silent_max: Duration,
    counters: Arc<Counters>,
}

/// What waits for a look-up.
pub(crate) enum Cold {
    /// For the users' sessions on other edges; those here have it.
    Push(Broadcast),
    EndSessions(UserId, DeviceId),
}

impl Delivery {
    /// Starts the look-ups and the watch of each shard; they end with `tasks`.
    pub fn start(
        config: DeliveryConfig,
        local: Arc<dyn LocalEdge>,
        registries: &Registries,
        connect: ConnectEdge,
        tasks: &Tasks,
    ) -> Self {
        let shards = registries.shards().clone();
        let counters = Arc::new(Counters::default());
        let routes = Arc::new(Routes::new(config.routes_max, shards.len()));
        let links = Links::new(push::Shared {
            connect,
            routes: routes.clone(),
            counters: counters.clone(),
            tasks: tasks.clone(),
            items_max: config.edge_items_max,
            bytes_max: config.edge_bytes_max,
            idle_max: config.edge_idle_max,
        });
        let cold_max = config.cold_pushes_max.div_ceil(shards.len()).max(1);
        let (cold, waiting): (Vec<_>, Vec<_>) =
            (0..shards.len()).map(|_| mpsc::channel(cold_max)).unzip();
        let registry = |subscriber: &str| -> Vec<lookup::Registry> {
            let channels = registries.channels().iter();
            channels
                .map(|channel| lookup::Registry::new(channel.clone(), subscriber))
                .collect()
        };
        let inner = Arc::new(Inner {
            own_edge: config.own_edge,
            local,
            routes,
            links,
            shards,
            cold,
            asking: registry(&online::subscriber(&config.subscriber)),
            watch_silent_max: config.watch_silent_max,
            counters,
        });
        let followed = registry(&config.subscriber);
        for ((shard, registry), waiting) in followed.into_iter().enumerate().zip(waiting) {
            tasks.spawn(lookup::watch(
                inner.clone(),
                shard,
                registry.clone(),
                tasks.stop_token(),
            ));
            tasks.spawn(lookup::look_up(
                inner.clone(),
                shard,
                registry,
                waiting,
                tasks.stop_token(),
            ));
        }
        Self { inner }
    }

    /// Hands a frame to the sessions of some users, wherever they are. Where the routes are known it
    /// is handed over before this returns, in the order of the calls. Never blocks; best effort.
    pub fn push(&self, broadcast: Broadcast) {
        let inner = &self.inner;
        match inner.routes.plan(&broadcast.users, Instant::now()) {
            Plan::Here => inner.broadcast_here(&broadcast),
            Plan::Split(split) => {
                let cold = inner.hand_over(&broadcast, split);
                if !cold.is_empty() {
                    let cold = Broadcast {
                        users: cold,
                        ..broadcast
                    };
                    // This node knows its own sessions. Only other edges must be asked for, and what
                    // follows here by a known route does not overtake this.
                    inner.local.broadcast(&cold);
                    inner.look_up_each_later(cold);
                }
            }
        }
    }

    /// Hands a verdict to the edge that waits for it. Never blocks; best effort.
    pub fn answer(&self, edge: &str, answer: Answer) {
        if edge == self.inner.own_edge {
            self.inner.local.answer(answer);
        } else {
            match self.inner.links.to(edge) {
                Some(link) => self.inner.links.send(&link, Item::Answer(answer)),
                None => Counters::add(&self.inner.counters.edge_dropped, 1),
            }
        }
    }

    /// Ends the sessions of a device that was logged out, on every edge that the user is on.
    pub fn end_sessions(&self, user: UserId, device: DeviceId) {
        self.inner.local.end_sessions(user, device);
        // Rare, and worth asking the registry itself.
        let shard = self.inner.shards.owner(user.as_bytes());
        self.inner
            .look_up_later(shard, Cold::EndSessions(user, device));
    }

    /// Which of these users have sessions, in their order, as the registry knows it now. Takes at most
    /// some seconds; whoever cannot be asked for in time is [`Online::Unknown`].
    pub async fn online(&self, users: &[UserId]) -> Vec<Online> {
        online::of(&self.inner, users).await
    }

    /// What happened so far.
    pub fn stats(&self) -> DeliveryStats {
        self.inner.counters.read()
    }
}

impl Inner {
    fn broadcast_here(&self, broadcast: &Broadcast) {
        let missed = self.local.broadcast(broadcast);
        if missed > 0 {
            Counters::add(&self.counters.missed, u64::from(missed));
            self.routes.forget(&broadcast.users);
        }
    }

    /// Sends to every edge of the split what is for it; answers the users that have no known route.
    fn hand_over(&self, broadcast: &Broadcast, split: Split) -> Users {
        if !split.here.is_empty() {
            self.broadcast_here(&Broadcast {
                users: split.here,
                ..broadcast.clone()
            });
        }
        for (link, users) in split.there {
            let part = Broadcast {
                users,
                ..broadcast.clone()
            };
            self.links.send(&link, Item::Broadcast(part));
        }
        split.cold
    }

    /// Each user at his own shard, which does not wait for the others.
    fn look_up_each_later(&self, push: Broadcast) {
        if self.cold.len() == 1 {
            return self.look_up_later(0, Cold::Push(push));
        }
        let mut by_shard: Vec<(usize, Users)> = Vec::new();
        for user in push.users.iter() {
            let shard = self.shards.owner(user.as_bytes());
            match by_shard.iter_mut().find(|(other, _)| *other == shard) {
                Some((_, users)) => users.push(*user),
                None => by_shard.push((shard, (*user).into())),
            }
        }
        for (shard, users) in by_shard {
            let part = Broadcast {
                users,
                ..push.clone()
            };
            self.look_up_later(shard, Cold::Push(part));
        }
    }

    fn look_up_later(&self, shard: usize, item: Cold) {
        let queued = self.cold.get(shard).map(|cold| cold.try_send(item));
        if !matches!(queued, Some(Ok(()))) {
            Counters::add(&self.counters.cold_dropped, 1);
        }
    }

    /// A route from the registry's names of edges.
    fn route_of(&self, edges: &[String]) -> Option<Route> {
        let target = |edge: &String| {
            if *edge == self.own_edge {
                Some(Target::Here)
            } else {
                self.links.to(edge).map(Target::There)
            }
        };
        Route::new(edges.iter().filter_map(target))
    }
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    fn read(&self) -> DeliveryStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DeliveryStats {
            lookups: read(&self.lookups),
            cold_dropped: read(&self.cold_dropped),
            edge_dropped: read(&self.edge_dropped),
            missed: read(&self.missed),
            edge_requests: read(&self.edge_requests),
        }
    }
}

#[cfg(test)]
mod tests;
