//! What groups keeps.

use async_trait::async_trait;
pub use runtime::positions::{LogIdentity, PositionAdvance, ReaderId};
use runtime::{
    ids::{GroupId, UserId},
    positions::PositionError,
};
use uuid::Uuid;

use crate::{
    answer::Answer,
    decide::{Act, Limits, Refusal},
    model::{Group, Invitation, JoinRequest, Member, Role, Roster, Sequenced, Snippet},
};

#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is away or overloaded; the same call may work later. A write may have taken effect all
    /// the same: by its contract, that changes nothing.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store follows another log than the reader. Never goes away.
    #[error("the store follows another log: it has {stored}, the log is {actual}")]
    OtherLog {
        /// What the store recorded first.
        stored: String,
        /// What the reader reads.
        actual: String,
    },
    /// The stored position of a reader is below what it has saved before: the store went back. The
    /// reader must start again from the stored position.
    #[error("the store has a position below the one that was saved")]
    PositionBelowSaved,
    /// Something in the store cannot be understood. Never goes away.
    #[error("the store holds something that cannot be read: {0}")]
    Corrupt(String),
}

impl From<PositionError> for StoreError {
    fn from(error: PositionError) -> Self {
        match error {
            PositionError::OtherLog { stored, actual } => Self::OtherLog { stored, actual },
            PositionError::BelowSaved => Self::PositionBelowSaved,
            PositionError::OutOfRange(_) => Self::Corrupt(error.to_string()),
        }
    }
}

/// What the fan-out needs of the store.
#[async_trait]
pub trait FanoutStore: Send + Sync + 'static {
    /// The stints of a group, and whether it is deferred. Empty if there is no such group.
    async fn roster(&self, group: GroupId) -> Result<Roster, StoreError>;

    /// These groups are deferred, from the event at this seq on, and stay so for good, also when they
    /// shrink: whoever was a member then, and all who join later, have records that say so. Call it
    /// when the records of those who were members are durable, and before the position passes that
    /// event: then nobody is left out by whoever reads this. The first seq stays.
    async fn note_deferred(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError>;

    /// The log has carried out these changes: notes where, and takes them out of the outbox. May come
    /// again.
    async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError>;

    /// Nothing is to be fanned out any more to the members of earlier versions of these groups than
    /// these: forgets the stints that ended at or before them.
    async fn forget_stints(&self, groups: Vec<(GroupId, u64)>) -> Result<(), StoreError>;

    /// Claims the reader for this log and answers its position: the offset of the first record whose
    /// outputs are not known to be durable; 0 at first. Records the log's identity on the first call;
    /// fails with `OtherLog` if it is not the recorded one.
    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError>;

    /// Raises the position of a reader that was opened (never lowers it). Call it only when everything
    /// below is durable (I6). Fails with `PositionBelowSaved` if the stored position is below `from`.
    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError>;

    /// Makes everything answered before survive a loss of power, and answers then.
    async fn sync(&self) -> Result<(), StoreError>;
}

/// What a caller wants done, once.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// Who wants what.
    pub act: Act,
    /// Of which group; that of [`Act`] for a new one, and `None` for
    /// [`crate::decide::Command::Join`], which names an invitation.
    pub group: Option<GroupId>,
    /// By which it is known when it comes again; `None` for what is the same when done twice.
    pub request: Option<RequestKey>,
    /// What may be.
    pub limits: Limits,
}

/// What a request is known by when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// Made by the client; one of each actor.
    pub request_id: Uuid,
    /// Of everything else that the client said.
    pub digest: [u8; 32],
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Of which group.
    pub group: GroupId,
    /// The version that it made; 0 = none.
    pub version: u64,
    /// Where its event is, if that is known; a repetition may know it.
    pub seq: Option<u64>,
    /// For the caller; the first one again, if the request was carried out before.
    pub answer: Answer,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It may not be. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// As many changes of the group wait for the log as may. Nothing was changed.
    #[error("too many changes of the group wait for the log")]
    Busy,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A change that the log has not carried out yet, as far as the store knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outstanding {
    /// Of which group.
    pub group: GroupId,
    /// Which.
    pub version: u64,
    /// The encoded record.
    pub payload: Vec<u8>,
}

/// Changes of a group that may wait for the log; more are refused. A sequencer that is replaced is away
/// for seconds, and a group changes some times a second at most.
pub const OUTSTANDING_PER_GROUP_MAX: usize = 100;
/// How long a request is known by its id, in milliseconds: 7 days, as the contract says.
pub const REQUEST_LIFE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// Groups that a user has left whose names he still sees; the one left longest ago is forgotten first. A
/// list of conversations shows some tens.
pub const PAST_GROUPS_PER_USER_MAX: usize = 1_000;
/// When a change that is not carried out is given to the log again, in milliseconds: longer than it
/// takes from the log and back.
pub const DUE_FIRST_MS: i64 = 2_000;
/// Each time later by twice as much, up to this: a log that takes records which nobody reads must not be
/// filled with repetitions.
pub const DUE_MAX_MS: i64 = 5 * 60 * 1_000;

/// How long after its `tries`th repetition a change is given to the log again, in milliseconds.
pub const fn due_after_ms(tries: u32) -> i64 {
    let factor = 1_i64 << if tries < 20 { tries } else { 20 };
    let after = DUE_FIRST_MS.saturating_mul(factor);
    if after < DUE_MAX_MS {
        after
    } else {
        DUE_MAX_MS
    }
}

/// Groups, their members, and what the log is to be told of them. All processes of the service share
/// one. What was answered survives a loss of power.
#[async_trait]
pub trait Store: FanoutStore {
    /// Carries out a request by [`crate::decide::decide`], with the group locked, and puts what the log
    /// is to be told into the outbox, all or nothing. A request that was carried out before is answered
    /// as it was then; [`Refusal::RequestIdReused`] if its digest is another one.
    async fn change(&self, request: ChangeRequest) -> Result<Changed, ChangeError>;

    /// Where the event of a request is, if that is known.
    async fn seq_of(&self, actor: UserId, request_id: Uuid) -> Result<Option<u64>, StoreError>;

    /// A group, and the role of a member; `None` for everybody else.
    async fn group(
        &self,
        group: GroupId,
        user: UserId,
    ) -> Result<Option<(Group, Role)>, StoreError>;

    /// Up to `limit` groups of a user, by their ids, after `after`.
    async fn groups(
        &self,
        user: UserId,
        after: Option<GroupId>,
        limit: usize,
    ) -> Result<Vec<(Group, Role)>, StoreError>;

    /// Up to `limit` members of a group by their ids, after `after`, and the version at which they are;
    /// `None` if `user` is not a member.
    async fn members(
        &self,
        group: GroupId,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Option<(u64, Vec<Member>)>, StoreError>;

    /// The invitations of a group that are good, the newest first.
    async fn invitations(
        &self,
        group: GroupId,
        now_unix_ms: i64,
    ) -> Result<Vec<Invitation>, StoreError>;

    /// Up to `limit` users who wait to be let in, by their ids, after `after`.
    async fn join_requests(
        &self,
        group: GroupId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<JoinRequest>, StoreError>;

    /// What a user sees of these groups, in any order; those that he never was in, or left too long ago,
    /// are left out.
    async fn snippets(
        &self,
        user: UserId,
        groups: Vec<GroupId>,
    ) -> Result<Vec<Snippet>, StoreError>;

    /// All changes of a group that wait for the log, by version. What is answered survives a loss of
    /// power, so that the log never has what the store has lost.
    async fn outstanding(&self, group: GroupId) -> Result<Vec<Outstanding>, StoreError>;

    /// Up to `limit` groups with changes that are due to be given to the log again. They are due later
    /// from then on, for all processes: see [`due_after_ms`].
    async fn take_due(&self, now_unix_ms: i64, limit: usize) -> Result<Vec<GroupId>, StoreError>;

    /// The log did not take what is due of these groups: it is due again as if it were new.
    async fn put_back(&self, groups: Vec<GroupId>, now_unix_ms: i64) -> Result<(), StoreError>;

    /// Forgets up to `limit` requests that are older than [`REQUEST_LIFE_MS`]. Answers how many.
    async fn forget_requests(&self, now_unix_ms: i64, limit: usize) -> Result<usize, StoreError>;

    /// A random secret of this store, made with it: what tokens of invitations are derived from.
    fn secret(&self) -> [u8; 32];
}
