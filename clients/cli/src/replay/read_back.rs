//! Reads everything again through devices that know nothing, and the conversation lists with their
//! unread counts.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use messenger_client::{
    Client, Message, Options,
    model::{Conversation, EventRange, MessageRange, Order, Watermark},
};

use super::{
    cast::{Actor, LOG_INS_AT_A_TIME, Seat},
    patience::patiently,
    play::Sent,
    verify::{Source, View, expected_unread},
};

/// Events of a page: small, so that paging is used.
pub(crate) const EVENTS_PAGE: i32 = 50;
/// Messages of a page.
const MESSAGES_PAGE: i32 = 20;
/// Conversations that one call reads of.
const RANGES_MAX: usize = 100;
/// Conversations of a page of the list.
const LIST_PAGE: i32 = 20;
/// The list follows the acks: how long it may take to be exact.
pub(crate) const LIST_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is asked for until then.
pub(crate) const LIST_PAUSE: Duration = Duration::from_millis(50);

/// What was read back of all accounts.
#[derive(Debug, Default)]
pub(crate) struct ReadBack {
    pub(crate) views: Vec<View>,
    pub(crate) unread_wrong: usize,
}

/// Reads all accounts, each through a new device.
pub(crate) async fn read_back(
    actors: &[Actor],
    sent: &[Sent],
    progress: &ProgressBar,
) -> anyhow::Result<ReadBack> {
    let unread_wrong = AtomicUsize::new(0);
    let views: Vec<Vec<View>> = stream::iter(actors)
        .map(|actor| async {
            let read = read_actor(actor, sent).await;
            progress.inc(1);
            let (views, wrong) = read.with_context(|| format!("reading {} back", actor.user_id))?;
            unread_wrong.fetch_add(wrong, Ordering::Relaxed);
            anyhow::Ok(views)
        })
        .buffered(LOG_INS_AT_A_TIME)
        .try_collect()
        .await?;
    Ok(ReadBack {
        views: views.into_iter().flatten().collect(),
        unread_wrong: unread_wrong.into_inner(),
    })
}

async fn read_actor(actor: &Actor, sent: &[Sent]) -> anyhow::Result<(Vec<View>, usize)> {
    let client = actor.new_device().await?;
    let expected = expected_unread(sent, &actor.user_id);
    let (list, unread_wrong) = exact_list(&client, &expected).await?;
    let ids: Vec<&str> = list
        .iter()
        .map(|row| row.conversation_id.as_str())
        .collect();
    let events = all_events(&client, &ids).await?;
    let messages = all_messages(&client, &ids).await?;
    // The session reads the same by itself, as an app on a new phone does.
    let seat = Seat::take(client, Options::from_beginning()).await?;
    seat.session.close().await;
    let session = std::mem::take(&mut *seat.heard.messages());
    let views = [
        ("ListEvents", events),
        ("ListMessages", messages),
        ("a new device's session", session),
    ];
    let views = views.map(|(reader, messages)| View {
        user_id: actor.user_id.clone(),
        source: Source::ReadBack,
        reader,
        messages,
    });
    Ok((views.into(), unread_wrong))
}

/// The list as soon as it is exact, and how many rows are wrong if it does not become so.
async fn exact_list(
    client: &Client,
    expected: &HashMap<&str, u64>,
) -> anyhow::Result<(Vec<Conversation>, usize)> {
    let end = Instant::now() + LIST_DEADLINE;
    loop {
        let (list, unread_total) = whole_list(client).await?;
        let mut wrong = rows_wrong(&list, expected);
        if wrong == 0 && unread_total != expected.values().sum::<u64>() {
            wrong = 1;
        }
        if wrong == 0 || Instant::now() >= end {
            return Ok((list, wrong));
        }
        tokio::time::sleep(LIST_PAUSE).await;
    }
}

pub(crate) async fn whole_list(client: &Client) -> anyhow::Result<(Vec<Conversation>, u64)> {
    let (mut list, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = patiently(|| client.list_conversations(LIST_PAGE, &page_token, 0)).await?;
        list.extend(page.conversations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((list, page.unread_total));
        }
    }
}

/// Conversations that are not in the list exactly once with exactly this count.
fn rows_wrong(list: &[Conversation], expected: &HashMap<&str, u64>) -> usize {
    let mut counts: HashMap<&str, Vec<u64>> = HashMap::new();
    for row in list {
        counts
            .entry(&row.conversation_id)
            .or_default()
            .push(row.unread_count);
    }
    let is_wrong = |(id, unread): &(&&str, &u64)| counts.get(**id) != Some(&vec![**unread]);
    let wrong = expected.iter().filter(is_wrong).count();
    wrong
        + counts
            .keys()
            .filter(|id| !expected.contains_key(**id))
            .count()
}

/// Every event of these conversations, oldest first, as it is kept.
async fn all_events(client: &Client, ids: &[&str]) -> anyhow::Result<Vec<Message>> {
    let mut after: HashMap<String, u64> = ids.iter().map(|id| ((*id).to_owned(), 0)).collect();
    let mut messages = Vec::new();
    while !after.is_empty() {
        let ranges: Vec<_> = after
            .iter()
            .take(RANGES_MAX)
            .map(|(id, seq)| EventRange {
                conversation_id: id.clone(),
                after_seq: *seq,
                page_size: EVENTS_PAGE,
                order: Order::OldestFirst.into(),
                ..EventRange::default()
            })
            .collect();
        let pages = patiently(|| client.list_events(ranges.clone())).await?;
        ensure!(
            pages.len() == ranges.len(),
            "an answer has not a page for each range"
        );
        let mut has_moved = false;
        for page in pages {
            if page.more {
                has_moved |= after.insert(page.conversation_id, page.to_seq) != Some(page.to_seq);
            } else {
                has_moved |= after.remove(&page.conversation_id).is_some();
            }
            messages.extend(page.events.into_iter().filter_map(Message::from_event));
        }
        ensure!(has_moved, "pages of events do not come to an end");
    }
    Ok(messages)
}

/// Every message of these conversations as it is shown: read from the newest, given from the
/// oldest.
async fn all_messages(client: &Client, ids: &[&str]) -> anyhow::Result<Vec<Message>> {
    let mut all = Vec::new();
    for id in ids {
        let mut messages = Vec::new();
        let (mut before, mut as_of_seq) = (0, 0);
        loop {
            let range = MessageRange {
                conversation_id: (*id).to_owned(),
                before_message_index: before,
                as_of_seq,
                page_size: MESSAGES_PAGE,
                order: Order::NewestFirst.into(),
                ..MessageRange::default()
            };
            let pages = patiently(|| client.list_messages(vec![range.clone()])).await?;
            let page = pages
                .into_iter()
                .next()
                .context("an answer without a page")?;
            let is_end = !page.more || page.from_message_index <= 1;
            ensure!(
                is_end || before == 0 || page.from_message_index < before,
                "pages of messages do not come to an end"
            );
            (before, as_of_seq) = (page.from_message_index, page.as_of_seq);
            let shown = page.messages.into_iter();
            messages.extend(shown.map(|message| Message::from_shown(id, message)));
            if is_end {
                break;
            }
        }
        all.extend(messages.into_iter().rev());
    }
    Ok(all)
}

/// Marks everything of every other account as read on its first device, and looks whether its last
/// device sees no unread message any more. Answers for how many conversations it does.
pub(crate) async fn mark_read(actors: &[Actor], sent: &[Sent]) -> anyhow::Result<usize> {
    let wrong: Vec<usize> = stream::iter(actors.iter().step_by(2))
        .map(|actor| mark_actor_read(actor, sent))
        .buffered(LOG_INS_AT_A_TIME)
        .try_collect()
        .await?;
    Ok(wrong.into_iter().sum())
}

async fn mark_actor_read(actor: &Actor, sent: &[Sent]) -> anyhow::Result<usize> {
    let (Some(first), Some(last)) = (actor.seats.first(), actor.seats.last()) else {
        return Ok(0);
    };
    let mut newest: HashMap<&str, Watermark> = HashMap::new();
    for message in sent.iter().filter(|sent| sent.is_acked_of(&actor.user_id)) {
        if let Some(receipt) = message.receipt {
            let mark = newest.entry(&message.conversation_id).or_default();
            if receipt.seq > mark.seq {
                (mark.seq, mark.message_index) = (receipt.seq, receipt.message_index);
            }
        }
    }
    for (place, (id, up_to)) in newest.iter().enumerate() {
        // Both ways of saying so.
        if place % 2 == 0 {
            first.session.mark_read(*id, *up_to).await?;
        } else {
            patiently(|| first.client.mark_read(id, *up_to)).await?;
        }
    }
    let expected = newest.keys().map(|id| (*id, 0)).collect();
    Ok(exact_list(&last.client, &expected).await?.1)
}
