//! Changes: decided and durable in the store, then in the log, then seen.

use std::time::Duration;

use runtime::ids::{GroupId, UserId};
use uuid::Uuid;

use crate::{
    Service,
    answer::Answer,
    decide::{Act, Command, Refusal},
    error::Error,
    store::{ChangeRequest, RequestKey},
    tokens,
};

/// How long a call waits until the event of its change was seen, as the contract says.
const SEEN_DEADLINE: Duration = Duration::from_secs(5);
/// How often the store is looked at meanwhile: another replica may be the one that sees the event.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Who wants something, and by which id it is known when it comes again.
pub(crate) struct Wish {
    pub(crate) actor: UserId,
    pub(crate) request: Option<RequestKey>,
    pub(crate) group: Option<GroupId>,
    pub(crate) if_version: u64,
}

/// What became of it.
pub(crate) struct Done {
    pub(crate) answer: Answer,
    /// Where its event is; 0 if there is none, or it was not seen in time.
    pub(crate) seq: u64,
}

impl Service {
    /// Makes a group.
    pub(crate) async fn create(&self, wish: Wish, command: Command) -> Result<Done, Error> {
        self.check_change_rate(wish.actor)?;
        if !self.directory.all_exist(command.targets()).await? {
            return Err(Error::UserNotFound);
        }
        let group = Some(GroupId::generate());
        self.carry_out(Wish { group, ..wish }, command).await
    }

    /// Adds members.
    pub(crate) async fn add(&self, wish: Wish, command: Command) -> Result<Done, Error> {
        self.check_change_rate(wish.actor)?;
        if !self.directory.all_exist(command.targets()).await? {
            // Whoever is not a member hears nothing else of the group.
            if let Some(group) = wish.group {
                self.role(group, wish.actor).await?;
            }
            return Err(Error::UserNotFound);
        }
        self.carry_out(wish, command).await
    }

    /// Every other change.
    pub(crate) async fn change(&self, wish: Wish, command: Command) -> Result<Done, Error> {
        self.check_change_rate(wish.actor)?;
        self.carry_out(wish, command).await
    }

    /// Makes an invitation; answers its token besides.
    pub(crate) async fn invite(
        &self,
        wish: Wish,
        request_id: Uuid,
        expires_in: Duration,
        uses_max: u32,
    ) -> Result<(Done, String), Error> {
        self.check_change_rate(wish.actor)?;
        let token = tokens::token(&self.store.secret(), wish.actor, request_id);
        let token_hash = tokens::token_hash(&token).ok_or(Refusal::InvitationInvalid)?;
        let life_ms = i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
        let expires_unix_ms = match life_ms {
            0 => 0,
            life_ms => self.clock.now_unix_ms().saturating_add(life_ms),
        };
        let command = Command::Invite {
            invitation_id: Uuid::now_v7(),
            token_hash,
            expires_unix_ms,
            uses_max,
        };
        Ok((self.carry_out(wish, command).await?, token))
    }

    async fn carry_out(&self, wish: Wish, command: Command) -> Result<Done, Error> {
        let Wish {
            actor,
            request,
            group,
            if_version,
        } = wish;
        let act = Act {
            actor,
            command,
            // Of a new group; otherwise not looked at.
            group_id: group.unwrap_or_else(GroupId::generate),
            if_version,
            now_unix_ms: self.clock.now_unix_ms(),
        };
        let changed = self
            .store
            .change(ChangeRequest {
                act,
                group,
                request,
                limits: self.limits,
            })
            .await?;
        let seq = match (changed.version, changed.seq, request) {
            (0, ..) | (_, None, None) => 0,
            (_, Some(seq), _) => seq,
            (version, None, Some(key)) => {
                let seen = self.seen(changed.group, version, actor, key.request_id);
                tokio::time::timeout(SEEN_DEADLINE, seen).await.unwrap_or(0)
            }
        };
        Ok(Done {
            answer: changed.answer,
            seq,
        })
    }

    /// Gives a change to the log and waits until its event was seen, by this process or another one.
    async fn seen(&self, group: GroupId, version: u64, actor: UserId, request_id: Uuid) -> u64 {
        let mut wait = self.waiting.wait_for(group, version);
        let look = async {
            // If this fails, the sweep does it: the caller need not hear of it.
            let _ = self.relay.relay(group).await;
            let mut pause = LOOK_FIRST;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_MAX);
                if let Ok(Some(seq)) = self.store.seq_of(actor, request_id).await {
                    return seq;
                }
            }
        };
        tokio::select! {
            seq = wait.seq() => seq,
            seq = look => seq,
        }
    }

    fn check_change_rate(&self, user: UserId) -> Result<(), Error> {
        crate::reads::check(&self.changes, user)
    }
}
