//! Single cases, beside the model.

use super::*;
use crate::model::DeferredHead;

#[test]
fn a_page_that_covers_gone_events_ends_the_asking() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 100, false);
    let mut out = Vec::new();
    inbox.update(0, 1, vec![row(0, 1, 9)], now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    let page = EventPage {
        conversation_id: "0".to_owned(),
        from_seq: 1,
        to_seq: 9,
        last_seq: 9,
        ..EventPage::default()
    };
    inbox.page(&fetch, page, now, &mut out);
    assert!(out.contains(&Output::Version(1)));
    assert!(inbox.take_fetch(now + 10 * RETRY_WAIT.1, 10).is_empty());
}

#[test]
fn what_waits_for_earlier_events_is_bounded() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 100, false);
    let mut out = Vec::new();
    for seq in (2..10_000).rev() {
        for conversation in 0..40 {
            inbox.event(event(conversation, seq), now, &mut out);
        }
    }
    assert!(inbox.early <= EARLY_MAX);
    assert!(out.is_empty());
}

#[test]
fn places_are_forgotten_above_the_limit_but_none_that_lacks_something() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 10, false);
    let mut out = Vec::new();
    inbox.event(event(0, 2), now, &mut out);
    for conversation in 1..1_000 {
        // Told by myself: nothing to acknowledge.
        inbox.event(event(conversation, 1), now, &mut out);
        while inbox.take_undelivered().is_some() {}
    }
    assert!(inbox.places.len() <= 10);
    assert!(inbox.knows("0"));
}

#[test]
fn an_acknowledgement_is_made_once_and_again_if_it_got_lost() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 10, false);
    let mut out = Vec::new();
    inbox.connected(0, now);
    inbox.event(event(0, 1), now, &mut out);
    inbox.event(event(0, 2), now, &mut out);
    assert_eq!(inbox.take_undelivered().unwrap().1.seq, 2);
    let mut row = row(0, 1, 2);
    row.own_marks = Some(MemberMarks {
        user_id: ME.to_owned(),
        ..MemberMarks::default()
    });
    inbox.update(0, 1, vec![row.clone()], now, &mut out);
    assert_eq!(inbox.take_undelivered(), None);
    inbox.connected(2, now);
    row.version = 2;
    inbox.update(1, 2, vec![row], now, &mut out);
    assert_eq!(inbox.take_undelivered().unwrap().1.seq, 2);
}

#[test]
fn marks_only_grow() {
    let marks = |delivered, read| MemberMarks {
        user_id: "peer".to_owned(),
        delivered: Some(Watermark {
            seq: delivered,
            message_index: delivered,
        }),
        read: Some(Watermark {
            seq: read,
            message_index: read,
        }),
    };
    let mut inbox = Inbox::new(ME, Some(0), [], 10, false);
    let mut out = Vec::new();
    inbox.event(event(0, 1), Instant::now(), &mut out);
    out.clear();
    for (delivered, read) in [(5, 2), (4, 3), (5, 3), (1, 1)] {
        inbox.marks("0".to_owned(), vec![marks(delivered, read)], &mut out);
    }
    let expected: Vec<_> = [(5, 2), (5, 3)]
        .map(|(d, r)| Output::Marks("0".to_owned(), vec![marks(d, r)]))
        .into();
    assert_eq!(out, expected);
}

#[test]
fn marks_that_come_before_their_row_do_not_make_it_go_back() {
    let marks = |seq| MemberMarks {
        user_id: "peer".to_owned(),
        delivered: Some(Watermark {
            seq,
            message_index: seq,
        }),
        read: None,
    };
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 10, false);
    inbox.connected(2, now);
    let mut out = Vec::new();
    // Pushed while what had changed was still being read.
    inbox.marks("0".to_owned(), vec![marks(2)], &mut out);
    for (version, seq) in [(1, 1), (2, 2)] {
        let mut row = row(0, version, 2);
        row.peer_marks = Some(marks(seq));
        inbox.update(version - 1, version, vec![row], now, &mut out);
    }
    let told = out.iter().filter_map(|output| match output {
        Output::Marks(_, members) => members[0].delivered.map(|mark| mark.seq),
        Output::Row(row) => row.peer_marks.clone()?.delivered.map(|mark| mark.seq),
        _ => None,
    });
    let told: Vec<u64> = told.collect();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&2));
}

#[test]
fn nothing_is_asked_for_after_the_user_has_left_until_he_is_heard_to_be_back() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 100, false);
    let mut out = Vec::new();
    inbox.connected(0, now);
    let page = |to_seq, last_seq, more| EventPage {
        conversation_id: "2".to_owned(),
        from_seq: 1,
        to_seq,
        events: vec![change(to_seq)],
        last_seq,
        more,
    };
    inbox.update(0, 1, vec![row(GROUP, 1, 4)], now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    let left = Conversation {
        left: true,
        ..row(GROUP, 2, 4)
    };
    inbox.update(1, 2, vec![left], now, &mut out);
    // Of the conversation there is more, but not for him.
    inbox.page(&fetch, page(4, 90, true), now, &mut out);
    assert!(out.contains(&Output::Version(2)));
    assert!(inbox.take_fetch(now + 10 * RETRY_WAIT.1, 10).is_empty());
    assert_eq!(inbox.wakes_at(), None);
    // He joins again: what was hidden is covered by a page.
    inbox.event(change(92), now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    assert_eq!((fetch.after_seq, fetch.min_seq), (4, 92));
    inbox.page(&fetch, page(92, 92, false), now, &mut out);
    assert_eq!(inbox.known("2").map(|known| known.seq), Some(92));
}

#[test]
fn a_row_of_leaving_that_comes_after_the_event_of_joining_again_ends_nothing() {
    let now = Instant::now();
    let mut inbox = Inbox::new(ME, Some(0), [], 100, false);
    let mut out = Vec::new();
    inbox.connected(0, now);
    inbox.event(change(8), now, &mut out);
    let left = Conversation {
        left: true,
        ..row(GROUP, 1, 4)
    };
    inbox.update(0, 1, vec![left], now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    assert_eq!(fetch.min_seq, 8);
}

const HUGE: &str = "0";

fn huge(version: u64, last_seq: u64, read: u64) -> Conversation {
    Conversation {
        deferred: true,
        own_marks: Some(MemberMarks {
            user_id: ME.to_owned(),
            delivered: None,
            read: Some(Watermark {
                seq: read,
                message_index: read,
            }),
        }),
        unread_count: last_seq.saturating_sub(read),
        ..row(0, version, last_seq)
    }
}

fn head(last_seq: u64) -> Vec<DeferredHead> {
    vec![DeferredHead {
        conversation_id: HUGE.to_owned(),
        last_seq,
    }]
}

fn others(first: u64, last: u64) -> EventPage {
    EventPage {
        conversation_id: HUGE.to_owned(),
        from_seq: first,
        to_seq: last,
        last_seq: last,
        events: (first..=last)
            .map(|seq| RawEvent {
                sender_id: "peer".to_owned(),
                ..event(0, seq)
            })
            .collect(),
        more: false,
    }
}

/// What the app was told of the row last.
fn told(out: &[Output]) -> Option<(u64, u64)> {
    out.iter().rev().find_map(|output| match output {
        Output::Row(row) => Some((row.last_seq, row.unread_count)),
        _ => None,
    })
}

/// A device that has listed the huge group, where it ends at 10 and is read up to 8.
fn listed(now: Instant, out: &mut Vec<Output>) -> Inbox {
    let mut inbox = Inbox::new(ME, None, [], 100, false);
    inbox.connected(5, now);
    let resume = inbox.take_resume(now).unwrap();
    assert!(inbox.changes(resume, 5, vec![huge(3, 10, 8)], false, now, out));
    assert_eq!(told(out), Some((10, 2)));
    assert!(inbox.take_fetch(now + GRACE, 10).is_empty());
    inbox
}

#[test]
fn a_heartbeat_that_says_where_a_huge_group_ends_makes_the_device_read_what_it_lacks() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut inbox = listed(now, &mut out);
    inbox.heartbeat(5, now);
    inbox.deferred_heads(head(10), now, &mut out);
    assert_eq!(inbox.wakes_at(), None, "nothing is missing");
    inbox.deferred_heads(head(12), now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    assert_eq!((fetch.after_seq, fetch.min_seq), (10, 12));
    out.clear();
    inbox.page(&fetch, others(11, 12), now, &mut out);
    let events = out
        .iter()
        .filter(|output| matches!(output, Output::Event(_)));
    assert_eq!(events.count(), 2);
    assert_eq!(told(&out), Some((12, 4)), "the row goes along");
    assert!(inbox.take_resume(now + 10 * RETRY_WAIT.1).is_none());
}

#[test]
fn a_row_of_a_huge_group_that_is_pushed_lowers_nothing_but_what_is_unread() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut inbox = listed(now, &mut out);
    let mut push = others(11, 11).events.remove(0);
    push.message_index = 11;
    inbox.event(push, now, &mut out);
    assert_eq!(told(&out), Some((11, 3)));
    // As old as its last record, but for the marks: another device has read up to 10.
    inbox.update(5, 6, vec![huge(6, 4, 10)], now, &mut out);
    assert_eq!(told(&out), Some((11, 1)));
    assert!(out.contains(&Output::Version(6)));
    let preview = out.iter().rev().find_map(|output| match output {
        Output::Row(row) => row.preview.clone(),
        _ => None,
    });
    assert_eq!(preview.map(|preview| preview.seq), Some(11));
    // Who sends has read.
    let own = RawEvent {
        sender_id: ME.to_owned(),
        ..event(0, 12)
    };
    inbox.event(own, now, &mut out);
    assert_eq!(told(&out), Some((12, 0)));
}

#[test]
fn marks_of_the_own_user_are_counted_in_the_row_of_a_huge_group() {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut inbox = listed(now, &mut out);
    let mark = |user: &str, seq| MemberMarks {
        user_id: user.to_owned(),
        delivered: None,
        read: Some(Watermark {
            seq,
            message_index: seq,
        }),
    };
    out.clear();
    inbox.marks(HUGE.to_owned(), vec![mark("peer", 10)], &mut out);
    assert_eq!(told(&out), None);
    inbox.marks(HUGE.to_owned(), vec![mark(ME, 10)], &mut out);
    assert_eq!(told(&out), Some((10, 0)));
}

#[test]
fn a_huge_group_without_a_row_makes_the_device_ask_what_changed() {
    let now = Instant::now();
    let mut out = Vec::new();
    // From a cache: at the version that the user is at, with less than there is.
    let known = Known::from(&(HUGE.to_owned(), 7));
    let mut inbox = Inbox::new(ME, Some(5), [known], 100, true);
    inbox.connected(5, now);
    assert!(inbox.take_resume(now).is_none());
    inbox.deferred_heads(head(9), now, &mut out);
    let resume = inbox.take_resume(now).unwrap();
    assert_eq!(resume.after_version, 5);
    assert!(inbox.changes(resume, 5, vec![huge(3, 9, 6)], false, now, &mut out));
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    assert_eq!((fetch.after_seq, fetch.min_seq), (7, 9));
    inbox.page(&fetch, others(8, 9), now, &mut out);
    assert_eq!(told(&out), Some((9, 3)));
    inbox.deferred_heads(head(9), now, &mut out);
    assert!(inbox.take_resume(now + 10 * RETRY_WAIT.1).is_none(), "once");
}

#[test]
fn a_huge_group_begins_where_the_list_says_and_not_where_a_pushed_row_does() {
    let now = Instant::now();
    let mut out = Vec::new();
    let mut inbox = Inbox::new(ME, None, [], 100, false);
    inbox.connected(6, now);
    let resume = inbox.take_resume(now).unwrap();
    inbox.update(5, 6, vec![huge(6, 4, 4)], now, &mut out);
    assert!(inbox.changes(resume, 6, vec![huge(6, 10, 4)], false, now, &mut out));
    assert!(inbox.take_fetch(now + GRACE, 10).is_empty());
    assert_eq!(told(&out), Some((10, 6)));
    // Who has left hears of it no more.
    let left = Conversation {
        deferred: false,
        left: true,
        ..huge(7, 11, 4)
    };
    inbox.update(6, 7, vec![left], now, &mut out);
    let fetch = inbox.take_fetch(now + GRACE, 10).remove(0);
    inbox.page(&fetch, others(11, 11), now, &mut out);
    inbox.deferred_heads(head(20), now, &mut out);
    assert!(inbox.take_fetch(now + 10 * RETRY_WAIT.1, 10).is_empty());
}
