//! The connection: opened, kept alive, given up, opened again, and ended.

use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::messaging::v1::{RenewToken, Welcome, client_frame::Frame};
use tokio::time::Instant;

use super::{Driver, Input, connection};
use crate::{
    connection::Connection,
    error::{Error, ErrorKind, Result},
    model::ErrorReason,
    session::{Event, SessionState},
    stats::count,
};

/// A connection that lasted so long was a good one: waits begin anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long answers to sends are waited for before going to another server.
const LEAVE_GRACE: Duration = Duration::from_secs(2);
/// Times that another session of the same device may take over; then they would take turns for ever.
const REPLACED_MAX: u32 = 1;

/// How long after a failure to get or to tell a new token it is tried again.
pub(super) const TOKEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

type Opening = BoxFuture<'static, Result<(Box<Connection>, Welcome)>>;

pub(super) enum Link {
    /// The next try begins then.
    Down(Instant),
    Opening(Opening),
    Up(Box<Connection>),
}

impl Link {
    pub(super) async fn next(&mut self) -> Input {
        match self {
            // Its time is waited for elsewhere.
            Self::Down(_) => std::future::pending().await,
            Self::Opening(opening) => Input::Opened(opening.await),
            Self::Up(connection) => Input::Heard(connection.next().await),
        }
    }
}

impl Driver {
    pub(super) fn link_wakes_at(&self) -> Option<Instant> {
        match &self.link {
            Link::Down(until) => Some(*until),
            Link::Opening(_) => None,
            Link::Up(connection) => {
                let mut times = vec![connection.heartbeat_at(), connection.silent_at()];
                // Once it is time to leave, it is the grace that ends.
                let leave_at = connection.leave_at;
                let now = Instant::now();
                times.extend(leave_at.map(|at| if at <= now { at + LEAVE_GRACE } else { at }));
                if !self.refreshing {
                    times.push(connection.renew_at());
                }
                times.extend(self.writes_wake_at(connection));
                times.into_iter().min()
            }
        }
    }

    pub(super) fn tend_link(&mut self, now: Instant) -> Result<()> {
        match &mut self.link {
            Link::Down(until) if *until <= now && self.closing.is_none() => {
                let opening = connection::open(self.client.clone(), self.inbox.version());
                self.link = Link::Opening(Box::pin(opening));
            }
            Link::Down(_) | Link::Opening(_) => {}
            Link::Up(connection) => {
                if now >= connection.silent_at() {
                    let silence = connection.silence();
                    // The connection is half-open: nothing will come of it, not even an error.
                    let way = connection.way.clone();
                    self.client.inner.transport.leave(&way);
                    return self.broke(Error::Timeout(silence));
                }
                connection.heartbeat(now);
                let leaves = connection.leave_at.is_some_and(|at| at <= now);
                let waits = connection.leave_at.is_some_and(|at| now < at + LEAVE_GRACE);
                if leaves && (self.outbox.in_flight() == 0 || !waits) {
                    self.leave(now);
                }
                self.look_after_token(now);
            }
        }
        Ok(())
    }

    pub(super) fn opened(&mut self, connection: Box<Connection>, welcome: &Welcome) {
        let now = Instant::now();
        count(&self.counters.connects);
        tracing::debug!(inbox_version = welcome.inbox_version, "session opened");
        self.limits = Some(connection.limits);
        self.marks.connected();
        self.inbox.connected(welcome.inbox_version, now);
        let deferred = welcome.deferred.clone();
        self.inbox.deferred_heads(deferred, now, &mut self.out);
        self.link = Link::Up(connection);
        self.may_send = false;
        self.caught_up = false;
        self.tell(Event::Connected);
        self.set_state(SessionState::CatchingUp);
        self.renew_token(now);
    }

    /// Sends may begin with the connection, but not before it is known where conversations begin.
    pub(super) fn look_whether_to_send(&mut self) {
        if let Link::Up(connection) = &self.link
            && !self.may_send
            && !self.inbox.is_listing()
        {
            self.may_send = true;
            let max = connection.limits.in_flight_max;
            self.outbox
                .connected(usize::try_from(max).unwrap_or(usize::MAX));
        }
    }

    /// There is no connection any more. An error if there is no sense in another try.
    pub(super) fn broke(&mut self, error: Error) -> Result<()> {
        let now = Instant::now();
        if let Link::Up(connection) = &self.link
            && now >= connection.opened_at + HEALTHY_AFTER
        {
            self.reconnect.reset();
            self.replaced = 0;
        }
        if error.reason() == ErrorReason::SessionReplaced {
            self.replaced += 1;
        }
        if is_final(&error) || self.replaced > REPLACED_MAX {
            return Err(error);
        }
        if let Link::Up(connection) = &self.link {
            self.client.inner.transport.failed(&connection.way, &error);
        }
        if error.reason() == ErrorReason::TokenExpired
            && let Link::Up(connection) = &self.link
        {
            self.refresh_token(connection.held.credentials.access_token.clone());
        }
        let wait = match &self.link {
            Link::Up(connection) => connection.leave_at,
            _ => None,
        };
        let wait = wait.map(|at| at.saturating_duration_since(now));
        let retry_in = self.reconnect.next(wait.or(error.retry_after()));
        self.down(now, error, retry_in);
        Ok(())
    }

    /// Goes to another server, as asked.
    fn leave(&mut self, now: Instant) {
        if let Link::Up(connection) = &self.link {
            self.client.inner.transport.leave(&connection.way);
        }
        let error = Error::Transport("the server goes away".to_owned());
        self.down(now, error, Duration::ZERO);
    }

    fn down(&mut self, now: Instant, error: Error, retry_in: Duration) {
        tracing::debug!(%error, ?retry_in, "session broke");
        if let Link::Up(connection) = &self.link {
            for conversation_id in self.told.in_doubt(now, connection.doubt()) {
                self.inbox.redeliver(conversation_id);
            }
        }
        self.tell(Event::Disconnected { error, retry_in });
        self.outbox.disconnected();
        self.caught_up = false;
        self.link = Link::Down(now + retry_in);
        self.set_state(SessionState::Connecting);
    }

    /// Tells the server about a token that is newer than the one it knows.
    pub(super) fn renew_token(&mut self, now: Instant) {
        let held = self.tokens.borrow_and_update().clone();
        let (Some(held), Link::Up(connection)) = (held, &mut self.link) else {
            return;
        };
        let token = &held.credentials.access_token;
        if connection.held.credentials.access_token == *token {
            return;
        }
        let renew = Frame::RenewToken(RenewToken {
            access_token: token.clone(),
        });
        let request_id = connection.request_id();
        if connection.write(request_id, renew, now) {
            connection.held = held;
        } else {
            connection.token_again_at = now + TOKEN_AGAIN_AFTER;
        }
    }

    /// Gets a new token when the session's one ends soon.
    fn look_after_token(&mut self, now: Instant) {
        if let Link::Up(connection) = &self.link
            && connection.renew_at() <= now
            && !self.refreshing
        {
            let stale = connection.held.credentials.access_token.clone();
            self.refresh_token(stale);
        }
    }

    /// Whether there is nothing more to do.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        if let Some((deadline, _)) = &self.closing {
            let is_answered = self.outbox.in_flight() == 0;
            return is_answered || now >= *deadline;
        }
        self.unhandled && self.events.is_none()
    }

    /// The end of the session: nobody can ask any more, and who waits learns that it is over.
    pub(super) async fn end(mut self, error: Error) {
        tracing::debug!(%error, "session ended");
        self.set_state(SessionState::Closed(error.clone()));
        self.commands.close();
        drop(self.outbox);
        if let Link::Up(connection) = self.link {
            connection.close().await;
        }
        if let Some((_, replies)) = self.closing.take() {
            for reply in replies {
                // Whoever asked may have gone away.
                let _ = reply.send(());
            }
        }
        drop(self.commands);
        let Some(events) = self.events else {
            return;
        };
        for event in self.ready.into_iter().chain([Event::Closed(error)]) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Whether there is no sense in another try.
pub(super) fn is_final(error: &Error) -> bool {
    match error {
        // Something on the way answers instead of the server, or a server that is being changed.
        Error::Protocol(_) => false,
        error => {
            error.kind() == ErrorKind::Rejected && error.reason() != ErrorReason::FrameTooLarge
        }
    }
}
