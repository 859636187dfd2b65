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
        self, ADDRESS_BYTES_MAX, Address, DigestConversation, MailError, Mailer, SendOutcome,
        Sender, SmtpSettings,
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
/// More connections than a process has files are meant by nobody.
const HTTP_CONNECTIONS_MAX: usize = 65_536;

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
        if !(1..=HTTP_CONNECTIONS_MAX).contains(&config.http_connections_max) {
            let problem = format!("1 to {HTTP_CONNECTIONS_MAX}");
            return Err(wrong("mail.http_connections_max", problem));
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
        // What no mail can have would be found out by the first digest.
        let to = post.sender.address.clone();
        let token = post.tokens.make(UserId::from_bytes([0; 16]), to.as_ref());
        if let Some(domain) = &post.config.smtp.bounce_domain {
            let address = Address::new(format!("{BOUNCE_PREFIX}{token}"), domain);
            if address.is_err()
                || BOUNCE_PREFIX.len() + token.len() + domain.len() >= ADDRESS_BYTES_MAX
            {
                return Err(wrong("bounce_domain", "too long for an address".to_owned()));
            }
        }
        let base = match post.public_url.get() {
            Some(url) => url.clone(),
            None => format!("http://{}", post.config.listen),
        };
        let is_base = reqwest::Url::parse(&base).is_ok_and(|url| {
            let credentials = !url.username().is_empty() || url.password().is_some();
            url.query().is_none() && url.fragment().is_none() && !credentials
        });
        if !is_base {
            let problem = "not a URL that the path of a link can be put after".to_owned();
            return Err(wrong("mail.public_url", problem));
        }
        let unsubscribe_url = format!("{base}{UNSUBSCRIBE_PATH}{token}");
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
            Err(error) => {
                let key = match &error {
                    MailError::Url("open URL") => "mail.open_url",
                    MailError::Url(_) => "mail.public_url",
                    _ => "mail",
                };
                Err(wrong(key, error.to_string()))
            }
        }
    }

    /// Links begin with this, if the settings say nothing else.
    pub(crate) fn listens_at(&self, address: std::net::SocketAddr) {
        let _ = self.public_url.set(format!("http://{address}"));
    }

    /// Whether it is known what links begin with.
    pub(crate) fn is_linked(&self) -> bool {
        self.public_url.get().is_some()
    }

    /// How long a mail may take.
    pub(crate) const fn deadline(&self) -> Duration {
        self.config.smtp.deadline
    }

    /// Mails that can be under way.
    pub(crate) fn connections_max(&self) -> usize {
        usize::try_from(self.config.smtp.connections_max.get()).unwrap_or(usize::MAX)
    }

    /// Waits until another mail may be sent by the rate of this process. One mail may be sent then.
    pub(crate) async fn turn(&self) {
        self.rate.until_ready().await;
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
        self.turn().await;
        self.send(user, &to, mail).await
    }

    /// Sends the digest of a period, whose turn it is. A period has one Message-ID, however often it is sent.
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

const fn wrong(key: &'static str, problem: String) -> SetupError {
    SetupError::Setting { key, problem }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SMTP: &str = "smtp.host = 'localhost'\nsmtp.tls = 'none'\nsmtp.from = 'a@example.org'\n";

    #[test]
    fn settings_by_which_no_digest_could_be_sent_are_refused_with_their_key() {
        let check = |more: &str| {
            let config: Config = toml::from_str(&format!("{SMTP}{more}")).unwrap();
            check(&config, "Messenger")
        };
        let here = "listen = '127.0.0.1:0'";
        let long = "a".repeat(63);
        let domain = format!("{long}.{long}.{long}.org");
        let url = "public_url = 'https://chat.example.org";
        check(here).unwrap();
        check(&format!("{here}\n{url}/mail/'")).unwrap();
        for (settings, key) in [
            // Nobody could follow the links.
            ("listen = '0.0.0.0:80'".to_owned(), "mail.public_url"),
            (format!("{here}\n{url}?a='"), "mail.public_url"),
            (format!("{here}\n{url}/#a'"), "mail.public_url"),
            (
                format!("{here}\n{url}/{}'", "a".repeat(850)),
                "mail.public_url",
            ),
            (
                format!("{here}\npublic_url = 'https://a:b@example.org'"),
                "mail.public_url",
            ),
            (
                format!("{here}\npublic_url = 'http://example.org'"),
                "mail.public_url",
            ),
            (format!("{here}\nopen_url = 'chat'"), "mail.open_url"),
            (
                format!("{here}\nhttp_connections_max = 0"),
                "mail.http_connections_max",
            ),
            (
                format!("{here}\nhttp_connections_max = {}", i64::MAX),
                "mail.http_connections_max",
            ),
            (format!("{here}\nsmtp.deadline_ms = 120001"), "deadline_ms"),
            (
                format!("{here}\nsmtp.bounce_domain = '{domain}'"),
                "bounce_domain",
            ),
        ] {
            let error = check(&settings).unwrap_err();
            let at_fault = matches!(&error, SetupError::Setting { key: at, .. } if *at == key);
            assert!(at_fault, "{settings}: {error:?}");
        }
    }
}
