//! One stream to each other edge: opened when something is for it, closed when nothing was for a while.
//!
//! There is no channel and no task between a push and the stream: the HTTP/2 connection pulls the
//! next request when it can write one, made of whatever waits by then.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::Stream;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use proto::messaging::v1::{
    self as wire, PushItem, PushRequest, edge_service_client::EdgeServiceClient, push_item,
};
use runtime::{
    ids::{DeviceId, UserId},
    shutdown::Tasks,
};
use tokio::time::timeout;
use tonic::Status;

use crate::{Answer, Broadcast, ConnectEdge, Counters, backoff::Backoff, routes::Routes};

/// Other edges that are known at the same time: more than a cluster has nodes.
const LINKS_MAX: usize = 10_000;
/// Items in one request: enough to spread its cost, few enough to arrive soon.
const REQUEST_ITEMS_MAX: usize = 256;
/// Bytes of items in one request; one item more may exceed it, and all stay below gRPC's 4 MiB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Requests that may wait for their answers: enough to fill a connection between two zones.
const IN_FLIGHT_MAX: usize = 16;
/// For the stream to open, and for each answer; then the edge counts as gone.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How often a stream is looked at: is it idle, or silent.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// What an item takes in the queue besides its frame.
const ITEM_BYTES: usize = 96;
/// A verdict with its conversation and message ids.
const ANSWER_BYTES: usize = 192;

/// What is for another edge.
#[derive(Debug)]
pub(crate) enum Item {
    Broadcast(Broadcast),
    Answer(Answer),
    EndSessions(UserId, DeviceId),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Broadcast(broadcast) => {
                ITEM_BYTES + broadcast.frame.len() + 18 * broadcast.users.len()
            }
            Self::Answer(_) => ANSWER_BYTES,
            Self::EndSessions(..) => ITEM_BYTES,
        }
    }

    fn into_wire(self) -> PushItem {
        let item = match self {
            Self::Broadcast(broadcast) => push_item::Item::Broadcast(wire::Broadcast {
                user_ids: broadcast
                    .users
                    .iter()
                    .map(|u| u.as_bytes().to_vec())
                    .collect(),
                frame: broadcast.frame,
                except_session_id: broadcast.except_session_id,
                inbox_version: broadcast.inbox_version,
            }),
            Self::Answer(answer) => push_item::Item::Answer(wire::Answer {
                session_id: answer.session_id,
                request_id: answer.request_id,
                verdict: answer.verdict.encode_to_vec().into(),
            }),
            Self::EndSessions(user, device) => push_item::Item::EndSessions(wire::EndSessions {
                user_id: user.as_bytes().to_vec(),
                device_id: device.as_bytes().to_vec(),
            }),
        };
        PushItem { item: Some(item) }
    }
}

/// All other edges.
pub(crate) struct Links {
    by_edge: RwLock<HashMap<Box<str>, Arc<Link>>>,
    shared: Arc<Shared>,
}

/// What the streams need.
pub(crate) struct Shared {
    pub(crate) connect: ConnectEdge,
    pub(crate) routes: Arc<Routes>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) tasks: Tasks,
    pub(crate) items_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) idle_max: Duration,
}

impl Links {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            by_edge: RwLock::new(HashMap::new()),
            shared: Arc::new(shared),
        }
    }

    /// The link to an edge; none if there are too many.
    pub(crate) fn to(&self, edge: &str) -> Option<Arc<Link>> {
        if let Some(link) = self.by_edge.read().get(edge) {
            return Some(link.clone());
        }
        let mut by_edge = self.by_edge.write();
        if by_edge.len() >= LINKS_MAX {
            // Those that no route and no stream holds.
            by_edge.retain(|_, link| Arc::strong_count(link) > 1);
            if by_edge.len() >= LINKS_MAX {
                return None;
            }
        }
        let link = by_edge
            .entry(edge.into())
            .or_insert_with(|| Arc::new(Link::new(edge)));
        Some(link.clone())
    }

    /// Queues an item, or drops and counts it.
    pub(crate) fn send(&self, link: &Arc<Link>, item: Item) {
        match link.enqueue(item, self.shared.items_max, self.shared.bytes_max) {
            Queued::Dropped => Counters::add(&self.shared.counters.edge_dropped, 1),
            Queued::Running(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Queued::Asleep => {
                self.shared
                    .tasks
                    .spawn(run(link.clone(), self.shared.clone()));
            }
        }
    }
}

/// One other edge.
pub(crate) struct Link {
    edge: Box<str>,
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Item>,
    queue_bytes: usize,
    /// A task serves the queue.
    running: bool,
    /// Which of the streams after each other is the one that counts.
    stream: u64,
    /// Waits for items, or for answers if too many requests are in flight.
    waker: Option<Waker>,
    in_flight: VecDeque<InFlight>,
    last_sent: Instant,
}

struct InFlight {
    users: Vec<UserId>,
    items: usize,
    sent: Instant,
}

enum Queued {
    Dropped,
    /// To be woken, if it waits.
    Running(Option<Waker>),
    /// Nobody serves the queue: the caller starts the task.
    Asleep,
}

impl Link {
    fn new(edge: &str) -> Self {
        Self {
            edge: edge.into(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_bytes: 0,
                running: false,
                stream: 0,
                waker: None,
                in_flight: VecDeque::new(),
                last_sent: Instant::now(),
            }),
        }
    }

    fn enqueue(&self, item: Item, items_max: usize, bytes_max: usize) -> Queued {
        let mut state = self.state.lock();
        let bytes = state.queue_bytes.saturating_add(item.bytes());
        if state.queue.len() >= items_max || bytes > bytes_max {
            return Queued::Dropped;
        }
        state.queue_bytes = bytes;
        state.queue.push_back(item);
        if state.running {
            return Queued::Running(state.waker.take());
        }
        state.running = true;
        Queued::Asleep
    }

    /// Ends the stream before, whose requests count as lost, and begins another.
    fn begin_stream(&self) -> (u64, usize) {
        let mut state = self.state.lock();
        state.stream += 1;
        state.last_sent = Instant::now();
        let lost = state.in_flight.drain(..).map(|request| request.items).sum();
        if let Some(waker) = state.waker.take() {
            // Only puts the connection's task on its queue, which takes no lock of ours.
            waker.wake();
        }
        (state.stream, lost)
    }

    /// Drops what waits; answers how many items that were.
    fn clear(&self) -> usize {
        let mut state = self.state.lock();
        state.queue_bytes = 0;
        let dropped = state.queue.len();
        // Gives the memory back as well.
        state.queue = VecDeque::new();
        dropped
    }

    /// The task may end, unless something came meanwhile.
    fn rest(&self) -> bool {
        let mut state = self.state.lock();
        state.running = !state.queue.is_empty();
        if !state.running {
            state.queue = VecDeque::new();
        }
        !state.running
    }

    /// The first request in flight was answered; its users are given back.
    fn answered(&self) -> Option<Vec<UserId>> {
        let mut state = self.state.lock();
        let answered = state.in_flight.pop_front()?;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Some(answered.users)
    }

    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        self.state.lock().running
    }

    fn check(&self, now: Instant, idle_max: Duration) -> Health {
        let state = self.state.lock();
        match state.in_flight.front() {
            Some(first) if now.duration_since(first.sent) > ANSWER_DEADLINE => Health::Silent,
            None if state.queue.is_empty() && now.duration_since(state.last_sent) > idle_max => {
                Health::Idle
            }
            _ => Health::Good,
        }
    }
}

enum Health {
    Good,
    /// Nothing was for the edge for a while.
    Idle,
    /// The edge does not answer.
    Silent,
}

/// The requests of one stream, made when the connection asks for one.
struct Requests {
    link: Arc<Link>,
    stream: u64,
    shared: Arc<Shared>,
}

impl Stream for Requests {
    type Item = PushRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PushRequest>> {
        let items = {
            let mut state = self.link.state.lock();
            if state.stream != self.stream {
                return Poll::Ready(None);
            }
            if state.queue.is_empty() || state.in_flight.len() >= IN_FLIGHT_MAX {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.take_batch()
        };
        Counters::add(&self.shared.counters.edge_requests, 1);
        let items = items.into_iter().map(Item::into_wire).collect();
        Poll::Ready(Some(PushRequest { items }))
    }
}

impl State {
    fn take_batch(&mut self) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.queue.len().min(REQUEST_ITEMS_MAX));
        let mut users = Vec::new();
        let mut bytes = 0;
        while items.len() < REQUEST_ITEMS_MAX && bytes < REQUEST_BYTES_MAX {
            let Some(item) = self.queue.pop_front() else {
                break;
            };
            bytes += item.bytes();
            if let Item::Broadcast(broadcast) = &item {
                users.extend_from_slice(&broadcast.users);
            }
            items.push(item);
        }
        self.queue_bytes = self.queue_bytes.saturating_sub(bytes);
        self.last_sent = Instant::now();
        self.in_flight.push_back(InFlight {
            users,
            items: items.len(),
            sent: self.last_sent,
        });
        items
    }
}

enum Ended {
    Idle,
    Stopped,
    Broken(Status),
}

/// Serves the queue of a link until it was empty for a while.
async fn run(link: Arc<Link>, shared: Arc<Shared>) {
    let mut backoff = Backoff::new();
    let stop = shared.tasks.stop_token();
    loop {
        let (stream, _) = link.begin_stream();
        let ended = tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            ended = one_stream(&link, stream, &shared, &mut backoff) => ended,
        };
        // Ends the stream's requests.
        let (_, lost) = link.begin_stream();
        match ended {
            Ended::Idle => {}
            Ended::Stopped => return,
            Ended::Broken(status) => {
                // What waits is old by the time that the edge is back.
                let dropped = lost + link.clear();
                Counters::add(
                    &shared.counters.edge_dropped,
                    u64::try_from(dropped).unwrap_or(u64::MAX),
                );
                tracing::debug!(edge = %link.edge, code = ?status.code(), dropped, "push stream broke");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next()) => {}
                }
            }
        }
        if link.rest() {
            return;
        }
    }
}

async fn one_stream(
    link: &Arc<Link>,
    stream: u64,
    shared: &Arc<Shared>,
    backoff: &mut Backoff,
) -> Ended {
    let channel = match (shared.connect)(&link.edge) {
        Ok(channel) => channel,
        Err(error) => return Ended::Broken(Status::unavailable(error.to_string())),
    };
    let requests = Requests {
        link: link.clone(),
        stream,
        shared: shared.clone(),
    };
    let mut client = EdgeServiceClient::new(channel);
    let mut answers = match timeout(ANSWER_DEADLINE, client.push(requests)).await {
        Ok(Ok(answers)) => answers.into_inner(),
        Ok(Err(status)) => return Ended::Broken(status),
        Err(_) => return Ended::Broken(Status::deadline_exceeded("stream did not open")),
    };
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    backoff.reset();
                    let users = link.answered().unwrap_or_default();
                    if answer.missed > 0 {
                        Counters::add(&shared.counters.missed, answer.missed.into());
                        shared.routes.forget(&users);
                    }
                }
                Ok(None) => return Ended::Broken(Status::unavailable("ended by the edge")),
                Err(status) => return Ended::Broken(status),
            },
            now = checks.tick() => match link.check(now.into_std(), shared.idle_max) {
                Health::Good => {}
                Health::Idle => return Ended::Idle,
                Health::Silent => {
                    return Ended::Broken(Status::deadline_exceeded("no answer"));
                }
            },
        }
    }
}
