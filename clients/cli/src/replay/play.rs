//! Sends the messages of a plan, in its order, through the sessions of its accounts.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::ProgressBar;
use messenger_client::{Outgoing, Receipt, direct_conversation_id};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};

use super::{
    attached::{Attached, Shown},
    cast::Actor,
    patience::AWAY_MAX,
    plan::Planned,
};
use crate::args::Speed;

/// Messages that wait for their acks, over all accounts: enough to keep a server busy, and few
/// enough that the waits measured are the server's.
pub(crate) const IN_FLIGHT_MAX: usize = 128;
/// How long the sessions may stay without a new message before those that are missing are given up:
/// longer than a reconnect with its back-off.
pub(crate) const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at what has come.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A message that was handed to a session.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) conversation_id: String,
    pub(crate) sender_id: String,
    pub(crate) recipient_id: String,
    pub(crate) message_id: String,
    pub(crate) text: String,
    pub(crate) shown: Vec<Shown>,
    /// Its place; none if it was not acknowledged.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) ack_time: Duration,
}

/// Sends all messages; the answer is in the order of the plan.
pub(crate) async fn play(
    actors: &[Actor],
    messages: &[Planned],
    attached: &Attached,
    speed: Speed,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Sent>> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut pace = pace(speed);
    let mut sent = Vec::with_capacity(messages.len());
    let mut waiting = JoinSet::new();
    for (place, message) in messages.iter().enumerate() {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let permit = Arc::clone(&room).acquire_owned().await?;
        let (from, to) = (&actors[message.from], &actors[message.to]);
        let conversation_id = direct_conversation_id(&from.user_id, &to.user_id);
        let seat = seat_of(&conversation_id, from.seats.len());
        let started = Instant::now();
        let session = &from.seats[seat].session;
        let (draft, shown) = attached.draft(place, &message.text);
        let outgoing = session
            .send(conversation_id.clone(), draft)
            .await
            .context("a message was refused by the client")?;
        sent.push(Sent {
            conversation_id,
            sender_id: from.user_id.clone(),
            recipient_id: to.user_id.clone(),
            message_id: outgoing.message_id().to_owned(),
            text: message.text.clone(),
            shown,
            receipt: None,
            ack_time: Duration::ZERO,
        });
        let progress = progress.clone();
        waiting.spawn(async move {
            let receipt = wait_for_ack(outgoing).await;
            drop(permit);
            progress.inc(1);
            (place, receipt, started.elapsed())
        });
    }
    while let Some(answered) = waiting.join_next().await {
        let (place, receipt, ack_time) = answered?;
        (sent[place].receipt, sent[place].ack_time) = (receipt, ack_time);
    }
    Ok(sent)
}

pub(crate) fn pace(speed: Speed) -> Option<tokio::time::Interval> {
    let Speed::PerSecond(rate) = speed else {
        return None;
    };
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    // After a pause of the server, what is due is sent at once.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    Some(pace)
}

/// Which device of the author sends to a conversation: always the same, since only one device's
/// sends keep their order, and different ones over all conversations, so that each is the other's
/// witness.
fn seat_of(conversation_id: &str, seats: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    conversation_id.hash(&mut hasher);
    usize::try_from(hasher.finish() % seats.max(1) as u64).unwrap_or(0)
}

pub(crate) async fn wait_for_ack(mut outgoing: Outgoing) -> Option<Receipt> {
    tokio::time::timeout(AWAY_MAX, outgoing.sent())
        .await
        .ok()?
        .ok()
}

/// Waits until every device has every acknowledged message of its user, or until nothing comes any
/// more.
pub(crate) async fn wait_for_devices(actors: &[Actor], sent: &[Sent]) {
    let expected: Vec<usize> = actors
        .iter()
        .map(|actor| {
            sent.iter()
                .filter(|sent| sent.is_acked_of(&actor.user_id))
                .count()
        })
        .collect();
    let mut heard_before = 0;
    let mut last_news = Instant::now();
    loop {
        let (mut heard, mut is_complete) = (0, true);
        for (actor, expected) in actors.iter().zip(&expected) {
            for seat in &actor.seats {
                let count = seat.heard.messages().len();
                heard += count;
                is_complete &= count >= *expected || seat.heard.closed().is_some();
            }
        }
        if heard != heard_before {
            (heard_before, last_news) = (heard, Instant::now());
        }
        if is_complete || last_news.elapsed() > STANDSTILL_MAX {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Sent {
    /// Whether it was acknowledged and the user is its sender or its recipient.
    pub(crate) fn is_acked_of(&self, user_id: &str) -> bool {
        self.receipt.is_some() && (self.sender_id == user_id || self.recipient_id == user_id)
    }
}
