//! A page of a conversation's past, from the cache where it has it.

use crate::{
    error::Result,
    model::{Message, MessageRange, Order},
    session::Session,
};

/// Messages of a page (F3).
const PAGE_MAX: usize = 200;

pub(crate) async fn page(
    session: &Session,
    conversation_id: &str,
    before_message_index: u64,
    limit: usize,
) -> Result<Vec<Message>> {
    let limit = limit.clamp(1, PAGE_MAX);
    if let Some(cache) = &session.cache {
        let messages = cache
            .messages(conversation_id, before_message_index, limit)
            .await?;
        let reaches_start = messages.last().is_some_and(|last| last.message_index == 1);
        // A page that ends early may go on at the server: a cache begins where its device began.
        if messages.len() == limit || reaches_start {
            return Ok(messages);
        }
    }
    let range = MessageRange {
        conversation_id: conversation_id.to_owned(),
        before_message_index,
        page_size: i32::try_from(limit).unwrap_or(i32::MAX),
        order: Order::NewestFirst.into(),
        ..MessageRange::default()
    };
    let pages = session.client.list_messages(vec![range]).await?;
    let shown = pages.into_iter().flat_map(|page| page.messages);
    Ok(shown
        .map(|message| Message::from_shown(conversation_id, message))
        .collect())
}
