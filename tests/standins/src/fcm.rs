//! Firebase Cloud Messaging, with the endpoint that gives its access tokens.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Deref,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use rsa::{
    RsaPrivateKey,
    pkcs1::{EncodeRsaPublicKey as _, LineEnding},
    pkcs8::EncodePrivateKey as _,
};
use serde::Deserialize;
use web_push_native::p256::elliptic_curve::rand_core::OsRng;

use crate::{
    devices::{Devices, Notification},
    jwt::{Verified, now_s},
    server::{Answer, Asked, Checked, Provider, StandIn},
};

/// The project that it has.
pub const PROJECT_ID: &str = "stand-in-project";

const CLIENT_EMAIL: &str = "push@stand-in-project.iam.gserviceaccount.com";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
/// Bytes of data of a message.
const DATA_BYTES_MAX: usize = 4_096;
/// Access tokens that are good at the same time.
const TOKENS_MAX: usize = 16;

/// Google.
#[derive(Debug)]
pub struct FcmStandIn {
    stand_in: StandIn,
    google: Arc<Google>,
}

impl Deref for FcmStandIn {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

struct Google {
    pem: String,
    key: DecodingKey,
    url: String,
    verified: Verified<Claims>,
    tokens: Mutex<VecDeque<String>>,
    tokens_given: AtomicU64,
    token_trouble: Mutex<Option<(u16, &'static str)>>,
}

impl std::fmt::Debug for Google {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Google").field(&self.url).finish()
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    aud: String,
    iat: i64,
    exp: i64,
}

/// Making one takes a second: all stand-ins of a process have the same.
static KEY: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
    let key = RsaPrivateKey::new(&mut OsRng, 2_048).ok()?;
    let public = key.to_public_key().to_pkcs1_pem(LineEnding::LF).ok()?;
    let private = key.to_pkcs8_pem(LineEnding::LF).ok()?;
    Some((private.to_string(), public))
});

impl FcmStandIn {
    /// At a free port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(0).await
    }

    /// At a port.
    pub async fn start_at(port: u16) -> anyhow::Result<Self> {
        let (pem, public) = KEY.as_ref().context("no RSA key could be made")?;
        let key = DecodingKey::from_rsa_pem(public.as_bytes())?;
        let mut made = None;
        let stand_in = StandIn::start(port, |address| {
            let google = Arc::new(Google {
                pem: pem.clone(),
                key,
                url: format!("http://{address}"),
                verified: Verified::default(),
                tokens: Mutex::default(),
                tokens_given: AtomicU64::new(0),
                token_trouble: Mutex::default(),
            });
            made = Some(google.clone());
            google
        })
        .await?;
        let google = made.context("it has not started")?;
        Ok(Self { stand_in, google })
    }

    /// The file of a service account that it believes.
    pub fn service_account_json(&self) -> String {
        serde_json::json!({
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": "stand-in-key",
            "private_key": self.google.pem,
            "client_email": CLIENT_EMAIL,
            "client_id": "1",
            "token_uri": format!("{}/token", self.google.url),
        })
        .to_string()
    }

    /// Access tokens that were given so far.
    pub fn tokens_given(&self) -> u64 {
        self.google.tokens_given.load(Ordering::SeqCst)
    }

    /// Forgets all access tokens: 401 to whoever uses one.
    pub fn expire_tokens(&self) {
        self.google.tokens.lock().clear();
    }

    /// Gives no access tokens, with this status and error, until it is `None` again.
    pub fn refuse_tokens(&self, trouble: Option<(u16, &'static str)>) {
        *self.google.token_trouble.lock() = trouble;
    }
}

impl Google {
    fn give_token(&self, asked: &Asked) -> Answer {
        let refused = |error| Answer::new(400, format!("{{\"error\":\"{error}\"}}"));
        if let Some((status, error)) = *self.token_trouble.lock() {
            return Answer::new(status, format!("{{\"error\":\"{error}\"}}"));
        }
        let form = asked.header("content-type") == Some("application/x-www-form-urlencoded");
        let body = str::from_utf8(&asked.body).unwrap_or_default();
        let Some(assertion) = body.strip_prefix(GRANT).filter(|_| form) else {
            return refused("unsupported_grant_type");
        };
        let verified = self.verified.verify(assertion, Algorithm::RS256, &self.key);
        let Some((_, claims)) = verified else {
            return refused("invalid_grant");
        };
        let good = claims.iss == CLIENT_EMAIL
            && claims.scope == SCOPE
            && claims.aud == format!("{}/token", self.url)
            && (0..=3_600).contains(&(claims.exp - claims.iat))
            && claims.exp > now_s();
        if !good {
            return refused("invalid_grant");
        }
        let token = format!("ya29.{:032x}", rand::random::<u128>());
        let mut tokens = self.tokens.lock();
        if tokens.len() == TOKENS_MAX {
            tokens.pop_front();
        }
        tokens.push_back(token.clone());
        self.tokens_given.fetch_add(1, Ordering::SeqCst);
        let body = serde_json::json!({
            "access_token": token, "expires_in": 3_599, "token_type": "Bearer",
        });
        Answer::new(200, body.to_string())
    }
}

/// An error as Google's interfaces tell it; `code` is FCM's own.
fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let status_word = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    let details = match code {
        "" => serde_json::json!([]),
        code => serde_json::json!([{
            "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
        }]),
    };
    let error = serde_json::json!({ "error": {
        "code": status, "message": message, "status": status_word, "details": details,
    }});
    Answer::new(status, error.to_string())
}

impl Provider for Google {
    fn check(&self, asked: &Asked, devices: &Devices) -> Checked {
        if asked.path == "/token" {
            return Checked::Answered(self.give_token(asked));
        }
        if asked.path != format!("/v1/projects/{PROJECT_ID}/messages:send") {
            return Checked::Answered(refusal(404, "", "no such project"));
        }
        let bearer = asked.header("authorization").unwrap_or_default();
        let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.lock().iter().any(|known| known == token) {
            return Checked::Answered(refusal(401, "", "invalid authentication credentials"));
        }
        let Ok(request) = serde_json::from_slice::<Request>(&asked.body) else {
            return Checked::Answered(refusal(400, "INVALID_ARGUMENT", "Invalid JSON payload"));
        };
        let message = request.message;
        let token = message.token.clone();
        let refused =
            |status, code, text| Checked::Refused(token.clone(), refusal(status, code, text));
        let data = message.data.iter();
        if data
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>()
            > DATA_BYTES_MAX
        {
            return refused(400, "INVALID_ARGUMENT", "Android message is too big");
        }
        let ttl_s = message.android.ttl.strip_suffix('s');
        let ttl_s = ttl_s.and_then(|seconds| seconds.parse::<u32>().ok());
        if ttl_s.is_none_or(|seconds| seconds > 2_419_200) {
            return refused(400, "INVALID_ARGUMENT", "invalid ttl");
        }
        match devices.owner(&token) {
            None => refused(
                400,
                "INVALID_ARGUMENT",
                "The registration token is not a valid FCM registration token",
            ),
            Some(Err(())) => refused(404, "UNREGISTERED", "Requested entity was not found."),
            Some(Ok(project)) if !project.is_empty() && project != PROJECT_ID => {
                refused(403, "SENDER_ID_MISMATCH", "SenderId mismatch")
            }
            Some(Ok(_)) => {
                let name = format!("projects/{PROJECT_ID}/messages/0:1");
                let taken = Answer::new(200, format!("{{\"name\":\"{name}\"}}"));
                Checked::Push(Box::new((token.clone(), notification(message), taken)))
            }
        }
    }

    fn refusal(&self, status: u16, word: &str) -> Answer {
        let message = match word {
            "DEVICE_QUOTA" => {
                return refusal(429, "QUOTA_EXCEEDED", "Device message rate exceeded");
            }
            _ => "told to",
        };
        refusal(status, word, message)
    }
}

#[derive(Deserialize)]
struct Request {
    message: Message,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    token: String,
    data: BTreeMap<String, String>,
    android: Android,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Android {
    priority: String,
    ttl: String,
}

/// What our app makes of it: Google shows nothing of a message of data.
fn notification(message: Message) -> Notification {
    let Message {
        mut data, android, ..
    } = message;
    let shows = data.contains_key("title");
    let mut text = |key| data.remove(key).unwrap_or_default();
    let (title, body, tag) = (text("title"), text("body"), text("tag"));
    let conversation_id = text("conversation_id");
    let mut number = |key| data.remove(key).and_then(|value| value.parse().ok());
    Notification {
        shows,
        title,
        body,
        tag,
        badge: number("badge"),
        count: number("count").unwrap_or(0),
        seq: number("seq").unwrap_or(0),
        read_seq: number("read_seq").unwrap_or(0),
        conversation_id,
        headers: BTreeMap::from([
            ("priority".to_owned(), android.priority),
            ("ttl".to_owned(), android.ttl),
        ]),
    }
}
