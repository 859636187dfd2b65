//! What the notifier keeps: where devices take pushes, what users want, who was told of what, what is to
//! come later, and how far readers are. Every adapter passes `suite`.
//!
//! What is asked for by time comes with the caller's clock. Where the clocks of two processes differ, a claim
//! ends for one of them earlier by that, and what it stands for may be done twice: a record that comes twice
//! is pushed once, and a digest that is sent twice has one Message-ID. Leases are minutes, clocks that are
//! kept in time differ by less.

use async_trait::async_trait;
pub use runtime::positions::{LogIdentity, PositionAdvance, ReaderId};
use runtime::{
    ids::{DeviceId, InvalidId, UserId},
    positions::PositionError,
};

use crate::model::{
    DeviceSubject, DeviceTarget, DigestPeriod, DueDigest, Email, EmailDisabled, FinishedDigest,
    Held, Preferences, PreviewDetail, ProviderKind, QuietHours, Subject, Told,
};

mod batch;
mod mail;
#[cfg(feature = "distributed")]
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

/// How long it is remembered that a device was logged out: longer than an access token of its is good, and
/// than a day of clocks that differ by hours.
const FORGOTTEN_LIFE_MS: i64 = 2 * 24 * 60 * 60 * 1_000;
/// Rows of that kind that a log-out of others cleans up: more than log-outs come in a batch, mostly.
const FORGOTTEN_CLEANED_MAX: usize = 256;

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

impl From<InvalidId> for StoreError {
    fn from(error: InvalidId) -> Self {
        Self::Corrupt(error.to_string())
    }
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

/// What a user changes; `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreferencesChange {
    /// See [`Preferences`].
    pub push: Option<bool>,
    /// See [`Preferences`].
    pub preview: Option<PreviewDetail>,
    /// See [`Preferences`].
    pub mentions_pierce_mute: Option<bool>,
    /// See [`Preferences`].
    pub quiet_hours: Option<QuietHours>,
    /// See [`Preferences`].
    pub time_zone: Option<String>,
    /// See [`Preferences`].
    pub digest: Option<DigestPeriod>,
    /// See [`Preferences`].
    pub digest_hour: Option<u8>,
}

impl PreferencesChange {
    /// The preferences after it.
    pub fn applied_to(self, before: Preferences) -> Preferences {
        Preferences {
            push: self.push.unwrap_or(before.push),
            preview: self.preview.unwrap_or(before.preview),
            mentions_pierce_mute: self
                .mentions_pierce_mute
                .unwrap_or(before.mentions_pierce_mute),
            quiet_hours: self.quiet_hours.unwrap_or(before.quiet_hours),
            time_zone: self.time_zone.unwrap_or(before.time_zone),
            digest: self.digest.unwrap_or(before.digest),
            digest_hour: self.digest_hour.unwrap_or(before.digest_hour),
            version: before.version.saturating_add(1),
        }
    }
}

/// What became of a change of preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Updated {
    /// They are these now.
    Changed(Preferences),
    /// They were not at the version named; nothing was changed.
    OtherVersion,
}

/// An address that is to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Whose.
    pub user: UserId,
    /// Valid, with its domain in lower case.
    pub address: String,
    /// Of the code and the user; the code itself is only in the mail.
    pub code_hash: [u8; 32],
    /// In Unix milliseconds.
    pub now_unix_ms: i64,
}

/// What became of an address that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmailGiven {
    /// A mail with the code is to be sent.
    ToConfirm,
    /// It is the user's confirmed address, and not disabled: there is nothing to do.
    AlreadyConfirmed,
    /// As many mails as may be were sent for this user, or to this address, in the last day: nothing was
    /// changed. In how many milliseconds another one may be.
    TooMany {
        /// In how many milliseconds another one may be sent.
        retry_after_ms: u64,
    },
}

/// What others say of mail to an address that was taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmailReport {
    /// No such address.
    HardBounce,
    /// Not now. Counts once for each mail that was sent.
    SoftBounce,
    /// Called junk.
    Complaint,
}

/// What a reader of `offline` has done, in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// How far devices are told now. Merged by the larger of each part.
    pub told: Vec<(DeviceSubject, Told)>,
    /// What is to come again later.
    pub held: Vec<Held>,
    /// Devices that are gone: forgotten if this is still their target.
    pub gone: Vec<DeviceTarget>,
}

/// All processes of the service share one. Answers are durable as the one-process form's are: after a crash
/// of the process at once, after a loss of power once [`Store::sync`] has answered.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- targets ---------------------------------------------------------------------------------------

    /// The device takes pushes here from now on, and at no other place; no other device takes them here.
    /// A device that was logged out ([`Store::forget_devices`]) stays forgotten: answers false then.
    async fn put_target(&self, target: DeviceTarget, now_unix_ms: i64) -> Result<bool, StoreError>;

    /// The device takes no pushes; nothing to do if it took none.
    async fn remove_target(&self, user: UserId, device: DeviceId) -> Result<(), StoreError>;

    /// The targets of some users that a provider serves, in any order; at most
    /// [`crate::limits::TARGETS_PER_USER_MAX`] of each user. One query.
    async fn targets(
        &self,
        kind: ProviderKind,
        users: Vec<UserId>,
    ) -> Result<Vec<DeviceTarget>, StoreError>;

    /// Devices that were logged out take no pushes any more, whatever comes for them later, and the position
    /// of the reader moves, in one step. May come again. Device ids are never used again, so what is
    /// remembered of them may be forgotten a day later: no access token of theirs is good then.
    async fn forget_devices(
        &self,
        devices: Vec<(UserId, DeviceId)>,
        now_unix_ms: i64,
        advance: PositionAdvance,
    ) -> Result<(), StoreError>;

    // --- preferences -------------------------------------------------------------------------------------

    /// Of some users, in the order asked; the default for who has never changed them. One query.
    async fn preferences(&self, users: Vec<UserId>) -> Result<Vec<Preferences>, StoreError>;

    /// Changes what is given, if they are at `if_version` (0 = whatever it is). If the change moves digests,
    /// the next one is due at `next_digest_unix_ms(changed)`.
    async fn update_preferences(
        &self,
        user: UserId,
        change: PreferencesChange,
        if_version: u64,
        next_digest_unix_ms: NextDigest,
    ) -> Result<Updated, StoreError>;

    // --- who was told of what ------------------------------------------------------------------------------

    /// How far devices were told of conversations, in the order asked; zero for who was never told. One
    /// query.
    async fn told(&self, subjects: Vec<DeviceSubject>) -> Result<Vec<Told>, StoreError>;

    /// Keeps what a provider's reader has done at `now_unix_ms`. Moves no position: that is saved when
    /// everything below it is kept.
    async fn settle(&self, settled: Settled, now_unix_ms: i64) -> Result<(), StoreError>;

    /// Forgets who was told of what before this and not since, at most `limit`, the oldest first, and answers
    /// how many it forgot: records older than the log keeps do not come again. What was told several times
    /// may be forgotten an hour later than it could be.
    async fn forget_told(&self, before_unix_ms: i64, limit: usize) -> Result<usize, StoreError>;

    // --- what is to come later -------------------------------------------------------------------------------

    /// What is held and due, the earliest first, at most `limit`, each claimed until `lease_until_unix_ms`:
    /// nobody else gets it before.
    async fn claim_held(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError>;

    /// It is in the log again: forgets what is claimed until this time still. What was put off anew
    /// meanwhile is not: it stays.
    async fn forget_held(
        &self,
        held: Vec<Subject>,
        lease_until_unix_ms: i64,
    ) -> Result<(), StoreError>;

    // --- mail --------------------------------------------------------------------------------------------------

    /// Whether a mail with the code is to be sent to an address that a user gives; counts it then, for the
    /// user and for the address. Changes nothing else.
    async fn count_confirmation(
        &self,
        confirmation: Confirmation,
    ) -> Result<EmailGiven, StoreError>;

    /// An address of a user, to be confirmed by the code of the mail that was sent there. Replaces what was
    /// there before, unless it is the same, confirmed and not disabled.
    async fn give_email(&self, confirmation: Confirmation) -> Result<(), StoreError>;

    /// The code was shown: the address is confirmed and not disabled, and the next digest is due at
    /// `next_digest_unix_ms` of the user's preferences. `None`: not the code, too old, tried too often, or
    /// there is none to confirm; a wrong one counts.
    async fn confirm_email(
        &self,
        user: UserId,
        code_hash: [u8; 32],
        now_unix_ms: i64,
        next_digest_unix_ms: NextDigest,
    ) -> Result<Option<Email>, StoreError>;

    /// The address of a user.
    async fn email(&self, user: UserId) -> Result<Option<Email>, StoreError>;

    /// Nothing to do if there is none.
    async fn remove_email(&self, user: UserId) -> Result<(), StoreError>;

    /// What mail to addresses of users met, by user: ignored unless it is still the user's address. Answers
    /// how many were disabled by it.
    async fn report_emails(
        &self,
        reports: Vec<(UserId, String, EmailReport)>,
    ) -> Result<usize, StoreError>;

    /// The users of an address, at most `limit`: several may have the same one.
    async fn users_of_email(
        &self,
        address: String,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError>;

    // --- digests -------------------------------------------------------------------------------------------------

    /// Digests that are due, the earliest first, at most `limit`: of users with a confirmed address that is
    /// not disabled, and who want them. Each is claimed until `lease_until_unix_ms`: nobody else gets it
    /// before.
    async fn claim_digests(
        &self,
        now_unix_ms: i64,
        lease_until_unix_ms: i64,
        limit: usize,
    ) -> Result<Vec<DueDigest>, StoreError>;

    /// Whether the digest is due as it was claimed until then, to the same address and by the same preferences,
    /// and nobody else has claimed it since.
    async fn is_claimed(
        &self,
        due: DueDigest,
        lease_until_unix_ms: i64,
    ) -> Result<bool, StoreError>;

    /// What became of its mail is kept, if it is still the user's address; and the next digest is due at its
    /// time, unless the period is not the one that is due: it was finished before, or moved.
    async fn finish_digest(&self, finished: FinishedDigest) -> Result<(), StoreError>;

    // --- positions -------------------------------------------------------------------------------------------------

    /// Claims the reader for this log and answers its position: the offset of the first record that is not
    /// known to be dealt with; 0 at first. Fails with `OtherLog` if it is not the log recorded first.
    async fn open_reader(&self, reader: ReaderId, log: LogIdentity) -> Result<u64, StoreError>;

    /// Raises the position of a reader that was opened (I6). Fails with `PositionBelowSaved` and changes
    /// nothing if the stored position is below `advance.from`.
    async fn save_position(&self, advance: PositionAdvance) -> Result<(), StoreError>;

    /// Makes everything answered before survive a loss of power, and answers then.
    async fn sync(&self) -> Result<(), StoreError>;
}

/// When the next digest of a user with these preferences is due, in Unix milliseconds; `None` = never. A
/// function, because a store knows what the preferences are only in the transaction that changes them.
pub type NextDigest = std::sync::Arc<dyn Fn(&Preferences) -> Option<i64> + Send + Sync>;

impl EmailReport {
    /// Why the address is disabled at once by it.
    pub const fn disables(self) -> Option<EmailDisabled> {
        match self {
            Self::HardBounce => Some(EmailDisabled::Bounced),
            Self::Complaint => Some(EmailDisabled::Complained),
            Self::SoftBounce => None,
        }
    }
}
