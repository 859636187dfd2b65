//! The marks of this user that the server is to know: what is read, and what is delivered.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    model::Watermark,
};

/// Conversations with read marks that the server has not confirmed.
const READS_MAX: usize = 10_000;
/// Acknowledgements that are remembered in case they got lost.
const TOLD_MAX: usize = 10_000;

#[derive(Debug)]
struct Read {
    up_to: Watermark,
    /// The request it was sent with in this session.
    asked: Option<u64>,
}

/// Read marks that the server has not confirmed.
#[derive(Debug)]
pub(super) struct Marks {
    reads: HashMap<String, Read>,
    /// Those that are not sent in this session.
    unsent: VecDeque<String>,
}

impl Marks {
    pub(super) fn new(stored: Vec<(String, Watermark)>) -> Self {
        let mut marks = Self {
            reads: HashMap::new(),
            unsent: VecDeque::new(),
        };
        for (conversation_id, up_to) in stored {
            // What a cache holds beyond the bound is not worth an error.
            let _ = marks.read(&conversation_id, up_to);
        }
        marks
    }

    /// The user has read up to here. `false` if that is known.
    pub(super) fn read(&mut self, conversation_id: &str, up_to: Watermark) -> Result<bool> {
        let is_full = self.reads.len() >= READS_MAX;
        match self.reads.get_mut(conversation_id) {
            Some(read) if read.up_to.seq >= up_to.seq => return Ok(false),
            Some(read) => {
                read.up_to = up_to;
                if read.asked.take().is_some() {
                    self.unsent.push_back(conversation_id.to_owned());
                }
            }
            None if is_full => return Err(Error::QueueFull),
            None => {
                let read = Read { up_to, asked: None };
                self.reads.insert(conversation_id.to_owned(), read);
                self.unsent.push_back(conversation_id.to_owned());
            }
        }
        Ok(true)
    }

    /// A new session: all are sent again.
    pub(super) fn connected(&mut self) {
        for (conversation_id, read) in &mut self.reads {
            if read.asked.take().is_some() {
                self.unsent.push_back(conversation_id.clone());
            }
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next one to be sent, with this request id.
    pub(super) fn take_unsent(&mut self, request_id: u64) -> Option<(String, Watermark)> {
        loop {
            let conversation_id = self.unsent.pop_front()?;
            if let Some(read) = self.reads.get_mut(&conversation_id) {
                read.asked = Some(request_id);
                return Some((conversation_id, read.up_to));
            }
        }
    }

    /// The server knows the mark up to here. `true` if nothing is left to be told.
    pub(super) fn confirmed(&mut self, conversation_id: &str, up_to: Watermark) -> bool {
        let read = self.reads.get(conversation_id);
        let done = read.is_some_and(|read| read.up_to.seq <= up_to.seq);
        if done {
            self.reads.remove(conversation_id);
        }
        done
    }

    /// The server refused a request. Gives the mark, if it was one, which is forgotten if `for_good`.
    pub(super) fn refused(
        &mut self,
        request_id: u64,
        for_good: bool,
    ) -> Option<(String, Watermark)> {
        let (conversation_id, read) = self
            .reads
            .iter_mut()
            .find(|(_, read)| read.asked == Some(request_id))?;
        let conversation_id = conversation_id.clone();
        let up_to = read.up_to;
        read.asked = None;
        if for_good {
            self.reads.remove(&conversation_id);
        } else {
            self.unsent.push_back(conversation_id.clone());
        }
        Some((conversation_id, up_to))
    }
}

/// The acknowledgements of delivery that were sent lately: when, in which request, for what.
#[derive(Debug, Default)]
pub(super) struct Told {
    recent: VecDeque<(Instant, u64, String)>,
}

impl Told {
    pub(super) fn add(&mut self, now: Instant, request_id: u64, conversation_id: String) {
        if self.recent.len() >= TOLD_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((now, request_id, conversation_id));
    }

    /// Forgets what is older; the connection was alive long after it.
    pub(super) fn settle(&mut self, now: Instant, doubt: Duration) {
        while self
            .recent
            .front()
            .is_some_and(|(at, ..)| *at + doubt < now)
        {
            self.recent.pop_front();
        }
    }

    /// Those that the server may not have read when the connection broke.
    pub(super) fn in_doubt(&mut self, now: Instant, doubt: Duration) -> Vec<String> {
        self.settle(now, doubt);
        self.recent.drain(..).map(|(.., id)| id).collect()
    }

    /// The conversation that a request was about.
    pub(super) fn take(&mut self, request_id: u64) -> Option<String> {
        let at = self
            .recent
            .iter()
            .position(|(_, id, _)| *id == request_id)?;
        self.recent
            .remove(at)
            .map(|(.., conversation_id)| conversation_id)
    }
}
