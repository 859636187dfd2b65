//! The accounts of a replay, and their connected devices.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use messenger_client::{
    Client, Error, ErrorReason, Event, Events, GroupChange, LogIn, Message, NewAccount, Options,
    Session, group_of,
};
use tokio::sync::watch;

use super::{
    patience::{AWAY_MAX, patiently},
    plan::Speaker,
};
use crate::app::USER_AGENT;

/// Accounts that are made, or logged in, at a time: each call keeps a core of the server busy with
/// hashing.
pub(crate) const LOG_INS_AT_A_TIME: usize = 4;

/// One speaker as an account with its connected devices.
pub(crate) struct Actor {
    pub(crate) user_id: String,
    pub(crate) seats: Vec<Seat>,
    login: LogIn,
    server: String,
}

/// One connected device.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) client: Client,
    pub(crate) session: Session,
    pub(crate) heard: Arc<Heard>,
}

/// An event of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    Message(Message),
    Change(GroupChange),
}

/// What a session has told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    messages: Mutex<Vec<Message>>,
    timeline: Mutex<Vec<Held>>,
    pub(crate) disconnects: AtomicU64,
    closed: Mutex<Option<Error>>,
    /// What there was when the session opened has been told, or it has ended.
    has_settled: watch::Sender<bool>,
}

impl Heard {
    /// The messages that are not of groups, in the order in which they were told.
    pub(crate) fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events of groups, in the order in which they were told.
    pub(crate) fn timeline(&self) -> MutexGuard<'_, Vec<Held>> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the session has ended, if it has.
    pub(crate) fn closed(&self) -> Option<Error> {
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens to the last event.
    async fn listen(self: Arc<Self>, mut events: Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) if group_of(&message.conversation_id).is_some() => {
                    self.timeline().push(Held::Message(message));
                }
                Event::Message(message) => self.messages().push(message),
                Event::GroupChange(change) => self.timeline().push(Held::Change(*change)),
                Event::CaughtUp { .. } => drop(self.has_settled.send_replace(true)),
                Event::Disconnected { .. } => {
                    self.disconnects.fetch_add(1, Ordering::Relaxed);
                }
                Event::Closed(error) => {
                    *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                _ => {}
            }
        }
        self.has_settled.send_replace(true);
    }
}

/// Makes an account for each speaker, in the same order, with so many connected devices.
pub(crate) async fn assemble(
    server: &str,
    speakers: &[Speaker],
    devices_each: usize,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Actor>> {
    stream::iter(speakers)
        .map(|speaker| async move {
            let actor = Actor::create(server, speaker, devices_each).await;
            progress.inc(1);
            actor.with_context(|| format!("the account {}", speaker.username))
        })
        .buffered(LOG_INS_AT_A_TIME)
        .try_collect()
        .await
}

impl Actor {
    async fn create(server: &str, speaker: &Speaker, devices: usize) -> anyhow::Result<Self> {
        // Random, and known to nobody after the run.
        let password = uuid::Uuid::new_v4().to_string();
        let login = LogIn {
            username: speaker.username.clone(),
            password: password.clone(),
            device_name: "replay".to_owned(),
            device_id: String::new(),
        };
        let account = NewAccount {
            username: speaker.username.clone(),
            password,
            display_name: speaker.display_name.clone(),
            device_name: login.device_name.clone(),
        };
        let first = new_client(server)?;
        let registered = patiently(|| first.register(account.clone())).await;
        let profile = match registered {
            // The name is of this run only: an earlier try had arrived, and its answer was lost.
            Err(error) if error.reason() == ErrorReason::UsernameTaken => {
                patiently(|| first.log_in(login.clone())).await?
            }
            registered => registered?,
        };
        let mut actor = Self {
            user_id: profile.user_id,
            seats: Vec::with_capacity(devices),
            login,
            server: server.to_owned(),
        };
        actor
            .seats
            .push(Seat::take(first, Options::default()).await?);
        while actor.seats.len() < devices {
            let client = actor.new_device().await?;
            actor
                .seats
                .push(Seat::take(client, Options::default()).await?);
        }
        Ok(actor)
    }

    /// Another device of the account, which knows nothing yet.
    pub(crate) async fn new_device(&self) -> anyhow::Result<Client> {
        let client = new_client(&self.server)?;
        patiently(|| client.log_in(self.login.clone())).await?;
        Ok(client)
    }

    /// Ends all sessions.
    pub(crate) async fn leave(&self) {
        for seat in &self.seats {
            seat.session.close().await;
        }
    }
}

impl Seat {
    /// Connects the device; returns when it has heard of everything until now.
    pub(crate) async fn take(client: Client, options: Options) -> anyhow::Result<Self> {
        let (session, events) = client.connect(options).await?;
        let heard = Arc::new(Heard::default());
        // Ends with the session.
        tokio::spawn(Arc::clone(&heard).listen(events));
        // Not when the session is live: the last events may still be on their way to the listener.
        let mut settled = heard.has_settled.subscribe();
        let settled = settled.wait_for(|has_settled| *has_settled);
        match tokio::time::timeout(AWAY_MAX, settled).await {
            Ok(_) => {}
            Err(_) => return Err(anyhow!("a session was not live after {AWAY_MAX:?}")),
        }
        if let Some(error) = heard.closed() {
            return Err(error.into());
        }
        Ok(Self {
            client,
            session,
            heard,
        })
    }
}

fn new_client(server: &str) -> Result<Client, Error> {
    Client::builder(server).user_agent(USER_AGENT).build()
}
