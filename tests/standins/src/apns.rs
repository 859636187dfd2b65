//! Apple Push Notification service.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use web_push_native::p256::{
    SecretKey,
    elliptic_curve::{rand_core::OsRng, sec1::ToEncodedPoint as _},
    pkcs8::{EncodePrivateKey as _, LineEnding},
};

use crate::{
    devices::{Devices, Notification},
    jwt::{Verified, now_s},
    server::{Answer, Asked, Checked, Provider, StandIn},
};

/// The id that the key has.
pub const KEY_ID: &str = "STANDINKEY";
/// The team that it belongs to.
pub const TEAM_ID: &str = "STANDTEAM1";

/// How long a token is good.
const TOKEN_LIFE_S: i64 = 60 * 60;
/// Bytes of a notification.
const PAYLOAD_BYTES_MAX: usize = 4_096;
/// Bytes of a collapse id.
const COLLAPSE_ID_BYTES_MAX: usize = 64;

/// Apple.
#[derive(Debug)]
pub struct ApnsStandIn {
    stand_in: StandIn,
    apple: Arc<Apple>,
}

impl Deref for ApnsStandIn {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

#[derive(Debug)]
struct Apple {
    pem: String,
    key: DecodingKey,
    verified: Verified<Claims>,
    /// Tokens that were made before this are called expired.
    not_before_s: AtomicI64,
    newest_iat_s: AtomicI64,
}

#[derive(Debug, Clone, Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
}

impl ApnsStandIn {
    /// With a key of its own, at a free port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(0).await
    }

    /// The same at a port.
    pub async fn start_at(port: u16) -> anyhow::Result<Self> {
        let secret = SecretKey::random(&mut OsRng);
        let pem = secret.to_pkcs8_pem(LineEnding::LF).ok();
        let apple = Arc::new(Apple {
            pem: pem.context("the key has no PEM")?.to_string(),
            key: DecodingKey::from_ec_der(secret.public_key().to_encoded_point(false).as_bytes()),
            verified: Verified::default(),
            not_before_s: AtomicI64::new(0),
            newest_iat_s: AtomicI64::new(0),
        });
        let provider = apple.clone();
        let stand_in = StandIn::start(port, |_| provider).await?;
        Ok(Self { stand_in, apple })
    }

    /// The key that it believes, as a `.p8` file has it.
    pub fn key_pem(&self) -> &str {
        &self.apple.pem
    }

    /// Calls tokens expired that were made before this, in Unix seconds.
    pub fn expire_tokens(&self, before_s: i64) {
        self.apple.not_before_s.store(before_s, Ordering::SeqCst);
    }

    /// When the newest token that came was made, in Unix seconds.
    pub fn newest_token_s(&self) -> i64 {
        self.apple.newest_iat_s.load(Ordering::SeqCst)
    }
}

fn refusal(status: u16, reason: &str) -> Answer {
    Answer::new(status, format!("{{\"reason\":\"{reason}\"}}"))
}

impl Apple {
    /// Who sends it; the reason if that is not known.
    fn authorize(&self, asked: &Asked) -> Result<(), &'static str> {
        let bearer = asked
            .header("authorization")
            .ok_or("MissingProviderToken")?;
        let token = bearer
            .strip_prefix("bearer ")
            .ok_or("InvalidProviderToken")?;
        let (header, claims) = self
            .verified
            .verify(token, Algorithm::ES256, &self.key)
            .ok_or("InvalidProviderToken")?;
        if header.kid.as_deref() != Some(KEY_ID) || claims.iss != TEAM_ID {
            return Err("InvalidProviderToken");
        }
        self.newest_iat_s.fetch_max(claims.iat, Ordering::SeqCst);
        let age_s = now_s() - claims.iat;
        let old = claims.iat < self.not_before_s.load(Ordering::SeqCst);
        // A clock may be some minutes ahead of theirs.
        if old || !(-300..TOKEN_LIFE_S).contains(&age_s) {
            return Err("ExpiredProviderToken");
        }
        Ok(())
    }
}

/// The headers of Apple's table.
fn check_headers(asked: &Asked) -> Result<(), &'static str> {
    asked.header("apns-topic").ok_or("MissingTopic")?;
    match asked.header("apns-push-type") {
        Some("alert" | "background" | "voip" | "location" | "mdm") => {}
        _ => return Err("InvalidPushType"),
    }
    match asked.header("apns-priority") {
        None | Some("10" | "5" | "1") => {}
        Some(_) => return Err("BadPriority"),
    }
    let expiration = asked.header("apns-expiration").unwrap_or("0");
    if expiration.parse::<u32>().is_err() {
        return Err("BadExpirationDate");
    }
    let collapse_id = asked.header("apns-collapse-id").unwrap_or_default();
    if collapse_id.len() > COLLAPSE_ID_BYTES_MAX {
        return Err("BadCollapseId");
    }
    Ok(())
}

impl Provider for Apple {
    fn check(&self, asked: &Asked, devices: &Devices) -> Checked {
        let Some(token) = asked.path.strip_prefix("/3/device/") else {
            return Checked::Answered(refusal(404, "BadPath"));
        };
        let refused = |status, reason| Checked::Refused(token.to_owned(), refusal(status, reason));
        if asked.method != "POST" {
            return refused(405, "MethodNotAllowed");
        }
        if let Err(reason) = self.authorize(asked) {
            return refused(403, reason);
        }
        if let Err(reason) = check_headers(asked) {
            return refused(400, reason);
        }
        if asked.body.is_empty() {
            return refused(400, "PayloadEmpty");
        }
        if asked.body.len() > PAYLOAD_BYTES_MAX {
            return refused(413, "PayloadTooLarge");
        }
        match devices.owner(token) {
            None => return refused(400, "BadDeviceToken"),
            Some(Err(())) => return refused(410, "Unregistered"),
            Some(Ok(topic)) if !topic.is_empty() && asked.header("apns-topic") != Some(&*topic) => {
                return refused(400, "DeviceTokenNotForTopic");
            }
            Some(Ok(_)) => {}
        }
        match notification(asked) {
            Some(notification) => {
                let taken = Answer::new(200, "");
                Checked::Push(Box::new((token.to_owned(), notification, taken)))
            }
            // Apple takes anything, and shows nothing then; a test wants to know.
            None => refused(400, "BadMessageId"),
        }
    }

    fn refusal(&self, status: u16, word: &str) -> Answer {
        refusal(status, word)
    }
}

#[derive(Deserialize)]
struct Payload {
    aps: Aps,
    conversation_id: String,
    tag: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    read_seq: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Aps {
    badge: Option<u64>,
    alert: Option<Alert>,
    #[serde(default)]
    content_available: u8,
}

#[derive(Deserialize)]
struct Alert {
    title: String,
    #[serde(default)]
    body: String,
}

fn notification(asked: &Asked) -> Option<Notification> {
    let payload: Payload = serde_json::from_slice(&asked.body).ok()?;
    let (shows, alert) = match payload.aps.alert {
        Some(alert) => (true, alert),
        // Without it, the app would not be woken to take anything away.
        None if payload.aps.content_available != 1 => return None,
        None => (
            false,
            Alert {
                title: String::new(),
                body: String::new(),
            },
        ),
    };
    // What the system replaces by is the header, not what the app sees. Without it, it replaces nothing.
    let tag = match asked.header("apns-collapse-id") {
        _ if !shows => payload.tag,
        Some(id) => id.to_owned(),
        None => format!("{:032x}", rand::random::<u128>()),
    };
    let headers = asked.headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("apns-")?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    // Apple shows no badge of another type.
    let badge = payload.aps.badge;
    let badge = badge.filter(|_| asked.header("apns-push-type") == Some("alert"));
    Some(Notification {
        shows,
        title: alert.title,
        body: alert.body,
        tag,
        badge,
        count: payload.count,
        seq: payload.seq,
        read_seq: payload.read_seq,
        conversation_id: payload.conversation_id,
        headers: headers.collect(),
    })
}
