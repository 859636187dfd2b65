use std::net::SocketAddr;

use proto::{
    error::v1::ErrorReason,
    presence::v1::{
        GetPresenceRequest, GetPresenceResponse, Presence,
        presence_service_client::PresenceServiceClient,
        presence_service_server::{PresenceService, PresenceServiceServer},
    },
};
use tokio::io::AsyncReadExt;
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::*;
use crate::{
    auth::{Access, Caller, KeyPair, Policy, ServiceIdentity, UserCaller, Verifier, caller},
    channel,
    clock::SystemClock,
    ids::{DeviceId, UserId},
    status::read_status,
};

/// Longer than any step of a test takes.
const SOON: Duration = Duration::from_secs(20);
const SERVICE: &str = "messenger.presence.v1.PresenceService";

/// Answers who calls; never, if asked for "never".
struct WhoCalls;

#[tonic::async_trait]
impl PresenceService for WhoCalls {
    async fn get_presence(
        &self,
        request: Request<GetPresenceRequest>,
    ) -> Result<Response<GetPresenceResponse>, Status> {
        if request.get_ref().user_ids == ["never"] {
            std::future::pending::<()>().await;
        }
        let user_id = match caller(&request) {
            Err(_) => "nobody".to_owned(),
            Ok(Caller::User(user)) => user.user_id.to_string(),
            Ok(Caller::Service(service)) => service.name.to_string(),
        };
        let presences = vec![Presence {
            user_id,
            ..Presence::default()
        }];
        Ok(Response::new(GetPresenceResponse { presences }))
    }
}

struct Setup {
    user_key: KeyPair,
    service_key: KeyPair,
    stop: CancellationToken,
}

impl Setup {
    fn new() -> Self {
        Self {
            user_key: KeyPair::generate().unwrap(),
            service_key: KeyPair::generate().unwrap(),
            stop: CancellationToken::new(),
        }
    }

    fn auth(&self, policy: Policy) -> AuthLayer {
        let verifier = Verifier::new(Arc::new(SystemClock), self.service_key.public());
        verifier
            .set_user_keys(vec![self.user_key.user_key()])
            .unwrap();
        AuthLayer::new(verifier, policy)
    }

    async fn pipe(&self, policy: Policy, config: ServerConfig) -> Channel {
        let (connector, incoming) = channel::pipe();
        let (routes, auth) = (routes().await, self.auth(policy));
        tokio::spawn(serve_pipe(
            incoming,
            routes,
            auth,
            config,
            self.stop.clone(),
        ));
        connector.channel()
    }

    async fn tcp(&self, config: ServerConfig) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (routes, auth, stop) = (routes().await, self.auth(everybody), self.stop.clone());
        let server = tokio::spawn(async move {
            serve(listener, routes, auth, config, stop).await.unwrap();
        });
        (address, server)
    }

    fn user_token(&self, user_id: UserId) -> String {
        let now = crate::clock::Clock::now_unix_ms(&SystemClock);
        let user = UserCaller {
            user_id,
            device_id: DeviceId::generate(),
            issued_unix_ms: now,
            expires_unix_ms: now + 60_000,
        };
        self.user_key.sign_user(&user).unwrap()
    }

    fn service_token(&self) -> String {
        let clock = Arc::new(SystemClock);
        let identity = ServiceIdentity::new("messaging", self.service_key.clone(), clock);
        let bearer = identity.bearer().unwrap();
        bearer
            .to_str()
            .unwrap()
            .trim_start_matches("Bearer ")
            .to_owned()
    }
}

async fn routes() -> Routes {
    let mut routes = RoutesBuilder::default();
    let service = PresenceServiceServer::new(WhoCalls);
    routes.add_service(service.max_decoding_message_size(1_000));
    add_standard(&mut routes, &[SERVICE]).await;
    routes.routes()
}

fn everybody(_: &str) -> Option<Access> {
    Some(Access::Public)
}

async fn ask(channel: &Channel, what: &str, token: Option<&str>) -> Result<String, Status> {
    let mut request = Request::new(GetPresenceRequest {
        user_ids: vec![what.to_owned()],
    });
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut client = PresenceServiceClient::new(channel.clone());
    let call = client.get_presence(request);
    let answer = tokio::time::timeout(SOON, call).await.unwrap()?;
    Ok(answer.into_inner().presences[0].user_id.clone())
}

#[tokio::test]
async fn each_kind_of_access_lets_in_those_and_only_those() {
    let setup = Setup::new();
    let user_id = UserId::generate();
    let (user, service) = (setup.user_token(user_id), setup.service_token());
    let who = user_id.to_string();
    let refused = |result: Result<String, Status>, reason: ErrorReason| {
        let error = read_status(&result.unwrap_err());
        assert_eq!(error.reason, reason);
    };
    let policies: [(Access, Policy); 4] = [
        (Access::Public, |_| Some(Access::Public)),
        (Access::User, |_| Some(Access::User)),
        (Access::Service, |_| Some(Access::Service)),
        (Access::Any, |_| Some(Access::Any)),
    ];
    for (access, policy) in policies {
        let channel = setup.pipe(policy, ServerConfig::default()).await;
        let nobody = ask(&channel, "", None).await;
        let user = ask(&channel, "", Some(&user)).await;
        let service = ask(&channel, "", Some(&service)).await;
        let wrong = ask(&channel, "", Some("a.b.c")).await;
        if access == Access::Public {
            for answer in [nobody, user, service, wrong] {
                assert_eq!(answer.unwrap(), "nobody");
            }
            continue;
        }
        refused(nobody, ErrorReason::TokenMissing);
        refused(wrong, ErrorReason::TokenInvalid);
        match access {
            Access::Service => refused(user, ErrorReason::CallerNotAllowed),
            _ => assert_eq!(user.unwrap(), who),
        }
        match access {
            Access::User => refused(service, ErrorReason::CallerNotAllowed),
            _ => assert_eq!(service.unwrap(), "messaging"),
        }
    }
}

#[tokio::test]
async fn a_method_that_no_policy_names_is_closed() {
    let setup = Setup::new();
    let channel = setup.pipe(|_| None, ServerConfig::default()).await;
    let service = setup.service_token();
    for token in [None, Some(service.as_str())] {
        let status = ask(&channel, "", token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn health_and_reflection_need_no_token() {
    let setup = Setup::new();
    let channel = setup.pipe(|_| None, ServerConfig::default()).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest {
        service: SERVICE.to_owned(),
    };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);

    use tonic_reflection::pb::{v1, v1alpha};
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1::server_reflection_request::MessageRequest::FileContainingSymbol(SERVICE.into()),
        ),
    };
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let requests = futures_util::stream::iter([request]);
    let mut answers = reflection
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(
        answer,
        Some(v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let requests = futures_util::stream::iter([request]);
    let answers = reflection.server_reflection_info(requests).await;
    assert!(
        answers
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_at_its_deadline() {
    let setup = Setup::new();
    let config = ServerConfig {
        request_timeout: Duration::from_millis(50),
        ..ServerConfig::default()
    };
    let channel = setup.pipe(everybody, config).await;
    let status = ask(&channel, "never", None).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(ask(&channel, "", None).await.is_ok());
}

#[tokio::test]
async fn a_request_that_is_too_large_is_named_and_harms_nothing_else() {
    let setup = Setup::new();
    let channel = setup.pipe(everybody, ServerConfig::default()).await;
    let status = ask(&channel, &"x".repeat(2_000), None).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(read_status(&status).reason, ErrorReason::FrameTooLarge);
    assert!(ask(&channel, "", None).await.is_ok());
}

async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Closed in order or reset, but closed.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let setup = Setup::new();
    let config = ServerConfig {
        preface_timeout: Duration::from_millis(50),
        ..ServerConfig::default()
    };
    let (address, _server) = setup.tcp(config).await;
    closed(&mut TcpStream::connect(address).await.unwrap()).await;
    // Also one that stops in the middle of its first word.
    let mut half = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"PRI * HTTP/2.0")
        .await
        .unwrap();
    closed(&mut half).await;
    // One that speaks stays beyond that time.
    let channel = channel::tcp(format!("http://{address}").parse().unwrap());
    assert!(ask(&channel, "", None).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_vanished_is_noticed() {
    let setup = Setup::new();
    let config = ServerConfig {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        ..ServerConfig::default()
    };
    let (address, _server) = setup.tcp(config).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tokio::io::AsyncWriteExt::write_all(&mut silent, hello)
        .await
        .unwrap();
    closed(&mut silent).await;
}

#[tokio::test]
async fn connections_above_the_bound_are_closed_and_the_others_served() {
    let setup = Setup::new();
    let config = ServerConfig {
        connections_max: 1,
        ..ServerConfig::default()
    };
    let (address, _server) = setup.tcp(config).await;
    let channel = channel::tcp(format!("http://{address}").parse().unwrap());
    assert!(ask(&channel, "", None).await.is_ok());
    closed(&mut TcpStream::connect(address).await.unwrap()).await;
    assert!(ask(&channel, "", None).await.is_ok());
}

#[tokio::test]
async fn stopping_lets_calls_end_and_cuts_those_that_do_not() {
    let setup = Setup::new();
    let config = ServerConfig {
        drain_timeout: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let (address, server) = setup.tcp(config).await;
    let channel = channel::tcp(format!("http://{address}").parse().unwrap());
    assert!(ask(&channel, "", None).await.is_ok());
    let hanging = tokio::spawn(async move { ask(&channel, "never", None).await });
    // A second connection, idle: it does not hold the drain up.
    let idle = channel::tcp(format!("http://{address}").parse().unwrap());
    assert!(ask(&idle, "", None).await.is_ok());
    setup.stop.cancel();
    tokio::time::timeout(SOON, server).await.unwrap().unwrap();
    assert!(hanging.await.unwrap().is_err());
    assert!(TcpStream::connect(address).await.is_err());
}
