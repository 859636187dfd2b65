//! One round: all that waits for some users, asked about once, decided, pushed, and kept.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use proto::messaging::v1::{
    BatchGetUnreadRequest, Unread, UnreadQuery, inbox_service_client::InboxServiceClient,
};
use runtime::{
    auth::ServiceChannel,
    clock::Clock,
    ids::{ConversationId, UserId},
    shutdown::CancellationToken,
    status::ApiError,
};
use tokio::time::Instant;

use super::{Counters, count};
use crate::{
    decide::{self, Decision, Standing},
    limits::PUSH_LIFE,
    model::{
        DeviceSubject, DeviceTarget, Held, Preferences, PreviewDetail, ProviderKind, Subject, Told,
    },
    names::{Names, within},
    providers::guard::{self, FRESH_MAX, Guard},
    push::{Alert, CollapseId, Push},
    rate::Rates,
    store::{Settled, Store, StoreError},
    window::Item,
    words::{self, Named},
};

/// Pushes of a round on their way at the same time; the provider's own bound is over all rounds.
const AT_ONCE: usize = 64;
/// First and longest pause between tries to keep what was done.
const KEEP_AGAIN_MIN: Duration = Duration::from_millis(50);
const KEEP_AGAIN_MAX: Duration = Duration::from_secs(2);

/// What rounds need.
pub(crate) struct Rounds {
    pub(crate) guard: Arc<Guard>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) messaging: InboxServiceClient<ServiceChannel>,
    pub(crate) names: Arc<Names>,
    pub(crate) rates: Rates,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<Counters>,
    /// What a notification is headed with that says no name.
    pub(crate) app_name: String,
}

/// What became of a round.
#[derive(Default)]
pub(crate) struct Round {
    /// Whose it was.
    pub(crate) users: HashSet<UserId>,
    /// Records that are dealt with, and known as such in the store.
    pub(crate) done: Vec<u64>,
    /// What is to be tried again.
    pub(crate) again: Vec<Item>,
}

/// Why nothing could be decided now.
#[derive(Debug, thiserror::Error)]
enum NotNow {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Call(#[from] ApiError),
    #[error("messaging did not answer for all")]
    Incomplete,
}

/// A push to one device.
struct Job {
    /// Which item of the round.
    item: usize,
    to: DeviceTarget,
    push: Arc<Push>,
    /// What the device is told when it is taken.
    told: Told,
}

/// What is decided of a round.
#[derive(Default)]
struct Plan {
    jobs: Vec<Job>,
    held: Vec<Held>,
}

impl Rounds {
    pub(crate) fn kind(&self) -> ProviderKind {
        self.guard.kind()
    }

    /// Deals with these items. Always answers for all of them.
    pub(crate) async fn run(&self, items: Vec<Item>, stop: &CancellationToken) -> Round {
        let users: HashSet<_> = items.iter().map(|item| item.offline.subject.user).collect();
        let asked = Instant::now();
        let mut plan = match stop.run_until_cancelled(self.plan(&items)).await {
            Some(Ok(plan)) => plan,
            other => {
                if let Some(Err(error)) = other {
                    let provider = self.kind().name();
                    tracing::warn!(provider, %error, "cannot decide who is told, trying again");
                }
                let (done, again) = (Vec::new(), items);
                return Round { users, done, again };
            }
        };
        let (mut settled, again) = self
            .push_all(std::mem::take(&mut plan.jobs), (&items, asked), stop)
            .await;
        settled.held.append(&mut plan.held);
        count(&self.counters.held, settled.held.len());
        if !self.keep(settled, stop).await {
            let (done, again) = (Vec::new(), items);
            return Round { users, done, again };
        }
        let mut round = Round {
            users,
            ..Round::default()
        };
        for (at, item) in items.into_iter().enumerate() {
            match again.contains(&at) {
                true => round.again.push(item),
                false => round.done.extend(item.offsets),
            }
        }
        round
    }

    /// Decides about all items, with a few questions for all of them.
    async fn plan(&self, items: &[Item]) -> Result<Plan, NotNow> {
        let users = distinct(items.iter().map(|item| item.offline.subject.user));
        let mut devices: HashMap<UserId, Vec<DeviceTarget>> = HashMap::new();
        for target in self.store.targets(self.kind(), users).await? {
            devices.entry(target.user).or_default().push(target);
        }
        let mut wanted = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let subject = item.offline.subject;
            for to in devices.get(&subject.user).into_iter().flatten() {
                let device = to.device;
                wanted.push((at, to, DeviceSubject { subject, device }));
            }
        }
        let subjects = wanted.iter().map(|(_, _, subject)| *subject).collect();
        let told = self.store.told(subjects).await?;
        // What no device is told anything new by ends here: nobody else is asked about it.
        let wanted: Vec<_> = wanted
            .into_iter()
            .zip(told)
            .filter(|((at, ..), told)| {
                let offline = &items[*at].offline;
                let is_new = |message| decide::is_new(message, told);
                offline.message.as_ref().is_some_and(is_new) || decide::is_stale(offline, told)
            })
            .map(|((at, to, _), told)| (at, to, told))
            .collect();
        let concerned: Vec<usize> = {
            let mut concerned: Vec<_> = wanted.iter().map(|(at, ..)| *at).collect();
            concerned.dedup();
            concerned
        };
        if concerned.is_empty() {
            return Ok(Plan::default());
        }
        let known = self.ask(items, &concerned).await?;
        self.decide(items, wanted, &concerned, &known).await
    }

    /// Preferences of the users, and what messaging says of their conversations.
    async fn ask(&self, items: &[Item], concerned: &[usize]) -> Result<Known, NotNow> {
        let users = distinct(concerned.iter().map(|at| items[*at].offline.subject.user));
        let preferences = self.store.preferences(users.clone()).await?;
        let mut queries: HashMap<UserId, UnreadQuery> = HashMap::new();
        for at in concerned {
            let offline = &items[*at].offline;
            let query = queries.entry(offline.subject.user).or_default();
            query.user_id = offline.subject.user.as_bytes().to_vec();
            query
                .conversation_ids
                .push(offline.subject.conversation.as_bytes().to_vec());
            query.min_inbox_version = query.min_inbox_version.max(offline.inbox_version);
        }
        let queries = users.iter().filter_map(|user| queries.remove(user));
        let request = BatchGetUnreadRequest {
            queries: queries.collect(),
        };
        let mut messaging = self.messaging.clone();
        let answer = within(messaging.batch_get_unread(request)).await?;
        if answer.answers.len() != users.len() || preferences.len() != users.len() {
            return Err(NotNow::Incomplete);
        }
        let mut known = Known::default();
        let of_users = users.into_iter().zip(preferences).zip(answer.answers);
        for ((user, preferences), unread) in of_users {
            known.take_in(user, preferences, &unread);
        }
        Ok(known)
    }

    async fn decide(
        &self,
        items: &[Item],
        wanted: Vec<(usize, &DeviceTarget, Told)>,
        concerned: &[usize],
        known: &Known,
    ) -> Result<Plan, NotNow> {
        let now = self.clock.now_unix_ms();
        let mut plan = Plan::default();
        let mut alerts: HashMap<usize, Option<Alert>> = HashMap::new();
        for at in concerned {
            let offline = &items[*at].offline;
            let subject = offline.subject;
            let (Some(message), Some(of_user)) = (&offline.message, known.users.get(&subject.user))
            else {
                continue;
            };
            let Some((standing, _)) = known.conversations.get(&subject) else {
                return Err(NotNow::Incomplete);
            };
            let mut decision = decide::alert(message, standing, &of_user.preferences, now);
            if decision == Decision::Alert
                && let Some(wait) = self.rates.check(message.sender, subject.user)
            {
                decision = Decision::Later(now.saturating_add(millis(wait)));
            }
            match decision {
                Decision::Nothing => {}
                Decision::Alert => drop(alerts.insert(*at, None)),
                Decision::Later(due_unix_ms) => plan.held.extend(held(&items[*at], due_unix_ms)),
            }
        }
        self.word(items, &mut alerts, known).await?;
        let mut pushes: HashMap<(usize, bool), Arc<Push>> = HashMap::new();
        for (at, to, told) in wanted {
            let offline = &items[at].offline;
            let shown = alerts.get(&at).and_then(Option::as_ref);
            let shown = shown.filter(|alert| alert.seq > told.seq);
            if shown.is_none() && !decide::is_stale(offline, &told) {
                continue;
            }
            let Some(of_user) = known.users.get(&offline.subject.user) else {
                return Err(NotNow::Incomplete);
            };
            let push = pushes.entry((at, shown.is_some())).or_insert_with(|| {
                Arc::new(Push {
                    collapse_id: CollapseId::of(&offline.subject),
                    conversation: offline.subject.conversation,
                    alert: shown.cloned(),
                    badge: of_user.unread_total,
                    read_seq: known
                        .conversations
                        .get(&offline.subject)
                        .map_or(0, |(standing, _)| standing.read_seq)
                        .max(offline.read_seq),
                    expires_unix_ms: now.saturating_add(millis(PUSH_LIFE)),
                })
            });
            plan.jobs.push(Job {
                item: at,
                to: to.clone(),
                push: push.clone(),
                told: Told {
                    seq: shown.map_or(told.seq, |alert| alert.seq),
                    read_seq: told.read_seq.max(offline.read_seq),
                },
            });
        }
        Ok(plan)
    }

    /// Finds the words for what is shown.
    async fn word(
        &self,
        items: &[Item],
        alerts: &mut HashMap<usize, Option<Alert>>,
        known: &Known,
    ) -> Result<(), NotNow> {
        let message_of = |at: &usize| items[*at].offline.message.as_ref();
        let group_of = |subject: &Subject| {
            let group = subject.conversation.group_id()?;
            Some((subject.user, group))
        };
        let subjects = alerts.keys().map(|at| items[*at].offline.subject);
        let groups = self
            .names
            .groups(subjects.filter_map(|subject| group_of(&subject)));
        let groups = groups.await?;
        let senders = alerts
            .keys()
            .filter_map(message_of)
            .map(|message| message.sender);
        let people = self.names.people(senders).await?;
        for (at, alert) in alerts.iter_mut() {
            let subject = items[*at].offline.subject;
            let (Some(message), Some(of_user)) = (message_of(at), known.users.get(&subject.user))
            else {
                continue;
            };
            let unread = known
                .conversations
                .get(&subject)
                .map_or(1, |(_, unread)| *unread);
            let sender = people
                .get(&message.sender)
                .map_or("Somebody", String::as_str);
            let group =
                group_of(&subject).map(|key| groups.get(&key).map_or("Group", String::as_str));
            let named = Named { sender, group };
            let detail: PreviewDetail = of_user.preferences.preview;
            *alert = Some(words::alert(message, unread, named, detail, &self.app_name));
        }
        Ok(())
    }

    /// Pushes all that was asked about at this time, and answers what is to be kept, and which items are to
    /// be tried again.
    async fn push_all(
        &self,
        jobs: Vec<Job>,
        (items, asked): (&[Item], Instant),
        stop: &CancellationToken,
    ) -> (Settled, HashSet<usize>) {
        let tried = stream::iter(jobs).map(|job| async move {
            // Meanwhile it may have been read. Or this process stood still, and another one has pushed it.
            if asked.elapsed() >= FRESH_MAX {
                return (job, guard::Settled::Old);
            }
            let ended = self.guard.settle(&job.to.target, &job.push, stop).await;
            (job, ended)
        });
        let (mut settled, mut again) = (Settled::default(), HashSet::new());
        let mut tried = std::pin::pin!(tried.buffer_unordered(AT_ONCE));
        let provider = self.kind().name();
        while let Some((job, ended)) = tried.next().await {
            let subject = items[job.item].offline.subject;
            let device = job.to.device;
            let told = (DeviceSubject { subject, device }, job.told);
            match ended {
                guard::Settled::Taken => {
                    settled.told.push(told);
                    let counter = match job.push.alert {
                        Some(_) => &self.counters.alerts,
                        None => &self.counters.badges,
                    };
                    count(counter, 1);
                }
                guard::Settled::Gone => {
                    count(&self.counters.gone, 1);
                    settled.gone.push(job.to);
                }
                guard::Settled::Refused(why) => {
                    tracing::warn!(provider, why, "a push was refused");
                    count(&self.counters.refused, 1);
                    settled.told.push(told);
                }
                guard::Settled::TooLarge => {
                    tracing::error!(provider, "a push was too large");
                    count(&self.counters.refused, 1);
                    settled.told.push(told);
                }
                guard::Settled::Expired => settled.told.push(told),
                guard::Settled::BusyUntil(wait) => {
                    let due = self.clock.now_unix_ms().saturating_add(millis(wait));
                    // A badge alone needs not come again: the next one is newer.
                    settled.held.extend(held(&items[job.item], due));
                }
                guard::Settled::Old | guard::Settled::Stopped => drop(again.insert(job.item)),
            }
        }
        (settled, again)
    }

    /// Keeps what was done, however long it takes: else it would be done again.
    async fn keep(&self, settled: Settled, stop: &CancellationToken) -> bool {
        if settled.told.is_empty() && settled.held.is_empty() && settled.gone.is_empty() {
            return true;
        }
        let mut pause = KEEP_AGAIN_MIN;
        loop {
            let now = self.clock.now_unix_ms();
            match self.store.settle(settled.clone(), now).await {
                Ok(()) => return true,
                Err(error) => {
                    let provider = self.kind().name();
                    tracing::warn!(provider, %error, "cannot keep what was pushed, trying again");
                }
            }
            let sleep = tokio::time::sleep(pause);
            if stop.run_until_cancelled(sleep).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(KEEP_AGAIN_MAX);
        }
    }
}

/// What is known of a round's users.
#[derive(Default)]
struct Known {
    users: HashMap<UserId, KnownUser>,
    /// And how many messages are unread.
    conversations: HashMap<Subject, (Standing, u64)>,
}

struct KnownUser {
    preferences: Preferences,
    unread_total: u64,
}

impl Known {
    fn take_in(&mut self, user: UserId, preferences: Preferences, unread: &Unread) {
        for of in &unread.conversations {
            let Ok(conversation) = ConversationId::from_slice(&of.conversation_id) else {
                continue;
            };
            let standing = Standing {
                delivered_seq: of.delivered_seq,
                read_seq: of.read_seq,
                gone: of.gone,
                muted: of.muted,
            };
            let subject = Subject { user, conversation };
            self.conversations
                .insert(subject, (standing, of.unread_count));
        }
        let unread_total = unread.unread_total;
        self.users.insert(
            user,
            KnownUser {
                preferences,
                unread_total,
            },
        );
    }
}

/// The message of an item, to come again later; `None` if it has none.
fn held(item: &Item, due_unix_ms: i64) -> Option<Held> {
    let (seq, payload) = item.offline.to_hold()?;
    Some(Held {
        subject: item.offline.subject,
        seq,
        due_unix_ms,
        payload,
    })
}

fn distinct(users: impl Iterator<Item = UserId>) -> Vec<UserId> {
    let mut seen = HashSet::new();
    users.filter(|user| seen.insert(*user)).collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
