//! Apple Push Notification service: HTTP/2, with a token of ours (ES256) instead of a certificate.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::{Url, header::HeaderValue};
use runtime::clock::Clock;
use serde::{Deserialize, Serialize};

use super::{
    SetupError, guard,
    http::{self, Answer, Http, by_status, unavailable, word},
    read,
    trust::{Blame, Trust},
};
use crate::{
    model::{ProviderKind, Target},
    push::{Origin, Outcome, Push, PushProvider},
};

/// Bytes of a notification that Apple takes.
const PAYLOAD_BYTES_MAX: usize = 4_096;
/// How long a token is used. Apple takes it for an hour, and wants a new one every 20 minutes at most.
const TOKEN_LIFE_MS: i64 = 40 * 60 * 1_000;
/// A token that Apple calls too old is replaced if it has this age, by our clock. A younger one says that
/// our clock is wrong, and a new one would not help.
const TOKEN_AGE_MIN_MS: i64 = 20 * 60 * 1_000;
/// Hexadecimal digits of a device token: theirs have 64, and they name no bound.
const DEVICE_TOKEN_DIGITS: std::ops::RangeInclusive<usize> = 32..=400;
/// A badge is a 32-bit number there.
const BADGE_MAX: u64 = 0x7fff_ffff;

/// The settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The key from Apple's developer pages, a `.p8` file.
    pub key_file: PathBuf,
    /// Its id: ten characters.
    pub key_id: String,
    /// The id of the team that it belongs to: ten characters.
    pub team_id: String,
    /// The bundle ids of the apps; the first one is that of a device that names none.
    pub topics: Vec<String>,
    /// Where apps of the store are served.
    #[serde(default = "url")]
    pub url: String,
    /// Where apps that are built for development are served.
    #[serde(default = "sandbox_url")]
    pub sandbox_url: String,
    /// What stands before it.
    #[serde(default)]
    pub guard: guard::Config,
}

fn url() -> String {
    "https://api.push.apple.com".to_owned()
}

fn sandbox_url() -> String {
    "https://api.sandbox.push.apple.com".to_owned()
}

/// Apple. Its `Debug` shows nothing secret.
pub struct Apns {
    http: Http,
    clock: Arc<dyn Clock>,
    key: EncodingKey,
    header: Header,
    team_id: String,
    token: Mutex<Option<Token>>,
    apps: Vec<App>,
    url: Url,
    sandbox_url: Url,
}

struct Token {
    bearer: HeaderValue,
    made_unix_ms: i64,
}

/// An app, and what was seen of its devices in both environments.
struct App {
    topic: HeaderValue,
    store: Trust,
    sandbox: Trust,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

#[derive(Serialize)]
struct Payload<'a> {
    aps: Aps<'a>,
    conversation_id: String,
    tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    read_seq: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps<'a> {
    badge: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<AlertText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_available: Option<u8>,
}

#[derive(Serialize)]
struct AlertText<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
}

impl std::fmt::Debug for Apns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apns")
            .field("key_id", &self.header.kid)
            .field("team_id", &self.team_id)
            .finish_non_exhaustive()
    }
}

impl Apns {
    /// Reads the key and tries it.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let pem = read(&config.key_file)?;
        let malformed = |_| SetupError::Credential {
            path: config.key_file.clone(),
            problem: "not a key of P-256 in PKCS#8 (`-----BEGIN PRIVATE KEY-----`)".to_owned(),
        };
        let setting = |key, problem: &str| SetupError::Setting {
            key,
            problem: problem.to_owned(),
        };
        let app = |topic: &String| match HeaderValue::from_str(topic) {
            Ok(value) if !topic.is_empty() => Ok(App {
                topic: value,
                store: Trust::default(),
                sandbox: Trust::default(),
            }),
            _ => Err(setting("apns.topics", "not a bundle id")),
        };
        let apps: Vec<App> = config.topics.iter().map(app).collect::<Result<_, _>>()?;
        if apps.is_empty() {
            return Err(setting("apns.topics", "at least one is needed"));
        }
        let apns = Self {
            http: Http::new(http::Version::Two)?,
            clock,
            key: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(malformed)?,
            header: Header {
                kid: Some(config.key_id.clone()),
                ..Header::new(Algorithm::ES256)
            },
            team_id: config.team_id.clone(),
            token: Mutex::new(None),
            apps,
            url: http::base_url("apns.url", &config.url)?,
            sandbox_url: http::base_url("apns.sandbox_url", &config.sandbox_url)?,
        };
        apns.sign(0).map_err(malformed)?;
        Ok(apns)
    }

    /// A target as a device gives it: its token in lower case, with its topic or the first one. The error
    /// is for whoever gave it.
    pub fn target(
        &self,
        device_token: &str,
        topic: &str,
        sandbox: bool,
    ) -> Result<Target, &'static str> {
        let hexadecimal = device_token.bytes().all(|byte| byte.is_ascii_hexdigit());
        let length = device_token.len();
        if !hexadecimal || !length.is_multiple_of(2) || !DEVICE_TOKEN_DIGITS.contains(&length) {
            return Err("a device token has 16 to 200 bytes in hexadecimal");
        }
        let app = match topic {
            "" => self.apps.first(),
            topic => self.app(topic),
        };
        let topic = app.and_then(|app| app.topic.to_str().ok());
        Ok(Target::Apns {
            device_token: device_token.to_ascii_lowercase(),
            topic: topic
                .ok_or("the topic is none of this deployment")?
                .to_owned(),
            sandbox,
        })
    }

    fn app(&self, topic: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.topic == *topic)
    }

    fn sign(&self, now_unix_ms: i64) -> jsonwebtoken::errors::Result<HeaderValue> {
        let claims = Claims {
            iss: &self.team_id,
            iat: now_unix_ms / 1_000,
        };
        let token = jsonwebtoken::encode(&self.header, &claims, &self.key)?;
        let mut bearer = HeaderValue::try_from(format!("bearer {token}"))
            .map_err(|_| jsonwebtoken::errors::ErrorKind::InvalidToken)?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    /// The token to use now.
    fn token(&self) -> jsonwebtoken::errors::Result<HeaderValue> {
        let now_unix_ms = self.clock.now_unix_ms();
        let mut kept = self.token.lock();
        if let Some(token) = &*kept {
            // Our clock may have been put back.
            if (0..TOKEN_LIFE_MS).contains(&(now_unix_ms - token.made_unix_ms)) {
                return Ok(token.bearer.clone());
            }
        }
        let bearer = self.sign(now_unix_ms)?;
        *kept = Some(Token {
            bearer: bearer.clone(),
            made_unix_ms: now_unix_ms,
        });
        Ok(bearer)
    }

    /// Apple calls this token too old. Answers whether there is another one to try.
    fn forget_token(&self, bearer: &HeaderValue) -> bool {
        let mut kept = self.token.lock();
        match &*kept {
            // Another push was told so before.
            Some(token) if token.bearer != *bearer => true,
            Some(token) if self.clock.now_unix_ms() - token.made_unix_ms < TOKEN_AGE_MIN_MS => {
                false
            }
            _ => {
                *kept = None;
                true
            }
        }
    }

    async fn ask(&self, url: Url, app: &App, push: &Push, body: &[u8]) -> Outcome {
        let trust = match url.host_str() == self.sandbox_url.host_str()
            && url.port() == self.sandbox_url.port()
        {
            true => &app.sandbox,
            false => &app.store,
        };
        // The second one has a new token.
        for last in [false, true] {
            let Ok(bearer) = self.token() else {
                return Outcome::Unauthorized("no token could be signed".to_owned());
            };
            let mut request = self
                .http
                .post(url.clone())
                .header("authorization", bearer.clone())
                .header("apns-topic", app.topic.clone())
                // A badge is shown for this type only; a background push of Apple's must not have one.
                .header("apns-push-type", "alert")
                .header(
                    "apns-priority",
                    if push.alert.is_some() { "10" } else { "5" },
                )
                .header("apns-expiration", (push.expires_unix_ms / 1_000).max(1));
            if push.alert.is_some() {
                request = request.header("apns-collapse-id", push.collapse_id.to_string());
            }
            let request = request.body(body.to_vec());
            let answer = match http::ask(request, self.clock.now_unix_ms()).await {
                Ok(answer) => answer,
                Err(why) => return unavailable(None, why),
            };
            let reason = reason(&answer.body);
            if reason == "ExpiredProviderToken" && !last && self.forget_token(&bearer) {
                continue;
            }
            return outcome(&answer, &reason, trust);
        }
        unavailable(None, "a new token was called too old")
    }
}

#[async_trait]
impl PushProvider for Apns {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Apns
    }

    fn origin<'t>(&self, target: &'t Target) -> Origin<'t> {
        let sandbox = matches!(target, Target::Apns { sandbox: true, .. });
        Origin {
            name: if sandbox { "sandbox" } else { "" },
            awaited: true,
        }
    }

    async fn push(&self, target: &Target, push: &Push) -> Outcome {
        let Target::Apns {
            device_token,
            topic,
            sandbox,
        } = target
        else {
            return Outcome::Refused("a target of another provider".to_owned());
        };
        let Some(app) = self.app(topic) else {
            return Outcome::Refused("its topic is not in the settings any more".to_owned());
        };
        let base = if *sandbox {
            &self.sandbox_url
        } else {
            &self.url
        };
        let Ok(url) = base.join(&format!("/3/device/{device_token}")) else {
            return Outcome::Refused("its token does not fit into an address".to_owned());
        };
        let Ok(body) = payload(push) else {
            return Outcome::Refused("it cannot be encoded".to_owned());
        };
        if body.len() > PAYLOAD_BYTES_MAX {
            return Outcome::TooLarge;
        }
        http::within_deadline(self.ask(url, app, push, &body)).await
    }
}

/// What is sent. Without an alert it is still of the type `alert`, since only that one may carry a badge;
/// `content-available` wakes the app, so that it can take away what it shows under the tag.
fn payload(push: &Push) -> serde_json::Result<Vec<u8>> {
    let alert = push.alert.as_ref();
    let shown = alert.is_some();
    let tag = push.collapse_id.to_string();
    serde_json::to_vec(&Payload {
        aps: Aps {
            badge: push.badge.min(BADGE_MAX),
            alert: alert.map(|alert| AlertText {
                title: &alert.title,
                body: &alert.body,
            }),
            sound: shown.then_some("default"),
            thread_id: shown.then(|| tag.clone()),
            mutable_content: shown.then_some(1),
            content_available: (!shown).then_some(1),
        },
        conversation_id: push.conversation.to_string(),
        tag,
        seq: alert.map(|alert| alert.seq),
        count: alert.map(|alert| alert.count),
        read_seq: push.read_seq,
    })
}

fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        reason: String,
    }
    serde_json::from_slice(body).map_or_else(|_| String::new(), |body: Body| word(&body.reason))
}

/// The answers of Apple's table.
fn outcome(answer: &Answer, reason: &str, trust: &Trust) -> Outcome {
    let why = format!("{} {reason}", answer.status);
    match (answer.status, reason) {
        (200, _) => {
            trust.proven();
            Outcome::Taken
        }
        (410, _) => {
            // It knew the device once.
            trust.proven();
            Outcome::Gone
        }
        // Said of every device too, if we ask the wrong one of the two environments, or for another app.
        (400, "BadDeviceToken" | "DeviceTokenNotForTopic") => match trust.blame() {
            Blame::Device => Outcome::Gone,
            Blame::Unknown => Outcome::Refused(why),
            Blame::Settings => Outcome::Unauthorized(format!("{why}, of all devices")),
        },
        (400, "IdleTimeout") | (429, "TooManyProviderTokenUpdates") => {
            unavailable(answer.retry_after, why)
        }
        _ => by_status(answer, why),
    }
}

#[cfg(test)]
mod tests;
