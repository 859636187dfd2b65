//! Pages that cannot be: tokens, sizes, ranges.

use harness::refused;
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{self as wire, EventRange, MessageRange},
    profile::v1::{SearchProfilesRequest, profile_service_client::ProfileServiceClient},
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{BEFORE, Scene};

#[tokio::test]
async fn a_page_token_is_good_for_its_caller_and_its_call_only() {
    let scene = Scene::start().await;
    let profiles = |device: &harness::Device| {
        ProfileServiceClient::with_interceptor(device.channel(), device.bearer())
    };
    // Somebody else with two conversations, so that there is a second page.
    let nora = scene.server.user("nora").await;
    for peer in ["noel", "noam"] {
        let peer = scene.server.user(peer).await;
        let sent = nora.send(&nora.with(&peer), Uuid::now_v7(), "hello").await;
        sent.unwrap();
    }
    let page = |page_token: &str| wire::ListConversationsRequest {
        page_size: 1,
        page_token: page_token.to_owned(),
        min_inbox_version: 0,
    };
    let token = harness::eventually("two conversations", async || {
        let first = nora.messaging().list_conversations(page("")).await.unwrap();
        Some(first.into_inner().next_page_token).filter(|token| !token.is_empty())
    })
    .await;
    let search = SearchProfilesRequest {
        prefix: "no".to_owned(),
        page_size: 1,
        page_token: String::new(),
    };
    let found = profiles(&nora)
        .search_profiles(search.clone())
        .await
        .unwrap();
    let of_search = found.into_inner().next_page_token;
    assert!(!of_search.is_empty());

    let mut turned = token.clone().into_bytes();
    turned.reverse();
    let turned = String::from_utf8(turned).unwrap();
    let long = "A".repeat(100_000);
    for bad in [
        "%%%",
        "AAAA",
        "A",
        "é",
        long.as_str(),
        turned.as_str(),
        of_search.as_str(),
    ] {
        let answer = nora.messaging().list_conversations(page(bad)).await;
        refused(answer).is(R::PageTokenInvalid, "page_token");
    }
    let answer = scene.ada.messaging().list_conversations(page(&token)).await;
    refused(answer).is(R::PageTokenInvalid, "page_token");
    for (prefix, page_token) in [("no", token.as_str()), ("noa", of_search.as_str())] {
        let search = SearchProfilesRequest {
            prefix: prefix.to_owned(),
            page_token: page_token.to_owned(),
            ..search.clone()
        };
        let answer = profiles(&nora).search_profiles(search).await;
        refused(answer).is(R::PageTokenInvalid, "page_token");
    }
    // The token itself is good, more than once.
    for _ in 0..2 {
        let second = nora
            .messaging()
            .list_conversations(page(&token))
            .await
            .unwrap();
        assert_eq!(second.into_inner().conversations.len(), 1);
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn page_sizes_out_of_range_are_refused() {
    let scene = Scene::start().await;
    let mut calls = scene.ada.messaging();
    for page_size in [-1, i32::MIN, 101, i32::MAX] {
        let request = wire::ListConversationsRequest {
            page_size,
            ..wire::ListConversationsRequest::default()
        };
        refused(calls.list_conversations(request).await).is(R::FieldOutOfRange, "page_size");
    }
    for page_size in [-1, i32::MIN, 501, i32::MAX] {
        let request = wire::ListChangesRequest {
            page_size,
            ..wire::ListChangesRequest::default()
        };
        refused(calls.list_changes(request).await).is(R::FieldOutOfRange, "page_size");
    }
    for page_size in [-1, i32::MIN, 201, i32::MAX] {
        let range = EventRange {
            conversation_id: scene.conversation.clone(),
            page_size,
            ..EventRange::default()
        };
        let refusal = refused(calls.list_events(events(vec![range])).await);
        refusal.is(R::FieldOutOfRange, "ranges[0].page_size");
        let range = MessageRange {
            conversation_id: scene.conversation.clone(),
            page_size,
            ..MessageRange::default()
        };
        let refusal = refused(calls.list_messages(messages(vec![range])).await);
        refusal.is(R::FieldOutOfRange, "ranges[0].page_size");
    }
    scene.ends_unharmed().await;
}

fn events(ranges: Vec<EventRange>) -> wire::ListEventsRequest {
    wire::ListEventsRequest { ranges }
}

fn messages(ranges: Vec<MessageRange>) -> wire::ListMessagesRequest {
    wire::ListMessagesRequest { ranges }
}

#[tokio::test]
async fn ranges_are_one_to_five_hundred_each_of_another_conversation() {
    let scene = Scene::start().await;
    let mut calls = scene.ada.messaging();
    let event = |conversation_id: &str| EventRange {
        conversation_id: conversation_id.to_owned(),
        ..EventRange::default()
    };
    let message = |conversation_id: &str| MessageRange {
        conversation_id: conversation_id.to_owned(),
        ..MessageRange::default()
    };
    let own = scene.conversation.as_str();
    let other = harness::direct(&scene.ada.user_id, &Uuid::now_v7().to_string());
    let many: Vec<_> = (0..501)
        .map(|_| harness::direct(&scene.ada.user_id, &Uuid::now_v7().to_string()))
        .collect();

    let none = refused(calls.list_events(events(vec![])).await);
    none.is(R::FieldOutOfRange, "ranges");
    let none = refused(calls.list_messages(messages(vec![])).await);
    none.is(R::FieldOutOfRange, "ranges");
    let too_many = many.iter().map(|id| event(id)).collect();
    let too_many = refused(calls.list_events(events(too_many)).await);
    too_many.is(R::FieldOutOfRange, "ranges");
    let too_many = many.iter().map(|id| message(id)).collect();
    let too_many = refused(calls.list_messages(messages(too_many)).await);
    too_many.is(R::FieldOutOfRange, "ranges");
    let repeated = vec![event(own), event(&other), event(own)];
    let repeated = refused(calls.list_events(events(repeated)).await);
    repeated.is(R::FieldMalformed, "ranges[2].conversation_id");
    let repeated = vec![message(own), message(own)];
    let repeated = refused(calls.list_messages(messages(repeated)).await);
    repeated.is(R::FieldMalformed, "ranges[1].conversation_id");
    for order in [-1, 3, i32::MAX] {
        let range = EventRange {
            order,
            ..event(own)
        };
        let refusal = refused(calls.list_events(events(vec![range])).await);
        refusal.is(R::FieldOutOfRange, "ranges[0].order");
        let range = MessageRange {
            order,
            ..message(own)
        };
        let refusal = refused(calls.list_messages(messages(vec![range])).await);
        refusal.is(R::FieldOutOfRange, "ranges[0].order");
    }
    // Five hundred are allowed, and those with nothing in them say so.
    let mut most = Vec::new();
    let mut registering = JoinSet::new();
    for n in 0..500 {
        let url = scene.server.url();
        registering.spawn(async move { harness::register(&url, &format!("peer{n}")).await });
        // Some at a time.
        if registering.len() >= 32 || n == 499 {
            while let Some(peer) = registering.join_next().await {
                most.push(event(&scene.ada.with(&peer.unwrap())));
            }
        }
    }
    let pages = calls.list_events(events(most.clone())).await;
    let pages = pages.unwrap().into_inner().pages;
    assert_eq!(pages.len(), 500);
    assert!(pages.iter().all(|page| page.last_seq == 0 && !page.more));
    // One of them with nobody is found among all.
    most[499] = event(&many[0]);
    let missing = refused(calls.list_events(events(most)).await);
    missing.is(R::ConversationNotFound, "ranges[499].conversation_id");
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn numbers_at_their_ends_are_taken_as_what_they_say() {
    let scene = Scene::start().await;
    let mut calls = scene.ada.messaging();
    let ends = [
        0,
        1,
        BEFORE,
        BEFORE + 1,
        1 << 32,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    for after in ends {
        for before in ends {
            for order in [0, 1, 2] {
                let wanted: Vec<u64> = (1..=BEFORE)
                    .filter(|n| *n > after && (before == 0 || *n < before))
                    .collect();
                let range = EventRange {
                    conversation_id: scene.conversation.clone(),
                    after_seq: after,
                    before_seq: before,
                    order,
                    ..EventRange::default()
                };
                let answer = calls.list_events(events(vec![range])).await.unwrap();
                let page = answer.into_inner().pages.remove(0);
                let mut seqs: Vec<_> = page.events.iter().map(|event| event.seq).collect();
                seqs.sort_unstable();
                assert_eq!(seqs, wanted, "events after {after} before {before}");
                assert!(!page.more);
                let range = MessageRange {
                    conversation_id: scene.conversation.clone(),
                    after_message_index: after,
                    before_message_index: before,
                    as_of_seq: u64::MAX,
                    order,
                    ..MessageRange::default()
                };
                let answer = calls.list_messages(messages(vec![range])).await;
                let answer = answer.unwrap_or_else(|status| {
                    panic!("messages after {after} before {before}: {status:?}")
                });
                let page = answer.into_inner().pages.remove(0);
                let mut indexes: Vec<_> = page.messages.iter().map(|m| m.message_index).collect();
                indexes.sort_unstable();
                assert_eq!(indexes, wanted, "messages after {after} before {before}");
                assert_eq!(page.as_of_seq, BEFORE);
            }
        }
        let (changes, version, _) = scene.ada.changes(after).await;
        assert_eq!(changes.len(), usize::from(after == 0 || version > after));
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_state_that_does_not_come_is_not_waited_for_for_ever() {
    let scene = Scene::start().await;
    let future = u64::MAX;
    let calls = || scene.ada.messaging();
    let event = EventRange {
        conversation_id: scene.conversation.clone(),
        min_seq: future,
        ..EventRange::default()
    };
    let message = MessageRange {
        conversation_id: scene.conversation.clone(),
        min_seq: future,
        ..MessageRange::default()
    };
    let list = wire::ListConversationsRequest {
        min_inbox_version: future,
        ..wire::ListConversationsRequest::default()
    };
    let changes = wire::ListChangesRequest {
        min_inbox_version: future,
        ..wire::ListChangesRequest::default()
    };
    let unread = wire::GetUnreadTotalRequest {
        min_inbox_version: future,
    };
    let (mut a, mut b, mut c, mut d, mut e) = (calls(), calls(), calls(), calls(), calls());
    let (events, messages, list, changes, unread) = tokio::join!(
        a.list_events(events(vec![event])),
        b.list_messages(messages(vec![message])),
        c.list_conversations(list),
        d.list_changes(changes),
        e.get_unread_total(unread),
    );
    let refusals = [
        refused(events),
        refused(messages),
        refused(list),
        refused(changes),
        refused(unread),
    ];
    for refusal in refusals {
        refusal.is(R::NotYetAvailable, "");
        assert!(refusal.retry_after.is_some());
    }
    scene.ends_unharmed().await;
}
