//! Ranges of events and messages as they are asked for.

use std::collections::HashSet;

use proto::{error::v1::ErrorReason, messaging::v1 as wire_v1};
use runtime::{ids::UserId, page_token::page_size, status::ApiError};

use crate::{
    limits::{ANSWER_BYTES_MAX, EVENTS_PAGE_DEFAULT, EVENTS_PAGE_MAX, RANGES_MAX},
    read::{Page, PageRequest},
    validate,
};

/// A range as it was asked for, before it is checked.
pub(super) struct Asked<'a> {
    conversation_id: &'a str,
    after: u64,
    before: u64,
    min_seq: u64,
    as_of_seq: u64,
    page_size: i32,
    order: i32,
}

pub(super) fn event_range(range: &wire_v1::EventRange) -> Asked<'_> {
    Asked {
        conversation_id: &range.conversation_id,
        after: range.after_seq,
        before: range.before_seq,
        min_seq: range.min_seq,
        as_of_seq: 0,
        page_size: range.page_size,
        order: range.order,
    }
}

pub(super) fn message_range(range: &wire_v1::MessageRange) -> Asked<'_> {
    Asked {
        conversation_id: &range.conversation_id,
        after: range.after_message_index,
        before: range.before_message_index,
        min_seq: range.min_seq,
        as_of_seq: range.as_of_seq,
        page_size: range.page_size,
        order: range.order,
    }
}

/// Checks all ranges before the first is read.
pub(super) fn page_requests<'a>(
    user: UserId,
    count: usize,
    ranges: impl Iterator<Item = Asked<'a>>,
) -> Result<Vec<PageRequest>, ApiError> {
    if count == 0 || count > RANGES_MAX {
        return Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            "ranges",
            format!("1 to {RANGES_MAX} ranges"),
        ));
    }
    let mut seen = HashSet::with_capacity(count);
    let mut requests = Vec::with_capacity(count);
    for (at, asked) in ranges.enumerate() {
        let field = |name: &str| format!("ranges[{at}].{name}");
        let conversation =
            validate::conversation(user, asked.conversation_id, &field("conversation_id"))?;
        if !seen.insert(conversation) {
            return Err(ApiError::field(
                ErrorReason::FieldMalformed,
                field("conversation_id"),
                "each range is of another conversation",
            ));
        }
        let order = wire_v1::Order::try_from(asked.order).map_err(|_| {
            ApiError::field(
                ErrorReason::FieldOutOfRange,
                field("order"),
                "no such order",
            )
        })?;
        requests.push(PageRequest {
            conversation,
            user,
            after: asked.after,
            before: asked.before,
            min_seq: asked.min_seq,
            as_of_seq: asked.as_of_seq,
            newest_first: order == wire_v1::Order::NewestFirst,
            limit: page_size(
                asked.page_size,
                EVENTS_PAGE_DEFAULT,
                EVENTS_PAGE_MAX,
                &field("page_size"),
            )?,
            bytes_max: ANSWER_BYTES_MAX,
        });
    }
    Ok(requests)
}

/// The page of a range for which the answer had no room.
pub(super) const fn no_room() -> Page {
    Page {
        from: 0,
        to: 0,
        events: Vec::new(),
        head_seq: 0,
        more: true,
    }
}
