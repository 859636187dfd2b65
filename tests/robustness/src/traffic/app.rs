//! One run of a device's app. It has a runtime of its own, so that it can be killed like a process:
//! whatever it does ends where it waits.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use messenger_client::{Client, Event, Events, FileTokens, Options, Session, SqliteCache, Start};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::{Stage, User, reason};
use crate::{
    history::{Keeps, Mark, News, No, Record, Row},
    plan::DeviceRole,
};

/// How long a killed app may take to let its files go.
const LET_GO: Duration = Duration::from_secs(10);
/// Waits of an impatient app before it connects again.
pub(crate) const RECONNECT_WAIT: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(2));
/// Messages of a conversation that a cache keeps: all of them.
const KEEP_MESSAGES: u64 = 100_000_000;
/// Events taken down at a time.
const BATCH_MAX: usize = 256;

/// The app of a device, without a session yet.
pub(crate) struct Ground {
    pub(crate) runtime: Option<Runtime>,
    pub(crate) client: Client,
}

/// The app of a device, with its session.
pub(crate) struct App {
    ground: Ground,
    pub(crate) number: u32,
    pub(crate) session: Session,
    pub(crate) cache: Option<SqliteCache>,
    pub(crate) view: Arc<View>,
    listening: JoinHandle<()>,
}

/// What the app's screen shows.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// How far the session has told each conversation.
    pub(crate) places: Mutex<HashMap<No, u64>>,
    /// The newest rows.
    pub(crate) rows: Mutex<HashMap<No, Row>>,
}

impl Ground {
    /// Starts the app's runtime and makes its client.
    pub(crate) fn new(url: &str, folder: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("app")
            .enable_all()
            .build()?;
        let client = {
            let _inside = runtime.enter();
            Client::builder(url)
                .tokens(FileTokens::new(folder.join("tokens")))
                .user_agent("robustness")
                .build()?
        };
        Ok(Self {
            runtime: Some(runtime),
            client,
        })
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LET_GO));
            // It cannot panic.
            let _ = ended.await;
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl App {
    /// Opens the session; needs no server.
    pub(super) async fn start(
        ground: Ground,
        stage: &Arc<Stage>,
        user: &Arc<User>,
        role: DeviceRole,
        number: u32,
        places: HashMap<No, u64>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let runtime = ground.runtime.as_ref().context("a runtime")?;
        let known: Vec<(No, u64)> = places.iter().map(|(no, seq)| (*no, *seq)).collect();
        let mut options = Options::default()
            .reconnect_wait(RECONNECT_WAIT.0, RECONNECT_WAIT.1)
            .start(match role.keeps {
                Keeps::Cache | Keeps::Nothing => Start::Present,
                Keeps::NothingAll => Start::Beginning,
                Keeps::Places => Start::Known {
                    // It holds the messages; which rows it has it does not know.
                    inbox_version: 0,
                    seqs: known
                        .iter()
                        .map(|(no, seq)| (stage.conversation_id(*no).to_owned(), *seq))
                        .collect(),
                },
            });
        let mut cache = None;
        if role.keeps == Keeps::Cache {
            let path = folder.join("cache");
            let opened = runtime.spawn(async move { SqliteCache::open(path).await });
            let opened = opened.await??.keep(KEEP_MESSAGES);
            cache = Some(opened.clone());
            options = options.cache(opened);
        }
        let recorder = &stage.recorder;
        recorder.add(Record::App {
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
            user: user.clone(),
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
            cache,
            view,
            listening,
        })
    }

    pub(crate) fn client(&self) -> &Client {
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
    stage: Arc<Stage>,
    user: Arc<User>,
    device: No,
    app: u32,
    view: Arc<View>,
}

impl Listener {
    async fn listen(self, mut events: Events) {
        let mut contents = Vec::new();
        while let Some(first) = events.next().await {
            let mut next = Some(first);
            while let Some(event) = next {
                if let Event::Message(message) = &event {
                    let at = Mark(message.seq, message.message_index);
                    contents.push(self.stage.recorder.content(message));
                    let conversation = self.stage.recorder.conversation(&message.conversation_id);
                    self.view.places.lock().insert(conversation, at.0);
                    self.user.knowledge.lock().has_shown(conversation, at);
                } else {
                    self.got(&mut contents);
                    self.other(event);
                }
                next = match contents.len() < BATCH_MAX {
                    true => events.try_next(),
                    false => None,
                };
            }
            self.got(&mut contents);
        }
    }

    fn got(&self, contents: &mut Vec<u32>) {
        if !contents.is_empty() {
            self.stage.recorder.add(Record::Got {
                t: self.stage.recorder.now(),
                device: self.device,
                app: self.app,
                contents: std::mem::take(contents),
            });
        }
    }

    fn other(&self, event: Event) {
        let (device, app) = (self.device, self.app);
        let recorder = &self.stage.recorder;
        let t = recorder.now();
        let news = match event {
            Event::Conversation(row) => {
                let row = recorder.row(&row);
                self.user.knowledge.lock().is_at(row.version);
                self.view.rows.lock().insert(row.conversation, row.clone());
                recorder.add(Record::Row {
                    t,
                    device,
                    app,
                    row,
                });
                return;
            }
            Event::Marks {
                conversation_id,
                members,
            } => {
                let mark = |mark: Option<messenger_client::model::Watermark>| {
                    mark.map_or(Mark::default(), |mark| Mark(mark.seq, mark.message_index))
                };
                for member in members {
                    recorder.add(Record::Marks {
                        t,
                        device,
                        app,
                        conversation: recorder.conversation(&conversation_id),
                        member: recorder.user(&member.user_id),
                        delivered: mark(member.delivered),
                        read: mark(member.read),
                    });
                }
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
