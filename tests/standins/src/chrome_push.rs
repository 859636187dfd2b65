//! Google's push service as Chromium itself talks to it, so that a real browser can be pushed to: it checks
//! in, registers what a page subscribes, and holds a connection on which messages come (MCS). By the sources
//! of Chromium, `google_apis/gcm`. For one browser.

use std::{collections::HashMap, net::SocketAddr, ops::Deref, sync::Arc};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;

pub use self::site::Site;
use self::{
    mailbox::Mailbox,
    mcs::{DataMessage, Mcs},
};
use crate::{
    devices::Devices,
    jwt::now_s,
    server::{Answer, Asked, Checked, Provider, StandIn},
    web_push::{Senders, check_headers},
};

mod mailbox;
mod mcs;
mod site;

/// Subscriptions at the same time: a test has one.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// What Chromium's endpoints have before the token.
const ENDPOINT_PATH: &str = "/fcm/send/";

/// The push service, and the site that the browser opens. What is pushed to is [`Self::endpoint`].
#[derive(Debug)]
pub struct ChromePushStandIn {
    stand_in: StandIn,
    site: Site,
    mcs: Mcs,
}

impl Deref for ChromePushStandIn {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

impl ChromePushStandIn {
    /// At free ports.
    pub async fn start() -> anyhow::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let mut made = None;
        let stand_in = StandIn::start(0, |address: SocketAddr| {
            let service = Arc::new(Service {
                senders: Senders::new(format!("http://{address}")),
                subscriptions: Subscriptions::default(),
                mailbox: mailbox.clone(),
            });
            made = Some(service.clone());
            service
        })
        .await?;
        let service = made.context("it has not started")?;
        Ok(Self {
            stand_in,
            site: Site::start(service).await?,
            mcs: Mcs::start(mailbox).await?,
        })
    }

    /// What the browser opens, and what it says.
    pub const fn site(&self) -> &Site {
        &self.site
    }

    /// What makes Chromium talk to this instead of Google.
    pub fn switches(&self) -> Vec<String> {
        let site = self.site.origin();
        vec![
            format!("--gcm-checkin-url={site}{}", site::CHECK_IN_PATH),
            format!("--gcm-registration-url={site}{}", site::REGISTER_PATH),
            format!("--gcm-mcs-endpoint=https://{}", self.mcs.address()),
            // The certificate of the line above, and no other.
            format!(
                "--ignore-certificate-errors-spki-list={}",
                self.mcs.key_hash()
            ),
        ]
    }

    /// Where to push instead of the endpoint that the browser told, whose host is fixed in the browser.
    pub fn endpoint(&self, told: &str) -> anyhow::Result<String> {
        let (origin, token) = told.split_once(ENDPOINT_PATH).context("no endpoint")?;
        anyhow::ensure!(
            origin.starts_with("https://"),
            "{origin} is no push service"
        );
        Ok(format!("{}{ENDPOINT_PATH}{token}", self.url()))
    }
}

#[derive(Debug)]
struct Service {
    senders: Senders,
    subscriptions: Subscriptions,
    mailbox: Arc<Mailbox>,
}

/// By token.
#[derive(Debug, Default)]
struct Subscriptions(Mutex<HashMap<String, Arc<Subscription>>>);

/// What Chromium said when it registered.
#[derive(Debug)]
struct Subscription {
    /// The key of the server that may push.
    server: [u8; 65],
    /// The same as it was said: the browser finds its own key by it.
    sender: String,
    /// Chromium's own name.
    app: String,
    /// Of the site's worker.
    subtype: String,
}

impl Subscriptions {
    /// The token of a new one; `None` if the form is not one that a page has caused, as Chromium registers
    /// for itself too.
    fn add(&self, form: &[u8]) -> Option<String> {
        let form: HashMap<_, _> = form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| form.get(name).cloned();
        let sender = field("sender")?;
        let server = URL_SAFE_NO_PAD.decode(&sender).ok()?;
        let subscription = Subscription {
            server: server.as_slice().try_into().ok()?,
            sender,
            app: field("app")?,
            subtype: field("X-subtype")?,
        };
        let mut subscriptions = self.0.lock();
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return None;
        }
        let token = format!("{:032x}", rand::random::<u128>());
        subscriptions.insert(token.clone(), Arc::new(subscription));
        Some(token)
    }

    fn get(&self, token: &str) -> Option<Arc<Subscription>> {
        self.0.lock().get(token).cloned()
    }
}

impl Provider for Service {
    fn check(&self, asked: &Asked, _: &Devices) -> Checked {
        let token = asked.path.strip_prefix(ENDPOINT_PATH);
        let status = match token.and_then(|token| self.subscriptions.get(token)) {
            Some(subscription) => self.take(asked, &subscription),
            None => 404,
        };
        Checked::Answered(Answer::new(status, ""))
    }

    fn refusal(&self, status: u16, _: &str) -> Answer {
        Answer::new(status, "")
    }
}

impl Service {
    fn take(&self, asked: &Asked, subscription: &Subscription) -> u16 {
        let checked = self
            .senders
            .authorize(asked, &subscription.server)
            .and_then(|()| check_headers(asked));
        if let Err(status) = checked {
            return status;
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let ttl_s = asked.header("ttl").and_then(|ttl| ttl.parse().ok());
        let message = DataMessage::new(
            &id,
            &subscription.sender,
            &subscription.app,
            &[
                ("subtype", &subscription.subtype),
                ("content-encoding", "aes128gcm"),
            ],
            (ttl_s.unwrap_or(i32::MAX), now_s()),
            &asked.body,
        );
        match self.mailbox.put(message) {
            true => 201,
            false => 503,
        }
    }
}
