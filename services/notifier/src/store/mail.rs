//! What becomes of an address, in one place for both adapters: they read its row under a lock, ask here, and
//! write it.

use sha2::{Digest, Sha256};

use super::{Confirmation, EmailReport};
use crate::{
    limits::{CONFIRMATION_LIFE, CONFIRMATION_TRIES_MAX, CONFIRMATIONS_PER_DAY, SOFT_BOUNCES_MAX},
    model::{DigestMail, DueDigest, Email, EmailDisabled, FinishedDigest, Preferences},
};

/// The time in which mails with a code are counted.
const COUNTED_MS: i64 = 24 * 60 * 60 * 1_000;
/// Rows of mails that are too old to be counted and go with a new one: more than one, so that there never
/// are many more of them than mails of a day.
pub(super) const MAILS_CLEANED_MAX: usize = 64;

/// A row of `emails`. Not `Debug`: who knows the hash of a code can try all codes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct EmailRow {
    pub(super) email: Email,
    /// In a row, one for each mail.
    pub(super) soft_bounces: u32,
    /// The last mail is among them.
    pub(super) last_bounced: bool,
    /// That confirms, or has confirmed it.
    pub(super) code: Option<Code>,
    /// Only where mail is sent: confirmed, not disabled, and wanted.
    pub(super) next_digest_unix_ms: Option<i64>,
    /// Of the next digest; 0 = nobody has claimed it.
    pub(super) claimed_until_unix_ms: i64,
    /// Of the newest message that a digest has told of; 0 = none has.
    pub(super) told_unix_ms: i64,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) hash: [u8; 32],
    pub(super) since_unix_ms: i64,
    /// Wrong ones that were tried.
    pub(super) tries: u32,
}

/// What became of a code that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The address is confirmed now; when the next digest is due is to be set.
    Confirmed,
    /// It was before, by this code: the answer was lost.
    Again,
    /// It is not the code; that was counted.
    Wrong,
    /// Nothing can confirm it any more, or there is nothing to confirm.
    Nothing,
}

impl EmailRow {
    /// A new address, to be confirmed.
    pub(super) fn given(confirmation: &Confirmation) -> Self {
        Self {
            email: Email {
                address: confirmation.address.clone(),
                confirmed: false,
                disabled: None,
            },
            soft_bounces: 0,
            last_bounced: false,
            code: Some(Code {
                hash: confirmation.code_hash,
                since_unix_ms: confirmation.now_unix_ms,
                tries: 0,
            }),
            next_digest_unix_ms: None,
            claimed_until_unix_ms: 0,
            told_unix_ms: 0,
        }
    }

    /// Whether mail is sent there.
    pub(super) const fn is_good(&self) -> bool {
        self.email.confirmed && self.email.disabled.is_none()
    }

    /// Whether there is nothing to confirm: it is good, and this address.
    pub(super) fn is_confirmed_as(&self, confirmation: &Confirmation) -> bool {
        self.is_good() && self.email.address == confirmation.address
    }

    /// Looks whether this is the code. The comparison need not take the same time for all: what is compared
    /// are hashes, of which nobody can choose the first bytes without knowing the code.
    pub(super) fn show(&mut self, code_hash: &[u8; 32], now_unix_ms: i64) -> Shown {
        let life_ms = i64::try_from(CONFIRMATION_LIFE.as_millis()).unwrap_or(i64::MAX);
        let code = match &mut self.code {
            Some(code)
                if now_unix_ms.saturating_sub(code.since_unix_ms) <= life_ms
                    && code.tries < CONFIRMATION_TRIES_MAX =>
            {
                code
            }
            Some(_) | None => return Shown::Nothing,
        };
        if code.hash != *code_hash {
            code.tries += 1;
            return Shown::Wrong;
        }
        if self.email.confirmed {
            return Shown::Again;
        }
        self.email.confirmed = true;
        self.email.disabled = None;
        Shown::Confirmed
    }

    /// The next digest is due then. One that is due at the same time as before stays claimed.
    pub(super) fn move_digest(&mut self, next_unix_ms: Option<i64>) {
        let next_unix_ms = next_unix_ms.filter(|_| self.is_good());
        if self.next_digest_unix_ms != next_unix_ms {
            self.next_digest_unix_ms = next_unix_ms;
            self.claimed_until_unix_ms = 0;
        }
    }

    /// Counts what was met there, and answers whether that has disabled it. One that is not confirmed
    /// gets no mail but one with a code, so nothing is to be disabled.
    pub(super) fn report(&mut self, report: EmailReport) -> bool {
        if !self.is_good() {
            return false;
        }
        let disabled = match report {
            // Of this mail it is known.
            EmailReport::SoftBounce if self.last_bounced => None,
            EmailReport::SoftBounce => {
                self.last_bounced = true;
                self.soft_bounces = self.soft_bounces.saturating_add(1);
                (self.soft_bounces >= SOFT_BOUNCES_MAX).then_some(EmailDisabled::Bounced)
            }
            EmailReport::HardBounce | EmailReport::Complaint => report.disables(),
        };
        if disabled.is_some() {
            self.email.disabled = disabled;
            // The code of the mail of then does not enable it again.
            self.code = None;
            self.move_digest(None);
        }
        disabled.is_some()
    }
}

impl EmailRow {
    /// See [`super::Store::is_claimed`].
    pub(super) fn is_claimed(&self, due: &DueDigest, lease_until_unix_ms: i64) -> bool {
        self.is_good()
            && self.email.address == due.email.address
            && self.next_digest_unix_ms == Some(due.due_unix_ms)
            && self.claimed_until_unix_ms == lease_until_unix_ms
            && self.told_unix_ms == due.told_unix_ms
    }

    /// See [`super::Store::finish_digest`].
    pub(super) fn finish(&mut self, finished: &FinishedDigest) {
        let FinishedDigest {
            due,
            next_unix_ms,
            mail,
        } = finished;
        if self.next_digest_unix_ms == Some(due.due_unix_ms) {
            self.next_digest_unix_ms = next_unix_ms.filter(|_| self.is_good());
            self.claimed_until_unix_ms = 0;
        }
        if self.email.address != due.email.address {
            return;
        }
        match mail {
            DigestMail::None => {}
            DigestMail::Taken { told_unix_ms } => {
                self.told_unix_ms = self.told_unix_ms.max(*told_unix_ms);
                self.begin_mail();
            }
            DigestMail::SoftBounce => {
                self.begin_mail();
                self.report(EmailReport::SoftBounce);
            }
            DigestMail::HardBounce => {
                self.report(EmailReport::HardBounce);
            }
        }
    }

    /// Another mail was sent. If nothing was heard of the one before, it has arrived.
    const fn begin_mail(&mut self) {
        if !self.last_bounced {
            self.soft_bounces = 0;
        }
        self.last_bounced = false;
    }
}

/// Whether a change moves digests.
pub(super) fn moves_digests(before: &Preferences, after: &Preferences) -> bool {
    let of = |it: &Preferences| (it.digest, it.digest_hour, it.time_zone.clone());
    of(before) != of(after)
}

/// The address as mails to it are counted: capitals and small letters reach the same mailbox nearly
/// everywhere. A hash, because the address itself is not needed.
pub(super) fn counted_address(address: &str) -> [u8; 32] {
    Sha256::digest(address.to_ascii_lowercase()).into()
}

/// Mails before this time are not counted any more.
pub(super) const fn counted_since(now_unix_ms: i64) -> i64 {
    now_unix_ms.saturating_sub(COUNTED_MS)
}

/// How many of the newest mails are to be looked at.
pub(super) const MAILS_LOOKED_AT: usize = CONFIRMATIONS_PER_DAY as usize;

/// In how many milliseconds another mail may be sent, if not now: when the oldest of the newest ones, which
/// are given newest first, is not counted any more.
pub(super) fn wait_ms(newest: &[i64], now_unix_ms: i64) -> Option<u64> {
    let oldest = newest.get(MAILS_LOOKED_AT.checked_sub(1)?)?;
    let wait_ms = oldest
        .saturating_add(COUNTED_MS)
        .saturating_sub(now_unix_ms);
    Some(u64::try_from(wait_ms).unwrap_or(0).max(1))
}
