//! Reads a group again through devices that know nothing, and the rows of the conversation lists.

use std::time::Instant;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use messenger_client::{
    Client, GroupChange, Message, Options,
    model::{Conversation, EventRange, Order, Watermark},
};

use super::verify::{Row, Truth, View};
use crate::replay::{
    cast::{Actor, Held, LOG_INS_AT_A_TIME, Seat},
    patience::patiently,
    read_back::{EVENTS_PAGE, LIST_DEADLINE, LIST_PAUSE, whole_list},
};

/// What was read back of all accounts.
#[derive(Debug, Default)]
pub(crate) struct ReadBack {
    pub(crate) views: Vec<View>,
    /// Lists that did not become exact.
    pub(crate) rows_wrong: usize,
    pub(crate) examples: Vec<String>,
}

/// Reads all accounts, each through a new device.
pub(crate) async fn read_back(
    actors: &[Actor],
    truth: &Truth,
    progress: &ProgressBar,
) -> anyhow::Result<ReadBack> {
    let mut all = ReadBack::default();
    let mut accounts = stream::iter(actors)
        .map(|actor| async move {
            let read = read_actor(actor, truth).await;
            progress.inc(1);
            read.with_context(|| format!("reading {} back", actor.user_id))
        })
        .buffered(LOG_INS_AT_A_TIME);
    while let Some((views, wrong)) = accounts.try_next().await? {
        all.views.extend(views);
        all.rows_wrong += usize::from(wrong.is_some());
        all.examples.extend(wrong);
    }
    Ok(all)
}

async fn read_actor(actor: &Actor, truth: &Truth) -> anyhow::Result<(Vec<View>, Option<String>)> {
    let client = actor.new_device().await?;
    let wrong = exact_row(&client, truth, truth.row(&actor.user_id).as_ref()).await?;
    let events = match truth.row(&actor.user_id) {
        Some(_) => all_events(&client, &truth.conversation_id).await?,
        None => Vec::new(),
    };
    // The session reads the same by itself, as an app on a new phone does.
    let seat = Seat::take(client, Options::from_beginning()).await?;
    seat.session.close().await;
    let session = std::mem::take(&mut *seat.heard.timeline());
    let views = [("ListEvents", events), ("a new device's session", session)];
    let views = views.map(|(reader, events)| View {
        user_id: actor.user_id.clone(),
        reader,
        events,
    });
    let wrong = wrong.map(|what| format!("{what} of {}", actor.user_id));
    Ok((views.into(), wrong))
}

/// Waits for the list to be the one row that it has to be, and says what is wrong if it does not become
/// so: the lists follow the acks.
async fn exact_row(
    client: &Client,
    truth: &Truth,
    expected: Option<&Row>,
) -> anyhow::Result<Option<String>> {
    let end = Instant::now() + LIST_DEADLINE;
    loop {
        let (list, unread_total) = whole_list(client).await?;
        let total = expected.map_or(0, |row| row.unread_count);
        if is_exact(&list, truth, expected) && unread_total == total {
            return Ok(None);
        }
        if Instant::now() >= end {
            // Without texts: it goes to the standard error output.
            let shown: Vec<_> = list
                .iter()
                .map(|row| {
                    (
                        row.last_seq,
                        row.last_message_index,
                        row.unread_count,
                        row.left,
                    )
                })
                .collect();
            let due = expected.map(|row| {
                let Row {
                    last_seq,
                    last_message_index,
                    unread_count,
                    left,
                    ..
                } = row;
                (*last_seq, *last_message_index, *unread_count, *left)
            });
            return Ok(Some(format!(
                "rows (last seq, last index, unread, left) {shown:?} instead of {due:?}, \
                 total {unread_total} instead of {total}"
            )));
        }
        tokio::time::sleep(LIST_PAUSE).await;
    }
}

fn is_exact(list: &[Conversation], truth: &Truth, expected: Option<&Row>) -> bool {
    match (list, expected) {
        ([], None) => true,
        ([row], Some(expected)) => row.conversation_id == truth.conversation_id && expected.is(row),
        _ => false,
    }
}

/// Every event of the conversation that this user is given, oldest first.
async fn all_events(client: &Client, conversation_id: &str) -> anyhow::Result<Vec<Held>> {
    let (mut events, mut after_seq) = (Vec::new(), 0);
    loop {
        let range = EventRange {
            conversation_id: conversation_id.to_owned(),
            after_seq,
            page_size: EVENTS_PAGE,
            order: Order::OldestFirst.into(),
            ..EventRange::default()
        };
        let pages = patiently(|| client.list_events(vec![range.clone()])).await?;
        let page = pages
            .into_iter()
            .next()
            .context("an answer without a page")?;
        for event in page.events {
            let change = GroupChange::from_event(event.clone()).map(Held::Change);
            events.extend(change.or_else(|| Message::from_event(event).map(Held::Message)));
        }
        if !page.more {
            return Ok(events);
        }
        ensure!(
            page.to_seq > after_seq,
            "pages of events do not come to an end"
        );
        after_seq = page.to_seq;
    }
}

/// Marks everything of every other member as read on the live device, and looks whether a new one
/// sees nothing unread. Answers for how many it does.
pub(crate) async fn mark_read(actors: &[Actor], truth: &Truth) -> anyhow::Result<usize> {
    let wrong: Vec<usize> = stream::iter(actors.iter().step_by(2))
        .map(|actor| mark_actor_read(actor, truth))
        .buffered(LOG_INS_AT_A_TIME)
        .try_collect()
        .await?;
    Ok(wrong.into_iter().sum())
}

async fn mark_actor_read(actor: &Actor, truth: &Truth) -> anyhow::Result<usize> {
    let (Some(seat), Some(mut row)) = (actor.seats.first(), truth.row(&actor.user_id)) else {
        return Ok(0);
    };
    if row.left {
        return Ok(0);
    }
    let up_to = Watermark {
        seq: row.last_seq,
        message_index: row.last_message_index,
    };
    seat.session
        .mark_read(&truth.conversation_id, up_to)
        .await?;
    row.unread_count = 0;
    Ok(usize::from(
        exact_row(&seat.client, truth, Some(&row)).await?.is_some(),
    ))
}
