//! Groups: calls that are carried out once, and changes among the messages.

use messenger_client::{Draft, GroupChange, Joined, NewGroup, model::GroupChangeKind};
use proto::groups::v1::Role;

use super::{
    fake::groups::{GROUP, GROUP_CONVERSATION, OnChange},
    *,
};

#[tokio::test]
async fn a_change_is_carried_out_once_however_often_its_answer_is_lost() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    fake.state.lock().groups.on_changes = VecDeque::from([
        OnChange::Lost,
        OnChange::Unavailable,
        OnChange::Lost,
        OnChange::Lost,
        OnChange::Unavailable,
        OnChange::Lost,
    ]);
    let groups = client.groups();
    let created = soon(groups.create(NewGroup::default())).await.unwrap();
    assert_eq!((created.group.group_id.as_str(), created.seq), (GROUP, 1));
    let asked = fake.state.lock().groups.asked.clone();
    assert_eq!(asked.len(), 7);
    assert!(asked.iter().all(|id| *id == asked[0]), "{asked:?}");
    // Another change has another id.
    let added = client.groups().add(GROUP, &["peer".to_owned()]).await;
    assert_eq!(added.unwrap().seq, 2);
    assert_eq!(client.groups().leave(GROUP).await, Ok(3));
    let events = fake.state.lock().conversations[GROUP_CONVERSATION].len();
    assert_eq!(events, 3);
}

#[tokio::test]
async fn a_change_that_is_refused_or_takes_too_long_is_given_up() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let refuse = OnChange::Refuse(ErrorReason::GroupNotFound);
    fake.state.lock().groups.on_changes.push_back(refuse);
    let error = client.groups().leave(GROUP).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::GroupNotFound);
    assert_eq!(fake.state.lock().groups.asked.len(), 1);
    fake.state.lock().groups.on_changes = (0..1_000).map(|_| OnChange::Unavailable).collect();
    let hasty = client.groups().patience(Duration::from_millis(300));
    let error = soon(hasty.leave(GROUP)).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::Unavailable);
    let closed = client.groups().join("closed").await;
    assert_eq!(closed, Ok(Joined::WaitsForApproval));
}

/// What came of the group: the seq, and the text or the kind.
fn told(event: Event) -> Option<(u64, String)> {
    match event {
        Event::Message(message) => Some((message.seq, message.text)),
        Event::GroupChange(change) => Some((change.seq, format!("{:?}", change.kind))),
        _ => None,
    }
}

#[tokio::test]
async fn changes_come_in_one_order_with_messages_and_one_of_an_unknown_kind_is_skipped() {
    let fake = Fake::start().await;
    fake.state.lock().on_push = OnPush {
        lost: 0.2,
        repeated: 0.2,
        late: 0.2,
    };
    let (session, mut events) = connect(&fake, Options::from_beginning()).await;
    let mut expected = Vec::new();
    for round in 0..100_u64 {
        let kind = match round % 3 {
            0 => GroupChangeKind::Added,
            1 => GroupChangeKind::Unspecified,
            _ => GroupChangeKind::Removed,
        };
        let members = [("peer", Role::Member)];
        let event = fake.state.lock().change_group("peer", kind, &members);
        if kind != GroupChangeKind::Unspecified {
            expected.push((event.seq, format!("{kind:?}")));
        }
        fake.say(GROUP_CONVERSATION, &round.to_string());
        expected.push((event.seq + 1, round.to_string()));
        if round % 30 == 29 {
            fake.break_all();
        }
    }
    let mut came = Vec::new();
    while came.len() < expected.len() {
        came.extend(told(soon(events.next()).await.unwrap()));
    }
    assert_eq!(came, expected);
    soon(session.live()).await.unwrap();
    let delivered = |fake: &Fake| fake.seen().delivered.last().and_then(|d| d.up_to);
    let last = pb::Watermark {
        seq: 200,
        message_index: 100,
    };
    until(|| delivered(&fake) == Some(last)).await;
}

#[tokio::test]
async fn a_conversation_begins_where_the_user_joined_and_ends_where_he_left() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    // Of what was before, the server has nothing for this user.
    let hidden = |seq| pb::Event {
        conversation_id: GROUP_CONVERSATION.to_owned(),
        seq,
        message_index: seq,
        ..pb::Event::default()
    };
    let joined = {
        let mut state = fake.state.lock();
        let before = vec![hidden(500)];
        state
            .conversations
            .insert(GROUP_CONVERSATION.to_owned(), before);
        let me = [("me", Role::Member)];
        let event = state.change_group("peer", GroupChangeKind::Added, &me);
        let events = state.conversations.get_mut(GROUP_CONVERSATION).unwrap();
        events.remove(0);
        event.seq
    };
    fake.say(GROUP_CONVERSATION, "welcome");
    let mut came = Vec::new();
    while came.len() < 2 {
        came.extend(told(soon(events.next()).await.unwrap()));
    }
    let expected = [
        (joined, "Added".to_owned()),
        (joined + 1, "welcome".to_owned()),
    ];
    assert_eq!(came, expected);

    let groups = session.client().groups();
    soon(groups.leave(GROUP)).await.unwrap();
    let left = event(&mut events, |event| matches!(event, Event::GroupChange(_))).await;
    assert!(
        matches!(left, Event::GroupChange(left) if left.role_of("me") == Some(Role::Unspecified))
    );
    // The row says it, too.
    let is_left = |event: &Event| matches!(event, Event::Conversation(row) if row.left);
    event(&mut events, is_left).await;
    let calls = fake.seen().events_calls;
    fake.break_all();
    until(|| fake.seen().hellos.len() == 2).await;
    soon(session.live()).await.unwrap();
    assert_eq!(fake.seen().events_calls, calls);
}

#[tokio::test]
async fn mentions_go_with_the_message_and_come_back_in_its_event() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    let options = Options::from_beginning().cache(cache.clone());
    let (session, mut events) = connect(&fake, options).await;
    let draft = Draft::new("look")
        .mention("peer")
        .mention("peer")
        .mention_all();
    let mut outgoing = session.send(GROUP_CONVERSATION, draft).await.unwrap();
    soon(outgoing.sent()).await.unwrap();
    let message = soon(events.next_message()).await.unwrap();
    assert_eq!(message.mentioned_user_ids, ["peer"]);
    assert!(message.mentions_all && message.mentions("anybody"));
    let sent = fake.seen().sends.remove(0).1;
    assert_eq!(sent.mentioned_user_ids, ["peer"]);
    assert!(sent.mentions_all);
    let kept = cache.messages(GROUP_CONVERSATION, 0, 10).await.unwrap();
    assert_eq!(kept, [message]);
    let mut many = Draft::new("all of you");
    for number in 0..51 {
        many = many.mention(number.to_string());
    }
    let error = session.send(GROUP_CONVERSATION, many).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::FieldOutOfRange);
    assert_eq!(error.field(), "send.mentioned_user_ids");
}

#[tokio::test]
async fn the_cache_has_the_changes_too() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut expected: Vec<GroupChange> = Vec::new();
    for _ in 0..3 {
        let cache = SqliteCache::open(&path).await.unwrap();
        for _ in 0..5 {
            let members = [("peer", Role::Admin)];
            let mut state = fake.state.lock();
            let event = state.change_group("peer", GroupChangeKind::Roles, &members);
            expected.extend(GroupChange::from_event(event));
        }
        let options = Options::from_beginning().cache(cache.clone());
        let (session, _events) = connect(&fake, options).await;
        soon(session.live()).await.unwrap();
        session.close().await;
        let mut kept = cache
            .group_changes(GROUP_CONVERSATION, 0, 100)
            .await
            .unwrap();
        kept.reverse();
        assert_eq!(kept, expected);
        let before = cache.group_changes(GROUP_CONVERSATION, 3, 1).await.unwrap();
        assert_eq!(before, expected[1..2]);
    }
}

#[tokio::test]
async fn receipts_are_asked_for() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let receipts = client.list_receipts(GROUP_CONVERSATION, 7, 0, "").await;
    let receipts = receipts.unwrap();
    assert_eq!((receipts.message_index, receipts.read_count), (7, 1));
}
