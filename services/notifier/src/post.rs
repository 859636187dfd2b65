//! The mail that this deployment sends: from whom, by which server, and with which links.

use std::{
    num::NonZeroU32,
    sync::OnceLock,
    time::{Duration, Instant},
};

use data_encoding::BASE32_NOPAD_NOCASE;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use rand::RngExt;
use runtime::{ids::UserId, secret::Secret, status::ApiError};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    http::UNSUBSCRIBE_PATH,
    mail::{self, Mailer, MessageError, SendOutcome, Sender, SmtpSettings},
    model::DueDigest,
    providers::{
        SetupError,
        trust::{Blame, Trust},
    },
    tokens::{Named, Tokens},
};

/// What the local part of an envelope's sender begins with, so that mail that comes back can be told from other
/// mail to the same server.
const BOUNCE_PREFIX: &str = "bounce+";
/// First and longest pause after the mail server could not be reached.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// What is set of mail.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server that takes it.
    pub smtp: SmtpSettings,
    /// Whom it is from, such as `Messenger <no-reply@example.org>`.
    pub from: String,
    /// Where people reach the HTTP listener, such as `https://chat.example.org`: links of digests begin
    /// with it. Empty = the listener's own address, for trying it out.
    #[serde(default)]
    pub public_url: String,
    /// Where the app is opened, if a digest shall have a link to it.
    pub open_url: Option<String>,
    /// The domain that mail comes back to, if somebody reads it there and reports it; else it comes back to
    /// `from`.
    pub bounce_domain: Option<String>,
    /// Where people and mail programs end digests by HTTP.
    pub listen: std::net::SocketAddr,
    /// Mails a second, of each process.
    #[serde(default = "mails_per_second")]
    pub mails_per_second: NonZeroU32,
    /// HTTP connections at the same time: those who end digests are few.
    #[serde(default = "http_connections_max")]
    pub http_connections_max: usize,
}

const fn mails_per_second() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(19)
}

const fn http_connections_max() -> usize {
    256
}

/// Whether mail can be sent so, as far as it can be said without asking anybody.
pub fn check(config: &Config, app_name: &str) -> Result<(), SetupError> {
    Post::open(config.clone(), app_name, &Secret::default()).map(drop)
}

/// Sends mail.
pub(crate) struct Post {
    mailer: Mailer,
    sender: Sender,
    pub(crate) tokens: Tokens,
    pub(crate) config: Config,
    /// Once it is known.
    public_url: OnceLock<String>,
    rate: DefaultDirectRateLimiter,
    away: Mutex<Away>,
    trust: Trust,
}

/// That the mail server could not be reached.
#[derive(Default)]
struct Away {
    until: Option<Instant>,
    /// In a row, one for each pause.
    failures: u32,
}

impl Post {
    /// Connects to nobody yet.
    pub(crate) fn open(
        config: Config,
        app_name: &str,
        secret: &Secret,
    ) -> Result<Self, SetupError> {
        let sender =
            Sender::new(&config.from, app_name).map_err(|problem| setting("mail.from", problem))?;
        let mailer = Mailer::open(&config.smtp)?;
        let public_url = OnceLock::new();
        if !config.public_url.is_empty() {
            let url = config.public_url.trim_end_matches('/');
            if !(url.starts_with("https://") || url.starts_with("http://")) {
                return Err(setting(
                    "mail.public_url",
                    "must begin with https://".to_owned(),
                ));
            }
            let _ = public_url.set(url.to_owned());
        }
        if let Some(domain) = &config.bounce_domain
            && mail::parse_address(&format!("bounce@{domain}")).is_none()
        {
            return Err(setting("mail.bounce_domain", "not a domain".to_owned()));
        }
        Ok(Self {
            mailer,
            sender,
            tokens: Tokens::new(secret),
            rate: RateLimiter::direct(Quota::per_second(config.mails_per_second)),
            config,
            public_url,
            away: Mutex::default(),
            trust: Trust::default(),
        })
    }

    /// Links begin with this, if the settings say nothing else.
    pub(crate) fn listens_at(&self, address: std::net::SocketAddr) {
        let _ = self.public_url.set(format!("http://{address}"));
    }

    /// How long the mail server is left alone yet.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.away.lock().pause()
    }

    /// An error if the mail server is left alone now.
    pub(crate) fn check_up(&self) -> Result<(), ApiError> {
        match self.pause() {
            None => Ok(()),
            Some(_) => Err(ApiError::unavailable(&"the mail server is away")),
        }
    }

    /// Sends a code to an address that is to be confirmed.
    pub(crate) async fn send_code(&self, user: UserId, address: &str, code: &str) -> SendOutcome {
        let id = self.message_id(
            "code",
            &[
                user.as_bytes(),
                code.as_bytes(),
                &rand::random::<[u8; 16]>(),
            ],
        );
        let bytes = mail::confirmation(&self.sender, address, code, &id);
        self.send(user, address, bytes).await
    }

    /// Sends the digest of a period. A period has one Message-ID, however often it is sent.
    pub(crate) async fn send_digest(&self, due: &DueDigest, digest: &mail::Digest) -> SendOutcome {
        let bytes = mail::digest(&self.sender, digest);
        match self.send(due.user, &due.email.address, bytes).await {
            // Codes do not count here: everybody may have one sent to an address that is none.
            SendOutcome::HardBounce => match self.trust.blame() {
                Blame::Device => SendOutcome::HardBounce,
                Blame::Unknown => SendOutcome::SoftBounce,
                Blame::Settings => {
                    tracing::error!("the mail server knows no address at all: all mail waits");
                    self.note(SendOutcome::Unavailable);
                    SendOutcome::Unavailable
                }
            },
            outcome => outcome,
        }
    }

    /// What a digest needs besides what it tells of: its id and its links.
    pub(crate) fn digest_id(&self, due: &DueDigest) -> String {
        let parts = [&due.user.as_bytes()[..], &due.due_unix_ms.to_be_bytes()];
        self.message_id("digest", &parts)
    }

    /// Where the reader of a digest ends them.
    pub(crate) fn unsubscribe_url(&self, due: &DueDigest) -> String {
        let token = self.tokens.make(due.user, &due.email.address);
        let base = self.public_url.get().map_or("", String::as_str);
        format!("{base}{UNSUBSCRIBE_PATH}{token}")
    }

    /// Whom the mail was for that came back to this local part or address of ours.
    pub(crate) fn sent_for(&self, envelope_sender: &str) -> Option<Named> {
        let local = envelope_sender.split('@').next()?;
        let prefix = local.get(..BOUNCE_PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(BOUNCE_PREFIX) {
            return None;
        }
        self.tokens.check(local.get(BOUNCE_PREFIX.len()..)?)
    }

    fn message_id(&self, kind: &str, parts: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        let hash = hash.finalize();
        let name = BASE32_NOPAD_NOCASE.encode(&hash[..16]).to_ascii_lowercase();
        format!("{kind}.{name}@{}", self.sender.domain())
    }

    async fn send(
        &self,
        user: UserId,
        address: &str,
        mail: Result<Vec<u8>, MessageError>,
    ) -> SendOutcome {
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => {
                tracing::error!(%error, "a mail cannot be written");
                return SendOutcome::Refused;
            }
        };
        self.rate.until_ready().await;
        let from = match &self.config.bounce_domain {
            Some(domain) => {
                let token = self.tokens.make(user, address);
                format!("{BOUNCE_PREFIX}{token}@{domain}")
            }
            None => self.sender.address().to_owned(),
        };
        let outcome = self.mailer.send(&from, address, &mail).await;
        self.note(outcome);
        if outcome == SendOutcome::Taken {
            self.trust.proven();
        }
        outcome
    }

    /// Leaves a server that is away alone, longer each time. Beginning and end are logged once.
    fn note(&self, outcome: SendOutcome) {
        let mut away = self.away.lock();
        if outcome != SendOutcome::Unavailable {
            if std::mem::take(&mut *away).failures > 0 {
                tracing::info!("the mail server is there again");
            }
            return;
        }
        // Of mails that were on their way together, one counts.
        if away.pause().is_some() {
            return;
        }
        if away.failures == 0 {
            tracing::warn!("the mail server is away: what is to be sent waits");
        }
        let pause = PAUSE_MIN.saturating_mul(1 << away.failures.min(16));
        // Processes come back one after the other.
        let spread = rand::rng().random_range(0.5..1.0);
        away.until = Some(Instant::now() + pause.min(PAUSE_MAX).mul_f64(spread));
        away.failures = away.failures.saturating_add(1);
    }
}

impl Away {
    fn pause(&self) -> Option<Duration> {
        let left = self.until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }
}

fn setting(key: &'static str, problem: String) -> SetupError {
    SetupError::Setting { key, problem }
}
