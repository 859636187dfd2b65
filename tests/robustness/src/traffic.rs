//! Traffic: the cast's devices do what their scripts say, through the SDK.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use messenger_client::{Error, ErrorKind, ErrorReason, LogIn, NewAccount, direct_conversation_id};
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    deployment::Deployment,
    history::{Mark, No, Record},
    plan::{Cast, Script, Size},
    recorder::Recorder,
};

mod app;
mod device;
mod ops;

pub(crate) use app::{Ground, RECONNECT_WAIT};
pub(crate) use device::Device;

/// The password of the whole cast.
const PASSWORD: &str = "correct horse battery";
/// Accounts that are made at the same time.
pub(crate) const AT_A_TIME: usize = 4;
/// Messages of a user that may be sent again or asked about.
const RECENT_MAX: usize = 64;
/// How long calls that are under way may take to end: each is tried several times.
pub(crate) const CALLS_DEADLINE: Duration = Duration::from_secs(90);

/// A message that a user has sent lately.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    pub(crate) send: u32,
    pub(crate) conversation: No,
    pub(crate) id: Uuid,
    pub(crate) text: Arc<str>,
}

/// What the devices of a user know together, as their user does.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    /// The last seq that any of them holds an ack, an event or a read of.
    pub(crate) held: HashMap<No, u64>,
    /// The newest message that any of them has shown.
    pub(crate) shown: HashMap<No, Mark>,
    /// The newest inbox version that any of them has heard of.
    pub(crate) version: u64,
    pub(crate) recent: VecDeque<Recent>,
}

/// An account.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) number: No,
    pub(crate) username: String,
    pub(crate) id: OnceLock<String>,
    pub(crate) knowledge: Mutex<Knowledge>,
}

/// What everybody shares.
pub(crate) struct Stage {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) deployment: Arc<dyn Deployment>,
    pub(crate) cast: Cast,
    pub(crate) texts: Vec<Arc<str>>,
    pub(crate) folder: PathBuf,
    /// By number, once all accounts are made.
    pub(crate) conversation_ids: OnceLock<Vec<String>>,
    /// Calls that are under way.
    pub(crate) calls: TaskTracker,
}

/// The cast, in action.
pub(crate) struct Traffic {
    pub(crate) stage: Arc<Stage>,
    pub(crate) users: Vec<Arc<User>>,
    pub(crate) devices: Vec<Arc<Device>>,
    running: TaskTracker,
}

impl User {
    pub(crate) fn new(number: No, username: String) -> Self {
        Self {
            number,
            username,
            id: OnceLock::new(),
            knowledge: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        self.id.get().map_or("", String::as_str)
    }

    pub(crate) fn log_in(&self) -> LogIn {
        LogIn {
            username: self.username.clone(),
            password: PASSWORD.to_owned(),
            ..LogIn::default()
        }
    }

    pub(crate) fn account(&self) -> NewAccount {
        NewAccount {
            username: self.username.clone(),
            password: PASSWORD.to_owned(),
            ..NewAccount::default()
        }
    }
}

impl Knowledge {
    pub(crate) fn holds(&mut self, conversation: No, seq: u64) {
        let held = self.held.entry(conversation).or_default();
        *held = (*held).max(seq);
    }

    pub(crate) fn has_shown(&mut self, conversation: No, mark: Mark) {
        let shown = self.shown.entry(conversation).or_default();
        *shown = (*shown).max(mark);
        self.holds(conversation, mark.0);
    }

    pub(crate) fn is_at(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    pub(crate) fn has_sent(&mut self, recent: Recent) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(recent);
    }

    pub(crate) fn pick(&self, pick: u32) -> Option<Recent> {
        let place = (pick as usize).checked_rem(self.recent.len())?;
        self.recent.get(place).cloned()
    }
}

impl Stage {
    /// The text with this number.
    pub(crate) fn text(&self, number: u32) -> Arc<str> {
        self.texts[number as usize % self.texts.len()].clone()
    }

    pub(crate) fn conversation_id(&self, conversation: No) -> &str {
        let ids = self.conversation_ids.get();
        ids.and_then(|ids| ids.get(usize::from(conversation)))
            .map_or("", String::as_str)
    }

    pub(crate) fn failed(&self, device: No, call: &str, error: &Error) {
        self.recorder.add(Record::Failed {
            t: self.recorder.now(),
            device,
            call: call.to_owned(),
            reason: reason(error),
        });
    }
}

impl Traffic {
    /// Makes the accounts, logs the devices in, and opens their sessions. Nothing is sent yet.
    pub(crate) async fn assemble(
        recorder: Arc<Recorder>,
        deployment: Arc<dyn Deployment>,
        cast: Cast,
        texts: &[String],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        // Usernames are unlike those of other runs against the same servers.
        let run = Uuid::new_v4().simple().to_string();
        let users: Vec<_> = cast
            .users()
            .map(|number| {
                let username = format!("u{number}-{}", &run[..8]);
                Arc::new(User::new(number, username))
            })
            .collect();
        let stage = Arc::new(Stage {
            recorder,
            deployment,
            texts: texts.iter().map(|text| text.as_str().into()).collect(),
            folder: folder.to_owned(),
            conversation_ids: OnceLock::new(),
            calls: TaskTracker::new(),
            cast,
        });
        let mut roles = stage.cast.devices.clone();
        // The first devices of all users register, the others log in after them.
        roles.sort_by_key(|role| {
            let first = stage.cast.devices.iter().find(|one| one.user == role.user);
            (first != Some(role), role.number)
        });
        let firsts = users.len();
        let (first, others) = roles.split_at(firsts.min(roles.len()));
        let mut devices = Vec::new();
        for roles in [first, others] {
            let some: Vec<Arc<Device>> = stream::iter(roles)
                .map(|role| Device::install(&stage, &users[usize::from(role.user)], *role))
                .buffered(AT_A_TIME)
                .try_collect()
                .await?;
            devices.extend(some);
        }
        devices.sort_by_key(|device| device.role.number);
        introduce(&stage, &users);
        for device in &devices {
            device.begin().await.context("the first session")?;
        }
        Ok(Self {
            stage,
            users,
            devices,
            running: TaskTracker::new(),
        })
    }

    /// Lets every device follow its script until told to stop.
    pub(crate) fn begin(&self, seed: u64, size: &Size, stop: &CancellationToken) {
        for device in &self.devices {
            let texts = self.stage.texts.len();
            let script = Script::new(seed, size, &self.stage.cast, device.role, texts);
            self.running
                .spawn(device.clone().follow(script, stop.clone()));
        }
    }

    /// Waits, after the stop, until nobody does anything any more. What is queued stays queued.
    pub(crate) async fn end(&self) {
        for tasks in [&self.running, &self.stage.calls] {
            tasks.close();
            if tokio::time::timeout(CALLS_DEADLINE, tasks.wait())
                .await
                .is_err()
            {
                let what = format!("{} calls did not end", tasks.len());
                self.stage.recorder.add(Record::Unsettled { what });
            }
        }
    }
}

/// Takes down who there is.
fn introduce(stage: &Stage, users: &[Arc<User>]) {
    for user in users {
        stage.recorder.add(Record::User {
            user: user.number,
            id: user.id().to_owned(),
        });
    }
    for role in &stage.cast.devices {
        stage.recorder.add(Record::Device {
            device: role.number,
            user: role.user,
            keeps: role.keeps,
        });
    }
    let mut ids = Vec::new();
    for (number, members) in (0..).zip(&stage.cast.conversations) {
        let [one, other] = members.map(|member| users[usize::from(member)].id());
        let id = direct_conversation_id(one, other);
        stage.recorder.add(Record::Conversation {
            conversation: number,
            id: id.clone(),
            members: *members,
        });
        ids.push(id);
    }
    // Set once: this is called once.
    let _ = stage.conversation_ids.set(ids);
}

/// An error in a word.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Server(error) if error.reason == ErrorReason::Unspecified => {
            format!("{:?}", error.code)
        }
        Error::Server(error) => error.reason.info_name().to_owned(),
        Error::Transport(_) => "TRANSPORT".to_owned(),
        Error::Timeout(_) => "TIMEOUT".to_owned(),
        Error::Closed => "CLOSED".to_owned(),
        other => other.to_string(),
    }
}

/// Whether the server says that a message is not in its conversation and never will be, whatever
/// happened to an earlier try of the same call.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use ErrorReason as R;
    error.kind() == ErrorKind::Rejected
        && matches!(
            error.reason(),
            R::FieldRequired
                | R::FieldMalformed
                | R::FieldOutOfRange
                | R::TextTooLong
                | R::TextNotStorable
                | R::NotAMember
        )
}
