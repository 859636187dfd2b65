use std::time::Duration;

use messenger_client::Receipt;

use super::*;
use crate::replay::attached::Shown;

const CONVERSATION: &str = "d:a:b";

fn sent(number: u64, sender: &str) -> Sent {
    Sent {
        conversation_id: CONVERSATION.to_owned(),
        sender_id: sender.to_owned(),
        recipient_id: if sender == "a" { "b" } else { "a" }.to_owned(),
        message_id: format!("m{number}"),
        text: format!("text {number}"),
        // The first message has a picture.
        shown: (number == 1)
            .then(|| Shown {
                picture: 0,
                attachment: messenger_client::model::Attachment::default(),
            })
            .into_iter()
            .collect(),
        receipt: Some(Receipt {
            seq: number,
            message_index: number,
            time_unix_ms: 0,
            duplicate: false,
        }),
        ack_time: Duration::ZERO,
    }
}

fn held(sent: &Sent) -> Message {
    let receipt = sent.receipt.unwrap();
    Message {
        conversation_id: sent.conversation_id.clone(),
        seq: receipt.seq,
        message_index: receipt.message_index,
        time_unix_ms: 0,
        sender_id: sent.sender_id.clone(),
        message_id: sent.message_id.clone(),
        text: sent.text.clone(),
        mentioned_user_ids: Vec::new(),
        mentions_all: false,
        attachments: sent.shown.iter().map(|s| s.attachment.clone()).collect(),
    }
}

/// a says 1 and 3, b says 2; both have two sessions and one read-back, all complete.
fn all_well() -> (Vec<Sent>, Vec<View>) {
    let sent = vec![sent(1, "a"), sent(2, "b"), sent(3, "a")];
    let views = ["a", "b"]
        .into_iter()
        .flat_map(|user| {
            [Source::Live, Source::Live, Source::ReadBack].map(|source| (user, source))
        })
        .map(|(user, source)| View {
            user_id: user.to_owned(),
            source,
            reader: "a reader",
            messages: sent.iter().map(held).collect(),
        })
        .collect();
    (sent, views)
}

fn findings_after(spoil: impl Fn(&mut Vec<Sent>, &mut Vec<View>)) -> Findings {
    let (mut sent, mut views) = all_well();
    spoil(&mut sent, &mut views);
    compare(&sent, &views).findings
}

#[test]
fn a_good_run_has_no_findings() {
    let (sent, views) = all_well();
    let expected = Comparison {
        delivered: 3,
        read_back: 3,
        findings: Findings::default(),
        examples: Vec::new(),
    };
    assert_eq!(compare(&sent, &views), expected);
}

#[test]
fn each_kind_of_damage_is_found() {
    let none = Findings::default();
    let diverged = Findings {
        devices_diverged: 1,
        ..none
    };

    let lost_live = findings_after(|_, views| drop(views[1].messages.pop()));
    assert_eq!(
        lost_live,
        Findings {
            missing: 1,
            ..diverged
        }
    );

    let lost_in_store = findings_after(|_, views| drop(views[5].messages.pop()));
    // Measured by that read-back, both sessions are different.
    assert_eq!(
        lost_in_store,
        Findings {
            missing: 1,
            devices_diverged: 2,
            ..none
        }
    );

    let lost_everywhere = findings_after(|_, views| {
        views
            .iter_mut()
            .for_each(|view| drop(view.messages.remove(1)));
    });
    // The one after the gap is not after the one before it.
    assert_eq!(
        lost_everywhere,
        Findings {
            missing: 1,
            out_of_order: 1,
            ..none
        }
    );

    let told_twice = findings_after(|_, views| {
        let again = views[0].messages[0].clone();
        views[0].messages.push(again);
    });
    assert_eq!(
        told_twice,
        Findings {
            duplicated: 1,
            ..diverged
        }
    );

    let stored_twice = findings_after(|_, views| {
        for view in views {
            let mut again = view.messages[1].clone();
            (again.seq, again.message_index) = (4, 4);
            view.messages.push(again);
        }
    });
    assert_eq!(
        stored_twice,
        Findings {
            duplicated: 1,
            ..none
        }
    );

    let swapped = findings_after(|_, views| views[2].messages.swap(0, 1));
    assert_eq!(swapped.out_of_order, 3);

    let altered = findings_after(|_, views| views[4].messages[2].text.push('!'));
    assert_eq!(
        altered,
        Findings {
            altered: 1,
            ..diverged
        }
    );

    let without_its_picture = findings_after(|_, views| views[4].messages[0].attachments.clear());
    assert_eq!(without_its_picture, Findings { altered: 1, ..none });

    let not_where_the_ack_said = findings_after(|sent, _| {
        sent[1].receipt.as_mut().unwrap().seq = 3;
        sent[2].receipt.as_mut().unwrap().seq = 2;
    });
    assert_eq!(not_where_the_ack_said.out_of_order, 2);

    let overtaken = findings_after(|sent, _| sent.swap(0, 2));
    assert_eq!(
        overtaken,
        Findings {
            out_of_order: 1,
            ..none
        }
    );

    let one_place_twice = findings_after(|sent, _| {
        sent[2].receipt.as_mut().unwrap().seq = 2;
    });
    assert!(one_place_twice.duplicated > 0);

    let a_strangers = findings_after(|_, views| {
        views[3].messages.push(Message {
            message_id: "unknown".to_owned(),
            ..held(&sent(4, "a"))
        });
    });
    assert_eq!(
        a_strangers,
        Findings {
            unexpected: 1,
            ..diverged
        }
    );
}

#[test]
fn a_message_without_an_ack_is_not_missed_wherever_it_is() {
    let (mut sent, mut views) = all_well();
    sent[1].receipt = None;
    assert_eq!(compare(&sent, &views).findings, Findings::default());
    for view in &mut views {
        view.messages.pop();
        view.messages.pop();
    }
    sent.pop();
    let comparison = compare(&sent, &views);
    assert_eq!(
        (comparison.delivered, comparison.findings),
        (1, Findings::default())
    );
}

#[test]
fn unread_is_what_came_after_the_own_last_message() {
    let (mut sent, _) = all_well();
    assert_eq!(
        expected_unread(&sent, "a"),
        HashMap::from([(CONVERSATION, 0)])
    );
    assert_eq!(
        expected_unread(&sent, "b"),
        HashMap::from([(CONVERSATION, 1)])
    );
    sent.remove(1);
    assert_eq!(
        expected_unread(&sent, "b"),
        HashMap::from([(CONVERSATION, 3)])
    );
    assert_eq!(expected_unread(&sent, "c"), HashMap::new());
}
