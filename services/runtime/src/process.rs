//! One service as a process of its own: settings, a listener from the first moment, waiting for the
//! servers that it needs, and stopping in order.
//!
//! Ends with 2 if the settings are wrong and with 1 if it cannot go on; a server that is away is
//! waited for, however long.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    auth::{AuthLayer, KeyPair, Verifier},
    config::{self, ConfigError, Sources},
    gateway::Gateway,
    postgres::OpenError,
    server::{self, ServerConfig, Stage},
    shutdown::{self, CancellationToken, Tasks},
    telemetry,
};

/// How long what is open may take to end after a signal; then it is cut. Kubernetes kills after 30 s.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a process looks whether its parts still work, for its health.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause between looks at a server that is away.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The settings that every process has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The private key that all services of this system sign their calls to each other with: Ed25519,
    /// PKCS#8, PEM. Whoever has it may do anything.
    pub service_key_file: PathBuf,
}

impl ProcessConfig {
    /// The key of the services.
    pub fn service_key(&self) -> anyhow::Result<KeyPair> {
        // Never made here: a key that one process has alone opens nothing.
        load_key("server.service_key_file", &self.service_key_file)
    }
}

/// The key in the file that a setting names.
pub fn load_key(setting: &str, file: &Path) -> anyhow::Result<KeyPair> {
    let key = KeyPair::load(file);
    Ok(key.map_err(|error| ConfigError::setting(setting, &error))?)
}

/// Runs a process until it is asked to stop. `run` gets the settings, and a token that is cancelled
/// by SIGTERM and Ctrl-C.
pub fn run<T, F>(name: &'static str, run: impl FnOnce(T, CancellationToken) -> F) -> ExitCode
where
    T: DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    let settings = match config::load(&Sources::parse()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(2);
        }
    };
    telemetry::init("warn,runtime::process=info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(until_stopped(run, settings)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            match error.is::<ConfigError>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

async fn until_stopped<T, F>(
    run: impl FnOnce(T, CancellationToken) -> F,
    settings: T,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(run(settings, stop.clone()));
    tokio::select! {
        ended = running.as_mut() => return ended,
        signal = shutdown::signal() => signal?,
    }
    tracing::info!("stopping");
    stop.cancel();
    running.await
}

/// A listener whose services may come later.
pub struct Listening {
    address: SocketAddr,
    names: &'static [&'static str],
    auth: AuthLayer,
    stage: Stage,
    health: HealthReporter,
    serving: Tasks,
}

impl Listening {
    /// Listens. Health says that the services with these full names do not serve yet, and their calls
    /// are UNAVAILABLE. Prints where it listens.
    pub async fn begin(
        listen: SocketAddr,
        names: &'static [&'static str],
        auth: AuthLayer,
        config: ServerConfig,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let health = HealthReporter::new();
        server::set_health(&health, names, ServingStatus::NotServing).await;
        let mut standard = RoutesBuilder::default();
        server::add_health(&mut standard, &health);
        let stage = Stage::early(standard.routes(), &auth);
        let serving = Tasks::new();
        let served = server::serve_stage(listener, stage.clone(), config, serving.stop_token());
        serving.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the listener ended");
            }
        });
        println!("listens on http://{address}");
        Ok(Self {
            address,
            names,
            auth,
            stage,
            health,
            serving,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the services in, and says that they serve.
    pub async fn open(&self, mut routes: RoutesBuilder, gateway: Option<Gateway>) {
        server::add_health(&mut routes, &self.health);
        self.stage.open(routes.routes(), &self.auth, gateway);
        self.set_serving(true).await;
        tracing::info!(address = %self.address, "serving");
    }

    /// Says whether the services serve.
    pub async fn set_serving(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        server::set_health(&self.health, self.names, status).await;
    }

    /// Lets open calls end and takes no more; at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        self.serving.stop(deadline).await;
    }
}

/// Why something is not there.
#[derive(Debug)]
pub enum NotThere {
    /// It is away; it may come.
    Away(String),
    /// Waiting does not help.
    Wrong(anyhow::Error),
}

impl NotThere {
    /// Waiting does not help.
    pub fn wrong(error: impl Into<anyhow::Error>) -> Self {
        Self::Wrong(error.into())
    }

    /// It may come.
    pub fn away(error: &dyn fmt::Display) -> Self {
        Self::Away(error.to_string())
    }
}

/// Whether tokens of users can be verified yet: without, a process can serve nobody.
pub fn user_keys(verifier: &Verifier) -> Result<(), NotThere> {
    match verifier.is_ready() {
        true => Ok(()),
        false => Err(NotThere::Away("no keys of users' tokens yet".to_owned())),
    }
}

impl From<OpenError> for NotThere {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unavailable(_) => Self::away(&error),
            OpenError::Config(_) => Self::wrong(ConfigError::setting("postgres", &error)),
            error => Self::wrong(error),
        }
    }
}

/// Tries until `what` is there, `None` if the process is to stop before. Says once that it waits, and
/// once that it need not any more.
pub async fn wait_for<T, E, F>(
    what: &'static str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<Option<T>>
where
    F: Future<Output = Result<T, E>>,
    E: Into<NotThere>,
{
    let mut pause = WAIT_MIN;
    let mut waiting_since = None;
    loop {
        let Some(attempted) = stop.run_until_cancelled(attempt()).await else {
            return Ok(None);
        };
        match attempted.map_err(Into::into) {
            Ok(there) => {
                if let Some(since) = waiting_since {
                    let since: Instant = since;
                    let waited_ms = since.elapsed().as_millis();
                    tracing::info!(what, waited_ms, "is there");
                }
                return Ok(Some(there));
            }
            Err(NotThere::Wrong(error)) => return Err(error.context(what)),
            Err(NotThere::Away(reason)) => {
                if waiting_since.is_none() {
                    tracing::warn!(what, reason, "is away, waiting for it");
                    waiting_since = Some(Instant::now());
                }
            }
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Ok(None);
        }
        pause = (pause * 2).min(WAIT_MAX);
    }
}
