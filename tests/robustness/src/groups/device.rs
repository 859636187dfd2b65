//! A device in groups: follows its script, and outlives the runs of its app.

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

use super::{app::GroupApp, cast::GroupScript, traffic::GroupStage};
use crate::{
    history::{Keeps, Mark, No, Record, Way, groups::GroupRecord},
    plan::DeviceRole,
    traffic::{Ground, User, reason},
};

/// Calls of a device that are under way at the same time; then it makes none.
const CALLS_MAX: usize = 4;

/// One device of the cast.
pub(crate) struct GroupDevice {
    pub(super) stage: Arc<GroupStage>,
    pub(super) user: Arc<User>,
    pub(super) role: DeviceRole,
    /// `None` while the app does not run.
    pub(super) app: RwLock<Option<GroupApp>>,
    pub(super) calls: Arc<Semaphore>,
    apps: AtomicU32,
    /// Messages of the session that nobody knows the fate of, by their names.
    pending: Mutex<HashMap<Uuid, u32>>,
    folder: PathBuf,
}

impl GroupDevice {
    /// Makes the account, or logs in.
    pub(super) async fn install(
        stage: &Arc<GroupStage>,
        role: DeviceRole,
    ) -> anyhow::Result<Arc<Self>> {
        let user = stage.user(role.user);
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
        let profile = match user.id.get().is_none() {
            true => ground.client.register(user.account()).await,
            false => ground.client.log_in(user.log_in()).await,
        };
        let profile = profile.with_context(|| format!("the account {}", user.username))?;
        // Set already when it logs in.
        let _ = user.id.set(profile.user_id);
        Ok(device)
    }

    pub(super) fn ground(&self) -> anyhow::Result<Ground> {
        let url = self.stage.deployment.url(usize::from(self.role.number));
        Ground::new(&url, &self.folder)
    }

    /// The first run of the app.
    pub(super) async fn begin(&self) -> anyhow::Result<()> {
        self.start(HashMap::new()).await
    }

    async fn start(&self, places: HashMap<No, u64>) -> anyhow::Result<()> {
        let number = self.apps.fetch_add(1, Ordering::Relaxed);
        let (ground, stage) = (self.ground()?, &self.stage);
        let app = GroupApp::start(ground, stage, self.role, number, places, &self.folder).await?;
        *self.app.write().await = Some(app);
        Ok(())
    }

    /// Follows the script until told to stop.
    pub(super) async fn follow(self: Arc<Self>, script: GroupScript, stop: CancellationToken) {
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
            let pending = std::mem::take(&mut *self.pending.lock());
            for send in pending.into_values() {
                self.unknown(send, "the app ended");
            }
        }
        tokio::time::sleep(away).await;
        let places = match self.role.keeps {
            Keeps::Places => view.places.lock().clone(),
            _ => HashMap::new(),
        };
        let resumed = match self.start(places).await {
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

    fn unknown(&self, send: u32, why: &str) {
        self.stage.recorder.add_group(GroupRecord::Unknown {
            t: self.stage.recorder.now(),
            send,
            reason: why.to_owned(),
        });
    }

    /// Messages of the session without an answer.
    pub(super) fn pending(&self) -> usize {
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
                let record = match answer {
                    Ok(receipt) => {
                        let at = Mark(receipt.seq, receipt.message_index);
                        let group = device.stage.recorder.group(message.conversation_id());
                        device.user.knowledge.lock().holds(group, at.0);
                        GroupRecord::Ack {
                            t,
                            send,
                            at,
                            duplicate: receipt.duplicate,
                            way: Way::Session,
                        }
                    }
                    // The next run of the app goes on, or nobody does.
                    Err(Error::Closed) => continue,
                    Err(error) => GroupRecord::Refused {
                        t,
                        send,
                        reason: reason(&error),
                    },
                };
                device.pending.lock().remove(&id);
                device.stage.recorder.add_group(record);
            }
        });
    }
}
