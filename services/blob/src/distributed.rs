//! The parts of a blob process, put together: what it needs is waited for, then it serves.

use std::{
    fs::{DirBuilder, File, TryLockError},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use blob::{
    Deps,
    objects::{
        Objects,
        local::LocalObjects,
        s3::{S3Config, S3Objects},
    },
    store::postgres::PostgresStore,
};
use event_log::{
    EventLog,
    kafka::{KafkaConfig, KafkaLog},
};
use runtime::{
    auth::{AuthLayer, ServiceIdentity, Verifier, keep_user_keys},
    channel,
    clock::SystemClock,
    config::ConfigError,
    postgres::PostgresConfig,
    process::{
        HEALTH_INTERVAL, Listening, NotThere, ProcessConfig, STOP_DEADLINE, user_keys, wait_for,
    },
    secret,
    server::ServerConfig,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;

/// The lock of a folder of objects, inside of it.
const LOCK_FILE: &str = "lock";
/// It is for the owner of the process only.
const FOLDER_MODE: u32 = 0o700;
/// Calls of one connection besides its uploads: an edge has one connection for those of all its devices.
const OTHER_STREAMS_MAX: usize = 256;

/// The settings of a blob process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The gRPC listener.
    server: ProcessConfig,
    /// The listener for browsers and a CDN.
    http: HttpConfig,
    /// The event log.
    kafka: KafkaConfig,
    /// The store.
    postgres: PostgresConfig,
    /// Where bytes are.
    objects: ObjectsConfig,
    /// What URLs are signed with, the same in all replicas: 32 bytes, best random. Whoever has it may
    /// download everything that he knows the id of.
    url_secret_file: PathBuf,
    /// `host:port` of the replicas of profile; one name that stands for all of them will do.
    profile_addresses: Vec<String>,
    /// The same of messaging, which says who may read what.
    messaging_addresses: Vec<String>,
    /// Blob itself; `public_url` is required.
    #[serde(default)]
    blob: blob::Config,
}

/// The listener for browsers and a CDN.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpConfig {
    /// Where to listen; port 0 takes a free one.
    listen: SocketAddr,
}

/// Where bytes are: one of both.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectsConfig {
    /// A folder: for one replica, which has it for itself.
    local: Option<LocalConfig>,
    /// A bucket: for any number of replicas.
    s3: Option<S3Config>,
}

/// A folder of objects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalConfig {
    /// Made if it is not there.
    path: PathBuf,
}

/// The choice that the settings make.
enum Place<'a> {
    Local(&'a LocalConfig),
    S3(&'a S3Config),
}

/// Objects, and what must live as long as they do.
struct Opened {
    objects: Arc<dyn Objects>,
    _lock: Option<File>,
}

pub(crate) async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    // Wrong settings end the process before it waits for others.
    let service_key = settings.server.service_key()?;
    let url_secret = secret::load(&settings.url_secret_file)
        .map_err(|error| ConfigError::setting("url_secret_file", &error))?;
    let place = settings.objects.place()?;
    check(&settings.blob)?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let auth = AuthLayer::new(verifier.clone(), blob::policy);
    let identity = ServiceIdentity::new("blob", service_key.clone(), clock.clone());
    let streams_max = settings.blob.uploads_max.saturating_add(OTHER_STREAMS_MAX);
    let server = ServerConfig {
        streams_per_connection_max: u32::try_from(streams_max).unwrap_or(u32::MAX),
        ..ServerConfig::default()
    };
    let listening = Listening::begin(settings.server.listen, &blob::SERVICES, auth, server).await?;

    let profile = channel::replicas(settings.profile_addresses.clone());
    let tasks = Tasks::new();
    keep_user_keys(verifier.clone(), identity.on(profile), &tasks);
    if wait_for("profile", &stop, async || user_keys(&verifier))
        .await?
        .is_none()
    {
        return Ok(());
    }
    let Some(opened) = wait_for("objects", &stop, || place.open()).await? else {
        return Ok(());
    };
    let postgres = &settings.postgres;
    let Some(store) = wait_for("postgres", &stop, || PostgresStore::open(postgres)).await? else {
        return Ok(());
    };
    let kafka = &settings.kafka;
    let Some(log) = wait_for("kafka", &stop, || KafkaLog::open(kafka.clone())).await? else {
        return Ok(());
    };

    let blobs = blob::start(
        settings.blob.clone(),
        Deps {
            store: Arc::new(store),
            objects: opened.objects.clone(),
            log: log.clone() as Arc<dyn EventLog>,
            clock,
            verifier,
            service_key,
            url_secret,
            messaging: channel::replicas(settings.messaging_addresses.clone()),
            tasks: tasks.clone(),
        },
    )
    .await?;
    // Not before: a balancer tries another replica where nobody listens, and waits where somebody does.
    let listen = settings.http.listen;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
    println!("listens on http://{} by HTTP", listener.local_addr()?);
    let serving_http = Tasks::new();
    blobs.serve_http(listener, &serving_http)?;
    let mut routes = RoutesBuilder::default();
    blobs.add_to(&mut routes);
    listening.open(routes, None).await;

    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
        .await
        .is_some()
    {
        listening.set_serving(blobs.is_healthy()).await;
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

fn check(config: &blob::Config) -> Result<(), ConfigError> {
    config
        .check()
        .map_err(|error| ConfigError::setting(&format!("blob.{}", error.key), &error.problem))?;
    if config.public_url.is_empty() {
        let problem = "missing: where clients reach all replicas by HTTP";
        return Err(ConfigError::setting("blob.public_url", &problem));
    }
    Ok(())
}

impl ObjectsConfig {
    /// Refuses what could never work, without asking anybody.
    fn place(&self) -> anyhow::Result<Place<'_>> {
        match (&self.local, &self.s3) {
            (Some(local), None) => Ok(Place::Local(local)),
            (None, Some(s3)) => match s3.check().map_err(NotThere::from) {
                Ok(()) => Ok(Place::S3(s3)),
                Err(NotThere::Wrong(error)) => Err(error),
                Err(NotThere::Away(why)) => Err(ConfigError::setting("objects.s3", &why).into()),
            },
            _ => Err(ConfigError::setting("objects", &"must have `local` or `s3`").into()),
        }
    }
}

impl Place<'_> {
    async fn open(&self) -> Result<Opened, NotThere> {
        match self {
            Self::S3(config) => Ok(Opened {
                objects: Arc::new(S3Objects::open(config).await?),
                _lock: None,
            }),
            Self::Local(config) => {
                let path = config.path.clone();
                let opened = tokio::task::spawn_blocking(move || open_folder(path)).await;
                opened.unwrap_or_else(|error| Err(NotThere::wrong(error)))
            }
        }
    }
}

/// Two processes would remove from each other what they are just putting there. One that is replaced may
/// still end what it has begun: its successor waits.
fn open_folder(path: PathBuf) -> Result<Opened, NotThere> {
    let wrong = |error: &dyn std::fmt::Display| {
        NotThere::wrong(ConfigError::setting("objects.local.path", error))
    };
    let mut folder = DirBuilder::new();
    let made = folder.recursive(true).mode(FOLDER_MODE).create(&path);
    made.map_err(|error| wrong(&error))?;
    let lock = File::create(path.join(LOCK_FILE)).map_err(|error| wrong(&error))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => NotThere::away(&"another process has the folder"),
        TryLockError::Error(error) => wrong(&error),
    })?;
    let objects = LocalObjects::open(path).map_err(|error| wrong(&error))?;
    Ok(Opened {
        objects: Arc::new(objects),
        _lock: Some(lock),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_waits_for_the_folder_and_gets_it_when_the_first_is_gone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("new/objects");
        let first = open_folder(folder.clone());
        assert!(first.is_ok());
        let second = open_folder(folder.clone());
        assert!(matches!(second, Err(NotThere::Away(_))));
        drop(first);
        assert!(open_folder(folder).is_ok());
        // A file is no folder, however long one waits.
        let file = above.path().join("file");
        std::fs::write(&file, "").unwrap();
        let Err(NotThere::Wrong(error)) = open_folder(file) else {
            panic!("a file was opened as a folder");
        };
        assert!(error.to_string().contains("objects.local.path"), "{error}");
    }
}
