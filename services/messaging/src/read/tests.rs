//! Pages of a history of which the reader may see parts.

use bytes::Bytes;
use proptest::prelude::*;
use runtime::ids::GroupId;

use super::*;

const LAST: u64 = 40;

fn event(seq: u64) -> Arc<Event> {
    Arc::new(Event {
        conversation: ConversationId::group(GroupId::from_bytes([7; 16])),
        seq,
        message_index: seq,
        log_offset: seq,
        time_unix_ms: 0,
        kind: EventKind::Message,
        sender: UserId::from_bytes([1; 16]),
        message_id: MessageId::from_bytes([1; 16]),
        body: Bytes::new(),
    })
}

fn known(visible: Vec<Window>) -> Known {
    Known {
        in_memory: true,
        head_seq: LAST,
        tail: (1..=LAST).map(event).collect(),
        visible,
    }
}

/// The page that [`Reader::page`] makes if the memory has everything.
fn page(known: &Known, request: &PageRequest) -> Page {
    let head_seq = known.last_seq().expect("was a member");
    let (first, last) = (request.after + 1, head_seq.min(request.before - 1));
    let newest_first = request.newest_first;
    let Some(part) = visible_part(&known.visible, first, last, newest_first) else {
        return Page {
            from: first,
            to: last,
            events: Vec::new(),
            head_seq,
            more: false,
        };
    };
    let events = from_memory(known, part.first, part.last, request).expect("the memory has it");
    let page = cover(events, part.first, part.last, head_seq, request);
    with_hidden(page, &part, first, last, newest_first)
}

fn windows() -> impl Strategy<Value = Vec<Window>> {
    let cuts = proptest::collection::btree_set(1..=LAST, 1..9);
    cuts.prop_map(|cuts| {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let window = |pair: &[u64]| Window {
            from_seq: pair[0],
            to_seq: pair.get(1).copied(),
        };
        cuts.chunks(2).map(window).collect()
    })
}

proptest! {
    #[test]
    fn paging_brings_what_a_reader_may_see_once_and_covers_all(
        visible in windows(),
        limit in 1_usize..7,
        newest_first: bool,
    ) {
        let may_see = |seq: &u64| visible.iter().any(|window| {
            window.from_seq <= *seq && *seq <= window.to_seq.unwrap_or(LAST)
        });
        let mut expected: Vec<u64> = (1..=LAST).filter(may_see).collect();
        let known = known(visible.clone());
        let mut request = PageRequest {
            conversation: ConversationId::group(GroupId::from_bytes([7; 16])),
            user: UserId::from_bytes([1; 16]),
            after: 0,
            before: LAST + 1,
            min_seq: 0,
            as_of_seq: 0,
            newest_first,
            limit,
            bytes_max: usize::MAX,
        };
        let (mut seen, mut covered) = (Vec::new(), 0);
        loop {
            let page = page(&known, &request);
            prop_assert!(page.from <= page.to);
            covered += page.to - page.from + 1;
            seen.extend(page.events.iter().map(|event| event.seq));
            if !page.more {
                break;
            }
            match newest_first {
                true => request.before = page.from,
                false => request.after = page.to,
            }
        }
        if newest_first {
            expected.reverse();
        }
        prop_assert_eq!(seen, expected);
        // Who has left learns of no end but that of the own time.
        prop_assert_eq!(covered, known.last_seq().expect("was a member"));
    }
}
