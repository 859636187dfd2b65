//! Reads beside the stream: what changed, the events that are missing, and new tokens.

use tokio::time::Instant;

use super::{
    Driver, Link,
    life::{TOKEN_AGAIN_AFTER, is_final},
};
use crate::{
    error::{Error, Result},
    inbox::{Fetch, Resume},
    model::{ChangesPage, ErrorReason, EventPage, EventRange, Order},
    stats::count,
};

/// Conversations in one read of events, as many as a page of changes has.
const RANGES_MAX: usize = 500;
/// Events in a page of one conversation.
const EVENTS_PAGE: i32 = 200;
/// Conversations in a page of changes.
const CHANGES_PAGE: i32 = 500;
/// Reads of events at a time. An answer has some 2 MiB at most.
const FETCHING_MAX: usize = 2;

/// A read that is done.
pub(super) enum Done {
    Events(Vec<Fetch>, Result<Vec<EventPage>>),
    Changes(Resume, Result<ChangesPage>),
    Token(Result<()>),
}

impl Driver {
    pub(super) fn reads_wake_at(&self) -> Option<Instant> {
        if !self.may_read() {
            return None;
        }
        // With all reads under way, one of them ends first.
        match self.fetching < FETCHING_MAX {
            true => self.inbox.wakes_at(),
            false => None,
        }
    }

    /// Reads bring events: none are begun before the app has room for them.
    fn may_read(&self) -> bool {
        matches!(self.link, Link::Up(_)) && !self.is_full() && self.closing.is_none()
    }

    /// Begins the reads that are due.
    pub(super) fn start_reads(&mut self, now: Instant) {
        if !self.may_read() {
            return;
        }
        if let Some(asked) = self.inbox.take_resume(now) {
            count(&self.counters.changes_calls);
            if asked.after_version == self.inbox.version() {
                count(&self.counters.resumes);
            }
            let client = self.client.clone();
            self.work.push(Box::pin(async move {
                let page = client
                    .list_changes(asked.after_version, CHANGES_PAGE, asked.min_version)
                    .await;
                Done::Changes(asked, page)
            }));
        }
        while self.fetching < FETCHING_MAX {
            let max = if self.fetch_alone > 0 { 1 } else { RANGES_MAX };
            let asked = self.inbox.take_fetch(now, max);
            if asked.is_empty() {
                break;
            }
            self.fetch_alone = self.fetch_alone.saturating_sub(1);
            self.fetching += 1;
            count(&self.counters.events_calls);
            let client = self.client.clone();
            self.work.push(Box::pin(async move {
                let ranges = asked.iter().map(range_of).collect();
                let pages = client.list_events(ranges).await;
                Done::Events(asked, pages)
            }));
        }
    }

    /// Gets a token in place of one that ends.
    pub(super) fn refresh_token(&mut self, stale: String) {
        if self.refreshing {
            return;
        }
        self.refreshing = true;
        let auth = self.client.inner.auth.clone();
        self.work.push(Box::pin(async move {
            Done::Token(auth.refresh(&stale).await.map(drop))
        }));
    }

    pub(super) async fn done(&mut self, done: Done) -> Result<()> {
        let now = Instant::now();
        match done {
            Done::Changes(asked, Ok(mut page)) => {
                page.conversations.append(&mut page.deferred);
                let rows = page.conversations.iter();
                let ids = rows.map(|row| row.conversation_id.clone()).collect();
                self.learn(ids).await?;
                let is_possible = self.inbox.changes(
                    asked,
                    page.version,
                    page.conversations,
                    page.more,
                    now,
                    &mut self.out,
                );
                if !is_possible {
                    tracing::warn!(version = page.version, "an impossible page of changes");
                    self.inbox.resume_failed(None, now);
                }
            }
            Done::Changes(_, Err(error)) => {
                tracing::debug!(%error, "reading changes failed");
                self.inbox.resume_failed(error.retry_after(), now);
            }
            Done::Events(asked, pages) => {
                self.fetching -= 1;
                self.fetched(asked, pages, now);
            }
            Done::Token(result) => {
                self.refreshing = false;
                match result {
                    Ok(()) => self.renew_token(now),
                    Err(error) => self.token_failed(error, now)?,
                }
            }
        }
        Ok(())
    }

    fn fetched(&mut self, asked: Vec<Fetch>, pages: Result<Vec<EventPage>>, now: Instant) {
        let pages = match pages {
            Ok(pages) => pages,
            Err(error) => return self.fetch_failed(asked, &error, now),
        };
        let progress = pages.iter().any(|page| page.to_seq > 0 || !page.more);
        let mut pages = pages.into_iter();
        for asked in asked {
            let page = pages
                .next()
                .filter(|page| progress && page.conversation_id == asked.conversation_id);
            match page {
                Some(page) => {
                    self.touched.insert(asked.conversation_id.clone());
                    self.inbox.page(&asked, page, now, &mut self.out);
                }
                None => self.inbox.fetch_failed(&asked, None, now),
            }
        }
    }

    fn fetch_failed(&mut self, asked: Vec<Fetch>, error: &Error, now: Instant) {
        tracing::debug!(%error, conversations = asked.len(), "reading events failed");
        let is_refused = matches!(
            error.reason(),
            ErrorReason::NotAMember | ErrorReason::ConversationNotFound
        );
        match asked.as_slice() {
            [alone] if is_refused => {
                self.touched.insert(alone.conversation_id.clone());
                self.inbox.fetch_refused(alone, now, &mut self.out);
            }
            many => {
                if is_refused {
                    self.fetch_alone = many.len();
                }
                for asked in many {
                    self.inbox.fetch_failed(asked, error.retry_after(), now);
                }
            }
        }
    }

    /// Without a new token the session goes on while the old one is good.
    fn token_failed(&mut self, error: Error, now: Instant) -> Result<()> {
        tracing::debug!(%error, "refreshing the token failed");
        if is_final(&error) {
            return Err(error);
        }
        if let Link::Up(connection) = &mut self.link {
            connection.token_again_at = now + TOKEN_AGAIN_AFTER;
        }
        Ok(())
    }
}

fn range_of(fetch: &Fetch) -> EventRange {
    EventRange {
        conversation_id: fetch.conversation_id.clone(),
        after_seq: fetch.after_seq,
        before_seq: 0,
        min_seq: fetch.min_seq,
        page_size: EVENTS_PAGE,
        order: Order::OldestFirst.into(),
    }
}
