use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use event_log::{
    AppendError, Appended, EventLog, LogError, Membership, NewRecord, OnAppended, Topic,
    TopicIdentity, Urgency,
};
use proto::{
    error::v1::ErrorReason,
    profile::v1::{
        LogInRequest, LogInResponse, RegisterRequest, RegisterResponse, Tokens,
        account_service_client::AccountServiceClient, profile_service_client::ProfileServiceClient,
    },
};
use runtime::{
    auth::{AuthLayer, ServiceIdentity, Verifier},
    channel,
    clock::ManualClock,
    server::{ServerConfig, serve_pipe},
    status::{ApiError, read_status},
};
use tokio::sync::watch;
use tonic::{Request, Status, transport::Channel};

use crate::{store::sqlite::SqliteStore, *};

/// Longer than any step of a test takes.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const NOW: i64 = 1_800_000_000_000;
pub(super) const PASSWORD: &str = "correct horse";

/// A log that remembers, and that fails when told to.
#[derive(Default)]
pub(super) struct TestLog {
    pub(super) failing: AtomicBool,
    pub(super) appends: watch::Sender<usize>,
    records: Mutex<Vec<NewRecord>>,
}

impl TestLog {
    /// The records, as soon as there are `count`.
    pub(super) async fn records(&self, count: usize) -> Vec<NewRecord> {
        let mut appends = self.appends.subscribe();
        let enough = appends.wait_for(|_| self.records.lock().len() >= count);
        tokio::time::timeout(SOON, enough).await.unwrap().unwrap();
        self.records.lock().clone()
    }
}

#[async_trait]
impl EventLog for TestLog {
    fn identity(&self, _: Topic) -> TopicIdentity {
        TopicIdentity {
            log_id: "log".to_owned(),
            topic_id: "topic".to_owned(),
            partitions: 1,
        }
    }

    fn partition_of(&self, _: Topic, _: &[u8]) -> u32 {
        0
    }

    fn append(&self, topic: Topic, record: NewRecord, _: Urgency, done: OnAppended) {
        assert_eq!(topic, Topic::Users);
        if self.failing.load(Ordering::SeqCst) {
            done(Err(AppendError::Failed("as the test wants".to_owned())));
        } else {
            self.records.lock().push(record);
            done(Ok(Appended {
                partition: 0,
                offset: Some(0),
            }));
        }
        self.appends.send_modify(|appends| *appends += 1);
    }

    async fn join(&self, _: &str, _: Topic) -> Result<Box<dyn Membership>, LogError> {
        Err(LogError::Closed)
    }
}

pub(super) struct Server {
    pub(super) clock: ManualClock,
    pub(super) log: Arc<TestLog>,
    pub(super) store: Arc<dyn Store>,
    pub(super) verifier: Verifier,
    pub(super) service: ServiceIdentity,
    pub(super) channel: Channel,
    pub(super) tasks: Tasks,
    /// Of the store, if it is in files.
    pub(super) folder: Option<Arc<tempfile::TempDir>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Self::config()).await
    }

    pub(super) fn config() -> Config {
        Config {
            argon2: Argon2Config::CHEAPEST,
            ..Config::default()
        }
    }

    pub(super) async fn with(config: Config) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::over(config, folder, Arc::default(), ManualClock::at(NOW)).await
    }

    pub(super) async fn over(
        config: Config,
        folder: Arc<tempfile::TempDir>,
        log: Arc<TestLog>,
        clock: ManualClock,
    ) -> Self {
        let path: PathBuf = folder.path().join("profile.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path).unwrap());
        Self {
            folder: Some(folder),
            ..Self::on(config, store, log, clock).await
        }
    }

    /// A replica over a store that it shares with others.
    pub(super) async fn on(
        config: Config,
        store: Arc<dyn Store>,
        log: Arc<TestLog>,
        clock: ManualClock,
    ) -> Self {
        let service_key = KeyPair::generate().unwrap();
        let tasks = Tasks::new();
        let deps = Deps {
            receipts: runtime::auth::ReceiptVerifier::new(
                Arc::new(clock.clone()),
                &service_key.public(),
            ),
            store: store.clone(),
            log: log.clone(),
            clock: Arc::new(clock.clone()),
            signing_key: KeyPair::generate().unwrap(),
            tasks: tasks.clone(),
        };
        let profile = start(config, deps).await.unwrap();
        let verifier = Verifier::new(Arc::new(clock.clone()), service_key.public());
        verifier.set_user_keys(profile.public_keys()).unwrap();
        let mut routes = RoutesBuilder::default();
        profile.add_to(&mut routes);
        let (connector, incoming) = channel::pipe();
        tokio::spawn(serve_pipe(
            incoming,
            routes.routes(),
            AuthLayer::new(verifier.clone(), policy),
            ServerConfig::default(),
            tasks.stop_token(),
        ));
        Self {
            service: ServiceIdentity::new("messaging", service_key, Arc::new(clock.clone())),
            clock,
            log,
            store,
            verifier,
            channel: connector.channel(),
            tasks,
            folder: None,
        }
    }

    pub(super) fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    pub(super) fn profiles(&self) -> ProfileServiceClient<Channel> {
        ProfileServiceClient::new(self.channel.clone())
    }

    pub(super) async fn register(&self, username: &str) -> RegisterResponse {
        let answer = self.accounts().register(registration(username)).await;
        answer.unwrap().into_inner()
    }

    pub(super) async fn log_in(&self, request: LogInRequest) -> Result<LogInResponse, ApiError> {
        read(self.accounts().log_in(request).await)
    }

    pub(super) async fn refresh(&self, token: &str) -> Result<Tokens, ApiError> {
        let request = proto::profile::v1::RefreshRequest {
            refresh_token: token.to_owned(),
        };
        let answer = read(self.accounts().refresh(request).await)?;
        Ok(answer.tokens.unwrap())
    }
}

pub(super) fn registration(username: &str) -> RegisterRequest {
    RegisterRequest {
        username: username.to_owned(),
        password: PASSWORD.to_owned(),
        ..RegisterRequest::default()
    }
}

pub(super) fn credentials(username: &str, password: &str) -> LogInRequest {
    LogInRequest {
        username: username.to_owned(),
        password: password.to_owned(),
        ..LogInRequest::default()
    }
}

/// A request with an access token.
pub(super) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// The answer, or the error as a client reads it; its code must be the documented one.
pub(super) fn read<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, ApiError> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => {
            let error = read_status(&status);
            assert_ne!(error.reason, ErrorReason::Unspecified, "{status:?}");
            assert_eq!(error.code(), status.code());
            Err(error)
        }
    }
}

pub(super) fn reason<T>(answer: Result<T, ApiError>) -> ErrorReason {
    match answer {
        Ok(_) => panic!("it was allowed"),
        Err(error) => error.reason,
    }
}
