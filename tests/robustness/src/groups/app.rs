//! One run of the app of a device in groups.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use messenger_client::{
    Client, Event, Events, GroupChange, Message, Options, Session, SqliteCache, Start,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::traffic::GroupStage;
use crate::{
    history::{
        Keeps, Mark, News, No, Record,
        groups::{GroupRecord, GroupRow},
    },
    plan::DeviceRole,
    traffic::{Ground, RECONNECT_WAIT, User, reason},
};

/// How long what a killed app has told may take to be taken down.
const LET_GO: Duration = Duration::from_secs(10);
/// Events taken down at a time.
const BATCH_MAX: usize = 256;

/// The app of a device, with its session.
pub(super) struct GroupApp {
    ground: Ground,
    pub(super) number: u32,
    pub(super) session: Session,
    pub(super) view: Arc<View>,
    listening: JoinHandle<()>,
}

/// What the app's screen shows.
#[derive(Debug, Default)]
pub(super) struct View {
    /// How far the session has told each group.
    pub(super) places: Mutex<HashMap<No, u64>>,
    /// The newest rows.
    pub(super) rows: Mutex<HashMap<No, GroupRow>>,
}

impl GroupApp {
    /// Opens the session; needs no server.
    pub(super) async fn start(
        ground: Ground,
        stage: &Arc<GroupStage>,
        role: DeviceRole,
        number: u32,
        places: HashMap<No, u64>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let runtime = ground.runtime.as_ref().context("a runtime")?;
        let known: Vec<(No, u64)> = places.iter().map(|(no, seq)| (*no, *seq)).collect();
        let seqs = known
            .iter()
            .map(|(no, seq)| (stage.conversation_id(*no).to_owned(), *seq));
        let mut options = Options::default()
            .reconnect_wait(RECONNECT_WAIT.0, RECONNECT_WAIT.1)
            .start(match role.keeps {
                Keeps::Cache | Keeps::Nothing => Start::Present,
                Keeps::NothingAll => Start::Beginning,
                Keeps::Places => Start::Known {
                    inbox_version: 0,
                    seqs: seqs.collect(),
                },
            });
        if role.keeps == Keeps::Cache {
            let path = folder.join("cache");
            let opened = runtime.spawn(async move { SqliteCache::open(path).await });
            options = options.cache(opened.await??);
        }
        let recorder = &stage.recorder;
        recorder.add_group(GroupRecord::App {
            t: recorder.now(),
            device: role.number,
            app: number,
            places: match role.keeps {
                Keeps::Places => known,
                _ => Vec::new(),
            },
        });
        let client = ground.client.clone();
        let connected = runtime.spawn(async move { client.connect(options).await });
        let (session, events) = connected.await??;
        let view = Arc::new(View {
            places: Mutex::new(places),
            rows: Mutex::default(),
        });
        let listener = Listener {
            stage: stage.clone(),
            user: stage.user(role.user).clone(),
            device: role.number,
            app: number,
            view: view.clone(),
        };
        // On the runtime of the observer: what was told is taken down though the app is killed.
        let listening = tokio::spawn(listener.listen(events));
        Ok(Self {
            ground,
            number,
            session,
            view,
            listening,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.ground.client
    }

    /// Ends it: at once, or after telling the session.
    pub(super) async fn end(self, killed: bool) -> Arc<View> {
        if !killed {
            self.session.close().await;
        }
        drop(self.session);
        self.ground.kill().await;
        // What it has told is taken down; then its channel is closed.
        let _ = tokio::time::timeout(LET_GO, self.listening).await;
        self.view
    }
}

/// Takes down what a session tells.
struct Listener {
    stage: Arc<GroupStage>,
    user: Arc<User>,
    device: No,
    app: u32,
    view: Arc<View>,
}

impl Listener {
    async fn listen(self, mut events: Events) {
        let mut batch = Vec::new();
        while let Some(first) = events.next().await {
            let mut next = Some(first);
            while let Some(event) = next {
                match event {
                    Event::Message(message) => batch.push(self.message(&message)),
                    Event::GroupChange(change) => batch.push(self.change(&change)),
                    other => {
                        self.got(&mut batch);
                        self.other(other);
                    }
                }
                next = match batch.len() < BATCH_MAX {
                    true => events.try_next(),
                    false => None,
                };
            }
            self.got(&mut batch);
        }
    }

    fn message(&self, message: &Message) -> u32 {
        let group = self.stage.recorder.group(&message.conversation_id);
        self.shown(group, Mark(message.seq, message.message_index));
        self.stage.recorder.group_message(message)
    }

    fn change(&self, change: &GroupChange) -> u32 {
        let group = self.stage.recorder.group(&change.conversation_id);
        self.shown(group, Mark(change.seq, change.message_index));
        self.stage.recorder.group_change(change)
    }

    fn shown(&self, group: No, at: Mark) {
        self.view.places.lock().insert(group, at.0);
        self.user.knowledge.lock().has_shown(group, at);
    }

    fn got(&self, events: &mut Vec<u32>) {
        if !events.is_empty() {
            self.stage.recorder.add_group(GroupRecord::Got {
                t: self.stage.recorder.now(),
                device: self.device,
                app: self.app,
                events: std::mem::take(events),
            });
        }
    }

    fn other(&self, event: Event) {
        let (device, app) = (self.device, self.app);
        let recorder = &self.stage.recorder;
        let t = recorder.now();
        let news = match event {
            Event::Conversation(row) => {
                let row = recorder.group_row(&row);
                self.user.knowledge.lock().is_at(row.version);
                self.view.rows.lock().insert(row.group, row.clone());
                recorder.add_group(GroupRecord::Row {
                    t,
                    device,
                    app,
                    row,
                });
                return;
            }
            Event::Connected => News::Connected,
            Event::CaughtUp { inbox_version } => {
                self.user.knowledge.lock().is_at(inbox_version);
                News::CaughtUp(inbox_version)
            }
            Event::Disconnected { error, .. } => News::Disconnected(reason(&error)),
            Event::Closed(error) => News::Closed(reason(&error)),
            _ => return,
        };
        recorder.add(Record::Session {
            t,
            device,
            app,
            news,
        });
    }
}
