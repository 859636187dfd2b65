use messenger_client::{
    GroupChange, Message,
    model::{ChangedMember, Preview},
};

use super::*;

const OWNER: &str = "owner";

fn fact(seq: u64, user_id: &str, what: What) -> Fact {
    Fact {
        seq,
        user_id: user_id.to_owned(),
        what,
    }
}

/// The first message has a picture.
fn attached(message_index: u64) -> Vec<Shown> {
    let shown = (message_index == 1).then(|| Shown {
        picture: 0,
        attachment: messenger_client::model::Attachment::default(),
    });
    shown.into_iter().collect()
}

fn said(seq: u64, message_index: u64, user_id: &str) -> Fact {
    let what = What::Said {
        message_id: format!("m{message_index}"),
        text: format!("text {message_index}"),
        shown: attached(message_index),
        message_index,
    };
    fact(seq, user_id, what)
}

fn added(seq: u64, user_id: &str) -> Fact {
    fact(seq, OWNER, What::Added(user_id.to_owned()))
}

/// ada is there until 7, grace from 5 on, and ada again from 9 on.
fn facts() -> Vec<Fact> {
    vec![
        fact(1, OWNER, What::Created),
        added(2, "ada"),
        said(3, 1, "ada"),
        said(4, 2, "ada"),
        added(5, "grace"),
        said(6, 3, "grace"),
        fact(7, "ada", What::Left),
        said(8, 4, "grace"),
        added(9, "ada"),
        said(10, 5, "grace"),
    ]
}

fn held(fact: &Fact, message_index: u64) -> Held {
    let change = |kind, user_id: &str, role| {
        Held::Change(GroupChange {
            conversation_id: "g:1".to_owned(),
            seq: fact.seq,
            message_index,
            time_unix_ms: 0,
            actor_id: fact.user_id.clone(),
            version: 1,
            kind,
            members: vec![ChangedMember {
                user_id: user_id.to_owned(),
                role,
            }],
            name: None,
            description: None,
            picture: None,
            announcement: false,
            member_count: 1,
        })
    };
    match &fact.what {
        What::Said {
            message_id,
            text,
            shown,
            message_index,
        } => Held::Message(Message {
            conversation_id: "g:1".to_owned(),
            seq: fact.seq,
            message_index: *message_index,
            time_unix_ms: 0,
            sender_id: fact.user_id.clone(),
            message_id: message_id.clone(),
            text: text.clone(),
            mentioned_user_ids: Vec::new(),
            mentions_all: false,
            attachments: shown.iter().map(|s| s.attachment.clone()).collect(),
        }),
        What::Added(user_id) => change(GroupChangeKind::Added, user_id, 1),
        What::Removed(user_id) => change(GroupChangeKind::Removed, user_id, 0),
        What::Left => change(GroupChangeKind::Left, &fact.user_id, 0),
        What::Created => change(GroupChangeKind::Created, &fact.user_id, 3),
        What::Described(_) => change(GroupChangeKind::Updated, OWNER, 3),
    }
}

/// Two devices of each user, complete.
fn all_well() -> (Truth, Vec<View>) {
    let truth = Truth::new("g:1", &facts());
    let views = [OWNER, "ada", "grace"].into_iter().flat_map(|user_id| {
        let due = truth.of_user(user_id);
        let events: Vec<_> = due.into_iter().map(|fact| held(fact, 0)).collect();
        ["a session", "a new device"].map(|reader| View {
            user_id: user_id.to_owned(),
            reader,
            events: events.clone(),
        })
    });
    let views = views.collect();
    (truth, views)
}

fn findings_after(spoil: impl Fn(&Truth, &mut Vec<View>)) -> Findings {
    let (truth, mut views) = all_well();
    spoil(&truth, &mut views);
    Comparison::of(&truth, &views).findings()
}

#[test]
fn a_user_is_to_hold_the_stretches_that_he_was_a_member_of() {
    let (truth, views) = all_well();
    let seqs = |user_id| -> Vec<u64> {
        let facts = truth.of_user(user_id);
        facts.into_iter().map(|fact| fact.seq).collect()
    };
    assert_eq!(seqs(OWNER), (1..=10).collect::<Vec<_>>());
    assert_eq!(seqs("ada"), [2, 3, 4, 5, 6, 7, 9, 10]);
    assert_eq!(seqs("grace"), [5, 6, 7, 8, 9, 10]);
    assert!(seqs("nobody").is_empty());
    let comparison = Comparison::of(&truth, &views);
    assert_eq!(comparison.findings(), Findings::default());
    assert!(comparison.examples.is_empty());
}

#[test]
fn each_kind_of_damage_is_found() {
    let none = Findings::default();
    let one_device = Findings {
        devices_diverged: 1,
        ..none
    };
    let (_, whole) = all_well();
    let owners = |seq: u64| {
        let event = whole[0].events.iter().find(|event| seq_of(event) == seq);
        event.unwrap().clone()
    };

    for lost in 0..whole[2].events.len() {
        let found = findings_after(|_, views| drop(views[3].events.remove(lost)));
        assert_eq!(
            found,
            Findings {
                missing: 1,
                ..one_device
            }
        );
    }
    let lost_everywhere = findings_after(|_, views| {
        views.iter_mut().for_each(|view| {
            view.events.retain(|event| seq_of(event) != 6);
        });
    });
    assert_eq!(lost_everywhere, Findings { missing: 1, ..none });

    let told_twice = findings_after(|_, views| {
        let again = views[1].events[3].clone();
        views[1].events.push(again);
    });
    assert_eq!(
        told_twice,
        Findings {
            duplicated: 1,
            ..one_device
        }
    );

    let swapped = findings_after(|_, views| views[5].events.swap(0, 1));
    assert_eq!(
        swapped,
        Findings {
            out_of_order: 1,
            ..one_device
        }
    );

    let elsewhere = findings_after(|_, views| {
        if let Held::Message(message) = &mut views[1].events[9] {
            message.seq = 11;
        }
    });
    assert_eq!(
        elsewhere,
        Findings {
            out_of_order: 1,
            ..one_device
        }
    );

    let altered = findings_after(|_, views| {
        if let Held::Message(message) = &mut views[1].events[2] {
            message.text.push('!');
        }
    });
    assert_eq!(
        altered,
        Findings {
            altered: 1,
            ..one_device
        }
    );

    let without_its_picture = findings_after(|_, views| {
        for held in &mut views[1].events {
            if let Held::Message(message) = held {
                message.attachments.clear();
            }
        }
    });
    assert_eq!(
        without_its_picture,
        Findings {
            altered: 1,
            ..one_device
        }
    );

    let another_change = findings_after(|_, views| {
        if let Held::Change(change) = &mut views[1].events[1] {
            change.members[0].user_id = "grace".to_owned();
        }
    });
    assert_eq!(
        another_change,
        Findings {
            altered: 1,
            ..one_device
        }
    );

    // After leaving, before joining, and a change as well as a message.
    for (view, seq, place) in [(3, 8, 6), (5, 4, 0), (5, 2, 0)] {
        let seen = findings_after(|_, views| views[view].events.insert(place, owners(seq)));
        assert_eq!(
            seen,
            Findings {
                foreign: 1,
                ..one_device
            }
        );
    }
    let by_a_stranger = findings_after(|_, views| {
        views.push(View {
            user_id: "nobody".to_owned(),
            reader: "a session",
            events: vec![owners(3)],
        });
    });
    assert_eq!(by_a_stranger, Findings { foreign: 1, ..none });

    let invented = findings_after(|_, views| {
        let mut event = owners(3);
        if let Held::Message(message) = &mut event {
            message.message_id = "never sent".to_owned();
        }
        views[1].events.push(event);
    });
    assert_eq!(
        invented,
        Findings {
            unexpected: 1,
            ..one_device
        }
    );
}

#[test]
fn acks_alone_show_gaps_places_given_twice_and_messages_overtaken() {
    let found = |spoil: fn(&mut Vec<Fact>)| {
        let mut facts = facts();
        spoil(&mut facts);
        Comparison::of(&Truth::new("g:1", &facts), &[]).findings()
    };
    assert_eq!(found(|_| {}), Findings::default());
    assert!(found(|facts| drop(facts.remove(5))).out_of_order > 0);
    assert!(found(|facts| facts[3].seq = 3).duplicated > 0);
    assert!(found(|facts| facts.swap(2, 3)).out_of_order > 0);
    let index_of_another = found(|facts| {
        if let What::Said { message_index, .. } = &mut facts[9].what {
            *message_index = 4;
        }
    });
    assert_eq!(index_of_another.out_of_order, 1);
}

#[test]
fn a_row_ends_where_the_user_left_and_counts_from_his_joining() {
    let mut facts = facts();
    let row = |facts: &[Fact], user_id| Truth::new("g:1", facts).row(user_id).unwrap();
    let text = |index| Some(format!("text {index}"));
    // Back again: what was said meanwhile is not unread, what came after is.
    let ada = row(&facts, "ada");
    assert_eq!((ada.last_seq, ada.last_message_index), (10, 5));
    assert_eq!((ada.unread_count, ada.left), (1, false));
    assert_eq!(ada.preview, (10, text(5)));
    assert_eq!(row(&facts, OWNER).unread_count, 5);
    assert_eq!(row(&facts, "grace").unread_count, 0);
    facts.pop();
    let ada = row(&facts, "ada");
    assert_eq!((ada.preview.clone(), ada.unread_count), ((9, None), 0));
    facts.pop();
    let ada = row(&facts, "ada");
    assert_eq!((ada.last_seq, ada.last_message_index), (7, 3));
    assert_eq!((ada.unread_count, ada.left), (1, true));
    assert_eq!(ada.preview, (6, text(3)));
    let listed = Conversation {
        last_seq: 7,
        last_message_index: 3,
        unread_count: 1,
        left: true,
        preview: Some(Preview {
            seq: 6,
            text: "text 3".to_owned(),
            ..Preview::default()
        }),
        ..Conversation::default()
    };
    assert!(ada.is(&listed));
    assert!(!ada.is(&Conversation {
        unread_count: 0,
        ..listed.clone()
    }));
    assert!(!ada.is(&Conversation {
        left: false,
        ..listed.clone()
    }));
    assert!(!ada.is(&Conversation {
        last_seq: 8,
        ..listed.clone()
    }));
    assert!(!ada.is(&Conversation {
        preview: None,
        ..listed
    }));
    assert_eq!(Truth::new("g:1", &facts).row("nobody"), None);
}
