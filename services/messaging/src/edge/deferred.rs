//! Where the huge groups of users end, for their devices: no inbox version says so.

use std::collections::{BTreeSet, HashMap};

use proto::messaging::v1::DeferredHead;
use runtime::ids::{ConversationId, UserId};

use crate::{
    limits::DEFERRED_MAX,
    model::Watermark,
    store::{Store, StoreError},
};

/// Conversations whose ends are asked for in one query.
const HEADS_PER_QUERY: usize = 1_000;

/// By user; nothing for those without any. Where nobody has any, it is one query; otherwise one more for
/// all of their conversations together, of which a node's users share most.
pub(super) async fn heads(
    store: &dyn Store,
    users: impl IntoIterator<Item = UserId>,
) -> Result<HashMap<UserId, Vec<DeferredHead>>, StoreError> {
    let users: BTreeSet<UserId> = users.into_iter().collect();
    let users = users.into_iter().collect();
    let rows = store.deferred_conversations(users, DEFERRED_MAX).await?;
    let conversations: BTreeSet<ConversationId> = rows.iter().map(|(_, id)| *id).collect();
    let conversations: Vec<ConversationId> = conversations.into_iter().collect();
    let mut ends: HashMap<ConversationId, Watermark> = HashMap::new();
    for some in conversations.chunks(HEADS_PER_QUERY) {
        let heads = store.conversation_heads(some.to_vec(), false).await?;
        ends.extend(heads.into_iter().map(|head| (head.conversation, head.last)));
    }
    let mut by_user: HashMap<UserId, Vec<DeferredHead>> = HashMap::new();
    for (user, conversation) in rows {
        if let Some(end) = ends.get(&conversation) {
            by_user.entry(user).or_default().push(DeferredHead {
                conversation_id: conversation.to_string(),
                last_seq: end.seq,
            });
        }
    }
    Ok(by_user)
}
