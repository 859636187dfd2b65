//! Damages of what is seen after everything has come to rest, and of how sessions end.

use super::*;

pub(super) fn a_session_that_stays_behind(records: &mut Vec<Record>, _: usize) -> bool {
    let is_all = |record: &Record| match record {
        Record::Device { device, keeps, .. } => (*keeps == Keeps::NothingAll).then_some(*device),
        _ => None,
    };
    let all: HashSet<u16> = records.iter().filter_map(is_all).collect();
    let last = records
        .iter()
        .rposition(|record| matches!(record, Record::Got { device, .. } if all.contains(device)));
    let Some(last) = last else { return false };
    // Only of a run that is still open.
    let is_end =
        |record: &Record| matches!(record, Record::AppEnded { device, .. } if all.contains(device));
    if records[last..].iter().any(is_end) {
        return false;
    }
    if let Record::Got { contents, .. } = &mut records[last] {
        contents.pop();
    }
    true
}

pub(super) fn a_wrong_unread_count(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| {
        list.rows[0].unread += 1;
        list.unread_total += 1;
    })
    .is_some()
}

pub(super) fn a_wrong_unread_total(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| list.unread_total += 1).is_some()
}

pub(super) fn a_wrong_total_as_a_call(records: &mut Vec<Record>, nth: usize) -> bool {
    let total = pick(records, nth, |record| match record {
        Record::UnreadTotal {
            total,
            is_final: true,
            ..
        } => Some(total),
        _ => None,
    });
    total.map(|total| *total += 1).is_some()
}

pub(super) fn a_row_that_is_missing(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| {
        let row = list.rows.remove(0);
        list.unread_total -= row.unread;
    })
    .is_some()
}

pub(super) fn a_lost_read_mark(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, |record| {
        final_list(record).filter(|list| list.rows[0].read.0 > 0)
    });
    list.map(|list| {
        let row = &mut list.rows[0];
        list.unread_total += row.read.1;
        row.unread += row.read.1;
        row.read = Mark::default();
    })
    .is_some()
}

pub(super) fn a_wrong_row_in_a_cache(records: &mut Vec<Record>, nth: usize) -> bool {
    let rows = pick(records, nth, |record| match record {
        Record::CacheRows { rows, .. } if !rows.is_empty() => Some(rows),
        _ => None,
    });
    rows.map(|rows| rows[0].unread += 1).is_some()
}

pub(super) fn another_preview(records: &mut Vec<Record>, nth: usize) -> bool {
    let row = pick(records, nth, row);
    row.map(|row| row.preview = Some((row.last.0, Uuid::from_u128(1))))
        .is_some()
}

pub(super) fn a_row_that_went_back(records: &mut Vec<Record>, nth: usize) -> bool {
    // The last row of a device comes once more, as it was in the beginning.
    let row = pick(records, nth, |record| match record {
        Record::Row { row, .. } if row.version > 1 => Some(record.clone()),
        _ => None,
    });
    let Some(mut record) = row else { return false };
    if let Record::Row { row, .. } = &mut record {
        row.version = 0;
    }
    records.push(record);
    true
}

pub(super) fn a_mark_beyond_the_end(records: &mut Vec<Record>, nth: usize) -> bool {
    let mark = pick(records, nth, |record| match record {
        Record::Marks { read, .. } => Some(read),
        _ => None,
    });
    mark.map(|mark| *mark = Mark(mark.0 + 1_000, mark.1 + 1_000))
        .is_some()
}

pub(super) fn a_send_without_an_answer(records: &mut Vec<Record>, nth: usize) -> bool {
    let send = pick(records, nth, |record| match record {
        Record::Ack {
            send,
            way: Way::Session,
            ..
        } => Some(*send),
        _ => None,
    });
    let Some(unanswered) = send else { return false };
    records.retain(|record| !matches!(record, Record::Ack { send, .. } if *send == unanswered));
    true
}

pub(super) fn a_session_that_gave_up(records: &mut Vec<Record>, nth: usize) -> bool {
    let news = pick(records, nth, |record| match record {
        Record::Session { news, .. } => Some(news),
        _ => None,
    });
    news.map(|news| *news = News::Closed("DEVICE_REVOKED".to_owned()))
        .is_some()
}

pub(super) fn a_conversation_that_was_not_read(records: &mut Vec<Record>, nth: usize) -> bool {
    let views = records
        .iter()
        .enumerate()
        .filter_map(|(place, record)| matches!(record, Record::View { .. }).then_some(place));
    let views: Vec<usize> = views.collect();
    records.remove(views[nth % views.len()]);
    true
}

pub(super) fn a_process_that_died(records: &mut Vec<Record>, _: usize) -> bool {
    let what = "server ended with signal 6".to_owned();
    records.push(Record::Found { t: 0, what });
    true
}
