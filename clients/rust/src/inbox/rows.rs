//! Rows of the conversation list: they say how far conversations are, and where they begin.

use tokio::time::Instant;

use super::{Inbox, Output, Place, Unknown};
use crate::model::{Conversation, Watermark};

impl Inbox {
    /// Takes rows. Gives those whose events are not held, which are read from `fetch_at` on.
    pub(super) fn rows(
        &mut self,
        rows: Vec<Conversation>,
        fetch_at: Instant,
        out: &mut Vec<Output>,
    ) -> Vec<(String, u64)> {
        let mut needed = Vec::new();
        for row in rows {
            let (id, last_seq) = (row.conversation_id.clone(), row.last_seq);
            self.row(row, fetch_at, out);
            if self
                .places
                .get(&id)
                .is_some_and(|place| place.seq < last_seq)
            {
                needed.push((id, last_seq));
            }
        }
        needed
    }

    fn row(&mut self, mut row: Conversation, fetch_at: Instant, out: &mut Vec<Output>) {
        let id = row.conversation_id.clone();
        let touched = self.tick();
        let unknown = self.unknown;
        let last = Watermark {
            seq: row.last_seq,
            message_index: row.last_message_index,
        };
        let is_new = !self.places.contains_key(&id);
        let place = self
            .places
            .entry(id.clone())
            .or_insert_with(|| match unknown {
                Unknown::AtFirst => Place::listed(0, Watermark::default(), touched),
                Unknown::Listing | Unknown::AtNext => Place::listed(last.seq, last, touched),
            });
        place.touched = touched;
        if place.undecided {
            // What was heard before the row came is told; what is older is history.
            place.decide(last);
        }
        let is_news = self.keep_deferred(&mut row);
        let Some(place) = self.places.get_mut(&id) else {
            return;
        };
        if row.version > place.row_version || is_new || is_news {
            place.row_version = row.version;
            place.leave_or_stay(row.left, row.last_seq);
            let own_mark = row.own_marks.as_ref();
            if own_mark.is_some_and(|own| place.lacks_delivery(own, self.session)) {
                self.undelivered.insert(id.clone());
            }
            let members = [&row.own_marks, &row.peer_marks].into_iter().flatten();
            let grown = place.marks.merge(members.cloned().collect());
            out.push(Output::Row(Box::new(row)));
            if !is_new && !grown.is_empty() {
                out.push(Output::Marks(id.clone(), grown));
            }
        }
        if let Some(place) = self.places.get_mut(&id) {
            place.aim(last.seq);
        }
        self.advance(&id, 0, fetch_at, out);
    }

    /// All rows are here: what is unknown now is new.
    pub(super) fn listed(&mut self, version: u64, now: Instant, out: &mut Vec<Output>) {
        self.unknown = Unknown::AtFirst;
        self.versions.listed(version, now);
        out.push(Output::Version(version));
        let undecided: Vec<String> = self
            .places
            .iter()
            .filter(|(_, place)| place.undecided)
            .map(|(id, _)| id.clone())
            .collect();
        for id in undecided {
            if let Some(place) = self.places.get_mut(&id) {
                place.undecided = false;
            }
            self.advance(&id, 0, now, out);
        }
        self.settle(out);
    }
}
