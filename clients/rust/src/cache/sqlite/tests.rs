use super::{write::PRUNE_EVERY, *};

const USER_ID: &str = "me";

fn message(conversation_id: &str, message_index: u64) -> Message {
    Message {
        conversation_id: conversation_id.to_owned(),
        seq: message_index,
        message_index,
        time_unix_ms: 1_000 + i64::try_from(message_index).unwrap(),
        sender_id: "peer".to_owned(),
        message_id: format!("m{message_index}"),
        text: format!("text {message_index}"),
        mentioned_user_ids: Vec::new(),
        mentions_all: false,
        attachments: Vec::new(),
    }
}

fn mark(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}

fn head(conversation_id: &str, seq: u64) -> Head {
    Head {
        conversation_id: conversation_id.to_owned(),
        seq,
        last_event: mark(seq),
    }
}

fn unsent(conversation_id: &str, message_id: &str) -> Unsent {
    Unsent {
        conversation_id: conversation_id.to_owned(),
        message_id: message_id.to_owned(),
        draft: Draft::new("hello"),
    }
}

#[tokio::test]
async fn everything_is_there_after_opening_the_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = SqliteCache::open(&path).await.unwrap();
    assert_eq!(
        cache.load(USER_ID, 10).await.unwrap(),
        Stored::default(),
        "a new cache is empty"
    );
    let queued = vec![unsent("b", "1"), unsent("a", "2"), unsent("b", "3")];
    let batch = Batch {
        messages: vec![message("a", 1), message("a", 2)],
        heads: vec![head("a", 2), head("b", 0)],
        inbox_version: Some(7),
        queued,
        reads: vec![("a".to_owned(), mark(2)), ("b".to_owned(), mark(1))],
        ..Batch::default()
    };
    cache.apply(batch).await.unwrap();
    let batch = Batch {
        resolved: vec![("a".to_owned(), "2".to_owned())],
        reads: vec![("a".to_owned(), mark(1))],
        reads_confirmed: vec![("b".to_owned(), mark(1)), ("a".to_owned(), mark(1))],
        ..Batch::default()
    };
    cache.apply(batch).await.unwrap();
    drop(cache);

    let cache = SqliteCache::open(&path).await.unwrap();
    let mut stored = cache.load(USER_ID, 10).await.unwrap();
    stored.heads.sort_by_key(|head| head.seq);
    stored.last_message_ids.sort();
    let last_ids = [("a", "2"), ("b", "3")].map(|(c, m)| (c.to_owned(), m.to_owned()));
    let expected = Stored {
        inbox_version: Some(7),
        heads: vec![head("b", 0), head("a", 2)],
        last_message_ids: last_ids.into(),
        unsent: vec![unsent("b", "1"), unsent("b", "3")],
        reads: vec![("a".to_owned(), mark(2))],
    };
    assert_eq!(stored, expected);
    let page = cache.messages("a", 0, 10).await.unwrap();
    assert_eq!(page, [message("a", 2), message("a", 1)]);
    assert_eq!(cache.messages("a", 2, 10).await.unwrap(), [message("a", 1)]);
    let known = cache.heads(&["a".to_owned(), "x".to_owned()]).await;
    assert_eq!(known.unwrap(), [head("a", 2)]);
}

#[tokio::test]
async fn a_cache_is_of_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    cache.load(USER_ID, 10).await.unwrap();
    let error = cache.load("somebody else", 10).await.unwrap_err();
    assert!(matches!(error, Error::Storage(_)));
}

#[tokio::test]
async fn old_messages_go_so_that_the_file_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    let cache = cache.keep(100);
    for index in 1..=2 * PRUNE_EVERY {
        let batch = Batch {
            messages: vec![message("a", index)],
            ..Batch::default()
        };
        cache.apply(batch).await.unwrap();
    }
    let kept = cache.messages("a", 0, PAGE_MAX).await.unwrap();
    assert_eq!(kept.len(), 100);
    assert_eq!(kept[0].message_index, 2 * PRUNE_EVERY);
}

#[tokio::test]
async fn rows_are_listed_by_time_with_the_newest_marks_and_the_peer() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    let row = |id: &str, time_unix_ms| Conversation {
        conversation_id: id.to_owned(),
        preview: Some(crate::model::Preview {
            time_unix_ms,
            ..Default::default()
        }),
        peer_marks: Some(MemberMarks {
            user_id: "peer".to_owned(),
            ..MemberMarks::default()
        }),
        ..Conversation::default()
    };
    let mut listed = row("a", 5);
    listed.peer = Some(crate::model::ProfileSnippet::default());
    let read = MemberMarks {
        user_id: "peer".to_owned(),
        delivered: Some(mark(3)),
        read: Some(mark(2)),
    };
    let batch = Batch {
        conversations: vec![listed, row("b", 7), row("a", 9)],
        marks: vec![("a".to_owned(), read.clone())],
        ..Batch::default()
    };
    cache.apply(batch).await.unwrap();
    let rows = cache.conversations(10).await.unwrap();
    let ids: Vec<_> = rows.iter().map(|r| r.conversation_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(rows[0].peer_marks, Some(read));
    assert!(rows[0].peer.is_some());
}

#[tokio::test]
async fn a_file_from_before_groups_is_read_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut connection = Connection::open(&path).unwrap();
    let before = Migrations::new(vec![M::up(write::SCHEMA)]);
    before.to_latest(&mut connection).unwrap();
    connection
        .execute_batch(
            "INSERT INTO messages VALUES ('a', 1, 1, 1001, 'peer', 'm1', 'text 1');
             INSERT INTO unsent (conversation_id, message_id, text) VALUES ('a', '2', 'hello');",
        )
        .unwrap();
    drop(connection);
    let cache = SqliteCache::open(&path).await.unwrap();
    let stored = cache.load(USER_ID, 10).await.unwrap();
    assert_eq!(stored.unsent, [unsent("a", "2")]);
    assert_eq!(cache.messages("a", 0, 10).await.unwrap(), [message("a", 1)]);
    assert!(cache.group_changes("a", 0, 10).await.unwrap().is_empty());
}

fn change(version: u64, name: Option<&str>) -> GroupChange {
    GroupChange {
        conversation_id: "g:1".to_owned(),
        seq: 10 + version,
        message_index: 3,
        time_unix_ms: 5,
        actor_id: "peer".to_owned(),
        version,
        kind: crate::model::GroupChangeKind::Updated,
        members: Vec::new(),
        name: name.map(str::to_owned),
        description: None,
        picture: None,
        announcement: false,
        member_count: 4,
    }
}

#[tokio::test]
async fn the_name_of_a_group_goes_along_with_its_changes_and_old_changes_go() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    let cache = cache.keep(2);
    let row = |name: Option<&str>| Conversation {
        conversation_id: "g:1".to_owned(),
        group: name.map(|name| crate::model::GroupSnippet {
            group_id: "1".to_owned(),
            name: name.to_owned(),
            version: 2,
            ..Default::default()
        }),
        ..Conversation::default()
    };
    // A row that was asked for, changes that it has and has not, and a row that was pushed.
    let changes = [
        change(2, Some("old")),
        change(3, Some("new")),
        change(4, None),
    ];
    for batch in [
        Batch {
            conversations: vec![row(Some("asked"))],
            ..Batch::default()
        },
        Batch {
            group_changes: changes[..1].to_vec(),
            ..Batch::default()
        },
    ] {
        cache.apply(batch).await.unwrap();
    }
    let name = async || {
        let rows = cache.conversations(10).await.unwrap();
        rows[0].group.clone().unwrap()
    };
    assert_eq!(name().await.name, "asked");
    let batch = Batch {
        group_changes: changes[1..].to_vec(),
        conversations: vec![row(None)],
        ..Batch::default()
    };
    cache.apply(batch).await.unwrap();
    let snippet = name().await;
    assert_eq!((snippet.name.as_str(), snippet.version), ("new", 4));
    let kept = cache.group_changes("g:1", 0, 10).await.unwrap();
    assert_eq!(kept, [changes[2].clone(), changes[1].clone()]);
}

#[tokio::test]
async fn a_file_of_an_older_version_keeps_what_it_has_and_takes_attachments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    // As the version before attachments has left it.
    {
        let mut connection = Connection::open(&path).unwrap();
        let before = Migrations::new(vec![M::up(write::SCHEMA), M::up(write::GROUPS)]);
        before.to_latest(&mut connection).unwrap();
        connection
            .execute_batch(
                "INSERT INTO messages VALUES ('c', 1, 1, 1001, 'peer', 'm1', 'text 1', NULL);
                 INSERT INTO unsent VALUES (1, 'c', 'u1', 'old', NULL);",
            )
            .unwrap();
    }
    let attachment = |blob_id: &str| crate::model::Attachment {
        blob_id: blob_id.to_owned(),
        sha256: vec![1; 32],
        small: Some(crate::model::AttachmentThumbnail::default()),
        ..Default::default()
    };
    let mut with = message("c", 2);
    with.attachments = vec![attachment("one"), attachment("two")];
    let unsent = Unsent {
        conversation_id: "c".to_owned(),
        message_id: "u2".to_owned(),
        draft: Draft {
            attachments: ["first", "second"]
                .map(|receipt| crate::model::DraftAttachment {
                    receipt: receipt.to_owned(),
                    attachment: attachment(receipt),
                })
                .into(),
            ..Draft::default()
        },
    };
    let cache = SqliteCache::open(&path).await.unwrap();
    let batch = Batch {
        messages: vec![with.clone()],
        queued: vec![unsent.clone()],
        ..Batch::default()
    };
    cache.apply(batch).await.unwrap();
    let cache = SqliteCache::open(&path).await.unwrap();
    let kept = cache.messages("c", 0, 10).await.unwrap();
    assert_eq!(kept, [with, message("c", 1)]);
    let waiting = cache.load(USER_ID, 10).await.unwrap().unsent;
    assert_eq!(waiting[0].draft, Draft::new("old"));
    assert_eq!(waiting[1], unsent);
}
