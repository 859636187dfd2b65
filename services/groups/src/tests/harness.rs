use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use event_log::{
    AppendError, EventLog, LogError, Membership, NewRecord, OnAppended, PartitionReader, Topic,
    TopicIdentity, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use prost::Message;
use proto::{
    error::v1::ErrorReason,
    groups::v1::{self as pb, group_service_client::GroupServiceClient},
    log::v1::{GroupChange, MessagesRecord, messages_record::Record},
    profile::v1 as profile_pb,
};
use runtime::{
    auth::{AuthLayer, KeyPair, ServiceIdentity, UserCaller, Verifier},
    channel,
    clock::ManualClock,
    ids::{ConversationId, DeviceId, GroupId},
    server::{ServerConfig, serve_pipe},
    status::{ApiError, read_status},
};
use tonic::{Request, Response, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    model::Sequenced,
    store::{StoreError, sqlite::SqliteStore},
    *,
};

/// Longer than any step of a test takes.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const NOW: i64 = 1_800_000_000_000;
/// Who reads the topic `messages` in tests.
const READERS: &str = "test-sequencer";

/// Profiles: everybody exists whose id does not begin with 0xff.
#[derive(Default)]
pub(super) struct Profiles {
    pub(super) away: AtomicBool,
}

pub(super) fn nobody() -> UserId {
    UserId::from_bytes([0xff; 16])
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl profile_pb::profile_service_server::ProfileService for Profiles {
    async fn batch_get_profiles(
        &self,
        request: Request<profile_pb::BatchGetProfilesRequest>,
    ) -> Answer<profile_pb::BatchGetProfilesResponse> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("as the test wants"));
        }
        let ids = request.into_inner().user_ids;
        assert!((1..=500).contains(&ids.len()));
        let profiles = ids.into_iter().filter(|id| !id.starts_with("ff"));
        let profiles = profiles.map(|user_id| profile_pb::Profile {
            username: format!("u-{user_id}"),
            display_name: format!("U {user_id}"),
            user_id,
            ..profile_pb::Profile::default()
        });
        Ok(Response::new(profile_pb::BatchGetProfilesResponse {
            profiles: profiles.collect(),
        }))
    }

    async fn get_profile(
        &self,
        _: Request<profile_pb::GetProfileRequest>,
    ) -> Answer<profile_pb::GetProfileResponse> {
        Err(Status::unimplemented(""))
    }

    async fn update_profile(
        &self,
        _: Request<profile_pb::UpdateProfileRequest>,
    ) -> Answer<profile_pb::UpdateProfileResponse> {
        Err(Status::unimplemented(""))
    }

    async fn search_profiles(
        &self,
        _: Request<profile_pb::SearchProfilesRequest>,
    ) -> Answer<profile_pb::SearchProfilesResponse> {
        Err(Status::unimplemented(""))
    }
}

/// The embedded log, which refuses appends when told to.
pub(super) struct TestLog {
    log: Arc<EmbeddedLog>,
    pub(super) failing: AtomicBool,
    pub(super) refused: AtomicUsize,
}

impl TestLog {
    pub(super) fn open(folder: &Path) -> Arc<Self> {
        let topics = [(Topic::Messages, 2)];
        let groups = [(READERS, Topic::Messages)];
        let config = EmbeddedConfig::new(folder.join("log.db"), &topics, &groups);
        Arc::new(Self {
            log: EmbeddedLog::open(config).unwrap(),
            failing: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        })
    }
}

/// A place in a group that is given no partitions: what the fan-out would note, the sequencer of tests
/// notes itself.
struct Nothing;

#[async_trait]
impl Membership for Nothing {
    async fn assigned(&mut self) -> Result<Box<dyn PartitionReader>, LogError> {
        std::future::pending().await
    }
}

/// The store as the sequencer of tests sees it: what it notes is heard by the calls of one server.
#[derive(Clone)]
pub(super) struct Heard {
    store: Arc<dyn Store>,
    waiting: Arc<Waiting>,
}

impl Heard {
    pub(super) async fn note_sequenced(&self, changes: Vec<Sequenced>) -> Result<(), StoreError> {
        self.store.note_sequenced(changes.clone()).await?;
        self.waiting.tell(&changes);
        Ok(())
    }
}

#[async_trait]
impl EventLog for TestLog {
    fn identity(&self, topic: Topic) -> TopicIdentity {
        self.log.identity(topic)
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        self.log.partition_of(topic, key)
    }

    fn append(&self, topic: Topic, record: NewRecord, urgency: Urgency, done: OnAppended) {
        if self.failing.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return done(Err(AppendError::Failed("as the test wants".to_owned())));
        }
        self.log.append(topic, record, urgency, done);
    }

    async fn join(&self, group: &str, topic: Topic) -> Result<Box<dyn Membership>, LogError> {
        if topic == Topic::Fanout {
            return Ok(Box::new(Nothing));
        }
        self.log.join(group, topic).await
    }
}

/// What the sequencer and the reader of the fan-out are to groups: carries out version n + 1 after
/// version n, at a seq of twice the version, and tells the store.
#[derive(Default)]
pub(super) struct Sequencer {
    changes: Mutex<HashMap<GroupId, Vec<GroupChange>>>,
}

impl Sequencer {
    pub(super) fn start(log: &Arc<TestLog>, heard: Heard) -> Arc<Self> {
        let sequencer = Arc::new(Self::default());
        let (this, log) = (sequencer.clone(), log.clone());
        tokio::spawn(async move {
            let mut membership = log.join(READERS, Topic::Messages).await.unwrap();
            while let Ok(mut reader) = membership.assigned().await {
                let (this, heard) = (this.clone(), heard.clone());
                tokio::spawn(async move {
                    while let Ok(records) = reader.next(100).await {
                        let changes = records.iter().filter_map(|r| this.carry_out(&r.payload));
                        heard.note_sequenced(changes.collect()).await.unwrap();
                    }
                });
            }
        });
        sequencer
    }

    fn carry_out(&self, payload: &[u8]) -> Option<Sequenced> {
        let record = MessagesRecord::decode(payload).unwrap();
        let conversation = ConversationId::from_slice(&record.conversation_id).unwrap();
        let group = conversation.group_id().unwrap();
        let Some(Record::GroupChange(change)) = record.record else {
            panic!("{record:?}");
        };
        let version = change.version;
        let mut changes = self.changes.lock().unwrap();
        let carried_out = changes.entry(group).or_default();
        if version != carried_out.len() as u64 + 1 {
            return None;
        }
        carried_out.push(change);
        Some(Sequenced {
            group,
            version,
            seq: version * 2,
        })
    }

    /// What was carried out of a group, by version.
    pub(super) fn changes(&self, group: &str) -> Vec<GroupChange> {
        let group = GroupId::parse(group).unwrap();
        let changes = self.changes.lock().unwrap();
        changes.get(&group).cloned().unwrap_or_default()
    }
}

pub(super) struct Server {
    pub(super) clock: ManualClock,
    pub(super) log: Arc<TestLog>,
    pub(super) store: Arc<dyn Store>,
    pub(super) groups: Groups,
    pub(super) profiles: Arc<Profiles>,
    pub(super) service: ServiceIdentity,
    pub(super) channel: Channel,
    pub(super) tasks: Tasks,
    user_key: KeyPair,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// With the sequencer of tests.
    pub(super) async fn start() -> (Self, Arc<Sequencer>) {
        let server = Self::with(Config::default()).await;
        let sequencer = Sequencer::start(&server.log, server.heard());
        (server, sequencer)
    }

    /// For a sequencer whose places the calls of this server hear of.
    pub(super) fn heard(&self) -> Heard {
        Heard {
            store: self.store.clone(),
            waiting: self.groups.service.waiting.clone(),
        }
    }

    /// Without one: nothing is ever seen.
    pub(super) async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("groups.db")).await;
        let log = TestLog::open(folder.path());
        let clock = ManualClock::at(NOW);
        Self {
            _folder: Some(folder),
            ..Self::on(&config, Arc::new(store.unwrap()), log, clock).await
        }
    }

    /// A replica over a store and a log that it shares with others.
    pub(super) async fn on(
        config: &Config,
        store: Arc<dyn Store>,
        log: Arc<TestLog>,
        clock: ManualClock,
    ) -> Self {
        let (service_key, user_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let tasks = Tasks::new();
        let verifier = Verifier::new(Arc::new(clock.clone()), service_key.public());
        verifier.set_user_keys(vec![user_key.user_key()]).unwrap();
        let public_key = service_key.public();
        let service = ServiceIdentity::new("groups", service_key, Arc::new(clock.clone()));

        let profiles = Arc::<Profiles>::default();
        let mut routes = RoutesBuilder::default();
        let server =
            profile_pb::profile_service_server::ProfileServiceServer::from_arc(profiles.clone());
        routes.add_service(server);
        let layer = AuthLayer::new(verifier.clone(), |_| Some(Access::Service));
        let profile = serve(routes, layer, &tasks);

        let deps = Deps {
            store: store.clone(),
            log: log.clone(),
            clock: Arc::new(clock.clone()),
            receipts: runtime::auth::ReceiptVerifier::new(Arc::new(clock.clone()), &public_key),
            profile: service.on(profile.clone()),
            registries: Registries::one(service.on(profile)),
            connect: Arc::new(|_| Err("no edges in this test".into())),
            subscriber: "groups/test".to_owned(),
            tasks: tasks.clone(),
        };
        let groups = start(config, deps).await.unwrap();
        let mut routes = RoutesBuilder::default();
        groups.add_to(&mut routes);
        let channel = serve(routes, AuthLayer::new(verifier, policy), &tasks);
        Self {
            clock,
            log,
            store,
            groups,
            profiles,
            service,
            channel,
            tasks,
            user_key,
            _folder: None,
        }
    }

    pub(super) fn token(&self, user: UserId) -> String {
        let caller = UserCaller {
            user_id: user,
            device_id: DeviceId::generate(),
            issued_unix_ms: NOW,
            expires_unix_ms: NOW + 3_600_000,
        };
        self.user_key.sign_user(&caller).unwrap()
    }

    pub(super) fn calls(&self) -> GroupServiceClient<Channel> {
        GroupServiceClient::new(self.channel.clone())
    }

    /// A request of a user.
    pub(super) fn by<T>(&self, user: UserId, message: T) -> Request<T> {
        with_token(&self.token(user), message)
    }

    pub(super) async fn create(&self, owner: UserId, users: &[UserId]) -> pb::CreateGroupResponse {
        let request = pb::CreateGroupRequest {
            request_id: id(),
            name: "a name".to_owned(),
            user_ids: users.iter().map(ToString::to_string).collect(),
            ..pb::CreateGroupRequest::default()
        };
        read(self.calls().create_group(self.by(owner, request)).await).unwrap()
    }

    pub(super) async fn add(
        &self,
        actor: UserId,
        group: &str,
        users: &[UserId],
    ) -> Result<pb::AddMembersResponse, ApiError> {
        let request = pb::AddMembersRequest {
            request_id: id(),
            group_id: group.to_owned(),
            if_version: 0,
            user_ids: users.iter().map(ToString::to_string).collect(),
        };
        read(self.calls().add_members(self.by(actor, request)).await)
    }

    pub(super) async fn leave(
        &self,
        actor: UserId,
        group: &str,
    ) -> Result<pb::LeaveGroupResponse, ApiError> {
        let request = pb::LeaveGroupRequest {
            request_id: id(),
            group_id: group.to_owned(),
        };
        read(self.calls().leave_group(self.by(actor, request)).await)
    }

    pub(super) async fn get(&self, user: UserId, group: &str) -> Result<pb::Group, ApiError> {
        let request = pb::GetGroupRequest {
            group_id: group.to_owned(),
        };
        let group = read(self.calls().get_group(self.by(user, request)).await)?;
        Ok(group.group.unwrap())
    }
}

fn serve(routes: RoutesBuilder, layer: AuthLayer, tasks: &Tasks) -> Channel {
    let (connector, incoming) = channel::pipe();
    tokio::spawn(serve_pipe(
        incoming,
        routes.routes(),
        layer,
        ServerConfig::default(),
        tasks.stop_token(),
    ));
    connector.channel()
}

/// A new id of a request.
pub(super) fn id() -> String {
    Uuid::now_v7().to_string()
}

pub(super) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// The answer, or the error as a client reads it; its code must be the documented one.
pub(super) fn read<T>(answer: Result<Response<T>, Status>) -> Result<T, ApiError> {
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

/// Waits until something is so.
pub(super) async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap();
}
