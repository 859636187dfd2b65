//! The push service of a browser, and the browser: it decrypts what comes.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    ops::Deref,
    sync::Arc,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use serde::Deserialize;
use web_push_native::{
    Auth,
    p256::{
        SecretKey,
        elliptic_curve::{rand_core::OsRng, sec1::ToEncodedPoint as _},
    },
};

use crate::{
    devices::{Devices, Notification},
    jwt::{Verified, now_s},
    server::{Answer, Asked, Checked, Provider, StandIn},
};

/// Bytes of a message that a push service takes.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// The longest life of a token.
const TOKEN_LIFE_S: i64 = 24 * 60 * 60;
/// Subscriptions at the same time.
const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// A push service. The token of a device is its endpoint.
#[derive(Debug)]
pub struct WebPushStandIn {
    stand_in: StandIn,
    service: Arc<Service>,
}

impl Deref for WebPushStandIn {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

/// What a page gives to its server.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Where to push.
    pub endpoint: String,
    /// The browser's key.
    pub p256dh: [u8; 65],
    /// The secret that both know.
    pub auth: [u8; 16],
}

#[derive(Debug)]
struct Service {
    senders: Senders,
    /// By path.
    browsers: Mutex<HashMap<String, Arc<Browser>>>,
}

/// Knows who pushes (RFC 8292).
#[derive(Debug)]
pub(crate) struct Senders {
    /// Of the push service.
    origin: String,
    verified: Verified<Claims>,
}

struct Browser {
    secret: SecretKey,
    auth: [u8; 16],
    /// The server's key that it subscribed to.
    server: [u8; 65],
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Browser")
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Claims {
    aud: String,
    exp: i64,
    sub: String,
}

impl WebPushStandIn {
    /// At a free port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(0).await
    }

    /// At a port.
    pub async fn start_at(port: u16) -> anyhow::Result<Self> {
        let mut made = None;
        let stand_in = StandIn::start(port, |address: SocketAddr| {
            let service = Arc::new(Service {
                senders: Senders::new(format!("http://{address}")),
                browsers: Mutex::default(),
            });
            made = Some(service.clone());
            service
        })
        .await?;
        let service = made.context("it has not started")?;
        Ok(Self { stand_in, service })
    }

    /// A browser subscribes to a server's key.
    pub fn subscribe(&self, server: &[u8; 65]) -> anyhow::Result<Subscription> {
        self.service.subscribe(server, self.devices())
    }
}

impl Service {
    fn subscribe(&self, server: &[u8; 65], devices: &Devices) -> anyhow::Result<Subscription> {
        let secret = SecretKey::random(&mut OsRng);
        let auth: [u8; 16] = rand::random();
        let point = secret.public_key().to_encoded_point(false);
        let p256dh = point.as_bytes().try_into()?;
        let path = format!("/s/{:032x}", rand::random::<u128>());
        let endpoint = format!("{}{path}", self.senders.origin);
        let mut browsers = self.browsers.lock();
        anyhow::ensure!(browsers.len() < SUBSCRIPTIONS_MAX, "too many subscriptions");
        let browser = Browser {
            secret,
            auth,
            server: *server,
        };
        browsers.insert(path, Arc::new(browser));
        devices.add(&endpoint, "");
        Ok(Subscription {
            endpoint,
            p256dh,
            auth,
        })
    }

    /// A subscription as `PushSubscription.toJSON()` tells it, for what runs in another process; asked for
    /// with the server's key in base64url.
    fn subscribe_remote(&self, asked: &Asked, devices: &Devices) -> Option<Answer> {
        let server = URL_SAFE_NO_PAD.decode(&asked.body).ok()?;
        let made = self
            .subscribe(server.as_slice().try_into().ok()?, devices)
            .ok()?;
        let json = serde_json::json!({
            "endpoint": made.endpoint,
            "keys": {
                "p256dh": URL_SAFE_NO_PAD.encode(made.p256dh),
                "auth": URL_SAFE_NO_PAD.encode(made.auth),
            },
        });
        Some(Answer::new(201, json.to_string()))
    }
}

impl Senders {
    pub(crate) fn new(origin: String) -> Self {
        Self {
            origin,
            verified: Verified::default(),
        }
    }

    /// Whether it comes from the server whose key a browser subscribed to; otherwise the status that says so.
    pub(crate) fn authorize(&self, asked: &Asked, server: &[u8; 65]) -> Result<(), u16> {
        let header = asked.header("authorization").ok_or(401_u16)?;
        let parameters = header.strip_prefix("vapid ").ok_or(401_u16)?;
        let parameter = |name: &str| {
            let mut parts = parameters.split(',').map(str::trim);
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let (token, key) = (
            parameter("t").ok_or(401_u16)?,
            parameter("k").ok_or(401_u16)?,
        );
        let key = URL_SAFE_NO_PAD.decode(key).map_err(|_| 401_u16)?;
        if key != server {
            return Err(403);
        }
        let key = DecodingKey::from_ec_der(&key);
        let (_, claims) = self
            .verified
            .verify(token, Algorithm::ES256, &key)
            .ok_or(403_u16)?;
        let left_s = claims.exp - now_s();
        let contact = claims.sub.starts_with("mailto:") || claims.sub.starts_with("https://");
        // A clock may be some minutes ahead.
        if claims.aud != self.origin || !contact || !(0..=TOKEN_LIFE_S + 300).contains(&left_s) {
            return Err(403);
        }
        Ok(())
    }
}

/// What every push service looks at; otherwise the status that says so.
pub(crate) fn check_headers(asked: &Asked) -> Result<(), u16> {
    let ttl = asked.header("ttl").and_then(|ttl| ttl.parse::<u32>().ok());
    let urgency = asked.header("urgency").unwrap_or("normal");
    let topic = asked.header("topic").unwrap_or_default();
    let base64url = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let fits = ttl.is_some()
        && matches!(urgency, "very-low" | "low" | "normal" | "high")
        && topic.len() <= 32
        && topic.chars().all(base64url)
        && asked.header("content-encoding") == Some("aes128gcm");
    match fits {
        true if asked.body.len() > MESSAGE_BYTES_MAX => Err(413),
        true => Ok(()),
        false => Err(400),
    }
}

impl Provider for Service {
    fn check(&self, asked: &Asked, devices: &Devices) -> Checked {
        if asked.path == "/subscribe" {
            let made = self.subscribe_remote(asked, devices);
            return Checked::Answered(made.unwrap_or_else(|| Answer::new(400, "")));
        }
        let browser = self.browsers.lock().get(&asked.path).cloned();
        let endpoint = format!("{}{}", self.senders.origin, asked.path);
        let refused = |status| Checked::Refused(endpoint.clone(), Answer::new(status, ""));
        let Some(browser) = browser else {
            return refused(404);
        };
        if devices.owner(&endpoint) == Some(Err(())) {
            return refused(410);
        }
        let checked = self
            .senders
            .authorize(asked, &browser.server)
            .and_then(|()| check_headers(asked));
        if let Err(status) = checked {
            return refused(status);
        }
        match notification(asked, &browser) {
            Some(notification) => {
                let taken = Answer::new(201, "");
                Checked::Push(Box::new((endpoint, notification, taken)))
            }
            // A push service cannot know, but a test is to.
            None => refused(422),
        }
    }

    fn refusal(&self, status: u16, _: &str) -> Answer {
        Answer::new(status, "")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    title: Option<String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: u64,
    read_seq: u64,
    badge: u64,
    conversation_id: String,
    tag: String,
}

fn notification(asked: &Asked, browser: &Browser) -> Option<Notification> {
    let plain = decrypt(asked.body.to_vec(), &browser.secret, &browser.auth)?;
    let payload: Payload = serde_json::from_slice(&plain).ok()?;
    let header = |name: &str| Some((name.to_owned(), asked.header(name)?.to_owned()));
    let headers = ["ttl", "urgency", "topic"].into_iter().filter_map(header);
    Some(Notification {
        shows: payload.title.is_some(),
        title: payload.title.unwrap_or_default(),
        body: payload.body,
        tag: payload.tag,
        badge: Some(payload.badge),
        count: payload.count,
        seq: payload.seq,
        read_seq: payload.read_seq,
        conversation_id: payload.conversation_id,
        headers: headers.collect::<BTreeMap<_, _>>(),
    })
}

/// RFC 8291.
fn decrypt(message: Vec<u8>, secret: &SecretKey, auth: &[u8; 16]) -> Option<Vec<u8>> {
    web_push_native::decrypt(message, secret, &Auth::from(*auth)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_reads_the_example_of_rfc_8291() {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let secret = bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94");
        let secret = SecretKey::from_slice(&secret).unwrap();
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap();
        let message = bytes(concat!(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml",
            "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT",
            "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        ));
        let plain = decrypt(message.clone(), &secret, &auth).unwrap();
        assert_eq!(plain, b"When I grow up, I want to be a watermelon");
        let mut damaged = message;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(decrypt(damaged, &secret, &auth), None);
    }
}
