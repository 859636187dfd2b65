//! Makes the group of a script, and carries its steps out through the sessions of its people.
//!
//! A change is made when what its user said before has its acks, so that it is known on which side of
//! the change each message is; what others say stays under way meanwhile, and may come to either side.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use messenger_client::{Draft, GroupUpdate, Groups, NewGroup, Receipt};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    script::{OWNER, Script, Step},
    verify::{Fact, Truth, View, What, seq_of},
};
use crate::{
    args::Speed,
    replay::{
        attached::{Attached, Shown},
        cast::{Actor, Held},
        patience::AWAY_MAX,
        play::{IN_FLIGHT_MAX, LOOK, STANDSTILL_MAX, pace, wait_for_ack},
    },
};

/// What was done, in the order of the script.
#[derive(Debug, Default)]
pub(crate) struct Performed {
    pub(crate) group_id: String,
    pub(crate) conversation_id: String,
    facts: Vec<Option<Fact>>,
    pub(crate) sent: usize,
    pub(crate) ack_times: Vec<Duration>,
    pub(crate) changes: usize,
}

impl Performed {
    /// What is acknowledged.
    pub(crate) fn truth(&self) -> Truth {
        let facts: Vec<Fact> = self.facts.iter().flatten().cloned().collect();
        Truth::new(&self.conversation_id, &facts)
    }
}

/// The answer to a message: which of the facts, of whom, and what was said.
struct Answered {
    place: usize,
    person: usize,
    message_id: String,
    text: String,
    shown: Vec<Shown>,
    receipt: Option<Receipt>,
    ack_time: Duration,
}

struct Performance<'a> {
    actors: &'a [Actor],
    done: Performed,
    waiting: JoinSet<Answered>,
    /// Messages of each person that wait for their acks.
    under_way: Vec<usize>,
    last_change_seq: u64,
}

/// Carries out the whole script.
pub(crate) async fn perform(
    actors: &[Actor],
    script: &Script,
    attached: &Attached,
    speed: Speed,
    progress: &ProgressBar,
) -> anyhow::Result<Performed> {
    let mut performance = Performance {
        actors,
        done: Performed::default(),
        waiting: JoinSet::new(),
        under_way: vec![0; actors.len()],
        last_change_seq: 0,
    };
    performance.create(&script.name).await?;
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut pace = pace(speed);
    for step in &script.steps {
        match step {
            Step::Say(person, text) => {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                let message = attached.draft(performance.done.sent, text);
                performance.say(*person, text, message, &room).await?;
            }
            step => performance.change(step).await?,
        }
        progress.inc(1);
    }
    while let Some(answered) = performance.waiting.join_next().await {
        performance.answered(answered?);
    }
    Ok(performance.done)
}

impl Performance<'_> {
    fn groups(&self, person: usize) -> anyhow::Result<Groups> {
        let seat = self.actors[person]
            .seats
            .first()
            .context("a connected device")?;
        Ok(seat.client.groups().patience(AWAY_MAX))
    }

    async fn create(&mut self, name: &str) -> anyhow::Result<()> {
        let group = NewGroup {
            name: name.to_owned(),
            ..NewGroup::default()
        };
        let created = self.groups(OWNER)?.create(group).await;
        let created = created.context("the group could not be made")?;
        self.done.group_id = created.group.group_id;
        self.done.conversation_id = created.group.conversation_id;
        self.changed(OWNER, What::Created, created.seq).await
    }

    async fn say(
        &mut self,
        person: usize,
        text: &str,
        (draft, shown): (Draft, Vec<Shown>),
        room: &Arc<Semaphore>,
    ) -> anyhow::Result<()> {
        let permit = Arc::clone(room).acquire_owned().await?;
        let actor = &self.actors[person];
        // Only the sends of one device keep their order.
        let seat = actor.seats.first().context("a connected device")?;
        let started = Instant::now();
        let outgoing = seat.session.send(&self.done.conversation_id, draft).await;
        let outgoing = outgoing.context("a message was refused by the client")?;
        let place = self.done.facts.len();
        self.done.facts.push(None);
        self.done.sent += 1;
        self.under_way[person] += 1;
        let text = text.to_owned();
        self.waiting.spawn(async move {
            let message_id = outgoing.message_id().to_owned();
            let receipt = wait_for_ack(outgoing).await;
            drop(permit);
            Answered {
                place,
                person,
                message_id,
                text,
                shown,
                receipt,
                ack_time: started.elapsed(),
            }
        });
        // What is answered is taken note of, so that little waits here.
        while let Some(answered) = self.waiting.try_join_next() {
            self.answered(answered?);
        }
        Ok(())
    }

    fn answered(&mut self, answered: Answered) {
        self.under_way[answered.person] -= 1;
        let Some(receipt) = answered.receipt else {
            return;
        };
        self.done.ack_times.push(answered.ack_time);
        self.done.facts[answered.place] = Some(Fact {
            seq: receipt.seq,
            user_id: self.actors[answered.person].user_id.clone(),
            what: What::Said {
                message_id: answered.message_id,
                text: answered.text,
                shown: answered.shown,
                message_index: receipt.message_index,
            },
        });
    }

    async fn change(&mut self, step: &Step) -> anyhow::Result<()> {
        let (Step::Leave(person) | Step::Remove(person) | Step::Add(person)) = step else {
            let Step::Describe(text) = step else {
                return Ok(());
            };
            let update = GroupUpdate {
                description: Some(text.clone()),
                ..GroupUpdate::default()
            };
            let groups = self.groups(OWNER)?;
            let changed = groups.update(&self.done.group_id, update).await;
            let seq = changed.context("a description was not changed")?.seq;
            return self
                .changed(OWNER, What::Described(text.clone()), seq)
                .await;
        };
        while self.under_way[*person] > 0 {
            match self.waiting.join_next().await {
                Some(answered) => self.answered(answered?),
                None => break,
            }
        }
        let (group_id, user_id) = (&self.done.group_id, self.actors[*person].user_id.clone());
        match step {
            Step::Leave(person) => {
                let left = self.groups(*person)?.leave(group_id).await;
                let seq = left.context("a member could not leave")?;
                self.changed(*person, What::Left, seq).await
            }
            Step::Remove(_) => {
                let removed = self.groups(OWNER)?.remove(group_id, &user_id).await;
                let seq = removed.context("a member could not be removed")?.seq;
                self.changed(OWNER, What::Removed(user_id), seq).await
            }
            _ => {
                let users = std::slice::from_ref(&user_id);
                let added = self.groups(OWNER)?.add(group_id, users).await;
                let seq = added.context("a member could not be added")?.seq;
                self.changed(OWNER, What::Added(user_id), seq).await
            }
        }
    }

    async fn changed(&mut self, person: usize, what: What, seq: u64) -> anyhow::Result<()> {
        let seq = match seq {
            0 => self.next_change().await?,
            seq => seq,
        };
        self.last_change_seq = seq;
        self.done.changes += 1;
        let user_id = self.actors[person].user_id.clone();
        let fact = Fact { seq, user_id, what };
        self.done.facts.push(Some(fact));
        Ok(())
    }

    /// Where the change is whose answer did not say it: changes are made one after another, so it is the
    /// next one that the owner hears of.
    async fn next_change(&self) -> anyhow::Result<u64> {
        let owner = self.actors[OWNER]
            .seats
            .first()
            .context("a connected device")?;
        let end = Instant::now() + AWAY_MAX;
        while Instant::now() < end {
            let next = owner.heard.timeline().iter().find_map(|held| match held {
                Held::Change(change) if change.seq > self.last_change_seq => Some(change.seq),
                _ => None,
            });
            if let Some(seq) = next {
                return Ok(seq);
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the event of a change did not come within {AWAY_MAX:?}")
    }
}

/// Waits until every device has what its user is to hold, or until nothing comes any more.
pub(crate) async fn wait_for_devices(actors: &[Actor], truth: &Truth) {
    let due: Vec<u64> = actors
        .iter()
        .map(|actor| {
            truth
                .of_user(&actor.user_id)
                .last()
                .map_or(0, |fact| fact.seq)
        })
        .collect();
    let mut heard_before = 0;
    let mut last_news = Instant::now();
    loop {
        let (mut heard, mut is_complete) = (0, true);
        for (actor, due) in actors.iter().zip(&due) {
            for seat in &actor.seats {
                let timeline = seat.heard.timeline();
                heard += timeline.len();
                // Sessions tell in order: who has the last one has had all there is for him.
                let has_all = timeline.last().map_or(0, seq_of) >= *due;
                is_complete &= has_all || seat.heard.closed().is_some();
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

/// What the sessions hold that were connected all the time.
pub(crate) fn live_views(actors: &[Actor]) -> Vec<View> {
    actors
        .iter()
        .flat_map(|actor| actor.seats.iter().map(|seat| (&actor.user_id, seat)))
        .map(|(user_id, seat)| View {
            user_id: user_id.clone(),
            reader: "a live session",
            events: seat.heard.timeline().clone(),
        })
        .collect()
}
