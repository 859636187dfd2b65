//! The push services of browsers: RFC 8030, encrypted for the browser (RFC 8291), with a key of ours that
//! they know us by (RFC 8292).

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, Header};
use parking_lot::Mutex;
use reqwest::{Url, header::HeaderValue};
use runtime::clock::Clock;
use serde::{Deserialize, Serialize};
use web_push_native::{Auth, p256::PublicKey};

pub use self::{
    endpoint::{AllowedEndpoints, Endpoint, check_endpoint},
    key::VapidKey,
};
use super::{
    SetupError, guard,
    http::{self, Answer, Http, by_status, unavailable},
    trust::{Blame, Trust},
};
use crate::{
    model::{ProviderKind, Target},
    push::{Origin, Outcome, Push, PushProvider},
};

mod endpoint;
mod key;

/// Bytes of a payload before encryption: a push service takes 4,096 of a message, of which encryption needs
/// 103.
const PAYLOAD_BYTES_MAX: usize = 3_993;
/// The life of a token. RFC 8292 allows a day; half of it leaves room for clocks that are wrong.
const TOKEN_LIFE_MS: i64 = 12 * 60 * 60 * 1_000;
/// How long before its end a token is replaced.
const RENEWED_BEFORE_MS: i64 = 60 * 60 * 1_000;
/// Push services whose token and history are kept, beside those that are allowed by name. More than there
/// are; a push to others makes a token of its own.
const SERVICES_MAX: usize = 64;

/// The settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our key: PKCS#8 in PEM, or 32 bytes in base64url. Made if there is none.
    pub key_file: PathBuf,
    /// Whom the owner of a push service may write to: a `mailto:` or `https:` URL.
    pub contact: String,
    /// The push services that are pushed to, by https at the usual port: hosts, or `*.` and a host.
    #[serde(default = "hosts")]
    pub allowed_hosts: Vec<String>,
    /// Others, by scheme, host and port, such as `http://127.0.0.1:8080` (only this machine's by http).
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// What stands before it.
    #[serde(default)]
    pub guard: guard::Config,
}

fn hosts() -> Vec<String> {
    endpoint::HOSTS
        .iter()
        .map(|&host| host.to_owned())
        .collect()
}

/// The browsers. Its `Debug` shows nothing secret.
pub struct WebPush {
    http: Http,
    clock: Arc<dyn Clock>,
    key: VapidKey,
    contact: String,
    allowed: AllowedEndpoints,
    services: Mutex<HashMap<String, Service>>,
}

/// A push service.
struct Service {
    /// The header that tells it who we are.
    vapid: HeaderValue,
    ends_unix_ms: i64,
    trust: Arc<Trust>,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    read_seq: u64,
    badge: u64,
    conversation_id: String,
    tag: String,
}

impl std::fmt::Debug for WebPush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebPush")
            .field("key", &self.key)
            .field("contact", &self.contact)
            .finish_non_exhaustive()
    }
}

impl WebPush {
    /// Reads the key, or makes it.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let contact = Url::parse(&config.contact).ok();
        if !contact.is_some_and(|url| matches!(url.scheme(), "mailto" | "https")) {
            return Err(SetupError::Setting {
                key: "web_push.contact",
                problem: "must be a mailto: or https: URL".to_owned(),
            });
        }
        Ok(Self {
            http: Http::new(http::Version::Negotiated)?,
            clock,
            key: VapidKey::load_or_create(&config.key_file)?,
            contact: config.contact.clone(),
            allowed: AllowedEndpoints::new(&config.allowed_hosts, &config.allowed_origins)?,
            services: Mutex::default(),
        })
    }

    /// What browsers subscribe with (`applicationServerKey`): an uncompressed point of P-256.
    pub fn public_key(&self) -> &[u8; 65] {
        self.key.public()
    }

    /// A target as a browser gives it. The error is for whoever gave it.
    pub fn target(
        &self,
        endpoint: &str,
        p256dh: &[u8],
        auth: &[u8],
    ) -> Result<Target, &'static str> {
        check_endpoint(&self.allowed, endpoint)?;
        let p256dh: [u8; 65] = p256dh.try_into().map_err(|_| "p256dh has 65 bytes")?;
        let auth: [u8; 16] = auth.try_into().map_err(|_| "auth has 16 bytes")?;
        PublicKey::from_sec1_bytes(&p256dh).map_err(|_| "p256dh is a point of P-256")?;
        Ok(Target::WebPush {
            endpoint: endpoint.to_owned(),
            p256dh: Box::new(p256dh),
            auth,
        })
    }

    /// Who we are, for one push service.
    fn vapid(&self, origin: &str) -> Option<(HeaderValue, Arc<Trust>)> {
        let now_unix_ms = self.clock.now_unix_ms();
        let mut services = self.services.lock();
        let known = services.get(origin);
        if let Some(service) = known {
            let left = service.ends_unix_ms - now_unix_ms;
            // Our clock may have been put back.
            if (RENEWED_BEFORE_MS..=TOKEN_LIFE_MS).contains(&left) {
                return Some((service.vapid.clone(), service.trust.clone()));
            }
        }
        let trust = known.map_or_else(Arc::default, |service| service.trust.clone());
        let ends_unix_ms = now_unix_ms + TOKEN_LIFE_MS;
        let claims = Claims {
            aud: origin,
            exp: ends_unix_ms / 1_000,
            sub: &self.contact,
        };
        let header = Header::new(Algorithm::ES256);
        let token = jsonwebtoken::encode(&header, &claims, &self.key.encoding).ok()?;
        let key = self.key.public_text();
        let mut vapid = HeaderValue::try_from(format!("vapid t={token}, k={key}")).ok()?;
        vapid.set_sensitive(true);
        // Anybody can make up origins below a host that is allowed with all below it.
        if self.allowed.is_exact(origin)
            || services.contains_key(origin)
            || services.len() < SERVICES_MAX
        {
            services.insert(
                origin.to_owned(),
                Service {
                    vapid: vapid.clone(),
                    ends_unix_ms,
                    trust: trust.clone(),
                },
            );
        }
        Some((vapid, trust))
    }

    async fn ask(&self, endpoint: Endpoint, push: &Push, sealed: Vec<u8>) -> Outcome {
        let Some((vapid, trust)) = self.vapid(&endpoint.origin) else {
            return Outcome::Unauthorized("no token could be signed".to_owned());
        };
        let now_unix_ms = self.clock.now_unix_ms();
        let left_s = (push.expires_unix_ms - now_unix_ms).max(0) / 1_000;
        let request = self
            .http
            .post(endpoint.url)
            .header("authorization", vapid)
            .header("ttl", left_s)
            .header(
                "urgency",
                if push.alert.is_some() {
                    "high"
                } else {
                    "normal"
                },
            )
            .header("topic", push.collapse_id.to_string())
            .header("content-encoding", "aes128gcm")
            .header("content-type", "application/octet-stream")
            .body(sealed);
        match http::ask(request, now_unix_ms).await {
            Ok(answer) => outcome(&answer, &trust),
            Err(why) => unavailable(None, why),
        }
    }
}

#[async_trait]
impl PushProvider for WebPush {
    fn kind(&self) -> ProviderKind {
        ProviderKind::WebPush
    }

    fn origin<'t>(&self, target: &'t Target) -> Origin<'t> {
        let name = endpoint::origin(target.token());
        Origin {
            name,
            awaited: self.allowed.is_exact(name),
        }
    }

    async fn push(&self, target: &Target, push: &Push) -> Outcome {
        let Target::WebPush {
            endpoint,
            p256dh,
            auth,
        } = target
        else {
            return Outcome::Refused("a target of another provider".to_owned());
        };
        let endpoint = match check_endpoint(&self.allowed, endpoint) {
            Ok(endpoint) => endpoint,
            Err(why) => return Outcome::Refused(why.to_owned()),
        };
        if push.alert.is_none() && endpoint.shows_each {
            // Safari takes the permission from sites that push and show nothing. The next push there has
            // the badge, and the page takes away what was read when it is opened.
            return Outcome::Taken;
        }
        let Ok(payload) = payload(push) else {
            return Outcome::Refused("it cannot be encoded".to_owned());
        };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Outcome::TooLarge;
        }
        let Ok(key) = PublicKey::from_sec1_bytes(&**p256dh) else {
            return Outcome::Refused("its key is not a point of P-256".to_owned());
        };
        let Ok(sealed) = web_push_native::encrypt(payload, &key, &Auth::from(*auth)) else {
            return Outcome::Refused("it cannot be encrypted".to_owned());
        };
        http::within_deadline(self.ask(endpoint, push, sealed)).await
    }
}

/// What the page's worker gets. Without a title it shows nothing, and takes away what it shows under the
/// tag up to `read_seq`.
fn payload(push: &Push) -> serde_json::Result<Vec<u8>> {
    let alert = push.alert.as_ref();
    serde_json::to_vec(&Payload {
        title: alert.map(|alert| alert.title.as_str()),
        body: alert.map(|alert| alert.body.as_str()),
        seq: alert.map(|alert| alert.seq),
        count: alert.map(|alert| alert.count),
        read_seq: push.read_seq,
        badge: push.badge,
        conversation_id: push.conversation.to_string(),
        tag: push.collapse_id.to_string(),
    })
}

fn outcome(answer: &Answer, trust: &Trust) -> Outcome {
    let why = answer.status.to_string();
    match answer.status {
        200..=299 => {
            trust.proven();
            Outcome::Taken
        }
        404 | 410 => Outcome::Gone,
        // A browser that subscribed to another key of ours, or all of them do.
        401 | 403 => match trust.blame() {
            Blame::Device | Blame::Unknown => Outcome::Refused(why),
            Blame::Settings => Outcome::Unauthorized(format!("{why}, of all browsers")),
        },
        _ => by_status(answer, why),
    }
}

#[cfg(test)]
mod tests;
