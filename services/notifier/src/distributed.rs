//! The parts of a notifier process, put together: what it needs is waited for, then it serves.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use event_log::{
    EventLog,
    kafka::{KafkaConfig, KafkaLog},
};
use notifier::{
    Deps, post,
    providers::{self, Providers, SetupError},
    store::postgres::PostgresStore,
};
use runtime::{
    auth::{AuthLayer, ServiceIdentity, Verifier, keep_user_keys},
    channel,
    clock::{Clock, SystemClock},
    config::ConfigError,
    postgres::PostgresConfig,
    process::{HEALTH_INTERVAL, Listening, ProcessConfig, STOP_DEADLINE, user_keys, wait_for},
    secret::{self, Secret},
    server::ServerConfig,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// The settings of a notifier process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The listener.
    server: ProcessConfig,
    /// The event log.
    kafka: KafkaConfig,
    /// The store.
    postgres: PostgresConfig,
    /// `host:port` of the replicas of messaging, which says what is read; one name that stands for all of
    /// them will do.
    messaging_addresses: Vec<String>,
    /// The same of profile, which knows names and the keys of users' tokens.
    profile_addresses: Vec<String>,
    /// The same of groups, which knows theirs.
    groups_addresses: Vec<String>,
    /// What links and senders of mails are signed with, the same in all replicas: 32 bytes, best random. Whoever
    /// has it may end the digests of everybody whose id and address he knows. Needed if mail is sent.
    mail_secret_file: Option<PathBuf>,
    /// The notifier itself; `mail.public_url` is required if mail is sent.
    #[serde(default)]
    notifier: notifier::Config,
}

pub(crate) async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Wrong settings end the process before it waits for others.
    let service_key = settings.server.service_key()?;
    check(&settings.notifier.providers, &clock)?;
    let mail_secret = settings.mail_secret()?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let auth = AuthLayer::new(verifier.clone(), notifier::policy);
    let identity = ServiceIdentity::new("notifier", service_key, clock.clone());
    let listening = Listening::begin(
        settings.server.listen,
        &notifier::SERVICES,
        auth,
        ServerConfig::default(),
    )
    .await?;

    let profile = || channel::replicas(settings.profile_addresses.clone());
    let tasks = Tasks::new();
    keep_user_keys(verifier.clone(), identity.on(profile()), &tasks);
    if wait_for("profile", &stop, async || user_keys(&verifier))
        .await?
        .is_none()
    {
        return Ok(());
    }
    let postgres = &settings.postgres;
    let Some(store) = wait_for("postgres", &stop, || PostgresStore::open(postgres)).await? else {
        return Ok(());
    };
    let kafka = &settings.kafka;
    let Some(log) = wait_for("kafka", &stop, || KafkaLog::open(kafka.clone())).await? else {
        return Ok(());
    };

    let notifier = notifier::start(
        settings.notifier.clone(),
        Deps {
            store: Arc::new(store),
            log: log.clone() as Arc<dyn EventLog>,
            clock,
            messaging: identity.on(channel::replicas(settings.messaging_addresses.clone())),
            profile: identity.on(profile()),
            groups: identity.on(channel::replicas(settings.groups_addresses.clone())),
            mail_secret,
            tasks: tasks.clone(),
        },
    )
    .await?;
    // Not before: a balancer tries another replica where nobody listens, and waits where somebody does.
    let serving_http = Tasks::new();
    let address = notifier.serve_http(&serving_http).await;
    if let Some(address) = address.context("cannot listen for those who end digests")? {
        println!("listens on http://{address} by HTTP");
    }
    let mut routes = RoutesBuilder::default();
    notifier.add_to(&mut routes);
    listening.open(routes, None).await;

    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
        .await
        .is_some()
    {
        listening.set_serving(notifier.is_healthy()).await;
    }
    listening.set_serving(false).await;
    tokio::join!(
        serving_http.stop(STOP_DEADLINE),
        listening.stop(STOP_DEADLINE)
    );
    tasks.stop(STOP_DEADLINE).await;
    log.close().await;
    Ok(())
}

impl Settings {
    /// Checks what is set of mail, and answers what it is signed with.
    fn mail_secret(&self) -> Result<Secret, ConfigError> {
        let Some(mail) = &self.notifier.mail else {
            return Ok(Secret::default());
        };
        if mail.public_url.is_empty() {
            let problem = "missing: where people reach all replicas by HTTP";
            return Err(ConfigError::setting("notifier.mail.public_url", &problem));
        }
        post::check(mail, &self.notifier.app_name).map_err(|error| match &error {
            SetupError::Setting { key, problem } if key.starts_with("mail.") => {
                ConfigError::setting(&format!("notifier.{key}"), problem)
            }
            SetupError::Setting { key, problem } => {
                ConfigError::setting(&format!("notifier.mail.smtp.{key}"), problem)
            }
            SetupError::File { path, .. } | SetupError::Credential { path, .. } => {
                let of_ca = mail.smtp.ca_file.as_ref() == Some(path);
                let key = if of_ca { "ca_file" } else { "password_file" };
                ConfigError::setting(&format!("notifier.mail.smtp.{key}"), &error)
            }
            SetupError::Client(_) => ConfigError::setting("notifier.mail.smtp", &error),
        })?;
        let Some(file) = &self.mail_secret_file else {
            let problem = "missing: what mails are signed with";
            return Err(ConfigError::setting("mail_secret_file", &problem));
        };
        secret::load(file).map_err(|error| ConfigError::setting("mail_secret_file", &error))
    }
}

/// Reads all credentials once, and names the setting that is at fault.
fn check(config: &providers::Config, clock: &Arc<dyn Clock>) -> Result<(), ConfigError> {
    // Never made here: browsers subscribe to one key, and each replica would have its own.
    if let Some(web_push) = &config.web_push
        && !web_push.key_file.exists()
    {
        let problem = format!(
            "{} is not there; all replicas have the same",
            web_push.key_file.display()
        );
        return Err(wrong("web_push.key_file", &problem));
    }
    Providers::open(config, clock)
        .map(drop)
        .map_err(|error| match &error {
            SetupError::Setting { key, problem } => wrong(key, problem),
            SetupError::File { path, .. } | SetupError::Credential { path, .. } => {
                wrong(key_of(config, path), &error)
            }
            SetupError::Client(_) => ConfigError::setting("notifier.providers", &error),
        })
}

fn wrong(key: &str, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::setting(&format!("notifier.providers.{key}"), problem)
}

/// Which setting names the file.
fn key_of(config: &providers::Config, path: &Path) -> &'static str {
    let is_of = |file: Option<&Path>| file == Some(path);
    if is_of(config.apns.as_ref().map(|apns| apns.key_file.as_path())) {
        return "apns.key_file";
    }
    if is_of(
        config
            .fcm
            .as_ref()
            .map(|fcm| fcm.service_account_file.as_path()),
    ) {
        return "fcm.service_account_file";
    }
    "web_push.key_file"
}
