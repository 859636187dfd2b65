//! E-mail of what is unread. A digest is due once a period, is claimed by one process at a time, and is over when the
//! store knows what became of its mail. Between the mail server's answer and the store's, a crash makes a mail come
//! twice, with the same Message-ID. That window is the only one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::{Timestamp, tz::TimeZone};
use parking_lot::Mutex;
use proto::messaging::v1::{
    ListUnreadRequest, UnreadConversation, UnreadMessage, inbox_service_client::InboxServiceClient,
};
use runtime::{
    auth::ServiceChannel,
    clock::Clock,
    ids::{ConversationId, GroupId, UserId},
    shutdown::{CancellationToken, Tasks},
    status::ApiError,
};

use crate::{
    mail::{DigestConversation, DigestLine, SendOutcome},
    model::{DigestMail, DueDigest, FinishedDigest, PreviewDetail},
    names::{Names, within},
    post::{Post, Said},
    quiet::zone,
    store::Store,
    words,
};

pub(crate) mod schedule;

/// How often it is looked for what is due. A digest is a matter of minutes.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a digest is left alone by other processes: far longer than one may take to be sent. One that could not
/// be sent is tried again after it, as mail servers that put strangers off want it.
const LEASE_MS: i64 = 5 * 60 * 1_000;
/// Digests claimed at a time: they are all sent within the lease, also by a server that takes seconds for one.
const BATCH_MAX: usize = 64;
/// Digests on their way at the same time, if there are as many connections: who waits for one would be given up
/// by the deadline of a mail.
const AT_ONCE: usize = 8;
/// What must be left of its lease when a mail is begun, besides the time that the mail may take: to keep what became
/// of it, by clocks that differ by seconds.
const LEASE_LEFT_MIN_MS: i64 = 10 * 1_000;
/// How long after it was due a digest is tried again whose mailbox, or whose server, says "not now". Then the next
/// period has its turn.
const PATIENCE_MS: i64 = 4 * 60 * 60 * 1_000;
/// The same where it seems to be nobody's mailbox: a server that is away, and one that puts one mailbox off for ever,
/// say the same.
const GIVE_UP_MS: i64 = 24 * 60 * 60 * 1_000;
/// Conversations that a digest shows, the most recent first: as many as a mail can show.
const CONVERSATIONS_MAX: u32 = 20;
/// First and longest pause between tries to keep what became of a mail.
const KEEP_AGAIN_MIN: Duration = Duration::from_millis(50);
const KEEP_AGAIN_MAX: Duration = Duration::from_secs(2);

/// What digests need.
pub(crate) struct Digests {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) messaging: InboxServiceClient<ServiceChannel>,
    pub(crate) names: Arc<Names>,
    pub(crate) post: Arc<Post>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What became of a digest that was claimed.
enum Dealt {
    /// There is nothing to say of it.
    Quietly,
    /// Its mail was refused, and not because of its recipient.
    Refused(String),
}

/// What a digest says, and how much is told by it.
struct Told {
    said: Said,
    newest_unix_ms: i64,
}

impl Digests {
    /// Sends what is due, until the tasks are stopped.
    pub(crate) fn start(self, tasks: &Tasks) {
        let stop = tasks.stop_token();
        tasks.spawn(async move {
            while wait(&stop).await {
                while self.send_due(&stop).await {}
            }
            self.post.close().await;
        });
    }

    /// Sends some of what is due, and answers whether there may be more that can be sent now. What is claimed and
    /// not sent is nobody's for the time of a lease, so nothing is claimed while nothing can be sent.
    async fn send_due(&self, stop: &CancellationToken) -> bool {
        if !self.may_send(stop) {
            return false;
        }
        let now = self.clock.now_unix_ms();
        let lease_until = now + LEASE_MS;
        let claimed = self.store.claim_digests(now, lease_until, BATCH_MAX);
        let due = match claimed.await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "cannot look for digests that are due");
                return false;
            }
        };
        let claimed = due.len();
        let (failures, refusals) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        stream::iter(due)
            .for_each_concurrent(self.post.connections_max().min(AT_ONCE), |due| async {
                match self.deal_with(due, lease_until, stop).await {
                    Ok(Dealt::Quietly) => {}
                    Ok(Dealt::Refused(why)) => refusals.lock().push(why),
                    Err(error) => failures.lock().push(error),
                }
            })
            .await;
        let (failures, refusals) = (failures.into_inner(), refusals.into_inner());
        // One line for all of them: who refuses one mail may refuse all, again and again.
        if let Some(why) = refusals.first() {
            tracing::warn!(why, digests = refusals.len(), "digests were refused");
        }
        // Who is away is so for all of them: one line, and no more claims in this second.
        if let Some(error) = failures.first() {
            let digests = failures.len();
            tracing::warn!(%error, digests, "cannot make digests now, trying again later");
        }
        claimed == BATCH_MAX && failures.is_empty()
    }

    fn may_send(&self, stop: &CancellationToken) -> bool {
        !stop.is_cancelled() && self.post.is_linked() && self.post.pause().is_none()
    }

    /// Whether a mail that is begun now has ended before others may claim its digest.
    fn is_in_time(&self, lease_until: i64) -> bool {
        let mail_ms = i64::try_from(self.post.deadline().as_millis()).unwrap_or(i64::MAX);
        let ends = self.clock.now_unix_ms().saturating_add(mail_ms);
        ends.saturating_add(LEASE_LEFT_MIN_MS) <= lease_until
    }

    /// One digest. What cannot be done now is left to whoever claims it next.
    async fn deal_with(
        &self,
        due: DueDigest,
        lease_until: i64,
        stop: &CancellationToken,
    ) -> Result<Dealt, ApiError> {
        if !self.is_in_time(lease_until) || !self.may_send(stop) {
            return Ok(Dealt::Quietly);
        }
        let asked_at = self.clock.now_unix_ms();
        let Some(Told {
            said,
            newest_unix_ms,
        }) = self.tell(&due).await?
        else {
            let since = self.clock.now_unix_ms();
            self.finish(due, DigestMail::None, since, stop).await;
            return Ok(Dealt::Quietly);
        };
        if stop.run_until_cancelled(self.post.turn()).await.is_none() {
            return Ok(Dealt::Quietly);
        }
        // Since it was claimed it has waited for its turn, and its user may have said no, or that less is to be said.
        let goes = self.is_in_time(lease_until)
            && self.may_send(stop)
            && self.store.is_claimed(due.clone(), lease_until).await?;
        if !goes {
            return Ok(Dealt::Quietly);
        }
        let outcome = self.post.send_digest(&due, said).await;
        let now = self.clock.now_unix_ms();
        let late_ms = now.saturating_sub(due.due_unix_ms);
        // Where the clock of messaging is ahead, what comes after this may have an earlier time than its newest one.
        // It is rather told of twice than never.
        let told_unix_ms = newest_unix_ms.min(asked_at);
        if let Some(mail) = became_of(&outcome, late_ms, told_unix_ms) {
            let since = match is_nobodys(&outcome) {
                // After a day the next period is due already, or it would be lost with this one.
                true => due.due_unix_ms,
                false => now,
            };
            self.finish(due, mail, since, stop).await;
        }
        Ok(match outcome {
            SendOutcome::Refused {
                settings: false,
                why,
            } => Dealt::Refused(why),
            _ => Dealt::Quietly,
        })
    }

    /// Keeps what became of it, however long it takes: else it would be sent again. The next period is the first
    /// one that begins after `since_unix_ms`.
    async fn finish(
        &self,
        due: DueDigest,
        mail: DigestMail,
        since_unix_ms: i64,
        stop: &CancellationToken,
    ) {
        let since_unix_ms = since_unix_ms.max(due.due_unix_ms);
        let finished = FinishedDigest {
            next_unix_ms: schedule::next_digest(&due.preferences, since_unix_ms),
            due,
            mail,
        };
        let mut pause = KEEP_AGAIN_MIN;
        while let Err(error) = self.store.finish_digest(finished.clone()).await {
            tracing::warn!(%error, "cannot keep what became of a digest, trying again");
            let sleep = tokio::time::sleep(pause);
            if stop.run_until_cancelled(sleep).await.is_none() {
                return;
            }
            pause = (pause * 2).min(KEEP_AGAIN_MAX);
        }
    }

    /// What is to be said now; `None` if nothing is unread, or nothing that no digest has told of.
    async fn tell(&self, due: &DueDigest) -> Result<Option<Told>, ApiError> {
        let request = ListUnreadRequest {
            user_id: due.user.as_bytes().to_vec(),
            limit: CONVERSATIONS_MAX,
        };
        let mut messaging = self.messaging.clone();
        let answer = within(messaging.list_unread(request)).await?;
        let unread = answer.unread.unwrap_or_default();
        // Of all, also of conversations that are not shown.
        let mut unread_total = unread.unread_total;
        let mut told_of = unread.conversations;
        told_of.retain(|of| {
            let is_told_of = !of.gone && !of.muted && of.unread_count > 0;
            if !is_told_of && !of.gone {
                unread_total = unread_total.saturating_sub(of.unread_count);
            }
            is_told_of
        });
        let unread = told_of;
        let shown_total: u64 = unread.iter().map(|of| of.unread_count).sum();
        let newest = unread.iter().filter_map(|of| of.newest.as_ref());
        let newest = newest.map(|message| message.time_unix_ms).max();
        // Of a group whose newest event is that somebody joined the time is not known: it is told of once.
        let newest_unix_ms = newest.unwrap_or(0).max(1);
        if unread.is_empty() || newest_unix_ms <= due.told_unix_ms {
            return Ok(None);
        }
        let detail = due.preferences.preview;
        let mut conversations = Vec::with_capacity(unread.len());
        let named = self.named(due.user, &unread, detail).await?;
        let zone = zone(&due.preferences);
        for (of, (title, sender)) in unread.iter().zip(named) {
            let line = of.newest.as_ref().map(|message| DigestLine {
                sender,
                text: (detail == PreviewDetail::NameAndText).then(|| said_in(message)),
                at: shown_at(message.time_unix_ms, &zone),
            });
            let lines: Vec<_> = line.into_iter().collect();
            let shown = u64::try_from(lines.len()).unwrap_or(0);
            conversations.push(DigestConversation {
                title,
                unread: of.unread_count,
                mentions: false,
                lines,
                more: of.unread_count.saturating_sub(shown),
            });
        }
        let said = Said {
            unread_total: match answer.more {
                0 => shown_total,
                _ => unread_total.max(shown_total),
            },
            conversations,
            conversations_more: answer.more.into(),
        };
        Ok(Some(Told {
            said,
            newest_unix_ms,
        }))
    }

    /// What each conversation is called, and who wrote its newest message, as far as the user wants names.
    async fn named(
        &self,
        user: UserId,
        unread: &[UnreadConversation],
        detail: PreviewDetail,
    ) -> Result<Vec<(Option<String>, Option<String>)>, ApiError> {
        if detail == PreviewDetail::Nothing {
            return Ok(vec![(None, None); unread.len()]);
        }
        let known: Vec<_> = unread
            .iter()
            .map(|of| {
                let conversation = ConversationId::from_slice(&of.conversation_id).ok();
                let sender = of
                    .newest
                    .as_ref()
                    .and_then(|message| UserId::from_slice(&message.sender_id).ok());
                let group = conversation.as_ref().and_then(ConversationId::group_id);
                let peer = conversation.as_ref().and_then(|of| of.peer_of(user));
                (group, peer, sender)
            })
            .collect();
        let groups: HashSet<GroupId> = known.iter().filter_map(|(group, ..)| *group).collect();
        let groups = self
            .names
            .groups(groups.into_iter().map(|group| (user, group)));
        let people = known.iter().flat_map(|(_, peer, sender)| [*peer, *sender]);
        let people = self.names.people(people.flatten().collect::<HashSet<_>>());
        let (groups, people) = (groups.await?, people.await?);
        let person = |of: Option<UserId>| {
            let name = of.and_then(|of| people.get(&of));
            name.map_or("Somebody", String::as_str).to_owned()
        };
        let named = known.into_iter().map(|(group, peer, sender)| match group {
            Some(group) => {
                let name = groups.get(&(user, group)).map_or("Group", String::as_str);
                (Some(name.to_owned()), Some(person(sender)))
            }
            None => (Some(person(peer.or(sender))), Some(person(sender))),
        });
        Ok(named.collect())
    }
}

/// What an outcome means to a period that has been due for so long; `None` = it is tried again.
fn became_of(outcome: &SendOutcome, late_ms: i64, told_unix_ms: i64) -> Option<DigestMail> {
    let is_late = late_ms >= PATIENCE_MS;
    match outcome {
        SendOutcome::Taken => Some(DigestMail::Taken { told_unix_ms }),
        SendOutcome::HardBounce(_) => Some(DigestMail::HardBounce),
        SendOutcome::SoftBounce(_) => is_late.then_some(DigestMail::SoftBounce),
        // The next one tells of what this one did not.
        _ if is_nobodys(outcome) => (late_ms >= GIVE_UP_MS).then_some(DigestMail::None),
        SendOutcome::Refused { .. } | SendOutcome::Unavailable { .. } => {
            is_late.then_some(DigestMail::None)
        }
    }
}

/// No mail goes at all, as it seems.
const fn is_nobodys(outcome: &SendOutcome) -> bool {
    matches!(
        outcome,
        SendOutcome::Unavailable { .. } | SendOutcome::Refused { settings: true, .. }
    )
}

/// The text of a message, or what it has instead of one.
fn said_in(message: &UnreadMessage) -> String {
    match message.text.is_empty() {
        true => words::attached(message.attachment_count, message.video_count),
        false => message.text.clone(),
    }
}

/// As the user's clock shows it.
fn shown_at(time_unix_ms: i64, zone: &TimeZone) -> String {
    let Ok(at) = Timestamp::from_millisecond(time_unix_ms) else {
        return String::new();
    };
    let at = at.to_zoned_datetime(zone.clone());
    at.strftime("%a %-d %b, %H:%M").to_string()
}

async fn wait(stop: &CancellationToken) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(INTERVAL))
        .await
        .is_some()
}

#[cfg(test)]
#[cfg(feature = "distributed")]
pub(crate) mod tests;
