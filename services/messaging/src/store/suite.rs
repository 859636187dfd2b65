//! The conformance suite of [`super::Store`]: what every adapter must hold, one function a promise.
//!
//! An adapter's tests implement [`Fixture`] and call [`run_suite`], which makes a test of each promise,
//! with a store of its own. A promise says no more than the trait does: what an adapter holds beyond
//! that, it tests by itself.
#![cfg(test)]

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestRunner},
};
use runtime::ids::{ConversationId, MessageId, UserId};
use tokio::runtime::Handle;

use super::{ConversationUpdate, SeqRange, SequencedBatch, Store};
use crate::model::{ConversationState, Event, EventKind};

mod conversations;
mod deferred;
mod groups;
mod inboxes;
mod readers;
mod rows;

pub(crate) use self::{conversations::*, deferred::*, groups::*, inboxes::*, readers::*, rows::*};

/// A store under test.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// The open store; empty at first.
    fn store(&self) -> &dyn Store;

    /// Closes the store and opens it again, as a process does that starts again.
    async fn reopen(&mut self);
}

/// Makes a test of each promise. The argument is an expression that makes a new [`Fixture`].
macro_rules! run_suite {
    ($fixture:expr) => {
        $crate::store::suite::run_suite! {
            @each $fixture;
            what_is_persisted_is_read_back_exactly,
            a_batch_that_comes_twice_changes_nothing,
            overlapping_batches_leave_every_event_once,
            an_older_batch_lowers_nothing,
            an_event_that_differs_is_refused_and_stays_as_it_was,
            a_head_below_the_base_is_refused,
            each_value_of_a_conversation_rises_by_itself,
            each_value_of_a_member_rises_by_itself,
            conversations_without_a_row_are_left_out,
            a_group_comes_back_as_it_was,
            what_no_membership_can_be_is_refused,
            the_membership_of_the_larger_version_wins_in_any_order,
            marks_and_memberships_rise_apart,
            the_state_of_a_group_of_the_larger_version_wins_in_any_order,
            members_that_a_batch_does_not_name_stay,
            one_member_comes_with_the_conversation,
            a_member_of_a_direct_conversation_has_no_membership,
            groups_are_what_their_batches_make_them,
            a_name_finds_its_first_event_only,
            a_range_excludes_both_ends,
            a_page_ends_at_its_limits,
            missing_events_are_no_end_of_a_page,
            a_message_index_is_found_wherever_it_is,
            numbers_that_no_store_can_hold_are_ranges_without_end,
            an_event_is_seen_no_later_than_its_head,
            a_change_makes_a_row_and_answers_it,
            merging_takes_the_larger_of_each,
            where_a_user_joined_and_left_only_rises,
            a_change_that_comes_again_does_nothing,
            a_change_that_changes_nothing_gives_no_version,
            inboxes_are_what_their_changes_make_them,
            the_list_is_newest_first_and_its_pages_join,
            the_list_has_rows_with_a_message_only,
            changes_come_by_version_and_their_pages_join,
            what_was_told_of_only_rises_and_goes_when_it_is_read,
            heads_come_in_the_order_asked,
            nobody_gets_rows_of_others,
            rows_of_many_users_come_in_the_order_asked_with_their_heads,
            a_deferred_row_counts_nothing_until_its_user_has_left,
            the_deferred_conversations_of_many_users_are_one_answer,
            the_end_of_a_conversation_comes_with_its_newest_message,
            a_position_starts_at_zero_and_only_rises,
            a_position_below_the_saved_one_is_noticed,
            positions_of_different_readers_are_apart,
            another_log_is_refused,
            what_was_answered_is_there_after_a_restart,
        }
    };
    (@each $fixture:expr; $($promise:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::store::suite::$promise(&mut $fixture).await;
            }
        )*
    };
}
pub(crate) use run_suite;

/// Checks a property of random values. Needs a runtime of several threads.
fn check<S: Strategy>(cases: u32, values: S, holds: impl AsyncFn(S::Value))
where
    S::Value: Debug,
{
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    tokio::task::block_in_place(|| {
        let result = TestRunner::new(config).run(&values, |value| {
            Handle::current().block_on(holds(value));
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    });
}

/// The largest number that every store holds.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// The whole of a conversation.
const ALL: SeqRange = SeqRange {
    after_seq: 0,
    before_seq: u64::MAX,
};

fn user(number: u128) -> UserId {
    UserId::from_bytes(number.to_be_bytes())
}

fn message_id(number: u128) -> MessageId {
    MessageId::from_bytes(number.to_be_bytes())
}

fn conversation_of(one: u128, other: u128) -> ConversationId {
    ConversationId::direct(user(one), user(other)).unwrap()
}

async fn state_of(store: &dyn Store, conversation: ConversationId) -> Option<ConversationState> {
    let mut states = store.load_conversations(vec![conversation]).await.unwrap();
    assert!(states.len() <= 1);
    states.pop()
}

async fn events_of(store: &dyn Store, conversation: ConversationId) -> Vec<Event> {
    let all = store.events(conversation, ALL, false, usize::MAX, usize::MAX);
    all.await.unwrap()
}

/// A conversation as a sequencer makes it.
#[derive(Debug, Clone)]
struct Talk {
    state: ConversationState,
}

impl Talk {
    fn between(one: u128, other: u128) -> Self {
        Self {
            state: ConversationState::new(conversation_of(one, other)),
        }
    }

    fn id(&self) -> ConversationId {
        self.state.conversation
    }

    /// The next event. One that is no message leaves the message index as it is.
    fn next(&mut self, is_message: bool) -> Event {
        let state = &mut self.state;
        state.head_seq += 1;
        state.last_message_index += u64::from(is_message);
        state.last_time_unix_ms += 1_000;
        let log_offset = 10 * state.head_seq;
        state.applied_end = log_offset + 1;
        let sender = state.conversation.direct_members().unwrap()[(state.head_seq % 2) as usize];
        let head = state.head();
        let message_id = message_id(u128::from(head.seq) << 64);
        let member = state.member_mut(sender);
        member.message_id_max = Some(message_id);
        member.marks.delivered = head;
        member.marks.read = head;
        Event {
            conversation: state.conversation,
            seq: head.seq,
            message_index: head.message_index,
            log_offset,
            time_unix_ms: state.last_time_unix_ms,
            kind: EventKind::Message,
            sender,
            message_id,
            body: Bytes::from(format!("body of {}", head.seq)),
        }
    }

    fn messages(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.next(true)).collect()
    }

    /// A batch that ends at the present state.
    fn batch(&self, base_head_seq: u64, events: &[Event]) -> SequencedBatch {
        SequencedBatch {
            events: events.to_vec(),
            conversations: vec![ConversationUpdate {
                state: self.state.clone(),
                base_head_seq,
            }],
        }
    }
}
