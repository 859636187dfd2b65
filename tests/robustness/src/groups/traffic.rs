//! The users of groups, in action.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use messenger_client::{Error, group_conversation_id};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    cast::{GroupCast, GroupScript},
    changes::Office,
    device::GroupDevice,
};
use crate::{
    deployment::Deployment,
    history::{
        No, Record,
        groups::{Answer, Asked, GroupRecord},
    },
    plan::Size,
    recorder::Recorder,
    traffic::{AT_A_TIME, CALLS_DEADLINE, User, reason},
};

/// A group that has been made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) group_id: String,
    pub(super) conversation_id: String,
    /// Of an invitation that is good for ever.
    pub(super) token: String,
}

/// What everybody in groups shares.
pub(crate) struct GroupStage {
    pub(super) recorder: Arc<Recorder>,
    pub(super) deployment: Arc<dyn Deployment>,
    pub(super) cast: GroupCast,
    pub(super) texts: Vec<Arc<str>>,
    pub(super) folder: PathBuf,
    pub(super) users: Vec<Arc<User>>,
    /// By number, once all are made.
    pub(super) groups: OnceLock<Vec<Made>>,
    /// Calls that are under way.
    pub(super) calls: TaskTracker,
}

/// The users of groups, in action.
pub(crate) struct GroupTraffic {
    pub(super) stage: Arc<GroupStage>,
    pub(crate) devices: Vec<Arc<GroupDevice>>,
    running: TaskTracker,
}

impl GroupStage {
    /// The text with this number.
    pub(super) fn text(&self, number: u32) -> Arc<str> {
        self.texts[number as usize % self.texts.len()].clone()
    }

    pub(super) fn group(&self, group: No) -> Option<&Made> {
        self.groups.get()?.get(usize::from(group))
    }

    pub(super) fn conversation_id(&self, group: No) -> &str {
        self.group(group)
            .map_or("", |made| made.conversation_id.as_str())
    }

    pub(super) fn user(&self, user: No) -> &Arc<User> {
        &self.users[usize::from(user)]
    }

    pub(super) fn failed(&self, device: No, call: &str, error: &Error) {
        self.recorder.add(Record::Failed {
            t: self.recorder.now(),
            device,
            call: call.to_owned(),
            reason: reason(error),
        });
    }
}

impl GroupTraffic {
    /// Makes the accounts and the groups, and opens the sessions. Nothing is sent yet.
    pub(crate) async fn assemble(
        recorder: Arc<Recorder>,
        deployment: Arc<dyn Deployment>,
        cast: GroupCast,
        texts: &[String],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        // Usernames are unlike those of other runs against the same servers.
        let run = Uuid::new_v4().simple().to_string();
        let user = |number| Arc::new(User::new(number, format!("g{number}-{}", &run[..8])));
        let stage = Arc::new(GroupStage {
            recorder,
            deployment,
            users: (0..cast.users).map(user).collect(),
            texts: texts.iter().map(|text| text.as_str().into()).collect(),
            folder: folder.to_owned(),
            groups: OnceLock::new(),
            calls: TaskTracker::new(),
            cast,
        });
        let roles = &stage.cast.devices;
        // The first devices of all users register, the others log in after them.
        let is_first = |place: usize| place == 0 || roles[place - 1].user != roles[place].user;
        let mut devices = Vec::new();
        for first in [true, false] {
            let places = (0..roles.len()).filter(|place| is_first(*place) == first);
            let some: Vec<Arc<GroupDevice>> = stream::iter(places)
                .map(|place| GroupDevice::install(&stage, roles[place]))
                .buffered(AT_A_TIME)
                .try_collect()
                .await?;
            devices.extend(some);
        }
        devices.sort_by_key(|device| device.role.number);
        introduce(&stage);
        make_groups(&stage, &devices).await?;
        for device in &devices {
            device.begin().await.context("the first session")?;
        }
        Ok(Self {
            stage,
            devices,
            running: TaskTracker::new(),
        })
    }

    /// Lets every device follow its script until told to stop.
    pub(crate) fn begin(&self, seed: u64, size: &Size, stop: &CancellationToken) {
        for device in &self.devices {
            let texts = self.stage.texts.len();
            let script = GroupScript::new(seed, size, &self.stage.cast, device.role, texts);
            self.running
                .spawn(device.clone().follow(script, stop.clone()));
        }
    }

    /// Waits, after the stop, until nobody does anything any more. What is queued stays queued.
    pub(crate) async fn end(&self) {
        for tasks in [&self.running, &self.stage.calls] {
            tasks.close();
            let ended = tokio::time::timeout(CALLS_DEADLINE, tasks.wait()).await;
            if ended.is_err() {
                let what = format!("{} calls of groups did not end", tasks.len());
                self.stage.recorder.add(Record::Unsettled { what });
            }
        }
    }
}

/// Takes down who there is.
fn introduce(stage: &GroupStage) {
    for user in &stage.users {
        stage.recorder.add_group(GroupRecord::User {
            user: user.number,
            id: user.id().to_owned(),
        });
    }
    for role in &stage.cast.devices {
        stage.recorder.add_group(GroupRecord::Device {
            device: role.number,
            user: role.user,
            keeps: role.keeps,
        });
    }
}

/// Each is made by its owner, who also makes the invitation.
async fn make_groups(stage: &Arc<GroupStage>, devices: &[Arc<GroupDevice>]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (number, group) in (0..).zip(&stage.cast.groups) {
        let owner = devices
            .iter()
            .find(|device| device.role.user == group.owner)
            .context("an owner without a device")?;
        // Its connections end with it.
        let ground = owner.ground()?;
        let client = ground.client.clone();
        let office = Office::new(stage, owner.role, client.clone());
        let asked = Asked::Create(group.first.clone());
        let (answer, group_id) = office.ask(number, asked, false).await;
        let group_id = group_id.with_context(|| format!("a group is not made: {answer:?}"))?;
        ensure!(matches!(answer, Answer::Done { .. }), "{answer:?}");
        let conversation_id = group_conversation_id(&group_id);
        stage.recorder.add_group(GroupRecord::Group {
            group: number,
            id: conversation_id.clone(),
            owner: group.owner,
            users: group.users.clone(),
        });
        let invitation = client.groups().create_invitation(&group_id, None, 0).await;
        let (_, token) = invitation.context("an invitation")?;
        all.push(Made {
            group_id,
            conversation_id,
            token,
        });
    }
    // Set once: this is called once.
    let _ = stage.groups.set(all);
    Ok(())
}
