//! A device: follows its script, and outlives the runs of its app.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use messenger_client::{Error, Outgoing};
use parking_lot::Mutex;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Stage, User,
    app::{App, Ground},
    reason,
};
use crate::{
    history::{Keeps, Mark, No, Record, Way},
    plan::{DeviceRole, Script},
};

/// Calls of a device that are under way at the same time; then it makes none.
const CALLS_MAX: usize = 4;

/// One device of the cast.
pub(crate) struct Device {
    pub(crate) stage: Arc<Stage>,
    pub(crate) user: Arc<User>,
    pub(crate) role: DeviceRole,
    /// `None` while the app does not run.
    pub(crate) app: RwLock<Option<App>>,
    pub(super) calls: Arc<Semaphore>,
    apps: AtomicU32,
    /// Messages of the session that nobody knows the fate of, by their names.
    pending: Mutex<HashMap<Uuid, u32>>,
    folder: PathBuf,
}

impl Device {
    /// Makes the account, or logs in.
    pub(super) async fn install(
        stage: &Arc<Stage>,
        user: &Arc<User>,
        role: DeviceRole,
    ) -> anyhow::Result<Arc<Self>> {
        let folder = stage.folder.join(format!("device-{}", role.number));
        std::fs::create_dir_all(&folder)?;
        let device = Arc::new(Self {
            stage: stage.clone(),
            user: user.clone(),
            role,
            app: RwLock::new(None),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            apps: AtomicU32::new(0),
            pending: Mutex::default(),
            folder,
        });
        let ground = device.ground()?;
        let is_first = user.id.get().is_none();
        let profile = match is_first {
            true => ground.client.register(user.account()).await,
            false => ground.client.log_in(user.log_in()).await,
        };
        let profile = profile.with_context(|| format!("the account {}", user.username))?;
        // Set already when it logs in.
        let _ = user.id.set(profile.user_id);
        Ok(device)
    }

    fn ground(&self) -> anyhow::Result<Ground> {
        let url = self.stage.deployment.url(usize::from(self.role.number));
        Ground::new(&url, &self.folder)
    }

    /// The first run of the app.
    pub(super) async fn begin(&self) -> anyhow::Result<()> {
        self.start(HashMap::new()).await
    }

    async fn start(&self, places: HashMap<No, u64>) -> anyhow::Result<()> {
        let number = self.apps.fetch_add(1, Ordering::Relaxed);
        let app = App::start(
            self.ground()?,
            &self.stage,
            &self.user,
            self.role,
            number,
            places,
            &self.folder,
        )
        .await?;
        *self.app.write().await = Some(app);
        Ok(())
    }

    /// Follows the script until told to stop.
    pub(super) async fn follow(self: Arc<Self>, script: Script, stop: CancellationToken) {
        for (pause, op) in script {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.perform(op).await;
        }
    }

    /// Ends the app, and starts it again after a while.
    pub(super) async fn restart(self: &Arc<Self>, killed: bool, away: Duration) {
        let Some(app) = self.app.write().await.take() else {
            return;
        };
        let number = app.number;
        let view = app.end(killed).await;
        self.stage.recorder.add(Record::AppEnded {
            t: self.stage.recorder.now(),
            device: self.role.number,
            app: number,
            killed,
        });
        if self.role.keeps != Keeps::Cache {
            self.forget("the app ended");
        }
        tokio::time::sleep(away).await;
        let places = view.places.lock().clone();
        let known = match self.role.keeps {
            Keeps::Places => places,
            _ => HashMap::new(),
        };
        let started = self.start(known).await;
        let resumed = match started {
            Ok(()) => self.resume().await,
            Err(error) => Err(error),
        };
        if let Err(error) = resumed {
            self.stage.recorder.add(Record::Found {
                t: self.stage.recorder.now(),
                what: format!(
                    "the app of device {} does not start: {error:#}",
                    self.role.number
                ),
            });
        }
    }

    /// Waits on for what the cache says is unsent.
    async fn resume(self: &Arc<Self>) -> anyhow::Result<()> {
        if self.role.keeps != Keeps::Cache {
            return Ok(());
        }
        let app = self.app.read().await;
        let app = app.as_ref().context("an app")?;
        let unsent = app.session.unsent().await?;
        let mut known = std::mem::take(&mut *self.pending.lock());
        let mut outgoing = Vec::new();
        for message in unsent {
            let id = Uuid::parse_str(message.message_id())?;
            let send = known.remove(&id).with_context(|| {
                format!("the cache holds an unsent message {id} that nobody queued")
            })?;
            self.pending.lock().insert(id, send);
            outgoing.push((send, id, message));
        }
        // Answered, and the app ended before it heard of it.
        for send in known.into_values() {
            self.unknown(send, "answered while the app ended");
        }
        self.wait_for(outgoing);
        Ok(())
    }

    /// Nobody will hear of what is pending.
    fn forget(&self, why: &str) {
        let pending = std::mem::take(&mut *self.pending.lock());
        for send in pending.into_values() {
            self.unknown(send, why);
        }
    }

    fn unknown(&self, send: u32, why: &str) {
        self.stage.recorder.add(Record::Unknown {
            t: self.stage.recorder.now(),
            send,
            reason: why.to_owned(),
        });
    }

    /// Messages of the session without an answer.
    pub(crate) fn pending(&self) -> usize {
        self.pending.lock().len()
    }

    pub(super) fn is_pending(&self, id: Uuid, send: u32) {
        self.pending.lock().insert(id, send);
    }

    /// Waits for the answers, in the background.
    pub(super) fn wait_for(self: &Arc<Self>, outgoing: Vec<(u32, Uuid, Outgoing)>) {
        if outgoing.is_empty() {
            return;
        }
        let device = self.clone();
        tokio::spawn(async move {
            for (send, id, mut message) in outgoing {
                let answer = message.sent().await;
                let t = device.stage.recorder.now();
                match answer {
                    Ok(receipt) => {
                        let at = Mark(receipt.seq, receipt.message_index);
                        device.pending.lock().remove(&id);
                        device.stage.recorder.add(Record::Ack {
                            t,
                            send,
                            at,
                            duplicate: receipt.duplicate,
                            way: Way::Session,
                        });
                        let conversation = message.conversation_id();
                        let conversation = device.stage.recorder.conversation(conversation);
                        device.user.knowledge.lock().holds(conversation, at.0);
                    }
                    // The next run of the app goes on, or nobody does.
                    Err(Error::Closed) => {}
                    Err(error) => {
                        device.pending.lock().remove(&id);
                        device.stage.recorder.add(Record::Refused {
                            t,
                            send,
                            reason: reason(&error),
                        });
                    }
                }
            }
        });
    }
}
