//! A real browser, as Debian has it: what it shows of what we send.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use runtime::{
    clock::SystemClock,
    ids::{ConversationId, UserId},
};
use serde::{Deserialize, de::DeserializeOwned};
use servers::Chromium;
use standins::ChromePushStandIn;

use super::super::*;
use crate::{
    limits::{BODY_BYTES_MAX, TITLE_BYTES_MAX},
    model::Subject,
    providers::tests::{File, alert, clear},
    push::CollapseId,
};

/// How long the browser may take for one thing; seconds for its start, milliseconds for a push.
const DEADLINE: Duration = Duration::from_secs(60);
/// The tag of what Chromium shows after a push of which it finds nothing on the screen. It hides it from pages.
const OF_CHROMIUM: &str = "user_visible_auto_notification";

/// Subscribes, tells the test, and goes: pushes come while no page of the site is open.
const PAGE: &str = r"<!doctype html>
<script>
const say = (said) => fetch('/say', { method: 'POST', body: JSON.stringify(said) });
(async () => {
  await navigator.serviceWorker.register('/test.js');
  const { pushManager } = await navigator.serviceWorker.ready;
  const subscription = await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: 'KEY' });
  await say(subscription.toJSON());
})().catch((error) => say(String(error))).then(() => location.replace('about:blank'));
</script>";
/// The worker of our example, and what tells the test what is on the screen after each push.
const TEST_WORKER: &str = "
importScripts('/worker.js');
self.addEventListener('push', (event) => event.waitUntil(shown.then(tell)));
async function tell() {
  const notifications = await self.registration.getNotifications();
  const screen = notifications.map(({ title, body, tag, data }) => ({ title, body, tag, ...data }));
  await fetch('/say', { method: 'POST', body: JSON.stringify(screen) });
}";
const WORKER: &str = include_str!("../../../../examples/worker.js");

#[derive(Deserialize)]
struct Subscribed {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    title: String,
    body: String,
    tag: String,
    seq: u64,
    count: u64,
    conversation_id: String,
    /// It stays only because it is the last one.
    read: bool,
}

impl Shown {
    fn of(push: &Push) -> Self {
        let alert = push.alert.clone().unwrap();
        Self {
            title: alert.title,
            body: alert.body,
            tag: push.collapse_id.to_string(),
            seq: alert.seq,
            count: alert.count,
            conversation_id: push.conversation.to_string(),
            read: false,
        }
    }
}

struct Browser {
    service: ChromePushStandIn,
    web_push: WebPush,
    target: Target,
    chromium: Chromium,
}

impl Browser {
    async fn start() -> Self {
        let service = ChromePushStandIn::start().await.unwrap();
        let folder = File::new("");
        let text = format!(
            "key_file = {:?}\ncontact = \"mailto:push@example.org\"\nallowed_origins = [{:?}]",
            folder.path().with_file_name("vapid.pem"),
            service.url()
        );
        let web_push = WebPush::open(&toml::from_str(&text).unwrap(), Arc::new(SystemClock));
        let web_push = web_push.unwrap();
        let key = URL_SAFE_NO_PAD.encode(web_push.public_key());
        let site = service.site();
        site.put("/", "text/html", &PAGE.replace("KEY", &key));
        site.put("/test.js", "text/javascript", TEST_WORKER);
        site.put("/worker.js", "text/javascript", WORKER);
        let chromium = Chromium::open(&site.origin(), &service.switches()).unwrap();
        let subscribed: Subscribed = hear(&service, &chromium).await;
        let endpoint = service.endpoint(&subscribed.endpoint).unwrap();
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let (p256dh, auth) = (bytes(&subscribed.keys.p256dh), bytes(&subscribed.keys.auth));
        let target = web_push.target(&endpoint, &p256dh, &auth).unwrap();
        Self {
            service,
            web_push,
            target,
            chromium,
        }
    }

    /// What is on its screen after a push, the oldest first.
    async fn screen_after(&self, push: &Push) -> Vec<Shown> {
        assert_eq!(self.web_push.push(&self.target, push).await, Outcome::Taken);
        hear(&self.service, &self.chromium).await
    }
}

/// What the page, or its worker, says next.
async fn hear<T: DeserializeOwned>(service: &ChromePushStandIn, chromium: &Chromium) -> T {
    let said = tokio::time::timeout(DEADLINE, service.site().hear()).await;
    let Ok(Some(said)) = said else {
        panic!("Chromium says nothing; it printed: {}", chromium.log());
    };
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_browser_shows_what_a_push_says() {
    let browser = Browser::start().await;
    let of_other = Subject {
        user: UserId::generate(),
        conversation: ConversationId::direct(UserId::generate(), UserId::generate()).unwrap(),
    };
    let other = Push {
        collapse_id: CollapseId::of(&of_other),
        conversation: of_other.conversation,
        ..alert(7)
    };
    let mut longest = alert(4);
    let text = longest.alert.as_mut().unwrap();
    text.title = "\"".repeat(TITLE_BYTES_MAX);
    text.body = "\\".repeat(BODY_BYTES_MAX);

    let (first, second, late) = (alert(1), alert(3), alert(2));
    assert_eq!(browser.screen_after(&first).await, [Shown::of(&first)]);
    assert_eq!(browser.screen_after(&second).await, [Shown::of(&second)]);
    assert_eq!(browser.screen_after(&late).await, [Shown::of(&second)]);
    assert_eq!(browser.screen_after(&clear(2)).await, [Shown::of(&second)]);
    assert_eq!(browser.screen_after(&longest).await, [Shown::of(&longest)]);
    let both = browser.screen_after(&other).await;
    assert_eq!(both.len(), 2);
    assert!(both.contains(&Shown::of(&longest)) && both.contains(&Shown::of(&other)));
    assert_eq!(browser.screen_after(&clear(4)).await, [Shown::of(&other)]);

    // The last one: Chromium would show something instead of it.
    let clear_other = Push {
        alert: None,
        read_seq: 7,
        ..other.clone()
    };
    let last = Shown {
        read: true,
        ..Shown::of(&other)
    };
    assert_eq!(browser.screen_after(&clear_other).await, [last]);
    let next = alert(5);
    assert_eq!(browser.screen_after(&next).await, [Shown::of(&next)]);
    let stored = |tag: &str| browser.chromium.has_stored_notification(tag).unwrap();
    assert!(
        stored(&next.collapse_id.to_string()),
        "the test sees nothing"
    );
    assert!(!stored(OF_CHROMIUM), "Chromium showed something of its own");
}
