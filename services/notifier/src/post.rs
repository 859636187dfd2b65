//! The mail that this deployment sends: from whom, by which server, and with which links.

use std::{
    num::NonZeroU32,
    sync::OnceLock,
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use rand::RngExt;
use runtime::{ids::UserId, secret::Secret, status::ApiError};
use serde::Deserialize;

use crate::{
    http::UNSUBSCRIBE_PATH,
    mail::{
        self, Address, DigestConversation, MailError, Mailer, SendOutcome, Sender, SmtpSettings,
    },
    model::DueDigest,
    providers::SetupError,
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
    /// Where people reach the HTTP listener, such as `https://chat.example.org`: links of digests begin
    /// with it. Empty = the listener's own address, for trying it out.
    #[serde(default)]
    pub public_url: String,
    /// Where the app is opened, if a digest shall have a link to it.
    pub open_url: Option<String>,
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
}

/// What a digest says, and not how.
pub(crate) struct Said {
    /// Over all conversations.
    pub(crate) unread_total: u64,
    /// The most recent first.
    pub(crate) conversations: Vec<DigestConversation>,
    /// Conversations with unread messages that are not among them.
    pub(crate) conversations_more: u64,
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
        let mailer = Mailer::open(&config.smtp)?;
        let sender = Sender {
            app_name: app_name.to_owned(),
            address: mailer.sender().address.clone(),
        };
        let public_url = OnceLock::new();
        if !config.public_url.is_empty() {
            let _ = public_url.set(config.public_url.trim_end_matches('/').to_owned());
        }
        let post = Self {
            mailer,
            sender,
            tokens: Tokens::new(secret),
            rate: RateLimiter::direct(Quota::per_second(config.mails_per_second)),
            config,
            public_url,
            away: Mutex::default(),
        };
        // A URL that no mail can have would be found out by the first digest.
        let to = post.sender.address.clone();
        let unsubscribe_url = match post.public_url.get() {
            Some(url) => format!("{url}{UNSUBSCRIBE_PATH}"),
            None => "http://127.0.0.1/".to_owned(),
        };
        let digest = mail::Digest {
            to,
            conversations: Vec::new(),
            conversations_more: 0,
            unread_total: 0,
            unsubscribe_url,
            open_url: post.config.open_url.clone(),
            message_id: mail::message_id(&post.sender, ""),
            date_unix_ms: 0,
        };
        match mail::digest(&post.sender, &digest) {
            Ok(_) => Ok(post),
            Err(error) => Err(SetupError::Setting {
                key: match &error {
                    MailError::Url("open URL") => "mail.open_url",
                    MailError::Url(_) => "mail.public_url",
                    _ => "mail",
                },
                problem: error.to_string(),
            }),
        }
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
    pub(crate) async fn send_code(
        &self,
        user: UserId,
        address: &str,
        code: &str,
        now_unix_ms: i64,
    ) -> SendOutcome {
        let Some(to) = usable(address) else {
            return unusable();
        };
        // Each is another mail: whoever asks for another one wants to see it.
        let seed = format!("{user} {:032x}", rand::random::<u128>());
        let mail = mail::confirmation(&self.sender, &to, code, &seed, now_unix_ms);
        self.send(user, &to, mail).await
    }

    /// Sends the digest of a period. A period has one Message-ID, however often it is sent.
    pub(crate) async fn send_digest(&self, due: &DueDigest, said: Said) -> SendOutcome {
        let Some(to) = usable(&due.email.address) else {
            return unusable();
        };
        let digest = mail::Digest {
            to: to.clone(),
            unread_total: said.unread_total,
            conversations: said.conversations,
            conversations_more: said.conversations_more,
            unsubscribe_url: self.unsubscribe_url(due),
            open_url: self.config.open_url.clone(),
            message_id: mail::message_id(
                &self.sender,
                &format!("{} {}", due.user, due.due_unix_ms),
            ),
            date_unix_ms: due.due_unix_ms,
        };
        let mail = mail::digest(&self.sender, &digest);
        self.send(due.user, &to, mail).await
    }

    /// Where the reader of a digest ends them.
    fn unsubscribe_url(&self, due: &DueDigest) -> String {
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

    /// Ends its connections.
    pub(crate) async fn close(&self) {
        self.mailer.close().await;
    }

    async fn send(
        &self,
        user: UserId,
        to: &Address,
        mail: Result<Vec<u8>, MailError>,
    ) -> SendOutcome {
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => {
                tracing::error!(%error, "a mail cannot be written");
                return SendOutcome::Refused {
                    settings: false,
                    why: error.to_string(),
                };
            }
        };
        self.rate.until_ready().await;
        let token = self.tokens.make(user, to.as_ref());
        // Mail that comes back to nobody in particular is not to be told apart.
        let from = self.config.smtp.bounce_domain.as_ref().and_then(|domain| {
            let local = format!("{BOUNCE_PREFIX}{token}");
            Address::new(local, domain).ok()
        });
        let from = from.as_ref().unwrap_or(&self.sender.address);
        let outcome = self.mailer.send(from, to, &mail).await;
        self.note(&outcome);
        outcome
    }

    /// Leaves a server that is away alone, longer each time. Beginning and end are logged once.
    fn note(&self, outcome: &SendOutcome) {
        let mut away = self.away.lock();
        let (after, why) = match outcome {
            SendOutcome::Unavailable { after, why } => (*after, why),
            SendOutcome::Refused {
                settings: true,
                why,
            } => (PAUSE_MAX, why),
            _ => {
                if std::mem::take(&mut *away).failures > 0 {
                    tracing::info!("mail goes again");
                }
                return;
            }
        };
        // Of mails that were on their way together, one counts.
        if away.pause().is_some() {
            return;
        }
        if away.failures == 0 {
            tracing::warn!(why, "no mail can be sent: what is to be sent waits");
        }
        let longer = PAUSE_MIN.saturating_mul(1 << away.failures.min(16));
        // What the server wants at most, but not at once: an answer that is lost is soon given again.
        let pause = longer.min(after.max(PAUSE_MIN)).min(PAUSE_MAX);
        // Processes come back one after the other.
        let spread = rand::rng().random_range(0.5..1.0);
        away.until = Some(Instant::now() + pause.mul_f64(spread));
        away.failures = away.failures.saturating_add(1);
    }
}

/// Kept addresses were parsed when they were given.
fn usable(address: &str) -> Option<Address> {
    mail::parse_address(address)?.parse().ok()
}

fn unusable() -> SendOutcome {
    SendOutcome::Refused {
        settings: false,
        why: "not an address".to_owned(),
    }
}

impl Away {
    fn pause(&self) -> Option<Duration> {
        let left = self.until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }
}
