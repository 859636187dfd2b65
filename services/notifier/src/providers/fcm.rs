//! Firebase Cloud Messaging, version 1 of its HTTP interface, with a service account.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Url, header::HeaderValue};
use runtime::clock::Clock;
use serde::{Deserialize, Serialize};

use super::{
    SetupError, guard,
    http::{self, Answer, Http, by_status, unavailable, word},
    read,
};
use crate::{
    limits::REGISTRATION_TOKEN_BYTES_MAX,
    model::{ProviderKind, Target},
    push::{Outcome, Push, PushProvider},
};

/// Bytes of the data of a message that Google takes.
const DATA_BYTES_MAX: usize = 4_096;
/// How long before its end an access token is replaced: longer than a push is tried.
const RENEWED_BEFORE_MS: i64 = 60 * 1_000;
/// The life of the assertion that an access token is asked for with: the longest that Google takes.
const ASSERTION_LIFE_S: i64 = 60 * 60;
/// Without a word of theirs, how long is paused when the project sends too much: Google asks for it.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// Seconds that a message is kept for a device at most.
const TTL_S_MAX: i64 = 28 * 24 * 60 * 60;
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// The settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The key of a service account that may send, a JSON file from Google's console.
    pub service_account_file: PathBuf,
    /// The Firebase project, if it is not that of the service account.
    #[serde(default)]
    pub project_id: Option<String>,
    /// Where it is.
    #[serde(default = "url")]
    pub url: String,
    /// What stands before it.
    #[serde(default)]
    pub guard: guard::Config,
}

fn url() -> String {
    "https://fcm.googleapis.com".to_owned()
}

/// What the file of a service account has, of what is needed.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    token_uri: String,
}

/// Google. Its `Debug` shows nothing secret.
pub struct Fcm {
    http: Http,
    clock: Arc<dyn Clock>,
    key: EncodingKey,
    header: Header,
    client_email: String,
    token_uri: Url,
    send_url: Url,
    /// Locked while one is asked for: all others wait for that one.
    token: tokio::sync::Mutex<Option<AccessToken>>,
}

struct AccessToken {
    bearer: HeaderValue,
    ends_unix_ms: i64,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Serialize)]
struct Request<'a> {
    message: Message<'a>,
}

/// A message of data only. Google keeps no more than four collapsible messages for a device that is off,
/// and notifications are always collapsible: whoever has news of five conversations would not hear of one.
/// Of data it keeps a hundred, and tells the app when there were more. So the app shows what it gets,
/// replacing by the tag, and takes away what a message without `title` says.
#[derive(Serialize)]
struct Message<'a> {
    token: &'a str,
    data: HashMap<&'static str, String>,
    android: Android,
}

#[derive(Serialize)]
struct Android {
    priority: &'static str,
    ttl: String,
}

impl std::fmt::Debug for Fcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fcm")
            .field("client_email", &self.client_email)
            .finish_non_exhaustive()
    }
}

impl Fcm {
    /// Reads the service account and tries its key.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let text = read(&config.service_account_file)?;
        let malformed = |problem: &str| SetupError::Credential {
            path: config.service_account_file.clone(),
            problem: problem.to_owned(),
        };
        // What the parser says could quote the key.
        let account: ServiceAccount = serde_json::from_str(&text)
            .map_err(|_| malformed("not the JSON of a service account's key"))?;
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes())
            .map_err(|_| malformed("its private_key is not an RSA key in PEM"))?;
        let project = config.project_id.as_ref().unwrap_or(&account.project_id);
        if project.is_empty() || *project != word(project) {
            return Err(SetupError::Setting {
                key: "fcm.project_id",
                problem: "not the id of a project".to_owned(),
            });
        }
        let send_url = http::base_url("fcm.url", &config.url)?
            .join(&format!("/v1/projects/{project}/messages:send"))
            .map_err(|_| malformed("its project_id does not fit into an address"))?;
        let fcm = Self {
            http: Http::new(http::Version::Two)?,
            clock,
            key,
            header: Header {
                kid: Some(account.private_key_id),
                ..Header::new(Algorithm::RS256)
            },
            client_email: account.client_email,
            token_uri: http::base_url("token_uri of the service account", &account.token_uri)?,
            send_url,
            token: tokio::sync::Mutex::new(None),
        };
        fcm.assertion(0)
            .map_err(|_| malformed("its private_key cannot sign"))?;
        Ok(fcm)
    }

    /// A target as a device gives it. The error is for whoever gave it.
    pub fn target(registration_token: &str) -> Result<Target, &'static str> {
        let visible = registration_token
            .bytes()
            .all(|byte| byte.is_ascii_graphic());
        let length = registration_token.len();
        if !visible || length == 0 || length > REGISTRATION_TOKEN_BYTES_MAX {
            return Err("a registration token has 1 to 4,096 visible ASCII characters");
        }
        Ok(Target::Fcm {
            registration_token: registration_token.to_owned(),
        })
    }

    fn assertion(&self, now_unix_ms: i64) -> jsonwebtoken::errors::Result<String> {
        let now_s = now_unix_ms / 1_000;
        let claims = Claims {
            iss: &self.client_email,
            scope: SCOPE,
            aud: self.token_uri.as_str(),
            iat: now_s,
            exp: now_s + ASSERTION_LIFE_S,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key)
    }

    /// An access token that is none of those refused.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, Outcome> {
        let mut kept = self.token.lock().await;
        let now_unix_ms = self.clock.now_unix_ms();
        if let Some(token) = &*kept
            && now_unix_ms < token.ends_unix_ms - RENEWED_BEFORE_MS
            && refused != Some(&token.bearer)
        {
            return Ok(token.bearer.clone());
        }
        let token = self.new_token(now_unix_ms).await?;
        let bearer = token.bearer.clone();
        *kept = Some(token);
        Ok(bearer)
    }

    async fn new_token(&self, now_unix_ms: i64) -> Result<AccessToken, Outcome> {
        #[derive(Deserialize)]
        struct Body {
            access_token: String,
            expires_in: u32,
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let assertion = self
            .assertion(now_unix_ms)
            .map_err(|_| Outcome::Unauthorized("no assertion could be signed".to_owned()))?;
        // Nothing of it needs escapes but the colons of the grant type.
        let form = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        );
        let request = self
            .http
            .post(self.token_uri.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = http::ask(request, now_unix_ms)
            .await
            .map_err(|why| unavailable(None, format!("access token: {why}")))?;
        if answer.status == 200 {
            let malformed = |_| unavailable(None, "access token: not what RFC 6749 says");
            let body: Body =
                serde_json::from_slice(&answer.body).map_err(|e| malformed(e.to_string()))?;
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", body.access_token))
                .map_err(|e| malformed(e.to_string()))?;
            bearer.set_sensitive(true);
            return Ok(AccessToken {
                bearer,
                ends_unix_ms: now_unix_ms + i64::from(body.expires_in) * 1_000,
            });
        }
        let error = serde_json::from_slice(&answer.body)
            .map_or_else(|_| String::new(), |body: Refusal| word(&body.error));
        let why = format!("access token: {} {error}", answer.status);
        Err(match answer.status {
            400 | 401 | 403 => Outcome::Unauthorized(why),
            _ => unavailable(answer.retry_after, why),
        })
    }

    async fn ask(&self, body: Vec<u8>) -> Outcome {
        let mut refused = None;
        loop {
            let bearer = match self.token(refused.as_ref()).await {
                Ok(bearer) => bearer,
                Err(outcome) => return outcome,
            };
            let request = self
                .http
                .post(self.send_url.clone())
                .header("authorization", bearer.clone())
                .header("content-type", "application/json")
                .body(body.clone());
            let answer = match http::ask(request, self.clock.now_unix_ms()).await {
                Ok(answer) => answer,
                Err(why) => return unavailable(None, why),
            };
            // Once: a new one that is refused too says that we are not who we say.
            if answer.status == 401 && refused.is_none() {
                refused = Some(bearer);
                continue;
            }
            return outcome(&answer);
        }
    }

    fn body(&self, token: &str, push: &Push) -> serde_json::Result<Option<Vec<u8>>> {
        let data = data(push);
        let bytes: usize = data
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes > DATA_BYTES_MAX {
            return Ok(None);
        }
        let left_s = (push.expires_unix_ms - self.clock.now_unix_ms()) / 1_000;
        serde_json::to_vec(&Request {
            message: Message {
                token,
                data,
                android: Android {
                    // A message that shows nothing must not wake the device: Google lowers the priority
                    // of apps that do that.
                    priority: if push.alert.is_some() {
                        "high"
                    } else {
                        "normal"
                    },
                    ttl: format!("{}s", left_s.clamp(0, TTL_S_MAX)),
                },
            },
        })
        .map(Some)
    }
}

#[async_trait]
impl PushProvider for Fcm {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Fcm
    }

    async fn push(&self, target: &Target, push: &Push) -> Outcome {
        let Target::Fcm { registration_token } = target else {
            return Outcome::Refused("a target of another provider".to_owned());
        };
        match self.body(registration_token, push) {
            Ok(Some(body)) => http::within_deadline(self.ask(body)).await,
            Ok(None) => Outcome::TooLarge,
            Err(_) => Outcome::Refused("it cannot be encoded".to_owned()),
        }
    }
}

fn data(push: &Push) -> HashMap<&'static str, String> {
    let mut data = HashMap::from([
        ("tag", push.collapse_id.to_string()),
        ("conversation_id", push.conversation.to_string()),
        ("badge", push.badge.to_string()),
        ("read_seq", push.read_seq.to_string()),
    ]);
    if let Some(alert) = &push.alert {
        data.insert("title", alert.title.clone());
        data.insert("body", alert.body.clone());
        data.insert("seq", alert.seq.to_string());
        data.insert("count", alert.count.to_string());
    }
    data
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: ApiError,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiError {
    message: String,
    status: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    error_code: String,
    field_violations: Vec<Violation>,
    violations: Vec<Violation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Violation {
    field: String,
    subject: String,
    description: String,
}

/// The answers of Google's table.
fn outcome(answer: &Answer) -> Outcome {
    if answer.status == 200 {
        return Outcome::Taken;
    }
    let error = serde_json::from_slice::<Body>(&answer.body)
        .unwrap_or_default()
        .error;
    let code = error
        .details
        .iter()
        .map(|detail| detail.error_code.as_str());
    let code = code.into_iter().find(|code| !code.is_empty());
    let code = code.unwrap_or_default();
    let told = if code.is_empty() { &error.status } else { code };
    let why = format!("{} {}", answer.status, word(told));
    match (answer.status, code) {
        (_, "UNREGISTERED") => Outcome::Gone,
        (400, _) => invalid(&error, why),
        // The device belongs to another project, or all do, if the service account is the wrong one; and
        // keys that Google needs for other platforms, which we do not push to by it.
        (_, "SENDER_ID_MISMATCH" | "THIRD_PARTY_AUTH_ERROR") => Outcome::Refused(why),
        (429, _) if is_of_device(&error) => Outcome::TargetBusy {
            after: answer.retry_after,
        },
        (429, _) => unavailable(Some(answer.retry_after.unwrap_or(QUOTA_PAUSE)), why),
        // Not a device's, which says UNREGISTERED: there is no such project.
        (404, _) => Outcome::Unauthorized(why),
        _ => by_status(answer, why),
    }
}

/// A registration token that is none, too many bytes, or a defect of ours. The first two are told in words
/// only.
fn invalid(error: &ApiError, why: String) -> Outcome {
    let violations = error.details.iter().flat_map(|d| &d.field_violations);
    let fields: Vec<&str> = violations
        .map(|violation| violation.field.as_str())
        .collect();
    let message = error.message.to_ascii_lowercase();
    if fields.contains(&"message.token")
        || (fields.is_empty() && message.contains("registration token"))
    {
        return Outcome::Gone;
    }
    if fields.is_empty() && message.contains("too big") {
        return Outcome::TooLarge;
    }
    Outcome::Refused(match fields.first() {
        Some(field) => format!("{why} {}", word(field)),
        None => why,
    })
}

/// The quota of one device rather than that of the project.
fn is_of_device(error: &ApiError) -> bool {
    let violations = error.details.iter().flat_map(|detail| &detail.violations);
    let mut texts = violations
        .flat_map(|violation| [&violation.subject, &violation.description])
        .chain([&error.message]);
    texts.any(|text| text.to_ascii_lowercase().contains("device"))
}

#[cfg(test)]
mod tests;
