//! Addresses of users: given, confirmed with the code of a mail, and disabled by what comes back.

use proto::{error::v1::ErrorReason, notifier::v1 as pb};
use rand::RngExt;
use runtime::{ids::UserId, status::ApiError};
use sha2::{Digest, Sha256};

use crate::{
    Service,
    mail::{self, SendOutcome},
    model::Email,
    post::Post,
    store::{Confirmation, EmailGiven, EmailReport, StoreError},
};

/// Codes there are: six digits.
const CODES: u32 = 1_000_000;
/// Reports of a call.
const REPORTS_MAX: usize = 500;
/// Users of one address that a report of it is about. More have it only by attack, and each needs a code of its
/// mailbox.
const USERS_PER_ADDRESS_MAX: usize = 100;

fn no_mail() -> ApiError {
    let message = "this server sends no mail";
    ApiError::new(ErrorReason::PushProviderDisabled, message)
}

fn wrong_address(message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, "address", message)
}

/// Of the code and the user: of no use to anybody else.
fn code_hash(user: UserId, code: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update(user.as_bytes());
    hash.chain_update(code.as_bytes()).finalize().into()
}

impl Service {
    fn post(&self) -> Result<&Post, ApiError> {
        self.mail.as_deref().ok_or_else(no_mail)
    }

    /// See `NotifierService.SetEmailAddress`.
    pub(crate) async fn set_email(&self, user: UserId, address: &str) -> Result<Email, ApiError> {
        let post = self.post()?;
        let Some(address) = mail::parse_address(address) else {
            return Err(wrong_address("an e-mail address such as ann@example.org"));
        };
        // A mail that cannot be sent now must not count.
        post.check_up()?;
        let code = format!("{:06}", rand::rng().random_range(0..CODES));
        let confirmation = Confirmation {
            user,
            address,
            code_hash: code_hash(user, &code),
            now_unix_ms: self.clock.now_unix_ms(),
        };
        match self.store.count_confirmation(confirmation.clone()).await? {
            EmailGiven::AlreadyConfirmed => {}
            // Not before the mail was taken: who gives one that does not exist, or while the mail server is away,
            // keeps the one that he has.
            EmailGiven::ToConfirm => {
                self.send_code(post, user, &confirmation.address, &code)
                    .await?;
                self.store.give_email(confirmation).await?;
            }
            EmailGiven::TooMany { retry_after_ms } => {
                return Err(ApiError::retry_after(
                    ErrorReason::TooManyAttempts,
                    "as many mails as may be were sent for this user, or to this address, in a day",
                    std::time::Duration::from_millis(retry_after_ms),
                ));
            }
        }
        self.store.email(user).await?.ok_or_else(|| {
            let message = "the address was removed meanwhile";
            ApiError::new(ErrorReason::ConfirmationInvalid, message)
        })
    }

    async fn send_code(
        &self,
        post: &Post,
        user: UserId,
        address: &str,
        code: &str,
    ) -> Result<(), ApiError> {
        match post
            .send_code(user, address, code, self.clock.now_unix_ms())
            .await
        {
            SendOutcome::Taken => Ok(()),
            SendOutcome::HardBounce(_) => Err(wrong_address(
                "its mail server says that there is no such address",
            )),
            SendOutcome::SoftBounce(_)
            | SendOutcome::Refused { .. }
            | SendOutcome::Unavailable { .. } => Err(ApiError::unavailable(
                &"the mail with the code was not taken",
            )),
        }
    }

    /// See `NotifierService.ConfirmEmailAddress`.
    pub(crate) async fn confirm_email(&self, user: UserId, code: &str) -> Result<Email, ApiError> {
        self.post()?;
        let (hash, now) = (code_hash(user, code.trim()), self.clock.now_unix_ms());
        let confirmed = self
            .store
            .confirm_email(user, hash, now, self.next_digest());
        confirmed.await?.ok_or_else(|| {
            ApiError::field(
                ErrorReason::ConfirmationInvalid,
                "code",
                "not the code of the last mail, or too old, or too many wrong ones were tried",
            )
        })
    }

    /// See `EmailReportService.ReportEmails`.
    pub(crate) async fn report_emails(
        &self,
        reports: Vec<pb::EmailReport>,
    ) -> Result<usize, ApiError> {
        if reports.is_empty() || reports.len() > REPORTS_MAX {
            let why = format!("1 to {REPORTS_MAX} reports");
            return Err(ApiError::field(
                ErrorReason::FieldOutOfRange,
                "reports",
                why,
            ));
        }
        let mut known = Vec::new();
        for (at, report) in reports.into_iter().enumerate() {
            let kind = match report.kind() {
                pb::EmailReportKind::HardBounce => EmailReport::HardBounce,
                pb::EmailReportKind::SoftBounce => EmailReport::SoftBounce,
                pb::EmailReportKind::Complaint => EmailReport::Complaint,
                pb::EmailReportKind::Unspecified => {
                    let field = format!("reports[{at}].kind");
                    let why = "one of the values of EmailReportKind";
                    return Err(ApiError::field(ErrorReason::FieldOutOfRange, field, why));
                }
            };
            for (user, address) in self.reported(at, report.about).await? {
                known.push((user, address, kind));
            }
        }
        Ok(self.store.report_emails(known).await?)
    }

    /// Whose address a report is about. One that nobody has is nobody's.
    async fn reported(
        &self,
        at: usize,
        about: Option<pb::email_report::About>,
    ) -> Result<Vec<(UserId, String)>, ApiError> {
        use pb::email_report::About;
        match about {
            Some(About::Address(address)) => {
                let Some(address) = mail::parse_address(&address) else {
                    return Ok(Vec::new());
                };
                let users = self
                    .store
                    .users_of_email(address.clone(), USERS_PER_ADDRESS_MAX)
                    .await?;
                Ok(users
                    .into_iter()
                    .map(|user| (user, address.clone()))
                    .collect())
            }
            Some(About::EnvelopeSender(sender)) => {
                let named = self.mail.as_ref().and_then(|post| post.sent_for(&sender));
                let Some(named) = named else {
                    return Ok(Vec::new());
                };
                let email: Result<_, StoreError> = self.store.email(named.user).await;
                let email = email?.filter(|email| named.is_of(&email.address));
                Ok(email
                    .into_iter()
                    .map(|email| (named.user, email.address))
                    .collect())
            }
            None => {
                let field = format!("reports[{at}].about");
                let why = "an address, or the sender of the envelope";
                Err(ApiError::field(ErrorReason::FieldRequired, field, why))
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "distributed")]
mod tests;
