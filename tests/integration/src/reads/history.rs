//! Pages of events and of messages.

use harness::{Device, TestServer, message};
use prost::Message;
use proto::messaging::v1::{
    Event, EventPage, EventRange, GetSendStatusRequest, ListEventsRequest, ListMessagesRequest,
    MessagePage, MessageRange, Order,
    client_frame::Frame as Said,
    get_send_status_response::{Accepted, Status as SendStatus},
};
use rand::RngExt;
use uuid::Uuid;

/// Sends many messages through one session, pipelined.
async fn fill(device: &Device, conversation: &str, count: u64, text: &str) {
    const TOGETHER: u64 = 100;
    let mut session = device.session().await;
    let mut left = count;
    while left > 0 {
        let now = left.min(TOGETHER);
        let mut asked = Vec::new();
        for _ in 0..now {
            let send = message(conversation, Uuid::now_v7(), text);
            asked.push(session.say(Said::Send(send)).await);
        }
        for request_id in asked {
            session.answer(request_id).await.unwrap();
        }
        left -= now;
    }
}

async fn events(device: &Device, ranges: Vec<EventRange>) -> Vec<EventPage> {
    let answer = device
        .messaging()
        .list_events(ListEventsRequest { ranges })
        .await;
    answer.unwrap().into_inner().pages
}

async fn messages(device: &Device, ranges: Vec<MessageRange>) -> Vec<MessagePage> {
    let answer = device
        .messaging()
        .list_messages(ListMessagesRequest { ranges })
        .await;
    answer.unwrap().into_inner().pages
}

/// What a page of these events must be: which, what it covers, and whether there is more.
fn model(head: u64, range: &EventRange, as_of: u64) -> (Vec<u64>, (u64, u64), bool) {
    let first = range.after_seq + 1;
    let mut last = if range.before_seq == 0 {
        head
    } else {
        head.min(range.before_seq - 1)
    };
    if as_of > 0 {
        last = last.min(as_of);
    }
    if first > last {
        return (Vec::new(), (0, 0), false);
    }
    let size = if range.page_size == 0 {
        50
    } else {
        range.page_size as u64
    };
    let more = last - first + 1 > size;
    if range.order() == Order::NewestFirst {
        let from = if more { last + 1 - size } else { first };
        ((from..=last).rev().collect(), (from, last), more)
    } else {
        let to = if more { first + size - 1 } else { last };
        ((first..=to).collect(), (first, to), more)
    }
}

#[tokio::test]
async fn any_page_of_a_thousand_messages_is_what_the_model_says() {
    const HEAD: u64 = 1_000;
    let mut server = TestServer::start().await;
    let (mut ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    fill(&ada, &conversation, HEAD / 2, "mine").await;
    fill(&grace, &conversation, HEAD / 2, "yours").await;
    let all = ada.history(&conversation, HEAD).await;
    assert!(all.iter().map(|event| event.seq).eq(1..=HEAD));
    let event = |seq: &u64| all[*seq as usize - 1].clone();

    // Half of it with what is in memory, half of it from the disk.
    for round in 0..400 {
        if round == 200 {
            server.restart().await;
            ada.reconnect();
        }
        let mut rng = rand::rng();
        // Often at the ends, where mistakes are.
        let mut seq = || match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(0..=4),
            2 => HEAD + 2 - rng.random_range(0..=25),
            _ => rng.random_range(0..=HEAD + 5),
        };
        let (after_seq, before_seq, as_of) = (seq(), seq(), seq());
        let range = EventRange {
            conversation_id: conversation.clone(),
            after_seq,
            before_seq,
            min_seq: 0,
            page_size: [0, 1, 2, 7, 50, 199, 200][rng.random_range(0..7)],
            order: rng.random_range(0..3),
        };
        let page = events(&ada, vec![range.clone()]).await.remove(0);
        let (seqs, covers, more) = model(HEAD, &range, 0);
        let wanted: Vec<Event> = seqs.iter().map(event).collect();
        assert_eq!(page.events, wanted, "{range:?}");
        assert_eq!((page.from_seq, page.to_seq), covers, "{range:?}");
        assert_eq!((page.more, page.last_seq), (more, HEAD), "{range:?}");

        let of_messages = MessageRange {
            conversation_id: conversation.clone(),
            after_message_index: after_seq,
            before_message_index: before_seq,
            as_of_seq: as_of,
            min_seq: 0,
            page_size: range.page_size,
            order: range.order,
        };
        let page = messages(&ada, vec![of_messages.clone()]).await.remove(0);
        let (seqs, covers, more) = model(HEAD, &range, as_of);
        let indexes: Vec<_> = page.messages.iter().map(|m| m.message_index).collect();
        assert_eq!(indexes, seqs, "{of_messages:?}");
        let covered = (page.from_message_index, page.to_message_index);
        assert_eq!((covered, page.more), (covers, more), "{of_messages:?}");
        let shown = if as_of == 0 { HEAD } else { as_of.min(HEAD) };
        assert_eq!(page.as_of_seq, shown, "{of_messages:?}");
        for shown in page.messages {
            let event = event(&shown.seq);
            assert_eq!(shown.sender_id, event.sender_id);
            assert_eq!(shown.time_unix_ms, event.time_unix_ms);
            let text = if shown.seq <= HEAD / 2 {
                "mine"
            } else {
                "yours"
            };
            assert_eq!(shown.text, text);
        }
    }
    assert!(all.is_sorted_by_key(|event| event.time_unix_ms));
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end_both_ways() {
    const HEAD: u64 = 333;
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    fill(&ada, &conversation, HEAD, "x").await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut range = EventRange {
            conversation_id: conversation.clone(),
            min_seq: HEAD,
            page_size: 100,
            order: order.into(),
            ..EventRange::default()
        };
        let mut seqs = Vec::new();
        loop {
            let page = events(&grace, vec![range.clone()]).await.remove(0);
            seqs.extend(page.events.iter().map(|event| event.seq));
            if !page.more {
                break;
            }
            match order {
                Order::NewestFirst => range.before_seq = page.from_seq,
                _ => range.after_seq = page.to_seq,
            }
        }
        if order == Order::NewestFirst {
            seqs.reverse();
        }
        assert!(seqs.into_iter().eq(1..=HEAD));
    }
}

#[tokio::test]
async fn who_holds_an_ack_reads_what_it_acknowledges() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let mut session = ada.session().await;
    for n in 1..=200 {
        let id = Uuid::now_v7();
        let ack = session.send_as(&conversation, id, &n.to_string()).await;
        let range = EventRange {
            conversation_id: conversation.clone(),
            after_seq: ack.seq - 1,
            min_seq: ack.seq,
            ..EventRange::default()
        };
        let page = events(&grace, vec![range]).await.remove(0);
        assert_eq!((page.events.len(), page.last_seq), (1, n));
        let newest = MessageRange {
            conversation_id: conversation.clone(),
            min_seq: ack.seq,
            page_size: 1,
            order: Order::NewestFirst.into(),
            ..MessageRange::default()
        };
        let page = messages(&grace, vec![newest]).await.remove(0);
        assert_eq!(page.messages[0].message_id, id.to_string());
        assert_eq!(page.messages[0].message_index, ack.message_index);
        assert_eq!(
            send_status(&ada, &conversation, id).await,
            Some(SendStatus::Accepted(Accepted {
                seq: ack.seq,
                message_index: ack.message_index,
                time_unix_ms: ack.time_unix_ms,
            }))
        );
    }
}

async fn send_status(device: &Device, conversation: &str, id: Uuid) -> Option<SendStatus> {
    let request = GetSendStatusRequest {
        conversation_id: conversation.to_owned(),
        message_id: id.to_string(),
    };
    let answer = device.messaging().get_send_status(request).await;
    answer.unwrap().into_inner().status
}

#[tokio::test]
async fn the_status_of_a_send_is_exact_and_the_senders_own() {
    let mut server = TestServer::start().await;
    let (mut ada, mut grace) = (server.user("ada").await, server.user("grace").await);
    let conversation = ada.with(&grace);
    let id = Uuid::now_v7();
    let not = |seq| Some(SendStatus::NotAcceptedAsOfSeq(seq));
    assert_eq!(send_status(&ada, &conversation, id).await, not(0));
    for _ in 0..30 {
        grace
            .send(&conversation, Uuid::now_v7(), "x")
            .await
            .unwrap();
    }
    assert_eq!(send_status(&ada, &conversation, id).await, not(30));
    let sent = ada.send(&conversation, id, "mine").await.unwrap();
    let accepted = Some(SendStatus::Accepted(Accepted {
        seq: 31,
        message_index: 31,
        time_unix_ms: sent.time_unix_ms,
    }));
    assert_eq!(send_status(&ada, &conversation, id).await, accepted);
    // The same name, but not by this sender.
    assert_eq!(send_status(&grace, &conversation, id).await, not(31));
    server.restart().await;
    ada.reconnect();
    grace.reconnect();
    assert_eq!(send_status(&ada, &conversation, id).await, accepted);
    assert_eq!(send_status(&grace, &conversation, id).await, not(31));
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_says_where_to_go_on() {
    const EACH: u64 = 200;
    const CONVERSATIONS: usize = 5;
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let text = "\u{10348}".repeat(700);
    let mut wanted = Vec::new();
    for n in 0..CONVERSATIONS {
        let peer = server.user(&format!("peer{n}")).await;
        let conversation = ada.with(&peer);
        fill(&ada, &conversation, EACH, &text).await;
        wanted.push((conversation, 0));
    }
    let mut answers = 0;
    while !wanted.is_empty() {
        let ranges = wanted.iter().map(|(id, after)| EventRange {
            conversation_id: String::clone(id),
            after_seq: *after,
            min_seq: EACH,
            page_size: 200,
            ..EventRange::default()
        });
        let request = ListEventsRequest {
            ranges: ranges.collect(),
        };
        let answer = ada
            .messaging()
            .list_events(request)
            .await
            .unwrap()
            .into_inner();
        answers += 1;
        // About 2 MiB: one event more, and the frames around.
        assert!(answer.encoded_len() < 2_200_000, "{}", answer.encoded_len());
        assert_eq!(answer.pages.len(), wanted.len(), "a page for each range");
        let before: u64 = wanted.iter().map(|(_, after)| after).sum();
        for (page, (id, after)) in answer.pages.iter().zip(&mut wanted) {
            assert_eq!(&page.conversation_id, id);
            let seqs = page.events.iter().map(|event| event.seq);
            assert!(seqs.eq(*after + 1..=*after + page.events.len() as u64));
            *after += page.events.len() as u64;
            assert_eq!(page.more, *after < EACH, "{} of {EACH}", *after);
        }
        let now: u64 = wanted.iter().map(|(_, after)| after).sum();
        assert!(now > before, "an answer without progress");
        wanted.retain(|(_, after)| *after < EACH);
    }
    assert!(answers > 1, "the limit was not met");
}

#[tokio::test]
async fn one_call_reads_many_conversations_each_in_its_own_way() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (mut ranges, mut of_messages, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..20_u64 {
        let peer = server.user(&format!("peer{n}")).await;
        let conversation = ada.with(&peer);
        fill(&peer, &conversation, n, "x").await;
        let order = if n % 2 == 0 {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let mut range = EventRange {
            conversation_id: conversation.clone(),
            after_seq: n / 4,
            page_size: 10,
            order: order.into(),
            ..EventRange::default()
        };
        of_messages.push(MessageRange {
            conversation_id: conversation,
            after_message_index: n / 4,
            page_size: 10,
            order: order.into(),
            min_seq: n,
            ..MessageRange::default()
        });
        wanted.push(model(n, &range, 0));
        range.min_seq = n;
        ranges.push(range);
    }
    let pages = events(&ada, ranges).await;
    let of_messages = messages(&ada, of_messages).await;
    assert_eq!((pages.len(), of_messages.len()), (20, 20));
    for ((page, shown), (seqs, covers, more)) in pages.iter().zip(&of_messages).zip(wanted) {
        let found = page.events.iter().map(|event| event.seq);
        assert!(found.eq(seqs.iter().copied()));
        assert_eq!(((page.from_seq, page.to_seq), page.more), (covers, more));
        let found = shown.messages.iter().map(|message| message.message_index);
        assert!(found.eq(seqs.iter().copied()));
        assert_eq!(shown.more, more);
    }
}
