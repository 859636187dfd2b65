//! The other replicas: who owns which user, and what they know of theirs.

use std::{collections::HashMap, time::Duration};

use futures_util::future;
use proto::presence::v1::{GetPresenceRequest, presence_service_client::PresenceServiceClient};
use runtime::{
    auth::{ServiceChannel, ServiceIdentity},
    ids::UserId,
    shards::{self, Shards},
};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    config::Config,
    error::ConfigError,
    get::{Online, UserPresence},
};

/// For the answer of another replica. A screen waits for it, and can be drawn without.
const ANSWER_DEADLINE: Duration = Duration::from_millis(500);

/// All replicas, this one among them.
pub(crate) struct Peers {
    shards: Shards,
    own: usize,
    /// By the numbers of the shards; not used for this one.
    channels: Vec<ServiceChannel>,
}

impl Peers {
    pub(crate) fn new(config: &Config, identity: &ServiceIdentity) -> Result<Self, ConfigError> {
        if config.replicas.is_empty() {
            return Ok(Self {
                shards: Shards::one(),
                own: 0,
                channels: Vec::new(),
            });
        }
        let (shards, channels) = shards::connect(&config.replicas, identity)?;
        let own = (0..shards.len()).find(|replica| shards.name(*replica) == config.name);
        let own = own.ok_or_else(|| ConfigError::Name(config.name.clone()))?;
        Ok(Self {
            shards,
            own,
            channels,
        })
    }

    /// Whether a user's sessions are announced here.
    pub(crate) fn owns(&self, user: UserId) -> bool {
        self.shards.owner(user.as_bytes()) == self.own
    }

    /// Asks the owners of users that are not this one's, all at the same time. Users of a replica that
    /// does not answer are left out.
    pub(crate) async fn ask(&self, users: &[UserId]) -> HashMap<UserId, UserPresence> {
        let mut by_owner: HashMap<usize, Vec<UserId>> = HashMap::new();
        for user in users {
            let owner = self.shards.owner(user.as_bytes());
            by_owner.entry(owner).or_default().push(*user);
        }
        let answers = by_owner.into_iter().map(async |(owner, users)| {
            let answer = self.ask_one(owner, &users).await;
            if let Err(status) = &answer {
                let replica = self.shards.name(owner);
                tracing::debug!(replica, code = ?status.code(), "another replica does not answer");
            }
            users.into_iter().zip(answer.unwrap_or_default())
        });
        let answers = future::join_all(answers).await;
        answers.into_iter().flatten().collect()
    }

    async fn ask_one(&self, owner: usize, users: &[UserId]) -> Result<Vec<UserPresence>, Status> {
        let channel = self.channels.get(owner).cloned();
        let channel = channel.ok_or_else(|| Status::internal("no such replica"))?;
        let request = GetPresenceRequest {
            user_ids: users.iter().map(UserId::to_string).collect(),
        };
        let mut client = PresenceServiceClient::new(channel);
        let answer = timeout(ANSWER_DEADLINE, client.get_presence(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
        let presences = answer.into_inner().presences;
        if presences.len() != users.len() {
            return Err(Status::internal("an answer to another question"));
        }
        let from_wire = |presence: proto::presence::v1::Presence| UserPresence {
            online: match (presence.online, presence.unknown) {
                (true, _) => Online::Yes,
                (false, false) => Online::No,
                (false, true) => Online::Unknown,
            },
            last_seen_unix_ms: presence.last_seen_unix_ms,
        };
        Ok(presences.into_iter().map(from_wire).collect())
    }
}
