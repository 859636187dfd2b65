//! How many pushes a second go through a guard to what stands in for a provider, both in this process:
//! `cargo run --release -p notifier --example push_rate -- apns 100000`. Or `fcm`, or `web_push`, which
//! encrypts and decrypts each.

use std::{sync::Arc, time::Instant};

use futures_util::{StreamExt as _, stream};
use notifier::{
    model::{Subject, Target},
    providers::{Config, Providers, guard::Settled},
    push::{Alert, CollapseId, Push},
};
use runtime::{
    clock::{Clock, SystemClock},
    ids::{ConversationId, GroupId, UserId},
    shutdown::CancellationToken,
};
use standins::{ApnsStandIn, FcmStandIn, StandIn, WebPushStandIn};

/// Pushes that wait at the same time, as in a reader's window.
const WINDOW: usize = 1_024;
/// Devices that they go to, each with messages of one conversation. More than the window, so that no device
/// has two pushes at once.
const DEVICES: u64 = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let provider = arguments.next().unwrap_or_else(|| "apns".to_owned());
    let pushes: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("credential");
    match provider.as_str() {
        "apns" => {
            let apple = ApnsStandIn::start().await?;
            std::fs::write(&file, apple.key_pem())?;
            let (key, team) = (standins::apns::KEY_ID, standins::apns::TEAM_ID);
            let config = format!(
                "[apns]\nkey_file = {file:?}\nkey_id = {key:?}\nteam_id = {team:?}\n\
                 topics = [\"org.example\"]\nurl = {:?}\nguard.pushes_per_second = 1000000",
                apple.url()
            );
            let device = |n| Target::Apns {
                device_token: format!("{n:064x}"),
                topic: "org.example".to_owned(),
                sandbox: false,
            };
            run(&config, &apple, pushes, (0..DEVICES).map(device).collect()).await
        }
        "fcm" => {
            let google = FcmStandIn::start().await?;
            std::fs::write(&file, google.service_account_json())?;
            let config = format!(
                "[fcm]\nservice_account_file = {file:?}\nurl = {:?}\n\
                 guard.pushes_per_second = 1000000",
                google.url()
            );
            let device = |n| Target::Fcm {
                registration_token: format!("device-{n}"),
            };
            run(&config, &google, pushes, (0..DEVICES).map(device).collect()).await
        }
        "web_push" => {
            let service = WebPushStandIn::start().await?;
            let config = format!(
                "[web_push]\nkey_file = {file:?}\ncontact = \"mailto:push@example.org\"\n\
                 allowed_origins = [{:?}]\nguard.pushes_per_second = 1000000",
                service.url()
            );
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let providers = Providers::open(&toml::from_str::<Config>(&config)?, &clock)?;
            let (web_push, _) = providers.web_push.ok_or("no web push")?;
            let subscribe = |_| -> Result<Target, Box<dyn std::error::Error>> {
                let made = service.subscribe(web_push.public_key())?;
                Ok(web_push.target(&made.endpoint, &made.p256dh, &made.auth)?)
            };
            let devices = (0..DEVICES).map(subscribe).collect::<Result<_, _>>()?;
            run(&config, &service, pushes, devices).await
        }
        other => Err(format!("no such provider: {other}").into()),
    }
}

async fn run(
    config: &str,
    stand_in: &StandIn,
    pushes: u64,
    devices: Vec<Target>,
) -> Result<(), Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let providers = Providers::open(&toml::from_str::<Config>(config)?, &clock)?;
    let guard = &providers.guards()[0];
    stand_in.devices().only_count();
    let subject = Subject {
        user: UserId::generate(),
        conversation: ConversationId::group(GroupId::generate()),
    };
    let expires_unix_ms = clock.now_unix_ms() + 24 * 60 * 60 * 1_000;
    let begin = Instant::now();
    let devices = &devices;
    let each = |n: u64| async move {
        let at = usize::try_from(n % DEVICES).unwrap_or_default();
        let push = Push {
            collapse_id: CollapseId::of(&subject),
            conversation: subject.conversation,
            alert: Some(Alert {
                title: "Ada".to_owned(),
                body: "Tea at five? There is cake, and some sandwiches.".to_owned(),
                count: 1,
                seq: 1 + n / DEVICES,
            }),
            badge: 1,
            read_seq: 0,
            expires_unix_ms,
        };
        guard
            .settle(&devices[at], &push, &CancellationToken::new())
            .await
    };
    let taken = stream::iter(0..pushes)
        .map(each)
        .buffered(WINDOW)
        .filter(|settled| std::future::ready(*settled == Settled::Taken))
        .count()
        .await;
    let seconds = begin.elapsed().as_secs_f64();
    let totals = stand_in.devices().totals();
    println!(
        "{taken} of {pushes} taken, {:.0} a second",
        pushes as f64 / seconds
    );
    println!("{totals:?}, connections: {}", stand_in.connections());
    Ok(())
}
