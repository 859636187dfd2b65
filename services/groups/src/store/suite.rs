//! What every store must hold, run over each adapter.

use prost::Message;
use proto::log::v1::{MessagesRecord, messages_record::Record};
use runtime::ids::{ConversationId, GroupId, UserId};
use uuid::Uuid;

use super::{ChangeError, ChangeRequest, Changed, RequestKey, Store};
use crate::{
    decide::{Act, Command, Limits, Refusal},
    model::{Sequenced, Settings},
};

mod changes;
mod fanout;
mod reads;

pub(crate) const NOW: i64 = 1_800_000_000_000;

pub(crate) const LIMITS: Limits = Limits {
    members_max: 200,
    groups_per_user_max: 10,
    invitations_max: 3,
    join_requests_max: 3,
};

/// Runs every check over a new store each. What `open` answers besides the store lives as long.
pub(crate) async fn run<S: Store, G>(open: impl AsyncFn() -> (S, G)) {
    macro_rules! each {
        ($($promise:path),* $(,)?) => {$(
            let (store, _guard) = open().await;
            $promise(&store).await;
        )*};
    }
    each!(
        changes::a_change_is_all_there_and_so_is_what_the_log_is_told,
        changes::a_request_that_comes_again_is_answered_the_same,
        changes::what_is_refused_changes_nothing,
        changes::a_user_is_in_so_many_groups_at_most,
        changes::invitations_are_used_and_end,
        changes::who_waits_is_let_in_or_not,
        changes::an_ended_group_leaves_what_the_log_still_needs,
        changes::changes_that_wait_for_the_log_are_bounded,
        reads::groups_and_members_come_in_pages,
        reads::who_has_left_sees_the_group_as_it_was,
        reads::the_groups_that_a_user_has_left_are_bounded,
        fanout::stints_say_who_was_a_member_when,
        fanout::a_deferred_group_stays_so_also_when_it_shrinks,
        fanout::a_change_leaves_the_outbox_only_when_it_was_seen,
        fanout::what_is_due_comes_ever_later,
        fanout::old_requests_are_forgotten_in_steps,
        fanout::a_position_starts_at_zero_only_rises_and_says_when_it_went_back,
        fanout::another_log_is_refused,
    );
}

/// A group of a test.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) group: GroupId,
    pub(crate) owner: UserId,
    /// The owner first.
    pub(crate) members: Vec<UserId>,
}

pub(crate) fn key() -> RequestKey {
    RequestKey {
        request_id: Uuid::now_v7(),
        digest: [7; 32],
    }
}

pub(crate) fn request(actor: UserId, group: Option<GroupId>, command: Command) -> ChangeRequest {
    ChangeRequest {
        act: Act {
            actor,
            command,
            group_id: group.unwrap_or_else(GroupId::generate),
            if_version: 0,
            now_unix_ms: NOW,
        },
        group,
        request: Some(key()),
        limits: LIMITS,
    }
}

pub(crate) async fn change(
    store: &dyn Store,
    actor: UserId,
    group: GroupId,
    command: Command,
) -> Result<Changed, ChangeError> {
    store.change(request(actor, Some(group), command)).await
}

pub(crate) fn create(users: Vec<UserId>, settings: Settings) -> Command {
    Command::Create {
        name: "a name".to_owned(),
        description: "line\nline".to_owned(),
        picture: "picture".to_owned(),
        settings,
        users,
    }
}

/// Makes a group of `count` new users.
pub(crate) async fn made(store: &dyn Store, count: usize) -> Made {
    made_with(store, count, Settings::default()).await
}

pub(crate) async fn made_with(store: &dyn Store, count: usize, settings: Settings) -> Made {
    let members: Vec<UserId> = (0..count).map(|_| UserId::generate()).collect();
    let owner = members[0];
    let command = create(members[1..].to_vec(), settings);
    let changed = store.change(request(owner, None, command)).await.unwrap();
    Made {
        group: changed.group,
        owner,
        members,
    }
}

pub(crate) fn refusal(result: Result<Changed, ChangeError>) -> Refusal {
    match result {
        Err(ChangeError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The versions that wait for the log, each with its record as it should be.
pub(crate) async fn outstanding(store: &dyn Store, group: GroupId) -> Vec<u64> {
    let mut versions = Vec::new();
    for outstanding in store.outstanding(group).await.unwrap() {
        let record = MessagesRecord::decode(outstanding.payload.as_slice()).unwrap();
        let conversation = ConversationId::from_slice(&record.conversation_id).unwrap();
        assert_eq!(conversation.group_id(), Some(group));
        assert_eq!((record.schema_version, outstanding.group), (2, group));
        let Some(Record::GroupChange(change)) = record.record else {
            panic!("{record:?}");
        };
        assert_eq!(change.version, outstanding.version);
        versions.push(change.version);
    }
    versions
}

pub(crate) async fn sequenced(store: &dyn Store, group: GroupId, version: u64, seq: u64) {
    let change = Sequenced {
        group,
        version,
        seq,
    };
    store.note_sequenced(vec![change]).await.unwrap();
}
